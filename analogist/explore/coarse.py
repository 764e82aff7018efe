"""Reductions that a capture for the explorer applies on the device: coarser token maps, and probabilities before CAM.

Like the reduction `regions`, they are totals over regions; here the regions are blocks of neighbouring tokens.
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from analogist.attention.capture.reduce import Axes, RegionTotals, Shape
from analogist.models.control import At

_POOL = re.compile(r"pool_([0-9]+)_([0-9]+)")
SOFTMAX = "softmax"


@dataclass(frozen=True)
class Pool(RegionTotals):
    """Averages each block of `query` x `query` queries and sums each block of `key` x `key` keys.

    So a row of probabilities still sums to 1. Scores and logits are averaged over keys too. At cross-attention only queries
    are pooled. The axes are then called pooled_query and pooled_key, because they no longer hold single tokens.
    """

    query: int = 1
    key: int = 1

    @property
    def name(self) -> str:
        return f"pool_{self.query}_{self.key}"

    def layout(self, axes: Axes, shape: Shape, kind: str = "self") -> tuple[Axes, Shape]:
        """Names and lengths of the axes that are kept."""
        queries = shape[-2] // self.query**2
        if kind != "self":
            return (*axes[:-2], "pooled_query", "key"), (*shape[:-2], queries, shape[-1])
        return (*axes[:-2], "pooled_query", "pooled_key"), (*shape[:-2], queries, shape[-1] // self.key**2)

    def apply(self, tensor: Tensor, at: At) -> Tensor:
        """tensor: branch image (head) query key."""
        if at.site.kind == "self":
            tensor = pool_tokens(tensor, at.hw, self.key, mean=at.point != "probs")
        return pool_tokens(tensor.transpose(-1, -2), at.hw, self.query, mean=True).transpose(-1, -2)


@dataclass(frozen=True)
class Softmax(RegionTotals):
    """Logits to probabilities over the keys. At cross-attention: the probabilities before CAM sets some of them to 0."""

    name = SOFTMAX

    def layout(self, axes: Axes, shape: Shape, kind: str = "self") -> tuple[Axes, Shape]:
        """Names and lengths of the axes do not change."""
        return axes, shape

    def apply(self, tensor: Tensor, at: At) -> Tensor:
        """tensor: branch image head query key."""
        return tensor.softmax(-1, dtype=torch.float32)


def pool_tokens(x: Tensor, hw: tuple[int, int], factor: int, *, mean: bool) -> Tensor:
    """Mean or sum over blocks of factor x factor tokens, in float32. The last axis of x holds the tokens of a map hw."""
    if factor == 1:
        return x
    blocks = x.unflatten(-1, (hw[0] // factor, factor, hw[1] // factor, factor))
    total = blocks.sum(dim=(-3, -1), dtype=torch.float32).flatten(-2)
    return total / factor**2 if mean else total


def pool_factor(hw: tuple[int, int], rows: int, limit: int | None) -> int:
    """The smallest block side for which a map has at most `limit` tokens and no block crosses a cell's edge.

    If no side is coarse enough: the largest one that fits the cells. limit None: 1.
    """
    cell = (hw[0] // rows, hw[1] // 2)
    sides = [f for f in range(1, min(cell) + 1) if cell[0] % f == 0 and cell[1] % f == 0]
    if limit is None:
        return 1
    return next((f for f in sides if hw[0] * hw[1] // f**2 <= limit), sides[-1])


def pooled_by(reduced: tuple[str, ...]) -> tuple[int, int]:
    """The block sides (query, key), read from the names of a map's reductions; (1, 1) if it was not pooled."""
    found = [_POOL.fullmatch(name) for name in reduced]
    factors = [(int(match[1]), int(match[2])) for match in found if match]
    return factors[0] if factors else (1, 1)
