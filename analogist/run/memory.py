"""How many images one UNet call computes: as many as the memory allows that is really free."""

from collections.abc import Iterator
from pathlib import Path

import torch

from analogist.models.unet import UNetConfig

# Peak bytes of one guided UNet call above its weights, in units of branches x h x w x first channels x element size:
# 38 measured at 512 px on Stable Diffusion 1.5's shape in float32, with a margin.
ACTIVATIONS = 60
MOST_COPIES = 16  # of every image in one batch, where edits ask for copies; more gain nothing
UNKNOWN = 8 * 2**30  # bytes assumed free on a system that does not say: a common laptop


def free_bytes(device: torch.device) -> int:
    """Memory of a device in bytes that this process can still have. On the CPU: what the system can give without swapping, and no more
    than the limit of the process's control group (a container's, a batch job's) leaves.
    """
    if device.type == "cuda":
        # memory that the allocator holds but does not use is also free; else a second call would choose another batch
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min([_available(), *_left_in_groups()])


def _available(meminfo: Path = Path("/proc/meminfo")) -> int:
    """What the system can give without swapping."""
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return UNKNOWN


def _left_in_groups(own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """What the limit of each control group leaves in which this process is, in both versions of Linux's control groups."""
    if not own.exists():
        return
    for line in own.read_text().splitlines():
        _, kinds, path = line.split(":", 2)
        if kinds == "":
            base, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in kinds.split(","):
            base, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        folder = base / path.strip("/")
        for group in (folder, *folder.parents):
            if group.is_relative_to(base) and (left := _left(group, *names)) is not None:
                yield left


def _left(group: Path, limit: str, used: str, inactive: str) -> int | None:
    """What a group's limit leaves; None where it has none. Files that it read and no longer uses count as used, but can be dropped."""
    try:
        most, now = (group / limit).read_text().strip(), int((group / used).read_text())
        droppable = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    return None if most == "max" else max(0, int(most) - now + int(droppable.get(inactive, 0)))


def call_bytes(config: UNetConfig, *, branches: int, h: int, w: int, dtype: torch.dtype, maps: bool) -> int:
    """An upper estimate of the memory of one UNet call above its weights, for each image. Arguments as of `images_at_once`."""
    one = ACTIVATIONS * branches * h * w * config.channels[0] * dtype.itemsize
    if maps:  # scores, and their softmax in float32
        stride = 2 ** next((level for level, depth in enumerate(config.depth) if depth), 0)  # of the finest site with attention
        one += branches * (h * w // stride**2) ** 2 * (dtype.itemsize + 4)
    return one


def images_at_once(
    config: UNetConfig, *, images: int, branches: int, h: int, w: int, device: torch.device, dtype: torch.dtype, maps: bool
) -> int:
    """Images per UNet call that fit into half of the free memory, at least 1 and at most `images`.

    h, w: of the latents. maps: whether maps are held (explicit form); then those of one head at the finest site are added.
    """
    one = call_bytes(config, branches=branches, h=h, w=w, dtype=dtype, maps=maps)
    return max(1, min(images, free_bytes(device) // 2 // one))
