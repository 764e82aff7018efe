"""Drawings by people as analogies with an exact answer: 200 concepts in three styles, ten kinds of change.

    from analogist.examples import by_people
    one = by_people.analogies("invert", count=1, side=61)[0]
    one.a, one.a_prime, one.b, one.b_prime                     # PIL pictures of 61 px; b_prime is the true answer

The drawings are Microsoft's Fluent Emoji (MIT, Copyright (c) Microsoft Corporation; the licence lies beside them). No checkpoint of this
project was trained on any of these 200.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

FOLDER = Path(__file__).resolve().parent / "drawings"
STYLES = ("flat", "line", "soft")  # Fluent Emoji's flat, high-contrast and full-colour styles
SIDE, PER_ROW = 64, 32  # pixels per drawing, drawings per row of a sheet


def read_drawings(folder: str | Path) -> tuple[tuple[str, ...], np.ndarray]:
    """(names, pictures uint8 [concept style 64 64 3]) from a folder with names.json and one sheet of drawings per style.

    Raises ValueError naming the file that is missing or does not fit.
    """
    folder = Path(folder)
    try:
        listed = json.loads((folder / "names.json").read_text(encoding="utf-8-sig"))
        names = tuple(str(entry["name"]) for entry in listed)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'names.json'}: {error}; it must be a list of objects with a name, one per drawing") from None
    return names, np.stack([_sheet(folder / f"{style}.png", len(names)) for style in STYLES], 1)


def _sheet(path: Path, count: int) -> np.ndarray:
    """The first `count` drawings of a sheet, uint8 [drawing 64 64 3]."""
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
    except OSError as error:
        raise ValueError(f"{path}: {error}; it must be a sheet of drawings on white") from None
    rows, columns = pixels.shape[0] // SIDE, pixels.shape[1] // SIDE
    if columns != PER_ROW or rows * columns < count or pixels.shape[0] % SIDE:
        raise ValueError(
            f"{path}: {pixels.shape[1]} x {pixels.shape[0]} px; {count} names need {PER_ROW} drawings of {SIDE} px per row "
            f"and {-(-count // PER_ROW)} rows or more"
        )
    return pixels.reshape(rows, SIDE, columns, SIDE, 3).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)[:count]


@cache
def _open_drawings() -> tuple[tuple[str, ...], np.ndarray]:
    return read_drawings(FOLDER)


def names() -> tuple[str, ...]:
    """The names of the 200 drawings, in order."""
    return _open_drawings()[0]


def drawing(name: str, style: str = "flat") -> Image.Image:
    """One drawing, 64 px on white. Raises ValueError for an unknown name or style."""
    if style not in STYLES:
        raise ValueError(f"style {style!r}: allowed are {', '.join(STYLES)}")
    if name not in names():
        raise ValueError(f"no drawing {name!r}; analogist.examples.by_people.names() lists them")
    return Image.fromarray(_open_drawings()[1][names().index(name), STYLES.index(style)])


@dataclass(frozen=True)
class Analogy:
    """A : A' :: B : B', pictures of one size. kind: one of KINDS; prompt: the name of what B' shows."""

    name: str
    kind: str
    prompt: str
    a: Image.Image
    a_prime: Image.Image
    b: Image.Image
    b_prime: Image.Image


def _luma(picture: Image.Image) -> Image.Image:
    return picture.convert("L").convert("RGB")


def _array(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, dtype=np.float64) / 255


def _image(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(values.clip(0, 1) * 255).astype(np.uint8))


def _noisy(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Gaussian noise of standard deviation 0.2, pictures in [0, 1]."""
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, 0.2, (picture.height, picture.width, 3))
    return _image(_array(picture) + noise)


def _blurred(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Gaussian blur with a standard deviation of 3 pixels per 64 pixels of width."""
    return picture.filter(ImageFilter.GaussianBlur(3 * picture.width / SIDE))


def _dark(picture: Image.Image, rng: random.Random) -> Image.Image:
    return _image(_array(picture) * 0.25)


def _boxed(picture: Image.Image, rng: random.Random) -> Image.Image:
    """A mid-grey box near the middle, 0.4 of the side wide and 0.35 of it high."""
    side = picture.width
    width, height = round(0.4 * side), round(0.35 * side)
    left = round(side * rng.uniform(0.2, 0.4))
    top = round(side * rng.uniform(0.25, 0.4))
    out = picture.copy()
    out.paste((128, 128, 128), (left, top, left + width, top + height))
    return out


Effect = Callable[[Image.Image, random.Random], Image.Image]


@dataclass(frozen=True)
class Kind:
    """How the pictures of a kind are made. styles: of the source and of the target."""

    styles: tuple[str, str]
    before: Effect | None = None  # applied to the source
    after: Effect | None = None  # applied to the target


KINDS: dict[str, Kind] = {
    "colorize": Kind(("flat", "flat"), before=lambda picture, rng: _luma(picture)),
    "denoise": Kind(("flat", "flat"), before=_noisy),
    "deblur": Kind(("flat", "flat"), before=_blurred),
    "enhance": Kind(("flat", "flat"), before=_dark),
    "fill": Kind(("flat", "flat"), before=_boxed),
    "flat to line": Kind(("flat", "line")),
    "line to flat": Kind(("line", "flat")),
    "flat to full colour": Kind(("flat", "soft")),
    "grey out": Kind(("flat", "flat"), after=lambda picture, rng: _luma(picture)),
    "invert": Kind(("flat", "flat"), after=lambda picture, rng: _image(1 - _array(picture))),
}


def analogies(kind: str, *, count: int, side: int, seed: int = 0) -> list[Analogy]:
    """`count` analogies of one kind. The seed picks the drawings; they are the same for every kind and side.

    kind: one of KINDS. side: of the pictures, in pixels; changes are made at this size. Raises ValueError for any other kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}: allowed are {', '.join(KINDS)}")
    if count < 1 or side < 4:
        raise ValueError(f"count {count}, side {side}: count must be at least 1 and side at least 4")
    known, sheets = _open_drawings()
    how, found = KINDS[kind], []
    for k in range(count):
        rng = random.Random(f"{seed} {k}")
        pair = rng.sample(range(len(known)), 2)
        pictures = []
        for concept in pair:
            source, target = (
                Image.fromarray(sheets[concept, STYLES.index(style)]).resize((side, side), Image.Resampling.LANCZOS) for style in how.styles
            )
            pictures += [source if how.before is None else how.before(source, rng), target if how.after is None else how.after(target, rng)]
        found.append(Analogy(f"{kind.replace(' ', '-')}-{seed}-{k}", kind, known[pair[1]], *pictures))
    return found
