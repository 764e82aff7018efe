"""On which device the tests compute that take `--device`, and how closely results must agree there.

    python -m pytest --device cuda

runs the tests marked `device` there and leaves the others out. Without it everything runs on the CPU.
"""

import torch

_device = torch.device("cpu")

# Largest relative error ||ours - theirs|| / ||theirs||, by what is compared, dtype, and device. The CPU's were set by its runs. A card
# adds in other orders and has its own exp and sin, so its bounds are twice as wide; the faults looked for cost ten times that.
# Half precisions: some 200 roundings of 2^-11 and 2^-8 through the UNet.
TOLERANCE: dict[tuple[str, torch.dtype, str], float] = {
    ("one attention against float64", torch.float32, "cpu"): 1e-6,
    ("one attention against float64", torch.float32, "cuda"): 2e-6,
    ("the UNet in two forms", torch.float32, "cpu"): 1e-5,
    ("the UNet in two forms", torch.float32, "cuda"): 2e-5,
    ("the UNet in two forms", torch.float16, "cuda"): 1e-2,
    ("the UNet in two forms", torch.bfloat16, "cuda"): 5e-2,
    ("the UNet in another batch", torch.float32, "cpu"): 5e-6,
    ("the UNet in another batch", torch.float32, "cuda"): 1e-5,
    ("the UNet compiled", torch.float32, "cpu"): 1e-5,
    ("the UNet compiled", torch.float32, "cuda"): 2e-5,
    ("the UNet compiled", torch.float16, "cuda"): 1e-2,
    ("the UNet compiled", torch.bfloat16, "cuda"): 5e-2,
    ("the published text", torch.float32, "cpu"): 1e-5,
    ("the published text", torch.float32, "cuda"): 2e-5,
    ("the published first step", torch.float32, "cpu"): 1e-4,
    ("the published first step", torch.float32, "cuda"): 2e-4,
    ("the published last latents", torch.float32, "cpu"): 5e-4,
    ("the published last latents", torch.float32, "cuda"): 1e-3,
}


def use(name: str) -> None:
    """Sets the device, once before tests are collected. Raises ValueError where it is not there."""
    from analogist.checkpoints.devices import pick_device

    global _device
    _device = pick_device(name)


def device() -> torch.device:
    """The device on which the tests marked `device` compute."""
    return _device


def tolerance(what: str, dtype: torch.dtype = torch.float32) -> float:
    """The largest relative error allowed on the device in use. Raises KeyError where the table says nothing."""
    return TOLERANCE[what, dtype, _device.type]
