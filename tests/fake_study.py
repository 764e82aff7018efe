"""Studies whose pictures are made up, for the tests of what is written of them: nothing is sampled."""

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from analogist.experiments.execute.ablation import Local
from analogist.experiments.execute.jobs import Group, job_record
from analogist.experiments.execute.store import Done
from analogist.experiments.execute.worker import Worker, measured
from analogist.experiments.score.metrics import Painted


class MadeUp(Local):
    """A pool whose runs "paint" the true B' with some noise, more of it without SAC; each job has its own, always the same.

    failing: seeds whose runs have no picture.
    """

    def __init__(self, worker: Worker, *, failing: Sequence[int] = ()) -> None:
        super().__init__(worker)
        self.failing = failing

    def run(self, groups: Sequence[Group]) -> Iterator[tuple[Group, list[Done], float]]:
        """The groups in order."""
        for group in groups:
            yield group, [self._done(job, group) for job in group.jobs], 0.1 * len(group.jobs)

    def _done(self, job, group: Group) -> Done:
        record = job_record(job, self.worker.model, [801, 401, 1], group.batch)
        if job.seed in self.failing:
            return Done(job.key, None, record, failed="NaN or infinite latents at step 1")
        left, top, right, bottom = job.grid.boxes()["B'"]
        base = job.grid.cells()["B"] if job.truth is None else job.truth
        chance = np.random.default_rng(int(job.key[:12], 16))
        noise = chance.normal(0, 30 if job.config.sac is None else 12, (bottom - top, right - left, 3))
        painted = np.asarray(base.resize((right - left, bottom - top)), float) + noise
        cell = Image.fromarray(painted.clip(0, 255).astype(np.uint8))
        values, notes = measured(self.worker.measurer, Painted(cell, job.grid, job.truth, job.example))
        return Done(job.key, cell, record, values, notes)
