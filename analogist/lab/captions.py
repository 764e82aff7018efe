"""Captions of single cells in the lab's vocabulary: at most five words for one object, such as "red striped star on blue"."""

import random

from .draw import Cells
from .effects import DARK, GREY, SEPIA
from .vocabulary import COLOUR_NAMES, SHAPE_NAMES, TEXTURE_NAMES

_STYLES = {GREY: "grey", DARK: "dark", SEPIA: "sepia"}


def caption(cells: Cells, grid: int, cell: int, *, second: bool = False) -> str:
    """The caption of one cell. second: also name the other objects."""
    s = cells.scenes
    style = _STYLES.get(int(cells.effect[grid, cell]), "cartoon" if s.outline[grid, cell] else "")
    things = []
    for k in range(s.on.shape[-1] if second else 1):
        if s.on[grid, cell, k]:
            texture = 0 if style else int(s.texture[grid, cell, k])  # with a style there would be six words
            words = [COLOUR_NAMES[s.colour[grid, cell, k]], TEXTURE_NAMES[texture] if texture else "", SHAPE_NAMES[s.shape[grid, cell, k]]]
            things.append(" ".join(word for word in words if word))
    text = f"{' and '.join(things)} on {COLOUR_NAMES[s.ground[grid, cell]]}"
    return f"{style} {text}" if style else text


def training_caption(cells: Cells, grid: int, cell: int, rng: random.Random) -> str:
    """A varied caption, as people write them: usually complete, sometimes without the background, sometimes one word."""
    text = caption(cells, grid, cell, second=rng.random() < 0.5)
    how = rng.random()
    if how < 0.15:
        return text.split(" on ")[0]
    if how < 0.22:
        return rng.choice(text.split(" on ")[0].split())
    if how < 0.3:
        return f"a picture of a {text} background"
    return text
