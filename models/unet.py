"""The inpainting UNet: latents, mask and masked latents in (9 channels), predicted noise out.

Place in the flow: called by the sampler in every step, with an AttentionControl that says what acts on attention.
Source: Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models", Sec. 3.3 and App. E.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention, CrossAttention
from .blocks import Downsample, GroupNorm, ResBlock, TimeEmbedding, Upsample, modules, sinusoidal
from .compiled import Compiled
from .control import AttentionControl
from .placement import Site
from .text import SIZES, EncodedText, PooledText, PreparedText
from .transformer import FeedForward, Transformer

TIMES = 1000  # training times of the noise schedule of every Stable Diffusion


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Sizes of the UNet; the defaults are those of Stable Diffusion 1.5 inpainting."""

    in_channels: int = 9  # noisy latents 4, mask 1, masked-image latents 4, in this order
    out_channels: int = 4
    channels: tuple[int, ...] = (320, 640, 1280, 1280)  # one entry per level; each level except the last halves the side
    layers_per_block: int = 2  # residual blocks per level on the way down; one more on the way up
    depth: tuple[int, ...] = (1, 1, 1, 0)  # transformer blocks per attention, by level; 0: no attention at this level
    mid_depth: int = 1
    heads: tuple[int, ...] = (8, 8, 8, 8)  # attention heads by level (their number, not their width)
    text_width: int = 768  # channels of the text encoder
    norm_groups: int = 32
    pooled_width: int = 0  # channels of the pooled text that is added to the time embedding (SDXL: 1280); 0: none
    size_width: int = 256  # features for each of the six sizes that are added with it

    def __post_init__(self) -> None:
        for name in ("channels", "depth", "heads"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not len(self.channels) == len(self.depth) == len(self.heads):
            raise ValueError(f"channels {self.channels}, depth {self.depth}, heads {self.heads}: expected one entry per level in each")
        for channels, heads in zip(self.channels, self.heads, strict=True):
            if channels % self.norm_groups or channels % heads:
                raise ValueError(f"{channels} channels must be a multiple of {self.norm_groups} norm groups and of {heads} heads")

    @property
    def factor(self) -> int:
        """Latent height and width must be multiples of it."""
        return 2 ** (len(self.channels) - 1)

    @property
    def published_layers(self) -> tuple[int, int]:
        """Where SAC and CAM act by default, as a half-open range of layers: SD's 3..10, and the corresponding layers in other UNets.

        In the published code those are every map at 1/4 and below, and at 1/2 the attention next to them on the way down and up.
        With two attentions a level down, SDXL's depth (0, 2, 10) gives layers 2..65 of 70.
        """
        below = sum(self.depth[2:])
        start = self.layers_per_block * self.depth[0] + (self.layers_per_block - 1) * (self.depth[1:2] or (0,))[0]
        inside = self.layers_per_block * below + self.mid_depth + (self.layers_per_block + 1) * below
        return start, start + 2 * (self.depth[1:2] or (0,))[0] + inside


class Residual(ResBlock):
    """A residual block that the tap can see: x (hidden state), skip (on the way up), what lies inside, and out.

    skip: its channels, 0 for none.
    """

    site: Site

    def __init__(self, cin: int, cout: int, groups: int, time_width: int, skip: int = 0) -> None:
        super().__init__(cin + skip, cout, groups, eps=1e-5, time_width=time_width)
        self.widths = {"x": cin, "act1": cin + skip} | dict.fromkeys(("conv1", "time", "act2", "conv2", "out"), cout)
        self.widths |= {"skip": skip} if skip else {}

    def reads(self, x: Tensor, control: AttentionControl, skip: Tensor | None = None) -> Tensor:
        """The input of the block: the hidden state x, on the way up concatenated with the skip (FreeU edits both)."""
        see = control.tap_at(self.site, (x.shape[-2], x.shape[-1]))
        return see("x", x) if skip is None else torch.cat([see("x", x), see("skip", skip)], dim=1)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - in a UNet a block always has a time and a control
        self, x: Tensor, time: Tensor, control: AttentionControl
    ) -> Tensor:
        """x: from `reads`."""
        return super().forward(x, time, control.tap_at(self.site, (x.shape[-2], x.shape[-1])))


class Down(Downsample):
    """A downsampling that the tap can see: x, which does not change the skip, and out."""

    site: Site


class Up(Upsample):
    """An upsampling that the tap can see: x and out."""

    site: Site


class End(nn.Conv2d):
    """The first or the last convolution, which the tap can see: x and out."""

    site: Site


def through(conv: Down | Up | End, x: Tensor, control: AttentionControl) -> Tensor:
    """What the convolution makes of x, batch channel row col, with the tap before and after it."""
    x = control.tap_at(conv.site, (x.shape[-2], x.shape[-1]))("x", x)
    out = conv(x)
    return control.tap_at(conv.site, (out.shape[-2], out.shape[-1]))("out", out)


class Level(nn.Module):
    """One resolution on the way down or up: residual blocks, each followed by a transformer if the level has one."""

    def __init__(self, widths: list[tuple[int, int, int]], level: int, config: UNetConfig, time_width: int) -> None:
        """widths: channels of the hidden state, of the result and of the skip (0: none), of each residual block."""
        super().__init__()
        groups, channels, depth = config.norm_groups, config.channels[level], config.depth[level]
        self.resnets = modules(Residual(cin, cout, groups, time_width, skip) for cin, cout, skip in widths)
        shared = {"text_width": config.text_width, "norm_groups": groups}
        self.attn = modules([Transformer(channels, config.heads[level], depth, **shared) for _ in widths] if depth else [])

    @property
    def pairs(self) -> Iterator[tuple[Residual, Transformer | None]]:
        """Each residual block with the transformer that follows it, if any, in execution order."""
        transformers = iter(self.attn)
        return ((block, next(transformers, None)) for block in self.resnets)


class DownLevel(Level):
    """A level on the way down; every result is kept as a skip for the way up."""

    def __init__(self, level: int, config: UNetConfig, time_width: int) -> None:
        cin, cout = config.channels[max(level - 1, 0)], config.channels[level]
        widths = [(cin if i == 0 else cout, cout, 0) for i in range(config.layers_per_block)]
        super().__init__(widths, level, config, time_width)
        last = level == len(config.channels) - 1
        self.downsample = None if last else Down(cout, padding=(1, 1, 1, 1))


class UpLevel(Level):
    """A level on the way up; each residual block also reads the latest skip."""

    def __init__(self, level: int, config: UNetConfig, time_width: int) -> None:
        cout = config.channels[level]
        below = config.channels[min(level + 1, len(config.channels) - 1)]
        beside = config.channels[max(level - 1, 0)]
        blocks = config.layers_per_block + 1
        skips = [cout] * (blocks - 1) + [beside]
        widths = [(below if i == 0 else cout, cout, skips[i]) for i in range(blocks)]
        super().__init__(widths, level, config, time_width)
        self.upsample = None if level == 0 else Up(cout)


class Middle(nn.Module):
    """Residual block, transformer, residual block at the lowest resolution."""

    def __init__(self, config: UNetConfig, time_width: int) -> None:
        super().__init__()
        channels, groups = config.channels[-1], config.norm_groups
        self.resnets = modules(Residual(channels, channels, groups, time_width) for _ in range(2))
        transformer = Transformer(channels, config.heads[-1], config.mid_depth, text_width=config.text_width, norm_groups=groups)
        self.attn = modules([transformer])


class UNet(nn.Module):
    """Noise prediction. `sites` are the attention modules in execution order, `places` everything else that a tap can see,
    `in_order` both as they come.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        levels = len(config.channels)
        time_width = 4 * config.channels[0]
        self.time_embedding = TimeEmbedding(config.channels[0], time_width)
        added = config.pooled_width + SIZES * config.size_width
        self.add_embedding = TimeEmbedding(added, time_width) if config.pooled_width else None
        self.conv_in = End(config.in_channels, config.channels[0], 3, padding=1)
        self.down = modules(DownLevel(level, config, time_width) for level in range(levels))
        self.mid = Middle(config, time_width)
        self.up = modules(UpLevel(level, config, time_width) for level in reversed(range(levels)))
        self.norm_out = GroupNorm(config.norm_groups, config.channels[0], eps=1e-5)
        self.conv_out = End(config.channels[0], config.out_channels, 3, padding=1)
        self.in_order = self._name_sites()
        self.sites = tuple(site for site in self.in_order if site.kind in ("self", "cross"))
        self.places = tuple(site for site in self.in_order if site.kind not in ("self", "cross"))
        self.tf32: bool = False  # whether its guided call rounds float32 products to TF32, on CUDA devices
        self.compiled: Compiled | None = None  # runs `layers` where no gradient is asked for; None: they run as they stand

    def _levels(self) -> Iterator[tuple[str, int, "Level | Middle"]]:
        """(name, stride, level) in execution order."""
        deepest = len(self.config.channels) - 1
        for i, level in enumerate(self.down):
            yield f"down.{i}", 2**i, level
        yield "mid.0", 2**deepest, self.mid
        for i, level in enumerate(self.up):
            yield f"up.{i}", 2 ** (deepest - i), level

    def _name_sites(self) -> tuple[Site, ...]:
        """Walks the network once in execution order and tells each module its site."""
        sites: list[Site] = []
        layer = 0

        def place(module: Residual | Transformer | Attention | FeedForward | Down | Up | End, site: Site) -> None:
            module.site = site
            sites.append(site)

        first, last = self.conv_in, self.conv_out
        place(first, Site("conv_in", "block", -1, 1, 0, {"x": first.in_channels, "out": first.out_channels}))
        for name, stride, level in self._levels():
            index = 0
            for i, resnet in enumerate(level.resnets):
                place(resnet, Site(f"{name}.res.{i}.block", "block", -1, stride, 0, resnet.widths))
                if i < len(level.attn):
                    transformer = level.attn[i]
                    place(transformer, Site(f"{name}.attn.{i}.block", "block", -1, stride, 0, transformer.widths))
                    for block in transformer.blocks:
                        for kind, module in (("self", block.self), ("cross", block.cross)):
                            place(module, Site(f"{name}.attn.{index}.{kind}", kind, layer, stride, module.heads, module.widths))
                        place(block.ff, Site(f"{name}.attn.{index}.ff", "ff", layer, stride, 0, block.ff.widths))
                        layer, index = layer + 1, index + 1
            for part, by in (("downsample", 2), ("upsample", 0.5)):
                resampling: Down | Up | None = getattr(level, part, None)
                if resampling is not None:
                    channels = resampling.conv.out_channels
                    widths = {"x": channels, "out": channels}
                    place(resampling, Site(f"{name}.{part}", "block", -1, stride, 0, widths, {"out": int(stride * by)}))
        place(last, Site("conv_out", "block", -1, 1, 0, {"x": last.in_channels, "out": last.out_channels}))
        return tuple(sites)

    @property
    def module_names(self) -> dict[str, str]:
        """Site name -> name of its module, which its parameters' names start with: "up.1.attn.2.self" -> "up.1.attn.2.blocks.0.self"."""
        names: dict[str, str] = {}
        for name, module in cast("Iterator[tuple[str, nn.Module]]", self.named_modules()):
            site = getattr(module, "site", None)
            if isinstance(site, Site):
                names[site.name] = name
        return names

    def cross_attentions(self) -> Iterator[CrossAttention]:
        """Every cross-attention, in execution order."""
        return (module for module in self.modules() if isinstance(module, CrossAttention))

    def prepare_text(self, text: EncodedText) -> PreparedText:
        """Keys and values of the text for every cross-attention, and what is added to the time embedding: once for all steps.

        text: batch token channel; for an SDXL UNet a PooledText. Raises ValueError if the text does not fit this UNet.
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
        assert self.add_embedding is not None, "a UNet that reads pooled text has one"
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
        t: training time index 0..999, one number for all, or a tensor of one or [batch]; a tensor on a GPU is not checked.
        text: batch token channel (SDXL: PooledText), or from `prepare_text`.
        control: what acts on attention, or None. Its batch axis is (branch image).
        Raises ValueError on shapes that do not fit.
        """
        if control is None:
            control = AttentionControl(branches=1, images=x.shape[0], t=0 if isinstance(t, Tensor) else int(t))
        if not isinstance(text, PreparedText):
            text = self.prepare_text(text)
        self._check(x, t, text, control)
        if self.compiled is not None and not torch.is_grad_enabled():
            return self.compiled(self, x, t, text, control)
        return self.layers(x, t, text, control)

    def layers(self, x: Tensor, t: int | Tensor, text: PreparedText, control: AttentionControl) -> Tensor:
        """The network itself, on arguments that were checked: `forward`'s."""
        time = self._time(t, text, x)

        h = through(self.conv_in, x, control)
        skips = [h]
        for level in self.down:
            for block, transformer in level.pairs:
                h = block(block.reads(h, control), time, control)
                if transformer is not None:
                    h = transformer(h, text, control)
                skips.append(h)
            if level.downsample is not None:
                h = through(level.downsample, h, control)
                skips.append(h)

        before, after = self.mid.resnets
        h = before(before.reads(h, control), time, control)
        h = self.mid.attn[0](h, text, control)
        h = after(after.reads(h, control), time, control)

        for level in self.up:
            for block, transformer in level.pairs:
                h = block.reads(h, control, skips.pop())  # a separate line, so that hidden state and skip are freed after they are joined
                h = block(h, time, control)
                if transformer is not None:
                    h = transformer(h, text, control)
            if level.upsample is not None:
                h = through(level.upsample, h, control)
        return through(self.conv_out, F.silu(self.norm_out(h)), control)

    def _time(self, t: int | Tensor, text: PreparedText, x: Tensor) -> Tensor:
        """Embedding of the time [batch time_width], through SiLU, with what the text adds to it."""
        times = t.to(x.device).reshape(-1) if isinstance(t, Tensor) else torch.full((1,), t, device=x.device)
        time = self.time_embedding(sinusoidal(times.expand(x.shape[0]), self.config.channels[0]).to(x.dtype))
        return F.silu(time if text.added is None else time + text.added)

    def _check(self, x: Tensor, t: int | Tensor, text: PreparedText, control: AttentionControl) -> None:
        """Raises ValueError if the arguments of a call do not fit together. Reads only shapes, and numbers on the host."""
        batch, factor = x.shape[0], self.config.factor
        if x.ndim != 4 or x.shape[1] != self.config.in_channels or x.shape[2] % factor or x.shape[3] % factor:
            raise ValueError(
                f"x {tuple(x.shape)}: give [batch {self.config.in_channels} h w] with h and w multiples of {factor}"
            )
        if control.branches * control.images != batch:
            raise ValueError(f"batch of {batch}, but control says {control.branches} branches x {control.images} images")
        if text.text.shape[0] != batch:
            raise ValueError(f"text for a batch of {text.text.shape[0]}, but x has {batch}")
        if isinstance(t, Tensor) and t.numel() not in (1, batch):
            raise ValueError(f"t of shape {tuple(t.shape)}: give one time, or one per row of the batch ({batch})")
        # Times on a device are not read: that would wait for everything that runs there.
        if isinstance(t, Tensor):
            looked_at = [int(one) for one in t.flatten()] if t.device.type == "cpu" and not torch.compiler.is_compiling() else []
        else:
            looked_at = [t]
        if any(not 0 <= one < TIMES for one in looked_at):
            raise ValueError(f"t {t}: training time indices run from 0 to {TIMES - 1}")
