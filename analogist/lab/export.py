"""Writes a trained lab checkpoint as a folder in diffusers' layout, in float16, with the project's own settings beside it.

The folder loads in `Analogist.from_checkpoint` and in diffusers' StableDiffusionInpaintPipeline.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from analogist.config import AnalogistConfig
from analogist.weights import outmaps

from .mixture import watched_grids
from .recipe import Recipe, from_json
from .state import TrainingError, load_state, prepare_folder, replace_file
from .unet_task import load_vae
from .words import text_encoder, tokenizer, vocabulary_and_merges

# Stable Diffusion 1.5's noise schedule; the method samples with DDIM. Its times are trailing: a run starts at time 999, pure noise,
# where leading spacing would take the noise for the picture of time 901 (Lin et al. 2024, Sec. 3.3).
_SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "trailing",
}


def unet_to_diffusers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our UNet's tensors under diffusers' names; projections into and out of transformers become 1x1 convolutions, as in SD 1.5."""
    renamed = {outmaps.unet_to_diffusers(name): tensor for name, tensor in tensors.items()}
    projection = re.compile(r"\.attentions\.\d+\.proj_(in|out)\.weight$")
    return {n: t[:, :, None, None] if projection.search(n) else t for n, t in renamed.items()}


def vae_to_diffusers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our VAE's tensors under diffusers' names."""
    return {outmaps.vae_to_diffusers(name): tensor for name, tensor in tensors.items()}


def unet_json(recipe: Recipe) -> dict:
    """config.json of the UNet, as diffusers writes it."""
    c = recipe.unet
    with_attention = [depth > 0 for depth in c.depth]
    return {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": list(c.heads),  # despite its name, the number of heads
        "block_out_channels": list(c.channels),
        "center_input_sample": False,
        "cross_attention_dim": c.text_width,
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in with_attention],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": c.in_channels,
        "layers_per_block": c.layers_per_block,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": c.norm_groups,
        "out_channels": c.out_channels,
        "sample_size": recipe.size // recipe.vae.factor,
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(with_attention)],
    }


def vae_json(recipe: Recipe, scaling_factor: float) -> dict:
    """config.json of the VAE, as diffusers writes it."""
    c = recipe.vae
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": list(c.channels),
        "down_block_types": ["DownEncoderBlock2D"] * len(c.channels),
        "in_channels": c.in_channels,
        "latent_channels": c.latent_channels,
        "layers_per_block": c.layers_per_block,
        "norm_num_groups": c.norm_groups,
        "out_channels": c.in_channels,
        "sample_size": recipe.size,
        "scaling_factor": scaling_factor,
        "up_block_types": ["UpDecoderBlock2D"] * len(c.channels),
    }


def _write_json(path: Path, data: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda temporary: temporary.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8"))


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    half = {name: t.detach().cpu().to(torch.float16).contiguous() for name, t in tensors.items()}
    broken = [name for name, t in half.items() if not torch.isfinite(t).all()]
    if broken:
        raise TrainingError(f"export: {broken[0]} does not fit into float16 or is not finite; the training has diverged")
    replace_file(path, lambda temporary: save_file(half, temporary, metadata={"format": "pt"}))


def write_folder(
    folder: Path, recipe: Recipe, *, unet: Mapping[str, Tensor], vae: Mapping[str, Tensor], text: Mapping[str, Tensor],
    scaling_factor: float, defaults: dict,
) -> None:  # fmt: skip
    """Writes all files of a checkpoint; each is replaced as a whole. Tensors have our own names. defaults: content of analogist.json."""
    prepare_folder(folder)
    encoder = text_encoder(recipe.text)
    encoder.load_state_dict(dict(text))
    _write_tensors(folder / "unet/diffusion_pytorch_model.safetensors", unet_to_diffusers(unet))
    _write_json(folder / "unet/config.json", unet_json(recipe))
    _write_tensors(folder / "vae/diffusion_pytorch_model.safetensors", vae_to_diffusers(vae))
    _write_json(folder / "vae/config.json", vae_json(recipe, scaling_factor))
    # The names in published checkpoints. transformers accepts them, whatever its own modules are called.
    _write_tensors(folder / "text_encoder/model.safetensors", {f"text_model.{name}": t for name, t in text.items()})
    about = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "dtype": "float16"}
    _write_json(folder / "text_encoder/config.json", {**about, **asdict(encoder.config)})
    vocab, merges = vocabulary_and_merges()
    tokenizer(recipe.text.positions).save_pretrained(folder / "tokenizer")
    # These two tables are enough, and other readers of SD folders look for them.
    (folder / "tokenizer/tokenizer.json").unlink(missing_ok=True)
    replace_file(folder / "tokenizer/vocab.json", lambda p: p.write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8"))
    table = "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges)
    replace_file(folder / "tokenizer/merges.txt", lambda p: p.write_text(table, encoding="utf-8"))
    _write_json(folder / "scheduler/scheduler_config.json", {**_SCHEDULER, "prediction_type": recipe.prediction})
    _write_json(folder / "analogist.json", defaults)
    library = {
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "safety_checker": [None, None],
    }
    index = {"_class_name": "StableDiffusionInpaintPipeline", "_diffusers_version": "0.38.0", **library}
    _write_json(folder / "model_index.json", {**index, "requires_safety_checker": False})


def defaults_json(recipe: Recipe, config: AnalogistConfig, *, trained: bool) -> dict:
    """Content of analogist.json: the checkpoint's own default settings."""
    return {"size": recipe.size, "config": config.to_json(), "negative_prompt": "", "prompt_suffix": "", "trained": trained}


def _kept_defaults(folder: Path, recipe: Recipe) -> dict:
    """The settings already in the folder, if any. A new training keeps them, because they were chosen by measurement."""
    path = folder / "analogist.json"
    if path.exists():
        return {**json.loads(path.read_text(encoding="utf-8")), "size": recipe.size}
    return defaults_json(recipe, AnalogistConfig(), trained=True)


def export(training: Path, folder: Path, *, stage: str = "solver", defaults: dict | None = None) -> None:
    """Exports the averaged weights of a training folder.

    stage: "solver" or "generic". defaults: contents of analogist.json; None: the ones already in `folder`, else the published settings.
    Raises TrainingError if a part has not been trained.
    """
    path = training / f"{stage}.safetensors"
    if not path.exists():
        raise TrainingError(f"no {path}: train first (python -m analogist.lab.train {stage} --out {training})")
    recipe = from_json(json.loads((training / f"{stage}.recipe.json").read_text(encoding="utf-8")))
    groups, _ = load_state(path, recipe.identity(stage))
    ema = groups["ema"].items()
    parts = {part: {n.removeprefix(f"{part}."): t for n, t in ema if n.startswith(f"{part}.")} for part in ("unet", "text")}
    vae = load_vae(training, recipe, watched_grids(recipe.size))
    write_folder(folder, recipe, unet=parts["unet"], text=parts["text"], vae=vae.state_dict(), scaling_factor=vae.config.scaling_factor,
                 defaults=_kept_defaults(folder, recipe) if defaults is None else defaults)
    _write_json(folder / "recipe.json", recipe.to_json())


def export_untrained(folder: Path, recipe: Recipe) -> None:
    """Writes a complete checkpoint with random weights, marked as untrained."""
    from analogist.models.unet import UNet
    from analogist.models.vae import VAE

    torch.manual_seed(recipe.generic_training.seed)
    text, unet, vae = text_encoder(recipe.text), UNet(recipe.unet), VAE(recipe.vae)
    write_folder(folder, recipe, unet=unet.state_dict(), vae=vae.state_dict(), text=text.state_dict(),
                 scaling_factor=recipe.vae.scaling_factor, defaults=defaults_json(recipe, AnalogistConfig(), trained=False))
