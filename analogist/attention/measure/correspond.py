"""Correspondence by attention: for a pixel the best places in a region, and dense fields such as B -> A."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from analogist.attention.capture.maps import AttentionMap
from analogist.attention.select.regions import Region, rectangle, region_of_token, region_tokens, token_pixel


@dataclass(frozen=True)
class Match:
    """A place that a query looks at: centre x, y in pixels of the picture, its token, region, and share of the attention."""

    x: float
    y: float
    token: int
    region: str
    share: float


def best_keys(m: AttentionMap, pixel: tuple[float, float], to: Region | None = None, k: int = 5) -> list[Match]:
    """The k places that a pixel looks at most, greatest share first; mean over all other axes.

    m: self-attention probabilities that hold the pixel's query. pixel: (x, y) of the picture. to: only places in this region.
    """
    row = _mean(m).sel(query=pixel)
    if to is not None:
        row = row.sel(key=to)
    values = row.tensor.flatten()
    if not 1 <= k <= len(values):
        raise ValueError(f"k {k}: expected 1..{len(values)}, the number of keys there")
    tokens = torch.arange(len(values), device="cpu") if row.key is None else row.key
    top = values.topk(k)
    return [
        Match(*token_pixel(token, m.hw, m.size), token, region_of_token(token, m.hw, m.rows), share)
        for token, share in zip(tokens[top.indices].tolist(), top.values.tolist(), strict=True)
    ]


@dataclass(frozen=True, eq=False)
class Field:
    """For every token of one region the place in another that it looks at most.

    start, end: [row column 2], pixel centres (x, y) of the query and of its match. share: [row column], the attention there.
    query, key: the regions. hw: the site's token map. size: height, width of the picture. rows: rows of cells.
    """

    start: Tensor
    end: Tensor
    share: Tensor
    query: Region
    key: Region
    hw: tuple[int, int]
    size: tuple[int, int]
    rows: int

    def __repr__(self) -> str:
        rows, columns = self.share.shape
        return f"Field({self.query} -> {self.key}: {rows} x {columns} tokens, mean share {self.share.mean():.3f})"

    def error(self, truth: "Tensor | Field") -> Tensor:
        """Distance in pixels to true places, [row column]. truth: [row column 2] pixels (nan where unknown), or another field."""
        end = truth.end if isinstance(truth, Field) else truth
        if end.shape != self.end.shape:
            raise ValueError(f"truth {tuple(end.shape)}: give {tuple(self.end.shape)}, (x, y) for each token")
        return (self.end - end).norm(dim=-1)

    def same_place(self) -> "Field":
        """A baseline that ignores the picture: each token matched with the same place of the other region."""
        first = int(region_tokens(self.key, self.hw, self.rows, self.size)[0])
        move = torch.tensor(token_pixel(first, self.hw, self.size), dtype=torch.float32, device="cpu") - self.start[0, 0]
        return replace(self, end=self.start + move, share=torch.zeros_like(self.share))


def correspondence(m: AttentionMap, query: Region = "B", key: Region = "A", *, soft: bool = False) -> Field:
    """A dense field: for each token of `query` the token of `key` it looks at most; mean over all other axes of m.

    soft: the mean place weighted by attention in place of the greatest. m: self-attention probabilities holding both regions.
    """
    part = _mean(m).sel(query=query, key=key)
    values = part.tensor
    assert part.query is not None and part.key is not None, "sel names the tokens that it chose"
    box = rectangle(part.query, m.hw)
    if box is None or rectangle(part.key, m.hw) is None:
        raise ValueError(f"correspondence: {query!r} and {key!r} must be one rectangle each")
    centres = [
        torch.tensor([token_pixel(token, m.hw, m.size) for token in tokens.tolist()], dtype=torch.float32, device="cpu")
        for tokens in (part.query, part.key)
    ]
    best = values.max(dim=-1)
    shares = values / values.sum(-1, keepdim=True)
    end = shares @ centres[1] if soft else centres[1][best.indices]
    top, bottom, left, right = box
    shape = (bottom - top, right - left)
    start, end, share = (values.unflatten(0, shape) for values in (centres[0], end, best.values))
    return Field(start, end, share, query, key, m.hw, m.size, m.rows)


def _mean(m: AttentionMap) -> AttentionMap:
    if m.site.kind != "self" or m.axes[-2:] != ("query", "key"):
        raise ValueError(f"{m.name} has axes {m.axes}; correspondences need the queries and keys of self-attention")
    rest = [axis for axis in m.axes if axis not in ("query", "key")]
    return m.mean(*rest) if rest else m
