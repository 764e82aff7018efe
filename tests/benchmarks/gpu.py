"""What an hour on a card is for, in one command: checks first, then times and memory beside diffusers, the most important first.

    python -m tests.benchmarks.gpu --minutes 60              # writes tests/benchmarks/results/gpu.jsonl, a line per result
    python -m tests.benchmarks.gpu --minutes 5 --tiny --device cpu      # the same on small networks, to try the command itself

Every result is written as soon as it is there, so that a run that is cut off loses nothing. A case that fails is written with its
error, and the next one begins. Variants of a case take turns; times are medians over rounds, memory is the peak above the weights.
The floors are the card's own: a matrix product and a copy, measured in the same run. Ours has SAC and CAM on the published layers.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from analogist.models.compiled import Compiled
from analogist.models.control import CAM, SAC, AttentionControl
from analogist.models.placement import Placement
from analogist.models.unet import UNet, UNetConfig
from analogist.run.memory import ACTIVATIONS
from analogist.weights.keymaps import unet_diffusers

RESULTS = Path(__file__).parent / "results" / "gpu.jsonl"
SHAPES = {"SD 1.5": UNetConfig(), "SD 2": UNetConfig(heads=(5, 10, 20, 20), text_width=1024)}
TINY = UNetConfig(channels=(16, 24, 32, 32), heads=(2, 2, 4, 4), text_width=12, norm_groups=8)
VARIANTS = ("fused", "explicit", "compiled", "diffusers", "diffusers compiled", "diffusers whole maps")
T, TOKENS = 501, 77


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


def cases() -> Iterator[Case]:
    """The most important first: what the published targets are about, then other sizes, dtypes and shapes."""
    for images in (1, 8):
        yield Case("SD 1.5", 64, images, "float16", tuple(v for v in VARIANTS if images == 1 or "maps" not in v and v != "explicit"))
    yield Case("SD 1.5", 128, 1, "float16")
    yield Case("SD 1.5", 96, 1, "float16", ("fused", "compiled", "diffusers", "diffusers compiled"))
    for dtype in ("bfloat16", "float32"):
        yield Case("SD 1.5", 64, 1, dtype, ("fused", "compiled", "diffusers", "diffusers compiled"))
    yield Case("SD 1.5", 64, 4, "float16", ("fused", "compiled", "diffusers", "diffusers compiled"))
    yield Case("SD 2", 96, 1, "float16", ("fused", "compiled", "diffusers", "diffusers compiled"))


def random_unet(config: UNetConfig, device: torch.device, dtype: torch.dtype) -> UNet:
    """Random weights of sensible scale, made on the device."""
    with torch.device("meta"):
        unet = UNet(config)
    unet = unet.to(dtype).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if parameter.ndim > 1:
                parameter.uniform_(-1, 1, generator=generator).mul_((3 / parameter[0].numel()) ** 0.5)
            else:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    return unet.eval().requires_grad_(False)


def as_diffusers(unet: UNet, *, whole_maps: bool = False) -> nn.Module:
    """diffusers' UNet over the same tensors, none copied."""
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import AttnProcessor

    c = unet.config
    with torch.device("meta"):
        theirs = UNet2DConditionModel(
            in_channels=c.in_channels, block_out_channels=c.channels, attention_head_dim=c.heads, cross_attention_dim=c.text_width,
            norm_num_groups=c.norm_groups,
        )  # fmt: skip
    ours, like = unet.state_dict(), theirs.state_dict()
    named = {name: ours[targets[0].name].view(like[name].shape) for name, targets in unet_diffusers(like).items()}
    theirs.load_state_dict(named, assign=True)
    if whole_maps:
        theirs.set_attn_processor(AttnProcessor())
    return theirs.eval().requires_grad_(False)


def inputs(config: UNetConfig, case: Case, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Latents and text of a guided call: rows (branch image)."""
    generator = torch.Generator(device).manual_seed(1)
    rows = 2 * case.images
    x = torch.randn(rows, 9, case.side, case.side, generator=generator, device=device)
    return x.to(dtype), torch.randn(rows, TOKENS, config.text_width, generator=generator, device=device).to(dtype)


def call(variant: str, unet: UNet, case: Case, x: Tensor, text: Tensor, backend: str) -> Callable[[], Tensor]:
    """The UNet call of one guided step."""
    if not variant.startswith("diffusers"):
        prepared, at = unet.prepare_text(text), Placement.layers(*unet.config.published_layers)
        form = "explicit" if variant == "explicit" else "fused"
        control = AttentionControl(t=T, images=case.images, sac=SAC(at), cam=CAM(at), attention=form)
        own = Compiled(backend, "reduce-overhead" if backend == "inductor" else None) if variant == "compiled" else None

        def ours() -> Tensor:
            unet.compiled = own
            return unet(x, T, prepared, control)

        return ours
    theirs = as_diffusers(unet, whole_maps=variant.endswith("maps"))
    if variant.endswith("compiled"):
        options = {"mode": "reduce-overhead"} if backend == "inductor" else {}
        theirs = torch.compile(theirs.to(memory_format=torch.channels_last), backend=backend, fullgraph=True, **options)
    t = torch.tensor(T, device=x.device)
    return lambda: theirs(x, t, text, return_dict=False)[0]


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


def parity(device: torch.device) -> Iterator[tuple[str, dict]]:
    """The published code's cases in float32: relative error of the last latents, beside the tolerance."""
    from safetensors.torch import load_file

    from analogist.pipeline import Analogist
    from tests.devices import TOLERANCE
    from tests.test_parity import CASES, PARITY, relative, run

    allowed = TOLERANCE["the published last latents", torch.float32, "cuda" if device.type == "cuda" else "cpu"]
    model = Analogist.from_checkpoint(PARITY / "checkpoint", dtype="float32", device=device)
    for name in sorted(CASES["cases"]):
        theirs = load_file(PARITY / f"{name}.safetensors")["latents"]
        errors = {form: relative(run(model, CASES["cases"][name], form).latents, theirs) for form in ("fused", "explicit")}
        yield name, {"errors": errors, "allowed": allowed, "holds": max(errors.values()) < allowed}


def measure(case: Case, config: UNetConfig, device: torch.device, rounds: int, backend: str) -> dict:
    """Step time, peak memory above the weights, and difference from the uncompiled fused form, by variant."""
    dtype = getattr(torch, case.dtype)
    unet = random_unet(config, device, dtype)
    x, text = inputs(config, case, device, dtype)
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
            elif variant in ("explicit", "compiled") and reference is not None:
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
    for name, times in took.items():
        found[name]["step_s"] = statistics.median(times)
    estimate = ACTIVATIONS * 2 * case.images * case.side**2 * config.channels[0] * x.element_size()
    return {"variants": found, "rounds": rounds, "estimated_bytes": estimate}


def run_all(device: torch.device, minutes: float, out: Path, *, tiny: bool = False, rounds: int = 15, backend: str = "inductor") -> None:
    """Everything, until the time is used up; each result is appended to `out` as a line of JSON."""
    deadline = time.monotonic() + 60 * minutes
    out.parent.mkdir(parents=True, exist_ok=True)

    def write(what: str, result: dict) -> None:
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"what": what, **result}) + "\n")
        print(f"{what}: {json.dumps(result)}", flush=True)

    def jobs() -> Iterator[tuple[str, Callable[[], dict]]]:
        for dtype in ("float32",) if tiny else ("float16", "bfloat16", "float32"):
            yield f"floors, {dtype}", lambda dtype=dtype: floors(device, getattr(torch, dtype), 256 if tiny else 8192)
        checks = parity(device)
        yield "parity", lambda: dict(checks)
        for case in cases():
            if tiny:
                case = replace(case, side=16, images=min(case.images, 2), dtype="float32")
            config = TINY if tiny else SHAPES[case.shape]
            yield str(case), lambda case=case, config=config: measure(case, config, device, rounds, backend)

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    write("machine", {"device": name, "torch": torch.__version__, "minutes": minutes, "tiny": tiny})
    with torch.no_grad():
        for what, job in jobs():
            if time.monotonic() > deadline:
                write(what, {"not_run": "no time left"})
                continue
            try:
                write(what, job())
            except (RuntimeError, ValueError) as error:
                write(what, {"failed": f"{type(error).__name__}: {error}"[:500]})


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
    run_all(pick_device(args.device), args.minutes, args.out, tiny=args.tiny, rounds=args.rounds, backend=backend)


if __name__ == "__main__":
    main()
