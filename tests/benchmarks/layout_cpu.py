"""3x3 convolutions, normalisation and token layers on a CPU with the channels last in memory, as a part of their time as they are.

    python -m tests.benchmarks.layout_cpu [--rounds 5] [--threads 1]

At the shapes of Stable Diffusion 1.5 (512 px, two branches). Both orders take turns; processor seconds, medians of the rounds, which
other work on the machine changes little. `models/memory_layout.py` takes its choice from this table.
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F

SHAPES = [(320, 64, 320), (640, 64, 320), (640, 32, 640), (1280, 32, 640), (1280, 16, 1280)]  # channels in, side, channels out


def measure(cin: int, side: int, cout: int, dtype: torch.dtype, rounds: int) -> dict[str, list[float]]:
    """Seconds with the usual order and with channels last, of each kind of layer."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, cin, side, side, generator=generator).to(dtype)
    weight = (torch.randn(cout, cin, 3, 3, generator=generator) * (9 * cin) ** -0.5).to(dtype)
    scale, tokens = torch.ones(cin, dtype=dtype), torch.ones(64, cin, dtype=dtype)
    last = torch.channels_last
    took: dict[str, list[list[float]]] = {}
    for turn in range(rounds + 1):
        for order, (picture, w) in enumerate(((x, weight), (x.contiguous(memory_format=last), weight.contiguous(memory_format=last)))):
            layers = {
                "convolution": lambda picture=picture, w=w: F.conv2d(picture, w, padding=1),
                "normalisation": lambda picture=picture: F.silu(F.group_norm(picture, 32, scale, scale)),
                "tokens": lambda picture=picture: F.linear(picture.flatten(2).mT, tokens),
            }
            for name, layer in layers.items():
                begun = time.process_time()
                layer()
                if turn:
                    took.setdefault(name, [[], []])[order].append(time.process_time() - begun)
    return {name: [statistics.median(times) for times in both] for name, both in took.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print("| dtype | channels, side | convolution, s | channels last | normalisation, s | channels last | tokens, s | channels last |")
    print("|" + "---|" * 8)
    for dtype in (torch.bfloat16, torch.float32):
        for cin, side, cout in SHAPES:
            found = measure(cin, side, cout, dtype, args.rounds)
            cells = " | ".join(f"{usual:.4f} | {last / usual:.2f}" for usual, last in found.values())
            print(f"| {str(dtype).removeprefix('torch.')} | {cin} -> {cout}, {side} | {cells} |", flush=True)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
