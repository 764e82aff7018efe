"""Tests run against the installed package, or against this source tree where nothing is installed."""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("analogist") is None:
    sys.path.insert(0, str(Path(__file__).parent.parent))
