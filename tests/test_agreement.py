"""Agreement of a judge with a reference against the definition, and the corrected mean against closed forms and simulation."""

import itertools

import numpy as np
import pytest

from analogist.experiments.decide.agreement import agreement, corrected_mean
from analogist.experiments.decide.student import t_quantile


def named(scores) -> dict[int, float]:
    return dict(enumerate(map(float, scores)))


def test_kappa_is_cohens_with_squared_weights() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(1, 6, 40)
    y = np.clip(x + rng.integers(-1, 2, 40), 1, 5)
    observed = np.zeros((5, 5))
    for one, other in zip(x, y, strict=True):
        observed[one - 1, other - 1] += 1
    expected = np.outer(observed.sum(1), observed.sum(0)) / 40
    weights = np.array([[(i - j) ** 2 for j in range(5)] for i in range(5)])
    found = agreement(named(x), named(y))
    assert found.kappa == pytest.approx(1 - (weights * observed).sum() / (weights * expected).sum())
    assert (found.count, found.equal, found.near) == (40, np.mean(x == y), 1.0)
    assert found.bias == pytest.approx(np.mean(x - y))


def test_only_pictures_with_both_scores_count() -> None:
    found = agreement({"a": 1.0, "b": 5.0, "c": 9.0}, {"b": 3.0, "c": 9.0, "d": 1.0})
    assert (found.count, found.equal, found.near, found.bias) == (2, 0.5, 0.5, 1.0)
    assert agreement({"a": 1.0}, {"b": 1.0}) is None and agreement({"a": 2.0}, {"a": 2.0}).kappa is None


def test_the_corrected_mean_is_the_published_formula() -> None:
    rng = np.random.default_rng(1)
    f = rng.normal(5, 2, 30)
    y = f[:10] - 1 + rng.normal(0, 1, 10)
    rest, alone, n = f[10:], 20, 10
    weight = np.cov(y, f[:10], ddof=1)[0, 1] / ((1 + n / alone) * f.var(ddof=1))
    value = weight * rest.mean() + (y - weight * f[:10]).mean()
    variance = weight**2 * rest.var(ddof=1) / alone + (y - weight * f[:10]).var(ddof=1) / n
    found = corrected_mean(named(f), named(y))
    assert 0 < weight < 1 and found.weight == pytest.approx(weight) and found.value == pytest.approx(value)
    assert found.high - found.low == pytest.approx(2 * t_quantile(0.975, 9) * variance**0.5)
    assert (found.labelled, found.judged) == (10, 30)


def test_where_all_is_labelled_or_the_judge_says_nothing_the_labels_mean_remains() -> None:
    y = np.array([1.0, 4.0, 4.0, 9.0])
    half = t_quantile(0.975, 3) * y.std(ddof=1) / 2
    for judge in (named([9, 1, 2, 2]), named([3, 3, 3, 3, 3, 3])):
        found = corrected_mean(judge, named(y))
        assert found.value == pytest.approx(4.5) and found.weight == 0 and found.high == pytest.approx(4.5 + half)
    assert corrected_mean(named([1, 2]), named([1, 2])) is None


def test_its_interval_covers_the_truth_and_is_shorter_than_the_labels_own() -> None:
    """A judge that is 1.5 too kind and noisy, 25 labels, 300 pictures; the judge's own mean is never right."""
    rng = np.random.default_rng(2)
    covered, widths, own, judges = 0, [], [], 0
    runs = 400
    for _ in range(runs):
        y = rng.gamma(4, 1.2, 300)  # skewed, mean 4.8
        f = y + 1.5 + rng.normal(0, 1, 300)
        found = corrected_mean(named(f), named(y[:25]))
        covered += found.low <= 4.8 <= found.high
        widths.append(found.high - found.low)
        own.append(2 * t_quantile(0.975, 24) * y[:25].std(ddof=1) / 5)
        judges += abs(f.mean() - 4.8) < 1.96 * f.std(ddof=1) / 300**0.5
    assert 0.92 <= covered / runs <= 0.98  # 95 % within the noise of 400 runs
    assert np.mean(widths) < 0.7 * np.mean(own) and judges == 0


def test_keys_may_be_pictures_of_inputs() -> None:
    keys = list(itertools.product("ab", "12"))
    assert agreement(dict.fromkeys(keys, 1.0), dict.fromkeys(keys[:3], 2.0)).count == 3
