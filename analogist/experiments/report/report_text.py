"""The Markdown report of a study: what was run, the verdicts on its claims, and what each level does."""

import dataclasses
import json
from collections.abc import Mapping, Sequence

import numpy as np

from analogist.checkpoints.loras import in_words
from analogist.experiments.decide.level_effects import Moot
from analogist.experiments.decide.statistics import EXACT, Effect, least_p
from analogist.experiments.decide.units import OVER
from analogist.experiments.decide.verdicts import ALPHA, NOT_TESTED, UNDECIDED, Looks, Verdict
from analogist.experiments.design.study import CHANGE
from analogist.experiments.execute.jobs import Plan
from analogist.experiments.report.tables import Table, claims_table, effects_table, interactions_table
from analogist.experiments.score.metrics import METRICS, Metric

CHANGE_TEXT = "mean absolute difference to the reference's picture, levels 0..1"
SHOWN = 15  # effects per metric in the report; all are in effects.csv


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a table says. effects: of every level. interactions: of full designs. moot: what was left out of both."""

    effects: Sequence[Effect]
    interactions: Sequence[Effect]
    verdicts: Sequence[Verdict]
    moot: Sequence[Moot]
    looks: Looks | None = None


def report(
    plan: Plan, rows: Sequence[dict], findings: Findings, notes: Sequence[str], metrics: Mapping[str, Metric],
    remarks: Sequence[str] = (), page: str = "",
) -> str:  # fmt: skip
    """The report: what was run, what each level does in order of size, and the verdicts on the hypotheses.

    notes: on what was left out. remarks: on what was changed after runs had finished. page: what the page beside the report holds.
    """
    study, found, tested = plan.study, findings.effects, findings.verdicts
    lines = [f"# {study.name}", ""]
    lines += [study.question, ""] if study.question else []
    lines += [facts_text(plan, rows), ""]
    lines += [page, ""] if page else []
    lines += [how_text(findings), ""] if how_text(findings) else []
    lines += verdict_lines(tested, findings.looks)
    lines += [changed_text(remarks), ""] if remarks else []
    lines += reference_lines(rows, plan, metrics)
    for metric in dict.fromkeys(one.metric for one in found):
        lines += effect_lines(metric, [one for one in found if one.metric == metric], metrics)
        lines += interaction_lines([one for one in findings.interactions if one.metric == metric])
    lines += ["## Left out as moot", "", *(f"- {one}" for one in findings.moot), ""] if findings.moot else []
    missing = [f"- {text}" for text in (*not_measured(rows), *notes)]
    lines += ["## Not measured or left out", "", *missing, ""] if missing else []
    return "\n".join(lines).rstrip() + "\n"


def facts_text(plan: Plan, rows: Sequence[dict]) -> str:
    """How much was run, and on which checkpoint."""
    inputs, seeds = {row["input"] for row in rows}, {row["seed"] for row in rows}
    record = next((entry for entry in rows if entry["record"]), {"record": "{}"})["record"]
    return (
        f"{len(plan.variants)} variants x {len(inputs)} inputs x {len(seeds)} effective seeds = {len(plan.rows)} runs "
        f"({len({row.key for row in plan.rows})} different ones), design {plan.study.design}, {checkpoint_line(record)}."
    )


def changed_text(remarks: Sequence[str]) -> str:
    """What was changed after runs had finished."""
    return "Changed after runs had finished: " + "; ".join(remarks) + "."


def not_measured(rows: Sequence[dict]) -> list[str]:
    """What a table lacks, one line per metric and reason."""
    counted: dict[tuple[str, str], int] = {}
    for row in rows:
        if row["value"] is None:
            key = (row["metric"], row["note"])
            counted[key] = counted.get(key, 0) + 1
    return [f"{metric} was not measured in {count} runs: {why}" for (metric, why), count in counted.items()]


def checkpoint_line(record: str) -> str:
    """The checkpoint of a record in words."""
    checkpoint = json.loads(record).get("checkpoint", {})
    if not checkpoint:
        return "no run finished"
    trained = "" if checkpoint.get("trained", True) else ", NOT TRAINED: its pictures mean nothing"
    merged = in_words(checkpoint.get("lora", ()))
    return f"checkpoint {checkpoint['name']}{merged} ({checkpoint['family']}, {checkpoint['fingerprint'][:12]}{trained})"


def how_text(findings: Findings) -> str:
    """How differences, intervals and p values are computed here, and what they generalise to; empty where nothing is compared."""
    compared = [*findings.effects, *(one.effect for one in findings.verdicts if one.effect is not None)]
    if not compared:
        return ""
    over, methods = (sorted({getattr(one, name) for one in compared}) for name in ("over", "method"))
    flips = "" if over == ["inputs and seeds"] else "p values come from sign flips of whole " + " or ".join(
        name for name in over if name != "inputs and seeds"
    )
    flips += " (over inputs and seeds from the interval's own test)" if len(over) > 1 and "inputs and seeds" in over else ""
    tests = flips or "p values come from the interval's own test"
    return (
        "Differences are paired: the same input and effective seed, all other factors equal, level minus reference; every input has "
        f"the same weight. Intervals are 95 % intervals ({', '.join(methods)}) for {' or '.join(OVER[name] for name in over)}; {tests} "
        "and are corrected after Holm over all comparisons of a metric."
    )


def claims_texts(looks: Looks | None) -> list[str]:
    """How a verdict on a claim is reached, one paragraph per text."""
    texts = [
        "There is no effect larger than the smallest one that matters where two one-sided tests rule such an effect out (p below 0.05). "
        "Otherwise a claim is supported or contradicted where the difference is significant (p below 0.05). Each kind of p is "
        "corrected after Holm over all claims. The last column is the difference that a study with this many inputs and this spread "
        "detects in 80 % of repetitions, at the strictest step of that correction."
    ]
    if looks is not None:
        seen, planned = len(looks.seen), len(looks.times)
        texts.append(
            f"The study was looked at {seen} of {planned} planned times, after {', '.join(str(len(names)) for names in looks.seen)} "
            "inputs, and stops when every claim is decided. p values are corrected for the looks (Wang and Tsiatis, shape 0.25); intervals "
            "of claims are repeated intervals, which hold at whichever look a study stops."
        )
    return texts


def verdict_lines(tested: Sequence[Verdict], looks: Looks | None = None) -> list[str]:
    """The hypotheses as a table, and why those that are not decided are not."""
    if not tested:
        return []
    lines = ["## Claims", ""]
    for text in claims_texts(looks):
        lines += [text, ""]
    table = claims_table(tested)
    bold = [(claim, f"**{verdict}**", *numbers) for claim, verdict, *numbers in table.rows]
    lines += Table(table.heads, bold).markdown()
    reasons = [f"- {one.hypothesis.claim}: {one.why}." for one in tested if one.verdict in (UNDECIDED, NOT_TESTED)]
    return [*lines, "", *(["Not decided:", "", *reasons, ""] if reasons else [])]


def reference_text(plan: Plan) -> str:
    """The levels of the reference."""
    return f"The reference has {next((variant.name for variant in plan.variants if variant.reference), 'no level')}."


def reference_lines(rows: Sequence[dict], plan: Plan, metrics: Mapping[str, Metric]) -> list[str]:
    """The reference's levels, and the mean of each metric over its runs."""
    chosen = [row for row in rows if row["reference"] and row["value"] is not None and row["metric"] != CHANGE]
    lines = ["## The reference", "", reference_text(plan), "", "| metric | mean | runs | what it is |", "|---|---|---|---|"]
    for metric in dict.fromkeys(row["metric"] for row in chosen):
        values = [row["value"] for row in chosen if row["metric"] == metric]
        lines.append(f"| {metric} | {np.mean(values):.4g} | {len(values)} | {metrics[metric].text} |")
    return [*lines, ""] if chosen else []


def metric_text(metric: str, metrics: Mapping[str, Metric] = METRICS) -> str:
    """What a metric is, and which direction is better."""
    text = metrics[metric].text if metric in metrics else CHANGE_TEXT
    better = metrics[metric].better if metric in metrics else ""
    return f"{text}; {better} is better" if better else f"{text}; neither direction is better"


def effect_lines(metric: str, found: Sequence[Effect], metrics: Mapping[str, Metric] = METRICS) -> list[str]:
    """The largest effects on one metric as a table."""
    lines = [f"## {metric}", "", f"{metric_text(metric, metrics)}.", ""]
    lines += [resolution_text(found), ""] if resolution_text(found) else []
    lines += [*effects_table(found).markdown(SHOWN), *_more(found, "effects.csv")]
    return [*lines, ""]


def interaction_lines(found: Sequence[Effect]) -> list[str]:
    """How the effects of two factors depend on each other, as a table; the largest ones."""
    if not found:
        return []
    lines = [
        "How the effect of the first factor's level changes from the second's reference to the second's level, largest first:",
        "",
        *interactions_table(found).markdown(SHOWN),
        *_more(found, "interactions.csv"),
    ]
    return [*lines, ""]


def resolution_text(found: Sequence[Effect]) -> str:
    """Says where so few units, or so many comparisons, are tested that no difference could be significant after the correction."""
    tested = [one for one in found if one.p is not None]
    least = min((len(tested) * least_p(one) for one in tested), default=0.0)
    if least < ALPHA:
        return ""
    units = max(one.units for one in tested)
    more = any(len(tested) * least_p(dataclasses.replace(one, units=EXACT + 1)) < ALPHA for one in tested)  # with any number of inputs
    return (
        f"With {units} independent inputs or seeds and {len(tested)} comparisons no p can fall below {min(1.0, least):.2g}: "
        f"this table cannot tell a difference from chance; {'more inputs' if more else 'fewer levels'} are needed."
    )


def _more(found: Sequence[Effect], name: str) -> list[str]:
    """Says how many rows the report does not show, and where they are."""
    return ["", f"{len(found) - SHOWN} smaller effects are in {name}."] if len(found) > SHOWN else []
