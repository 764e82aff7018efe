"""Checkpoint files: which family, which names, strict loading."""

from .errors import WeightsError
from .load import Checkpoint, LoadReport, open_checkpoint

__all__ = ["Checkpoint", "LoadReport", "WeightsError", "open_checkpoint"]
