"""The attention explorer: one self-contained page that shows where each pixel of the grid looks.

Place in the flow: `for_explorer` plans what a run captures, `explore` turns results (or a run's folder) into an Explorer.
"""

from typing import TYPE_CHECKING

from analogist.names import load_on_use

if TYPE_CHECKING:
    from analogist.explore.explorer import MAX_BYTES, Explorer, explore, explore_folder
    from analogist.explore.page_plan import for_explorer
    from analogist.explore.source import PAGE, save_maps

__all__ = ["MAX_BYTES", "PAGE", "Explorer", "explore", "explore_folder", "for_explorer", "save_maps"]

if not TYPE_CHECKING:  # a checker takes any name to exist where it sees these
    __getattr__, __dir__ = load_on_use(
        __name__,
        dict.fromkeys(["MAX_BYTES", "Explorer", "explore", "explore_folder"], "analogist.explore.explorer")
        | {"for_explorer": "analogist.explore.page_plan"}
        | dict.fromkeys(["PAGE", "save_maps"], "analogist.explore.source"),
    )
