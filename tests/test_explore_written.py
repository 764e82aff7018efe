"""The explorer's table of contributions beside the share of attention: what the page holds is what the measure gave."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch

from analogist.attention.measure import measures
from analogist.explore import explore, for_explorer
from analogist.explore.written import written
from tests.explore_cases import small_run

SITE = "up.1.attn.2"


@pytest.fixture(scope="module")
def run():
    model, grid, config = small_run()
    return functools.partial(model, grid, "a red boat", config=config, progress=False)


@pytest.fixture(scope="module")
def result(run):
    model, grid, config = small_run()
    return run(capture=for_explorer(model, grid, "a red boat", config=config))


@pytest.fixture(scope="module")
def contribution(run):
    return measures.contribution(run)


def test_the_page_holds_every_value_to_three_digits(contribution, result) -> None:
    held = written(contribution, 2)
    assert held["regions"] == ["A", "A'", "B", "B'"] and held["steps"] == [0, 1] and set(held["sites"]) == set(contribution.sites)
    for i, site in enumerate(contribution.sites):
        one = held["sites"][site]
        for b, branch in enumerate(contribution.branches):
            values = np.array(one[branch]).reshape(2, len(one["heads"]), 4, 4)
            expected = contribution.values[i, :, b, : len(one["heads"])].numpy()
            np.testing.assert_allclose(values, expected, rtol=5.1e-3, atol=1e-30)
        assert one["heads"] == list(range(len(one["heads"]))) and contribution.values[i, :, :, len(one["heads"]) :].isnan().all()
    plain, more = result.explore(), result.explore(contribution=contribution)
    assert more.nbytes > plain.nbytes and '"written":null' in plain.html and '"written":null' not in more.html


def test_a_contribution_between_all_cells_is_taken_where_the_grid_has_several_pairs(contribution) -> None:
    cells = ("A1", "A1'", "A2", "A2'", "B", "B'")
    values = torch.rand(*contribution.values.shape[:4], 6, 6).where(~contribution.values[..., :1, :1].isnan(), torch.nan)
    by_cells = replace(contribution, values=values, each=values[None], query=cells, key=cells)
    held = written(by_cells, 2, 3)
    assert held["regions"] == list(cells) and held["sites"][f"{SITE}.self"]["text"][7] == pytest.approx(
        float(values[contribution.sites.index(f"{SITE}.self"), 0, contribution.branches.index("text"), 0, 1, 1]), rel=5.1e-3
    )
    with pytest.raises(ValueError, match=r"needs A, A', B, B' on both sides.*by itself$"):
        written(by_cells, 2)


def test_only_a_contribution_of_this_run_between_all_regions_is_taken(run, contribution, result) -> None:
    part = measures.contribution(run, query=["B'"])
    for wrong, message in (
        (part, "the page's table needs A, A', B, B'"), (measures.contribution([run, run]), "another run"), ("share", "give what measures"),
        ([contribution, None], "2 given for 1 runs"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            explore(result, contribution=wrong)
    with pytest.raises(ValueError, match="another run"):
        written(contribution, 1)


def test_the_browser_shows_the_table_of_the_site_step_and_head_chosen(browser, contribution, result, tmp_path) -> None:
    browser.open(explore([result, result], labels=["measured", "not"], contribution=[contribution, None]).save(tmp_path / "look.html"))
    browser.go(source=0, layer=SITE, step=1, head=-1, branch="text")
    i, b = contribution.sites.index(f"{SITE}.self"), contribution.branches.index("text")
    expected = contribution.values[i, 1, b].nanmean(0).flatten().numpy()
    np.testing.assert_allclose(browser.js("return explorer.written()"), expected, rtol=6e-3)
    assert "into row from column, step 1, mean of" in browser.js("return document.getElementById('written-of').textContent")
    cells = browser.js("return [...document.querySelectorAll('#written td')].map((cell) => cell.textContent)")
    assert [float(text) for text in cells] == pytest.approx(list(expected), rel=0.06)
    browser.go(head=1, step="mean")
    expected = contribution.values[i, :, b, 1].mean(0).flatten().numpy()
    np.testing.assert_allclose(browser.js("return explorer.written()"), expected, rtol=6e-3)
    browser.go(source=1)
    assert browser.js("return document.getElementById('written-section').hidden") is True
    console, asked = browser.logs()
    assert console == [] and asked == []
