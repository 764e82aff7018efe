"""Random pictures and grids of them, for tests that need some pictures and not certain ones."""

import numpy as np
from PIL import Image

from analogist.grid import PromptGrid


def random_picture(seed: int, size: tuple[int, int] = (61, 61), *, blocks: int = 8) -> Image.Image:
    """Blocks x blocks random colours, enlarged smoothly to a width and height that need not be the cell's."""
    colours = np.random.default_rng(seed).integers(0, 256, (blocks, blocks, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)


def random_grid(seed: int = 0, size: int | tuple[int, int] | None = 128) -> PromptGrid:
    """A grid of the pictures of seeds seed .. seed + 2."""
    return PromptGrid(random_picture(seed), random_picture(seed + 1), random_picture(seed + 2), size)
