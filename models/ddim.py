"""The sampler's formulas: noise schedule, time steps, what the network's output means, and one DDIM step.

`Schedule` holds a checkpoint's conventions; every formula is written once, in the free functions that it calls.
Source: Song et al. 2021, "Denoising Diffusion Implicit Models"; Salimans and Ho 2022 (velocity); Lin et al. 2024 (zero terminal
SNR); schedule and conventions as in Stable Diffusion's published checkpoints (scaled_linear betas, 'leading' spacing, steps_offset 1,
set_alpha_to_one off).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

EPSILON, VELOCITY = "epsilon", "v_prediction"
PREDICTION_TYPES = (EPSILON, VELOCITY)
SPACINGS = ("leading", "trailing")


def alpha_bars(beta_start: float = 0.00085, beta_end: float = 0.012, n: int = 1000, *, zero_terminal_snr: bool = False) -> Tensor:
    """Cumulative products of 1 - beta over the training times, float32 [n], with 'scaled_linear' betas.

    The betas are linear in their square roots; float32 throughout, as the published samplers compute them. zero_terminal_snr: the
    square roots of the products are shifted and scaled so that the last is 0, pure noise (Lin et al. 2024, Algorithm 1).
    """
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, n, dtype=torch.float32, device="cpu") ** 2
    if zero_terminal_snr:
        roots = torch.cumprod(1.0 - betas, dim=0).sqrt()
        roots = (roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))
        products = roots**2
        betas = 1 - torch.cat([products[:1], products[1:] / products[:-1]])
    return torch.cumprod(1.0 - betas, dim=0)


def ddim_times(
    steps: int, strength: float = 1.0, *, n: int = 1000, offset: int = 1, spacing: str = "leading"
) -> list[tuple[int, int]]:
    """(t, t_prev) of the executed steps, noisiest first; t_prev < 0 means the end of the schedule.

    steps: of the whole schedule, 1..n. strength: the fraction that is run, (0, 1]: its last int(steps * strength) steps.
    spacing: "leading" counts up from time 0 in strides of n // steps, with offset added to every time (1 in the checkpoints);
    "trailing" counts down from the last time, n - 1. t_prev is t - n // steps in both.
    Raises ValueError if a value is out of range, or if no step is left.
    """
    if not 1 <= steps <= n:
        raise ValueError(f"steps {steps}: allowed are 1..{n}")
    if not 0 < strength <= 1:
        raise ValueError(f"strength {strength}: must be greater than 0 and at most 1")
    executed = min(int(steps * strength), steps)
    if executed < 1:
        raise ValueError(f"steps {steps} x strength {strength} leaves no step to run; raise either (steps * strength >= 1)")
    stride = n // steps
    if spacing == "leading":
        times = [stride * i + offset for i in reversed(range(steps))]
        if times[0] >= n:
            raise ValueError(f"steps {steps} with offset {offset}: the first time would be {times[0]}, beyond 0..{n - 1}; use fewer steps")
    elif spacing == "trailing":
        down = (n - n / steps) - n  # computed as in numpy's arange, because it decides ties between two times in the published samplers
        times = [round(n + i * down) - 1 for i in range(steps)]
    else:
        raise ValueError(f"timestep_spacing {spacing!r}: allowed are {' and '.join(SPACINGS)}")
    return [(t, t - stride) for t in times[steps - executed :]]


def alpha_bar_at(bars: Tensor, t: int | Tensor, *, set_alpha_to_one: bool = False) -> Tensor:
    """The cumulative product at t; below 0, past the end of the schedule, 1 or (in the checkpoints) that at time 0.

    bars: from `alpha_bars`. t: time index, below 0 for the end; gives a scalar. A tensor [batch] of times gives [batch 1 1 1], which
    broadcasts against latents [batch 4 h w]. Raises ValueError beyond the schedule (for a tensor: IndexError).
    """
    if isinstance(t, Tensor):
        first = torch.ones_like(bars[0]) if set_alpha_to_one else bars[0]
        return torch.where(t < 0, first, bars[t.clamp(min=0)])[:, None, None, None]
    if t >= len(bars):
        raise ValueError(f"t {t}: the schedule has times 0..{len(bars) - 1}")
    if t >= 0:
        return bars[t]
    return torch.ones_like(bars[0]) if set_alpha_to_one else bars[0]


def add_noise(z0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Latents at the time whose cumulative product is alpha_bar: sqrt(ab) z0 + sqrt(1 - ab) noise (Ho et al. 2020, Eq. 4)."""
    return alpha_bar.sqrt() * z0 + (1 - alpha_bar).sqrt() * noise


def velocity(z0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """What a v_prediction network is trained to give: sqrt(ab) noise - sqrt(1 - ab) z0 (Salimans and Ho 2022, Sec. 4)."""
    return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * z0


def x0_from_eps(z_t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """Clean latents from the predicted noise: `add_noise` solved for z0 (Song et al. 2021, Eq. 9)."""
    return (z_t - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()


def x0_from_velocity(z_t: Tensor, v: Tensor, alpha_bar: Tensor) -> Tensor:
    """Clean latents from the predicted velocity: sqrt(ab) z_t - sqrt(1 - ab) v (Salimans and Ho 2022, App. D)."""
    return alpha_bar.sqrt() * z_t - (1 - alpha_bar).sqrt() * v


def eps_from_velocity(z_t: Tensor, v: Tensor, alpha_bar: Tensor) -> Tensor:
    """Noise from the predicted velocity: sqrt(ab) v + sqrt(1 - ab) z_t (Salimans and Ho 2022, App. D)."""
    return alpha_bar.sqrt() * v + (1 - alpha_bar).sqrt() * z_t


def ddim_step(
    z_t: Tensor,
    eps: Tensor,
    alpha_bar: Tensor,
    alpha_bar_prev: Tensor,
    *,
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One DDIM step from predicted noise; returns (z at the previous time, predicted clean latents x0).

    z_t, eps: image channel row col — latents and predicted noise, VAE-scaled. alpha_bar, alpha_bar_prev: scalars at t and t_prev.
    eta, noise: as for `ddim_move`.
    """
    x0 = x0_from_eps(z_t, eps, alpha_bar)
    return ddim_move(x0, eps, alpha_bar, alpha_bar_prev, eta=eta, noise=noise), x0


def ddim_move(
    x0: Tensor, eps: Tensor, alpha_bar: Tensor, alpha_bar_prev: Tensor, *, eta: float = 0.0, noise: Tensor | None = None
) -> Tensor:
    """Latents at the previous time from predicted clean latents and noise: Eq. (12) of Song et al. 2021.

    eta: 0 is deterministic DDIM, 1 has DDPM's noise level. noise: N(0, 1) like x0, needed if eta > 0.
    Raises ValueError if eta is out of range or noise is missing.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta {eta}: must be from 0 (deterministic) to 1 (DDPM's noise)")
    if eta > 0 and noise is None:
        raise ValueError(f"eta {eta} needs noise; give N(0, 1) of the latents' shape")
    sigma = eta * ((1 - alpha_bar_prev) / (1 - alpha_bar)).sqrt() * (1 - alpha_bar / alpha_bar_prev).sqrt()
    # At eta 1 from pure noise sigma**2 is all of 1 - alpha_bar_prev: nothing is left, and rounding must not make it less than nothing.
    direction = (1 - alpha_bar_prev - sigma**2).clamp_min(0).sqrt() * eps
    z_prev = alpha_bar_prev.sqrt() * x0 + direction
    if noise is not None and eta > 0:
        z_prev = z_prev + sigma * noise
    return z_prev


@dataclass(frozen=True, eq=False)
class Schedule:
    """A checkpoint's noise schedule: how much noise each training time has, which times a run visits, what the network predicts.

    alpha_bars: float32 [n], cumulative products by training time. set_alpha_to_one: below time 0 the product is 1; off (as in the
    checkpoints): that of time 0. steps_offset: added to the times of "leading" spacing. timestep_spacing: "leading" or "trailing".
    prediction_type: what the network's output is: "epsilon", the noise, or "v_prediction", the velocity.

    In its methods t is a training time, a whole number or a tensor [batch] of whole numbers; below 0 it is the end of the schedule. out is
    the network's output, after guidance. z_t, out, x0, eps, noise: image channel row col, VAE-scaled.
    Raises ValueError for unknown names, and for "epsilon" if the last time has no signal left.
    """

    alpha_bars: Tensor
    set_alpha_to_one: bool = False
    steps_offset: int = 1
    timestep_spacing: str = "leading"
    prediction_type: str = EPSILON

    def __post_init__(self) -> None:
        if self.prediction_type not in PREDICTION_TYPES:
            raise ValueError(f"prediction_type {self.prediction_type!r}: allowed are {' and '.join(PREDICTION_TYPES)}")
        if self.timestep_spacing not in SPACINGS:
            raise ValueError(f"timestep_spacing {self.timestep_spacing!r}: allowed are {' and '.join(SPACINGS)}")
        if self.prediction_type == EPSILON and float(self.alpha_bars[-1]) == 0:
            raise ValueError(
                "rescale_betas_zero_snr with prediction_type 'epsilon': at the last time the latents are pure noise, so the predicted "
                "noise says nothing about the picture (x0 would be 0 / 0); use prediction_type 'v_prediction' or no rescaling"
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], device: torch.device | str = "cpu") -> "Schedule":
        """From a scheduler's settings: beta_start, beta_end, num_train_timesteps, steps_offset, set_alpha_to_one, prediction_type, and,
        if present, timestep_spacing and rescale_betas_zero_snr."""
        bars = alpha_bars(
            config["beta_start"], config["beta_end"], config["num_train_timesteps"],
            zero_terminal_snr=config.get("rescale_betas_zero_snr", False),
        )  # fmt: skip
        return cls(
            bars.to(device), config["set_alpha_to_one"], config["steps_offset"], config.get("timestep_spacing", "leading"),
            config["prediction_type"],
        )  # fmt: skip

    def __len__(self) -> int:
        """Number of training times."""
        return len(self.alpha_bars)

    def to(self, device: torch.device | str) -> "Schedule":
        """The same schedule with its numbers on another device."""
        return replace(self, alpha_bars=self.alpha_bars.to(device))

    def at(self, t: int | Tensor) -> Tensor:
        """The cumulative product at t: a scalar, or [batch 1 1 1] for a tensor [batch] of times. Raises ValueError beyond the schedule."""
        return alpha_bar_at(self.alpha_bars, t, set_alpha_to_one=self.set_alpha_to_one)

    def times(self, steps: int, strength: float = 1.0) -> list[tuple[int, int]]:
        """(t, t_prev) of the executed steps, noisiest first. Raises ValueError as `ddim_times`."""
        return ddim_times(steps, strength, n=len(self), offset=self.steps_offset, spacing=self.timestep_spacing)

    def add_noise(self, z0: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """Clean latents with the noise of time t."""
        return add_noise(z0, noise, self.at(t))

    def target(self, z0: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """The network's ideal output for `add_noise(z0, noise, t)`: the noise, or the velocity."""
        return velocity(z0, noise, self.at(t)) if self.prediction_type == VELOCITY else noise

    def x0(self, z_t: Tensor, out: Tensor, t: int | Tensor) -> Tensor:
        """The clean latents that the network's output implies."""
        return (x0_from_velocity if self.prediction_type == VELOCITY else x0_from_eps)(z_t, out, self.at(t))

    def eps(self, z_t: Tensor, out: Tensor, t: int | Tensor) -> Tensor:
        """The noise that the network's output implies."""
        return eps_from_velocity(z_t, out, self.at(t)) if self.prediction_type == VELOCITY else out

    def step(
        self, z_t: Tensor, out: Tensor, t: int, t_prev: int, *, eta: float = 0.0, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One DDIM step from t to t_prev; returns (z at t_prev, predicted clean latents x0). eta, noise: as for `ddim_move`."""
        x0 = self.x0(z_t, out, t)
        return ddim_move(x0, self.eps(z_t, out, t), self.at(t), self.at(t_prev), eta=eta, noise=noise), x0

    def step_back(self, z_prev: Tensor, out: Tensor, t: int, t_prev: int) -> Tensor:
        """The latents z_t whose `step` from t to t_prev with this output and eta 0 gives z_prev: `step` solved for z_t."""
        bar, bar_prev = self.at(t), self.at(t_prev)
        if self.prediction_type == EPSILON:
            return add_noise(x0_from_eps(z_prev, out, bar_prev), out, bar)
        # A step rotates (z, v) by an angle: z_prev = cos z_t - sin v, with this cos and sin.
        cos = (bar * bar_prev).sqrt() + ((1 - bar) * (1 - bar_prev)).sqrt()
        sin = ((1 - bar) * bar_prev).sqrt() - (bar * (1 - bar_prev)).sqrt()
        return (z_prev + sin * out) / cos
