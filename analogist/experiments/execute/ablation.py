"""`ablate`: a study from start to finish, wherever it stopped before. The command line and notebooks call this."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image
from tqdm import tqdm

from analogist.experiments.design import inputs as input_files
from analogist.experiments.design import ready_studies as ready
from analogist.experiments.design.factors import check_factor
from analogist.experiments.design.inputs import Input
from analogist.experiments.design.levels import StudyError
from analogist.experiments.design.space import Space
from analogist.experiments.design.study import Study
from analogist.experiments.execute.jobs import Group, Plan, make_plan, sized
from analogist.experiments.execute.store import Done, Entry, Store
from analogist.experiments.execute.table import make_rows, write_table
from analogist.experiments.execute.worker import Worker, measured
from analogist.experiments.score.metrics import Measurer, Painted
from analogist.experiments.score.networks import FeatureNetwork
from analogist.grid.prompt_grid import check_size
from analogist.pipeline import Analogist

TABLE_EVERY = 60.0  # seconds between rewrites of the table while a study runs


class Pool(Protocol):
    """What runs groups: this process, or workers elsewhere. Yields each group with its results and the seconds they took."""

    def measuring(self, metrics: Sequence[str]) -> "Pool":
        """The same pool, whose workers measure these metrics."""

    def run(self, groups: Sequence[Group]) -> Iterator[tuple[Group, list[Done], float]]:
        """Runs groups, in any order."""


class Local:
    """Groups one after the other in this process."""

    def __init__(self, worker: Worker, *, progress: bool = False) -> None:
        self.worker, self.progress = worker, progress

    def measuring(self, metrics: Sequence[str]) -> "Local":
        """Itself: the worker has its measurer."""
        return self

    def run(self, groups: Sequence[Group]) -> Iterator[tuple[Group, list[Done], float]]:
        """Runs the groups in order."""
        for group in groups:
            started = time.perf_counter()
            with tqdm(desc="sampling", unit="step", disable=not self.progress, leave=False) as bar:

                def seen(step: int, steps: int, bar=bar) -> None:
                    bar.total = steps
                    bar.update(1)

                results = self.worker.run(group, seen)
            yield group, results, time.perf_counter() - started


@dataclass(frozen=True, eq=False)
class Outcome:
    """A study's results. folder: where they lie. rows: the table. plan: what was run. notes: what was not done, and why."""

    folder: Path
    rows: list[dict]
    plan: Plan
    notes: list[str]

    @property
    def sheet(self) -> Image.Image:
        """The contact sheet."""
        return Image.open(self.folder / "sheet.png")

    @property
    def report(self) -> str:
        """The report, Markdown."""
        return (self.folder / "report.md").read_text(encoding="utf-8")


def load_study(study: Study | str | Path, model: Analogist) -> Study:
    """A Study from itself, from a study file (its paths are relative to it) or from the name of a ready study."""
    if isinstance(study, Study):
        return study
    if str(study) in ready.READY:
        return ready.READY[str(study)](model)
    path = Path(study)
    if not path.is_file():
        raise StudyError(f"{study}: no such study file; ready studies are {', '.join(ready.READY)}")
    found = Study.load(path)
    return dataclasses.replace(found, inputs=input_files.beside(found.inputs, path.parent))


def prepare(study: Study | str | Path, model: Analogist, *, changes: dict | None = None) -> Plan:
    """A study resolved against a checkpoint: variants, inputs, runs and groups; nothing is computed.

    study: a Study, the path of a study file, or the name of a ready study. changes: fields put over the study's.
    Raises ValueError saying which field, level or input cannot be.
    """
    study = load_study(study, model)
    if changes:
        study = dataclasses.replace(study, **changes)
    size = study.size if study.size is not None else model.size
    if not all(isinstance(one, Input) for one in study.inputs) or isinstance(study.inputs, str):
        side = size if isinstance(size, int) else size[0]
        study = study.with_inputs(input_files.from_json(study.inputs, side))
    else:
        study = study.with_inputs(study.inputs)
    first = sized(study.inputs[0], study, model)
    check_size(*first.size, *model.size_multiples(first.rows))
    space = Space.of(model.unet.sites, model.config, first.size, model.vae.config.factor)
    return make_plan(study, study.variants(space), model)


def shard_of(groups: Sequence[Group], shard: tuple[int, int] | None) -> list[Group]:
    """The groups of shard (i, n), i from 0 to n - 1: every n-th. None: all."""
    if shard is None:
        return list(groups)
    i, n = shard
    if n < 1 or not 0 <= i < n:
        raise StudyError(f"shard {i}/{n}: i from 0 to n - 1 is allowed")
    return list(groups[i::n])


def ablate(
    study: Study | str | Path, out: str | Path, *, model: Analogist | None = None, clip: FeatureNetwork | None = None,
    dino: FeatureNetwork | None = None, pool: Pool | None = None, shard: tuple[int, int] | None = None,
    changes: dict | None = None, progress: bool = True, outputs: bool = True,
) -> Outcome:  # fmt: skip
    """Runs what is not finished of a study and writes table, pictures, contact sheet, plots and report into `out`.

    model None: the embedded lab checkpoint. clip, dino: feature networks for the metrics that need one. pool: where the runs are
    computed, None: in this process. shard: (i, n), only every n-th group. outputs False: the table alone.
    Raises StudyError where the study cannot be, or another process holds the folder.
    """
    model = Analogist.from_checkpoint() if model is None else model
    plan = prepare(study, model, changes=changes)
    measurer = Measurer(plan.study.metrics, clip=clip, dino=dino)
    worker = Worker(model, measurer)
    with Store(out) as store:
        return carry_out(plan, store, worker, pool=pool, shard=shard, progress=progress, outputs=outputs)


def carry_out(
    plan: Plan, store: Store, worker: Worker, *, pool: Pool | None = None, shard: tuple[int, int] | None = None,
    progress: bool = True, outputs: bool = True,
) -> Outcome:  # fmt: skip
    """Runs, commits and measures what is missing of a plan in a held folder, then writes everything that comes out."""
    from analogist.experiments.report.outputs import write_outputs

    groups = shard_of(plan.groups, shard)
    mine = {job.key for group in groups for job in group.jobs}
    plan = dataclasses.replace(plan, rows=tuple(row for row in plan.rows if row.key in mine))
    store.write_study(plan.study.to_json() | {"jobs": len(plan.jobs), "shard": None if shard is None else list(shard)})
    for one in {row.input: plan.study.inputs[row.input] for row in plan.rows}.values():
        store.write_input(one.file_name, sized(one, plan.study, worker.model))
    names = {job.key: f"{plan.study.inputs[job.input].file_name}_{job.seed}" for job in plan.jobs}
    missing = store.missing(groups)
    finished = len(mine) - sum(len(group.jobs) for group in missing)
    pool = Local(worker, progress=progress) if pool is None else pool.measuring(worker.measurer.names)
    factors = factor_names(plan)
    written = time.monotonic()
    with tqdm(total=len(mine), initial=finished, desc=plan.study.name, unit="run", disable=not progress) as bar:
        for group, results, seconds in pool.run(missing):
            store.commit(group, results, names, seconds)
            bar.update(len(group.jobs))
            if time.monotonic() - written > TABLE_EVERY:  # something to look at while a long study runs
                write_table(make_rows(plan, store, worker.measurer, changes=False), factors, store.folder)
                written = time.monotonic()
    measure_later(plan, store, worker.measurer, progress=progress)
    rows = make_rows(plan, store, worker.measurer)
    notes = [f"{name} was not measured: {why}" for name, why in worker.measurer.missing().items()]
    notes += write_table(rows, factors, store.folder)
    failed = [key for key in sorted(mine) if store.entries[key].failed]
    notes += [f"{len(failed)} runs failed; first: {store.entries[failed[0]].failed}"] if failed else []
    if outputs:
        notes += write_outputs(plan, store, rows, worker.measurer)
    return Outcome(store.folder, rows, plan, notes)


def factor_names(plan: Plan) -> list[str]:
    """The factors of a plan, in their fixed order."""
    names = list(plan.variants[0].levels)
    for name in names:
        check_factor(name)
    return names


def measure_later(plan: Plan, store: Store, measurer: Measurer, *, progress: bool = False) -> None:
    """Measures, from the pictures, what finished jobs lack: metrics or networks that were not there when they ran."""
    jobs = {job.key: job for job in plan.jobs}
    lacking = []
    for key in dict.fromkeys(row.key for row in plan.rows):
        entry = store.entries.get(key)
        if entry is None or entry.failed:
            continue
        if any(measurer.key(name) not in entry.measures and name not in measurer.missing() for name in measurer.names):
            known = jobs[key]
            if any(_measurable(measurer, name, entry, known.truth is not None) for name in measurer.names):
                lacking.append(entry)
    for entry in tqdm(lacking, desc="measuring", unit="picture", disable=not progress or not lacking):
        job = jobs[entry.key]
        values, notes = measured(measurer, Painted(store.picture(entry), job.grid, job.truth))
        store.add_measures([dataclasses.replace(entry, measures=entry.measures | values, notes=notes)])


def _measurable(measurer: Measurer, name: str, entry: Entry, truth: bool) -> bool:
    """Whether a metric is lacking and can be had: not one that was tried and could not be measured."""
    if measurer.key(name) in entry.measures or name in measurer.missing():
        return False
    from analogist.experiments.score.metrics import METRICS

    return truth or "truth" not in METRICS[name].needs
