"""Maps on another grid of tokens, by area: what two sites of different sizes need to be compared or multiplied.

A query of the new grid is the mean over the old ones that it covers. A key is a share of the attention, so probabilities are divided among
the new keys by area and rows keep their sums; at all other points keys are averaged as queries are.
"""

from dataclasses import replace

import torch
from torch import Tensor

from analogist.attention.capture.maps import AttentionMap
from analogist.attention.select.regions import Box, rectangle
from analogist.models.numbers import plain


def resized(m: AttentionMap, hw: tuple[int, int] | int) -> AttentionMap:
    """As `AttentionMap.resize`."""
    size = plain(hw)
    height, width = (size, size) if isinstance(size, int) else size
    if not all(isinstance(side, int) and not isinstance(side, bool) and side >= 1 for side in (height, width)):
        raise ValueError(f"resize {hw!r}: give the token rows and columns of the whole picture, such as (32, 32)")
    axes = [axis for axis in m.axes if axis == "query" or (axis == "key" and m.site.kind == "self")]
    if not axes or m.index is not None:
        why = "top-k values belong to keys that differ" if m.index is not None else f"it has axes {', '.join(m.axes)}"
        raise ValueError(f"resize: {m.name} has no tokens of the picture to be put on another grid ({why})")
    tensor, kept = m.tensor.float(), {}
    for axis in axes:
        old = _box(m, axis)
        top, bottom = (_edge(edge, m.hw[0], height, m, axis) for edge in old[:2])
        left, right = (_edge(edge, m.hw[1], width, m, axis) for edge in old[2:])
        sums = axis == "key" and m.point == "probs"
        tensor = _moved(tensor, m.axis(axis), _lengths(old), (bottom - top, right - left), sums)
        tokens = torch.arange(height * width, device="cpu").reshape(height, width)[top:bottom, left:right].flatten()
        kept[axis] = None if getattr(m, axis) is None else tokens
    return replace(m, tensor=tensor, hw=(height, width), reduced=(*m.reduced, f"resized from {m.hw[0]}x{m.hw[1]}"), **kept)


def _box(m: AttentionMap, axis: str) -> Box:
    tokens = getattr(m, axis)
    box = (0, m.hw[0], 0, m.hw[1]) if tokens is None else rectangle(tokens, m.hw)
    if box is None:
        raise ValueError(f"resize: the tokens of {m.name} on axis {axis} do not form a rectangle; select one region")
    return box


def _edge(edge: int, old: int, new: int, m: AttentionMap, axis: str) -> int:
    """An edge of a box on the new grid. Raises ValueError where it falls within a token."""
    if edge * new % old:
        raise ValueError(f"resize: the part of {m.name} on axis {axis} ends within a token of the new grid; take one that divides it")
    return edge * new // old


def _lengths(box: Box) -> tuple[int, int]:
    return box[1] - box[0], box[3] - box[2]


def _moved(tensor: Tensor, dim: int, old: tuple[int, int], new: tuple[int, int], sums: bool) -> Tensor:
    """The tokens of one axis on another grid, rows and columns one after the other."""
    parts = tensor.movedim(dim, -1).unflatten(-1, old)
    down, across = (_overlap(a, b, sums).to(tensor.device) for a, b in zip(old, new, strict=True))
    return torch.einsum("...yx,vy,ux->...vu", parts, down, across).flatten(-2).movedim(-1, dim)


def _overlap(old: int, new: int, sums: bool) -> Tensor:
    """[new old]: how much of each old token goes into each new one along one side, by length; a mean, or (sums) a division."""
    old_edges, new_edges = (torch.arange(count + 1, dtype=torch.float64, device="cpu") / count for count in (old, new))
    low = torch.maximum(new_edges[:-1, None], old_edges[None, :-1])
    high = torch.minimum(new_edges[1:, None], old_edges[None, 1:])
    shared = (high - low).clamp_min(0)
    return (shared / shared.sum(0 if sums else 1, keepdim=True)).float()
