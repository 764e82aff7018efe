"""Measures of captured attention, in one place to import from."""

from analogist.attention.measure.contribution import Contribution, contribution
from analogist.attention.measure.correspond import Field, Match, best_keys, correspondence
from analogist.attention.measure.flow import FlowTable, divergence, entropy, flow, flow_rows, flow_table, reach
from analogist.attention.measure.heat import WordHeat, word_heat, word_heats
from analogist.attention.measure.site_effects import Effects, effects
from analogist.attention.measure.sweep import Sweep, patch_sweep

__all__ = [
    "Contribution", "Effects", "Field", "FlowTable", "Match", "Sweep", "WordHeat", "best_keys", "contribution", "correspondence",
    "divergence", "effects", "entropy", "flow", "flow_rows", "flow_table", "patch_sweep", "reach", "word_heat", "word_heats",
]  # fmt: skip
