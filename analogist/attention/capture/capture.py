"""Capture: an immutable request for the attention tensors that a run should keep, as an argument of the call.

A capture holds no data. The maps come back with the run (`result.maps`, `step.maps`), so the same request can be
used for any number of runs.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import torch

from analogist.attention.capture.plan import Item, Plan, human_bytes, largest, plan_items
from analogist.attention.capture.reduce import OverSteps, Reduction, RegionTotals, parse_reductions
from analogist.attention.select.regions import Region, is_region
from analogist.attention.select.run_shape import RunShape, Steps, every, run_shape
from analogist.models.numbers import plain

if TYPE_CHECKING:
    from analogist.grid.prompt_grid import PromptGrid
    from analogist.models.unet import UNet
    from analogist.pipeline import Analogist
    from analogist.run.request import Call

__all__ = ["Capture", "CaptureTooLarge", "Plan", "every", "make_plan", "parse_captures"]

GIB = 2**30


class CaptureTooLarge(ValueError):
    """A capture would keep more than max_bytes, or more than fits on the disk. Raised before the run."""


@dataclass(frozen=True, init=False)
class Capture:
    """Which tensors to keep, from which sites and steps.

    patterns: selectors on site:point ("up.1.*.self:probs", "9.self:logits", "*.cross:probs").
    layers: only transformer blocks with these numbers (0..15). steps: executed steps (0 first), a range, `every(10)`.
    branches: "negative", "text" (0, 1). images, heads: indices. query, key: regions "A", "A'", "B", "B'", "A1'", a pixel
    (x, y), a box (left, top, right, bottom) of the picture, or a list of them; key at self-attention only.
    words: words of the prompt, "<start>", "<end>", "<padding>" or column numbers; only at cross-attention, in place of key.
    reduce: "mean_heads", "regions", "sum_steps", "mean_steps", "running_mean", TopK(k), RunningMean(decay), a function
    (tensor, at) -> tensor on [branch image head query key], or a list of them, applied in order on the device.
    dtype: of the kept tensors; None: float32 for scores, logits and sums, else the run's dtype. max_bytes: the limit in memory.
    spill: a folder; the maps are written there as safetensors during the run, and read back memory-mapped.
    label: distinguishes two captures of the same point; appended to the names of its maps as "@label".
    """

    patterns: tuple[str, ...]
    layers: frozenset[int] | None
    steps: Steps
    branches: int | str | tuple[int | str, ...] | None
    images: int | tuple[int, ...] | None
    heads: int | tuple[int, ...] | None
    query: Region | tuple[Region, ...] | None
    key: Region | tuple[Region, ...] | None
    words: str | int | tuple[str | int, ...] | None
    reductions: tuple[Reduction, ...]
    dtype: torch.dtype | None
    max_bytes: int
    spill: Path | None
    label: str | None

    def __init__(
        self,
        *patterns: str,
        layers: int | Iterable[int] | None = None,
        steps: Steps = None,
        branches: int | str | Sequence[int | str] | None = None,
        images: int | Sequence[int] | None = None,
        heads: int | Sequence[int] | None = None,
        query: Region | Sequence[Region] | None = None,
        key: Region | Sequence[Region] | None = None,
        words: str | int | Sequence[str | int] | None = None,
        reduce: str | Reduction | Callable | Sequence | None = None,
        dtype: torch.dtype | None = None,
        max_bytes: int = 4 * GIB,
        spill: str | Path | None = None,
        label: str | None = None,
    ) -> None:
        if not patterns:
            raise ValueError("Capture(): give at least one selector, such as Capture('up.1.*.self:probs')")
        for pattern in patterns:
            if not isinstance(pattern, str) or not pattern:
                raise ValueError(f"selector {pattern!r}: give text such as 'up.1.*.self:probs' or '9.self:probs'")
        layers, steps, branches, images, heads = plain(layers), plain(steps), plain(branches), plain(images), plain(heads)
        query, key, words, max_bytes = plain(query), plain(key), plain(words), plain(max_bytes)
        reductions = parse_reductions(reduce)
        if words is not None and branches is None:
            branches = "text"  # words are looked up in the prompt; the negative prompt only if the branch is named
        if any(isinstance(one, RegionTotals) for one in reductions) and (query is not None or key is not None):
            raise ValueError("reduce='regions' already covers all regions; leave query= and key= out")
        if spill is not None and reductions and isinstance(reductions[-1], OverSteps):
            raise ValueError("spill= writes every step as it comes, but a sum over steps is one small map: leave spill= out")
        if dtype not in (None, torch.float64, torch.float32, torch.float16, torch.bfloat16):
            raise ValueError(f"dtype {dtype!r}: allowed are torch.float64, float32, float16 and bfloat16")
        if isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < 1:
            raise ValueError(f"max_bytes {max_bytes!r}: expected a whole number of bytes, at least 1")
        if label is not None and (not label or set(label) & set("/\\@:")):
            raise ValueError(f"label {label!r}: expected a short name without / \\ @ :")
        values = {
            "patterns": patterns,
            "layers": None if layers is None else frozenset([layers] if isinstance(layers, int) else layers),
            "steps": tuple(steps) if isinstance(steps, Sequence) else steps,
            "branches": _frozen(branches),
            "images": _frozen(images),
            "heads": _frozen(heads),
            "query": query if query is None or is_region(query) else tuple(query),
            "key": key if key is None or is_region(key) else tuple(key),
            "words": _frozen(words),
            "reductions": reductions,
            "dtype": dtype,
            "max_bytes": max_bytes,
            "spill": None if spill is None else Path(spill),
            "label": label,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def plan(self, model: "Analogist", grid: "PromptGrid", prompt: str = "", **call: "Unpack[Call]") -> Plan:
        """What a run with these arguments would keep, and its size in bytes; nothing is run. call: as for the model."""
        return make_plan(self, model.unet, run_shape(model, grid, prompt, **call), check_size=False)

    @property
    def maps(self) -> None:
        raise AttributeError("a Capture is a request and holds no maps; run it (result = model(..., capture=...)), then read result.maps")

    def __getitem__(self, name: str) -> None:
        raise ValueError("a Capture is a request and holds no maps; run it (result = model(..., capture=...)), then read result.maps")


def _frozen(value: int | str | Sequence[int] | Sequence[str] | Sequence[int | str] | None) -> int | str | tuple[int | str, ...] | None:
    return value if value is None or isinstance(value, str | int) else tuple(value)


def parse_captures(capture: Capture | str | Sequence[Capture | str] | None) -> list[Capture]:
    """The captures of a call: one, a selector, or a list of them."""
    if capture is None:
        return []
    given: list[object] = list(capture) if isinstance(capture, list | tuple) else [capture]
    captures: list[Capture] = []
    for one in given:
        if not isinstance(one, Capture | str):
            raise ValueError(f"capture={one!r}: give a Capture, a selector such as 'up.1.*.self:probs', or a list of them")
        captures.append(Capture(one) if isinstance(one, str) else one)
    return captures


def make_plan(
    capture: Capture | str | Sequence[Capture | str] | None, unet: "UNet", run: RunShape, *, check_size: bool = True
) -> Plan:
    """The plan of one run. Raises CaptureTooLarge above max_bytes, ValueError for steps, branches, ... that the run does not have."""
    items: list[Item] = []
    for request in parse_captures(capture):
        planned = plan_items(request, unet, run)
        total = sum(item.nbytes for item in planned)
        if check_size and request.spill is None and total > request.max_bytes:
            raise CaptureTooLarge(
                f"this capture would keep {human_bytes(total)}, but max_bytes is {human_bytes(request.max_bytes)}; largest: "
                f"{largest(planned)}. Keep fewer steps (steps=every(10)), one branch (branches='text'), a region (query=\"B'\"), "
                "a reduction (reduce='mean_heads', 'regions', 'mean_steps'), fewer sites, or spill='folder' to write to disk"
            )
        items += planned
    names = [item.name for item in items]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise ValueError(f"{twice[0]} is captured twice: give one of the captures a label=, which is appended to the names of its maps")
    return Plan(items, run)
