"""Groups of jobs on Ray workers (extra `cluster`): each holds the model, results come back over Ray, lost groups are run again.

On this machine or on a cluster by address. A worker that dies takes its group back to the queue; nodes may come and go.
For the same bits as in one process, workers need the same checkpoint, kind of machine and number of CPU threads.
"""

import dataclasses
import importlib.util
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

import analogist
from analogist.experiments.design.levels import StudyError
from analogist.experiments.design.own import OwnMetric
from analogist.experiments.execute.jobs import Group, painted_by
from analogist.experiments.execute.store import Done

ATTEMPTS = 3  # how many workers one group may cost
LOOK = 5.0  # seconds between looks at what the cluster offers


@dataclass(frozen=True, kw_only=True)
class Loading:
    """What a worker loads: arguments of Analogist.from_checkpoint, and feature networks. Paths are the workers' own.

    lora: (file, scale) of each LoRA. dtype None: that of the model which the study was planned with. Workers that load another
    checkpoint, precision or LoRA than that model's are refused.
    """

    checkpoint: str | None = None
    config: str | None = None
    vae: str | None = None
    lora: tuple[tuple[str, float], ...] = ()
    device: str | None = None
    dtype: str | None = None
    clip: str | None = None
    dino: str | None = None
    metrics: tuple[str | OwnMetric, ...] = ("mse",)


class _Held:
    """The model of one worker process, loaded by `ready`: what fails there comes back as it is, not as a dead worker."""

    def __init__(self, loading: Loading, threads: int) -> None:
        self.loading, self.threads = loading, threads

    def ready(self) -> dict:
        """Loads; returns the `model_content` of the model that this worker holds."""
        import torch

        torch.set_num_threads(self.threads)
        from analogist.experiments.execute.jobs import model_content
        from analogist.experiments.execute.worker import Worker
        from analogist.experiments.score.metrics import Measurer
        from analogist.experiments.score.networks import load_network
        from analogist.pipeline import Analogist

        loading, path = self.loading, self.loading.checkpoint
        how = {name: getattr(loading, name) for name in ("config", "vae", "lora", "device", "dtype")}
        model = Analogist.from_checkpoint(path, **how)
        networks = {kind: load_network(kind, getattr(loading, kind)) for kind in ("clip", "dino") if getattr(loading, kind)}
        self.worker = Worker(model, Measurer(loading.metrics, **networks))
        return model_content(model)

    def run(self, group: Group) -> tuple[list[Done], float]:
        """Results and seconds of one group."""
        started = time.perf_counter()
        return self.worker.run(group), time.perf_counter() - started


class RayPool:
    """Runs groups on Ray workers. workers None: one per GPU, else one per `threads` cores. address None: this machine."""

    def __init__(
        self, loading: Loading, *, workers: int | None = None, threads: int | None = None, address: str | None = None,
        progress: bool = False,
    ) -> None:  # fmt: skip
        if importlib.util.find_spec("ray") is None:
            raise StudyError("--on ray: Ray is not installed: pip install 'analogist[cluster]', or leave out --on to run in this process")
        for name, value in (("workers", workers), ("threads", threads)):
            if value is not None and value < 1:
                raise StudyError(f"{name} {value}: 1 or more")
        self.loading, self.workers, self.threads = loading, workers, threads
        self.address, self.progress = address, progress

    def measuring(self, metrics: Sequence[str | OwnMetric]) -> "RayPool":
        """The same pool, whose workers measure these metrics."""
        loading = dataclasses.replace(self.loading, metrics=tuple(metrics))
        return RayPool(loading, workers=self.workers, threads=self.threads, address=self.address, progress=self.progress)

    def run(self, groups: Sequence[Group]) -> Iterator[tuple[Group, list[Done], float]]:
        """Yields each group as it is done, in any order."""
        if not groups:
            return
        import ray

        mine = not ray.is_initialized()
        if mine:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            own: dict[str, Any] = {} if self.address else {"include_dashboard": False}
            try:
                ray.init(address=self.address, log_to_driver=False, logging_level=logging.ERROR, **own)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise StudyError(f"Ray at {self.address or 'this machine'}: {' '.join(str(error).split())[:200]}") from error
        try:
            send_by_value(ray, self.loading.metrics, groups)
            yield from _Dispatch(ray, self, groups).results()
        finally:
            if mine:
                ray.shutdown()

    def say(self, text: str) -> None:
        """One line about the workers, above the progress bar."""
        if self.progress:
            tqdm.write(text)


def send_by_value(ray, metrics: Sequence[str | OwnMetric], groups: Sequence[Group]) -> None:
    """Lets the modules of own metrics and edits travel with their functions: a worker may not have the files."""
    own = [one.function for one in metrics if isinstance(one, OwnMetric)]
    edits = {job.edit.key: job.edit.edits for group in groups for job in group.jobs if job.edit is not None and job.edit.edits is not None}
    own += [function for given in edits.values() for functions in given.values() for function in functions]
    for function in own:
        name = getattr(function, "__module__", None) or type(function).__module__
        if name in sys.modules and name != "__main__" and name.partition(".")[0] not in ("analogist", "torch", "builtins"):
            ray.cloudpickle.register_pickle_by_value(sys.modules[name])


class _Dispatch:
    """The coordinator's view: groups waiting, workers starting, idle and busy."""

    def __init__(self, ray, pool: RayPool, groups: Sequence[Group]) -> None:
        self.ray, self.pool = ray, pool
        self.waiting = deque(groups)
        self.left = len(groups)
        self.attempts: dict[str, int] = {}
        self.starting: dict[object, object] = {}  # reference -> actor
        self.busy: dict[object, tuple[object, Group]] = {}
        self.looked = 0.0
        on_gpu = (pool.loading.device or "cuda").startswith("cuda") and ray.cluster_resources().get("GPU", 0) > 0
        cores = int(ray.cluster_resources().get("CPU", 1))
        self.threads = pool.threads or max(1, cores // max(1, pool.workers or 1))
        self.needs = {"num_cpus": self.threads, "num_gpus": 1 if on_gpu else 0}
        root = str(Path(analogist.__file__).parent.parent)  # so that workers find a source tree that is not installed
        path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
        environment = {"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": str(self.threads)}}
        self.make = ray.remote(_Held).options(runtime_env=environment, max_restarts=0, **self.needs)
        self.expected = painted_by(groups[0].jobs[0])
        self.loading = dataclasses.replace(pool.loading, dtype=pool.loading.dtype or self.expected["dtype"])

    def wanted(self) -> int:
        """How many workers there should be: those asked for, or as many as the cluster has room for now."""
        if self.pool.workers is not None:
            most = self.pool.workers
        else:
            there = self.ray.cluster_resources()
            most = int(there.get("GPU", 0)) if self.needs["num_gpus"] else int(there.get("CPU", 1)) // self.threads
        return max(1, min(most, self.left))

    def grow(self) -> None:
        """Starts workers that are missing; one that no node has room for waits until a node comes."""
        self.looked = time.monotonic()
        for _ in range(self.wanted() - len(self.starting) - len(self.busy)):
            actor = self.make.remote(self.loading, self.threads)
            self.starting[actor.ready.remote()] = actor

    def results(self) -> Iterator[tuple[Group, list[Done], float]]:
        """Every group's results as they come."""
        self.grow()
        while self.left:
            done, _ = self.ray.wait([*self.starting, *self.busy], num_returns=1, timeout=LOOK)
            for reference in done:
                if reference in self.starting:
                    self._started(reference)
                else:
                    result = self._finished(reference)
                    if result is not None:
                        yield result
            if not done or time.monotonic() - self.looked > LOOK:
                self.grow()
        for actor in self.starting.values():
            self.ray.kill(actor)

    def _started(self, reference: object) -> None:
        actor = self.starting.pop(reference)
        try:
            found = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            raise StudyError(f"a Ray worker cannot load the model: {' '.join(str(error.cause).split())[:300]}") from error
        except self.ray.exceptions.RayActorError as error:
            self._lost("while it loaded the model", error)
            return
        if found != self.expected:
            raise StudyError(f"a Ray worker holds another model: {_shown(found)}; the study was planned with {_shown(self.expected)}")
        self._feed(actor)

    def _feed(self, actor: Any) -> None:
        if self.waiting:
            group = self.waiting.popleft()
            self.busy[actor.run.remote(group)] = (actor, group)
        else:
            self.ray.kill(actor)

    def _finished(self, reference: object) -> tuple[Group, list[Done], float] | None:
        actor, group = self.busy.pop(reference)
        try:
            results, seconds = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ValueError | MemoryError):
                raise error.cause from None
            raise
        except self.ray.exceptions.RayError as error:  # the worker, its node or the result was lost
            self.attempts[group.key] = self.attempts.get(group.key, 0) + 1
            if self.attempts[group.key] >= ATTEMPTS:
                raise StudyError(
                    f"{ATTEMPTS} Ray workers died on one group of {len(group.jobs)} runs ({type(error).__name__}); if memory ran out, a "
                    "smaller --batch needs less"
                ) from error
            self.waiting.appendleft(group)
            self._lost(f"with {len(group.jobs)} runs, which are run again", error)
            return None
        self.left -= 1
        self._feed(actor)
        return group, results, seconds

    def _lost(self, when: str, error: Exception) -> None:
        self.attempts[""] = self.attempts.get("", 0) + (0 if self.busy else 1)
        if self.attempts[""] > 10 * ATTEMPTS:
            raise StudyError(f"Ray workers keep dying ({type(error).__name__}), and no group is finished; look at their logs") from error
        self.pool.say(f"a Ray worker was lost {when} ({type(error).__name__})")
        self.grow()


def _shown(model: dict) -> str:
    """A model in words, from its `model_content`."""
    loras = [f"LoRA {one['sha256'][:12]} at scale {one['scale']}" for one in model.get("lora", ())] or ["no LoRA"]
    return f"checkpoint {model['checkpoint'][:12]}, {model['dtype']}, {', '.join(loras)}"
