"""Trains the autoencoder on drawn grids: it reproduces pictures through a small Gaussian bottleneck."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from analogist.models.vae import VAE

from .drawings import Drawings
from .grids import Batch
from .mixture import training_batch
from .recipe import Recipe


class Reconstruction(nn.Module):
    """A VAE from pixels to pixels. Returns (pixels, mean, std); latents are not scaled."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, pixels: Tensor, noise: Tensor, how: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """how: the change of the latents (see `moved`), the same number for all; None: no change."""
        posterior = self.vae.posterior(pixels)
        z = posterior.sample(noise)
        return self.decode(z if how is None else moved(z, int(how[0]))), posterior.mean, posterior.std

    def decode(self, z: Tensor) -> Tensor:
        """Latents, not scaled -> pixels."""
        return self.vae.decoder(self.vae.post_quant_conv(z))


def near_identity(vae: VAE) -> None:
    """Starts with weak residual branches, and with resampling that only averages or repeats. Training is much faster from there."""
    with torch.no_grad():
        for name, weight in vae.named_parameters():
            if name.endswith(("conv2.weight", "to_out.weight")):
                weight.mul_(0.1)
            if name.endswith(("downsample.conv.weight", "upsample.conv.weight")):
                weight.mul_(0.1)
                eye = torch.eye(weight.shape[0])
                if "downsample" in name:  # the picture is padded on the right and below, so this is the mean of a 2 x 2 block
                    weight[:, :, :2, :2] += eye[:, :, None, None] / 4
                else:
                    weight[:, :, 1, 1] += eye


def differences(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbouring pixels, across and down."""
    return pixels[..., 1:] - pixels[..., :-1], pixels[..., 1:, :] - pixels[..., :-1, :]


def moved(picture: Tensor, how: int) -> Tensor:
    """A picture or its latents, rotated by `how` quarter turns; for 4, at half the size. picture: n c row col."""
    return F.avg_pool2d(picture, 2) if how == 4 else picture.rot90(how, (-2, -1))


class VAETask:
    """The task for `loop.train`: absolute and squared error, error in edges, and the posterior's divergence with a small weight.

    In some of the steps the latents are rotated or halved before decoding, and the picture must come out rotated or halved: latents that
    keep the picture's geometry are easier to learn on. Source: Kouzelis et al. 2025 (EQ-VAE), Eq. (4).
    """

    name = "vae"

    def __init__(self, recipe: Recipe, device: torch.device, drawings: Drawings | None, watched: Batch) -> None:
        torch.manual_seed(recipe.vae_training.seed)
        self.recipe, self.device, self.drawings, self.watched = recipe, device, drawings, watched
        vae = VAE(recipe.vae)
        near_identity(vae)
        self.network = Reconstruction(vae)
        self._drawing = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))
        self._drawn: dict[int, Future[Tensor]] = {}  # by seed

    def batch(self, seed: int, step: int) -> tuple[Tensor, ...]:
        # The next step's pictures are drawn in the background.
        self._drawn = {each: self._drawn.get(each) or self._drawing.submit(self._draw, each) for each in (seed, seed + 1)}
        pixels = self._drawn[seed].result()
        generator = torch.Generator().manual_seed(seed + 2)
        turned = float(torch.rand((), generator=generator)) < self.recipe.turned
        how = 1 + int(torch.randint(4, (), generator=generator)) if turned else 0
        return pixels, self._noise(len(pixels), seed), torch.full((len(pixels),), how)

    def _draw(self, seed: int) -> Tensor:
        r = self.recipe
        batch = training_batch(r.vae_training.batch, mix=r.solver, size=r.size, seed=seed, drawings=self.drawings, device=self.device)
        return batch.pixels

    def loss(self, run: Callable[..., Any], pixels: Tensor, noise: Tensor, how: Tensor) -> tuple[Tensor, dict[str, float]]:
        out, mean, std = run(pixels, noise, how)
        pixels = moved(pixels, int(how[0]))
        error = out.float() - pixels
        squared = error.square().mean()
        edges = sum(d.abs().mean() for d in differences(error))
        divergence = (mean.float() ** 2 + std.float() ** 2 - 1 - 2 * std.float().log()).mean() / 2
        loss = squared + 0.5 * error.abs().mean() + self.recipe.edges * edges + self.recipe.kl * divergence
        return loss, {"squared": squared.item(), "divergence": divergence.item()}

    def _noise(self, count: int, seed: int) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(seed + 1)
        side = self.recipe.size // self.recipe.vae.factor
        shape = (count, self.recipe.vae.latent_channels, side, side)
        return torch.randn(shape, generator=generator, device=self.device)

    @torch.no_grad()
    def check(self, weights: dict[str, Tensor]) -> dict[str, float]:
        pixels = self.watched.pixels
        out, mean, std = functional_call(self.network, weights, (pixels, self._noise(len(pixels), 0)))
        mse = ((out.clamp(-1, 1) - pixels) / 2).square().mean()
        return {
            "held_out_mse": mse.item(), "psnr": (-10 * mse.log10()).item(), "turned": self._turned(weights, pixels),
            "std": mean.std().item(), "spread": std.mean().item(),
        }  # fmt: skip

    def _turned(self, weights: dict[str, Tensor], pixels: Tensor) -> float:
        """Squared error of pictures decoded from latents that were rotated by a quarter turn."""
        how = torch.ones(len(pixels), dtype=torch.long)
        out, _, _ = functional_call(self.network, weights, (pixels, self._noise(len(pixels), 0), how))
        return ((out.clamp(-1, 1) - moved(pixels, 1)) / 2).square().mean().item()
