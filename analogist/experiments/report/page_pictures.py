"""The pictures of a page, small enough for it: the first form of a ladder of sizes and qualities whose sum fits."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

TRIED = 24  # pictures from which the size of all is estimated
SPARE = 0.97  # share of the room that an estimate may fill, since it may be too low


@dataclass(frozen=True)
class Form:
    """How pictures are stored. side: most pixels of a B' cell's longer side, None: as painted; grids have twice that.

    quality: of JPEG; None: PNG, without any loss.
    """

    side: int | None
    quality: int | None

    def data_url(self, picture: Image.Image, cells: int) -> str:
        """A picture as text for `src`. cells: how many cells of the grid lie along its side."""
        picture = picture.convert("RGB")
        if self.side is not None:
            picture.thumbnail((self.side * cells, self.side * cells))
        buffer = io.BytesIO()
        if self.quality is None:
            picture.save(buffer, format="PNG", optimize=True)
        else:
            picture.save(buffer, format="JPEG", quality=self.quality)
        return f"data:image/{'png' if self.quality is None else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"

    def __str__(self) -> str:
        size = "at their own size" if self.side is None else f"at most {self.side} px per side (grids: twice that)"
        return f"{'PNG without loss' if self.quality is None else f'JPEG of quality {self.quality}'}, {size}"


LADDER = (Form(None, None), Form(None, 92), Form(None, 80), Form(256, 80), Form(192, 80), Form(128, 80), Form(96, 75), Form(64, 70))


class Album:
    """Pictures that a page shows, each once. They are read when they are encoded, so that they need not be in memory together."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._given: list[tuple[Callable[[], Image.Image], int]] = []

    def __len__(self) -> int:
        return len(self._given)

    def place(self, key: str, read: Callable[[], Image.Image], *, cells: int = 1) -> int:
        """The number of a picture on the page. key: of its contents. cells: how many cells of the grid lie along its side."""
        if key not in self._places:
            self._places[key] = len(self._given)
            self._given.append((read, cells))
        return self._places[key]

    def encoded(self, room: float) -> tuple[list[str], Form] | None:
        """All pictures as texts of at most `room` bytes together, and how; None where even the smallest form does not fit."""
        if not self._given:
            return [], LADDER[0]
        tried = [(read(), cells) for read, cells in self._given[:: max(1, len(self._given) // TRIED)]]
        for form in LADDER:
            estimate = sum(len(form.data_url(*one)) for one in tried) / len(tried) * len(self._given)
            if estimate <= SPARE * room:
                found = [form.data_url(read(), cells) for read, cells in self._given]
                if sum(map(len, found)) + 3 * len(found) <= room:  # quotes and a comma each
                    return found, form
        return None
