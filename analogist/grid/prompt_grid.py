"""The picture prompt: A, A' and B composed into a grid whose last cell, B', is to be painted; pictures <-> tensors.

The only place with pixels. The pipeline takes `pixels()`, `masked_pixels()` and `mask_tensor()` from here and passes decoded grids
to `crop()`. Composition, marks and mask follow the published drawing (Analogist, Gu et al. 2024, released code).
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import Image

from analogist.grid.enlarge import enlarged
from analogist.grid.fit import ALIGNED, check_drawing, fitted, placed, stretched_back, swapped
from analogist.grid.layout import COLUMNS, SMALLEST_CELL, Box, GridError, Layout, Size, cell_names, check_size, resolve_size, scaled
from analogist.grid.marks import draw_marks
from analogist.grid.pictures import Picture, PictureError, read_picture
from analogist.models.numbers import plain

if TYPE_CHECKING:  # imported in the functions that need it: composing and marking a grid works without torch
    from torch import Tensor

__all__ = ["ALIGNED", "GridError", "PictureError", "PromptGrid", "PUBLISHED_SIZE", "check_size", "to_image", "to_pixels"]

PUBLISHED_SIZE = 512  # px, of the published drawing and of SD 1.5


@dataclass(frozen=True, init=False, eq=False, repr=False)
class PromptGrid:
    """A grid of k example pairs above B: rows A1 A1' .. Ak Ak', then B B'; k = 1 is the published A A' / B B'.

    Immutable; the pictures are read when it is created. While its size is None it is drawn at the published 512 px.
    """

    pairs: int  # k, the number of example pairs
    size: tuple[int, int] | None  # (height, width) in pixels; None: the checkpoint's size, set by `at_size` at the call
    fit: str | None  # how pictures are fitted into cells; None: stretched, and B' stays the stretched cell, as published
    aligned: str  # "a-a_prime" (published), or "a-b": A' and B swap places in the model's input
    border: bool  # whether drawn with the published 2 px border
    b_size: tuple[int, int] | None  # (height, width) of B before it was fitted; None: unknown, for a ready grid
    _pictures: tuple[Image.Image, ...]  # A1 A1' .. Ak Ak' B, as read; empty for a ready grid
    _ready: Image.Image | None  # a ready grid, as read
    _drawn: tuple[int, int] | None  # (height, width) at which a ready grid's border was drawn; None: its own size

    def __init__(
        self, a: Picture | Sequence[Picture], a_prime: Picture | Sequence[Picture], b: Picture, size: Size | None = None, *,
        fit: str | None = None, aligned: str = "a-a_prime", border: bool = True,
    ) -> None:  # fmt: skip
        """Reads the pictures: paths, PIL images or uint8 arrays [H W 3]; a and a_prime may be lists of k pictures.

        size: N for cells of N/2 x N/2 px (the grid is N wide and N (k + 1) / 2 high), (height, width), or None.
        fit: how pictures of another shape are fitted into their cells, and B' back into B's shape: "stretch", "crop" (their middle)
        or "pad" (white margins); None, as published: stretched, and B' stays the cell.
        aligned: "a-b" if A and B, rather than A and A', show the same things in the same places. If no pair does,
        turn SAC off. border: False draws the pictures side by side.
        Raises PictureError naming the picture, GridError for lists of unequal length or a size that does not split into cells.
        """
        firsts, seconds = _as_list(a), _as_list(a_prime)
        if not firsts or len(firsts) != len(seconds):
            raise GridError(f"{len(firsts)} pictures A and {len(seconds)} pictures A'; give the same number of each, at least one")
        size = None if size is None else resolve_size(size, len(firsts) + 1)
        sources = [picture for pair in zip(firsts, seconds, strict=True) for picture in pair] + [b]
        pictures = [read_picture(source, name) for source, name in zip(sources, cell_names(len(firsts)), strict=False)]
        check_drawing(fit, aligned, len(firsts))
        b_size = (pictures[-1].height, pictures[-1].width)
        drawing = {"fit": fit, "aligned": aligned, "border": bool(border), "b_size": b_size}
        self._set(pairs=len(firsts), size=size, **drawing, _pictures=tuple(pictures), _ready=None, _drawn=None)

    @classmethod
    def from_image(
        cls, picture: Picture, size: Size | None = None, *, rows: int = 2, fit: str | None = None, aligned: str = "a-a_prime",
        border: bool = True, b_size: tuple[int, int] | None = None, drawn: tuple[int, int] | None = None,
    ) -> "PromptGrid":  # fmt: skip
        """A ready grid, as in the published data set: resized as a whole by Pillow's default filter (bicubic).

        rows: k + 1; 2 is the published A A' / B B'. The content of its B' cell is never used: `image` shows it black.
        border: whether it was drawn with the published 2 px. aligned: as for three pictures; the picture must show A A' / B B'.
        fit, b_size: how B was fitted and its (height, width) before, so that B' gets B's shape; None: B' keeps its cell's.
        drawn: (height, width) at which its border was drawn, if it was resized since; None: its own size.
        Raises PictureError, or GridError for a size that does not split into cells.
        """
        rows, b_size, drawn = plain(rows), plain(b_size), plain(drawn)
        if not isinstance(rows, int) or rows < 2:
            raise GridError(f"rows={rows!r}; a grid has one row per example pair and one for B, so at least 2")
        size = None if size is None else resolve_size(size, rows)
        ready = read_picture(picture, "grid")
        if ready.width < COLUMNS * SMALLEST_CELL or ready.height < rows * SMALLEST_CELL:
            given = f"a ready grid of {ready.height}x{ready.width} px (height x width)"
            raise GridError(f"{given} is too small for {rows} rows of {COLUMNS} cells of at least {SMALLEST_CELL} px a side")
        grid = cls.__new__(cls)
        check_drawing(fit, aligned, rows - 1)
        if b_size is not None and (len(b_size) != 2 or not all(isinstance(side, int) and side > 0 for side in b_size)):
            raise GridError(f"b_size={b_size!r}; give B's (height, width) in pixels, or None")
        drawing = {"fit": fit, "aligned": aligned, "border": bool(border), "b_size": None if b_size is None else tuple(b_size)}
        grid._set(pairs=rows - 1, size=size, **drawing, _pictures=(), _ready=ready, _drawn=drawn)
        return grid

    def at_size(self, default: Size) -> "PromptGrid":
        """This grid if it has a size, else at the default size: N gives (N (k + 1) / 2, N), so that cells are square."""
        return self if self.size is not None else self.with_size(default)

    def with_size(self, size: Size) -> "PromptGrid":
        """The same pictures composed at another size."""
        return self._copy(size=resolve_size(size, self.rows))

    def with_aligned(self, aligned: str) -> "PromptGrid":
        """The same pictures for another alignment, one of ALIGNED."""
        check_drawing(self.fit, aligned, self.pairs)
        return self._copy(aligned=aligned)

    @property
    def known_size(self) -> tuple[int, int]:
        """`size`, which is known in every run. Raises GridError if it is still None."""
        if self.size is None:
            raise GridError("this grid has no size yet (it would take the checkpoint's); give it one with at_size or with_size")
        return self.size

    @property
    def rows(self) -> int:
        """k + 1: one row per example pair, and the row of B and B'."""
        return self.pairs + 1

    @property
    def drawn(self) -> tuple[int, int]:
        """(height, width) in pixels at which the border was drawn; for a ready grid, the size of the given picture."""
        layout = self._layout()
        return layout.drawn_height, layout.drawn_width

    @property
    def names(self) -> tuple[str, ...]:
        """The cells in reading order: A, A', B, B', or A1, A1', A2, A2', .., B, B'."""
        return cell_names(self.pairs)

    @property
    def image(self) -> Image.Image:
        """The composed picture A A' / B B' with B' black: white canvas, 2 px border, pictures resized by Pillow's default filter (bicubic).

        As published at 512 px: with p = 2, pictures of int(cell - 1.5 p) px begin at p and at cell + p - 1. Cells that are not
        square follow the same rule for height and width; below the second row, pictures begin p - 1 inside their cell, as in the second.
        """
        return self._composed("a-a_prime")

    def marked(self) -> Image.Image:
        """`image` with each cell's name in its corner and an arrow from each left cell to its right one, for a language model."""
        layout, canvas = self._layout(), self.image
        draw_marks(canvas, layout.touched(), layout.cells())
        return canvas

    def pasted(self) -> Image.Image:
        """The picture that is encoded and noised for the start: the cell left of B' is copied over B', with its border.

        That cell is B's; if A and B are aligned, A' and B have swapped places and it is that of A'.
        """
        canvas, cells = self._composed(self.aligned), self._layout().cells()
        canvas.paste(canvas.crop(cells["B"]), cells["B'"])
        return canvas

    def filled(self, b_prime: Picture) -> Image.Image:
        """The picture that is encoded where B' is known: this B' (without a border) is drawn in its cell as the others are in theirs.

        If A and B are aligned, A' and B have swapped places, as in `pasted`. Raises PictureError.
        """
        canvas, (left, top, right, bottom) = self._composed(self.aligned), self._layout().touched()["B'"]
        canvas.paste(fitted(read_picture(b_prime, "B'"), (right - left, bottom - top), self.fit), (left, top))
        return canvas

    def as_given(self, picture: Image.Image) -> Image.Image:
        """A decoded grid with A' and B back in their places if `aligned` had swapped them."""
        if self.aligned == "a-a_prime":
            return picture
        return swapped(picture, self.at_size((picture.height, picture.width)).boxes())

    def mask(self) -> np.ndarray:
        """uint8 [H W], 1 on the whole cell of B' (its quadrant), else 0."""
        layout = self._layout()
        mask = np.zeros((layout.height, layout.width), np.uint8)
        left, top, right, bottom = layout.cells()["B'"]
        mask[top:bottom, left:right] = 1
        return mask

    def pixels(self) -> "Tensor":
        """`pasted()` as float32 [1 3 H W] in [-1, 1]."""
        return to_pixels(self.pasted())

    def masked_pixels(self) -> "Tensor":
        """`pixels()` times (mask < 0.5), float32 [1 3 H W]: B' is 0, mid-grey, as released (the paper's figure shows black)."""
        return self.pixels() * (self.mask_tensor() < 0.5)

    def mask_tensor(self) -> "Tensor":
        """`mask()` as float32 [1 1 H W] of 0 and 1."""
        import torch

        return torch.from_numpy(self.mask()).float()[None, None]

    def boxes(self, *, without_border: bool = False) -> dict[str, Box]:
        """Each cell's (left, top, right, bottom) in pixels, by name: the whole cell, or only the picture in it.

        A ready grid is assumed to have been drawn with the published 2 px border at its own size.
        """
        return self._layout().pictures() if without_border else self._layout().cells()

    def cells(self, picture: Image.Image | None = None, *, without_border: bool = False) -> dict[str, Image.Image]:
        """All cells of a picture of this grid's size (None: of `image`), by name: A, A', B, B', or A1, A1', .., B, B'.

        Raises GridError if the picture's size is not the grid's; a grid without a size takes the picture's.
        """
        if picture is None:
            grid, picture = self, self.image
        else:
            grid = self.at_size((picture.height, picture.width))
        if grid.size is not None and grid.size != (picture.height, picture.width):
            given, own = f"{picture.height}x{picture.width} px", f"{grid.size[0]}x{grid.size[1]} px (height x width)"
            raise GridError(f"a picture of {given} for a grid of {own}; give one decoded at this size, or use with_size")
        return {name: picture.crop(box) for name, box in grid.boxes(without_border=without_border).items()}

    def crop(self, picture: Image.Image, *, without_border: bool = False) -> Image.Image:
        """The B' cell of a decoded grid: its whole quadrant, as published, or only the picture in it. Raises as `cells`."""
        return self.cells(picture, without_border=without_border)["B'"]

    def b_prime(self, picture: Image.Image, *, without_border: bool = False) -> Image.Image:
        """B' of a decoded grid in B's shape.

        fit "stretch": the whole cell, stretched back so that no pixel of it is lost. "pad": the part of the cell that B took up, as it
        is. "crop", None (published), or a grid that does not say B's shape: the whole cell. without_border: of the picture in the cell
        instead of the whole cell. Raises as `cells`.
        """
        cell = self.crop(picture, without_border=without_border)
        if self.b_size is None or self.fit in (None, "crop"):
            return cell
        b = self.b_size[1], self.b_size[0]
        if self.fit == "stretch":
            size = stretched_back(cell.size, b)
            return cell if size == cell.size else cell.resize(size)
        left, top, right, bottom = self.at_size((picture.height, picture.width))._layout().touched()["B'"]
        inner = placed(b, (right - left, bottom - top), self.fit)
        return picture.crop((left + inner[0], top + inner[1], left + inner[2], top + inner[3]))

    def __repr__(self) -> str:
        kind, plural = "grid" if self._ready is None else "ready grid", "s" if self.pairs > 1 else ""
        size = "size not set" if self.size is None else f"{self.size[0]}x{self.size[1]} px (height x width)"
        return f"<PromptGrid: {kind} of {self.pairs} example pair{plural} and B, {size}>"

    def _repr_png_(self) -> bytes:
        """The marked grid, for notebooks; small ones enlarged."""
        layout, shown, buffer = self._layout(), enlarged(self.image), io.BytesIO()
        times = shown.width // layout.width
        draw_marks(shown, scaled(layout.touched(), times), scaled(layout.cells(), times))
        shown.save(buffer, format="PNG")
        return buffer.getvalue()

    def _set(self, **fields: object) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)  # the only place that sets attributes of a frozen grid

    def _copy(self, **changes: object) -> "PromptGrid":
        grid = type(self).__new__(type(self))
        grid._set(**{name: getattr(self, name) for name in self.__dataclass_fields__} | changes)
        return grid

    def _composed(self, aligned: str) -> Image.Image:
        """The composed picture with B' black, for one of ALIGNED."""
        layout = self._layout()
        boxes = layout.touched()
        if self._ready is not None:
            drawn, own = self._ready.copy(), replace(layout, height=self._ready.height, width=self._ready.width).touched()
            # Also before resizing, else a true B' in it would bleed across the border by the filter's width.
            drawn.paste((0, 0, 0), own["B'"])
            canvas = (swapped(drawn, own) if aligned == "a-b" else drawn).resize((layout.width, layout.height))
        else:
            canvas = Image.new("RGB", (layout.width, layout.height), (255, 255, 255))
            places = dict(zip(self.names, self._pictures, strict=False))  # B' has no picture
            if aligned == "a-b":
                places["A'"], places["B"] = places["B"], places["A'"]
            for name, picture in places.items():
                left, top, right, bottom = boxes[name]
                canvas.paste(fitted(picture, (right - left, bottom - top), self.fit), (left, top))
        canvas.paste((0, 0, 0), boxes["B'"])
        return canvas

    def _layout(self) -> Layout:
        height, width = self.size if self.size is not None else resolve_size(PUBLISHED_SIZE, self.rows)
        ready = (height, width) if self._ready is None else (self._ready.height, self._ready.width)
        drawn_height, drawn_width = self._drawn or ready
        drawn = {"drawn_height": drawn_height, "drawn_width": drawn_width, "border": self.border}
        return Layout(rows=self.rows, height=height, width=width, **drawn)


def to_pixels(image: Image.Image) -> "Tensor":
    """A picture as float32 [1 3 H W] in [-1, 1]: level / 127.5 - 1."""
    import torch

    levels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]
    return (levels.float() / 127.5 - 1).contiguous()


def to_image(pixels: "Tensor") -> Image.Image:
    """The picture of a tensor [3 H W] or [1 3 H W] in [-1, 1]: round(255 clamp(x / 2 + 1/2, 0, 1)).

    Raises GridError for another shape, or for values that are not finite.
    """
    shape = tuple(pixels.shape)
    if len(shape) not in (3, 4) or shape[-3] != 3 or shape[:-3] not in ((), (1,)) or 0 in shape:
        raise GridError(f"a tensor of shape {list(shape)} is not a picture; give [3 H W] or [1 3 H W]")
    x = pixels.detach().float().reshape(shape[-3:])
    if not x.isfinite().all():
        raise GridError("the pixels hold NaN or infinity; decode in another dtype, for example float32")
    levels = (255 * (x / 2 + 0.5).clamp(0, 1)).round().byte()
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().cpu().numpy())


def _as_list(pictures: Picture | Sequence[Picture]) -> list[Picture]:
    if isinstance(pictures, list | tuple):
        return list(pictures)
    return [cast(Picture, pictures)]  # only lists and tuples count as several pictures
