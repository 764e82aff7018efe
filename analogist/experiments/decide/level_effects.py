"""Effects from a table: every level against its factor's reference, interactions of two factors, and what is moot in both.

A pair of runs is moot where both are the same job: the factor acts on nothing there (SAC's scale where SAC is off). Such pairs say
nothing about the factor and are left out; `moot_cells` lists them.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analogist.experiments.decide.statistics import Effect, effect, holm

Runs = dict[tuple, tuple[float, str | None]]  # (input, seed, levels of other factors) -> value and job


@dataclass(frozen=True)
class Moot:
    """Pairs of runs left out of a factor's effect. cells: the levels of other factors there; {} where it is moot everywhere."""

    factor: str
    level: str
    against: str
    cells: tuple[dict[str, str], ...]
    pairs: int
    of: int

    def __str__(self) -> str:
        where = "everywhere" if self.pairs == self.of else "where " + "; or where ".join(_named(cell) for cell in self.cells)
        return (
            f"{self.factor} {self.level} against {self.against} is moot {where}: {self.pairs} of {self.of} pairs are one and the "
            "same run and are left out"
        )


def runs_of(rows: Sequence[dict], metric: str, chosen: Mapping[str, str], others: Sequence[str]) -> Runs:
    """Values of a metric in the runs with the chosen levels."""
    return {
        (row["input"], row["seed"], *(row[name] for name in others)): (row["value"], row.get("job"))
        for row in rows
        if row["metric"] == metric and row["value"] is not None and all(row[name] == level for name, level in chosen.items())
    }


def acting(variant: Runs, reference: Runs) -> tuple[dict[tuple, float], dict[tuple, float], list[tuple]]:
    """Values of both sides where they are two runs, and the keys of the pairs that are moot."""
    moot = [key for key, (_, job) in variant.items() if job is not None and key in reference and reference[key][1] == job]
    left_out = set(moot)
    kept, kept_reference = ({key: value for key, (value, _) in runs.items() if key not in left_out} for runs in (variant, reference))
    return kept, kept_reference, moot


def reference_levels(rows: Sequence[dict], factors: Sequence[str]) -> dict[str, str] | None:
    """The levels of the reference; None in a table without the reference's runs."""
    row = next((row for row in rows if row["reference"]), None)
    return None if row is None else {name: row[name] for name in factors}


@dataclass(frozen=True)
class Comparison:
    """Runs with some levels against runs with others, paired by input, seed and the levels of all other factors.

    levels, against: factor -> level, of the two sides. others: the factors whose levels follow input and seed in the keys.
    runs, reference: values of a metric and jobs of the two sides.
    """

    metric: str
    levels: Mapping[str, str]
    against: Mapping[str, str]
    others: tuple[str, ...]
    runs: Runs
    reference: Runs

    @property
    def paired(self) -> list[tuple]:
        """The keys of all pairs, moot ones among them."""
        return [key for key in self.runs if key in self.reference]

    @property
    def moot(self) -> list[tuple]:
        """The keys of the pairs that are one and the same job."""
        return acting(self.runs, self.reference)[2]

    @property
    def differences(self) -> dict[tuple, float]:
        """Value minus reference value of every pair that is not moot."""
        runs, reference, _ = acting(self.runs, self.reference)
        return {key: value - reference[key] for key, value in runs.items() if key in reference}

    def sides(self, key: tuple) -> tuple[dict[str, str], dict[str, str]]:
        """The levels of all factors of the two runs of a pair."""
        others = dict(zip(self.others, key[2:], strict=True))
        return others | dict(self.levels), others | dict(self.against)


def compare(
    rows: Sequence[dict], metric: str, levels: Mapping[str, str], against: Mapping[str, str], others: Sequence[str] = ()
) -> Comparison:  # fmt: skip
    """The comparison of the runs of a table with these levels."""
    runs, reference = (runs_of(rows, metric, chosen, others) for chosen in (levels, against))
    return Comparison(metric, levels, against, tuple(others), runs, reference)


def comparisons(rows: Sequence[dict], factors: Sequence[str], metric: str) -> list[Comparison]:
    """Every level of every factor against the reference level, all other factors equal; empty without the reference's runs."""
    at = reference_levels(rows, factors)
    if at is None:
        return []
    return [
        compare(rows, metric, {factor: level}, {factor: at[factor]}, [name for name in factors if name != factor])
        for factor in factors
        for level in _levels(rows, factor)
        if level != at[factor]
    ]


def effects(rows: Sequence[dict], factors: Sequence[str], metrics: Sequence[str]) -> list[Effect]:
    """The effect of every level of every factor against the reference level; largest first within a metric.

    The correction is over all comparisons of a metric. Moot pairs are left out; a level that is moot everywhere has no effect here.
    """
    out: list[Effect] = []
    for metric in metrics:
        found = []
        for one in comparisons(rows, factors, metric):
            ((factor, level),) = one.levels.items()
            runs, reference, moot = acting(one.runs, one.reference)
            of_level = effect(metric, factor, level, one.against[factor], runs, reference, moot=len(moot))
            found += [of_level] if of_level is not None else []
        out += corrected(found)
    return out


def moot_cells(rows: Sequence[dict], factors: Sequence[str]) -> list[Moot]:
    """What is left out of the effects of a table, one line per level."""
    metric = next((row["metric"] for row in rows if row["value"] is not None), None)
    out: list[Moot] = []
    for one in comparisons(rows, factors, metric) if metric is not None else []:
        ((factor, level),) = one.levels.items()
        moot, paired = one.moot, one.paired
        if moot:
            cells = _summary([key[2:] for key in moot], [key[2:] for key in paired], one.others)
            out.append(Moot(factor, level, one.against[factor], cells, len(moot), len(paired)))
    return out


def interactions(rows: Sequence[dict], factors: Sequence[str], metrics: Sequence[str]) -> list[Effect]:
    """How much the effect of one factor's level changes with another factor's level, all else equal, largest first within a metric.

    For designs with every combination. An Effect's factor is "f x g", its level "level of f, level of g", its mean the effect of f at g's
    level minus that at g's reference, which is reference_mean. Cells in which f or g is moot are left out.
    """
    at = reference_levels(rows, factors)
    out: list[Effect] = []
    if at is None:
        return out
    for metric in metrics:
        found = []
        for f, g in itertools.combinations(factors, 2):
            others = [name for name in factors if name not in (f, g)]
            levels = {name: [level for level in _levels(rows, name) if level != at[name]] for name in (f, g)}
            for lf, lg in itertools.product(levels[f], levels[g]):
                four = [runs_of(rows, metric, {f: a, g: b}, others) for a, b in ((lf, lg), (at[f], lg), (lf, at[g]), (at[f], at[g]))]
                changed, base, moot = _simple_effects(*four)
                one = effect(metric, f"{f} x {g}", f"{lf}, {lg}", f"{at[f]}, {at[g]}", changed, base, moot=moot)
                found += [one] if one is not None else []
        out += corrected(found)
    return out


def corrected(found: Sequence[Effect]) -> list[Effect]:
    """The effects with Holm's correction over all of them, the largest mean difference first."""
    adjusted = [dataclasses.replace(one, p_corrected=p) for one, p in zip(found, holm([one.p for one in found]), strict=True)]
    return sorted(adjusted, key=lambda one: -abs(one.mean))


def _simple_effects(there: Runs, there_base: Runs, here: Runs, here_base: Runs) -> tuple[dict, dict, int]:
    """Effects of f at g's level and at g's reference, where all four runs are there and neither factor is moot."""
    changed, base, moot = {}, {}, 0
    for key in there.keys() & there_base.keys() & here.keys() & here_base.keys():
        jobs = [runs[key][1] for runs in (there, there_base, here, here_base)]
        same = [(0, 1), (2, 3), (0, 2), (1, 3)]
        if any(jobs[a] is not None and jobs[a] == jobs[b] for a, b in same):
            moot += 1
            continue
        changed[key], base[key] = there[key][0] - there_base[key][0], here[key][0] - here_base[key][0]
    order = [key for key in there if key in changed]  # of the table, so that equal tables give equal results
    return {key: changed[key] for key in order}, {key: base[key] for key in order}, moot


def _levels(rows: Sequence[dict], factor: str) -> list[str]:
    return list(dict.fromkeys(row[factor] for row in rows))


def _summary(moot: Sequence[tuple], paired: Sequence[tuple], others: Sequence[str]) -> tuple[dict[str, str], ...]:
    """Where a factor is moot, in the fewest words: one level of one other factor where that is exact, else all cells."""
    cells, everywhere = set(moot), set(paired)
    if cells == everywhere:
        return ()
    for place, name in enumerate(others):
        levels = {cell[place] for cell in cells}
        if {cell for cell in everywhere if cell[place] in levels} == cells:
            return tuple({name: level} for level in dict.fromkeys(cell[place] for cell in moot))
    return tuple(dict(zip(others, cell, strict=True)) for cell in dict.fromkeys(moot))


def _named(levels: Mapping[str, str]) -> str:
    return ", ".join(f"{name} is {level}" for name, level in levels.items())
