"""Small random networks with the real topology (16 transformer blocks, 32 sites), and taps that look; on the device of `--device`."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from analogist.models.attention import CrossAttention, SelfAttention
from analogist.models.control import At, AttentionControl
from analogist.models.placement import MAP_POINTS, Site
from analogist.models.unet import UNet, UNetConfig
from analogist.models.vae import VAE, VAEConfig
from tests.devices import device

TINY_UNET = UNetConfig(channels=(16, 24, 32, 32), heads=(2, 2, 4, 4), text_width=12, norm_groups=8)
TINY_VAE = VAEConfig(channels=(8, 8, 16, 16), norm_groups=4)


def randomise(module: nn.Module, seed: int = 0, sharpness: float = 1.0) -> nn.Module:
    """Fills every parameter from one seed so that activations stay of order one and no parameter is trivial.

    Weights N(0, 1 / fan_in), norms around 1, biases around 0. sharpness: further scale of query and key projections,
    so that attention maps are far from uniform and an edit of them is seen in the output.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise * parameter[0].numel() ** -0.5 * (sharpness if "to_q" in name or "to_k" in name else 1.0))
            elif name.endswith("weight"):
                parameter.copy_(1 + 0.2 * noise)
            else:
                parameter.copy_(0.2 * noise)
    return module.eval().requires_grad_(False)


def small_unet(config: UNetConfig = TINY_UNET, *, seed: int = 0, sharpness: float = 2.0, dtype: torch.dtype = torch.float32) -> UNet:
    """A UNet with random weights."""
    return randomise(UNet(config), seed, sharpness).to(device(), dtype)


def small_vae(config: VAEConfig = TINY_VAE, *, seed: int = 0) -> VAE:
    """A VAE with random weights."""
    return randomise(VAE(config), seed).to(device())


def unet_inputs(
    config: UNetConfig = TINY_UNET, *, batch: int = 2, hw: tuple[int, int] = (16, 16), tokens: int = 7, seed: int = 1
) -> tuple[Tensor, int, Tensor]:
    """x [batch 9 h w], t, text [batch token channel], random in all channels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, config.in_channels, *hw, generator=generator)
    return x.to(device()), 501, torch.randn(batch, tokens, config.text_width, generator=generator).to(device())


def self_module(channels: int = 16, heads: int = 2, *, layer: int = 5, seed: int = 3) -> SelfAttention:
    """A self-attention module alone, at the site of a layer inside the default placement."""
    module = randomise(SelfAttention(channels, heads, channels), seed, sharpness=2.0).to(device())
    module.site = Site("down.2.attn.1.self", "self", layer, 4, heads)
    return module


def cross_module(channels: int = 16, heads: int = 2, context: int = 12, *, layer: int = 5, seed: int = 4) -> CrossAttention:
    """A cross-attention module alone, at the site of a layer inside the default placement."""
    module = randomise(CrossAttention(channels, heads, context), seed, sharpness=2.0).to(device())
    module.site = Site("down.2.attn.1.cross", "cross", layer, 4, heads)
    return module


def tokens(hw: tuple[int, int], *, batch: int = 2, channels: int = 16, seed: int = 5) -> Tensor:
    """Random tokens of a feature map: batch token channel."""
    return torch.randn(batch, hw[0] * hw[1], channels, generator=torch.Generator().manual_seed(seed)).to(device())


@dataclass
class Looking:
    """A tap that copies what it sees, at the points named (None: every point), and changes nothing."""

    points: tuple[str, ...] | None = None
    sites: tuple[str, ...] | None = None
    together: bool = True  # whether map points must come with all heads at once
    seen: dict[str, Tensor] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    places: list[At] = field(default_factory=list)

    def wants(self, site: Site, point: str, step: int) -> bool:
        return (self.points is None or point in self.points) and (self.sites is None or site.name in self.sites)

    def whole(self, site: Site, step: int) -> bool:
        return self.together

    def __call__(self, tensor: Tensor, at: At) -> Tensor:
        key = f"{at.site}:{at.point}"
        self.order.append(at.point)
        self.places.append(at)
        copy = tensor.detach().clone()
        if at.point in MAP_POINTS and key in self.seen:  # a further slice of heads
            copy = torch.cat([self.seen[key], copy], dim=1)
        self.seen[key] = copy
        return tensor

    def at(self, site: Site, point: str) -> Tensor:
        """What was seen at one point of one site."""
        return self.seen[f"{site}:{point}"]


def watch(module: SelfAttention | CrossAttention, x: Tensor, hw: tuple[int, int], text: Tensor | None = None, **settings):
    """Runs one module in the explicit form and returns (output, what was seen at each point)."""
    look = Looking()
    control = AttentionControl(images=x.shape[0] // settings.get("branches", 2), tap=look, **settings)
    out = module(x, hw, control) if text is None else module(x, module.keys_values(text), hw, control)
    return out, {key.rpartition(":")[2]: tensor for key, tensor in look.seen.items()}


def relative(ours: Tensor, theirs: Tensor) -> float:
    """||ours - theirs|| / ||theirs||, in float64."""
    ours, theirs = ours.cpu().double(), theirs.cpu().double()
    return ((ours - theirs).norm() / theirs.norm()).item()
