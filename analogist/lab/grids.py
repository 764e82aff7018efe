"""Whole 2x2 grids as the published code composes them: four pictures, the mask, and the caption of the masked part.

Training and evaluation use these grids. A grid made here equals what `PromptGrid` composes from the same four pictures.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from . import effects
from .captions import caption
from .draw import Cells, Draw
from .families import analogies, collages
from .scene import render
from .split import FAMILIES, TRAINED, held_out_table

BORDER = 2


@dataclass
class Batch:
    """A batch of drawn grids."""

    pixels: Tensor  # grid 3 size size — in [-1, 1], with the true B'
    mask: Tensor  # grid 1 size size — 1 where the model paints
    captions: list[str]
    families: list[str]  # name of the family, or "collage"
    cells: Cells | None  # only for the lab's own scenes


def picture_side(size: int) -> int:
    """Side of one picture in a grid of `size` pixels: the cell minus one and a half borders, rounded down."""
    return int(size / 2 - 1.5 * BORDER)


def corners(size: int) -> tuple[tuple[int, int], ...]:
    """Top-left corners (row, column) of the pictures A, A', B, B'."""
    near, far = BORDER, size // 2 + BORDER - 1
    return ((near, near), (near, far), (far, near), (far, far))


def compose(pictures: Tensor, size: int) -> Tensor:
    """Four pictures on the white canvas. pictures: grid 4 3 side side -> grid 3 size size, same range with white = 1."""
    side = picture_side(size)
    canvas = torch.ones(len(pictures), 3, size, size, device=pictures.device)
    for cell, (row, column) in enumerate(corners(size)):
        canvas[:, :, row : row + side, column : column + side] = pictures[:, cell]
    return canvas


def draw_cells(cells: Cells, side: int, generator: torch.Generator) -> Tensor:
    """Pictures [grid 4 3 side side] in [0, 1]. They are drawn on the cells' device; generator: on that device, for noise."""
    count = len(cells.effect)
    flat = cells.scenes.map(lambda f: f.flatten(0, 1))
    pictures = effects.apply(render(flat, side), cells.effect.flatten(), cells.amount.flatten(0, 1), generator)
    return pictures.view(count, 4, 3, side, side)


def _holds_held_out_pair(cells: Cells) -> Tensor:
    """bool [grid cell]: whether a cell holds an object with a held-out pair of shape and colour."""
    table = torch.tensor(held_out_table())
    return (table[cells.scenes.shape, cells.scenes.colour] & cells.scenes.on).any(-1)


def _select(cells: Cells, rows: Tensor) -> Cells:
    return Cells(cells.scenes.map(lambda f: f[rows]), cells.effect[rows], cells.amount[rows])


def _join(parts: list[Cells]) -> Cells:
    names = list(vars(parts[0].scenes))
    joined = {name: torch.cat([getattr(part.scenes, name) for part in parts]) for name in names}
    return Cells(type(parts[0].scenes)(**joined), torch.cat([p.effect for p in parts]), torch.cat([p.amount for p in parts]))


def _training_cells(analogy_count: int, collage_count: int, draw: Draw) -> tuple[Cells, list[str]]:
    """Cells without any held-out pair; drawn again until there are enough."""
    names = tuple(TRAINED)
    parts, labels = [], []
    for wanted, is_analogy in ((analogy_count, True), (collage_count, False)):
        while wanted:
            family = draw.index(2 * wanted + 4, below=len(names))
            drawn = analogies(family, names, draw) if is_analogy else collages(len(family), draw)
            rows = (~_holds_held_out_pair(drawn).any(1)).nonzero()[:wanted, 0]
            parts.append(_select(drawn, rows))
            labels += [names[i] for i in family[rows].tolist()] if is_analogy else ["collage"] * len(rows)
            wanted -= len(rows)
    return _join(parts), labels


# Masks other than plain B', with relative frequencies.
_MASKS = {"cell": 0.12, "row": 0.06, "column": 0.06, "box": 0.06, "all": 0.02}


def masks(count: int, size: int, draw: Draw, only_cell: float) -> tuple[Tensor, list[int]]:
    """Masks [grid 1 size size] of many kinds, and the cell that each caption describes. only_cell: share of plain B' masks."""
    half, step = size // 2, size // 16
    kind = torch.multinomial(torch.tensor([only_cell, *((1 - only_cell) * share / sum(_MASKS.values()) for share in _MASKS.values())]),
                             count, replacement=True, generator=draw.generator)
    cell = torch.where(kind == 0, 3, draw.index(count, below=4))
    top, left = (cell // 2) * half, (cell % 2) * half
    bottom, right = top + half, left + half
    names = ["answer", *_MASKS]
    row, column, box, everything = (kind == names.index(name) for name in ("row", "column", "box", "all"))
    left, right = torch.where(row | everything, 0, left), torch.where(row | everything, size, right)
    top, bottom = torch.where(column | everything, 0, top), torch.where(column | everything, size, bottom)
    # Box edges are multiples of an eighth of half the grid, so that they fall on edges of latent pixels.
    corner, extent = draw.index(2, count, below=9) * step, (3 + draw.index(2, count, below=8)) * step
    top, left = torch.where(box, corner[0], top), torch.where(box, corner[1], left)
    bottom = torch.where(box, (corner[0] + extent[0]).clamp(max=size), bottom)
    right = torch.where(box, (corner[1] + extent[1]).clamp(max=size), right)
    middle = 2 * ((top + bottom) // 2 >= half).long() + ((left + right) // 2 >= half).long()
    about = torch.where(box, middle, cell)
    axis = torch.arange(size)
    rows = (axis >= top[:, None]) & (axis < bottom[:, None])
    columns = (axis >= left[:, None]) & (axis < right[:, None])
    return (rows[:, :, None] & columns[:, None, :])[:, None].float(), about.tolist()


def _finish(cells: Cells, size: int, device: torch.device, noise_seed: int) -> Tensor:
    generator = torch.Generator(device).manual_seed(noise_seed)
    cells = Cells(cells.scenes.map(lambda f: f.to(device)), cells.effect.to(device), cells.amount.to(device))
    return compose(draw_cells(cells, picture_side(size), generator), size) * 2 - 1


def scene_grids(analogy_count: int, collage_count: int, *, size: int, draw: Draw, seed: int, device: torch.device) -> Batch:
    """Training grids of the lab's own scenes, without anything held out. The caller adds masks and captions.

    seed: of the noise in pictures.
    """
    cells, labels = _training_cells(analogy_count, collage_count, draw)
    pixels = (_finish(cells, size, device, seed) + 1) / 2
    return Batch(pixels, torch.empty(0), [], labels, cells)


def evaluation_batch(families: list[str], *, size: int, seed: int, held_out_pairs: bool = False,
                     device: torch.device | str = "cpu") -> Batch:
    """One evaluation grid per name in `families`: the mask is B', the caption is complete.

    held_out_pairs: every B' holds a held-out pair of shape and colour; otherwise no cell does.
    """
    unknown = sorted(set(families) - set(FAMILIES))
    if unknown:
        raise ValueError(f"no such family: {', '.join(unknown)}; available are {', '.join(FAMILIES)}")
    draw = Draw(torch.Generator().manual_seed(seed))
    parts = []
    for name in families:
        found = None
        while found is None or not len(found):
            drawn = analogies(torch.zeros(24, dtype=torch.long), (name,), draw)
            pair = _holds_held_out_pair(drawn)
            found = (pair[:, 3] if held_out_pairs else ~pair.any(1)).nonzero()[:1, 0]
        parts.append(_select(drawn, found))
    cells = _join(parts)
    mask = torch.zeros(len(families), 1, size, size)
    mask[:, :, size // 2 :, size // 2 :] = 1
    captions = [caption(cells, g, 3) for g in range(len(families))]
    pixels = _finish(cells, size, torch.device(device), seed)
    return Batch(pixels, mask.to(device), captions, list(families), cells)
