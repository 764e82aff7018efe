"""How far a judge agrees with a reference (people, or a second judge), and its mean, corrected from the pictures that both scored."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from analogist.experiments.decide.student import t_quantile

Key = TypeVar("Key", bound=Hashable)
FEWEST = 3  # pictures with both scores from which a mean is corrected


@dataclass(frozen=True)
class Agreement:
    """Of two raters on the same pictures. equal, near: shares with equal scores, and with scores at most 1 apart.

    kappa: Cohen's kappa with quadratic weights, None where all scores of both are equal. bias: mean of judge minus reference.
    """

    count: int
    equal: float
    near: float
    kappa: float | None
    bias: float


@dataclass(frozen=True)
class Corrected:
    """A corrected mean. low, high: its 95 % interval. weight: how far the judge's scores were used, 0 to 1. labelled, judged: counts."""

    value: float
    low: float
    high: float
    weight: float
    labelled: int
    judged: int


def agreement(judge: Mapping[Key, float], reference: Mapping[Key, float]) -> Agreement | None:
    """The agreement of two raters. judge, reference: picture -> score; None where no picture has both.

    kappa is 1 - mean((x - y)^2) / (var x + var y + (mean x - mean y)^2), the weighted kappa of Cohen 1968 with squared distances, whose
    chance term is the squared distance of independent draws from both raters' scores.
    """
    both = [name for name in judge if name in reference]
    if not both:
        return None
    x, y = (np.array([scores[name] for name in both], np.float64) for scores in (judge, reference))
    chance = x.var() + y.var() + (x.mean() - y.mean()) ** 2
    kappa = None if chance == 0 else float(1 - ((x - y) ** 2).mean() / chance)
    apart = np.abs(x - y)
    return Agreement(len(both), float((apart == 0).mean()), float((apart <= 1).mean()), kappa, float((x - y).mean()))


def corrected_mean(judge: Mapping[Key, float], reference: Mapping[Key, float]) -> Corrected | None:
    """The reference's mean over everything the judge scored, from the few that both scored: prediction-powered inference.

    With f the judge's scores, y the reference's, n pictures with both, N with the judge's alone:
    mean = w mean_N(f) + mean_n(y - w f), variance = w^2 var_N(f) / N + var_n(y - w f) / n, and the weight
    w = cov_n(y, f) / ((1 + n / N) var(f)), kept in 0..1. Interval: Student's t with n - 1 degrees of freedom.
    Source: Angelopoulos et al. 2023 (Science 382), mean estimation; the weight: Angelopoulos, Duchi and Zrnic 2023 (PPI++, arXiv
    2311.01453). None with fewer than FEWEST pictures that both scored.
    """
    both = [name for name in judge if name in reference]
    n, rest = len(both), np.array([score for name, score in judge.items() if name not in reference], np.float64)
    if n < FEWEST:
        return None
    f, y = (np.array([scores[name] for name in both], np.float64) for scores in (judge, reference))
    alone = len(rest)
    spread = np.concatenate([f, rest]).var(ddof=1)
    weight = 0.0 if not alone or spread == 0 else float(np.cov(y, f)[0, 1] / ((1 + n / alone) * spread))
    weight = min(max(weight, 0.0), 1.0)
    value = float((y - weight * f).mean() + (weight * rest.mean() if alone else 0.0))
    variance = (y - weight * f).var(ddof=1) / n
    if alone > 1:
        variance += weight**2 * rest.var(ddof=1) / alone
    half = t_quantile(0.975, n - 1) * math.sqrt(variance)
    return Corrected(value, value - half, value + half, weight, n, n + alone)
