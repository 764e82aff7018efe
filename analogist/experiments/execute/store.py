"""The folder of an experiment: one coordinator at a time, finished groups written whole, nothing done twice.

study.json            what was asked for
pictures/             one PNG per job, with its record
inputs/               the composed grids
groups/<key>.json     the commit of a group: written after its pictures, by one rename
table.csv, ...        made again from the commits whenever something was added
"""

import json
import os
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout  # comes with torch and huggingface_hub
from PIL import Image

from analogist.config import read_json
from analogist.disk.foreign import encoded, naming
from analogist.disk.writing import atomic_write, output_folder
from analogist.experiments.design.levels import StudyError
from analogist.experiments.execute.jobs import Group, content_key
from analogist.grid.pictures import read_picture, save_png
from analogist.grid.prompt_grid import PromptGrid

FORMAT = 1
LONG = 60  # characters above which a list is not quoted whole
LOCK, HOLDER = ".lock", ".holder.json"


@dataclass(frozen=True, eq=False)
class Done:
    """What came of one job. cell: the painted B' cell, None where it failed. measures: metric key -> value.

    notes: metric -> why it was not measured. failed: why there is no picture.
    """

    key: str
    cell: Image.Image | None
    record: dict
    measures: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    failed: str | None = None


@dataclass(frozen=True)
class Entry:
    """A finished job as the folder holds it. picture: path inside the folder, None where it failed."""

    key: str
    picture: str | None
    sha256: str | None
    record: dict
    measures: dict[str, float]
    notes: dict[str, str]
    failed: str | None
    seconds: float


class Store:
    """An experiment's folder, held by one coordinator: a context manager. Raises StudyError where another one holds it."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = output_folder(folder)
        self._lock = FileLock(self.folder / LOCK, timeout=0)
        self.entries: dict[str, Entry] = {}

    def __enter__(self) -> "Store":
        try:
            self._lock.acquire()
        except Timeout:
            raise StudyError(f"{self.folder}: in use by {self._holder()}; wait for it to end, or choose another folder") from None
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        try:
            atomic_write(self.folder / HOLDER, json.dumps(holder).encode())
            for name in ("groups", "pictures", "inputs"):
                output_folder(self.folder / name)
            self.entries = read_entries(self.folder)
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        (self.folder / HOLDER).unlink(missing_ok=True)
        self._lock.release()

    def _holder(self) -> str:
        try:
            holder = json.loads((self.folder / HOLDER).read_text())
            return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
        except (OSError, ValueError, KeyError, TypeError):  # between taking the lock and saying so
            return "another process that has just started"

    def reload(self) -> None:
        """Reads the finished jobs again, after files were put into the folder."""
        self.entries = read_entries(self.folder)

    def missing(self, groups: Iterable[Group]) -> list[Group]:
        """The groups with jobs that are not finished, only those jobs in them.

        A group is finished at once, so that after an interrupt it is there whole or not at all; a part of it is only there
        when the study has grown.
        """
        out = []
        for group in groups:
            left = tuple(job for job in group.jobs if job.key not in self.entries)
            if len(left) == len(group.jobs):
                out.append(group)
            elif left:
                out.append(Group(content_key([group.batch, *(job.key for job in left)]), left, group.batch, group.share))
        return out

    def write_study(self, data: dict, *, fixed: dict, taken: Sequence[dict] = ()) -> list[str]:
        """Writes study.json. fixed: what has to stand before the first run; returns in words what of it was changed afterwards.

        taken: the study.json of folders whose finished runs are put into this one; what was changed there was changed here too.
        """
        path = self.folder / "study.json"
        old = read_json(path) if path.exists() else {}
        now = json.loads(json.dumps(fixed))
        changed = [*old.get("changed", ()), *(_changes(old.get("fixed"), now) if self.entries else ())]
        for one in taken:
            left = list(changed)  # a remark that several folders share is said once, one that a folder says twice stays twice
            for remark in (*one.get("changed", ()), *_changes(one.get("fixed"), now)):
                if remark in left:
                    left.remove(remark)
                else:
                    changed.append(remark)
        whole = data | {"fixed": now, "changed": changed}
        atomic_write(path, encoded(json.dumps(whole, indent=1, ensure_ascii=False) + "\n"))
        return changed

    def write_input(self, name: str, grid: PromptGrid) -> None:
        """Writes the composed grid of an input, once."""
        path = self.folder / "inputs" / f"{name}.png"
        if not path.exists():
            save_png(grid.image, path)

    def commit(self, group: Group, results: Sequence[Done], names: dict[str, str], seconds: float) -> None:
        """Writes a group's pictures and then, by one rename, that it is finished. names: job key -> beginning of a file name."""
        entries = []
        for done in results:
            picture = sha256 = None
            if done.cell is not None:
                picture = f"pictures/{names[done.key]}_{done.key[:12]}.png"
                save_png(done.cell, self.folder / picture, done.record)
                sha256 = picture_key(done.cell)
            share = round(seconds / len(results), 4)
            entries.append(Entry(done.key, picture, sha256, done.record, done.measures, done.notes, done.failed, share))
        write_group(self.folder, group.key, entries)
        self.entries |= {entry.key: entry for entry in entries}

    def adopt(self, entries: Sequence[Entry]) -> None:
        """Writes by one rename that jobs are finished whose pictures are there already."""
        write_group(self.folder, content_key(["adopted", *(entry.key for entry in entries)]), entries)
        self.entries |= {entry.key: entry for entry in entries}

    def picture(self, entry: Entry) -> Image.Image:
        """The painted B' cell of a finished job. Raises StudyError where it is missing or not the one that was written."""
        if entry.picture is None:
            raise StudyError(f"job {entry.key[:12]} failed and has no picture: {entry.failed}")
        picture = read_picture(self.folder / entry.picture, f"picture of job {entry.key[:12]}")
        if picture_key(picture) != entry.sha256:
            raise StudyError(f"{self.folder / entry.picture}: not the picture that was written; delete groups/ and run again")
        return picture

    def add_measures(self, changed: Sequence[Entry]) -> None:
        """Keeps values measured later than the pictures, beside the commits."""
        for entry in changed:
            data = {"format": FORMAT, "key": entry.key, "measures": entry.measures, "notes": entry.notes}
            output_folder(self.folder / "measures")
            atomic_write(self.folder / "measures" / f"{entry.key}.json", json.dumps(data, indent=1).encode())
            self.entries[entry.key] = entry


def _changes(before: dict | None, now: dict) -> list[str]:
    """What differs of what has to stand before the first run, in words; nothing where it is not known what stood there."""
    if before is None:
        return []
    return [_change(name, before.get(name), value) for name, value in now.items() if before.get(name) != value]


def _change(name: str, before: object, now: object) -> str:
    """What was changed, in words; of a long list the entries that came, went or became others. Claims are known by their sentences."""
    texts = [json.dumps(value, ensure_ascii=False) for value in (before, now)]
    if not (isinstance(before, list) and isinstance(now, list) and max(map(len, texts)) > LONG):
        return f"{name} was {texts[0]}, is {texts[1]}"
    old, new = ({_title(entry): entry for entry in entries} for entries in (before, now))
    gone, came = [title for title in old if title not in new], [title for title in new if title not in old]
    parts = [f"taken out {', '.join(gone)}"] if gone else []
    parts += [f"put in {', '.join(came)}"] if came else []
    for title in (title for title in old if title in new and old[title] != new[title]):
        fields = ", ".join(_changes(old[title], new[title]))
        parts.append(f"changed {title} ({fields})")
    return f"{name}: {'; '.join(parts) or 'in another order'}"


def _title(entry: object) -> str:
    """What an entry of a list is known by: a claim by its sentence in quotes, all else by its value."""
    return json.dumps(entry["claim"] if isinstance(entry, dict) and "claim" in entry else entry, ensure_ascii=False)


def picture_key(picture: Image.Image) -> str:
    """SHA-256 of a picture's pixels."""
    return content_key([picture.size, picture.convert("RGB").tobytes().hex()])


def write_group(folder: Path, key: str, entries: Sequence[Entry]) -> None:
    """Writes the commit of a group."""
    data = {"format": FORMAT, "group": key, "jobs": [vars(entry) for entry in entries]}
    atomic_write(folder / "groups" / f"{key[:32]}.json", encoded(json.dumps(data, indent=1, ensure_ascii=False) + "\n"))


def read_entries(folder: Path) -> dict[str, Entry]:
    """All finished jobs of a folder. Raises StudyError for a commit that cannot be read or is of another version."""
    entries: dict[str, Entry] = {}
    for path in sorted((folder / "groups").glob("*.json")):
        data = read_json(path)
        with naming(path, StudyError):
            if data.get("format") != FORMAT:
                raise StudyError(f"{path}: format {data.get('format')!r}; this version reads {FORMAT}")
            for job in data["jobs"]:
                entries.setdefault(job["key"], Entry(**job))
    for path in sorted((folder / "measures").glob("*.json")):
        data = read_json(path)
        with naming(path, StudyError):
            if data["key"] in entries:
                old = vars(entries[data["key"]])
                entries[data["key"]] = Entry(**old | {"measures": data["measures"], "notes": data["notes"]})
    return entries
