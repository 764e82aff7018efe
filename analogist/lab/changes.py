"""Changes of finished pictures, with parameters drawn at random for every grid.

An effect takes sketches and returns the changed pictures [grid cell 3 side side] in [0, 1]. All cells of a grid are changed with the
same parameters, so that A' shows what B' must be.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .draw import Draw
from .drawings import FLAT, LINE, SOFT, STYLES
from .sketches import Sketches, grey, hue_turn, mixed, random_colours

Effect = Callable[[Sketches, Draw], Tensor]


@dataclass(frozen=True)
class Change:
    """A family of analogies."""

    effect: Effect | None  # the change itself; None: the same drawing in another style
    back: bool = False  # reversed: the changed picture is turned back into the original
    share: float = 1.0  # how often this change is chosen, relative to the others

    def pairs(self, s: Sketches, draw: Draw) -> tuple[Tensor, Tensor]:
        """(source, target), each [grid pair 3 side side] in [0, 1]."""
        changed = s.restyled if self.effect is None else self.effect(s, draw)
        return (changed, s.picture) if self.back else (s.picture, changed)


def _amount(s: Sketches, draw: Draw, low: float, high: float) -> Tensor:
    """One number per grid, [grid 1 1 1 1], on the pictures' device."""
    return draw.uniform(len(s.picture), 1, 1, 1, 1, low=low, high=high).to(s.picture.device)


def _colour(s: Sketches, draw: Draw) -> Tensor:
    """One colour per grid, [grid 1 3 1 1], on the pictures' device."""
    return random_colours(draw, len(s.picture)).to(s.picture.device)[:, None, :, None, None]


def gaussian_blur(pictures: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur, edges repeated. pictures: n .. row col; sigma: n, in pixels."""
    count, side = len(pictures), pictures.shape[-1]
    radius = min(side - 1, max(1, math.ceil(3 * float(sigma.max()))))
    offsets = torch.arange(-radius, radius + 1, device=pictures.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None].to(pictures.device)) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    flat = pictures.reshape(count, -1, side, side)
    channels = flat.shape[1]
    kernel = kernel.repeat_interleave(channels, 0)[:, None]
    flat = flat.reshape(1, -1, side, side)
    flat = F.conv2d(F.pad(flat, (radius, radius, 0, 0), mode="replicate"), kernel[:, :, None, :], groups=len(kernel))
    flat = F.conv2d(F.pad(flat, (0, 0, radius, radius), mode="replicate"), kernel[:, :, :, None], groups=len(kernel))
    return flat.view(pictures.shape).clamp(0, 1)  # a mean of white pixels can exceed white by a rounding error


def _grey(s: Sketches, draw: Draw) -> Tensor:
    return grey(s.picture)


def _noisy(s: Sketches, draw: Draw) -> Tensor:
    noise = torch.randn(s.picture.shape, generator=draw.generator).to(s.picture.device)
    return (s.picture + noise * _amount(s, draw, 0.08, 0.32)).clamp(0, 1)


def _blurred(s: Sketches, draw: Draw) -> Tensor:
    side = s.picture.shape[-1]
    return gaussian_blur(s.picture, draw.uniform(len(s.picture), low=0.022, high=0.075) * side)


def _dark(s: Sketches, draw: Draw) -> Tensor:
    return s.picture * _amount(s, draw, 0.12, 0.55)


def _pale(s: Sketches, draw: Draw) -> Tensor:
    return 1 - (1 - s.picture) * _amount(s, draw, 0.12, 0.55)


def _flat_contrast(s: Sketches, draw: Draw) -> Tensor:
    return torch.lerp(_colour(s, draw).expand_as(s.picture), s.picture, _amount(s, draw, 0.15, 0.5))


def _gamma(s: Sketches, draw: Draw) -> Tensor:
    power = torch.exp2(_amount(s, draw, 0.8, 2.0) * torch.where(draw.chance(len(s.picture), 1, 1, 1, 1, p=0.5), 1.0, -1.0)
                       .to(s.picture.device))
    return s.picture.clamp(min=1e-4) ** power


def _boxed(s: Sketches, draw: Draw) -> Tensor:
    """A box over part of each picture, at another place in A than in B; mid-grey as in the published task, or another colour."""
    n, device, side = len(s.picture), s.picture.device, s.picture.shape[-1]
    colour = torch.where(draw.chance(n, 1, p=0.6), torch.full((n, 3), 0.5), random_colours(draw, n)).to(device)
    size = draw.uniform(n, 2, low=0.25, high=0.5)
    centre = 0.5 + (draw.uniform(n, s.picture.shape[1], 2) - 0.5) * 0.5  # grid pair axis
    axis = (torch.arange(side) + 0.5) / side
    inside = [((axis - centre[..., k, None]).abs() < size[:, None, k, None] / 2) for k in range(2)]
    box = (inside[0][..., :, None] & inside[1][..., None, :])[:, :, None].to(device)
    return torch.where(box, colour[:, None, :, None, None].expand_as(s.picture), s.picture)


def _invert(s: Sketches, draw: Draw) -> Tensor:
    return 1 - s.picture


def _affine(s: Sketches, draw: Draw) -> Tensor:
    n = len(s.picture)
    matrix = torch.eye(3) * draw.uniform(n, 1, 1, low=0.2, high=1.0) + draw.uniform(n, 3, 3, low=-0.45, high=0.45)
    shift = draw.uniform(n, 1, 3, 1, 1, low=-0.3, high=0.3).to(s.picture.device)
    turned = torch.einsum("nij,npjyx->npiyx", matrix.to(s.picture.device), s.picture - 0.5)
    return (turned + 0.5 + shift).clamp(0, 1)


def _permute(s: Sketches, draw: Draw) -> Tensor:
    order = torch.tensor([[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])[draw.index(len(s.picture), below=5)]
    return mixed(s.picture, F.one_hot(order, 3).float().to(s.picture.device))


def _hue(s: Sketches, draw: Draw) -> Tensor:
    angle = draw.uniform(len(s.picture), low=0.25 * math.pi, high=1.75 * math.pi)
    return mixed(s.picture, hue_turn(angle).to(s.picture.device))


def _tint(s: Sketches, draw: Draw) -> Tensor:
    return torch.lerp(s.picture, _colour(s, draw).expand_as(s.picture), _amount(s, draw, 0.3, 0.7))


def _multiply(s: Sketches, draw: Draw) -> Tensor:
    return s.picture * _colour(s, draw)


def _two_tone(s: Sketches, draw: Draw) -> Tensor:
    """Luma mapped to a ramp between two colours; its steepness varies."""
    level = ((grey(s.picture) - _amount(s, draw, 0.3, 0.7)) * torch.exp2(_amount(s, draw, 0.0, 4.0)) + 0.5).clamp(0, 1)
    dark, light = _colour(s, draw), _colour(s, draw)
    return torch.lerp(dark.expand_as(level), light.expand_as(level), level)


def _posterise(s: Sketches, draw: Draw) -> Tensor:
    levels = (2 + draw.index(len(s.picture), 1, 1, 1, 1, below=2)).float().to(s.picture.device)
    return (s.picture * levels).round() / levels


def _mosaic(s: Sketches, draw: Draw) -> Tensor:
    side, out = s.picture.shape[-1], torch.empty_like(s.picture)
    blocks = 5 + draw.index(len(s.picture), below=6)
    for number in blocks.unique().tolist():
        rows = (blocks == number).nonzero()[:, 0].to(s.picture.device)
        flat = F.adaptive_avg_pool2d(s.picture[rows].flatten(0, 1), number)
        out[rows] = F.interpolate(flat, size=(side, side), mode="nearest").view(-1, *s.picture.shape[1:])
    return out


def _on_ground(s: Sketches, draw: Draw) -> Tensor:
    """Another background: the target's is one colour."""
    return torch.lerp(s.picture, _colour(s, draw).expand_as(s.picture), s.outside)


def recolour(s: Sketches, draw: Draw) -> Tensor:
    """The object in one other colour, the same in A' and B'. For plain shapes (plain.py)."""
    return torch.lerp(_colour(s, draw).expand_as(s.picture), s.picture, s.outside)


def _on_white(s: Sketches, draw: Draw) -> Tensor:
    return torch.lerp(s.picture, torch.ones_like(s.picture), s.outside)


def _pattern(s: Sketches, draw: Draw) -> Tensor:
    """Share of a pattern's second colour, [grid 1 1 side side]: stripes at any angle, checks or dots."""
    n, side, device = len(s.picture), s.picture.shape[-1], s.picture.device
    axis = (torch.arange(side) + 0.5) / side
    angle, period = draw.uniform(n, 1, 1, high=math.pi), draw.uniform(n, 1, 1, low=2.5, high=5.0)
    u = 2 * math.pi * period * (axis[None, None, :] * angle.cos() + axis[None, :, None] * angle.sin())
    v = 2 * math.pi * period * (axis[None, :, None] * angle.cos() - axis[None, None, :] * angle.sin())
    kind = draw.index(n, 1, 1, below=3)
    wave = torch.where(kind == 0, u.sin(), torch.where(kind == 1, u.sin() * v.sin(), u.sin() + v.sin() - 0.8))
    return (wave * side / (2 * math.pi * period) + 0.5).clamp(0, 1)[:, None, None].to(device)


def _textured_ground(s: Sketches, draw: Draw) -> Tensor:
    share = _pattern(s, draw) * s.outside
    return torch.lerp(s.picture, _colour(s, draw).expand_as(s.picture), share)


def _textured_object(s: Sketches, draw: Draw) -> Tensor:
    share = _pattern(s, draw) * (1 - s.outside)
    return torch.lerp(s.picture, _colour(s, draw).expand_as(s.picture), share)


def _outlined(s: Sketches, draw: Draw) -> Tensor:
    solid = (1 - s.outside).flatten(0, 1)
    ring = (F.max_pool2d(solid, 3, 1, 1) - solid).clamp(0, 1).view(s.outside.shape)
    wide = (F.max_pool2d(solid, 5, 1, 2) - solid).clamp(0, 1).view(s.outside.shape)
    chosen = torch.where(draw.chance(len(s.picture), 1, 1, 1, 1, p=0.5).to(ring.device), ring, wide)
    return torch.lerp(s.picture, _colour(s, draw).expand_as(s.picture), chosen)


def _silhouette(s: Sketches, draw: Draw) -> Tensor:
    return torch.lerp(_colour(s, draw).expand_as(s.picture), _colour(s, draw).expand_as(s.picture), s.outside)


def _edges(s: Sketches, draw: Draw) -> Tensor:
    """Edges as lines, in one colour on another."""
    luma = grey(s.picture)
    across = F.pad(luma[..., :, 1:] - luma[..., :, :-1], (0, 1)).abs()
    down = F.pad(luma[..., 1:, :] - luma[..., :-1, :], (0, 0, 0, 1)).abs()
    strength = ((across + down) * 2.5).clamp(0, 1)
    ink, paper = _colour(s, draw), _colour(s, draw)
    plain = draw.chance(len(s.picture), 1, 1, 1, 1, p=0.5).to(luma.device)
    ink, paper = torch.where(plain, torch.zeros_like(ink), ink), torch.where(plain, torch.ones_like(paper), paper)
    return torch.lerp(paper.expand_as(luma), ink.expand_as(luma), strength)


def _framed(s: Sketches, draw: Draw) -> Tensor:
    side = s.picture.shape[-1]
    axis = (torch.arange(side) + 0.5) / side
    depth = torch.minimum(torch.minimum(axis, 1 - axis)[:, None], torch.minimum(axis, 1 - axis)[None, :]).to(s.picture.device)
    return torch.where(depth < _amount(s, draw, 0.06, 0.16), _colour(s, draw).expand_as(s.picture), s.picture)


def _shaded(s: Sketches, draw: Draw) -> Tensor:
    """Shading: light from one side, or darker towards the edges."""
    n, side = len(s.picture), s.picture.shape[-1]
    axis = (torch.arange(side) + 0.5) / side - 0.5
    angle = draw.uniform(n, 1, 1, high=2 * math.pi)
    slope = 0.5 + axis[None, None, :] * angle.cos() + axis[None, :, None] * angle.sin()
    vignette = 1.2 - 4 * (axis[:, None] ** 2 + axis[None, :] ** 2)
    light = torch.where(draw.chance(n, 1, 1, p=0.6), slope, vignette.expand(n, -1, -1)).clamp(0, 1)[:, None, None]
    return s.picture * (1 - _amount(s, draw, 0.5, 0.9) * (1 - light.to(s.picture.device)))


def _flip(s: Sketches, draw: Draw) -> Tensor:
    upright = draw.chance(len(s.picture), 1, 1, 1, 1, p=0.5).to(s.picture.device)
    return torch.where(upright, s.picture.flip(-1), s.picture.flip(-2))


def _quarter(s: Sketches, draw: Draw) -> Tensor:
    turns = draw.index(len(s.picture), 1, 1, 1, 1, below=3).to(s.picture.device)
    one, two, three = (s.picture.rot90(k, (-2, -1)) for k in (1, 2, 3))
    return torch.where(turns == 0, one, torch.where(turns == 1, two, three))


def _warped(s: Sketches, draw: Draw, zoom: tuple[float, float], move: float) -> Tensor:
    """Moved and scaled about the middle; new areas take the colour of the edge."""
    n = len(s.picture)
    scale = draw.uniform(n, low=zoom[0], high=zoom[1])
    shift = draw.uniform(n, 2, low=0.5 * move, high=move) * torch.where(draw.chance(n, 2, p=0.5), 1.0, -1.0)
    rows = torch.zeros(n, 2, 3)
    rows[:, 0, 0] = rows[:, 1, 1] = scale
    rows[:, :, 2] = shift
    rows = rows.repeat_interleave(s.picture.shape[1], 0).to(s.picture.device)
    flat = s.picture.flatten(0, 1)
    grid = F.affine_grid(rows, list(flat.shape), align_corners=False)
    moved = F.grid_sample(flat, grid, padding_mode="border", align_corners=False).view(s.picture.shape)
    return moved.clamp(0, 1)  # four weights may add up to a rounding error more than 1


def _copy(s: Sketches, draw: Draw) -> Tensor:
    return s.picture


def _solarise(s: Sketches, draw: Draw) -> Tensor:
    return (2 * s.picture - 1).abs()


def _flip_invert(s: Sketches, draw: Draw) -> Tensor:
    return 1 - _flip(s, draw)


# Trained changes of whole pictures. Shares are relative; geometric changes have smaller ones.
CHANGES: dict[str, Change] = {
    "colorize": Change(_grey, back=True, share=2.0),
    "grey": Change(_grey, share=1.0),
    "denoise": Change(_noisy, back=True, share=1.5),
    "deblur": Change(_blurred, back=True, share=1.5),
    "blur": Change(_blurred, share=0.7),
    "enhance": Change(_dark, back=True, share=2.5),
    "dark": Change(_dark, share=0.7),
    "pale": Change(_pale, share=0.5),
    "unpale": Change(_pale, back=True, share=0.5),
    "contrast": Change(_flat_contrast, back=True, share=0.7),
    "fade": Change(_flat_contrast, share=0.5),
    "gamma": Change(_gamma, share=0.7),
    "fill box": Change(_boxed, back=True, share=2.2),
    "invert": Change(_invert, share=2.0),
    "colours": Change(_affine, share=1.5),
    "channels": Change(_permute, share=0.8),
    "hue": Change(_hue, share=1.0),
    "tint": Change(_tint, share=0.7),
    "multiply": Change(_multiply, share=0.7),
    "two tones": Change(_two_tone, share=1.0),
    "posterise": Change(_posterise, share=0.5),
    "mosaic": Change(_mosaic, share=0.5),
    "ground": Change(_on_ground, share=1.0),
    "cut out": Change(_on_white, share=0.7),
    "ground pattern": Change(_textured_ground, share=0.7),
    "pattern": Change(_textured_object, share=0.8),
    "outline": Change(_outlined, share=0.8),
    "silhouette": Change(_silhouette, share=0.7),
    "edges": Change(_edges, share=0.8),
    "frame": Change(_framed, share=0.4),
    "shade": Change(_shaded, share=0.5),
    "flat to line": Change(None, share=4.0),
    "flat to soft": Change(None, share=2.0),
    "line to flat": Change(None, share=3.0),
    "line to soft": Change(None, share=0.7),
    "soft to flat": Change(None, share=1.0),
    "soft to line": Change(None, share=0.7),
    "copy": Change(_copy, share=0.8),
    "flip": Change(_flip, share=0.7),
    "quarter turn": Change(_quarter, share=0.5),
    "shift": Change(lambda s, draw: _warped(s, draw, (1.0, 1.0), 0.5), share=0.5),
    "grow": Change(lambda s, draw: _warped(s, draw, (0.55, 0.75), 0.0), share=0.4),
    "shrink": Change(lambda s, draw: _warped(s, draw, (1.3, 1.7), 0.0), share=0.4),
}
# Held out: a new kind of colour map, and a combination of two trained changes.
HELD_OUT_CHANGES: dict[str, Change] = {"solarise": Change(_solarise), "flip and invert": Change(_flip_invert)}
_STYLE_OF: dict[str, int] = dict(zip(STYLES, (FLAT, LINE, SOFT), strict=True))
# How each change shows in B', for captions.
WORD_OF = {
    "grey": "grey", "blur": "blurred", "dark": "dark", "pale": "pale", "fade": "faded", "invert": "negative", "two tones": "two tone",
    "mosaic": "mosaic", "outline": "outlined", "silhouette": "silhouette", "edges": "edges", "pattern": "patterned", "frame": "framed",
    "posterise": "poster", "tint": "tinted",
}  # fmt: skip


def styles_of(name: str) -> tuple[int, int] | None:
    """(source, target) style of a change of style; None for the others."""
    words = name.split(" to ")
    return (_STYLE_OF[words[0]], _STYLE_OF[words[1]]) if len(words) == 2 and set(words) <= set(_STYLE_OF) else None


def change_of(name: str) -> Change:
    """The change with this name, trained or held out. Raises ValueError for an unknown name."""
    found = CHANGES.get(name) or HELD_OUT_CHANGES.get(name)
    if found is None:
        raise ValueError(f"no change {name!r}; available are {', '.join([*CHANGES, *HELD_OUT_CHANGES])}")
    return found


def changed_pictures(s: Sketches, names: Sequence[str], changes: Mapping[str, Change], draw: Draw) -> Tensor:
    """The pictures A, A', B, B' of every grid, [grid 4 3 side side] in [0, 1]. names: the change of each grid, a key of `changes`."""
    pictures = torch.empty(len(names), 4, *s.picture.shape[2:], device=s.picture.device)
    for name in sorted(set(names)):
        rows = torch.tensor([g for g, n in enumerate(names) if n == name])
        source, target = changes[name].pairs(s.rows(rows), draw)
        pictures[rows.to(pictures.device)] = torch.stack([source[:, 0], target[:, 0], source[:, 1], target[:, 1]], 1)
    return pictures


def needs_natural(name: str) -> bool:
    """Whether only the drawing itself tells the target's colours, so that it must keep its original ones."""
    return name in ("colorize", "line to flat", "line to soft")
