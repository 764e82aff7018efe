"""Where the channels of a picture lie in memory: last, where that was measured to be faster or is asked for.

The order of memory changes no shape. Sums are added in another order, so that results agree up to rounding.
"""

import torch
from torch import nn

# Time of Stable Diffusion 1.5's 3x3 convolutions with channels last, as a part of their time as they are: medians over the shapes of
# tests/benchmarks/layout_cpu.py. What is not in the table was not measured.
MEASURED: dict[tuple[str, torch.dtype], float] = {
    ("cpu", torch.bfloat16): 0.98,
    ("cpu", torch.float32): 1.05,
}
WORTH = 0.95  # of the time


def pays(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether channels last was measured to be faster."""
    return MEASURED.get((device.type, dtype), 1.0) <= WORTH


def channels_last(network: nn.Module) -> None:
    """Orders the weights of a network's convolutions so that its pictures keep their channels last, too."""
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue, reportUnknownMemberType]


def is_channels_last(network: nn.Module) -> bool:
    """Whether any convolution has its weights in this order. One of a single channel or a single position has both."""
    weights = (module.weight for module in network.modules() if isinstance(module, nn.Conv2d))
    return any(weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous() for weight in weights)
