"""How torch's attention without a map is called: at widths of heads that its kernels take, or with small maps where these are faster.

Padding: queries, keys and values are filled up with zeros to a width that a kernel takes. In q . k the zeros meet zeros and add nothing;
the extra columns of the result, from the padded values, are cut off. Small maps: the map of one head is computed for a few queries at a
time and thrown away, which is exact because the softmax treats every query's row by itself.
Both add numbers in another order than the kernel as it is, so that results differ in the last bits.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .cpu_tricks import softmax_in_place

# On CUDA devices the flash and memory-efficient kernels read heads in steps of 16 bytes; other widths fall back to a whole map.
CUDA_STEP = 8
# The flash kernel takes heads up to this width, the memory-efficient kernel any. So SAC's heads 320 wide run in the latter, without a map.
# Source: PyTorch, aten/src/ATen/native/transformers/cuda/sdp_utils.cpp, check_head_dim_size_flash and check_head_dim_size_mem_efficient.
FLASH_WIDEST = 256
# Time with small maps as a part of the kernel's, on a CPU in bfloat16, by width of the heads, at 512 px with and without SAC
# (tests/benchmarks/attention_cpu.py, AMD EPYC Zen 5 with bfloat16 units, torch 2.13, one thread). Nothing was gained at a width of 40, and
# little on the 77 keys of a text; other widths were not measured.
SMALL_MAPS = {80: 0.67, 160: 0.59, 320: 0.77}
FEWEST_KEYS = 256
NUMBERS = 2**20  # of a small map: it stays in the processor's cache


def kernel_width(width: int, device: str) -> int:
    """The width at which heads of a width are computed on a type of device."""
    return -(-width // CUDA_STEP) * CUDA_STEP if device == "cuda" else width


def without_map(width: int) -> tuple[str, ...]:
    """Which of torch's CUDA kernels without a map take heads of a width as they are computed, the one that torch prefers first."""
    return ("flash", "memory-efficient") if kernel_width(width, "cuda") <= FLASH_WIDEST else ("memory-efficient",)


def in_small_maps(width: int, keys: int, dtype: torch.dtype, device: str) -> bool:
    """Whether heads of a width are computed with small maps. Never in float32, whose bits do not depend on this file on a CPU."""
    return device == "cpu" and dtype == torch.bfloat16 and width in SMALL_MAPS and keys >= FEWEST_KEYS


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """softmax(scale q k^T) v without a whole map. q: batch head query d; k, v: batch head key d -> as q. scale None: 1/sqrt(d)."""
    d, device = q.shape[-1], q.device.type
    if in_small_maps(d, k.shape[-2], q.dtype, device):
        return with_small_maps(q, k, v, d**-0.5 if scale is None else scale)
    more = kernel_width(d, device) - d
    if not more:
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
    q, k, v = (F.pad(each, (0, more)) for each in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=d**-0.5 if scale is None else scale)[..., :d]


def with_small_maps(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """As `attend`, from maps of at most NUMBERS numbers."""
    rows = max(1, NUMBERS // k.shape[-2])
    each_head = zip((q * scale).flatten(0, 1).unbind(), k.flatten(0, 1).unbind(), v.flatten(0, 1).unbind(), strict=True)
    return torch.stack([_one_head(torch.split(queries, rows), keys, values) for queries, keys, values in each_head]).view(q.shape)


def _one_head(queries: tuple[Tensor, ...], k: Tensor, v: Tensor) -> Tensor:
    """One head. queries: each some query d, scaled; k, v: key d -> query d."""
    out: list[Tensor] = []
    for some in queries:
        logits = some @ k.mT
        out.append((logits.softmax(-1) if logits.requires_grad else softmax_in_place(logits)) @ v)
    return torch.cat(out)
