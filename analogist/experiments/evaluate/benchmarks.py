"""The benchmarks that `analogist evaluate --benchmark NAME` knows: reader, protocol, metrics, and the published rows beside ours."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from analogist.experiments.design.inputs import Input
from analogist.experiments.design.own import OwnMetric
from analogist.experiments.evaluate import kiva
from analogist.experiments.evaluate.data import DataError, published_inputs


class Reader(Protocol):
    """Reads the analogies of a folder. tasks: of the benchmark, None: all. limit: per task. size: of the grid in pixels."""

    def __call__(self, root: str | Path, *, tasks: Sequence[str] | None, limit: int | None, size: int) -> list[Input]:
        """Raises DataError that names what is wrong."""
        ...


@dataclass(frozen=True)
class Column:
    """A published number. title: as published. metric: ours of the same meaning, "" if it is not measured. better: lower or higher.

    shown: from our value to the published scale.
    """

    title: str
    metric: str
    better: str
    shown: Callable[[float], float] = float


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark and its protocol.

    images: per input, as published. domains: whether groups are `<domain>/<task>`. columns, rows: the published numbers, a None where
    a method has none. source: where they stand. differences: how every run here differs from the published protocol. met: whether the
    reader was ever tried on the real files.
    """

    name: str
    what: str
    read: Reader
    metrics: tuple[str | OwnMetric, ...]
    images: int = 1
    domains: bool = False
    columns: tuple[Column, ...] = ()
    rows: tuple[tuple[str, tuple[float | None, ...]], ...] = ()
    source: str = ""
    differences: tuple[str, ...] = ()
    met: str = ""


def _analogist(root: str | Path, *, tasks: Sequence[str] | None, limit: int | None, size: int) -> list[Input]:
    """The published layout has grids of its own size."""
    return published_inputs(root, tasks=tasks, limit=limit)


DEFAULT_METRICS = (
    "clip_direction", "clip_direction_normalised", "psnr", "ssim", "mse", "clip_distance", "dino_distance", "lpips", "mse_to_b",
)  # fmt: skip

ANALOGIST = Benchmark(
    name="analogist", what="the published evaluation: ten tasks as ready grids", read=_analogist, metrics=DEFAULT_METRICS, images=8,
    met="never tried on the real files",
)  # fmt: skip

KIVA = Benchmark(
    name="kiva", what="KiVA: objects changed by a rule, with the true B' and a wrong one", read=kiva.read_kiva, domains=True,
    metrics=("mse", "psnr", "ssim", *kiva.CHOICES, "mse_to_b", "mse_to_a_prime", "clip_direction", "clip_distance", "dino_distance"),
    columns=(
        Column("choice of two", "choice", "higher"), Column("choice of three", "choice_of_three", "higher"), Column("MSE", "mse", "lower"),
    ),
    rows=(("chance", (1 / 2, 1 / 3, None)),),
    source="Yiu et al. 2024, arXiv 2407.17773; there are no published rows for painted pictures",
    differences=(
        "question: here B' is painted and compared pixel by pixel; published: a vision-language model picks one of three pictures (true, "
        "wrong, unchanged), after questions in words",
        "text: none is given here",
        "pictures: drawn over white and resized to the cell",
    ),
    met="tried on 30 real trials of ten transformations of KiVA, never on KiVA-adults",
)  # fmt: skip

BENCHMARKS: dict[str, Benchmark] = {one.name: one for one in (ANALOGIST, KIVA)}


def benchmark_named(name: str) -> Benchmark:
    """By name. Raises DataError naming all of them."""
    if name not in BENCHMARKS:
        raise DataError(f"benchmark {name!r}: allowed are {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def default_folder(name: str) -> Path:
    """Where `analogist data fetch NAME` puts a benchmark unless it is told otherwise: data/NAME."""
    return Path("data") / name
