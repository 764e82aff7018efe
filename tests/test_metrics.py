"""Metrics on pictures and features made by hand, statistics against closed forms and brute force."""

import importlib.util
import itertools
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from analogist.experiments.decide.statistics import effect, holm, sign_flip
from analogist.experiments.score.distances import distances
from analogist.experiments.score.metrics import METRICS, Measurer, Painted, check_metrics, direction_similarity
from analogist.experiments.score.networks import NetworkError, load_network
from analogist.experiments.score.truth import score
from analogist.grid import PromptGrid

PREPROCESSING = {
    "size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "do_resize": True, "do_center_crop": True,
    "do_rescale": True, "do_normalize": True, "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
}  # fmt: skip


def tiny_networks(folder):
    """A CLIP and a DINO image encoder with random weights, as folders."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, Dinov2Config, Dinov2Model

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    for kind, network, processor in (
        ("clip", CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes, intermediate_size=32, projection_dim=6)), "CLIPImageProcessor"),
        ("dino", Dinov2Model(Dinov2Config(**sizes)), "BitImageProcessor"),
    ):
        network.save_pretrained(folder / kind)
        (folder / kind / "preprocessor_config.json").write_text(json.dumps(PREPROCESSING | {"image_processor_type": processor}))
    return folder


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tiny_networks(tmp_path_factory.mktemp("networks"))
    return {kind: load_network(kind, str(folder / kind)) for kind in ("clip", "dino")}


def picture(side: int = 64, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))


@pytest.fixture(scope="module")
def painted():
    grid = PromptGrid(picture(seed=1), picture(seed=2), picture(seed=3), 128)
    inner = grid.boxes(without_border=True)["B'"]
    return Painted(picture(64, 4), grid, picture(inner[2] - inner[0], 5))


def test_clip_direction_equals_the_formula_by_hand() -> None:
    a, ap, b, bp = (torch.tensor(values) for values in ([3.0, 0, 0], [0.0, 4, 0], [0.0, 0, 2], [1.0, 1, 0]))
    # raw: (-3, 4, 0) . (1, 1, -2) = 1; lengths 5 and sqrt 6
    assert direction_similarity(a, ap, b, bp, normalise=False) == pytest.approx(1 / (5 * math.sqrt(6)))
    # normalised: (-1, 1, 0) . (1/sqrt2, 1/sqrt2, -1) = 0
    assert direction_similarity(a, ap, b, bp, normalise=True) == pytest.approx(0, abs=1e-7)
    c = torch.tensor([0.0, 2, 0])
    # (-1, 1, 0) . (-1/sqrt2, 1 - 1/sqrt2, 0) = 1; lengths sqrt 2 and sqrt(1/2 + (1 - 1/sqrt2)^2)
    expected = 1 / (math.sqrt(2) * math.sqrt(0.5 + (1 - math.sqrt(0.5)) ** 2))
    assert direction_similarity(a, ap, bp, c, normalise=True) == pytest.approx(expected)


def test_the_measured_direction_is_that_of_the_cells_features(painted, networks) -> None:
    measured = Measurer(["clip_direction", "clip_direction_normalised"], **networks).measure(painted)
    cells = painted.grid.cells(without_border=True)
    f = {name: networks["clip"].features([cells[name].resize((64, 64))])[0] for name in ("A", "A'", "B")}
    ours = networks["clip"].features([painted.cell])[0]
    d1, d2 = (f["A'"] - f["A"]).double(), (ours - f["B"]).double()
    assert measured["clip_direction"] == pytest.approx((d1 @ d2 / d1.norm() / d2.norm()).item(), rel=1e-4)
    assert measured["clip_direction_normalised"] != measured["clip_direction"]


def test_distances_to_the_truth_equal_numpy(painted) -> None:
    measured = Measurer(["mse", "psnr", "ssim", "mse_colour", "mse_detail", "mse_to_b", "mse_to_a_prime"]).measure(painted)
    ours, true = (np.asarray(one, float) / 255 for one in (painted.picture(), painted.truth))
    mse = ((ours - true) ** 2).mean()
    assert measured["mse"] == pytest.approx(mse, rel=1e-5)
    assert measured["psnr"] == pytest.approx(-10 * math.log10(mse), rel=1e-5)
    b = np.asarray(painted.grid.cells(without_border=True)["B"].resize(painted.picture().size), float) / 255
    assert measured["mse_to_b"] == pytest.approx(((ours - b) ** 2).mean(), rel=1e-5)
    assert measured["mse_colour"] < measured["mse"] / 20  # noise averages away over 4 x 4 px
    assert measured["mse_detail"] == pytest.approx(mse, rel=0.1)
    same = Measurer(["ssim", "mse"]).measure(Painted(painted.cell, painted.grid, painted.picture()))
    assert same == {"ssim": pytest.approx(1.0), "mse": 0.0}


def test_feature_distances_are_zero_for_the_truth_and_positive_otherwise(painted, networks) -> None:
    measurer = Measurer(["clip_distance", "dino_distance"], **networks)
    assert all(value > 1e-4 for value in measurer.measure(painted).values())
    same = measurer.measure(Painted(painted.cell, painted.grid, painted.picture()))
    assert same == {"clip_distance": pytest.approx(0, abs=1e-6), "dino_distance": pytest.approx(0, abs=1e-6)}


def test_what_cannot_be_measured_says_why_and_the_rest_goes_on(painted, monkeypatch) -> None:
    alone = Painted(painted.cell, painted.grid)
    measured = Measurer(["mse", "clip_direction", "mse_to_b"]).measure(alone)
    assert "no true B'" in measured["mse"] and "no clip network given" in measured["clip_direction"]
    assert isinstance(measured["mse_to_b"], float)
    small = PromptGrid(picture(seed=1), picture(seed=2), picture(seed=3), 20)
    assert "needs at least 11 px per side" in Measurer(["ssim_to_b"]).measure(Painted(picture(10), small))["ssim_to_b"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    measured = Measurer(["mse", "lpips", "mse_to_b"]).measure(painted)
    assert all("torchmetrics is not installed" in value for value in measured.values())


def alexnet_features(*_, **__) -> torch.nn.Sequential:
    """The layers of AlexNet that lpips reads, as published (Krizhevsky 2014, in torchvision's order), with random weights."""
    torch.manual_seed(0)
    conv, relu, pool = torch.nn.Conv2d, torch.nn.ReLU, torch.nn.MaxPool2d
    return torch.nn.Sequential(
        conv(3, 64, 11, stride=4, padding=2), relu(), pool(3, 2), conv(64, 192, 5, padding=2), relu(), pool(3, 2),
        conv(192, 384, 3, padding=1), relu(), conv(384, 256, 3, padding=1), relu(), conv(256, 256, 3, padding=1), relu(),
    )  # fmt: skip


@pytest.fixture
def perceptual(monkeypatch) -> None:
    """torchmetrics' own perceptual distance on these layers, whether torchvision is installed or not."""
    pytest.importorskip("torchmetrics")
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name == "torchvision" else found(name))
    monkeypatch.setattr("torchmetrics.image.lpip._TORCHVISION_AVAILABLE", True)
    monkeypatch.setattr("torchmetrics.functional.image.lpips._get_tv_model_features", alexnet_features)


def test_the_perceptual_distance_is_measured_from_the_least_size_that_its_network_takes(perceptual) -> None:
    layers, taken = alexnet_features(), {}
    for side in range(11, 48):
        try:
            taken[side] = layers(torch.zeros(1, 3, side, side)).shape[-1] > 0
        except RuntimeError:  # a layer without any place
            taken[side] = False
    measurer = Measurer(["lpips", "lpips_to_b", "mse"])
    for size in (64, 66, 68, 128):  # of the grid; its cells hold pictures of int(size / 2 - 3) px
        grid = PromptGrid(picture(seed=1), picture(seed=2), picture(seed=3), size)
        measured = measurer.measure(one := Painted(picture(size // 2, 4), grid, picture(40, 5)))
        side = one.picture().width
        assert side == size // 2 - 3
        if taken.get(side, True):
            assert all(isinstance(value, float) and math.isfinite(value) for value in measured.values()), size
        else:
            assert isinstance(measured["mse"], float) and measured["lpips"] == measured["lpips_to_b"]
            assert measured["lpips"] == f"the picture is {side} x {side} px; the perceptual distance needs at least 31 px per side"
    assert [side for side, there in taken.items() if not there] == list(range(11, 31))


def test_a_result_of_a_small_grid_is_scored_without_the_perceptual_distance(perceptual) -> None:
    for size, there in ((64, False), (128, True)):  # 64: the lab checkpoint's own size
        grid = PromptGrid(picture(seed=1), picture(seed=2), picture(seed=3), size)
        (scores,) = score([grid], [[grid.pasted()]], picture(40, 5))
        assert ("lpips" in scores) == there and {"mse", "psnr", "ssim", "mse_to_b"} <= set(scores)


def test_unknown_metrics_and_wrong_networks_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="allowed are mse"):
        check_metrics(["beauty"])
    tiny_networks(tmp_path)
    with pytest.raises(NetworkError, match="weights are missing"):
        load_network("clip", str(tmp_path / "dino"))
    with pytest.raises(NetworkError, match="cannot be loaded"):
        load_network("dino", str(tmp_path / "nothing"))
    (tmp_path / "clip" / "preprocessor_config.json").unlink()
    with pytest.raises(NetworkError, match="cannot be loaded"):
        load_network("clip", str(tmp_path / "clip"))


def test_another_network_is_another_measured_value(networks) -> None:
    first = Measurer(["clip_direction", "mse"], clip=networks["clip"])
    assert first.key("mse") == "mse" and first.key("clip_direction") == f"clip_direction@{networks['clip'].fingerprint[:16]}"
    assert set(METRICS) >= set(first.names)


def test_frechet_distance_is_named_after_its_network_and_equals_the_formula(networks) -> None:
    pytest.importorskip("torchmetrics")
    ours, true = [picture(40, seed) for seed in range(12)], [picture(40, 100 + seed) for seed in range(14)]
    values, notes = distances(ours, true, [networks["clip"]])
    assert set(values) >= {"frechet_clip", "kernel_clip"} and "frechet_inception" in {**values, **notes}
    x, y = (networks["clip"].features(pictures).double().numpy() for pictures in (ours, true))
    cx, cy = np.cov(x.T), np.cov(y.T)
    root = np.sqrt(np.linalg.eigvals(cx @ cy).real.clip(0)).sum()
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cx) + np.trace(cy) - 2 * root
    assert values["frechet_clip"] == pytest.approx(expected, rel=1e-2, abs=1e-4)
    state = torch.random.get_rng_state()
    assert distances(ours, true, [networks["clip"]])[0] == values
    assert torch.equal(torch.random.get_rng_state(), state)  # nobody else's random numbers were touched
    assert "no feature network" in distances(ours, true, [])[1]["frechet"]
    assert "two of each" in distances(ours[:1], true, [])[1]["frechet"]


def test_sign_flip_counts_every_flip() -> None:
    values = [0.5, 1.0, -0.25, 2.0, 0.75]
    flips = [abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in itertools.product((1, -1), repeat=5)]
    expected = sum(flip >= sum(values) - 1e-12 for flip in flips) / 32
    assert sign_flip(values) == expected
    many = np.random.default_rng(3).normal(0, 1, 40)
    assert 0.02 < sign_flip(many) <= 1 and sign_flip(many + 3) < 1e-3
    assert sign_flip([1.0]) is None


def test_holm_by_hand() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_an_effect_pairs_runs_and_leaves_out_those_without_a_partner() -> None:
    variant = {("a", 1): 3.0, ("b", 1): 5.0, ("c", 1): 100.0}
    found = effect("mse", "f", "x", "base", variant, {("a", 1): 1.0, ("b", 1): 2.0, ("d", 1): 7.0})
    assert (found.mean, found.pairs, found.units, found.reference_mean) == (2.5, 2, 2, 1.5)
    assert effect("mse", "f", "x", "base", variant, {}) is None
