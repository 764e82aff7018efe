"""Seeds ranked by their first steps: against contribution measured seed by seed, and against whole runs."""

from functools import partial

import pytest
import torch

from analogist.attention.capture.capture import Capture
from analogist.attention.edit import edits as E
from analogist.attention.measure import measures
from analogist.grid import PromptGrid
from tests.experiments_small import BASE, PARITY, SIZE, load_model

RUN = {"config": BASE.replace(steps=4, strength=1.0)}
CALL = {"prompt": "a red boat", **RUN}


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def grid() -> PromptGrid:
    return PromptGrid.from_image(PARITY / "grid.png", SIZE)


def test_the_rank_is_that_of_the_contribution_measured_seed_by_seed(model, grid) -> None:
    seeds = [3, 4, 5, 9]
    found = measures.rank_seeds(model, grid, seeds=seeds, first=2, finish=False, **CALL)
    alone = {}
    for seed in seeds:
        run = partial(model, grid, seed=seed, progress=False, **CALL)
        each = measures.contribution(run, "*.self", query=["B'"], key=["A'"], steps=range(2), branches="text")
        alone[seed] = float(each.values.nanmean())
    assert list(found.seeds) == sorted(seeds, key=lambda seed: -alone[seed])
    for seed, value in zip(found.seeds, found.values.tolist(), strict=True):
        assert value == pytest.approx(alone[seed], rel=1e-4)
    assert len({round(value, 6) for value in alone.values()}) == len(seeds) and found.result is None


def test_the_best_seed_runs_to_the_end_as_a_call_of_its_own(model, grid) -> None:
    found = measures.rank_seeds(model, grid, seeds=3, first=1, **CALL)
    assert set(found.seeds) == {42, 43, 44} and found.best == found.seeds[0]
    assert found.result.record["seeds"] == [found.best]
    assert torch.equal(found.result.latents, model(grid, seed=found.best, progress=False, **CALL).latents)
    assert [row["rank"] for row in found.rows()] == [0, 1, 2] and str(found.best) in repr(found)


def test_only_the_first_steps_of_the_others_are_run_and_in_batches_as_told(model, grid, monkeypatch) -> None:
    sizes, forward = [], type(model.unet).forward

    def counted(self, x, *rest, **more):
        sizes.append(len(x))
        return forward(self, x, *rest, **more)

    monkeypatch.setattr(type(model.unet), "forward", counted)
    apart = measures.rank_seeds(model, grid, seeds=[7, 8, 9, 20], first=2, batch=2, finish=False, **CALL)
    assert sizes == [4, 4, 2, 2, 2, 2]  # both branches of seeds 7 and 8, of 9, of 20; two steps each
    together = measures.rank_seeds(model, grid, seeds=[7, 8, 9, 20], first=2, finish=False, **CALL)
    assert apart.seeds == together.seeds
    torch.testing.assert_close(apart.values, together.values, rtol=1e-4, atol=1e-7)


def test_a_measure_of_your_own_sees_the_last_step_and_what_was_captured(model, grid) -> None:
    where = "up.1.attn.2.self:probs"

    def looks(step):
        m = step.maps[where]
        assert step.i == 1 and step.z_t.shape[0] == 3
        return m.sel(branch="text", query="B'", key="A'").tensor.sum(-1).mean(dim=(0, 2, 3))  # step image head query

    found = measures.rank_seeds(model, grid, seeds=3, first=2, by=looks, capture=Capture(where, steps=[1]), **CALL)
    assert found.by == "looks" and where in found.result.maps
    for seed, value in zip(found.seeds, found.values.tolist(), strict=True):
        m = model(grid, seed=seed, capture=Capture(where, steps=[1]), progress=False, **CALL).maps[where]
        assert value == pytest.approx(float(m.sel(branch="text", query="B'", key="A'").tensor.sum(-1).mean()), rel=1e-4)
    assert found.values.tolist() == sorted(found.values.tolist(), reverse=True)


def test_edits_of_the_call_act_in_the_first_steps_too(model, grid) -> None:
    cut = {"*.self:probs": E.zero_block("B'", "A'")}
    blind = measures.rank_seeds(model, grid, seeds=2, first=1, finish=False, edit=cut, **CALL)
    assert blind.values.abs().max() < 1e-6
    assert measures.rank_seeds(model, grid, seeds=2, first=1, finish=False, **CALL).values.min() > 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": 0}, "give whole numbers of at least 0"), ({"seeds": [1, 1]}, "named twice"), ({"seeds": [-1]}, "at least 0"),
        ({"first": 0}, "at least 1"), ({"first": 9}, "first 9: this run executes 4 steps"), ({"images": 2}, "images given"),
        ({"batch": 0}, "batch 0"),
        ({"by": lambda step: torch.zeros(1)}, "one number per image"),
    ],
)  # fmt: skip
def test_arguments_that_make_no_sense_are_an_error(model, grid, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measures.rank_seeds(model, grid, **{"seeds": 2, "first": 1, "finish": False, **arguments}, **CALL)
    with pytest.raises(ValueError, match="one grid, one prompt"):
        measures.rank_seeds(model, [grid], seeds=2)
