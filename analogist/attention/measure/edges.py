"""Edges: what one head does through another, to first order.

At the corrupted run every node is cut off from what made it. A later node then follows from earlier ones directly, through whatever runs
between them (projections, residual blocks, resampling, feed-forwards, attention that is no node), but through no other node. With g the
total gradient of the measure at a receiving node r, the edge from s is

    (clean s - corrupted s) . (d r / d s, direct)^T g

so that the edges leaving s, the one to the output among them, sum to the attribution of s.
Source: Syed et al. 2023, "Attribution Patching Outperforms Automated Circuit Discovery", Sec. 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from analogist.attention.edit.node import Node
from analogist.attention.edit.put import Stored
from analogist.attention.edit.watch import Key, Watch
from analogist.attention.measure.gradients import products, pulled_back
from analogist.attention.measure.runs import Contrast, interval
from analogist.attention.measure.sweep_result import SweepAxes

OUTPUT = "output"  # the receiver that stands for the measure itself, reached through no other node


@dataclass(frozen=True, eq=False)
class EdgeSweep:
    """The effect of each sender through each receiver alone.

    each: [input sender receiver], raw change of the measure. The receiver "output" is the measure, reached directly. Nan where a receiver
    does not come after the sender. contrasts: of each input. kind: "attribution" or "patch". notes, runs: as in Sweep.
    axes: of the nodes, where all nodes of a sweep are senders.
    """

    each: Tensor
    senders: tuple[Node, ...]
    receivers: tuple[Node | str, ...]
    contrasts: tuple[Contrast, ...]
    kind: str
    notes: tuple[str, ...] = ()
    runs: int = 0
    axes: SweepAxes | None = None

    @property
    def effect(self) -> Tensor:
        """[sender receiver], raw change of the measure, mean over inputs."""
        return self.each.mean(0)

    @property
    def each_recovered(self) -> Tensor:
        """[input sender receiver], the part of the gap between corrupted and clean run."""
        return self.each / torch.tensor([one.gap for one in self.contrasts], dtype=self.each.dtype, device="cpu").view(-1, 1, 1)

    @property
    def recovered(self) -> Tensor:
        """[sender receiver], the part of the gap between corrupted (0) and clean run (1), mean over inputs."""
        return self.each_recovered.mean(0)

    @property
    def interval(self) -> tuple[Tensor, Tensor]:
        """95 % interval (low, high) of `recovered` over inputs; nan for one input."""
        return interval(self.each_recovered)

    def rows(self) -> list[dict]:
        """One row per edge: sender, receiver, recovered, effect, low, high."""
        low, high = self.interval
        values = {"recovered": self.recovered, "effect": self.effect, "low": low, "high": high}
        return [
            {"sender": sender, "receiver": receiver, **{name: float(value[i, j]) for name, value in values.items()}}
            for i, sender in enumerate(self.senders)
            for j, receiver in enumerate(self.receivers)
            if not self.each[:, i, j].isnan().any()
        ]

    def best(self, k: int = 5) -> list[dict]:
        """The k edges that recover most."""
        return sorted(self.rows(), key=lambda row: -row["recovered"])[:k]

    def nodes(self) -> Tensor:
        """[sender], the attribution of each sender: the sum of its edges, as a part of the gap."""
        return self.recovered.nan_to_num().sum(1)

    def __repr__(self) -> str:
        lines = ["edges by the part of the gap that they close, best first"]
        lines += [f"{row['sender']!s:44} -> {row['receiver']!s:44} {row['recovered']:8.3f}" for row in self.best(12)]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def edge_effects(value: Tensor, watch: Watch, axes: SweepAxes, kept: Stored, progress: bool) -> Tensor:
    """[sender receiver] of one input. watch: that cut every node. value: of the measure, with its graph."""
    order = list(watch.seen)
    leaves = [watch.seen[key] for key in order]
    moves = {key: (kept(watch.seen[key], watch.at[key]) - watch.seen[key]).detach() for key in order}
    nodes = [node for _, node in axes.nodes()]
    found = torch.full((len(nodes), len(nodes) + 1), float("nan"), dtype=torch.float32, device="cpu")
    indices: dict[Node, dict[Key, tuple]] = {}
    for node in nodes:
        mine = [key for key in order if key[:2] == (node.site, node.point) and node.acts(key[2])]
        indices[node] = {key: node.index(watch.at[key], watch.run) for key in mine}

    def score(receiver: int, slopes: Mapping[Key, Tensor]) -> None:
        for i, sender in enumerate(nodes):
            parts = [products(slopes[key][where], moves[key][where]) for key, where in indices[sender].items() if key in slopes]
            if parts:
                before = float(found[i, receiver].nan_to_num())
                found[i, receiver] = before + sum(float(part.sum()) for part in parts)

    direct = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
    total = {key: torch.zeros_like(leaf) if slope is None else slope for key, leaf, slope in zip(order, leaves, direct, strict=True)}
    score(len(nodes), total)
    total = {key: slope.clone() for key, slope in total.items()}
    for position in tqdm(range(len(order) - 1, 0, -1), desc="edges", unit="site", disable=not progress):
        key = order[position]
        for j, receiver in enumerate(nodes):
            where = indices[receiver].get(key)
            if where is None:
                continue
            along = torch.zeros_like(total[key])
            along[where] = total[key][where]
            slopes = pulled_back(watch.made[key], along, leaves[:position])
            here = {
                earlier: torch.zeros_like(leaf) if slope is None else slope
                for earlier, leaf, slope in zip(order, leaves, slopes, strict=False)
            }
            score(j, here)
            for earlier, slope in here.items():
                total[earlier] += slope
    return found
