"""Jobs per minute: sixteen placements of SAC on one input, one by one from the command line, in a warm loop, and with `ablate`.

    python -m tests.benchmarks.ablate [--checkpoint PATH] [--size N] [--steps N] [--threads N] [--jobs N] [--batch N] [--full-size]

`command`: one `analogist run` process per placement (the first --commands placements). `loop`: one process, the model loaded and
warm, one `model(...)` per placement. `ablate`: the same placements as a study, the model loaded and warm; it writes the table and
the pictures, but no sheet or report. Target: 1.5 times the loop. For a full-size checkpoint give --size 256 and few --steps.
--full-size: random weights with Stable Diffusion 1.5's sizes, in memory (4 GB), at 256 px; does not measure `command`.
"""

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

from analogist.experiments.design.inputs import Input, lab_inputs
from analogist.experiments.design.study import Study
from analogist.experiments.execute.ablation import ablate
from analogist.models.unet import UNet, UNetConfig
from analogist.models.vae import VAE, VAEConfig
from analogist.pipeline import Analogist, UntrainedWarning

PLACEMENTS = [[k] for k in range(16)]


def full_size() -> Analogist:
    """Stable Diffusion 1.5's UNet and VAE with random weights, in memory; the text encoder is the lab checkpoint's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UntrainedWarning)
        small = Analogist.from_checkpoint(device="cpu", dtype="float32")
    torch.manual_seed(0)
    unet = UNet(UNetConfig(text_width=small.unet.config.text_width)).eval().requires_grad_(False)
    vae = VAE(VAEConfig(channels=(128, 256, 512, 512))).eval().requires_grad_(False)
    model = Analogist(small.checkpoint, unet, vae, small.text, device=small.device, dtype=small.dtype)
    model.size = 256
    return model


def study_of(model: Analogist, one: Input, jobs: int, steps: int, batch: int) -> Study:
    """Sixteen placements: SAC at each layer alone."""
    runs = [{"sac.layers": layers} for layers in PLACEMENTS[: jobs - 1]]
    base = model.config.replace(steps=steps)
    return Study(
        name="benchmark", design="list", runs=runs, base=base, inputs=(one,), seeds=(42,), batch=batch, group=jobs, metrics=("mse",)
    )  # fmt: skip


def loop(model: Analogist, study: Study, one: Input) -> float:
    """Jobs per minute of one `model(...)` per placement; the first call is not counted."""
    from analogist.experiments.execute.ablation import prepare

    plan = prepare(study, model)
    jobs = plan.jobs
    call = {"progress": False, "seed": 42}
    model(jobs[0].grid, one.prompt, config=jobs[0].config.replace(steps=2, strength=1.0), **call)
    started = time.perf_counter()
    for job in jobs:
        model(job.grid, one.prompt, config=job.config, **call)
    return 60 * len(jobs) / (time.perf_counter() - started)


def by_ablate(model: Analogist, study: Study) -> float:
    """Jobs per minute of the study, including everything it writes except sheet and report."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        outcome = ablate(study, folder, model=model, progress=False, outputs=False)
        seconds = time.perf_counter() - started
        return 60 * len(outcome.plan.jobs) / seconds


def by_command(one: Input, steps: int, checkpoint: str | None, measured: int) -> float:
    """Jobs per minute of `analogist run`, one process per placement."""
    with tempfile.TemporaryDirectory() as folder:
        grid = Path(folder) / "grid.png"
        one.grid.image.save(grid)
        started = time.perf_counter()
        for (layer,) in PLACEMENTS[:measured]:
            command = [sys.executable, "-m", "analogist", "run", "--grid", str(grid), "--prompt", one.prompt, "--quiet"]
            command += ["--sac-layers", str(layer), "--steps", str(steps), "--device", "cpu", "--dtype", "float32"]
            command += ["--size", str(one.grid.size[0]), "--out", f"{folder}/out{layer}"]
            command += ["--checkpoint", checkpoint] if checkpoint else []
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return 60 * measured / (time.perf_counter() - started)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint")
    parser.add_argument("--size", type=int, help="size of the grid in pixels (default: the checkpoint's)")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--commands", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=16)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--full-size", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UntrainedWarning)
        model = full_size() if args.full_size else Analogist.from_checkpoint(args.checkpoint, device="cpu", dtype="float32")
    model.size = args.size or model.size
    one = lab_inputs(["recolour"], count=1, size=model.size)[0]
    study = study_of(model, one, args.jobs, args.steps, args.batch)
    steps = f"{args.steps} steps ({study.base.sampling.executed} executed)"
    setup = f"{model.size} px, {args.threads} threads, batch {args.batch}, torch {torch.__version__}"
    print(f"{args.jobs} placements, {steps}, {setup}")
    by_ablate(model, study_of(model, one, 2, 2, 2))  # warm-up, as for the loop: imports and kernels
    loops, ablates = [], []
    for _ in range(args.rounds):  # in turn, because other work on the machine comes and goes
        loops.append(loop(model, study, one))
        ablates.append(by_ablate(model, study))
        print(f"loop {loops[-1]:.2f}, ablate {ablates[-1]:.2f} jobs per minute, {ablates[-1] / loops[-1]:.2f} times", flush=True)
    if args.commands and not args.full_size:
        del model  # so that a full-size checkpoint is in memory only once
        print(f"command {by_command(one, args.steps, args.checkpoint, args.commands):.2f} jobs per minute")
    print(f"best: loop {max(loops):.2f}, ablate {max(ablates):.2f} jobs per minute, {max(ablates) / max(loops):.2f} times")


if __name__ == "__main__":
    main()
