"""Time and memory from a full-size checkpoint on disk to parameters that have been read once, against diffusers.

    python -m tests.benchmarks.load [--rounds 5] [--threads N] [--folder DIR] [--memory-as-given]

Writes a random SD 1.5 inpainting checkpoint in float16 as a single file and as a folder (4.3 GB together, deleted afterwards), then loads
UNet, VAE and text encoder in a process of its own each time, taking turns, the files in the page cache. Imports are not counted. Both
loaders get the same number of torch threads (default: every core); ours reads with as many threads, four at most, diffusers and
transformers with what they start themselves.
`model` is the size of all parameters in the type asked for; `anonymous` the most anonymous memory (RssAnon) above that before the load,
looked at in a round of its own, which is not timed. CPU seconds count all threads.

Memory is touched before the clock starts, until touching it is quick (RATE). A virtual machine may give freed memory back to its host,
which then bills every first touch at up to forty times the kernel's own cost: more than everything else in a load, to whichever loader
happens to get such memory. --memory-as-given measures without that.

What there is to gain: diffusers leaves weights of the type asked for in the mapping of the file, so that a later change of the file reaches
the model, or ends the process; here every parameter is read into memory of its own, which costs the copy. Both cast alike.
"""

import argparse
import contextlib
import json
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

LAYOUTS, TYPES, LOADERS = ("single", "folder"), ("float16", "float32"), ("ours", "diffusers")
RATE = 0.2  # seconds a GiB: memory that the machine holds already is cleared in a quarter of that


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


def warm_memory(size: int) -> bool:
    """Touch and free memory until the machine has it at hand; False where it has not after ten times."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return False
    for _ in range(10):
        with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
            area.madvise(mmap.MADV_HUGEPAGE)
            start = time.perf_counter()
            for place in range(0, size, mmap.PAGESIZE):
                area[place] = 1
            if time.perf_counter() - start < RATE * size / 2**30:
                return True
    return False


def into_page_cache(path: Path) -> None:
    """Read a file, or a folder's, before every load: a system short of memory, or one that hands memory back, drops what it cached."""
    for file in path.rglob("*.safetensors") if path.is_dir() else [path]:
        with file.open("rb", buffering=0) as stream:
            block = bytearray(2**20)
            while stream.readinto(block):
                pass


def measure(loader: str, path: str, dtype: str, configs: str, how: str) -> dict[str, float]:
    """One load in this process. how: "warm" (memory first), "as given", or "peak" (memory is watched, the clock is worth nothing)."""
    import torch

    load = ours(path, dtype) if loader == "ours" else diffusers(path, dtype, configs)
    into_page_cache(Path(path))
    warm = how == "warm" and warm_memory(5 * 2**30)
    before = anonymous()
    with Peak() if how == "peak" else contextlib.nullcontext() as peak:
        start, cpu = time.perf_counter(), time.process_time()
        modules = load()
        loaded = time.perf_counter() - start
        read(modules)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    for parameter in (parameter for module in modules for parameter in module.parameters()):
        if parameter.dtype != getattr(torch, dtype) or parameter.is_meta:
            raise SystemExit(f"{loader} left a parameter as {parameter.dtype} on {parameter.device}")
    model = sum(parameter.numel() * parameter.element_size() for module in modules for parameter in module.parameters())
    result = {"seconds": seconds, "loaded": loaded, "cpu": cpu, "warm": warm, "threads": torch.get_num_threads(), "model": model}
    return result if peak is None else {**result, "anonymous": peak.bytes - before}


def child(arguments: list[str], threads: int) -> dict[str, float]:
    """One load in a process of its own."""
    line = [sys.executable, "-m", __spec__.name, "--threads", str(threads), "--one", *arguments]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def row(layout: str, dtype: str, runs: dict[str, list[dict[str, float]]], peaks: dict[str, dict[str, float]]) -> str:
    """One case in Markdown; medians of the rounds, and the ratio of the fastest ones."""
    cells = [layout, dtype]
    for kind in ("seconds", "cpu"):
        middle = {loader: statistics.median(run[kind] for run in runs[loader]) for loader in LOADERS}
        cells += [f"{middle[loader]:.2f}" for loader in LOADERS] + [f"{middle['ours'] / middle['diffusers']:.2f}"]
    fastest = {loader: min(run["seconds"] for run in runs[loader]) for loader in LOADERS}
    cells += [f"{fastest['ours'] / fastest['diffusers']:.2f}"]
    cells += [f"{peaks[loader]['anonymous'] / peaks[loader]['model']:.3f}" for loader in LOADERS]
    cells += [" ".join(f"{run['seconds']:.2f}" for run in runs[loader]) for loader in LOADERS]
    return "| " + " | ".join(cells) + " |"


HEAD = """| layout | type | ours s | diffusers s | ratio | ours CPU s | diffusers CPU s | ratio | of the fastest | ours anonymous / model | diffusers | ours, all | diffusers, all |
|---|---|---|---|---|---|---|---|---|---|---|---|---|"""  # noqa: E501 - one row


def main() -> None:
    """Write the checkpoints, take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch threads of both loaders")
    parser.add_argument("--folder", help="where to write the checkpoints, 4.3 GB (default: a temporary folder)")
    parser.add_argument("--use", metavar="DIR", help="take DIR/single/model.safetensors and DIR/folder as an earlier run wrote them")
    parser.add_argument("--types", nargs="+", choices=TYPES, default=TYPES)
    parser.add_argument("--memory-as-given", action="store_true", help="do not touch memory before the clock starts")
    parser.add_argument("--one", nargs=5, metavar=("LOADER", "PATH", "TYPE", "CONFIGS", "HOW"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        import torch

        torch.set_num_threads(args.threads)
        print(json.dumps(measure(*args.one)))
        return
    with contextlib.ExitStack() as stack:
        if args.use:
            paths = {"single": f"{args.use}/single/model.safetensors", "folder": f"{args.use}/folder"}
        else:
            from tests.checkpoints import write_full_size

            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=args.folder)))
            paths = {layout: str(write_full_size(folder / layout, "sd15", layout)) for layout in LAYOUTS}
        compare(paths, args.types, args.rounds, args.threads, "as given" if args.memory_as_given else "warm")


def compare(paths: dict[str, str], types: list[str], rounds: int, threads: int, how: str) -> None:
    """Every layout and type, the loaders in turn."""
    cold = 0
    print(HEAD)
    for layout in LAYOUTS:
        for dtype in types:
            arguments = {loader: [loader, paths[layout], dtype, paths["folder"]] for loader in LOADERS}
            peaks = {loader: child([*arguments[loader], "peak"], threads) for loader in LOADERS}
            runs: dict[str, list[dict[str, float]]] = {loader: [] for loader in LOADERS}
            for turn in range(rounds):
                for loader in LOADERS if turn % 2 == 0 else LOADERS[::-1]:
                    runs[loader].append(child([*arguments[loader], how], threads))
                    cold += how == "warm" and not runs[loader][-1]["warm"]
            print(row(layout, dtype, runs, peaks), flush=True)
    print(f"\nMedian of {rounds} rounds, {threads} torch threads each. Memory: {how}", f"({cold} runs began with memory that stayed slow)")


if __name__ == "__main__":
    main()
