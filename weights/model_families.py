"""What a set of tensors is, from shapes alone: the sizes of UNet, VAE and text encoder, and their family.

What shapes do not determine (heads, norm groups, activation, scaling factor) is filled in from the published families; configs.py
overrides it.
Place in the flow: after parts.py has put the tensors under our names.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import WeightsError
from .parts import Group, Piece, Split, is_lora

SD15, SD2, SDXL = "sd15", "sd2", "sdxl"
LABELS = {SD15: "Stable Diffusion 1.x", SD2: "Stable Diffusion 2.x", SDXL: "Stable Diffusion XL"}
TEXT_WIDTHS = {768: SD15, 1024: SD2, 2048: SDXL}
NORM_GROUPS = 32
ADDED = "add_embedding.linear_1.weight"  # only SDXL's UNet has it
SCALING_FACTOR = 0.18215
HEAD_WIDTH = 64  # SD 2's UNet, and every published CLIP text encoder
END_TOKEN = 49407
SCALING_FACTORS = {SDXL: 0.13025}  # others: SCALING_FACTOR
# Published scheduler values, the same for SD 1.x and 2.x.
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "prediction_type": "epsilon",
}


@dataclass(frozen=True)
class Family:
    """name: sd15-inpainting, sd2-inpainting, sdxl-inpainting, sd15, ..., "unknown". base: sd15, sd2, sdxl or None. text: what
    it is, in words.
    """

    name: str
    base: str | None
    text: str


def _indices(pieces: Mapping[str, Piece], pattern: str) -> list[int]:
    return sorted({int(match[1]) for match in (re.match(pattern, name) for name in pieces) if match})


def _side(pieces: Mapping[str, Piece], name: str, axis: int, part: str) -> int:
    shape = pieces[name].shape if name in pieces else None
    if shape is None or len(shape) <= axis or not shape[axis]:
        held = "is missing" if shape is None else f"has the shape {list(shape)}"
        raise WeightsError(f"the {part} is incomplete: {name} {held}, so its sizes cannot be determined from the tensor shapes")
    return shape[axis]


def unet_geometry(pieces: Mapping[str, Piece]) -> dict[str, Any]:
    """in_channels, out_channels, channels, layers_per_block, depth, mid_depth, text_width, and SDXL's added_width (pooled text and
    sizes) from tensors in our names.

    Raises WeightsError if a tensor that determines one of them is missing.
    """
    levels = _indices(pieces, r"down\.(\d{1,4})\.resnets\.")
    blocks = _indices(pieces, r"down\.\d{1,4}\.resnets\.(\d{1,4})\.")
    cross = [name for name in pieces if name.endswith(".cross.to_k.weight")]
    if not levels or not cross:
        raise WeightsError("the UNet is incomplete: it has no residual blocks or no cross-attention")
    return {
        "in_channels": _side(pieces, "conv_in.weight", 1, "UNet"),
        "out_channels": _side(pieces, "conv_out.weight", 0, "UNet"),
        "channels": tuple(_side(pieces, f"down.{level}.resnets.0.conv1.weight", 0, "UNet") for level in levels),
        "layers_per_block": len(blocks),
        "depth": tuple(len(_indices(pieces, rf"down\.{level}\.attn\.\d+\.blocks\.(\d{{1,4}})\.")) for level in levels),
        "mid_depth": len(_indices(pieces, r"mid\.attn\.\d+\.blocks\.(\d{1,4})\.")),
        "text_width": _side(pieces, cross[0], 1, "UNet"),
        **({"added_width": pieces[ADDED].shape[-1]} if ADDED in pieces else {}),
    }


def vae_geometry(pieces: Mapping[str, Piece]) -> dict[str, Any]:
    """in_channels, latent_channels, channels, layers_per_block from tensors in our names. Raises WeightsError as
    unet_geometry.
    """
    levels = _indices(pieces, r"encoder\.down\.(\d{1,4})\.resnets\.")
    return {
        "in_channels": _side(pieces, "encoder.conv_in.weight", 1, "VAE"),
        "latent_channels": _side(pieces, "decoder.conv_in.weight", 1, "VAE"),
        "channels": tuple(_side(pieces, f"encoder.down.{level}.resnets.0.conv1.weight", 0, "VAE") for level in levels),
        "layers_per_block": len(_indices(pieces, r"encoder\.down\.\d{1,4}\.resnets\.(\d{1,4})\.")),
    }


def text_geometry(pieces: Mapping[str, Piece]) -> dict[str, int]:
    """CLIPTextConfig's sizes from tensors in transformers' names. Raises WeightsError as unet_geometry."""
    embedding, first = "embeddings.token_embedding.weight", "encoder.layers.0.mlp.fc1.weight"
    projection = pieces.get("text_projection.weight")
    return {
        **({} if projection is None else {"projection_dim": projection.shape[0]}),
        "vocab_size": _side(pieces, embedding, 0, "text encoder"),
        "hidden_size": _side(pieces, embedding, 1, "text encoder"),
        "intermediate_size": _side(pieces, first, 0, "text encoder"),
        "num_hidden_layers": len(_indices(pieces, r"encoder\.layers\.(\d{1,4})\.")),
        "max_position_embeddings": _side(pieces, "embeddings.position_embedding.weight", 0, "text encoder"),
    }


def unet_family(pieces: Mapping[str, Piece], text: Group | None) -> Family:
    """The family of a UNet in our names. text: the text encoder beside it, which decides if the UNet's width is not a published one."""
    geometry = unet_geometry(pieces)
    width, channels = geometry["text_width"], geometry["in_channels"]
    convolved = any(name.endswith(".proj_in.weight") and len(piece.shape) == 4 for name, piece in pieces.items())
    extra = any(name.startswith(("add_embedding.", "label_emb.")) for name in pieces)
    base = SDXL if extra else TEXT_WIDTHS.get(width)
    if base is None:
        # Small models: around attention, SD 1 has 1x1 convolutions and SD 2 has linear layers; SD 1 has no OpenCLIP text encoder.
        openclip = text is not None and text.layout == "openclip"
        base = SD15 if convolved and not openclip else SD2
    if channels == 9:
        return Family(f"{base}-inpainting", base, f"{LABELS[base]} inpainting")
    kind = {4: "text to image", 8: "image editing (InstructPix2Pix)", 5: "depth-guided", 7: "upscaling"}.get(channels, "of unknown use")
    return Family(base, base, f"{LABELS[base]} with {channels} input channels, {kind}: not an inpainting checkpoint (those have 9)")


def guess(split: Split, names: list[str]) -> Family:
    """The kind of a file without a usable UNet."""
    if is_lora(names):
        return Family("lora", None, "a LoRA: additions to a checkpoint, not a checkpoint; merge it into an inpainting checkpoint first")
    if "tensors of a ControlNet" in split.ignored:
        return Family("controlnet", None, "a ControlNet: an addition to a checkpoint, not a checkpoint")
    kinds = {group.kind for group in split.groups}
    if kinds == {"vae"}:
        return Family("vae", None, "a VAE alone; it can be given as vae= beside a checkpoint")
    if kinds == {"text"}:
        return Family("text-encoder", None, "a text encoder alone")
    if kinds == {"vae", "text"}:
        return Family("unknown", None, "a VAE and a text encoder without a UNet")
    if any(re.search(r"(^|\.)(double_blocks|single_transformer_blocks|joint_blocks|transformer_blocks)\.\d", name) for name in names):
        return Family("transformer", None, "a diffusion transformer (such as SD 3 or Flux), which has no UNet")
    if len(names) <= 2 and any("emb" in name or "clip" in name or name == "*" for name in names):
        return Family("textual-inversion", None, "a textual inversion: one word's embedding, not a checkpoint")
    shown = ", ".join(names[:3]) if names else "no tensors at all"
    return Family("unknown", None, f"not a Stable Diffusion checkpoint, judging by its names ({shown})")


def unet_heads(base: str, channels: tuple[int, ...]) -> tuple[int, ...]:
    """Number of heads per level if no config says it. Raises WeightsError if the family's rule does not divide the channels."""
    if base == SD15:
        heads, rule = tuple(8 for _ in channels), "8 heads at every level"
        fits = all(c % 8 == 0 for c in channels)
    else:
        heads, rule = tuple(c // HEAD_WIDTH for c in channels), f"heads of width {HEAD_WIDTH}"
        fits = all(c % HEAD_WIDTH == 0 for c in channels)
    if not fits:
        raise WeightsError(
            "the number of attention heads cannot be determined from the tensor shapes, and "
            f"{LABELS[base]}'s rule ({rule}) does not divide the UNet's channels {list(channels)}; give it with config= (a folder, JSON "
            "file or dict with unet.attention_head_dim)"
        )
    return heads


def text_heads(width: int) -> int:
    """Number of heads of a text encoder if no config says it. Raises WeightsError unless the width is a multiple of 64."""
    if width % HEAD_WIDTH:
        raise WeightsError(
            "the text encoder's number of heads cannot be determined from the tensor shapes, and its width "
            f"{width} is not a multiple of {HEAD_WIDTH}; give it with config= (a folder, JSON file or dict with "
            "text_encoder.num_attention_heads)"
        )
    return width // HEAD_WIDTH
