"""What a prompter gives back, and what can go wrong."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from analogist.disk.foreign import text_problem

if TYPE_CHECKING:  # a prompt file or a given text needs no pictures
    from analogist.grid.prompt_grid import PromptGrid


class PromptError(ValueError):
    """No prompt can be had: the message says from where, why, and what to do. It never holds a key."""


class NoAnswer(PromptError):
    """A model was asked and answered, and what came back is no prompt. The message says what it is instead."""


class PromptWarning(UserWarning):
    """Something about prompts that the user should know and that stops nothing."""


def check_text(text: str, what: str) -> str:
    """The text itself. Raises PromptError where it is no valid Unicode; what: its name in the message."""
    problem = text_problem(text)
    if problem:
        raise PromptError(f"{what} {problem}")
    return text


@dataclass(frozen=True)
class Prompts:
    """Text prompts for B', best first, and who wrote them.

    candidates: at least one; the one empty text stands for no prompt. author: JSON-ready, for the run's record: "prompter", and
    for a model "model", "wording", "time", its whole "answer", and whether it came from the cache.
    """

    candidates: tuple[str, ...]
    author: dict[str, object]

    @property
    def first(self) -> str:
        """The best candidate, which the published evaluation uses."""
        return self.candidates[0]


class Prompter(Protocol):
    """Anything that finds prompts for a grid. name: the grid's file name, where prompts are listed by name."""

    def __call__(self, grid: "PromptGrid", name: str | None = None) -> Prompts:
        """Raises PromptError where no prompt can be had."""
        ...
