"""What a study leaves besides its table: contact sheet, effects, plots and a Markdown report."""

import csv
import dataclasses
import importlib.util
import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from analogist.disk.foreign import encoded
from analogist.disk.writing import atomic_write
from analogist.experiments.decide.level_effects import Moot, effects, interactions, moot_cells
from analogist.experiments.decide.statistics import Effect
from analogist.experiments.decide.units import OVER
from analogist.experiments.decide.verdicts import ALPHA, NOT_TESTED, UNDECIDED, Looks, Verdict, verdicts
from analogist.experiments.design.study import CHANGE
from analogist.experiments.execute.jobs import Plan
from analogist.experiments.execute.store import Store
from analogist.experiments.report.sheet import contact_sheet
from analogist.experiments.score.metrics import METRICS, Measurer, Metric, Painted
from analogist.grid.pictures import save_png

SHOWN = 15  # effects a metric in the report; all are in effects.csv


def write_outputs(
    plan: Plan, store: Store, rows: Sequence[dict], measurer: Measurer, *, looks: Looks | None = None, remarks: Sequence[str] = ()
) -> list[str]:  # fmt: skip
    """Writes sheet.png, effects.csv, interactions.csv, plots/ and report.md; returns notes on what was left out.

    looks: of a study that stops when it is decided. remarks: for the report, on what was changed while it ran.
    """
    notes = [note] if (note := write_sheet(plan, store)) else []
    factors = list(plan.variants[0].levels)
    there = [
        name for name in (*measurer.names, CHANGE) if any(row["metric"] == name and row["value"] is not None for row in rows)
    ]
    found = effects(rows, factors, there) if factors else []
    write_effects(found, store, "effects.csv")
    crossed = interactions(rows, factors, there) if plan.study.design == "full" and len(factors) > 1 else []
    if crossed:
        write_effects(crossed, store, "interactions.csv")
    if found and importlib.util.find_spec("matplotlib") is None:
        notes.append("plots were not drawn: matplotlib is not installed (pip install 'analogist[plots]')")
    elif found:
        from analogist.experiments.report.plots import plot_effects

        levels = {factor: list(dict.fromkeys(variant.levels[factor] for variant in plan.variants)) for factor in factors}
        plot_effects(found, levels, store.folder / "plots", metrics=measurer.metrics)
    tested = verdicts(rows, factors, plan.study.hypotheses, smallest=plan.study.smallest_effect, looks=looks)
    text = report(plan, rows, Findings(found, crossed, tested, moot_cells(rows, factors), looks), notes, measurer.metrics, remarks)
    atomic_write(store.folder / "report.md", encoded(text))
    return notes


def write_sheet(plan: Plan, store: Store) -> str:
    """Writes sheet.png, A, A', B and the true B' above the variants, by (input, seed); returns a note on what is smaller or missing."""
    by_cell = {(row.variant.name, row.input, row.seed): row.key for row in plan.rows}
    columns = list(dict.fromkeys((row.input, row.seed) for row in plan.rows))
    variants = list(dict.fromkeys(row.variant.name for row in plan.rows))
    inputs = plan.study.resolved
    first = next((entry for row in plan.rows if (entry := store.entries.get(row.key)) and not entry.failed), None)
    if first is None:
        return "no contact sheet: there is no picture"
    painted = store.picture(first)
    given = {job.input: Painted(painted, job.grid, job.truth) for job in plan.jobs}
    heads = ["A", "A'", "B", *(["true B'"] if any(one.truth is not None for one in given.values()) else [])]

    def picture(r: int, c: int) -> Image.Image | None:
        if r < len(heads):
            one = given[columns[c][0]]
            return one.truth if heads[r] == "true B'" else one.cells()[heads[r]]
        entry = store.entries.get(by_cell.get((variants[r - len(heads)], *columns[c]), ""))
        return None if entry is None or entry.failed else store.picture(entry)

    captions = [f"{inputs[i].name} seed {seed}" for i, seed in columns]
    rows = [*heads, *(_row_caption(name, plan) for name in variants)]
    sheet, note = contact_sheet(rows, captions, picture, side=painted.height)
    save_png(sheet, store.folder / "sheet.png")
    return f"contact sheet: {note}" if note else ""


def _row_caption(name: str, plan: Plan) -> str:
    """Only the levels that differ from the reference's; of the reference itself all."""
    variant = next(one for one in plan.variants if one.name == name)
    reference = next((one for one in plan.variants if one.reference), variant)
    changed = [f"{factor} {level}" for factor, level in variant.levels.items() if level != reference.levels[factor]]
    return ", ".join(changed) if changed else f"reference: {reference.name}"


def write_effects(found: Sequence[Effect], store: Store, name: str) -> None:
    """Writes every comparison as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [one.name for one in dataclasses.fields(Effect)]
    writer.writerow(names)
    for one in found:
        writer.writerow(["" if getattr(one, name) is None else getattr(one, name) for name in names])
    atomic_write(store.folder / name, encoded(text.getvalue()))


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
    remarks: Sequence[str] = (),
) -> str:  # fmt: skip
    """The report: what was run, what each level does in order of size, and what becomes of the hypotheses."""
    study, found, tested = plan.study, findings.effects, findings.verdicts
    inputs, seeds = {row["input"] for row in rows}, {row["seed"] for row in rows}
    record = next((entry for entry in rows if entry["record"]), {"record": "{}"})["record"]
    lines = [f"# {study.name}", ""]
    lines += [study.question, ""] if study.question else []
    lines += [
        f"{len(plan.variants)} variants x {len(inputs)} inputs x {len(seeds)} effective seeds = {len(plan.rows)} runs "
        f"({len({row.key for row in plan.rows})} different ones), design {study.design}, {checkpoint_line(record)}.",
        "",
    ]
    lines += how_lines(found, tested)
    lines += verdict_lines(tested, findings.looks)
    lines += ["Changed after runs had finished: " + "; ".join(remarks) + ".", ""] if remarks else []
    lines += reference_lines(rows, plan, metrics)
    for metric in dict.fromkeys(one.metric for one in found):
        lines += effect_lines(metric, [one for one in found if one.metric == metric], metrics)
        lines += interaction_lines([one for one in findings.interactions if one.metric == metric])
    lines += ["## Left out as moot", "", *(f"- {one}" for one in findings.moot), ""] if findings.moot else []
    missing = [f"- {text}" for text in (*not_measured(rows), *notes)]
    lines += ["## Not there", "", *missing, ""] if missing else []
    return "\n".join(lines).rstrip() + "\n"


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
    import json

    checkpoint = json.loads(record).get("checkpoint", {})
    if not checkpoint:
        return "no run finished"
    trained = "" if checkpoint.get("trained", True) else ", NOT TRAINED: its pictures mean nothing"
    return f"checkpoint {checkpoint['name']} ({checkpoint['family']}, {checkpoint['fingerprint'][:12]}{trained})"


def how_lines(found: Sequence[Effect], tested: Sequence[Verdict]) -> list[str]:
    """How differences, intervals and p values come about here, and what they speak of."""
    compared = [*found, *(one.effect for one in tested if one.effect is not None)]
    if not compared:
        return []
    over, methods = (sorted({getattr(one, name) for one in compared}) for name in ("over", "method"))
    flips = "" if over == ["inputs and seeds"] else "p values come from sign flips of whole " + " or ".join(
        name for name in over if name != "inputs and seeds"
    )
    flips += " (over inputs and seeds from the interval's own test)" if len(over) > 1 and "inputs and seeds" in over else ""
    tests = flips or "p values come from the interval's own test"
    return [
        "Differences are paired: the same input and effective seed, all other factors equal, level minus reference; every input has "
        f"the same weight. Intervals are 95 % intervals ({', '.join(methods)}) for {' or '.join(OVER[name] for name in over)}; {tests} "
        "and are corrected after Holm over all comparisons of a metric.",
        "",
    ]  # fmt: skip


def verdict_lines(tested: Sequence[Verdict], looks: Looks | None = None) -> list[str]:
    """The hypotheses as a table, and why those that are not decided are not."""
    if not tested:
        return []
    lines = [
        "## Claims",
        "",
        "A claim is supported or contradicted where a difference is sure (p below 0.05), and there is no effect larger than the smallest "
        "one that matters where two one-sided tests rule such an effect out (p below 0.05); each kind of p is corrected after Holm over "
        "all claims. The last column is the difference that this many inputs of this spread show in 80 % of studies, at the strictest "
        "step of that correction.",
        "",
    ]
    if looks is not None:
        seen, planned = len(looks.seen), len(looks.times)
        lines += [
            f"The study was looked at {seen} of {planned} planned times, after {', '.join(str(len(names)) for names in looks.seen)} "
            "inputs, and stops when every claim is decided. p values are corrected for the looks (Wang and Tsiatis, shape 0.25); intervals "
            "of claims are repeated intervals, which hold at whichever look a study stops.",
            "",
        ]
    lines += [
        "| claim | verdict | difference | 95 % interval | p, corrected | matters from | p of as much | pairs | shows from |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in tested:
        e = one.effect
        numbers = ["", "", ""] if e is None else [f"{e.metric} {e.mean:+.4g}", _interval(e), _p(e.p_corrected)]
        matters = [_number(one.margin), _p(one.p_equivalent), "0" if e is None else str(e.pairs), _number(one.detectable)]
        lines.append(f"| {one.hypothesis.claim} | **{one.verdict}** | {' | '.join([*numbers, *matters])} |")
    reasons = [f"- {one.hypothesis.claim}: {one.why}." for one in tested if one.verdict in (UNDECIDED, NOT_TESTED)]
    return [*lines, "", *(["Not decided:", "", *reasons, ""] if reasons else [])]


def reference_lines(rows: Sequence[dict], plan: Plan, metrics: Mapping[str, Metric]) -> list[str]:
    """The reference's levels, and the mean of each metric over its runs."""
    levels = next((variant.name for variant in plan.variants if variant.reference), "")
    chosen = [row for row in rows if row["reference"] and row["value"] is not None and row["metric"] != CHANGE]
    lines = ["## The reference", "", f"Levels: {levels}.", "", "| metric | mean | runs | what it is |", "|---|---|---|---|"]
    for metric in dict.fromkeys(row["metric"] for row in chosen):
        values = [row["value"] for row in chosen if row["metric"] == metric]
        lines.append(f"| {metric} | {np.mean(values):.4g} | {len(values)} | {metrics[metric].text} |")
    return [*lines, ""] if chosen else []


def effect_lines(metric: str, found: Sequence[Effect], metrics: Mapping[str, Metric] = METRICS) -> list[str]:
    """The largest effects on one metric as a table."""
    better = metrics[metric].better if metric in metrics else ""
    meaning = f"{better} is better" if better else "neither direction is better"
    text = metrics[metric].text if metric in metrics else "mean absolute difference to the reference's picture, levels 0..1"
    lines = [f"## {metric}", "", f"{text}; {meaning}.", ""]
    lines += _resolution(found)
    lines += ["| factor | level | against | difference | 95 % interval | p, corrected | pairs |", "|---|---|---|---|---|---|---|"]
    for one in found[:SHOWN]:
        numbers = f"{one.mean:+.4g} | {_interval(one)} | {_p(one.p_corrected)} | {one.pairs}"
        lines.append(f"| {one.factor} | {one.level} | {one.against} | {numbers} |")
    if len(found) > SHOWN:
        lines += ["", f"{len(found) - SHOWN} smaller effects are in effects.csv."]
    return [*lines, ""]


def interaction_lines(found: Sequence[Effect]) -> list[str]:
    """How the effects of two factors depend on each other, as a table; the largest ones."""
    if not found:
        return []
    lines = [
        "How the effect of the first factor's level changes from the second's reference to the second's level, largest first:",
        "",
        "| factors | levels | against | at the second's reference | at its level | change | 95 % interval | p, corrected |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in found[:SHOWN]:
        here, there = one.reference_mean, one.reference_mean + one.mean
        numbers = f"{here:+.4g} | {there:+.4g} | {one.mean:+.4g} | {_interval(one)} | {_p(one.p_corrected)}"
        lines.append(f"| {one.factor} | {one.level} | {one.against} | {numbers} |")
    if len(found) > SHOWN:
        lines += ["", f"{len(found) - SHOWN} smaller ones are in interactions.csv."]
    return [*lines, ""]


def _resolution(found: Sequence[Effect]) -> list[str]:
    """Says where so few units are compared that no difference could come out as sure after the correction."""
    tested = [one for one in found if one.p is not None]
    least = min((len(tested) * 2.0 ** (1 - one.units) for one in tested), default=0.0)
    if least < ALPHA:
        return []
    units = max(one.units for one in tested)
    return [
        f"With {units} independent inputs or seeds and {len(tested)} comparisons no p can fall below {min(1.0, least):.2g}: "
        "this table cannot tell a difference from chance; more inputs would.", "",
    ]  # fmt: skip


def _interval(one: Effect) -> str:
    return "one unit" if one.low is None else f"{one.low:+.3g} .. {one.high:+.3g}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _p(p: float | None) -> str:
    return "" if p is None else f"{p:.2g}"
