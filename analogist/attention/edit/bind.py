"""Edits bound to one run: selectors are resolved and checked before it starts, and results are checked while it runs."""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from torch import Tensor

from analogist.attention.capture.capture import CaptureTooLarge
from analogist.attention.edit.side_by_side import SideBySide
from analogist.attention.select.points import select
from analogist.attention.select.run_shape import RunShape, resolve_steps
from analogist.models.control import At, Edit
from analogist.models.placement import Site
from analogist.models.unet import UNet

Edits = Mapping[str, Edit | Sequence[Edit]]  # selector -> function(s) (tensor, at) -> tensor


class EditError(ValueError):
    """An edit returned nothing, or a value that does not fit its point."""


class BoundEdit:
    """One edit at one point, with the steps at which it acts.

    A function's attribute `steps` restricts them. One with the attribute `by_head` takes maps in slices of heads, so that they need not
    all be in memory at once.
    """

    def __init__(self, function: Edit, selector: str, steps: tuple[int, ...] | None) -> None:
        self.function, self.selector, self.steps = function, selector, steps
        self.by_head: bool = getattr(function, "by_head", False)

    def acts(self, step: int) -> bool:
        """Whether it acts in this executed step."""
        return self.steps is None or step in self.steps

    def __call__(self, tensor: Tensor, at: At) -> Tensor:
        """The edited tensor. Raises EditError if it is not a tensor, or differs in shape, dtype or device."""
        # A block's tensor is reused in skips, so an in-place edit would also act there.
        given = tensor.clone() if at.site.kind == "block" else tensor
        try:
            out = self.function(given, at)
        except Exception as error:
            error.add_note(f"in the edit {self.selector!r} at {at.site}:{at.point}, step {at.step}")
            raise
        where = f"the edit {self.selector!r} at {at.site}:{at.point}, step {at.step},"
        if not isinstance(out, Tensor):
            hint = "; return the tensor, even if nothing was changed" if out is None else ""
            raise EditError(f"{where} returned {'nothing' if out is None else type(out).__name__}{hint}")
        if out.shape != tensor.shape:
            raise EditError(f"{where} returned {tuple(out.shape)}; the shape must stay {tuple(tensor.shape)}")
        if out.dtype != tensor.dtype or out.device != tensor.device:
            raise EditError(f"{where} returned {out.dtype} on {out.device}; it must stay {tensor.dtype} on {tensor.device}")
        return out


def bind_edits(edit: Edits | None, unet: UNet, run: RunShape) -> dict[tuple[str, str], list[BoundEdit]]:
    """Edits by (site name, point), in the order given.

    An edit may have `steps` (executed steps at which it acts); `meet(unet, sites_points)`, which shows it the network and returns
    those of the selected points that it needs; `bind(run, sites_points)`, which checks it against the run and returns what is called;
    and what `asks.py` names. Where others ask for copies of the images, one that does not acts in each copy by itself: what it sees, and
    its images=, are those of a run without copies.
    Raises ValueError for selectors that match nothing and whatever `meet` or `bind` refuses.
    """
    bound: dict[tuple[str, str], list[BoundEdit]] = {}
    if edit is None:
        return bound
    if not isinstance(edit, Mapping):
        raise ValueError(f"edit={edit!r}: give a mapping from selectors to functions, such as {{'up.1.*.self:logits': fn}}")
    for selector, functions in edit.items():
        if not isinstance(selector, str):
            raise ValueError(f"edit: the selector {selector!r} is not text")
        selected = select([selector], unet)
        for function in functions if isinstance(functions, list | tuple) else [functions]:
            if not callable(function):
                raise ValueError(f"edit {selector!r}: {function!r} is not a function (tensor, at) -> tensor")
            try:
                steps = getattr(function, "steps", None)
                steps = None if steps is None else resolve_steps(steps, run.steps)
                meet: Callable[[UNet, list[tuple[Site, str]]], list[tuple[Site, str]]] | None = getattr(function, "meet", None)
                places = selected if meet is None else meet(unet, selected)
                if run.copies > 1 and getattr(function, "copies", None) is None:
                    function = SideBySide([cast(Edit, function)] * run.copies)
                bind: Callable[[RunShape, list[tuple[Site, str]]], Edit] | None = getattr(function, "bind", None)
                ready = cast(Edit, function) if bind is None else bind(run, places)
            except CaptureTooLarge:
                raise
            except ValueError as error:
                raise ValueError(f"edit {selector!r}: {error}") from error
            for site, point in places:
                bound.setdefault((site.name, point), []).append(BoundEdit(ready, selector, steps))
    return bound
