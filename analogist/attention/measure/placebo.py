"""Placebo: what circuits without meaning recover, beside the circuit of a claim.

A circuit's claim is that its clean activations, put into the corrupted run, bring the clean outcome back. Its controls are random circuits
of the same size, matched by layer or by the norm of what patching moves, and clean activations of other inputs (permuted inputs).
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch

from analogist.attention.capture.capture import Capture
from analogist.attention.edit.node import Node
from analogist.attention.edit.put import Stored, put_all
from analogist.attention.measure.circuit import Circuit
from analogist.attention.measure.many_runs import measured
from analogist.attention.measure.runs import Measure, Runs, learn, paired, same_steps
from analogist.attention.measure.sweep import contrast_of, said_of
from analogist.attention.select.run_shape import RunShape
from analogist.models.control import At

NEAREST = 4  # nodes among which a match is drawn
KINDS = ("layer", "norm", "permuted inputs")


@dataclass(frozen=True)
class Placebo:
    """The recovered part of the gap, mean over inputs: of the circuit, and of each control.

    circuit: of the circuit itself. controls: by kind, one number per draw: "layer" and "norm" (random circuits), "permuted inputs" (the
    circuit's nodes with another input's values; missing for one input). notes: cautions for the reader.
    """

    circuit: float
    controls: dict[str, tuple[float, ...]]
    notes: tuple[str, ...] = ()

    def p(self, kind: str) -> float:
        """The share of draws that recover as much as the circuit, which counts as one: at least 1 / (draws + 1)."""
        draws = self.controls[kind]
        return (1 + sum(value >= self.circuit for value in draws)) / (1 + len(draws))

    def rows(self) -> list[dict]:
        """One row per kind of control: kind, draws, mean, least, most, p."""
        return [
            {"kind": kind, "draws": len(draws), "mean": sum(draws) / len(draws), "least": min(draws), "most": max(draws), "p": self.p(kind)}
            for kind, draws in self.controls.items()
        ]

    def __repr__(self) -> str:
        lines = [f"recovered by the circuit {self.circuit:.3f}; by controls:"]
        for row in self.rows():
            lines.append(
                f"{row['kind']:16} {row['mean']:7.3f}  [{row['least']:.3f}, {row['most']:.3f}] in {row['draws']} draws, p {row['p']:.3f}"
            )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def placebo(
    circuit: Circuit, clean: Runs, corrupted: Runs, *, draws: int = 20, seed: int = 0, measure: Measure | None = None,
    batch: int | None = None, progress: bool = True,
) -> Placebo:  # fmt: skip
    """Patches a circuit, random circuits of the same size, and the circuit with other inputs' values into the corrupted run.

    A random circuit replaces each node by another one of the pool, outside the circuit: one of the four nearest by site, or by the norm
    of clean minus corrupted activation. draws: per kind and input. Permuted inputs: every other input in turn, of the same size.
    clean, corrupted, measure, batch: as for `patch_sweep`.
    Raises ValueError for an empty circuit, and where the pool has too few other nodes.
    """
    if not circuit.nodes:
        raise ValueError("placebo: this circuit has no nodes; nothing of its size can be drawn")
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
        raise ValueError(f"draws {draws!r}: expected a whole number, at least 1")
    pairs, chance = paired(clean, corrupted), random.Random(seed)
    runs = [learn(good, capture=Capture(*circuit.points)) for good, _ in pairs]
    same_steps([learnt.known()[0] for _, learnt in runs], "placebo")
    values = [Stored(result.maps) for result, _ in runs]
    contrasts, own, found = [], [], {kind: [] for kind in KINDS}
    for number, ((good, bad), (result, learnt)) in enumerate(zip(pairs, runs, strict=True)):
        base, of_corrupted = learn(bad, capture=Capture(*circuit.points))
        same_steps([learnt.known()[0], of_corrupted.known()[0]], "placebo")
        contrast, measuring = contrast_of("placebo", good, result, base, measure)
        norms = _norms(circuit, values[number], Stored(base.maps), learnt.known()[0])
        unet = learnt.known()[1]
        sites = {site.name: i for i, site in enumerate(unet.in_order)}
        sets = [("circuit", list(circuit.nodes), values[number])]
        for _ in range(draws):
            by_layer = matched(circuit, lambda one, other, sites=sites: abs(sites[one.site] - sites[other.site]), chance)
            by_norm = matched(circuit, lambda one, other, norms=norms: abs(norms[one] - norms[other]), chance)
            sets += [("layer", by_layer, values[number]), ("norm", by_norm, values[number])]
        sets += [("permuted inputs", list(circuit.nodes), values[(number + shift) % len(pairs)]) for shift in range(1, len(pairs))]
        jobs = [put_all(nodes, source) for _, nodes, source in sets]
        parts = measured(bad, jobs, measuring, learnt, batch=batch, progress=progress, describe="placebo")
        recovered = [(value - contrast.corrupted) / contrast.gap for value in parts]
        own.append(recovered[0])
        for kind in KINDS:
            found[kind].append([value for (name, _, _), value in zip(sets, recovered, strict=True) if name == kind])
        contrasts.append(contrast)
    controls = {
        kind: tuple(torch.tensor(each, dtype=torch.double, device="cpu").mean(0).tolist()) for kind, each in found.items() if each[0]
    }
    notes = said_of(contrasts)
    if len(pairs) == 1:
        notes = (*notes, "one input: no permuted inputs")
    return Placebo(sum(own) / len(own), controls, notes)


def matched(circuit: Circuit, distance: Callable[[Node, Node], float], chance: random.Random) -> list[Node]:
    """For each node of a circuit a different one of its pool, drawn among the nearest of its step, branch and regions; none twice.

    Raises ValueError where the pool has too few.
    """
    taken: list[Node] = []
    for node in circuit.nodes:
        alike = [
            other
            for other in circuit.pool()
            if other not in circuit.nodes and other not in taken
            and (other.step, other.branch, other.query, other.key) == (node.step, node.branch, node.query, node.key)
        ]  # fmt: skip
        if not alike:
            raise ValueError(
                f"placebo: the circuit has {len(circuit.nodes)} of the pool's {len(circuit.pool())} nodes, too few are left to draw; "
                "find it in a larger pool or with a higher threshold"
            )
        chance.shuffle(alike)
        taken.append(chance.choice(sorted(alike, key=lambda other: distance(node, other))[:NEAREST]))
    return taken


def _norms(circuit: Circuit, clean: Stored, corrupted: Stored, run: RunShape) -> dict[Node, float]:
    """The norm of clean minus corrupted activation of each node of the pool."""
    found: dict[Node, float] = {}
    for node in circuit.pool():
        m, other = clean.maps[node.place], corrupted.maps[node.place]
        parts = []
        for i, step in enumerate(m.steps):
            if node.acts(step):
                at = At(m.site, m.point, step, run.times[step], m.hw, run.branches, run.images, run.rows, range(m.site.heads))
                where = node.index(at, run)
                parts.append((m.tensor[i].flatten(0, 1) - other.tensor[i].flatten(0, 1))[where].double().square().sum())
        found[node] = float(torch.stack(parts).sum().sqrt())
    return found
