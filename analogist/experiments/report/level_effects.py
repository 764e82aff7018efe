"""Effects and verdicts from a table: every level against its factor's reference, and a study's hypotheses."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analogist.experiments.design.study import Hypothesis
from analogist.experiments.report.statistics import Effect, effect, holm

ALPHA = 0.05


def _values(rows: Sequence[dict], metric: str, chosen: Mapping[str, str], others: Sequence[str]) -> dict[tuple, float]:
    """Values of a metric in the runs with the chosen levels, by input, seed and the levels of the other factors."""
    return {
        (row["input"], row["seed"], *(row[name] for name in others)): row["value"]
        for row in rows
        if row["metric"] == metric and row["value"] is not None and all(row[name] == level for name, level in chosen.items())
    }


def effects(rows: Sequence[dict], factors: Sequence[str], metrics: Sequence[str]) -> list[Effect]:
    """Every level of every factor against the reference level, with all other factors equal; largest first within a metric.

    The correction is over all comparisons of a metric.
    """
    reference_run = next((row for row in rows if row["reference"]), None)
    if reference_run is None:
        return []
    out: list[Effect] = []
    for metric in metrics:
        found = []
        for factor in factors:
            others = [name for name in factors if name != factor]
            against = reference_run[factor]
            base = _values(rows, metric, {factor: against}, others)
            for level in dict.fromkeys(row[factor] for row in rows):
                if level != against:
                    one = effect(metric, factor, level, against, _values(rows, metric, {factor: level}, others), base)
                    found += [one] if one is not None else []
        out += corrected(found)
    return out


def corrected(found: Sequence[Effect]) -> list[Effect]:
    """The effects with Holm's correction over all of them, the largest mean difference first."""
    adjusted = [dataclasses.replace(one, p_corrected=p) for one, p in zip(found, holm([one.p for one in found]), strict=True)]
    return sorted(adjusted, key=lambda one: -abs(one.mean))


@dataclass(frozen=True)
class Verdict:
    """What a study says of a hypothesis: supported, contradicted, undecided or not tested, and why."""

    hypothesis: Hypothesis
    verdict: str
    effect: Effect | None
    why: str


def verdicts(rows: Sequence[dict], factors: Sequence[str], hypotheses: Sequence[Hypothesis]) -> list[Verdict]:
    """Tests each hypothesis on paired differences, corrected over all of them together.

    Supported: the difference has the expected sign and p < 0.05 after correction; contradicted: the other sign, as surely.
    """
    reference_run = next((row for row in rows if row["reference"]), None)
    found: list[tuple[Hypothesis, Effect | None]] = []
    for one in hypotheses:
        tested = None
        if reference_run is not None:
            at = {name: reference_run[name] for name in factors}
            variant, against = (
                _values(rows, one.metric, at | dict(one.variant), ()),
                _values(rows, one.metric, at | dict(one.against), ()),
            )
            tested = effect(one.metric, "", _named(one.variant), _named(one.against), variant, against)
        found.append((one, tested))
    adjusted = holm([tested.p if tested is not None else None for _, tested in found])
    return [
        _verdict(one, None if tested is None else dataclasses.replace(tested, p_corrected=p))
        for (one, tested), p in zip(found, adjusted, strict=True)
    ]


def _named(levels: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {level}" for name, level in levels.items()) or "base"


def _verdict(hypothesis: Hypothesis, tested: Effect | None) -> Verdict:
    if tested is None:
        return Verdict(hypothesis, "not tested", None, f"no pair of runs with {hypothesis.metric} was measured")
    if tested.p_corrected is None:
        return Verdict(hypothesis, "undecided", tested, "one input and seed say nothing about others")
    if tested.p_corrected >= ALPHA:
        return Verdict(hypothesis, "undecided", tested, f"p {tested.p_corrected:.2g} after correction")
    right = hypothesis.expect == "differs" or (tested.mean > 0) == (hypothesis.expect == "higher")
    return Verdict(hypothesis, "supported" if right else "contradicted", tested, f"p {tested.p_corrected:.2g} after correction")
