"""The cells of the picture grid, as views of token maps: A, A', B, B' and, with k example pairs, A_i, A_i'.

A grid of k pairs has k + 1 rows and 2 columns of cells: A_i = (i, 0), A_i' = (i, 1), B = (k, 0), B' = (k, 1).
The token map of a site is (cell row, y, cell column, x) in row-major order; every view below only splits and permutes
axes, so writing into the view writes into the map. Merging axes would copy, and the assignment would be lost.
"""

import re

import torch
from einops import rearrange
from torch import Tensor

Cell = tuple[int, int]  # (row, column) of the grid; A + B is the block of queries in A and keys in B

A, Ap, B, Bp = (0, 0), (0, 1), (1, 0), (1, 1)  # the published grid, k = 1

REGIONS = ("A", "A'", "B", "B'")


_PAIR = re.compile(r"A([1-9][0-9]*)('?)")  # of one example pair: A1, A1', A2 ...


def names_region(value: object) -> bool:
    """Whether a value is the name of a region, of whatever grid: A, A', B, B', A1, A1', A2 ..."""
    return isinstance(value, str) and (value in REGIONS or _PAIR.fullmatch(value) is not None)


def cells_of(region: str, rows: int) -> list[Cell]:
    """The cells of a named region: one for B, B' and each A1, A1', A2 ..., one per example pair for A and A' (in order)."""
    pair = _PAIR.fullmatch(region)
    if pair is not None and int(pair[1]) < rows:
        return [(int(pair[1]) - 1, 1 if pair[2] else 0)]
    if region not in REGIONS:
        more = "" if rows == 2 else f", and A1 .. A{rows - 1}' for a single example pair"
        raise ValueError(f"region {region!r}: allowed are {', '.join(REGIONS)}{more}")
    column = 1 if region.endswith("'") else 0
    return [(rows - 1, column)] if region.startswith("B") else [(row, column) for row in range(rows - 1)]


def all_cells(rows: int) -> list[Cell]:
    """Every cell of a grid of `rows` rows, row-major."""
    return [(row, column) for row in range(rows) for column in range(2)]


def check_splits(hw: tuple[int, int], rows: int) -> None:
    """Raises ValueError if a token map of h x w does not split into rows x 2 cells."""
    if hw[0] % rows or hw[1] % 2:
        raise ValueError(
            f"a token map of {hw[0]}x{hw[1]} does not split into {rows} rows and 2 columns of cells; "
            f"choose a picture size whose height and width at this site are multiples of {rows} and 2"
        )


def self_cells(m: Tensor, hw: tuple[int, int], rows: int = 2) -> Tensor:
    """A view of self-attention maps by cells: M[query cell + key cell] is [batch head qy qx ky kx].

    m: batch head query key — both token axes row-major over hw.
    """
    check_splits(hw, rows)
    y, x = hw[0] // rows, hw[1] // 2
    return rearrange(
        m,
        "b head (qr qy qc qx) (kr ky kc kx) -> qr qc kr kc b head qy qx ky kx",
        qr=rows, qc=2, kr=rows, kc=2, qy=y, qx=x, ky=y, kx=x,
    )  # fmt: skip


def cross_cells(m: Tensor, hw: tuple[int, int], rows: int = 2) -> Tensor:
    """A view of cross-attention maps by cells: M[cell] is [batch head qy qx token]. m: batch head query token."""
    check_splits(hw, rows)
    return rearrange(
        m,
        "b head (qr qy qc qx) token -> qr qc b head qy qx token",
        qr=rows, qc=2, qy=hw[0] // rows, qx=hw[1] // 2,
    )  # fmt: skip


def token_cells(x: Tensor, hw: tuple[int, int], rows: int = 2) -> Tensor:
    """Tokens by cells, a copy: [row column ... token channel], token row-major inside the cell.

    x: ... query channel — any leading axes, query row-major over hw.
    """
    check_splits(hw, rows)
    return rearrange(
        x, "... (r y c x) d -> r c ... (y x) d", r=rows, c=2, y=hw[0] // rows, x=hw[1] // 2
    )


def join_cells(cells: Tensor, hw: tuple[int, int], rows: int = 2) -> Tensor:
    """The inverse of token_cells: [row column ... token channel] -> [... query channel]."""
    return rearrange(cells, "r c ... (y x) d -> ... (r y c x) d", r=rows, c=2, y=hw[0] // rows, x=hw[1] // 2)


def number(cell: Cell) -> int:
    """Position of a cell in `by_cells`: row-major."""
    return 2 * cell[0] + cell[1]


def by_cells(x: Tensor, hw: tuple[int, int], rows: int = 2) -> Tensor:
    """Tokens by cells, a copy: [... cell token d], cells in row-major order, token row-major inside the cell.

    x: ... token d, token row-major over hw. The axes cell and token flatten into one without a copy.
    """
    check_splits(hw, rows)
    split = torch.unflatten(x, -2, (rows, hw[0] // rows, 2, hw[1] // 2))  # ... row y column x d
    return split.transpose(-4, -3).reshape(*x.shape[:-2], 2 * rows, -1, x.shape[-1])


def from_cells(cells: Tensor, hw: tuple[int, int], rows: int = 2) -> Tensor:
    """The inverse of by_cells: batch head cell token d -> batch head token d, the heads of a token side by side in memory."""
    split = torch.unflatten(torch.unflatten(cells, 3, (hw[0] // rows, hw[1] // 2)), 2, (rows, 2))  # batch head row column y x d
    return split.permute(0, 2, 4, 3, 5, 1, 6).flatten(1, 4).transpose(1, 2)


def cell_view(x: Tensor, cell: Cell, hw: tuple[int, int], rows: int = 2) -> Tensor:
    """A view of one cell's tokens: batch y x channel. x: batch token channel, contiguous, token row-major over hw."""
    check_splits(hw, rows)
    split = torch.unflatten(x, 1, (rows, hw[0] // rows, 2, hw[1] // 2))  # batch row y column x channel
    return split.select(3, cell[1]).select(1, cell[0])
