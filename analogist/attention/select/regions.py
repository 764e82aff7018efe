"""Regions of the picture as tokens: "A", "A'", "B", "B'", a cell of one example pair ("A1", "A1'"), a pixel box, a pixel.

Every name stands for a rectangle of the token map. Tokens are numbered row by row.
"""

from collections.abc import Sequence
from typing import TypeGuard, cast

import torch
from torch import Tensor

from analogist.grid.layout import cell_names
from analogist.models.cells import cells_of, check_splits
from analogist.models.control import At
from analogist.models.numbers import plain

Region = str | tuple[float, float] | tuple[float, float, float, float]
Box = tuple[int, int, int, int]  # top, bottom, left, right in tokens, half-open


def is_region(value: object) -> TypeGuard[Region]:
    """Whether a value names one region (and is not a list of regions)."""
    if isinstance(value, str):
        return True
    return isinstance(value, tuple) and len(value) in (2, 4) and all(isinstance(v, int | float) for v in plain(value))


def token_box(region: Region, hw: tuple[int, int], rows: int, size: tuple[int, int]) -> Box:
    """The rectangle of tokens that a region covers: (top, bottom, left, right), half-open.

    region: a name; a pixel box (left, top, right, bottom) of the picture; a pixel (x, y). A box covers every token that it touches.
    hw: token rows and columns. rows: rows of cells. size: height, width of the picture in pixels.
    Raises ValueError for an unknown name and for pixels outside the picture.
    """
    if isinstance(region, str):
        return _named_box(region, hw, rows)
    height, width = size
    region = plain(region)
    if len(region) == 2:
        x, y = region
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(f"pixel {region}: the picture is {width} x {height} pixels (x first)")
        row, column = int(y * hw[0] / height), int(x * hw[1] / width)
        return (row, row + 1, column, column + 1)
    left, top, right, bottom = region
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(f"box {region}: give (left, top, right, bottom) inside the picture of {width} x {height} pixels")
    return (
        int(top * hw[0] / height),
        -int(-bottom * hw[0] // height),
        int(left * hw[1] / width),
        -int(-right * hw[1] // width),
    )


def _named_box(region: str, hw: tuple[int, int], rows: int) -> Box:
    try:
        cells = cells_of(region, rows)
    except ValueError as error:
        raise ValueError(f"{error}, or a pixel box of the picture") from None
    check_splits(hw, rows)
    y, x = hw[0] // rows, hw[1] // 2
    first, last = cells[0], cells[-1]  # the cells of one name are below each other
    return (first[0] * y, (last[0] + 1) * y, first[1] * x, (first[1] + 1) * x)


def region_tokens(
    region: Region | Sequence[Region], hw: tuple[int, int], rows: int, size: tuple[int, int]
) -> Tensor:
    """Token numbers of one region or of several, ascending, int64 [token]."""
    boxes = [token_box(one, hw, rows, size) for one in ([region] if is_region(region) else cast(Sequence[Region], region))]
    if not boxes:
        raise ValueError("regions: an empty list selects nothing; use None for the whole map")
    grid = torch.arange(hw[0] * hw[1], device="cpu").reshape(hw)
    tokens = [grid[top:bottom, left:right].flatten() for top, bottom, left, right in boxes]
    return tokens[0] if len(tokens) == 1 else torch.cat(tokens).unique()


def region_of_token(token: int, hw: tuple[int, int], rows: int) -> str:
    """The name of the cell that contains a token: A, A', B, B', and A1, A1', A2 ... with several example pairs."""
    row, column = divmod(int(token), hw[1])
    return cell_names(rows - 1)[2 * (row // (hw[0] // rows)) + (column >= hw[1] // 2)]


def token_pixel(token: int, hw: tuple[int, int], size: tuple[int, int]) -> tuple[float, float]:
    """The centre (x, y) of a token in pixels of the picture."""
    row, column = divmod(int(token), hw[1])
    return ((column + 0.5) * size[1] / hw[1], (row + 0.5) * size[0] / hw[0])


def rectangle(tokens: Tensor, hw: tuple[int, int]) -> Box | None:
    """The rectangle that these tokens fill row by row, or None if they do not form one."""
    rows, columns = tokens // hw[1], tokens % hw[1]
    top, bottom, left, right = int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1
    filled = torch.arange(hw[0] * hw[1], device="cpu").reshape(hw)[top:bottom, left:right].flatten()
    return (top, bottom, left, right) if torch.equal(filled, tokens.cpu()) else None


def region_view(tensor: Tensor, at: At, query: str | None = None, key: str | None = None) -> Tensor:
    """A view of a map for named regions: writing into it changes the map.

    tensor: (branch image) head query key, at a map point. `key` is only allowed at self-attention sites.
    query, key: region names; None: all. Returns batch head qy qx ky kx (self) or batch head qy qx token (cross).
    """
    h, w = at.hw
    view = tensor.unflatten(2, (h, w))
    top, bottom, left, right = (0, h, 0, w) if query is None else _named_box(query, at.hw, at.rows)
    view = view[:, :, top:bottom, left:right]
    if at.site.kind != "self":
        if key is not None:
            raise ValueError(f"{at.site}: the keys of cross-attention are text tokens, not the region {key!r}")
        return view
    view = view.unflatten(4, (h, w))
    top, bottom, left, right = (0, h, 0, w) if key is None else _named_box(key, at.hw, at.rows)
    return view[:, :, :, :, top:bottom, left:right]
