"""The sampler: schedule, time steps, and DDIM's step, against closed forms and diffusers' DDIMScheduler."""

import math
from fractions import Fraction

import pytest
import torch

from analogist.models.ddim import add_noise, alpha_bar_at, alpha_bars, ddim_step, ddim_times

STRENGTHS = [i / 20 for i in range(1, 21)]


def scheduler(set_alpha_to_one: bool = False):
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=set_alpha_to_one,
        steps_offset=1, timestep_spacing="leading", num_train_timesteps=1000,
    )  # fmt: skip


def latents(seed: int) -> torch.Tensor:
    return torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(seed))


def test_alpha_bars_are_bit_equal_to_the_published_samplers() -> None:
    assert torch.equal(alpha_bars(), scheduler().alphas_cumprod)


def test_alpha_bars_agree_with_exact_products() -> None:
    """scaled_linear betas multiplied up in rational numbers."""
    start, end = Fraction(math.sqrt(0.00085)), Fraction(math.sqrt(0.012))
    product = Fraction(1)
    for i, ours in zip(range(20), alpha_bars().tolist(), strict=False):
        product *= 1 - (start + (end - start) * i / 999) ** 2
        assert ours == pytest.approx(float(product), rel=1e-6)
    assert alpha_bars()[-1].item() == pytest.approx(0.0046601, rel=1e-3)  # the known last value of SD's schedule


@pytest.mark.parametrize("steps", range(1, 51))
def test_times_are_diffusers_for_every_number_of_steps_and_strength(steps: int) -> None:
    """The cut by strength as diffusers' inpainting pipeline makes it: the last int(steps * strength) times."""
    reference = scheduler()
    reference.set_timesteps(steps)
    for strength in STRENGTHS:
        start = max(steps - min(int(steps * strength), steps), 0)
        expected = reference.timesteps[start:].tolist()
        if not expected:
            with pytest.raises(ValueError, match=f"steps {steps} x strength {strength} leaves no step"):
                ddim_times(steps, strength)
            continue
        assert ddim_times(steps, strength) == [(t, t - 1000 // steps) for t in expected]


def test_the_published_run_has_49_steps_from_961() -> None:
    times = ddim_times(50, 0.98)
    assert len(times) == 49 and times[0] == (961, 941) and times[-1] == (1, -19)
    assert [t for t, _ in ddim_times(6)] == [831, 665, 499, 333, 167, 1]


@pytest.mark.parametrize("set_alpha_to_one", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_whole_trajectories_are_diffusers(set_alpha_to_one: bool, eta: float) -> None:
    reference, bars = scheduler(set_alpha_to_one), alpha_bars()
    for steps in range(1, 51):
        reference.set_timesteps(steps)
        z = theirs = latents(0)
        for t, t_prev in ddim_times(steps):
            eps, noise = latents(t), latents(1000 + t)
            ab, ab_prev = bars[t], alpha_bar_at(bars, t_prev, set_alpha_to_one=set_alpha_to_one)
            z, x0 = ddim_step(z, eps, ab, ab_prev, eta=eta, noise=noise)
            step = reference.step(eps, t, theirs, eta=eta, variance_noise=noise if eta else None)
            theirs = step.prev_sample
            assert torch.allclose(x0, step.pred_original_sample, rtol=1e-5, atol=1e-4)
        assert torch.allclose(z, theirs, rtol=1e-5, atol=1e-5)


def test_noise_is_added_as_diffusers_adds_it() -> None:
    for t in (1, 501, 961):
        ours = add_noise(latents(0), latents(1), alpha_bars()[t])
        assert torch.allclose(ours, scheduler().add_noise(latents(0), latents(1), torch.tensor([t])), atol=1e-7)


@pytest.mark.parametrize("steps", [1, 2, 7, 50, 1000])
def test_with_the_true_noise_ddim_returns_the_clean_latents_in_any_number_of_steps(steps: int) -> None:
    """Closed form: if eps is the noise that was added, every x0 is z0, and so is the end where the last alpha_bar is 1."""
    bars, z0, noise = alpha_bars().double(), latents(0).double(), latents(1).double()
    times = ddim_times(steps, offset=0)
    z = add_noise(z0, noise, bars[times[0][0]])
    for t, t_prev in times:
        z, x0 = ddim_step(z, noise, bars[t], alpha_bar_at(bars, t_prev, set_alpha_to_one=True))
        assert torch.allclose(x0, z0, atol=1e-9)
    assert torch.allclose(z, z0, atol=1e-9)


def test_below_the_schedule_alpha_bar_is_the_first_or_one() -> None:
    bars = alpha_bars()
    assert alpha_bar_at(bars, -19) == bars[0] and alpha_bar_at(bars, 0) == bars[0] and alpha_bar_at(bars, 999) == bars[999]
    assert alpha_bar_at(bars, -19, set_alpha_to_one=True) == 1
    with pytest.raises(ValueError, match=r"t 1000: the schedule has times 0\.\.999"):
        alpha_bar_at(bars, 1000)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_a_number_of_steps_out_of_range_is_an_error(steps: int) -> None:
    with pytest.raises(ValueError, match=rf"steps {steps}: allowed are 1\.\.1000"):
        ddim_times(steps)


def test_more_steps_than_the_offset_leaves_times_for_is_an_error() -> None:
    assert ddim_times(999)[0] == (999, 998)
    with pytest.raises(ValueError, match=r"steps 1000 with offset 1: the first time would be 1000, beyond 0\.\.999"):
        ddim_times(1000)


@pytest.mark.parametrize("strength", [0, -0.5, 1.01, float("nan"), float("inf")])
def test_a_strength_out_of_range_is_an_error(strength: float) -> None:
    with pytest.raises(ValueError, match="must be greater than 0 and at most 1"):
        ddim_times(50, strength)


def test_a_pair_that_leaves_no_step_is_an_error_that_says_what_to_raise() -> None:
    with pytest.raises(ValueError, match=r"steps 10 x strength 0\.05 leaves no step to run; raise either"):
        ddim_times(10, 0.05)


def test_eta_without_noise_is_an_error() -> None:
    bars = alpha_bars()
    with pytest.raises(ValueError, match=r"eta 0\.5 needs noise"):
        ddim_step(latents(0), latents(1), bars[501], bars[481], eta=0.5)


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_eta_out_of_range_is_an_error(eta: float) -> None:
    bars = alpha_bars()
    with pytest.raises(ValueError, match=r"eta .*: must be from 0 \(deterministic\) to 1"):
        ddim_step(latents(0), latents(1), bars[501], bars[481], eta=eta, noise=latents(2))
