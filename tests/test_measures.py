"""Measures of attention against loops and closed forms; known pictures against the sampler's own formulas."""

import functools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from analogist.attention.capture.capture import Capture, CaptureTooLarge
from analogist.attention.capture.maps import Maps
from analogist.attention.capture.reduce import TopK
from analogist.attention.edit.edits import scale
from analogist.attention.measure.measures import (
    best_keys,
    correspondence,
    divergence,
    effects,
    entropy,
    flow,
    flow_rows,
    flow_table,
    patch_sweep,
    reach,
    word_heat,
    word_heats,
)
from analogist.config import AnalogistConfig, SamplingConfig
from analogist.grid import PromptGrid, to_pixels
from analogist.models.cells import REGIONS
from analogist.models.control import CAM, SAC, AttentionControl
from analogist.models.placement import Placement
from analogist.pipeline import Analogist
from analogist.run import known_pictures as known
from tests.pictures import random_grid, random_picture
from tests.small import Looking
from tests.study_runs import sample, shape

CHECKPOINT = Path(__file__).parent / "parity" / "checkpoint"
SHORT = AnalogistConfig(
    sampling=SamplingConfig(steps=3, strength=1.0, guidance=3.0), sac=SAC(Placement("*")), cam=CAM(Placement("up.*"))
)
FINE = "up.3.attn.0.self:probs"


@pytest.fixture(scope="module")
def model() -> Analogist:
    return Analogist.from_checkpoint(CHECKPOINT, device="cpu")


@pytest.fixture(scope="module")
def grid() -> PromptGrid:
    return random_grid()


@pytest.fixture(scope="module")
def maps(tiny_unet):
    """Self and cross probabilities of three steps, without SAC and CAM."""
    return sample(tiny_unet, shape(), ["*.self:probs", "*.cross:probs"], sac=None, cam=None)[1].maps


@pytest.fixture(scope="module")
def template(maps):
    """A self-attention map of one step, branch, image and head, to be given values by hand."""
    return maps[FINE].sel(step=0, branch="text", image=0, head=0)


def region_of(token: int) -> int:
    """0..3 for A, A', B, B' on a 16 x 16 map."""
    return 2 * (token // 16 >= 8) + (token % 16 >= 8)


# --- flow, entropy, reach, divergence --------------------------------------------------------------


def test_flow_is_the_mean_share_between_regions(maps):
    m = maps[FINE]
    values = m.tensor[1, 1, 0, 1]
    expected = torch.zeros(4, 4)
    for query in range(256):
        for key in range(256):
            expected[region_of(query), region_of(key)] += values[query, key] / 64
    got = flow(m)
    torch.testing.assert_close(got.tensor[1, 1, 0, 1], expected, rtol=1e-4, atol=1e-5)
    table = flow_table(m.sel(step=1, branch="text", image=0, head=1))
    assert table["B'", "A'"] == pytest.approx(float(expected[3, 1]), rel=1e-4)
    torch.testing.assert_close(table.values.sum(1), torch.ones(4))
    assert "step 1, text, head 1" in repr(table) and "B'" in repr(table)
    with pytest.raises(ValueError, match="region 'C'"):
        table["C", "A"]


def test_flow_of_captured_totals_equals_flow_of_the_whole_map(tiny_unet, maps):
    totals = sample(tiny_unet, shape(), Capture(FINE, reduce="regions"), sac=None, cam=None)[1].maps[FINE]
    torch.testing.assert_close(flow_table(totals).values, flow_table(maps[FINE]).values)


def test_flow_rows_are_one_a_site_and_step(maps):
    rows = flow_rows(maps)
    assert len(rows) == 16 * 3 and {row["layer"] for row in rows} == set(range(16))
    assert sum(rows[0][f"B' -> {name}"] for name in REGIONS) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="capture '.*.self:probs'"):
        flow_rows({name: m for name, m in maps.items() if "cross" in name})


def test_flow_needs_whole_self_maps(maps):
    with pytest.raises(ValueError, match="holds a part of the map only"):
        flow(maps[FINE].sel(query="B"))
    with pytest.raises(ValueError, match="no self-attention map"):
        flow(maps["up.3.attn.0.cross:probs"])


def test_entropy_of_uniform_rows_is_its_maximum_and_of_single_keys_zero(template):
    values = torch.zeros(256, 256)
    values[0] = 1 / 256
    values[1, 5] = 1
    values[2, :4] = 0.25
    bits = entropy(replace(template, tensor=values)).tensor
    assert bits[:3].tolist() == pytest.approx([8, 0, 2]) and bits[3].isnan()
    assert entropy(replace(template, tensor=values), relative=True).tensor[:3].tolist() == pytest.approx([1, 0, 0.25])
    with pytest.raises(ValueError, match="point probs"):
        entropy(replace(template, point="logits"))


def test_reach_is_the_distance_in_pixels(template):
    values = torch.eye(256)
    values[0] = 0
    values[0, 3 * 16 + 4] = 0.5  # 4 tokens right, 3 down, 8 pixels each: 40 pixels
    values[0, 0] = 0.5
    assert reach(replace(template, tensor=values)).tensor[:2].tolist() == pytest.approx([20, 0], abs=1e-3)
    with pytest.raises(ValueError, match="queries and keys"):
        reach(replace(template, tensor=values).sel(query=0))


def test_divergence_of_equal_rows_is_zero_and_of_disjoint_ones_is_one(template):
    first, second = torch.zeros(256, 256), torch.zeros(256, 256)
    first[:, 0], second[:, 1] = 1, 1
    second[0] = first[0]
    second[2] = torch.tensor([0.5, 0.5] + [0.0] * 254)
    for kind, half in (("total variation", 0.5), ("jensen-shannon", 1.5 - 0.75 * math.log2(3))):
        got = divergence(replace(template, tensor=first), replace(template, tensor=second), kind=kind).tensor
        assert got[:3].tolist() == pytest.approx([0, 1, half], abs=1e-6)
    with pytest.raises(ValueError, match="allowed are 'total variation'"):
        divergence(template, template, kind="cosine")
    with pytest.raises(ValueError, match="have different axes"):
        divergence(template, template.sel(query="B"))


# --- correspondence --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shifted(template):
    """B looks at A two tokens to the right, wrapping round; everything else looks at itself."""
    values = torch.eye(256)
    for y in range(8):
        for x in range(8):
            values[(8 + y) * 16 + x] = 0
            values[(8 + y) * 16 + x, y * 16 + (x + 2) % 8] = 0.7
            values[(8 + y) * 16 + x, (8 + y) * 16 + 15] = 0.3
    return replace(template, tensor=values)


def test_the_best_places_of_a_pixel_are_found_with_their_region(shifted):
    matches = best_keys(shifted, (12, 100), k=2)  # token column 1, row 12: B at (1, 4)
    assert [(m.region, m.x, m.y) for m in matches] == [("A", 28.0, 36.0), ("B'", 124.0, 100.0)]
    assert matches[0].share == pytest.approx(0.7)
    assert best_keys(shifted, (12, 100), to="B'", k=1)[0].token == 12 * 16 + 15
    with pytest.raises(ValueError, match=r"expected 1\.\.64"):
        best_keys(shifted, (12, 100), to="A'", k=65)


def test_a_dense_field_finds_the_shift_and_beats_the_same_place(shifted):
    field = correspondence(shifted, "B", "A")
    truth = field.start + torch.tensor([16.0, -64.0])
    truth[:, 6:, 0] -= 64
    assert torch.equal(field.end, truth) and float(field.error(truth).max()) == 0
    assert torch.equal(field.share, torch.full((8, 8), 0.7))
    template = field.same_place()
    assert torch.equal(template.end, field.start + torch.tensor([0.0, -64.0]))
    assert float(template.error(field).mean()) == pytest.approx((6 * 16 + 2 * 48) / 8)
    soft = correspondence(shifted, "B", "A", soft=True)
    torch.testing.assert_close(soft.end, truth)
    with pytest.raises(ValueError, match="give .8, 8, 2."):
        field.error(torch.zeros(2))


# --- words -----------------------------------------------------------------------------------------


def test_word_heat_is_the_mean_over_sites_steps_and_heads_scaled_up(maps):
    name = "up.3.attn.0.cross:probs"
    heat = word_heat({name: maps[name]}, "hat")
    tokens = maps[name].tensor[:, 1, 0, :, :, 4].mean((0, 1)).reshape(16, 16)
    assert heat.values.shape == (128, 128) and heat.columns == (4,)
    assert heat.values[::8, ::8].shape == (16, 16)
    torch.testing.assert_close(heat.values.mean(), tokens.mean(), rtol=1e-2, atol=0)
    two = word_heat({n: maps[n] for n in (name, "up.1.attn.0.cross:probs")}, "hat").values
    other = word_heat({"x": maps["up.1.attn.0.cross:probs"]}, "hat").values
    torch.testing.assert_close(two, (heat.values + other) / 2)


def test_repeated_words_are_summed_unless_one_place_is_chosen(maps):
    both = word_heat(maps, "a")
    parts = [word_heat(maps, "a", occurrence=k) for k in (0, 1)]
    assert both.columns == (1, 3) and parts[0].columns == (1,) and parts[1].columns == (3,)
    torch.testing.assert_close(both.values, parts[0].values + parts[1].values)
    with pytest.raises(ValueError, match="stands 2 time"):
        word_heat(maps, "a", occurrence=2)


def test_start_end_padding_and_all_words_sum_to_one(maps):
    heats = word_heats(maps)
    assert [heat.word for heat in heats] == ["<start>", "a", "cat", "a", "hat", "<end>"]
    total = sum(heat.values for heat in heats) + word_heat(maps, "<padding>").values
    torch.testing.assert_close(total, torch.ones(128, 128))
    assert torch.equal(heats[0].values, word_heat(maps, "<start>").values)
    assert word_heat(maps, "<end>").columns == (5,) and word_heat(maps, "<end>", branch="negative").columns == (3,)


def test_the_negative_prompt_has_its_own_heat(maps):
    heat = word_heat(maps, "bad", branch="negative")
    assert heat.columns == (2,) and not torch.equal(heat.values, word_heat(maps, 2).values)
    for arguments, message in [
        ({"word": "bad"}, "'bad' is not in"),
        ({"word": 7}, "token column 7: allowed are 0..6"),
        ({"word": "a", "steps": 5}, "holds step"),
    ]:
        with pytest.raises(ValueError, match=message):
            word_heat(maps, **arguments)
    with pytest.raises(ValueError, match="capture '.*.cross:probs'"):
        word_heat({FINE: maps[FINE]}, "a")


def test_word_heat_reads_running_sums_and_selected_columns(tiny_unet, maps):
    def kept(**request):
        return sample(tiny_unet, shape(), Capture("up.*.cross:probs", **request), sac=None, cam=None)[1].maps

    up = maps.select("up.*.cross:probs")
    expected = word_heat(up, "cat").values
    torch.testing.assert_close(word_heat(kept(reduce=["mean_heads", "mean_steps"]), "cat").values, expected)
    torch.testing.assert_close(word_heat(kept(words="cat"), "cat").values, expected)
    with pytest.raises(ValueError, match="holds branch"):
        word_heat(kept(words="cat"), "cat", branch="negative")
    with pytest.raises(ValueError, match="holds step .* together"):
        word_heat(kept(reduce="mean_steps"), "cat", steps=1)


# --- effects and sweeps ----------------------------------------------------------------------------


def test_effects_are_the_norms_of_what_sac_and_cam_change(tiny_unet):
    def run(**arguments):
        return sample(tiny_unet, shape(), arguments.get("capture"), arguments.get("edit"))

    rows = effects(run, "up.1.attn.0.*", steps=[1])
    assert len(rows) == 2 * 2 and {row["step"] for row in rows} == {1}
    maps = run(capture=[f"up.1.attn.0.*:{point}" for point in ("scores", "logits", "probs", "v", "head_out")])[1].maps

    def captured(kind, point):
        return maps[f"up.1.attn.0.{kind}:{point}"].sel(step=1, branch="text").tensor

    for kind in ("self", "cross"):
        row = next(r for r in rows if r["kind"] == kind and r["branch"] == "text")
        scores, logits = captured(kind, "scores"), captured(kind, "logits")
        assert row["logits"] == pytest.approx(float((logits - scores).norm() / scores.norm()), rel=1e-4, abs=1e-7)
        without = scores.softmax(-1) @ captured(kind, "v")
        change = float((captured(kind, "head_out") - without).norm() / without.norm())
        assert row["head_out"] == pytest.approx(change, rel=1e-4) and change > 0.01
    assert rows.mean("logits")["up.1.attn.0.cross"] == 0 and "up.1.attn.0.self" in repr(rows)


def test_measuring_effects_changes_no_bit(tiny_unet):
    seen = []

    def run(edit):
        seen.append(sample(tiny_unet, shape(), edit=edit, attention="explicit")[0])

    effects(run)
    assert torch.equal(seen[0], sample(tiny_unet, shape(), attention="explicit")[0])


def test_a_sweep_recovers_all_where_everything_is_patched_and_nothing_where_it_is_not_heard(model, grid):
    clean = functools.partial(model, grid, "a red cat", config=SHORT, progress=False)
    corrupted = functools.partial(model, grid, "blue", config=SHORT, progress=False)
    sweep = patch_sweep(clean, corrupted, ["up.3.attn.2.block:out", "up.3.attn.0.cross:k"], steps="all", progress=False)
    assert sweep.sites == ("up.3.attn.0.cross", "up.3.attn.2.block") and sweep.steps == (-1,) and sweep.heads == (-1,)
    assert float(sweep.recovered[1, 0, 0]) == pytest.approx(1, abs=1e-4)
    assert float(sweep.recovered[0, 0, 0]) < 0.9
    assert sweep.best(1)[0]["site"] == "up.3.attn.2.block" and "all steps" in repr(sweep)


def test_a_sweep_head_by_head_equals_patching_by_hand(model, grid):
    b_prime = random_picture(3)
    clean = functools.partial(known.at, model, grid, "a red cat", b_prime=b_prime, t=501, config=SHORT)
    corrupted = functools.partial(known.at, model, grid, "blue", b_prime=b_prime, t=501, config=SHORT)
    sweep = patch_sweep(clean, corrupted, "up.1.attn.2.cross:head_out", heads=True, progress=False)
    assert sweep.recovered.shape == (1, 1, 8) and sweep.steps == (0,)
    m = clean(capture="up.1.attn.2.cross:head_out").maps["up.1.attn.2.cross:head_out"]

    def put(head_out, at):
        out = head_out.clone()
        out[:, 5] = m.tensor[0, :, 0, 5]
        return out

    target = clean().latents
    distances = [float(((r.latents - target) ** 2).mean()) for r in (corrupted(), corrupted(edit={"up.1.attn.2.cross:head_out": put}))]
    assert float(sweep.recovered[0, 0, 5]) == pytest.approx(1 - distances[1] / distances[0], rel=1e-3, abs=1e-5)
    with pytest.raises(ValueError, match="measure the same"):
        patch_sweep(clean, clean, progress=False)
    with pytest.raises(ValueError, match="no head axis"):
        patch_sweep(clean, corrupted, "up.1.attn.2.cross:out", heads=True, progress=False)


# --- known pictures --------------------------------------------------------------------------------


def test_a_known_picture_is_one_guided_unet_call_on_its_noised_latents(model, grid):
    b_prime = random_picture(3)
    got = known.at(model, grid, "a red cat", b_prime=b_prime, t=501, seed=9, config=SHORT, capture="9.self:probs")
    filled = grid.image
    filled.paste(b_prime, (65, 65))
    generator = torch.Generator().manual_seed(9)
    noise, for_image, for_masked = (torch.randn((1, 4, 16, 16), generator=generator) for _ in range(3))
    with torch.no_grad():
        posteriors = [model.vae.posterior(pixels) for pixels in (to_pixels(filled), grid.masked_pixels())]
        z0, masked = (p.sample(draw) * model.vae.config.scaling_factor for p, draw in zip(posteriors, (for_image, for_masked), strict=True))
        bar = model.alpha_bars[501]
        z_t = bar.sqrt() * z0 + (1 - bar).sqrt() * noise
        mask = torch.zeros(1, 1, 16, 16)
        mask[..., 8:, 8:] = 1
        text = model.encode_text("a red cat" + model.prompt_suffix, model.negative_prompt)
        control = AttentionControl(t=501, branches=2, sac=SHORT.sac, cam=SHORT.cam)
        negative, prompted = model.unet(torch.cat([torch.cat([z_t, mask, masked], 1)] * 2), 501, text, control).chunk(2)
        eps = negative + 3.0 * (prompted - negative)
    torch.testing.assert_close(got.z_t, z_t)
    torch.testing.assert_close(got.eps, eps, rtol=1e-3, atol=1e-4)
    assert got.loss == pytest.approx(float(((eps - noise)[..., 8:, 8:] ** 2).mean()), rel=1e-3)
    torch.testing.assert_close(got.x0, (z_t - (1 - bar).sqrt() * eps) / bar.sqrt(), rtol=1e-3, atol=1e-3)
    assert got.maps["up.1.attn.2.self:probs"].times == {0: 501}


def test_a_known_picture_checks_its_arguments(model, grid):
    for arguments, message in [
        ({"t": 1000}, "0..999"),
        ({"t": -1}, "0..999"),
        ({"capture": Capture("9.self:probs", steps=1)}, "executes 1 steps"),
        ({"b_prime": "nowhere.png"}, "B'"),
    ]:
        with pytest.raises(ValueError, match=message):
            known.at(model, grid, **{"b_prime": random_picture(3), "config": SHORT, **arguments})


def test_inversion_leads_back_to_the_picture_and_refinement_makes_it_closer(model, grid):
    config = SHORT.replace(steps=50, strength=0.1)  # small steps: this random network is far from smooth
    errors = [known.invert(model, grid, "cat", b_prime=random_picture(3), config=config, refine=n) for n in (0, 3)]
    assert errors[1].error < 0.02 and errors[1].error < errors[0].error
    assert len(errors[1].latents) == 6 and errors[1].times == (-1, 1, 21, 41, 61, 81)
    assert errors[1].picture.size == (128, 128)
    with pytest.raises(ValueError, match="refine -1"):
        known.invert(model, grid, b_prime=random_picture(3), refine=-1)


def test_single_calls_pass_gradients_to_the_latents(model, grid):
    calls = known.unet_calls(model, grid, "a red cat", b_prime=random_picture(3), config=SHORT)
    z_t = calls.noised(501).requires_grad_(True)
    eps, maps = calls.eps(z_t, 501, capture="9.cross:probs", edit={"9.self:v": scale(1.1)})
    (gradient,) = torch.autograd.grad(eps.square().mean(), z_t)
    assert gradient.abs().sum() > 0 and len(maps) == 1
    alone, _ = calls.eps(z_t, 501, guidance=1.0)
    assert not torch.equal(alone, eps)


@pytest.mark.parametrize("aligned", ["a-a_prime", "a-b"])
def test_known_latents_and_masked_latents_show_one_grid_whichever_pictures_are_aligned(model, aligned):
    """Beside the VAE's own encoding of a picture put together here: the model sees A' and B swapped if A and B are aligned."""
    pictures = [random_picture(seed) for seed in range(4)]  # A, A', B, B'
    grid = PromptGrid(*pictures[:3], size=128, aligned=aligned)
    canvas = Image.new("RGB", (128, 128), (255, 255, 255))
    places = [(2, 2), (65, 2), (2, 65), (65, 65)]
    for number, place in zip([0, 1, 2, 3] if aligned == "a-a_prime" else [0, 2, 1, 3], places, strict=True):
        canvas.paste(pictures[number], place)
    calls = known.unet_calls(model, grid, "a red cat", b_prime=pictures[3], config=SHORT, seed=9)
    generator = torch.Generator().manual_seed(9)
    noise, for_image, for_masked = (torch.randn((1, 4, 16, 16), generator=generator) for _ in range(3))
    masked = to_pixels(canvas)
    masked[..., 64:, 64:] = 0
    with torch.no_grad():
        z0, z_masked = (
            model.vae.posterior(pixels).sample(draw) * model.vae.config.scaling_factor
            for pixels, draw in ((to_pixels(canvas), for_image), (masked, for_masked))
        )  # fmt: skip
    assert torch.equal(calls.noise, noise)
    torch.testing.assert_close(calls.z0, z0)
    torch.testing.assert_close(calls.run.start.fixed[:, 1:], z_masked)
    found = known.at(model, grid, "a red cat", b_prime=pictures[3], config=SHORT, seed=9)
    torch.testing.assert_close(found.z0, z0)


@pytest.mark.parametrize("aligned", ["a-a_prime", "a-b"])
def test_an_inverted_picture_has_its_cells_in_the_places_where_they_were_given(model, aligned):
    """Decoded by hand: the latents' picture, with the upper right and lower left quadrant exchanged if A and B are aligned."""
    grid = PromptGrid(*[random_picture(seed) for seed in range(3)], size=128, aligned=aligned)
    found = known.invert(model, grid, "cat", b_prime=random_picture(3), config=SHORT.replace(steps=50, strength=0.04), refine=0)
    with torch.no_grad():
        seen = (255 * (model.vae.decode(found.reconstructed)[0] / 2 + 0.5).clamp(0, 1)).round().byte().permute(1, 2, 0).numpy()
    expected = seen.copy()
    if aligned == "a-b":
        expected[:64, 64:], expected[64:, :64] = seen[64:, :64], seen[:64, 64:]
        assert not np.array_equal(seen, expected)
    assert np.array_equal(np.asarray(found.picture), expected)


@pytest.mark.parametrize("step", [0, 1, 3])
def test_a_single_call_keeps_its_own_maps_whatever_step_it_stands_for(model, grid, tmp_path, step):
    """In memory and on disk, whole, as top keys and as a mean over steps, beside what another tap sees of the same call."""
    calls = known.unet_calls(model, grid, "a red cat", b_prime=random_picture(3), config=SHORT)
    z_t, look = calls.noised(501), Looking()
    twice = torch.cat([torch.cat([z_t, calls.run.start.fixed], 1)] * 2)
    control = AttentionControl(step=step, t=501, branches=2, sac=SHORT.sac, cam=SHORT.cam, tap=look)
    with torch.no_grad():
        model.unet(twice, 501, calls.run.text, control)
    name, spilled = "up.1.attn.2.self:probs", {"spill": tmp_path}
    captures = [
        Capture("9.self:probs", "9.cross:probs"), Capture("9.self:probs", label="disk", **spilled),
        Capture("9.self:probs", reduce=TopK(2), label="top"), Capture("9.self:probs", reduce=TopK(2), label="disk top", **spilled),
        Capture("9.self:probs", reduce="mean_steps", label="mean"), Capture("9.self:probs", steps=-1, label="last"),
    ]  # fmt: skip
    _, maps = calls.eps(z_t, 501, step=step, capture=captures)
    expected, top = look.seen[name], look.seen[name].topk(2)
    for label in ("", "@disk", "@last"):
        m = maps[name + label]
        assert m.steps == (step,) and m.times == {step: 501} and len(m.tensor) == 1, label
        torch.testing.assert_close(m.tensor[0].flatten(0, 1), expected)
    torch.testing.assert_close(maps["up.1.attn.2.cross:probs"].tensor[0].flatten(0, 1), look.seen["up.1.attn.2.cross:probs"])
    torch.testing.assert_close(maps[name + "@mean"].tensor.flatten(0, 1), expected)
    for label in ("@top", "@disk top"):
        torch.testing.assert_close(maps[name + label].tensor[0].flatten(0, 1), top.values)
        assert torch.equal(maps[name + label].index[0].flatten(0, 1).long(), top.indices)
    maps = None
    on_disk = Maps.load(tmp_path)
    assert sorted(on_disk) == [name + "@disk", name + "@disk top"]
    torch.testing.assert_close(on_disk[name + "@disk"].tensor[0].flatten(0, 1), expected)


def test_a_single_call_is_planned_as_one_step(model, grid):
    calls = known.unet_calls(model, grid, "a red cat", b_prime=random_picture(3), config=SHORT)
    site = model.module("9.self").site
    one = 2 * site.heads * 16 * 16 * 4  # bytes: branch head query key, float32
    _, maps = calls.eps(calls.noised(501), 501, step=40, capture=Capture("9.self:probs", max_bytes=one))
    assert maps.nbytes == one
    with pytest.raises(CaptureTooLarge, match="would keep"):
        calls.eps(calls.noised(501), 501, step=40, capture=Capture("9.self:probs", max_bytes=one - 1))
    _, none = calls.eps(calls.noised(501), 501, step=40, capture=Capture("9.self:probs", steps=[0, 39]))
    assert len(none) == 0  # steps that the call does not stand for


def test_a_plan_for_a_model_equals_what_its_run_keeps(model, grid):
    request = Capture("up.1.*:probs", "9.self:logits", steps=[0, 2])
    plan = request.plan(model, grid, "a red cat", config=SHORT, images=2)
    result = model(grid, "a red cat", config=SHORT, images=2, capture=request, progress=False)
    assert plan.bytes == result.maps.nbytes and len(plan) == len(result.maps) == 7
    plain = model(grid, "a red cat", config=SHORT, images=2, progress=False, attention="explicit")
    captured = model(grid, "a red cat", config=SHORT, images=2, progress=False, attention="explicit", capture=request)
    assert torch.equal(plain.latents, captured.latents)
    heard = result.maps["up.1.attn.0.cross:probs"]
    assert heard.tokens["text"][1:4] == ("a", "red", "cat")
