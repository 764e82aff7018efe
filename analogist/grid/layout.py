"""Positions and names of a grid's cells, and which sizes split into cells; numbers only, no pictures.

The numbers of the published drawing (Analogist, Gu et al. 2024, released code), stated for any cell size and k example pairs.
"""

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass

from analogist.models.numbers import plain

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are exclusive
Size = int | tuple[int, int]  # one number N: cells of N/2 x N/2, so N x N for one pair; or (height, width)

BORDER = 2  # px, the p of the published drawing, at every size
COLUMNS = 2
SMALLEST_CELL = 8  # px
MAX_GRID_PIXELS = 67_108_864  # 8192 x 8192, 0.8 GB as a float32 tensor


class GridError(ValueError):
    """Pictures or a size that cannot form a grid. The message says what was given, what is allowed and what to do."""


def cell_names(pairs: int) -> tuple[str, ...]:
    """The cells in reading order: A, A', B, B' for one pair, A1, A1', A2, A2', .., B, B' for more."""
    numbers = [""] if pairs == 1 else [str(k + 1) for k in range(pairs)]
    return (*(f"A{number}{prime}" for number in numbers for prime in ("", "'")), "B", "B'")


def resolve_size(size: Size, rows: int) -> tuple[int, int]:
    """(height, width) from N or (height, width) as given by a user; GridError unless it splits into whole cells of a sensible size."""
    size = plain(size)
    try:
        if isinstance(size, (tuple, list)):
            height, width = (operator.index(side) for side in size)
        else:
            width = operator.index(size)
            height = width * rows // COLUMNS
    except (TypeError, ValueError) as error:
        raise GridError(f"size={size!r}; give a whole number N (cells of N/2 x N/2 px) or (height, width) in pixels") from error
    if width % COLUMNS or height % rows or height < rows * SMALLEST_CELL or width < COLUMNS * SMALLEST_CELL:
        raise GridError(
            f"a grid of {height}x{width} px (height x width) does not split into {rows} rows and {COLUMNS} columns of cells: the "
            f"height must be a multiple of {rows}, the width of {COLUMNS}, and each side of a cell at least {SMALLEST_CELL} px"
        )
    if height * width > MAX_GRID_PIXELS:
        raise GridError(f"a grid of {height}x{width} px (height x width) is too large; at most {MAX_GRID_PIXELS:,} pixels are allowed")
    return height, width


def check_size(height: int, width: int, multiple_h: int, multiple_w: int) -> None:
    """Checks that a grid splits into cells on every attention map of a checkpoint; GridError names the nearest sizes that work.

    multiple_h, multiple_w: the VAE's factor times the UNet's times the grid's rows, and columns; 128 and 128 for SD with k = 1.
    """
    if height > 0 and width > 0 and height % multiple_h == 0 and width % multiple_w == 0:
        return
    heights, widths = _nearest_multiples(height, multiple_h), _nearest_multiples(width, multiple_w)
    raise GridError(
        f"a grid of {height}x{width} px (height x width) does not split into cells on every map of this checkpoint: the height "
        f"must be a multiple of {multiple_h}, the width of {multiple_w}; the nearest that work: "
        + ", ".join(f"{h}x{w}" for h in heights for w in widths)
    )


def scaled(boxes: Mapping[str, Box], times: int) -> dict[str, Box]:
    """The boxes on a picture enlarged by a whole factor."""
    return {name: (left * times, top * times, right * times, bottom * times) for name, (left, top, right, bottom) in boxes.items()}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The cells of one grid, and the pictures in them, in pixels."""

    rows: int  # k + 1
    height: int  # px
    width: int  # px
    drawn_height: int  # px, the height at which the 2 px border was drawn; for a ready grid, its height before resizing
    drawn_width: int  # px
    border: bool = True  # the published 2 px; False: pictures fill their cells

    def cells(self) -> dict[str, Box]:
        """The whole cells by name; together they cover the grid."""
        h, w = self.height // self.rows, self.width // COLUMNS
        return {name: (column * w, row * h, (column + 1) * w, (row + 1) * h) for name, row, column in self._places()}

    def pictures(self) -> dict[str, Box]:
        """The pixels that are entirely inside a picture, by its cell's name."""
        return {n: (math.ceil(l), math.ceil(t), math.floor(r), math.floor(b)) for n, (l, t, r, b) in self._exact().items()}

    def touched(self) -> dict[str, Box]:
        """All pixels that a picture covers at least partly; equal to `pictures` unless resizing moved its edges between pixels."""
        return {n: (math.floor(l), math.floor(t), math.ceil(r), math.ceil(b)) for n, (l, t, r, b) in self._exact().items()}

    def _exact(self) -> dict[str, tuple[float, float, float, float]]:
        y, x = self.height / self.drawn_height, self.width / self.drawn_width
        ys = [self._span(row, self.drawn_height / self.rows) for row in range(self.rows)]
        xs = [self._span(column, self.drawn_width / COLUMNS) for column in range(COLUMNS)]
        return {name: (xs[c][0] * x, ys[r][0] * y, xs[c][1] * x, ys[r][1] * y) for name, r, c in self._places()}

    def _span(self, index: int, cell: float) -> tuple[float, float]:
        """First pixel of the picture in a row (or column) of cells, and the first after it: p, cell + p - 1, 2 cell + p - 1, ..."""
        if not self.border:
            return index * cell, (index + 1) * cell
        start = index * cell + (BORDER if index == 0 else BORDER - 1)
        return start, start + int(cell - 1.5 * BORDER)

    def _places(self) -> list[tuple[str, int, int]]:
        return [(name, i // COLUMNS, i % COLUMNS) for i, name in enumerate(cell_names(self.rows - 1))]


def _nearest_multiples(side: int, multiple: int) -> list[int]:
    """The multiples next to a side, nearest first; only the side itself if it is a multiple."""
    below, above = max(side // multiple, 1) * multiple, max(-(-side // multiple), 1) * multiple
    return sorted({below, above}, key=lambda candidate: (abs(candidate - side), candidate))
