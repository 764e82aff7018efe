"""Many grids at once through the method, and how far their B' is from the truth.

`answers` computes what `Analogist.__call__` computes for each grid by itself; it exists because a measurement runs hundreds of
different grids, each with its own prompt, and needs them in one batch.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from analogist.config import AnalogistConfig
from analogist.models.control import AttentionControl
from analogist.models.ddim import add_noise, ddim_step, ddim_times
from analogist.models.vae import Posterior
from analogist.pipeline import Analogist
from analogist.run.seeds import Randomness

from .grids import corners, picture_side


def as_shown(pixels: Tensor) -> Tensor:
    """Pixels in [-1, 1] rounded to the 8 bits that a file holds."""
    return ((pixels + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1


def cell(pixels: Tensor, index: int) -> Tensor:
    """One picture of grids, without its border, in [0, 1]. pixels: grid 3 size size in [-1, 1]; index: A 0, A' 1, B 2, B' 3."""
    row, column = corners(pixels.shape[-1])[index]
    side = picture_side(pixels.shape[-1])
    return (pixels[:, :, row : row + side, column : column + side].clamp(-1, 1) + 1) / 2


def pasted(pixels: Tensor) -> Tensor:
    """The grids with the bottom-left quadrant over B', as the method's start has them."""
    half = pixels.shape[-1] // 2
    out = pixels.clone()
    out[:, :, half:, half:] = pixels[:, :, half:, :half]
    return out


@torch.no_grad()
def answers(model: Analogist, pixels: Tensor, prompts: Sequence[str], config: AnalogistConfig, *, seeds: Sequence[int],
            negative: str = "", together: int = 32, progress: bool = False) -> Tensor:
    """Decoded grids [grid 3 size size] in [-1, 1].

    pixels: grid 3 size size in [-1, 1]; what B' holds is not looked at. prompts, seeds: one a grid.
    together: grids in one UNet call. Raises ValueError where the counts differ.
    """
    if not len(pixels) == len(prompts) == len(seeds):
        raise ValueError(f"{len(pixels)} grids, {len(prompts)} prompts, {len(seeds)} seeds: give one prompt and one seed a grid")
    parts = []
    for first in tqdm(range(0, len(pixels), together), disable=not progress, unit="batch"):
        some = slice(first, first + together)
        parts.append(_answers(model, pixels[some], list(prompts[some]), config, seeds[some], negative))
    return torch.cat(parts)


def _answers(model: Analogist, pixels: Tensor, prompts: list[str], config: AnalogistConfig, seeds: Sequence[int], negative: str) -> Tensor:
    images, size, sampling = len(pixels), pixels.shape[-1], config.sampling
    half, scale = size // 2, model.vae.config.scaling_factor
    mask = torch.zeros(images, 1, size, size)
    mask[:, :, half:, half:] = 1
    start = pasted(as_shown(pixels))
    h = size // model.vae.config.factor
    draws = Randomness(seeds).draw(model.vae.config.latent_channels, h, h)

    def encode(pictures: Tensor, noise: Tensor) -> Tensor:
        posterior = model.vae.posterior(pictures.to(model.device, model.dtype))
        return Posterior(posterior.mean.float(), posterior.std.float()).sample(noise.to(model.device)) * scale

    z0, z_masked = encode(start, draws.image), encode(start * (mask < 0.5), draws.masked)
    fixed = torch.cat([F.interpolate(mask, size=(h, h)).to(model.device), z_masked], dim=1)
    branches = 1 if sampling.guidance == 1 else 2
    encoded = model.text.encode([negative, *prompts])
    text = encoded[1:] if branches == 1 else torch.cat([encoded[:1].expand(images, -1, -1), encoded[1:]])
    prepared = model.unet.prepare_text(text)
    times = ddim_times(sampling.steps, sampling.strength, n=len(model.alpha_bars), offset=model.steps_offset)
    noise = draws.noise.to(model.device)
    z_t = noise if sampling.strength == 1 else add_noise(z0, noise, model.alpha_bars[times[0][0]])
    for i, (t, t_prev) in enumerate(times):
        x = torch.cat([z_t, fixed], dim=1).to(model.dtype)
        control = AttentionControl(step=i, t=t, branches=branches, images=images, sac=config.sac, cam=config.cam, attention="auto")
        eps = model.unet(torch.cat([x] * branches), t, prepared, control).float()
        if branches == 2:
            unguided, guided = eps.chunk(2)
            eps = unguided + sampling.guidance * (guided - unguided)
        end = model.alpha_bars[t_prev] if t_prev >= 0 else model.alpha_bar_end
        z_t, _ = ddim_step(z_t, eps, model.alpha_bars[t], end)
    return model.vae.decode(z_t.to(model.dtype)).float().cpu()


@torch.no_grad()
def reconstruct(model: Analogist, pixels: Tensor, together: int = 32) -> Tensor:
    """The grids through the VAE and back, nothing else: the best that latents can show."""
    parts = []
    for some in pixels.split(together):
        posterior = model.vae.posterior(some.to(model.device, model.dtype))
        parts.append(model.vae.decode(posterior.mean * model.vae.config.scaling_factor).float().cpu())
    return torch.cat(parts)


def squared_error(pictures: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error of each picture [picture]; pictures in [0, 1]."""
    return (pictures - truth).square().mean((1, 2, 3))


def features(pictures: Tensor) -> Tensor:
    """Fixed filter-bank features [picture channel row col]: local colour, and local strength of edges in four directions at three scales.

    Averages over 8 x 8 windows (coarser at coarser scales), so that an edge one or two pixels off costs little and a missing one
    much. Nothing in it is learnt.
    """
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=pictures.device) / 4
    diagonal = torch.tensor([[-2.0, -1, 0], [-1, 0, 1], [0, 1, 2]], device=pictures.device) / 4
    bank = torch.stack([kernel, kernel.T, diagonal, diagonal.flip(0)])[:, None]
    size, found = 8, []
    for scale in (1, 2, 4):
        small = F.avg_pool2d(pictures, scale) if scale > 1 else pictures
        count, channels, height, width = small.shape
        edges = F.conv2d(F.pad(small.reshape(-1, 1, height, width), (1, 1, 1, 1), mode="replicate"), bank).abs()
        edges = edges.reshape(count, channels * 4, height, width)
        found.append(F.adaptive_avg_pool2d(edges, size) * 2)
    found.append(F.adaptive_avg_pool2d(pictures, size))
    return torch.cat(found, dim=1)


def feature_distance(pictures: Tensor, truth: Tensor) -> Tensor:
    """Mean squared difference of `features` [picture]."""
    return (features(pictures) - features(truth)).square().mean((1, 2, 3))


def interval(differences: Tensor, *, resamples: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Mean of paired differences [grid] and its 95 % bootstrap interval (percentiles). Source: Efron 1979."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(differences), (resamples, len(differences)), generator=generator)
    means = differences[rows].mean(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975])).tolist()
    return differences.mean().item(), low, high
