"""How many inputs a study needs: from a pilot, what each of its hypotheses could show, before the study is run."""

import dataclasses
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import cast

from analogist.experiments.decide.equivalence import margin_of
from analogist.experiments.decide.power import detectable, spread_with, units_for_equivalence, units_for_flips, units_to_see
from analogist.experiments.decide.units import MANY_SEEDS
from analogist.experiments.decide.verdicts import ALPHA, compared_runs, reference_mean, smallest_for
from analogist.experiments.design.inputs import dealt
from analogist.experiments.design.study import Study
from analogist.experiments.execute.jobs import Plan, make_groups
from analogist.experiments.execute.store import Entry, Store
from analogist.experiments.execute.table import make_rows
from analogist.experiments.execute.worker import Worker

PILOT_SEEDS = 2  # of each input of a pilot: the least that tells inputs from seeds


def pilot_part(plan: Plan, inputs: int) -> Plan:
    """The runs of a pilot: this many inputs, dealt evenly over their groups, two seeds at most, only what hypotheses compare."""
    study = plan.study
    place = {one.name: i for i, one in enumerate(study.resolved)}
    chosen = {place[one.name] for one in dealt(study.resolved)[:inputs]}
    seeds = set(study.effective_seeds()[:PILOT_SEEDS])
    at = plan.variants[0].levels
    wanted = [at | dict(levels) for one in study.hypotheses for levels in ({}, one.variant, one.against)]
    rows = tuple(row for row in plan.rows if row.input in chosen and row.seed in seeds and row.variant.levels in wanted)
    keys = {row.key for row in rows}
    groups = make_groups([job for job in plan.jobs if job.key in keys], study.group, study.batch, study.share)
    return dataclasses.replace(plan, rows=rows, groups=tuple(groups))


def run_pilot(plan: Plan, worker: Worker) -> dict[str, Entry]:
    """Runs a pilot in this process and keeps its values; no picture and no file is written."""
    out = {}
    for group in plan.groups:
        for done in worker.run(group):
            out[done.key] = Entry(done.key, None, None, done.record, done.measures, done.notes, done.failed, 0.0)
    return out


def sample_size_lines(plan: Plan, entries: Mapping[str, Entry], worker: Worker) -> list[str]:
    """What the study could show, in words. entries: finished runs, the pilot; without two inputs among them only in standard units."""
    study, n = plan.study, len(plan.study.inputs)
    if n < 2:
        return ["sample size: one input; its seeds say nothing about other inputs"]
    count = max(1, len(study.hypotheses))
    alpha = ALPHA / count
    strict = f" at {alpha:.2g}, the strictest step of Holm's correction over {count} claims" if count > 1 else " at 0.05"
    if _too_few(study, n, alpha):
        lines = [
            f"sample size: {n} inputs can show no difference{strict}: the smallest p of their sign flips is {2.0 ** (1 - n):.2g}; "
            f"{units_for_flips(alpha)} inputs are the least"
        ]
    else:
        lines = [
            f"sample size: {n} inputs show a difference of {detectable(1.0, n, alpha=alpha):.2f} standard deviations of the inputs' paired "
            f"differences in 80 % of studies{strict}"
        ]
    if not study.hypotheses:
        return [*lines, "  the study has no hypotheses to count inputs for"]
    rows = make_rows(plan, cast(Store, SimpleNamespace(entries=entries)), worker.measurer, changes=False)
    names = {row["input"] for row in rows if row["status"] == "done"}
    if len(names) < 2:
        return [*lines, "  a pilot tells more: add --pilot 8 (runs 8 inputs now and keeps nothing), or run some inputs into --out first"]
    lines.append(f"  pilot: {len(names)} inputs, {len({row['seed'] for row in rows})} seeds; with few inputs its spreads are rough")
    return lines + [f"  {one.claim}: {_of_claim(plan, rows, one, n, alpha)}" for one in study.hypotheses]


def _of_claim(plan: Plan, rows: Sequence[dict], one, n: int, alpha: float) -> str:
    study, factors = plan.study, list(plan.variants[0].levels)
    compared = compared_runs(rows, factors, one, one.metric)
    spread = None if compared is None else spread_with(compared.differences, len(study.effective_seeds()))
    if spread is None:
        return f"the pilot holds no two inputs with {one.metric}"
    sd, told = spread
    shown = "none" if _too_few(study, n, alpha) else f"{detectable(sd, n, alpha=alpha):.3g}"
    seen = f"{one.metric} differences have a spread of {sd:.3g}, so {n} inputs show {shown}"
    margin = margin_of(smallest_for(study.smallest_effect, one.metric), reference_mean(rows, one.metric))
    if margin is not None:
        to_see, to_rule_out = (search(margin, sd, alpha=alpha) for search in (units_to_see, units_for_equivalence))
        if to_see is not None and len(study.effective_seeds()) < MANY_SEEDS:
            to_see = max(to_see, units_for_flips(alpha))
        needed = _count(to_see), _count(to_rule_out)
        seen += f"; {margin:.3g}, the least that matters, takes {needed[0]} inputs to see and {needed[1]} to rule out"
    unknown = " (the pilot has one seed per input, so the gain from more seeds is not counted)"
    return seen + ("" if told or len(study.effective_seeds()) == 1 else unknown)


def _too_few(study: Study, n: int, alpha: float) -> bool:
    """Whether sign flips of n inputs can give no p below alpha; from 8 seeds on the test is another one."""
    return len(study.effective_seeds()) < MANY_SEEDS and n < units_for_flips(alpha)


def _count(n: int | None) -> str:
    return "more than a million" if n is None else str(n)
