"""Ready edits."""

from .bind import EditError, Edits

__all__ = ["EditError", "Edits"]
