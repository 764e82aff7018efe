"""Cells of the grid as views of token maps."""

import pytest
import torch
from einops import rearrange

from analogist.models.cells import all_cells, cells_of, check_splits, cross_cells, join_cells, self_cells, token_cells

GRIDS = [((4, 4), 2), ((4, 6), 2), ((6, 2), 2), ((8, 4), 2), ((6, 4), 3), ((9, 2), 3), ((8, 4), 4), ((4, 2), 4)]


def token(cell: tuple[int, int], y: int, x: int, hw: tuple[int, int], rows: int) -> int:
    """Number of a token, counted out: picture row times width plus picture column."""
    return (cell[0] * (hw[0] // rows) + y) * hw[1] + cell[1] * (hw[1] // 2) + x


def positions(hw: tuple[int, int], rows: int):
    return [(y, x) for y in range(hw[0] // rows) for x in range(hw[1] // 2)]


@pytest.mark.parametrize("hw, rows", GRIDS)
def test_self_cells_equal_loops_over_tokens(hw: tuple[int, int], rows: int) -> None:
    n = hw[0] * hw[1]
    m = torch.arange(2 * 3 * n * n, dtype=torch.float64).view(2, 3, n, n)
    M = self_cells(m, hw, rows)
    for query in all_cells(rows):
        for key in all_cells(rows):
            for qy, qx in positions(hw, rows):
                for ky, kx in positions(hw, rows):
                    expected = m[:, :, token(query, qy, qx, hw, rows), token(key, ky, kx, hw, rows)]
                    assert torch.equal(M[query + key][:, :, qy, qx, ky, kx], expected)


@pytest.mark.parametrize("hw, rows", GRIDS)
def test_cross_cells_equal_loops_over_tokens(hw: tuple[int, int], rows: int) -> None:
    m = torch.arange(2 * 3 * hw[0] * hw[1] * 5).view(2, 3, hw[0] * hw[1], 5)
    M = cross_cells(m, hw, rows)
    for cell in all_cells(rows):
        for y, x in positions(hw, rows):
            assert torch.equal(M[cell][:, :, y, x], m[:, :, token(cell, y, x, hw, rows)])


@pytest.mark.parametrize("hw, rows", GRIDS)
def test_writing_into_a_view_writes_into_the_map(hw: tuple[int, int], rows: int) -> None:
    n = hw[0] * hw[1]
    own, text = torch.zeros(1, 2, n, n), torch.zeros(1, 2, n, 5)
    M, C = self_cells(own, hw, rows), cross_cells(text, hw, rows)
    assert M.data_ptr() == own.data_ptr() and C.data_ptr() == text.data_ptr()
    M[(rows - 1, 1) + (0, 0)] = 1.0
    C[(rows - 1, 1)] = 1.0
    assert own.sum() == 2 * (n // (2 * rows)) ** 2
    assert text.sum() == 2 * (n // (2 * rows)) * 5
    assert own[0, 0, token((rows - 1, 1), 0, 0, hw, rows), 0] == 1.0


@pytest.mark.parametrize("hw, rows", GRIDS)
def test_row_major_tokens_of_a_cell_are_the_cropped_picture(hw: tuple[int, int], rows: int) -> None:
    picture = torch.randn(2, 3, *hw, generator=torch.Generator().manual_seed(0))
    cells = token_cells(rearrange(picture, "b c h w -> b (h w) c"), hw, rows)
    y, x = hw[0] // rows, hw[1] // 2
    for row, column in all_cells(rows):
        crop = picture[:, :, row * y : (row + 1) * y, column * x : (column + 1) * x]
        assert torch.equal(cells[row, column], rearrange(crop, "b c y x -> b (y x) c"))


@pytest.mark.parametrize("hw, rows", GRIDS)
def test_joining_cells_undoes_taking_them_apart(hw: tuple[int, int], rows: int) -> None:
    x = torch.randn(2, 3, hw[0] * hw[1], 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(join_cells(token_cells(x, hw, rows), hw, rows), x)


def test_region_names_stand_for_the_published_quadrants() -> None:
    assert [cells_of(name, 2) for name in ("A", "A'", "B", "B'")] == [[(0, 0)], [(0, 1)], [(1, 0)], [(1, 1)]]


def test_region_names_stand_for_one_cell_a_pair_and_the_last_row() -> None:
    assert cells_of("A", 4) == [(0, 0), (1, 0), (2, 0)]
    assert cells_of("A'", 4) == [(0, 1), (1, 1), (2, 1)]
    assert cells_of("B", 4) == [(3, 0)] and cells_of("B'", 4) == [(3, 1)]


def test_an_unknown_region_is_an_error_that_lists_the_regions() -> None:
    with pytest.raises(ValueError, match=r"region 'Bprime': allowed are A, A', B, B'"):
        cells_of("Bprime", 2)


@pytest.mark.parametrize("hw, rows", [((5, 4), 2), ((4, 5), 2), ((4, 4), 3)])
def test_a_map_that_does_not_split_is_an_error_that_says_the_sides(hw: tuple[int, int], rows: int) -> None:
    n = hw[0] * hw[1]
    calls = (
        lambda: check_splits(hw, rows),
        lambda: self_cells(torch.zeros(1, 1, n, n), hw, rows),
        lambda: cross_cells(torch.zeros(1, 1, n, 3), hw, rows),
        lambda: token_cells(torch.zeros(1, 1, n, 3), hw, rows),
    )
    for call in calls:
        with pytest.raises(ValueError, match=f"{hw[0]}x{hw[1]} does not split into {rows} rows and 2 columns"):
            call()
