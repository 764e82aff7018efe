"""Large pictures through a network tile by tile, with blended overlaps, so that memory does not grow with the picture.

The network sees each tile alone, so results are close to those of the whole picture, not equal: normalisations and the attention of an
autoencoder take in the whole of what they are given. Source: the blending is that of diffusers' tiled autoencoder (linear).
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

OVERLAP = 4  # neighbouring tiles share at least this part (1 / OVERLAP) of the largest tile's side


def tiles(side: int, largest: int) -> list[range]:
    """The fewest equal tiles of at most `largest` that cover a side, neighbours sharing at least largest // OVERLAP."""
    if side <= largest:
        return [range(side)]
    shared = largest // OVERLAP
    count = -(-(side - shared) // (largest - shared))
    length = -(-(side + (count - 1) * shared) // count)
    starts = [i * (side - length) // (count - 1) for i in range(count)]
    return [range(start, start + length) for start in starts]


def ramps(side: list[range], scale: int, device: torch.device) -> list[Tensor]:
    """The weight of each tile along one side, float32, `scale` times as long; linear where two tiles overlap, together 1 everywhere."""
    weights = [torch.ones(scale * len(tile), device=device) for tile in side]
    for (before, after), (fades, grows) in zip(pairwise(side), pairwise(weights), strict=True):
        shared = scale * (before.stop - after.start)
        rise = torch.arange(shared, device=device) / shared
        grows[:shared] *= rise
        fades[-shared:] *= 1 - rise
    return weights


def in_tiles(network: Callable[[Tensor], Tensor], x: Tensor, *, unit: int, largest: int, up: int = 1, down: int = 1) -> Tensor:
    """A network over a whole picture, in tiles. x: image channel row col -> image channel (row * up / down) (col * up / down).

    unit: tiles begin and end at multiples of it. largest: side of a tile, in units. up, down: how the network changes the sides.
    """
    rows, columns = ([range(unit * one.start, unit * one.stop) for one in tiles(side // unit, largest)] for side in x.shape[-2:])
    out: Tensor | None = None
    by_row, by_column = (ramps([range(one.start // down, one.stop // down) for one in side], up, x.device) for side in (rows, columns))
    for row, row_weight in zip(rows, by_row, strict=True):
        for column, column_weight in zip(columns, by_column, strict=True):
            part = network(x[..., row.start : row.stop, column.start : column.stop])
            weight = (row_weight[:, None] * column_weight).to(part)
            if out is None:
                out = part.new_zeros(*part.shape[:-2], *(side * up // down for side in x.shape[-2:]))
            top, left = row.start * up // down, column.start * up // down
            out[..., top : top + part.shape[-2], left : left + part.shape[-1]] += weight * part
    assert out is not None, "a picture has at least one tile"
    return out
