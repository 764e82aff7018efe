"""Runs the method on many grids at once and measures the distance of each B' from the true one.

`answers` computes what `Analogist.__call__` computes for each grid alone, through the same sampler. It exists because a
measurement runs hundreds of different grids that were never pictures, each with its own prompt, and needs them in one batch.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from analogist.attention.edit.edits import Edits
from analogist.attention.select.run_shape import RunShape
from analogist.attention.tap import StudyTap
from analogist.config import AnalogistConfig
from analogist.pipeline import Analogist
from analogist.run.sampling import Run, decode, posteriors
from analogist.run.seeds import Randomness

from .grids import corners, picture_side


def as_shown(pixels: Tensor) -> Tensor:
    """Pixels in [-1, 1] rounded to 8 bits, as in a picture file."""
    return ((pixels + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1


def cell(pixels: Tensor, index: int) -> Tensor:
    """One picture of each grid, without its border, in [0, 1]. pixels: grid 3 size size in [-1, 1]; index: A 0, A' 1, B 2, B' 3."""
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
            negative: str = "", together: int = 32, progress: bool = False, edit: Edits | None = None) -> Tensor:
    """Decoded grids [grid 3 size size] in [-1, 1].

    pixels: grid 3 size size in [-1, 1]; the content of B' is ignored. prompts, seeds: one per grid.
    together: grids per UNet call. edit: as in a call of the model; it sees the grids of one UNet call as images, and no prompt's words.
    Raises ValueError if the counts differ.
    """
    if not len(pixels) == len(prompts) == len(seeds):
        raise ValueError(f"{len(pixels)} grids, {len(prompts)} prompts, {len(seeds)} seeds: give one prompt and one seed per grid")
    parts = []
    for first in tqdm(range(0, len(pixels), together), disable=not progress, unit="batch"):
        some = slice(first, first + together)
        parts.append(_answers(model, pixels[some], list(prompts[some]), config, seeds[some], negative, edit))
    return torch.cat(parts)


def _answers(model: Analogist, pixels: Tensor, prompts: list[str], config: AnalogistConfig, seeds: Sequence[int], negative: str,
             edit: Edits | None) -> Tensor:
    images, size, half = len(pixels), pixels.shape[-1], pixels.shape[-1] // 2
    mask = torch.zeros(images, 1, size, size, device=pixels.device)
    mask[:, :, half:, half:] = 1
    start = pasted(as_shown(pixels))
    h, randomness = size // model.vae.config.factor, Randomness(seeds)
    encoded = model.text.encode([negative, *prompts])
    times = model.schedule.times(config.sampling.steps, config.sampling.strength)
    shape = RunShape(steps=len(times), times=tuple(t for t, _ in times), branches=config.sampling.branches, images=images, latent=(h, h),
                     size=(size, size), tokens=model.text.length, dtype=model.dtype)
    run = Run(
        unet=model.unet, schedule=model.schedule, text=encoded[[0] * images + list(range(1, images + 1))],
        start=posteriors(model.vae, start, start * (mask < 0.5), mask).start(randomness.draw(model.vae.config.latent_channels, h, h)),
        times=times, config=config, randomness=randomness, rows=2, attention=model.attention, images_at_once=images,
        tap=None if edit is None else StudyTap(None, edit, model.unet, shape),
    )  # fmt: skip
    *_, last = run.steps()
    return decode(model.vae, last.z_t, at_once=images).cpu()


@torch.no_grad()
def reconstruct(model: Analogist, pixels: Tensor, together: int = 32) -> Tensor:
    """The grids encoded and decoded by the VAE alone: the best result that latents allow."""
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

    Averages over 8 x 8 windows (coarser at coarser scales), so that an edge shifted by one or two pixels costs little and a missing
    edge costs much. Nothing in it is learnt.
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
