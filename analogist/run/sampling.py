"""One run of the sampler: its start and its steps, in the published order (Gu et al. 2024 and the authors' code)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from analogist.attention.tap import StudyTap
from analogist.config import AnalogistConfig
from analogist.models.control import AttentionControl
from analogist.models.ddim import Schedule
from analogist.models.text import EncodedText, PreparedText
from analogist.models.unet import UNet
from analogist.models.vae import VAE, Posterior
from analogist.run.denoise import exact, guided
from analogist.run.result import SamplingError, Step
from analogist.run.seeds import Draws, Randomness
from analogist.run.transfer import FiniteCheck, to_device


@dataclass(frozen=True)
class Start:
    """The start of the sampler; float32 on the model's device.

    z0: image 4 h w, latents of the picture with B pasted over B'. noise: image 4 h w.
    fixed: image 5 h w, mask and masked-image latents, which every UNet call sees.
    """

    z0: Tensor
    noise: Tensor
    fixed: Tensor

    def copies(self, count: int) -> "Start":
        """The same for several copies of every image: (copy image) 4 h w."""
        return self if count == 1 else Start(*(part.repeat(count, 1, 1, 1) for part in (self.z0, self.noise, self.fixed)))


@dataclass(frozen=True)
class GridPosteriors:
    """The VAE's posteriors of grids, before any random numbers are drawn; the same for all seeds. float32 on the model's device.

    pasted, masked: posteriors [image 4 h w] of the picture with B pasted over B' and of the masked one (B' mid-grey); one for all
    draws or one per draw. mask: image 1 h w, 1 on B'. scale: of the latents.
    """

    pasted: Posterior
    masked: Posterior
    mask: Tensor
    scale: float

    def start(self, draws: Draws) -> Start:
        """Latents sampled with the given draws, one per image."""
        device = self.mask.device
        z0 = self.pasted.sample(to_device(draws.image, device)) * self.scale
        z_masked = self.masked.sample(to_device(draws.masked, device)) * self.scale
        fixed = torch.cat([self.mask.expand(len(z0), -1, -1, -1), z_masked], dim=1)
        return Start(z0, to_device(draws.noise, device), fixed)


@torch.no_grad()
def posteriors(vae: VAE, pasted: Tensor, masked: Tensor, mask: Tensor) -> GridPosteriors:
    """The VAE's posteriors of pictures with B pasted over B' and of masked ones; both are encoded together.

    pasted, masked: image 3 height width in [-1, 1]. mask: image 1 height width, 1 on B'; resized to latent size by nearest neighbour.
    """
    device = vae.device
    with exact(device):
        posterior = vae.posterior(to_device(torch.cat([pasted, masked]), device).to(vae.dtype))
    mean, std = posterior.mean.float(), posterior.std.float()
    mask = F.interpolate(to_device(mask, device), size=mean.shape[-2:], mode="nearest")
    n = len(pasted)
    return GridPosteriors(Posterior(mean[:n], std[:n]), Posterior(mean[n:], std[n:]), mask, vae.config.scaling_factor)


class GridTensors(Protocol):
    """What is read of a grid to encode it; a PromptGrid has it. Each float32 [1 channel height width]."""

    def pixels(self) -> Tensor:
        """The picture, levels -1..1."""
        ...

    def masked_pixels(self) -> Tensor:
        """The picture, mid-grey (0) where it is to be painted."""
        ...

    def mask_tensor(self) -> Tensor:
        """1 where it is to be painted, else 0."""
        ...


def grid_posteriors(vae: VAE, grid: GridTensors) -> GridPosteriors:
    """The VAE's posteriors of one grid."""
    return posteriors(vae, grid.pixels(), grid.masked_pixels(), grid.mask_tensor())


def encode_grid(vae: VAE, grid: GridTensors, draws: Draws) -> Start:
    """Latents of the grid, sampled with the given draws."""
    return grid_posteriors(vae, grid).start(draws)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that one run needs, ready to step. Nothing is stored on the model.

    text: (branch image) token channel, branch 0 negative and 1 prompt; or [branch token channel], one text for all images.
    times: (t, t_prev) of the executed steps. images_at_once: images in one UNet call. latents: image 4 h w, which stand in place
    of the start's at the first executed time, for every copy; None: the start's.
    """

    unet: UNet
    schedule: Schedule
    start: Start
    text: EncodedText
    times: list[tuple[int, int]]
    config: AnalogistConfig
    randomness: Randomness
    rows: int
    attention: str | Mapping
    images_at_once: int
    tap: StudyTap | None = None
    gradients: bool = False  # whether an edit asked for the graph
    copies: int = 1  # of every image, where an edit asked for them; the image axis is (copy image)
    latents: Tensor | None = None

    @property
    def images(self) -> int:
        return self.start.z0.shape[0]

    @property
    def branches(self) -> int:
        """2 with classifier-free guidance; 1 (only the text branch) at guidance 1."""
        return self.config.sampling.branches

    def control(self, i: int, images: int) -> AttentionControl:
        """What acts on attention in executed step i, for a batch of `images` images."""
        return AttentionControl(
            step=i, t=self.times[i][0], branches=self.branches, images=images, sac=self.config.sac, cam=self.config.cam,
            tap=self.tap, rows=self.rows, attention=self.attention,
        )  # fmt: skip

    def controls(self) -> list[AttentionControl]:
        """What acts on attention in each executed step, for all images at once."""
        return [self.control(i, self.images) for i in range(len(self.times))]

    def batches(self) -> list[range]:
        """The images of each UNet call of a step."""
        return [range(first, min(first + self.images_at_once, self.images)) for first in range(0, self.images, self.images_at_once)]

    def text_of(self, images: range) -> EncodedText:
        """(branch image) token channel for some images and the branches that are run."""
        branches = range(2)[-self.branches :]
        if self.text.shape[0] == 2:  # one text for all
            return self.text[branches.start :].repeat_interleave(len(images), dim=0)
        return self.text[[branch * self.images + image for branch in branches for image in images]]

    @torch.no_grad()
    def prepare_text(self) -> list[PreparedText]:
        """Keys and values of the text for each UNet call of a step: the same in every step, and shared if the texts are equal."""
        if self.text.shape[0] > 2:
            return [self.unet.prepare_text(self.text_of(images)) for images in self.batches()]
        by_size = {len(images): images for images in self.batches()}
        prepared = {size: self.unet.prepare_text(self.text_of(images)) for size, images in by_size.items()}
        return [prepared[len(images)] for images in self.batches()]

    def guided(self, z_t: Tensor, i: int, texts: list[PreparedText]) -> Tensor:
        """The network's output for all images, with guidance. z_t: image 4 h w, float32. texts: from `prepare_text`."""
        parts = []
        for images, text in zip(self.batches(), texts, strict=True):
            some, control = slice(images.start, images.stop), self.control(i, len(images))
            parts.append(guided(self.unet, z_t[some], self.start.fixed[some], text, control, self.config.sampling.guidance))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @torch.no_grad()
    def own_latents(self) -> Tensor:
        """The start's latents at the first executed time; at strength 1 they are pure noise, as in the authors' code."""
        if self.config.sampling.strength == 1:
            return self.start.noise
        return self.schedule.add_noise(self.start.z0, self.start.noise, self.times[0][0])

    def start_latents(self) -> Tensor:
        """Latents at the first executed time: those that were given, else the start's. Float32 on the model's device."""
        own = self.own_latents()
        if self.latents is None:
            return own
        return (self.latents if self.gradients else self.latents.detach()).to(own).repeat(self.copies, 1, 1, 1)

    @property
    def changed(self) -> bool:
        """Whether latents were given that are not the start's own, bit for bit."""
        return self.latents is not None and not torch.equal(self.start_latents(), self.own_latents())

    def steps(self) -> Iterator[Step]:
        """Runs the steps, yielding after each; `step.z_t` may be assigned. Raises SamplingError on NaN and names the step."""
        texts, finite = self.prepare_text(), FiniteCheck(self.text.dtype)
        z_t = self.start_latents()
        for i in range(len(self.times)):
            step = self._step(z_t, i, texts)
            finite.look(step.z_t, i, step.t)
            yield step
            if step.z_t.shape != z_t.shape:
                raise ValueError(f"step {i}: z_t was assigned {tuple(step.z_t.shape)}, but the latents are {tuple(z_t.shape)}")
            z_t = (step.z_t if self.gradients else step.z_t.detach()).to(z_t)
        finite.read(wait=True)

    def _step(self, z_t: Tensor, i: int, texts: list[PreparedText]) -> Step:
        with torch.set_grad_enabled(self.gradients):
            return self._one_step(z_t, i, texts)

    def _one_step(self, z_t: Tensor, i: int, texts: list[PreparedText]) -> Step:
        t, t_prev = self.times[i]
        eta = self.config.sampling.eta
        out = self.guided(z_t, i, texts)
        noise = self.randomness.step_noise(z_t[: self.images // self.copies]).repeat(self.copies, 1, 1, 1) if eta > 0 else None
        z_prev, x0 = self.schedule.step(z_t, out, t, t_prev, eta=eta, noise=noise)
        maps = {} if self.tap is None else self.tap.step_maps(i)
        return Step(i, t, t_prev, z_prev, x0, self.schedule.eps(z_t, out, t), maps)


def decode(vae: VAE, latents: Tensor, *, at_once: int = 1, gradients: bool = False) -> Tensor:
    """Pixels [image 3 height width] in about [-1, 1], float32. latents: image 4 h w, VAE-scaled. at_once: images in one VAE call.

    gradients: whether they pass; without them no graph is kept.
    Raises SamplingError on NaN.
    """
    with torch.set_grad_enabled(gradients), exact(latents.device):
        pixels = torch.cat([vae.decode(z.to(vae.dtype)).float() for z in latents.split(at_once)])
    if not torch.isfinite(pixels).all():
        raise SamplingError(f"the VAE decoded NaN in {vae.dtype}; some checkpoints' VAE needs float32 or bfloat16: try that dtype")
    return pixels
