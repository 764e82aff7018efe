"""The folder for what is kept between runs, so that nothing is computed or asked twice."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """ANALOGIST_CACHE, else analogist/ in XDG_CACHE_HOME, else ~/.cache/analogist; ~ and variables in them are filled in."""
    own = os.environ.get("ANALOGIST_CACHE")
    place = own or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "analogist")
    return Path(os.path.expandvars(os.path.expanduser(place)))
