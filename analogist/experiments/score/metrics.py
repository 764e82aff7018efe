"""Metrics of one painted B', with torchmetrics and feature networks. A metric that cannot be measured says why.

Distances are between the picture in the cell of B' (without its border) and the truth, fitted into that cell as B was, or B or A'.
CLIP direction is measured as published: on the whole cell of B'; A, A' and B are cut out without their borders.
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from analogist.experiments.design.levels import StudyError
from analogist.experiments.design.own import OwnMetric
from analogist.experiments.score.networks import FeatureNetwork
from analogist.grid.fit import fitted
from analogist.grid.prompt_grid import PromptGrid

NO_WEIGHTS = "its weights cannot be had"
LEAST_SSIM = 11  # px per side: the window that structural similarity looks through
LEAST_LPIPS = 31  # px per side: the least of which AlexNet's last two layers that lpips reads still have one place
COARSE = 4  # pixels per side to which a picture is reduced to compare only colours


@dataclass(frozen=True, eq=False)
class Painted:
    """One painted B' and what it is compared with. cell: the B' cell. grid: what it was painted from. truth: the true B'.

    example, maps: for own metrics, the study's Input and the maps that each metric with a capture gets, by its name.
    """

    cell: Image.Image
    grid: PromptGrid
    truth: Image.Image | None = None
    example: object = None
    maps: Mapping[str, object] = field(default_factory=dict)

    def cells(self) -> dict[str, Image.Image]:
        """A, A' and B as in the grid, without borders; the first pair if there are several."""
        cells = self.grid.cells(without_border=True)
        first = ("A", "A'") if "A" in cells else ("A1", "A1'")
        return {"A": cells[first[0]], "A'": cells[first[1]], "B": cells["B"]}

    def picture(self) -> Image.Image:
        """The picture in the cell of B', without its border."""
        whole, inner = self.grid.boxes()["B'"], self.grid.boxes(without_border=True)["B'"]
        left, top = whole[0], whole[1]
        return self.cell.crop((inner[0] - left, inner[1] - top, inner[2] - left, inner[3] - top))

    def other(self, which: str) -> Image.Image | None:
        """The truth, B or A' at the size of the picture; the truth is fitted into it as the grid's pictures are into their cells."""
        size = self.picture().size
        if which == "truth":
            return None if self.truth is None else fitted(self.truth.convert("RGB"), size, self.grid.fit)
        found = self.cells()[which]  # as the grid shows it, so already fitted; at odd sizes cells may differ by a pixel
        return found if found.size == size else found.resize(size)

    def compared(self, which: str) -> Image.Image:
        """`other`, where it must be there. Raises NotMeasured without a truth."""
        found = self.other(which)
        if found is None:
            raise NotMeasured("there is no true B' to compare with")
        return found


@dataclass(frozen=True)
class Metric:
    """A number per picture. better: "lower", "higher" or "" (neither). needs: torchmetrics, truth, clip, dino, lpips.

    fingerprint: of an own function, "" for those that are here. capture: what it looks at besides the picture.
    """

    name: str
    text: str
    better: str
    needs: tuple[str, ...]
    measure: Callable[["Measurer", Painted], float]
    fingerprint: str = ""
    capture: object = None


def _tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None].float().contiguous() / 255


def mse(a: Image.Image, b: Image.Image) -> float:
    """Mean squared error of two pictures of one size, levels 0..1."""
    return (_tensor(a) - _tensor(b)).square().mean().item()


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Peak signal to noise ratio in dB; infinite for equal pictures."""
    return -10 * (_tensor(a) - _tensor(b)).square().mean().log10().item()


def _at_least(side: int, picture: Image.Image, what: str) -> None:
    """Raises NotMeasured where a picture is too small for a metric. side: px that it needs. what: the metric in words."""
    if min(picture.size) < side:
        raise NotMeasured(f"the picture is {picture.width} x {picture.height} px; {what} needs at least {side} px per side")


def _ssim(a: Image.Image, b: Image.Image) -> float:
    from torchmetrics.functional.image import structural_similarity_index_measure

    _at_least(LEAST_SSIM, a, "structural similarity")
    # a tuple only where its gradient or its full image is asked for
    return cast(Tensor, structural_similarity_index_measure(_tensor(a), _tensor(b), data_range=1.0)).item()


def _coarse(picture: Image.Image) -> Image.Image:
    return picture.resize((COARSE, COARSE), Image.Resampling.BOX)


def _mse_detail(a: Image.Image, b: Image.Image) -> float:
    from torchmetrics.functional import mean_squared_error

    def detail(picture: Image.Image) -> Tensor:
        return _tensor(picture) - _tensor(_coarse(picture).resize(picture.size, Image.Resampling.BICUBIC))

    return mean_squared_error(detail(a), detail(b)).item()


class NotMeasured(ValueError):
    """A metric cannot be measured here. The message says why."""


class Measurer:
    """Measures metrics. clip, dino: feature networks, None where not given. metrics: all of them by name, own ones among them."""

    def __init__(
        self, given: Sequence[str | OwnMetric], *, clip: FeatureNetwork | None = None, dino: FeatureNetwork | None = None
    ) -> None:  # fmt: skip
        """Raises StudyError for a name that is no metric, or an own metric that has the name of another."""
        own = {one.name: one for one in given if isinstance(one, OwnMetric)}
        listed = [one for one in given if isinstance(one, str)]
        if listed or not own:
            check_metrics(listed)
        taken = sorted(set(own) & set(METRICS))
        if taken:
            raise StudyError(f"metrics {taken} already exist; give your functions other names")
        self.given = tuple(dict.fromkeys(given))
        self.names = tuple(dict.fromkeys(one if isinstance(one, str) else one.name for one in given))
        self.metrics = {name: _of_own(own[name]) if name in own else METRICS[name] for name in self.names}
        self.networks = {"clip": clip, "dino": dino}
        self._features: dict[tuple[str, int, str], Tensor] = {}
        self._held: list[PromptGrid] = []  # keeps these objects alive, so that the ids in _features stay unique
        self._lpips = None
        self._unavailable: dict[str, str] = {}  # need -> why, found out on first use

    def missing(self) -> dict[str, str]:
        """The metrics that cannot be measured here, with the reason."""
        return {name: why for name in self.names if (why := self._why_not(self.metrics[name], None))}

    def network(self, name: str) -> str:
        """The feature network of a metric, or "" if it uses none."""
        return next((found.name for need in self.metrics[name].needs if (found := self.networks.get(need)) is not None), "")

    def key(self, name: str) -> str:
        """The key of a measured value: another network, or another own function, gives another value."""
        network = next((self.networks[need] for need in self.metrics[name].needs if self.networks.get(need) is not None), None)
        fingerprint = self.metrics[name].fingerprint if network is None else network.fingerprint
        return f"{name}@{fingerprint[:16]}" if fingerprint else name

    def _why_not(self, metric: Metric, painted: Painted | None) -> str | None:
        for need in metric.needs:
            if need == "torchmetrics" and importlib.util.find_spec("torchmetrics") is None:
                return "torchmetrics is not installed: pip install 'analogist[eval]'"
            if need in self.networks and self.networks[need] is None:
                return f"no {need} network given (--{need} FOLDER or hub id)"
            if need == "lpips" and importlib.util.find_spec("torchvision") is None:
                return "torchvision is not installed: pip install 'analogist[perceptual]'"
            if need in self._unavailable:
                return self._unavailable[need]
            if need == "truth" and painted is not None and painted.truth is None:
                return "there is no true B' to compare with"
        return None

    def measure(self, painted: Painted, names: Sequence[str] | None = None) -> dict[str, float | str]:
        """Each metric's value, or a text that says why it was not measured. names: some of the metrics; None: all."""
        out: dict[str, float | str] = {}
        for name in self.names if names is None else names:
            why = self._why_not(self.metrics[name], painted)
            if why is None:
                try:
                    out[name] = self.metrics[name].measure(self, painted)
                    continue
                except NotMeasured as error:
                    why = str(error)
                except OSError as error:
                    if "lpips" not in self.metrics[name].needs:
                        raise
                    why = self._unavailable["lpips"] = f"{NO_WEIGHTS} ({' '.join(str(error).split())[:200]})"
            out[name] = why
        return out

    def _given(self, kind: str) -> FeatureNetwork:
        network = self.networks[kind]
        if network is None:
            raise NotMeasured(f"no {kind} network given")
        return network

    def _network_features(self, kind: str, painted: Painted) -> Mapping[str, Tensor]:
        network = self._given(kind)
        cells = painted.cells()
        found = {"B'": network.features([painted.cell.resize(cells_size(painted.grid))])[0]}
        for name in ("A", "A'", "B"):
            key = (kind, id(painted.grid), name)
            if key not in self._features:
                self._features[key] = network.features([cells[name].resize(cells_size(painted.grid))])[0]
                self._held.append(painted.grid)
            found[name] = self._features[key]
        return found

    def _direction(self, painted: Painted, normalise: bool) -> float:
        found = self._network_features("clip", painted)
        return direction_similarity(found["A"], found["A'"], found["B"], found["B'"], normalise=normalise)

    def _feature_distance(self, kind: str, painted: Painted) -> float:
        ours, true = self._given(kind).features([painted.picture(), painted.compared("truth")])
        return 1 - torch.cosine_similarity(ours, true, dim=0).item()

    def _perceptual(self, painted: Painted, which: str = "truth") -> float:
        """Its weights are downloaded on first use; raises OSError where they cannot be had, NotMeasured for pictures too small for it."""
        _at_least(LEAST_LPIPS, painted.picture(), "the perceptual distance")
        if self._lpips is None:
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            self._lpips = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
        return self._lpips(_tensor(painted.picture()), _tensor(painted.compared(which))).item()


def cells_size(grid: PromptGrid) -> tuple[int, int]:
    """Width and height of a cell, including its border."""
    left, top, right, bottom = grid.boxes()["B'"]
    return right - left, bottom - top


def direction_similarity(a: Tensor, a_prime: Tensor, b: Tensor, b_prime: Tensor, *, normalise: bool) -> float:
    """cos(f(A') - f(A), f(B') - f(B)), -1..1. a, a_prime, b, b_prime: features [channel].

    normalise False: raw features, as in the authors' code; True: features of length one, as in InstructPix2Pix (Brooks et al. 2023).
    """
    if normalise:
        a, a_prime, b, b_prime = (f / f.norm() for f in (a, a_prime, b, b_prime))
    return torch.cosine_similarity(a_prime - a, b_prime - b, dim=0).item()


def check_metrics(names: Sequence[str]) -> None:
    """Raises StudyError for a name that is not a metric, naming all metrics."""
    unknown = sorted(set(names) - set(METRICS))
    if unknown or not names:
        raise StudyError(f"metrics {unknown or list(names)}: allowed are {', '.join(METRICS)}")


def _to(which: str, distance: Callable[[Image.Image, Image.Image], float]) -> Callable[[Measurer, Painted], float]:
    return lambda _, painted: distance(painted.picture(), painted.compared(which))


def _of_own(own: OwnMetric) -> Metric:
    def measure(_: Measurer, painted: Painted) -> float:
        if own.capture is not None and own.name not in painted.maps:
            raise NotMeasured("its maps are there only while a run is painted")
        try:
            return own.measure(painted.picture(), painted.other("truth"), painted.example, painted.maps.get(own.name))
        except StudyError as error:
            raise NotMeasured(str(error)) from error

    return Metric(own.name, own.text, own.better, (), measure, own.key, own.capture)


def _colours(a: Image.Image, b: Image.Image) -> float:
    return mse(_coarse(a), _coarse(b))


TM = "torchmetrics"
_LISTED = (
    Metric("mse", "mean squared error to the truth, levels 0..1", "lower", (TM, "truth"), _to("truth", mse)),
    Metric("psnr", "peak signal to noise ratio to the truth, dB", "higher", (TM, "truth"), _to("truth", psnr)),
    Metric("ssim", "structural similarity to the truth", "higher", (TM, "truth"), _to("truth", _ssim)),
    Metric("mse_colour", "mean squared error to the truth, both at 4 x 4 px: only colours", "lower", (TM, "truth"),
           _to("truth", _colours)),
    Metric("mse_detail", "mean squared error to the truth of what is lost at 4 x 4 px: shapes and texture", "lower",
           (TM, "truth"), _to("truth", _mse_detail)),
    Metric("mse_to_b", "mean squared error to B: small if B' collapses to B", "", (TM,), _to("B", mse)),
    Metric("mse_to_a_prime", "mean squared error to A': small if A' is copied", "", (TM,), _to("A'", mse)),
    Metric("ssim_to_b", "structural similarity to B", "", (TM,), _to("B", _ssim)),
    Metric("clip_direction", "CLIP direction similarity, raw features as published", "higher", ("clip",),
           lambda m, p: m._direction(p, False)),
    Metric("clip_direction_normalised", "CLIP direction similarity, normalised features as in InstructPix2Pix", "higher",
           ("clip",), lambda m, p: m._direction(p, True)),
    Metric("clip_distance", "1 - cosine of CLIP image features to the truth", "lower", ("truth", "clip"),
           lambda m, p: m._feature_distance("clip", p)),
    Metric("dino_distance", "1 - cosine of DINO image features to the truth", "lower", ("truth", "dino"),
           lambda m, p: m._feature_distance("dino", p)),
    Metric("lpips", "learned perceptual distance to the truth (AlexNet)", "lower", (TM, "truth", "lpips"),
           lambda m, p: m._perceptual(p)),
    Metric("lpips_to_b", "learned perceptual distance to B (AlexNet): small if B is preserved, or only copied", "", (TM, "lpips"),
           lambda m, p: m._perceptual(p, "B")),
)  # fmt: skip
METRICS: dict[str, Metric] = {metric.name: metric for metric in _LISTED}
