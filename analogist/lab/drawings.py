"""Drawings by people as tensors: the same concepts in three styles, and what of each picture is background.

A folder of drawings holds `flat.png`, `line.png` and `soft.png`, sheets of the same concepts at 64 px each on white, 32 in a row,
in the order of `names.json` (a list of {"name", "category"}): Microsoft's Fluent Emoji in the flat, high-contrast and full-colour
styles (MIT, Copyright (c) Microsoft Corporation).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .state import TrainingError

STYLES = ("flat", "line", "soft")
FLAT, LINE, SOFT = range(3)
SIDE, PER_ROW = 64, 32  # pixels of a drawing, drawings in a row of a sheet
OPEN_DRAWINGS = Path(__file__).parent.parent / "examples" / "drawings"  # never trained on
_WHITE = 247  # lighter than this, of 255, counts as paper


@dataclass(frozen=True)
class Drawings:
    """pictures: uint8 [concept style 3 64 64]. outside: uint8 [concept style 1 64 64] - 255 where the paper around the drawing is."""

    names: tuple[str, ...]
    pictures: Tensor
    outside: Tensor

    def to(self, device: torch.device | str) -> "Drawings":
        """The same on another device."""
        return Drawings(self.names, self.pictures.to(device), self.outside.to(device))

    def __len__(self) -> int:
        return len(self.names)


def _sheet(path: Path, count: int) -> Tensor:
    """The first `count` pictures of a sheet, uint8 [picture 3 64 64]."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    rows, columns = pixels.shape[0] // SIDE, pixels.shape[1] // SIDE
    if columns != PER_ROW or rows * columns < count or pixels.shape[0] % SIDE:
        raise TrainingError(
            f"{path}: {pixels.shape[1]} x {pixels.shape[0]} px; {count} names need {PER_ROW} drawings of {SIDE} px in a row, "
            f"{-(-count // PER_ROW)} rows or more"
        )
    cut = torch.from_numpy(pixels.copy()).view(rows, SIDE, columns, SIDE, 3)
    return cut.permute(0, 2, 4, 1, 3).reshape(-1, 3, SIDE, SIDE)[:count].contiguous()


def _swept(found: np.ndarray, white: np.ndarray) -> np.ndarray:
    """Everything that can be reached from `found` by walking right through white. bool [.. side], both."""
    place = np.arange(1, found.shape[-1] + 1, dtype=np.int16)
    last_found = np.maximum.accumulate(np.where(found, place, np.int16(0)), axis=-1)
    last_wall = np.maximum.accumulate(np.where(white, np.int16(0), place), axis=-1)
    return last_found > last_wall


def paper_around(pictures: np.ndarray) -> np.ndarray:
    """bool [.. side side]: white pixels that are joined to the picture's edge by white pixels, side by side.

    pictures: uint8 [.. side side 3]. White inside a drawing (an eye, a cloud within its outline) is not paper.
    """
    white = pictures.min(-1) > _WHITE
    found = np.zeros_like(white)
    found[..., [0, -1], :] = found[..., :, [0, -1]] = True
    found &= white
    while True:
        before = found.sum()
        for turned, wall in ((found, white), (found.swapaxes(-1, -2), white.swapaxes(-1, -2))):
            turned |= _swept(turned, wall)
            turned |= _swept(turned[..., ::-1], wall[..., ::-1])[..., ::-1]
        if found.sum() == before:
            return found


def load_drawings(folder: Path) -> Drawings:
    """The drawings of a folder. Raises TrainingError where a file is missing or does not fit the others."""
    try:
        listed = json.loads((folder / "names.json").read_text(encoding="utf-8-sig"))
        names = tuple(str(entry["name"]) for entry in listed)
        pictures = torch.stack([_sheet(folder / f"{style}.png", len(names)) for style in STYLES], 1)
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise TrainingError(
            f"drawings in {folder}: {error}; a folder with names.json, flat.png, line.png and soft.png is needed "
            "(weights/lab/README.md says how to make it)"
        ) from None
    outside = paper_around(pictures.permute(0, 1, 3, 4, 2).numpy())[:, :, None]
    return Drawings(names, pictures, torch.from_numpy(outside).to(torch.uint8) * 255)
