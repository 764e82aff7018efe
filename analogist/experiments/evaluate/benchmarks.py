"""The benchmarks that `analogist evaluate --benchmark NAME` knows: reader, protocol, metrics, and the published rows beside ours."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from analogist.experiments.design.inputs import Input
from analogist.experiments.design.own import OwnMetric
from analogist.experiments.evaluate import kiva, lorweb, relation252k
from analogist.experiments.evaluate.data import DataError, published_inputs
from analogist.experiments.evaluate.judge_wording import Scale


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

    scale: of a judge's scores. images: per input, as published. domains: whether groups are `<domain>/<task>`. columns, rows: the
    published numbers, a None where a method has none. source: where they stand. differences: how every run here differs from the
    published protocol. met: whether the reader was ever tried on the real files.
    """

    name: str
    what: str
    read: Reader
    metrics: tuple[str | OwnMetric, ...]
    scale: Scale = field(default_factory=Scale)
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
    source="none for painted pictures (Yiu et al. 2024, arXiv 2407.17773, is about choices of vision-language models)",
    differences=(
        "question: here B' is painted and compared pixel by pixel; published: a vision-language model picks one of three pictures (true, "
        "wrong, unchanged), after questions in words",
        "text: none is given here",
        "pictures: drawn over white and resized to the cell",
    ),
    met="tried on 30 real trials of ten transformations of KiVA, never on KiVA-adults",
)  # fmt: skip

JUDGED = Column("preservation", "judge_preservation", "higher"), Column("accuracy", "judge_accuracy", "higher")

LORWEB = Benchmark(
    name="lorweb", what="LoRWeB's evaluation set: photos and edits that no training set holds, judged", read=lorweb.read_lorweb,
    domains=True, metrics=("lpips_to_b", "clip_direction_normalised", "clip_direction", "mse_to_b", "ssim_to_b"), scale=Scale(1, 10),
    columns=(*JUDGED, Column("LPIPS to B", "lpips_to_b", "lower"), Column("CLIP direction", "clip_direction_normalised", "higher")),
    rows=(
        ("LoRWeB", (7.87, 5.94, 0.31, 0.21)), ("one LoRA of rank 128", (7.99, 5.70, 0.27, 0.20)),
        ("RelationAdapter", (7.01, 5.93, 0.43, 0.22)), ("VisualCloze", (5.24, 4.93, 0.53, 0.21)),
        ("EditTransfer", (7.38, 4.79, 0.31, 0.04)), ("DIA", (3.56, 3.44, 0.59, 0.12)), ("DIA-Kontext", (4.78, 3.56, 0.63, 0.17)),
        ("PairEdit, strength 0.6", (6.68, 4.55, 0.24, 0.11)), ("PairEdit, strength 0.8", (4.44, 3.60, 0.44, 0.16)),
    ),
    source="Manor et al. 2026, arXiv 2602.15727, tables S2 and S3",
    differences=(
        "triplets: here the hub set's own; published 840 of 100 tasks, of which 300 of ten tasks are Relation252K's unseen ones "
        "(`--benchmark relation252k --tasks ...`)",
        "B: here two photos of the group drawn by a hash of the edit's name; the published choice is not in the data set",
        "judge: here the one that was asked, in our wording, with one marked grid; published Gemma 3, four pictures, its own wording",
        "LPIPS: here AlexNet's, CLIP direction: here of features of length one (raw ones are in the table); published: neither is stated",
        "pictures: here stretched into square cells; published at their own proportions, 512 px at the longer side",
    ),
    met="never tried on the real files",
)  # fmt: skip

RELATION252K = Benchmark(
    name="relation252k", what="Relation252K: pairs of pictures of 218 tasks, with the true B'", read=relation252k.read_relation252k,
    metrics=("mse", "psnr", "ssim", "clip_distance", "clip_direction", "clip_direction_normalised", "dino_distance", "mse_to_b"),
    scale=Scale(1, 5),
    columns=(
        Column("MSE", "mse", "lower"), Column("CLIP-I", "clip_distance", "higher", lambda distance: 1 - distance),
        Column("GPT-C (consistency)", "judge_preservation", "higher"), Column("GPT-A (accuracy)", "judge_accuracy", "higher"),
    ),
    rows=(
        ("EditTransfer, its tasks", (0.043, 0.827, 4.234, 3.508)), ("RelationAdapter, EditTransfer's tasks", (0.020, 0.905, 4.437, 4.429)),
        ("VisualCloze, its tasks", (0.049, 0.802, 3.594, 3.411)), ("RelationAdapter, VisualCloze's tasks", (0.025, 0.894, 4.084, 3.918)),
        ("RelationAdapter, seen tasks", (0.044, 0.852, 4.079, 4.106)), ("RelationAdapter, unseen tasks", (0.053, 0.812, 4.187, 4.173)),
    ),
    source="Gong et al. 2025, arXiv 2506.02528, tables 1 and 2",
    differences=(
        "analogies: here 30 per task, pair k and k + 1 of labels.json; published 6,540, 300 of them of unseen tasks, chosen otherwise",
        "judge: here the one that was asked, one result at a time, in our wording, with one marked grid; published GPT-4o, two results at "
        "once in its own wording",
        "CLIP-I: here the network given by --clip; published: not stated",
        "pictures: here stretched into square cells; B' is compared at the size of its cell",
    ),
    met="never tried on the real files",
)  # fmt: skip

BENCHMARKS: dict[str, Benchmark] = {one.name: one for one in (ANALOGIST, KIVA, LORWEB, RELATION252K)}


def benchmark_named(name: str) -> Benchmark:
    """By name. Raises DataError naming all of them."""
    if name not in BENCHMARKS:
        raise DataError(f"benchmark {name!r}: allowed are {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def default_folder(name: str) -> Path:
    """Where `analogist data fetch NAME` puts a benchmark unless it is told otherwise: data/NAME."""
    return Path("data") / name
