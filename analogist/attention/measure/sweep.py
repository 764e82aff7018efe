"""Patch sweep: a clean and a corrupted run, each (site, step, head) of the clean one put into the corrupted one in turn.

Source of the idea: Meng et al. 2022 (causal tracing), Sec. 2.1; Wang et al. 2023 (path patching).
"""

import warnings
from collections.abc import Sequence

import torch

from analogist.attention.capture.capture import Capture
from analogist.attention.capture.maps import AttentionMap
from analogist.attention.edit.node import Node
from analogist.attention.edit.patch import patch
from analogist.attention.measure.many_runs import measured
from analogist.attention.measure.runs import (
    Contrast,
    HardlyDiffer,
    Learn,
    Measure,
    Outcome,
    Run,
    Runs,
    distance_from,
    learn,
    noise_between_seeds,
    number_of,
    paired,
    same_steps,
)
from analogist.attention.measure.sweep_result import Sweep, SweepAxes
from analogist.attention.select.regions import Region
from analogist.attention.select.run_shape import resolve_branches, resolve_steps

__all__ = ["Measure", "Run", "Sweep", "patch_sweep"]


def patch_sweep(
    clean: Runs, corrupted: Runs, points: str | Sequence[str] = "*.self:head_out", *, steps: Sequence[int] | str | None = None,
    heads: bool = False, branches: Sequence[str] | None = None, query: Sequence[Region] | None = None,
    key: Sequence[Region] | None = None, measure: Measure | None = None, capture: dict | None = None, batch: int | None = None,
    progress: bool = True,
) -> Sweep:  # fmt: skip
    """Runs clean and corrupted once, then the corrupted run once for each patch.

    clean, corrupted: functions that take capture= and edit=, such as functools.partial(model, grid, prompt, progress=False)
    or functools.partial(model.at, grid, prompt, b_prime=picture, t=501), with the same steps and sizes; or lists of them, one per input,
    with the same steps too (inputs may differ in them with steps="all").
    points: selectors of what is patched, one point of each site. steps: executed steps patched one by one; "all": patched
    together; None: all steps one by one. heads: head by head. branches, query, key: branches and regions patched one by one,
    each a further axis; None: together. measure: of a result; None: minus the mean squared distance of its latents from the clean run's.
    capture: further arguments of the Capture, such as {"branches": "text"}. batch: patches in one batch; None: as many as memory allows.
    Patches run one by one where the run captures maps of its own (for a measure that reads result.maps), or gives a result that cannot be
    divided among the patches of a batch: one that is no dataclass, or holds one number for all images. batch=2 and more is then refused.
    Warns (HardlyDiffer), and says so in its notes, where clean and corrupted runs differ by less than another seed moves the measure.
    """
    selectors = [points] if isinstance(points, str) else list(points)
    pairs = paired(clean, corrupted)
    before = [learn(bad) for _, bad in pairs]  # of all inputs, so that those that differ are refused before anything is patched
    axes = axes_of_all([learnt for _, learnt in before], selectors, steps, heads, branches, query, key, "patch_sweep")
    each, contrasts, runs = [], [], 0
    for (good, bad), (base, learnt) in zip(pairs, before, strict=True):
        result, of_clean = learn(good, capture=Capture(*selectors, steps=captured(steps), **(capture or {})))
        same_steps([of_clean.known()[0], learnt.known()[0]], "patch_sweep")
        kept = result.maps
        contrast, measuring = contrast_of("patch_sweep", good, result, base, measure)
        parts = [(index, node.place, part_of(kept[node.place], node)) for index, node in axes.nodes()]
        jobs = [(index, place, part) for index, place, part in parts if part is not None]
        edits = [{place: patch(part)} for _, place, part in jobs]
        values = measured(bad, edits, measuring, learnt, batch=batch, progress=progress, describe="patching")
        effect = torch.full(axes.shape, float("nan"), dtype=torch.float32, device="cpu")
        for (index, _, _), value in zip(jobs, values, strict=True):
            effect[index] = value - contrast.corrupted
        each.append(effect)
        contrasts.append(contrast)
        runs += 2 + len(jobs)
    return Sweep(torch.stack(each), axes, tuple(contrasts), "patch", said_of(contrasts), runs)


def axes_of(
    learnt: Learn, selectors: Sequence[str], steps: Sequence[int] | str | None, heads: bool, branches: Sequence[str] | None,
    query: Sequence[Region] | None, key: Sequence[Region] | None, who: str,
) -> SweepAxes:  # fmt: skip
    """The nodes that a sweep goes through. Raises ValueError for steps, heads or regions that the points do not have."""
    run, _ = learnt.known()
    places = tuple((site.name, point, site.heads if "head" in axes else 0) for site, point, axes in learnt.points(selectors))
    count = max(heads for _, _, heads in places) if heads else 0
    if heads and not count:
        raise ValueError(f"{who}: heads=True, but these points have no head axis")
    more = {}
    if branches is not None:
        more["branch"] = resolve_branches(branches, run)
    for name, regions in (("query", query), ("key", key)):
        if regions is not None:
            if isinstance(regions, str):
                raise ValueError(f"{who}: {name}={regions!r}: give a list of regions, each of which is taken separately")
            more[name] = tuple(regions)
    chosen = (-1,) if steps == "all" else resolve_steps(captured(steps), run.steps)
    return SweepAxes(places, chosen, tuple(range(count)) if heads else (-1,), more)


def axes_of_all(
    learnt: Sequence[Learn], selectors: Sequence[str], steps: Sequence[int] | str | None, heads: bool, branches: Sequence[str] | None,
    query: Sequence[Region] | None, key: Sequence[Region] | None, who: str,
) -> SweepAxes:  # fmt: skip
    """The axes that all inputs have: learnt of each. Raises ValueError where they differ, and as `axes_of` does."""
    found = [axes_of(one, selectors, steps, heads, branches, query, key, who) for one in learnt]
    if not isinstance(steps, str):
        same_steps([one.known()[0] for one in learnt], who)
    if any(one != found[0] for one in found):
        raise ValueError(f"{who}: the inputs differ in sites, heads or branches: give only inputs that agree in these")
    return found[0]


def captured(steps: Sequence[int] | str | None) -> Sequence[int] | None:
    """The steps whose values a sweep needs; None: all."""
    if isinstance(steps, str):
        if steps != "all":
            raise ValueError(f"steps {steps!r}: give executed steps, 'all' (all together) or None (one by one)")
        return None
    return None if steps is None else list(steps)


def contrast_of(who: str, clean: Run, good: Outcome, bad: Outcome, measure: Measure | None) -> tuple[Contrast, Measure]:
    """The values of clean and corrupted run with the noise between seeds, and the measure. Raises ValueError where they are equal."""
    measure = distance_from(good.latents) if measure is None else measure
    with torch.no_grad():
        first, last = number_of(measure(good)), number_of(measure(bad))
    if first == last:
        raise ValueError(f"{who}: clean and corrupted runs measure the same ({first:.6g}); nothing can be recovered")
    return Contrast(first, last, noise_between_seeds(clean, measure, first)), measure


def said_of(contrasts: Sequence[Contrast]) -> tuple[str, ...]:
    """The notes of a sweep; warns where clean and corrupted runs hardly differ."""
    notes = []
    for number, one in enumerate(contrasts):
        if one.note:
            notes.append((f"input {number}: " if len(contrasts) > 1 else "") + one.note)
            if one.noise is not None:
                warnings.warn(notes[-1], HardlyDiffer, stacklevel=3)
    return tuple(dict.fromkeys(notes))


def part_of(m: AttentionMap, node: Node) -> AttentionMap | None:
    """What was captured of a node; None where the capture left it out."""
    chosen = {"step": node.step, "branch": node.branch, "head": node.head}
    if any(value is not None and value not in m.coords.get(axis, ()) for axis, value in chosen.items()):
        return None
    return m.sel(step=node.step, branch=node.branch, head=node.head, query=node.query, key=node.key)
