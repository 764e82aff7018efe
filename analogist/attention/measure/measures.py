"""Measures of captured attention, in one place to import from."""

from analogist.attention.measure.ablation_sweep import ablate_sweep
from analogist.attention.measure.attribution import attribution_patch
from analogist.attention.measure.circuit import Circuit, find_circuit
from analogist.attention.measure.contribution import Contribution, contribution
from analogist.attention.measure.correspond import Field, Match, best_keys, correspondence
from analogist.attention.measure.edges import EdgeSweep
from analogist.attention.measure.faithful import Faithfulness, faithfulness
from analogist.attention.measure.flow import FlowTable, divergence, entropy, flow, flow_rows, flow_table, reach
from analogist.attention.measure.heat import WordHeat, word_heat, word_heats
from analogist.attention.measure.path import path_patch
from analogist.attention.measure.placebo import Placebo, placebo
from analogist.attention.measure.probe import MeanDifference, Probe, linear_probe, mean_difference
from analogist.attention.measure.rank_seeds import SeedRanking, rank_seeds
from analogist.attention.measure.rollout import rollout
from analogist.attention.measure.runs import HardlyDiffer
from analogist.attention.measure.site_effects import Effects, effects
from analogist.attention.measure.sweep import patch_sweep
from analogist.attention.measure.sweep_result import Sweep

__all__ = [
    "Circuit", "Contribution", "EdgeSweep", "Effects", "Faithfulness", "Field", "FlowTable", "HardlyDiffer", "Match", "MeanDifference",
    "Placebo", "Probe", "SeedRanking", "Sweep", "WordHeat", "ablate_sweep", "attribution_patch", "best_keys", "contribution",
    "correspondence", "divergence", "effects", "entropy", "faithfulness", "find_circuit", "flow", "flow_rows", "flow_table",
    "linear_probe", "mean_difference", "patch_sweep", "path_patch", "placebo", "rank_seeds", "reach", "rollout", "word_heat", "word_heats",
]  # fmt: skip
