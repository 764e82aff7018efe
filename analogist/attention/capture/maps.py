"""The result of a capture: maps with named axes, to be selected by step, branch, head, region or word, saved and loaded.

Place in the flow: `result.maps["up.1.attn.2.self:probs"]` is an AttentionMap; a Maps holds all of one run.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from analogist.attention.select.regions import Region, rectangle, region_tokens
from analogist.models.cells import REGIONS
from analogist.models.numbers import plain
from analogist.models.placement import BRANCHES, Site

if TYPE_CHECKING:
    import xarray

SHOWN = 8  # maps in a repr
Columns = Callable[[str | int, str], Sequence[int]]  # (word, branch) -> text columns


class MapNotFound(KeyError, ValueError):
    """No captured map has this name."""

    def __str__(self) -> str:
        return self.args[0]


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """One captured tensor with named axes, on the CPU.

    tensor: one dimension per name in `axes`. hw: token rows and columns of the site. size: the picture's height, width
    in pixels. rows: rows of cells. coords: the labels of the entries on the axes step, branch, image and head (and query_region,
    key_region, where it was reduced to regions), also if an axis was dropped by `sel` (then one entry). query, key: token numbers
    kept on these axes, None for all. index: for top-k, the token that each value belongs to (same shape as tensor). reduced:
    reductions in the order applied.
    """

    name: str
    site: Site
    point: str
    tensor: Tensor
    axes: tuple[str, ...]
    hw: tuple[int, int]
    size: tuple[int, int]
    rows: int
    coords: dict[str, tuple]
    times: dict[int, int]  # executed step -> training time
    query: Tensor | None = None
    key: Tensor | None = None
    columns: dict[str, tuple[int, ...]] | None = None  # kept text columns, by branch
    index: Tensor | None = None
    reduced: tuple[str, ...] = ()
    prompts: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, tuple[str, ...]] = field(default_factory=dict)  # the tokens of each branch's prompt, from start to end
    words: Columns | None = field(default=None, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def steps(self) -> tuple[int, ...]:
        """The executed steps that it holds or was summed over."""
        return self.coords["step"]

    @property
    def nbytes(self) -> int:
        """Size of its tensors in bytes."""
        return sum(t.numel() * t.element_size() for t in (self.tensor, self.index) if t is not None)

    def __repr__(self) -> str:
        axes = ", ".join(f"{name} {length}" for name, length in zip(self.axes, self.shape, strict=True))
        return f"AttentionMap({self.name}: {axes}; {str(self.tensor.dtype).removeprefix('torch.')})"

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array (bfloat16 as float32)."""
        return (self.tensor.float() if self.tensor.dtype == torch.bfloat16 else self.tensor).numpy()

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.numpy(), dtype=dtype, copy=True if copy is None else copy)

    def axis(self, name: str) -> int:
        """The dimension number of a named axis. Raises ValueError if there is none."""
        if name not in self.axes:
            raise ValueError(f"{self.name} has no axis {name!r}; it has {', '.join(self.axes)}")
        return self.axes.index(name)

    def sel(
        self,
        *,
        step: int | Sequence[int] | None = None,
        branch: int | str | Sequence[int | str] | None = None,
        image: int | Sequence[int] | None = None,
        head: int | Sequence[int] | None = None,
        query: Region | Sequence[Region] | int | None = None,
        key: Region | Sequence[Region] | str | int | Sequence[str | int] | None = None,
    ) -> "AttentionMap":
        """A part of the map, as a view if possible. A single value drops its axis, a list keeps it.

        step: executed steps. branch: "negative", "text" (or 0, 1). query, key: a region, box or pixel of the picture (keeps
        the axis of tokens), or a token number (drops the axis). key at cross-attention: a word (keeps the axis), the number of a text
        column of the prompt (drops it; the same number where only some columns were captured), or a list of these. Of maps reduced to
        regions: one region (drops the axis) or a list of them.
        Raises ValueError for what was not captured.
        """
        out = self
        for name, value in (("step", step), ("branch", branch), ("image", image), ("head", head)):
            if value is not None:
                out = out._pick(name, plain(value))
        query, key = plain(query), plain(key)
        if query is not None:
            out = out._region("query_region", query) if "query_region" in out.axes else out._tokens_of("query", query)
        if key is not None and "key_region" in out.axes:
            out = out._region("key_region", key)
        elif key is not None:
            if self.site.kind == "self":
                out = out._tokens_of("key", cast("Region | Sequence[Region] | int", key))
            else:
                out = out._text_columns(cast("str | int | Sequence[str | int]", key))
        return out

    def _pick(self, name: str, value: int | str | Sequence) -> "AttentionMap":
        dim = self.axis(name)
        one = isinstance(value, int | str)
        wanted = [value] if one else list(value)
        if name == "branch":
            wanted = [BRANCHES[v] if isinstance(v, int) and 0 <= v < len(BRANCHES) else v for v in wanted]
        have = self.coords[name]
        missing = [v for v in wanted if v not in have]
        if missing or not wanted:
            raise ValueError(f"{name} {missing}: {self.name} holds {name} {_short(have)}")
        places = [have.index(v) for v in wanted]
        coords = {**self.coords, name: tuple(wanted)}
        if one:
            return self._with(lambda t: t.select(dim, places[0]), _without(self.axes, dim), coords=coords)
        return self._with(lambda t: _take(t, dim, torch.tensor(places, device="cpu")), self.axes, coords=coords)

    def _region(self, name: str, value: object) -> "AttentionMap":
        """Entries of an axis of regions, which are named as when they were summed up."""
        have = self.coords.get(name, REGIONS)
        listed = [value] if isinstance(value, str) else list(value) if isinstance(value, list | tuple) else [value]
        missing = [one for one in listed if one not in have]
        if missing or not listed:
            raise ValueError(f"{name.partition('_')[0]} {value!r}: {self.name} was reduced to the regions {', '.join(map(str, have))}")
        labelled = replace(self, coords={**self.coords, name: have})
        return labelled._pick(name, cast("str | Sequence[str]", value))

    def _tokens_of(self, name: str, value: "Region | Sequence[Region] | int") -> "AttentionMap":
        dim = self.axis(name)
        have: Tensor | None = getattr(self, name)
        count = self.tensor.shape[dim]
        one = isinstance(value, int)
        wanted = torch.tensor([value], device="cpu") if isinstance(value, int) else region_tokens(value, self.hw, self.rows, self.size)
        have_list = torch.arange(count, device="cpu") if have is None else have
        places = torch.searchsorted(have_list, wanted).clamp(max=len(have_list) - 1)
        if not torch.equal(have_list[places], wanted):
            raise ValueError(f"{name} {value!r}: {self.name} was captured for a part of the picture that does not contain all of it")
        if one:
            return self._with(lambda t: t.select(dim, int(places[0])), _without(self.axes, dim), **{name: wanted})
        return self._with(lambda t: _take(t, dim, places), self.axes, **{name: wanted})

    def _text_columns(self, key: str | int | Sequence[str | int]) -> "AttentionMap":
        """Text columns, by words or numbers; one number drops the axis."""
        dim = self.axis("key")
        asked = [key] if isinstance(key, str | int) else list(key)
        if not asked:
            raise ValueError("key: an empty list selects nothing; leave it out for all text columns")
        columns: dict[str, tuple[int, ...]] = {}
        places: list[int] = []
        for branch in self.coords["branch"]:
            have = tuple(range(self.tensor.shape[dim])) if self.columns is None else self.columns[branch]
            wanted = sorted({column for word in asked for column in self.columns_of(word, branch)})
            missing = [column for column in wanted if column not in have]
            if missing:
                held = "" if self.columns is None else f" ({self.name} holds {', '.join(map(str, have))} of the {branch} prompt)"
                raise ValueError(f"key {key!r}: its text columns {missing} were not captured{held}")
            found = [have.index(column) for column in wanted]
            if columns and found != places:
                raise ValueError(f"key {key!r} is in different columns of each branch's prompt: select a branch first (branch='text')")
            columns[branch], places = tuple(wanted), found
        if isinstance(key, int):
            return self._with(lambda t: t.select(dim, places[0]), _without(self.axes, dim), columns=columns)
        chosen = torch.tensor(places, device="cpu")
        return self._with(lambda t: _take(t, dim, chosen), self.axes, columns=columns)

    def columns_of(self, word: str | int, branch: str) -> tuple[int, ...]:
        """Text columns of a word in a branch's prompt; a number is a column. Raises ValueError if the prompt lacks it or is not known."""
        if self.words is None and isinstance(word, int) and not isinstance(word, bool):
            return (word,)
        if self.words is None:
            raise ValueError(f"word {word!r}: the prompt of this map is not known; select text columns by number")
        return tuple(self.words(word, branch))

    def mean(self, *axes: str) -> "AttentionMap":
        """The mean over named axes (in float32)."""
        return self._fold(axes, lambda t, dims: t.mean(dims))

    def sum(self, *axes: str) -> "AttentionMap":
        """The sum over named axes (in float32)."""
        return self._fold(axes, lambda t, dims: t.sum(dims))

    def max(self, *axes: str) -> "AttentionMap":
        """The maximum over named axes."""
        return self._fold(axes, lambda t, dims: t.amax(dims))

    def _fold(self, axes: tuple[str, ...], fold: Callable[[Tensor, tuple[int, ...]], Tensor]) -> "AttentionMap":
        dims = tuple(self.axis(name) for name in axes)
        if not dims or "rank" in self.axes:
            raise ValueError("name the axes to reduce, such as .mean('head'); top-k values cannot be reduced, because their keys differ")
        left = tuple(name for i, name in enumerate(self.axes) if i not in dims)
        return replace(self, tensor=fold(self.tensor.float(), dims), axes=left, index=None)

    def resize(self, hw: tuple[int, int] | int) -> "AttentionMap":
        """The map on another grid of tokens, by area, in float32: rows of probabilities keep their sums, all else is averaged.

        hw: token rows and columns of the whole picture, or one number for both; a map of a region becomes that region on the new grid.
        Raises ValueError for maps without tokens of the picture, and where a region would end within a token.
        """
        from analogist.attention.capture.resize import resized

        return resized(self, hw)

    def grid(self, axis: str = "key") -> Tensor:
        """The values with a token axis unfolded into rows and columns of the picture, as the last two axes: [... row column].

        Raises ValueError if the tokens of that axis do not form a rectangle.
        """
        dim = self.axis(axis)
        if axis == "key" and self.site.kind != "self":
            raise ValueError(f"{self.name}: its keys are text tokens, not positions in the picture")
        tokens = getattr(self, axis)
        box = (0, self.hw[0], 0, self.hw[1]) if tokens is None else rectangle(tokens, self.hw)
        if box is None:
            raise ValueError(f"{self.name}: the tokens on axis {axis} do not form a rectangle; select one region")
        return self.tensor.movedim(dim, -1).unflatten(-1, (box[1] - box[0], box[3] - box[2]))

    def _with(self, part: Callable[[Tensor], Tensor], axes: tuple[str, ...], **changes: object) -> "AttentionMap":
        index = None if self.index is None else part(self.index)
        return replace(self, tensor=part(self.tensor), index=index, axes=axes, **changes)

    def to_xarray(self) -> "xarray.DataArray":
        """The map as an xarray.DataArray with labelled axes (extra `xarray`); values are not copied where NumPy can share them."""
        from analogist.attention.capture.to_xarray import data_array

        return data_array(self)

    def save(self, path: str | Path) -> None:
        """Writes the map as safetensors, completely or not at all."""
        Maps({self.name: self}).save(path)

    @staticmethod
    def load(path: str | Path) -> "AttentionMap":
        """Reads the only map of a file. Raises ValueError if it holds another number of maps."""
        maps = Maps.load(path)
        if len(maps) != 1:
            raise ValueError(f"{path} holds {len(maps)} maps; use Maps.load")
        return next(iter(maps.values()))


class Maps(Mapping[str, AttentionMap]):
    """The maps of one run, by name. lost: name -> reason, for maps that could not be kept."""

    def __init__(self, maps: Mapping[str, AttentionMap], lost: Mapping[str, str] | None = None) -> None:
        self._maps = dict(maps)
        self.lost = dict(lost or {})

    def __getitem__(self, name: str) -> AttentionMap:
        if name in self._maps:
            return self._maps[name]
        if name in self.lost:
            raise MapNotFound(f"{name} was lost: {self.lost[name]}")
        if not self._maps:
            raise MapNotFound(f"{name}: nothing was captured; pass capture='{name}' to the run, or let it reach a captured step")
        near = difflib.get_close_matches(name, self._maps, 3, 0.3) or list(self._maps)[:3]
        raise MapNotFound(f"no map {name!r} was captured; there are {len(self._maps)}, such as {', '.join(near)}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._maps)

    def __len__(self) -> int:
        return len(self._maps)

    def _ipython_key_completions_(self) -> list[str]:
        """What IPython and Jupyter offer after `maps["`."""
        return list(self._maps)

    def select(self, pattern: str) -> "Maps":
        """The maps whose name matches a shell pattern. Raises ValueError if there are none."""
        found = {name: m for name, m in self._maps.items() if fnmatchcase(name, pattern)}
        if not found:
            raise ValueError(f"pattern {pattern!r} matches none of the {len(self)} maps captured: {_short(tuple(self._maps))}")
        return Maps(found)

    @property
    def nbytes(self) -> int:
        """Size of all tensors in bytes."""
        return sum(m.nbytes for m in self.values())

    def __repr__(self) -> str:
        lines = [f"Maps: {len(self)}, {self.nbytes / 2**20:.2f} MiB", *(f"  {m!r}" for m in list(self.values())[:SHOWN])]
        lines += [f"  ... and {len(self) - SHOWN} more"] if len(self) > SHOWN else []
        lines += [f"  lost {name}: {why}" for name, why in list(self.lost.items())[:SHOWN]]
        return "\n".join(lines + ([f"  ... and {len(self.lost) - SHOWN} more lost"] if len(self.lost) > SHOWN else []))

    def to_xarray(self) -> "xarray.Dataset":
        """All maps as one xarray.Dataset (extra `xarray`); an axis in which they differ has its length in its name, "query_4096"."""
        from analogist.attention.capture.to_xarray import data_set

        return data_set(self)

    def save(self, path: str | Path) -> None:
        """Writes all maps into one safetensors file, completely or not at all."""
        from analogist.attention.capture.storage import save_maps

        save_maps(self, path)

    @classmethod
    def load(cls, path: str | Path) -> "Maps":
        """Reads maps from a file, or from the folder of a spilled capture; large maps stay on disk until they are used."""
        from analogist.attention.capture.storage import load_maps

        return load_maps(path)


def _take(tensor: Tensor, dim: int, places: Tensor) -> Tensor:
    """index_select, as a view if the positions are consecutive."""
    first, count = int(places[0]), len(places)
    if torch.equal(places, torch.arange(first, first + count, device="cpu")):
        return tensor.narrow(dim, first, count)
    return tensor.index_select(dim, places)


def _without(axes: tuple[str, ...], dim: int) -> tuple[str, ...]:
    return axes[:dim] + axes[dim + 1 :]


def _short(values: tuple) -> str:
    shown = ", ".join(repr(v) for v in values[:8])
    return shown + (f", ... ({len(values)} in all)" if len(values) > 8 else "")
