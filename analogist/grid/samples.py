"""Samples of any depth as 8-bit levels, composited over white: numbers only, no files."""

import numpy as np


class Refused(Exception):
    """A picture that decoders accept and we do not; becomes a PictureError with the picture's name."""


def to_levels(values: np.ndarray, bits: int | None = None) -> np.ndarray:
    """Samples as uint8 levels of the same shape.

    bits: 1..16, of unsigned samples: 0 stays 0 and the highest value 2^bits - 1 becomes 255, rounded. None: floats run from 0 to 1.
    Integers without such a bound (32 bits, signed) do not define white: if none is above 255 they are levels, else 32-bit ones are
    16-bit values.
    Raises Refused for NaN, values below 0, or another value range.
    """
    if bits == 8:
        return values.astype(np.uint8, copy=False)
    if bits is not None:
        highest = 2**bits - 1  # odd, so that no value is half way between two levels
        table = (np.arange(highest + 1, dtype=np.uint32) * 510 + highest) // (2 * highest)
        return table.astype(np.uint8)[values]
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    if values.dtype.kind == "f":
        if not (low >= 0 and high <= 1):  # written so that NaN fails too
            raise Refused(_scale_unknown(values, "0 to 1"))
        return np.round(values.astype(np.float64) * 255).astype(np.uint8)
    if low >= 0 and high <= 255:
        return values.astype(np.uint8)
    if low >= 0 and high <= 65535 and values.dtype.itemsize >= 4:
        return to_levels(values.astype(np.uint16), 16)
    allowed = "0 to 255, or 0 to 65535" if values.dtype.itemsize >= 4 else "0 to 255"
    raise Refused(_scale_unknown(values, allowed))


def _scale_unknown(values: np.ndarray, allowed: str) -> str:
    kind = "grey" if values.ndim == 2 or values.shape[-1] == 1 else "colour"
    found = f"{kind} values from {values.min():g} to {values.max():g} ({values.dtype})"
    return f"{found}; allowed are {allowed}; save it as an 8-bit or 16-bit picture"


def over_white(colour: np.ndarray, alpha: np.ndarray, *, premultiplied: bool = False) -> np.ndarray:
    """Levels [height width 3] with alpha [height width 1], all uint8, over white, rounded."""
    c, a = colour.astype(np.uint32), alpha.astype(np.uint32)
    if premultiplied:
        return np.minimum(c + 255 - a, 255).astype(np.uint8)
    return ((c * a + 255 * (255 - a) + 127) // 255).astype(np.uint8)


def rgb_of_cmyk(ink: np.ndarray) -> np.ndarray:
    """Ink levels [height width 4], 255 is full, as RGB levels: (255 - c) (255 - k) / 255, rounded. No colour profile."""
    light = 255 - ink.astype(np.uint32)
    return ((light[..., :3] * light[..., 3:] + 127) // 255).astype(np.uint8)
