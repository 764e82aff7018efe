"""Families of analogies: the changes from A to A' and from B to B', of scene attributes and of finished pictures.

Cells are numbered A 0, A' 1, B 2, B' 3. A family is one function that changes the rows of a batch in place.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .draw import COLOURS, SHAPES, TEXTURES, Cells, Draw, scenes
from .effects import BLUR, DARK, GREY, HOLE, MOSAIC, NOISE, SEPIA
from .scene import MASK, SKELETON, SKETCH

SOURCES, TARGETS = (0, 2), (1, 3)


def _share(cells: Cells, rows: Tensor, *names: str) -> None:
    """Gives B and B' the colours (or other fields) of A, so that A' shows what B alone cannot tell."""
    for name in names:
        field = getattr(cells.scenes, name)
        field[rows[:, None], torch.tensor([2, 3])] = field[rows, 0][:, None].clone()


def _set(field: Tensor, rows: Tensor, where: tuple[int, ...], value: Tensor, item: int | None = None) -> None:
    for cell in where:
        if item is None:
            field[rows, cell] = value
        else:
            field[rows, cell, item] = value


def _large(cells: Cells, rows: Tensor, draw: Draw, low: float, high: float) -> None:
    """Gives the first object of each pair a size within the bounds, so that a change of the object alone is visible."""
    for pair in ((0, 1), (2, 3)):
        _set(cells.scenes.size, rows, pair, draw.uniform(len(rows), low=low, high=high), 0)


def _effect(effect: int, where: tuple[int, ...], low: float = 0.0, high: float = 0.0, shared: tuple[str, ...] = ()):
    def change(cells: Cells, rows: Tensor, draw: Draw) -> None:
        if shared:
            _share(cells, rows, *shared)
        amount = draw.uniform(len(rows), low=low, high=high)
        for cell in where:
            cells.effect[rows, cell] = effect
            cells.amount[rows, cell, 0] = amount

    return change


def _mode(mode: int):
    def change(cells: Cells, rows: Tensor, draw: Draw) -> None:
        _share(cells, rows, "ground", "ground_texture", "colour", "texture", "tint")
        _set(cells.scenes.mode, rows, SOURCES, torch.full_like(rows, mode))

    return change


def _fill(cells: Cells, rows: Tensor, draw: Draw) -> None:
    s = cells.scenes
    for source in SOURCES:
        cells.effect[rows, source] = HOLE
        cells.amount[rows, source, 0] = s.x[rows, source, 0] + draw.uniform(len(rows), low=-0.25, high=0.25)
        cells.amount[rows, source, 1] = s.y[rows, source, 0] + draw.uniform(len(rows), low=-0.25, high=0.25)
        cells.amount[rows, source, 2] = draw.uniform(len(rows), low=0.4, high=0.6)
        cells.amount[rows, source, 3] = draw.uniform(len(rows), low=0.4, high=0.6)


def _recolour(cells: Cells, rows: Tensor, draw: Draw) -> None:
    s = cells.scenes
    taken = [s.ground[rows, 0], s.ground[rows, 2], s.colour[rows, 0, 0], s.colour[rows, 2, 0]]
    taken += [s.colour[rows, 0, 1], s.colour[rows, 2, 1]]
    _set(s.colour, rows, TARGETS, draw.other(*taken, below=COLOURS), 0)


def _background(cells: Cells, rows: Tensor, draw: Draw) -> None:
    s = cells.scenes
    taken = [s.ground[rows, 0], s.ground[rows, 2], s.colour[rows, 0, 0], s.colour[rows, 2, 0]]
    taken += [s.colour[rows, 0, 1], s.colour[rows, 2, 1]]
    _set(s.ground, rows, TARGETS, draw.other(*taken, below=COLOURS))
    _set(s.ground_texture, rows, TARGETS, draw.index(len(rows), below=2))


def _repaint(cells: Cells, rows: Tensor, draw: Draw) -> None:
    _recolour(cells, rows, draw)
    _background(cells, rows, draw)
    s = cells.scenes
    same = s.ground[rows, 1] == s.colour[rows, 1, 0]
    moved = draw.other(s.ground[rows, 1], s.ground[rows, 0], s.ground[rows, 2], below=COLOURS)
    _set(s.colour, rows, TARGETS, torch.where(same, moved, s.colour[rows, 1, 0]), 0)


def _swap(cells: Cells, rows: Tensor, draw: Draw) -> None:
    s = cells.scenes
    _set(s.shape, rows, TARGETS, draw.other(s.shape[rows, 0, 0], s.shape[rows, 2, 0], below=SHAPES), 0)
    # The old shape's rotation says nothing about the new one's, so shapes are upright: then there is only one right answer.
    _set(s.turn, rows, (0, 1, 2, 3), torch.zeros(len(rows)), 0)
    _large(cells, rows, draw, 0.6, 0.75)


def _texture_between(plain_first: bool):
    def change(cells: Cells, rows: Tensor, draw: Draw) -> None:
        s = cells.scenes
        textured, plain = (TARGETS, SOURCES) if plain_first else (SOURCES, TARGETS)
        _set(s.texture, rows, textured, 1 + draw.index(len(rows), below=TEXTURES - 1), 0)
        _set(s.texture, rows, plain, torch.zeros_like(rows), 0)
        _large(cells, rows, draw, 0.6, 0.75)

    return change


def _cartoon(cells: Cells, rows: Tensor, draw: Draw) -> None:
    s = cells.scenes
    _set(s.outline, rows, TARGETS, torch.ones(len(rows), dtype=torch.bool))
    for pair in ((0, 1), (2, 3)):  # a black object or background would hide the outline
        ground = draw.index(len(rows), below=COLOURS - 1)
        _set(s.ground, rows, pair, ground)
        _set(s.colour, rows, pair, draw.other(ground, torch.full_like(ground, COLOURS - 1), below=COLOURS), 0)


def _resize(cells: Cells, rows: Tensor, draw: Draw) -> None:
    s = cells.scenes
    grow = draw.chance(len(rows), p=0.5)
    s.on[rows, :, 1] = False
    for small, large in ((0, 1), (2, 3)):
        low = draw.uniform(len(rows), low=0.24, high=0.32)
        for cell, size in ((small, torch.where(grow, low, low * 2)), (large, torch.where(grow, low * 2, low))):
            s.size[rows, cell, 0] = size
        for axis in (s.x, s.y):
            axis[rows[:, None], torch.tensor([small, large]), 0] = draw.uniform(len(rows), low=-0.3, high=0.3)[:, None]


def _move(cells: Cells, rows: Tensor, draw: Draw) -> None:
    s = cells.scenes
    s.on[rows, :, 1] = False
    angle = draw.index(len(rows), below=8) * (math.pi / 4)
    for before, after in ((0, 1), (2, 3)):
        for axis, step in ((s.x, angle.cos() * 0.7), (s.y, angle.sin() * 0.7)):
            middle = draw.uniform(len(rows), low=-0.2, high=0.2)
            axis[rows, before, 0], axis[rows, after, 0] = middle - step / 2, middle + step / 2


def _add(cells: Cells, rows: Tensor, draw: Draw) -> None:
    s = cells.scenes
    s.on[rows, :, 1] = False
    taken = [s.ground[rows, 0], s.ground[rows, 2]]
    corner = draw.index(len(rows), below=4)
    new = {
        "on": torch.ones(len(rows), dtype=torch.bool),
        "shape": draw.index(len(rows), below=SHAPES),
        "colour": draw.other(*taken, below=COLOURS),
        "texture": torch.zeros_like(rows),
        "x": torch.where(corner % 2 == 0, -0.54, 0.54),
        "y": torch.where(corner < 2, -0.54, 0.54),
        "size": torch.full((len(rows),), 0.42),
        "turn": torch.zeros(len(rows)),
    }
    for name, value in new.items():
        _set(getattr(s, name), rows, TARGETS, value, 2)


def _remove(cells: Cells, rows: Tensor, draw: Draw) -> None:
    s = cells.scenes
    other = scenes(2 * len(rows), draw)  # scenes with room for the object that is removed
    for name in ("x", "y", "size"):
        field, drawn = getattr(s, name), getattr(other, name).view(len(rows), 2, -1)
        for row, pair in enumerate(((0, 1), (2, 3))):
            field[rows[:, None], torch.tensor(pair), 0] = drawn[:, row, None, 0] * 0.8
            field[rows[:, None], torch.tensor(pair), 1] = 0.42 if name == "size" else -field[rows, pair[0], 0].sign()[:, None] * 0.54
    _set(s.on, rows, SOURCES, torch.ones(len(rows), dtype=torch.bool), 1)
    _set(s.on, rows, TARGETS, torch.zeros(len(rows), dtype=torch.bool), 1)


_COLOURS = ("ground", "colour", "tint")
CHANGES: dict[str, Callable[[Cells, Tensor, Draw], None]] = {
    "colorize": _effect(GREY, SOURCES, shared=_COLOURS),
    "deblur": _effect(BLUR, SOURCES, 0.2, 0.3),
    "denoise": _effect(NOISE, SOURCES, 0.35, 0.6),
    "enhance": _effect(DARK, SOURCES, 0.15, 0.35),
    "fill": _fill,
    "recolour": _recolour,
    "swap": _swap,
    "resize": _resize,
    "move": _move,
    "add": _add,
    "remove": _remove,
    "background": _background,
    "sketch": _mode(SKETCH),
    "texture": _texture_between(True),
    "cartoon": _cartoon,
    "sepia": _effect(SEPIA, TARGETS),
    "skeleton": _mode(SKELETON),
    "mask": _mode(MASK),
    "decolour": _effect(GREY, TARGETS),
    "darken": _effect(DARK, TARGETS, 0.2, 0.4),
    "unmosaic": _effect(MOSAIC, SOURCES, 3.0, 6.0),
    "untexture": _texture_between(False),
    "repaint": _repaint,
}


def analogies(family: Tensor, names: tuple[str, ...], draw: Draw) -> Cells:
    """Cells of analogy grids. family: grid — index into `names`."""
    count = len(family)
    both = scenes(2 * count, draw)
    quad = both.map(lambda f: f.view(count, 2, *f.shape[1:]).repeat_interleave(2, dim=1))
    cells = Cells(quad, torch.zeros(count, 4, dtype=torch.long), torch.zeros(count, 4, 4))
    for index, name in enumerate(names):
        rows = (family == index).nonzero()[:, 0]
        if len(rows):
            CHANGES[name](cells, rows, draw)
    return cells


# Groups of attributes. A collage decides for each group whether its cells share it.
_GROUPS = (
    ("shape", "on"),
    ("x", "y", "size", "turn"),
    ("colour", "tint"),
    ("ground", "ground_texture"),
    ("texture",),
    ("outline",),
)


def collages(count: int, draw: Draw) -> Cells:
    """Cells of collages: each group of attributes is the same everywhere, the same along a row, or different in every cell.

    No attribute changes from the left to the right column in the same way in both rows, so there is no pair to learn from.
    """
    quad = scenes(4 * count, draw).map(lambda f: f.view(count, 4, *f.shape[1:]))
    quad.outline = draw.chance(count, 4, p=0.2)
    for group in _GROUPS:
        pattern = draw.index(count, below=3)
        source = torch.where(pattern[:, None] == 0, torch.tensor([0, 0, 0, 0]),
                             torch.where(pattern[:, None] == 1, torch.tensor([0, 0, 2, 2]), torch.tensor([0, 1, 2, 3])))
        for name in group:
            field = getattr(quad, name)
            setattr(quad, name, field[torch.arange(count)[:, None], source])
    # Colours and backgrounds are shared independently. If they are equal, the object takes another colour.
    clash = quad.colour == quad.ground[..., None]
    quad.colour = torch.where(clash, (quad.colour + 4) % COLOURS, quad.colour)
    sepia = draw.chance(count, 1, p=0.1).expand(count, 4)
    effect = torch.where(sepia, SEPIA, 0)
    return Cells(quad, effect, torch.zeros(count, 4, 4))
