"""Edits of attention: bound to a run, ready ones, FreeU, and patching one run with another's tensors."""
