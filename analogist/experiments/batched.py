"""SAC and CAM that differ by image within one UNet call, grouped by what they do rather than by where they are placed.

Sixteen placements of one setting are sixteen settings to `AttentionControl`; at one site they are two: on and off.
"""

import dataclasses
from dataclasses import dataclass

import torch

from analogist.models.control import CAM, SAC, AttentionControl, Where
from analogist.models.placement import NEGATIVE, TEXT, Placement, Site


def effect(setting: SAC | CAM) -> SAC | CAM:
    """A setting without its placement: what it does where it acts."""
    return dataclasses.replace(setting, placement=Placement.nowhere())


class Actions:
    """Where a setting acts, remembered: the placement is asked once a site where it does not depend on the step."""

    def __init__(self, setting: SAC | CAM) -> None:
        self.effect = effect(setting)
        self._placement = setting.placement
        self._by_step = _depends_on_steps(setting.placement.to_json())
        self._known: dict[tuple[str, int], tuple[frozenset[int], frozenset[int]]] = {}

    def heads(self, site: Site, step: int) -> tuple[frozenset[int], frozenset[int]]:
        """The heads at which it acts, in the negative and in the text branch."""
        key = (site.name, step if self._by_step else 0)
        if key not in self._known:
            self._known[key] = tuple(self._placement.heads_at(site, step, branch) for branch in (NEGATIVE, TEXT))
        return self._known[key]

    def signature(self, sites: list[Site], step: int) -> tuple:
        """Equal for two settings exactly where they do the same in a step at every site."""
        if not self._by_step:
            step = 0
        where = tuple(self.heads(site, step) for site in sites)
        return (self.effect, where) if any(heads for pair in where for heads in pair) else ()


def _depends_on_steps(data: dict) -> bool:
    parts = data.get("any", [data[key] for key in ("of", "except") if key in data])
    return any(_depends_on_steps(part) for part in parts) or "steps" in data


@dataclass(frozen=True, kw_only=True)
class BatchedControl(AttentionControl):
    """An AttentionControl whose images have settings of their own; actions: one (SAC, CAM) pair an image, None: off."""

    actions: tuple[tuple[Actions | None, Actions | None], ...] = ()

    def sac_at(self, site: Site, heads: range | None = None) -> list[tuple[Where, SAC]]:
        """The SAC effects that act at a site now, each with its index into [batch head ...]."""
        return self._grouped(0, site, heads)

    def cam_at(self, site: Site, heads: range | None = None) -> list[tuple[Where, CAM]]:
        """The CAM effects that act at a site now, each with its index into [batch head ...]."""
        return self._grouped(1, site, heads)

    def _grouped(self, which: int, site: Site, heads: range | None) -> list[tuple[Where, SAC | CAM]]:
        heads = range(site.heads) if heads is None else heads
        groups: dict[tuple, list[int]] = {}
        for position in range(self.branches):
            branch = position if self.branches == 2 else TEXT
            for image, pair in enumerate(self.actions):
                acting = pair[which]
                if acting is None:
                    continue
                active = tuple(h - heads.start for h in sorted(acting.heads(site, self.step)[branch]) if h in heads)
                if active:
                    groups.setdefault((acting.effect, active), []).append(position * self.images + image)
        out: list[tuple[Where, SAC | CAM]] = []
        for (what, active), rows in groups.items():
            everywhere = len(active) == len(heads)
            if everywhere and len(rows) == self.branches * self.images:
                where: Where = (slice(None),)
            elif everywhere:
                where = (torch.tensor(rows),)
            else:
                where = (torch.tensor(rows)[:, None], torch.tensor(active))
            out.append((where, what))
        return out
