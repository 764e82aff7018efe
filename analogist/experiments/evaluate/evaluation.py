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
from analogist.experiments.design.own import OwnMetric
from analogist.experiments.design.study import Study
from analogist.experiments.evaluate.benchmark_report import trivial_answers
from analogist.experiments.evaluate.benchmarks import ANALOGIST, Benchmark, benchmark_named
from analogist.experiments.evaluate.data import DataError, category_of, published_inputs, read_csv
from analogist.experiments.evaluate.judge import Judging, judge_pictures
from analogist.experiments.evaluate.judge_report import unknown_labels, write_judge
from analogist.experiments.execute.ablation import Pool, carry_out, factor_names, prepare
from analogist.experiments.execute.jobs import Plan
from analogist.experiments.execute.merge import take, unplanned
from analogist.experiments.execute.store import Store
from analogist.experiments.execute.table import write_table
from analogist.experiments.execute.worker import Worker
from analogist.experiments.score.distances import distances
from analogist.experiments.score.metrics import METRICS, Measurer, Painted, check_metrics
from analogist.experiments.score.networks import FeatureNetwork
from analogist.pipeline import Analogist
from analogist.prompting import Prompter, Prompts, ask_all

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
    data: str | Path, *, tasks: Sequence[str] | None = None, limit: int | None = None, size: int = 512, benchmark: str | None = None
) -> tuple[list[Input], bool]:
    """Inputs from a folder in the published layout, a CSV file, the built-in drawings or a benchmark's folder, and whether it is the
    published layout.

    size: of the grid in pixels, used to draw the built-in drawings. Raises DataError naming what is wrong.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit {limit}: 1 or more")
    if benchmark is not None:
        found = benchmark_named(benchmark)
        return found.read(data, tasks=tasks, limit=limit, size=size), found is ANALOGIST
    if data == DRAWINGS:
        return drawing_inputs("all" if tasks is None else tasks, count=limit or PER_KIND, size=size), False
    if Path(data).is_file():
        if tasks is not None:
            raise DataError(f"{data}: a CSV list has no tasks; leave out tasks")
        return read_csv(data)[:limit], False
    return published_inputs(data, tasks=tasks, limit=limit), True


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What is evaluated and how. data: a folder in the published layout, a CSV file, "drawings" (built in: drawings by people with exact
    answers; tasks are kinds of change, limit is per kind), a benchmark's folder, or inputs. benchmark: a name of BENCHMARKS.

    config None: each task's published settings for the published layout, otherwise the checkpoint's own. images, metrics None: the
    benchmark's; without one 8 images, as published. prompter: writes new prompts in place of the data's. judging: who scores the pictures.
    """

    data: str | Path | Sequence[Input]
    benchmark: str | None = None
    config: AnalogistConfig | None = None
    tasks: Sequence[str] | None = None
    limit: int | None = None
    images: int | None = None
    seed: int = 42
    metrics: Sequence[str] | None = None
    size: int | None = None
    batch: int = 8
    prompter: Prompter | None = None
    judging: Judging | None = None

    def plan(self, model: Analogist, *, progress: bool = True) -> tuple[Plan, dict[str, Prompts]]:
        """Everything to paint, and the prompts that were written for it, by input. Raises ValueError naming what is wrong."""
        inputs, published = self._inputs(model)
        written: dict[str, Prompts] = {}
        if self.prompter is not None:
            written = ask_all({one.name: one.grid for one in inputs}, self.prompter, progress=progress)
        inputs = [dataclasses.replace(one, prompt=written[one.name].first) if written else one for one in inputs]
        if self.config is not None:  # given settings override a task's own
            inputs = [dataclasses.replace(one, strength=None, guidance=None) for one in inputs]
        known = self.known
        study = Study(
            name="evaluation" if known is ANALOGIST else known.name, inputs=tuple(inputs), seeds=(self.seed,),
            base=self.config if self.config is not None else published_code() if published else model.config,
            images=known.images if self.images is None else self.images, batch=self.batch, group=self.batch,
            metrics=self.chosen_metrics(), size=model.size if self.size is None else self.size,
        )  # fmt: skip
        return prepare(study, model), written

    @property
    def known(self) -> Benchmark:
        """The benchmark; without one, the published evaluation."""
        return ANALOGIST if self.benchmark is None else benchmark_named(self.benchmark)

    def chosen_metrics(self) -> tuple[str | OwnMetric, ...]:
        """The benchmark's, or the given ones, a benchmark's own by name. Raises StudyError for a name that is no metric."""
        if self.metrics is None:
            return self.known.metrics
        own = {one.name: one for one in self.known.metrics if isinstance(one, OwnMetric)}
        check_metrics([name for name in self.metrics if name not in own] or ["mse"])
        return tuple(own.get(name, name) for name in self.metrics)

    def _inputs(self, model: Analogist) -> tuple[list[Input], bool]:
        if not isinstance(self.data, str | Path):
            return list(self.data)[: self.limit], False
        size = model.size if self.size is None else self.size
        return read_data(self.data, tasks=self.tasks, limit=self.limit, size=size, benchmark=self.benchmark)


def evaluate(
    data: str | Path | Sequence[Input], out: str | Path, *, model: Analogist | None = None, clip: FeatureNetwork | None = None,
    dino: FeatureNetwork | None = None, pool: Pool | None = None, shard: tuple[int, int] | None = None,
    taken: Sequence[str | Path] = (), progress: bool = True, benchmark: str | None = None, config: AnalogistConfig | None = None,
    tasks: Sequence[str] | None = None, limit: int | None = None, images: int | None = None, seed: int = 42,
    metrics: Sequence[str] | None = None, size: int | None = None, batch: int = 8, prompter: Prompter | None = None,
    judging: Judging | None = None,
) -> Evaluated:  # fmt: skip
    """Paints every input `images` times, measures, and writes table.csv, summary.csv and report.md into `out`.

    data, benchmark, config, tasks, limit, images, seed, metrics, size, batch, prompter, judging: see Protocol. The rest: see
    carry_out_protocol.
    Raises ValueError that says what is wrong with data or settings.
    """
    protocol = Protocol(
        data=data, benchmark=benchmark, config=config, tasks=tasks, limit=limit, images=images, seed=seed, metrics=metrics, size=size,
        batch=batch, prompter=prompter, judging=judging,
    )  # fmt: skip
    model = Analogist.from_checkpoint() if model is None else model
    return carry_out_protocol(
        protocol, out, model, clip=clip, dino=dino, pool=pool, shard=shard, taken=taken, progress=progress
    )  # fmt: skip


def carry_out_protocol(
    protocol: Protocol, out: str | Path, model: Analogist, *, clip: FeatureNetwork | None = None, dino: FeatureNetwork | None = None,
    pool: Pool | None = None, shard: tuple[int, int] | None = None, taken: Sequence[str | Path] = (), progress: bool = True,
) -> Evaluated:  # fmt: skip
    """Paints and measures what a protocol asks for. Finished runs are never repeated; prompts.json says who wrote which prompt.

    clip, dino: networks for the metrics that need one. pool: where the runs are computed. shard: (i, n), only every n-th group.
    taken: folders (of shards) whose finished runs are used. Raises ValueError that says what is wrong with data or settings.
    """
    plan, written = protocol.plan(model, progress=progress)
    worker = Worker(model, Measurer(plan.study.all_metrics, clip=clip, dino=dino))
    with Store(out) as store:
        take(taken, store, plan)
        if written:
            said = {name: {"prompt": prompts.first, "author": prompts.author} for name, prompts in written.items()}
            atomic_write(store.folder / "prompts.json", encoded(json.dumps(said, indent=1, ensure_ascii=False) + "\n"))
        done = carry_out(plan, store, worker, pool=pool, shard=shard, progress=progress, outputs=False)
        rows, said, judged = done.rows, [], None
        if protocol.judging is not None:
            judged = judge_pictures(protocol.judging, done.plan, store, rows, progress=progress)
            said = [*judged.notes, *unknown_labels(protocol.judging, rows)]
            rows = rows + judged.rows
            write_table(rows, factor_names(done.plan), store.folder)
        write_judge(store.folder, protocol.judging, judged)
        summary = summarise(rows, domains=protocol.known.domains)
        if protocol.known is ANALOGIST:
            networks = [network for network in (clip, dino) if network is not None]
            further, why = _distances(done.plan, store, networks)
        else:
            further, why = trivial_summary(done.plan, worker.measurer), {}
        from analogist.experiments.evaluate.evaluation_report import write_report

        other = unplanned(plan, store) if taken else []
        notes = [*other, *done.notes, *said, *(f"{name} was not measured: {reason}" for name, reason in why.items())]
        write_report(store.folder, summary + further, rows, notes)
        return Evaluated(store.folder, summary + further, rows, notes)


def summarise(rows: Sequence[dict], *, domains: bool = False) -> list[dict]:
    """Means as published: over the images of an input, then over the inputs of a task, then over tasks.

    domains: groups are `<domain>/<task>`; means over the tasks of a domain too.
    """
    out = []
    for metric in dict.fromkeys(row["metric"] for row in rows):
        chosen = [row for row in rows if row["metric"] == metric and row["value"] is not None]
        better = next((row["better"] for row in chosen if row.get("better")), METRICS[metric].better if metric in METRICS else "")
        means, counts = {}, {}
        for group in dict.fromkeys(row["group"] for row in chosen):
            by_input: dict[str, list[float]] = {}
            for row in chosen:
                if row["group"] == group:
                    by_input.setdefault(row["input"], []).append(row["value"])
            means[group], counts[group] = float(np.mean([np.mean(values) for values in by_input.values()])), len(by_input)
            out.append(_line("task", group, metric, means[group], counts[group], better))
        for domain in dict.fromkeys(group.partition("/")[0] for group in means) if domains else ():
            inside = [group for group in means if group.partition("/")[0] == domain]
            mean = float(np.mean([means[group] for group in inside]))
            out.append(_line("domain", domain, metric, mean, sum(counts[group] for group in inside), better))
        if means:
            inputs = len({row["input"] for row in chosen})
            out.append(_line("all", ALL, metric, float(np.mean(list(means.values()))), inputs, better))
    return out


def trivial_summary(plan: Plan, measurer: Measurer) -> list[dict]:
    """Summary lines of the answers that need no model, averaged as ours."""
    rows = trivial_answers(plan, measurer)
    out = []
    for answer in dict.fromkeys(row["answer"] for row in rows):
        means = summarise([row for row in rows if row["answer"] == answer])
        out += [{**line, "level": "trivial", "name": answer} for line in means if line["level"] == "all"]
    return out


def _line(level: str, name: str, metric: str, value: float, inputs: int, better: str) -> dict:
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
        out += [_line("category", name, metric, value, len(names), "lower") for metric, value in values.items()]
        why |= {metric: f"{reason} ({name})" if "pictures and" in reason else reason for metric, reason in notes.items()}
    return out, why
