"""Causal measures through the model's own calls: gradients where they are asked for and nowhere else, copies in one batch."""

import functools
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from analogist import Analogist, PromptGrid
from analogist.attention.edit.asks import asks_of
from analogist.attention.edit.bind import EditError
from analogist.attention.edit.edits import scale
from analogist.attention.edit.side_by_side import SideBySide
from analogist.attention.measure import measures
from analogist.config import AnalogistConfig, SamplingConfig
from analogist.models.control import CAM, SAC
from analogist.models.placement import Placement
from tests.pictures import random_grid, random_picture

CHECKPOINT = Path(__file__).parent / "parity" / "checkpoint"
SHORT = AnalogistConfig(
    sampling=SamplingConfig(steps=2, strength=1.0, guidance=3.0, eta=0.7), sac=SAC(Placement("*")), cam=CAM(Placement("up.*"))
)
NAME = "up.1.attn.2.cross:head_out"


@pytest.fixture(scope="module")
def model() -> Analogist:
    return Analogist.from_checkpoint(CHECKPOINT, device="cpu")


@pytest.fixture(scope="module")
def grid() -> PromptGrid:
    return random_grid()


@pytest.fixture(scope="module", params=["sampling", "one call"])
def pair(request, model, grid):
    """Clean and corrupted run, by the sampler with noise in its steps and two images, and by one call on a known picture."""
    if request.param == "sampling":
        calls = functools.partial(model, grid, config=SHORT, progress=False, images=2)
    else:
        calls = functools.partial(model.at, grid, b_prime=random_picture(3), config=SHORT)
    return functools.partial(calls, "a red cat"), functools.partial(calls, "blue")


def test_attributions_are_the_slope_of_small_patches(pair):
    clean, corrupted = pair
    result = clean(capture=NAME)
    value = result.maps[NAME].tensor
    sweep = measures.attribution_patch(clean, corrupted, NAME, steps="all")

    def moved(weight):
        def edit(tensor, at):
            return tensor + weight * (value[at.step].flatten(0, 1) - tensor)

        return -float(((corrupted(edit={NAME: edit}).latents.double() - result.latents) ** 2).mean())

    slope = (moved(0.05) - moved(-0.05)) / 0.1
    assert float(sweep.effect[0, 0, 0]) == pytest.approx(slope, rel=0.05)
    assert sweep.contrasts[0].noise > 0


def test_nothing_has_a_graph_unless_an_edit_asks(pair):
    run = pair[0]
    plain, edited = run(), run(edit={NAME: scale(0.5)})
    assert not plain.latents.requires_grad and not edited.latents.requires_grad
    seen = []

    class Asking:
        gradients = True

        def __call__(self, tensor, at):
            seen.append(tensor.detach().clone().requires_grad_())
            return seen[-1]

    asked = run(edit={NAME: Asking()})
    assert asked.latents.requires_grad
    torch.testing.assert_close(asked.latents.detach(), plain.latents)  # not bit by bit: nothing is written in place
    assert all(slope.abs().max() > 0 for slope in torch.autograd.grad(asked.latents.sum(), seen))
    with torch.no_grad():
        assert run(edit={NAME: Asking()}).latents.requires_grad
    assert torch.is_grad_enabled() and not run().latents.requires_grad


def test_copies_run_side_by_side_as_they_would_alone(pair):
    run = pair[0]
    one, other = scale(0.0), scale(3.0, steps=-1, images=0)
    together = run(edit={NAME: SideBySide([one, None, other])}).latents
    alone = [run(edit=edit).latents for edit in ({NAME: one}, None, {NAME: other})]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)
    assert float((alone[0] - alone[1]).abs().max()) > 1e-3 and float((alone[2] - alone[1]).abs().max()) > 1e-3


def test_an_edit_that_asks_for_no_copies_acts_in_each_as_it_would_alone(pair):
    run, elsewhere = pair[0], "mid.0.attn.0.cross:out"

    def mixed(tensor, at):  # every image of a branch gets their mean
        return tensor.unflatten(0, (at.branches, at.images)).mean(1, keepdim=True).repeat_interleave(at.images, dim=1).flatten(0, 1)

    own = {elsewhere: mixed, NAME: scale(3.0, images=0)}
    together = run(edit={elsewhere: mixed, NAME: [scale(3.0, images=0), SideBySide([scale(0.0), None])]}).latents
    alone = [run(edit={**own, NAME: [own[NAME], scale(0.0)]}).latents, run(edit=own).latents]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)
    assert all(float((one - run(edit={name: own[name]}).latents).abs().max()) > 1e-3 for one in alone for name in own if name != NAME)
    with pytest.raises(EditError, match="returned nothing"):
        run(edit={elsewhere: lambda tensor, at: None, NAME: SideBySide([None, None])})


def test_a_sweep_in_batches_equals_one_patch_a_run(pair):
    clean, corrupted = pair
    for function in (functools.partial(measures.patch_sweep, clean, corrupted), functools.partial(measures.ablate_sweep, clean)):
        points = [NAME, *(f"mid.0.attn.0.{kind}:head_out" for kind in ("self", "cross"))]
        one, many = (function(points, steps="all", batch=batch, progress=False) for batch in (1, None))
        torch.testing.assert_close(many.effect, one.effect, rtol=1e-2, atol=1e-5)


def test_the_loss_of_a_known_picture_is_the_default_of_ablation(model, grid):
    run = functools.partial(model.at, grid, "a red cat", b_prime=random_picture(3), config=SHORT)
    sweep = measures.ablate_sweep(run, NAME, steps="all", progress=False)
    assert sweep.clean == pytest.approx(run().loss)
    assert float(sweep.effect[0, 0, 0]) == pytest.approx(run(edit={NAME: scale(0.0)}).loss - run().loss, rel=1e-3, abs=1e-6)
    slope = measures.attribution_patch(
        run, functools.partial(run, edit={NAME: scale(0.0)}), NAME, measure=lambda result: result.error
    )
    assert slope.effect.isfinite().all() and slope.clean == pytest.approx(run().loss)


def test_gradients_of_pixels_pass_the_decoder_where_a_measure_reads_them(model, grid):
    calls = functools.partial(model, grid, config=SHORT.replace(steps=1), progress=False)
    clean, corrupted = functools.partial(calls, "a red cat"), functools.partial(calls, "blue")
    target = clean().pixels

    def measure(result):
        return -((result.pixels - target) ** 2).mean()

    with pytest.raises(ValueError, match="has no gradient"):
        measures.attribution_patch(clean, corrupted, NAME, measure=measure)
    measure.pixels = True
    assert float(measures.attribution_patch(clean, corrupted, NAME, measure=measure).effect.abs().max()) > 0


def test_contribution_of_a_sampled_run_has_its_steps_and_branches(pair, model):
    found = measures.contribution(pair[0])
    steps = found.values.shape[1]
    assert found.values.shape == (16, steps, 2, 8, 4, 4) and found.values.nan_to_num().min() >= 0
    alone = measures.contribution(functools.partial(pair[0], config=SHORT.replace(guidance=1.0)), "mid.*.self")
    assert alone.branches == ("text",)
    assert len(model.unet.sites) == 32


def test_edits_that_disagree_on_copies_are_refused(model, grid):
    with pytest.raises(ValueError, match="number of copies"):
        model(grid, edit={NAME: SideBySide([None] * 2), "up.1.attn.1.cross:out": SideBySide([None] * 3)}, config=SHORT, progress=False)
    assert asks_of(None) == asks_of({}) and replace(asks_of({}), copies=2).copies == 2
    with pytest.raises(ValueError, match="side by side act inside"):
        SideBySide([None])(torch.zeros(1), None)


@pytest.mark.slow
def test_the_example_of_the_guide_runs_on_the_lab_checkpoint(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    guide = Path(measures.__file__).with_name("README.md")
    if not guide.is_file():
        pytest.skip("installed without its documents")
    exec(re.search(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), re.S)[1], {})
    assert (tmp_path / "circuit.json").is_file() and "faithfulness" in capsys.readouterr().out
