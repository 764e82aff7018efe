"""The report of an evaluation: its numbers beside the paper's, and the differences in protocol."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from analogist.disk.foreign import encoded, naming
from analogist.disk.writing import atomic_write
from analogist.experiments.design.levels import StudyError
from analogist.experiments.evaluate import published
from analogist.experiments.evaluate.benchmark_report import beside_the_benchmark
from analogist.experiments.evaluate.judge_report import read_judge
from analogist.experiments.execute.table import read_table
from analogist.experiments.report.report_text import checkpoint_line, not_measured

SUMMARY = ("level", "name", "metric", "value", "inputs", "better")


def write_report(folder: Path, summary: Sequence[dict], rows: Sequence[dict], notes: Sequence[str]) -> None:
    """Writes summary.csv and report.md, the judge's part (judge.md) included."""
    text = io.StringIO()
    writer = csv.DictWriter(text, SUMMARY, lineterminator="\n")
    writer.writeheader()
    writer.writerows({**line, "value": repr(line["value"])} for line in summary)
    atomic_write(folder / "summary.csv", encoded(text.getvalue()))
    atomic_write(folder / "report.md", encoded(report(summary, rows, notes, read_judge(folder))))


def read_summary(folder: str | Path) -> list[dict]:
    """summary.csv of an evaluation's folder. Raises StudyError if there is none."""
    path = Path(folder) / "summary.csv"
    try:
        with naming(path, StudyError), open(path, newline="", encoding="utf-8-sig") as file:
            lines = list(csv.DictReader(file))
    except OSError as error:
        raise StudyError(
            f"{path}: cannot be read ({error.strerror or error}); is it the folder of `analogist evaluate`?"
        ) from error
    if lines and set(lines[0]) != set(SUMMARY):
        raise StudyError(f"{path}: not the summary of an evaluation")
    with naming(path, StudyError):
        return [{**line, "value": float(line["value"]), "inputs": int(line["inputs"])} for line in lines]


def report_folder(folder: str | Path) -> str:
    """The report of a finished evaluation, rebuilt from its files."""
    summary, rows = read_summary(folder), read_table(folder)
    with naming(folder, StudyError):
        return report(summary, rows, [], read_judge(Path(folder)))


def report(summary: Sequence[dict], rows: Sequence[dict], notes: Sequence[str], judge: Sequence[str] = ()) -> str:
    """Markdown: means by task, distances by category, the published numbers beside them, and the differences in protocol."""
    tasks = [line["name"] for line in summary if line["level"] == "task"]
    tasks = list(dict.fromkeys(tasks))
    inputs, seeds = {row["input"] for row in rows}, {row["seed"] for row in rows}
    record = next((row["record"] for row in rows if row["record"]), "{}")
    lines = ["# Evaluation", "", f"{len(inputs)} inputs, {len(seeds)} images each, {checkpoint_line(record)}.", ""]
    lines += ["Means are taken over the images of an input, then over the inputs of a task, then over tasks.", ""]
    means = [line for line in summary if line["level"] not in ("category", "trivial")]
    metrics = list(dict.fromkeys(line["metric"] for line in means))
    levels = {line["name"]: ("task", "domain", "all").index(line["level"]) for line in means}
    if metrics:
        lines += ["| task | inputs | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 2) + "|"]
        for name in sorted(dict.fromkeys(line["name"] for line in means), key=lambda name: levels[name]):
            found = {line["metric"]: line for line in means if line["name"] == name}
            cells = [f"{found[metric]['value']:.4f}" if metric in found else "" for metric in metrics]
            lines.append(f"| {name or '(no group)'} | {next(iter(found.values()))['inputs']} | {' | '.join(cells)} |")
        lines.append("")
    far = [line for line in summary if line["level"] == "category"]
    if far:
        lines += ["| category | distance | value | inputs |", "|---|---|---|---|"]
        lines += [f"| {line['name']} | {line['metric']} | {line['value']:.4f} | {line['inputs']} |" for line in far] + [""]
    lines += beside_the_paper(summary, rows, tasks) + beside_the_benchmark(summary, rows)
    lines += judge
    missing = [*not_measured(rows), *notes]
    lines += ["## Not measured", "", *(f"- {text}" for text in dict.fromkeys(missing)), ""] if missing else []
    return "\n".join(lines).rstrip() + "\n"


def beside_the_paper(summary: Sequence[dict], rows: Sequence[dict], tasks: Sequence[str]) -> list[str]:
    """The published numbers beside ours; empty if no published task was run."""
    if not set(tasks) & {*published.CLIP_DIRECTION, *_published_tasks()}:
        return []
    lines = ["## Beside the paper", "", "| what | published | here |", "|---|---|---|"]
    ours = {(line["name"], line["metric"]): line["value"] for line in summary}
    for name, value in published.CLIP_DIRECTION.items():
        here = ours.get((name, "clip_direction"))
        lines.append(f"| CLIP direction, {name} | {value} | {'not measured' if here is None else f'{here:.4f}'} |")
    for name, value in published.FID.items():
        here = ours.get((name, "frechet_inception"))
        lines.append(f"| FID, {name} | {value} | {'not measured' if here is None else f'{here:.2f}'} |")
    lines += ["", "Differences in protocol:", ""]
    return [
        *lines,
        *(f"- {text}" for text in published.differences(rows, [name for name in tasks if name in _published_tasks()])),
        "",
    ]


def _published_tasks() -> tuple[str, ...]:
    from analogist.config import TASKS

    return tuple(TASKS)
