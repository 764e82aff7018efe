"""The study's page in a real headless Chromium: filters, sorting, the chosen run, keys, links; nothing leaves it."""

import io
import json
import re
from urllib.parse import parse_qs

import numpy as np
import pytest
from PIL import Image

from analogist.experiments.design.study import Hypothesis
from analogist.grid.pictures import read_record
from tests.benchmarks.study_page import first_views, large_study
from tests.experiments_small import load_model, one_input
from tests.explore_browser import LAPTOP, WIDE
from tests.test_study_page import made, manifest, some

HOSTILE = "a <b>boat</b> \U0001f600 </script><script>window.harmed=1</script> <img\u00a0src=x\u00a0onerror=window.harmed=1>"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A full design with a failed seed, claims, moot pairs and interactions, on a path with a space and letters beyond ASCII."""
    inputs = [one_input(f"x{i}", HOSTILE if i else "", shift=9 * i) for i in range(8)]
    claims = [
        Hypothesis("SAC is needed", "mse", {"sac": "off"}, "higher"), Hypothesis(HOSTILE, "psnr", {"text": "off"}, "higher"),
    ]  # fmt: skip
    given = some(design="full", inputs=tuple(inputs), question=HOSTILE, hypotheses=claims, seeds=(1, 2, 3))
    return made(load_model(), given, tmp_path_factory.mktemp("study") / "eine Prüfung", failing=(3,))


@pytest.fixture
def opened(browser, done):
    browser.resize(*LAPTOP)
    browser.open(done.folder / "study.html")
    yield browser
    console, asked = browser.logs()
    assert console == [] and asked == []


def rows(browser, table: str = "main-table") -> list[list[str]]:
    """The cells of all drawn rows of a table."""
    lines = f"[...document.querySelectorAll('#{table} tbody tr:not(.more)')]"
    return browser.js(f"return {lines}.map((row) => [...row.cells].map((cell) => cell.innerText))")


def text(browser, name: str) -> str:
    return browser.js("return document.getElementById(arguments[0]).innerText", name)


def test_every_view_is_shown_in_light_and_dark_and_fits(browser, done):
    for (width, height), theme in ((LAPTOP, "light"), (WIDE, "dark")):
        browser.resize(width, height)
        browser.open(done.folder / "study.html", f"#theme={theme}")
        for view in ("claims", "effects", "interactions", "runs"):
            browser.go(view=view)
            assert rows(browser) and browser.state()["view"] == view
            assert browser.js("const e = document.documentElement; return e.scrollWidth <= innerWidth && e.scrollHeight <= innerHeight")
        picture = Image.open(io.BytesIO(browser.driver.get_screenshot_as_png())).convert("L")
        assert (picture.getpixel((width - 3, height - 3)) < 60) == (theme == "dark")
    browser.resize(700, 900)
    browser.go(view="effects")
    assert browser.js("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.logs() == ([], [])


def test_filters_leave_the_runs_they_name_and_clear_brings_all_back(opened):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.select import Select

    opened.go(view="runs")
    assert text(opened, "main-title") == "192 of 192 runs"
    for name, value in (("filter-factor sac", "off"), ("filter-seed", "2"), ("filter-input", "x3")):
        Select(opened.driver.find_element(By.ID, name)).select_by_value(value)
        opened.settle()
    found = rows(opened)
    assert text(opened, "main-title") == "4 of 192 runs" and len(found) == 4
    assert {tuple(row[1:4]) for row in found} == {("x3", "2", "off")} and len({tuple(row[3:6]) for row in found}) == 4
    opened.driver.find_element(By.ID, "clear").click()
    opened.settle()
    assert text(opened, "main-title") == "192 of 192 runs"


def test_a_filter_acts_on_both_runs_of_a_pair_but_not_on_the_factor_that_is_compared(opened, done):
    data = manifest(done.page.html)
    place = next(i for i, one in enumerate(one for one in data["effects"] if one["metric"] == "mse") if one["factor"] == "text")
    opened.go(view="effects", metric="mse", row=str(place), **{"factor text": "off", "factor sac": "on"})
    opened.go(row="0")  # the filter leaves one effect of the text, and both of the other factors
    shown = [row[:2] for row in rows(opened)]
    assert ["text", "off"] in shown and all(row != ["sac", "off"] for row in shown)
    opened.go(row=str(shown.index(["text", "off"])))
    pairs = opened.js("return study.pairs()")
    # x0 has no prompt: there the text is moot
    assert len(pairs) == 2 * 7 * 2 and f"{len(pairs)} of {2 * len(pairs)} pairs pass the filters" in text(opened, "pairs-text")


def test_pairs_sort_by_any_column_and_are_those_of_the_manifest(opened, done):
    from selenium.webdriver.common.by import By

    opened.go(view="effects", metric="psnr", row="0")
    data = manifest(done.page.html)
    effect = next(one for one in data["effects"] if one["metric"] == "psnr")
    compared = data["comparisons"][effect["comparison"]]
    ids = data["runs"]["id"]
    expected = [[ids[a], ids[b], d] for (a, b), d in zip(compared["pairs"], compared["differences"]["psnr"], strict=True)]
    assert sorted(opened.js("return study.pairs()")) == sorted(expected) and len(expected) == 8 * 2 * 4

    def column(at: int) -> list[str]:
        return [row[at] for row in rows(opened, "pairs-table")]

    differences = [float(cell) for cell in column(-1)]
    assert differences == sorted(differences, reverse=True) and len(differences) >= 60
    assert differences[0] == pytest.approx(max(d for *_, d in expected), rel=1e-3)
    heads = opened.driver.find_elements(By.CSS_SELECTOR, "#pairs-table th button")
    heads[-1].click()
    opened.settle()
    differences = [float(cell) for cell in column(-1)]
    assert differences == sorted(differences) and opened.state()["pairsort"] == "difference 1"
    opened.driver.find_elements(By.CSS_SELECTOR, "#pairs-table th button")[1].click()
    opened.settle()
    names = column(1)
    assert names == sorted(names) and len(set(names)) == 8
    assert opened.js("return document.querySelector('#pairs-table th[aria-sort]').innerText.startsWith('input')")


def test_a_point_leads_to_its_grid_its_record_and_the_command(opened, done):
    opened.go(view="claims", row="0")
    points = opened.js("return document.querySelectorAll('#points .point').length")
    assert points == len(opened.js("return study.pairs()")) == 16
    opened.js("document.querySelectorAll('#points .point')[5].dispatchEvent(new MouseEvent('click', { bubbles: true }))")
    opened.settle()
    data = manifest(done.page.html)
    state = opened.state()
    run, against = data["runs"]["id"].index(state["run"]), data["runs"]["id"].index(state["against"])
    assert [state["run"], state["against"]] == opened.js("return study.pairs()")[5][:2]
    sources = opened.js("return [...document.querySelectorAll('#pictures img')].map((i) => i.src)")
    one, pictures = data["inputs"][data["runs"]["input"][run]], data["runs"]["picture"]
    places = (one["grid"], pictures[run], pictures[run], pictures[against], one["truth"])
    assert sources == [data["pictures"][place] for place in places]
    assert opened.js("return study.run()") == read_record(done.folder / data["runs"]["file"][run])
    assert opened.js("return document.getElementById('command').value") == data["runs"]["command"][run]
    opened.keys("r")
    opened.until(lambda: text(opened, "record-text"))
    opened.settle()
    assert json.loads(text(opened, "record-text")) == read_record(done.folder / data["runs"]["file"][run])
    cells = opened.js("return [...document.querySelectorAll('#numbers tr')].map((row) => [...row.cells].map((cell) => cell.innerText))")
    numbers = {row[0].split()[0]: row[1:] for row in cells[1:]}
    assert float(numbers["mse"][0]) == pytest.approx(data["values"]["mse"][run], rel=1e-3)
    assert float(numbers["mse"][1]) == pytest.approx(data["values"]["mse"][against], rel=1e-3)
    compared = data["comparisons"][data["claims"][0]["comparison"]]
    difference = compared["differences"]["psnr"][compared["pairs"].index([run, against])]
    assert float(numbers["psnr"][2]) == pytest.approx(difference, rel=1e-3)
    box = opened.js("""const b = (e) => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.width, r.height]; };
        return [b(document.querySelector('.grid-picture')), b(document.querySelector('.over'))]""")
    assert np.allclose(box[1], [box[0][0] + box[0][2] / 2, box[0][1] + box[0][3] / 2, box[0][2] / 2, box[0][3] / 2], atol=3)


def test_a_failed_run_says_so(opened, done):
    data = manifest(done.page.html)
    opened.go(view="runs", run=data["runs"]["id"][data["runs"]["seed"].index("3")])
    assert "NaN or infinite" in text(opened, "chosen-text") and "no picture" in text(opened, "pictures")
    assert text(opened, "again-text") == "This run failed and has no picture."
    assert opened.js("return document.getElementById('command').offsetParent") is None


def test_the_keyboard_reaches_everything(opened):
    from selenium.webdriver.common.keys import Keys

    for key, view in (("2", "effects"), ("3", "interactions"), ("4", "runs"), ("1", "claims")):
        opened.keys(key)
        assert opened.state()["view"] == view
    opened.keys("j")
    assert opened.state()["row"] == "1" and opened.state()["metric"] == "psnr"
    opened.keys("k", "2", "m")
    assert opened.state()["row"] == "0" and opened.state()["metric"] == "psnr"  # after that of the claim
    opened.keys(".")
    first = opened.state()["run"]
    opened.keys(".")
    second = opened.state()["run"]
    assert first and second and first != second
    opened.keys(",")
    assert opened.state()["run"] == first
    opened.js("document.querySelector('#pairs-table [aria-selected=true]').focus()")
    opened.keys(Keys.ARROW_DOWN)
    assert opened.state()["run"] == second
    assert opened.js("return document.activeElement === document.querySelector('#pairs-table [aria-selected=true]')")  # focus stays
    opened.keys("f")
    assert opened.js("return document.activeElement.id") == "filter-factor sac"
    opened.js("document.activeElement.blur()")
    opened.go(**{"factor sac": "off"})
    opened.keys("x", "t")
    assert opened.state()["factor sac"] == "" and opened.state()["theme"] == "light"
    for key, dialog in (("?", "help"), ("i", "notes"), ("l", "link")):
        opened.keys(key)
        assert opened.js("return document.getElementById(arguments[0]).open", dialog)
        opened.keys(Keys.ESCAPE)


def test_a_link_brings_the_same_view_back(browser, done):
    browser.resize(*LAPTOP)
    page = done.folder / "study.html"
    browser.open(page)
    browser.go(view="effects", metric="psnr", row="1", pairsort="input 1", **{"factor text": "on"})
    browser.keys(".", ".")

    def address_follows() -> bool:  # it does when the view rests
        told = parse_qs(browser.js("return location.hash").removeprefix("#"))
        return all(told.get(name) == [browser.state()[name]] for name in ("run", "against"))

    browser.until(address_follows)
    address, state, shown = browser.js("return location.hash"), browser.state(), (rows(browser), rows(browser, "pairs-table"))
    assert state["run"] and state["against"]
    browser.open(page, address)
    assert browser.state() == state and (rows(browser), rows(browser, "pairs-table")) == shown
    browser.open(page, "#view=nowhere&metric=x&row=99&run=gone&seed=7&factor%20sac=maybe&theme=%E0%A4%A&sort=x")  # old or broken
    assert browser.state()["view"] == "claims" and browser.state()["row"] == "0" and rows(browser)
    browser.js("location.hash = arguments[0]", address)
    browser.until(lambda: browser.state() == state)
    browser.settle()
    assert browser.logs() == ([], [])


def test_nothing_in_names_and_prompts_is_executed_and_the_page_says_what_it_holds(opened, done):
    assert opened.js("return window.harmed") is None
    assert HOSTILE in opened.js("return document.getElementById('run').textContent")
    data = manifest(done.page.html)
    said = opened.js("return document.getElementById('notes-text').textContent")
    for lines in data["notes"].values():
        assert lines and all(line in said for line in lines)


def test_every_control_has_a_name(opened):
    code = """
      const label = (e) => (e.labels?.length ? e.labels[0].textContent : '');
      const named = (e) => (e.getAttribute('aria-label') ?? '') + (e.title ?? '') + label(e) + e.textContent;
      const unnamed = [...document.querySelectorAll('button, select, input')].filter((e) => !named(e).trim());
      return [...unnamed, ...[...document.querySelectorAll('img')].filter((e) => !e.alt)].map((e) => e.outerHTML);
    """
    assert opened.js(code) == []


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """500 runs."""
    return large_study(tmp_path_factory.mktemp("large"))


def test_of_500_runs_only_rows_near_the_view_are_drawn_and_scrolling_draws_the_rest(browser, large):
    assert len(large.plan.rows) == 500 and (large.folder / "study.html").stat().st_size < 20_000_000
    browser.resize(*LAPTOP)
    browser.open(large.folder / "study.html", "#view=runs")
    assert len(rows(browser)) <= 120 and browser.js("return document.querySelectorAll('*').length") < 4000
    assert browser.js("return document.querySelectorAll('img').length") <= 120

    def all_drawn() -> bool:
        browser.js("document.querySelector('#main-section .scroll').scrollTop = 1e6")
        return len(rows(browser)) == 500

    browser.until(all_drawn)
    found = rows(browser)
    assert len(found) == 500 and len({tuple(row[1:8]) for row in found}) == 500
    assert browser.js("return document.querySelectorAll('#main-table .more').length") == 0
    assert browser.logs() == ([], [])


def test_500_runs_are_seen_after_less_than_half_a_second_of_computing(browser, large):
    """The promise is two seconds; what the page's thread computes does not depend on what else the machine does."""
    browser.resize(*LAPTOP)
    assert min(computed for _, computed in first_views(browser, large.folder / "study.html", 3)) < 500


def test_a_notebooks_frame_shows_the_page(browser, done, tmp_path):
    path = tmp_path / "cell.html"
    path.write_text(f"<!doctype html><body>{done.page._repr_html_()}</body>", encoding="utf-8")
    browser.driver.get("about:blank")
    browser.logs()
    browser.driver.get(f"file://{path}")
    browser.driver.switch_to.frame(0)
    browser.settle()
    browser.go(view="runs")
    assert re.fullmatch(r"192 of 192 runs", text(browser, "main-title"))
    browser.driver.switch_to.default_content()
    assert browser.logs() == ([], [])
