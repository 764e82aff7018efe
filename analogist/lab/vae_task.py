"""Training the autoencoder on drawn grids: pictures in, the same pictures out, through a small Gaussian bottleneck."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from analogist.models.vae import VAE

from .grids import Batch, evaluation_batch, training_batch
from .recipe import Recipe
from .split import EVALUATION_SEED, FAMILIES


class Reconstruction(nn.Module):
    """A VAE from pixels to pixels. Returns (pixels, mean, std), latents not scaled."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, pixels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        posterior = self.vae.posterior(pixels)
        return self.vae.decoder(self.vae.post_quant_conv(posterior.sample(noise))), posterior.mean, posterior.std


def near_identity(vae: VAE) -> None:
    """Start from weak residual branches and resampling that only averages or repeats: learns much faster from there."""
    with torch.no_grad():
        for name, module in vae.named_modules():
            if name.endswith(("conv2", "to_out")):
                module.weight.mul_(0.1)
            if name.endswith(("downsample.conv", "upsample.conv")):
                module.weight.mul_(0.1)
                eye = torch.eye(module.weight.shape[0])
                if "downsample" in name:  # the picture is padded right and below: the mean of a 2 x 2 block
                    module.weight[:, :, :2, :2] += eye[:, :, None, None] / 4
                else:
                    module.weight[:, :, 1, 1] += eye


def held_out_grids(size: int, count: int, device: torch.device) -> Batch:
    """The pictures that training is watched with: every family in turn."""
    return evaluation_batch([FAMILIES[i % len(FAMILIES)] for i in range(count)], size=size, seed=EVALUATION_SEED + 17, device=device)


class VAETask:
    """Task of `loop.train`: absolute and squared error, and the posterior's divergence with a small weight."""

    name = "vae"

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        torch.manual_seed(recipe.vae_training.seed)
        self.recipe, self.device = recipe, device
        vae = VAE(recipe.vae)
        near_identity(vae)
        self.network = Reconstruction(vae)

    def batch(self, seed: int, step: int) -> tuple[Tensor, ...]:
        r = self.recipe
        pixels = training_batch(r.vae_training.batch, size=r.size, seed=seed, analogy_share=r.analogy_share, device=self.device).pixels
        return pixels, self._noise(len(pixels), seed)

    def loss(self, run: Callable[..., object], pixels: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, float]]:
        out, mean, std = run(pixels, noise)
        error = out.float() - pixels
        squared = error.square().mean()
        divergence = (mean.float() ** 2 + std.float() ** 2 - 1 - 2 * std.float().log()).mean() / 2
        loss = squared + 0.5 * error.abs().mean() + self.recipe.kl * divergence
        return loss, {"squared": squared.item(), "divergence": divergence.item()}

    def _noise(self, count: int, seed: int) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(seed + 1)
        side = self.recipe.size // self.recipe.vae.factor
        shape = (count, self.recipe.vae.latent_channels, side, side)
        return torch.randn(shape, generator=generator, device=self.device)

    @torch.no_grad()
    def check(self, weights: dict[str, Tensor]) -> dict[str, float]:
        pixels = held_out_grids(self.recipe.size, 23, self.device).pixels
        out, mean, std = functional_call(self.network, weights, (pixels, self._noise(len(pixels), 0)))
        mse = ((out.clamp(-1, 1) - pixels) / 2).square().mean()
        return {"held_out_mse": mse.item(), "psnr": (-10 * mse.log10()).item(), "std": mean.std().item(), "spread": std.mean().item()}
