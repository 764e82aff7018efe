"""Where what need not be computed or asked twice is kept."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """ANALOGIST_CACHE, else analogist/ in XDG_CACHE_HOME, else ~/.cache/analogist."""
    own = os.environ.get("ANALOGIST_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "analogist"
