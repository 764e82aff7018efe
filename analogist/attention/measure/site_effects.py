"""What SAC and CAM change at each site: of the map, and of the head output, against the same tensors without them."""

from collections.abc import Callable

from torch import Tensor

from analogist.models.control import At
from analogist.models.placement import TEXT

Run = Callable[..., object]  # takes edit= and capture=, such as functools.partial(model, grid, prompt)

COLUMNS = ("logits", "probs", "head_out")


class Probe:
    """An edit that changes nothing and measures; it holds the tensors of one site at a time."""

    def __init__(self, steps: object) -> None:
        if steps is not None:
            self.steps = steps
        self.rows: list[dict] = []
        self._held: dict[str, Tensor] = {}

    def __call__(self, tensor: Tensor, at: At) -> Tensor:
        now = tensor.detach()
        if at.point == "head_out":
            self._measure(now, at)
            self._held = {}
        else:
            self._held[at.point] = now.clone()
        return tensor

    def _measure(self, head_out: Tensor, at: At) -> None:
        scores, logits, probs, v = (self._held[point].float() for point in ("scores", "logits", "probs", "v"))
        plain = scores.softmax(-1)
        without = plain @ v
        pairs = {"logits": (logits, scores), "probs": (probs, plain), "head_out": (head_out.float(), without)}
        for i in range(at.branches):
            chosen = slice(i * at.images, (i + 1) * at.images)
            branch = ("negative", "text")[i if at.branches == 2 else TEXT]
            row = {"site": at.site.name, "layer": at.site.layer, "kind": at.site.kind, "step": at.step, "t": at.t, "branch": branch}
            for name, (now, before) in pairs.items():
                row[name] = float((now[chosen] - before[chosen]).norm() / before[chosen].norm())
            self.rows.append(row)


class Effects(list):
    """Rows of an effect measurement, dictionaries with site, layer, kind, step, t, branch, logits, probs and head_out."""

    def mean(self, column: str = "head_out") -> dict[str, float]:
        """The mean of a column over steps and branches, by site in execution order."""
        if column not in COLUMNS:
            raise ValueError(f"column {column!r}: allowed are {', '.join(COLUMNS)}")
        sites = dict.fromkeys(row["site"] for row in self)
        return {site: sum(values) / len(values) for site in sites if (values := [r[column] for r in self if r["site"] == site])}

    def __repr__(self) -> str:
        means = {column: self.mean(column) for column in COLUMNS}
        lines = [f"{'relative change, mean over steps and branches':46}" + "".join(f"{column:>10}" for column in COLUMNS)]
        return "\n".join(lines + [f"{site:46}" + "".join(f"{means[c][site]:10.4f}" for c in COLUMNS) for site in means["probs"]])


def effects(run: Run, sites: str = "*", *, steps: object = None) -> Effects:
    """Runs once and measures at each site how far SAC and CAM move logits, probs and head_out: ||with - without|| / ||without||.

    run: takes edit=, such as functools.partial(model, grid, "a red circle"). sites: a shell pattern on site names, or a layer
    number. steps: executed steps to measure; None: all. "Without" is computed from the scores and values of the same run, so
    that it is the effect at that site alone, not what it leads to later. The run's result stays the same. Four whole maps of one site
    are held at a time, 1 GiB each at the finest sites at 512 px in float32: leave these sites out where memory is short.
    """
    probe = Probe(steps)
    run(edit={f"{sites}:{point}": probe for point in ("v", "scores", "logits", "probs", "head_out")})
    if not probe.rows:
        raise ValueError("effects: the run reached none of the steps to measure")
    return Effects(probe.rows)
