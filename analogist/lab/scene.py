"""Scenes as tensors of attributes, and how they are drawn: [cell] scenes -> pictures [cell 3 side side] in [0, 1].

Everything is vectorised over cells and works on any device, so that drawing is as fast as training.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .shapes import distances
from .vocabulary import palette

OBJECTS = 3  # at most, per scene
PICTURE, SKETCH, MASK, SKELETON = range(4)  # how a scene is drawn
# Half the width of lines, in halves of a cell: of a sketch, a skeleton, a cartoon's outline.
SKETCH_LINE, BONE, INK = 0.033, 0.052, 0.059


@dataclass
class Scenes:
    """Attributes of scenes. Leading axes are free (usually: grid cell); `object` is the last axis of the object fields."""

    ground: Tensor  # long — background colour
    ground_texture: Tensor  # long
    on: Tensor  # bool [.. object] — whether the object is there
    shape: Tensor  # long [.. object]
    colour: Tensor  # long [.. object]
    texture: Tensor  # long [.. object]
    x: Tensor  # float [.. object] — centre, in halves of a cell, right is positive
    y: Tensor  # float [.. object] — up is positive
    size: Tensor  # float [.. object] — in halves of a cell
    turn: Tensor  # float [.. object] — radians
    tint: Tensor  # float [.. 3] — small shift of all colours, so that a colour's name covers a range of colours
    mode: Tensor  # long — PICTURE, SKETCH, MASK or SKELETON
    outline: Tensor  # bool — dark outlines around the objects (the cartoon style)

    def map(self, fn) -> "Scenes":
        """Applies the same function to every field."""
        return Scenes(**{f.name: fn(getattr(self, f.name)) for f in fields(self)})


def _texture(kind: Tensor, u: Tensor, v: Tensor, softness: Tensor) -> Tensor:
    """Share of the second colour, in [0, 1]. u, v: coordinates in periods; softness: width of an edge, in periods."""
    wave_u, wave_v = torch.sin(2 * torch.pi * u), torch.sin(2 * torch.pi * v)
    dots = torch.sin(torch.pi * u) ** 2 * torch.sin(torch.pi * v) ** 2 * 4 - 1.6
    kind = kind[:, None, None]
    level = torch.where(kind == 1, wave_u, torch.where(kind == 2, dots, wave_u * wave_v * 1.5))
    share = (0.5 + level / (4 * torch.pi * softness)).clamp(0, 1)
    return torch.where(kind == 0, torch.zeros_like(share), share)


def _second(colour: Tensor, strength: float) -> Tensor:
    """A lighter version of dark colours, a darker one of light colours. colour: n 3."""
    light = colour.mean(-1, keepdim=True) > 0.5
    return torch.where(light, colour * (1 - strength), colour + (1 - colour) * strength)


def render(scenes: Scenes, side: int) -> Tensor:
    """Draws scenes with a single leading axis `cell`. Returns float32 [cell 3 side side] in [0, 1], antialiased."""
    device = scenes.ground.device
    colours = palette().to(device)
    pixel = 2.0 / side
    axis = (torch.arange(side, device=device) + 0.5) * pixel - 1
    gx, gy = axis[None, None, :], -axis[None, :, None]
    cells = len(scenes.ground)
    tint = scenes.tint
    mode = scenes.mode

    base = (colours[scenes.ground] + tint).clamp(0, 1)
    share = _texture(scenes.ground_texture, (gx * 1.25).expand(1, side, side), (gy * 1.25).expand(1, side, side),
                     torch.tensor(pixel * 1.25, device=device))
    canvas = torch.lerp(base[:, :, None, None], _second(base, 0.3)[:, :, None, None], share[:, None])
    paper = torch.where(mode == SKETCH, 1.0, 0.0)[:, None, None, None]
    canvas = torch.where((mode == PICTURE)[:, None, None, None], canvas, paper.expand_as(canvas))

    for k in range(OBJECTS):
        chosen = scenes.on[:, k].nonzero()[:, 0]
        if not len(chosen):
            continue
        size, turn = scenes.size[chosen, k, None, None], scenes.turn[chosen, k, None, None]
        dx, dy = (gx - scenes.x[chosen, k, None, None]) / size, (gy - scenes.y[chosen, k, None, None]) / size
        u, v = turn.cos() * dx + turn.sin() * dy, turn.cos() * dy - turn.sin() * dx
        kind, how = scenes.shape[chosen, k], mode[chosen]
        distance = distances(kind, u, v) * size
        bones = (how == SKELETON).nonzero()[:, 0]
        if len(bones):
            distance[bones] = distances(kind[bones], u[bones], v[bones], skeleton=True) * size[bones] - BONE
        lines = (how == SKETCH).nonzero()[:, 0]
        cover = (0.5 - distance / pixel).clamp(0, 1)
        fill = (colours[scenes.colour[chosen, k]] + tint[chosen]).clamp(0, 1)
        share = _texture(scenes.texture[chosen, k], u * 1.4 + 0.25, v * 1.4 + 0.25, 1.4 * pixel / size)
        paint = torch.lerp(fill[:, :, None, None], _second(fill, 0.65)[:, :, None, None], share[:, None])
        # In a mask each object has its own grey: 1, 0.66, 0.33. A skeleton is white, a sketch black.
        flat = torch.where(how == SKETCH, 0.0, torch.where(how == MASK, 1.0 - 0.33 * k, 1.0))[:, None, None, None]
        paint = torch.where((how == PICTURE)[:, None, None, None], paint, flat.expand_as(paint))
        under = canvas[chosen]
        if len(lines):
            # Filled with white, so that the nearer object hides the lines of the one behind it.
            under[lines] = torch.lerp(under[lines], torch.ones_like(under[lines]), cover[lines][:, None])
            cover[lines] = (0.5 + (SKETCH_LINE - distance[lines].abs()) / pixel).clamp(0, 1)
        mixed = torch.lerp(under, paint, cover[:, None])
        inked = scenes.outline[chosen].nonzero()[:, 0]
        if len(inked):
            ink = (0.5 + (INK - distance[inked].abs()) / pixel).clamp(0, 1)[:, None]
            mixed[inked] = mixed[inked] * (1 - ink)
        canvas[chosen] = mixed
    assert canvas.shape == (cells, 3, side, side)
    return canvas
