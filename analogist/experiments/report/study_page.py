"""The page to read a study in: study.html beside the report, one self-contained file. Its script and style are in assets/.

Tables, texts and differences are those of the report. What does not fit is left out by stated steps: pictures become smaller, then
inputs and then variants are left out; effects, claims and interactions are always of the whole study.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import analogist
from analogist.experiments.decide.level_effects import Comparison, comparisons
from analogist.experiments.decide.statistics import Effect
from analogist.experiments.decide.verdicts import compared_runs
from analogist.experiments.design.factors import FACTORS
from analogist.experiments.design.inputs import Input
from analogist.experiments.design.study import CHANGE
from analogist.experiments.execute.jobs import Plan, content_key
from analogist.experiments.execute.store import Store
from analogist.experiments.report.page_pictures import Album, Form
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
)  # fmt: skip
from analogist.experiments.report.tables import claims_table, effects_table, interactions_table
from analogist.experiments.score.metrics import Metric
from analogist.explore.html_page import HtmlPage, build
from analogist.grid.prompt_grid import PromptGrid

PAGE = "study.html"
MAX_BYTES = 20_000_000
EFFECTS = 2_000  # per metric on the page, the largest; all are in effects.csv
DIGITS = 6  # of numbers of single runs
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
    """What a study came to, in the report's words. metrics: all of them by name. notes: on what was left out. remarks: on changes."""

    findings: Findings
    metrics: Mapping[str, Metric]
    notes: Sequence[str] = ()
    remarks: Sequence[str] = ()


def study_page(plan: Plan, store: Store, rows: Sequence[dict], told: Told, *, max_bytes: int = MAX_BYTES) -> StudyPage:
    """The page of a study's table, at most max_bytes long. Raises ValueError where not even one run fits."""
    inputs = list(dict.fromkeys(row["input"] for row in rows))
    factors = list(plan.variants[0].levels)
    variants = list(dict.fromkeys(_levels(row, factors) for row in rows))
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


def _levels(row: Mapping, factors: Sequence[str]) -> tuple[str, ...]:
    return tuple(row[name] for name in factors)


def _number(value: float | None) -> float | None:
    """A number as JSON can hold it: None for what is not finite."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")


@dataclass
class Pool:
    """Values that many runs share, each kept once."""

    values: list = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)

    def place(self, value: object) -> int:
        key = json.dumps(value, sort_keys=True)
        if key not in self.places:
            self.places[key] = len(self.values)
            self.values.append(value)
        return self.places[key]


class Runs:
    """The runs that a page shows, numbered. data: their part of the manifest. album: the pictures that it names by number."""

    def __init__(
        self, plan: Plan, store: Store, rows: Sequence[dict], factors: Sequence[str], inputs: set[str], variants: set[tuple]
    ) -> None:  # fmt: skip
        self.album, self.factors = Album(), list(factors)
        self.numbers: dict[tuple, int] = {}  # (input, seed, levels) -> number
        levels_of: dict[tuple[str, ...], int] = {}
        self.inputs: dict[str, int] = {}
        pool, columns = Pool(), {name: [] for name in ("id", "variant", "input", "seed", "picture", "file", "command", "failed", "record")}
        values: dict[str, list[float | None]] = {name: [] for name in dict.fromkeys(row["metric"] for row in rows)}
        jobs = {job.key: job for job in plan.jobs}  # inputs of one content share a job
        given = {plan.study.resolved[row.input].name: (plan.study.resolved[row.input], jobs[row.key].grid) for row in plan.rows}
        for row in rows:
            levels = _levels(row, factors)
            if row["input"] not in inputs or levels not in variants:
                continue
            key = (row["input"], row["seed"], levels)
            if key not in self.numbers:
                self.numbers[key] = len(self.numbers)
                record = json.loads(row["record"])
                done = row["status"] == "done"
                entry = store.entries[row["job"]]
                columns["id"].append(content_key([row["input"], str(row["seed"]), list(levels)])[:10])
                columns["variant"].append(levels_of.setdefault(levels, len(levels_of)))
                columns["input"].append(self.inputs.setdefault(row["input"], len(self.inputs)))
                columns["seed"].append(str(row["seed"]))  # as text: a script's numbers end at 2**53
                picture = self.album.place(str(entry.sha256), lambda entry=entry: store.picture(entry)) if done else None
                columns["picture"].append(picture)
                columns["file"].append(row["picture"])
                columns["command"].append(repeat_command(record, row["picture"]) if done else "")
                columns["failed"].append("" if done else row["status"])
                columns["record"].append({name: pool.place(value) for name, value in record.items()})
                for of_metric in values.values():
                    of_metric.append(None)
            values[row["metric"]][self.numbers[key]] = _number(row["value"])
        self.data = {
            "inputs": [self._input(*given[name]) for name in self.inputs],
            "variants": [list(levels) for levels in levels_of],
            "runs": columns,
            "values": values,
            "pool": pool.values,
        }

    def __len__(self) -> int:
        return len(self.numbers)

    def _input(self, one: Input, grid: PromptGrid) -> dict:
        """An input with the places of its pictures, and the B' cell as left, top, width, height in parts of the grid."""
        image, truth = grid.image, one.truth
        left, top, right, bottom = grid.boxes()["B'"]
        return {
            "name": one.name, "group": one.group, "size": list(image.size),
            "grid": self.album.place(f"grid {one.name}", lambda: grid.image, cells=max(2, grid.rows)),
            "truth": None if truth is None else self.album.place(f"truth {one.name}", lambda: truth),
            "cell": [left / image.width, top / image.height, (right - left) / image.width, (bottom - top) / image.height],
        }  # fmt: skip

    def pairs(self, compared: Iterable[Comparison]) -> dict:
        """The pairs of runs of a comparison, and their differences by metric. compared: the comparison on each metric."""
        places: dict[tuple[int, int], int] = {}
        differences: dict[str, list[float | None]] = {}
        for one in compared:
            of_metric = differences.setdefault(one.metric, [None] * len(places))
            for key, difference in one.differences.items():
                runs = [self.numbers.get((key[0], key[1], tuple(side[name] for name in self.factors))) for side in one.sides(key)]
                if None in runs:
                    continue
                place = places.setdefault((runs[0], runs[1]), len(places))
                of_metric += [None] * (place + 1 - len(of_metric))
                of_metric[place] = _number(difference)
        for of_metric in differences.values():
            of_metric += [None] * (len(places) - len(of_metric))
        return {"pairs": [list(pair) for pair in places], "differences": differences}


def repeat_command(record: Mapping, picture: str) -> str:
    """The command that paints a run's picture again, to be given in the folder of the study; empty where no command can.

    picture: its path in that folder.
    """
    from analogist.pipeline import lab_checkpoint

    if not record.get("repeatable"):
        return ""
    name = record["checkpoint"]["name"]
    checkpoint = "" if name == lab_checkpoint().name else f" --checkpoint {name}"
    return f"analogist run --config {picture}{checkpoint} --out again"


def _tables(plan: Plan, rows: Sequence[dict], told: Told, factors: Sequence[str], runs: Runs) -> dict:
    """Everything on the page that is said of the study as a whole."""
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
            "cells": cells, "metric": one.hypothesis.metric, "verdict": one.verdict, "why": one.why, "margin": _number(one.margin),
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
                "name": name, "text": metric_text(name, metrics), "better": metrics[name].better if name in metrics else "",
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
    return {name: None if one is None else _number(getattr(one, name)) for name in ("mean", "low", "high")}
