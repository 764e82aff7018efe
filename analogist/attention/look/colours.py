"""Colour scales for maps, computed here so that no plotting library is needed. Lightness rises evenly and hue runs from blue to
yellow, which stays readable in print and with the common kinds of colour blindness.

Source of the colour space: Ottosson 2020, OKLab.
"""

import numpy as np

_LMS_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)
_LAB_TO_LMS = np.array([[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]])


def oklab_to_rgb(lab: np.ndarray) -> np.ndarray:
    """OKLab [... 3] to sRGB in 0..1, clipped to the displayable range."""
    linear = ((lab @ _LAB_TO_LMS.T) ** 3) @ _LMS_TO_RGB.T
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _sequential() -> np.ndarray:
    t = np.linspace(0, 1, 256)
    lightness = 0.22 + 0.72 * t
    hue = np.deg2rad(285 - 180 * t)  # violet-blue, teal, green, yellow
    chroma = 0.10 + 0.05 * t
    return oklab_to_rgb(np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1))


def _diverging() -> np.ndarray:
    t = np.linspace(-1, 1, 256)
    lightness = 0.95 - 0.50 * np.abs(t)
    hue = np.deg2rad(np.where(t < 0, 250, 55))  # blue below zero, orange above
    chroma = 0.15 * np.abs(t)
    return oklab_to_rgb(np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1))


def _table(values: np.ndarray) -> np.ndarray:
    table = np.round(255 * values).astype(np.uint8)
    table.setflags(write=False)
    return table


SEQUENTIAL = _table(_sequential())  # uint8 [256 3]: dark blue (least) to yellow (most)
DIVERGING = _table(_diverging())  # uint8 [256 3]: blue (negative), near white (zero), orange (positive)
MISSING = (128, 128, 128)  # for NaN


def colourise(values: np.ndarray, low: float, high: float, *, diverging: bool = False) -> np.ndarray:
    """Values to colours, uint8 [... 3]; values outside low .. high are clipped, NaN is grey. diverging: zero is in the middle."""
    table = DIVERGING if diverging else SEQUENTIAL
    if diverging:
        high = max(abs(low), abs(high))
        low = -high
    span = high - low
    share = np.zeros_like(values, dtype=np.float64) if span <= 0 else (np.nan_to_num(values, nan=low) - low) / span
    colours = table[np.round(share.clip(0, 1) * 255).astype(np.uint8)]
    colours[np.isnan(values)] = MISSING
    return colours
