"""Transformers inside the UNet: self-attention, cross-attention and feed-forward over the positions of a feature map.

Source: Rombach et al. 2022, App. E.2.1 (their ablation of the transformer block).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import CrossAttention, SelfAttention
from .blocks import modules
from .control import AttentionControl
from .cpu_tricks import SLICE_BYTES, in_slices
from .placement import Site
from .text import PreparedText


class FeedForward(nn.Module):
    """GEGLU and a linear layer. Source: Shazeer 2020, "GLU Variants Improve Transformer"."""

    slice_bytes = SLICE_BYTES

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(channels, 8 * channels)
        self.proj_out = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: batch token channel -> the same."""
        return in_slices(self.of_tokens, x, self.proj_out.in_features * x.element_size(), self.slice_bytes)

    def of_tokens(self, x: Tensor) -> Tensor:
        """... channel -> ... channel, for each token separately."""
        (value, gate), (of_value, of_gate) = self.proj_in.weight.chunk(2), self.proj_in.bias.chunk(2)
        return self.proj_out(F.linear(x, value, of_value) * F.gelu(F.linear(x, gate, of_gate)))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention, feed-forward, each with a skip connection. x: batch token channel."""

    def __init__(self, channels: int, heads: int, text_width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.self = SelfAttention(channels, heads, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.cross = CrossAttention(channels, heads, text_width)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, text: PreparedText, hw: tuple[int, int], control: AttentionControl) -> Tensor:
        x = x + self.self(self.norm1(x), hw, control)
        x = x + self.cross(self.norm2(x), text.keys_values[self.cross.site.name], hw, control)
        return x + self.ff(self.norm3(x))


class Transformer(nn.Module):
    """Transformer blocks over the positions of a feature map, with a skip connection. x: batch channel row col."""

    def __init__(self, channels: int, heads: int, depth: int, *, text_width: int, norm_groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)  # SD 1.5 stores it as a 1x1 convolution, which is equivalent
        self.blocks = modules(TransformerBlock(channels, heads, text_width) for _ in range(depth))
        self.proj_out = nn.Linear(channels, channels)
        self.site: Site

    @property
    def widths(self) -> dict[str, int]:
        """Channels at each point."""
        return {"x": self.proj_in.in_features, "out": self.proj_out.out_features}

    def forward(self, x: Tensor, text: PreparedText, control: AttentionControl) -> Tensor:
        hw = (x.shape[-2], x.shape[-1])
        see = control.tap_at(self.site, hw)
        x = see("x", x)
        tokens = self.proj_in(self.norm(x).flatten(2).mT)  # batch channel row col -> batch token channel
        for block in self.blocks:
            tokens = block(tokens, text, hw, control)
        return see("out", x + torch.unflatten(self.proj_out(tokens).mT, 2, hw))
