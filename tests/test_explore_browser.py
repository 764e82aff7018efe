"""The explorer's page in a real headless Chromium: what it shows is what Python computes, and nothing leaves it."""

import base64
import io
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analogist.attention.capture.maps import AttentionMap
from analogist.config import AnalogistConfig
from analogist.explore import explore
from analogist.explore.quantise import encode, error_bound
from tests.explore_browser import LAPTOP
from tests.explore_cases import SMALL, fake_result, shape_of

HOSTILE = "a \U0001f600 <b>boat</b> </script><script>window.harmed=1</script> <img\u00a0src=x\u00a0onerror=window.harmed=1>"


@pytest.fixture(scope="module")
def runs():
    """SAC on and off, everything kept, with a prompt that would act if it were not text."""
    run = shape_of((128, 128), steps=3, prompt=HOSTILE)
    return fake_result(SMALL, run), fake_result(SMALL, run, settings=AnalogistConfig(sac=None), seed=1)


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory) -> Path:
    """One run, whole."""
    return explore(runs[0], max_bytes=60_000_000).save(tmp_path_factory.mktemp("page") / "look.html")


@pytest.fixture(scope="module")
def pair(runs, tmp_path_factory) -> Path:
    """Two runs, on a path with a space, a # and letters beyond ASCII."""
    folder = tmp_path_factory.mktemp("pair") / "zwei Läufe"
    folder.mkdir()
    return explore(list(runs), labels=["SAC on", "SAC off"]).save(folder / "look.html")


@pytest.fixture
def opened(browser, page):
    browser.resize(*LAPTOP)
    browser.open(page)
    yield browser
    console, asked = browser.logs()
    assert console == [] and asked == []


def computed(m: AttentionMap, step: int, branch: str, head: int) -> np.ndarray:
    """[query key] of a map, float64; head -1: the mean of all."""
    x = m.tensor[m.coords["step"].index(step), m.coords["branch"].index(branch), 0].double().numpy()
    return x.mean(0) if head < 0 else x[head]


def bound(m: AttentionMap, step: int, branch: str, head: int, *, rows_are_words: bool = False) -> np.ndarray:
    """The stated error of every value [query key] of a map."""
    x = m.tensor[m.coords["step"].index(step), m.coords["branch"].index(branch), 0].float().numpy()
    x = x.transpose(0, 2, 1) if rows_are_words else x
    encoding, scales, _ = encode(x)
    error = error_bound(encoding, scales, x)
    error = error.transpose(0, 2, 1) if rows_are_words else error
    return error.mean(0) if head < 0 else error[head]


def token_of(x: float, y: float, hw: tuple[int, int], size: tuple[int, int] = (128, 128)) -> int:
    """The token under a pixel, row-major."""
    return int(y * hw[0] / size[0]) * hw[1] + int(x * hw[1] / size[1])


def places(count: int):
    """Random sites, steps, heads, branches, directions and pixels."""
    rng = np.random.default_rng(20)
    counts = {"down.0": 2, "down.1": 2, "down.2": 2, "mid.0": 1, "up.1": 3, "up.2": 3, "up.3": 3}
    names = [f"{level}.attn.{i}" for level, count in counts.items() for i in range(count)]
    for _ in range(count):
        yield (
            str(rng.choice(names)), int(rng.integers(0, 3)), int(rng.integers(-1, 2)), str(rng.choice(["text", "negative"])),
            str(rng.choice(["from", "to"])), float(rng.integers(1, 127)) + 0.5, float(rng.integers(1, 127)) + 0.5,
        )  # fmt: skip


def test_pointing_at_a_pixel_shows_the_row_that_python_computes(opened, runs):
    for layer, step, head, branch, direction, x, y in places(20):
        opened.go(kind="self", view="probs", layer=layer, step=step, head=head, branch=branch, direction=direction, held=False)
        opened.point(x, y)
        found = opened.shown()[0]
        m = runs[0].maps[f"{layer}.self:probs"]
        state = opened.state()
        assert abs(state["x"] - x) <= 1 and abs(state["y"] - y) <= 1  # the mouse stands on whole screen pixels
        token = token_of(state["x"] + 0.5, state["y"] + 0.5, m.hw)
        whole, error = computed(m, step, branch, head), bound(m, step, branch, head)
        expected, allowed = (whole[token], error[token]) if direction == "from" else (whole[:, token], error[:, token])
        assert found["steps"] == [step] and found["hw"] == list(m.hw) and found["token"] == token
        assert (np.abs(np.array(found["values"]) - expected) <= allowed).all(), (layer, step, head, branch, direction)


def test_the_mean_of_steps_is_the_mean_of_their_rows(opened, runs):
    opened.go(layer="up.2.attn.1", step="mean", head=-1, direction="from", x=100, y=30)
    m = runs[0].maps["up.2.attn.1.self:probs"]
    token = token_of(100.5, 30.5, m.hw)
    expected = np.mean([computed(m, step, "text", -1)[token] for step in range(3)], axis=0)
    allowed = np.mean([bound(m, step, "text", -1)[token] for step in range(3)], axis=0)
    found = opened.shown()[0]
    assert found["steps"] == [0, 1, 2] and (np.abs(np.array(found["values"]) - expected) <= allowed).all()


@pytest.mark.parametrize("view", ["scores", "logits", "change"])
def test_logits_before_and_after_sac_are_python_s(opened, runs, view):
    opened.go(kind="self", layer="up.1.attn.1", view=view, step=1, head=2, direction="from", x=80, y=100)
    m = {name: runs[0].maps[f"up.1.attn.1.self:{name}"] for name in ("scores", "logits")}
    token = token_of(80.5, 100.5, m["scores"].hw)
    rows = {name: computed(one, 1, "text", 2)[token] for name, one in m.items()}
    errors = {name: bound(one, 1, "text", 2)[token] for name, one in m.items()}
    expected = rows["logits"] - rows["scores"] if view == "change" else rows[view]
    allowed = errors["logits"] + errors["scores"] if view == "change" else errors[view]
    assert (np.abs(np.array(opened.shown()[0]["values"]) - expected) <= allowed).all()


@pytest.mark.parametrize("view", ["probs", "before", "change"])
def test_a_words_heat_map_before_and_after_cam_is_python_s(opened, runs, view):
    word = 3
    opened.go(kind="cross", layer="up.1.attn.0", view=view, step=2, head=-1, word=word)
    m = {"probs": runs[0].maps["up.1.attn.0.cross:probs"], "before": runs[0].maps["up.1.attn.0.cross:logits@before"]}
    whole = {name: computed(one, 2, "text", -1)[:, word] for name, one in m.items()}
    errors = {name: bound(one, 2, "text", -1, rows_are_words=True)[:, word] for name, one in m.items()}
    expected = whole["probs"] - whole["before"] if view == "change" else whole[view]
    allowed = errors["probs"] + errors["before"] if view == "change" else errors[view]
    found = opened.shown()[0]
    assert found["hw"] == list(m["probs"].hw) and (np.abs(np.array(found["values"]) - expected) <= allowed).all()


def test_the_words_are_the_prompts_own_and_padding_is_their_sum(opened, runs):
    opened.go(layer="up.1.attn.2", step=0, head=-1, x=90, y=90)
    texts = opened.js("return [...document.querySelectorAll('#words button')].map((b) => b.firstChild.textContent)")
    assert texts == ["start", *HOSTILE.split(), "end", "padding"]
    m = runs[0].maps["up.1.attn.2.cross:probs"]
    opened.go(kind="cross", word=len(texts) - 1)
    expected = computed(m, 0, "text", -1)[:, len(texts) - 1 :].sum(-1)
    assert np.allclose(opened.shown()[0]["values"], expected, atol=expected.max() / 200)


def test_the_flow_table_is_the_sum_over_cells(opened, runs):
    opened.go(layer="up.2.attn.2", step=1, head=1)
    m = runs[0].maps["up.2.attn.2.self:probs"]
    x = computed(m, 1, "text", 1).reshape(2, 4, 2, 4, 2, 4, 2, 4)  # query cell row, y, cell column, x; key the same
    expected = x.sum((5, 7)).mean((1, 3)).reshape(4, 4)
    assert np.allclose(np.array(opened.js("return explorer.flow()")).reshape(4, 4), expected, atol=1e-6)
    cells = opened.js("return [...document.querySelectorAll('#flow td')].map((c) => c.textContent)")
    assert [int(float(cell.split()[0])) for cell in cells] == pytest.approx((100 * expected).ravel(), abs=0.51)


def test_with_two_example_pairs_every_cell_of_both_has_its_row_and_share(browser, tmp_path):
    result = fake_result(SMALL, shape_of((192, 128), rows=3, steps=1))
    m = result.maps["up.2.attn.2.self:probs"]
    h, w = m.hw
    browser.resize(*LAPTOP)
    browser.open(explore(result, max_bytes=60_000_000).save(tmp_path / "look.html"))
    browser.go(layer="up.2.attn.2", step=0, head=1, x=120, y=80)  # in A2'
    x = computed(m, 0, "text", 1).reshape(3, h // 3, 2, w // 2, 3, h // 3, 2, w // 2)  # query cell row, y, cell column, x; key the same
    expected = x.sum((5, 7)).mean((1, 3)).reshape(6, 6)
    assert np.allclose(np.array(browser.js("return explorer.flow()")).reshape(6, 6), expected, atol=1e-6)
    names = ["A1", "A1'", "A2", "A2'", "B", "B'"]
    assert browser.js("return [...document.querySelectorAll('#flow th[scope=row]')].map((e) => e.textContent)") == names
    assert browser.js("return document.querySelector('#flow tr.here th').textContent") == "A2'"
    assert browser.js("return document.getElementById('pointer').textContent").startswith("A2', pixel 120, 80")
    row = computed(m, 0, "text", 1)[int(80 / 192 * h) * w + int(120 / 128 * w)].reshape(3, h // 3, 2, w // 2).sum((1, 3)).ravel()
    shares = browser.js("return document.getElementById('shares').getAttribute('aria-label')").split(", ")
    assert [share.split()[0] for share in shares] == names
    assert [float(share.split()[1]) for share in shares] == pytest.approx(100 * row / row.sum(), abs=0.51)
    assert browser.logs() == ([], [])


def test_best_matches_are_the_strongest_keys(opened, runs):
    opened.go(layer="up.2.attn.2", step=1, head=-1, lines="B'>A'")
    m = runs[0].maps["up.2.attn.2.self:probs"]
    whole = computed(m, 1, "text", -1)
    keys = [row * 8 + column for row in range(4) for column in range(4, 8)]
    found = opened.js("return explorer.matches()")
    assert 0 < len(found) <= 24
    for match in found:
        assert match["from"] // 8 >= 4 and match["from"] % 8 >= 4  # begins in B'
        row = whole[match["from"], keys]
        assert whole[match["from"], match["to"]] >= row.max() * 0.99  # 8 bits may exchange near equals


def test_the_overlay_is_brightest_where_the_value_is_greatest(opened, runs):
    opened.go(layer="up.1.attn.0", step=0, head=-1, x=70, y=70, theme="dark")
    values = np.array(opened.shown()[0]["values"])
    picture = Image.open(io.BytesIO(base64.b64decode(opened.js("return document.querySelector('.picture').toDataURL().split(',')[1]"))))
    grey = np.array(picture.convert("L"), float)
    side = grey.shape[0] / 4
    middles = [(int((t // 4 + 0.72) * side), int((t % 4 + 0.72) * side)) for t in range(16)]
    patches = [grey[r - 6 : r + 6, c - 6 : c + 6].mean() for r, c in middles]
    assert patches[int(values.argmax())] == max(patches)


def test_the_scale_grows_lighter_with_the_value(opened):
    data = opened.js("const c = document.querySelector('.bar'); return [...c.getContext('2d').getImageData(0, 4, 256, 1).data]")
    rgb = (np.array(data).reshape(256, 4)[:, :3] / 255) ** 2.2
    light = rgb @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(np.convolve(light, np.ones(8) / 8, "valid")) > 0).all() and light[-1] > 6 * light[0]


def test_keys_reach_every_choice(opened):
    from selenium.webdriver.common.keys import Keys

    opened.go(layer="up.1.attn.0", step=0, head=-1, x=70, y=70)
    wanted = [
        ("k", "layer", "up.1.attn.1"), ("j", "layer", "up.1.attn.0"), (".", "step", 1), (",", "step", 0), ("m", "head", 0),
        ("n", "head", -1), ("b", "branch", "negative"), ("r", "direction", "to"), ("v", "view", "logits"), ("x", "kind", "cross"),
        ("]", "word", 2), ("[", "word", 1), ("x", "kind", "self"), ("c", "lines", "B'>A'"), ("d", "beside", "change"),
        ("z", "scale", "linear"), ("s", "step", "mean"), ("o", "overlay", False), ("t", "theme", "light"), ("t", "theme", "dark"),
        (Keys.ENTER, "held", True), (Keys.ESCAPE, "held", False),
    ]  # fmt: skip
    for key, name, value in wanted:
        opened.keys(key)
        assert opened.state()[name] == value, key
    opened.keys("?")
    assert opened.js("return document.getElementById('help').open")
    opened.keys(Keys.ESCAPE)


def test_arrows_move_the_pointer_by_one_token(opened):
    from selenium.webdriver.common.keys import Keys

    opened.go(layer="up.1.attn.0", x=70, y=70)
    opened.js("document.querySelector('.picture').focus()")
    before = opened.shown()[0]["token"]
    opened.keys(Keys.ARROW_RIGHT)
    assert opened.shown()[0]["token"] == before + 1
    opened.keys(Keys.ARROW_UP)
    assert opened.shown()[0]["token"] == before + 1 - 4
    said = "return document.getElementById('live').textContent"  # waits for the pointer to rest
    opened.until(lambda: opened.js(said).startswith("A', pixel") and "Looks at" in opened.js(said))


def test_sliders_and_lists_change_the_view(opened):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.select import Select

    for name, key in (("site", "layer"), ("step", "step"), ("head", "head")):
        opened.go(layer="up.1.attn.0", step=0, head=-1)
        before = opened.state()[key]
        opened.driver.find_element(By.ID, name).send_keys(Keys.ARROW_RIGHT)
        opened.settle()
        assert opened.state()[key] != before, name
    for name, value in (("view", "logits"), ("branch", "negative"), ("beside", "none"), ("lines", "B'>B"), ("scale", "linear")):
        Select(opened.driver.find_element(By.ID, name)).select_by_value(value)
        opened.settle()
        assert opened.state()[name] == value
    opened.driver.find_element(By.CSS_SELECTOR, "[data-site='mid.0.attn.0']").click()
    opened.settle()
    assert opened.state()["layer"] == "mid.0.attn.0"
    opened.driver.find_element(By.CSS_SELECTOR, "#words [data-word='2']").click()
    opened.settle()
    assert opened.state()["kind"] == "cross" and opened.state()["word"] == 2
    opened.driver.find_element(By.ID, "mean-steps").click()
    opened.settle()
    assert opened.state()["step"] == "mean"


def test_a_click_holds_the_pointer(opened):
    from selenium.webdriver import ActionChains

    opened.go(layer="up.1.attn.0", held=False)
    opened.point(40, 40)
    ActionChains(opened.driver, duration=0).click().perform()
    opened.point(90, 90)
    state = opened.state()
    assert state["held"] and abs(state["x"] - 40) <= 1 and abs(state["y"] - 40) <= 1


def test_a_link_brings_the_same_view_back(browser, pair):
    browser.resize(*LAPTOP)
    browser.open(pair)
    browser.go(kind="self", layer="up.2.attn.0", step=1, head=0, branch="negative", direction="to", x=31, y=77)
    browser.go(source=1, beside="run0", held=True)
    browser.until(lambda: "y=77" in browser.js("return location.hash"))  # the address follows when the view rests
    address = browser.js("return location.hash")
    state, shown = browser.state(), browser.shown()
    browser.open(pair, address)
    assert browser.state() == state and browser.shown() == shown
    browser.open(pair, "#layer=nowhere&step=99&x=-5&y=9999&source=7&kind=%E0%A4%A&beside=run9&word=x")  # an old or a broken link
    assert browser.shown() and browser.state()["y"] == 127
    browser.js("location.hash = arguments[0]", address)
    browser.until(lambda: browser.state() == state)
    browser.settle()
    assert browser.logs() == ([], [])


def test_the_link_button_gives_the_address(opened):
    from selenium.webdriver.common.by import By

    opened.go(layer="up.1.attn.0", x=33)
    opened.driver.find_element(By.ID, "link-button").click()
    text = opened.js("return document.getElementById('link-text').value")
    assert text.startswith("file://") and "layer=up.1.attn.0" in text and "x=33" in text
    opened.js("document.getElementById('link').close()")


def test_a_view_is_saved_as_png(opened):
    from selenium.webdriver.common.by import By

    opened.go(layer="up.2.attn.0", step=1, x=70, y=70, beside="reverse")
    opened.driver.find_element(By.ID, "png-button").click()
    opened.until(lambda: any(opened.folder.glob("attention_*.png")))
    found = list(opened.folder.glob("attention_*.png"))
    with Image.open(found[0]) as picture:
        assert found[0].name == "attention_up.2.attn.0.self_step1_70_70.png"
        assert picture.width > picture.height > 300 and len(picture.convert("RGB").getcolors(1 << 24)) > 500
    time.sleep(0.2)
    opened.driver.get_log("performance")  # the download is a blob of the page itself


def test_two_runs_stand_side_by_side_under_one_pointer(browser, pair, runs):
    browser.resize(*LAPTOP)
    browser.open(pair)
    assert browser.state()["beside"] == "run1"  # of several runs, the second stands beside the first
    browser.go(layer="up.2.attn.1", step=0, head=1)
    browser.point(100, 20)
    state, found = browser.state(), browser.shown()
    for i, result in enumerate(runs):
        m = result.maps["up.2.attn.1.self:probs"]
        token = token_of(state["x"] + 0.5, state["y"] + 0.5, m.hw)
        error = np.abs(np.array(found[i]["values"]) - computed(m, 0, "text", 1)[token])
        assert found[i]["source"] == i and (error <= bound(m, 0, "text", 1)[token]).all()
    assert found[0]["range"] == found[1]["range"]  # one scale, so that colours can be compared
    titles = browser.js("return [...document.querySelectorAll('figcaption .title')].map((t) => t.textContent)")
    assert titles[0].startswith("SAC on") and titles[1].startswith("SAC off")
    browser.go(layer="up.2.attn.0", view="change")
    assert "does not act" in browser.js("return document.querySelectorAll('figcaption .title')[1].textContent")
    assert browser.logs() == ([], [])


def test_nothing_in_a_prompt_is_executed(opened):
    assert opened.js("return window.harmed") is None
    assert HOSTILE in opened.js("return document.getElementById('run').textContent")
    assert opened.js("return document.querySelectorAll('img').length") == 0


def test_the_page_forbids_itself_requests_and_foreign_scripts(opened):
    opened.js("const s = document.createElement('script'); s.textContent = 'window.harmed = 1'; document.body.append(s)")
    assert opened.js("return window.harmed") is None
    code = "const end = arguments[0]; fetch('http://127.0.0.1:9/').then(() => end('sent'), () => end('refused'))"
    fetched = opened.driver.execute_async_script(code)
    assert fetched == "refused"
    console, asked = opened.logs()
    assert asked == [] and len(console) >= 2 and all("Content Security Policy" in line for line in console)


def test_every_control_has_a_name(opened):
    code = """
      const label = (e) => (e.labels?.length ? e.labels[0].textContent : '');
      const named = (e) => (e.getAttribute('aria-label') ?? '') + (e.title ?? '') + label(e) + e.textContent;
      const all = [...document.querySelectorAll('button, select, input, canvas[tabindex]')];
      return all.filter((e) => !named(e).trim()).map((e) => e.outerHTML);
    """
    assert opened.js(code) == []
