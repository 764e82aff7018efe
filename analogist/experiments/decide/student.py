"""Student's t distribution, central and noncentral, by integration over the estimated spread. Place: below tests and power."""

import functools
import math

import numpy as np
import torch

NODES = 400  # of the quadrature


def normal_cdf(x: np.ndarray | float) -> np.ndarray:
    """P(Z <= x) of the standard normal distribution, float64."""
    return torch.special.ndtr(torch.as_tensor(x, dtype=torch.float64, device="cpu")).numpy()


def normal_quantile(p: float) -> float:
    """The x with P(Z <= x) = p."""
    return torch.special.ndtri(torch.tensor(p, dtype=torch.float64, device="cpu")).item()


@functools.lru_cache(maxsize=512)
def spread_nodes(df: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes s and weights for the mean over S = sqrt(chi2 / df), the estimated standard deviation over the true one."""
    width = 10 / math.sqrt(2 * df)
    low, high = max(0.0, 1 - width), 1 + width
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    s = (high - low) / 2 * nodes + (high + low) / 2
    log_density = math.log(2) + df / 2 * math.log(df / 2) - math.lgamma(df / 2) + (df - 1) * np.log(s) - df * s * s / 2
    return s, (high - low) / 2 * weights * np.exp(log_density)


def t_tail(t: float, df: float, shift: float = 0.0) -> float:
    """P(T > t) with T = (Z + shift) / S. df: degrees of freedom, above 0. shift: the noncentrality.

    Source: T > t is Z > t S - shift, averaged over S; Student 1908, Fisher 1931 for the noncentral one.
    """
    s, weights = spread_nodes(df)
    return float(weights @ normal_cdf(shift - t * s))


def t_quantile(p: float, df: float) -> float:
    """The t with P(T <= t) = p, 0 < p < 1, of the central distribution."""
    if p < 0.5:
        return -t_quantile(1 - p, df)
    low, high = 0.0, 1.0
    while t_tail(high, df) > 1 - p:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_tail(middle, df) > 1 - p else (low, middle)
    return (low + high) / 2
