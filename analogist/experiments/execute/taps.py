"""Edits and captures of attention in one job: first the study's edit, then the captures of own metrics."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from analogist.attention.capture.maps import Maps
from analogist.attention.select.run_shape import RunShape
from analogist.attention.tap import StudyTap
from analogist.experiments.design.levels import StudyError
from analogist.models.control import At, AttentionControl
from analogist.models.placement import Site
from analogist.pipeline import Analogist

if TYPE_CHECKING:
    from analogist.experiments.execute.jobs import Job


class JobTap:
    """Implements the Tap protocol of models/control.py: one StudyTap for the edit and one for each metric that looks."""

    def __init__(self, model: Analogist, job: "Job") -> None:
        """Raises ValueError for selectors that match nothing, words that are not in the prompt, captures that are too large."""
        shape = _shape(model, job)
        edits = None if job.edit is None else job.edit.edits
        self._taps = [StudyTap(None, edits, model.unet, shape)] if edits is not None else []
        self._looking = {name: StudyTap(capture, None, model.unet, shape) for name, capture in job.captures}
        self._taps += self._looking.values()

    def wants(self, site: Site, point: str, step: int) -> bool:
        """Whether the point is looked at or edited in this step."""
        return any(tap.wants(site, point, step) for tap in self._taps)

    def whole(self, site: Site, step: int) -> bool:
        """Whether map points must come with all heads in one tensor."""
        return any(tap.whole(site, step) for tap in self._taps)

    def __call__(self, tensor: Tensor, at: At) -> Tensor:
        """The tensor that the next line of forward uses."""
        for tap in self._taps:
            tensor = tap(tensor, at)
        return tensor

    def close(self) -> Mapping[str, Maps]:
        """What every metric's capture kept, by the metric's name; nothing can be captured afterwards."""
        for tap in self._taps:
            tap.close()
        return {name: tap.maps for name, tap in self._looking.items()}


def tap_of(model: Analogist, job: "Job") -> JobTap | None:
    """The tap of a job; None where nothing looks or edits."""
    return JobTap(model, job) if job.alone else None


def check_tap(model: Analogist, job: "Job") -> None:
    """Raises StudyError where a job's edit or capture cannot work, before anything runs."""
    what = "a metric's capture" if job.edit is None else f"edit {job.edit.label!r}"
    try:
        tap, shape = JobTap(model, job), _shape(model, job)
        try:
            for step, t in enumerate(shape.times):
                control = AttentionControl(
                    step=step, t=t, branches=shape.branches, images=1, sac=job.config.sac, cam=job.config.cam, tap=tap,
                    rows=job.grid.rows, attention=job.content["attention"],
                )  # fmt: skip
                for site in model.unet.sites:
                    control.form_at(site)
        finally:
            tap.close()
    except ValueError as error:
        raise StudyError(f"{what}: {error}") from error


def _shape(model: Analogist, job: "Job") -> RunShape:
    """The shape of a call of the model with this job's arguments and one image."""
    sampling = job.config.sampling
    times = model.schedule.times(sampling.steps, sampling.strength)
    size = job.grid.known_size
    h, w = (side // model.vae.config.factor for side in size)
    return RunShape(
        steps=len(times), times=tuple(t for t, _ in times), branches=sampling.branches, images=1, latent=(h, w),
        rows=job.grid.rows, tokens=model.text.length, dtype=model.dtype, size=size, words=model.text, prompts=job.prompts,
    )  # fmt: skip
