"""Plots of effects with their intervals (matplotlib, extra `plots`), drawn without a display."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from analogist.disk.writing import atomic_write, output_folder
from analogist.experiments.decide.statistics import Effect
from analogist.experiments.report.report_text import metric_text
from analogist.experiments.score.metrics import METRICS, Metric


def plot_effects(
    effects: Sequence[Effect], levels: Mapping[str, Sequence[str]], folder: Path, *, metrics: Mapping[str, Metric] = METRICS
) -> list[Path]:  # fmt: skip
    """One PNG per metric: every level's mean paired difference to its reference with the 95 % interval.

    levels: factor -> its levels, in the order in which they are drawn; numbers are sorted.
    """
    from matplotlib.figure import Figure

    written = []
    for metric in dict.fromkeys(one.metric for one in effects):
        chosen = [one for one in effects if one.metric == metric]
        factors = [factor for factor in levels if any(one.factor == factor for one in chosen)]
        chosen.sort(key=lambda one: (factors.index(one.factor), _ordered(levels[one.factor]).index(one.level)))
        shown = chosen[:80]
        figure = Figure(figsize=(8, 1.2 + 0.26 * len(shown)), layout="constrained")
        axes = figure.subplots()
        for y, one in enumerate(shown):
            colour = f"C{factors.index(one.factor) % 10}"
            if one.low is not None and one.high is not None:
                axes.plot([one.low, one.high], [y, y], color=colour, linewidth=2)
            axes.plot([one.mean], [y], "o", color=colour, markersize=5)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(shown)), [_label(one) for one in shown], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel(f"{metric}: mean paired difference, 95 % interval", fontsize=9)
        axes.tick_params(axis="x", labelsize=8)
        left_out = f"\n{len(chosen) - len(shown)} more levels are in effects.csv" if len(shown) < len(chosen) else ""
        axes.set_title(metric_text(metric, metrics) + left_out, fontsize=9)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=120, metadata={"Software": None})
        written.append(atomic_write(output_folder(folder) / f"{metric}.png", drawn.getvalue()))
    return written


def _ordered(levels: Sequence[str]) -> list[str]:
    """Numbers by size; anything else in its own order."""
    try:
        return sorted(levels, key=float)
    except ValueError:
        return list(levels)


def _label(one: Effect) -> str:
    level = one.level if len(one.level) <= 40 else one.level[:39] + "…"
    return f"{one.factor} {level} (not {one.against})"
