"""Study of attention on grids that are not square, or hold two example pairs: everything against loops over (row, column)."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from analogist.attention.capture.capture import Capture
from analogist.attention.edit import edits as E
from analogist.attention.look import drawing as draw
from analogist.attention.look import viz
from analogist.attention.measure.measures import best_keys, correspondence, flow_table, reach, word_heat
from analogist.models.cells import REGIONS
from tests.study_runs import sample, shape

GRIDS = [((16, 32), 2), ((32, 16), 2), ((24, 16), 3)]  # token rows and columns of the finest maps, rows of cells
SELF, CROSS = "down.0.attn.0.self:probs", "down.0.attn.0.cross:probs"


def region_of(token: int, hw: tuple[int, int], rows: int) -> int:
    """Which of A, A', B, B' a token lies in, counted from its row and column."""
    row, column = token // hw[1], token % hw[1]
    return 2 * (row >= hw[0] - hw[0] // rows) + (column >= hw[1] // 2)


def tokens_of(region: str, hw: tuple[int, int], rows: int) -> list[int]:
    return [t for t in range(hw[0] * hw[1]) if REGIONS[region_of(t, hw, rows)] == region]


@pytest.fixture(scope="module", params=GRIDS, ids=lambda grid: f"{grid[0][0]}x{grid[0][1]}, {grid[1]} rows")
def case(request, tiny_unet):
    """(hw, rows, maps) of one step without SAC and CAM."""
    hw, rows = request.param
    run = shape(images=1, hw=hw, rows=rows)
    return hw, rows, sample(tiny_unet, run, [SELF, CROSS], stop=1, sac=None, cam=None)[1].maps


def test_region_totals_and_flow_are_sums_over_the_cells(tiny_unet, case):
    hw, rows, maps = case
    m = maps[SELF]
    run = shape(images=1, hw=hw, rows=rows)
    totals = sample(tiny_unet, run, Capture(SELF, reduce="regions"), stop=1, sac=None, cam=None)[1].maps[SELF]
    heard = sample(tiny_unet, run, Capture(CROSS, reduce="regions"), stop=1, sac=None, cam=None)[1].maps[CROSS]
    table = flow_table(m.sel(step=0, branch="text", image=0, head=1))
    for i, query in enumerate(REGIONS):
        chosen = m.tensor[..., tokens_of(query, hw, rows), :]
        for j, key in enumerate(REGIONS):
            expected = chosen[..., tokens_of(key, hw, rows)].sum(-1).mean(-1)
            torch.testing.assert_close(totals.tensor[..., i, j], expected)
            assert table[query, key] == pytest.approx(float(expected[0, 1, 0, 1]), rel=1e-4)
        torch.testing.assert_close(heard.tensor[..., i, :], maps[CROSS].tensor[..., tokens_of(query, hw, rows), :].mean(-2))


def test_a_block_edit_acts_on_the_cells_alone(tiny_unet, case):
    hw, rows, maps = case
    run = shape(images=1, hw=hw, rows=rows)
    for query, key in (("B'", "A'"), ("A", "B")):
        edited = sample(tiny_unet, run, SELF, {SELF: E.scale_block(query, key, 3.0)}, stop=1, sac=None, cam=None)[1].maps[SELF]
        expected = maps[SELF].tensor.clone()
        expected[..., torch.tensor(tokens_of(query, hw, rows))[:, None], torch.tensor(tokens_of(key, hw, rows))[None]] *= 3
        torch.testing.assert_close(edited.tensor, expected)
    edited = sample(tiny_unet, run, CROSS, {CROSS: E.zero_block("A'")}, stop=1, sac=None, cam=None)[1].maps[CROSS]
    expected = maps[CROSS].tensor.clone()
    expected[..., tokens_of("A'", hw, rows), :] = 0
    torch.testing.assert_close(edited.tensor, expected)


def test_blurred_rows_spread_along_rows_and_columns_of_the_map(tiny_unet, case):
    hw, rows, maps = case
    run = shape(images=1, hw=hw, rows=rows)
    blurred = sample(tiny_unet, run, SELF, {SELF: E.blur_rows(1.0)}, stop=1, sac=None, cam=None)[1].maps[SELF]
    first, expected = maps[SELF].tensor[0, 1, 0, 1, 37].reshape(hw), torch.zeros(hw)
    spread = [[[math.exp(-((a - b) ** 2) / 2) for b in range(side)] for a in range(side)] for side in hw]
    for y in range(hw[0]):
        for x in range(hw[1]):
            down, across = (torch.tensor(spread[axis][at]) for axis, at in ((0, y), (1, x)))
            expected += first[y, x] * torch.outer(down / down.sum(), across / across.sum())
    torch.testing.assert_close(blurred.tensor[0, 1, 0, 1, 37].reshape(hw), expected)


def test_places_distances_and_fields_count_rows_and_columns_apart(case):
    hw, rows, maps = case
    count = hw[0] * hw[1]
    tall, wide = hw[0] // rows, hw[1] // 2  # one cell in tokens
    values = torch.zeros(count, count)
    for token in range(count):  # everything looks one cell up and 3 tokens to the right, round the picture
        row, column = (token // hw[1] - tall) % hw[0], (token % hw[1] + 3) % hw[1]
        values[token, row * hw[1] + column] = 1
    m = replace(maps[SELF].sel(step=0, branch="text", image=0, head=0), tensor=values)
    below = (rows - 1) * tall  # the first row of B
    match = best_keys(m, (8 * 2 + 1, 8 * (below + 1) + 1), k=1)[0]  # token column 2, second row of B
    assert (match.x, match.y, match.region) == (8 * 5 + 4, 8 * (below + 1 - tall) + 4, "A2" if rows == 3 else "A")
    assert float(reach(m).tensor[below * hw[1]]) == pytest.approx(8 * math.hypot(tall, 3), rel=1e-5)
    field = correspondence(m, "B", "A2" if rows == 3 else "A")  # the cell above B
    assert field.share.shape == (tall, wide)
    inside = field.end[:, : wide - 3] - field.start[:, : wide - 3]
    assert torch.equal(inside, torch.tensor([24.0, -8.0 * tall]).expand_as(inside))
    assert torch.equal(field.same_place().end - field.start, torch.tensor([0.0, -8.0 * tall]).expand_as(field.start))


def test_word_heat_stands_where_the_word_is_heard(case):
    hw, _, maps = case
    m = maps[CROSS]
    values = torch.zeros_like(m.tensor)
    row, column = 3, hw[1] - 2
    values[..., row * hw[1] + column, 2] = 1  # "a cat a hat": the token of cat
    heat = word_heat({CROSS: replace(m, tensor=values)}, "cat").values
    assert heat.shape == (8 * hw[0], 8 * hw[1])
    rows, columns = torch.nonzero(heat == heat.max(), as_tuple=True)
    assert rows.float().mean() == 8 * row + 3.5 and columns.float().mean() == 8 * column + 3.5


def test_the_frame_of_a_region_stands_round_its_cell(case):
    hw, rows, _ = case
    size = (8 * hw[1], 8 * hw[0])
    black = Image.new("RGB", size)
    whole = np.array(viz.overlay(black, torch.zeros(hw), region="B'", opacity=0.0, side=max(size), rows=rows))
    framed = np.argwhere((whole[8 : 8 + size[1], 8 : 8 + size[0]] == draw.PAPER).all(-1))  # inside the margin
    height = size[1] // rows
    assert tuple(framed.min(0)) == (size[1] - height + 1, size[0] // 2 + 1) and tuple(framed.max(0)) == (size[1] - 2, size[0] - 2)
