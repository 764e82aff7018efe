"""Drawings by people, placed in cells with random pose, colours and background, so that place and palette give nothing away.

Everything is computed for a whole batch at once, on the device of the drawings. Random numbers come from the CPU, so that a seed gives
the same result everywhere.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .draw import Draw
from .drawings import Drawings

_LUMA = (0.299, 0.587, 0.114)


@dataclass
class Sketches:
    """Two drawings per grid, A's and B's, each in its style and in another one. Leading axes: grid, pair (0: A, 1: B)."""

    picture: Tensor  # [grid 2 3 side side] in [0, 1]
    restyled: Tensor  # the same drawing, pose, colours and background in another style
    outside: Tensor  # [grid 2 1 side side] in [0, 1] - 1 where the background shows
    ground: Tensor  # [grid 2 3 1 1] - mean colour of the background
    concept: Tensor  # long [grid 2], on the CPU
    style: Tensor  # long [grid 2], on the CPU
    other_style: Tensor  # long [grid 2], on the CPU
    natural: Tensor  # bool [grid 2], on the CPU: in the drawing's original colours

    def rows(self, chosen: Tensor) -> "Sketches":
        """Some of the grids. chosen: long [row], on the CPU."""
        there = chosen.to(self.picture.device)
        kept = (getattr(self, name)[there] for name in ("picture", "restyled", "outside", "ground"))
        return Sketches(*kept, *(getattr(self, name)[chosen] for name in ("concept", "style", "other_style", "natural")))


def random_colours(draw: Draw, *shape: int) -> Tensor:
    """Random colours [.. 3] in [0, 1]: uniform in the cube, but every fourth is grey, black or white."""
    colour = draw.uniform(*shape, 3)
    grey = draw.uniform(*shape, 1).expand(*shape, 3)
    end = grey.round()
    kind = draw.uniform(*shape, 1)
    return torch.where(kind < 0.75, colour, torch.where(kind < 0.85, grey, end))


def hue_turn(angle: Tensor) -> Tensor:
    """Matrices [.. 3 3] that rotate colours about the grey axis by `angle` radians [..]."""
    c, s = angle.cos()[..., None, None], angle.sin()[..., None, None]
    third = torch.full((3, 3), 1 / 3, device=angle.device)
    eye = torch.eye(3, device=angle.device)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=angle.device) / math.sqrt(3)
    return c * eye + (1 - c) * third + s * cross


def mixed(pictures: Tensor, matrix: Tensor) -> Tensor:
    """Colours of pictures [n .. 3 row col] through matrices [n 3 3], clamped to [0, 1]."""
    flat = pictures.reshape(len(pictures), -1, 3, pictures.shape[-2] * pictures.shape[-1])
    return (matrix[:, None] @ flat).view(pictures.shape).clamp(0, 1)


def _poses(draw: Draw, count: int) -> Tensor:
    """Affine maps [count 2 3] from the cell to the drawing: rotated by up to 0.35, 0.7 to 1.15 times as large, mirrored or not, moved."""
    scale = 1 / draw.uniform(count, low=0.7, high=1.15)
    mirror = torch.where(draw.chance(count, p=0.5), -1.0, 1.0)
    angle = torch.where(draw.chance(count, p=0.5), draw.uniform(count, low=-0.35, high=0.35), torch.zeros(count))
    plain = draw.chance(count, p=0.15)  # unchanged, as on its sheet
    scale, angle = torch.where(plain, 1.0, scale), torch.where(plain, 0.0, angle)
    move = draw.uniform(count, 2, low=-0.25, high=0.25) * (~plain)[:, None]
    c, s = scale * angle.cos(), scale * angle.sin()
    rows = torch.stack([torch.stack([c * mirror, -s, move[:, 0]], 1), torch.stack([s * mirror, c, move[:, 1]], 1)], 1)
    return rows


def _grounds(draw: Draw, count: int, side: int) -> Tensor:
    """Backgrounds [count 3 side side]: white, one colour, a gradient, stripes or checks."""
    kind = draw.uniform(count)
    first, second = random_colours(draw, count), random_colours(draw, count)
    axis = (torch.arange(side) + 0.5) / side
    angle = draw.uniform(count, 1, 1, high=2 * math.pi)
    along = axis[None, None, :] * angle.cos() + axis[None, :, None] * angle.sin()  # count side side
    across = axis[None, :, None] * angle.cos() - axis[None, None, :] * angle.sin()
    period = draw.uniform(count, 1, 1, low=1.5, high=4.0)
    gradient = (0.5 + 0.7 * (along - (angle.cos() + angle.sin()) / 2)).clamp(0, 1)
    edge = side / (2 * math.pi * period)
    stripes = (torch.sin(2 * math.pi * period * along) * edge + 0.5).clamp(0, 1)
    checks = (torch.sin(2 * math.pi * period * along) * torch.sin(2 * math.pi * period * across) * edge + 0.5).clamp(0, 1)
    share = torch.where((kind < 0.82)[:, None, None], gradient, torch.where((kind < 0.91)[:, None, None], stripes, checks))
    share = torch.where((kind < 0.74)[:, None, None], torch.zeros_like(share), share)
    near = torch.lerp(first, second, 0.4)  # the two colours of a pattern are not too far apart
    ground = torch.lerp(first[:, :, None, None], near[:, :, None, None], share[:, None])
    white = (kind < 0.45)[:, None, None, None]
    return torch.where(white, torch.ones_like(ground), ground)


def place(drawings: Drawings, concept: Tensor, style: Tensor, pose: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Drawings in their pose, on white. concept, style: long [n]; pose: n 2 3. Returns ([n 3 side side], outside [n 1 side side])."""
    device = drawings.pictures.device
    concept, style = concept.to(device), style.to(device)
    both = torch.cat([drawings.pictures[concept, style], drawings.outside[concept, style]], 1).float() / 255
    # Sampled at twice the size and averaged, against aliasing. Beyond the drawing's edge everything is background.
    grid = F.affine_grid(pose.to(device), [len(both), 4, 2 * side, 2 * side], align_corners=False)
    both = 1 - F.avg_pool2d(F.grid_sample(1 - both, grid, padding_mode="zeros", align_corners=False), 2)
    return both[:, :3], both[:, 3:]


@dataclass
class Plan:
    """What will be drawn in every cell. Leading axes: grid, cell; all on the CPU."""

    concept: Tensor  # long
    style: Tensor  # long
    other_style: Tensor  # long
    natural: Tensor  # bool - in the drawing's original colours
    colours: Tensor  # [.. 3 3] - matrix that maps the drawing's colours
    dark: Tensor  # factor on the brightness
    pose: Tensor  # [.. 2 3] - from the cell to the drawing
    ground: Tensor  # [.. 3 side side] - background

    def shared(self, source: Tensor, *names: str) -> None:
        """Copies values between cells. source: long [grid cell], the cell from which each takes its value."""
        rows = torch.arange(len(source))[:, None]
        for name in names:
            setattr(self, name, getattr(self, name)[rows, source])


def plan(draw: Draw, drawings: Drawings, count: int, cells: int, side: int, *, natural_share: float = 0.5) -> Plan:
    """Random drawings for every cell; no attribute is shared."""
    shape, n = (count, cells), count * cells
    style = draw.index(count, 1, below=3).expand(shape).clone()
    order = torch.rand(n, 3, generator=draw.generator).argsort(1)
    turn = hue_turn(draw.uniform(n, low=-math.pi, high=math.pi))
    matrix = torch.where(draw.chance(n, 1, 1, p=0.5), F.one_hot(order, 3).float(), turn)
    natural = draw.chance(n, p=natural_share)
    dark = torch.where(natural | draw.chance(n, p=0.6), torch.ones(n), draw.uniform(n, low=0.55, high=1.0))
    return Plan(
        concept=draw.index(*shape, below=len(drawings)),
        style=style,
        other_style=(style + 1 + draw.index(count, 1, below=2)) % 3,
        natural=natural.view(shape),
        colours=torch.where(natural[:, None, None], torch.eye(3), matrix).view(*shape, 3, 3),
        dark=dark.view(shape),
        pose=_poses(draw, n).view(*shape, 2, 3),
        ground=_grounds(draw, n, side).view(*shape, 3, side, side),
    )


def sketches(drawings: Drawings, planned: Plan, *, restyled: bool = True) -> Sketches:
    """Draws a plan, on the drawings' device. restyled: also draw the other style (otherwise it is the same picture)."""
    device, side = drawings.pictures.device, planned.ground.shape[-1]
    shape = planned.concept.shape
    flat = {name: getattr(planned, name).flatten(0, 1) for name in ("concept", "style", "other_style", "pose", "colours", "dark", "ground")}
    ground = flat["ground"].to(device)

    def drawn(style: Tensor) -> tuple[Tensor, Tensor]:
        picture, outside = place(drawings, flat["concept"], style, flat["pose"], side)
        picture = mixed(picture, flat["colours"].to(device)) * flat["dark"].to(device)[:, None, None, None]
        # The area around the drawing takes the background's colours; the drawing's soft edge was mixed with white.
        return torch.lerp(picture, ground, outside).view(*shape, 3, side, side), outside.view(*shape, 1, side, side)

    picture, outside = drawn(flat["style"])
    other = drawn(flat["other_style"])[0] if restyled else picture
    mean = ground.mean((2, 3)).view(*shape, 3, 1, 1)
    return Sketches(picture, other, outside, mean, planned.concept, planned.style, planned.other_style, planned.natural)


def grey(pictures: Tensor) -> Tensor:
    """Luma in all three channels. pictures: .. 3 row col."""
    luma = (pictures * torch.tensor(_LUMA, device=pictures.device)[:, None, None]).sum(-3, keepdim=True)
    return luma.expand_as(pictures)
