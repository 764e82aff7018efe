"""Downloads the published data set from the hub: by revision, resumable, checked afterwards."""

import os
from dataclasses import dataclass
from pathlib import Path

from analogist.disk.writing import output_folder, shown
from analogist.experiments.evaluate.data import CATEGORIES, DataError, Task, check_grid, find_tasks

REPOSITORY = "picana/Analogist"
LICENCE = "cc-by-4.0"


@dataclass(frozen=True)
class Fetched:
    """The downloaded data. folder: where it is. revision: the commit. tasks: as read from the folder."""

    folder: Path
    revision: str
    tasks: list[Task]


def fetch(
    out: str | Path, *, revision: str = "main", repository: str = REPOSITORY, only: list[str] | None = None, marked: bool = False
) -> Fetched:
    """Downloads the data set and checks that every task is complete. Existing files are not downloaded again.

    revision: branch, tag or commit. only: names of tasks. marked: also download the marked grids, which no run needs.
    HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are respected. Raises DataError with the hub's message, or with what is missing.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    folder = output_folder(out)
    endpoint = os.environ.get("HF_ENDPOINT") or None  # its current value, not the one from when the hub's client was imported
    patterns = ["README.md"]
    for category, tasks in CATEGORIES.items():
        for task in tasks:
            if only is None or task in only:
                patterns += [f"{category}/{task}/*", f"{category}/{task}_masked/*", f"{category}/{task}_gpt4_out.txt"]
                patterns += [f"{category}/{task}_masked_marked/*"] if marked else []
    try:
        commit = HfApi(endpoint=endpoint).dataset_info(repository, revision=revision).sha
        snapshot_download(
            repository, repo_type="dataset", revision=commit, local_dir=folder, allow_patterns=patterns, endpoint=endpoint
        )  # fmt: skip
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        text = " ".join(str(error).split())[:300]
        raise DataError(
            f"{repository} at {revision}: cannot be downloaded from the hub ({text}). Finished files are kept; repeat "
            "the command to continue. HF_ENDPOINT selects another hub"
        ) from error
    tasks = find_tasks(folder, only)
    for task in tasks:
        for path in (*task.grids, *task.truths):
            check_grid(path)
    return Fetched(folder, commit or revision, tasks)


def describe(fetched: Fetched) -> list[str]:
    """What was downloaded, one line per task."""
    lines = [f"{shown(fetched.folder)}: {REPOSITORY} at {fetched.revision} ({LICENCE})"]
    lines += [
        f"  {task.category} {task.name}: {len(task.grids)} grids" + ("" if task.truths else ", no truths")
        for task in fetched.tasks
    ]
    return lines
