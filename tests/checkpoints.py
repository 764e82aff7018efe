"""Checkpoints for tests, written to disk: small ones in every layout that is met, and full-size ones of random weights.

The name maps are the golden lists of published files (tests/golden), not the product's own tables.
"""

import functools
import gzip
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

PARITY = Path(__file__).parent / "parity"
STEMS = {"unet": "unet/diffusion_pytorch_model", "vae": "vae/diffusion_pytorch_model", "text": "text_encoder/model"}
CONFIGS = {"unet": "unet/config.json", "vae": "vae/config.json", "text": "text_encoder/config.json"}
Parts = dict[str, dict[str, Tensor]]


@functools.cache
def golden() -> dict:
    """The golden lists; see tests/golden/README.md."""
    return json.loads(gzip.decompress((Path(__file__).parent / "golden" / "manifests.json.gz").read_bytes()))


def small_configs(family: str) -> dict[str, dict]:
    """The published configs with channels made small; same topology, therefore the same names."""
    configs = {part: dict(golden()[family]["configs"][file]) for part, file in CONFIGS.items()}
    heads = 8 if family == "sd15" else [1, 2, 4, 4]
    configs["unet"] |= {"block_out_channels": [32, 64, 128, 128], "cross_attention_dim": 24, "attention_head_dim": heads}
    configs["unet"] |= {"norm_num_groups": 16}
    configs["vae"] |= {"block_out_channels": [16, 32, 64, 64], "norm_num_groups": 8}
    configs["text"] |= {"hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 3, "num_hidden_layers": 3, "vocab_size": 640}
    return configs


def reference(part: str, config: dict) -> torch.nn.Module:
    """The part as diffusers or transformers builds it from a config, with their own random weights."""
    if part == "text":
        from transformers import CLIPTextConfig, CLIPTextModel

        known = {name: value for name, value in config.items() if name not in ("architectures", "model_type", "torch_dtype")}
        return CLIPTextModel(CLIPTextConfig(**known)).eval()
    from diffusers import AutoencoderKL, UNet2DConditionModel

    model = UNet2DConditionModel if part == "unet" else AutoencoderKL
    return model.from_config({name: value for name, value in config.items() if not name.startswith("_")}).eval()


@functools.cache
def small(family: str) -> Parts:
    """A small model of a family, tensors by part under the names of a published folder (text with `text_model.`)."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        parts = {part: reference(part, config).state_dict() for part, config in small_configs(family).items()}
        for tensors in parts.values():
            for name, tensor in tensors.items():  # norms and biases start as ones and zeros, which would hide a mix-up
                tensors[name] = tensor + 0.02 * torch.randn_like(tensor)
    parts["text"] = {"text_model." + name: tensor for name, tensor in parts["text"].items()}
    return parts


def single_file(family: str, parts: Parts) -> dict[str, Tensor]:
    """The same tensors under the names and in the shapes of a published single file, schedule and EMA scalars included."""
    names = golden()[family]["ldm_names"]
    out: dict[str, Tensor] = {}
    for part in ("unet", "vae"):
        for name, tensor in parts[part].items():
            convolution = part == "vae" and ".attentions." in name and tensor.ndim == 2
            out[names[part][name]] = tensor[:, :, None, None].clone() if convolution else tensor.clone()
    stacked: dict[str, list[tuple[str, Tensor]]] = {}
    for name, tensor in parts["text"].items():
        goal = names["text"][name]
        if ".in_proj_" in goal:
            stacked.setdefault(goal, []).append((name, tensor))
        else:
            out[goal] = tensor.clone()
    for goal, pieces in stacked.items():
        ordered = sorted(pieces, key=lambda piece: "qkv".index(piece[0].split("self_attn.")[1][0]))
        out[goal] = torch.cat([tensor for _, tensor in ordered])
    if family == "sd2":
        out |= _rest_of_openclip(out)
    for name, (dtype, *shape) in golden()[family]["single"].items():
        if "." not in name or name.startswith("model_ema."):
            out[name] = torch.ones(shape, dtype=torch.int32 if dtype == "I32" else torch.float32)
    if family == "sd15":
        out["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    return out


def _rest_of_openclip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tower's last block, its projection and its temperature, which a published file holds and SD 2 does not run."""
    stem = "cond_stage_model.model."
    blocks = [int(name.split("resblocks.")[1].split(".")[0]) for name in tensors if "resblocks." in name]
    last, width = max(blocks), tensors[stem + "ln_final.weight"].shape[0]
    copied = {
        name.replace(f"resblocks.{last}.", f"resblocks.{last + 1}."): torch.randn_like(tensor)
        for name, tensor in tensors.items()
        if f"resblocks.{last}." in name
    }
    return copied | {stem + "text_projection": torch.randn(width, width), stem + "logit_scale": torch.tensor(4.6)}


def write_single(path: Path, family: str, parts: Parts | None = None, dtype: torch.dtype = torch.float32) -> Path:
    """A small single file."""
    tensors = single_file(family, small(family) if parts is None else parts)
    save_file({name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}, path)
    return path


def write_folder(folder: Path, family: str, parts: Parts | None = None, *, variant: str | None = None, configs: bool = True) -> Path:
    """A small diffusers folder with its configs; variant: "fp16" in the file names and on disk."""
    for part, tensors in (small(family) if parts is None else parts).items():
        file = folder / (STEMS[part] + (".safetensors" if variant is None else f".{variant}.safetensors"))
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: (tensor.half() if variant == "fp16" else tensor).contiguous() for name, tensor in tensors.items()}, file)
    if configs:
        write_configs(folder, family, small_configs(family))
    return folder


def write_configs(folder: Path, family: str, configs: dict[str, dict]) -> None:
    """model_index.json, the scheduler's config and those of the parts."""
    files = {name: golden()[family]["configs"][name] for name in ("model_index.json", "scheduler/scheduler_config.json")}
    for name, config in {**files, **{CONFIGS[part]: config for part, config in configs.items()}}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(config))


def write_parity_single(path: Path) -> Path:
    """tests/parity/checkpoint as one file in LDM layout; lies alone, so give config=PARITY / "checkpoint" with it."""
    folder, names = PARITY / "checkpoint", golden()["sd15"]["ldm_names"]
    out = {}
    for part, stem in STEMS.items():
        for name, tensor in load_file(folder / f"{stem}.safetensors").items():
            convolution = part == "vae" and ".attentions." in name and tensor.ndim == 2
            out[names[part][name]] = tensor[:, :, None, None].clone() if convolution else tensor
    save_file(out, path)
    return path


def scale_of(name: str, shape: list[int]) -> tuple[float, float]:
    """Mean and deviation under which activations of a random model stay finite: norms 1, biases 0, weights fan_in**-0.5."""
    if len(shape) <= 1:
        return (1.0, 0.0) if name.endswith("weight") else (0.0, 0.0)
    if "embedding" in name and "time_embedding" not in name:
        return 0.0, 0.02
    fan_in = 1
    for side in shape[1:]:
        fan_in *= side
    return 0.0, fan_in**-0.5


def stream(path: Path, entries: dict[str, list], dtype: str = "F16") -> None:
    """Write random weights for [type, *shape] entries without ever holding the model; float tensors get `dtype`."""
    kinds = {"F16": torch.float16, "F32": torch.float32, "BF16": torch.bfloat16}
    header, offset = {}, 0
    for name, (stored, *shape) in entries.items():
        kept = dtype if stored.startswith("F") else stored
        size = torch.Size(shape).numel() * {"F16": 2, "BF16": 2, "F32": 4, "I32": 4, "I64": 8}[kept]
        header[name] = {"dtype": kept, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    normal = torch.randn(4_000_037, generator=torch.Generator().manual_seed(0))  # repeated: its length divides no tensor's rows
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, entry in header.items():
            count = torch.Size(entry["shape"]).numel()
            if entry["dtype"].startswith("I"):
                file.write(torch.arange(count, dtype=torch.int64 if entry["dtype"] == "I64" else torch.int32).numpy().tobytes())
                continue
            mean, deviation = scale_of(name, entry["shape"])
            block = (normal[:count] * deviation + mean).to(kinds[entry["dtype"]]).view(torch.uint8)
            width = kinds[entry["dtype"]].itemsize
            for first in range(0, count, normal.numel()):
                file.write(memoryview(block[: min(count - first, normal.numel()) * width].numpy()))


def write_full_size(folder: Path, family: str = "sd15", layout: str = "single", dtype: str = "F16") -> Path:
    """A checkpoint of published size and names with random weights: FOLDER/model.safetensors, or FOLDER itself in diffusers layout.

    layout: "single" or "folder". About 2.1 GB (SD 1.5, F16) to 5.2 GB (SD 2, F32); the caller deletes it.
    """
    entries = golden()[family]
    if layout == "single":
        path = folder / "model.safetensors"
        stream(path, entries["single"], dtype)
        return path
    for part, stem in STEMS.items():
        stream(folder / f"{stem}.safetensors", entries["folder"][part], dtype)
    write_configs(folder, family, {part: entries["configs"][file] for part, file in CONFIGS.items()})
    return folder


def remove(path: Path) -> None:
    """Delete a checkpoint written here, file or folder."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
