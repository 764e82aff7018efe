"""Effects on finished pictures: grey, noise, blur, dark, hole, mosaic, negative, sepia.

Pictures are [cell 3 side side] in [0, 1]; noise comes from the caller's generator.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

NONE, GREY, NOISE, BLUR, DARK, HOLE, MOSAIC, SEPIA = range(8)
_LUMA = (0.299, 0.587, 0.114)


def grey(pictures: Tensor) -> Tensor:
    """Luma in all three channels."""
    luma = (pictures * torch.tensor(_LUMA, device=pictures.device).view(1, 3, 1, 1)).sum(1, keepdim=True)
    return luma.expand_as(pictures)


def blur(pictures: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with one width per picture. sigma: cell — in halves of a cell."""
    side = pictures.shape[-1]
    radius = side // 3
    offsets = torch.arange(-radius, radius + 1, device=pictures.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / (sigma[:, None] * side / 2)) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)
    flat = pictures.reshape(1, -1, side, side)
    flat = F.conv2d(F.pad(flat, (radius, radius, 0, 0), mode="replicate"), kernel[:, None, None, :], groups=len(kernel))
    flat = F.conv2d(F.pad(flat, (0, 0, radius, radius), mode="replicate"), kernel[:, None, :, None], groups=len(kernel))
    return flat.view_as(pictures)


def mosaic(pictures: Tensor, blocks: int) -> Tensor:
    """Square blocks of one colour, `blocks` along a side."""
    side = pictures.shape[-1]
    return F.interpolate(F.adaptive_avg_pool2d(pictures, blocks), size=(side, side), mode="nearest")


def hole(pictures: Tensor, place: Tensor) -> Tensor:
    """A mid-grey rectangle. place: cell 4 — centre x, y (up), half width, half height, in cell halves."""
    side = pictures.shape[-1]
    axis = (torch.arange(side, device=pictures.device) + 0.5) * (2 / side) - 1
    inside_x = (axis[None] - place[:, 0:1]).abs() < place[:, 2:3]
    inside_y = (-axis[None] - place[:, 1:2]).abs() < place[:, 3:4]
    return torch.where((inside_y[:, :, None] & inside_x[:, None, :])[:, None], 0.5, pictures)


def apply(pictures: Tensor, effect: Tensor, amount: Tensor, generator: torch.Generator) -> Tensor:
    """Applies one effect per picture, in place; returns the pictures.

    effect: cell. amount: cell 4 — strength first. generator: on the pictures' device, for noise.
    """
    for kind in range(1, 8):
        rows = (effect == kind).nonzero()[:, 0]
        if not len(rows):
            continue
        some, strength = pictures[rows], amount[rows, 0]
        if kind == GREY:
            some = grey(some)
        elif kind == NOISE:
            noise = torch.randn(some.shape, generator=generator, device=some.device)
            some = (some + noise * strength[:, None, None, None]).clamp(0, 1)
        elif kind == BLUR:
            some = blur(some, strength)
        elif kind == DARK:
            some = some * strength[:, None, None, None]
        elif kind == HOLE:
            some = hole(some, amount[rows])
        elif kind == MOSAIC:
            for blocks in strength.int().unique().tolist():
                same = strength.int() == blocks
                some[same] = mosaic(some[same], blocks)
        else:
            tone = torch.tensor([1.0, 0.80, 0.55], device=some.device).view(1, 3, 1, 1)
            some = grey(some) * tone
        pictures[rows] = some
    return pictures
