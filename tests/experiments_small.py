"""Small studies on the parity checkpoint (random weights, the real topology), for the tests of experiments."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from analogist.config import AnalogistConfig, SamplingConfig
from analogist.experiments.design.inputs import Input
from analogist.experiments.design.study import Study
from analogist.experiments.execute.ablation import prepare
from analogist.experiments.execute.jobs import Plan
from analogist.grid import PromptGrid
from analogist.models.unet import UNetConfig
from analogist.models.vae import VAEConfig
from analogist.pipeline import Analogist
from tests.small import small_unet, small_vae

PARITY = Path(__file__).parent / "parity"
CHECKPOINT = PARITY / "checkpoint"
SIZE = 64
UNET = UNetConfig(channels=(16, 16, 16, 16), heads=(2, 2, 2, 2), text_width=32, norm_groups=8)
VAE_CONFIG = VAEConfig(channels=(8, 8, 8), norm_groups=4)
BASE = AnalogistConfig(sampling=SamplingConfig(steps=4, strength=0.8, guidance=3.0))  # three executed steps


def load_model() -> Analogist:
    """Random weights smaller than the parity checkpoint's, with its text encoder; grids of 64 px have latents of 16 x 16."""
    parity = Analogist.from_checkpoint(CHECKPOINT, device="cpu", dtype="float32")
    model = Analogist(
        parity.checkpoint, small_unet(UNET), small_vae(VAE_CONFIG), parity.text, device=parity.device, dtype=parity.dtype
    )
    model.size = SIZE
    return model


def load_parity() -> Analogist:
    """The parity checkpoint itself, for what reads it from disk (the command line, workers)."""
    return Analogist.from_checkpoint(CHECKPOINT, device="cpu", dtype="float32")


def write_lora(model: Analogist, path: Path, *, seed: int = 0) -> None:
    """A LoRA file of rank 2 for one projection of the parity checkpoint's UNet, large enough to change every picture."""
    generator = torch.Generator().manual_seed(seed)
    out, into = model.unet.get_parameter("down.1.attn.0.blocks.0.self.to_q.weight").shape
    module = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    down, up = torch.randn(2, into, generator=generator), torch.randn(out, 2, generator=generator)
    save_file({f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}, path)


def one_input(
    name: str = "x", prompt: str = "a red boat", *, wrong: str | None = "a blue car", shift: int = 0, truth: bool = True,
    size: int | tuple[int, int] = SIZE,
) -> Input:  # fmt: skip
    """The parity grid, its colours turned by `shift`, with a made-up truth (its B)."""
    grid = PromptGrid.from_image(PARITY / "grid.png", size)
    if shift:
        grid = PromptGrid.from_image(grid.image.point(lambda level: (level + shift) % 256), size)
    return Input(name, grid, prompt, wrong, grid.cells(without_border=True)["B"] if truth else None, "made up")


def study(**fields) -> Study:
    """A study of one input and seed; fields put over it."""
    return Study(**{"name": "small", "base": BASE, "inputs": (one_input(),), "seeds": (1,)} | fields)


def plan_of(model: Analogist, **fields) -> Plan:
    """The plan of a small study."""
    return prepare(study(**fields), model)


def alone(model: Analogist, job) -> torch.Tensor:
    """Last latents of one job by the pipeline's own call."""
    prompts = job.prompts
    return model(
        job.grid, prompts["prompt"], negative_prompt=prompts["negative_prompt"], prompt_suffix=prompts["prompt_suffix"],
        seed=job.seed, config=job.config, progress=False,
    ).latents  # fmt: skip


def without_times(path: Path) -> list[str]:
    """The lines of a table without its last column, seconds."""
    lines = path.read_text().splitlines()
    assert lines[0].endswith(",seconds")
    return [line.rpartition(",")[0] for line in lines]
