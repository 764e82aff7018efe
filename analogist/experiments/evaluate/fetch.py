"""Downloads a benchmark's data: by revision, resumable, with licence and size shown before and the layout checked afterwards."""

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from analogist.checkpoints.hub import SilentBar, endpoint
from analogist.disk.writing import output_folder, shown
from analogist.experiments.evaluate import github
from analogist.experiments.evaluate.benchmarks import benchmark_named
from analogist.experiments.evaluate.data import DataError, check_grid, find_tasks
from analogist.experiments.evaluate.sources import SOURCES, Source, marked_too

AT_ONCE = 8  # downloads
SIDE = 256  # px, of the grids that the layout is tried with
BESIDES = ("README.md", "LICENSE", "LICENSE.md", "LICENSE.txt")  # of a data set on the hub: what it says of itself


@dataclass(frozen=True)
class Listing:
    """The files of a data set that are needed. files: path -> (bytes, None where unknown; git's name of the content on GitHub).

    inside: the folder of the repository that the paths are relative to, "" for its root.
    """

    source: Source
    commit: str
    licence: str
    inside: str
    files: dict[str, tuple[int | None, str]]

    def missing(self, folder: Path) -> list[str]:
        """The files that are not in a folder, by name and size."""
        return [path for path, (size, _) in self.files.items() if not _is_there(folder / path, size)]

    def describe(self, name: str, folder: Path) -> str:
        """What will be downloaded, in one line."""
        sizes = [size for size, _ in self.files.values()]
        total = "size unknown" if None in sizes else readable_size(sum(size or 0 for size in sizes))
        there = len(self.files) - len(self.missing(folder))
        licence = self.licence or "not stated in the repository"
        already = f", {there} of them already here" if there else ""
        return (
            f"{name}: {self.source.repository} at {self.commit}, licence {licence}: {len(self.files)} files, {total}{already}; into "
            f"{shown(folder)}"
        )


@dataclass(frozen=True)
class Fetched:
    """The downloaded data. folder: where it is. revision: the commit. tasks: (name, number of analogies or grids, whether with truths)."""

    folder: Path
    revision: str
    tasks: list[tuple[str, int, bool]]


def readable_size(count: int) -> str:
    """Bytes as MB or GB."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _is_there(path: Path, size: int | None) -> bool:
    try:
        found = path.stat().st_size
    except OSError:
        return False
    return size is None or found == size


def look(name: str, *, revision: str = "main", only: Sequence[str] | None = None, marked: bool = False) -> Listing:
    """What a benchmark's repository holds that is needed. only: names of tasks. marked: also the marked grids of the published set.

    Raises DataError with the address's own message, or if nothing in the repository has the expected layout.
    """
    benchmark_named(name)
    source = SOURCES[name]
    if marked and name != "analogist":
        raise DataError(f"{name}: only the published set, analogist, has marked grids")
    if marked:
        source = replace(source, wanted=marked_too)
    listing = _on_github(source, revision) if source.where == "github" else _on_the_hub(source, revision)
    chosen = {path: one for path, one in sorted(listing.files.items()) if source.wanted(path, only)}
    if not chosen:
        some = ", ".join(list(listing.files)[:4]) or "nothing"
        of = "" if only is None else f" of the tasks {', '.join(only)}"
        raise DataError(f"{source.repository} at {listing.commit}: no files{of} in the layout {source.layout}; it has {some}")
    return replace(listing, files={path: listing.files[path] for path in BESIDES if path in listing.files} | chosen)


def _on_github(source: Source, revision: str) -> Listing:
    commit, inside, files = github.list_folder(source.repository, revision, source.folders)
    licence = github.licence_of(source.repository, commit) or source.licence
    return Listing(source, commit, licence, inside, {path: (size, key) for path, (size, key) in files.items()})


def _on_the_hub(source: Source, revision: str) -> Listing:
    from huggingface_hub import HfApi

    with _named(source, revision):
        info = HfApi(endpoint=endpoint()).dataset_info(source.repository, revision=revision, files_metadata=True, timeout=60)
    said = info.card_data.get("license") if info.card_data is not None else None
    tagged = next((tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:")), "")
    licence = ", ".join(said) if isinstance(said, list) else said or tagged or source.licence
    return Listing(source, info.sha or revision, licence, "", {one.rfilename: (one.size, "") for one in info.siblings or []})


def fetch(
    out: str | Path, *, name: str = "analogist", revision: str = "main", only: list[str] | None = None, marked: bool = False,
    say: Callable[[str], object] | None = None, progress: bool = False,
) -> Fetched:  # fmt: skip
    """Downloads a benchmark's data and checks its layout. Existing files are not downloaded again; a stopped download is resumed.

    revision: branch, tag or commit. only: names of tasks. marked: also the marked grids of the published set, which no run needs.
    say: called with one line, repository, commit, licence and size, before anything is downloaded.
    HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, GITHUB_API_URL, GITHUB_RAW_URL and GITHUB_TOKEN are respected. Raises DataError.
    """
    listing = look(name, revision=revision, only=only, marked=marked)
    folder = output_folder(out)
    if say is not None:
        say(listing.describe(name, folder))
    _download(listing, folder, progress)
    return Fetched(folder, listing.commit, check_layout(name, folder, only))


def _download(listing: Listing, folder: Path, progress: bool) -> None:
    """Downloads what is missing, several files at once."""
    total = None if any(size is None for size, _ in listing.files.values()) else sum(size or 0 for size, _ in listing.files.values())
    pool = ThreadPoolExecutor(AT_ONCE)
    with tqdm(total=total, unit="B", unit_scale=True, desc=listing.source.repository, disable=not progress) as bar:
        try:
            asked = {pool.submit(_one, listing, path, folder): path for path in listing.files}
            for done in as_completed(asked):
                done.result()
                bar.update(listing.files[asked[done]][0] or 0)
        finally:
            pool.shutdown(cancel_futures=True)


def _one(listing: Listing, path: str, folder: Path) -> None:
    source = listing.source
    if ".." in path.split("/") or path.startswith("/"):
        raise DataError(f"{source.repository}: {path!r} leads out of the folder; it is not downloaded")
    if source.where == "github":
        github.download(source.repository, listing.commit, f"{listing.inside}/{path}", listing.files[path][1], folder / path)
        return
    from huggingface_hub import hf_hub_download

    with _named(source, listing.commit):
        hf_hub_download(
            source.repository, path, repo_type="dataset", revision=listing.commit, local_dir=folder, endpoint=endpoint(),
            tqdm_class=SilentBar,
        )  # fmt: skip


@contextlib.contextmanager
def _named(source: Source, revision: str):
    """Turns what the hub's client raises into one DataError that says how to continue."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError, RuntimeError) as error:
        text = " ".join(str(error).split())[:300]
        raise DataError(
            f"{source.repository} at {revision}: cannot be downloaded from the hub ({text}). Finished files are kept; repeat "
            "the command to continue. HF_ENDPOINT selects another hub"
        ) from error


def check_layout(name: str, folder: Path, only: Sequence[str] | None = None, *, limit: int | None = 1) -> list[tuple[str, int, bool]]:
    """What a folder holds, (task, number, whether with true answers). limit: how many analogies of each task are read, None: all.

    The published set is read whole. Raises DataError that names what is wrong.
    """
    if name == "analogist":
        tasks = find_tasks(folder, only)
        for task in tasks:
            for path in (*task.grids, *task.truths):
                check_grid(path)
        return [(f"{task.category} {task.name}", len(task.grids), bool(task.truths)) for task in tasks]
    inputs = benchmark_named(name).read(folder, tasks=only, limit=limit, size=SIDE)
    groups = dict.fromkeys(one.group for one in inputs)
    found = {group: [one for one in inputs if one.group == group] for group in groups}
    return [(group, len(members), all(one.truth is not None for one in members)) for group, members in found.items()]
