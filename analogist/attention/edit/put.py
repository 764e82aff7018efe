"""Puts values at nodes: zeros, a mean over inputs, or what another run had there."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from analogist.attention.capture.maps import AttentionMap
from analogist.attention.edit.bind import Edit
from analogist.attention.edit.node import Node
from analogist.attention.select.run_shape import RunShape
from analogist.models.control import At
from analogist.models.placement import Site

Source = Callable[[Tensor, At], Tensor]  # a tensor at a point -> what to put there, of the same shape


def zero(tensor: Tensor, at: At) -> Tensor:
    """The source of zero ablation."""
    return torch.zeros_like(tensor)


class Stored:
    """The source of a captured run's values: all branches, images, heads, queries and keys of the same point and step."""

    def __init__(self, maps: Mapping[str, AttentionMap]) -> None:
        self.maps = maps

    def __call__(self, tensor: Tensor, at: At) -> Tensor:
        m = self.maps[f"{at.site}:{at.point}"]
        if at.step not in m.steps:
            raise ValueError(f"{m.name} holds steps {m.steps}, not step {at.step}")
        value = m.tensor[m.steps.index(at.step)].flatten(0, 1)
        if value.shape != tensor.shape:
            raise ValueError(f"{m.name} is {tuple(value.shape)} in the other run, {tuple(tensor.shape)} here: use runs of one size")
        return value.to(tensor)


class Mean:
    """The source of means over inputs, images and places of the picture, for each step, branch, head and channel (of a map: each key)."""

    def __init__(self, maps: Iterable[Mapping[str, AttentionMap]]) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps: dict[str, tuple[int, ...]] = {}
        count = 0
        for one in maps:
            count += 1
            for name, m in one.items():
                mean = self._mean(m)
                self.sums[name] = self.sums[name] + mean if name in self.sums else mean
                self.steps[name] = m.steps
        self.sums = {name: total / count for name, total in self.sums.items()}

    @staticmethod
    def _mean(m: AttentionMap) -> Tensor:
        places = [m.axis("image"), *(m.axis(name) for name in ("query", "row", "column") if name in m.axes)]
        if m.point in ("k", "v"):
            places.append(m.axis("key"))
        return m.tensor.float().mean(dim=places, keepdim=True)

    def __call__(self, tensor: Tensor, at: At) -> Tensor:
        name = f"{at.site}:{at.point}"
        mean = self.sums[name][self.steps[name].index(at.step)]  # branch 1 ...
        return mean.to(tensor).expand(at.branches, at.images, *tensor.shape[1:]).flatten(0, 1)


class Put:
    """An edit that replaces nodes of one or more points by what a source gives there.

    nodes: those of points to which the edit is not bound are ignored. but: replaces everything except the nodes.
    """

    def __init__(self, nodes: Sequence[Node], source: Source, *, but: bool = False) -> None:
        self.nodes, self.source, self.but = list(nodes), source, but
        steps = {node.step for node in self.nodes if node.step is not None}
        if not but and all(node.step is not None for node in self.nodes):
            self.steps = sorted(steps)

    def __repr__(self) -> str:
        return f"Put({', '.join(map(str, self.nodes))})"

    def __call__(self, tensor: Tensor, at: At) -> Tensor:
        raise ValueError("Put acts inside a run: pass it as edit={node.place: Put([node], source)}")

    def bind(self, run: RunShape, places: list[tuple[Site, str]]) -> Edit:
        here = {(site.name, point): [n for n in self.nodes if (n.site, n.point) == (site.name, point)] for site, point in places}

        def edit(tensor: Tensor, at: At) -> Tensor:
            nodes = [node for node in here[at.site.name, at.point] if node.acts(at.step)]
            if not nodes and not self.but:
                return tensor
            value = self.source(tensor, at)
            out, chosen = (value.clone(), tensor) if self.but else (tensor.clone(), value)
            for node in nodes:
                where = node.index(at, run)
                out[where] = chosen[where]
            return out

        return edit


def put_all(nodes: Sequence[Node], source: Source) -> Mapping[str, Edit]:
    """The edits that put a source's values at all of these nodes."""
    by_place: dict[str, list[Node]] = {}
    for node in nodes:
        by_place.setdefault(node.place, []).append(node)
    return {place: Put(some, source) for place, some in by_place.items()}
