"""`ablate`: a study from start to finish, wherever it stopped before. The command line and notebooks call this."""

import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from PIL import Image
from tqdm import tqdm

from analogist.experiments.decide.looks import look_sizes
from analogist.experiments.decide.verdicts import Looks, Verdict, verdicts
from analogist.experiments.design import inputs as input_files
from analogist.experiments.design import ready_studies as ready
from analogist.experiments.design.factors import check_factor
from analogist.experiments.design.inputs import Input
from analogist.experiments.design.levels import StudyError
from analogist.experiments.design.own import OwnMetric
from analogist.experiments.design.space import Space
from analogist.experiments.design.study import Study
from analogist.experiments.execute.jobs import SEEN, Group, Job, Plan, job_marks, make_plan, sized
from analogist.experiments.execute.store import Done, Entry, Store
from analogist.experiments.execute.table import make_rows, write_table
from analogist.experiments.execute.worker import Worker, measured
from analogist.experiments.score.metrics import METRICS, Measurer, Painted
from analogist.experiments.score.networks import FeatureNetwork
from analogist.grid.prompt_grid import check_size
from analogist.pipeline import Analogist

if TYPE_CHECKING:
    from analogist.explore.html_page import HtmlPage

TABLE_EVERY = 60.0  # seconds between rewrites of the table while a study runs


class Pool(Protocol):
    """What runs groups: this process, or workers elsewhere. Yields each group with its results and the seconds they took."""

    def measuring(self, metrics: Sequence[str | OwnMetric]) -> "Pool":
        """The same pool, whose workers measure these metrics."""
        ...

    def run(self, groups: Sequence[Group]) -> Iterator[tuple[Group, list[Done], float]]:
        """Runs groups, in any order."""
        ...


class Local:
    """Groups one after the other in this process."""

    def __init__(self, worker: Worker, *, progress: bool = False) -> None:
        self.worker, self.progress = worker, progress

    def measuring(self, metrics: Sequence[str | OwnMetric]) -> "Local":
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

    @property
    def page(self) -> "HtmlPage":
        """The page to read the study in; a notebook shows it."""
        from analogist.explore.html_page import HtmlPage

        return HtmlPage((self.folder / "study.html").read_text(encoding="ascii"))


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


def prepare(study: Study | str | Path, model: Analogist, *, changes: dict | None = None, deal: bool = False) -> Plan:
    """A study resolved against a checkpoint: variants, inputs, runs and groups; nothing is computed.

    study: a Study, the path of a study file, or the name of a ready study. changes: fields put over the study's. deal: put the inputs
    in turns, one per group, so that any first part of them is like the whole.
    Raises ValueError that says which field, level or input is not possible.
    """
    study = load_study(study, model)
    if changes:
        study = dataclasses.replace(study, **changes)
    study = study.with_own()
    size = study.size if study.size is not None else model.size
    ready_made = [one for one in study.inputs if isinstance(one, Input)]
    if isinstance(study.inputs, str) or len(ready_made) < len(study.inputs):
        side = size if isinstance(size, int) else size[0]
        study = study.with_inputs(input_files.from_json(study.inputs, side))
    else:
        study = study.with_inputs(ready_made)
    if deal:
        study = study.with_inputs(input_files.dealt(study.resolved))
    first = sized(study.resolved[0], study, model)
    check_size(*first.known_size, *model.size_multiples(first.rows))
    space = Space.of(model.unet.sites, model.config, first.known_size, model.vae.config.factor)
    plan = make_plan(study, study.variants(space), model)
    check_own_metrics(plan)
    return plan


def check_own_metrics(plan: Plan) -> None:
    """Calls each own metric once, with B in the place of B', so that what cannot work fails before the first run.

    On the first input that has a true B'. Those that look at maps are checked for their captures alone, when the plan is made.
    """
    study, jobs = plan.study, plan.jobs
    job = next((job for job in jobs if job.truth is not None), jobs[0]) if jobs else None
    for metric in study.own_metrics:
        if job is not None and metric.capture is None:
            tried = Painted(job.grid.cells()["B"], job.grid, job.truth)
            try:
                metric.measure(tried.picture(), tried.other("truth"), job.example)
            except StudyError as error:
                name = study.resolved[job.input].name
                raise StudyError(f"{error} (tried on the input {name!r} before the first run, B in the place of B')") from error


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
    changes: dict | None = None, progress: bool = True, outputs: bool = True, until: str | None = None,
) -> Outcome:  # fmt: skip
    """Runs what is not finished of a study and writes table, pictures, contact sheet, plots, report.md and study.html into `out`.

    model None: the embedded lab checkpoint. clip, dino: feature networks for the metrics that need one. pool: where the runs are
    computed, None: in this process. shard: (i, n), only every n-th group. outputs False: the table alone.
    until "decided": look at the hypotheses after each quarter of the inputs, which are dealt evenly over their groups, and stop when all
    are decided; p values are corrected for the looks.
    Raises StudyError where the study cannot be run, or another process holds the folder.
    """
    model = Analogist.from_checkpoint() if model is None else model
    plan = prepare(study, model, changes=changes, deal=until is not None)
    check_until(until, plan.study, shard)
    measurer = Measurer(plan.study.all_metrics, clip=clip, dino=dino)
    worker = Worker(model, measurer)
    with Store(out) as store:
        return carry_out(plan, store, worker, pool=pool, shard=shard, progress=progress, outputs=outputs, until=until)


def check_until(until: str | None, study: Study, shard: tuple[int, int] | None) -> None:
    """Raises StudyError where a study cannot be run until it is decided."""
    if until is None:
        return
    if until != "decided":
        raise StudyError(f"until {until!r}: allowed is decided")
    if not study.hypotheses:
        raise StudyError("until decided: the study has no hypotheses; write them into it, or leave until out")
    if shard is not None:
        raise StudyError("until decided: a shard sees only its own runs; run the study in one process or on Ray")
    look_sizes(len(study.inputs))


def carry_out(
    plan: Plan, store: Store, worker: Worker, *, pool: Pool | None = None, shard: tuple[int, int] | None = None,
    progress: bool = True, outputs: bool = True, until: str | None = None,
) -> Outcome:  # fmt: skip
    """Runs, commits and measures what is missing of a plan in a held folder, then writes everything that comes out."""
    from analogist.experiments.report.outputs import write_outputs

    study, groups = plan.study, shard_of(plan.groups, shard)
    mine = {job.key for group in groups for job in group.jobs}
    plan = dataclasses.replace(plan, rows=tuple(row for row in plan.rows if row.key in mine))
    sizes = look_sizes(len(study.inputs)) if until is not None else None
    remarks = write_asked(plan, store, shard=shard, sizes=sizes)
    inputs = study.resolved
    for one in {row.input: inputs[row.input] for row in plan.rows}.values():
        store.write_input(one.file_name, sized(one, study, worker.model))
    pool = Local(worker, progress=progress) if pool is None else pool.measuring(worker.measurer.given)
    running = _Running(plan, store, worker.measurer, pool, progress)
    looks = None
    if sizes is None:
        running.finish(plan, groups)
    else:
        plan, looks = running.until_decided(groups, sizes)
    rows = make_rows(plan, store, worker.measurer)
    notes = [f"{name} was not measured: {why}" for name, why in worker.measurer.missing().items()]
    notes += write_table(rows, factor_names(plan), store.folder)
    failed = [key for key in sorted({row.key for row in plan.rows}) if store.entries[key].failed]
    notes += [f"{len(failed)} runs failed; first: {store.entries[failed[0]].failed}"] if failed else []
    if outputs:
        notes += write_outputs(plan, store, rows, worker.measurer, looks=looks, remarks=remarks)
    return Outcome(store.folder, rows, plan, notes)


def write_asked(
    plan: Plan, store: Store, *, shard: tuple[int, int] | None = None, sizes: Sequence[int] | None = None, taken: Sequence[dict] = ()
) -> list[str]:  # fmt: skip
    """Writes what a plan asks for into the folder; returns in words what was changed after runs had finished.

    sizes: of the looks. taken: what folders were asked for whose runs are put into this one.
    """
    data = plan.study.to_json() | {"jobs": len(plan.jobs), "shard": None if shard is None else list(shard)}
    fixed = {name: data[name] for name in ("smallest_effect", "hypotheses")} | {"looks": sizes}
    return store.write_study(data, fixed=fixed, taken=taken)


class _Running:
    """A plan on its way: runs what is missing, and keeps a table to look at while it does."""

    def __init__(self, plan: Plan, store: Store, measurer: Measurer, pool: Pool, progress: bool) -> None:
        self.plan, self.store, self.measurer, self.pool, self.progress = plan, store, measurer, pool, progress
        inputs = plan.study.resolved
        self.names = {job.key: f"{inputs[job.input].file_name}_{job.seed}" for job in plan.jobs}
        self.written = time.monotonic()

    def finish(self, part: Plan, groups: Sequence[Group]) -> None:
        """Runs, commits and measures what is missing of some groups. part: the plan with the rows that are wanted of them."""
        adopt(part, self.store, self.measurer)
        missing, total = self.store.missing(groups), sum(len(group.jobs) for group in groups)
        finished = total - sum(len(group.jobs) for group in missing)
        with tqdm(total=total, initial=finished, desc=part.study.name, unit="run", disable=not self.progress) as bar:
            for group, results, seconds in self.pool.run(missing):
                self.store.commit(group, results, self.names, seconds)
                bar.update(len(group.jobs))
                if time.monotonic() - self.written > TABLE_EVERY:  # something to look at while a long study runs
                    write_table(make_rows(part, self.store, self.measurer, changes=False), factor_names(part), self.store.folder)
                    self.written = time.monotonic()
        measure_later(part, self.store, self.measurer, progress=self.progress)

    def until_decided(self, groups: Sequence[Group], sizes: Sequence[int]) -> tuple[Plan, Looks]:
        """Continues from look to look until every hypothesis is decided. Returns the plan of the inputs seen, and the looks.

        A restart comes to the same looks: each is made again from the runs of its own inputs.
        """
        study, part = self.plan.study, self.plan
        seen: list[tuple[str, ...]] = []
        times = tuple(size / sizes[-1] for size in sizes)
        for size in sizes:
            part = dataclasses.replace(self.plan, rows=tuple(row for row in self.plan.rows if row.input < size))
            wanted = {row.key for row in part.rows}
            self.finish(part, [group for group in groups if any(job.key in wanted for job in group.jobs)])
            seen.append(tuple(one.name for one in study.resolved[:size]))
            looks, rows = Looks(tuple(seen), times), make_rows(part, self.store, self.measurer)
            if all(one.decided for one in self._verdicts(rows, looks)):
                break
        return part, looks

    def _verdicts(self, rows: Sequence[dict], looks: Looks) -> list[Verdict]:
        study = self.plan.study
        return verdicts(rows, factor_names(self.plan), study.hypotheses, smallest=study.smallest_effect, looks=looks)


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
        if any(_measurable(measurer, name, entry, jobs[key].truth is not None) for name in measurer.names):
            lacking.append(entry)
    for entry in tqdm(lacking, desc="measuring", unit="picture", disable=not progress or not lacking):
        found = remeasured(entry, jobs[entry.key], store, measurer)
        if found != entry:
            store.add_measures([found])


def remeasured(entry: Entry, job: Job, store: Store, measurer: Measurer) -> Entry:
    """The entry with what it lacks and can be measured from its picture; what was measured before stays."""
    lacking = [name for name, one in measurer.metrics.items() if measurer.key(name) not in entry.measures and one.capture is None]
    values, notes = measured(measurer, Painted(store.picture(entry), job.grid, job.truth, job.example), lacking)
    known = entry.measures | values
    said = {name: why for name, why in (entry.notes | notes).items() if name in measurer.metrics and measurer.key(name) not in known}
    return dataclasses.replace(entry, measures=known, notes=said)


def adopt(plan: Plan, store: Store, measurer: Measurer) -> None:
    """Takes over pictures that were measured with another truth or example or other own metrics: measured again, not painted again."""
    pictures = painted_already(store.entries.values())
    adopted = []
    wanted = {row.key for row in plan.rows}
    for job in plan.jobs:
        found = pictures.get(job.painting, [])
        if found and job.key in wanted and job.key not in store.entries:
            old = max(found, key=lambda one: [one.record.get(name) == job.content.get(name) for name in SEEN])
            record = {name: value for name, value in old.record.items() if name not in ("painting", "metrics", *SEEN)}
            entry = dataclasses.replace(old, key=job.key, record=record | job_marks(job), measures=_still_true(old, job))
            adopted.append(remeasured(entry, job, store, measurer))
    if adopted:
        store.adopt(adopted)


def painted_already(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """The finished jobs of each picture, by `Job.painting`; those that failed have none."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        if not entry.failed:
            found.setdefault(entry.record.get("painting", entry.key), []).append(entry)
    return found


def _still_true(old: Entry, job: Job) -> dict[str, float]:
    """The values of a picture that hold for another job with it: those of own metrics may depend on the true B' and on the example."""
    truth, example = (old.record.get(name) == job.content.get(name) for name in SEEN)
    kept = {}
    for key, value in old.measures.items():
        metric = METRICS.get(key.partition("@")[0])
        if truth and example if metric is None else truth or "truth" not in metric.needs:
            kept[key] = value
    return kept


def _measurable(measurer: Measurer, name: str, entry: Entry, truth: bool) -> bool:
    """Whether a metric is missing and can be tried now; one that failed before may have lacked a file or memory."""
    if measurer.key(name) in entry.measures or name in measurer.missing():
        return False
    metric = measurer.metrics[name]
    if metric.capture is not None:  # its maps were there only while the picture was painted
        return False
    return truth or "truth" not in metric.needs
