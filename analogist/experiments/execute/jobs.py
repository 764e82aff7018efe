"""Jobs: one picture each, with a content key; and how they are put into groups that are computed and written together."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image

import analogist
from analogist.checkpoints import loras
from analogist.checkpoints.devices import precision
from analogist.config import AnalogistConfig
from analogist.disk.foreign import encoded
from analogist.experiments.design.factors import Setting
from analogist.experiments.design.inputs import Input
from analogist.experiments.design.levels import StudyError
from analogist.experiments.design.own import OwnEdit
from analogist.experiments.design.study import Study, Variant
from analogist.experiments.execute.taps import check_tap
from analogist.grid.prompt_grid import PromptGrid
from analogist.pipeline import Analogist
from analogist.run.record import grid_record

if TYPE_CHECKING:
    from analogist.attention.capture.capture import Capture

SEEN = ("truth", "example")  # what metrics see besides the picture, in content keys and records
FORMAT = 1  # part of every content key: raised when the same settings come to mean other pictures


def content_key(data: object) -> str:
    """SHA-256 of plain values, as 64 hexadecimal digits."""
    return hashlib.sha256(encoded(json.dumps(data, sort_keys=True, ensure_ascii=False))).hexdigest()


@dataclass(frozen=True, eq=False)
class Job:
    """One picture to paint and measure. key: of everything that decides its values. input: where it stands in the study's inputs.

    prompts: prompt, negative_prompt, prompt_suffix as given to the model. seed: the effective seed. truth: the true B', which
    only metrics see. painting: a key of everything that decides the picture; own metrics and, unless metrics capture maps, the truth and
    what own metrics read of the input are in `key` alone.
    edit: of attention. captures: (own metric, what it looks at). example: the study's input, for own metrics.
    """

    key: str
    input: int
    grid: PromptGrid
    prompts: dict[str, str]
    config: AnalogistConfig
    seed: int
    content: dict
    truth: Image.Image | None = None
    painting: str = ""
    edit: OwnEdit | None = None
    captures: tuple[tuple[str, "Capture | str | Sequence[Capture | str]"], ...] = ()
    example: Input | None = None

    @property
    def alone(self) -> bool:
        """Whether it goes through the UNet by itself: edits and captures see one run, as in a call of the model."""
        return self.edit is not None or bool(self.captures)

    @property
    def mould(self) -> tuple:
        """What must be equal for jobs to go through the UNet as one batch."""
        s = self.config.sampling
        alone = self.key if self.alone else ""
        return (self.grid.size, self.grid.rows, s.steps, s.strength, s.eta, s.guidance == 1, alone)


@dataclass(frozen=True)
class Row:
    """One run of a study: a variant on an input with an effective seed. Rows with the same content share a job."""

    variant: Variant
    input: int
    seed: int
    key: str


@dataclass(frozen=True, eq=False)
class Group:
    """Jobs that are computed together and written together. batch: images in one UNet call."""

    key: str
    jobs: tuple[Job, ...]
    batch: int
    share: bool = True


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything a study runs: its rows, and the groups of their jobs, both in the order of the study."""

    study: Study
    variants: tuple[Variant, ...]
    rows: tuple[Row, ...]
    groups: tuple[Group, ...]

    @property
    def jobs(self) -> list[Job]:
        return [job for group in self.groups for job in group.jobs]


def prompt_of(setting: Setting, one: Input) -> str:
    """The prompt of an input under a setting. Raises StudyError where a wrong prompt is asked for and there is none."""
    if setting.text == "wrong":
        if one.wrong_prompt is None:
            raise StudyError(f"text 'wrong': the input {one.name!r} has no wrong_prompt; give one")
        return one.wrong_prompt
    if setting.text.startswith("= "):
        return setting.text.removeprefix("= ")
    return one.prompt if setting.text == "on" else ""


def sized(one: Input, study: Study, model: Analogist) -> PromptGrid:
    """The grid of an input at the study's size; without one at its own, else at the checkpoint's."""
    return one.grid.with_size(study.size) if study.size is not None else one.grid.at_size(model.size)


def _own(config: AnalogistConfig, one: Input) -> AnalogistConfig:
    """The configuration with what an input says of itself (a task's strength and guidance)."""
    changes = {name: getattr(one, name) for name in ("strength", "guidance") if getattr(one, name) is not None}
    return config.replace(**changes) if changes else config


def model_content(model: Analogist) -> dict:
    """What of a model decides its pictures, as part of every content key: checkpoint, precision and, where there are any, merged LoRAs."""
    content = {"checkpoint": model.checkpoint.fingerprint, "dtype": precision(model.dtype, tf32=model.unet.tf32)}
    return content | ({"lora": loras.content(model.loras)} if model.loras else {})


def painted_by(job: Job) -> dict:
    """The model that a job was made for, as `model_content` says it."""
    return {name: job.content[name] for name in ("checkpoint", "dtype", "lora") if name in job.content}


def make_plan(study: Study, variants: Sequence[Variant], model: Analogist) -> Plan:
    """Rows and groups of a study on a model; checks every run's arguments without running anything."""
    inputs = study.resolved
    grids = [sized(one, study, model) for one in inputs]
    records, truths = [grid_record(grid) for grid in grids], [one.truth_key() for one in inputs]
    # The size is part of the picture that a grid record holds, but said again so that keys can be read.
    common = {"format": FORMAT, "attention": study.attention} | model_content(model)
    captures = tuple((one.name, one.capture) for one in study.own_metrics if one.capture is not None)
    looked = {"maps": {one.name: one.key for one in study.own_metrics if one.capture is not None}} if captures else {}
    own = {one.name: one.key for one in study.own_metrics if one.capture is None}
    examples = [{"example": one.example_key()} if study.own_metrics else {} for one in inputs]
    rows: list[Row] = []
    jobs: dict[str, Job] = {}
    checked: set[tuple] = set()
    for i, one in enumerate(inputs):
        for seed in study.effective_seeds():
            for variant in variants:
                config = _own(variant.setting.config, one)
                prompts = _prompts(study, model, prompt_of(variant.setting, one))
                known = (grids[i].size, grids[i].rows, json.dumps(config.to_json()))
                if known not in checked:
                    model.check(grids[i], config=config)
                    checked.add(known)
                edit = variant.setting.edit
                content = common | {"grid": records[i], **prompts, "config": config.to_json(), "seed": seed} | looked
                content |= {} if edit is None else {"edit": edit.key}
                seen_by_metrics = ({} if one.truth is None else {"truth": truths[i]}) | examples[i]
                content |= seen_by_metrics if looked else {}  # their maps are gone after the run, so that a change needs another run
                painting = content_key(content)
                content |= seen_by_metrics | ({"metrics": own} if own else {})
                key = content_key(content)
                if key not in jobs:
                    jobs[key] = Job(
                        key, i, grids[i], prompts, config, seed, content, one.truth, painting, edit, captures,
                        one if study.own_metrics else None,
                    )  # fmt: skip
                    if jobs[key].alone and (seen := (*known, tuple(prompts.values()), "" if edit is None else edit.key)) not in checked:
                        check_tap(model, jobs[key])
                        checked.add(seen)
                rows.append(Row(variant, i, seed, key))
    return Plan(study, tuple(variants), tuple(rows), tuple(make_groups(jobs.values(), study.group, study.batch, study.share)))


def _prompts(study: Study, model: Analogist, prompt: str) -> dict[str, str]:
    negative = model.negative_prompt if study.negative_prompt is None else study.negative_prompt
    suffix = model.prompt_suffix if study.prompt_suffix is None else study.prompt_suffix
    return {"prompt": prompt, "negative_prompt": negative, "prompt_suffix": suffix}


def make_groups(jobs: Iterable[Job], size: int, batch: int, share: bool = True) -> list[Group]:
    """Jobs of one mould in study order, `size` per group: fixed by the jobs alone, so that a restart computes the same bits."""
    moulds: dict[tuple, list[Job]] = {}
    for job in jobs:
        moulds.setdefault(job.mould, []).append(job)
    groups = []
    for members in moulds.values():
        for first in range(0, len(members), size):
            chosen = tuple(members[first : first + size])
            at_once = 1 if chosen[0].alone else batch
            groups.append(Group(content_key([at_once, *(job.key for job in chosen)]), chosen, at_once, share))
    return groups


def job_record(job: Job, model: Analogist, times: Sequence[int], batch: int) -> dict:
    """The record of one picture, in the form of a run's: everything needed to run it again, no time or path."""
    return {
        "format": FORMAT,
        "analogist": analogist.__version__,
        "torch": torch.__version__,
        "checkpoint": model.describe(),
        "grid": job.content["grid"],
        **job.prompts,
        "seeds": [job.seed],
        "config": job.config.to_json(),
        "executed_times": list(times),
        "device": str(model.device),
        "dtype": job.content["dtype"],
        "attention": job.content["attention"],
        "images_at_once": batch,
        "repeatable": job.edit is None,
        "not_repeatable_because": [] if job.edit is None else ["edit"],
        **({} if job.edit is None else {"edit": {"sha256": job.edit.key, "edits": job.edit.described()}}),
        **job_marks(job),
    }


def job_marks(job: Job) -> dict:
    """What a record says of a job's truth, its example and own metrics; jobs with equal `painting` are one picture, whatever these are."""
    own = job.content.get("metrics", {}) | job.content.get("maps", {})
    seen = {name: job.content[name] for name in SEEN if name in job.content}
    return {"job": job.key, "painting": job.painting} | seen | ({"metrics": own} if own else {})
