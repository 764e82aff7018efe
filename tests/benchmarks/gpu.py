"""What an hour on a card is for, in one command: checks and measurements beside diffusers, the most important first.

    python -m tests.benchmarks.gpu --minutes 60              # writes tests/benchmarks/results/gpu.jsonl, a line per result
    python -m tests.benchmarks.gpu --minutes 5 --tiny --device cpu      # the same on small networks, to try the command itself

Every result is written as soon as it is there, so that a run that is cut off loses nothing. A case that fails is written with its
error, and the next one begins. Variants of a case take turns; times are medians over rounds, memory is the peak above the weights.
The floors are the card's own: a matrix product and a copy, measured in the same run. Ours has SAC and CAM on the published layers.
Lines "target: ..." set a ratio beside what it is to reach, as soon as what it needs was measured.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from analogist.models.compiled import Compiled
from analogist.models.control import CAM, SAC, AttentionControl
from analogist.models.placement import Placement
from analogist.models.text import EncodedText
from analogist.models.unet import UNet, UNetConfig
from tests.benchmarks import gpu_checks
from tests.benchmarks.gpu_networks import (
    SHAPES,
    T,
    as_diffusers,
    guided_inputs,
    in_channels_last,
    random_unet,
    read_by_diffusers,
    step_flop,
    tiny,
)  # fmt: skip

RESULTS = Path(__file__).parent / "results" / "gpu.jsonl"
LAST = (" channels last",)  # what a variant's name ends with whose pictures lie so in memory; "diffusers compiled" does, too
FOUR = ("fused", "compiled", "diffusers", "diffusers compiled")
SIX = ("fused channels last", "compiled channels last", *FOUR)
VARIANTS = ("fused", "explicit", "compiled", "fused channels last", "compiled channels last", *FOUR[2:], "diffusers whole maps")


@dataclass(frozen=True)
class Case:
    """One size to be measured. side: of the latent."""

    shape: str
    side: int
    images: int
    dtype: str
    variants: tuple[str, ...] = VARIANTS

    def __str__(self) -> str:
        return f"{self.shape}, {8 * self.side} px, {self.images} images, {self.dtype}"


EVERY = Case("SD 1.5", 64, 1, "float16")
EIGHT = Case("SD 1.5", 64, 8, "float16", SIX)
LARGE = Case("SD 1.5", 128, 1, "float16")


def cases() -> Iterator[Case]:
    """The most important first: what the targets are about, then other shapes, sizes and dtypes."""
    yield from (EVERY, EIGHT, LARGE)
    yield Case("SDXL", 128, 1, "float16", ("fused", "explicit", "compiled", "diffusers", "diffusers compiled"))
    yield Case("SD 1.5", 64, 1, "bfloat16", FOUR)
    yield Case("SD 1.5", 64, 4, "float16", FOUR)
    yield Case("SD 1.5", 96, 1, "float16", FOUR)
    yield Case("SD 2", 96, 1, "float16", FOUR)
    yield Case("SD 1.5", 64, 1, "float32", FOUR)
    yield Case("SDXL", 128, 4, "float16", ("fused", "diffusers"))
    yield Case("SD 1.5", 64, 8, "bfloat16", FOUR)
    yield Case("SD 1.5", 128, 4, "float16", ("fused", "diffusers"))
    yield Case("SD 1.5", 96, 8, "bfloat16", ("fused", "diffusers"))


def call(variant: str, unet: UNet, case: Case, x: Tensor, text: EncodedText, backend: str) -> Callable[[], Tensor]:
    """The UNet call of one guided step."""
    if not variant.startswith("diffusers"):
        prepared, at = unet.prepare_text(text), Placement.layers(*unet.config.published_layers)
        if variant.endswith(LAST):
            unet = in_channels_last(unet)
        form = "explicit" if variant == "explicit" else "fused"
        control = AttentionControl(t=T, images=case.images, sac=SAC(at), cam=CAM(at), attention=form)
        own = Compiled(backend, "reduce-overhead" if backend == "inductor" else None) if variant.startswith("compiled") else None

        def ours() -> Tensor:
            unet.compiled = own
            return unet(x, T, prepared, control)

        return ours
    theirs = as_diffusers(unet, whole_maps=variant.endswith("maps"))
    if variant.endswith("compiled"):
        options = {"mode": "reduce-overhead"} if backend == "inductor" else {}
        theirs = torch.compile(theirs.to(memory_format=torch.channels_last), backend=backend, fullgraph=True, **options)
    t, read = torch.tensor(T, device=x.device), read_by_diffusers(text)
    return lambda: theirs(x, t, return_dict=False, **read)[0]


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """One call, with everything that it asked for done."""
    wait(device)
    begun = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - begun


def floors(device: torch.device, dtype: torch.dtype, size: int) -> dict:
    """Rates of a matrix product of size cubed and of a copy of size squared, medians of seven after one that is not counted."""
    a = torch.randn(size, size, device=device).to(dtype)
    b = torch.empty_like(a)
    product, copy = ([seconds(run, device) for _ in range(8)][1:] for run in (lambda: a @ a, lambda: b.copy_(a)))
    bytes_moved = 2 * a.nelement() * a.element_size()
    return {"tflops": 2 * size**3 / statistics.median(product) / 1e12, "copy_gb_s": bytes_moved / statistics.median(copy) / 1e9}


def measure(case: Case, config: UNetConfig, device: torch.device, rounds: int, backend: str) -> dict:
    """Step time, peak memory above the weights, and difference from the uncompiled fused form, by variant."""
    dtype = getattr(torch, case.dtype)
    unet = random_unet(config, device, dtype)
    x, text = guided_inputs(config, case.side, case.images, device, dtype)
    found: dict[str, dict] = {}
    calls, reference = {}, None
    for variant in case.variants:
        try:
            run = call(variant, unet, case, x, text, backend)
            begun = time.perf_counter()
            out = run().float().clone()
            first = time.perf_counter() - begun
            found[variant] = {"first_s": first}
            if variant == "fused":
                reference = out
            elif not variant.startswith("diffusers") and reference is not None:
                found[variant]["error"] = float((out - reference).norm() / reference.norm())
            run()
            if device.type == "cuda":
                held = torch.cuda.memory_allocated(device)
                torch.cuda.reset_peak_memory_stats(device)
                run()
                wait(device)
                found[variant]["peak_bytes"] = torch.cuda.max_memory_allocated(device) - held
            calls[variant] = run
        except (RuntimeError, ValueError) as error:  # out of memory among them: the others are still measured
            found[variant] = {"failed": f"{type(error).__name__}: {error}"[:500]}
    took: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, run in calls.items():
            took[name].append(seconds(run, device))
    flop = step_flop(config, case.side, case.images)
    for name, times in took.items():
        found[name] |= {"step_s": statistics.median(times), "tflops": flop / statistics.median(times) / 1e12}
    return {"variants": found, "rounds": rounds, "flop": flop}


def targets(done: dict[str, dict]) -> Iterator[tuple[str, dict]]:
    """Ratios and what they are to reach, of what has been measured. done: results by name; what failed or lacks a number is left out."""

    def of(case: Case, variant: str, key: str) -> float | None:
        return done.get(str(case), {}).get("variants", {}).get(variant, {}).get(key)

    def ratio(name: str, ours: float | None, theirs: float | None, most: float) -> Iterator[tuple[str, dict]]:
        if ours is not None and theirs:
            yield name, {"ratio": ours / theirs, "most": most, "holds": ours / theirs <= most}

    for case in (EVERY, EIGHT):
        step = partial(of, case, key="step_s")
        for last in ("", *LAST):
            yield from ratio(f"compiled{last} of diffusers compiled, {case}", step(f"compiled{last}"), step("diffusers compiled"), 0.95)
            yield from ratio(f"eager{last} of diffusers eager, {case}", step(f"fused{last}"), step("diffusers"), 0.9)
    peak = partial(of, LARGE, key="peak_bytes")
    yield from ratio(f"peak of the published way, {LARGE}", peak("fused"), peak("diffusers whole maps"), 0.25)
    floor = done.get("floors, float16", {}).get("tflops")
    rates = [rate for variant in SIX[:4] if (rate := of(EIGHT, variant, "tflops"))]
    if rates and floor:
        reached = max(rates) / floor
        yield f"rate of the card's matrix products, {EIGHT}", {"ratio": reached, "least": 0.45, "holds": reached >= 0.45}


Job = tuple[str, Callable[[], dict]]


def jobs(device: torch.device, rounds: int, backend: str, small: bool) -> Iterator[Job]:
    """Everything, the most important first. small: small networks and sizes in float32, to try the command."""
    size = 256 if small else 8192

    def floor(dtype: str) -> Job:
        return f"floors, {dtype}", partial(floors, device, torch.float32 if small else getattr(torch, dtype), size)

    def measured(case: Case) -> Job:
        if not small:
            return str(case), partial(measure, case, SHAPES[case.shape], device, rounds, backend)
        shrunk = replace(case, side=16, images=min(case.images, 2), dtype="float32")
        return str(case), partial(measure, shrunk, tiny(case.shape), device, rounds, backend)

    def checked(shape: str, side: int, images: tuple[int, ...]) -> Iterator[Job]:
        config, side, dtype = (tiny(shape), 16, torch.float32) if small else (SHAPES[shape], side, torch.float16)
        images = images[:1] if small else images
        yield f"memory, {shape}, {8 * side} px", partial(gpu_checks.memory, config, side, images, device, dtype)
        choose = partial(gpu_checks.batch_choice, config, side, device, dtype, images=images[-1] if small else 64)
        yield f"batch with 6 GiB free, {shape}, {8 * side} px", partial(choose, leave=6 * 2**30)

    every = list(cases())
    yield floor("float16")
    yield "parity", lambda: dict(gpu_checks.parity(device))
    yield "golden maps", partial(gpu_checks.golden_maps, device)
    yield "kernels without a map", partial(gpu_checks.kernels, device)
    for case in every[:3]:
        yield measured(case)
    yield from checked("SD 1.5", 64, (1, 4, 8))
    for case in every[3:4]:
        yield measured(case)
    yield floor("bfloat16")
    yield floor("float32")
    for case in every[4:]:
        yield measured(case)
    yield from checked("SD 1.5", 128, (1, 2))
    yield from checked("SD 2", 96, (1, 4))
    yield from checked("SDXL", 128, (1, 4))


def run_all(device: torch.device, minutes: float, out: Path, *, small: bool = False, rounds: int = 15, backend: str = "inductor") -> None:
    """Everything, until the time is used up; each result is appended to `out` as a line of JSON."""
    deadline = time.monotonic() + 60 * minutes
    out.parent.mkdir(parents=True, exist_ok=True)
    done: dict[str, dict] = {}
    reached: set[str] = set()

    def write(what: str, result: dict) -> None:
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"what": what, **result}) + "\n")
        print(f"{what}: {json.dumps(result)}", flush=True)

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    write("machine", {"device": name, "torch": torch.__version__, "minutes": minutes, "small": small})
    with torch.no_grad():
        for what, job in jobs(device, rounds, backend, small):
            if time.monotonic() > deadline:
                write(what, {"not_run": "no time left"})
                continue
            try:
                done[what] = job()
                write(what, done[what])
            except (RuntimeError, ValueError) as error:
                write(what, {"failed": f"{type(error).__name__}: {error}"[:500]})
            if device.type == "cuda":
                torch.cuda.empty_cache()
            for target, result in targets(done):
                if target not in reached:
                    reached.add(target)
                    write(f"target: {target}", result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True, help="no case begins after this many minutes")
    parser.add_argument("--device", default="cuda", help="default: cuda")
    parser.add_argument("--tiny", action="store_true", help="small networks and sizes, nothing compiled by inductor: tries the command")
    parser.add_argument("--rounds", type=int, default=15, help="how often each variant is timed (default 15)")
    parser.add_argument("--out", type=Path, default=RESULTS, help=f"lines are appended here (default {RESULTS.name})")
    args = parser.parse_args()
    from analogist.checkpoints.devices import pick_device

    backend = "eager" if args.tiny else "inductor"
    run_all(pick_device(args.device), args.minutes, args.out, small=args.tiny, rounds=args.rounds, backend=backend)


if __name__ == "__main__":
    main()
