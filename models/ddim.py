"""The sampler: noise schedule, time steps and one DDIM step, as free functions.

Source: Song et al. 2021, "Denoising Diffusion Implicit Models"; schedule and conventions as in Stable Diffusion's
published checkpoints (scaled_linear betas, 'leading' spacing, steps_offset 1, set_alpha_to_one off).
"""

import torch
from torch import Tensor


def alpha_bars(beta_start: float = 0.00085, beta_end: float = 0.012, n: int = 1000) -> Tensor:
    """Cumulative products of 1 - beta over the training times, float32 [n], with 'scaled_linear' betas.

    The betas are linear in their square roots; float32 throughout, as the published samplers compute them.
    """
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, n, dtype=torch.float32) ** 2
    return torch.cumprod(1.0 - betas, dim=0)


def ddim_times(steps: int, strength: float = 1.0, *, n: int = 1000, offset: int = 1) -> list[tuple[int, int]]:
    """(t, t_prev) of the executed steps, noisiest first; t_prev < 0 stands for the end of the schedule.

    steps: of the whole schedule, 1..n. strength: the part that is run, (0, 1]: its last int(steps * strength) steps.
    offset: added to every time ('leading' spacing with steps_offset, 1 in the checkpoints).
    Raises ValueError out of range, and where the pair leaves no step.
    """
    if not 1 <= steps <= n:
        raise ValueError(f"steps {steps}: allowed are 1..{n}")
    if not 0 < strength <= 1:
        raise ValueError(f"strength {strength}: allowed is more than 0 and at most 1")
    executed = min(int(steps * strength), steps)
    if executed < 1:
        raise ValueError(f"steps {steps} x strength {strength} leaves no step to run; raise either (steps * strength >= 1)")
    stride = n // steps
    times = [stride * i + offset for i in reversed(range(steps))]
    if times[0] >= n:
        raise ValueError(f"steps {steps} with offset {offset}: the first time would be {times[0]}, beyond 0..{n - 1}; use fewer steps")
    return [(t, t - stride) for t in times[steps - executed :]]


def alpha_bar_at(bars: Tensor, t: int, *, set_alpha_to_one: bool = False) -> Tensor:
    """The cumulative product at t, a scalar; below 0, past the end of the schedule, 1 or (in the checkpoints) that at time 0.

    bars: from `alpha_bars`. t: time index, below 0 for the end. Raises ValueError beyond the schedule.
    """
    if t >= len(bars):
        raise ValueError(f"t {t}: the schedule has times 0..{len(bars) - 1}")
    if t >= 0:
        return bars[t]
    return torch.ones_like(bars[0]) if set_alpha_to_one else bars[0]


def add_noise(z0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Latents at the time whose cumulative product is alpha_bar: sqrt(ab) z0 + sqrt(1 - ab) noise (Ho et al. 2020, Eq. 4)."""
    return alpha_bar.sqrt() * z0 + (1 - alpha_bar).sqrt() * noise


def ddim_step(
    z_t: Tensor,
    eps: Tensor,
    alpha_bar: Tensor,
    alpha_bar_prev: Tensor,
    *,
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One DDIM step, Eq. (12) of Song et al. 2021; returns (z at the previous time, predicted clean latents x0).

    z_t, eps: image channel row col — latents and predicted noise, VAE-scaled. alpha_bar, alpha_bar_prev: scalars at t and t_prev.
    eta: 0 is deterministic DDIM, 1 has DDPM's noise level. noise: N(0, 1) like z_t, needed where eta > 0.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta {eta}: allowed is 0 (deterministic) to 1 (DDPM's noise)")
    if eta > 0 and noise is None:
        raise ValueError(f"eta {eta} needs noise; give N(0, 1) of the latents' shape")
    x0 = (z_t - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()
    sigma = eta * ((1 - alpha_bar_prev) / (1 - alpha_bar)).sqrt() * (1 - alpha_bar / alpha_bar_prev).sqrt()
    direction = (1 - alpha_bar_prev - sigma**2).sqrt() * eps
    z_prev = alpha_bar_prev.sqrt() * x0 + direction
    if noise is not None and eta > 0:
        z_prev = z_prev + sigma * noise
    return z_prev, x0
