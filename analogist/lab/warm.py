"""Warm start: weights of an exported checkpoint folder as the beginning of a new training."""

from pathlib import Path

import torch

from analogist.weights.load import open_checkpoint

from .loop import Task
from .state import TrainingError


def warm_start(task: Task, folder: Path) -> None:
    """Load the task's networks from a checkpoint folder, strictly.

    Raises ValueError (WeightsError) where the folder is no such checkpoint or its geometry is another.
    """
    if not folder.is_dir():
        raise TrainingError(f"--init {folder}: no such folder; give an exported checkpoint such as weights/lab")
    checkpoint = open_checkpoint(folder)
    parts = {"vae": ("vae",), "unet": ("text", "unet")}[task.name]
    for part in parts:
        module = getattr(task.network, part)
        before = {name: tensor.shape for name, tensor in module.state_dict().items()}
        getattr(checkpoint, f"load_{part}")(module, dtype=torch.float32)
        if {name: tensor.shape for name, tensor in module.state_dict().items()} != before:
            raise TrainingError(f"--init {folder}: its {part} has another geometry than the recipe")
    task.network.requires_grad_(True)
