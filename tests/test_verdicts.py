"""Effects and verdicts from tables made by hand, where every p value is known: n equal signs give 2 / 2**n."""

import numpy as np
import pytest

from analogist.experiments.decide.level_effects import effects, interactions, moot_cells
from analogist.experiments.decide.statistics import effect, holm, least_p
from analogist.experiments.decide.verdicts import Looks, verdicts
from analogist.experiments.design.study import Hypothesis
from analogist.experiments.report.report_text import resolution_text

NAMES = ("f", "g")


def table(metric: str, means: dict[tuple[str, str], float], inputs: int) -> list[dict]:
    """One row per input and combination of levels: the mean, and a little of its own for every input. ("base", "base") is the reference."""
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


def crossed(values: dict[tuple[str, str], float], inputs: int, *, noise: float = 0.0) -> list[dict]:
    """As `table`, of factors scale and sac; where sac is off all scales are one and the same run, as in a real study."""
    rng = np.random.default_rng(3)
    rows = []
    for i in range(inputs):
        found: dict[str, float] = {}
        for (scale, sac), mean in values.items():
            job = f"{i} {scale if sac == 'on' else ''} {sac}"
            value = found.setdefault(job, mean + i / 10 + noise * rng.normal())
            reference = (scale, sac) == ("1.3", "on")
            rows.append({"input": f"i{i}", "seed": "1", "metric": "mse", "scale": scale, "sac": sac, "reference": reference, "value": value,
                         "job": job})  # fmt: skip
    return rows


FULL = {("1.3", "on"): 0.5, ("1.8", "on"): 0.5035, ("1.3", "off"): 0.7, ("1.8", "off"): 0.7}


def test_cells_in_which_a_factor_is_moot_are_left_out_of_its_effect_and_listed() -> None:
    rows = crossed(FULL, 8)
    scale = next(one for one in effects(rows, ("scale", "sac"), ["mse"]) if one.factor == "scale")
    assert scale.mean == pytest.approx(0.0035)  # pooled with the cells where SAC is off it would be half of that
    assert (scale.pairs, scale.moot) == (8, 8)
    (moot,) = moot_cells(rows, ("scale", "sac"))
    assert str(moot) == (
        "scale 1.8 against 1.3 is moot where sac is off: 8 of 16 pairs are one and the same run and are left out"
    )  # fmt: skip
    everywhere = [row | {"scale": "1.30", "reference": False} for row in rows if row["scale"] == "1.3"]
    same = [row for row in rows if row["scale"] == "1.3"] + everywhere
    assert not [one for one in effects(same, ("scale", "sac"), ["mse"]) if one.factor == "scale"]
    assert "is moot everywhere: 16 of 16" in str(moot_cells(same, ("scale", "sac"))[0])
    assert moot_cells(table("mse", {("base", "base"): 0.5, ("x", "base"): 0.5}, 3), NAMES) == []  # equal values are no equal runs


def test_a_hypothesis_about_two_names_of_one_run_is_not_tested() -> None:
    found = verdicts(crossed(FULL, 8), ("scale", "sac"), [Hypothesis("c", "mse", {"scale": "1.8", "sac": "off"}, "lower", {"sac": "off"})])
    assert (found[0].verdict, found[0].why) == ("not tested", "both are one and the same run")


def test_an_interaction_is_how_an_effect_changes_with_another_factor() -> None:
    means = {("base", "base"): 0.5, ("x", "base"): 0.7, ("base", "z"): 0.6, ("x", "z"): 0.65, ("y", "base"): 0.5, ("y", "z"): 0.6}
    found = {one.level: one for one in interactions(table("mse", means, 6), NAMES, ["mse"])}
    assert list(found) == ["x, z", "y, z"]
    assert found["x, z"].mean == pytest.approx((0.65 - 0.6) - (0.7 - 0.5)) and found["x, z"].reference_mean == pytest.approx(0.2)
    assert found["x, z"].p_corrected == 2 / 32 and found["y, z"].mean == pytest.approx(0)
    # where SAC is off its scale is moot, so there is no telling how the two depend on each other
    assert interactions(crossed(FULL, 6), ("scale", "sac"), ["mse"]) == []


def noisy(mean: float, inputs: int, sd: float = 0.01, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    rows = table("mse", {("base", "base"): 1.0}, inputs)
    return rows + [row | {"f": "x", "reference": False, "value": row["value"] + mean + sd * rng.normal()} for row in rows]


CLAIM = Hypothesis("c", "mse", {"f": "x"}, "higher")


def test_no_effect_larger_than_the_smallest_that_matters_is_a_verdict() -> None:
    (none,) = verdicts(noisy(0.0, 30), NAMES, [CLAIM])
    margin = 0.05 * (1.0 + 0.145)  # 5 % of the reference's mean
    assert none.verdict == "no effect larger than 0.0572" and none.margin == pytest.approx(margin) and none.p_equivalent < 0.05
    (small,) = verdicts(noisy(0.02, 30), NAMES, [CLAIM])
    assert small.verdict == "no effect larger than 0.0572" and "the difference is significant" in small.why
    assert verdicts(noisy(0.02, 30), NAMES, [CLAIM], smallest={"mse": 0.01})[0].verdict == "supported"
    assert verdicts(noisy(-0.02, 30), NAMES, [CLAIM], smallest=0.01)[0].verdict == "contradicted"
    (open_,) = verdicts(noisy(0.0, 30), NAMES, [CLAIM], smallest=0.002)
    assert open_.verdict == "undecided" and "inputs would tell an effect of 0.002 from none in 80 %" in open_.why
    assert verdicts(noisy(0.2, 30), NAMES, [CLAIM])[0].verdict == "supported"


def test_equivalence_is_corrected_over_all_claims_like_differences() -> None:
    rows = noisy(0.0, 12, sd=0.1)
    alone = verdicts(rows, NAMES, [CLAIM])[0]
    four = verdicts(rows, NAMES, [CLAIM] * 4)[0]
    assert four.p_equivalent == pytest.approx(4 * alone.p_equivalent)
    assert alone.verdict.startswith("no effect larger") and four.verdict == "undecided"
    assert four.detectable > alone.detectable > 0


def test_what_would_have_been_seen_is_seen_in_80_percent() -> None:
    rows = noisy(0.0, 20, sd=0.05, seed=1)
    shown = verdicts(rows, NAMES, [CLAIM], smallest=1e-4)[0].detectable
    spread = np.std([a["value"] - b["value"] for a, b in zip(rows[20:], rows[:20], strict=True)], ddof=1)
    rng = np.random.default_rng(2)
    x = rng.normal(shown, spread, (20_000, 20))
    t = x.mean(1) / (x.std(1, ddof=1) / np.sqrt(20))
    assert (np.abs(t) > 2.093024).mean() == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("units, claims", [(5, 1), (6, 1), (7, 2), (7, 4)])
def test_nothing_would_have_been_seen_where_sign_flips_cannot_give_a_small_enough_p(units: int, claims: int) -> None:
    """With n units all of one sign two of 2^n flips are as extreme."""
    found = verdicts(noisy(5.0, units), NAMES, [CLAIM] * claims, smallest=0.01)[0]
    can_be_seen = claims * 2 / 2**units < 0.05
    assert (found.verdict == "supported") == can_be_seen and (found.detectable < np.inf) == can_be_seen
    if not can_be_seen:
        least = next(n for n in range(2, 20) if claims * 2 / 2**n < 0.05)
        assert f"about {least} inputs would tell" in found.why


def test_looks_correct_the_verdict_and_widen_the_interval() -> None:
    rows = [row for row in noisy(0.02, 9, sd=0.035, seed=4)]
    names = [tuple(f"i{i}" for i in range(n)) for n in (9,)]
    (fixed,) = verdicts(rows, NAMES, [CLAIM], smallest=0.001)
    (first,) = verdicts(rows, NAMES, [CLAIM], smallest=0.001, looks=Looks(tuple(names), (0.25, 0.5, 0.75, 1.0)))
    assert first.effect.p_corrected > fixed.effect.p_corrected
    assert first.effect.low < fixed.effect.low and first.effect.high > fixed.effect.high
    (only,) = verdicts(rows, NAMES, [CLAIM], smallest=0.001, looks=Looks(tuple(names), (1.0,)))
    assert only.effect.low == pytest.approx(fixed.effect.low) and only.effect.p_corrected == fixed.effect.p_corrected


def seeded(levels: int, inputs: int, seeds: int, mean: float = 1.0) -> list[dict]:
    """Levels of one factor that all differ from the reference by about the same, on every input with every seed."""
    rng = np.random.default_rng(0)
    return [
        {"input": f"i{i}", "seed": str(s), "metric": "mse", "f": f"l{k}", "g": "base", "reference": k == 0, "value": (k > 0) * mean + noise}
        for i in range(inputs) for s in range(seeds) for k in range(levels + 1) for noise in [0.01 * rng.normal()]
    ]  # fmt: skip


def test_a_report_never_denies_the_significance_that_it_shows() -> None:
    for levels, inputs, seeds, denied in (
        (7, 8, 8, False), (7, 8, 1, True), (6, 8, 1, False), (1, 5, 1, True), (1, 5, 8, False), (2, 5, 8, False), (3, 1, 8, False),
        (7, 1, 8, True),
    ):  # fmt: skip
        found = effects(seeded(levels, inputs, seeds), NAMES, ["mse"])
        significant = [one.p_corrected for one in found if one.p_corrected < 0.05]
        text = resolution_text(found)
        assert len(found) == levels and bool(text) == denied == (not significant), (levels, inputs, seeds, text)
        if denied:  # every difference is as clear as it can be, so that the corrected p of all is the least that there is
            floor = min(one.p_corrected for one in found)
            assert f"and {levels} comparisons no p can fall below {floor:.2g}:" in text and text.endswith("more inputs are needed.")


@pytest.mark.parametrize(
    ("inputs", "seeds", "levels"),
    [(20, 1, 1000), (8, 8, 250)],  # 1 of 20001 flips, 2 of 10001 tails: p of 0.05 after the correction for so many levels
)
def test_where_no_number_of_inputs_would_help_the_report_asks_for_fewer_levels(inputs: int, seeds: int, levels: int) -> None:
    (one,) = effects(seeded(1, inputs, seeds), NAMES, ["mse"])  # as clear as it can be
    for count, denied in ((levels - 5, False), (levels + 5, True)):
        text = resolution_text([one] * count)
        assert bool(text) == denied == (min(holm([one.p] * count)) >= 0.05)
        assert not denied or text.endswith("fewer levels are needed.")


def test_the_least_p_is_that_of_differences_that_are_all_the_same_way() -> None:
    for units in (2, 3, 8, 14, 30):
        values = {("i" + str(i), "1"): 1.0 + i / 100 for i in range(units)}
        one = effect("mse", "f", "x", "base", values, dict.fromkeys(values, 0.0))
        # With 30 units one flip in 2^29 is as extreme: none of the random ones is.
        assert least_p(one) == one.p == (2 / 2**units if units < 15 else 1 / 20_001)
