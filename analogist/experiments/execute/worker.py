"""Runs groups of jobs on a loaded model and measures their pictures: the work of one process, wherever it is."""

from collections.abc import Sequence

import torch

from analogist.experiments.execute.engine import Engine
from analogist.experiments.execute.jobs import Group, job_record
from analogist.experiments.execute.store import Done
from analogist.experiments.score.metrics import Measurer, Painted
from analogist.grid.prompt_grid import to_image
from analogist.pipeline import Analogist
from analogist.run.result import SamplingError
from analogist.run.sampling import decode


class Worker:
    """A model and what measures its pictures. Nothing it remembers changes a result."""

    def __init__(self, model: Analogist, measurer: Measurer) -> None:
        self.model, self.measurer = model, measurer
        self.engine = Engine(model)

    def run(self, group: Group, seen=None) -> list[Done]:
        """Paints and measures every job of a group, in its order. A job whose numbers are not finite fails alone."""
        sampled = self.engine.sample(group, seen=seen)
        out = []
        for j, job in enumerate(group.jobs):
            record = job_record(job, self.model, sampled.times, group.batch)
            failed = sampled.failed.get(j)
            cell = None
            if failed is None:
                try:
                    pixels = decode(self.model.vae, sampled.latents[j : j + 1])
                    cell = job.grid.crop(to_image(pixels[0]))
                except SamplingError as error:
                    failed = str(error)
            if cell is None:
                out.append(Done(job.key, None, record, failed=failed))
                continue
            measures, notes = measured(self.measurer, Painted(cell, job.grid, job.truth, job.example, sampled.maps))
            out.append(Done(job.key, cell, record, measures, notes))
        return out


def measured(
    measurer: Measurer, painted: Painted, names: Sequence[str] | None = None
) -> tuple[dict[str, float], dict[str, str]]:
    """Values by metric key, and why the others were not measured. names: some of the metrics; None: all."""
    values = measurer.measure(painted, names)
    measures: dict[str, float] = {measurer.key(name): value for name, value in values.items() if not isinstance(value, str)}
    return measures, {name: value for name, value in values.items() if isinstance(value, str)}


def peak_memory(device: torch.device) -> int:
    """Most bytes this process has held so far: on the device, or on the CPU in all (where the system says it)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # not on this system
        return 0
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
