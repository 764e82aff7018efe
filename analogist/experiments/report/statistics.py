"""Paired differences between runs on the same inputs and seeds: bootstrap intervals, sign-flip tests, Holm's correction.

Seeds of one input are not independent, so inputs are resampled whole (a cluster bootstrap); with one input, seeds are.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
FLIPS = 20_000
EXACT = 14  # units up to which all sign flips are counted


@dataclass(frozen=True)
class Effect:
    """What changing one thing does to a metric. mean: of the paired differences. low, high: its 95 % interval, None for one unit.

    p: two-sided, of no difference; p_corrected: after Holm's correction. pairs: runs compared. units: inputs, or seeds.
    """

    metric: str
    factor: str
    level: str
    against: str
    mean: float
    low: float | None
    high: float | None
    p: float | None
    pairs: int
    units: int
    reference_mean: float
    p_corrected: float | None = None


def differences(variant: Mapping[tuple, float], reference: Mapping[tuple, float]) -> dict[str, list[float]]:
    """Paired differences by input, of runs that both have. Keys: (input, seed, anything else that must agree)."""
    out: dict[str, list[float]] = {}
    for key, value in variant.items():
        if key in reference:
            out.setdefault(key[0], []).append(value - reference[key])
    return out


def units_of(by_input: Mapping[str, Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counts of the independent units: one an input, or with one input one a pair."""
    if len(by_input) > 1:
        return np.array([sum(values) for values in by_input.values()]), np.array(
            [len(values) for values in by_input.values()], float
        )
    values = np.array([value for values in by_input.values() for value in values], float)
    return values, np.ones(len(values))


def bootstrap(by_input: Mapping[str, Sequence[float]], *, level: float = 0.95, seed: int = 0) -> tuple[float, float] | None:
    """Percentile interval of the mean difference; None for one unit. Source: Efron and Tibshirani 1993, ch. 13."""
    sums, counts = units_of(by_input)
    if len(sums) < 2:
        return None
    drawn = np.random.default_rng(seed).integers(0, len(sums), (RESAMPLES, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def sign_flip(by_input: Mapping[str, Sequence[float]], *, seed: int = 0) -> float | None:
    """Two-sided p of no difference, by flipping the signs of whole units: all flips up to 14 units, else 20000 random ones.

    None where there is one unit only. Source: Fisher 1935; Phipson and Smyth 2010 for the random flips.
    """
    sums, _ = units_of(by_input)
    n = len(sums)
    if n < 2:
        return None
    observed = abs(sums.sum())
    tolerance = 1e-12 * max(np.abs(sums).sum(), 1e-300)
    if n <= EXACT:
        signs = np.array(list(itertools.product((1, -1), repeat=n)), float)
        return float((np.abs(signs @ sums) >= observed - tolerance).mean())
    signs = np.random.default_rng(seed).choice((1.0, -1.0), (FLIPS, n))
    return float((1 + (np.abs(signs @ sums) >= observed - tolerance).sum()) / (1 + FLIPS))


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """p values corrected for their number; None stays None. Source: Holm 1979."""
    known = sorted((p, i) for i, p in enumerate(ps) if p is not None)
    out: list[float | None] = [None] * len(ps)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        out[i] = largest
    return out


def effect(
    metric: str, factor: str, level: str, against: str, variant: Mapping[tuple, float], reference: Mapping[tuple, float]
) -> Effect | None:
    """One comparison; None where no run has its partner."""
    found = differences(variant, reference)
    values = [value for one in found.values() for value in one]
    if not values:
        return None
    interval = bootstrap(found)
    low, high = interval if interval is not None else (None, None)
    paired = [reference[key] for key in variant if key in reference]
    return Effect(
        metric, factor, level, against, float(np.mean(values)), low, high, sign_flip(found), len(values), len(units_of(found)[0]),
        float(np.mean(paired)),
    )  # fmt: skip
