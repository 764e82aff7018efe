"""What causal measures share: runs of one or many inputs, the measure of a result, and what chance alone does to it.

A run is a function that takes capture= and edit= and gives a result, such as functools.partial(model, grid, prompt, progress=False) or
functools.partial(model.at, grid, prompt, b_prime=picture, t=501).
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from analogist.attention.capture.capture import Capture, parse_captures
from analogist.attention.capture.maps import AttentionMap
from analogist.attention.edit.bind import Edit, Edits
from analogist.attention.select.points import layout, select
from analogist.attention.select.run_shape import RunShape
from analogist.models.control import At
from analogist.models.placement import Site
from analogist.models.unet import UNet


class Outcome(Protocol):
    """The result of a run. latents: image 4 h w, which the default measures read. maps: what was captured."""

    @property
    def latents(self) -> Tensor: ...

    @property
    def maps(self) -> Mapping[str, AttentionMap]: ...


Run = Callable[..., Outcome]  # takes capture= and edit=
Runs = Run | Sequence[Run]
Measure = Callable[[Outcome], float | Tensor]

OTHER_SEED = 7_919_317  # of the run that shows what chance does; a number that hardly any run uses
LEAST = 1.0  # a sweep warns where clean and corrupted runs differ by less than this multiple of the noise between seeds
RESAMPLES = 2_000


class HardlyDiffer(UserWarning):
    """Clean and corrupted runs differ by little more than chance: what is traced between them is mostly noise."""


def listed(runs: Runs, what: str) -> list[Run]:
    """One run per input. Raises ValueError for an empty list and for what cannot be called."""
    found = [runs] if callable(runs) else list(runs)
    wrong = [one for one in found if not callable(one)]
    if wrong or not found:
        raise ValueError(f"{what} {wrong[0] if wrong else found!r}: give a function that takes capture= and edit=, or a list of them")
    return found


def paired(clean: Runs, corrupted: Runs) -> list[tuple[Run, Run]]:
    """Clean and corrupted run of each input. Raises ValueError where their numbers differ."""
    good, bad = listed(clean, "clean"), listed(corrupted, "corrupted")
    if len(good) != len(bad):
        raise ValueError(f"{len(good)} clean and {len(bad)} corrupted runs: give one corrupted run for each clean one")
    return list(zip(good, bad, strict=True))


def call(run: Run, *, edit: Edits | None = None, capture: Capture | str | Sequence | None = None, **others: object) -> Outcome:
    """Calls a run with edits and captures beside those that a functools.partial already holds, not in their place."""
    given = run.keywords if isinstance(run, functools.partial) else {}
    if edit is not None and given.get("edit"):
        both: dict[str, list[Edit]] = {}
        for mapping in (given["edit"], edit):
            for selector, functions in mapping.items():
                both.setdefault(selector, []).extend(functions_of(functions))
        edit = both
    if capture is not None and given.get("capture") is not None:
        capture = [*parse_captures(given["capture"]), *parse_captures(capture)]
    asked = {"edit": edit, "capture": capture}
    return run(**{name: value for name, value in asked.items() if value is not None}, **others)


def functions_of(given: Edit | Sequence[Edit]) -> list[Edit]:
    """The functions under one selector of edit=."""
    return list(cast(Sequence[Edit], given)) if isinstance(given, list | tuple) else [cast(Edit, given)]


class Learn:
    """An edit that changes nothing and learns what kind of run it is in: its shape and its network."""

    steps = (0,)

    def __init__(self) -> None:
        self.run: RunShape | None = None
        self.unet: UNet | None = None

    def meet(self, unet: UNet, places: list[tuple[Site, str]]) -> list[tuple[Site, str]]:
        self.unet = unet
        return places[:1]

    def bind(self, run: RunShape, places: list[tuple[Site, str]]) -> Edit:
        self.run = run
        return self

    def __call__(self, tensor: Tensor, at: At) -> Tensor:
        return tensor

    def known(self) -> tuple[RunShape, UNet]:
        """The run's shape and network. Raises ValueError where the function did not pass the edit on."""
        if self.run is None or self.unet is None:
            raise ValueError("this run did not use edit=: give a function that takes capture= and edit= and passes them on")
        return self.run, self.unet

    def points(self, selectors: str | Sequence[str]) -> list[tuple[Site, str, tuple[str, ...]]]:
        """(site, point, axes behind branch and image) of what the selectors name, in execution order."""
        run, unet = self.known()
        places = select([selectors] if isinstance(selectors, str) else selectors, unet)
        return [(site, point, layout(site, point, run)[0]) for site, point in places]


def learn(run: Run, *, capture: Capture | None = None) -> tuple[Outcome, Learn]:
    """The result of a run, and what was learnt about it."""
    learnt = Learn()
    result = call(run, edit={"*:x": learnt}, capture=capture)
    learnt.known()
    return result, learnt


def same_steps(shapes: Sequence[RunShape], who: str) -> None:
    """Raises ValueError where runs differ in how many steps they execute: step 1 would be the end of one and the middle of another."""
    counts = [shape.steps for shape in shapes]
    if len(set(counts)) > 1:
        raise ValueError(f"{who}: these runs execute {', '.join(map(str, counts))} steps: give runs that execute the same number of steps")


def distance_from(target: Tensor) -> Measure:
    """Minus the mean squared distance of a result's latents from these; 0 for the run they are from. Gradients pass."""
    target = target.detach()

    def measure(result: Outcome) -> Tensor:
        if result.latents.shape != target.shape:
            raise ValueError(f"latents {tuple(result.latents.shape)} and {tuple(target.shape)}: use runs of one size and number of images")
        return 0.0 - ((result.latents - target) ** 2).mean()  # not -(...): the clean run measures 0, not -0

    return measure


def loss_or_distance(target: Outcome) -> Measure:
    """The loss where a result has one, else the mean squared distance of its latents from the target run's: 0 is unchanged."""
    if hasattr(target, "loss"):
        return lambda result: getattr(result, "loss")  # noqa: B009 - not every outcome has one
    away = distance_from(target.latents)
    return lambda result: -away(result)


def number_of(value: float | Tensor) -> float:
    """A measured value as a number. Raises ValueError for a tensor with several."""
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"the measure returned a tensor {tuple(value.shape)}: it must give one number")
    return float(value)


def noise_between_seeds(run: Run, measure: Measure, here: float) -> float | None:
    """How far another seed moves the measure; None where the run takes no seed=."""
    parameters = inspect.signature(run).parameters.values()
    if not any(one.kind is one.VAR_KEYWORD or one.name == "seed" for one in parameters):
        return None
    with torch.no_grad():
        return abs(number_of(measure(call(run, seed=OTHER_SEED))) - here)


@dataclass(frozen=True)
class Contrast:
    """The measure of the clean and the corrupted run of one input. noise: between seeds; None where it is not known."""

    clean: float
    corrupted: float
    noise: float | None = None

    @property
    def gap(self) -> float:
        return self.clean - self.corrupted

    @property
    def note(self) -> str:
        """A caution for the reader; empty where clean and corrupted runs clearly differ."""
        if self.noise is None:
            return "the noise between seeds is not known, since the run takes no seed="
        if abs(self.gap) >= LEAST * self.noise:
            return ""
        return (
            f"clean and corrupted runs hardly differ: by {abs(self.gap):.4g}, "
            f"less than {LEAST:g} x the noise between seeds ({self.noise:.4g})"
        )


def interval(each: Tensor, level: float = 0.95, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Percentile bootstrap interval of the mean over inputs, separately for each entry; nan for one input.

    each: input ... -> (low, high), both [...]. Source: Efron and Tibshirani 1993, ch. 13.
    """
    count, flat = len(each), each.reshape(len(each), -1).double()
    if count < 2:
        nothing = torch.full(each.shape[1:], float("nan"), dtype=torch.float32, device="cpu")
        return nothing, nothing.clone()
    drawn = torch.randint(count, (RESAMPLES, count), generator=torch.Generator().manual_seed(seed), device="cpu")
    ones = torch.ones(drawn.shape, dtype=torch.double, device="cpu")
    weights = torch.zeros(RESAMPLES, count, dtype=torch.double, device="cpu").scatter_add_(1, drawn, ones) / count
    limits = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.double, device="cpu")
    parts = [torch.quantile(weights @ part, limits, dim=0) for part in flat.split(4096, dim=1)]
    low, high = torch.cat(parts, dim=1).to(each.dtype)
    return low.view(each.shape[1:]), high.view(each.shape[1:])
