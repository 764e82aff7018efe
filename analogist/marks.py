"""Letters and arrows on a grid, by which a language model relates its cells; Pillow's own drawing and font.

Sizes are those of the released code at 256 px cells (Analogist, Gu et al. 2024), scaled with the cell.
"""

import math
from collections.abc import Iterable, Mapping

from PIL import Image, ImageDraw, ImageFont

from analogist.layout import Box

SQUARE = 36 / 256  # side of a letter's black square, in cells
SMALLEST_SQUARE = 16  # px, below which an A' can't be read; at most a quarter of the cell
RED = (230, 0, 0)
HALF_LENGTH, THICKNESS, TIP = 1 / 10, 1 / 64, 0.35  # arrows: in cells, in cells, in arrow lengths
TIP_ANGLE = math.pi / 4
OVERSAMPLE = 4  # arrows are drawn so much larger and reduced, for smooth edges


def draw_marks(image: Image.Image, pictures: Mapping[str, Box], cells: Mapping[str, Box]) -> None:
    """Draws each cell's name into the top-left corner of its picture, and an arrow from each cell X to its X', into `image`.

    pictures, cells: by name, where the pictures and the whole cells lie.
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
    return round(font_size / 30)  # the font comes in one weight; the published letters are bold


def _draw_letter(image: Image.Image, name: str, left: int, top: int, side: int, font_size: float) -> None:
    draw = ImageDraw.Draw(image)
    draw.rectangle((left, top, left + side - 1, top + side - 1), fill=(0, 0, 0))
    font, stroke = ImageFont.load_default(font_size), _stroke(font_size)
    box = draw.textbbox((0, 0), name, font=font, stroke_width=stroke)
    x, y = left + (side - box[0] - box[2]) / 2, top + (side - box[1] - box[3]) / 2
    draw.text((x, y), name, fill=(255, 255, 255), font=font, stroke_width=stroke, stroke_fill=(255, 255, 255))


def _draw_arrow(image: Image.Image, x: int, y: float, cell: int) -> None:
    """A horizontal arrow pointing right, centred on (x, y)."""
    reach = math.ceil((HALF_LENGTH + 2 * THICKNESS) * cell) + 1
    left, top = x - reach, round(y) - reach
    centre_x, centre_y = (x - left) * OVERSAMPLE, (y - top) * OVERSAMPLE
    half = HALF_LENGTH * cell * OVERSAMPLE
    width = max(1.0, THICKNESS * cell) * OVERSAMPLE
    tip = (centre_x + half, centre_y)
    barb_x, barb_y = (2 * half * TIP * part for part in (math.cos(TIP_ANGLE), math.sin(TIP_ANGLE)))

    cover = Image.new("L", (2 * reach * OVERSAMPLE, 2 * reach * OVERSAMPLE), 0)
    draw = ImageDraw.Draw(cover)
    for start in ((centre_x - half, centre_y), (tip[0] - barb_x, tip[1] - barb_y), (tip[0] - barb_x, tip[1] + barb_y)):
        draw.line((start, tip), fill=255, width=round(width))
        for end_x, end_y in (start, tip):  # round ends
            draw.ellipse((end_x - width / 2, end_y - width / 2, end_x + width / 2, end_y + width / 2), fill=255)
    image.paste(RED, (left, top), cover.reduce(OVERSAMPLE))
