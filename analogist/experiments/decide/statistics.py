"""Paired differences between runs on the same inputs and seeds: their mean, interval and test, and Holm's correction."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analogist.experiments.decide.units import BOOTSTRAP, RESAMPLES, Sample, sample_of

FLIPS = 20_000
EXACT = 14  # units up to which all sign flips are counted


@dataclass(frozen=True)
class Effect:
    """What changing one thing does to a metric. mean: of the paired differences. low, high: its 95 % interval, None for one unit.

    p: two-sided, of no difference; p_corrected: after Holm's correction. pairs: runs compared. units: inputs, or seeds.
    over: what was resampled, inputs, seeds, or inputs and seeds. method: of the interval. moot: pairs left out because both are the
    same run.
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
    over: str = "inputs"
    method: str = ""
    moot: int = 0


def differences(variant: Mapping[tuple, float], reference: Mapping[tuple, float]) -> dict[tuple[str, object], float]:
    """Mean paired difference by (input, seed), of runs that both have. Keys: (input, seed, anything else that must agree)."""
    found: dict[tuple[str, object], list[float]] = {}
    for key, value in variant.items():
        if key in reference:
            found.setdefault(key[:2], []).append(value - reference[key])
    return {key: float(np.mean(values)) for key, values in found.items()}


def sign_flip(units: Sequence[float] | np.ndarray, *, seed: int = 0) -> float | None:
    """Two-sided p of no difference, by flipping the signs of whole units: all flips up to 14 units, else 20000 random ones.

    None where there is one unit only. Source: Fisher 1935; Phipson and Smyth 2010 for the random flips.
    """
    values = np.asarray(units, float)
    n = len(values)
    if n < 2:
        return None
    observed = abs(values.sum())
    tolerance = 1e-12 * max(np.abs(values).sum(), 1e-300)
    if n <= EXACT:
        signs = np.array(list(itertools.product((1, -1), repeat=n)), float)
        return float((np.abs(signs @ values) >= observed - tolerance).mean())
    signs = np.random.default_rng(seed).choice((1.0, -1.0), (FLIPS, n))
    return float((1 + (np.abs(signs @ values) >= observed - tolerance).sum()) / (1 + FLIPS))


def no_difference(sample: Sample) -> float | None:
    """Two-sided p of a mean of 0: by sign flips of inputs (or of one input's seeds).

    Where seeds are resampled too, flipping inputs would treat seeds as fixed; there it is the test that agrees with the interval.
    """
    if sample.table is None:
        return sign_flip(sample.units)
    above, below = sample.p_above(0.0), sample.p_below(0.0)
    return None if above is None or below is None else min(1.0, 2 * min(above, below))


def least_p(one: Effect) -> float:
    """The smallest p that `no_difference` can give for the units of an effect, whatever their differences are.

    Sign flips: 2^(1 - n) of all flips of n units, 1 / (1 + flips) of random ones. Over inputs and seeds the interval's test: 2 / (1 +
    resamples) by the bootstrap, 0 by Student's t. 1 where there is one unit.
    """
    if one.units < 2:
        return 1.0
    if one.over != "inputs and seeds":
        return 2.0 ** (1 - one.units) if one.units <= EXACT else 1 / (1 + FLIPS)
    return 2 / (1 + RESAMPLES) if one.method == BOOTSTRAP else 0.0


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
    metric: str, factor: str, level: str, against: str, variant: Mapping[tuple, float], reference: Mapping[tuple, float], *,
    moot: int = 0,
) -> Effect | None:  # fmt: skip
    """One comparison; None without a pair of runs. Every input has the same weight in the mean."""
    sample = sampled(variant, reference)
    if sample is None:
        return None
    low, high = sample.interval() or (None, None)
    paired = [reference[key] for key in variant if key in reference]
    return Effect(
        metric, factor, level, against, sample.mean, low, high, no_difference(sample), len(paired), len(sample.units),
        float(np.mean(paired)), None, sample.over, sample.method, moot,
    )  # fmt: skip


def sampled(variant: Mapping[tuple, float], reference: Mapping[tuple, float]) -> Sample | None:
    """The units of a comparison; None without a pair of runs."""
    found = differences(variant, reference)
    return sample_of(found) if found else None
