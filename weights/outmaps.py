"""Our names -> names on disk: the inverse of keymaps.py, for writing checkpoints that other tools read.

Every function is pure and takes one of our names. Sources: as keymaps.py.
"""

import re
from collections.abc import Sequence

from .keymaps import Rule, rename

INSIDE_ATTENTION: tuple[Rule, ...] = (  # the same names in diffusers' and LDM's UNet
    (r"\.blocks\.(\d+)\.", r".transformer_blocks.\1."),
    (r"(\.transformer_blocks\.\d+)\.self\.", r"\1.attn1."),
    (r"(\.transformer_blocks\.\d+)\.cross\.", r"\1.attn2."),
    (r"\.to_out\.", ".to_out.0."),
    (r"\.ff\.proj_in\.", ".ff.net.0.proj."),
    (r"\.ff\.proj_out\.", ".ff.net.2."),
)
UNET_DIFFUSERS: tuple[Rule, ...] = (
    (r"^norm_out\.", "conv_norm_out."),
    (r"^down\.(\d+)\.downsample\.", r"down_blocks.\1.downsamplers.0."),
    (r"^up\.(\d+)\.upsample\.", r"up_blocks.\1.upsamplers.0."),
    (r"^(down|up)\.(\d+)\.resnets\.", r"\1_blocks.\2.resnets."),
    (r"^(down|up)\.(\d+)\.attn\.", r"\1_blocks.\2.attentions."),
    (r"^mid\.resnets\.", "mid_block.resnets."),
    (r"^mid\.attn\.", "mid_block.attentions."),
    *INSIDE_ATTENTION,
)
UNET_LDM: tuple[Rule, ...] = (  # after the blocks were numbered
    (r"^time_embedding\.linear_1\.", "time_embed.0."),
    (r"^time_embedding\.linear_2\.", "time_embed.2."),
    (r"^norm_out\.", "out.0."),
    (r"^conv_out\.", "out.2."),
    (r"^conv_in\.", "input_blocks.0.0."),
    (r"^(\w+_blocks?\.[\d.]+)\.norm1\.", r"\1.in_layers.0."),
    (r"^(\w+_blocks?\.[\d.]+)\.conv1\.", r"\1.in_layers.2."),
    (r"^(\w+_blocks?\.[\d.]+)\.time_emb_proj\.", r"\1.emb_layers.1."),
    (r"^(\w+_blocks?\.[\d.]+)\.norm2\.", r"\1.out_layers.0."),
    (r"^(\w+_blocks?\.[\d.]+)\.conv2\.", r"\1.out_layers.3."),
    (r"^(\w+_blocks?\.[\d.]+)\.conv_shortcut\.", r"\1.skip_connection."),
    *INSIDE_ATTENTION,
)
VAE_DIFFUSERS: tuple[Rule, ...] = (
    (r"^encoder\.down\.(\d+)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0."),
    (r"^encoder\.down\.", "encoder.down_blocks."),
    (r"^decoder\.up\.(\d+)\.upsample\.", r"decoder.up_blocks.\1.upsamplers.0."),
    (r"^decoder\.up\.", "decoder.up_blocks."),
    (r"\.mid\.resnets\.", ".mid_block.resnets."),
    (r"\.mid\.attn\.norm\.", ".mid_block.attentions.0.group_norm."),
    (r"\.mid\.attn\.to_out\.", ".mid_block.attentions.0.to_out.0."),
    (r"\.mid\.attn\.", ".mid_block.attentions.0."),
    (r"^(encoder|decoder)\.norm_out\.", r"\1.conv_norm_out."),
)
VAE_LDM: tuple[Rule, ...] = (  # after decoder levels were counted from the last to run
    (r"^(encoder\.down|decoder\.up)\.(\d+)\.resnets\.", r"\1.\2.block."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.mid\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid\.resnets\.1\.", ".mid.block_2."),
    (r"\.mid\.attn\.norm\.", ".mid.attn_1.norm."),
    (r"\.mid\.attn\.to_([qkv])\.", r".mid.attn_1.\1."),
    (r"\.mid\.attn\.to_out\.", ".mid.attn_1.proj_out."),
)
TEXT_OPENCLIP: tuple[Rule, ...] = (
    (r"^embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^embeddings\.token_embedding\.", "token_embedding."),
    (r"^final_layer_norm\.", "ln_final."),
    (r"^encoder\.layers\.", "transformer.resblocks."),
    (r"\.layer_norm1\.", ".ln_1."),
    (r"\.layer_norm2\.", ".ln_2."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.self_attn\.[qkv]_proj\.(weight|bias)$", r".attn.in_proj_\1"),
)
# The 1x1 convolutions of LDM's VAE attention, linear layers in diffusers' form.
VAE_ATTENTION = re.compile(r"\.mid\.attn\.to_(?:q|k|v|out)\.weight$")


def unet_to_diffusers(name: str) -> str:
    """A UNet parameter in diffusers' names."""
    return rename(name, UNET_DIFFUSERS)


def unet_to_ldm(name: str, layers_per_block: int, depth: Sequence[int]) -> str:
    """A UNet parameter in LDM's names, whose blocks are numbered in running order. depth: transformer blocks per attention, by level."""
    stride = layers_per_block + 1
    match = re.match(r"^(down|up|mid)\.(?:(\d+)\.)?(resnets|attn|downsample|upsample)\.(?:(\d+)\.)?", name)
    if match:
        side, level, kind, index = match[1], int(match[2] or 0), match[3], int(match[4] or 0)
        rest = name[match.end() :]
        if side == "mid":
            block = {("resnets", 0): "0", ("attn", 0): "1", ("resnets", 1): "2"}[kind, index]
            name = f"middle_block.{block}.{rest}"
        elif kind == "downsample":
            name = f"input_blocks.{(level + 1) * stride}.0.{rest.replace('conv.', 'op.', 1)}"
        elif kind == "upsample":
            attends = depth[len(depth) - 1 - level] > 0
            name = f"output_blocks.{level * stride + layers_per_block}.{2 if attends else 1}.{rest}"
        else:
            number = level * stride + index + (1 if side == "down" else 0)
            blocks = "input_blocks" if side == "down" else "output_blocks"
            name = f"{blocks}.{number}.{0 if kind == 'resnets' else 1}.{rest}"
    return rename(name, UNET_LDM)


def vae_to_diffusers(name: str) -> str:
    """A VAE parameter in diffusers' current names."""
    return rename(name, VAE_DIFFUSERS)


def vae_to_ldm(name: str, levels: int) -> str:
    """A VAE parameter in LDM's names."""
    turned = re.sub(r"^decoder\.up\.(\d+)\.", lambda match: f"decoder.up.{levels - 1 - int(match[1])}.", name)
    return rename(turned, VAE_LDM)


def text_to_openclip(name: str) -> str:
    """A text encoder parameter in OpenCLIP's names; q, k and v of a layer share one."""
    return rename(name, TEXT_OPENCLIP)
