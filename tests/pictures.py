"""Random pictures and a grid of them, for tests that need some pictures and not certain ones."""

import numpy as np
from PIL import Image

from analogist.grid import PromptGrid


def random_picture(seed: int) -> Image.Image:
    """8 x 8 random colours, enlarged smoothly to 61 x 61 px, the picture's part of a cell of 64."""
    colours = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((61, 61), Image.Resampling.BICUBIC)


def random_grid() -> PromptGrid:
    """A grid of 128 px, of the pictures of seeds 0, 1 and 2."""
    return PromptGrid(random_picture(0), random_picture(1), random_picture(2), size=128)
