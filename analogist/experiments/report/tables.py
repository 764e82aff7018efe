"""The tables of a study as text: claims, effects and interactions, as the Markdown report and the page show them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from analogist.experiments.decide.statistics import Effect
from analogist.experiments.decide.verdicts import Verdict

BAR = "\\|"  # in a cell


@dataclass(frozen=True)
class Table:
    """A table of text. heads: of the columns. rows: one text per column, in the order of what was given."""

    heads: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def markdown(self, most: int | None = None) -> list[str]:
        """The lines of a Markdown table. most: how many rows at most; None: all."""
        return [_line(self.heads), "|" + "---|" * len(self.heads), *map(_line, self.rows[:most])]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |"


def claims_table(tested: Sequence[Verdict]) -> Table:
    """The verdict on each hypothesis, with its numbers."""
    heads = (
        "claim", "verdict", "difference", "95 % interval", "p, corrected", "smallest effect that matters", "p of such an effect", "pairs",
        "effect seen in 80 %",
    )  # fmt: skip
    rows = []
    for one in tested:
        e = one.effect
        numbers = ("", "", "") if e is None else (f"{e.metric} {e.mean:+.4g}", _interval(e), _p(e.p_corrected))
        matters = (_number(one.margin), _p(one.p_equivalent), "0" if e is None else str(e.pairs), _number(one.detectable))
        rows.append((one.hypothesis.claim, one.verdict, *numbers, *matters))
    return Table(heads, rows)


def effects_table(found: Sequence[Effect]) -> Table:
    """Every level against the reference level of its factor."""
    return Table(
        ("factor", "level", "against", "difference", "95 % interval", "p, corrected", "pairs"),
        [(one.factor, one.level, one.against, f"{one.mean:+.4g}", _interval(one), _p(one.p_corrected), str(one.pairs)) for one in found],
    )


def interactions_table(found: Sequence[Effect]) -> Table:
    """How the effects of two factors depend on each other."""
    heads = ("factors", "levels", "against", "at the second's reference", "at its level", "change", "95 % interval", "p, corrected")
    rows = []
    for one in found:
        simple = (f"{one.reference_mean:+.4g}", f"{one.reference_mean + one.mean:+.4g}", f"{one.mean:+.4g}")
        rows.append((one.factor, one.level, one.against, *simple, _interval(one), _p(one.p_corrected)))
    return Table(heads, rows)


def _interval(one: Effect) -> str:
    return "one unit" if one.low is None else f"{one.low:+.3g} .. {one.high:+.3g}"


def _number(value: float | None) -> str:
    return "" if value is None else "none" if math.isinf(value) else f"{value:.3g}"


def _p(p: float | None) -> str:
    return "" if p is None else f"{p:.2g}"
