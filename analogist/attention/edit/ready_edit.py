"""The common part of all ready edits: where it may be used, and the branches, images, heads and steps it acts on."""

from collections.abc import Callable, Sequence
from typing import TypedDict

from torch import Tensor

from analogist.attention.edit.bind import Edit
from analogist.attention.select.heads import resolve_heads
from analogist.attention.select.run_shape import RunShape, Steps, resolve_branches, resolve_indices
from analogist.models.control import At, Where
from analogist.models.numbers import plain
from analogist.models.placement import BLOCK_POINTS, FF_POINTS, POINTS, Site

Change = Callable[[Tensor, At], Tensor]  # the selected rows and heads, which may be modified in place -> the same shape
RunChange = Callable[[Tensor, At, list[str]], Tensor]  # as Change, with the branch of each row
Prepare = Callable[[RunShape, tuple[str, ...]], RunChange]  # run, branches -> the change for this run


class WithoutBranches(TypedDict, total=False):
    """Which steps, images and heads an edit acts on; None: all."""

    steps: Steps
    images: int | Sequence[int] | None
    heads: int | Sequence[int] | None


class WithoutHeads(TypedDict, total=False):
    """Which steps, images and branches an edit acts on; None: all."""

    steps: Steps
    images: int | Sequence[int] | None
    branches: int | str | Sequence[int | str] | None


class Chosen(WithoutBranches, WithoutHeads, total=False):
    """Which steps, branches, images and heads an edit acts on; None: all."""



class ReadyEdit:
    """An edit that checks itself against the run and acts only on selected branches, images, heads and steps.

    points: where it may be used; kind: "self", "cross" or None for both (blocks: kind "block").
    change: the function applied to the selected part, [row (head) ...]; or prepare(run, branches), which creates that function for a run.
    """

    def __init__(
        self,
        name: str,
        points: Sequence[str],
        change: Change | None = None,
        *,
        prepare: Prepare | None = None,
        kind: str | None = None,
        steps: Steps = None,
        branches: int | str | Sequence[int | str] | None = None,
        images: int | Sequence[int] | None = None,
        heads: int | Sequence[int] | None = None,
    ) -> None:
        self.name, self.points, self.kind = name, tuple(points), kind
        self.change, self.prepare = change, prepare
        self.steps, self.branches, self.images, self.heads = steps, branches, images, heads

    def __repr__(self) -> str:
        chosen = [f"{key}={getattr(self, key)!r}" for key in ("steps", "branches", "images", "heads")]
        shown = [text for text in chosen if not text.endswith("=None")]
        return self.name + (f" [{', '.join(shown)}]" if shown else "")

    def __call__(self, tensor: Tensor, at: At) -> Tensor:
        raise ValueError(f"{self.name} acts inside a run: pass it as edit={{'up.1.*.self:{self.points[0]}': ...}}")

    def bind(self, run: RunShape, places: list[tuple[Site, str]]) -> Edit:
        """The function to call in this run. Raises ValueError at a point where it has no meaning."""
        for site, point in places:
            self.check(site, point)
        branches = resolve_branches(self.branches, run)
        images = resolve_indices(self.images, run.images, "images")
        numbers = [run.branch_labels.index(branch) for branch in branches]
        rows = [number * run.images + image for number in numbers for image in images]
        labels = [branch for branch in branches for _ in images]
        everything = len(rows) == run.branches * run.images
        heads = {} if self.heads is None else resolve_heads(self.heads, list({site.name: site for site, _ in places}.values()))
        if self.prepare is not None:
            change: RunChange = self.prepare(run, branches)
        else:
            assert self.change is not None, "an edit has change or prepare"
            change = _without_labels(self.change)

        def edit(tensor: Tensor, at: At) -> Tensor:
            chosen = heads.get(at.site.name)
            if chosen == ():  # a site that has none of these heads
                return tensor
            where = Where(None if everything else tuple(rows), chosen).on(tensor.device)
            out = tensor.clone()
            part = out[where].clone()
            out[where] = change(part, at, labels)
            return out

        return edit

    def check(self, site: Site, point: str) -> None:
        """Raises ValueError at points where it has no meaning."""
        kind = "" if self.kind is None else f" of {self.kind} attention"
        if point not in self.points or (self.kind is not None and site.kind != self.kind):
            raise ValueError(f"{self.name} works at {', '.join(self.points)}{kind}, not at {site}:{point}; narrow the selector")
        if self.heads is not None and "head" not in site.axes(point):
            raise ValueError(f"{self.name}: heads= has no meaning at {site}:{point}, which has no head axis")


def _without_labels(change: Change) -> RunChange:
    return lambda part, at, labels: change(part, at)


def number(value: float, what: str, low: float | None = None) -> float:
    """A finite number, at least `low`. Raises ValueError otherwise."""
    value = plain(value)
    finite = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
    if not finite or (low is not None and value < low):
        raise ValueError(f"{what} {value!r}: expected a finite number{'' if low is None else f' of at least {low}'}")
    return float(value)


ANYWHERE = tuple(dict.fromkeys((*POINTS, *FF_POINTS, *BLOCK_POINTS)))
