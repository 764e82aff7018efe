"""Time and memory to load a full-size checkpoint from disk and read every parameter once, compared with diffusers and safetensors.

    python -m tests.benchmarks.load [--states cached cold] [--devices cpu cuda] [--rounds 5] [--threads N] [--folder DIR]

Writes a random SD 1.5 inpainting checkpoint in float16 as a single file and as a folder (4.3 GB together, deleted afterwards), then loads
UNet, VAE and text encoder, each time in a new process, in turn. Imports are not counted, nor is the first use of a CUDA device. All
loaders get the same number of torch threads (default: every core). Ours reads with that many threads, at most four; diffusers,
transformers and safetensors choose their own. `safetensors` is `safetensors.torch.load_file(device=...)`: tensors without networks, in the
stored type only.
States of the files: cached (in the page cache) or cold (dropped from it before every load, else replaced by a copy written with O_DIRECT).
A case that this machine cannot have is printed as "not measured", with the reason.
`model` is the size of all parameters in the requested type; `anonymous` is the peak of anonymous memory (RssAnon) minus that before the
load, measured in a separate round with cached files, which is not timed. CPU seconds count all threads.

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
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.benchmarks import page_cache

LAYOUTS, TYPES, LOADERS, STATES = ("single", "folder"), ("float16", "float32"), ("ours", "diffusers", "safetensors"), ("cached", "cold")
STORED = "float16"
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


def ours(path: str, dtype: str, device: str):
    """A function that loads the three networks with this project."""
    import torch

    from analogist.models.clip_text import CLIPText, CLIPTextConfig
    from analogist.models.unet import UNet, UNetConfig
    from analogist.models.vae import VAE, VAEConfig
    from analogist.weights import open_checkpoint

    def load():
        checkpoint = open_checkpoint(path)
        with torch.device("meta"):
            unet, vae = UNet(UNetConfig(**checkpoint.unet)), VAE(VAEConfig(**checkpoint.vae))
            text = CLIPText(CLIPTextConfig(**checkpoint.text))
        checkpoint.load_unet(unet, dtype=getattr(torch, dtype), device=device)
        checkpoint.load_vae(vae, dtype=getattr(torch, dtype), device=device)
        checkpoint.load_text(text, dtype=getattr(torch, dtype), device=device)
        return unet, vae, text

    return load


def diffusers(path: str, dtype: str, device: str, configs: str):
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

    load = folder if Path(path).is_dir() else single
    return lambda: tuple(module.to(device) for module in load())


class Tensors(dict):
    """What a file holds, with its floating point numbers where a network has its parameters."""

    def parameters(self) -> Iterable:
        return (tensor for tensor in self.values() if tensor.is_floating_point() and tensor.ndim)


def safetensors(path: str, dtype: str, device: str):
    """A function that loads the tensors of the file or files with safetensors' own loader."""
    from safetensors.torch import load_file

    if dtype != STORED:
        raise SystemExit(f"safetensors does not cast: only {STORED} can be measured")
    return lambda: [Tensors(load_file(file, device=device)) for file in page_cache.files_of(Path(path))]


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


def prepare(path: Path, state: str) -> None:
    """Puts the files into the page cache, or takes them out. Always before a load: a system short of memory drops what it likes."""
    if state == "cold":
        page_cache.make_cold(path)
    else:
        for file in page_cache.files_of(path):
            page_cache.fill(file)


def loader_of(name: str, path: str, dtype: str, configs: str, device: str) -> Callable[[], tuple]:
    """The function whose time is taken."""
    if name == "diffusers":
        return diffusers(path, dtype, device, configs)
    return {"ours": ours, "safetensors": safetensors}[name](path, dtype, device)


def wait(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)


def measure(loader: str, path: str, dtype: str, configs: str, how: str, state: str = "cached", device: str = "cpu") -> dict[str, float]:
    """One load in this process. how: "warm" (touches memory first), "as given", or "peak" (watches memory; its time is not used)."""
    import torch

    load = loader_of(loader, path, dtype, configs, device)
    torch.zeros(1, device=device)
    wait(device)
    warm = how == "warm" and warm_memory(5 * 2**30)
    prepare(Path(path), state)
    before = anonymous()
    with Peak() if how == "peak" else contextlib.nullcontext() as peak:
        start, cpu = time.perf_counter(), time.process_time()
        modules = load()
        wait(device)
        loaded = time.perf_counter() - start
        read(modules)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    for parameter in (parameter for module in modules for parameter in module.parameters()):
        if loader != "safetensors" and (parameter.dtype != getattr(torch, dtype) or parameter.is_meta):
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


def row(name: str, runs: dict[str, list[dict[str, float]]], peaks: dict[str, dict[str, float]]) -> str:
    """One case in Markdown: medians of the rounds, and our ratios to the others, of the medians and of the fastest rounds."""
    cells = [name]
    for kind in ("seconds", "cpu"):
        middle = {loader: statistics.median(run[kind] for run in runs[loader]) for loader in runs}
        cells += [f"{middle[loader]:.2f}" if loader in middle else "" for loader in LOADERS]
        cells += [f"{middle['ours'] / middle[loader]:.2f}" if loader in middle else "" for loader in LOADERS[1:]]
    fastest = {loader: min(run["seconds"] for run in runs[loader]) for loader in runs}
    cells += [f"{fastest['ours'] / fastest[loader]:.2f}" if loader in fastest else "" for loader in LOADERS[1:]]
    cells += [f"{peaks[loader]['anonymous'] / peaks[loader]['model']:.3f}" if loader in peaks else "" for loader in LOADERS[:2]]
    cells += ["; ".join(" ".join([loader, *(f"{run['seconds']:.2f}" for run in each)]) for loader, each in runs.items())]
    return "| " + " | ".join(cells) + " |"


COLUMNS = [
    "case", *(f"{loader} s" for loader in LOADERS), "ours / diffusers", "ours / safetensors",
    *(f"{loader} CPU s" for loader in LOADERS), "ours / diffusers", "ours / safetensors",
    "fastest: ours / diffusers", "ours / safetensors", "ours anonymous / model", "diffusers", "all rounds",
]  # fmt: skip
HEAD = "| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS)


def main() -> None:
    """Write the checkpoints, take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch threads of all loaders")
    parser.add_argument("--folder", help="where to write the checkpoints, 4.3 GB (default: a temporary folder)")
    parser.add_argument("--use", metavar="DIR", help="use DIR/single/model.safetensors and DIR/folder of an earlier run")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=LAYOUTS)
    parser.add_argument("--types", nargs="+", choices=TYPES, default=TYPES)
    parser.add_argument("--states", nargs="+", choices=STATES, default=("cached",), help="of the files (default: cached)")
    parser.add_argument("--devices", nargs="+", default=("cpu",), help="where to load to, such as cpu cuda (default: cpu)")
    parser.add_argument("--memory-as-given", action="store_true", help="do not touch memory before the clock starts")
    parser.add_argument("--one", nargs="+", metavar="ARGUMENT", help=argparse.SUPPRESS)
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
        print(HEAD)
        slow = 0
        for device in args.devices:
            for state in args.states:
                for layout in args.layouts:
                    for dtype in args.types:
                        name = f"{layout}, {dtype}, {state}, {device}"
                        if why := impossible(paths[layout], state, device):
                            print(f"| {name} | not measured: {why} |", flush=True)
                            continue
                        arguments = [paths[layout], dtype, paths["folder"]]
                        slow += compare(name, arguments, state, device, args.rounds, args.threads, args.memory_as_given)
        memory = "as given" if args.memory_as_given else f"touched first ({slow} runs began with slow memory)"
        print(f"\nMedians of {args.rounds} rounds, {args.threads} torch threads each. Memory: {memory}")


def impossible(path: str, state: str, device: str) -> str | None:
    """Why a case cannot be measured here, None if it can."""
    from analogist.checkpoints.devices import pick_device

    try:
        pick_device(device)
        prepare(Path(path), state)
    except (ValueError, OSError) as error:
        return str(error)
    return None


def compare(name: str, arguments: list[str], state: str, device: str, rounds: int, threads: int, as_given: bool) -> int:
    """Measures one case with the loaders in turn, and prints its row. Returns how many runs began with slow memory."""
    path, dtype, configs = arguments
    loaders = [loader for loader in LOADERS if loader != "safetensors" or dtype == STORED]
    peaks = {}
    if device == "cpu" and Path("/proc/self/status").exists():
        peaks = {loader: child([loader, path, dtype, configs, "peak"], threads) for loader in loaders[:2]}
    runs: dict[str, list[dict[str, float]]] = {loader: [] for loader in loaders}
    how = "as given" if as_given else "warm"
    for turn in range(rounds):
        for loader in loaders if turn % 2 == 0 else loaders[::-1]:
            runs[loader].append(child([loader, path, dtype, configs, how, state, device], threads))
    print(row(name, runs, peaks), flush=True)
    return sum(how == "warm" and not run["warm"] for each in runs.values() for run in each)


if __name__ == "__main__":
    main()
