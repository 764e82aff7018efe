"""What a call of the model asks for: its arguments, collected once.

Place in the flow: `Analogist.__call__`, `steps`, `start`, `at` and `invert` make a Request; `arguments.resolve` checks it against
the checkpoint and fills in what it leaves open.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from torch import Generator, Tensor

from analogist.config import AnalogistConfig
from analogist.grid.prompt_grid import PromptGrid
from analogist.models.numbers import plain
from analogist.models.text import EncodedText

if TYPE_CHECKING:
    from analogist.attention.capture.capture import Capture
    from analogist.attention.edit.edits import Edits

DEFAULT: None = None  # an argument that is None is the checkpoint's own, else the published one


class Call(TypedDict, total=False):
    """The keyword arguments of a call after grid and prompt; `Analogist.__call__` explains them."""

    negative_prompt: str | Sequence[str] | None
    prompt_suffix: str | None
    text: EncodedText | None
    images: int
    seed: int
    generator: Generator | None
    config: AnalogistConfig | None
    capture: "Capture | str | Sequence[Capture | str] | None"
    edit: "Edits | None"
    attention: str | Mapping | None
    progress: bool | None
    batch: int | None
    latents: Tensor | None


class Analogy(NamedTuple):
    """One grid with its prompts, as asked for. negative_prompt None: the checkpoint's own."""

    grid: PromptGrid
    prompt: str
    negative_prompt: str | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """The arguments of one call as they were given; None means the checkpoint's own. `Analogist.__call__` explains them.

    grid, prompt, negative_prompt: one for all, or lists of one length.
    """

    grid: PromptGrid | Sequence[PromptGrid]
    prompt: str | Sequence[str] = ""
    negative_prompt: str | Sequence[str] | None = None
    prompt_suffix: str | None = None
    text: EncodedText | None = None
    images: int = 1
    seed: int = 42
    generator: Generator | None = None
    config: AnalogistConfig | None = None
    capture: "Capture | str | Sequence[Capture | str] | None" = None
    edit: "Edits | None" = None
    attention: str | Mapping | None = None
    progress: bool | None = None
    batch: int | None = None
    latents: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("images", "seed", "batch"):
            object.__setattr__(self, name, plain(getattr(self, name)))

    @property
    def lists(self) -> dict[str, Sequence]:
        """The arguments that were given as lists, by name."""
        found = {name: getattr(self, name) for name in ("grid", "prompt", "negative_prompt")}
        return {name: value for name, value in found.items() if isinstance(value, list | tuple)}

    def analogies(self) -> tuple[Analogy, ...]:
        """Every grid with its prompts, in the order of the result. Raises ValueError for lists of different length."""
        lists = self.lists
        lengths = {len(value) for value in lists.values()}
        if len(lengths) > 1 or 0 in lengths:
            given = ", ".join(f"{name} {len(value)}" for name, value in lists.items())
            raise ValueError(f"lists of {given}: give lists of one length from 1 up, or one {' or '.join(lists)} for all")
        count = lengths.pop() if lengths else 1
        grids, prompts, negatives = (
            lists.get(name, [getattr(self, name)] * count) for name in ("grid", "prompt", "negative_prompt")
        )
        return tuple(Analogy(*one) for one in zip(grids, prompts, negatives, strict=True))

    def one(self, what: str) -> Analogy:
        """The only grid with its prompts. Raises ValueError if lists were given. what: the name of the call in the message."""
        if self.lists:
            raise ValueError(f"{what} takes one grid with one prompt, and {' and '.join(self.lists)} is a list; call it once for each")
        return self.analogies()[0]

    def refuse(self, what: str, *names: str) -> None:
        """Raises ValueError if one of the named arguments was given, because it would have no effect in this call."""
        defaults = {field.name: field.default for field in fields(self)}
        given = [
            name for name in names
            if getattr(self, name) is not defaults[name] and not (isinstance(defaults[name], int) and getattr(self, name) == defaults[name])
        ]  # fmt: skip
        if given:
            raise ValueError(f"{what} does not take {', '.join(f'{name}=' for name in given)}; leave it out")
