"""How large an effect a study can detect, and how many inputs it takes to detect one. Differences are taken as normal here."""

import math
from collections.abc import Callable, Mapping

import numpy as np

from analogist.experiments.decide.student import normal_cdf, spread_nodes, t_quantile, t_tail

POWER = 0.8
MOST = 1_000_000  # units above which the answer is "never"


def power(effect: float, sd: float, n: int, *, alpha: float = 0.05) -> float:
    """Chance that a two-sided t test of n paired differences detects `effect`. sd: of the differences. Source: Cohen 1988, ch. 2."""
    shift, critical = effect / sd * math.sqrt(n), t_quantile(1 - alpha / 2, n - 1)
    return t_tail(critical, n - 1, shift) + t_tail(critical, n - 1, -shift)


def equivalence_power(margin: float, sd: float, n: int, *, alpha: float = 0.05) -> float:
    """Chance that two one-sided t tests find no effect as large as `margin` where there is none at all.

    Source: Phillips 1990; for a true difference of 0 the chance is 2 P(Z < m - t S) - 1 where that is positive, averaged over S.
    """
    s, weights = spread_nodes(n - 1)
    inside = 2 * normal_cdf(margin / sd * math.sqrt(n) - t_quantile(1 - alpha, n - 1) * s) - 1
    return float(weights @ np.maximum(inside, 0))


def detectable(sd: float, n: int, *, alpha: float = 0.05, chance: float = POWER) -> float:
    """The smallest effect that a test of n units detects with this chance."""
    if n < 2:
        return math.inf
    if sd == 0:
        return 0.0
    low, high = 0.0, sd
    while power(high, sd, n, alpha=alpha) < chance:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle, sd, n, alpha=alpha) < chance else (low, middle)
    return high


def units_to_see(effect: float, sd: float, *, alpha: float = 0.05, chance: float = POWER) -> int | None:
    """Least number of units with which a test detects `effect` with this chance; None above a million."""
    return _least(lambda n: power(effect, sd, n, alpha=alpha) >= chance) if sd > 0 else 2


def units_for_equivalence(margin: float, sd: float, *, alpha: float = 0.05, chance: float = POWER) -> int | None:
    """Least number of units with which two one-sided tests rule out `margin` where there is no effect; None above a million."""
    return _least(lambda n: equivalence_power(margin, sd, n, alpha=alpha) >= chance) if sd > 0 else 2


def units_for_flips(alpha: float) -> int:
    """Least number of units whose sign flips can give a p below alpha: with n units the smallest p is 2^(1 - n)."""
    return math.floor(1 - math.log2(alpha)) + 1


def _least(enough: Callable[[int], bool]) -> int | None:
    low, high = 1, 2
    while not enough(high):
        low, high = high, 2 * high
        if high > MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def spread_with(found: Mapping[tuple[str, object], float], seeds: int) -> tuple[float, bool] | None:
    """The standard deviation to expect of the inputs' means over `seeds` seeds each, and whether the pilot could tell inputs from seeds.

    found: a pilot's differences by (input, seed). With one seed per input it cannot tell, and its spread is taken as it stands.
    None for one input. Source: one-way variance components, Searle et al. 1992.
    """
    by_input: dict[str, list[float]] = {}
    for (name, _), value in found.items():
        by_input.setdefault(name, []).append(value)
    if len(by_input) < 2:
        return None
    variance = float(np.var([np.mean(values) for values in by_input.values()], ddof=1))
    inside = [float(np.var(values, ddof=1)) for values in by_input.values() if len(values) > 1]
    if not inside:
        return math.sqrt(variance), False
    counts = [len(values) for values in by_input.values()]
    within, per_input = float(np.mean(inside)), len(counts) / sum(1 / count for count in counts)
    between = max(0.0, variance - within / per_input)
    return math.sqrt(between + within / seeds), True
