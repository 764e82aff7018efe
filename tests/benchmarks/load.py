"""Time and memory from a full-size checkpoint on disk to parameters that have been read once, against diffusers.

    python -m tests.benchmarks.load [--rounds 3] [--folder DIR]

Writes a random SD 1.5 inpainting checkpoint in float16 as a single file and as a folder (4.3 GB together, deleted afterwards), then loads
UNet, VAE and text encoder in a process of its own each time, taking turns, the files in the page cache. Imports are not counted.
`model` is the size of all parameters in the type asked for; `anonymous` the most anonymous memory (RssAnon) above that before the load.
CPU seconds count all threads, and say more than the clock where other processes run.

What there is to gain: diffusers leaves weights of the type asked for in the mapping of the file, so that a later change of the file reaches
the model, or ends the process; here every parameter gets memory of its own, which costs the copy. Both cast alike.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

LAYOUTS, TYPES, LOADERS = ("single", "folder"), ("float16", "float32"), ("ours", "diffusers")
PARTS = ("unet", "vae", "text")


def anonymous() -> int:
    """Bytes of anonymous memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


class Peak:
    """The most anonymous memory while a block runs, looked at every 2 ms."""

    def __enter__(self) -> "Peak":
        self.bytes, self.done = anonymous(), False
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self) -> None:
        while not self.done:
            self.bytes = max(self.bytes, anonymous())
            time.sleep(0.002)

    def __exit__(self, *_: object) -> None:
        self.bytes = max(self.bytes, anonymous())
        self.done = True
        self.thread.join()


def ours(path: str, dtype: str):
    """A function that loads the three networks with this project."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    from analogist.models.unet import UNet, UNetConfig
    from analogist.models.vae import VAE, VAEConfig
    from analogist.weights import open_checkpoint

    def load():
        checkpoint = open_checkpoint(path)
        with torch.device("meta"):
            unet, vae = UNet(UNetConfig(**checkpoint.unet)), VAE(VAEConfig(**checkpoint.vae))
            text = CLIPTextModel(CLIPTextConfig(**checkpoint.text))
        checkpoint.load_unet(unet, dtype=getattr(torch, dtype))
        checkpoint.load_vae(vae, dtype=getattr(torch, dtype))
        checkpoint.load_text(text, dtype=getattr(torch, dtype))
        return unet, vae, text

    return load


def diffusers(path: str, dtype: str, configs: str):
    """A function that loads the three networks as diffusers' pipelines load their components."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm, load_single_file_checkpoint
    from transformers import CLIPTextModel

    kind = getattr(torch, dtype)

    def single():
        checkpoint = load_single_file_checkpoint(path, local_files_only=True)
        unet, vae = (
            model.from_single_file(checkpoint, config=configs, subfolder=name, torch_dtype=kind, local_files_only=True)
            for model, name in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae"))
        )
        text = create_diffusers_clip_model_from_ldm(
            CLIPTextModel, checkpoint=checkpoint, config=configs, subfolder="text_encoder", torch_dtype=kind, local_files_only=True
        )
        return unet, vae, text

    def folder():
        return (
            UNet2DConditionModel.from_pretrained(path, subfolder="unet", torch_dtype=kind, local_files_only=True),
            AutoencoderKL.from_pretrained(path, subfolder="vae", torch_dtype=kind, local_files_only=True),
            CLIPTextModel.from_pretrained(f"{path}/text_encoder", dtype=kind, local_files_only=True),
        )

    return folder if Path(path).is_dir() else single


def read(modules) -> int:
    """Read every byte of every parameter once; returns a sum that depends on all of them."""
    import torch

    total = 0
    for module in modules:
        for parameter in module.parameters():
            raw = parameter.detach().reshape(-1).view(torch.uint8)
            total += int(raw[: raw.numel() // 8 * 8].view(torch.int64).sum()) + int(raw[raw.numel() // 8 * 8 :].sum())
    return total


def measure(loader: str, path: str, dtype: str, configs: str) -> dict[str, float]:
    """One load in this process."""
    import torch

    load = ours(path, dtype) if loader == "ours" else diffusers(path, dtype, configs)
    before = anonymous()
    with Peak() as peak:
        start, cpu = time.perf_counter(), time.process_time()
        modules = load()
        loaded = time.perf_counter() - start
        read(modules)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    for parameter in (parameter for module in modules for parameter in module.parameters()):
        if parameter.dtype != getattr(torch, dtype) or parameter.is_meta:
            raise SystemExit(f"{loader} left a parameter as {parameter.dtype} on {parameter.device}")
    model = sum(parameter.numel() * parameter.element_size() for module in modules for parameter in module.parameters())
    return {"seconds": seconds, "loaded": loaded, "cpu": cpu, "anonymous": peak.bytes - before, "model": model}


def child(arguments: list[str]) -> dict[str, float]:
    """One load in a process of its own."""
    done = subprocess.run([sys.executable, "-m", __spec__.name, "--one", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def table(results: dict[tuple[str, str], dict[str, list[dict[str, float]]]]) -> str:
    """The results in Markdown; medians of the rounds."""
    lines = [
        "| layout | type | ours s | diffusers s | ratio | ours CPU s | diffusers CPU s | ratio | ours anonymous / model | diffusers |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (layout, dtype), runs in results.items():
        seconds = {loader: statistics.median(run["seconds"] for run in runs[loader]) for loader in LOADERS}
        work = {loader: statistics.median(run["cpu"] for run in runs[loader]) for loader in LOADERS}
        memory = {loader: max(run["anonymous"] / run["model"] for run in runs[loader]) for loader in LOADERS}
        cells = [layout, dtype]
        for measure in (seconds, work):
            cells += [f"{measure[loader]:.2f}" for loader in LOADERS] + [f"{measure['ours'] / measure['diffusers']:.2f}"]
        lines.append("| " + " | ".join(cells + [f"{memory[loader]:.3f}" for loader in LOADERS]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Write the checkpoints, take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where to write the checkpoints, 4.3 GB (default: a temporary folder)")
    parser.add_argument("--one", nargs=4, metavar=("LOADER", "PATH", "TYPE", "CONFIGS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*args.one)))
        return
    from tests.checkpoints import write_full_size

    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        paths = {layout: str(write_full_size(folder / layout, "sd15", layout)) for layout in LAYOUTS}
        results = {(layout, dtype): {loader: [] for loader in LOADERS} for layout in LAYOUTS for dtype in TYPES}
        for (layout, dtype), runs in results.items():
            for file in folder.rglob("*.safetensors"):  # into the page cache
                with file.open("rb") as stream:
                    while stream.read(2**24):
                        pass
            for turn in range(args.rounds):
                for loader in LOADERS if turn % 2 == 0 else LOADERS[::-1]:
                    runs[loader].append(child([loader, paths[layout], dtype, paths["folder"]]))
    print(table(results))
    print(f"\nMedian of {args.rounds} rounds; memory: the largest.")


if __name__ == "__main__":
    main()
