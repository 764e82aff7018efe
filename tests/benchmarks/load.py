"""Time and memory to load a full-size checkpoint from disk and read every parameter once, compared with diffusers.

    python -m tests.benchmarks.load [--rounds 5] [--threads N] [--folder DIR] [--memory-as-given]

Writes a random SD 1.5 inpainting checkpoint in float16 as a single file and as a folder (4.3 GB together, deleted afterwards), then loads
UNet, VAE and text encoder, each time in a new process, in turn, with the files in the page cache. Imports are not counted. Both
loaders get the same number of torch threads (default: every core). Ours reads with that many threads, at most four; diffusers and
transformers choose their own.
`model` is the size of all parameters in the requested type; `anonymous` is the peak of anonymous memory (RssAnon) minus that before the
load, measured in a separate round, which is not timed. CPU seconds count all threads.

Memory is touched before the clock starts, until touching it is fast (RATE). A virtual machine may return freed memory to its host; the
first touch then costs up to forty times as much as usual. That is more than the rest of a load, and hits whichever loader happens to get
such memory. --memory-as-given measures without this preparation.

The difference: diffusers keeps weights of the requested type memory-mapped, so a later change of the file reaches the model or kills the
process. Here every parameter is read into its own memory, which costs a copy. Both cast in the same way.
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
RATE = 0.2  # seconds per GiB; memory that the machine already holds is cleared in a quarter of that


def anonymous() -> int:
    """Bytes of anonymous memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


class Peak:
    """The peak of anonymous memory while a block runs, sampled every 2 ms."""

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
    """Touch and free memory until touching it is fast; False if it is still slow after ten times."""
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
    """Read a file, or all in a folder, before every load, because a system that is short of memory may drop its page cache."""
    for file in path.rglob("*.safetensors") if path.is_dir() else [path]:
        with file.open("rb", buffering=0) as stream:
            block = bytearray(2**20)
            while stream.readinto(block):
                pass


def measure(loader: str, path: str, dtype: str, configs: str, how: str) -> dict[str, float]:
    """One load in this process. how: "warm" (touches memory first), "as given", or "peak" (watches memory; its time is not used)."""
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
    """One load in a new process."""
    line = [sys.executable, "-m", __spec__.name, "--threads", str(threads), "--one", *arguments]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def row(layout: str, dtype: str, runs: dict[str, list[dict[str, float]]], peaks: dict[str, dict[str, float]]) -> str:
    """One case in Markdown; medians of the rounds, and the ratio of the fastest rounds."""
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
    parser.add_argument("--use", metavar="DIR", help="use DIR/single/model.safetensors and DIR/folder of an earlier run")
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
    """Measures every layout and type, with the loaders in turn."""
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
    print(f"\nMedian of {rounds} rounds, {threads} torch threads each. Memory: {how}", f"({cold} runs began with slow memory)")


if __name__ == "__main__":
    main()
