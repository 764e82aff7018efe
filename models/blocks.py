"""Residual blocks, resampling and the time embedding, shared by UNet and VAE.

Source: Ho et al. 2020 (DDPM), App. B; Rombach et al. 2022.
"""

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .control import Seeing, unseen
from .cpu_tricks import convolution_as_product, is_small, silu_in_place

M = TypeVar("M", bound=nn.Module)


def modules(each: Iterable[M]) -> Sequence[M]:
    """A ModuleList typed by its elements, which torch's own type omits."""
    return cast(Sequence[M], nn.ModuleList(each))


class GroupNorm(nn.GroupNorm):
    """torch's, without its check of the batch size, which is for training and costs as much as the call. x: batch channel ..."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution, padded by one pixel. x: batch cin row col -> batch cout row col."""

    def __init__(self, cin: int, cout: int, *, stride: int = 1, padding: int = 1) -> None:
        super().__init__(cin, cout, 3, stride=stride, padding=padding)  # pyright: ignore[reportUnknownMemberType] - device, dtype in torch

    def forward(self, input: Tensor) -> Tensor:
        return convolution_as_product(self, input) if is_small(self, input) else super().forward(input)


class ResBlock(nn.Module):
    """Two 3x3 convolutions around an optional time embedding, with a skip connection.

    x: batch cin row col -> batch cout row col. time: batch time_width, already through SiLU; None in the VAE. see: the tap, at what
    each convolution reads (act1, act2) and gives (conv1, conv2), at what the time adds (batch cout), and at the result.
    """

    def __init__(self, cin: int, cout: int, groups: int, *, eps: float, time_width: int | None = None) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, cin, eps=eps)
        self.conv1 = Conv3x3(cin, cout)
        self.time_emb_proj = None if time_width is None else nn.Linear(time_width, cout)
        self.norm2 = GroupNorm(groups, cout, eps=eps)
        self.conv2 = Conv3x3(cout, cout)
        self.conv_shortcut = None if cin == cout else nn.Conv2d(cin, cout, 1)

    def forward(self, x: Tensor, time: Tensor | None = None, see: Seeing = unseen) -> Tensor:
        h = see("conv1", self.conv1(see("act1", silu_in_place(self.norm1(x)))))
        if self.time_emb_proj is not None:
            h = h + torch.unflatten(see("time", self.time_emb_proj(time)), 1, (-1, 1, 1))  # the same at every row and column
        h = see("conv2", self.conv2(see("act2", silu_in_place(self.norm2(h)))))
        return see("out", h + (x if self.conv_shortcut is None else self.conv_shortcut(x)))


class Downsample(nn.Module):
    """Half the side by a strided 3x3 convolution. padding: left, right, top, bottom."""

    def __init__(self, channels: int, padding: tuple[int, int, int, int]) -> None:
        super().__init__()
        even = padding == (1, 1, 1, 1)  # then the convolution pads itself, without a copy
        self.conv = Conv3x3(channels, channels, stride=2, padding=1 if even else 0)
        self.padding = None if even else padding

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x if self.padding is None else F.pad(x, self.padding))


class Upsample(nn.Module):
    """Twice the side by nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def sinusoidal(t: Tensor, width: int) -> Tensor:
    """Sinusoidal features of the time index, cosines first (flip_sin_to_cos with freq_shift 0, as in the checkpoints).

    t: batch — training time index, 0..999. Returns float32 [batch width].
    Source: Vaswani et al. 2017, Sec. 3.5; order as in Stable Diffusion's code.
    """
    half = width // 2
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.float()[:, None] * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    """Sinusoidal features through a two-layer perceptron: batch width_in -> batch width_out."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width_in, width_out)
        self.linear_2 = nn.Linear(width_out, width_out)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(features)))
