"""The attention explorer: one self-contained page in which a pixel of the grid shows where it looks.

Place in the flow: `for_explorer` plans what a run captures, `explore` turns results (or a run's folder) into an Explorer.
"""

from .explorer import MAX_BYTES, Explorer, explore, explore_folder
from .plan import for_explorer
from .source import PAGE, save_maps

__all__ = ["MAX_BYTES", "PAGE", "Explorer", "explore", "explore_folder", "for_explorer", "save_maps"]
