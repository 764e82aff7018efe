"""Ablation sweep: each node of a run replaced by zero, a mean, or another input's value, and what that does to a measure.

Source of the idea: Michel et al. 2019, "Are Sixteen Heads Really Better than One?"; mean and resample ablation as in Wang et al. 2023.
"""

from collections.abc import Mapping, Sequence

import torch

from analogist.attention.capture.capture import Capture
from analogist.attention.capture.maps import AttentionMap
from analogist.attention.edit.put import Mean, Source, Stored, put_all, zero
from analogist.attention.measure.many_runs import measured
from analogist.attention.measure.runs import (
    Contrast,
    Measure,
    Run,
    Runs,
    call,
    learn,
    listed,
    loss_or_distance,
    noise_between_seeds,
    number_of,
    same_steps,
)
from analogist.attention.measure.sweep import axes_of_all, captured, said_of
from analogist.attention.measure.sweep_result import Sweep
from analogist.attention.select.regions import Region
from analogist.attention.select.run_shape import RunShape

How = str | Run | Sequence[Run]  # "zero", "mean", another run, or runs whose mean is taken


def ablate_sweep(
    clean: Runs, points: str | Sequence[str] = "*.self:head_out", *, how: How = "zero", steps: Sequence[int] | str | None = None,
    heads: bool = False, branches: Sequence[str] | None = None, query: Sequence[Region] | None = None,
    key: Sequence[Region] | None = None, measure: Measure | None = None, batch: int | None = None, progress: bool = True,
) -> Sweep:  # fmt: skip
    """Runs once as it is, then once for each node that is ablated.

    clean: a function that takes capture= and edit=, or a list of them, one per input, with the same steps (they may differ with
    steps="all" and how="zero").
    how: "zero"; "mean", over these inputs, their images and the places of the picture; another run, whose value at the same place is
    taken; or a list of runs, whose mean is taken. points, steps, heads, branches, query, key, batch: as for `patch_sweep`; a key region
    of what a head reads is ablated at `*.self:probs`.
    measure: of a result; None: its loss where it has one (`model.at`), else the mean squared distance of its latents from the
    unablated ones. The sweep's `effect` is the raw change: with these measures, above 0 where the ablation does harm.
    """
    selectors = [points] if isinstance(points, str) else list(points)
    inputs = listed(clean, "clean")
    results = [learn(run) for run in inputs]
    axes = axes_of_all([learnt for _, learnt in results], selectors, steps, heads, branches, query, key, "ablate_sweep")
    shapes = [learnt.known()[0] for _, learnt in results]
    source, taken = ablation(how, inputs, selectors, captured(steps), shapes, "ablate_sweep")
    other = call(how) if callable(how) else None
    each, contrasts = [], []
    for run, (result, learnt) in zip(inputs, results, strict=True):
        measuring = loss_or_distance(result) if measure is None else measure
        with torch.no_grad():
            here = number_of(measuring(result))
            there = here if other is None else number_of(measuring(other))
        jobs = list(axes.nodes())
        edits = [put_all([node], source) for _, node in jobs]
        values = measured(run, edits, measuring, learnt, batch=batch, progress=progress, describe="ablating")
        effect = torch.full(axes.shape, float("nan"), dtype=torch.float32, device="cpu")
        for (index, _), value in zip(jobs, values, strict=True):
            effect[index] = value - here
        each.append(effect)
        contrasts.append(Contrast(here, there, None if other is None else noise_between_seeds(run, measuring, here)))
    notes = () if other is None else said_of(contrasts)
    return Sweep(torch.stack(each), axes, tuple(contrasts), "ablation", notes, taken + len(inputs) * (1 + len(jobs)))


def ablation(
    how: How, inputs: Sequence[Run], selectors: Sequence[str], steps: Sequence[int] | None, shapes: Sequence[RunShape], who: str
) -> tuple[Source, int]:
    """The source of an ablation's values, and how many runs it took. shapes: of the inputs' runs.

    Raises ValueError for an unknown kind, and where the values are from runs with another number of steps.
    """
    if how == "zero":
        return zero, 0

    def maps(run: Run) -> Mapping[str, AttentionMap]:
        result, learnt = learn(run, capture=Capture(*selectors, steps=steps))
        same_steps([learnt.known()[0], *shapes], f"{who}, how=")
        return result.maps

    if callable(how):
        return Stored(maps(how)), 2
    runs = inputs if how == "mean" else how
    if isinstance(runs, str) or not all(map(callable, runs)) or not runs:
        raise ValueError(f"how={how!r}: allowed are 'zero', 'mean', a run, and a list of runs whose mean is taken")
    return Mean(maps(run) for run in runs), len(runs)
