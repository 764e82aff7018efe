"""What the lab's pictures can show, and the words for it: colours, shapes, textures.

Attributes of a scene are indices into these tables, and captions use the same words.
"""

from pathlib import Path

import torch
from torch import Tensor

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.15, 0.15),
    "orange": (0.95, 0.55, 0.10),
    "yellow": (0.95, 0.88, 0.25),
    "green": (0.15, 0.60, 0.25),
    "blue": (0.15, 0.30, 0.80),
    "purple": (0.50, 0.20, 0.62),
    "pink": (0.97, 0.62, 0.75),
    "white": (0.95, 0.95, 0.95),
    "black": (0.08, 0.08, 0.08),
}
COLOUR_NAMES = tuple(COLOURS)
SHAPE_NAMES = ("circle", "square", "triangle", "star", "heart", "ring", "cross", "moon")
TEXTURE_NAMES = ("plain", "striped", "dotted", "checked")
# Words for a look, for captions and prompts.
STYLE_NAMES = ("cartoon", "grey", "negative", "dark", "sketch", "big", "small", "sepia")
FILLER_NAMES = ("a", "and", "on", "background", "picture", "of", "with", "the", "two")
# Words for the style of a drawing by people, and for changes of it.
LOOK_NAMES = (
    "line", "soft", "blurred", "pale", "faded", "tone", "mosaic", "outlined", "silhouette", "edges", "patterned", "framed",
    "poster", "tinted", "noisy",
)  # fmt: skip
# The words in the names of the training drawings, one per line; numbers are split into digits, as in CLIP.
DRAWING_NAMES = tuple((Path(__file__).parent / "words.txt").read_text(encoding="ascii").split())

WORDS = tuple(dict.fromkeys((*COLOUR_NAMES, *SHAPE_NAMES, *TEXTURE_NAMES, *STYLE_NAMES, *FILLER_NAMES, *LOOK_NAMES, *DRAWING_NAMES)))


def palette() -> Tensor:
    """float32 [colour 3], in [0, 1], in the order of COLOUR_NAMES."""
    return torch.tensor(list(COLOURS.values()), dtype=torch.float32)
