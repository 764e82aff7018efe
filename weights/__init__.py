"""Checkpoint files: which family, which names, strict loading."""
