"""Time and memory of one guided step at full SD 1.5 size: ours fused and explicit, diffusers, and the processor's lower bound.

    python -m tests.benchmarks.unet_step --quick          # 512 px, float32 and bfloat16, two rounds
    python -m tests.benchmarks.unet_step --write          # all cases; writes tests/benchmarks/results/unet_step.md

Ours has SAC and CAM on layers 3..10, diffusers computes no edits. Variants run in turn in one process and share one set of
random weights. Ratios are medians over rounds of the ratio within a round, in wall-clock time and in processor time (all threads),
which other work on the machine disturbs less.
Memory is measured in one process per variant: the peak of resident memory in a step, minus weights and an earlier step.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.unet_variants import VARIANTS, memory_of_maps

RESULTS = Path(__file__).parent / "results" / "unet_step.md"
CASES = {"512 px, 1 image": (64, 1), "768 px, 1 image": (96, 1), "512 px, 4 images": (64, 4)}
DTYPES = ("float32", "bfloat16")
WEIGHTS = {"float32": 3.44e9, "bfloat16": 1.72e9}
Times = dict[str, list[list[float]]]


def operations(side: int, images: int) -> float:
    """Floating-point operations of an unedited step, counted on the meta device."""
    from analogist.models.control import AttentionControl
    from analogist.models.unet import UNet, UNetConfig

    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        unet = UNet(UNetConfig())
        x, text = torch.empty(2 * images, 9, side, side), torch.empty(2 * images, 77, 768)
        unet(x, torch.tensor([501]), text, AttentionControl(images=images, attention="explicit"))
    return counter.get_total_flops()


def child(what: str, variants: list[str], dtypes: list[str], case: str, rounds: int, threads: int):
    """Runs unet_variants in a separate process and returns its JSON."""
    side, images = CASES[case]
    command = [sys.executable, "-m", "tests.benchmarks.unet_variants", what, "--variants", *variants, "--dtypes", *dtypes]
    command += ["--side", str(side), "--images", str(images), "--rounds", str(rounds), "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.splitlines()[-1])


def ratio(measured: Times, name: str, reference: str, clock: int) -> float:
    """Median over rounds of one call's time over another's in the same round. clock: 0 wall, 1 processor."""
    return statistics.median(a[clock] / b[clock] for a, b in zip(measured[name], measured[reference], strict=True))


def rows(case: str, dtype: str, measured: Times, peaks: dict[str, int]) -> list[str]:
    """The lines of the table for one case and dtype."""
    lines = []
    for variant, label in VARIANTS.items():
        name = f"{variant} {dtype}"
        memory = f"{peaks[variant] / 1e9:.2f}" if variant in peaks else "not run"
        if name not in measured:
            lines.append(f"| {case} | {dtype} | {label} | not run | | | | {memory} |")
            continue
        wall, processor = (statistics.median(clock[i] for clock in measured[name]) for i in range(2))
        others = [f"{other} {dtype}" for other in ("sdpa", "maps")]
        against = [
            " / ".join(f"{ratio(measured, name, other, clock):.2f}" for clock in (0, 1)) if other in measured else "" for other in others
        ]
        lines.append(f"| {case} | {dtype} | {label} | {wall:.2f} | {processor:.2f} | {against[0]} | {against[1]} | {memory} |")
    return lines


def remarks(case: str, dtype: str, measured: Times, total: float) -> list[str]:
    """The time of one case relative to the processor's lower bound and to float32. total: floating-point operations of the step."""
    product = 2 * 4096**3
    rate, floor = (statistics.median(clock[1] for clock in measured[f"product {dtype}"]) / product * n for n in (1e12, total))
    of_floor = [ratio(measured, f"fused {dtype}", f"product {dtype}", clock) * product / total for clock in (0, 1)]
    lines = [
        f"- {case}, {dtype}: {total / 1e12:.3f} TFLOP; a TFLOP of a 4096 cubed product takes {rate:.2f} s of the processor, "
        f"the step's floor is {floor:.2f} s, and ours fused takes {of_floor[0]:.2f} / {of_floor[1]:.2f} of it (clock / processor)"
    ]
    if dtype == "bfloat16" and "fused float32" in measured:
        shares = [ratio(measured, "fused bfloat16", "fused float32", clock) for clock in (0, 1)]
        lines.append(f"- {case}: ours fused in bfloat16 takes {shares[0]:.2f} / {shares[1]:.2f} of float32 (clock / processor)")
    return lines


def machine(threads: int) -> str:
    """Processor, cores and versions, in one line."""
    names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    flags = Path("/proc/cpuinfo").read_text()
    units = ", ".join(flag for flag in ("avx512f", "avx512_bf16", "amx_bf16") if f" {flag}" in flags)
    import diffusers

    versions = f"torch {torch.__version__}, diffusers {diffusers.__version__}"
    return f"{names[0]} ({units}), {threads} of {os.cpu_count()} cores used; {versions}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="512 px and one image only, two rounds")
    parser.add_argument("--rounds", type=int, default=4, help="how many times each variant is measured (default 4)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of each call (default: all cores)")
    parser.add_argument("--memory", type=float, default=14.0, help="GB that a process may use; cases that need more are not run")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="which cases (default: all)")
    parser.add_argument("--write", action="store_true", help="also write tests/benchmarks/results/unet_step.md")
    args = parser.parse_args()
    rounds, cases = (2, list(CASES)[:1]) if args.quick else (args.rounds, args.cases)

    table, notes = [], []
    for case in cases:
        total = operations(*CASES[case])
        measured: Times = {}
        for dtypes in [list(DTYPES)] if CASES[case] == (64, 1) else [[dtype] for dtype in DTYPES]:
            whole = WEIGHTS["float32"] + sum(WEIGHTS[dtype] for dtype in dtypes if dtype != "float32")
            whole += memory_of_maps(getattr(torch, dtypes[0]), *CASES[case])
            variants = [variant for variant in VARIANTS if variant != "maps" or whole < args.memory * 1e9]
            measured |= child("times", variants, dtypes, case, rounds, args.threads)
            print(f"{case}, {' and '.join(dtypes)}: timed", file=sys.stderr, flush=True)
        for dtype in DTYPES:
            whole = WEIGHTS[dtype] + memory_of_maps(getattr(torch, dtype), *CASES[case])
            fits = [variant for variant in VARIANTS if variant != "maps" or whole < args.memory * 1e9]
            peaks = {variant: child("peak", [variant], [dtype], case, 1, args.threads) for variant in fits}
            table += rows(case, dtype, measured, peaks)
            notes += remarks(case, dtype, measured, total)
            print(f"{case}, {dtype}: memory measured", file=sys.stderr)

    head = (
        "| case | dtype | variant | step, s | processor time, s | of diffusers' SDPA, clock / processor "
        "| of its whole maps, clock / processor | peak above weights, GB |"
    )
    text = "\n".join(
        [
            f"One guided step (2 branches), SD 1.5 size, random weights, SAC and CAM on layers 3..10 in ours. {datetime.date.today()}",
            machine(args.threads) + f"; {rounds} rounds.",
            "",
            head,
            "|---|---|---|---|---|---|---|---|",
            *table,
            "",
            *notes,
        ]
    )
    print(text)
    if args.write:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
