"""What a prompter returns, and its errors."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from analogist.disk.foreign import text_problem

if TYPE_CHECKING:  # a prompt file or a given text needs no pictures
    from analogist.grid.prompt_grid import PromptGrid


class PromptError(ValueError):
    """No prompt could be found. The message says where it was looked for, why there is none, and what to do. It never holds a key."""


class NoAnswer(PromptError):
    """A model answered, but not with a prompt. The message says why."""


class PromptWarning(UserWarning):
    """A warning about prompts; the run continues."""


def check_text(text: str, what: str) -> str:
    """Returns the text. Raises PromptError if it is not valid Unicode; what: its name in the message."""
    problem = text_problem(text)
    if problem:
        raise PromptError(f"{what} {problem}")
    return text


@dataclass(frozen=True)
class Prompts:
    """Text prompts for B', best first, and where they come from.

    candidates: at least one; a single empty text means no prompt. author: JSON-ready, for the run's record: "prompter", and for a
    model "model", "wording", "time", its "answer" (at most 2,000 characters), and "cached".
    """

    candidates: tuple[str, ...]
    author: dict[str, object]

    @property
    def first(self) -> str:
        """The best candidate, which the published evaluation uses."""
        return self.candidates[0]


class Prompter(Protocol):
    """Anything that finds prompts for a grid. name: the grid's file name, needed if prompts are listed by name."""

    def __call__(self, grid: "PromptGrid", name: str | None = None) -> Prompts:
        """Raises PromptError if no prompt can be found."""
        ...
