"""The result of a sweep: the effect of every node, with its interval over inputs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from analogist.attention.edit.node import Node
from analogist.attention.measure.runs import Contrast, interval


@dataclass(frozen=True)
class SweepAxes:
    """The nodes of a sweep: sites x steps x heads, and branches and regions where they were asked for one by one.

    places: (site, point, its number of heads; 0 without a head axis). steps, heads: one entry -1 where all go together.
    more: further axes by name, "branch", "query", "key".
    """

    places: tuple[tuple[str, str, int], ...]
    steps: tuple[int, ...]
    heads: tuple[int, ...]
    more: Mapping[str, tuple] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.places), len(self.steps), len(self.heads), *map(len, self.more.values()))

    @property
    def is_whole(self) -> bool:
        """Whether its nodes are all that there is at their points: every step, branch and region."""
        return self.steps == (-1,) and not self.more

    def nodes(self) -> Iterator[tuple[tuple[int, ...], Node]]:
        """Each place in a tensor of this shape, and the node that it stands for; without heads that a site lacks."""
        for index in torch.cartesian_prod(*[torch.arange(n, device="cpu") for n in self.shape]).tolist():
            site, point, count = self.places[index[0]]
            step, head = self.steps[index[1]], self.heads[index[2]]
            if head >= 0 and head >= count:
                continue
            rest = {name: values[i] for (name, values), i in zip(self.more.items(), index[3:], strict=True)}
            yield tuple(index), Node(site, point, None if head < 0 else head, None if step < 0 else step, **rest)


@dataclass(frozen=True, eq=False)
class Sweep:
    """The effect of every patch, ablation or attribution.

    each: [input site step head ...], raw change of the measure: against the corrupted run for patches, against the unablated one for
    ablations; nan where a site has fewer heads. axes: what the entries stand for. contrasts: of each input. kind: "patch",
    "attribution" or "ablation". notes: cautions, such as that clean and corrupted runs hardly differ. runs: how many runs the effects
    took, not counting the one with another seed.
    """

    each: Tensor
    axes: SweepAxes
    contrasts: tuple[Contrast, ...]
    kind: str
    notes: tuple[str, ...] = ()
    runs: int = 0

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(site for site, _, _ in self.axes.places)

    @property
    def steps(self) -> tuple[int, ...]:
        """Executed steps; one entry -1 where a patch covers all."""
        return self.axes.steps

    @property
    def heads(self) -> tuple[int, ...]:
        """Head numbers; one entry -1 where a patch covers all."""
        return self.axes.heads

    @property
    def clean(self) -> float:
        """The measure of the clean (unablated) run, mean over inputs."""
        return sum(one.clean for one in self.contrasts) / len(self.contrasts)

    @property
    def corrupted(self) -> float:
        """The measure of the corrupted run, mean over inputs."""
        return sum(one.corrupted for one in self.contrasts) / len(self.contrasts)

    @property
    def effect(self) -> Tensor:
        """[site step head ...], the raw change of the measure, mean over inputs."""
        return self.each.mean(0)

    @cached_property
    def each_recovered(self) -> Tensor:
        """[input site step head ...]: 0 as bad as the corrupted run, 1 as good as the clean one. Raises ValueError for an ablation."""
        if self.kind == "ablation":
            raise ValueError("an ablation recovers nothing: read .effect, or .relative")
        gaps = torch.tensor([one.gap for one in self.contrasts], dtype=self.each.dtype, device="cpu")
        return self.each / gaps.view(-1, *[1] * (self.each.ndim - 1))

    @property
    def recovered(self) -> Tensor:
        """[site step head ...]: the part of the gap between corrupted (0) and clean run (1) that is closed, mean over inputs."""
        return self.each_recovered.mean(0)

    @property
    def relative(self) -> Tensor:
        """[site step head ...]: the change over the measure of the clean run; 1.67 for a loss that grows by 167 %."""
        return self.effect / abs(self.clean)

    @cached_property
    def interval(self) -> tuple[Tensor, Tensor]:
        """95 % interval (low, high) over inputs of `recovered` (ablations: of `effect`); nan for one input."""
        return interval(self.each if self.kind == "ablation" else self.each_recovered)

    @property
    def low(self) -> Tensor:
        return self.interval[0]

    @property
    def high(self) -> Tensor:
        return self.interval[1]

    def rows(self) -> list[dict]:
        """One row per node: site, step, head (-1: all), further axes, effect, recovered (not for ablations), low, high.

        Nan where a site has fewer heads.
        """
        main = {"effect": self.effect} if self.kind == "ablation" else {"recovered": self.recovered, "effect": self.effect}
        values = {**main, "low": self.low, "high": self.high}
        axes = {"site": self.sites, "step": self.steps, "head": self.heads, **self.axes.more}
        places = torch.cartesian_prod(*[torch.arange(n, device="cpu") for n in self.axes.shape]).tolist()
        return [
            {name: entries[i] for (name, entries), i in zip(axes.items(), place, strict=True)}
            | {name: float(value[tuple(place)]) for name, value in values.items()}
            for place in places
        ]

    def best(self, k: int = 5) -> list[dict]:
        """The k patches that recover most, or the k ablations that change most."""
        name = "effect" if self.kind == "ablation" else "recovered"
        known = [row for row in self.rows() if row[name] == row[name]]
        return sorted(known, key=lambda row: -abs(row[name]) if self.kind == "ablation" else -row[name])[:k]

    def correlation(self, other: "Sweep") -> float:
        """Pearson's r between the effects of two sweeps over the same nodes. Raises ValueError where they differ."""
        if (self.sites, self.steps, self.heads, dict(self.axes.more)) != (other.sites, other.steps, other.heads, dict(other.axes.more)):
            raise ValueError("correlation: these sweeps are over different sites, steps, heads or regions")
        pair = torch.stack([self.effect.flatten(), other.effect.flatten()]).double()
        return float(torch.corrcoef(pair[:, ~pair.isnan().any(0)])[0, 1])

    def __repr__(self) -> str:
        inputs = f", {len(self.contrasts)} inputs" if len(self.contrasts) > 1 else ""
        if self.kind == "ablation":
            lines = [f"change of the measure when ablated (unablated {self.clean:.4g}{inputs}), greatest first"]
        else:
            what = "recovered effect" if self.kind == "patch" else "recovered effect by attribution"
            lines = [f"{what} (0: corrupted run {self.corrupted:.4g}, 1: clean run {self.clean:.4g}{inputs}), best first"]
        for row in self.best(12):
            step = "all steps" if row["step"] < 0 else f"step {row['step']}"
            head = "all heads" if row["head"] < 0 else f"head {row['head']}"
            more = " ".join(f"{name} {row[name]}" for name in self.axes.more)
            value = row["effect" if self.kind == "ablation" else "recovered"]
            limits = "" if row["low"] != row["low"] else f"  [{row['low']:.3f}, {row['high']:.3f}]"
            lines.append(f"{row['site']:28} {step:10} {head:10} {more}{' ' * bool(more)}{value:8.3g}{limits}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])
