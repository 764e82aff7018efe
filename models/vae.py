"""AutoencoderKL: pictures to latents and back, as Stable Diffusion's first stage.

Place in the flow: before the sampler (`encode`) and after it (`decode`).
Source: Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models", Sec. 3.1 and App. G.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .blocks import Downsample, GroupNorm, ResBlock, Upsample
from .tiles import in_tiles

TILED_ABOVE = 1024  # pixels of a side: larger pictures are computed in tiles of at most this side


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Sizes of the autoencoder; the defaults are Stable Diffusion's."""

    in_channels: int = 3
    latent_channels: int = 4
    channels: tuple[int, ...] = (128, 256, 512, 512)  # one entry per level; each level except the last halves the side
    layers_per_block: int = 2  # residual blocks per level in the encoder; the decoder has one more
    norm_groups: int = 32
    scaling_factor: float = 0.18215  # latents are multiplied by it to have about unit variance

    def __post_init__(self) -> None:
        bad = [c for c in self.channels if c % self.norm_groups]
        if bad or not self.channels:
            raise ValueError(f"VAE channels {self.channels}: every entry must be a multiple of norm_groups = {self.norm_groups}")

    @property
    def factor(self) -> int:
        """Picture pixels per latent pixel, along one side."""
        return 2 ** (len(self.channels) - 1)


@dataclass(frozen=True)
class Posterior:
    """The encoder's Gaussian over latents, before scaling. mean, std: image channel row col."""

    mean: Tensor
    std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """mean + std * noise; noise: N(0, 1), broadcast against mean."""
        return self.mean + self.std * noise


class MidAttention(nn.Module):
    """Single-head attention over all positions of the lowest level."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, channels, eps=1e-6)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        tokens = rearrange(self.norm(x), "b c h w -> b 1 (h w) c")
        mixed = F.scaled_dot_product_attention(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        return x + rearrange(self.to_out(mixed), "b 1 (h w) c -> b c h w", h=h, w=w)


class Mid(nn.Module):
    """Residual block, attention, residual block at the lowest level."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResBlock(channels, channels, groups, eps=1e-6) for _ in range(2)])
        self.attn = MidAttention(channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attn(self.resnets[0](x)))


class EncoderLevel(nn.Module):
    """Residual blocks of one resolution, then (except at the last level) downsampling to half the side."""

    def __init__(self, cin: int, cout: int, config: VAEConfig, last: bool) -> None:
        super().__init__()
        widths = [cin] + [cout] * config.layers_per_block
        pairs = zip(widths[:-1], widths[1:], strict=True)
        self.resnets = nn.ModuleList([ResBlock(a, b, config.norm_groups, eps=1e-6) for a, b in pairs])
        # The autoencoder pads only on the right and below, unlike the UNet (a convention of the checkpoints).
        self.downsample = None if last else Downsample(cout, padding=(0, 1, 0, 1))

    def forward(self, x: Tensor) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x)
        return x if self.downsample is None else self.downsample(x)


class DecoderLevel(nn.Module):
    """Residual blocks of one resolution, then (except at the last level) upsampling to twice the side."""

    def __init__(self, cin: int, cout: int, config: VAEConfig, last: bool) -> None:
        super().__init__()
        widths = [cin] + [cout] * (config.layers_per_block + 1)
        pairs = zip(widths[:-1], widths[1:], strict=True)
        self.resnets = nn.ModuleList([ResBlock(a, b, config.norm_groups, eps=1e-6) for a, b in pairs])
        self.upsample = None if last else Upsample(cout)

    def forward(self, x: Tensor) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x)
        return x if self.upsample is None else self.upsample(x)


class Encoder(nn.Module):
    """Picture [image 3 height width] -> posterior parameters [image 2*latent row col]."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = [config.channels[0], *config.channels]
        levels = len(config.channels)
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            [EncoderLevel(widths[i], widths[i + 1], config, last=i == levels - 1) for i in range(levels)]
        )
        self.mid = Mid(widths[-1], config.norm_groups)
        self.norm_out = GroupNorm(config.norm_groups, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Latents [image latent row col] -> picture [image 3 height width]."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = [config.channels[-1], *reversed(config.channels)]
        levels = len(config.channels)
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid = Mid(widths[0], config.norm_groups)
        self.up = nn.ModuleList(
            [DecoderLevel(widths[i], widths[i + 1], config, last=i == levels - 1) for i in range(levels)]
        )
        self.norm_out = GroupNorm(config.norm_groups, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], config.in_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in self.up:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class VAE(nn.Module):
    """Stable Diffusion's autoencoder. Latents that leave or enter it are VAE-scaled unless a docstring says otherwise."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        double = 2 * config.latent_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(double, double, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)
        self.tiled_above: int = TILED_ABOVE

    def is_tiled(self, height: int, width: int) -> bool:
        """Whether a picture of this size in pixels is computed in tiles, which keeps memory at that of one tile."""
        return max(height, width) > self.tiled_above

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.quant_conv.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' type, in which pictures and latents come in."""
        return self.quant_conv.weight.dtype

    def posterior(self, pixels: Tensor) -> Posterior:
        """The Gaussian over latents, NOT scaled.

        pixels: image 3 height width — in [-1, 1], sides multiples of config.factor. Where a side is longer than `tiled_above`: in tiles.
        Raises ValueError if the sides are not such multiples.
        """
        factor = self.config.factor
        if pixels.shape[-1] % factor or pixels.shape[-2] % factor:
            height, width = pixels.shape[-2:]
            raise ValueError(f"picture of {height}x{width} pixels: both sides must be multiples of {factor} for this VAE")
        mean, logvar = self._encoded(pixels).chunk(2, dim=1)
        # The clamp is from the original code; it keeps exp() finite for saturated pictures.
        return Posterior(mean, (0.5 * logvar.clamp(-30.0, 20.0)).exp())

    def encode(self, pixels: Tensor, noise: Tensor) -> Tensor:
        """Sampled latents, VAE-scaled. pixels: image 3 height width in [-1, 1]; noise: image 4 h w, N(0, 1)."""
        return self.posterior(pixels).sample(noise) * self.config.scaling_factor

    def decode(self, z: Tensor) -> Tensor:
        """Pixels [image 3 height width], about [-1, 1] (not clamped), from VAE-scaled latents z: image 4 h w.

        Where a side is longer than `tiled_above`: in tiles.
        """
        factor, z = self.config.factor, z / self.config.scaling_factor
        if self.is_tiled(factor * z.shape[-2], factor * z.shape[-1]):
            return in_tiles(self._decoded, z, unit=1, largest=self.tiled_above // factor, up=factor)
        return self._decoded(z)

    def _encoded(self, pixels: Tensor) -> Tensor:
        factor = self.config.factor
        if self.is_tiled(pixels.shape[-2], pixels.shape[-1]):
            return in_tiles(self._moments, pixels, unit=factor, largest=self.tiled_above // factor, down=factor)
        return self._moments(pixels)

    def _moments(self, pixels: Tensor) -> Tensor:
        """Mean and logarithm of the variance, joined on the channel axis."""
        return self.quant_conv(self.encoder(pixels))

    def _decoded(self, z: Tensor) -> Tensor:
        """z: NOT scaled."""
        return self.decoder(self.post_quant_conv(z))
