"""The files of a collection: a head that says what was asked for, and shards, each a safetensors file and the list of its inputs.

A shard is complete once its list stands beside it; both are written whole or not at all. Where shards end depends on the rows alone, so
that a collection which was killed and restarted has the same bytes as one that was not.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from safetensors.torch import save

from analogist.attention.collect.rows import COLUMNS, Rows
from analogist.disk.foreign import naming
from analogist.disk.writing import atomic_write

FORMAT = "analogist activations 2"
EARLIER = "analogist activations 1"  # its keys left out what the model's calls use by default, and which pictures are aligned
HEAD = "index.json"
INDEX = "#index"  # appended to the name of a point for the index of its rows


class OtherCollection(ValueError):
    """The folder holds another collection, or one of other inputs."""


class Told(Protocol):
    """One run of a collection."""

    def said(self) -> dict[str, object]:
        """What the list of a shard says of it, JSON-ready, by which it is known again."""
        ...


Run = TypeVar("Run", bound=Told)


def tensors_of(number: int) -> str:
    return f"{number:05}.safetensors"


def list_of(number: int) -> str:
    return f"{number:05}.json"


class Shards:
    """The shards of one folder while they are written: rows are held until they are large enough for the next.

    asked: what is collected, JSON-ready; a folder is continued only where this is the same. shard_bytes: size of a shard's rows.
    """

    def __init__(self, folder: Path, asked: Mapping[str, object], shard_bytes: int) -> None:
        """Raises OtherCollection where the folder holds something else."""
        self.folder, self.shard_bytes, self.count = folder, shard_bytes, 0
        self.held: dict[str, list[Rows]] = {}
        self.inputs: list[dict[str, object]] = []
        self.nbytes = 0
        said = json.loads(json.dumps({"format": FORMAT, "columns": COLUMNS, "asked": asked}))
        head = folder / HEAD
        if not head.exists():
            if any(folder.iterdir()):
                raise OtherCollection(f"{folder}: is not empty and holds no collection; choose another folder")
            atomic_write(head, _encoded(said))
            return
        with naming(head):
            there = json.loads(head.read_text(encoding="utf-8"))
            if there.get("format") == EARLIER:
                raise OtherCollection(
                    f"{folder}: was written by an earlier version, which did not note the alignment of grids nor the model's config, "
                    "prompts, size and dtype; load() reads it, but it cannot be continued: choose another folder"
                )
            if there.get("format") != FORMAT:
                raise OtherCollection(f"{folder}: {HEAD} is not that of a collection; choose another folder")
            differ = differences(there["asked"], said["asked"])
        if differ:
            raise OtherCollection(f"{folder}: holds a collection with other {', '.join(differ)}; choose another folder")

    def known(self, runs: Iterable[Run]) -> tuple[int, Iterator[Run]]:
        """How many runs the complete shards hold, and the runs that are left to do.

        A last shard that was closed only because there was no more input is made again if there is more now.
        Raises OtherCollection where the runs are not the same.
        """
        left, done = iter(runs), 0
        while (self.folder / list_of(self.count)).exists():
            about = read_list(self.folder, self.count)
            same: list[Run] = []
            for number, told in enumerate(about["inputs"], start=done):
                run = next(left, None)
                differ = [] if run is None else differences(told, json.loads(json.dumps(run.said())))
                if run is None or differ:
                    now = "is missing now" if run is None else f"is different now (other {', '.join(differ)})"
                    which = f"run {number} ({told['name']}, seed {told['seed']})"
                    raise OtherCollection(f"{self.folder}: {which} {now}; choose another folder")
                same.append(run)
            more = next(left, None)
            left = left if more is None else itertools.chain([more], left)
            if about["last"] and more is not None:
                (self.folder / list_of(self.count)).unlink()
                return done, itertools.chain(same, left)
            done += len(same)
            self.count += 1
        return done, left

    def add(self, run: Told, rows: Mapping[str, Rows]) -> None:
        """Takes the rows of one run, by point; writes a shard once there are enough."""
        for point, some in rows.items():
            self.held.setdefault(point, []).append(some)
            self.nbytes += some.nbytes
        self.inputs.append(run.said())
        if self.nbytes >= self.shard_bytes:
            self._write(last=False)

    def finish(self) -> None:
        """Writes what is held."""
        if self.inputs:
            self._write(last=True)

    def _write(self, *, last: bool) -> None:
        tensors: dict[str, torch.Tensor] = {}
        points: dict[str, object] = {}
        for point, parts in self.held.items():
            values = torch.cat([part.values for part in parts])
            tensors[point], tensors[point + INDEX] = values, torch.cat([part.index for part in parts])
            dtype = str(values.dtype).removeprefix("torch.")
            points[point] = {"rows": len(values), "shape": values.shape[1:], "axes": parts[0].axes, "dtype": dtype}
        atomic_write(self.folder / tensors_of(self.count), save(tensors))
        atomic_write(self.folder / list_of(self.count), _encoded({"last": last, "points": points, "inputs": self.inputs}))
        self.held, self.inputs, self.nbytes = {}, [], 0
        self.count += 1


def differences(one: object, other: object, name: str = "") -> list[str]:
    """Names of the entries in which two JSON values differ, nested ones with dots: "model.config.sac"."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [found for key in one for found in differences(one[key], other[key], f"{name}.{key}" if name else key)]
    return [] if one == other else [name]


def read_list(folder: Path, number: int) -> dict:
    """The list of a complete shard. Raises ValueError for a file that is damaged."""
    path = folder / list_of(number)
    with naming(path):
        about = json.loads(path.read_text(encoding="utf-8"))
        return {"last": about["last"], "points": about["points"], "inputs": about["inputs"]}


def _encoded(data: object) -> bytes:
    return (json.dumps(data, indent=1) + "\n").encode()
