"""Letters and arrows on a grid, which help a language model relate the cells; drawn with Pillow and its font.

Sizes are those of the released code at 256 px cells (Analogist, Gu et al. 2024), scaled with the cell.
"""

import math
from collections.abc import Iterable, Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from analogist.grid.layout import Box

SQUARE = 36 / 256  # side of a letter's black square, in cells
SMALLEST_SQUARE = 16  # px, the smallest at which A' can be read; at most a quarter of the cell
RED = (230, 0, 0)
HALF_LENGTH, THICKNESS, TIP = 1 / 10, 1 / 64, 0.35  # of arrows: in units of a cell, of a cell, of the arrow's length
SMALLEST_THICKNESS = 2  # px


def draw_marks(image: Image.Image, pictures: Mapping[str, Box], cells: Mapping[str, Box]) -> None:
    """Draws each cell's name into the top-left corner of its picture, and an arrow from each cell X to its X', into `image`.

    pictures, cells: boxes of the pictures and of the whole cells, by name.
    """
    left, top, right, bottom = cells["B'"]
    cell = min(right - left, bottom - top)
    side = max(round(SQUARE * cell), min(SMALLEST_SQUARE, cell // 4))
    font_size = _font_size(pictures, side)
    for name, (left, top, _, _) in pictures.items():
        _draw_letter(image, name, left, top, side, font_size)
    for name, (_, top, right, bottom) in cells.items():
        if f"{name}'" in cells:
            _draw_arrow(image, right, (top + bottom) / 2, cell)


def _font_size(names: Iterable[str], side: int) -> float:
    """One size for all letters, so that the longest name (A12' with many pairs) fits its square."""
    size = 0.72 * side
    draw = ImageDraw.Draw(Image.new("L", (1, 1)))
    boxes = [draw.textbbox((0, 0), name, font=ImageFont.load_default(size), stroke_width=_stroke(size)) for name in names]
    widest = max(right - left for left, _, right, _ in boxes)
    return size * min(1.0, 0.92 * side / widest)


def _stroke(font_size: float) -> int:
    return round(font_size / 30)  # the font has only one weight; the published letters are bold


def _draw_letter(image: Image.Image, name: str, left: int, top: int, side: int, font_size: float) -> None:
    draw = ImageDraw.Draw(image)
    draw.rectangle((left, top, left + side - 1, top + side - 1), fill=(0, 0, 0))
    font, stroke = ImageFont.load_default(font_size), _stroke(font_size)
    box = draw.textbbox((0, 0), name, font=font, stroke_width=stroke)
    x, y = left + (side - box[0] - box[2]) / 2, top + (side - box[1] - box[3]) / 2
    draw.text((x, y), name, fill=(255, 255, 255), font=font, stroke_width=stroke, stroke_fill=(255, 255, 255))


def _draw_arrow(image: Image.Image, x: int, y: float, cell: int) -> None:
    """A horizontal arrow pointing right, centred on (x, y): three strokes with round ends, smooth at the edges."""
    half, thickness = HALF_LENGTH * cell, max(SMALLEST_THICKNESS, THICKNESS * cell)
    barb = 2 * half * TIP * math.sqrt(0.5)  # at 45 degrees
    reach = math.ceil(half + thickness) + 1
    left, top = x - reach, round(y) - reach
    at_y, at_x = np.mgrid[: 2 * reach, : 2 * reach] + 0.5  # pixel centres
    at_x, at_y = at_x + left - x, at_y + top - y  # from the arrow's centre

    distance = np.full(at_x.shape, np.inf)
    for back_x, back_y in ((-2 * half, 0.0), (-barb, -barb), (-barb, barb)):  # from the tip, at (half, 0)
        along = ((at_x - half) * back_x + at_y * back_y) / (back_x**2 + back_y**2)
        along = along.clip(0, 1)
        distance = np.minimum(distance, np.hypot(at_x - half - along * back_x, at_y - along * back_y))
    cover = (thickness / 2 - distance + 0.5).clip(0, 1)
    image.paste(RED, (left, top), Image.fromarray(np.round(255 * cover).astype(np.uint8)))
