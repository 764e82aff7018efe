"""`evaluate`: the published protocol on the published data or on any list of analogies; resumable like a study."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analogist.config import AnalogistConfig, published_code
from analogist.disk.foreign import encoded
from analogist.disk.writing import atomic_write
from analogist.experiments.design.inputs import Input, drawing_inputs
from analogist.experiments.design.study import Study
from analogist.experiments.evaluate.data import DataError, category_of, find_tasks, read_csv, task_inputs
from analogist.experiments.execute.ablation import Pool, carry_out, prepare
from analogist.experiments.execute.jobs import Plan
from analogist.experiments.execute.merge import take
from analogist.experiments.execute.store import Store
from analogist.experiments.execute.worker import Worker
from analogist.experiments.score.distances import distances
from analogist.experiments.score.metrics import METRICS, Measurer, Painted
from analogist.experiments.score.networks import FeatureNetwork
from analogist.pipeline import Analogist
from analogist.prompting import Prompter, ask_all

DEFAULT_METRICS = (
    "clip_direction", "clip_direction_normalised", "psnr", "ssim", "mse", "clip_distance", "dino_distance", "lpips", "mse_to_b",
)  # fmt: skip
ALL = "all tasks"
DRAWINGS = "drawings"  # the value of data for the built-in drawings by people; a folder of that name is ./drawings
PER_KIND = 12  # of the built-in drawings, if no limit is given


@dataclass(frozen=True, eq=False)
class Evaluated:
    """An evaluation's results. summary: one row per metric and task or category. rows: the table. notes: what was not measured."""

    folder: Path
    summary: list[dict]
    rows: list[dict]
    notes: list[str]

    @property
    def report(self) -> str:
        """The report, Markdown."""
        return (self.folder / "report.md").read_text(encoding="utf-8")


def read_data(
    data: str | Path, *, tasks: Sequence[str] | None = None, limit: int | None = None, size: int = 512
) -> tuple[list[Input], bool]:
    """Inputs from a folder in the published layout, a CSV file or the built-in drawings, and whether it is the published layout.

    size: of the grid in pixels, used to draw the built-in drawings. Raises DataError naming what is wrong.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit {limit}: 1 or more")
    if data == DRAWINGS:
        return drawing_inputs("all" if tasks is None else tasks, count=limit or PER_KIND, size=size), False
    if Path(data).is_file():
        if tasks is not None:
            raise DataError(f"{data}: a CSV list has no tasks; leave out tasks")
        return read_csv(data)[:limit], False
    return [one for task in find_tasks(data, tasks) for one in task_inputs(task, limit=limit)], True


def evaluate(
    data: str | Path | Sequence[Input], out: str | Path, *, model: Analogist | None = None, config: AnalogistConfig | None = None,
    tasks: Sequence[str] | None = None, limit: int | None = None, images: int = 8, seed: int = 42,
    metrics: Sequence[str] = DEFAULT_METRICS, clip: FeatureNetwork | None = None, dino: FeatureNetwork | None = None,
    size: int | None = None, batch: int = 8, pool: Pool | None = None, shard: tuple[int, int] | None = None,
    taken: Sequence[str | Path] = (), progress: bool = True, prompter: Prompter | None = None,
) -> Evaluated:  # fmt: skip
    """Paints every input `images` times, measures, and writes table.csv, summary.csv and report.md into `out`.

    data: a folder in the published layout, a CSV file, "drawings" (built in: drawings by people with exact answers; tasks are kinds of
    change, limit is per kind), or inputs. config None: each task's published settings for the published layout, otherwise
    the checkpoint's own. taken: folders (of shards) whose finished runs are used. Finished runs are
    never repeated. prompter: writes new prompts in place of the data's; prompts.json says who wrote which.
    Raises ValueError that says what is wrong with data or settings.
    """
    model = Analogist.from_checkpoint() if model is None else model
    if isinstance(data, str | Path):
        inputs, published = read_data(data, tasks=tasks, limit=limit, size=model.size if size is None else size)
    else:
        inputs, published = list(data)[:limit], False
    written = {} if prompter is None else ask_all({one.name: one.grid for one in inputs}, prompter, progress=progress)
    inputs = [dataclasses.replace(one, prompt=written[one.name].first) if written else one for one in inputs]
    if config is not None:  # given settings override a task's own
        inputs = [dataclasses.replace(one, strength=None, guidance=None) for one in inputs]
    base = config if config is not None else published_code() if published else model.config
    study = Study(
        name="evaluation", inputs=tuple(inputs), base=base, seeds=(seed,), images=images, metrics=tuple(metrics), batch=batch,
        group=batch, size=size if size is not None else model.size,
    )  # fmt: skip
    plan = prepare(study, model)
    worker = Worker(model, Measurer(plan.study.all_metrics, clip=clip, dino=dino))
    with Store(out) as store:
        take(taken, store)
        if written:
            said = {name: {"prompt": prompts.first, "author": prompts.author} for name, prompts in written.items()}
            atomic_write(store.folder / "prompts.json", encoded(json.dumps(said, indent=1, ensure_ascii=False) + "\n"))
        done = carry_out(plan, store, worker, pool=pool, shard=shard, progress=progress, outputs=False)
        summary = summarise(done.rows)
        networks = [network for network in (clip, dino) if network is not None]
        far, why = _distances(done.plan, store, networks)
        from analogist.experiments.evaluate.evaluation_report import write_report

        notes = [*done.notes, *(f"{name} was not measured: {reason}" for name, reason in why.items())]
        write_report(store.folder, summary + far, done.rows, notes)
        return Evaluated(store.folder, summary + far, done.rows, notes)


def summarise(rows: Sequence[dict]) -> list[dict]:
    """Means as published: over the images of an input, then over the inputs of a task, then over tasks."""
    out = []
    for metric in dict.fromkeys(row["metric"] for row in rows):
        chosen = [row for row in rows if row["metric"] == metric and row["value"] is not None]
        means = {}
        for group in dict.fromkeys(row["group"] for row in chosen):
            by_input: dict[str, list[float]] = {}
            for row in chosen:
                if row["group"] == group:
                    by_input.setdefault(row["input"], []).append(row["value"])
            means[group] = float(np.mean([np.mean(values) for values in by_input.values()]))
            out.append(_line("task", group, metric, means[group], len(by_input)))
        if means:
            out.append(_line("all", ALL, metric, float(np.mean(list(means.values()))), len({row["input"] for row in chosen})))
    return out


def _line(level: str, name: str, metric: str, value: float, inputs: int) -> dict:
    better = METRICS[metric].better if metric in METRICS else "lower"
    return {"level": level, "name": name, "metric": metric, "value": value, "inputs": inputs, "better": better}


def category(group: str) -> str:
    """The published category of a task; a group that is not a published task is its own category."""
    try:
        return category_of(group)
    except StopIteration:
        return group or "all"


def _distances(plan: Plan, store: Store, networks: Sequence[FeatureNetwork]) -> tuple[list[dict], dict[str, str]]:
    """Fréchet and kernel distances by category, between all painted pictures and all truths."""
    pictures: dict[str, tuple[list, list, set[str]]] = {}
    jobs, inputs = {job.key: job for job in plan.jobs}, plan.study.resolved
    for row in plan.rows:
        entry, one = store.entries.get(row.key), inputs[row.input]
        if entry is None or entry.failed or one.truth is None:
            continue
        ours, true, names = pictures.setdefault(category(one.group), ([], [], set()))
        painted = Painted(store.picture(entry), jobs[row.key].grid, one.truth)
        ours.append(painted.picture())
        if one.name not in names:
            true.append(painted.other("truth"))
            names.add(one.name)
    out, why = [], {}
    if not pictures:
        why = {"frechet": "there are no true B' to compare with", "kernel": "there are no true B' to compare with"}
    for name, (ours, true, names) in pictures.items():
        smallest = min(picture.size for picture in true)
        values, notes = distances([p.resize(smallest) for p in ours], [p.resize(smallest) for p in true], networks)
        out += [_line("category", name, metric, value, len(names)) for metric, value in values.items()]
        why |= {metric: f"{reason} ({name})" if "pictures and" in reason else reason for metric, reason in notes.items()}
    return out, why
