"""From a run to a page: within its size, saying what was left out, the same from a result and from its folder."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from analogist import CAM, SAC, Capture
from analogist.cli.main import main
from analogist.config import AnalogistConfig
from analogist.explore import explore, explore_folder, for_explorer
from analogist.explore.detail import LADDER
from analogist.explore.held import NotShown, hold
from analogist.explore.html_page import json_text
from analogist.explore.notes import listed
from analogist.explore.pack import PageTooLarge, flow, pack
from analogist.explore.page import page_text
from analogist.explore.quantise import decode, encode, error_bound
from analogist.explore.source import encode_picture, from_folder, from_result
from analogist.models.cells import self_cells
from tests.explore_cases import CHECKPOINT, GRID, LAB, SD15, SDXL, SMALL, fake_result, shape_of, small_run, smooth
from tests.test_cli import fails

HOSTILE = 'a red boat \U0001f600 </script><img src=x onerror=alert(1)> & "b" \u2028'

rows = arrays(np.float32, (3, 9), elements=st.floats(0, 1, width=32))
signed = arrays(np.float32, (3, 9), elements=st.floats(-80, 80, width=32))


@settings(max_examples=60)
@given(st.one_of(rows, signed))
def test_eight_bits_keep_every_value_within_the_stated_error(values):
    encoding, scales, codes = encode(values)
    error = np.abs(decode(encoding, scales, codes) - values)
    assert (error <= error_bound(encoding, scales, values) + 1e-30).all()


def test_the_stated_error_is_no_more_than_half_a_level_allows():
    """The bound itself, by hand: at the top of a row m / 255 and a little, at 0 next to nothing; of logits half a level."""
    scales = np.array([[2.0]], np.float32)
    assert error_bound("sqrt", scales, np.array([[2.0, 0.0]])) == pytest.approx(np.array([[2 / 255, 2 / 260100]]), rel=1e-2, abs=1e-5)
    both = np.array([[-1.0], [0.5]], np.float32)
    assert error_bound("linear", both, np.zeros((1, 1))) == pytest.approx(0.25, abs=1e-4)


@pytest.mark.parametrize("count", [2, 3])
def test_the_flow_table_equals_sums_over_cells(count):
    hw = (count * 4, 8)
    x = torch.rand(2, hw[0] * hw[1], hw[0] * hw[1]).softmax(-1)
    cells = self_cells(x[:, None], hw, count)  # query row, column, key row, column, batch head y x y x
    found = flow(x.numpy(), hw, hw, count)
    every = [(row, column) for row in range(count) for column in range(2)]
    for i, query in enumerate(every):
        for j, key in enumerate(every):
            total = cells[query + key].sum((1, 2, 3, 4, 5)) / 16
            assert found[:, i, j] == pytest.approx(total.numpy(), rel=1e-5)
    assert found.shape == (2, 2 * count, 2 * count) and found.sum(-1) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("size", [300_000, 2_000_000])
def test_a_page_is_never_larger_than_allowed_and_says_what_was_left_out(size):
    page = explore(fake_result(LAB, shape_of((128, 128), steps=4)), max_bytes=size)
    assert 0.2 * size < page.nbytes <= size
    assert len(page.html.encode()) == page.nbytes
    if size < 2_000_000:
        assert page.notes["left_out"] and all(line in repr(page) for line in page.notes["left_out"])


def test_everything_is_kept_where_it_fits():
    page = explore(fake_result(LAB, shape_of((128, 128), steps=2)))
    assert page.detail == LADDER[0] and page.notes["left_out"] == ["nothing; everything that ran at these points is here"]


def test_a_page_too_small_for_anything_is_one_clear_line():
    with pytest.raises(PageTooLarge, match="allow a larger page"):
        explore(fake_result(LAB, shape_of((128, 128), steps=1)), max_bytes=90_000)
    with pytest.raises(ValueError, match="max_bytes 0"):
        explore(fake_result(LAB, shape_of((128, 128), steps=1)), max_bytes=0)


@pytest.mark.parametrize("case", ["SDXL", "two pairs", "not square", "one site"])
def test_every_shape_of_run_makes_a_page(case):
    if case == "SDXL":
        result = fake_result(SDXL, shape_of((128, 128), steps=1))
    elif case == "two pairs":
        result = fake_result(SMALL, shape_of((192, 128), rows=3, steps=2), sites="up.2")
    elif case == "not square":
        result = fake_result(SMALL, shape_of((128, 256), steps=2), sites="up.2")
    else:
        result = fake_result(SMALL, shape_of((128, 128), steps=1), sites="up.2.attn.1.self")
    page = explore(result)
    assert "<canvas" in page.html and page.nbytes < 20_000_000
    if case == "one site":
        assert any("31 of 32 sites" in line for line in page.notes["left_out"])


def test_the_images_that_do_not_fit_are_named():
    page = explore(fake_result(LAB, shape_of((128, 128), steps=2, images=5)), max_bytes=500_000)
    assert sum("the whole image" in line for line in page.notes["left_out"]) >= 1


def test_maps_that_no_pixel_can_be_read_from_are_named_with_the_reason():
    model, grid, config = small_run()
    result = model(
        grid, "a red boat", config=config, progress=False,
        capture=[
            Capture("mid.*.self:probs"), Capture("up.1.attn.0.self:probs", reduce="regions"), Capture("up.1.attn.1.self:q"),
            Capture("up.1.attn.2.self:probs", query="B'"), Capture("mid.*.cross:logits"), Capture("up.1.attn.0.cross:probs", words="boat"),
            Capture("up.2.attn.0.self:probs", reduce="mean_steps"),
        ],
    )  # fmt: skip
    page = result.explore()
    said = " ".join(page.notes["left_out"])
    for part in ("query_region", "not an attention map", "only a part of the picture"):
        assert part in said
    assert "mid.0.attn.0" not in said.split("sites have no probabilities")[-1]
    source = from_result(result)[0]
    held = {one.map.name: one for one in source.held}
    assert held["mid.0.attn.0.cross:logits"].view == "before"
    assert held["up.2.attn.0.self:probs"].steps == (-1,)
    with pytest.raises(NotShown):
        hold(result.maps["up.1.attn.1.self:q"])


@pytest.mark.parametrize("aligned", ["a-a_prime", "a-b"])
def test_the_page_shows_the_picture_that_its_maps_are_of(aligned):
    """What the model painted, whose A' and B have swapped places if A and B are aligned; `Result.grids` has them back."""
    model, grid, config = small_run()
    result = model(grid.with_aligned(aligned), "a boat", config=config, capture="9.self:probs", progress=False)
    painted = (255 * (result.pixels[0] / 2 + 0.5).clamp(0, 1)).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(from_result(result)[0].picture), painted)
    assert np.array_equal(np.asarray(result.grids[0]), painted) == (aligned == "a-a_prime")


def test_a_result_without_captures_is_one_clear_line():
    model, grid, config = small_run()
    result = model(grid, config=config, progress=False)
    with pytest.raises(ValueError, match="nothing was captured; run with capture=for_explorer"):
        result.explore()
    with pytest.raises(ValueError, match="give a Result"):
        explore([])


def test_a_hostile_prompt_stays_text():
    text = json_text({"prompt": HOSTILE})
    assert not set(text) & set("<>&") and text.isascii() and json.loads(text)["prompt"] == HOSTILE
    page = page_text({"prompt": HOSTILE + "\ud800"}, ["AAAA"], HOSTILE + "\ud800")
    assert page.isascii()  # so that no encoding can change it
    assert "<img src=x" not in page and page.count("</script>") == 3  # data, one chunk, the script
    frame = explore(fake_result(SMALL, shape_of((128, 128), steps=1, prompt=HOSTILE), sites="mid"))._repr_html_()
    assert frame.startswith("<iframe") and "<img" not in frame and 'sandbox="allow-scripts allow-downloads"' in frame


def test_the_page_allows_no_request_and_no_other_script():
    page = page_text({}, [], "t")
    policy = page.split('http-equiv="Content-Security-Policy" content="')[1].split('"')[0]
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy and "connect-src" not in policy
    assert "http://" not in page and "https://" not in page


def test_a_picture_takes_no_more_than_its_share():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8))
    for limit in (300_000, 60_000, 6_000):
        kind, data, said = encode_picture(image, limit)
        assert len(data) <= limit and kind in ("image/png", "image/jpeg") and said
    assert encode_picture(Image.fromarray(smooth(np.random.default_rng(0), (64, 64))), 50_000)[0] == "image/png"


def test_runs_are_told_apart_by_sac_and_by_number():
    run = shape_of((128, 128), steps=1)
    on, off = fake_result(SMALL, run, sites="mid"), fake_result(SMALL, run, sites="mid", settings=AnalogistConfig(sac=None))
    page = explore([on, off, off])
    for label in ("SAC layers 3 to 10, seed 7", "SAC off, seed 7 (1)", "SAC off, seed 7 (2)"):
        assert json.dumps(label) in page.html
    assert '"label":"with"' in explore([on, off], labels=["with", "without"]).html
    with pytest.raises(ValueError, match="2 are needed, one per run"):
        explore([on, off], labels="with")


def test_numbers_are_listed_as_ranges():
    assert listed([0, 3, 4, 5, 10, 11]) == "0, 3 to 5, 10, 11"


def test_the_command_line_writes_a_page_and_makes_it_again_from_the_folder(tmp_path, capsys):
    out = tmp_path / "out"
    argv = ["run", "--grid", str(GRID), "--checkpoint", str(CHECKPOINT), "--size", "128", "--device", "cpu", "--quiet"]
    argv += ["--steps", "1", "--strength", "1"]
    assert main([*argv, "--prompt", "a red boat", "--explore", "2", "--out", str(out)]) == 0
    assert (out / "look.html").stat().st_size <= 2_000_000
    assert main(["explore", str(out), "-o", str(tmp_path / "again.html"), "--max-mb", "2"]) == 0
    assert (tmp_path / "again.html").read_bytes() == (out / "look.html").read_bytes()
    assert main(["explore", str(out), str(out), "--label", "one", "--label", "two", "-o", str(tmp_path / "two.html")]) == 0
    assert '"label":"two"' in (tmp_path / "two.html").read_text(encoding="utf-8")
    assert "labels" in fails(capsys, ["explore", str(out), "--label", "a", "--label", "b"])
    assert "--max-mb 0" in fails(capsys, ["explore", str(out), "--max-mb", "0"])
    assert "--explore nan" in fails(capsys, [*argv, "--explore", "nan", "--out", str(out)])
    (out / "maps.safetensors").unlink()
    assert "holds no captured maps" in fails(capsys, ["explore", str(out)])
    assert "no run.json" in fails(capsys, ["explore", str(tmp_path)])
    assert "no such folder" in fails(capsys, ["explore", str(tmp_path / "nowhere")])


def test_several_prompts_and_seeds_share_a_page(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"a red boat\n{HOSTILE.replace(chr(0x2028), '')}\n", encoding="utf-8")
    out = tmp_path / "out"
    argv = ["run", "--grid", str(GRID), "--checkpoint", str(CHECKPOINT), "--size", "128", "--steps", "1", "--strength", "1", "--quiet"]
    assert main([*argv, "--prompt-file", str(prompts), "--images", "2", "--explore", "12", "--device", "cpu", "--out", str(out)]) == 0
    sources = from_folder(out)
    assert [source.seed for source in sources] == [42, 43, 42, 43]
    assert sources[0].prompt != sources[2].prompt
    assert explore_folder(out).nbytes <= 20_000_000


def test_settings_that_are_off_are_not_captured():
    model, grid, config = small_run()
    names = [p for one in for_explorer(model, grid, config=config.replace(sac=None, cam=None)) for p in one.patterns]
    assert names and all(name.endswith(":probs") for name in names)
    on = [p for one in for_explorer(model, grid, config=config.replace(sac=SAC(), cam=CAM())) for p in one.patterns]
    assert sum(name.endswith("self:logits") for name in on) == 8 == sum(name.endswith("cross:logits") for name in on)


def test_a_plan_of_one_image_of_512_px_packs_within_the_page():
    result = fake_result(SD15, shape_of((512, 512), steps=2), max_bytes=3_000_000)
    packed = pack(from_result(result), 3_000_000)
    assert 300_000 < packed.nbytes <= 3_000_000
