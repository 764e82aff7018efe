"""The page to read a study in: study.html beside the report, one self-contained file. Its script and style are in assets/.

Tables, texts and differences are those of the report. What does not fit is left out by stated steps: pictures become smaller, then
inputs and then variants are left out; effects, claims and interactions are always of the whole study.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import analogist
from analogist.experiments.decide.level_effects import Comparison, comparisons
from analogist.experiments.decide.statistics import Effect
from analogist.experiments.decide.verdicts import compared_runs
from analogist.experiments.design.factors import FACTORS
from analogist.experiments.design.study import CHANGE
from analogist.experiments.execute.jobs import Plan
from analogist.experiments.execute.store import Store
from analogist.experiments.report.page_pictures import Form
from analogist.experiments.report.page_runs import DIGITS, Runs, levels_in, number
from analogist.experiments.report.report_text import (
    Findings,
    changed_text,
    claims_texts,
    facts_text,
    how_text,
    metric_text,
    not_measured,
    reference_text,
    resolution_text,
)
from analogist.experiments.report.tables import claims_table, effects_table, interactions_table
from analogist.experiments.score.metrics import Metric
from analogist.explore.html_page import HtmlPage, build

PAGE = "study.html"
MAX_BYTES = 20_000_000
EFFECTS = 2_000  # per metric on the page, the largest; all are in effects.csv
ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("study_data.js", "study_tables.js", "study_run.js", "study_main.js")
FORMAT = 1


class StudyPage(HtmlPage):
    """The page of a study. said: what it holds and what was left out, in one sentence for the report."""

    title = "Study"

    def __init__(self, page: str, said: str) -> None:
        super().__init__(page)
        self.said = said


@dataclass(frozen=True)
class Told:
    """The results of a study, as the report has them. metrics: all of them by name. notes: on what was left out. remarks: on changes."""

    findings: Findings
    metrics: Mapping[str, Metric]
    notes: Sequence[str] = ()
    remarks: Sequence[str] = ()


def study_page(plan: Plan, store: Store, rows: Sequence[dict], told: Told, *, max_bytes: int = MAX_BYTES) -> StudyPage:
    """The page of a study's table, at most max_bytes long. Raises ValueError where not even one run fits."""
    inputs = list(dict.fromkeys(row["input"] for row in rows))
    factors = list(plan.variants[0].levels)
    variants = list(dict.fromkeys(levels_in(row, factors) for row in rows))
    variants.sort(key=lambda levels: levels != tuple(plan.variants[0].levels.values()))  # the reference stays longest
    whole = (len(inputs), len(variants))
    while True:
        runs = Runs(plan, store, rows, factors, set(inputs), set(variants))
        data = runs.data | _tables(plan, rows, told, factors, runs) | {"pictures": []}
        data["notes"] = {"holds": [], "left_out": []}
        left_out = _left_out(whole, (len(inputs), len(variants)), told.findings)
        fixed = len(_text(data, plan)) + 2_000 + sum(map(len, left_out))
        encoded = runs.album.encoded(max_bytes - fixed)
        if encoded is not None:
            break
        if len(inputs) > 1:
            inputs = inputs[: (len(inputs) + 1) // 2]
        elif len(variants) > 1:
            variants = variants[: (len(variants) + 1) // 2]
        else:
            raise ValueError(f"a page of {max_bytes} bytes holds not even one run; at least {fixed} bytes are needed")
    pictures, form = encoded
    holds = _holds(runs, pictures, form)
    data["pictures"] = pictures
    data["notes"] = {
        "holds": holds, "left_out": left_out or ["nothing"], "missing": [*not_measured(rows), *told.notes],
        "moot": [str(one) for one in told.findings.moot],
    }  # fmt: skip
    said = f"A page to read this study in is {PAGE}. It holds {'; '.join(holds)}. Left out: {'; '.join(left_out) or 'nothing'}."
    return StudyPage(_text(data, plan), said)


def _text(data: dict, plan: Plan) -> str:
    return build(ASSETS, "study.html", "study.css", SCRIPTS, data, f"Study: {plan.study.name}")


def _holds(runs: "Runs", pictures: Sequence[str], form: Form) -> list[str]:
    size = sum(map(len, pictures)) / 1e6
    return [
        f"{len(runs)} runs on {len(runs.inputs)} inputs, with all their numbers (of {DIGITS} digits; table.csv has all digits)",
        f"{len(pictures)} pictures, {form}, {size:.1f} MB in all" if pictures else "no picture, because no run has one",
    ]


def _left_out(whole: tuple[int, int], kept: tuple[int, int], findings: Findings) -> list[str]:
    """What does not fit on the page, and where it is."""
    out = [
        f"{total - here} of {total} {what}: their runs are in table.csv and pictures/, and they count in all effects and claims"
        for what, total, here in zip(("inputs", "variants"), whole, kept, strict=True)
        if here < total
    ]
    for name, found in (("effects", findings.effects), ("interactions", findings.interactions)):
        more = len(found) - len(_largest(found))
        out += [f"{more} of {len(found)} {name}, the smallest ones: they are in {name}.csv"] if more else []
    return out


def _largest(found: Sequence[Effect]) -> list[Effect]:
    """The first EFFECTS of each metric; they come by size."""
    kept: dict[str, list[Effect]] = {}
    for one in found:
        of_metric = kept.setdefault(one.metric, [])
        if len(of_metric) < EFFECTS:
            of_metric.append(one)
    return [one for of_metric in kept.values() for one in of_metric]


def _tables(plan: Plan, rows: Sequence[dict], told: Told, factors: Sequence[str], runs: Runs) -> dict:
    """Everything on the page about the study as a whole."""
    study, findings, metrics = plan.study, told.findings, told.metrics
    there = list(runs.data["values"])
    reference = plan.variants[0].levels
    by_level: dict[tuple[str, str], list[Comparison]] = {}
    for metric in there if factors else []:
        for one in comparisons(rows, factors, metric):
            by_level.setdefault(next(iter(one.levels.items())), []).append(one)
    pairs = {level: place for place, level in enumerate(by_level)}
    compared = [runs.pairs(of_level) for of_level in by_level.values()]
    claims = []
    for one, cells in zip(findings.verdicts, claims_table(findings.verdicts).rows, strict=True):
        of_claim = [compared_runs(rows, factors, one.hypothesis, metric) for metric in there]
        claims.append({
            "cells": cells, "metric": one.hypothesis.metric, "verdict": one.verdict, "why": one.why, "margin": number(one.margin),
            "comparison": len(compared), **_interval(one.effect),
        })  # fmt: skip
        compared.append(runs.pairs(other for other in of_claim if other is not None))
    effects, crossed = _largest(findings.effects), _largest(findings.interactions)
    return {
        "format": FORMAT,
        "analogist": analogist.__version__,
        "study": study.name,
        "question": study.question,
        "facts": facts_text(plan, rows),
        "about": [
            *filter(None, [how_text(findings)]), *(claims_texts(findings.looks) if findings.verdicts else []),
            *([changed_text(told.remarks)] if told.remarks else []), reference_text(plan),
        ],  # fmt: skip
        "metrics": [
            {
                "name": name, "text": f"{metric_text(name, metrics)}.", "better": metrics[name].better if name in metrics else "",
                "warning": resolution_text([one for one in findings.effects if one.metric == name]),
            }
            for name in there
        ],
        "change": CHANGE,
        "factors": [
            {
                "name": name, "text": FACTORS[name][1], "reference": reference[name],
                "levels": list(dict.fromkeys(variant.levels[name] for variant in plan.variants)),
            }
            for name in factors
        ],
        "comparisons": compared,
        "heads": {
            "claims": claims_table([]).heads, "effects": effects_table([]).heads, "interactions": interactions_table([]).heads,
        },
        "claims": claims,
        "effects": [
            {"cells": cells, "metric": one.metric, "factor": one.factor, "level": one.level, **_interval(one),
             "comparison": pairs[one.factor, one.level]}
            for one, cells in zip(effects, effects_table(effects).rows, strict=True)
        ],
        "interactions": [
            {"cells": cells, "metric": one.metric, **_interval(one)}
            for one, cells in zip(crossed, interactions_table(crossed).rows, strict=True)
        ],
    }  # fmt: skip


def _interval(one: Effect | None) -> dict:
    """An effect's mean and interval as numbers, for the drawing beside the text."""
    return {name: None if one is None else number(getattr(one, name)) for name in ("mean", "low", "high")}
