"""Small pictures enlarged to be looked at: by a whole factor, so that every pixel stays a square."""

import math

from PIL import Image


def factor(longest: int, at_least: int) -> int:
    """The smallest whole factor by which a side of `longest` pixels has `at_least` pixels; 1 where it has."""
    return max(1, math.ceil(at_least / longest))


def enlarged(picture: Image.Image, at_least: int = 256) -> Image.Image:
    """The picture with a longer side of at least `at_least` pixels."""
    whole = factor(max(picture.size), at_least)
    return picture if whole == 1 else picture.resize((picture.width * whole, picture.height * whole), Image.Resampling.NEAREST)
