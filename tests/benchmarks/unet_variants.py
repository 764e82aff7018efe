"""One guided step at full SD 1.5 size, by this project and by diffusers, with the same random weights.

As a program it measures one thing and prints JSON; unet_step.py starts it once for the times and once per variant for the memory.
"""

import argparse
import ctypes
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from analogist.models.control import CAM, SAC, AttentionControl
from analogist.models.unet import UNet, UNetConfig
from analogist.weights.keymaps import unet_diffusers

VARIANTS = {
    "fused": "ours, fused",
    "explicit": "ours, explicit",
    "sdpa": "diffusers, no edit, SDPA",
    "maps": "diffusers, no edit, whole maps",
}
T = 501


def random_unet(dtype: torch.dtype) -> UNet:
    """The full-size UNet with random weights of a realistic scale; every tensor is created once."""
    with torch.device("meta"):
        unet = UNet(UNetConfig())
    generator = torch.Generator().manual_seed(0)

    def values(name: str, like: Tensor) -> Tensor:
        if like.ndim > 1:
            return torch.empty(like.shape).uniform_(-1, 1, generator=generator).mul_((3 / like[0].numel()) ** 0.5).to(dtype)
        return torch.full(like.shape, 1.0 if name.endswith("weight") else 0.0, dtype=dtype)

    unet.load_state_dict({name: values(name, like) for name, like in unet.named_parameters()}, assign=True)
    return unet.eval().requires_grad_(False)


def as_diffusers(unet: UNet, *, whole_maps: bool) -> nn.Module:
    """diffusers' UNet with the same tensors, without copies. whole_maps: with its AttnProcessor, which holds every whole map."""
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import AttnProcessor

    with torch.device("meta"):
        theirs = UNet2DConditionModel(in_channels=9, cross_attention_dim=768)
    ours = unet.state_dict()
    named = {name: (targets[0].name, theirs.state_dict()[name].shape) for name, targets in unet_diffusers(theirs.state_dict()).items()}
    theirs.load_state_dict({name: ours[own].view(shape) for name, (own, shape) in named.items()}, assign=True)
    if whole_maps:
        theirs.set_attn_processor(AttnProcessor())
    return theirs.eval().requires_grad_(False)


def step(variant: str, unet: UNet, dtype: torch.dtype, side: int, images: int) -> Callable[[], Tensor]:
    """The UNet call of one guided step (2 x images rows). side: of the latent. Ours: SAC and CAM on layers 3..10."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2 * images, 9, side, side, generator=generator).to(dtype)
    text = torch.randn(2 * images, 77, 768, generator=generator).to(dtype)
    if variant in ("fused", "explicit"):
        prepared = unet.prepare_text(text)  # once per run
        control = AttentionControl(t=T, images=images, sac=SAC(), cam=CAM(), attention=variant)
        return lambda: unet(x, T, prepared, control)
    theirs = as_diffusers(unet, whole_maps=variant == "maps")
    return lambda: theirs(x, T, text, return_dict=False)[0]


def memory_of_maps(dtype: torch.dtype, side: int, images: int) -> int:
    """Bytes of whole maps at the finest site, before and after the softmax."""
    return 2 * (2 * images * 8 * side**4) * torch.empty((), dtype=dtype).element_size()


def seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock and processor time (all threads) of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - processor


def times(dtypes: list[str], variants: list[str], side: int, images: int, rounds: int) -> dict:
    """All variants once per round, in turn, after one uncounted call each; also the product of two 4096 x 4096 matrices."""
    calls: dict[str, Callable[[], object]] = {}
    unet = random_unet(torch.float32)
    for name in dtypes:
        dtype = getattr(torch, name)
        unet = unet if dtype == torch.float32 else cast(unet, dtype)
        calls |= {f"{variant} {name}": step(variant, unet, dtype, side, images) for variant in variants}
        square = torch.randn(4096, 4096, generator=torch.Generator().manual_seed(2)).to(dtype)
        calls[f"product {name}"] = lambda square=square: square @ square
    for call in calls.values():
        call()
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            measured[name].append(seconds(call))
    return measured


def cast(unet: UNet, dtype: torch.dtype) -> UNet:
    """A second UNet with the weights in another dtype."""
    with torch.device("meta"):
        other = UNet(unet.config)
    other.load_state_dict({name: tensor.to(dtype) for name, tensor in unet.state_dict().items()}, assign=True)
    return other.eval().requires_grad_(False)


def status(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def peak(variant: str, dtype: torch.dtype, side: int, images: int) -> int:
    """The peak of resident memory in a step minus that before it, in bytes; weights and an earlier step are not counted."""
    call = step(variant, random_unet(dtype), dtype, side, images)
    call()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # frees what the allocator kept from the earlier step
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    call()
    return status("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["times", "peak"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, required=True)
    parser.add_argument("--dtypes", nargs="+", required=True)
    for name in ("side", "images", "rounds", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with torch.inference_mode():
        if args.what == "times":
            result: object = times(args.dtypes, args.variants, args.side, args.images, args.rounds)
        else:
            result = peak(args.variants[0], getattr(torch, args.dtypes[0]), args.side, args.images)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
