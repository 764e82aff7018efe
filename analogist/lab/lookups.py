"""Look-up analogies: the parts of A and A' define a mapping that only attention by content can read.

Each part has one colour in A and a new colour (or pattern) in A'. B holds the same colours on other parts, at other places. To find
a part's new colour, the model must look at the part of A that has the same colour.
"""

import math

import torch
from torch import Tensor

from .draw import Draw
from .drawings import FLAT, Drawings
from .sketches import place, random_colours

PARTS = 4  # the background and up to three drawings
LOOK_UPS = ("look up colours", "look up patterns")
_APART = 0.45  # smallest distance between two source colours in the colour cube


def _distinct_colours(draw: Draw, count: int) -> Tensor:
    """Colours [count PARTS 3] that differ clearly, chosen from a few tries."""
    tries = random_colours(draw, count, 12, PARTS)
    distance = (tries[:, :, :, None] - tries[:, :, None]).norm(dim=-1) + 9 * torch.eye(PARTS)
    nearest = distance.flatten(2).amin(2)  # count try
    # The first try that is good enough (always the best would favour the cube's corners); if none is, the best one.
    good = torch.where(nearest > _APART, 10.0 - torch.arange(12) * 0.1, nearest)
    return tries[torch.arange(count), good.argmax(1)]


def _spots(draw: Draw, count: int) -> Tensor:
    """Affine maps [count 3 2 3] that place three drawings at about half size in different corners of a cell."""
    corner = torch.rand(count, 4, generator=draw.generator).argsort(1)[:, : PARTS - 1]
    centre = torch.stack([(corner % 2) * 2.0 - 1, (corner // 2) * 2.0 - 1], -1) * 0.45
    centre = centre + draw.uniform(count, PARTS - 1, 2, low=-0.12, high=0.12)
    scale = 1 / draw.uniform(count, PARTS - 1, low=0.42, high=0.62)
    angle = draw.uniform(count, PARTS - 1, low=-0.6, high=0.6)
    c, s = scale * angle.cos(), scale * angle.sin()
    matrix = torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)
    return torch.cat([matrix, -(matrix @ centre[..., None])], -1)


def _patterns(draw: Draw, count: int, side: int) -> Tensor:
    """Shares of a second colour [count PARTS 1 side side]: stripes of every angle."""
    axis = (torch.arange(side) + 0.5) / side
    angle = draw.uniform(count, PARTS, 1, 1, high=math.pi)
    period = draw.uniform(count, PARTS, 1, 1, low=3.0, high=5.0)
    along = axis[None, None, None, :] * angle.cos() + axis[None, None, :, None] * angle.sin()
    wave = torch.sin(2 * math.pi * period * along) * side / (2 * math.pi * period)
    return (wave + 0.5).clamp(0, 1)[:, :, None]


def look_ups(drawings: Drawings, draw: Draw, count: int, side: int, patterns: Tensor) -> Tensor:
    """Pictures [grid 4 3 side side] in [0, 1]. patterns: bool [grid], targets are patterns instead of colours."""
    device = drawings.pictures.device
    parts = PARTS - 1
    concept = draw.index(count * 2 * parts, below=len(drawings))
    pose = _spots(draw, count * 2).flatten(0, 1)
    _, outside = place(drawings, concept, torch.full_like(concept, FLAT), pose, side)
    cover = 1 - outside.view(count, 2, parts, 1, side, side)
    there = draw.chance(count, parts, p=0.75)  # per colour: if a part is missing, it is missing in both A and B
    there[:, 0] = True
    source, target, second = (_distinct_colours(draw, count) for _ in range(3))
    kept = draw.chance(count, PARTS, 1, p=0.25)
    kept[:, 1] = False  # at least one part changes
    target = torch.where(kept, source, target)
    share = _patterns(draw, count, side) * patterns[:, None, None, None, None] * (~kept)[..., None, None]
    before = source[..., None, None].expand(-1, -1, -1, side, side).to(device)
    after = torch.lerp(target[..., None, None], second[..., None, None], share).to(device)
    # In B, each colour is on a different drawing than in A, and the order of overlap is random again.
    order = torch.rand(count, 2, parts, generator=draw.generator).argsort(2)
    rows = torch.arange(count)
    pictures = torch.empty(count, 4, 3, side, side, device=device)
    for pair in range(2):
        for column, colours in enumerate((before, after)):
            canvas = colours[:, 0]
            for k in range(parts):
                colour = order[:, pair, k]
                shape = cover[:, pair, k] * there[rows, colour].view(-1, 1, 1, 1).to(device)
                canvas = torch.lerp(canvas, colours[rows, 1 + colour], shape)
            pictures[:, 2 * pair + column] = canvas
    return pictures
