"""Patch sweep: a clean and a corrupted run, each (site, step, head) of the clean one put into the corrupted one in turn.

Source of the idea: Meng et al. 2022 (causal tracing), Sec. 2.1; Wang et al. 2023 (path patching).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from analogist.attention.capture.capture import Capture
from analogist.attention.capture.maps import AttentionMap, Maps
from analogist.attention.edit.patch import patch

Run = Callable[..., object]  # takes capture= and edit=; gives .maps and (for the default measure) .latents
Measure = Callable[[object], float]


@dataclass(frozen=True, eq=False)
class Sweep:
    """The recovered effect of each patch: 0 as bad as the corrupted run, 1 as good as the clean one.

    recovered: [site step head]; the step axis has one entry -1 where a patch covers all steps, the head axis likewise.
    """

    recovered: Tensor
    sites: tuple[str, ...]
    steps: tuple[int, ...]
    heads: tuple[int, ...]
    clean: float
    corrupted: float

    def rows(self) -> list[dict]:
        """One row a patch: site, step, head (-1: all), recovered; nan where a site has fewer heads."""
        return [
            {"site": site, "step": step, "head": head, "recovered": float(self.recovered[i, j, k])}
            for i, site in enumerate(self.sites)
            for j, step in enumerate(self.steps)
            for k, head in enumerate(self.heads)
        ]

    def best(self, k: int = 5) -> list[dict]:
        """The k patches that recover most."""
        return sorted((r for r in self.rows() if r["recovered"] == r["recovered"]), key=lambda r: -r["recovered"])[:k]

    def __repr__(self) -> str:
        lines = [f"recovered effect (0: corrupted run {self.corrupted:.4g}, 1: clean run {self.clean:.4g}), best first"]
        for row in self.best(12):
            step = "all steps" if row["step"] < 0 else f"step {row['step']}"
            head = "all heads" if row["head"] < 0 else f"head {row['head']}"
            lines.append(f"{row['site']:28} {step:10} {head:10} {row['recovered']:8.3f}")
        return "\n".join(lines)


def patch_sweep(
    clean: Run, corrupted: Run, points: str | Sequence[str] = "*.self:head_out", *, steps: Sequence[int] | str | None = None,
    heads: bool = False, measure: Measure | None = None, capture: dict | None = None, progress: bool = True,
) -> Sweep:  # fmt: skip
    """Runs clean and corrupted once, then the corrupted run once for each patch.

    clean, corrupted: functions that take capture= and edit=, such as functools.partial(model, grid, prompt, progress=False)
    or functools.partial(known.at, model, grid, prompt, b_prime=picture, t=501), with the same steps and sizes.
    points: selectors of what is patched, one point of each site. steps: executed steps patched one by one; "all": patched
    together; None: those of the run one by one. heads: head by head. measure: of a result; None: minus the mean squared
    distance of its latents from the clean run's. capture: further arguments of the Capture, such as {"branches": "text"}.
    """
    selectors = [points] if isinstance(points, str) else list(points)
    chosen = None if steps is None or steps == "all" else list(steps)
    good = clean(capture=Capture(*selectors, steps=chosen, **(capture or {})))
    maps: Maps = good.maps
    bad = corrupted()
    if measure is None:
        target = good.latents

        def measure(result: object) -> float:
            return 0.0 - float(((result.latents - target) ** 2).mean())  # not -float(...): the clean run measures 0, not -0

    first, last = measure(good), measure(bad)
    if first == last:
        raise ValueError(f"patch_sweep: clean and corrupted runs measure the same ({first:.6g}); nothing can be recovered")
    held = next(iter(maps.values())).steps
    columns = (-1,) if steps == "all" else held
    count = max((len(m.coords.get("head", ())) for m in maps.values()), default=0) if heads else 0
    if heads and not count:
        raise ValueError("patch_sweep: heads=True, but these points have no head axis")
    head_axis = tuple(range(count)) if heads else (-1,)
    recovered = torch.full((len(maps), len(columns), len(head_axis)), float("nan"))
    jobs = [
        (i, j, k, _part(m, step, head))
        for i, m in enumerate(maps.values())
        for j, step in enumerate(columns)
        for k, head in enumerate(head_axis)
        if head < 0 or head in m.coords.get("head", ())
    ]
    for i, j, k, part in tqdm(jobs, desc="patching", unit="run", disable=not progress):
        value = measure(corrupted(edit={f"{part.site}:{part.point}": patch(part)}))
        recovered[i, j, k] = (value - last) / (first - last)
    sites = tuple(m.site.name for m in maps.values())
    return Sweep(recovered, sites, tuple(columns), head_axis, first, last)


def _part(m: AttentionMap, step: int, head: int) -> AttentionMap:
    m = m if step < 0 else m.sel(step=step)
    return m if head < 0 else m.sel(head=head)
