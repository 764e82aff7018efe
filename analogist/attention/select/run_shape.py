"""What captures and edits need to know about a run before it starts: steps, branches, images, sizes and words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, Unpack, cast

import torch

from analogist.checkpoints.prompt_words import PromptWords
from analogist.config import with_suffix
from analogist.models.numbers import plain
from analogist.models.placement import BRANCHES, TEXT

if TYPE_CHECKING:
    from analogist.grid.prompt_grid import PromptGrid
    from analogist.pipeline import Analogist
    from analogist.run.request import Call


class WordSource(Protocol):
    """Gives the token columns of a word; the text encoder is one implementation."""

    def positions(self, prompt: str, word: str) -> list[int]:
        """All token columns of a word in a prompt. Raises ValueError if the prompt does not contain it."""
        ...

    def tokens(self, prompt: str) -> list[str]:
        """The tokens of a prompt, including start and end, without padding."""
        ...


@dataclass(frozen=True, kw_only=True)
class RunShape:
    """The shape of one run. Captures and edits are planned and checked against it.

    steps: executed steps. times: their training times, noisiest first. first: the first of them that is run; a single UNet call that
    stands for step n runs only that one. branches: 2 (negative, text) or 1 (text alone).
    latent: h, w of the latents. size: height, width of the picture in pixels. rows: rows of cells (example pairs + 1).
    tokens: text tokens. words: a text encoder (or a function of prompt and word) for token columns.
    prompts: as encoded, one for each branch, None where it differs from image to image; None altogether where the text was given as
    a tensor. A mapping with prompt, negative_prompt and prompt_suffix is turned into that.
    """

    steps: int
    times: tuple[int, ...]
    branches: int
    images: int
    latent: tuple[int, int]
    size: tuple[int, int]
    rows: int = 2
    tokens: int = 77
    dtype: torch.dtype = torch.float32
    words: WordSource | Callable[[str, str], Sequence[int]] | None = None
    prompts: tuple[str | None, ...] | Mapping[str, str | None] | None = None
    copies: int = 1  # of every image, where an edit asked for them; images counts all, the axis is (copy image)
    first: int = 0
    room: int = 1  # copies of its images that fit into memory together; 1 where this kind of run cannot make copies

    def __post_init__(self) -> None:
        if isinstance(self.prompts, Mapping):
            object.__setattr__(self, "prompts", _as_encoded(self.prompts, self.branches))
        if len(self.times) != self.steps:
            raise ValueError(f"times {self.times}: expected one per executed step, {self.steps} in all")
        if self.prompts is not None and len(self.prompts) != self.branches:
            raise ValueError(f"{len(self.prompts)} prompts for {self.branches} branches: expected one per branch")

    @property
    def encoded(self) -> tuple[str | None, ...] | None:
        """`prompts` as it stands once the shape is made: never a mapping."""
        assert not isinstance(self.prompts, Mapping), "turned into texts by __post_init__"
        return self.prompts

    @property
    def branch_labels(self) -> tuple[str, ...]:
        """Names of the branches in batch order; a single branch is "text"."""
        return BRANCHES if self.branches == 2 else (BRANCHES[TEXT],)

    @cached_property
    def lasting(self) -> "RunShape":
        """The same shape without the text encoder: it knows only the words of this run's prompts, and can be pickled."""
        places = getattr(self.words, "places", None)
        if self.prompts is None or not callable(places):
            return self
        of = cast("Callable[[str], tuple[tuple[int, int], ...]]", places)
        return replace(self, words=PromptWords({prompt: of(prompt) for prompt in dict.fromkeys(self.prompts) if prompt is not None}))

    @cached_property
    def texts(self) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
        """Prompts, and their tokens from start to end, by branch; without those that are not known or differ from image to image."""
        if self.prompts is None:
            return {}, {}
        prompts = {branch: prompt for branch, prompt in zip(self.branch_labels, self.prompts, strict=True) if prompt is not None}
        tokens = getattr(self.lasting.words, "tokens", None)
        return prompts, {} if tokens is None else {branch: tuple(tokens(prompt)) for branch, prompt in prompts.items()}


def _as_encoded(prompts: Mapping[str, str | None], branches: int) -> tuple[str, ...] | None:
    """The texts of the branches in batch order, with the suffix appended to the prompt; None if no prompt is known."""
    prompt = prompts.get("prompt")
    if prompt is None:
        return None
    return (prompts.get("negative_prompt") or "", with_suffix(prompt, prompts.get("prompt_suffix") or ""))[-branches:]


def run_shape(
    model: "Analogist", grid: "PromptGrid | Sequence[PromptGrid]", prompt: str | Sequence[str] = "", **call: "Unpack[Call]"
) -> RunShape:
    """The shape that a call of the model with these arguments has; nothing runs. Raises ValueError as the call would."""
    from analogist.run.arguments import resolve
    from analogist.run.request import Request

    return resolve(model, Request(grid=grid, prompt=prompt, **call)).shape


class Every:
    """Every n-th executed step from `start` on; becomes step numbers once the number of steps is known."""

    def __init__(self, n: int, start: int = 0) -> None:
        n, start = plain(n), plain(start)
        if n < 1 or start < 0:
            raise ValueError(f"every({n}, start={start}): n must be at least 1, start at least 0")
        self.n, self.start = n, start

    def __repr__(self) -> str:
        return f"every({self.n})" if not self.start else f"every({self.n}, start={self.start})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Every) and (self.n, self.start) == (other.n, other.start)

    def __hash__(self) -> int:
        return hash((self.n, self.start))


def every(n: int, start: int = 0) -> Every:
    """Every n-th executed step, for `steps=`: every(10) is steps 0, 10, 20 ..."""
    return Every(n, start)


Steps = int | Sequence[int] | range | Every | None


def resolve_steps(steps: Steps, count: int) -> tuple[int, ...]:
    """Executed steps, ascending; negative numbers count from the end. Raises ValueError outside the run."""
    if steps is None:
        return tuple(range(count))
    if isinstance(steps, Every):
        chosen = tuple(range(steps.start, count, steps.n))
        if not chosen:
            raise ValueError(f"steps {steps}: this run executes {count} steps, numbered 0..{count - 1}")
        return chosen
    steps = plain(steps)
    numbers = [steps] if isinstance(steps, int) else list(steps)
    if not numbers:
        raise ValueError("steps: an empty list selects nothing; use None for all steps")
    bad = [n for n in numbers if isinstance(n, bool) or not isinstance(n, int) or not -count <= n < count]
    if bad:
        raise ValueError(f"steps {bad}: this run executes {count} steps, numbered 0..{count - 1} (or -1, -2 ... from the end)")
    return tuple(sorted({n % count for n in numbers}))


def resolve_branches(branches: int | str | Sequence[int | str] | None, run: RunShape) -> tuple[str, ...]:
    """Branch names in batch order. Raises ValueError for a branch that this run does not have."""
    if branches is None:
        return run.branch_labels
    branches = plain(branches)
    names = [branches] if isinstance(branches, int | str) else list(branches)
    names = [BRANCHES[name] if name in (0, 1) and not isinstance(name, bool) else name for name in names]
    missing = [name for name in names if name not in run.branch_labels]
    if missing or not names:
        allowed = ", ".join(repr(name) for name in run.branch_labels)
        raise ValueError(f"branches {missing or names}: this run has {allowed} (with guidance 1 only the text branch is run)")
    return tuple(name for name in run.branch_labels if name in names)


def resolve_indices(numbers: int | Sequence[int] | None, count: int, what: str) -> tuple[int, ...]:
    """Sorted indices below count; None: all. Raises ValueError for others."""
    if numbers is None:
        return tuple(range(count))
    numbers = plain(numbers)
    numbers = [numbers] if isinstance(numbers, int) else [plain(n) for n in numbers]
    bad = [n for n in numbers if isinstance(n, bool) or not isinstance(n, int) or not 0 <= n < count]
    if bad or not numbers:
        raise ValueError(f"{what} {bad or numbers}: allowed are 0..{count - 1}")
    return tuple(sorted(set(numbers)))
