"""What a study writes besides its table: contact sheet, effects, plots, a Markdown report and a page to read it in."""

import csv
import dataclasses
import importlib.util
import io
from collections.abc import Sequence

from PIL import Image

from analogist.disk.foreign import encoded
from analogist.disk.writing import atomic_write
from analogist.experiments.decide.level_effects import effects, interactions, moot_cells
from analogist.experiments.decide.statistics import Effect
from analogist.experiments.decide.verdicts import Looks, verdicts
from analogist.experiments.design.study import CHANGE
from analogist.experiments.execute.jobs import Plan
from analogist.experiments.execute.store import Store
from analogist.experiments.report.report_text import Findings, report
from analogist.experiments.report.sheet import contact_sheet
from analogist.experiments.report.study_page import PAGE, Told, study_page
from analogist.experiments.score.metrics import Measurer, Painted
from analogist.grid.pictures import save_png


def write_outputs(
    plan: Plan, store: Store, rows: Sequence[dict], measurer: Measurer, *, looks: Looks | None = None, remarks: Sequence[str] = ()
) -> list[str]:  # fmt: skip
    """Writes sheet.png, effects.csv, interactions.csv, plots/, study.html and report.md; returns notes on what was left out.

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
    findings = Findings(found, crossed, tested, moot_cells(rows, factors), looks)
    page = study_page(plan, store, rows, Told(findings, measurer.metrics, notes, remarks))
    page.save(store.folder / PAGE)
    text = report(plan, rows, findings, notes, measurer.metrics, remarks, page.said)
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
    jobs = {job.key: job for job in plan.jobs}  # inputs of one content share a job
    given = {row.input: Painted(painted, jobs[row.key].grid, inputs[row.input].truth) for row in plan.rows}
    heads = ["A", "A'", "B", *(["true B'"] if any(one.truth is not None for one in given.values()) else [])]

    def picture(r: int, c: int) -> Image.Image | None:
        if r < len(heads):
            one = given[columns[c][0]]
            return one.other("truth") if heads[r] == "true B'" else one.cells()[heads[r]]
        entry = store.entries.get(by_cell.get((variants[r - len(heads)], *columns[c]), ""))
        return None if entry is None or entry.failed else store.picture(entry)

    captions = [f"{inputs[i].name} seed {seed}" for i, seed in columns]
    rows = [*heads, *(_row_caption(name, plan) for name in variants)]
    sheet, note = contact_sheet(rows, captions, picture, side=painted.height)
    save_png(sheet, store.folder / "sheet.png")
    return f"contact sheet: {note}" if note else ""


def _row_caption(name: str, plan: Plan) -> str:
    """The levels that differ from the reference's; for the reference itself, all levels."""
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
