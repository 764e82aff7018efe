"""Reductions: smaller tensors that are kept instead of the whole one, computed on the device before the copy.

In-step reductions turn one step's tensor into a smaller one; step reductions keep one tensor for all steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from analogist.attention.select.regions import region_view
from analogist.models.cells import REGIONS
from analogist.models.control import At
from analogist.models.numbers import plain

Shape = tuple[int, ...]
Axes = tuple[str, ...]


@dataclass(frozen=True)
class MeanHeads:
    """The mean over the requested heads."""

    name = "mean_heads"
    per_head = False

    def layout(self, axes: Axes, shape: Shape) -> tuple[Axes, Shape]:
        if "head" not in axes:
            raise ValueError("reduce='mean_heads': these points have no head axis (x, out and blocks)")
        i = axes.index("head")
        return axes[:i] + axes[i + 1 :], shape[:i] + shape[i + 1 :]


@dataclass(frozen=True)
class RegionTotals:
    """The attention between regions: the share of each key region, mean over the queries of a region.

    regions: their names; A and A' are those of all example pairs together, A1, A1', A2 ... of one.

    Self-attention: [... query_region key_region]; on probabilities a row sums to 1. Cross-attention: [... query_region key].
    """

    name = "regions"
    per_head = True
    regions: tuple[str, ...] = field(default=REGIONS, kw_only=True)

    def __post_init__(self) -> None:
        names = self.regions if isinstance(self.regions, Sequence) and not isinstance(self.regions, str) else ()
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError(f"regions {self.regions!r}: give a list of names, such as (\"A1'\", \"A2'\", \"B'\")")
        object.__setattr__(self, "regions", tuple(names))

    def layout(self, axes: Axes, shape: Shape, kind: str = "self") -> tuple[Axes, Shape]:
        if axes[-2:] != ("query", "key"):
            raise ValueError("reduce='regions' works only on maps: the points scores, logits and probs")
        if kind == "self":
            return (*axes[:-2], "query_region", "key_region"), (*shape[:-2], len(self.regions), len(self.regions))
        return (*axes[:-2], "query_region", "key"), (*shape[:-2], len(self.regions), shape[-1])

    def apply(self, tensor: Tensor, at: At) -> Tensor:
        """tensor: branch image head query key, or without head if their mean was taken first."""
        flat = (tensor if tensor.ndim == 5 else tensor.unsqueeze(2)).flatten(0, 1)
        rows = []
        for query in self.regions:
            if at.site.kind == "self":
                parts = [region_view(flat, at, query, key) for key in self.regions]
                row = [part.sum(dim=(2, 3, 4, 5), dtype=torch.float32) / (part.shape[2] * part.shape[3]) for part in parts]
                rows.append(torch.stack(row, dim=-1))
            else:
                rows.append(region_view(flat, at, query).mean(dim=(2, 3), dtype=torch.float32))
        out = torch.stack(rows, dim=2).unflatten(0, tensor.shape[:2])
        return out if tensor.ndim == 5 else out.squeeze(2)


@dataclass(frozen=True)
class TopK:
    """The k largest values of each query, largest first, and the token (or text column) of each."""

    k: int = 8
    per_head = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", plain(self.k))
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise ValueError(f"TopK({self.k!r}): expected a whole number of at least 1")

    @property
    def name(self) -> str:
        return f"top_{self.k}"

    def layout(self, axes: Axes, shape: Shape) -> tuple[Axes, Shape]:
        if axes[-1] != "key":
            raise ValueError("TopK works only on maps: the points scores, logits and probs")
        if self.k > shape[-1]:
            raise ValueError(f"TopK({self.k}): only {shape[-1]} keys are captured")
        return (*axes[:-1], "rank"), (*shape[:-1], self.k)


@dataclass(frozen=True)
class Function:
    """The user's function (tensor, at) -> tensor on [branch image ...]; its first two axes must stay.

    axes: names of the returned axes after (branch, image); None: the same as before, if their number is the same.
    """

    function: Callable[[Tensor, At], Tensor]
    axes: tuple[str, ...] | None = None
    per_head = False

    @property
    def name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def apply(self, tensor: Tensor, at: At) -> Tensor:
        out = self.function(tensor, at)
        if not isinstance(out, Tensor):
            raise ValueError(f"{at.site}:{at.point}: the reduction {self.name} returned {type(out).__name__}, not a tensor")
        if out.shape[:2] != tensor.shape[:2]:
            raise ValueError(
                f"{at.site}:{at.point}: the reduction {self.name} returned {tuple(out.shape)}; its first two axes must stay "
                f"{tuple(tensor.shape[:2])} (branch, image)"
            )
        return out

    def result_axes(self, before: Axes, ndim: int) -> Axes:
        if self.axes is not None:
            if len(self.axes) != ndim:
                raise ValueError(f"the reduction {self.name} returns {ndim} axes after (branch, image), but axes={self.axes}")
            return tuple(self.axes)
        return before if len(before) == ndim else tuple(f"axis{i}" for i in range(ndim))


@dataclass(frozen=True)
class SumSteps:
    """One tensor for all steps: their sum."""

    name = "sum_steps"

    def fold(self, kept: Tensor, new: Tensor, count: int) -> Tensor:
        return kept + new


@dataclass(frozen=True)
class MeanSteps:
    """One tensor for all steps: the mean of the steps so far, kept up to date."""

    name = "mean_steps"

    def fold(self, kept: Tensor, new: Tensor, count: int) -> Tensor:
        return kept + (new - kept) / (count + 1)


@dataclass(frozen=True)
class RunningMean:
    """One tensor for all steps: an exponential running mean, m := decay m + (1 - decay) x, starting at the first step."""

    decay: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"RunningMean({self.decay}): decay must be at least 0 and less than 1")

    @property
    def name(self) -> str:
        return f"running_mean_{self.decay:g}"

    def fold(self, kept: Tensor, new: Tensor, count: int) -> Tensor:
        return new if count == 0 else self.decay * kept + (1 - self.decay) * new


InStep = MeanHeads | RegionTotals | TopK | Function
OverSteps = SumSteps | MeanSteps | RunningMean
Reduction = InStep | OverSteps

mean_heads, regions, sum_steps, mean_steps, running_mean = MeanHeads(), RegionTotals(), SumSteps(), MeanSteps(), RunningMean()
NAMED: dict[str, Reduction] = {
    "mean_heads": mean_heads,
    "regions": regions,
    "sum_steps": sum_steps,
    "mean_steps": mean_steps,
    "running_mean": running_mean,
}


def parse_reductions(reduce: Any) -> tuple[Reduction, ...]:
    """Reductions from a name, an object, a function, or a list of them. Raises ValueError for unknown names and wrong orders."""
    if reduce is None:
        return ()
    given: list[Any] = list(reduce) if isinstance(reduce, Sequence) and not isinstance(reduce, str) else [reduce]
    out: list[Reduction] = []
    for one in given:
        if isinstance(one, str):
            if one not in NAMED:
                raise ValueError(f"reduce={one!r}: allowed are {', '.join(NAMED)}, TopK(k), RunningMean(decay) or a function")
            one = NAMED[one]
        elif isinstance(one, type) and issubclass(one, TopK | RunningMean | Function):
            raise ValueError(f"reduce={one.__name__}: give an object, such as {one.__name__}(...)")
        elif not isinstance(one, InStep | OverSteps):
            if not callable(one):
                raise ValueError(f"reduce={one!r}: give a name, a reduction or a function (tensor, at) -> tensor")
            one = Function(cast("Callable[[Tensor, At], Tensor]", one))
        out.append(one)
    over = [one for one in out if isinstance(one, OverSteps)]
    if len(over) > 1 or (over and out[-1] is not over[0]):
        raise ValueError("reduce: at most one reduction over steps is allowed, and it must be the last")
    if any(isinstance(one, TopK) for one in out) and (over or not isinstance(out[-1], TopK)):
        raise ValueError("reduce: TopK must be the last and cannot be summed over steps, because its keys differ by step")
    if sum(isinstance(one, MeanHeads) for one in out) > 1:
        raise ValueError("reduce: mean_heads may occur only once")
    return tuple(out)
