"""How a picture is fitted into its cell, how B' is brought back to B's shape, and which cells swap places.

"stretch" squeezes the whole picture into the cell, as published; "crop" takes its middle; "pad" shrinks it and adds white margins.
Sizes are (width, height) here, as in Pillow.
"""

from PIL import Image

from analogist.grid.layout import Box, GridError

FITS = ("stretch", "crop", "pad")
ALIGNED = ("a-a_prime", "a-b")  # which pictures show the same things in the same places; SAC relies on it
Extent = tuple[int, int]  # width, height
LONGEST = 8192  # px, longest side of a B' stretched back; if it would be longer, both sides are scaled down


def placed(picture: Extent, cell: Extent, fit: str | None) -> tuple[int, int, int, int]:
    """The picture's box in its cell: left, top, right, bottom; the whole cell unless it is padded."""
    if fit != "pad":
        return 0, 0, *cell
    scale = min(cell[0] / picture[0], cell[1] / picture[1])
    width, height = (max(1, min(side, round(length * scale))) for side, length in zip(cell, picture, strict=True))
    left, top = (cell[0] - width) // 2, (cell[1] - height) // 2
    return left, top, left + width, top + height


def fitted(picture: Image.Image, cell: Extent, fit: str | None) -> Image.Image:
    """The picture at the size of its cell, by Pillow's default filter (bicubic), as published."""
    if fit == "crop":
        scale = min(picture.width / cell[0], picture.height / cell[1])
        width, height = (min(side, length * scale) for side, length in zip(picture.size, cell, strict=True))  # rounding may exceed a side
        left, top = (picture.width - width) / 2, (picture.height - height) / 2
        return picture.resize(cell, box=(left, top, left + width, top + height))
    left, top, right, bottom = placed(picture.size, cell, fit)
    small = picture.resize((right - left, bottom - top))
    if small.size == cell:
        return small
    padded = Image.new("RGB", cell, (255, 255, 255))
    padded.paste(small, (left, top))
    return padded


def stretched_back(cell: Extent, picture: Extent) -> Extent:
    """The smallest size with the picture's proportions that loses no pixel of the cell; the cell's size if the proportions agree."""
    wide, tall = picture[0] * cell[1], picture[1] * cell[0]
    width, height = (cell[0] * wide / tall, cell[1]) if wide > tall else (cell[0], cell[1] * tall / wide)
    scale = min(1.0, LONGEST / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def swapped(picture: Image.Image, boxes: dict[str, Box]) -> Image.Image:
    """A copy with the contents of the boxes of A' and B swapped."""
    exchanged = picture.copy()
    for name, other in (("A'", "B"), ("B", "A'")):
        left, top, right, bottom = boxes[name]
        part = picture.crop(boxes[other])
        size = (right - left, bottom - top)  # differs by a pixel if a ready grid's sides are odd
        exchanged.paste(part if part.size == size else part.resize(size), (left, top))
    return exchanged


def check_drawing(fit: str | None, aligned: str, pairs: int) -> None:
    """Raises GridError for a value outside FITS or ALIGNED, or if the alignment does not work with this number of example pairs."""
    if fit not in (None, *FITS):
        raise GridError(f"fit={fit!r}; allowed are {', '.join(FITS)}, or None for the published stretch")
    if aligned not in ALIGNED:
        hint = "; if nothing is aligned, turn SAC off (sac=None) instead" if aligned in (None, "none") else ""
        raise GridError(f"aligned={aligned!r}; allowed are {', '.join(ALIGNED)}{hint}")
    if aligned == "a-b" and pairs > 1:
        raise GridError(f"aligned='a-b' swaps A' and B, which only works with one example pair; this grid has {pairs}")
