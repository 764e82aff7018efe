"""A contact sheet: rows are variants, columns inputs and seeds, with captions on both axes and a cap on its size."""

import math
import re
from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw, ImageFont

from analogist.grid.enlarge import enlarged, factor

MAX_PIXELS = 40_000_000
SMALLEST, READABLE, GAP, TEXT = 32, 96, 4, 13
LINE, WIDEST = TEXT + 3, 230  # of row captions, in pixels
INK, PAPER, EMPTY = (20, 20, 20), (255, 255, 255), (225, 225, 225)


def contact_sheet(
    rows: Sequence[str], columns: Sequence[str], picture: Callable[[int, int], Image.Image | None], *, side: int,
    max_pixels: int = MAX_PIXELS,
) -> tuple[Image.Image, str]:  # fmt: skip
    """The sheet, and a note on what was made smaller or left out to stay below max_pixels ("" for nothing).

    picture: of (row, column), None where there is none (a grey cell). side: of the pictures in pixels; they never shrink below 32. Small
    ones are enlarged by a whole factor where there is room.
    """
    font = ImageFont.load_default(TEXT)
    left = GAP * 2 + max((math.ceil(font.getlength(line)) for text in rows for line in broken_lines(text, WIDEST, font)), default=0)
    shown, notes, asked = len(rows), [], side

    def size(side: int, shown: int) -> tuple[int, int]:
        return left + len(columns) * (side + GAP), _top(columns, side, font) + shown * (side + GAP)

    times = range(factor(asked, READABLE), 1, -1)
    side = next((asked * n for n in times if _area(size(asked * n, shown)) <= max_pixels), asked)
    while _area(size(side, shown)) > max_pixels and side > SMALLEST:
        side = max(SMALLEST, int(side * 0.8))
    while _area(size(side, shown)) > max_pixels and shown > 1:
        shown = max(1, int(shown * 0.8))
    if side < asked:
        notes.append(f"pictures shown at {side} px of {asked}")
    if shown < len(rows):
        notes.append(f"{len(rows) - shown} of {len(rows)} rows left out")
    sheet = Image.new("RGB", size(side, shown), PAPER)
    draw = ImageDraw.Draw(sheet)
    top = _top(columns, side, font)
    for c, text in enumerate(columns):
        for line, part in enumerate(broken_lines(text, side, font)):
            draw.text((left + c * (side + GAP), GAP + line * LINE), part, fill=INK, font=font)
    for r in range(shown):
        y = top + r * (side + GAP)
        lines = broken_lines(rows[r], WIDEST, font, most=max(1, side // LINE))
        for line, part in enumerate(lines):
            draw.text((GAP, y + (side - LINE * len(lines)) // 2 + line * LINE), part, fill=INK, font=font)
        for c in range(len(columns)):
            at, one = (left + c * (side + GAP), y), picture(r, c)
            if one is None:
                draw.rectangle((*at, at[0] + side - 1, at[1] + side - 1), fill=EMPTY)
            else:
                sheet.paste(enlarged(one.convert("RGB"), side).resize((side, side)), at)
    return sheet, "; ".join(notes)


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def broken_lines(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, most: int = 4) -> list[str]:
    """The caption broken between words into lines of a width in pixels; within a word only where it is longer than a line."""
    lines, line = [], ""
    for word in re.findall(r"\S+", text):
        if line and font.getlength(f"{line} {word}") > width:
            lines.append(line)
            line = ""
        line = f"{line} {word}" if line else word
        while font.getlength(line) > width and len(line) > 1:
            fits = max(1, next(n for n in range(len(line) - 1, -1, -1) if n == 0 or font.getlength(line[:n]) <= width))
            lines.append(line[:fits])
            line = line[fits:]
    lines.append(line)
    return lines if len(lines) <= most else [*lines[: most - 1], lines[most - 1][:-1] + "…"]


def _top(columns: Sequence[str], side: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return GAP * 2 + max((len(broken_lines(text, side, font)) for text in columns), default=1) * LINE
