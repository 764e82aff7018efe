"""Captured maps in the form that a page shows: whole maps of probabilities, scores or logits, by step, branch, image and head."""

from dataclasses import dataclass

import numpy as np
import torch

from analogist.attention.capture.maps import AttentionMap
from analogist.models.placement import Site

from .coarse import SOFTMAX, pool_tokens, pooled_by
from .detail import Detail

VIEWS = ("probs", "scores", "logits", "before")
SINGLE = ("step", "branch", "image", "head")  # axes that a capture may have dropped


class NotShown(ValueError):
    """A captured map that the page has no view for; the message is the reason."""


@dataclass(frozen=True, eq=False)
class Held:
    """One captured point. view: probs, scores, logits, or before (probabilities before CAM).

    steps: executed steps, or (-1,) for a map over all of them. heads: None if only their mean was kept. factors: sides of the
    blocks (query, key) in which tokens were already pooled. columns: text columns by branch (cross).
    """

    map: AttentionMap
    view: str
    steps: tuple[int, ...]
    branches: tuple[str, ...]
    images: tuple[int, ...]
    heads: tuple[int, ...] | None
    factors: tuple[int, int]
    columns: dict[str, tuple[int, ...]] | None

    @property
    def site(self) -> Site:
        return self.map.site

    @property
    def hw(self) -> tuple[int, int]:
        """Token rows and columns of the queries as captured."""
        return self.map.hw[0] // self.factors[0], self.map.hw[1] // self.factors[0]

    @property
    def key_hw(self) -> tuple[int, int]:
        """Token rows and columns of the keys as captured (self-attention)."""
        return self.map.hw[0] // self.factors[1], self.map.hw[1] // self.factors[1]

    def further(self, detail: Detail) -> tuple[int, int]:
        """Block sides (query, key) by which a detail pools the captured map."""
        wanted = detail.factors(self.map.hw, self.map.rows, self.view)
        sides = [w // have if w > have and w % have == 0 else 1 for w, have in zip(wanted, self.factors, strict=True)]
        return sides[0], sides[1] if self.site.kind == "self" else 1

    def values(self, step: int, branch: str, image: int) -> torch.Tensor:
        """[head query key] in float32, as captured; one head if only the mean over heads was kept."""
        picks = {"step": (self.steps, step), "branch": (self.branches, branch), "image": (self.images, image)}
        x = self.map.tensor
        axes = list(self.map.axes)
        for name, (have, value) in picks.items():
            if name in axes:
                x = x.select(axes.index(name), have.index(value))
                axes.remove(name)
        x = x.float()
        if "head" not in axes:
            x = x.unsqueeze(0)
        if self.view == "before" and SOFTMAX not in self.map.reduced:
            x = x.softmax(-1)
        return x / len(self.map.steps) if "sum_steps" in self.map.reduced else x

    def block(self, step: int, branch: str, image: int, detail: Detail) -> np.ndarray:
        """[head query key] in float32 under a detail: pooled further, heads averaged."""
        x = self.values(step, branch, image)
        query, key = self.further(detail)
        if key > 1:
            x = pool_tokens(x, self.key_hw, key, mean=self.view in ("scores", "logits"))
        if query > 1:
            x = pool_tokens(x.transpose(-1, -2), self.hw, query, mean=True).transpose(-1, -2)
        if not self.keeps_heads(detail):
            x = x.mean(0, keepdim=True)
        return np.ascontiguousarray(x.numpy())

    def keeps_heads(self, detail: Detail) -> bool:
        """Whether a detail keeps single heads."""
        return self.heads is not None and detail.all_heads(self.map.hw)

    def shape(self, detail: Detail) -> tuple[tuple[int, int], tuple[int, int]]:
        """Rows and columns of queries, and of keys (for cross-attention 1 and the number of text columns), under a detail."""
        query, key = self.further(detail)
        if self.site.kind == "cross":
            keys = (1, self.map.tensor.shape[-1])
        else:
            keys = (self.key_hw[0] // key, self.key_hw[1] // key)
        return (self.hw[0] // query, self.hw[1] // query), keys


def hold(m: AttentionMap) -> Held:
    """Converts a captured map. Raises NotShown with the reason if the page cannot show it."""
    if m.site.kind == "block" or m.point not in ("probs", "scores", "logits"):
        raise NotShown(f"{m.name}: the point {m.point} is not an attention map")
    pooled = tuple(name for name in m.axes if name not in SINGLE)
    if pooled not in (("query", "key"), ("pooled_query", "pooled_key"), ("pooled_query", "key")):
        raise NotShown(f"{m.name}: its axes are {', '.join(m.axes)}, so it has no row per pixel (reduced by {m.reduced})")
    if m.query is not None or m.key is not None:
        raise NotShown(f"{m.name}: it covers only a part of the picture; the page needs maps of all queries and keys")
    if not bool(torch.isfinite(m.tensor).all()):
        raise NotShown(f"{m.name}: it holds NaN or infinity")
    view = m.point
    if m.site.kind == "cross":
        if m.point == "scores":
            raise NotShown(f"{m.name}: scores of words are not shown; CAM acts on probabilities")
        if m.point == "logits":
            view = "before"
            if SOFTMAX not in m.reduced and ("head" not in m.axes or m.columns is not None or pooled[0] != "query"):
                raise NotShown(f"{m.name}: probabilities before CAM need the logits of every head and every text column")
    steps = m.coords["step"] if "step" in m.axes or len(m.coords["step"]) == 1 else (-1,)
    heads = m.coords.get("head")
    heads = heads if "head" in m.axes or (heads is not None and len(heads) == 1 and "mean_heads" not in m.reduced) else None
    return Held(m, view, steps, m.coords["branch"], m.coords["image"], heads, pooled_by(m.reduced), m.columns)
