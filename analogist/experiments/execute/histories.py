"""Which jobs of a group are still equal after each step, because SAC, CAM and all inputs have been the same for them so far."""

from collections.abc import Hashable, Sequence

from analogist.experiments.execute.jobs import Job
from analogist.models.control import CAM, SAC
from analogist.models.placement import NEGATIVE, TEXT, Site


class Actions:
    """What a setting does, step by step, remembered: the placement is asked once per site where it does not depend on the step."""

    def __init__(self, setting: SAC | CAM) -> None:
        self._effect = setting.effect
        self._placement = setting.placement
        self._by_step = _depends_on_steps(setting.placement.to_json())
        self._known: dict[tuple[str, int], tuple[frozenset[int], frozenset[int]]] = {}

    def heads(self, site: Site, step: int) -> tuple[frozenset[int], frozenset[int]]:
        """The heads at which it acts, in the negative and in the text branch."""
        key = (site.name, step if self._by_step else 0)
        if key not in self._known:
            self._known[key] = self._placement.heads_at(site, step, NEGATIVE), self._placement.heads_at(site, step, TEXT)
        return self._known[key]

    def signature(self, sites: list[Site], step: int) -> tuple:
        """Equal for two settings exactly where they do the same in a step at every site."""
        where = tuple(self.heads(site, step) for site in sites)
        return (self._effect, where) if any(heads for pair in where for heads in pair) else ()


def _depends_on_steps(data: dict) -> bool:
    parts = data.get("any", [data[key] for key in ("of", "except") if key in data])
    return any(_depends_on_steps(part) for part in parts) or "steps" in data


class Histories:
    """Which jobs of a group are still equal, step by step."""

    def __init__(self, jobs: Sequence[Job], sites: Sequence[Site]) -> None:
        known: dict[SAC | CAM, Actions] = {}
        self._actions = [tuple(_actions(setting, known) for setting in (job.config.sac, job.config.cam)) for job in jobs]
        self._sites = tuple([site for site in sites if site.kind == kind] for kind in ("self", "cross"))
        self._past: list[Hashable] = [
            (job.content["grid"]["sha256"], job.seed, tuple(job.prompts.values()), job.config.sampling.guidance) for job in jobs
        ]

    def advance(self, i: int) -> list[list[int]]:
        """The jobs of each distinct history after step i, in order of their first job."""
        numbered: dict[Hashable, int] = {}
        now = [self._signature(pair, i) for pair in self._actions]
        numbers = [numbered.setdefault(both, len(numbered)) for both in zip(self._past, now, strict=True)]
        self._past = list(numbers)
        nodes: list[list[int]] = [[] for _ in numbered]
        for j, node in enumerate(numbers):
            nodes[node].append(j)
        return nodes

    def _signature(self, pair: tuple[Actions | None, ...], i: int) -> tuple:
        return tuple(() if one is None else one.signature(sites, i) for one, sites in zip(pair, self._sites, strict=True))


def _actions(setting: SAC | CAM | None, known: dict[SAC | CAM, Actions]) -> Actions | None:
    if setting is None:
        return None
    if setting not in known:
        known[setting] = Actions(setting)
    return known[setting]
