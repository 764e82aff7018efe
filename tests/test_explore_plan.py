"""The capture for the explorer: planned within page and memory, and its reductions equal to sums written out."""

import math

import pytest
import torch

from analogist import Capture
from analogist.explore import for_explorer
from analogist.explore.coarse import Pool, Softmax, pool_factor, pool_tokens
from analogist.explore.detail import LADDER, spread
from analogist.explore.page_plan import MAX_BYTES, SLACK, values, wanted, words
from analogist.models.control import CAM, SAC, At
from tests.explore_cases import LAB, SD2, SD15, SDXL, shape_of, sites_of, small_run

SIZES = {
    "lab 128 px": (LAB, (128, 128), 2), "SD 1.5 512 px": (SD15, (512, 512), 2), "SD 2 768 px": (SD2, (768, 768), 2),
    "SD 1.5 1024 px": (SD15, (1024, 1024), 2), "SDXL 1024 px": (SDXL, (1024, 1024), 2), "SD 1.5 384 x 768": (SD15, (384, 768), 2),
    "two pairs": (SD15, (768, 512), 3),
}  # fmt: skip


@pytest.mark.parametrize("case", SIZES)
@pytest.mark.parametrize("steps", [1, 49])
def test_some_detail_fits_the_page_from_the_lab_checkpoint_to_1024_px(case, steps):
    config, size, rows = SIZES[case]
    run = shape_of(size, rows=rows, steps=steps)
    points = wanted(sites_of(config), run, SAC(), CAM())
    costs = [sum(values(*point, detail, run) for point in points) for detail in LADDER]
    fitting = [cost for cost in costs if cost <= SLACK * MAX_BYTES]
    assert fitting and max(fitting) > 0.1 * SLACK * MAX_BYTES or costs[0] <= SLACK * MAX_BYTES  # and the page is not left empty


@pytest.mark.parametrize("rows", [2, 3])
@pytest.mark.parametrize("limit", [None, 4096, 1024, 256, 64, 1])
def test_a_pooled_block_never_crosses_a_cells_edge(rows, limit):
    for hw in ((64, 64), (96, 64), (48, 96), (12, 8), (6, 4)):
        if hw[0] % rows:
            continue
        factor = pool_factor(hw, rows, limit)
        assert (hw[0] // rows) % factor == 0 and (hw[1] // 2) % factor == 0
        tokens = hw[0] * hw[1] // factor**2
        assert limit is None or tokens <= limit or factor == math.gcd(hw[0] // rows, hw[1] // 2)


def test_pooling_equals_sums_written_in_loops():
    hw, factor = (4, 6), 2
    x = torch.rand(3, 24, generator=torch.Generator().manual_seed(1))
    expected = torch.zeros(3, 6)
    for token in range(24):
        row, column = divmod(token, 6)
        expected[:, (row // factor) * 3 + column // factor] += x[:, token]
    assert torch.allclose(pool_tokens(x, hw, factor, mean=False), expected, atol=1e-6)
    assert torch.allclose(pool_tokens(x, hw, factor, mean=True), expected / 4, atol=1e-6)


def test_pooled_rows_of_probabilities_still_sum_to_one():
    site = sites_of(LAB)[0]
    at = At(site, "probs", 0, 1, (4, 6), 1, 1)
    x = torch.rand(1, 1, 2, 24, 24).softmax(-1)
    pooled = Pool(2, 2).apply(x, at)
    assert pooled.shape == (1, 1, 2, 6, 6) and torch.allclose(pooled.sum(-1), torch.ones(1, 1, 2, 6))
    assert Pool(2, 2).layout(("head", "query", "key"), (2, 24, 24), "self") == (("head", "pooled_query", "pooled_key"), (2, 6, 6))
    assert Pool(2, 1).layout(("head", "query", "key"), (2, 24, 77), "cross")[1] == (2, 6, 77)


def test_steps_are_spread_with_first_and_last():
    assert spread(range(49), 5) == (0, 12, 24, 36, 48)
    assert spread(range(49), 1) == (24,)
    assert spread((3, 5), 5) == (3, 5)


def test_the_words_of_a_page_are_the_prompts_tokens_and_one_for_padding():
    assert words(shape_of((128, 128), prompt="one two three")) == 1 + 5  # and start and end


def test_a_page_too_small_for_the_coarsest_maps_is_an_error_before_the_run():
    model, grid, config = small_run()
    with pytest.raises(ValueError, match="coarsest"):
        for_explorer(model, grid, config=config, max_bytes=100)
    with pytest.raises(ValueError, match="memory"):
        for_explorer(model, grid, config=config, max_memory=100)


def test_what_is_captured_pooled_is_the_whole_map_pooled():
    """The plan's reductions inside a run, against whole maps of the same run reduced afterwards."""
    model, grid, config = small_run()
    names = ("up.2.attn.0.self:probs", "up.2.attn.0.self:logits", "up.2.attn.0.cross:probs")
    whole = model(grid, "a red boat", config=config, capture=Capture(*names, "up.2.attn.0.cross:logits"), progress=False).maps
    reduced = model(
        grid, "a red boat", config=config, progress=False,
        capture=[
            Capture(*names[:2], reduce=[Pool(2, 4), "mean_heads"]), Capture(names[2], reduce=[Pool(2, 1)]),
            Capture("up.2.attn.0.cross:logits", reduce=[Softmax(), Pool(4, 1), "mean_heads"], label="before"),
        ],
    ).maps  # fmt: skip
    hw = whole[names[0]].hw

    def pooled(x, query, key, mean):
        x = x if key == 1 else pool_tokens(x, hw, key, mean=mean)
        return pool_tokens(x.transpose(-1, -2), hw, query, mean=True).transpose(-1, -2)

    assert torch.allclose(reduced[names[0]].tensor, pooled(whole[names[0]].tensor.mean(3), 2, 4, False), atol=1e-6)
    assert torch.allclose(reduced[names[1]].tensor, pooled(whole[names[1]].tensor.mean(3), 2, 4, True), atol=1e-4)
    assert torch.allclose(reduced[names[2]].tensor, pooled(whole[names[2]].tensor, 2, 1, True), atol=1e-6)
    before = pooled(whole["up.2.attn.0.cross:logits"].tensor.softmax(-1).mean(3), 4, 1, True)
    assert torch.allclose(reduced["up.2.attn.0.cross:logits@before"].tensor, before, atol=1e-6)
