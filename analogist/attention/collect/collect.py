"""Collecting activations: many runs, one row per input, seed, step, branch and token, written in shards.

Place in the flow: beside captures, which hold one run; what probes, sparse autoencoders and steering vectors are trained from.
"""

import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from analogist.attention.capture.capture import Capture
from analogist.attention.capture.maps import AttentionMap
from analogist.attention.collect.activations import Activations, load
from analogist.attention.collect.rows import rows_of
from analogist.attention.collect.shards import Shards
from analogist.attention.select.regions import Region
from analogist.attention.select.run_shape import Steps
from analogist.disk.writing import output_folder
from analogist.grid.prompt_grid import PromptGrid
from analogist.models.numbers import plain

SIZE = 512  # px, at which grids that leave their size to the model are compared
DEFAULTS = ("config", "negative_prompt", "prompt_suffix", "size", "dtype")  # of a model, used by calls that do not say otherwise


class Captured(Protocol):
    """The result of a run."""

    @property
    def maps(self) -> Mapping[str, AttentionMap]: ...


@dataclass(frozen=True)
class OneRun:
    """One run. name, about: of its input, JSON-ready. seed: of its first image. grid, call: arguments of the model's call."""

    name: str
    seed: int
    grid: PromptGrid
    call: Mapping[str, object]
    about: object = None

    def said(self) -> dict[str, object]:
        """Name, seed, prompt, about, and content keys of the grid and of the arguments of the call."""
        keys = {"grid": _key(content_of(self.grid)), "call": _key(content_of(self.call))}
        return {"name": self.name, "seed": self.seed, "prompt": self.call.get("prompt", ""), "about": self.about, **keys}


def collect(
    model: Callable[..., Captured], inputs: Iterable[object], selectors: str | Sequence[str], *, out: str | Path, seed: int = 42,
    seeds: int = 1, steps: Steps = None, branches: int | str | Sequence[int | str] | None = None, heads: int | Sequence[int] | None = None,
    query: Region | Sequence[Region] | None = None, dtype: torch.dtype | None = None, shard_bytes: int = 64 * 2**20,
    max_bytes: int = 4 * 2**30, progress: bool = True, **call: object,
) -> Activations:  # fmt: skip
    """Runs every input with every seed and writes what was at the selected points, one row per input, seed, step, branch and token.

    model: an Analogist, its `at`, or a functools.partial of either: anything that takes (grid, prompt=, seed=, capture=) and gives maps.
    inputs: PromptGrids, pairs (grid, prompt), objects with `grid` and `prompt` (bundled examples, a study's inputs), or mappings with
    `grid` and further arguments of the call; a mapping may also have `name`, and `about`: a JSON-ready mapping that is kept with its
    rows, such as a label. A generator will do.
    selectors: of points with a channel axis or of maps ("up.1.attn.2.ff:hidden", "*.res.*.block:time"). steps, branches, heads, query:
    what is kept there, as in Capture. seed, seeds: every input runs with the seeds seed .. seed + seeds - 1; a mapping may have its own.
    dtype: of the values; None: the run's. shard_bytes: size of the rows in one shard; memory holds one shard and the rows of one run.
    max_bytes: limit of what one run keeps. call: further arguments of every call, such as config= or t=.

    out: the folder. A collection that was stopped continues after its last complete shard, and ends with the same bytes; so does one
    that gets more inputs. Raises OtherCollection, which names what differs, where the folder holds something else: other grids (their
    alignment too), another checkpoint, or the same with another config, prompts, size or dtype.
    """
    chosen = [selectors] if isinstance(selectors, str) else list(selectors)
    seed, seeds, shard_bytes = (_whole(*given) for given in (("seed", seed, 0), ("seeds", seeds, 1), ("shard_bytes", shard_bytes, 1)))
    capture = Capture(*chosen, steps=steps, branches=branches, heads=heads, query=query, dtype=dtype, max_bytes=max_bytes)
    asked = {"selectors": chosen, "steps": steps, "branches": branches, "heads": heads, "query": query, "dtype": dtype}
    asked |= {"shard_bytes": shard_bytes, "model": model, "call": call}
    shards = Shards(output_folder(out), {name: content_of(value) for name, value in asked.items()}, shard_bytes)
    done, runs = shards.known(_runs(inputs, seed, seeds))
    quiet = {"progress": False} if "progress" in inspect.signature(model).parameters else {}  # `model.at` refuses it
    for number, run in enumerate(tqdm(runs, desc="collecting", unit="run", initial=done, disable=not progress), start=done):
        maps = model(run.grid, **{**quiet, **call, **run.call}, seed=run.seed, capture=capture).maps
        shards.add(run, {name: rows_of(m, number, run.seed) for name, m in maps.items()})
    shards.finish()
    return load(out)


def _runs(inputs: Iterable[object], seed: int, seeds: int) -> Iterator[OneRun]:
    """The runs of the inputs, in order: every seed of one, then the next."""
    for number, given in enumerate(inputs):
        call, name, about = _taken(given, number)
        grid = call.pop("grid", None)
        if callable(grid):  # a bundled example makes its grid
            grid = grid()
        if not isinstance(grid, PromptGrid):
            raise ValueError(f"input {number}: {type(given).__name__} has no grid: give a PromptGrid, (grid, prompt) or a mapping")
        if "capture" in call:
            raise ValueError(f"input {number}: capture= is collect's own; choose what is kept by selectors")
        first = _whole("seed", cast(int, call.pop("seed", seed)), 0)
        for step in range(seeds):
            yield OneRun(name, first + step, grid, call, about)


def _taken(given: object, number: int) -> tuple[dict[str, object], str, object]:
    """Arguments of the call, name and `about` of one input."""
    if isinstance(given, Mapping):
        call = dict(cast(Mapping[str, object], given))
        name, about = str(call.pop("name", number)), call.pop("about", None)
        try:
            json.dumps(about)
        except TypeError as error:
            raise ValueError(f"input {number}: about= must be JSON-ready ({error})") from error
        return call, name, about
    if isinstance(given, tuple) and len(given) == 2:
        return {"grid": given[0], "prompt": given[1]}, str(number), None
    if isinstance(given, PromptGrid):
        return {"grid": given}, str(number), None
    call = {"grid": getattr(given, "grid", None), "prompt": getattr(given, "prompt", "")}
    group = getattr(given, "group", None) or getattr(given, "family", None)
    return call, str(getattr(given, "name", number)), {"group": group} if group else None


def content_of(value: object) -> object:
    """A JSON-ready stand-in for a value: itself where it is plain, else what it says of itself, else a key of its content.

    A model also says what its calls use by default. Functions are told apart by their names alone.
    """
    value = plain(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): content_of(one) for key, one in cast(Mapping[object, object], value).items()}
    if isinstance(value, list | tuple | range):
        return [content_of(one) for one in cast(Sequence[object], value)]
    if isinstance(value, PromptGrid):
        drawn = value.at_size(SIZE)  # its picture does not show what is aligned; nor, if it came ready, at which size it was drawn
        layout = {"aligned": value.aligned, "drawn": list(drawn.drawn)}
        return {"rows": value.rows, "size": content_of(value.size), **layout, "picture": content_of(drawn.image)}
    if isinstance(value, Image.Image):
        return [*value.size, hashlib.sha256(value.convert("RGB").tobytes()).hexdigest()]
    if isinstance(value, Tensor):
        value = value.detach().cpu().double().numpy()
    if isinstance(value, AttentionMap):
        tokens = {"query": value.query, "key": value.key, "columns": value.columns, "coords": value.coords}
        return {"map": value.name, "axes": list(value.axes), **content_of_each(tokens), "values": content_of(value.tensor)}
    if isinstance(value, np.ndarray):
        return [*value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    if isinstance(value, functools.partial):
        return {"of": content_of(value.func), "args": content_of(value.args), "keywords": content_of(value.keywords)}
    if callable(say := getattr(value, "to_json", None)) and not isinstance(value, type):  # a configuration
        return content_of(say())
    if callable(say := getattr(value, "describe", None)) and not isinstance(value, type):  # a model
        return {"checkpoint": content_of(say()), **content_of_each({name: getattr(value, name, None) for name in DEFAULTS})}
    if inspect.ismethod(value):
        return {"of": content_of(value.__self__), "method": value.__name__}
    name = getattr(value, "__qualname__", None)
    said = repr(value) if name is None and type(value).__repr__ is not object.__repr__ else name or type(value).__qualname__
    held = {name: one for name, one in getattr(value, "__dict__", {}).items() if isinstance(one, Tensor | np.ndarray | AttentionMap)}
    return {"is": said, **content_of_each(held)} if held else said  # an edit that adds a vector or patches a map


def content_of_each(values: Mapping[str, object]) -> dict[str, object]:
    return {name: content_of(value) for name, value in values.items()}


def _key(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _whole(name: str, value: int, least: int) -> int:
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} {value!r}: expected a whole number of at least {least}")
    return value
