"""Circuits: the nodes and edges that carry an effect. Found here, saved as JSON, drawn by look/circuit_picture.py.

Every claim needs its control: `faithfulness` (faithful.py) and `placebo` (placebo.py).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from analogist.attention.edit.node import Node
from analogist.attention.measure.attribution import attribution_patch
from analogist.attention.measure.edges import OUTPUT, EdgeSweep
from analogist.attention.measure.path import path_patch
from analogist.attention.measure.runs import Measure, Runs
from analogist.attention.measure.sweep import patch_sweep
from analogist.attention.measure.sweep_result import SweepAxes
from analogist.attention.select.regions import Region
from analogist.disk.writing import atomic_write

if TYPE_CHECKING:
    from PIL import Image

FORMAT = 1  # of the JSON file


@dataclass(frozen=True)
class Circuit:
    """Nodes and edges that carry an effect.

    nodes: each with the part of the gap between corrupted and clean run that it closes. edges: (sender, receiver or "output", part).
    axes: all the nodes that it was chosen from. threshold: the smallest absolute part that was kept. by: "attribution" or "patch".
    """

    nodes: dict[Node, float]
    edges: tuple[tuple[Node, Node | str, float], ...]
    axes: SweepAxes
    threshold: float
    by: str
    notes: tuple[str, ...] = ()

    @property
    def points(self) -> tuple[str, ...]:
        """Selectors of all the places that it was chosen from."""
        return tuple(f"{site}:{point}" for site, point, _ in self.axes.places)

    def pool(self) -> list[Node]:
        """All the nodes that it was chosen from, in execution order of sites."""
        return [node for _, node in self.axes.nodes()]

    def with_nodes(self, nodes: Sequence[Node]) -> "Circuit":
        """Other nodes of the same pool, without edges and weights: what a control takes in its place."""
        return Circuit(dict.fromkeys(nodes, float("nan")), (), self.axes, self.threshold, "given")

    def __repr__(self) -> str:
        lines = [f"circuit: {len(self.nodes)} of {len(self.pool())} nodes, {len(self.edges)} edges, parts of {self.threshold:g} and more"]
        lines += [f"  {node!s:52} {weight:8.3f}" for node, weight in sorted(self.nodes.items(), key=lambda pair: -abs(pair[1]))]
        lines += [f"  {sender!s:44} -> {receiver!s:44} {weight:8.3f}" for sender, receiver, weight in self.edges]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def to_json(self) -> dict:
        """Plain values for a JSON file; `from_json` gives an equal circuit back."""
        order = list(self.nodes)
        return {
            "format": FORMAT,
            "by": self.by,
            "threshold": self.threshold,
            "axes": {"places": self.axes.places, "steps": self.axes.steps, "heads": self.axes.heads, "more": dict(self.axes.more)},
            "nodes": [{**node.to_json(), "part": part} for node, part in self.nodes.items()],
            "edges": [
                {"sender": order.index(sender), "receiver": order.index(receiver) if isinstance(receiver, Node) else OUTPUT, "part": part}
                for sender, receiver, part in self.edges
            ],
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, data: dict) -> "Circuit":
        """Raises ValueError where it is no circuit of this format."""
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f"this is no circuit of format {FORMAT}; find_circuit(...).save(path) writes one")
        parts = [dict(node) for node in data["nodes"]]
        weights = [node.pop("part") for node in parts]
        nodes = [Node(**node) for node in parts]
        axes = data["axes"]
        more = {name: tuple(tuple(v) if isinstance(v, list) else v for v in values) for name, values in axes["more"].items()}
        return cls(
            dict(zip(nodes, weights, strict=True)),
            tuple((nodes[e["sender"]], OUTPUT if e["receiver"] == OUTPUT else nodes[e["receiver"]], e["part"]) for e in data["edges"]),
            SweepAxes(tuple(map(tuple, axes["places"])), tuple(axes["steps"]), tuple(axes["heads"]), more),
            data["threshold"], data["by"], tuple(data["notes"]),
        )  # fmt: skip

    def save(self, path: str | Path) -> None:
        """Writes it as JSON, whole or not at all."""
        atomic_write(path, (json.dumps(self.to_json(), indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> "Circuit":
        """Raises ValueError where the file is no circuit."""
        try:
            return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is no JSON file: {error}") from error

    def draw(self) -> "Image.Image":
        """A picture: sites from left to right in execution order, lower resolutions below, colour the query region, edges by weight."""
        from analogist.attention.look.circuit_picture import draw_circuit

        return draw_circuit(self)


def find_circuit(
    clean: Runs, corrupted: Runs, points: str | Sequence[str] = "*.self:head_out", *, threshold: float = 0.05, by: str = "attribution",
    heads: bool = True, steps: Sequence[int] | str | None = "all", branches: Sequence[str] | None = None,
    query: Sequence[Region] | None = None, measure: Measure | None = None, batch: int | None = None, progress: bool = True,
) -> Circuit:  # fmt: skip
    """The nodes and edges that close at least `threshold` of the gap between corrupted and clean run, on average over inputs.

    threshold: compared with the absolute value of each part; the whole gap is 1. by: "attribution" (`attribution_patch`: few runs, to
    first order) or "patch" (`patch_sweep` for all nodes, then `path_patch` between those that were kept: exact, many runs).
    Other arguments as for these functions. Read the result beside `faithfulness` and `placebo`.
    """
    if by not in ("attribution", "patch"):
        raise ValueError(f"by={by!r}: allowed are 'attribution' and 'patch'")
    if not isinstance(threshold, int | float) or isinstance(threshold, bool) or not threshold > 0:
        raise ValueError(f"threshold {threshold!r}: expected a part of the gap above 0, such as 0.05")
    asked = {"heads": heads, "steps": steps, "branches": branches, "query": query, "measure": measure, "progress": progress}
    if by == "attribution":
        sweep = attribution_patch(clean, corrupted, points, edges=True, **asked)
        assert isinstance(sweep, EdgeSweep) and sweep.axes is not None  # as edges=True gives
        axes = sweep.axes
        parts = dict(zip(sweep.senders, sweep.nodes().tolist(), strict=True))
    else:
        patches = patch_sweep(clean, corrupted, points, batch=batch, **asked)
        axes = patches.axes
        parts = {node: float(patches.recovered[index]) for index, node in axes.nodes()}
    nodes = {node: part for node, part in parts.items() if abs(part) >= threshold}
    if by == "patch":
        notes = patches.notes
        if not nodes:
            return Circuit({}, (), axes, threshold, by, notes)
        sweep = path_patch(
            clean, corrupted, list(nodes), [*nodes, OUTPUT], list(dict.fromkeys([points] if isinstance(points, str) else points)),
            measure=measure, batch=batch, progress=progress,
        )  # fmt: skip
    kept = {*nodes, OUTPUT}
    edges = tuple(
        (row["sender"], row["receiver"], row["recovered"])
        for row in sweep.rows()
        if row["sender"] in nodes and row["receiver"] in kept and row["sender"] != row["receiver"] and abs(row["recovered"]) >= threshold
    )
    return Circuit(nodes, edges, axes, threshold, by, sweep.notes)
