"""Trains the UNet and the text encoder on Stable Diffusion's own schedule, with the inpainting conditions.

Its two stages, "generic" and "solver", differ only in their training grids (the recipe's mixes).
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from analogist.models.clip_text import CLIPText
from analogist.models.control import AttentionControl, Tap
from analogist.models.ddim import VELOCITY, Schedule, alpha_bars
from analogist.models.unet import UNet
from analogist.models.vae import VAE, Posterior, VAEConfig

from .drawings import Drawings
from .grids import Batch
from .mixture import training_batch
from .places import Places, taught_sites
from .recipe import Mix, Optimisation, Recipe
from .state import TrainingError, load_state
from .words import text_encoder, tokenizer, unknown_captions

POOL_STEPS = 8  # steps after which a pool of encoded grids has been used once
CHECK_TIMES = (961, 801, 501)
UNKNOWN = 4096  # captions of words outside the vocabulary, from which they are taken


class Denoiser(nn.Module):
    """Text encoder and UNet together. x: batch 9 h w; t: batch; ids: batch token -> predicted velocity or noise."""

    def __init__(self, text: CLIPText, unet: UNet) -> None:
        super().__init__()
        self.text, self.unet = text, unet

    def forward(self, x: Tensor, t: Tensor, ids: Tensor, tap: Tap | None = None) -> Tensor:
        # Many captions of a batch are empty, so each distinct caption is encoded once.
        different, which = torch.unique(ids, dim=0, return_inverse=True)
        text = self.text(different).last
        # On a CPU at these sizes the backward pass of the explicit form is twice as fast as the fused form's; on a GPU it is not.
        form = "explicit" if x.device.type == "cpu" else "auto"
        return self.unet(x, t, text[which], AttentionControl(branches=1, images=len(x), attention=form, tap=tap))


@dataclass
class Encoded:
    """Grids in the form that the UNet reads. Leading axis: grid."""

    image: Posterior  # not scaled
    masked: Posterior
    mask: Tensor  # grid 1 h w
    ids: Tensor  # grid token

    def pick(self, rows: Tensor) -> "Encoded":
        image, masked = (Posterior(p.mean[rows], p.std[rows]) for p in (self.image, self.masked))
        return Encoded(image, masked, self.mask[rows], self.ids[rows])


def load_vae(folder: Path, recipe: Recipe, watched: Batch) -> VAE:
    """The trained autoencoder with averaged weights; its scaling factor is measured on the grids of the checks.

    Raises TrainingError if it is missing or belongs to another recipe.
    """
    path = folder / "vae.safetensors"
    if not path.exists():
        raise TrainingError(f"no {path}: train the autoencoder first (python -m analogist.lab.train vae --out {folder})")
    identity = recipe.identity("vae")
    groups, _ = load_state(path, identity, keys=("size", "vae"))
    vae = VAE(recipe.vae)
    vae.load_state_dict({name.removeprefix("vae."): t for name, t in groups["ema"].items()})
    vae = vae.to(watched.pixels.device).eval().requires_grad_(False)
    with torch.no_grad():
        posterior = vae.posterior(watched.pixels)
    # Rounded, so that the last bits of the sum do not matter.
    scale = round(1 / float((posterior.mean.square().mean() + posterior.std.square().mean() - posterior.mean.mean() ** 2).sqrt()), 4)
    vae.config = replace(vae.config, scaling_factor=scale)
    return vae


def scaled(config: VAEConfig, posterior: Posterior, noise: Tensor) -> Tensor:
    """Sampled latents, VAE-scaled."""
    return posterior.sample(noise) * config.scaling_factor


def target_weights(recipe: Recipe, alpha_bar: Tensor) -> Tensor:
    """Loss weight of the squared error of the UNet's prediction, at each time.

    The error in x0 has the weight min(max(SNR, floor), ceiling). For velocity this is multiplied by 1 - alpha_bar, because an error e in v
    is an error of sqrt(1 - alpha_bar) e in x0; for noise it is divided by the SNR.

    Source: Hang et al. 2023 (min-SNR), Eq. (9); the floor is ours: the condition nearly determines an analogy's answer,
    so what the network paints from pure noise matters most.
    """
    snr = alpha_bar / (1 - alpha_bar)
    weight = snr.clamp(recipe.snr_floor, recipe.snr_ceiling)
    return weight * (1 - alpha_bar) if recipe.prediction == VELOCITY else weight / snr


def soft_start(unet: UNet) -> None:
    """Starts with weak residual branches and zero output, so that the first steps need not undo random mixing."""
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if name.endswith(("conv2.weight", "proj_out.weight")):
                weight.mul_(0.1)
        unet.conv_out.weight.zero_()


class UNetTask:
    """The task for `loop.train` of text encoder and UNet; the autoencoder is frozen."""

    def __init__(self, stage: str, recipe: Recipe, device: torch.device, folder: Path, drawings: Drawings | None, watched: Batch) -> None:
        self.name, self.recipe, self.device, self.drawings = stage, recipe, device, drawings
        self.mix: Mix = getattr(recipe, stage)
        self.optimisation: Optimisation = getattr(recipe, f"{stage}_training")
        torch.manual_seed(self.optimisation.seed)
        self.vae = load_vae(folder, recipe, watched)
        self.low_vae = VAE(recipe.vae).to(device).requires_grad_(False).eval()
        self.low_vae.load_state_dict(self.vae.state_dict())
        self.low_vae.to(torch.bfloat16)
        self.tokenizer = tokenizer(recipe.text.positions)
        unet = UNet(recipe.unet)
        soft_start(unet)
        self.network = Denoiser(text_encoder(recipe.text), unet)
        self.schedule = Schedule(alpha_bars().to(device), prediction_type=recipe.prediction)
        teaches = stage == "solver" and recipe.taught and recipe.taught_steps
        self._taught = taught_sites(unet, recipe.size // self.vae.config.factor) if teaches else None
        self._empty = self._ids([""])
        self._unknown = self._ids(unknown_captions(UNKNOWN, self.optimisation.seed)) if recipe.unknown else self._empty
        self._pools: dict[int, Future[Encoded]] = {}  # by first step; the next pool is drawn while this one is used
        self._drawing = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))
        self._watched = self._encode(watched)

    def _ids(self, captions: list[str]) -> Tensor:
        ids = self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        return ids.to(self.device)

    @torch.no_grad()
    def _encode(self, batch: Batch) -> Encoded:
        """Posteriors, computed by bfloat16 networks and kept as float32."""
        parts, rows = [], 32 if self.device.type == "cpu" else 512  # small batches fit into a CPU's cache
        for pixels in (batch.pixels, batch.pixels * (batch.mask < 0.5)):
            done = [self.low_vae.posterior(some.to(torch.bfloat16)) for some in pixels.split(rows)]
            parts.append(Posterior(torch.cat([p.mean for p in done]).float(), torch.cat([p.std for p in done]).float()))
        mask = F.interpolate(batch.mask, size=parts[0].mean.shape[-2:], mode="nearest")
        return Encoded(parts[0], parts[1], mask, self._ids(batch.captions))

    def _grids(self, seed: int, step: int) -> Encoded:
        """The grids of a step. A pool of POOL_STEPS batches is drawn at once and used `reuse` times, each time in a new order."""
        begin = seed - step  # step s of this training has the seed begin + s
        first = step - step % (POOL_STEPS * self.recipe.reuse)  # the first step of this pool
        turn, place = divmod(step - first, POOL_STEPS)  # how often the pool was used before; which batch of it
        shuffled = torch.Generator().manual_seed(begin + first + turn)
        order = torch.randperm(POOL_STEPS * self.optimisation.batch, generator=shuffled)
        rows = order[place * self.optimisation.batch : (place + 1) * self.optimisation.batch]
        return self._pool(begin + first, first).pick(rows.to(self.device))

    def _pool(self, seed: int, first: int) -> Encoded:
        """The pool for the steps from `first` on; the next one is drawn in the background."""
        steps = POOL_STEPS * self.recipe.reuse
        wanted = (first, first + steps)
        self._pools = {start: self._pools.get(start) or self._drawing.submit(self._draw_pool, seed + start - first) for start in wanted}
        return self._pools[first].result()

    def _draw_pool(self, seed: int) -> Encoded:
        drawn = training_batch(POOL_STEPS * self.optimisation.batch, mix=self.mix, size=self.recipe.size, seed=seed, drawings=self.drawings,
                               device=self.device)
        return self._encode(drawn)

    def batch(self, seed: int, step: int) -> tuple[Tensor, ...]:
        """The UNet's input, times, captions, the target of its prediction, and the loss weight of every place.

        While the solver is taught places (`places.py`), also the weight of that loss, one number per grid.
        """
        r, config = self.recipe, self.vae.config
        grids = self._grids(seed, step)
        count = len(grids.mask)
        generator = torch.Generator(self.device).manual_seed(seed + 1)
        noise = torch.randn((3, *grids.image.mean.shape), generator=generator, device=self.device)
        dropped = torch.rand(count, generator=generator, device=self.device) < r.dropped
        # One time from each of `count` equal parts of the schedule: less variance than independent ones.
        places = (torch.arange(count, device=self.device) + torch.rand(count, generator=generator, device=self.device)) / count
        t = (places**r.skew * len(self.schedule)).long().clamp(max=len(self.schedule) - 1)
        t = t[torch.randperm(count, generator=generator, device=self.device)]
        ids = grids.ids
        if r.unknown:
            replaced = torch.rand(count, generator=generator, device=self.device) < r.unknown
            others = self._unknown[torch.randint(len(self._unknown), (count,), generator=generator, device=self.device)]
            ids = torch.where(replaced[:, None], others, ids)
        ids = torch.where(dropped[:, None], self._empty, ids)
        z0, z_masked = scaled(config, grids.image, noise[0]), scaled(config, grids.masked, noise[1])
        x = torch.cat([self.schedule.add_noise(z0, noise[2], t), grids.mask, z_masked], dim=1)
        where = torch.where(grids.mask > 0.5, 1.0, r.known_weight)
        batch = (x, t, ids, self.schedule.target(z0, noise[2], t), where)
        if self._taught is not None and step < r.taught_steps:
            return *batch, torch.full((count,), r.taught, device=self.device)
        return batch

    def loss(
        self, run: Callable[..., Any], x: Tensor, t: Tensor, ids: Tensor, wanted: Tensor, where: Tensor, taught: Tensor | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        places = None if taught is None or self._taught is None else Places(self._taught)
        error = (run(x, t, ids, places).float() - wanted).square()
        each = (error * where).mean((1, 2, 3)) / where.mean((1, 2, 3))
        weights = target_weights(self.recipe, self.schedule.alpha_bars[t])
        loss, figures = (each * weights).mean(), {"error": each.detach().mean().item()}
        if places is not None and taught is not None:
            loss = loss + taught.mean() * places.loss
            figures["places"] = places.loss.item()
        return loss, figures

    @torch.no_grad()
    def check(self, weights: dict[str, Tensor]) -> dict[str, float]:
        """Mean squared error of the predicted x0 in B' at three times, on held-out grids with their captions."""
        grids, figures = self._watched, {}
        generator = torch.Generator(self.device).manual_seed(0)
        noise = torch.randn((3, *grids.image.mean.shape), generator=generator, device=self.device)
        z0, z_masked = scaled(self.vae.config, grids.image, noise[0]), scaled(self.vae.config, grids.masked, noise[1])
        for time in CHECK_TIMES:
            x = torch.cat([self.schedule.add_noise(z0, noise[2], time), grids.mask, z_masked], dim=1)
            t = torch.full((len(x),), time, device=self.device)
            x0 = self.schedule.x0(x[:, :4], functional_call(self.network, weights, (x, t, grids.ids)), time)
            error = ((x0 - z0).square() * grids.mask).sum() / (grids.mask.sum() * z0.shape[1])
            figures[f"x0_error_{time}"] = error.item()
        return figures
