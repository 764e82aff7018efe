"""Checkpoint files: which family, which names, strict loading."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .errors import WeightsError
    from .load import Checkpoint, LoadReport, open_checkpoint

__all__ = ["Checkpoint", "LoadReport", "WeightsError", "open_checkpoint"]

if not TYPE_CHECKING:  # a checker takes any name to exist where it sees these

    def __getattr__(name: str) -> object:  # on first use, so that a module here does not import its neighbours
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(".errors" if name == "WeightsError" else ".load", __name__), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
