"""What a study will take: one run is measured, the rest is counted."""

import dataclasses
import time
from pathlib import Path

from analogist.experiments.execute.ablation import painted_already, shard_of
from analogist.experiments.execute.engine import Engine
from analogist.experiments.execute.jobs import Group, Plan
from analogist.experiments.execute.sample_size import pilot_part, run_pilot, sample_size_lines
from analogist.experiments.execute.store import read_entries
from analogist.experiments.execute.worker import Worker, peak_memory
from analogist.run.memory import call_bytes
from analogist.run.sampling import decode


def expect(
    plan: Plan, worker: Worker, *, out: str | Path | None = None, shard: tuple[int, int] | None = None, pilot: int | None = None
) -> list[str]:  # fmt: skip
    """Lines that say how many runs there are, the time and memory to expect after one measured run, and what the study could show.

    Runs that the folder `out` already holds are taken off, and are the pilot from which inputs are counted. pilot: runs this many
    inputs for that instead. Nothing is written.
    """
    model = worker.model
    groups = shard_of(plan.groups, shard)
    jobs = [job for group in groups for job in group.jobs]
    there = read_entries(Path(out)) if out is not None and Path(out).is_dir() else {}
    painted = painted_already(there.values())
    left = [
        dataclasses.replace(group, jobs=tuple(job for job in group.jobs if job.key not in there and job.painting not in painted))
        for group in groups
    ]
    left = [group for group in left if group.jobs]
    todo = sum(len(group.jobs) for group in left)
    study = plan.study
    lines = [
        f"{study.name}: {len(plan.variants)} variants x {len(study.inputs)} inputs x {len(study.effective_seeds())} seeds = "
        f"{len(plan.rows)} runs, {len(plan.jobs)} different ones"
        + ("" if shard is None else f", {len(jobs)} in shard {shard[0]}/{shard[1]}")
        + (f", {len(jobs) - todo} finished" if len(jobs) > todo else "")
    ]
    entries = there if pilot is None else run_pilot(pilot_part(plan, pilot), worker)
    able = sample_size_lines(plan, entries, worker) if len(plan.variants) > 1 else []  # an evaluation compares nothing
    if not todo:
        return [*lines, "nothing is left to run", *able]
    engine = Engine(model)
    images = sum(engine.count(group) for group in left)
    plain = sum(len(group.jobs) * group.jobs[0].config.sampling.executed for group in left)
    lines.append(f"{len(left)} groups of at most {study.group}, UNet calls of at most {study.batch} images; {images} image-steps")
    if images < plain:
        lines[-1] += f" ({plain} without shared beginnings)"
    one = Group("measured", left[0].jobs[:1], 1)
    started = time.perf_counter()
    sampled = engine.sample(one)
    sampling = time.perf_counter() - started
    decode(model.vae, sampled.latents)
    rest = time.perf_counter() - started - sampling
    seconds = sampling / sampled.images * images + rest * todo
    lines.append(
        f"one run alone took {sampling + rest:.1f} s ({sampled.images} steps); expect about {_duration(seconds)} in one process "
        "(batches may be faster)"
    )
    peak = peak_memory(model.device)
    if peak:
        h, w = (side // model.vae.config.factor for side in jobs[0].grid.known_size)
        each = call_bytes(model.unet.config, branches=2, h=h, w=w, dtype=model.dtype, maps=False)
        extra = each * (min(study.batch, len(jobs)) - 1)
        lines.append(
            f"memory: {_size(peak)} at the most for that run, about {_size(peak + extra)} with {study.batch} images per call"
        )
    return lines + able


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
