"""Effects and verdicts from tables made by hand, where every p value is known: n equal signs give 2 / 2**n."""

import pytest

from analogist.experiments.design.study import Hypothesis
from analogist.experiments.report.level_effects import effects, verdicts

NAMES = ("f", "g")


def table(metric: str, means: dict[tuple[str, str], float], inputs: int) -> list[dict]:
    """A row an input and combination of levels: the mean, and a little of its own for every input. ("base", "base") is the reference."""
    return [
        {"input": f"i{i}", "seed": "1", "metric": metric, "f": f, "g": g, "reference": (f, g) == ("base", "base"), "value": mean + i / 100}
        for i in range(inputs)
        for (f, g), mean in means.items()
    ]


def test_effects_are_corrected_over_all_comparisons_of_their_metric_and_of_no_other() -> None:
    rows = table("mse", {("base", "base"): 0.5, ("x", "base"): 0.7, ("y", "base"): 0.6, ("base", "z"): 0.1}, 6)
    rows += table("psnr", {("base", "base"): 20.0, ("x", "base"): 10.0}, 6)
    found = {(one.metric, one.level): one for one in effects(rows, NAMES, ["mse", "psnr"])}
    assert {key: one.p_corrected for key, one in found.items()} == {
        ("mse", "x"): 3 / 32, ("mse", "y"): 3 / 32, ("mse", "z"): 3 / 32, ("psnr", "x"): 1 / 32,
    }  # fmt: skip
    assert [key for key in found if key[0] == "mse"] == [("mse", "z"), ("mse", "x"), ("mse", "y")]  # largest first
    assert found["mse", "z"].mean == pytest.approx(-0.4) and found["mse", "z"].p == 1 / 32


def test_effects_pair_runs_whose_other_factors_are_equal() -> None:
    means = {("base", "base"): 0.0, ("x", "base"): 1.0, ("base", "z"): 5.0, ("x", "z"): 9.0}
    found = {one.level: one for one in effects(table("mse", means, 3), NAMES, ["mse"])}
    assert found["x"].mean == pytest.approx((1 + 4) / 2) and found["z"].mean == pytest.approx((5 + 8) / 2)
    assert found["x"].pairs == 6 and found["x"].units == 3


def verdicts_of(inputs: int, *claims: Hypothesis) -> list[tuple[str, float | None]]:
    means = {("base", "base"): 0.5, ("x", "base"): 0.7, ("y", "base"): 0.4, ("x", "z"): 90.0, ("base", "z"): 50.0}
    found = verdicts(table("mse", means, inputs), NAMES, claims)
    return [(one.verdict, None if one.effect is None else one.effect.p_corrected) for one in found]


def test_a_verdict_says_the_direction_and_is_corrected_over_all_hypotheses() -> None:
    higher, lower = (Hypothesis("c", "mse", {"f": "x"}, expect) for expect in ("higher", "lower"))
    differs = Hypothesis("c", "mse", {"f": "y"}, "differs")
    assert verdicts_of(6, higher) == [("supported", 1 / 32)]
    assert verdicts_of(6, lower) == [("contradicted", 1 / 32)]
    assert verdicts_of(6, differs) == [("supported", 1 / 32)]
    assert verdicts_of(6, higher, differs) == [("undecided", 2 / 32)] * 2
    assert verdicts_of(8, higher, lower) == [("supported", 2 / 128), ("contradicted", 2 / 128)]
    assert verdicts_of(1, higher) == [("undecided", None)]
    assert verdicts_of(6, Hypothesis("c", "ssim", {"f": "x"}, "higher"), higher) == [("not tested", None), ("supported", 1 / 32)]


def test_a_hypothesis_leaves_all_other_factors_at_the_reference() -> None:
    rows = table("mse", {("base", "base"): 0.5, ("x", "base"): 0.7, ("y", "base"): 0.4, ("x", "z"): 90.0, ("base", "z"): 50.0}, 6)
    claims = [Hypothesis("c", "mse", {"f": "x"}, "higher", against) for against in ({}, {"f": "y"}, {"g": "z"})]
    assert [one.effect.mean for one in verdicts(rows, NAMES, claims)] == [pytest.approx(v) for v in (0.2, 0.3, 0.7 - 50.0)]
