"""Networks of published shapes with random weights made on the device, ours and diffusers' over the same tensors, and what they read."""

import torch
from torch import Tensor, nn

from analogist.models.memory_layout import channels_last
from analogist.models.text import EncodedText, PooledText
from analogist.models.unet import UNet, UNetConfig
from analogist.weights.keymaps import unet_diffusers

T, TOKENS = 501, 77
SHAPES = {
    "SD 1.5": UNetConfig(),
    "SD 2": UNetConfig(heads=(5, 10, 20, 20), text_width=1024),
    "SDXL": UNetConfig(channels=(320, 640, 1280), depth=(0, 2, 10), mid_depth=10, heads=(5, 10, 20), text_width=2048, pooled_width=1280),
}
TINY = UNetConfig(channels=(16, 24, 32, 32), heads=(2, 2, 4, 4), text_width=12, norm_groups=8)
TINY_SDXL = UNetConfig(
    channels=(16, 24, 32), depth=(0, 1, 2), mid_depth=2, heads=(2, 2, 4), text_width=12, norm_groups=8, pooled_width=10, size_width=4
)


def tiny(shape: str) -> UNetConfig:
    """A small network of a shape's topology."""
    return TINY_SDXL if shape == "SDXL" else TINY


def random_unet(config: UNetConfig, device: torch.device, dtype: torch.dtype) -> UNet:
    """Random weights of sensible scale, made on the device."""
    with torch.device("meta"):
        unet = UNet(config)
    unet = unet.to(dtype).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if parameter.ndim > 1:
                parameter.uniform_(-1, 1, generator=generator).mul_((3 / parameter[0].numel()) ** 0.5)
            else:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    return unet.eval().requires_grad_(False)


def in_channels_last(unet: UNet) -> UNet:
    """A second UNet of the same tensors, convolutions with their channels last; these alone are copied."""
    with torch.device("meta"):
        other = UNet(unet.config)
    other.load_state_dict(unet.state_dict(), assign=True)
    channels_last(other)
    return other.eval().requires_grad_(False)


def as_diffusers(unet: UNet, *, whole_maps: bool = False) -> nn.Module:
    """diffusers' UNet over the same tensors, none copied."""
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import AttnProcessor

    c = unet.config
    more = {}
    if c.pooled_width:
        kinds = ["CrossAttn" if depth else "" for depth in c.depth]
        more = {
            "down_block_types": [f"{kind}DownBlock2D" for kind in kinds],
            "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
            "transformer_layers_per_block": [max(depth, 1) for depth in c.depth], "addition_embed_type": "text_time",
            "addition_time_embed_dim": c.size_width, "projection_class_embeddings_input_dim": c.pooled_width + 6 * c.size_width,
            "use_linear_projection": True,
        }  # fmt: skip
    with torch.device("meta"):
        theirs = UNet2DConditionModel(
            in_channels=c.in_channels, block_out_channels=c.channels, attention_head_dim=c.heads, cross_attention_dim=c.text_width,
            norm_num_groups=c.norm_groups, **more,
        )  # fmt: skip
    ours, like = unet.state_dict(), theirs.state_dict()
    named = {name: ours[targets[0].name].view(like[name].shape) for name, targets in unet_diffusers(like).items()}
    theirs.load_state_dict(named, assign=True)
    if whole_maps:
        theirs.set_attn_processor(AttnProcessor())
    return theirs.eval().requires_grad_(False)


def guided_inputs(
    config: UNetConfig, side: int, images: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, EncodedText]:
    """Latents and text of a guided call: rows (branch image). side: of the latent."""
    generator = torch.Generator(device).manual_seed(1)
    rows = 2 * images

    def draw(*shape: int) -> Tensor:
        return torch.randn(rows, *shape, generator=generator, device=device).to(dtype)

    x, text = draw(9, side, side), draw(TOKENS, config.text_width)
    return x, PooledText(text, draw(config.pooled_width)).of_size(8 * side, 8 * side) if config.pooled_width else text


def read_by_diffusers(text: EncodedText) -> dict:
    """What diffusers' UNet is given of a text."""
    if not isinstance(text, PooledText):
        return {"encoder_hidden_states": text}
    return {"encoder_hidden_states": text.tokens, "added_cond_kwargs": {"text_embeds": text.pooled, "time_ids": text.sizes}}


def step_flop(config: UNetConfig, side: int, images: int) -> int:
    """Operations of one guided call without SAC and CAM, counted on the meta device: products and convolutions, two for each pair."""
    from torch.utils.flop_counter import FlopCounterMode

    from analogist.models.control import AttentionControl

    meta = torch.device("meta")
    with meta:
        unet = UNet(config)
        x, text = torch.empty(2 * images, 9, side, side), torch.empty(2 * images, TOKENS, config.text_width)
        if config.pooled_width:
            text = PooledText(text, torch.empty(2 * images, config.pooled_width)).of_size(8 * side, 8 * side)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            unet(x, T, text, AttentionControl(t=T, images=images, attention="explicit", map_bytes=2**62))
    return counter.get_total_flops()
