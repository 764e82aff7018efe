"""Drawing functions shared by the pictures of viz.py: text, frames, colour bars and sheets, with Pillow only."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from analogist.attention.look.colours import DIVERGING, SEQUENTIAL

PAPER, INK = (255, 255, 255), (20, 20, 20)
TEXT = 14  # px, of captions; never smaller than 12 anywhere
BAR = 14  # px, width of a colour bar
GAP = 8  # px


def font(size: int = TEXT) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's built-in font, which is always available."""
    return ImageFont.load_default(size)


def plain(text: str) -> str:
    """Text with apostrophes in place of the primes, which the font lacks."""
    return text.replace("′", "'").replace("→", "->")


def text_size(text: str, size: int = TEXT) -> tuple[int, int]:
    """Width and height in pixels of a text with any number of lines."""
    text = plain(text)
    if not text:
        return 0, 0
    box = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox((0, 0), text, font=font(size), spacing=3)
    return int(np.ceil(box[2])), int(np.ceil(box[3]))


def put_text(image: Image.Image, place: tuple[float, float], text: str, size: int = TEXT, anchor: str = "la", fill=INK) -> None:
    """Writes text at (x, y) with one of Pillow's anchors."""
    ImageDraw.Draw(image).text(place, plain(text), font=font(size), fill=fill, anchor=anchor)


def wrap(text: str, width: int, size: int = TEXT) -> str:
    """Text broken into lines that fit a width in pixels; breaks are possible at spaces, commas, full stops and slashes."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line, piece = "", ""
        for i, letter in enumerate(paragraph):
            piece += letter
            if letter in " ,.:/" or i == len(paragraph) - 1:
                if line and text_size((line + piece).rstrip(), size)[0] > width:
                    lines.append(line.rstrip())
                    line = ""
                line, piece = line + piece, ""
        lines.append(line.rstrip())
    return "\n".join(lines)


def number_text(value: float) -> str:
    """A number with three significant figures, without trailing zeros."""
    return "nan" if value != value else f"{value:.3g}"


def colour_bar(height: int, low: float, high: float, unit: str, *, diverging: bool = False) -> Image.Image:
    """A vertical colour scale with its ends, its middle and its unit. height: px, at least 3 lines of text."""
    table = DIVERGING if diverging else SEQUENTIAL
    labels = [number_text(high), number_text((low + high) / 2), number_text(low)]
    line = text_size("0", 12)[1]
    width = BAR + 6 + max(text_size(label, 12)[0] for label in labels)
    caption = wrap(plain(unit), max(width, 70), 12)
    width = max(width, text_size(caption, 12)[0])
    top = text_size(caption, 12)[1] + 6 if caption else 0
    bar_height = max(height - top, 4 * line)
    out = Image.new("RGB", (width, top + bar_height), PAPER)
    if caption:
        ImageDraw.Draw(out).multiline_text((0, 0), caption, font=font(12), fill=INK, spacing=3)
    ramp = table[np.linspace(255, 0, bar_height).round().astype(int)]
    out.paste(Image.fromarray(np.repeat(ramp[:, None], BAR, axis=1)), (0, top))
    for label, share, anchor in zip(labels, (0, 0.5, 1), ("la", "lm", "ld"), strict=True):
        put_text(out, (BAR + 6, top + share * (bar_height - 1)), label, 12, anchor)
    return out


def beside(parts: Sequence[Image.Image], gap: int = GAP) -> Image.Image:
    """Pictures side by side, aligned at the bottom."""
    out = Image.new("RGB", (sum(p.width for p in parts) + gap * (len(parts) - 1), max(p.height for p in parts)), PAPER)
    x = 0
    for part in parts:
        out.paste(part, (x, out.height - part.height))
        x += part.width + gap
    return out


def titled(image: Image.Image, title: str, size: int = TEXT) -> Image.Image:
    """A picture with a caption above it, broken into lines; widened if a word needs more space."""
    if not title:
        return image
    text = wrap(plain(title), image.width, size)
    width, height = text_size(text, size)
    out = Image.new("RGB", (max(image.width, width), image.height + height + 6), PAPER)
    ImageDraw.Draw(out).multiline_text((0, 0), text, font=font(size), fill=INK, spacing=3)
    out.paste(image, (0, height + 6))
    return out


def margin(image: Image.Image, pixels: int = GAP) -> Image.Image:
    """A picture with white margins."""
    out = Image.new("RGB", (image.width + 2 * pixels, image.height + 2 * pixels), PAPER)
    out.paste(image, (pixels, pixels))
    return out


def outline(image: Image.Image, box: tuple[float, float, float, float], width: int = 2) -> None:
    """A frame that is visible on any background: white around dark. box: left, top, right, bottom in pixels."""
    drawing = ImageDraw.Draw(image)
    left, top, right, bottom = box
    drawing.rectangle((left, top, right - 1, bottom - 1), outline=INK, width=width + 2)
    drawing.rectangle((left + 1, top + 1, right - 2, bottom - 2), outline=PAPER, width=width)


def enlarge(pixels: np.ndarray, side: int) -> Image.Image:
    """An image array scaled up by a whole factor so that its longer side has about `side` pixels; every token stays square."""
    factor = max(1, round(side / max(pixels.shape[:2])))
    return Image.fromarray(np.repeat(np.repeat(pixels, factor, axis=0), factor, axis=1))
