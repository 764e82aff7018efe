"""The published settings by task, as `--task` takes them: the ten tasks of the evaluation, and the two demos.

Source: the authors' evaluation script and README (Gu et al. 2024, released code).
"""

from dataclasses import dataclass

from analogist.config import TASKS, AnalogistConfig, SamplingConfig, published_code
from analogist.models.control import CAM, SAC
from analogist.models.placement import Placement


@dataclass(frozen=True)
class Task:
    """Settings of one published task. size: of the grid in pixels, None: the checkpoint's; aligned: as for PromptGrid.

    layers: first and last of SAC and CAM, as the configuration places them.
    """

    name: str
    what: str
    config: AnalogistConfig
    size: int | None = None
    aligned: str = "a-a_prime"
    layers: tuple[int, int] = (3, 10)


def _demo(name: str, what: str, first: int, last: int, strength: float, aligned: str = "a-a_prime") -> Task:
    placement = Placement.layers(first, last + 1)
    config = AnalogistConfig(sampling=SamplingConfig(strength=strength), sac=SAC(placement), cam=CAM(placement))
    return Task(name, what, config, size=1024, aligned=aligned, layers=(first, last))


def tasks() -> dict[str, Task]:
    """All tasks by name, the evaluation's first."""
    found = [Task(name, what, published_code(name)) for name, (_, _, what) in TASKS.items()]
    found += [
        _demo("caricature", "demo: photo to caricature", 4, 8, 0.96),
        _demo("corgi", "demo: the same change of view, with A and B aligned", 4, 7, 0.8, aligned="a-b"),
    ]
    return {task.name: task for task in found}


def task(name: str) -> Task:
    """One task by name. Raises ValueError that lists all tasks."""
    known = tasks()
    if name not in known:
        raise ValueError(f"task {name!r}: allowed are {', '.join(known)} (`analogist tasks` describes each)")
    return known[name]
