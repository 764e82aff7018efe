"""The picture prompt: reads, fits and composes pictures into the grid of cells A, A', B, B', and cuts B' out of the result."""

from typing import TYPE_CHECKING

from analogist.names import load_on_use

if TYPE_CHECKING:
    from analogist.grid.prompt_grid import (
        ALIGNED,
        PUBLISHED_SIZE,
        GridError,
        PictureError,
        PromptGrid,
        check_size,
        to_image,
        to_pixels,
    )

__all__ = ["ALIGNED", "GridError", "PictureError", "PromptGrid", "PUBLISHED_SIZE", "check_size", "to_image", "to_pixels"]

if not TYPE_CHECKING:  # a checker takes any name to exist where it sees these
    __getattr__, __dir__ = load_on_use(__name__, dict.fromkeys(__all__, "analogist.grid.prompt_grid"))
