"""Fréchet and kernel distances between painted B' and truths, through torchmetrics, named after their feature network."""

import importlib.util
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from analogist.experiments.score.networks import FeatureNetwork

SUBSET = 50  # pictures in a subset of the kernel distance; all pictures if there are fewer


def _stack(pictures: Sequence[Image.Image]) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1) for picture in pictures])


def distances(
    painted: Sequence[Image.Image], truths: Sequence[Image.Image], networks: Sequence[FeatureNetwork]
) -> tuple[dict[str, float], dict[str, str]]:
    """Values by name (frechet_<network>, kernel_<network>, frechet_inception), and why the others were not measured.

    painted, truths: pictures of one size. Deterministic: the kernel distance's subsets are drawn from a fixed seed.
    """
    if importlib.util.find_spec("torchmetrics") is None:
        why = "torchmetrics is not installed: pip install 'analogist[eval]'"
        return {}, {"frechet": why, "kernel": why}
    values: dict[str, float] = {}
    notes: dict[str, str] = {}
    if len(painted) < 2 or len(truths) < 2:
        return {}, {"frechet": f"{len(painted)} pictures and {len(truths)} truths; at least two of each are needed"}
    ours, true = _stack(painted), _stack(truths)
    for network in networks:
        values |= _of_network(ours, true, network)
    if not networks:
        notes |= dict.fromkeys(("frechet", "kernel"), "no feature network given (--clip or --dino FOLDER or hub id)")
    if importlib.util.find_spec("torch_fidelity") is None:
        notes["frechet_inception"] = "torch-fidelity is not installed: pip install 'analogist[perceptual]'"
    else:
        from torchmetrics.image.fid import FrechetInceptionDistance

        try:
            values["frechet_inception"] = _updated(FrechetInceptionDistance(feature=2048), ours, true).compute().item()
        except (OSError, RuntimeError) as error:  # its weights are downloaded on first use
            notes["frechet_inception"] = f"the Inception network is not available ({' '.join(str(error).split())[:200]})"
    return values, notes


def _of_network(ours: Tensor, true: Tensor, network: FeatureNetwork) -> dict[str, float]:
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message=".*will save all extracted features.*")
        torch.manual_seed(0)
        frechet = _updated(FrechetInceptionDistance(feature=network), ours, true)
        kernel = _updated(KernelInceptionDistance(feature=network, subset_size=min(SUBSET, len(ours), len(true))), ours, true)
        return {f"frechet_{network.name}": frechet.compute().item(), f"kernel_{network.name}": kernel.compute()[0].item()}


def _updated(metric, ours: Tensor, true: Tensor):
    for pictures, real in ((true, True), (ours, False)):
        for part in pictures.split(64):
            metric.update(part, real=real)
    return metric
