"""Keeps one point of one site: takes the requested part of the tensor, reduces it, and stores it.

Captures copy after all edits, so the kept tensor is the one that the next line of forward uses.
"""

from pathlib import Path

import torch
from torch import Tensor

from analogist.attention.capture.maps import AttentionMap
from analogist.attention.capture.plan import Item
from analogist.attention.capture.reduce import Function, MeanHeads, OverSteps, Reduction, RegionTotals, TopK
from analogist.attention.capture.spill import GrowingFile, Memory
from analogist.attention.capture.storage import INDEX, describe
from analogist.attention.select.regions import rectangle
from analogist.attention.select.run_shape import RunShape
from analogist.attention.select.word_columns import ColumnsOf
from analogist.models.control import At


def pick(tensor: Tensor, dim: int, places: tuple[int, ...] | Tensor) -> Tensor:
    """The given positions on an axis, as a view if they are consecutive."""
    first, count = int(places[0]), len(places)
    if int(places[-1]) - first == count - 1:  # ascending, hence consecutive
        return tensor if count == tensor.shape[dim] else tensor.narrow(dim, first, count)
    return tensor.index_select(dim, torch.as_tensor(places, device=tensor.device))


class Keeper:
    """Keeps one item of a plan during one run. A step is complete when all of its heads have been received."""

    def __init__(self, item: Item, run: RunShape) -> None:
        self.item, self.run = item, run
        self.done: list[int] = []  # complete steps
        self.step = -1  # the step being received
        self.got = 0  # number of its heads received so far
        self.parts: list[Tensor] = []  # of a step whose heads are reduced together
        self.total: Tensor | None = None  # for reductions over steps
        # Heads may arrive in slices: what precedes the mean over heads is applied to each slice, the rest to the whole step.
        in_step = [one for one in item.request.reductions if not isinstance(one, OverSteps)]
        at = next((i for i, one in enumerate(in_step) if isinstance(one, MeanHeads)), len(in_step))
        self.per_slice, self.mean_heads, self.per_step = in_step[:at], at < len(in_step), in_step[at + 1 :]
        self.stores: list[Memory | GrowingFile] = []
        if item.over_steps is None:
            kinds = [("", item.dtype)] + ([(INDEX, torch.int32)] if item.has_index else [])
            self.stores = [self._store(suffix, dtype) for suffix, dtype in kinds]

    def _store(self, suffix: str, dtype: torch.dtype) -> Memory | GrowingFile:
        item = self.item
        if item.request.spill is None:
            return Memory(item.shape, dtype)
        name = item.name + suffix
        path = Path(item.request.spill) / (name.replace(":", ".").replace(INDEX, ".index") + ".safetensors")
        return GrowingFile(path, name, item.shape, dtype, self._about(item.steps, suffix))

    def _about(self, steps: tuple[int, ...], suffix: str = "") -> dict:
        return {} if suffix else {self.item.name: describe(self._map(torch.empty(0, dtype=torch.float32, device="cpu"), None, steps))}

    @property
    def lost(self) -> str:
        """Why something could not be kept, or empty."""
        return next((store.lost for store in self.stores if store.lost), "")

    def see(self, tensor: Tensor, at: At) -> None:
        """Keeps the requested part of a tensor (branch image) ...; map points may arrive in slices of heads."""
        item = self.item
        if at.step != self.step:
            self._begin(at.step)
        heads = [h for h in item.heads if h in at.heads]
        if item.heads and not heads:
            return
        with torch.no_grad():
            part = self._take(tensor.detach(), at, heads)
            for one in self.per_slice:
                part = self._apply(one, part, at)
            self.got += len(heads) or 1
            complete = self.got == (len(item.heads) or 1)
            if self.got > (len(item.heads) or 1):
                raise ValueError(f"{item.name} arrived twice in step {at.step}: a tap is for one run, create a new one for each")
            if self.mean_heads or item.over_steps is not None:
                self._collect(part, at, complete)
            else:
                first = item.heads.index(heads[0]) if heads else 0
                self._write(part, at, slice(first, first + len(heads)) if heads and len(heads) < len(item.heads) else None)
        if complete and not self.lost:
            self.done.append(at.step)

    def _begin(self, step: int) -> None:
        if self.done and step <= self.done[-1]:
            raise ValueError(f"{self.item.name} already holds step {step}: a tap is for one run, create a new one for each")
        self.step, self.got, self.parts = step, 0, []

    def _take(self, tensor: Tensor, at: At, heads: list[int]) -> Tensor:
        """[branch image (head) ...]: only the requested part, on the device."""
        item = self.item
        part = tensor.unflatten(0, (at.branches, at.images))
        part = pick(part, 0, tuple(self.run.branch_labels.index(branch) for branch in item.branches))
        part = pick(part, 1, item.images)
        own = item.site.axes(item.point)
        if "row" in own:
            if item.query is not None:
                box = rectangle(item.query, at.hw)
                assert box is not None, "the plan keeps whole rectangles of a block"
                top, bottom, left, right = box
                part = part[..., top:bottom, left:right]
            return part
        if heads:
            part = pick(part, 2, tuple(h - at.heads.start for h in heads))
        axes = ("branch", "image", *own)
        if item.query is not None and "query" in axes:
            part = pick(part, axes.index("query"), item.query)
        if item.key is not None:
            part = pick(part, axes.index("key"), item.key)
        if item.columns is not None:
            dim = axes.index("key")
            columns = [item.columns[branch] for branch in item.branches]
            if len(set(columns)) == 1:
                part = pick(part, dim, columns[0])
            else:
                part = torch.stack([pick(part[i], dim - 1, places) for i, places in enumerate(columns)])
        return part

    def _apply(self, one: Reduction, part: Tensor, at: At) -> Tensor:
        return one.apply(part, at) if isinstance(one, RegionTotals | Function) else part

    def _collect(self, part: Tensor, at: At, complete: bool) -> None:
        """Reductions that need all heads of a step: their mean, and sums over steps."""
        if self.mean_heads:
            part = part.sum(dim=2, dtype=torch.float32)
            self.parts = [self.parts[0] + part] if self.parts else [part]
        else:
            self.parts.append(part)
        if not complete:
            return
        if self.mean_heads:
            value = self.parts[0] / len(self.item.heads)
        else:
            value = torch.cat(self.parts, 2) if len(self.parts) > 1 else self.parts[0]
        self.parts = []
        for one in self.per_step:
            value = self._apply(one, value, at)
        over = self.item.over_steps
        if over is None:
            self._write(value, at, None)
            return
        value = value.to("cpu", torch.float32, copy=True)
        self.total = over.fold(torch.zeros_like(value) if self.total is None else self.total, value, len(self.done))

    def _write(self, value: Tensor, at: At, heads: slice | None) -> None:
        item = self.item
        step = len(self.done)  # what `map` and `finish` read are the first places, one for each complete step
        expected = torch.Size(item.shape[1:])
        if heads is None and not item.has_index and value.shape != expected:
            raise ValueError(f"{item.name}: step {at.step} gives {tuple(value.shape)}, but {tuple(expected)} was planned")
        if not item.has_index:
            self.stores[0].write(step, heads, value)
            return
        top = next(one for one in item.request.reductions if isinstance(one, TopK))
        values, index = value.topk(top.k, dim=-1)
        if item.key is not None:
            index = item.key.to(index.device)[index]
        if item.columns is not None:
            tables = [torch.tensor(item.columns[branch], device=index.device) for branch in item.branches]
            index = torch.stack([table[index[i]] for i, table in enumerate(tables)])
        self.stores[0].write(step, heads, values)
        self.stores[1].write(step, heads, index)

    def map(self, step: int | None = None) -> AttentionMap | None:
        """The tensor kept so far, or that of one step only; None if there is nothing yet."""
        item = self.item
        if item.over_steps is not None:
            if self.total is None:
                return None
            value = self.total.clone() if step is not None else self.total
            return self._map(value, None, tuple(self.done))
        steps, index = tuple(self.done), None
        if step is not None:
            if step not in self.done:
                return None
            steps = (step,)
        if not steps:
            return None
        tensors = [store.read(len(self.done)) for store in self.stores]
        if step is not None:
            i = self.done.index(step)
            tensors = [tensor[i : i + 1] for tensor in tensors]
        if item.has_index:
            index = tensors[1]
        return self._map(tensors[0], index, steps)

    def _map(self, tensor: Tensor, index: Tensor | None, steps: tuple[int, ...]) -> AttentionMap:
        item, run = self.item, self.run
        coords: dict[str, tuple] = {"step": steps, "branch": item.branches, "image": item.images}
        if item.heads:
            coords["head"] = item.heads
        for one in item.request.reductions:
            if isinstance(one, RegionTotals):
                coords |= {axis: one.regions for axis in ("query_region", "key_region") if axis in item.axes}
        prompts, tokens = run.texts if item.site.kind == "cross" else ({}, {})
        return AttentionMap(
            name=item.name, site=item.site, point=item.point, tensor=tensor, axes=item.axes, hw=item.site.hw(run.latent, item.point),
            size=run.size, rows=run.rows, coords=coords, times={step: run.times[step] for step in steps}, query=item.query,
            key=item.key, columns=item.columns, index=index, reduced=tuple(one.name for one in item.request.reductions),
            prompts=prompts, tokens=tokens, words=ColumnsOf(run.lasting),
        )  # fmt: skip

    def finish(self) -> None:
        """Completes spilled files."""
        for store, suffix in zip(self.stores, ("", INDEX), strict=False):
            store.finish(len(self.done), self._about(tuple(self.done), suffix))
