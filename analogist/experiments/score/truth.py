"""A result against the true B': what `Result.score` measures, with the studies' metrics.

Place in the flow: after a run; the studies measure their pictures with the same `Measurer`.
"""

import warnings
from collections.abc import Sequence
from typing import cast

import numpy as np
from PIL import Image

from analogist.experiments.score.metrics import METRICS, NO_WEIGHTS, Measurer, Painted, mse, psnr
from analogist.experiments.score.networks import FeatureNetwork
from analogist.grid.pictures import Picture, read_picture
from analogist.grid.prompt_grid import PromptGrid

ALWAYS = {"mse": mse, "psnr": psnr}  # without any extra


def score(
    grids: Sequence[PromptGrid], painted: Sequence[Sequence[Image.Image]], truth: Picture | Sequence[Picture], *,
    clip: FeatureNetwork | None = None, dino: FeatureNetwork | None = None,
) -> list[dict[str, float]]:  # fmt: skip
    """Metrics of painted grids against the true B' by grid, each the mean over the images of the grid.

    grids: with their sizes. painted: the decoded grids of each. truth: one for all, or a list, one per grid.
    Raises ValueError for lists that differ in length, PictureError for a truth that is no picture.
    """
    truths: list[Picture] = list(truth) if isinstance(truth, list | tuple) else [cast(Picture, truth)] * len(grids)
    if len(truths) != len(grids):
        raise ValueError(f"{len(truths)} truths for {len(grids)} grid{'s' * (len(grids) > 1)}: give one for each, or one for all")
    found = []
    for grid, pictures, one in zip(grids, painted, truths, strict=True):
        measurer = Measurer(tuple(METRICS), clip=clip, dino=dino)
        true = read_picture(one, "true B'")
        rows = [_measure(measurer, grid, picture, true) for picture in pictures]
        found.append({name: float(np.mean([row[name] for row in rows])) for name in rows[0] if all(name in row for row in rows)})
    return found


def _measure(measurer: Measurer, grid: PromptGrid, picture: Image.Image, truth: Image.Image) -> dict[str, float]:
    one = Painted(grid.crop(picture), grid, truth)
    values = {name: measure(one.picture(), one.compared("truth")) for name, measure in ALWAYS.items()}
    measured = measurer.measure(one)
    lost = measured.get("lpips")
    if isinstance(lost, str) and lost.startswith(NO_WEIGHTS):
        warnings.warn(f"lpips is left out: {lost}", stacklevel=4)
    return {**{name: value for name, value in measured.items() if not isinstance(value, str)}, **values}
