"""Plots of effects with their intervals (matplotlib, extra `plots`), drawn without a display."""

import io
from collections.abc import Sequence
from pathlib import Path

from analogist.experiments.statistics import Effect
from analogist.files import atomic_write, output_folder


def plot_effects(effects: Sequence[Effect], folder: Path) -> list[Path]:
    """One PNG a metric: every level's mean paired difference to its reference with the 95 % interval, by factor."""
    from matplotlib.figure import Figure

    written = []
    for metric in dict.fromkeys(one.metric for one in effects):
        chosen = [one for one in effects if one.metric == metric]
        factors = list(dict.fromkeys(one.factor for one in chosen))
        chosen.sort(key=lambda one: factors.index(one.factor))
        shown = chosen[:80]
        figure = Figure(figsize=(8, 1.2 + 0.26 * len(shown)), layout="constrained")
        axes = figure.subplots()
        for y, one in enumerate(shown):
            colour = f"C{factors.index(one.factor) % 10}"
            if one.low is not None:
                axes.plot([one.low, one.high], [y, y], color=colour, linewidth=2)
            axes.plot([one.mean], [y], "o", color=colour, markersize=5)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(shown)), [f"{one.factor} {one.level}"[:60] for one in shown], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel(f"{metric}: mean paired difference to the reference, 95 % bootstrap interval")
        title = f"{len(chosen) - len(shown)} more levels are in effects.csv" if len(shown) < len(chosen) else metric
        axes.set_title(title, fontsize=9)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=120, metadata={"Software": None})
        written.append(atomic_write(output_folder(folder) / f"{metric}.png", drawn.getvalue()))
    return written
