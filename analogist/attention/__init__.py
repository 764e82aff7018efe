"""Attention open to study: places selected, captured, edited, measured and drawn. `tap.py` joins captures and edits in one run."""
