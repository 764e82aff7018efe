"""Choosing seeds by attention: the first steps of many seeds side by side, ranked by a measure, and the best run to the end.

The first steps show how much of the example reaches B', long before the picture is there. A rank says only which seed does most of what
the measure counts; whether its picture is better, the pictures must show.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor
from tqdm import tqdm

from analogist.attention.capture.maps import AttentionMap
from analogist.attention.edit.bind import Edits
from analogist.attention.measure.contribution import Weigh
from analogist.attention.measure.runs import Outcome, functions_of
from analogist.attention.select.regions import Region
from analogist.grid.prompt_grid import PromptGrid
from analogist.models.numbers import plain


class Stepped(Protocol):
    """A step of a run, as `model.steps` yields it: latents [image 4 h w] and what capture= asked for."""

    z_t: Tensor
    x0: Tensor
    eps: Tensor
    maps: Mapping[str, AttentionMap]


class Runner(Protocol):
    """What runs: an Analogist."""

    def steps(self, grid: PromptGrid, prompt: str = "", **call: object) -> Iterator[Stepped]: ...

    def __call__(self, grid: PromptGrid, prompt: str = "", **call: object) -> Outcome: ...


By = Callable[[Stepped], Tensor]


@dataclass(frozen=True, eq=False)
class SeedRanking:
    """Seeds ranked by a measure of their first steps, best first.

    seeds: best first. values: [seed], the measure of each. first: executed steps that were run of each. by: what was measured.
    result: of the best seed, run to the end; None with finish=False.
    """

    seeds: tuple[int, ...]
    values: Tensor
    first: int
    by: str
    result: Outcome | None = None

    @property
    def best(self) -> int:
        """The seed that ranks first."""
        return self.seeds[0]

    def rows(self) -> list[dict]:
        """One row per seed, best first: rank, seed, value."""
        return [{"rank": i, "seed": seed, "value": float(self.values[i])} for i, seed in enumerate(self.seeds)]

    def __repr__(self) -> str:
        lines = [f"{len(self.seeds)} seeds by {self.by} in their first {self.first} steps, greatest first"]
        return "\n".join([*lines, *(f"{row['seed']:>12} {row['value']:10.5f}" for row in self.rows()[:12])])


def rank_seeds(
    model: Runner, grid: PromptGrid, prompt: str = "", *, seeds: int | Sequence[int] = 16, first: int = 5, by: By | None = None,
    query: Region = "B'", key: Region = "A'", selector: str = "*.self", batch: int | None = None, finish: bool = True,
    progress: bool = False, **call: object,
) -> SeedRanking:  # fmt: skip
    """Runs the first steps of every seed, ranks them by a measure, and runs the best one to the end as an ordinary call.

    seeds: a list, or a number of seeds counted from 42. first: executed steps of each. by: takes the last of these steps (its `maps`
    are what capture= asks for) and gives one number per image, greater is better. None: the contribution of `key` to `query` (what heads
    write into B' from A', over the residual stream), mean over the sites of `selector`, heads and these steps, in the text branch.
    batch: seeds side by side; None: all. finish: whether the best runs to the end. call: further arguments of the model's call, such as
    config= and edit=. Raises ValueError for invalid seeds, and for arguments that contradict these.
    """
    chosen = _seeds(seeds)
    wrong = [name for name in ("images", "seed", "generator", "latents") if name in call]
    if wrong or not isinstance(grid, PromptGrid) or not isinstance(prompt, str):
        what = f"{', '.join(wrong)} given" if wrong else "lists of grids or prompts"
        raise ValueError(f"rank_seeds: {what}; it takes one grid, one prompt and seeds=")
    if plain(batch) is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise ValueError(f"rank_seeds batch {batch!r}: expected a whole number of at least 1, or None for all seeds together")
    if isinstance(first, bool) or not isinstance(first, int) or first < 1:
        raise ValueError(f"rank_seeds first {first!r}: expected a whole number of steps, at least 1")
    values: list[Tensor] = []
    with tqdm(total=len(chosen), desc="first steps", unit="seed", disable=not progress) as bar:
        for start, count in _stretches(chosen, batch or len(chosen)):
            images = {**call, "images": count, "seed": start, "progress": False}
            values.append(_first_steps(model, grid, prompt, images, first, by, query, key, selector))
            bar.update(count)
    found = torch.cat(values)
    order = found.argsort(descending=True, stable=True)
    ranked = tuple(chosen[i] for i in order.tolist())
    name = f"contribution {key} -> {query}" if by is None else getattr(by, "__name__", type(by).__name__)
    result = model(grid, prompt, **{**call, "seed": ranked[0], "progress": progress}) if finish else None
    return SeedRanking(ranked, found[order], first, name, result)


def _seeds(seeds: int | Sequence[int]) -> list[int]:
    """The seeds, in ascending order. Raises ValueError for anything else."""
    given = plain(seeds)
    listed = list(range(42, 42 + given)) if isinstance(given, int) and not isinstance(given, bool) else given
    listed = [plain(seed) for seed in listed] if isinstance(listed, Sequence) and not isinstance(listed, str) else []
    if not listed or not all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in listed):
        raise ValueError(f"rank_seeds seeds {seeds!r}: give whole numbers of at least 0, or a number of seeds to count from 42")
    if len(set(listed)) < len(listed):
        raise ValueError(f"rank_seeds seeds {seeds!r}: a seed is named twice")
    return sorted(listed)


def _stretches(seeds: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """(first seed, how many) of stretches of consecutive seeds: image k of a call has seed s + k."""
    for _, run in itertools.groupby(enumerate(seeds), lambda pair: pair[1] - pair[0]):
        stretch = [seed for _, seed in run]
        yield from ((stretch[i], len(stretch[i : i + most])) for i in range(0, len(stretch), most))


def _first_steps(
    model: Runner, grid: PromptGrid, prompt: str, call: dict[str, object], first: int, by: By | None, query: Region, key: Region,
    selector: str,
) -> Tensor:  # fmt: skip
    """The measure of each image after the first steps, [image]."""
    weigh = None
    if by is None:
        weigh = Weigh(selector, True, [query], [key], None, "text", None, False, 0, each_image=True)
        edits = dict(cast("Edits", call.get("edit") or {}))
        edits["*:*"] = [*functions_of(edits.get("*:*", [])), weigh]
        call = {**call, "edit": edits}
    steps = list(itertools.islice(model.steps(grid, prompt, **call), first))
    if len(steps) < first:
        raise ValueError(f"rank_seeds first {first}: this run executes {len(steps)} steps")
    if weigh is not None:
        return weigh.values.nanmean(dim=(0, 1, 2, 4, 5, 6))  # of [site step branch image head query key]; nan: sites with fewer heads
    assert by is not None, "either measures"
    value = by(steps[-1])
    count = len(steps[-1].z_t)
    if not isinstance(value, Tensor) or value.shape != (count,):
        raise ValueError(f"rank_seeds: the measure gave {tuple(getattr(value, 'shape', ()))}; it must give one number per image, [{count}]")
    return value.detach().float().cpu()
