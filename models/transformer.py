"""Transformers inside the UNet: self-attention, cross-attention and feed-forward over the positions of a feature map.

Source: Rombach et al. 2022, App. E.2.1 (their ablation of the transformer block).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import CrossAttention, SelfAttention
from .blocks import GroupNorm, modules
from .control import AttentionControl, Seeing, unseen
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
        self.site: Site

    @property
    def widths(self) -> dict[str, int]:
        """Channels at each point."""
        channels = self.proj_out.out_features
        return {"stream": channels, "x": channels, "hidden": self.proj_out.in_features, "out": channels}

    def forward(self, x: Tensor, see: Seeing = unseen) -> Tensor:
        """x: batch token channel -> the same. see: the tap; only if it looks here is the hidden layer of all tokens held together."""
        token_bytes = self.proj_out.in_features * x.element_size()
        if see is unseen:
            return in_slices(self.of_tokens, x, token_bytes, self.slice_bytes)
        hidden = see("hidden", in_slices(self.hidden, see("x", x), token_bytes, self.slice_bytes))  # in the same slices: the same bits
        return see("out", in_slices(self.proj_out, hidden, token_bytes, self.slice_bytes))

    def hidden(self, x: Tensor) -> Tensor:
        """... channel -> ... 4 channel: the gated hidden layer of each token."""
        (value, gate), (of_value, of_gate) = self.proj_in.weight.chunk(2), self.proj_in.bias.chunk(2)
        return F.linear(x, value, of_value) * F.gelu(F.linear(x, gate, of_gate))

    def of_tokens(self, x: Tensor) -> Tensor:
        """... channel -> ... channel, for each token separately."""
        return self.proj_out(self.hidden(x))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention, feed-forward, each added to the residual stream x: batch token channel.

    What each of them finds there is its point `stream`: an edit there acts on all that follows, not only on what this part reads.
    """

    def __init__(self, channels: int, heads: int, text_width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.self = SelfAttention(channels, heads, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.cross = CrossAttention(channels, heads, text_width)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, text: PreparedText, hw: tuple[int, int], control: AttentionControl) -> Tensor:
        attention, cross, ff = self.self, self.cross, self.ff
        x = control.tap_at(attention.site, hw)("stream", x)
        x = x + attention(self.norm1(x), hw, control)
        x = control.tap_at(cross.site, hw)("stream", x)
        x = x + cross(self.norm2(x), text.keys_values[cross.site.name], hw, control)
        see = control.tap_at(ff.site, hw)
        x = see("stream", x)
        return x + ff(self.norm3(x), see)


class Transformer(nn.Module):
    """Transformer blocks over the positions of a feature map, with a skip connection. x: batch channel row col."""

    def __init__(self, channels: int, heads: int, depth: int, *, text_width: int, norm_groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(norm_groups, channels, eps=1e-6)
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
