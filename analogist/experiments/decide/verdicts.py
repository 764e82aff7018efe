"""The verdicts on a study's hypotheses: supported, contradicted, no effect larger than X, undecided, or not tested.

Each hypothesis is tested twice: against no difference, and (two one-sided tests) against one as large as the smallest effect of
interest. Each kind of test is corrected after Holm over all hypotheses, so that the chance of any error of a kind is at most 5 %.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analogist.experiments.decide.equivalence import margin_of, two_one_sided
from analogist.experiments.decide.level_effects import Comparison, acting, compare, reference_levels
from analogist.experiments.decide.looks import level_at, sequential_p
from analogist.experiments.decide.power import detectable, units_for_equivalence, units_for_flips, units_to_see
from analogist.experiments.decide.statistics import Effect, effect, holm, no_difference, sampled
from analogist.experiments.decide.units import Sample
from analogist.experiments.design.study import SMALLEST, Hypothesis

ALPHA = 0.05
SUPPORTED, CONTRADICTED, UNDECIDED, NOT_TESTED = "supported", "contradicted", "undecided", "not tested"
Smallest = float | str | Mapping[str, float | str]


@dataclass(frozen=True)
class Looks:
    """The looks of a study that stops when it is decided. seen: names of the inputs of each look so far, each holding the one before.

    times: the part of all inputs that each planned look sees.
    """

    seen: tuple[tuple[str, ...], ...]
    times: tuple[float, ...]

    @property
    def last(self) -> bool:
        return len(self.seen) == len(self.times)


@dataclass(frozen=True)
class Verdict:
    """The verdict on a hypothesis, and why.

    margin: the smallest effect of interest as a number. p_equivalent: corrected, of an effect as large as it. detectable: the
    difference that a study of this size and spread detects in 80 % of repetitions, at the strictest level of Holm's correction; infinite
    where so few units cannot give a p below that level, whatever the difference.
    effect.low, high: in a study with looks the repeated interval of the last look.
    """

    hypothesis: Hypothesis
    verdict: str
    effect: Effect | None
    why: str
    margin: float | None = None
    p_equivalent: float | None = None
    detectable: float | None = None

    @property
    def decided(self) -> bool:
        """Whether the verdict is final, so that no more inputs are needed."""
        return self.verdict != UNDECIDED


def smallest_for(smallest: Smallest, metric: str) -> float | str:
    """The smallest effect of interest for a metric."""
    return smallest.get(metric, SMALLEST) if isinstance(smallest, Mapping) else smallest


def reference_mean(rows: Sequence[dict], metric: str) -> float:
    """Mean of a metric over the reference's runs; 0 where there is none."""
    values = [row["value"] for row in rows if row["reference"] and row["metric"] == metric and row["value"] is not None]
    return float(np.mean(values)) if values else 0.0


@dataclass(frozen=True)
class _Tested:
    """A hypothesis with its comparison; sample and effect None where there is none. ps: two-sided, and both one-sided ones, by look."""

    hypothesis: Hypothesis
    margin: float | None
    sample: Sample | None = None
    effect: Effect | None = None
    moot: int = 0
    ps: tuple[tuple[float | None, tuple[float, float] | None], ...] = ()


def verdicts(
    rows: Sequence[dict], factors: Sequence[str], hypotheses: Sequence[Hypothesis], *, smallest: Smallest = SMALLEST,
    looks: Looks | None = None,
) -> list[Verdict]:  # fmt: skip
    """Tests each hypothesis on paired differences, with all factors that it does not name at the reference.

    smallest: the smallest effect of interest, one for all metrics or by metric. looks: None for a study of a fixed size.
    """
    seen = [tuple({row["input"]: None for row in rows})] if looks is None else looks.seen
    tested = [_test(rows, factors, one, smallest, seen) for one in hypotheses]
    times = (1.0,) if looks is None else looks.times
    differences = holm([_p_of_no_difference(one, times) for one in tested])
    equivalences = holm([_p_of_equivalence(one, times) for one in tested])
    count = sum(one.sample is not None for one in tested)
    out = []
    for one, p_difference, p_same in zip(tested, differences, equivalences, strict=True):
        found = one.effect
        if found is not None:
            found = dataclasses.replace(found, p_corrected=p_difference)
            level = 1 - level_at(len(looks.seen) - 1, ALPHA, times) if looks is not None else 0.95
            repeated = one.sample.interval(level) if looks is not None and one.sample is not None else None
            if repeated is not None:
                found = dataclasses.replace(found, low=repeated[0], high=repeated[1])
        out.append(_verdict(one, found, p_same, count))
    return out


def compared_runs(rows: Sequence[dict], factors: Sequence[str], one: Hypothesis, metric: str) -> Comparison | None:
    """The runs that a hypothesis compares, all factors that it does not name at the reference; None without the reference's runs."""
    at = reference_levels(rows, factors)
    return None if at is None else compare(rows, metric, at | dict(one.variant), at | dict(one.against))


def _test(rows: Sequence[dict], factors: Sequence[str], one: Hypothesis, smallest: Smallest, seen: Sequence[Sequence[str]]) -> _Tested:
    margin = margin_of(smallest_for(smallest, one.metric), reference_mean(rows, one.metric))
    compared = compared_runs(rows, factors, one, one.metric)
    if compared is None:
        return _Tested(one, margin)
    variant, against, moot = acting(compared.runs, compared.reference)
    sample = sampled(variant, against)
    if sample is None:
        return _Tested(one, margin, moot=len(moot))
    ps = []
    for names in seen:
        known = set(names)
        part = sampled({key: value for key, value in variant.items() if key[0] in known}, against)
        equivalent = None if part is None or margin is None else two_one_sided(part, margin)
        ps.append((None if part is None else no_difference(part), equivalent))
    found = effect(one.metric, "", _named(one.variant), _named(one.against), variant, against, moot=len(moot))
    return _Tested(one, margin, sample, found, len(moot), tuple(ps))


def _p_of_no_difference(one: _Tested, times: Sequence[float]) -> float | None:
    """Two-sided p of no difference over all looks so far; None where the last look has none."""
    if not one.ps or one.ps[-1][0] is None:
        return None
    return _over_looks([1.0 if p is None else p for p, _ in one.ps], times, 2)


def _p_of_equivalence(one: _Tested, times: Sequence[float]) -> float | None:
    """The larger p of the two one-sided tests over all looks so far."""
    if not one.ps or one.ps[-1][1] is None:
        return None
    return max(_over_looks([1.0 if both is None else both[side] for _, both in one.ps], times, 1) for side in (0, 1))


def _over_looks(ps: Sequence[float], times: Sequence[float], sides: int) -> float:
    return ps[0] if len(times) == 1 else sequential_p(ps, times, sides=sides)[0]


def _verdict(one: _Tested, found: Effect | None, p_equivalent: float | None, count: int) -> Verdict:
    hypothesis, margin = one.hypothesis, one.margin
    if found is None or one.sample is None:
        why = "both are one and the same run" if one.moot else f"no pair of runs with {hypothesis.metric} was measured"
        return Verdict(hypothesis, NOT_TESTED, None, why, margin)
    if found.p_corrected is None:
        return Verdict(hypothesis, UNDECIDED, found, "one input and seed say nothing about others", margin)
    spread = one.sample.spread[0] * math.sqrt(found.units)
    alpha = ALPHA / max(count, 1)
    by_flips = one.sample.table is None and found.units < units_for_flips(alpha)
    seen = math.inf if by_flips else detectable(spread, found.units, alpha=alpha)
    said = {"margin": margin, "p_equivalent": p_equivalent, "detectable": seen}
    p = f"p {found.p_corrected:.2g} after correction"
    if p_equivalent is not None and p_equivalent < ALPHA:
        there = f"; the difference is significant ({p}) but smaller than that" if found.p_corrected < ALPHA else ""
        why = f"p {p_equivalent:.2g} after correction for an effect as large as that{there}"
        return Verdict(hypothesis, f"no effect larger than {margin:.3g}", found, why, **said)
    if found.p_corrected < ALPHA:
        right = hypothesis.expect == "differs" or (found.mean > 0) == (hypothesis.expect == "higher")
        return Verdict(hypothesis, SUPPORTED if right else CONTRADICTED, found, p, **said)
    return Verdict(hypothesis, UNDECIDED, found, f"{p}{_wanting(found, margin, spread, count)}", **said)


def _wanting(found: Effect, margin: float | None, spread: float, count: int) -> str:
    """How many units a decision needs, at this spread."""
    if margin is None or found.over == "inputs and seeds":
        return ""
    alpha = ALPHA / max(count, 1)
    to_see, to_rule_out = (search(margin, spread, alpha=alpha) for search in (units_to_see, units_for_equivalence))
    if to_see is None or to_rule_out is None:
        return f"; more than a million {found.over} would be needed"
    needed = max(to_see, to_rule_out, units_for_flips(alpha))
    return f"; about {needed} {found.over} would tell an effect of {margin:.3g} from none in 80 % of studies"


def _named(levels: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {level}" for name, level in levels.items()) or "base"
