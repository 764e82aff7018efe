"""Drawings by people as tensors: the same concepts in three styles, with a mask of each picture's background.

A folder of drawings holds `flat.png`, `line.png` and `soft.png`, sheets of the same concepts at 64 px each on white, 32 in a row,
in the order of `names.json` (a list of {"name", "category"}): Microsoft's Fluent Emoji in the flat, high-contrast and full-colour
styles (MIT, Copyright (c) Microsoft Corporation).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from analogist.examples.by_people import FOLDER as OPEN_DRAWINGS  # never trained on
from analogist.examples.by_people import STYLES, read_drawings

from .state import TrainingError

__all__ = ["FLAT", "LINE", "OPEN_DRAWINGS", "SOFT", "STYLES", "Drawings", "load_drawings", "paper_around"]
FLAT, LINE, SOFT = range(3)
_WHITE = 247  # lighter than this (of 255) counts as background


@dataclass(frozen=True)
class Drawings:
    """pictures: uint8 [concept style 3 64 64]. outside: uint8 [concept style 1 64 64] - 255 outside the drawing."""

    names: tuple[str, ...]
    pictures: Tensor
    outside: Tensor

    def to(self, device: torch.device | str) -> "Drawings":
        """The same drawings on another device."""
        return Drawings(self.names, self.pictures.to(device), self.outside.to(device))

    def __len__(self) -> int:
        return len(self.names)


def _swept(found: np.ndarray, white: np.ndarray) -> np.ndarray:
    """Extends `found` to the right over connected white pixels. bool [.. side], both."""
    place = np.arange(1, found.shape[-1] + 1, dtype=np.int16)
    last_found = np.maximum.accumulate(np.where(found, place, np.int16(0)), axis=-1)
    last_wall = np.maximum.accumulate(np.where(white, np.int16(0), place), axis=-1)
    return last_found > last_wall


def paper_around(pictures: np.ndarray) -> np.ndarray:
    """bool [.. side side]: white pixels that are connected to the picture's edge through white neighbours.

    pictures: uint8 [.. side side 3]. White inside a drawing (an eye, a cloud within its outline) is not background.
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
    """The drawings of a folder. Raises TrainingError if a file is missing or does not fit the others."""
    try:
        names, pictures = read_drawings(folder)
    except ValueError as error:
        raise TrainingError(f"drawings in {folder}: {error} (weights/lab/README.md says how to make such a folder)") from None
    outside = paper_around(pictures)[:, :, None]
    return Drawings(names, torch.from_numpy(pictures).permute(0, 1, 4, 2, 3).contiguous(), torch.from_numpy(outside).to(torch.uint8) * 255)
