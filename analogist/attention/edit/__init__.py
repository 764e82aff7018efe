"""Edits of attention: binding to a run, ready edits, FreeU, and patching one run with another's tensors."""
