"""How many images one UNet call computes: as many as the free memory allows."""

from pathlib import Path

import torch

from analogist.models.unet import UNetConfig

# Peak bytes of one guided UNet call above its weights, in units of branches x h x w x first channels x element size:
# 38 measured at 512 px on Stable Diffusion 1.5's shape in float32, with a margin.
ACTIVATIONS = 60
MOST_COPIES = 16  # of every image in one batch, where edits ask for copies; more gain nothing


def free_bytes(device: torch.device) -> int:
    """Free memory of a device in bytes; on the CPU, the memory that the system reports as available."""
    if device.type == "cuda":
        # memory that the allocator holds but does not use is also free; else a second call would choose another batch
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 8 * 2**30  # unknown system: assume a common laptop


def images_at_once(
    config: UNetConfig, *, images: int, branches: int, h: int, w: int, device: torch.device, dtype: torch.dtype, maps: bool
) -> int:
    """Images per UNet call that fit into half of the free memory, at least 1 and at most `images`.

    h, w: of the latents. maps: whether maps are held (explicit form); then those of one head at the finest site are added.
    """
    itemsize = torch.empty((), dtype=dtype).element_size()
    one = ACTIVATIONS * branches * h * w * config.channels[0] * itemsize
    if maps:  # scores, and their softmax in float32
        stride = 2 ** next((level for level, depth in enumerate(config.depth) if depth), 0)  # of the finest site with attention
        one += branches * (h * w // stride**2) ** 2 * (itemsize + 4)
    return max(1, min(images, free_bytes(device) // 2 // one))
