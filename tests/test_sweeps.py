"""Sweeps of patches and ablations against edits by hand: every kind, every axis, many inputs, batches, and what they say of themselves."""

import functools
import math
import warnings
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from analogist.attention.capture.capture import Capture
from analogist.attention.edit.edits import ablate_heads, scale, zero_block
from analogist.attention.edit.node import Node
from analogist.attention.measure import measures
from analogist.attention.measure.circuit import Circuit
from analogist.attention.measure.runs import HardlyDiffer
from analogist.attention.measure.sweep_result import SweepAxes
from tests.causal_runs import small_run
from tests.small import small_unet
from tests.study_runs import shape

NAME = "up.2.attn.1.self"
FOUR = "up.1.attn.0.self"  # comes before it; with four heads


def distance(one, other) -> float:
    return float(((one.latents - other.latents) ** 2).mean())


def test_zero_ablation_equals_the_ready_edit_head_by_head_and_step_by_step(tiny_unet):
    run = small_run(tiny_unet, shape(steps=2))
    sweep = measures.ablate_sweep(run, f"{NAME}:head_out", heads=True, progress=False)
    plain = run()
    assert sweep.effect.shape == (1, 2, 2) and sweep.clean == 0
    for step in range(2):
        for head in range(2):
            by_hand = run(edit={f"{NAME}:head_out": ablate_heads(head, steps=step)})
            assert float(sweep.effect[0, step, head]) == pytest.approx(distance(by_hand, plain), rel=1e-4)
    together = measures.ablate_sweep(run, f"{NAME}:head_out", steps="all", progress=False)
    assert float(together.effect[0, 0, 0]) == pytest.approx(distance(run(edit={f"{NAME}:head_out": scale(0.0)}), plain), rel=1e-4)


def test_the_loss_is_the_measure_where_a_result_has_one(tiny_unet):
    class Losing:
        def __init__(self, latents, maps):
            self.latents, self.maps, self.loss = latents, maps, float(latents.square().mean())

    plain = small_run(tiny_unet, shape(steps=1))

    def run(capture=None, edit=None):
        out = plain(capture, edit)
        return Losing(out.latents, out.maps)

    sweep = measures.ablate_sweep(run, f"{NAME}:head_out", batch=1, progress=False)
    cut = plain(edit={f"{NAME}:head_out": scale(0.0)}).latents.square().mean()
    assert sweep.clean == pytest.approx(float(plain().latents.square().mean()))
    assert float(sweep.effect[0, 0, 0]) == pytest.approx(float(cut) - sweep.clean, rel=1e-3)
    assert float(sweep.relative[0, 0, 0]) == pytest.approx((float(cut) - sweep.clean) / sweep.clean, rel=1e-3)


def test_blocks_of_a_map_and_branches_are_ablated_one_by_one(tiny_unet):
    run = small_run(tiny_unet, shape(steps=1, hw=(16, 32)))
    sweep = measures.ablate_sweep(
        run, f"{NAME}:probs", heads=True, branches=("negative", "text"), query=("B'", "A"), key=("A'",), progress=False
    )
    plain = run()
    assert sweep.effect.shape == (1, 1, 2, 2, 2, 1) and sweep.axes.more == {
        "branch": ("negative", "text"), "query": ("B'", "A"), "key": ("A'",)
    }  # fmt: skip
    for b, branch in enumerate(("negative", "text")):
        for q, query in enumerate(("B'", "A")):
            by_hand = run(edit={f"{NAME}:probs": zero_block(query, "A'", heads=1, branches=branch)})
            assert float(sweep.effect[0, 0, 1, b, q, 0]) == pytest.approx(distance(by_hand, plain), rel=1e-3)
    row = sweep.best(1)[0]
    assert set(row) == {"site", "step", "head", "branch", "query", "key", "effect", "low", "high"}


def test_mean_ablation_takes_the_mean_over_inputs_images_and_places(tiny_unet):
    runs = [small_run(tiny_unet, shape(steps=2), seed) for seed in (0, 1)]
    sweep = measures.ablate_sweep(runs, f"{NAME}:head_out", how="mean", heads=True, progress=False)
    assert sweep.each.shape == (2, 1, 2, 2)
    kept = [run(capture=f"{NAME}:head_out").maps[f"{NAME}:head_out"].numpy() for run in runs]  # step branch image head query channel
    mean = np.concatenate(kept, axis=2).mean(axis=(2, 4))

    def put(tensor, at, head):
        out = tensor.clone().unflatten(0, (2, 2))
        out[:, :, head] = torch.from_numpy(mean[at.step])[:, None, head, None]
        return out.flatten(0, 1) if at.step == 1 else tensor

    for number, run in enumerate(runs):
        by_hand = run(edit={f"{NAME}:head_out": functools.partial(put, head=1)})
        assert float(sweep.each[number, 0, 1, 1]) == pytest.approx(distance(by_hand, run()), rel=1e-3)
    elsewhere = measures.ablate_sweep(runs[0], f"{NAME}:head_out", how=runs, heads=True, progress=False)
    torch.testing.assert_close(elsewhere.each[0], sweep.each[0])


def test_another_inputs_value_is_put_where_it_stood(tiny_unet):
    run, other = (small_run(tiny_unet, shape(steps=1), seed) for seed in (0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sweep = measures.ablate_sweep(run, f"{NAME}:head_out", how=other, heads=True, progress=False)
    value = other(capture=f"{NAME}:head_out").maps[f"{NAME}:head_out"].tensor[0].flatten(0, 1)

    def put(tensor, at):
        return torch.cat([value[:, :1], tensor[:, 1:]], dim=1)

    assert float(sweep.effect[0, 0, 0]) == pytest.approx(distance(run(edit={f"{NAME}:head_out": put}), run()), rel=1e-3)


def test_patches_of_regions_and_branches_equal_patches_by_hand(tiny_unet):
    clean, corrupted = (small_run(tiny_unet, shape(steps=1, hw=(24, 16), rows=3), seed) for seed in (0, 1))
    name = "down.0.attn.0.self"
    sweep = measures.patch_sweep(
        clean, corrupted, f"{name}:head_out", heads=True, branches=("text",), query=("A1'", "A2'", "A'"), progress=False
    )
    assert sweep.recovered.shape == (1, 1, 2, 1, 3)
    value = clean(capture=f"{name}:head_out").maps[f"{name}:head_out"].tensor[0].flatten(0, 1)
    tokens = torch.arange(24 * 16).view(24, 16)
    for i, rows in enumerate((slice(0, 8), slice(8, 16), slice(0, 16))):

        def put(tensor, at, rows=rows):
            out = tensor.clone()
            out[2:, 1, tokens[rows, 8:].flatten()] = value[2:, 1, tokens[rows, 8:].flatten()]
            return out

        left = distance(corrupted(edit={f"{name}:head_out": put}), clean())
        whole = distance(corrupted(), clean())
        assert float(sweep.recovered[0, 0, 1, 0, i]) == pytest.approx(1 - left / whole, rel=1e-2, abs=1e-5)
        assert float(sweep.effect[0, 0, 1, 0, i]) == pytest.approx(whole - left, rel=1e-2, abs=1e-6)


@pytest.mark.parametrize("kind", ["patch", "ablation"])
def test_several_to_a_batch_give_the_same_in_fewer_calls(tiny_unet, kind):
    def sweep(batch):
        clean, corrupted = (small_run(tiny_unet, shape(steps=2), seed) for seed in (0, 1))
        points = ["up.1.attn.0.self:head_out", "up.1.attn.1.cross:probs"]
        given = {"heads": True, "batch": batch, "progress": False}
        if kind == "patch":
            return measures.patch_sweep(clean, corrupted, points, **given), corrupted.calls
        return measures.ablate_sweep(clean, points, **given), clean.calls

    one, calls = sweep(1)
    several, fewer = sweep(None)  # the small run has room for five
    torch.testing.assert_close(several.each, one.each, atol=1e-6, rtol=1e-4)
    patches = 2 * 2 * 4
    assert len(calls) == 2 * (patches + 1) and len(fewer) == 2 * (math.ceil(patches / 5) + 1)
    with pytest.raises(ValueError, match="room for"):
        sweep(6)


class Meeting:
    """An edit that chooses its points itself, as it meets the network: of those of the selector, the last."""

    def meet(self, unet, places):
        return places[-1:]

    def __call__(self, tensor, at):
        return 0.5 * tensor


@pytest.mark.parametrize("kind", ["partial", "function"])
@pytest.mark.parametrize("batch", [1, 3, None])
def test_edits_of_the_run_itself_act_beside_every_patch_as_they_do_alone(tiny_unet, kind, batch):
    plain, point = small_run(tiny_unet, shape(steps=1)), f"{FOUR}:head_out"

    def mixed(tensor, at):
        assert at.images == 2
        return tensor.unflatten(0, (at.branches, at.images)).flip(1).flatten(0, 1)

    own = {point: scale(3.0, images=0), f"{NAME}:out": mixed, "down.*.cross:out": Meeting()}
    run = functools.partial(plain, edit=own)
    if kind == "function":

        def run(capture=None, edit=None):
            return plain(capture, {**own, **(edit or {}), point: [own[point], *([edit[point]] if point in (edit or {}) else [])]})

    sweep = measures.ablate_sweep(run, point, heads=True, batch=batch, progress=False)
    unablated = plain(edit=own)
    by_hand = [distance(plain(edit={**own, point: [own[point], ablate_heads(head)]}), unablated) for head in range(4)]
    assert sweep.effect.flatten().tolist() == pytest.approx(by_hand, rel=1e-3)
    for name in own:  # each of them matters
        assert distance(plain(edit={other: own[other] for other in own if other != name}), unablated) > 1e-6


@pytest.mark.parametrize("images", [None, 0])
@pytest.mark.parametrize("kind", ["patch", "ablation"])
def test_a_measure_of_maps_reads_those_of_its_own_patch(tiny_unet, kind, images):
    """Every effect against one run by hand, whose map is cut by its token numbers."""
    point, look = f"{FOUR}:head_out", f"{NAME}:probs"
    clean, corrupted = (small_run(tiny_unet, shape(steps=1), seed) for seed in (0, 1))
    tokens = torch.arange(64).view(8, 8)

    def measure(result):
        m = result.maps[look].tensor[0, 1]  # of the text branch: image head query key
        return float(m[:, :, tokens[4:, 4:].flatten()][..., tokens[:4, 4:].flatten()].double().mean())

    looking = [functools.partial(run, capture=Capture(look, images=images)) for run in (clean, corrupted)]
    value = clean(capture=point).maps[point].tensor[0].flatten(0, 1)

    def put(tensor, at, head):
        out = tensor.clone()
        out[:, head] = value[:, head] if kind == "patch" else 0
        return out

    given = {"heads": True, "measure": measure, "progress": False}
    if kind == "patch":
        sweep, run = functools.partial(measures.patch_sweep, *looking, point, **given), looking[1]
    else:
        sweep, run = functools.partial(measures.ablate_sweep, looking[0], point, **given), looking[0]
    by_hand = [measure(run(edit={point: functools.partial(put, head=head)})) - measure(run()) for head in range(4)]
    assert len({round(1e6 * effect) for effect in by_hand}) == 4  # the heads differ
    assert sweep().effect.flatten().tolist() == pytest.approx(by_hand, rel=1e-3, abs=1e-8)
    with pytest.raises(ValueError, match="captures maps of its own, so that edits cannot share a batch"):
        sweep(batch=2)


@dataclass(frozen=True)
class Summed:
    """A result whose numbers were taken from all images that ran. brightness, spread: one number per image."""

    latents: torch.Tensor
    brightness: np.ndarray
    spread: tuple[float, ...]
    loss: float | torch.Tensor | None = None
    maps: dict = field(default_factory=dict)


@pytest.mark.parametrize("loss", ["float", "tensor", "none"])
def test_numbers_of_a_result_are_those_of_its_own_patch(tiny_unet, loss):
    plain = small_run(tiny_unet, shape(steps=1))

    def run(capture=None, edit=None):
        out = plain(capture, edit).latents
        whole = {"float": float(out.square().mean()), "tensor": out.square().mean(), "none": None}[loss]
        return Summed(out, out.mean((1, 2, 3)).numpy(), tuple(out.std((1, 2, 3)).tolist()), whole)

    def measure(result):
        return float(result.brightness.sum()) + sum(result.spread) + (0 if result.loss is None else float(result.loss))

    by_hand = [measure(run(edit={f"{FOUR}:head_out": ablate_heads(head)})) - measure(run()) for head in range(4)]
    sweep = functools.partial(measures.ablate_sweep, run, f"{FOUR}:head_out", heads=True, measure=measure, progress=False)
    assert sweep().effect.flatten().tolist() == pytest.approx(by_hand, rel=1e-3)
    if loss == "none":
        assert sweep(batch=2).effect.flatten().tolist() == pytest.approx(by_hand, rel=1e-3)
    else:
        with pytest.raises(ValueError, match=r"one number for all images \(loss\)"):
            sweep(batch=2)


def test_a_result_that_cannot_be_divided_is_measured_edit_by_edit(tiny_unet):
    plain = small_run(tiny_unet, shape(steps=1))

    def run(capture=None, edit=None):
        return SimpleNamespace(**vars(plain(capture, edit)))

    by_hand = [distance(run(edit={f"{FOUR}:head_out": ablate_heads(head)}), run()) for head in range(4)]
    sweep = measures.ablate_sweep(run, f"{FOUR}:head_out", heads=True, progress=False)
    assert sweep.effect.flatten().tolist() == pytest.approx(by_hand, rel=1e-4)
    with pytest.raises(ValueError, match="SimpleNamespace, is no dataclass, so that edits cannot share a batch; use batch=1"):
        measures.ablate_sweep(run, f"{FOUR}:head_out", heads=True, batch=2, progress=False)


def test_many_inputs_give_their_mean_and_its_interval(tiny_unet):
    clean = [small_run(tiny_unet, shape(steps=1), seed) for seed in (0, 1, 2)]
    corrupted = [small_run(tiny_unet, shape(steps=1), seed) for seed in (3, 4, 5)]
    sweep = measures.patch_sweep(clean, corrupted, f"{NAME}:head_out", heads=True, progress=False)
    alone = [
        measures.patch_sweep(c, k, f"{NAME}:head_out", heads=True, progress=False).recovered for c, k in zip(clean, corrupted, strict=True)
    ]
    torch.testing.assert_close(sweep.recovered, torch.stack(alone).mean(0))
    assert (sweep.low <= sweep.recovered).all() and (sweep.recovered <= sweep.high).all() and (sweep.low < sweep.high).all()
    # one draw in 27 takes the same input three times, more than the 2.5 % beyond each limit: the limits are the extremes
    torch.testing.assert_close(sweep.low, torch.stack(alone).amin(0))
    torch.testing.assert_close(sweep.high, torch.stack(alone).amax(0))
    with pytest.raises(ValueError, match="3 clean and 2 corrupted"):
        measures.patch_sweep(clean, corrupted[:2], f"{NAME}:head_out", progress=False)


@pytest.mark.parametrize("steps", [None, [1]])
def test_inputs_that_differ_in_steps_are_refused_before_anything_is_patched(tiny_unet, steps):
    clean = [small_run(tiny_unet, shape(steps=count), count) for count in (2, 3)]
    corrupted = [small_run(tiny_unet, shape(steps=count), 10 + count) for count in (2, 3)]
    given = {"points": f"{FOUR}:head_out", "steps": steps, "progress": False}
    with pytest.raises(ValueError, match="patch_sweep: these runs execute 2, 3 steps"):
        measures.patch_sweep(clean, corrupted, **given)
    assert [len(run.calls) for run in corrupted] == [2, 3]  # once each, to learn of them
    with pytest.raises(ValueError, match="ablate_sweep: these runs execute 2, 3 steps"):
        measures.ablate_sweep(corrupted, **given)
    assert [len(run.calls) for run in corrupted] == [4, 6]
    with pytest.raises(ValueError, match="attribution_patch: these runs execute 2, 3 steps"):
        measures.attribution_patch(clean, corrupted, **given)


def test_inputs_may_differ_in_steps_that_are_taken_together(tiny_unet):
    runs = [small_run(tiny_unet, shape(steps=count), count) for count in (2, 3)]
    sweep = measures.ablate_sweep(runs, f"{FOUR}:head_out", steps="all", progress=False)
    by_hand = [distance(run(edit={f"{FOUR}:head_out": scale(0.0)}), run()) for run in runs]
    assert sweep.each.flatten().tolist() == pytest.approx(by_hand, rel=1e-3)


def test_values_of_a_run_with_other_steps_are_refused(tiny_unet):
    two, three = (small_run(tiny_unet, shape(steps=count), count) for count in (2, 3))
    point, head = f"{FOUR}:head_out", Node(FOUR, "head_out", 1, 1)
    circuit = Circuit({head: 1.0}, (), SweepAxes(((FOUR, "head_out", 4),), (0, 1), (0, 1, 2, 3)), 0.1, "patch")
    quiet = {"progress": False}
    refused = {
        "patch_sweep": lambda: measures.patch_sweep(two, three, point, **quiet),
        "attribution_patch": lambda: measures.attribution_patch(two, three, point, steps=[0]),
        "path_patch": lambda: measures.path_patch(two, three, Node(FOUR, "head_out", 0), points=point, **quiet),
        "placebo": lambda: measures.placebo(circuit, two, three, draws=1, **quiet),
        "ablate_sweep, how=": lambda: measures.ablate_sweep(two, point, how=three, **quiet),
        "faithfulness, how=": lambda: measures.faithfulness(circuit, two, how=three, **quiet),
    }
    for who, calling in refused.items():
        with pytest.raises(ValueError, match=f"{who}: these runs execute (2, 3|3, 2) steps"):
            calling()
    with pytest.raises(ValueError, match="ablate_sweep, how=: these runs execute 2, 2, 3 steps"):
        measures.ablate_sweep([two, three], point, how="mean", steps="all", **quiet)
    with pytest.raises(ValueError, match="ablate_sweep, how=: these runs execute 3, 2 steps"):
        measures.ablate_sweep(two, point, how=[three, three], **quiet)
    with pytest.raises(ValueError, match="faithfulness: these runs execute 2, 3 steps"):
        measures.faithfulness(circuit, [two, three], **quiet)
    with pytest.raises(ValueError, match="path_patch: these runs execute 2, 3 steps"):
        measures.path_patch([two, three], [replace(run, x=run.x + 1) for run in (two, three)], head, points=point, **quiet)
    with pytest.raises(ValueError, match="placebo: these runs execute 2, 3 steps"):
        measures.placebo(circuit, [two, three], [three, two], draws=1, **quiet)


def test_runs_that_hardly_differ_are_warned_of_and_said_to(tiny_unet):
    def sweep(moved):
        clean = small_run(tiny_unet, shape(steps=1), seeds=1.0)
        corrupted = functools.partial(clean, edit={f"{NAME}:head_out": scale(moved)})
        return measures.patch_sweep(clean, corrupted, "up.3.attn.2.block:out", progress=False)

    with pytest.warns(HardlyDiffer, match="hardly differ"):
        said = sweep(0.99)
    assert "hardly differ" in repr(said) and said.contrasts[0].noise > 10 * abs(said.contrasts[0].gap)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clearly = measures.patch_sweep(
            small_run(tiny_unet, shape(steps=1), seeds=1.0), small_run(tiny_unet, shape(steps=1), 1), f"{NAME}:out", progress=False
        )
    assert clearly.notes == () and clearly.contrasts[0].noise > 0

    def without_seed(capture=None, edit=None):
        return small_run(tiny_unet, shape(steps=1))(capture, edit)

    unknown = measures.patch_sweep(without_seed, small_run(tiny_unet, shape(steps=1), 1), f"{NAME}:out", progress=False)
    assert "takes no seed" in unknown.notes[0]


def test_what_cannot_be_swept_is_said(tiny_unet):
    run = small_run(tiny_unet, shape(steps=1))
    with pytest.raises(ValueError, match="allowed are 'zero', 'mean'"):
        measures.ablate_sweep(run, f"{NAME}:out", how="noise", progress=False)
    with pytest.raises(ValueError, match="steps 'first'"):
        measures.ablate_sweep(run, f"{NAME}:out", steps="first", progress=False)
    with pytest.raises(ValueError, match="no head axis"):
        measures.ablate_sweep(run, f"{NAME}:out", heads=True, progress=False)
    with pytest.raises(ValueError, match="no key axis"):
        measures.ablate_sweep(run, f"{NAME}:head_out", key=("A'",), progress=False)
    with pytest.raises(ValueError, match="give a list of regions"):
        measures.ablate_sweep(run, f"{NAME}:head_out", query="B'", progress=False)
    with pytest.raises(ValueError, match="recovers nothing"):
        measures.ablate_sweep(run, f"{NAME}:out", progress=False).recovered  # noqa: B018
    with pytest.raises(ValueError, match="did not use edit="):
        measures.ablate_sweep(lambda capture=None, edit=None: run(capture), f"{NAME}:out", progress=False)
    with pytest.raises(ValueError, match="of one size"):
        measures.ablate_sweep(run, f"{NAME}:out", how=small_run(tiny_unet, shape(steps=1, hw=(16, 32))), progress=False)
    with pytest.raises(ValueError, match="different sites"):
        measures.ablate_sweep(run, f"{NAME}:out", progress=False).correlation(
            measures.ablate_sweep(run, "up.1.attn.0.self:out", progress=False)
        )
    one = measures.ablate_sweep(run, "up.1.*.self:out", progress=False)
    assert one.correlation(one) == pytest.approx(1)
    assert str(Node.of(("up.1.attn.0.self", 1))) == "up.1.attn.0.self:head_out (head 1)"
    with pytest.raises(ValueError, match="give a Node"):
        Node.of(3)


def test_sweeps_of_an_unet_in_half_precision_stay_finite():
    unet = small_unet(dtype=torch.bfloat16)
    run = small_run(unet, replace(shape(steps=1), dtype=torch.bfloat16))
    assert measures.ablate_sweep(run, f"{NAME}:head_out", how="mean", heads=True, progress=False).effect.isfinite().all()
