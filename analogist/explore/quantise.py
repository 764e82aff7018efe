"""Maps in 8 bits: one scale per row and one byte per value, with a known bound on the error."""

import numpy as np

STATED = (
    "probabilities p: byte = 255 sqrt(p / m), where m is the largest value of the row; the error is at most sqrt(p m) / 255 + m / 260100, "
    "which is about m / 255 at the largest value and less below",
    "scores and logits: 255 even levels from the row's smallest to its largest value; the error is at most 1/510 of that range",
    "for words, a row is the word's whole heat map; means over heads or steps have the mean of these errors; the flow between cells was "
    "computed in float32, before rounding",
)


def encode(rows: np.ndarray) -> tuple[str, np.ndarray, np.ndarray]:
    """(encoding, scales, bytes) of rows [... row value].

    "sqrt" if no value is negative: scales [1 ... row], the largest value of each row. Otherwise "linear": scales [2 ... row], the
    smallest value of each row and the width of one level.
    """
    if rows.size and rows.min() >= 0:
        top = rows.max(-1)
        share = rows / np.where(top > 0, top, 1)[..., None]
        return "sqrt", top[None].astype("<f4"), np.rint(255 * np.sqrt(share)).astype(np.uint8)
    low, high = rows.min(-1), rows.max(-1)
    level = (high - low) / 255
    codes = np.rint((rows - low[..., None]) / np.where(level > 0, level, 1)[..., None])
    return "linear", np.stack([low, level]).astype("<f4"), codes.clip(0, 255).astype(np.uint8)


def decode(encoding: str, scales: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The values that the page shows: reads back what `encode` wrote, in float64."""
    if encoding == "sqrt":
        return scales[0].astype(np.float64)[..., None] * (codes / 255.0) ** 2
    return scales[0].astype(np.float64)[..., None] + scales[1].astype(np.float64)[..., None] * codes


def error_bound(encoding: str, scales: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The bound that STATED gives for the error of each value, plus float32's own rounding."""
    if encoding == "sqrt":
        top = scales[0].astype(np.float64)[..., None]
        return np.sqrt(np.clip(values, 0, None) * top) / 255 + top / 260100 + 1e-6 * top
    return scales[1].astype(np.float64)[..., None] * 0.5 + 1e-5
