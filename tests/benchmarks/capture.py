"""The cost of capturing at full size: time per step and peak memory without capture, with region totals, one whole layer, all to disk.

    python -m tests.benchmarks.capture              # 512 px, 3 steps, float32, two branches, random weights of SD 1.5's shape
    python -m tests.benchmarks.capture --size 256 --steps 1

All variants run in this process, one after another, on the same weights. The peak is the kernel's (VmHWM), reset before each.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import torch

from analogist.attention.capture.capture import Capture
from analogist.attention.tap import RunShape, StudyTap
from analogist.models.control import CAM, SAC, AttentionControl
from analogist.models.unet import UNet, UNetConfig

GIB = 2**30


def full_size_unet(dtype: torch.dtype) -> UNet:
    """Random weights of order fan_in ** -0.5, so that activations stay finite."""
    with torch.device("meta"):
        unet = UNet(UNetConfig())
    unet = unet.to(dtype).to_empty(device="cpu").eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in unet.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
        else:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    return unet


def status(field: str) -> int:
    """Bytes of a field of this process's status: VmHWM (peak since reset), VmRSS (now)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def measure(unet: UNet, run: RunShape, capture: Capture | None, attention: str) -> dict:
    """One run of all steps: seconds of each, peak bytes, bytes kept, and the last prediction."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 9, *run.latent, generator=generator, dtype=run.dtype)
    text = torch.randn(2, 77, 768, generator=generator, dtype=run.dtype)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    tap = None if capture is None else StudyTap(capture, None, unet, run)
    seconds = []
    with torch.no_grad():
        prepared = unet.prepare_text(text)
        for i, t in enumerate(run.times):
            start = time.perf_counter()
            eps = unet(x, t, prepared, AttentionControl(step=i, t=t, sac=SAC(), cam=CAM(), tap=tap, attention=attention))
            seconds.append(time.perf_counter() - start)
            x = torch.cat([x[:, :4] - 0.1 * eps, x[:, 4:]], dim=1)
    out = {"seconds": seconds, "peak": status("VmHWM"), "eps": eps, "planned": 0, "kept": 0, "lost": {}}
    if tap is not None:
        tap.close()
        maps = tap.maps
        out |= {"planned": tap.plan.bytes, "kept": maps.nbytes, "lost": maps.lost}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="picture side in pixels (default 512)")
    parser.add_argument("--steps", type=int, default=3, help="steps of each variant (default 3)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--disk", default=None, help="folder to spill into (default: a temporary one, removed afterwards)")
    parser.add_argument("--variants", type=int, nargs="+", help="only these, by number from 0 (1, the explicit run, is always included)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    side = args.size // 8
    times = tuple(range(961, 961 - 20 * args.steps, -20))
    run = RunShape(
        steps=args.steps, times=times, branches=2, images=1, latent=(side, side), size=(args.size, args.size), dtype=torch.float32
    )  # fmt: skip
    unet = full_size_unet(torch.float32)
    resident = status("VmRSS")
    folder = Path(tempfile.mkdtemp(prefix="capture-", dir=args.disk))
    variants = [
        ("off, fused", None, "fused"),
        ("off, explicit", None, "explicit"),
        ("region totals of all self maps", Capture("*.self:probs", reduce="regions"), "explicit"),
        ("all maps of layer 9 (self and cross, scores to probs)", Capture("9:scores", "9:logits", "9:probs"), "explicit"),
        ("all maps to disk (self and cross probs)", Capture("*:probs", spill=folder / "maps"), "explicit"),
    ]
    if args.variants:
        variants = [variant for i, variant in enumerate(variants) if i in {1, *args.variants}]
    try:
        if args.steps > 1:
            measure(unet, run, None, "explicit")  # warm-up of the allocator and the threads
        results = {name: measure(unet, run, capture, form) for name, capture, form in variants}
    finally:
        shutil.rmtree(folder, ignore_errors=True)

    base = results["off, explicit"]
    print(f"{args.size} px, {args.steps} steps, batch 2, float32, {args.threads} threads; {resident / GIB:.2f} GiB resident before\n")
    print("| capture | s per step (minimum) | ratio to explicit | peak GiB | ratio to explicit | MiB above weights | kept MiB | result |")
    print("|---|---|---|---|---|---|---|---|")
    for name, r in results.items():
        least = min(r["seconds"])
        apart = float((r["eps"] - base["eps"]).norm() / base["eps"].norm())
        same = "bit-equal" if torch.equal(r["eps"], base["eps"]) else f"{apart:.1e} off"
        assert r["planned"] == r["kept"] or r["lost"], f"{name}: planned {r['planned']} bytes, kept {r['kept']}"
        print(
            f"| {name} | {least:.2f} | {least / min(base['seconds']):.2f} | {r['peak'] / GIB:.2f} | {r['peak'] / base['peak']:.3f} "
            f"| {(r['peak'] - resident) / 2**20:.0f} | {r['kept'] / 2**20:.1f} | {same} |"
        )
        for lost, why in r["lost"].items():
            print(f"|   lost {lost}: {why} |")


if __name__ == "__main__":
    main()
