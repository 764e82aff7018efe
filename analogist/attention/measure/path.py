"""Path patching: what a sender does through one receiver alone, with everything else held; exact, while edges.py is linear.

Source: Wang et al. 2023, "Interpretability in the Wild", Sec. 3.1; Goldowsky-Dill et al. 2023, "Localizing Model Behavior with Path
Patching".
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from analogist.attention.capture.capture import Capture
from analogist.attention.edit.node import Node
from analogist.attention.edit.put import Stored, put_all
from analogist.attention.edit.watch import Key
from analogist.attention.measure.edges import OUTPUT, EdgeSweep
from analogist.attention.measure.many_runs import measured
from analogist.attention.measure.runs import Measure, Runs, call, learn, number_of, paired, same_steps
from analogist.attention.measure.sweep import contrast_of, said_of
from analogist.attention.select.run_shape import RunShape
from analogist.models.control import At
from analogist.models.placement import Site

NodeLike = Node | str | tuple[str, int]


def path_patch(
    clean: Runs, corrupted: Runs, sender: NodeLike | list[NodeLike], receiver: NodeLike | list[NodeLike] = OUTPUT,
    points: str | Sequence[str] = "*:head_out", *, measure: Measure | None = None, batch: int | None = None, progress: bool = True,
) -> EdgeSweep:  # fmt: skip
    """The effect of each sender's clean value on the measure through each receiver and no other node.

    In the corrupted run the sender gets its clean value and all nodes of `points` are held at their corrupted ones, so that a receiver
    hears the sender directly, through residual blocks, resampling and feed-forwards. What the receiver makes of that is then put into
    another corrupted run, in which everything follows. The receiver "output" is the measure itself.
    sender, receiver: a Node, "site:point", (either, head), or a list of them; a receiver may be one input of a head, "site:q" (k, v).
    clean, corrupted, measure, batch: as for `patch_sweep`. One run per sender, and one per pair.
    """
    senders = [Node.of(one) for one in _listed(sender)]
    receivers: list[Node | str] = [OUTPUT if one == OUTPUT else Node.of(one) for one in _listed(receiver)]
    held = [points] if isinstance(points, str) else list(points)
    by_step = any(isinstance(node, Node) and node.step is not None for node in [*senders, *receivers])
    each, contrasts, runs, shapes = [], [], 0, []
    for good, bad in paired(clean, corrupted):
        result, learnt = learn(good, capture=Capture(*dict.fromkeys(node.place for node in senders)))
        base, of_corrupted = learn(bad, capture=Capture(*held))
        same_steps([learnt.known()[0], of_corrupted.known()[0]], "path_patch")
        shapes.append(learnt.known()[0])
        if by_step:
            same_steps(shapes, "path_patch")
        contrast, measuring = contrast_of("path_patch", good, result, base, measure)
        contrasts.append(contrast)
        effect = torch.full((len(senders), len(receivers)), float("nan"), dtype=torch.float32, device="cpu")
        heard = [node for node in receivers if isinstance(node, Node)]
        for i, node in enumerate(senders):
            frozen = [f"{site}:{point}" for site, point, _ in learnt.points(held)]
            freeze = Freeze(node, Stored(result.maps), Stored(base.maps), frozen)
            with torch.no_grad():
                direct = call(bad, edit=dict.fromkeys(dict.fromkeys([*held, node.place, *(one.place for one in heard)]), freeze))
                if OUTPUT in receivers:
                    effect[i, receivers.index(OUTPUT)] = number_of(measuring(direct)) - contrast.corrupted
            jobs = [put_all([one], freeze.arrived) for one in heard]
            values = measured(bad, jobs, measuring, learnt, batch=batch, progress=progress, describe="path patching")
            for one, value in zip(heard, values, strict=True):
                effect[i, receivers.index(one)] = value - contrast.corrupted
            runs += 1 + len(jobs)
        each.append(effect)
        runs += 2
    return EdgeSweep(torch.stack(each), tuple(senders), tuple(receivers), tuple(contrasts), "patch", said_of(contrasts), runs)


def _listed(given: NodeLike | list[NodeLike]) -> list[NodeLike]:
    return given if isinstance(given, list) else [given]


class Freeze:
    """Holds all nodes but the sender at their corrupted values, and remembers what each would have become.

    values: the sender's clean ones. base: the corrupted ones of all. frozen: places ("site:point") that are held; others only pass.
    """

    def __init__(self, sender: Node, values: Stored, base: Stored, frozen: Sequence[str]) -> None:
        self.sender, self.values, self.base, self.frozen = sender, values, base, set(frozen)
        self.made: dict[Key, Tensor] = {}

    def bind(self, run: RunShape, places: list[tuple[Site, str]]) -> "Freeze":
        self.run = run
        return self

    def __call__(self, tensor: Tensor, at: At) -> Tensor:
        key, place = (at.site.name, at.point, at.step), f"{at.site}:{at.point}"
        if key in self.made:  # another selector named the point too
            return tensor
        self.made[key] = tensor.clone()
        if place in self.frozen:
            tensor = self.base(tensor, at)
        if place == self.sender.place and self.sender.acts(at.step):
            where = self.sender.index(at, self.run)
            out = tensor.clone()
            out[where] = self.values(tensor, at)[where]
            return out
        return tensor

    def arrived(self, tensor: Tensor, at: At) -> Tensor:
        """The source of what arrived at a point."""
        return self.made[at.site.name, at.point, at.step].to(tensor)
