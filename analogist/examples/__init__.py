"""Bundled examples: A, A', B and the true B', made by analogist/lab/draw_examples.py. No checkpoint of this project was trained on them.

Those named drawing-... are drawings by people, the others the lab's own scenes.

    from analogist import Analogist, examples
    example = examples.load("drawing-invert")
    Analogist.from_checkpoint()(example.grid(), example.prompt).b_prime
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from analogist.grid import PromptGrid

FOLDER = Path(__file__).resolve().parent
PICTURES = ("a", "a_prime", "b", "b_prime_truth")


@dataclass(frozen=True)
class Example:
    """One example. prompt: what B' shows, at most five words; family: the kind of analogy (`analogist.examples.by_people.KINDS`,
    `analogist.lab.split`).
    """

    name: str
    family: str
    prompt: str

    def path(self, picture: str) -> Path:
        """File of one picture. picture: one of PICTURES. Raises ValueError for any other word."""
        if picture not in PICTURES:
            raise ValueError(f"no picture {picture!r} in an example; allowed are {', '.join(PICTURES)}")
        return FOLDER / self.name / f"{picture}.png"

    def grid(self, size: int | tuple[int, int] | None = None) -> "PromptGrid":
        """The picture prompt of A, A' and B. size: pixels as in PromptGrid; None: the checkpoint's own."""
        from analogist.grid import PromptGrid

        return PromptGrid(self.a, self.a_prime, self.b, size)

    def _open(self, picture: str) -> Image.Image:
        with Image.open(self.path(picture)) as file:
            return file.convert("RGB")

    @property
    def a(self) -> Image.Image:
        return self._open("a")

    @property
    def a_prime(self) -> Image.Image:
        return self._open("a_prime")

    @property
    def b(self) -> Image.Image:
        return self._open("b")

    @property
    def b_prime_truth(self) -> Image.Image:
        """The true B'."""
        return self._open("b_prime_truth")


def _table() -> dict[str, dict[str, str]]:
    return json.loads((FOLDER / "examples.json").read_text(encoding="utf-8"))


def names() -> tuple[str, ...]:
    """Names of all examples, in order."""
    return tuple(_table())


def load(name: str) -> Example:
    """One example by name. Raises ValueError for an unknown name; the message lists the names."""
    table = _table()
    if name not in table:
        raise ValueError(f"no example {name!r}; available are {', '.join(table)}")
    return Example(name=name, **table[name])
