"""The guided UNet call: the one place where the product asks the network for a denoising step.

Place in the flow: below the sampler, the known pictures and inversion, the ablation engine and the lab's measurement, which all
call it and hand its output to `Schedule.step`.
Source: Ho and Salimans 2022 (classifier-free guidance), Eq. (6); Gu et al. 2024 (Analogist) and the authors' code.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from analogist.models.control import AttentionControl
from analogist.models.text import EncodedText, PreparedText
from analogist.models.unet import UNet


@contextmanager
def exact(device: torch.device, tf32: bool = False) -> Iterator[None]:
    """Turns TF32 off for convolutions on CUDA unless it is on for matrix products; the previous settings are restored afterwards.

    torch leaves TF32 on for convolutions and off for matrix products. Here one setting decides for both, that of matrix
    products (`torch.backends.cuda.matmul`). tf32: turns it on for both.
    """
    if device.type != "cuda":
        yield
        return
    matmul: Any = torch.backends.cuda.matmul
    conv: Any = getattr(torch.backends.cudnn, "conv", None)
    if hasattr(conv, "fp32_precision") and hasattr(matmul, "fp32_precision"):
        before = conv.fp32_precision, matmul.fp32_precision
        matmul.fp32_precision = "tf32" if tf32 else before[1]
        conv.fp32_precision = "tf32" if matmul.fp32_precision == "tf32" else "ieee"
        try:
            yield
        finally:
            conv.fp32_precision, matmul.fp32_precision = before
    else:  # torch before 2.9
        cudnn, before = torch.backends.cudnn, matmul.allow_tf32
        matmul.allow_tf32 = tf32 or before
        try:
            with cudnn.flags(cudnn.enabled, cudnn.benchmark, cudnn.benchmark_limit, cudnn.deterministic, matmul.allow_tf32):
                yield
        finally:
            matmul.allow_tf32 = before


def guided(
    unet: UNet, z_t: Tensor, fixed: Tensor, text: EncodedText | PreparedText, control: AttentionControl, guidance: float | Tensor
) -> Tensor:
    """The network's output with classifier-free guidance, out = out_neg + w (out_text - out_neg), float32 [image 4 h w].

    The checkpoint's `Schedule` says what it means (noise or velocity). Gradients flow if enabled.
    z_t: image 4 h w, noisy latents at control.t. fixed: image 5 h w, mask and masked-image latents. text: (branch image) token channel.
    control: with one branch only the text branch is run, and guidance has no effect. guidance: w, one for all images or a tensor [image].
    """
    # channel order of the checkpoints: noisy latents 4, mask 1, masked-image latents 4
    x = torch.cat([z_t, fixed], dim=1).to(text.dtype)
    with exact(x.device, unet.tf32):
        out = unet(torch.cat([x] * control.branches), control.t, text, control).float()
    if control.branches == 1:
        return out
    negative, prompted = out.chunk(2)
    w = guidance[:, None, None, None] if isinstance(guidance, Tensor) else guidance
    return negative + w * (prompted - negative)


def not_finite(step: int, t: int, dtype: torch.dtype) -> str:
    """The message for a step that gave NaN or infinite latents."""
    return f"NaN or infinite latents at step {step} (t = {t}) in {dtype}; try dtype float32 or bfloat16, or a smaller guidance or SAC scale"
