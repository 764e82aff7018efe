"""What is held out of training: whole families of analogies, and pairs of shape and colour.

Neither a grid of a held-out family nor a picture with a held-out pair ever occurs in training. Seeds are separate as well:
training uses seeds below EVALUATION_SEED, evaluation uses it and higher ones.
"""

from .vocabulary import COLOUR_NAMES, SHAPE_NAMES

# name: the published task it stands for
TRAINED: dict[str, str] = {
    "colorize": "colorization",
    "deblur": "deblur",
    "denoise": "denoise",
    "enhance": "enhancement",
    "fill": "inpainting",
    "recolour": "image editing",
    "swap": "image editing",
    "resize": "image editing",
    "move": "image editing",
    "add": "image editing",
    "remove": "image editing",
    "background": "image translation",
    "sketch": "image translation",
    "texture": "style transfer",
    "cartoon": "style transfer",
    "sepia": "style transfer",
    "skeleton": "skeleton to image",
    "mask": "mask to image",
}
HELD_OUT: dict[str, str] = {
    "decolour": "colorization, reversed",
    "darken": "enhancement, reversed",
    "unmosaic": "deblur, with blocks",
    "untexture": "style transfer, reversed",
    "repaint": "image editing, object and background together",
}
FAMILIES: tuple[str, ...] = (*TRAINED, *HELD_OUT)

HELD_OUT_PAIRS: tuple[tuple[str, str], ...] = (
    ("circle", "orange"),
    ("square", "purple"),
    ("triangle", "pink"),
    ("star", "green"),
    ("heart", "blue"),
    ("ring", "yellow"),
    ("cross", "red"),
    ("moon", "white"),
)
EVALUATION_SEED = 1_000_000_000


def held_out_table() -> list[list[bool]]:
    """Table [shape][colour], in the vocabulary's order: whether the pair is held out."""
    return [[(shape, colour) in HELD_OUT_PAIRS for colour in COLOUR_NAMES] for shape in SHAPE_NAMES]
