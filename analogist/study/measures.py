"""Measures of captured attention, in one place to import from."""

from .correspond import Field, Match, best_keys, correspondence
from .effects import Effects, effects
from .flow import FlowTable, divergence, entropy, flow, flow_rows, flow_table, reach
from .heat import WordHeat, word_heat, word_heats
from .sweep import Sweep, patch_sweep

__all__ = [
    "Effects", "Field", "FlowTable", "Match", "Sweep", "WordHeat", "best_keys", "correspondence", "divergence", "effects",
    "entropy", "flow", "flow_rows", "flow_table", "patch_sweep", "reach", "word_heat", "word_heats",
]  # fmt: skip
