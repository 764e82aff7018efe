"""The inpainting UNet: latents, mask and masked latents in (9 channels), predicted noise out.

Place in the flow: called once a step by the sampler, with an AttentionControl that says what acts on attention.
Source: Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models", Sec. 3.3 and App. E.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import CrossAttention
from .blocks import Downsample, ResBlock, TimeEmbedding, Upsample, sinusoidal
from .control import AttentionControl
from .placement import Site
from .text import SIZES, EncodedText, PooledText, PreparedText
from .transformer import Transformer

TIMES = 1000  # of the noise schedule that every Stable Diffusion was trained on


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Geometry of the UNet; the defaults are Stable Diffusion 1.5 inpainting's."""

    in_channels: int = 9  # noisy latents 4, mask 1, masked-image latents 4, in this order
    out_channels: int = 4
    channels: tuple[int, ...] = (320, 640, 1280, 1280)  # one entry a level; each level but the last halves the side
    layers_per_block: int = 2  # residual blocks a level on the way down; one more on the way up
    depth: tuple[int, ...] = (1, 1, 1, 0)  # transformer blocks an attention, a level; 0: no attention there
    mid_depth: int = 1
    heads: tuple[int, ...] = (8, 8, 8, 8)  # attention heads a level (their number, not their width)
    text_width: int = 768  # channels of the text encoder
    norm_groups: int = 32
    pooled_width: int = 0  # channels of the pooled text that is added to the time embedding (SDXL: 1280); 0: none
    size_width: int = 256  # features of each of the six sizes beside it

    def __post_init__(self) -> None:
        for name in ("channels", "depth", "heads"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not len(self.channels) == len(self.depth) == len(self.heads):
            raise ValueError(f"channels {self.channels}, depth {self.depth}, heads {self.heads}: one entry a level each")
        for channels, heads in zip(self.channels, self.heads, strict=True):
            if channels % self.norm_groups or channels % heads:
                raise ValueError(f"{channels} channels must be a multiple of {self.norm_groups} norm groups and of {heads} heads")

    @property
    def factor(self) -> int:
        """Latent sides must be multiples of it."""
        return 2 ** (len(self.channels) - 1)

    @property
    def published_layers(self) -> tuple[int, int]:
        """Where SAC and CAM act by default, as a half-open range of layers: SD's 3..10, and the same place in other geometries.

        In the published code those are every map at 1/4 and below, and at 1/2 the attention next to them on the way down and up.
        With two attentions a level down, SDXL's depth (0, 2, 10) gives layers 2..65 of 70.
        """
        below = sum(self.depth[2:])
        start = self.layers_per_block * self.depth[0] + (self.layers_per_block - 1) * (self.depth[1:2] or (0,))[0]
        inside = self.layers_per_block * below + self.mid_depth + (self.layers_per_block + 1) * below
        return start, start + 2 * (self.depth[1:2] or (0,))[0] + inside


class Residual(ResBlock):
    """A residual block that the tap can see: x (hidden state), skip (on the way up) and out."""

    site: Site

    def seen(self, x: Tensor, point: str, control: AttentionControl) -> Tensor:
        """x: batch channel row col, at a point of this block."""
        return control.see(x, self.site, point, (x.shape[-2], x.shape[-1]))

    def join(self, x: Tensor, skip: Tensor, control: AttentionControl) -> Tensor:
        """What a block on the way up reads: the skip behind x, as in FreeU's b and s."""
        return torch.cat([self.seen(x, "x", control), self.seen(skip, "skip", control)], dim=1)


class Level(nn.Module):
    """One resolution on the way down or up: residual blocks, each followed by a transformer where the level has one."""

    def __init__(self, widths: list[tuple[int, int]], level: int, config: UNetConfig, time_width: int) -> None:
        super().__init__()
        groups, channels, depth = config.norm_groups, config.channels[level], config.depth[level]
        self.resnets = nn.ModuleList(
            [Residual(cin, cout, groups, eps=1e-5, time_width=time_width) for cin, cout in widths]
        )
        shared = {"text_width": config.text_width, "norm_groups": groups}
        self.attn = nn.ModuleList([Transformer(channels, config.heads[level], depth, **shared) for _ in widths] if depth else [])


class DownLevel(Level):
    """A level on the way down; every result is kept as a skip for the way up."""

    def __init__(self, level: int, config: UNetConfig, time_width: int) -> None:
        cin, cout = config.channels[max(level - 1, 0)], config.channels[level]
        widths = [(cin if i == 0 else cout, cout) for i in range(config.layers_per_block)]
        super().__init__(widths, level, config, time_width)
        last = level == len(config.channels) - 1
        self.downsample = None if last else Downsample(cout, padding=(1, 1, 1, 1))


class UpLevel(Level):
    """A level on the way up; each residual block reads the latest skip beside its input."""

    def __init__(self, level: int, config: UNetConfig, time_width: int) -> None:
        cout = config.channels[level]
        below = config.channels[min(level + 1, len(config.channels) - 1)]
        beside = config.channels[max(level - 1, 0)]
        blocks = config.layers_per_block + 1
        skips = [cout] * (blocks - 1) + [beside]
        widths = [((below if i == 0 else cout) + skips[i], cout) for i in range(blocks)]
        super().__init__(widths, level, config, time_width)
        self.upsample = None if level == 0 else Upsample(cout)


class Middle(nn.Module):
    """Residual block, transformer, residual block at the lowest resolution."""

    def __init__(self, config: UNetConfig, time_width: int) -> None:
        super().__init__()
        channels, groups = config.channels[-1], config.norm_groups
        self.resnets = nn.ModuleList(
            [Residual(channels, channels, groups, eps=1e-5, time_width=time_width) for _ in range(2)]
        )
        transformer = Transformer(channels, config.heads[-1], config.mid_depth, text_width=config.text_width, norm_groups=groups)
        self.attn = nn.ModuleList([transformer])


class UNet(nn.Module):
    """Noise prediction. `sites` are the attention modules in execution order, `places` the blocks around them."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        levels = len(config.channels)
        time_width = 4 * config.channels[0]
        self.time_embedding = TimeEmbedding(config.channels[0], time_width)
        added = config.pooled_width + SIZES * config.size_width
        self.add_embedding = TimeEmbedding(added, time_width) if config.pooled_width else None
        self.conv_in = nn.Conv2d(config.in_channels, config.channels[0], 3, padding=1)
        self.down = nn.ModuleList([DownLevel(level, config, time_width) for level in range(levels)])
        self.mid = Middle(config, time_width)
        self.up = nn.ModuleList([UpLevel(level, config, time_width) for level in reversed(range(levels))])
        self.norm_out = nn.GroupNorm(config.norm_groups, config.channels[0], eps=1e-5)
        self.conv_out = nn.Conv2d(config.channels[0], config.out_channels, 3, padding=1)
        self.sites, self.places = self._name_sites()

    def _levels(self) -> Iterator[tuple[str, int, nn.Module]]:
        """(name, stride, level) in execution order."""
        deepest = len(self.config.channels) - 1
        for i, level in enumerate(self.down):
            yield f"down.{i}", 2**i, level
        yield "mid.0", 2**deepest, self.mid
        for i, level in enumerate(self.up):
            yield f"up.{i}", 2 ** (deepest - i), level

    def _name_sites(self) -> tuple[tuple[Site, ...], tuple[Site, ...]]:
        """Walks the network once in execution order and tells each module its site."""
        sites: list[Site] = []
        places: list[Site] = []
        layer = 0
        for name, stride, level in self._levels():
            index = 0
            for i, resnet in enumerate(level.resnets):
                resnet.site = Site(f"{name}.res.{i}.block", "block", -1, stride, 0)
                places.append(resnet.site)
                if i < len(level.attn):
                    transformer = level.attn[i]
                    transformer.site = Site(f"{name}.attn.{i}.block", "block", -1, stride, 0)
                    places.append(transformer.site)
                    for block in transformer.blocks:
                        for kind, module in (("self", block.self), ("cross", block.cross)):
                            module.site = Site(f"{name}.attn.{index}.{kind}", kind, layer, stride, module.heads)
                            sites.append(module.site)
                        layer, index = layer + 1, index + 1
        return tuple(sites), tuple(places)

    def cross_attentions(self) -> Iterator[CrossAttention]:
        """Every cross-attention, in execution order."""
        return (module for module in self.modules() if isinstance(module, CrossAttention))

    def prepare_text(self, text: EncodedText) -> PreparedText:
        """Keys and values of the text for every cross-attention, and what is added to the time embedding: once for all steps.

        text: batch token channel; for an SDXL UNet a PooledText. Raises ValueError where it is not what this UNet reads.
        """
        if text.ndim != 3 or text.shape[-1] != self.config.text_width:
            raise ValueError(f"text {tuple(text.shape)}: give [batch token channel] with {self.config.text_width} channels")
        if isinstance(text, PooledText) != (self.add_embedding is not None):
            wanted = "a PooledText (tokens, pooled, sizes)" if self.add_embedding is not None else "a tensor [batch token channel]"
            raise ValueError(f"text is a {type(text).__name__}; this UNet reads {wanted}")
        added = self._added(text) if isinstance(text, PooledText) else None
        tokens = text.tokens if isinstance(text, PooledText) else text
        return PreparedText(tokens, {module.site.name: module.keys_values(tokens) for module in self.cross_attentions()}, added)

    def _added(self, text: PooledText) -> Tensor:
        """Embedding [batch time_width] of pooled text and sizes. Source: Podell et al. 2023 (SDXL), Sec. 2.2."""
        want = len(text.tokens), self.config.pooled_width
        if text.pooled.shape != want or text.sizes is None or text.sizes.shape != (want[0], SIZES):
            sizes = "none (give them with of_size(height, width))" if text.sizes is None else str(tuple(text.sizes.shape))
            raise ValueError(f"pooled text {tuple(text.pooled.shape)}, sizes {sizes}: expected {want} and {(want[0], SIZES)}")
        features = sinusoidal(text.sizes.flatten(), self.config.size_width).view(want[0], -1)
        return self.add_embedding(torch.cat([text.pooled, features.to(text.pooled.dtype)], dim=-1))

    def forward(
        self,
        x: Tensor,
        t: int | Tensor,
        text: EncodedText | PreparedText,
        control: AttentionControl | None = None,
    ) -> Tensor:
        """Predicted noise eps [batch 4 h w].

        x: batch 9 h w — noisy latents, mask {0, 1}, masked-image latents (VAE-scaled); h, w multiples of config.factor.
        t: training time index 0..999, one for all or [batch]. text: batch token channel (SDXL: PooledText), or from
        `prepare_text`.
        control: what acts on attention; None: nothing. Its batch axis is (branch image).
        Raises ValueError on shapes that do not fit.
        """
        factor = self.config.factor
        if x.ndim != 4 or x.shape[1] != self.config.in_channels or x.shape[2] % factor or x.shape[3] % factor:
            raise ValueError(
                f"x {tuple(x.shape)}: give [batch {self.config.in_channels} h w] with h and w multiples of {factor}"
            )
        if control is None:
            control = AttentionControl(branches=1, images=x.shape[0], t=t if isinstance(t, int) else 0)
        elif control.branches * control.images != x.shape[0]:
            raise ValueError(f"batch of {x.shape[0]}, but control says {control.branches} branches x {control.images} images")
        if not isinstance(text, PreparedText):
            text = self.prepare_text(text)
        if text.text.shape[0] != x.shape[0]:
            raise ValueError(f"text for a batch of {text.text.shape[0]}, but x has {x.shape[0]}")

        times = torch.as_tensor(t, device=x.device)
        if not times.is_meta and times.numel() and not 0 <= int(times.min()) <= int(times.max()) < TIMES:
            raise ValueError(f"t {t}: training time indices run from 0 to {TIMES - 1}")
        if times.numel() not in (1, x.shape[0]):
            raise ValueError(f"t of shape {tuple(times.shape)}: give one time, or one for each of the {x.shape[0]} rows of the batch")
        times = times.reshape(-1).expand(x.shape[0])
        time = self.time_embedding(sinusoidal(times, self.config.channels[0]).to(x.dtype))
        time = F.silu(time if text.added is None else time + text.added)

        h = self.conv_in(x)
        skips = [h]
        for level in self.down:
            for i, resnet in enumerate(level.resnets):
                h = resnet.seen(resnet(resnet.seen(h, "x", control), time), "out", control)
                if level.attn:
                    h = level.attn[i](h, text, control)
                skips.append(h)
            if level.downsample is not None:
                h = level.downsample(h)
                skips.append(h)

        for i, resnet in enumerate(self.mid.resnets):
            h = resnet.seen(resnet(resnet.seen(h, "x", control), time), "out", control)
            if i == 0:
                h = self.mid.attn[0](h, text, control)

        for level in self.up:
            for i, resnet in enumerate(level.resnets):
                h = resnet.join(h, skips.pop(), control)  # a name of its own: x and skip are not held beside the joined one
                h = resnet.seen(resnet(h, time), "out", control)
                if level.attn:
                    h = level.attn[i](h, text, control)
            if level.upsample is not None:
                h = level.upsample(h)
        return self.conv_out(F.silu(self.norm_out(h)))
