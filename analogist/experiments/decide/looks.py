"""Looks at a study while it runs: p values that stay right although the study stops as soon as it has an answer.

A look at the part t of all inputs has the statistic Z; under pure noise sqrt(t) Z is a Brownian motion at time t. Looks are compared by
|Z| t^(1/2 - SHAPE). The sequential p is the chance that pure noise, at any of the planned looks, reaches as much as the looks so far.
Source: Wang and Tsiatis 1987 (SHAPE 0: O'Brien and Fleming 1979; 1/2: Pocock 1977); Armitage, McPherson and Rowe 1969 for the
integration; Liu and Anderson 2008.
"""

import math
from collections.abc import Sequence

import numpy as np

from analogist.experiments.decide.student import normal_cdf, normal_quantile
from analogist.experiments.design.levels import StudyError

SHAPE = 0.25  # between O'Brien-Fleming, which hardly ever stops early, and Pocock, which loses power at the last look
LOOKS = 4
NODES = 200
TINY = 1e-15  # a p of 0 is taken as this


def look_sizes(inputs: int, looks: int = LOOKS) -> list[int]:
    """How many inputs each look sees: equal parts, at least 2, the last one all. Raises StudyError for fewer than two inputs."""
    if inputs < 2:
        raise StudyError(f"until decided: {inputs} input; nothing can be decided with fewer than two")
    return sorted({max(2, round(inputs * k / looks)) for k in range(1, looks + 1)})


def reached(zs: Sequence[float], times: Sequence[float], shape: float = SHAPE) -> tuple[float, int]:
    """The greatest z t^(1/2 - shape) of the looks so far, and at which look (from 0). zs: z of each look, absolute for two-sided p."""
    scaled = [z * t ** (0.5 - shape) for z, t in zip(zs, times, strict=False)]
    best = int(np.argmax(scaled))
    return scaled[best], best


def crossing(bound: float, times: Sequence[float], *, sides: int, shape: float = SHAPE) -> float:
    """Chance, 0..1, that noise reaches `bound` at any of the looks. times: parts of all inputs, up to 1. sides: 1 (upwards) or 2."""
    if bound <= 0 and sides == 2:
        return 1.0
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    stay, before = 1.0, 0.0
    reached_before: tuple[np.ndarray, np.ndarray] | None = None  # where the motion was, and how likely
    for t in times:
        high = bound * t**shape  # of sqrt(t) Z
        low = -high if sides == 2 else min(-8.5 * math.sqrt(t), high - 1.0)
        x, w = (high - low) / 2 * nodes + (high + low) / 2, (high - low) / 2 * weights
        if reached_before is None:
            density = _normal(x, math.sqrt(t))
        else:
            density = _normal(x[:, None] - reached_before[0][None], math.sqrt(t - before)) @ reached_before[1]
        stay, before, reached_before = float(w @ density), t, (x, w * density)
    return min(1.0, max(0.0, 1 - stay))


def sequential_p(ps: Sequence[float], times: Sequence[float], *, sides: int, shape: float = SHAPE) -> tuple[float, int]:
    """The p of all looks so far together, and the look (from 0) that it comes from.

    ps: one per look so far, two-sided for sides 2. times: of all planned looks, as parts of all inputs.
    """
    zs = [-normal_quantile(min(max(p, TINY), 1 - TINY) / sides) for p in ps]
    most, best = reached(zs, times, shape)
    return crossing(most, times, sides=sides, shape=shape), best


def critical(alpha: float, times: Sequence[float], *, sides: int, shape: float = SHAPE) -> float:
    """The bound that noise reaches with chance alpha."""
    low, high = 0.0, 10.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if crossing(middle, times, sides=sides, shape=shape) > alpha else (low, middle)
    return (low + high) / 2


def level_at(look: int, alpha: float, times: Sequence[float], shape: float = SHAPE) -> float:
    """The two-sided level at one look with which the level over all looks is alpha.

    A repeated interval holds with 1 minus this level at that look. Source: Jennison and Turnbull 1989.
    """
    z = critical(alpha, times, sides=2, shape=shape) * times[look] ** (shape - 0.5)
    return 2 * float(normal_cdf(-z))


def _normal(x: np.ndarray, sd: float) -> np.ndarray:
    return np.exp(-0.5 * (x / sd) ** 2) / (sd * math.sqrt(2 * math.pi))
