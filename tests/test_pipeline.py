"""The pipeline's contract, end to end on the small parity checkpoint."""

import gc
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from analogist.checkpoints.devices import pick_device, pick_dtype
from analogist.config import AnalogistConfig, SamplingConfig
from analogist.grid import PromptGrid
from analogist.models.control import CAM, SAC
from analogist.models.ddim import add_noise
from analogist.models.placement import Placement
from analogist.pipeline import Analogist
from analogist.run.arguments import prepare, resolve
from analogist.run.request import Request
from analogist.run.result import SamplingError, Step
from analogist.run.seeds import Randomness

CHECKPOINT = Path(__file__).parent / "parity" / "checkpoint"
SHORT = AnalogistConfig(sampling=SamplingConfig(steps=4, strength=0.8))


@pytest.fixture(scope="module")
def model() -> Analogist:
    return Analogist.from_checkpoint(CHECKPOINT, device="cpu")


def picture(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).resize((160, 120), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def grid() -> PromptGrid:
    return PromptGrid(picture(0), picture(1), picture(2), size=128)


@pytest.fixture(scope="module")
def result(model, grid):
    return model(grid, "a red boat", images=3, seed=5, config=SHORT, progress=False)


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


def test_a_result_has_the_contracts_shapes(result):
    assert len(result.b_primes) == len(result.grids) == 3
    assert result.b_prime is result.b_primes[0]
    assert result.b_prime.size == (64, 64) and result.grids[0].size == (128, 128)
    assert result.latents.shape == (3, 4, 16, 16) and result.pixels.shape == (3, 3, 128, 128)
    assert result.record["seeds"] == [5, 6, 7] and result.record["repeatable"] is True
    json.dumps(result.record)


def test_b_prime_is_the_last_cell_of_the_decoded_grid(result):
    assert result.grids[1].crop((64, 64, 128, 128)).tobytes() == result.b_primes[1].tobytes()


def test_image_k_of_a_batch_is_image_0_of_seed_s_plus_k(model, grid, result):
    starts = [Randomness(seeds).draw(4, 16, 16) for seeds in ((5, 6, 7), (7,))]
    for name in ("noise", "image", "masked"):
        assert torch.equal(getattr(starts[0], name)[2:], getattr(starts[1], name))
    alone = model(grid, "a red boat", seed=7, config=SHORT, progress=False)
    assert relative(alone.latents[0], result.latents[2]) < 1e-4


def test_start_latents_of_a_batch_are_those_of_each_image_alone_bit_for_bit(model, grid):
    batch, _ = prepare(model, resolve(model, Request(grid=grid, images=3, seed=5, config=SHORT)))
    alone, _ = prepare(model, resolve(model, Request(grid=grid, images=1, seed=7, config=SHORT)))
    assert torch.equal(batch.start_latents()[2:], alone.start_latents())
    assert torch.equal(batch.start.fixed[2:], alone.start.fixed)


def test_start_latents_follow_the_published_order_of_draws(model, grid):
    run, _ = prepare(model, resolve(model, Request(grid=grid, seed=9, config=SHORT)))
    generator = torch.Generator().manual_seed(9)
    noise, eps_image, eps_masked = (torch.randn((1, 4, 16, 16), generator=generator) for _ in range(3))
    with torch.no_grad():
        posteriors = [model.vae.posterior(pixels) for pixels in (grid.pixels(), grid.masked_pixels())]
    z0, z_masked = (0.18215 * (p.mean + p.std * eps) for p, eps in zip(posteriors, (eps_image, eps_masked), strict=True))
    t = run.times[0][0]
    assert t == 501  # 4 steps: 751, 501, 251, 1; strength 0.8 keeps the last three
    assert relative(run.start_latents(), add_noise(z0, noise, model.alpha_bars[t])) < 1e-5
    assert relative(run.start.fixed[:, 1:], z_masked) < 1e-5
    mask = run.start.fixed[0, 0]
    assert mask[8:, 8:].eq(1).all() and mask.sum() == 64


def test_the_same_seed_gives_the_same_bits(model, grid, result):
    again = model(grid, "a red boat", images=3, seed=5, config=SHORT, progress=False)
    assert torch.equal(again.latents, result.latents)
    assert [p.tobytes() for p in again.b_primes] == [p.tobytes() for p in result.b_primes]


def test_smaller_batches_give_the_same_result(model, grid, result):
    by_two = model(grid, "a red boat", images=3, seed=5, config=SHORT, progress=False, batch=2)
    assert by_two.record["images_at_once"] == 2
    assert relative(by_two.latents, result.latents) < 1e-5


def test_steps_yield_what_the_call_computes_and_can_be_stopped(model, grid, result):
    steps = list(model.steps(grid, "a red boat", images=3, seed=5, config=SHORT))
    assert [step.i for step in steps] == [0, 1, 2] and [step.t for step in steps] == result.record["executed_times"] == [501, 251, 1]
    assert torch.equal(steps[-1].z_t, result.latents)
    step = next(model.steps(grid, "a red boat", images=3, seed=5, config=SHORT))
    assert torch.equal(step.z_t, steps[0].z_t)
    assert model.preview(step.x0).size == (128, 128)


def test_x0_and_eps_of_a_step_explain_its_latents(model, grid):
    step = next(model.steps(grid, "a red boat", seed=5, config=SHORT))
    alpha_bar = model.alpha_bars[251]
    assert relative(step.z_t, alpha_bar.sqrt() * step.x0 + (1 - alpha_bar).sqrt() * step.eps) < 1e-5


def test_latents_assigned_between_steps_are_gone_on_from(model, grid):
    plain = list(model.steps(grid, "", seed=1, config=SHORT))
    changed = []
    for step in model.steps(grid, "", seed=1, config=SHORT):
        if step.i == 0:
            step.z_t = torch.zeros_like(step.z_t)
        changed.append(step)
    assert not torch.equal(changed[1].z_t, plain[1].z_t)
    alpha_bar = model.alpha_bars[changed[1].t]  # from zero latents the predicted clean ones are the noise's share alone
    assert relative(changed[1].x0, -(1 - alpha_bar).sqrt() / alpha_bar.sqrt() * changed[1].eps) < 1e-5
    steps = model.steps(grid, "", seed=1, config=SHORT)
    step = next(steps)
    step.z_t = step.z_t[:, :2]
    with pytest.raises(ValueError, match="z_t was assigned"):
        next(steps)


def test_a_generator_of_steps_leaves_the_callers_gradients_on(model, grid):
    for _ in model.steps(grid, "", config=SHORT):
        assert torch.is_grad_enabled()


def test_text_stands_instead_of_prompts(model, grid):
    text = model.encode_text("a red boat" + model.prompt_suffix, model.negative_prompt)
    by_text = model(grid, text=text, seed=5, config=SHORT, progress=False)
    by_prompt = model(grid, "a red boat", seed=5, config=SHORT, progress=False)
    assert torch.equal(by_text.latents, by_prompt.latents)
    assert by_text.record["repeatable"] is False and "text=" in by_text.record["not_repeatable_because"][0]
    with pytest.raises(ValueError, match="text= replaces"):
        model(grid, "a red boat", text=text)
    with pytest.raises(ValueError, match="give \\[branch token channel\\]"):
        model(grid, text=text[:1])


def test_guidance_1_runs_the_text_branch_alone_and_equals_both_branches(model, grid):
    one = model(grid, "a red boat", config=SHORT.replace(guidance=1.0), progress=False)
    both = model(grid, "a red boat", config=SHORT.replace(guidance=1.0 + 1e-9), progress=False)
    assert relative(one.latents, both.latents) < 1e-5


def test_the_prompt_the_suffix_and_the_negative_prompt_each_change_the_result(model, grid):
    base = model(grid, "a red boat", config=SHORT, progress=False).latents
    for changed in ({"prompt": "a green hill"}, {"prompt_suffix": ""}, {"negative_prompt": ""}):
        latents = model(grid, **{"prompt": "a red boat", "config": SHORT, "progress": False, **changed}).latents
        assert relative(latents, base) > 1e-4


def test_the_record_says_which_form_of_attention_ran_where(model, grid, result):
    assert set(result.record["attention_forms"]) == {site.name for site in model.unet.sites}
    assert set(result.record["attention_forms"].values()) == {"fused"}
    looked = model(grid, "", config=SHORT, progress=False, capture="up.1.attn.2.self:probs")
    forms = looked.record["attention_forms"]
    assert forms["up.1.attn.2.self"] == "explicit" and forms["up.1.attn.2.cross"] == "fused"
    assert set(model(grid, "", config=SHORT, progress=False, attention="explicit").record["attention_forms"].values()) == {"explicit"}


def test_fused_attention_where_a_map_is_wanted_is_an_error(model, grid):
    with pytest.raises(ValueError, match="holds no map"):
        model(grid, "", config=SHORT, progress=False, capture="up.1.attn.2.self:probs", attention="fused")


def test_capture_and_edit_are_arguments_of_the_call_and_leave_no_trace(model, grid):
    plain = model(grid, "a red boat", config=SHORT, progress=False, attention="explicit")
    looked = model(grid, "a red boat", config=SHORT, progress=False, attention="explicit", capture="*.self:probs")
    assert torch.equal(looked.latents, plain.latents)
    probs = looked.maps["up.1.attn.2.self:probs"]
    assert probs.axes == ("step", "branch", "image", "head", "query", "key") and probs.tensor.shape[0] == 3
    edited = model(grid, "a red boat", config=SHORT, progress=False, edit={"up.*.self:logits": lambda logits, at: 2 * logits})
    assert relative(edited.latents, plain.latents) > 1e-4
    assert edited.record["repeatable"] is False

    def broken(tensor, at):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        model(grid, "a red boat", config=SHORT, progress=False, edit={"up.*.self:logits": broken})
    assert torch.equal(model(grid, "a red boat", config=SHORT, progress=False, attention="explicit").latents, plain.latents)


def test_sac_and_cam_at_some_steps_act_from_there_on(model, grid):
    late = SHORT.replace(sac=SAC(Placement.layers(0, 16, steps=[2])), cam=CAM(Placement.layers(0, 16, steps=[2])))
    off = [step.z_t for step in model.steps(grid, "a", config=SHORT.replace(sac=None, cam=None))]
    on = [step.z_t for step in model.steps(grid, "a", config=late)]
    assert torch.equal(on[0], off[0]) and torch.equal(on[1], off[1])
    assert relative(on[2], off[2]) > 1e-5


def test_non_square_grids_and_two_example_pairs_run(model):
    wide = PromptGrid(picture(0), picture(1), picture(2), size=(128, 256))
    result = model(wide, "", config=SHORT.replace(sac=SAC(Placement.layers(0, 16))), progress=False)
    assert result.b_prime.size == (128, 64) and torch.isfinite(result.latents).all()
    pairs = PromptGrid([picture(0), picture(3)], [picture(1), picture(4)], picture(2), size=(192, 128))
    result = model(pairs, "", config=SHORT.replace(sac=SAC(Placement.layers(0, 16), scale=(1.3, 0.7))), progress=False)
    assert result.latents.shape == (1, 4, 24, 16) and result.b_prime.size == (64, 64)


def test_eta_adds_noise_from_each_images_own_generator(model, grid):
    noisy = SHORT.replace(eta=1.0)
    both = model(grid, "", images=2, seed=3, config=noisy, progress=False)
    alone = model(grid, "", images=1, seed=4, config=noisy, progress=False)
    assert relative(alone.latents[0], both.latents[1]) < 1e-4
    assert relative(both.latents[:1], model(grid, "", seed=3, config=SHORT, progress=False).latents) > 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 0}, "images 0"),
        ({"seed": -1}, "seed -1"),
        ({"seed": True}, "seed True"),
        ({"batch": 0}, "batch 0"),
        ({"attention": "flash"}, "auto, explicit, fused"),
        ({"config": {"steps": 3}}, "AnalogistConfig"),
        ({"config": SHORT.replace(sac=SAC(Placement.layers(3, 17)))}, "layers 0..15"),
        ({"config": SHORT.replace(sac=SAC(Placement("upp.*")))}, "matches none"),
        ({"config": SHORT.replace(cam=CAM(Placement("up.*.self")))}, "matches none of the 16 cross"),
        ({"config": SHORT.replace(sac=SAC(Placement.layers(3, 5, steps=[3])))}, "executes 3 steps"),
        ({"config": SHORT.replace(sac=SAC(scale=(1.0, 2.0)))}, "1 example pair"),
        ({"capture": "up.7.*:probs"}, "up.7"),
        ({"prompt": 3}, "give one text"),
    ],
)  # fmt: skip
def test_bad_arguments_are_errors_before_anything_runs(model, grid, monkeypatch, arguments, message):
    def never(*_, **__):
        raise AssertionError("the UNet ran")

    monkeypatch.setattr(type(model.unet), "forward", never)
    with pytest.raises(ValueError, match=message):
        model(grid, **{"prompt": "", "config": SHORT, "progress": False, **arguments})


@pytest.mark.parametrize("size", [100, 130, (128, 192), (64, 128)])
def test_a_size_that_does_not_split_names_the_nearest_that_do(model, size):
    with pytest.raises(ValueError, match="128"):
        model(PromptGrid(picture(0), picture(1), picture(2), size=size), "", config=SHORT, progress=False)


def test_nan_in_the_latents_names_the_step(model, grid):
    def poison(tensor, at):
        return tensor * float("nan") if at.step == 1 else tensor

    with pytest.raises(SamplingError, match=r"step 1 \(t = 251\)"):
        model(grid, "", config=SHORT, progress=False, edit={"up.1.attn.0.self:head_out": poison})


def test_nan_in_the_decode_suggests_a_dtype(grid):
    broken = Analogist.from_checkpoint(CHECKPOINT, device="cpu")
    with torch.no_grad():
        broken.vae.decoder.conv_out.bias.fill_(float("nan"))
    with pytest.raises(SamplingError, match="bfloat16"):
        broken(grid, "", config=SHORT, progress=False)


def test_devices_and_dtypes_that_are_not_there_are_errors():
    with pytest.raises(ValueError, match="not available"):
        pick_device("cuda:7" if not torch.cuda.is_available() else "mps")
    with pytest.raises(ValueError, match="give cpu"):
        pick_device("gpu")
    with pytest.raises(ValueError, match="float32, float16, bfloat16"):
        pick_dtype("int8", torch.device("cpu"))
    assert pick_dtype(None, torch.device("cuda")) == torch.float16 and pick_dtype(None, torch.device("cpu")) == torch.float32


def test_bfloat16_runs_close_to_float32(model, grid, result):
    half = Analogist.from_checkpoint(CHECKPOINT, device="cpu", dtype="bfloat16")
    latents = half(grid, "a red boat", images=3, seed=5, config=SHORT, progress=False).latents
    # bfloat16 keeps 8 bits; guidance 15 multiplies the difference of two predictions over three steps
    assert relative(latents, result.latents) < 0.3
    assert latents.dtype == torch.float32


def test_gradients_flow_through_the_unet_to_the_latents(model):
    z = torch.randn(1, 9, 16, 16, requires_grad=True)
    eps = model.unet(z, t=501, text=model.encode_text("a")[1:])
    eps.square().sum().backward()
    assert z.grad.abs().sum() > 0


def test_a_known_b_prime_is_looked_at_in_one_call_and_inverted(model, grid):
    known = model.at(grid, "a red boat", b_prime=picture(3), t=501, config=SHORT, capture="up.1.attn.2.self:probs")
    assert known.z_t.shape == (1, 4, 16, 16) and len(known.maps) == 1
    alpha_bar = model.alpha_bars[501]
    assert relative(known.z_t, alpha_bar.sqrt() * known.z0 + (1 - alpha_bar).sqrt() * known.noise) < 1e-6
    small_steps = SHORT.replace(steps=100, strength=0.04)  # so small that a step and its inverse nearly cancel
    assert model.invert(grid, "", b_prime=picture(3), config=small_steps, refine=5).error < 0.02


def test_a_checkpoint_replaced_after_loading_does_not_disturb_the_run(tmp_path, grid):
    copy = tmp_path / "checkpoint"
    shutil.copytree(CHECKPOINT, copy)
    model = Analogist.from_checkpoint(copy, device="cpu")
    before = model(grid, "", config=SHORT, progress=False)
    for part in ("unet", "vae"):
        (copy / part / "diffusion_pytorch_model.safetensors").write_bytes(b"replaced in place")
    assert torch.equal(model(grid, "", config=SHORT, progress=False).latents, before.latents)


def test_a_run_keeps_only_its_last_step(model, grid):
    kept = []

    def count(tensor, at):
        gc.collect()
        kept.append(sum(type(thing) is Step for thing in gc.get_objects()))
        return tensor

    model(grid, "", config=SHORT.replace(steps=8), progress=False, edit={"mid.0.attn.0.self:x": count})
    assert max(kept) <= 2


def test_smaller_batches_with_a_capture_are_an_error(model, grid):
    with pytest.raises(ValueError, match="need all 3 images"):
        model(grid, "", images=3, batch=1, config=SHORT, progress=False, capture="*.self:probs")
