"""Attention alone on a CPU, at the shapes of Stable Diffusion 1.5, in several forms of the same sum.

    python -m tests.benchmarks.attention_cpu [--dtypes bfloat16 float32] [--rounds 7] [--threads 1]

For each shape the forms take turns; the table gives processor seconds (medians of the rounds), which other work on the machine changes
little, and each form's ratio to torch's fused kernel at the width as it is. `models/kernels.py` takes its choices from this table.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from analogist.models.kernels import with_small_maps

# name: heads, queries, keys, width. SAC doubles the width (and the heads: two cells at once). Fewer heads than the network's 8 per
# branch at the large shapes: each is computed by itself, so that the ratios are the same.
SHAPES = {
    "self 64 x 64": (2, 4096, 4096, 40),
    "self 32 x 32": (8, 1024, 1024, 80),
    "SAC 32 x 32": (16, 256, 1024, 160),
    "plain rows of SAC 32 x 32": (8, 512, 1024, 80),
    "self 16 x 16": (8, 256, 256, 160),
    "SAC 16 x 16": (16, 64, 256, 320),
    "cross 64 x 64": (8, 4096, 77, 40),
    "cross 32 x 32": (8, 1024, 77, 80),
    "self 64 x 64, 1024 px": (2, 4096, 4096, 80),
    "SAC 64 x 64, 1024 px": (4, 1024, 4096, 160),
}


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5)


def padded(width: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The fused kernel on heads padded with zeros to a multiple of `width`."""

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        d = q.shape[-1]
        more = -d % width
        out = F.scaled_dot_product_attention(*(F.pad(each, (0, more)) for each in (q, k, v)), scale=d**-0.5)
        return out[..., :d]

    return run


def joined(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Two heads joined on the channel axis: each head's queries beside zeros for the other's keys."""
    d = q.shape[-1]
    one, other = q[:, ::2], q[:, 1::2]
    queries = torch.cat([F.pad(one, (0, d)), F.pad(other, (d, 0))], dim=2)
    keys, values = (torch.cat([each[:, ::2], each[:, 1::2]], dim=-1) for each in (k, v))
    first, second = F.scaled_dot_product_attention(queries, keys, values, scale=d**-0.5).chunk(2, dim=2)
    return torch.stack([first[..., :d], second[..., d:]], dim=2).flatten(1, 2)


def explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """With a map, one head after the other."""
    out = torch.empty_like(q)
    for head in range(q.shape[1]):
        logits = (q[:, head] * q.shape[-1] ** -0.5) @ k[:, head].mT
        out[:, head] = torch.softmax(logits, -1, out=logits) @ v[:, head]
    return out


def small_maps(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return with_small_maps(q, k, v, q.shape[-1] ** -0.5)


FORMS = {
    "fused": fused, "padded to 32": padded(32), "padded to 64": padded(64), "heads joined": joined, "explicit": explicit,
    "small maps": small_maps,
}  # fmt: skip


def measure(shape: tuple[int, int, int, int], dtype: torch.dtype, rounds: int) -> dict[str, float]:
    """Processor seconds of each form, medians; forms whose result differs are an error."""
    heads, queries, keys, width = shape
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, heads, n, width, generator=generator).to(dtype) for n in (queries, keys, keys))
    expected = fused(*(each.float() for each in (q, k, v)))
    took: dict[str, list[float]] = {name: [] for name in FORMS}
    for turn in range(rounds + 1):
        for name, form in FORMS.items():
            begun = time.process_time()
            out = form(q, k, v)
            if turn:  # the first is not counted
                took[name].append(time.process_time() - begun)
            elif (error := float((out.float() - expected).norm() / expected.norm())) > (1e-5 if dtype == torch.float32 else 2e-2):
                raise SystemExit(f"{name} differs by {error:.1e} at {shape}")
    return {name: statistics.median(times) for name, times in took.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print("| dtype | shape | fused, s | " + " | ".join(list(FORMS)[1:]) + " |\n|" + "---|" * (2 + len(FORMS)))
    for dtype in args.dtypes:
        for name, shape in SHAPES.items():
            found = measure(shape, getattr(torch, dtype), args.rounds)
            ratios = " | ".join(f"{found[form] / found['fused']:.2f}" for form in list(FORMS)[1:])
            print(f"| {dtype} | {name}, {shape[3]} wide | {found['fused']:.3f} | {ratios} |", flush=True)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
