"""The mathematics of verdicts: against closed forms, published tables, and by simulation on skewed data in clusters."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from analogist.experiments.decide.equivalence import margin_of, two_one_sided
from analogist.experiments.decide.looks import critical, crossing, level_at, look_sizes, sequential_p
from analogist.experiments.decide.power import (
    detectable,
    equivalence_power,
    power,
    spread_with,
    units_for_equivalence,
    units_to_see,
)
from analogist.experiments.decide.statistics import no_difference, sign_flip
from analogist.experiments.decide.student import t_quantile, t_tail
from analogist.experiments.decide.units import BOOTSTRAP, STUDENT, Sample, sample_of
from analogist.experiments.design.levels import StudyError
from analogist.experiments.design.study import check_smallest

NORMAL = NormalDist()
REPEATS, RESAMPLES = 1500, 400  # the standard error of a coverage of 95 % is 0.6 %


@pytest.mark.parametrize("t", [-3.0, -0.4, 0.0, 0.7, 2.5, 12.706])
def test_students_t_is_the_closed_form_for_one_two_and_many_degrees_of_freedom(t) -> None:
    assert t_tail(t, 1) == pytest.approx(0.5 - math.atan(t) / math.pi, abs=2e-6)  # Cauchy
    assert t_tail(t, 2) == pytest.approx(0.5 - t / (2 * math.sqrt(2 + t * t)), abs=1e-8)
    assert t_tail(t, 1e7) == pytest.approx(1 - NORMAL.cdf(t), abs=1e-6)


def test_quantiles_of_students_t_are_those_of_the_tables() -> None:
    table = {(0.975, 4): 2.776445, (0.975, 10): 2.228139, (0.95, 35): 1.689572, (0.995, 7): 3.499483}
    for (p, df), t in table.items():
        assert t_quantile(p, df) == pytest.approx(t, abs=1e-5)
        assert t_quantile(1 - p, df) == pytest.approx(-t, abs=1e-5)


def test_sample_sizes_are_those_of_published_tables() -> None:
    """Pairs for 80 and 95 % power at standardised effects, two-sided 5 %, as G*Power (Faul et al. 2007) gives them."""
    assert [units_to_see(d, 1.0) for d in (0.2, 0.5, 0.8)] == [199, 34, 15]
    assert [units_to_see(d, 1.0, chance=0.95) for d in (0.2, 0.5, 0.8)] == [327, 54, 23]
    assert detectable(2.0, 34) == pytest.approx(2.0 * 0.5, rel=0.01) and detectable(1.0, 1) == math.inf
    assert units_to_see(1e-9, 1.0) is None and units_to_see(0.1, 0.0) == 2


def test_power_is_the_share_of_simulated_studies_that_see_the_effect() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(0.6, 1.0, (20_000, 12))
    t = x.mean(1) / (x.std(1, ddof=1) / math.sqrt(12))
    assert power(0.6, 1.0, 12) == pytest.approx((np.abs(t) > 2.200985).mean(), abs=0.01)
    assert power(0.0, 1.0, 12) == pytest.approx(0.05, abs=1e-5)


def test_power_of_equivalence_is_the_share_of_simulated_studies_that_find_it() -> None:
    rng = np.random.default_rng(6)
    for n, margin in ((10, 1.0), (30, 0.5), (30, 0.6)):
        x = rng.normal(0.0, 1.0, (20_000, n))
        half = t_quantile(0.95, n - 1) * x.std(1, ddof=1) / math.sqrt(n)
        found = (x.mean(1) - half > -margin) & (x.mean(1) + half < margin)
        assert equivalence_power(margin, 1.0, n) == pytest.approx(found.mean(), abs=0.01)
    n = units_for_equivalence(0.5, 1.0)
    assert equivalence_power(0.5, 1.0, n) >= 0.8 > equivalence_power(0.5, 1.0, n - 1)


def test_the_pilots_seeds_tell_how_much_more_seeds_would_help() -> None:
    rng = np.random.default_rng(7)
    found = {(str(i), s): a + e for i, a in enumerate(rng.normal(0, 2, 3000)) for s, e in enumerate(rng.normal(0, 3, 2))}
    for seeds in (1, 2, 9):
        spread, told = spread_with(found, seeds)
        assert told and spread == pytest.approx(math.sqrt(4 + 9 / seeds), rel=0.03)
    spread, told = spread_with({key: value for key, value in found.items() if key[1] == 0}, 9)
    assert not told and spread == pytest.approx(math.sqrt(13), rel=0.03)
    assert spread_with({("a", 1): 1.0, ("a", 2): 2.0}, 1) is None


def test_few_units_get_students_interval_and_its_one_sided_tests() -> None:
    values = np.array([0.3, 1.1, -0.2, 0.9, 0.4])
    sample = Sample(values, None, "inputs")
    half = 2.776445 * values.std(ddof=1) / math.sqrt(5)
    assert sample.method == STUDENT and sample.interval() == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)
    low, high = two_one_sided(sample, 1.0)
    error = values.std(ddof=1) / math.sqrt(5)
    assert low == pytest.approx(t_tail(1.5 / error, 4)) and high == pytest.approx(t_tail(0.5 / error, 4))
    # the two tests at 5 % find equivalence exactly where the 90 % interval lies inside the margins
    inside = 0.5 + t_quantile(0.95, 4) * error
    assert max(two_one_sided(sample, inside * 1.001)) < 0.05 < max(two_one_sided(sample, inside * 0.999))


def test_the_bootstraps_tests_agree_with_its_interval() -> None:
    sample = Sample(np.random.default_rng(8).exponential(1.0, 25), None, "inputs")
    assert sample.method == BOOTSTRAP
    low, high = sample.interval(0.9)
    assert sample.p_above(low) == pytest.approx(0.05, abs=1e-3) and sample.p_below(high) == pytest.approx(0.05, abs=1e-3)
    assert sample.p_above(low + 0.1) > 0.05 > sample.p_above(low - 0.1)
    assert high - sample.mean > sample.mean - low  # the long tail lies upwards


def test_the_bootstrap_is_the_normal_interval_for_many_inputs() -> None:
    values = np.random.default_rng(1).normal(2.0, 3.0, 400)
    low, high = Sample(values, None, "inputs").interval()
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half) and high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_units_are_inputs_until_there_are_eight_seeds_and_seeds_where_there_is_one_input() -> None:
    rng = np.random.default_rng(2)

    def made(inputs: int, seeds: int) -> Sample:
        return sample_of({(f"i{i}", s): rng.normal() for i in range(inputs) for s in range(seeds)})

    assert [made(*shape).over for shape in ((10, 1), (10, 7), (10, 8), (1, 12))] == ["inputs", "inputs", "inputs and seeds", "seeds"]
    gap = {(f"i{i}", s): 1.0 for i in range(10) for s in range(8) if (i, s) != (3, 4)}
    assert sample_of(gap).over == "inputs"  # without all seeds for all inputs they cannot be resampled together
    repeated = {(f"i{i}", s): v for i, v in enumerate(rng.normal(size=30)) for s in range(5)}
    once = {key: value for key, value in repeated.items() if key[1] == 0}
    assert sample_of(repeated).interval() == pytest.approx(sample_of(once).interval())  # equal seeds add no certainty
    assert made(1, 1).interval() is None and made(1, 1).p_above(0) is None and sign_flip(made(1, 1).units) is None
    assert Sample(np.full(9, 0.2), None, "inputs").interval() == (pytest.approx(0.2), pytest.approx(0.2))


def test_differences_that_are_nearly_all_the_same_fall_back_to_students_t_and_say_so() -> None:
    mostly_zero = Sample(np.array([0.0] * 19 + [1.0]), None, "inputs")  # a third of all resamples have no spread at all
    assert mostly_zero.method == STUDENT and all(map(math.isfinite, mostly_zero.interval()))


def test_standard_error_over_inputs_and_seeds_is_that_of_simulated_studies() -> None:
    rng = np.random.default_rng(9)
    tables = [rng.normal(0, 2, (9, 1)) + rng.normal(0, 1, (1, 8)) + rng.normal(0, 1.5, (9, 8)) for _ in range(4000)]
    errors = [Sample(t.mean(1), t, "inputs and seeds").spread[0] ** 2 for t in tables]
    assert np.mean(errors) == pytest.approx(4 / 9 + 1 / 8 + 2.25 / 72, rel=0.04)
    assert np.var([t.mean() for t in tables]) == pytest.approx(4 / 9 + 1 / 8 + 2.25 / 72, rel=0.06)


def skewed(rng, inputs: int, seeds: int, *, of_seeds: float = 0.0) -> np.ndarray:
    """Differences of mean 0: exponential inputs, exponential noise inside them, and effects of the seeds themselves."""
    own, noise = rng.exponential(1, (inputs, 1)) - 1, rng.exponential(1, (inputs, seeds)) - 1
    return own + noise + of_seeds * rng.normal(size=(1, seeds))


def named(table: np.ndarray) -> dict[tuple[str, int], float]:
    return {(f"i{i}", s): value for i, row in enumerate(table) for s, value in enumerate(row)}


def percentiles(values: np.ndarray, rng) -> tuple[float, float]:
    drawn = values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(1)
    return tuple(np.quantile(drawn, [0.025, 0.975]))


def share(hits: list[tuple[float, float]]) -> float:
    return float(np.mean([low <= 0 <= high for low, high in hits]))


def test_intervals_over_inputs_hold_the_truth_in_95_percent_where_naive_ones_do_not() -> None:
    rng = np.random.default_rng(11)
    ours, runs, inputs = [], [], []
    for _ in range(REPEATS):
        table = skewed(rng, 24, 3)
        ours.append(sample_of(named(table), resamples=RESAMPLES).interval())
        runs.append(percentiles(table.ravel(), rng))  # every run taken as independent
        inputs.append(percentiles(table.mean(1), rng))  # inputs kept whole, but the plain percentile interval
    assert 0.93 <= share(ours) <= 0.97
    assert share(runs) < 0.85
    assert share(inputs) < share(ours) - 0.01 and share(inputs) < 0.93


def test_intervals_over_inputs_and_seeds_hold_the_truth_where_those_over_inputs_do_not() -> None:
    rng = np.random.default_rng(12)
    ours, inputs = [], []
    for _ in range(REPEATS // 2):
        table = skewed(rng, 24, 8, of_seeds=0.6)
        sample = sample_of(named(table), resamples=RESAMPLES)
        assert sample.over == "inputs and seeds" and sample.method == BOOTSTRAP
        ours.append(sample.interval())
        inputs.append(Sample(table.mean(1), None, "inputs", RESAMPLES).interval())
    assert 0.93 <= share(ours) <= 0.97
    assert share(inputs) < 0.85


def test_equivalence_errs_in_five_percent_at_the_margin() -> None:
    rng = np.random.default_rng(13)
    found = []
    for _ in range(REPEATS):
        sample = sample_of(named(1.0 + 0.5 * skewed(rng, 24, 2)), resamples=RESAMPLES)  # the true difference is the margin
        found.append(max(two_one_sided(sample, 1.0)) < 0.05)
    assert 0.03 <= np.mean(found) <= 0.07


def test_tests_over_inputs_and_seeds_err_in_five_percent() -> None:
    rng = np.random.default_rng(14)
    ps, flips = [], []
    for _ in range(REPEATS // 2):
        table = rng.normal(size=(9, 1)) + rng.normal(size=(1, 8)) + rng.normal(size=(9, 8))
        ps.append(no_difference(sample_of(named(table), resamples=RESAMPLES)))
        flips.append(sign_flip(table.mean(1)))
    assert 0.03 <= np.mean(np.array(ps) < 0.05) <= 0.07
    assert np.mean(np.array(flips) < 0.05) > 0.1  # flips of inputs take the seeds for fixed


@pytest.mark.parametrize(
    ("shape", "looks", "constant"),
    [(0.0, 2, 1.977), (0.0, 3, 2.004), (0.0, 4, 2.024), (0.0, 5, 2.040), (0.5, 2, 2.178), (0.5, 3, 2.289), (0.5, 4, 2.361),
     (0.5, 5, 2.413), (0.5, 1, 1.960)],
)  # fmt: skip
def test_bounds_of_looks_are_those_of_obrien_fleming_and_pocock(shape, looks, constant) -> None:
    """Two-sided 5 %. Source: Jennison and Turnbull 2000, tables 2.1 and 2.3."""
    times = [k / looks for k in range(1, looks + 1)]
    assert critical(0.05, times, sides=2, shape=shape) == pytest.approx(constant, abs=1.5e-3)


def test_one_look_is_the_ordinary_test() -> None:
    for p in (0.2, 0.03, 1e-4):
        assert sequential_p([p], [1.0], sides=2) == (pytest.approx(p, rel=1e-6), 0)
        assert sequential_p([p], [1.0], sides=1) == (pytest.approx(p, rel=1e-6), 0)
    assert level_at(0, 0.05, [1.0]) == pytest.approx(0.05, rel=1e-6)


def test_stopping_at_the_first_sure_look_errs_in_five_percent_and_uncorrected_looks_in_more() -> None:
    rng = np.random.default_rng(15)
    times = [0.25, 0.5, 0.75, 1.0]
    paths = np.cumsum(rng.normal(size=(20_000, 4)) / 2, axis=1)  # a Brownian motion at the times
    zs = paths / np.sqrt(times)
    uncorrected = (np.abs(zs) > 1.96).any(1).mean()
    for sides, z in ((2, np.abs(zs)), (1, zs)):
        bound = critical(0.05, times, sides=sides)
        assert (z * np.array(times) ** 0.25 > bound).any(1).mean() == pytest.approx(0.05, abs=0.005)
        assert crossing(bound, times, sides=sides) == pytest.approx(0.05, abs=1e-6)
    assert uncorrected > 0.11
    some = [2 * (1 - NORMAL.cdf(abs(z))) for z in zs[0]]
    ps = [sequential_p(some[:k], times, sides=2)[0] for k in range(1, 5)]
    assert ps == sorted(ps, reverse=True)  # looking on never makes a finding less sure


def test_a_repeated_interval_is_wider_the_earlier_the_look() -> None:
    times = [0.25, 0.5, 0.75, 1.0]
    levels = [level_at(k, 0.05, times) for k in range(4)]
    assert levels == sorted(levels) and levels[-1] < 0.05


def test_looks_see_equal_parts_of_the_inputs() -> None:
    assert look_sizes(36) == [9, 18, 27, 36] and look_sizes(3) == [2, 3] and look_sizes(2) == [2]
    with pytest.raises(StudyError, match="fewer than two"):
        look_sizes(1)


def test_a_smallest_effect_is_a_positive_number_or_a_share_of_the_reference() -> None:
    assert margin_of("5 %", 0.04) == pytest.approx(0.002) and margin_of("2.5%", -20.0) == pytest.approx(0.5)
    assert margin_of(0.01, 5.0) == 0.01 and margin_of("5 %", 0.0) is None
    for wrong in (0, -0.1, "5", "0 %", True, None, float("nan")):
        with pytest.raises(StudyError, match="a positive number in the unit of the metric, or a share"):
            check_smallest(wrong)
