"""Faithfulness of a circuit: what is left of the run's behaviour when everything outside it is ablated, or everything inside.

Source: Wang et al. 2023, Sec. 4 (faithfulness, completeness); Marks et al. 2024, Sec. 4 (its normalisation).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from analogist.attention.edit.put import Put, Source, put_all
from analogist.attention.measure.ablation_sweep import How, ablation
from analogist.attention.measure.circuit import Circuit
from analogist.attention.measure.many_runs import Job, measured
from analogist.attention.measure.runs import Measure, Runs, interval, learn, listed, loss_or_distance, number_of, same_steps


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """What a circuit keeps of a run, and what the run keeps without it.

    each: [input 4], the measure of the run as it is, with every node of the pool ablated, with the nodes outside the circuit ablated,
    and with the nodes inside ablated. inside, outside: number of nodes.
    """

    each: Tensor
    inside: int
    outside: int

    def _share(self, column: int) -> Tensor:
        whole, nothing = self.each[:, 0], self.each[:, 1]
        return (self.each[:, column] - nothing) / (whole - nothing)

    @property
    def kept(self) -> float:
        """The part of the pool's effect that remains with the circuit alone (1: all of it), mean over inputs."""
        return float(self._share(2).mean())

    @property
    def without(self) -> float:
        """The part that remains when the circuit is ablated (0: nothing), mean over inputs."""
        return float(self._share(3).mean())

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % intervals over inputs of kept and without; nan for one input."""
        limits = {name: interval(self._share(i)) for name, i in (("kept", 2), ("without", 3))}
        return {name: (float(low), float(high)) for name, (low, high) in limits.items()}

    def __repr__(self) -> str:
        said = {"kept": f"{self.outside} nodes outside ablated", "without": f"{self.inside} nodes inside ablated"}
        lines = ["faithfulness (1: as the whole run, 0: as with every node ablated)"]
        for name, (low, high) in self.intervals.items():
            limits = "" if low != low else f"  [{low:.3f}, {high:.3f}]"
            lines.append(f"{name:8} {getattr(self, name):8.3f}{limits}  {said[name]}")
        return "\n".join(lines)


def faithfulness(
    circuit: Circuit, clean: Runs, *, how: How = "zero", measure: Measure | None = None, batch: int | None = None, progress: bool = True
) -> Faithfulness:  # fmt: skip
    """Runs with everything outside a circuit ablated, and with everything inside ablated.

    "Everything" is the pool of nodes that the circuit was chosen from. clean: a function that takes capture= and edit=, or a list of
    them. how: as for `ablate_sweep`; another run (the corrupted one) takes its values, so that nothing unnatural is put in.
    measure: of a result; None: its loss where it has one, else the distance of its latents from those of the run as it is.
    Raises ValueError where ablating every node changes nothing, so that there is nothing to keep.
    """
    inputs = listed(clean, "clean")
    results = [learn(run) for run in inputs]
    shapes = [learnt.known()[0] for _, learnt in results]
    if circuit.axes.steps != (-1,):
        same_steps(shapes, "faithfulness")
    source, _ = ablation(how, inputs, circuit.points, None, shapes, "faithfulness")
    pool = circuit.pool()
    outside = [node for node in pool if node not in circuit.nodes]
    found = []
    for run, (result, learnt) in zip(inputs, results, strict=True):
        measuring = loss_or_distance(result) if measure is None else measure
        with torch.no_grad():
            here = number_of(measuring(result))
        jobs = [all_but([], circuit, source), all_but(list(circuit.nodes), circuit, source), put_all(list(circuit.nodes), source)]
        values = measured(run, [job for job in jobs if job], measuring, learnt, batch=batch, progress=progress, describe="faithfulness")
        if not jobs[2]:  # an empty circuit: with nothing inside ablated the run is as it is
            values.append(here)
        if values[0] == here:
            raise ValueError(f"faithfulness: with all {len(pool)} nodes ablated the run measures the same ({here:.6g})")
        found.append([here, *values])
    return Faithfulness(torch.tensor(found, dtype=torch.double, device="cpu"), len(circuit.nodes), len(outside))


def all_but(nodes: Sequence, circuit: Circuit, source: Source) -> Job:
    """The edits that ablate the pool of a circuit except for some nodes."""
    keep = list(nodes)
    if circuit.axes.is_whole:
        return {place: Put([n for n in keep if n.place == place], source, but=True) for place in circuit.points}
    return put_all([node for node in circuit.pool() if node not in set(keep)], source)
