"""A study: factors and levels, inputs and seeds, from a small JSON file or built in Python."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from analogist.config import AnalogistConfig, read_json
from analogist.disk.foreign import naming
from analogist.experiments.design import factors
from analogist.experiments.design.factors import Setting, label
from analogist.experiments.design.inputs import Input, check_names
from analogist.experiments.design.levels import StudyError
from analogist.experiments.design.own import OwnMetric, metric_name, own_metric
from analogist.experiments.design.space import Space
from analogist.models.numbers import plain

SMALLEST = "5 %"  # of the reference's mean: the smallest effect of interest where a study names none
FORMAT = 1  # increased when the meaning of a field changes
DESIGNS = ("one-factor", "full", "list")
MAX_VARIANTS = 100_000
CHANGE = "change"  # measured in every study: mean absolute difference to the reference's picture, levels 0..1


@dataclass(frozen=True)
class Variant:
    """One combination of levels. levels: factor -> label. reference: whether every factor is at its reference level."""

    levels: dict[str, str]
    setting: Setting
    reference: bool

    @property
    def name(self) -> str:
        """All levels in words, for captions and reports."""
        return ", ".join(f"{factor} {text}" for factor, text in self.levels.items()) or "base"


@dataclass(frozen=True)
class Hypothesis:
    """A claim to test: on `metric`, the variant is better or worse than another one, in paired differences.

    claim: one sentence. variant, against: factor -> level or its label ({}: the reference). expect: "lower", "higher" or "differs".
    """

    claim: str
    metric: str
    variant: Mapping[str, str]
    expect: str
    against: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.expect not in ("lower", "higher", "differs"):
            raise StudyError(f"hypothesis {self.claim!r}: expect {self.expect!r}; allowed are lower, higher, differs")
        for side in ("variant", "against"):
            given = getattr(self, side)
            if not isinstance(given, Mapping):
                raise StudyError(f"hypothesis {self.claim!r}: {side} {given!r}; give an object, factor -> level")
            # levels are compared by their labels: 1.8 is "1.8", False is "false"
            object.__setattr__(self, side, {name: label(level) for name, level in given.items()})


@dataclass(frozen=True, kw_only=True)
class Study:
    """What to run. Every variant runs on every input with every effective seed.

    factors: name -> levels (see factors.FACTORS). design: "one-factor" changes one factor at a time, "full" runs every
    combination, "list" runs `runs` (each: factor -> level). base: what the factors change; None: the checkpoint's own settings.
    seeds, images: effective seeds are s .. s + images - 1; they must not overlap. size: of the grid, in pixels.
    batch: images in one UNet call. group: number of runs that share their first steps and are written together. share: compute the steps
    that runs have in common only once (off: the same bits, for checking). Batch and group decide the bits, so they belong to the study.
    metrics: names from metrics.METRICS, own functions metric(b_prime, truth, example) -> number (see own.OwnMetric), or
    "module:function". inputs: Input objects, or what a study file holds (resolved against a checkpoint).
    smallest_effect: the least difference that matters, in the unit of the metric or as a share of the reference's mean ("5 %"); one for
    all metrics, or metric -> one. Hypotheses are tested against it, so it stands in the study before the run.
    """

    name: str
    factors: Mapping[str, Sequence[object]] = field(default_factory=dict)
    design: str = "one-factor"
    runs: Sequence[Mapping[str, object]] = ()
    base: AnalogistConfig | None = None
    inputs: Sequence[Input] | Sequence[dict] | str = "examples"
    seeds: Sequence[int] = (42,)
    images: int = 1
    size: int | tuple[int, int] | None = None
    negative_prompt: str | None = None
    prompt_suffix: str | None = None
    attention: str = "auto"
    batch: int = 8
    group: int = 16
    share: bool = True
    metrics: Sequence[str | Callable | OwnMetric] = ("mse", "psnr", "ssim", "mse_to_b")
    smallest_effect: float | str | Mapping[str, float | str] = SMALLEST
    hypotheses: Sequence[Hypothesis] = ()
    question: str = ""

    def __post_init__(self) -> None:
        for name in ("factors", "runs", "seeds", "images", "size", "batch", "group", "share", "smallest_effect"):
            object.__setattr__(self, name, plain(getattr(self, name)))
        if self.design not in DESIGNS:
            raise StudyError(f"design {self.design!r}: allowed are {', '.join(DESIGNS)}")
        if (self.design == "list") != bool(self.runs):
            raise StudyError("runs and design 'list' belong together: give both or neither")
        if self.design == "list" and self.factors:
            raise StudyError("design 'list' takes its factors from runs; leave out factors")
        for name in ("batch", "group", "images"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise StudyError(f"{name} {value!r}: expected a whole number of at least 1")
        for name in (*self.factors, *itertools.chain.from_iterable(self.runs)):
            factors.check_factor(name)
        varied = {*self.factors, *itertools.chain.from_iterable(self.runs)}
        for one in self.hypotheses:
            unknown = sorted({*one.variant, *one.against} - varied)
            if unknown:
                raise StudyError(f"hypothesis {one.claim!r}: factors {unknown} are not among the study's: {', '.join(sorted(varied))}")
            if one.metric not in (measured := (*map(metric_name, self.metrics), CHANGE)):
                raise StudyError(f"hypothesis {one.claim!r}: metric {one.metric!r} is not among the study's: {', '.join(measured)}")
        self._check_smallest()
        self.effective_seeds()

    def _check_smallest(self) -> None:
        given = self.smallest_effect
        if not isinstance(given, Mapping):
            check_smallest(given)
            return
        unknown = sorted(set(given) - {*map(metric_name, self.metrics), CHANGE})
        if unknown:
            raise StudyError(f"smallest_effect: metrics {unknown} are not among the study's: {', '.join(map(metric_name, self.metrics))}")
        for metric, one in given.items():
            check_smallest(one, metric)

    def with_own(self, folder: Path | None = None) -> "Study":
        """The same study with its own metrics and edits found, named and hashed. folder: where "module:function" is looked for.

        Raises StudyError for what cannot be found, called or hashed, and for two metrics of one name.
        """
        metrics = tuple(own_metric(one, folder) for one in self.metrics)
        names = [metric_name(one) for one in metrics]
        twice = sorted({metric_name(one) for one in metrics if isinstance(one, OwnMetric) and names.count(metric_name(one)) > 1})
        if twice:
            raise StudyError(f"metrics {twice} come twice; give each function a name of its own")
        found = {name: factors.edit_levels(given, folder) if name == "edit" else given for name, given in self.factors.items()}
        runs = [
            {name: factors.one_edit(level, folder) if name == "edit" else level for name, level in run.items()} for run in self.runs
        ]
        return dataclasses.replace(self, metrics=metrics, factors=found, runs=runs)

    @property
    def all_metrics(self) -> tuple[str | OwnMetric, ...]:
        """`metrics` with every function named and hashed."""
        return tuple(own_metric(one) for one in self.metrics)

    @property
    def own_metrics(self) -> list[OwnMetric]:
        """The metrics that are functions of the researcher's own."""
        return [one for one in self.metrics if isinstance(one, OwnMetric)]

    def effective_seeds(self) -> list[int]:
        """The seeds of all images, s + k. Raises StudyError if they overlap."""
        top = 2**63 - self.images
        bad = [seed for seed in self.seeds if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < top]
        if bad or not len(self.seeds):
            raise StudyError(f"seeds {bad or list(self.seeds)}: expected one or more whole numbers from 0 to 2**63")
        effective = [seed + k for seed in self.seeds for k in range(self.images)]
        twice = sorted({seed for seed in effective if effective.count(seed) > 1}) if len(effective) < 10_000 else []
        if len(set(effective)) < len(effective):
            raise StudyError(
                f"seeds {list(self.seeds)} with {self.images} images overlap: image k of seed s has the effective seed s + k, "
                f"so {twice[:5]} would occur twice; choose seeds at least {self.images} apart"
            )
        return effective

    def variants(self, space: Space) -> list[Variant]:
        """All combinations of levels, the reference first. Raises StudyError for a factor that changes nothing."""
        base = Setting(self.base if self.base is not None else space.config)
        if self.design == "list":
            return self._listed(base, space)
        levels = {name: factors.expand(name, given, base, space) for name, given in self.factors.items()}
        reference = {name: self._reference(name, options, base, space) for name, options in levels.items()}
        for name, options in levels.items():
            alone = [factors.apply({name: level}, base, space) for level in options]
            if all(setting == base for setting in alone) and len(options) > 1:
                raise StudyError(f"factor {name}: none of its levels changes anything here (is SAC or CAM off in the base?)")
        labels = {name: "base" if level is BASE else label(level) for name, level in reference.items()}
        if self.design == "one-factor":
            combinations = [dict(reference)]
            for name, options in levels.items():
                combinations += [reference | {name: level} for level in options if label(level) != labels[name]]
        else:
            count = 1
            for options in levels.values():
                count *= len(options)
            if count > MAX_VARIANTS:
                raise StudyError(f"{count} combinations; at most {MAX_VARIANTS} are allowed: give fewer levels, or use design one-factor")
            combinations = [dict(zip(levels, chosen, strict=True)) for chosen in itertools.product(*levels.values())]
            first = {name: levels[name][0] if level is BASE else level for name, level in reference.items()}
            labels = {name: label(level) for name, level in first.items()}
        return self._made(combinations, labels, base, space)

    def _reference(self, name: str, options: list[object], base: Setting, space: Space) -> object:
        """The level that leaves the base unchanged; BASE if none does."""
        return next((level for level in options if factors.apply({name: level}, base, space) == base), BASE)

    def _listed(self, base: Setting, space: Space) -> list[Variant]:
        names = sorted({name for run in self.runs for name in run}, key=factors.ORDER.index)
        combinations = [{name: run.get(name, BASE) for name in names} for run in self.runs]
        return self._made([dict.fromkeys(names, BASE), *combinations], dict.fromkeys(names, "base"), base, space)

    def _made(self, combinations: list[dict], labels: dict[str, str], base: Setting, space: Space) -> list[Variant]:
        out: dict[tuple, Variant] = {}
        for combination in combinations:
            named = {name: "base" if level is BASE else label(level) for name, level in combination.items()}
            chosen = {name: level for name, level in combination.items() if level is not BASE}
            variant = Variant(named, factors.apply(chosen, base, space), named == labels)
            out.setdefault(tuple(named.items()), variant)
        made = sorted(out.values(), key=lambda variant: not variant.reference)
        self._check_hypotheses(made)
        return made

    def _check_hypotheses(self, made: Sequence[Variant]) -> None:
        """Raises StudyError if a hypothesis names a run that the study does not have, because it could never be tested.

        made: the study's runs, the reference first.
        """
        reference, runs = made[0].levels, [variant.levels for variant in made]
        for one in self.hypotheses:
            for chosen in (one.variant, one.against):
                for name, level in chosen.items():
                    levels = list(dict.fromkeys(run[name] for run in runs))
                    if level not in levels:
                        raise StudyError(f"hypothesis {one.claim!r}: {name} has no level {level!r}; there are {', '.join(levels)}")
                if reference | dict(chosen) not in runs:
                    raise StudyError(f"hypothesis {one.claim!r}: no run has {dict(chosen)} and all else as in the reference, {reference}")

    def with_inputs(self, inputs: Sequence[Input]) -> "Study":
        """The same study on these inputs. Raises StudyError if two have the same name."""
        check_names(inputs)
        return dataclasses.replace(self, inputs=tuple(inputs))

    @property
    def resolved(self) -> tuple[Input, ...]:
        """`inputs` of a study that was prepared for a checkpoint. Raises StudyError if they are not resolved yet."""
        found = () if isinstance(self.inputs, str) else tuple(one for one in self.inputs if isinstance(one, Input))
        if isinstance(self.inputs, str) or len(found) < len(self.inputs):
            raise StudyError(f"study {self.name!r}: its inputs are not resolved yet; call prepare(study, model)")
        return found

    def to_json(self) -> dict:
        """Plain values for study.json; inputs by name and content key, because pictures are not copied."""
        levels = {name: _plain(name, list(given) if isinstance(given, list | tuple) else given) for name, given in self.factors.items()}
        said = {
            "factors": levels,
            "runs": [{name: _plain(name, level) for name, level in run.items()} for run in self.runs],
            "base": None if self.base is None else self.base.to_json(),
            "inputs": self.inputs if isinstance(self.inputs, str) else [one.name if isinstance(one, Input) else one for one in self.inputs],
            "seeds": list(self.seeds),
            "metrics": [one if isinstance(one, str) else _described(one) for one in self.metrics],
            "hypotheses": [dataclasses.asdict(one) for one in self.hypotheses],
        }
        return {one.name: said.get(one.name, getattr(self, one.name)) for one in dataclasses.fields(self)} | {"format": FORMAT}

    @classmethod
    def from_json(cls, data: dict) -> "Study":
        """A study from a file's values. Raises StudyError on unknown fields."""
        known = {one.name for one in dataclasses.fields(cls)} | {"format"}
        unknown = sorted(set(data) - known)
        if unknown:
            raise StudyError(f"study: unknown fields {unknown}; allowed are {', '.join(sorted(known))}")
        if data.get("format", FORMAT) != FORMAT:
            raise StudyError(f"study: format {data['format']!r}; this version reads format {FORMAT}")
        values = {key: value for key, value in data.items() if key != "format" and value is not None}
        if "name" not in values:
            raise StudyError("study: it has no name")
        for key, kind in (("factors", dict), ("runs", list), ("seeds", list), ("metrics", list), ("hypotheses", list)):
            if key in values and not isinstance(values[key], kind):
                raise StudyError(f"study: {key} {values[key]!r}; give {'an object' if kind is dict else 'a list'}")
        if isinstance(values.get("size"), list):
            values["size"] = tuple(values["size"])
        if "base" in values:
            values["base"] = AnalogistConfig.from_json(values["base"])
        try:
            values["hypotheses"] = tuple(Hypothesis(**one) for one in values.get("hypotheses", ()))
        except TypeError as error:
            raise StudyError(f"study: a hypothesis needs claim, metric, variant, expect and against ({error})") from error
        return cls(**values)

    @classmethod
    def load(cls, path: str | Path) -> "Study":
        """From a JSON file. Raises ValueError that names the file."""
        with naming(path, StudyError):
            return cls.from_json(read_json(path)).with_own(Path(path).parent)


def check_smallest(given: object, metric: str = "") -> None:
    """Raises StudyError where a smallest effect is neither a positive number nor a share such as "5 %"."""
    if isinstance(given, str) and re.fullmatch(r"\s*\d+(\.\d+)?\s*%\s*", given) and float(given.strip(" %")) > 0:
        return
    if isinstance(given, int | float) and not isinstance(given, bool) and 0 < given < float("inf"):
        return
    of = f" of {metric}" if metric else ""
    raise StudyError(f'smallest effect{of} {given!r}: a positive number in the unit of the metric, or a share such as "5 %"')


def _plain(factor: str, level: object) -> object:
    """A factor's levels as plain values: edits by what they are called and their keys."""
    if factor != "edit":
        return level
    return {one.label: {"sha256": one.key, "edits": one.described()} if one.key else None for one in factors.edit_levels(level)}


def _described(given: Callable | OwnMetric) -> dict[str, str]:
    metric = given if isinstance(given, OwnMetric) else OwnMetric.of(given)
    return {"name": metric.name, "sha256": metric.key, "text": metric.text}


class _Base:
    """Stands for "as in the base" among levels."""


BASE = _Base()
