"""One run of the sampler: what it starts from, and its steps, in the published order (Gu et al. 2024 and the authors' code)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from analogist.config import AnalogistConfig
from analogist.grid.prompt_grid import PromptGrid
from analogist.models.control import AttentionControl, Tap
from analogist.models.ddim import add_noise, ddim_step
from analogist.models.text import EncodedText, PreparedText
from analogist.models.unet import UNet
from analogist.models.vae import VAE, Posterior
from analogist.run.result import SamplingError, Step
from analogist.run.seeds import Draws, Randomness


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """TF32 off for convolutions on CUDA unless it was asked for, as for matrix products; what was set before comes back.

    torch leaves TF32 on for convolutions and off for matrix products; here one setting counts for both, that of matrix
    products (`torch.backends.cuda.matmul`).
    """
    if device.type != "cuda":
        yield
        return
    matmul, conv = torch.backends.cuda.matmul, getattr(torch.backends.cudnn, "conv", None)
    if hasattr(conv, "fp32_precision") and hasattr(matmul, "fp32_precision"):
        before = conv.fp32_precision
        conv.fp32_precision = "tf32" if matmul.fp32_precision == "tf32" else "ieee"
        try:
            yield
        finally:
            conv.fp32_precision = before
    else:  # torch before 2.9
        cudnn = torch.backends.cudnn
        with cudnn.flags(cudnn.enabled, cudnn.benchmark, cudnn.benchmark_limit, cudnn.deterministic, matmul.allow_tf32):
            yield


@dataclass(frozen=True)
class Start:
    """What the sampler starts from; float32 on the model's device.

    z0: image 4 h w, latents of the picture with B pasted over B'. noise: image 4 h w.
    fixed: image 5 h w, mask and masked-image latents, which every UNet call sees.
    """

    z0: Tensor
    noise: Tensor
    fixed: Tensor


@dataclass(frozen=True)
class GridPosteriors:
    """What the VAE says of a grid, before anything is drawn: once for all seeds. float32 on the model's device.

    pasted, masked: posteriors [1 4 h w] of the picture with B pasted over B' and of the masked one (B' mid-grey).
    mask: 1 1 h w. scale: of the latents.
    """

    pasted: Posterior
    masked: Posterior
    mask: Tensor
    scale: float

    def start(self, draws: Draws) -> Start:
        """Latents sampled with the given draws, one an image."""
        device = self.mask.device
        z0 = self.pasted.sample(draws.image.to(device)) * self.scale
        z_masked = self.masked.sample(draws.masked.to(device)) * self.scale
        fixed = torch.cat([self.mask.expand(len(z0), -1, -1, -1), z_masked], dim=1)
        return Start(z0, draws.noise.to(device), fixed)


@torch.no_grad()
def grid_posteriors(vae: VAE, grid: PromptGrid) -> GridPosteriors:
    """What the VAE says of a grid. The picture with B pasted over B' and the masked picture are encoded together.

    The mask goes to latent size by nearest neighbour.
    """
    device = vae.device
    pictures = torch.cat([grid.pixels(), grid.masked_pixels()]).to(device, vae.dtype)
    with exact(device):
        posterior = vae.posterior(pictures)
    mean, std = posterior.mean.float(), posterior.std.float()
    mask = F.interpolate(grid.mask_tensor().to(device), size=mean.shape[-2:], mode="nearest")
    return GridPosteriors(Posterior(mean[:1], std[:1]), Posterior(mean[1:], std[1:]), mask, vae.config.scaling_factor)


@torch.no_grad()
def encode_grid(vae: VAE, grid: PromptGrid, draws: Draws) -> Start:
    """Latents of the grid, sampled with the given draws."""
    return grid_posteriors(vae, grid).start(draws)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything one run needs, ready to step. Nothing of it is kept on the model.

    text: branch token channel, branch 0 negative and 1 prompt. times: (t, t_prev) of the executed steps.
    alpha_bars: float32 [1000]. alpha_bar_end: the cumulative product below time 0.
    """

    unet: UNet
    start: Start
    text: EncodedText
    times: list[tuple[int, int]]
    alpha_bars: Tensor
    alpha_bar_end: Tensor
    config: AnalogistConfig
    randomness: Randomness
    rows: int
    attention: str | Mapping
    images_at_once: int
    tap: Tap | None = None

    @property
    def images(self) -> int:
        return self.start.z0.shape[0]

    @property
    def branches(self) -> int:
        """2 with classifier-free guidance; 1 (the text branch alone) at guidance 1, where the other has no weight."""
        return 1 if self.config.sampling.guidance == 1 else 2

    def control(self, i: int, images: int) -> AttentionControl:
        """What acts on attention in executed step i, for a batch of `images` images."""
        return AttentionControl(
            step=i, t=self.times[i][0], branches=self.branches, images=images, sac=self.config.sac, cam=self.config.cam,
            tap=self.tap, rows=self.rows, attention=self.attention,
        )  # fmt: skip

    def controls(self) -> list[AttentionControl]:
        """What acts on attention in each executed step, for all images at once."""
        return [self.control(i, self.images) for i in range(len(self.times))]

    @torch.no_grad()
    def prepare_text(self) -> dict[int, PreparedText]:
        """Keys and values of the text for each batch size that the UNet calls of this run have."""
        chosen = self.text if self.branches == 2 else self.text[1:]
        sizes = {min(self.images_at_once, self.images), self.images % self.images_at_once or self.images_at_once}
        return {n: self.unet.prepare_text(chosen.repeat_interleave(n, dim=0)) for n in sizes}

    @torch.no_grad()
    def guided_noise(self, z_t: Tensor, i: int, texts: dict[int, PreparedText]) -> Tensor:
        """Predicted noise with classifier-free guidance, eps = eps_neg + w (eps_text - eps_neg). z_t: image 4 h w, float32."""
        parts = []
        for first in range(0, self.images, self.images_at_once):
            chosen = slice(first, min(first + self.images_at_once, self.images))
            images = chosen.stop - chosen.start
            # channel order of the checkpoints: noisy latents 4, mask 1, masked-image latents 4
            x = torch.cat([z_t[chosen], self.start.fixed[chosen]], dim=1).to(self.text.dtype)
            with exact(x.device):
                eps = self.unet(torch.cat([x] * self.branches), self.times[i][0], texts[images], self.control(i, images)).float()
            if self.branches == 2:
                negative, text = eps.chunk(2)
                eps = negative + self.config.sampling.guidance * (text - negative)
            parts.append(eps)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @torch.no_grad()
    def start_latents(self) -> Tensor:
        """Latents at the first executed time; at strength exactly 1 they are the pure noise, as in the authors' code."""
        if self.config.sampling.strength == 1:
            return self.start.noise
        return add_noise(self.start.z0, self.start.noise, self.alpha_bars[self.times[0][0]])

    def steps(self) -> Iterator[Step]:
        """Runs the steps, yielding after each; `step.z_t` may be assigned. Raises SamplingError on NaN, naming the step."""
        texts = self.prepare_text()
        z_t = self.start_latents()
        for i, (t, t_prev) in enumerate(self.times):
            step = self._step(z_t, i, t, t_prev, texts)
            yield step
            if step.z_t.shape != z_t.shape:
                raise ValueError(f"step {i}: z_t was assigned {tuple(step.z_t.shape)}, but the latents are {tuple(z_t.shape)}")
            z_t = step.z_t.detach().to(z_t)

    @torch.no_grad()
    def _step(self, z_t: Tensor, i: int, t: int, t_prev: int, texts: dict[int, PreparedText]) -> Step:
        eps = self.guided_noise(z_t, i, texts)
        alpha_bar = self.alpha_bars[t]
        alpha_bar_prev = self.alpha_bars[t_prev] if t_prev >= 0 else self.alpha_bar_end
        eta = self.config.sampling.eta
        noise = self.randomness.step_noise(z_t) if eta > 0 else None
        z_prev, x0 = ddim_step(z_t, eps, alpha_bar, alpha_bar_prev, eta=eta, noise=noise)
        if not torch.isfinite(z_prev).all():
            raise SamplingError(
                f"NaN or infinite latents at step {i} (t = {t}) in {self.text.dtype}; "
                "try dtype float32 or bfloat16, or a smaller guidance or SAC scale"
            )
        return Step(i, t, z_prev, x0, eps, {} if self.tap is None else self.tap.step_maps(i))


@torch.no_grad()
def decode(vae: VAE, latents: Tensor) -> Tensor:
    """Pixels [image 3 height width] in about [-1, 1], float32, one image at a time. latents: image 4 h w, VAE-scaled."""
    with exact(latents.device):
        pixels = torch.cat([vae.decode(z[None].to(vae.dtype)).float() for z in latents])
    if not torch.isfinite(pixels).all():
        raise SamplingError(f"the VAE decoded NaN in {vae.dtype}; some checkpoints' VAE needs float32 or bfloat16: try that dtype")
    return pixels
