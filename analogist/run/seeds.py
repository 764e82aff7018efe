"""The random numbers of a run: one CPU generator per image, or one for all in the published order.

A seed gives the same numbers on every device, and image k of a batch is image 0 of seed s + k.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from analogist.models.numbers import plain
from analogist.run.transfer import to_device


@dataclass(frozen=True)
class Draws:
    """The random numbers of a run's start, float32 on the CPU, all N(0, 1): [image 4 h w] each.

    noise: for the start latents. image, masked: for sampling the posteriors of `pasted` and of the masked picture.
    """

    noise: Tensor
    image: Tensor
    masked: Tensor

    def of(self, images: slice) -> "Draws":
        """Those of some images."""
        return Draws(self.noise[images], self.image[images], self.masked[images])


class Randomness:
    """Draws for the start of a run and, where eta > 0, for its steps.

    seeds: one per image, each with its own generator, which draws the noise and then the two posteriors.
    generator: instead of seeds, one torch.Generator consumed in the published order: the noise of all images, then one
    draw for each posterior, shared by the images.
    """

    def __init__(self, seeds: Sequence[int], generator: Generator | None = None) -> None:
        if generator is not None and generator.device.type != "cpu":
            raise ValueError(f"generator on {generator.device}: give a CPU generator, so that results do not depend on the device")
        self.seeds = tuple(seeds)
        self._shared = generator
        self._own = [Generator("cpu").manual_seed(seed) for seed in seeds] if generator is None else []

    def draw(self, channels: int, h: int, w: int) -> Draws:
        """The start's draws for latents [image channels h w]."""
        if self._shared is not None:
            images = len(self.seeds)
            noise = normal((images, channels, h, w), self._shared)
            image, masked = (normal((1, channels, h, w), self._shared).expand(images, -1, -1, -1) for _ in range(2))
            return Draws(noise, image, masked)
        drawn = [[normal((1, channels, h, w), own) for _ in range(3)] for own in self._own]
        return Draws(*(torch.cat(parts) for parts in zip(*drawn, strict=True)))

    def step_noise(self, like: Tensor) -> Tensor:
        """N(0, 1) for one step with eta > 0. like: image 4 h w."""
        if self._shared is not None:
            noise = normal(like.shape, self._shared)
        else:
            noise = torch.cat([normal((1, *like.shape[1:]), own) for own in self._own])
        return to_device(noise, like.device)


def normal(shape: Sequence[int], generator: Generator) -> Tensor:
    """N(0, 1), float32 on the CPU independent of torch's default type and device, so that a seed gives the same numbers everywhere."""
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32, device="cpu")


def check_seeds(seed: int, images: int) -> tuple[int, ...]:
    """Effective seeds of the images, s + k. Raises ValueError on a seed or number of images that is not allowed."""
    seed, images = plain(seed), plain(images)
    if isinstance(images, bool) or not isinstance(images, int) or images < 1:
        raise ValueError(f"images {images!r}: expected a whole number of at least 1")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63 - images:
        raise ValueError(f"seed {seed!r}: expected a whole number from 0 to 2**63")
    return tuple(seed + k for k in range(images))
