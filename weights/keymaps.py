"""Names on disk -> our names: ordered tables, and numbering that is read from the file's own topology.

Every function is pure: it takes names (without the prefix of their part) and gives our names for each. None: left out on purpose.
A name that no rule knows passes through unchanged and is then reported as extra by the strict comparison in strict.py.
Sources: diffusers' UNet2DConditionModel and AutoencoderKL; CompVis latent-diffusion (openaimodel.py, model.py); OpenCLIP;
transformers' CLIPTextModel.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Rule = tuple[str, str]  # regular expression, replacement; a table is applied from top to bottom


@dataclass(frozen=True)
class Target:
    """Where a tensor on disk goes. part: (index, count) of equal row blocks for stacked projections, else None."""

    name: str
    part: tuple[int, int] | None = None


INSIDE_ATTENTION: tuple[Rule, ...] = (  # the same names in diffusers' and LDM's UNet
    (r"\.transformer_blocks\.", ".blocks."),
    (r"(\.blocks\.\d+)\.attn1\.", r"\1.self."),
    (r"(\.blocks\.\d+)\.attn2\.", r"\1.cross."),
    (r"\.to_out\.0\.", ".to_out."),
    (r"\.ff\.net\.0\.proj\.", ".ff.proj_in."),
    (r"\.ff\.net\.2\.", ".ff.proj_out."),
)
UNET_DIFFUSERS: tuple[Rule, ...] = (
    (r"^conv_norm_out\.", "norm_out."),
    (r"^(down|up)_blocks\.(\d+)\.resnets\.", r"\1.\2.resnets."),
    (r"^(down|up)_blocks\.(\d+)\.attentions\.", r"\1.\2.attn."),
    (r"^down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample."),
    (r"^up_blocks\.(\d+)\.upsamplers\.0\.", r"up.\1.upsample."),
    (r"^mid_block\.resnets\.", "mid.resnets."),
    (r"^mid_block\.attentions\.", "mid.attn."),
    *INSIDE_ATTENTION,
)
UNET_LDM: tuple[Rule, ...] = (  # after ldm_blocks() has replaced block numbers by level and index
    (r"^time_embed\.0\.", "time_embedding.linear_1."),
    (r"^time_embed\.2\.", "time_embedding.linear_2."),
    (r"^out\.0\.", "norm_out."),
    (r"^out\.2\.", "conv_out."),
    (r"\.in_layers\.0\.", ".norm1."),
    (r"\.in_layers\.2\.", ".conv1."),
    (r"\.emb_layers\.1\.", ".time_emb_proj."),
    (r"\.out_layers\.0\.", ".norm2."),
    (r"\.out_layers\.3\.", ".conv2."),
    (r"\.skip_connection\.", ".conv_shortcut."),
    *INSIDE_ATTENTION,
)
VAE_ATTENTION: tuple[Rule, ...] = (  # current names, those of diffusers before 0.18, LDM's
    (r"\.mid\.attn\.group_norm\.", ".mid.attn.norm."),
    (r"\.mid\.attn\.(?:query|q)\.", ".mid.attn.to_q."),
    (r"\.mid\.attn\.(?:key|k)\.", ".mid.attn.to_k."),
    (r"\.mid\.attn\.(?:value|v)\.", ".mid.attn.to_v."),
    (r"\.mid\.attn\.(?:proj_attn|proj_out|to_out\.0)\.", ".mid.attn.to_out."),
)
VAE_DIFFUSERS: tuple[Rule, ...] = (
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"^encoder\.down_blocks\.(\d+)\.downsamplers\.0\.", r"encoder.down.\1.downsample."),
    (r"^encoder\.down_blocks\.", "encoder.down."),
    (r"^decoder\.up_blocks\.(\d+)\.upsamplers\.0\.", r"decoder.up.\1.upsample."),
    (r"^decoder\.up_blocks\.", "decoder.up."),
    (r"\.mid_block\.resnets\.", ".mid.resnets."),
    (r"\.mid_block\.attentions\.0\.", ".mid.attn."),
    *VAE_ATTENTION,
)
VAE_LDM: tuple[Rule, ...] = (  # decoder levels are counted from the last to run; vae_ldm() reverses them
    (r"^(encoder\.down|decoder\.up)\.(\d+)\.block\.", r"\1.\2.resnets."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.mid\.block_1\.", ".mid.resnets.0."),
    (r"\.mid\.block_2\.", ".mid.resnets.1."),
    (r"\.mid\.attn_1\.", ".mid.attn."),
    *VAE_ATTENTION,
)
TEXT_OPENCLIP: tuple[Rule, ...] = (
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
    (r"^token_embedding\.", "embeddings.token_embedding."),
    (r"^ln_final\.", "final_layer_norm."),
    (r"^transformer\.resblocks\.", "encoder.layers."),
    (r"\.ln_1\.", ".layer_norm1."),
    (r"\.ln_2\.", ".layer_norm2."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
)
IN_PROJ = re.compile(r"^(encoder\.layers\.\d+)\.attn\.in_proj_(weight|bias)$")
# Not parameters of the text encoder: position ids are always 0..76, whatever a merge stored; the rest belongs to CLIP's
# image encoder.
TEXT_UNUSED = re.compile(r"^(embeddings\.position_ids|text_projection(\.weight)?|logit_scale|attn_mask)$")
TEXT_LAYER = re.compile(r"^encoder\.layers\.(\d{1,4})\.")


def rename(name: str, table: Sequence[Rule]) -> str:
    """One name mapped by one table."""
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def _numbers(names: Iterable[str], pattern: str) -> list[int]:
    found = {int(match[1]) for match in (re.match(pattern, name) for name in names) if match}
    return sorted(found)


def ldm_blocks(names: Iterable[str]) -> dict[str, str]:
    """LDM's running block numbers -> level and index, read from the file's own topology.

    A level of input_blocks ends with its strided convolution (`op`), one of output_blocks with the block that holds an upsampling
    convolution. The index inside a level is the distance from its first block, so that a missing block does not shift the others.
    """
    names = set(names)
    blocks = {
        "input_blocks.0.0": "conv_in",
        "middle_block.0": "mid.resnets.0",
        "middle_block.1": "mid.attn.0",
        "middle_block.2": "mid.resnets.1",
    }
    level, first = 0, 1
    for number in _numbers(names, r"input_blocks\.(\d{1,4})\."):
        if number == 0:
            continue
        if f"input_blocks.{number}.0.op.weight" in names:
            blocks[f"input_blocks.{number}.0.op"] = f"down.{level}.downsample.conv"
            level, first = level + 1, number + 1
        else:
            blocks[f"input_blocks.{number}.0"] = f"down.{level}.resnets.{number - first}"
            blocks[f"input_blocks.{number}.1"] = f"down.{level}.attn.{number - first}"
    level, first = 0, 0
    for number in _numbers(names, r"output_blocks\.(\d{1,4})\."):
        blocks[f"output_blocks.{number}.0"] = f"up.{level}.resnets.{number - first}"
        last = 2 if f"output_blocks.{number}.2.conv.weight" in names else 1
        ends = f"output_blocks.{number}.{last}.conv.weight" in names
        if ends:
            blocks[f"output_blocks.{number}.{last}.conv"] = f"up.{level}.upsample.conv"
        if not ends or last == 2:
            blocks[f"output_blocks.{number}.1"] = f"up.{level}.attn.{number - first}"
        if ends:
            level, first = level + 1, number + 1
    return blocks


def unet_ldm(names: Iterable[str]) -> dict[str, list[Target]]:
    """LDM UNet names (from `input_blocks`, `time_embed`, ...) -> ours."""
    names = list(names)
    blocks = ldm_blocks(names)
    result = {}
    for name in names:
        pieces = name.split(".")
        # The longest matching block wins: `input_blocks.3.0.op` before `input_blocks.3.0`.
        for length in (4, 3, 2):
            block = ".".join(pieces[:length])
            if block in blocks and len(pieces) > length:
                name_with_block = ".".join([blocks[block], *pieces[length:]])
                break
        else:
            name_with_block = name
        result[name] = [Target(rename(name_with_block, UNET_LDM))]
    return result


def unet_diffusers(names: Iterable[str]) -> dict[str, list[Target]]:
    """diffusers UNet names -> ours."""
    return {name: [Target(rename(name, UNET_DIFFUSERS))] for name in names}


def vae_diffusers(names: Iterable[str]) -> dict[str, list[Target]]:
    """diffusers VAE names, current or deprecated -> ours."""
    return {name: [Target(rename(name, VAE_DIFFUSERS))] for name in names}


def vae_ldm(names: Iterable[str]) -> dict[str, list[Target]]:
    """LDM VAE names -> ours; `loss.*` (the discriminator of its training) is left out."""
    names = list(names)
    last = max(_numbers(names, r"decoder\.up\.(\d{1,4})\."), default=0)

    def turned(name: str) -> str:
        return re.sub(r"^decoder\.up\.(\d{1,4})\.", lambda match: f"decoder.up.{last - int(match[1])}.", name)

    return {name: [] if name.startswith("loss.") else [Target(rename(turned(name), VAE_LDM))] for name in names}


def text_clip(names: Iterable[str], layers: int | None = None, projection: bool = False) -> dict[str, list[Target]]:
    """transformers' CLIPTextModel names (from `embeddings`, `encoder`, ...) -> the same.

    layers: how many are kept (None: all). projection: keep text_projection, which SDXL's second encoder needs.
    """
    kept = {"text_projection.weight"} if projection else set()
    return {name: [Target(name)] if name in kept or not _unused(name, layers) else [] for name in names}


def text_openclip(names: Iterable[str], layers: int | None = None) -> dict[str, list[Target]]:
    """OpenCLIP text tower names -> transformers' CLIPTextModel; stacked q, k, v projections are split by rows. layers: as for
    text_clip.
    """
    result = {}
    for name in names:
        ours = rename(name, TEXT_OPENCLIP)
        if _unused(ours, layers):
            result[name] = []
        elif match := IN_PROJ.match(ours):
            result[name] = [Target(f"{match[1]}.self_attn.{x}_proj.{match[2]}", (i, 3)) for i, x in enumerate("qkv")]
        else:
            result[name] = [Target(ours)]
    return result


def _unused(name: str, layers: int | None) -> bool:
    layer = TEXT_LAYER.match(name)
    return bool(TEXT_UNUSED.match(name)) or (layers is not None and layer is not None and int(layer[1]) >= layers)


def ema_shadow(unet_name: str) -> str:
    """LDM's name of the moving average of a UNet parameter: its path below the model, with all dots deleted."""
    return "diffusion_model" + unet_name.replace(".", "")
