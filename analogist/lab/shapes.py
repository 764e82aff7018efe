"""Signed distances of the lab's shapes, for whole batches at once.

Coordinates are the shape's own: x to the right, y upwards; a shape is about as large as the unit circle.
Distances are negative inside. Source of the folded star and the heart: Inigo Quilez, "2D distance functions".
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .vocabulary import SHAPE_NAMES


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 0.85


def _square(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - 0.74


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs() * 0.8660254 + y * 0.5, -y) - 0.52


def _star(x: Tensor, y: Tensor) -> Tensor:
    # Fold the plane into half of one point of the star, then take the distance to its edge (a line is enough there).
    sector = 2 * math.pi / 5
    angle = torch.remainder(torch.atan2(x, y) + sector / 2, sector) - sector / 2
    radius = torch.hypot(x, y)
    px, py = (radius * angle.sin()).abs(), radius * angle.cos()
    tip, notch = (0.0, 1.08), (0.47 * math.sin(sector / 2), 0.47 * math.cos(sector / 2))
    nx, ny = tip[1] - notch[1], notch[0] - tip[0]  # the edge's outward normal
    length = math.hypot(nx, ny)
    return (px * nx + (py - tip[1]) * ny) / length


def _heart(x: Tensor, y: Tensor) -> Tensor:
    x, y = x.abs() / 1.5, (y + 0.85) / 1.5
    lobe = torch.hypot(x - 0.25, y - 0.75) - math.sqrt(2) / 4
    fold = 0.5 * (x + y).clamp(min=0)
    side = torch.minimum(x * x + (y - 1) ** 2, (x - fold) ** 2 + (y - fold) ** 2).sqrt() * (x - y).sign()
    return 1.5 * torch.where(x + y > 1, lobe, side)


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.66).abs() - 0.24


def _cross(x: Tensor, y: Tensor) -> Tensor:
    x, y = x.abs(), y.abs()
    return torch.minimum(torch.maximum(x - 0.9, y - 0.3), torch.maximum(x - 0.3, y - 0.9))


def _moon(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(torch.hypot(x, y) - 0.92, 0.72 - torch.hypot(x - 0.5, y))


_SOLID: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (_circle, _square, _triangle, _star, _heart, _ring, _cross, _moon)

# Skeletons: (spokes, angle of the first, their length, radius of a thin circle; 0: none).
_SKELETON = (
    (0, 0.0, 0.0, 0.3),  # circle: a small circle in its middle
    (4, math.pi / 4, 1.0, 0.0),
    (3, math.pi / 2, 1.0, 0.0),
    (5, math.pi / 2, 1.0, 0.0),
    (3, -math.pi / 2, 0.6, 0.3),  # heart: three spokes and a small circle
    (0, 0.0, 0.0, 0.66),
    (4, 0.0, 0.9, 0.3),  # cross: a plus with a small circle
    (1, math.pi, 0.9, 0.6),
)


def _bones(x: Tensor, y: Tensor, kind: int) -> Tensor:
    spokes, first, length, circle = _SKELETON[kind]
    radius = torch.hypot(x, y)
    distance = (radius - circle).abs() if circle else torch.full_like(radius, 9.0)
    if spokes:
        sector = 2 * math.pi / spokes
        angle = torch.remainder(torch.atan2(y, x) - first + sector / 2, sector) - sector / 2
        along = radius * angle.cos()
        distance = torch.minimum(distance, torch.hypot(along - along.clamp(0, length), radius * angle.sin()))
    return distance


def distances(kind: Tensor, x: Tensor, y: Tensor, *, skeleton: bool = False) -> Tensor:
    """Distance to each object's shape, or to the lines of its skeleton (then never negative).

    kind: object — index into SHAPE_NAMES. x, y: object row col — the shape's own coordinates.
    """
    out = torch.empty_like(x)
    for index in range(len(SHAPE_NAMES)):
        chosen = (kind == index).nonzero()[:, 0]
        if len(chosen):
            px, py = x[chosen], y[chosen]
            out[chosen] = _bones(px, py, index) if skeleton else _SOLID[index](px, py)
    return out
