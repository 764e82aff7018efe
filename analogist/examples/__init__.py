"""Bundled example triples A, A', B with their prompt and the true B', drawn by `python -m analogist.examples.draw`."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # naming the examples imports neither Pillow nor numpy
    from analogist.grid import PromptGrid
    from analogist.layout import Size

FOLDER = Path(__file__).parent
PICTURES = ("a", "a_prime", "b", "b_prime")


@dataclass(frozen=True, kw_only=True)
class Example:
    """One analogy: the paths of its pictures, its prompt, and where it comes from."""

    name: str
    prompt: str  # what B' shows
    family: str  # of the lab's drawing: what turns A into A'
    held_out: bool  # no analogy of this family was trained on
    seed: int  # of the lab's evaluation batch it is drawn by
    size: int  # px, of the grid it is drawn for

    @property
    def a(self) -> Path:
        """The picture A."""
        return self._picture("a")

    @property
    def a_prime(self) -> Path:
        """The picture A', what A became."""
        return self._picture("a_prime")

    @property
    def b(self) -> Path:
        """The picture B."""
        return self._picture("b")

    @property
    def b_prime(self) -> Path:
        """The true B', to compare with; no run sees it."""
        return self._picture("b_prime")

    def grid(self, size: "Size | None" = None) -> "PromptGrid":
        """The prompt grid of A, A' and B; size as PromptGrid takes it."""
        from analogist.grid import PromptGrid

        return PromptGrid(self.a, self.a_prime, self.b, size)

    def _picture(self, which: str) -> Path:
        return FOLDER / self.name / f"{which}.png"


def names() -> tuple[str, ...]:
    """The names of all bundled examples."""
    return tuple(_examples())


def load(name: str) -> Example:
    """The example of that name. Raises ValueError naming those there are."""
    if name not in _examples():
        raise ValueError(f"no example {name!r}; there are {', '.join(names())}")
    return _examples()[name]


@cache
def _examples() -> dict[str, Example]:
    entries = json.loads((FOLDER / "examples.json").read_text(encoding="utf-8"))
    return {entry["name"]: Example(**entry) for entry in entries}
