"""Velocity (prediction_type v_prediction), zero terminal SNR and trailing times: beside diffusers, and on every path of the product."""

import json
import shutil
from itertools import product
from pathlib import Path

import pytest
import torch

from analogist.config import AnalogistConfig, SamplingConfig
from analogist.experiments.execute.engine import Engine
from analogist.grid import PromptGrid
from analogist.lab.measure import answers
from analogist.models.ddim import PREDICTION_TYPES, SPACINGS, Schedule, alpha_bars
from analogist.pipeline import Analogist
from analogist.run import known_pictures as known
from tests.experiments_small import CHECKPOINT, alone, load_model, one_input, plan_of
from tests.small import relative

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
CASES = [case for case in product(PREDICTION_TYPES, SPACINGS, (False, True)) if case[::2] != ("epsilon", True)]
ETAS = (0.0, 0.5)


def settings(prediction: str, spacing: str, zero_snr: bool) -> dict:
    """A scheduler file's settings."""
    return {
        **BETAS, "set_alpha_to_one": False, "steps_offset": 1, "prediction_type": prediction, "timestep_spacing": spacing,
        "rescale_betas_zero_snr": zero_snr,
    }  # fmt: skip


def latents(seed: int) -> torch.Tensor:
    return torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("prediction, spacing, zero_snr", CASES)
def test_whole_trajectories_from_raw_outputs_are_diffusers(prediction: str, spacing: str, zero_snr: bool, eta: float) -> None:
    from diffusers import DDIMScheduler

    ours = Schedule.from_config(settings(prediction, spacing, zero_snr))
    theirs = DDIMScheduler(**settings(prediction, spacing, zero_snr), beta_schedule="scaled_linear", clip_sample=False)
    assert torch.equal(ours.alpha_bars, theirs.alphas_cumprod)
    for steps in range(1, 51):
        theirs.set_timesteps(steps)
        assert [t for t, _ in ours.times(steps)] == theirs.timesteps.tolist()
        z = reference = latents(0)
        for t, t_prev in ours.times(steps):
            out, noise = latents(t), latents(1000 + t)  # the network's raw output, the same for both
            z, x0 = ours.step(z, out, t, t_prev, eta=eta, noise=noise)
            step = theirs.step(out, t, reference, eta=eta, variance_noise=noise if eta else None)
            reference = step.prev_sample
            assert torch.allclose(x0, step.pred_original_sample, rtol=1e-5, atol=1e-4)
        assert torch.allclose(z, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_ddpms_noise_is_finite_for_any_number_of_steps_and_is_its_closed_form_from_pure_noise(spacing: str) -> None:
    """From pure noise to t_prev at eta 1: z = sqrt(ab) x0 + sqrt(1 - ab) noise with x0 = -v, whatever the noise that was there."""
    schedule = Schedule.from_config(settings("v_prediction", spacing, True))
    z, out, noise = (torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    counts, from_pure_noise = [*range(1, 101), 250, 500, 750, 999], 0
    for steps in counts:
        (t, t_prev), *_ = schedule.times(steps)
        got, x0 = schedule.step(z, out, t, t_prev, eta=1.0, noise=noise)
        assert torch.isfinite(got).all(), f"{steps} steps: NaN in the first, from t {t} to {t_prev}"
        if t == 999:
            from_pure_noise += 1
            ab = schedule.alpha_bars[max(t_prev, 0)].double()
            expected = -ab.sqrt() * out.double() + (1 - ab).sqrt() * noise.double()
            # What float32 leaves of 1 - ab - sigma**2 is at most some 1e-7, and its root is beside the rest.
            assert torch.allclose(got.double(), expected, atol=2e-3), steps
    assert from_pure_noise == (len(counts) if spacing == "trailing" else 2)  # leading begins at the last time with 500 and 999 steps only


@pytest.mark.parametrize("zero_snr", [False, True])
def test_the_velocity_of_noised_latents_gives_back_what_was_noised(zero_snr: bool) -> None:
    """Closed form, at single times and at one time per row of the batch, the last time of a zero-SNR schedule included."""
    schedule = Schedule.from_config(settings("v_prediction", "trailing", zero_snr))
    z0, noise = latents(0), latents(1)
    for t in (0, 1, 501, 999, torch.tensor([3, 999])):
        z_t, v = schedule.add_noise(z0, noise, t), schedule.target(z0, noise, t)
        assert torch.allclose(schedule.x0(z_t, v, t), z0, atol=1e-5)
        assert torch.allclose(schedule.eps(z_t, v, t), noise, atol=1e-5)
    rows = schedule.add_noise(z0, noise, torch.tensor([3, 999]))
    for k, t in enumerate((3, 999)):
        assert torch.equal(rows[k], schedule.add_noise(z0[k], noise[k], t))
    assert torch.equal(schedule.at(torch.tensor([-1, 0])).flatten(), schedule.alpha_bars[[0, 0]])


@pytest.mark.parametrize("prediction, spacing, zero_snr", CASES)
def test_a_step_back_is_undone_by_a_step(prediction: str, spacing: str, zero_snr: bool) -> None:
    schedule, z, out = Schedule.from_config(settings(prediction, spacing, zero_snr)), latents(0), latents(1)
    for t, t_prev in schedule.times(20):
        back = schedule.step_back(z, out, t, t_prev)
        assert relative(schedule.step(back, out, t, t_prev)[0], z) < 1e-5


def test_what_cannot_be_sampled_is_an_error_that_says_why() -> None:
    with pytest.raises(ValueError, match=r"pure noise.*x0 would be 0 / 0"):
        Schedule(alpha_bars(zero_terminal_snr=True))
    with pytest.raises(ValueError, match="prediction_type 'sample': allowed are epsilon and v_prediction"):
        Schedule(alpha_bars(), prediction_type="sample")
    with pytest.raises(ValueError, match="timestep_spacing 'linspace': allowed are leading and trailing"):
        Schedule(alpha_bars(), timestep_spacing="linspace")
    with pytest.raises(ValueError, match=r"t 1000: the schedule has times 0\.\.999"):
        Schedule(alpha_bars()).at(1000)


@pytest.mark.parametrize("spacing, zero_snr, eta", [("leading", False, 0.0), ("trailing", True, 0.5)])
def test_a_whole_run_is_diffusers_inpainting_pipeline(tmp_path: Path, spacing: str, zero_snr: bool, eta: float) -> None:
    """Both load the same folder and its scheduler file; at strength 1 both start from the same noise. SAC and CAM are off."""
    from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline

    folder = shutil.copytree(CHECKPOINT, tmp_path / "velocity")
    file = folder / "scheduler" / "scheduler_config.json"
    said = settings("v_prediction", spacing, zero_snr) | {"beta_schedule": "scaled_linear", "clip_sample": False}
    file.write_text(json.dumps(said | {"_class_name": "DDIMScheduler"}))
    model = Analogist.from_checkpoint(folder, device="cpu")
    config = AnalogistConfig(sampling=SamplingConfig(steps=4, strength=1, guidance=3.0, eta=eta), sac=None, cam=None)
    grid = PromptGrid.from_image(Path(__file__).parent / "parity" / "grid.png", 128)
    ours = model(grid, "a red boat", seed=5, config=config, progress=False)
    assert ours.record["checkpoint"]["prediction_type"] == "v_prediction"

    pipe = StableDiffusionInpaintPipeline.from_pretrained(
        folder, dtype=torch.float32, scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"), tokenizer=None, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    text = model.encode_text("a red boat" + model.prompt_suffix, model.negative_prompt)
    generator = torch.Generator().manual_seed(5)
    noise, _ = (torch.randn((1, 4, 16, 16), generator=generator) for _ in range(2))  # what is left to draw is the masked picture's
    theirs = pipe(
        prompt_embeds=text[1:], negative_prompt_embeds=text[:1], image=grid.pixels(), mask_image=grid.mask_tensor(), height=128, width=128,
        latents=noise, generator=generator, strength=1.0, num_inference_steps=4, guidance_scale=3.0, eta=eta, output_type="latent",
    ).images  # fmt: skip
    assert relative(ours.latents, theirs) < 1e-4


@pytest.fixture(scope="module")
def model() -> Analogist:
    """A small random network, said to predict the velocity, on a schedule with zero terminal SNR."""
    model = load_model()
    model.schedule = Schedule.from_config(settings("v_prediction", "trailing", True))
    return model


CONFIG = AnalogistConfig(sampling=SamplingConfig(steps=5, guidance=3.0, strength=1, eta=0.5))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("eta", ETAS)
def test_the_engine_of_studies_paints_what_the_model_paints(model: Analogist, guidance: float, eta: float) -> None:
    plan = plan_of(model, base=CONFIG.replace(guidance=guidance, eta=eta), factors={"sac.scale": [1.0, 1.4]}, seeds=(1, 2))
    for group in plan.groups:
        sampled = Engine(model).sample(group)
        assert not sampled.failed and sampled.times == [999, 799, 599, 399, 199]
        for job, found in zip(group.jobs, sampled.latents, strict=True):
            assert relative(found[None], alone(model, job)) < 1e-4


def test_eps_and_x0_of_a_step_belong_together(model: Analogist) -> None:
    for step in model.steps(one_input().grid, "boat", config=CONFIG.replace(eta=0.0)):
        ab = model.alpha_bars[step.t - 200 if step.i < 4 else 0]
        assert relative(step.z_t, ab.sqrt() * step.x0 + (1 - ab).sqrt() * step.eps) < 1e-4


def test_a_known_picture_has_the_velocitys_loss_even_where_the_noise_says_nothing(model: Analogist) -> None:
    for t in (501, 999):
        one = known.at(model, one_input().grid, "boat", b_prime=one_input().truth, t=t, config=CONFIG)
        ab = model.alpha_bars[t]
        v = ab.sqrt() * one.noise - (1 - ab).sqrt() * one.z0
        assert relative(one.x0, ab.sqrt() * one.z_t - (1 - ab).sqrt() * one.out) < 1e-5
        expected = ((one.out - v)[..., 8:, 8:] ** 2).mean()
        assert one.loss == pytest.approx(float(expected), rel=1e-3) and one.loss > 0.1


def test_inversion_comes_back_to_the_picture(model: Analogist) -> None:
    # Small steps: this random network is far from smooth, and with half as many the iteration does not converge.
    config = CONFIG.replace(steps=100, strength=0.1, eta=0.0)
    errors = [
        known.invert(model, one_input().grid, "boat", b_prime=one_input().truth, config=config, refine=refine).error for refine in (0, 10)
    ]
    assert errors[1] < 0.02 and errors[1] < errors[0] / 8
    whole = known.invert(model, one_input().grid, "boat", b_prime=one_input().truth, config=CONFIG, refine=1)
    assert whole.times[-1] == 999 and torch.isfinite(whole.z_t).all()


def test_the_labs_measurement_samples_as_the_model_does(model: Analogist) -> None:
    """eta above 0 as well, which a loop of its own once left out; two grids with their own prompts and seeds in one batch."""
    grids = [one_input(shift=shift).grid for shift in (0, 40)]
    prompts, config = ["a red boat", "a cat"], CONFIG
    painted = answers(model, torch.cat([grid.pixels() for grid in grids]), prompts, config, seeds=[3, 8], negative="bad")
    for k, (grid, seed) in enumerate(zip(grids, (3, 8), strict=True)):
        ours = model(grid, prompts[k], negative_prompt="bad", prompt_suffix="", seed=seed, config=config, progress=False)
        assert relative(painted[k : k + 1], ours.pixels) < 1e-3  # kernels sum a batch in another order
