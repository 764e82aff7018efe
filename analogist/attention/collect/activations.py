"""Reading a collection: rows of each point, read from the shards only as they are asked for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from analogist.attention.capture.maps import MapNotFound
from analogist.attention.collect.rows import COLUMNS, region_name
from analogist.attention.collect.shards import HEAD, INDEX, list_of, read_list, tensors_of
from analogist.disk.foreign import naming
from analogist.models.numbers import plain
from analogist.models.placement import BRANCHES

Chosen = int | str | Sequence[int | str]


def load(folder: str | Path) -> "Activations":
    """The activations in a folder that `collect` wrote; only the lists are read yet. Raises ValueError for other folders."""
    return Activations(Path(folder))


class Activations(Mapping[str, "RowsOf"]):
    """Collected activations by point: `load(folder)["up.1.attn.2.ff:hidden"]` are its rows.

    inputs: name, seed, prompt and about of each run; the index column "input" holds its position in this list.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / HEAD).exists():
            raise ValueError(f"{folder}: holds no collection (no {HEAD}); give the folder that collect(out=...) wrote")
        self.folder = folder
        self.inputs: list[dict] = []
        self._shards: dict[str, list[tuple[Path, int]]] = {}  # point -> shard files and their rows
        self._about: dict[str, dict] = {}
        number = 0
        while (folder / list_of(number)).exists():
            about = read_list(folder, number)
            self.inputs += about["inputs"]
            with naming(folder / list_of(number)):
                for point, rows in about["points"].items():
                    self._shards.setdefault(point, []).append((folder / tensors_of(number), rows["rows"]))
                    self._about[point] = rows
            number += 1

    def __getitem__(self, point: str) -> "RowsOf":
        if point not in self._shards:
            raise MapNotFound(f"no activations of {point!r} were collected; there are {', '.join(self._shards) or 'none'}")
        about = self._about[point]
        return RowsOf(point, tuple(about["axes"]), tuple(about["shape"]), tuple(self._shards[point]), tuple(self.inputs))

    def __iter__(self) -> Iterator[str]:
        return iter(self._shards)

    def __len__(self) -> int:
        return len(self._shards)

    def __repr__(self) -> str:
        lines = [f"Activations: {len(self.inputs)} runs, {len(self)} points"]
        return "\n".join([*lines, *(f"  {self[point]!r}" for point in self)])


@dataclass(frozen=True, eq=False)
class RowsOf:
    """The rows of one point, or some of them, in the order in which they were collected.

    axes, values_shape: of the values of one row (channel; or head, channel; or head, key). kept: numbers of the chosen rows, None: all.
    """

    point: str
    axes: tuple[str, ...]
    values_shape: tuple[int, ...]
    shards: tuple[tuple[Path, int], ...]
    inputs: tuple[dict, ...]
    kept: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.values_shape)

    def __len__(self) -> int:
        return sum(rows for _, rows in self.shards) if self.kept is None else len(self.kept)

    def __repr__(self) -> str:
        axes = ", ".join(f"{name} {length}" for name, length in zip(("row", *self.axes), self.shape, strict=True))
        return f"{self.point}: {axes}"

    @cached_property
    def _numbers(self) -> np.ndarray:
        """The whole index [row column], of all rows."""
        return np.concatenate([_read(path, self.point + INDEX).numpy() for path, _ in self.shards])

    @cached_property
    def index(self) -> dict[str, np.ndarray]:
        """Of each row: input and seed, step and t, branch ("negative", "text"), token (-1: none) and region ("": none)."""
        numbers = self._numbers if self.kept is None else self._numbers[self.kept]
        out = {name: numbers[:, i] for i, name in enumerate(COLUMNS)}
        out["branch"] = np.array(BRANCHES)[out["branch"]]
        names = {int(number): region_name(int(number)) for number in np.unique(out["region"])}
        out["region"] = np.array([names[int(number)] for number in out["region"]]) if len(numbers) else np.array([], dtype=str)
        return out

    def about(self, key: str) -> np.ndarray:
        """For each row, the entry `key` of its input's `about`. Raises ValueError where an input has none."""
        found = {}
        for number in np.unique(self.index["input"]).tolist():
            about = self.inputs[number]["about"] or {}
            if key not in about:
                has = ", ".join(about) or "nothing"
                raise ValueError(f"input {self.inputs[number]['name']!r}: its about= has no {key!r}; it has {has}")
            found[number] = about[key]
        return np.array([found[number] for number in self.index["input"].tolist()])

    def select(
        self, *, input: Chosen | None = None, seed: Chosen | None = None, step: Chosen | None = None, branch: Chosen | None = None,
        token: Chosen | None = None, region: Chosen | None = None,
    ) -> "RowsOf":  # fmt: skip
        """The rows with these values (one, or one of a list) in the index. Raises ValueError for values that no row has."""
        wanted = {"input": input, "seed": seed, "step": step, "branch": branch, "token": token, "region": region}
        mask = np.ones(len(self), dtype=bool)
        for name, value in wanted.items():
            if value is None:
                continue
            value = plain(value)
            values = [value] if isinstance(value, int | str) else [plain(one) for one in value]
            have = self.index[name]
            if missing := [one for one in values if not (have == one).any()]:
                raise ValueError(f"{name} {missing}: {self.point} has {', '.join(map(str, np.unique(have)[:12]))}")
            mask &= np.isin(have, values)
        return self[mask]

    def __getitem__(self, rows: slice | Sequence[int] | np.ndarray | Tensor) -> "RowsOf":
        """Some of the rows, by a slice, a mask or their positions; still nothing is read."""
        every = np.arange(len(self)) if self.kept is None else self.kept
        return RowsOf(self.point, self.axes, self.values_shape, self.shards, self.inputs, np.atleast_1d(every[rows]))

    def tensor(self) -> Tensor:
        """The values of these rows, [row ...]. Reads the shards that hold them, one at a time. Raises ValueError for no rows."""
        kept = np.arange(len(self)) if self.kept is None else self.kept
        parts: list[Tensor] = []
        places: list[np.ndarray] = []
        start = 0
        for path, rows in self.shards:
            here = np.flatnonzero((kept >= start) & (kept < start + rows))
            if len(here):
                parts.append(_read(path, self.point)[torch.from_numpy(kept[here] - start)])
                places.append(here)
            start += rows
        if not parts:
            raise ValueError(f"{self.point}: no rows were chosen")
        values, order = torch.cat(parts), np.concatenate(places)
        return values if (np.diff(order) == 1).all() else values[torch.from_numpy(np.argsort(order))]

    def batches(self, size: int, *, shuffle: int | None = None) -> Iterator[tuple[Tensor, "RowsOf"]]:
        """Batches of rows with their values, the last one smaller. shuffle: a seed; shards come in random order, and the rows inside each.

        One shard is held in memory at a time. Different seeds give different orders, so that each epoch can have its own.
        """
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"batches of {size!r}: expected a number of rows, at least 1")
        chance = None if shuffle is None else np.random.default_rng(shuffle)
        kept = np.arange(len(self)) if self.kept is None else self.kept
        ends = np.cumsum([rows for _, rows in self.shards])
        groups = [np.flatnonzero(np.searchsorted(ends, kept, side="right") == i) for i in range(len(self.shards))]
        if chance is not None:
            groups = [chance.permutation(groups[i]) for i in chance.permutation(len(groups))]
        left = np.array([], dtype=np.int64)  # of the shard before, fewer than a batch
        for i, group in enumerate(groups):
            left = np.concatenate([left, group])
            count = len(left) if i == len(groups) - 1 else len(left) // size * size
            if not count:
                continue
            values = self[left[:count]].tensor()
            for start in range(0, count, size):
                yield values[start : start + size], self[left[start : min(start + size, count)]]
            left = left[count:]


def _read(path: Path, name: str) -> Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: cannot be read as a shard of activations ({error})") from error
