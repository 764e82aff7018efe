"""Warm start: a new training starts from the weights of an exported checkpoint folder."""

from pathlib import Path

import torch

from analogist.models.vae import VAE
from analogist.weights.load import Checkpoint, open_checkpoint

from .loop import Task
from .recipe import Recipe
from .state import TrainingError, load_state, save_state


def adopt_vae(training: Path, folder: Path, recipe: Recipe) -> None:
    """Copies a checkpoint folder's autoencoder into a training folder that has none, as if it had been trained there.

    Raises ValueError (WeightsError) if the folder is not such a checkpoint, TrainingError if its geometry differs from the recipe's.
    """
    checkpoint = _opened(folder)
    with torch.device("meta"):
        vae = VAE(recipe.vae)
    _load_same(checkpoint, "vae", vae, folder)
    weights = {f"vae.{name}": p.detach() for name, p in vae.named_parameters()}
    groups = {group: {name: p.clone() for name, p in weights.items()} for group in ("model", "ema")}
    groups |= {group: {name: torch.zeros_like(p) for name, p in weights.items()} for group in ("first", "second")}
    save_state(training / "vae.safetensors", groups, recipe.vae_training.steps, recipe.identity("vae"))


def warm_start(task: Task, folder: Path) -> None:
    """Loads the task's networks from a checkpoint folder, strictly.

    Raises ValueError (WeightsError) if the folder is not such a checkpoint or its geometry differs.
    """
    checkpoint = _opened(folder)
    for part in ("vae",) if task.name == "vae" else ("text", "unet"):
        _load_same(checkpoint, part, getattr(task.network, part), folder)
    task.network.requires_grad_(True)


def _opened(folder: Path) -> Checkpoint:
    if not folder.is_dir():
        raise TrainingError(f"--init {folder}: no such folder; give an exported checkpoint such as weights/lab")
    return open_checkpoint(folder)


def _load_same(checkpoint: Checkpoint, part: str, module: torch.nn.Module, folder: Path) -> None:
    before = {name: tensor.shape for name, tensor in module.state_dict().items()}
    getattr(checkpoint, f"load_{part}")(module, dtype=torch.float32)
    if {name: tensor.shape for name, tensor in module.state_dict().items()} != before:
        raise TrainingError(f"--init {folder}: its {part} does not have the recipe's geometry")


def go_on(task: Task, training: Path, recipe: Recipe) -> None:
    """Starts the solver from the generic stage's averaged weights. Raises TrainingError if that stage has not been trained."""
    path = training / "generic.safetensors"
    if not path.exists():
        raise TrainingError(f"no {path}: train the generic stage first, or start from a finished checkpoint with --init FOLDER")
    groups, _ = load_state(path, recipe.identity("generic"))
    task.network.load_state_dict(groups["ema"])
