"""Random scenes: the content of a cell before a family of analogies or a collage changes it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .scene import OBJECTS, PICTURE, Scenes
from .vocabulary import COLOUR_NAMES, SHAPE_NAMES, TEXTURE_NAMES

COLOURS, SHAPES, TEXTURES = len(COLOUR_NAMES), len(SHAPE_NAMES), len(TEXTURE_NAMES)


@dataclass
class Draw:
    """Random numbers of one batch, all from one CPU generator (so that a seed means the same on every device)."""

    generator: torch.Generator

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return self._rand(*shape) * (high - low) + low

    def index(self, *shape: int, below: int) -> Tensor:
        return torch.randint(below, shape, generator=self.generator, device="cpu")

    def chance(self, *shape: int, p: float) -> Tensor:
        return self._rand(*shape) < p

    def other(self, *taken: Tensor, below: int) -> Tensor:
        """Random indices in 0..below - 1 that differ from all taken ones. taken: n (fewer of them than `below`)."""
        rank = self._rand(len(taken[0]), below)
        for indices in taken:
            rank.scatter_(1, indices[:, None], -1.0)
        return rank.argmax(1)

    def _rand(self, *shape: int) -> Tensor:
        # Said outright, since torch's default type and device, which a notebook may change, would change the numbers.
        return torch.rand(*shape, generator=self.generator, dtype=torch.float32, device="cpu")


@dataclass
class Cells:
    """Scenes of a batch of grids, and the effect on each finished picture. Leading axes: grid, cell."""

    scenes: Scenes
    effect: Tensor  # long [grid cell] — see effects.py
    amount: Tensor  # float [grid cell 4] — the effect's strength and, for holes, place and size


def scenes(count: int, draw: Draw) -> Scenes:
    """Random scenes with one or two objects. Leading axis: scene."""
    ground = draw.index(count, below=COLOURS)
    first = draw.other(ground, below=COLOURS)
    second = draw.other(ground, first, below=COLOURS)
    third = draw.other(ground, first, second, below=COLOURS)
    on = torch.stack([torch.ones(count, dtype=torch.bool), draw.chance(count, p=0.25), torch.zeros(count, dtype=torch.bool)], 1)
    two = on[:, 1]
    size = torch.stack([draw.uniform(count, low=0.44, high=0.7), draw.uniform(count, low=0.32, high=0.4),
                        torch.full((count,), 0.3)], 1)
    size[:, 0] = torch.where(two, size[:, 0] * 0.8, size[:, 0])
    reach = 0.9 - size
    x, y = (draw.uniform(count, OBJECTS, low=-1, high=1) * reach for _ in range(2))
    # The second object lies opposite the first, across the middle, so that neither hides the other.
    angle = torch.atan2(-y[:, 0], -x[:, 0]) + draw.uniform(count, low=-0.6, high=0.6)
    far = draw.uniform(count, low=0.75, high=0.95)
    x[:, 1] = torch.where(two, (angle.cos() * far).clamp(-0.62, 0.62), x[:, 1])
    y[:, 1] = torch.where(two, (angle.sin() * far).clamp(-0.62, 0.62), y[:, 1])
    push = torch.where(two, 0.5, 1.0)
    x[:, 0], y[:, 0] = x[:, 0] - (1 - push) * 0.6 * angle.cos(), y[:, 0] - (1 - push) * 0.6 * angle.sin()
    x[:, 0], y[:, 0] = x[:, 0].clamp(-0.55, 0.55), y[:, 0].clamp(-0.55, 0.55)
    textured = draw.chance(count, OBJECTS, p=0.2)
    return Scenes(
        ground=ground,
        ground_texture=draw.index(count, below=2) * draw.chance(count, p=0.3),
        on=on,
        shape=draw.index(count, OBJECTS, below=SHAPES),
        colour=torch.stack([first, second, third], 1),
        texture=draw.index(count, OBJECTS, below=TEXTURES) * textured,
        x=x,
        y=y,
        size=size,
        turn=draw.uniform(count, OBJECTS, low=-math.pi, high=math.pi),
        tint=draw.uniform(count, 3, low=-0.05, high=0.05),
        mode=torch.full((count,), PICTURE),
        outline=torch.zeros(count, dtype=torch.bool),
    )
