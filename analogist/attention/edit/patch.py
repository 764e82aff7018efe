"""Patching: puts a captured tensor, or a part of it, into another run (activation patching, causal tracing).

Source of the idea: Meng et al. 2022, "Locating and Editing Factual Associations in GPT", Sec. 2.1.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from analogist.attention.capture.maps import AttentionMap
from analogist.attention.edit.bind import Edit
from analogist.attention.edit.ready_edit import number
from analogist.attention.select.regions import rectangle
from analogist.attention.select.run_shape import RunShape, Steps, resolve_branches, resolve_indices, resolve_steps
from analogist.models.control import At
from analogist.models.placement import Site

_KNOWN = {"step", "branch", "image", "head", "query", "key", "channel", "row", "column"}


class Patch:
    """Replaces the tensor at a point by a captured map; created by `patch`."""

    def __init__(self, captured: AttentionMap, steps: Steps, weight: float) -> None:
        unknown = [axis for axis in captured.axes if axis not in _KNOWN]
        if unknown or "sum_steps" in captured.reduced:
            raise ValueError(f"patch: {captured.name} was reduced ({', '.join(captured.reduced)}); capture it without reduce= to patch it")
        self.captured, self.weight = captured, number(weight, "patch weight")
        self.steps = captured.steps if steps is None else steps
        self.chosen_steps = steps is not None

    def __repr__(self) -> str:
        return f"patch({self.captured!r})"

    def __call__(self, tensor: Tensor, at: At) -> Tensor:
        raise ValueError("patch acts inside a run: pass it as edit={'up.1.attn.2.self:head_out': patch(captured)}")

    def bind(self, run: RunShape, places: list[tuple[Site, str]]) -> Edit:
        """The function to call in this run. Raises ValueError if the captured tensor does not fit into it."""
        m = self.captured
        for site, point in places:
            alike = (site.kind, site.heads, site.hw(run.latent, point)) == (m.site.kind, m.site.heads, m.hw)
            if point != m.point or not alike:
                raise ValueError(
                    f"patch: {m.name} (token map {m.hw}) was captured at the point {m.point} of a {m.site.kind} site, "
                    f"so it does not fit {site}:{point} (token map {site.hw(run.latent, point)})"
                )
        several = "step" in m.axes and m.tensor.shape[m.axis("step")] > 1
        missing = [step for step in resolve_steps(self.steps, run.steps) if several and step not in m.steps]
        if missing:
            raise ValueError(f"patch: {m.name} holds steps {m.steps}, not {missing}; select a single step to use it at other steps")
        branches = resolve_branches(m.coords["branch"], run)
        images = resolve_indices(m.coords["image"], run.images, "patch: images")
        numbers = [run.branch_labels.index(branch) for branch in branches]

        def edit(tensor: Tensor, at: At) -> Tensor:
            value = m.sel(step=[at.step]) if several else m
            return self._put(tensor.clone(), value, at, numbers, images)

        return edit

    def _put(self, out: Tensor, value: AttentionMap, at: At, branches: Sequence[int], images: Sequence[int]) -> Tensor:
        """out: (branch image) ..., modified in place."""
        target = out.unflatten(0, (at.branches, at.images))
        names = ["branch", "image", *at.site.axes(at.point)]
        indices: list[Sequence[int] | Tensor] = [branches, images]
        for axis, length in zip(names[2:], target.shape[2:], strict=True):
            indices.append(_places(value, axis, length, at))
        index = torch.meshgrid(*[torch.as_tensor(places, device=out.device) for places in indices], indexing="ij")
        values = value.tensor.to(out.device, out.dtype)
        present = list(value.axes)
        if "step" in present:
            values = values.select(present.index("step"), 0)
            present.remove("step")
        for i, name in enumerate(names):  # values of axes that were dropped or averaged go to every entry
            if name not in present:
                values = values.unsqueeze(i)
                present.insert(i, name)
        values = values.expand(index[0].shape)
        if self.weight != 1:
            values = self.weight * values + (1 - self.weight) * target[index]
        target[index] = values
        return out


def _places(m: AttentionMap, axis: str, length: int, at: At) -> Sequence[int] | Tensor:
    """The entries of an axis of the run's tensor that the captured values replace."""
    if axis == "head":
        return m.coords["head"]
    if axis == "query" and m.query is not None:
        return m.query
    if axis == "key" and m.key is not None:
        return m.key
    if axis == "key" and m.columns is not None:
        columns = {m.columns[branch] for branch in m.coords["branch"]}
        if len(columns) > 1:
            raise ValueError(f"patch: {m.name} holds different text columns per branch; select one branch")
        return columns.pop()
    if axis in ("row", "column") and m.query is not None:
        box = rectangle(m.query, at.hw)
        assert box is not None, "a capture keeps whole rectangles of a block"
        top, bottom, left, right = box
        return range(top, bottom) if axis == "row" else range(left, right)
    return range(length)


def patch(captured: AttentionMap, *, steps: Steps = None, weight: float = 1.0) -> Patch:
    """Puts a captured tensor into another run, at the same point of the same site or of a matching one.

    captured: an AttentionMap. The part selected from it (`sel`) decides which branches, images, heads, queries and keys are
    replaced. A value averaged over an axis goes to all entries of that axis.
    steps: at which executed steps; None: the captured steps. weight: 1 replaces, between 0 and 1 blends.
    """
    return Patch(captured, steps, weight)

