"""The published rows of a benchmark beside ours, trivial answers to compare with, and the differences in protocol."""

import json
from collections.abc import Sequence

from PIL import Image

from analogist.checkpoints.loras import in_words
from analogist.experiments.evaluate.benchmarks import BENCHMARKS, Benchmark
from analogist.experiments.execute.jobs import Plan
from analogist.experiments.score.metrics import Measurer, Painted
from analogist.grid.prompt_grid import PromptGrid

COPIES = {"copy of B": "B", "copy of A'": "A'"}


def copied(grid: PromptGrid, name: str) -> Image.Image:
    """A B' cell that shows the picture of another cell. name: B or A'."""
    cells, boxes, inner = grid.cells(without_border=True), grid.boxes(), grid.boxes(without_border=True)
    left, top, right, bottom = boxes["B'"]
    cell = Image.new("RGB", (right - left, bottom - top), (255, 255, 255))
    source = cells[name if name in cells else "A1'"]
    x, y, to_x, to_y = inner["B'"]
    cell.paste(source if source.size == (to_x - x, to_y - y) else source.resize((to_x - x, to_y - y)), (x - left, y - top))
    return cell


def trivial_answers(plan: Plan, measurer: Measurer) -> list[dict]:
    """Rows as a table's, of answers that need no model: B or A' copied. name of the answer in `answer`."""
    inputs = plan.study.resolved
    jobs, keys = {job.key: job for job in plan.jobs}, {row.input: row.key for row in plan.rows}  # inputs may share a job
    out = []
    for answer, name in COPIES.items():
        for i in sorted(keys):
            job, one = jobs[keys[i]], inputs[i]
            values = measurer.measure(Painted(copied(job.grid, name), job.grid, one.truth, one))
            for metric, value in values.items():
                number = None if isinstance(value, str) else value
                better = measurer.metrics[metric].better
                out.append({"answer": answer, "metric": metric, "group": one.group, "input": one.name, "value": number, "better": better})
    return out


def beside_the_benchmark(summary: Sequence[dict], rows: Sequence[dict]) -> list[str]:
    """Markdown: published rows, ours and the trivial answers in the published columns; empty for rows of no benchmark with columns."""
    found = BENCHMARKS.get(rows[0]["study"]) if rows else None
    if found is None or not found.columns:
        return []
    titles = [f"{column.title} {'↑' if column.better == 'higher' else '↓'}" for column in found.columns]
    lines = [f"## Beside the published rows: {found.name}", "", f"| method | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    lines += [_row(name, ["" if value is None else f"{value:.3f}" for value in values]) for name, values in found.rows]
    means = {(line["level"], line["name"], line["metric"]): line["value"] for line in summary}
    here = next((line["name"] for line in summary if line["level"] == "all"), "")
    for level, name, title in (*(("trivial", answer, answer) for answer in COPIES), ("all", here, f"**here: {_checkpoint(rows)}**")):
        values = [(column, means.get((level, name, column.metric))) for column in found.columns]
        lines.append(_row(title, ["not measured" if value is None else f"{column.shown(value):.3f}" for column, value in values]))
    lines += ["", f"Source of the published rows: {found.source}.", "", "Differences in protocol:", ""]
    return [*lines, *(f"- {text}" for text in (*found.differences, *_settings(found, rows))), ""]


def _row(name: str, cells: Sequence[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def _checkpoint(rows: Sequence[dict]) -> str:
    checkpoint = json.loads(rows[0]["record"])["checkpoint"]
    return f"Analogist, {checkpoint['name']}{in_words(checkpoint.get('lora', ()))}"


def _settings(found: Benchmark, rows: Sequence[dict]) -> list[str]:
    """Differences that depend on the run: images per input, size, a part of the inputs."""
    record = json.loads(rows[0]["record"])
    height, width = record["grid"]["size"]
    inputs = {row["input"] for row in rows}
    out = [f"size: a grid of {height} x {width} px; B' is a quarter of it"]
    images = {len({row["seed"] for row in rows if row["input"] == name}) for name in inputs}
    if images != {found.images}:
        out.append(f"images: {', '.join(map(str, sorted(images)))} per input; published {found.images}")
    return [*out, f"inputs: here {len(inputs)} of {len({row['group'] for row in rows})} tasks"]
