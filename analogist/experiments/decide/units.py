"""The independent units of a comparison, and intervals and one-sided tests for the mean of the population that they are drawn from.

Seeds of one input are not independent: they stay together when inputs are resampled. From 8 seeds on, seeds are resampled too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from analogist.experiments.decide.student import t_quantile, t_tail

RESAMPLES = 10_000
MANY_SEEDS = 8  # from which seeds are resampled like inputs
FEW_UNITS = 8  # below which a bootstrap is less reliable than Student's t
NO_SPREAD = 1e-3  # share of resamples without any spread, above which the quantiles of t mean nothing

BOOTSTRAP, STUDENT = "studentised bootstrap", "Student's t"
OVER = {
    "inputs": "new inputs, with these seeds",
    "seeds": "new seeds of this one input",
    "inputs and seeds": "new inputs and new seeds",
}


@dataclass(frozen=True, eq=False)
class Sample:
    """Differences as independent units.

    units: one mean per input, or with a single input one per seed. table: input seed, where both are resampled, else None.
    over: a key of OVER. resamples: of the bootstrap, from a fixed seed, so that the same table gives the same interval.
    """

    units: np.ndarray
    table: np.ndarray | None
    over: str
    resamples: int = RESAMPLES

    @property
    def mean(self) -> float:
        """The mean over units, each with the same weight."""
        return float(self.units.mean())

    @cached_property
    def spread(self) -> tuple[float, float]:
        """Standard error of the mean and its degrees of freedom. 0, 0 for one unit.

        Over inputs and seeds: Satterthwaite's degrees of freedom for the sum of their mean squares.
        """
        n = len(self.units)
        if n < 2:
            return 0.0, 0.0
        if self.table is None:
            return float(self.units.std(ddof=1) / np.sqrt(n)), float(n - 1)
        rows, columns = self.table.shape
        squares = _mean_squares(self.table, np.ones((1, rows)), np.ones((1, columns)))[1][:, 0]
        freedom = np.array([rows - 1, columns - 1, (rows - 1) * (columns - 1)])
        error = _standard_error(squares[:, None], rows * columns)[0]
        total = squares[0] + squares[1] - squares[2]
        df = total**2 / (squares**2 / freedom).sum() if squares.any() else freedom[0]
        return float(error), float(max(df, 1.0))

    @cached_property
    def drawn(self) -> np.ndarray | None:
        """t of every resample around the mean, sorted; None where a bootstrap means too little."""
        least = min(self.table.shape) if self.table is not None else len(self.units)
        if least < FEW_UNITS or self.spread[0] <= _rounding(self.units):
            return None
        chance = np.random.default_rng(0)
        if self.table is None:
            chosen = self.units[chance.integers(0, len(self.units), (self.resamples, len(self.units)))]
            means, errors = chosen.mean(1), chosen.std(1, ddof=1) / np.sqrt(len(self.units))
        else:
            rows, columns = self.table.shape
            counts = [chance.multinomial(n, np.full(n, 1 / n), self.resamples).astype(float) for n in (rows, columns)]
            means, squares = _mean_squares(self.table, *counts)
            errors = _standard_error(squares, rows * columns)
        alike = errors <= _rounding(self.units)
        if alike.mean() > NO_SPREAD:
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (means - self.mean) / errors
        t[alike] = np.sign(means[alike] - self.mean) * np.inf
        return np.sort(np.nan_to_num(t, nan=0.0, posinf=np.inf, neginf=-np.inf))

    @property
    def method(self) -> str:
        """How intervals and one-sided tests are computed: BOOTSTRAP or STUDENT."""
        return STUDENT if self.drawn is None else BOOTSTRAP

    def interval(self, level: float = 0.95) -> tuple[float, float] | None:
        """The interval for the mean of the population, with equal tails; None for one unit.

        Source: Efron and Tibshirani 1993, Sec. 12.5 (bootstrap-t); Owen 2007 for resampling two ways.
        """
        error, df = self.spread
        if df == 0:
            return None
        if self.drawn is None:
            t = t_quantile((1 + level) / 2, df)
            return self.mean - t * error, self.mean + t * error
        low, high = np.quantile(self.drawn, [(1 - level) / 2, (1 + level) / 2])
        return float(self.mean - high * error), float(self.mean - low * error)

    def p_above(self, bound: float) -> float | None:
        """p of the mean being at or below `bound`, against above it: the one-sided test that agrees with `interval`."""
        return self._one_sided(bound, 1)

    def p_below(self, bound: float) -> float | None:
        """p of the mean being at or above `bound`, against below it."""
        return self._one_sided(bound, -1)

    def _one_sided(self, bound: float, side: int) -> float | None:
        error, df = self.spread
        if df == 0:
            return None
        if error <= _rounding(self.units):  # all units are equal
            return 0.0 if side * (self.mean - bound) > 0 else 1.0
        t = (self.mean - bound) / error
        if self.drawn is None:
            return t_tail(side * t, df)
        as_far = (self.drawn >= t).sum() if side > 0 else (self.drawn <= t).sum()
        return float((1 + as_far) / (1 + len(self.drawn)))


def sample_of(found: Mapping[tuple[str, object], float], *, resamples: int = RESAMPLES) -> Sample:
    """Units of differences by (input, seed). Seeds are resampled too where there are 8, the same ones for every input."""
    inputs, seeds = list(dict.fromkeys(name for name, _ in found)), list(dict.fromkeys(seed for _, seed in found))
    if len(inputs) == 1:
        return Sample(np.array(list(found.values()), float), None, "seeds", resamples)
    means = np.array([np.mean([value for key, value in found.items() if key[0] == name]) for name in inputs])
    if len(seeds) < MANY_SEEDS or len(found) < len(inputs) * len(seeds):
        return Sample(means, None, "inputs", resamples)
    table = np.array([[found[name, seed] for seed in seeds] for name in inputs], float)
    return Sample(means, table, "inputs and seeds", resamples)


def _mean_squares(table: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means, and mean squares [3 resample] of inputs, of seeds and of what is left. rows, columns: how often each is drawn."""
    n, m = table.shape
    by_row, by_column = columns @ table.T / m, rows @ table / n
    means = (rows * by_row).sum(1) / n
    of_rows = m * (rows * (by_row - means[:, None]) ** 2).sum(1)
    of_columns = n * (columns * (by_column - means[:, None]) ** 2).sum(1)
    whole = ((rows @ table**2) * columns).sum(1) - n * m * means**2
    left = np.maximum(whole - of_rows - of_columns, 0)
    return means, np.stack([of_rows / (n - 1), of_columns / (m - 1), left / ((n - 1) * (m - 1))])


def _standard_error(squares: np.ndarray, cells: int) -> np.ndarray:
    """Of the mean of a table with crossed random inputs and seeds; never below what inputs or seeds alone give."""
    inputs, seeds, left = squares
    return np.sqrt(np.maximum(inputs + seeds - left, np.maximum(inputs, seeds)) / cells)


def _rounding(values: np.ndarray) -> float:
    return 1e-12 * float(np.abs(values).max(initial=0.0))
