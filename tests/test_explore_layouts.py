"""The explorer's page for every kind of run, on a laptop and a wide screen, in a notebook, and how fast it is; in a real Chromium."""

import io
import statistics

import pytest
from PIL import Image

from analogist.explore import explore
from tests.benchmarks.explore import full_page, moves
from tests.explore_browser import LAPTOP, WIDE
from tests.explore_cases import LAB, SD2, SD15, SDXL, SMALL, fake_result, shape_of

CASES = {
    "SD 1.5 512 px": (SD15, (512, 512), 2, 2, 1_200_000, ""), "SD 1.5 1024 px": (SD15, (1024, 1024), 2, 1, 800_000, "up.3.attn.0"),
    "SD 2": (SD2, (256, 256), 2, 2, 1_000_000, "up.2"), "SDXL": (SDXL, (128, 128), 2, 1, 1_000_000, ""),
    "not square": (LAB, (128, 256), 2, 2, 1_500_000, ""), "two pairs": (LAB, (192, 128), 3, 2, 1_500_000, ""),
    "one site, one step": (SMALL, (128, 128), 2, 1, 1_000_000, "up.1.attn.0.self"),
    "words alone": (SMALL, (128, 128), 2, 1, 1_000_000, "up.1.attn.0.cross"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_run_is_shown_on_a_laptop_and_a_wide_screen(browser, tmp_path, case):
    config, size, rows, steps, most, prefix = CASES[case]
    run = shape_of(size, rows=rows, steps=steps)
    result = fake_result(config, run, max_bytes=most, sites=prefix)
    path = explore(result, max_bytes=most).save(tmp_path / "look.html")
    for (width, height), theme in ((LAPTOP, "light"), (WIDE, "dark")):
        browser.resize(width, height)
        browser.open(path, f"#theme={theme}")
        canvases = browser.js("""return [...document.querySelectorAll('.picture')].filter((c) => c.offsetParent).map((c) => {
            const b = c.getBoundingClientRect(); return [b.width, b.height, b.right, b.bottom]; })""")
        assert canvases
        for w, h, right, bottom in canvases:
            assert w / h == pytest.approx(size[1] / size[0], rel=0.02) and right <= width and bottom <= height and max(w, h) > 280
        assert browser.js("const e = document.documentElement; return e.scrollWidth <= innerWidth && e.scrollHeight <= innerHeight")
        picture = Image.open(io.BytesIO(browser.driver.get_screenshot_as_png())).convert("L")
        corner = picture.getpixel((width - 3, height - 3))
        assert picture.size == (width, height) and (corner < 60) == (theme == "dark")
    thumbs = browser.js("return document.querySelectorAll('#strip button').length")
    kind = "cross" if case == "words alone" else "self"
    assert thumbs == len({m.site.name for m in result.maps.values() if m.site.kind == kind})
    x, y = size[1] * 0.7, size[0] * 0.3
    browser.point(x, y)
    assert browser.shown()[0]["hw"][0] / browser.shown()[0]["hw"][1] == pytest.approx(size[0] / size[1])
    assert browser.js("return document.getElementById('pointer').textContent").startswith("A'" if rows == 2 else "A1'")
    assert browser.logs() == ([], [])


def test_the_page_says_what_was_left_out(browser, tmp_path):
    made = explore(fake_result(LAB, shape_of((128, 128), steps=9)), max_bytes=400_000)
    browser.open(made.save(tmp_path / "look.html"))
    text = browser.js("return document.getElementById('notes-text').textContent")
    assert made.notes["left_out"]
    for line in made.notes["left_out"] + made.notes["holds"] + made.notes["exact"]:
        assert line in text


def test_a_notebooks_frame_shows_the_page(browser, tmp_path):
    frame = explore(fake_result(SMALL, shape_of((128, 128), steps=1), sites="up.1"))._repr_html_()
    path = tmp_path / "cell.html"
    path.write_text(f"<!doctype html><body>{frame}</body>", encoding="utf-8")  # and no charset: the page does not need one
    browser.driver.get("about:blank")
    browser.logs()
    browser.driver.get(f"file://{path}")
    browser.driver.switch_to.frame(0)
    browser.settle()
    browser.go(layer="up.1.attn.1", x=20, y=20)
    browser.until(lambda: browser.shown()[0]["site"] == "up.1.attn.1.self")
    browser.driver.switch_to.default_content()
    assert browser.logs() == ([], [])


@pytest.mark.slow
def test_a_full_page_of_512_px_is_seen_within_two_seconds_and_follows_the_pointer_within_50_ms(browser, tmp_path):
    path = full_page(tmp_path)
    assert path.stat().st_size > 15_000_000
    browser.resize(*LAPTOP)
    firsts = []
    for _ in range(3):
        browser.open(path)
        firsts.append(browser.js("return explorer.first()"))
    browser.go(layer="up.3.attn.2")
    moves(browser, 5)
    assert min(firsts) < 2000  # the quietest of three: the machine may have other work
    assert statistics.median(moves(browser)) < 50
