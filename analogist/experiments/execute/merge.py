"""Merges the folders of shards: the same table, sheet, report and page as one run of the whole study."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from analogist.config import read_json
from analogist.disk.foreign import naming
from analogist.disk.writing import atomic_write, output_folder, shown
from analogist.experiments.design.levels import StudyError
from analogist.experiments.design.study import Study
from analogist.experiments.execute.ablation import adopt, carry_out, prepare, write_asked
from analogist.experiments.execute.jobs import Plan
from analogist.experiments.execute.store import Store, picture_key
from analogist.experiments.execute.worker import Worker
from analogist.experiments.score.metrics import Measurer
from analogist.experiments.score.networks import FeatureNetwork
from analogist.grid.pictures import read_picture
from analogist.pipeline import Analogist


def merge(
    folders: Sequence[str | Path], out: str | Path, *, study: Study | str | Path, model: Analogist | None = None,
    clip: FeatureNetwork | None = None, dino: FeatureNetwork | None = None, changes: dict | None = None,
) -> list[str]:  # fmt: skip
    """Copies what the folders hold of a study into `out` and writes table, sheet, report and page there; returns notes.

    study, model, changes: as the shards had them; what was changed after runs had finished is said in the report, and a note says how
    many runs of the folders are not in the study. Nothing is sampled. Raises StudyError where runs are missing, naming how many.
    """
    model = Analogist.from_checkpoint() if model is None else model
    plan = prepare(study, model, changes=changes)
    measurer = Measurer(plan.study.all_metrics, clip=clip, dino=dino)
    return merge_plan(folders, out, plan, Worker(model, measurer))


def merge_plan(folders: Sequence[str | Path], out: str | Path, plan: Plan, worker: Worker) -> list[str]:
    """As `merge`, for a plan that is already made."""
    with Store(out) as store:
        take(folders, store, plan)
        adopt(plan, store, worker.measurer)
        missing = [job for job in plan.jobs if job.key not in store.entries]
        if missing:
            raise StudyError(
                f"{len(missing)} of {len(plan.jobs)} runs are missing; finish the shards with the same command, then merge again"
            )
        return [*unplanned(plan, store), *carry_out(plan, store, worker, progress=False).notes]


def unplanned(plan: Plan, store: Store) -> list[str]:
    """A note on the finished runs of a folder that a plan does not have; none where it has them all.

    Pictures that the plan measures with another truth or other metrics are among its runs.
    """
    keys, paintings = {job.key for job in plan.jobs}, {job.painting for job in plan.jobs}
    left = [one for one in store.entries.values() if one.key not in keys and one.record.get("painting", one.key) not in paintings]
    if not left:
        return []
    return [
        f"finished runs in these folders that are not in the study as it is given here, left out of its table: {len(left)}; give the "
        "settings that the shards had (--count, --seeds, --size, ...)"
    ]


def take(folders: Sequence[str | Path], store: Store, plan: Plan) -> None:
    """Copies the finished runs of other folders into a held one, and what was changed after them.

    plan: of what is asked for here. Raises StudyError for a folder that holds no study.
    """
    for folder in folders:
        if not (Path(folder) / "groups").is_dir():
            raise StudyError(f"{shown(folder)}: not the folder of a study (no groups/ in it)")
    if folders:  # before the runs: an interrupt must not leave runs without what is known of them
        write_asked(plan, store, taken=[_asked(Path(folder)) for folder in folders])
    for folder in map(Path, folders):
        _copy(folder, store.folder)
    store.reload()


def _asked(folder: Path) -> dict:
    """What a folder with finished runs was asked for; nothing of one without, where all could still be changed."""
    path = folder / "study.json"
    if not path.is_file() or not any((folder / "groups").glob("*.json")):
        return {}
    with naming(path, StudyError):
        return read_json(path)


def _copy(source: Path, target: Path) -> None:
    """Pictures first, then the commits that name them. Raises StudyError where a picture differs from one that is there.

    A judge's answers are copied too: a picture is asked about once.
    """
    for name in ("inputs", "pictures", "groups", "measures", "judgements"):
        if not (source / name).is_dir():
            continue
        output_folder(target / name)
        for path in sorted((source / name).iterdir()):
            if path.suffix not in (".png", ".json"):
                continue
            other = target / name / path.name
            if name == "pictures" and other.exists() and picture_key(read_picture(other)) != picture_key(read_picture(path)):
                raise StudyError(
                    f"{shown(path)} and {shown(other)} are two different pictures of one run; give all shards the same kind of machine "
                    "and the same --threads"
                )
            with open(path, "rb") as file:
                atomic_write(other, lambda opened, file=file: shutil.copyfileobj(file, opened))
