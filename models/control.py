"""What acts on attention during one UNet call: SAC, CAM, and the tap that captures and edits.

Everything is an argument of the call; nothing is kept on the model. The step is an argument, never a counter.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol, TypeVar, cast

import torch
from torch import Tensor

from .cells import cross_cells, self_cells
from .placement import MAP_POINTS, TEXT, Site
from .settings import CAM, SAC

Block = tuple[int, int, int, int]  # (query row, query column, key row, key column) of cells: A' -> B' is the block of queries in A'


@lru_cache(maxsize=4096)
def index_of(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """Whole numbers as an index tensor on a device. Remembered: made anew it would be copied to the device at every use."""
    with torch.inference_mode(False):  # else gradients could not use what was first made without them
        return torch.tensor(numbers, device=device)


Index = tuple[slice | Tensor, ...]  # into [batch head ...]


@dataclass(frozen=True)
class Where:
    """Which rows of the batch and which heads; None: all."""

    rows: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None

    def on(self, device: torch.device) -> Index:
        """An index into [batch head ...] of a tensor on this device; without a copy where everything is meant."""
        if self.rows is None and self.heads is None:
            return (slice(None),)
        if self.heads is None:
            return (index_of(self.rows, device),)
        rows = slice(None) if self.rows is None else index_of(self.rows, device)[:, None]
        return rows, index_of(self.heads, device)


EVERYTHING = Where()

FORMS = ("auto", "explicit", "fused")


Setting = TypeVar("Setting", SAC, CAM)


@dataclass(frozen=True)
class At:
    """The place and time of a tensor that a tap sees."""

    site: Site
    point: str
    step: int  # executed step of the run, 0 first
    t: int  # training time index, 0..999
    hw: tuple[int, int]  # token rows and columns (of the feature map for blocks)
    branches: int  # the batch axis is (branch image); 1: the text branch alone
    images: int
    rows: int = 2  # rows of cells: example pairs + 1
    heads: range = range(0)  # the heads in the tensor, of site.heads (a slice only where the tap accepts one)

    def cells(self, tensor: Tensor) -> Tensor:
        """A view by cells of a tensor at a map point: [query cell ... key cell] (self) or [cell] (cross)."""
        view = self_cells if self.site.kind == "self" else cross_cells
        return view(tensor, self.hw, self.rows)


class Tap(Protocol):
    """Captures and edits tensors. Edits run first, then captures copy."""

    def wants(self, site: Site, point: str, step: int) -> bool:
        """Whether the point is captured or edited in this step."""
        ...

    def whole(self, site: Site, step: int) -> bool:
        """Whether map points must come with all heads in one tensor (an edit across heads)."""
        ...

    def __call__(self, tensor: Tensor, at: At) -> Tensor:
        """The tensor that the next line of forward uses."""
        ...


class Seeing(Protocol):
    """A tap bound to one site for one forward; this is what modules call."""

    def __call__(self, point: str, tensor: Tensor, heads: range | None = None) -> Tensor:
        """The tensor that the next line of forward uses. heads: the heads in the tensor, if it holds only a slice of them."""
        ...


def unseen(point: str, tensor: Tensor, heads: range | None = None) -> Tensor:
    """What modules call if nobody looks."""
    return tensor


@dataclass(frozen=True, slots=True)
class Bound:
    """A tap that captures or edits some points of one site."""

    control: "AttentionControl"
    tap: Tap
    site: Site
    hw: tuple[int, int]
    points: frozenset[str]

    def __call__(self, point: str, tensor: Tensor, heads: range | None = None) -> Tensor:
        if point not in self.points:
            return tensor
        return self.tap(tensor, self.control.at(self.site, point, self.hw, heads))


@dataclass(frozen=True, kw_only=True)
class AttentionControl:
    """Everything that acts on attention in one UNet call.

    sac, cam: one setting, None for off, or a sequence with one entry per image. The batch axis is (branch image).
    attention: "auto", "explicit" or "fused"; or a mapping by site name, as in a run's record: a form, or form -> executed steps.
    map_bytes: the explicit form computes heads in slices so that one tensor of maps stays below this size.
    """

    step: int = 0
    t: int = 0
    branches: int = 2
    images: int = 1
    sac: SAC | None | Sequence[SAC | None] = None
    cam: CAM | None | Sequence[CAM | None] = None
    tap: Tap | None = None
    rows: int = 2
    attention: str | Mapping[str, str | Mapping[str, Sequence[int]]] = "auto"
    map_bytes: int = 128 * 2**20
    _sacs: "list[tuple[SAC, list[int]]]" = field(init=False, repr=False, compare=False)  # each setting once, with its images
    _cams: "list[tuple[CAM, list[int]]]" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.attention, str) and self.attention not in FORMS:
            raise ValueError(f"attention {self.attention!r}: allowed are {', '.join(FORMS)}")
        if self.branches not in (1, 2) or self.images < 1 or self.rows < 2:
            raise ValueError(
                f"branches {self.branches}, images {self.images}, rows {self.rows}: expected 1..2 branches, at least 1 image and 2 rows"
            )
        if self.map_bytes < 1:
            raise ValueError(f"map_bytes {self.map_bytes}: expected a number of bytes, at least 1; one head is always computed whole")
        for name, given in (("sac", self.sac), ("cam", self.cam)):
            settings = tuple(given) if isinstance(given, Sequence) else (given,) * self.images
            if len(settings) != self.images:
                raise ValueError(f"{name}: {len(settings)} settings for {self.images} images; give one, or one per image")
            object.__setattr__(self, name, settings)
        object.__setattr__(self, "_sacs", _with_images(cast(tuple[SAC | None, ...], self.sac)))
        object.__setattr__(self, "_cams", _with_images(cast(tuple[CAM | None, ...], self.cam)))
        for sac, _ in self._sacs:
            sac.blocks(self.rows)  # raises before the run if its scales or clone do not fit the grid
        for cam, _ in self._cams:
            cam.heard(self.rows)  # likewise, for a pair that the grid does not have

    def wants(self, site: Site, *points: str) -> bool:
        """Whether the tap captures or edits any of these points here."""
        return self.tap is not None and any(self.tap.wants(site, point, self.step) for point in points)

    def whole(self, site: Site) -> bool:
        """Whether the tap wants the maps of a site, and all heads of them in one tensor."""
        return self.tap is not None and self.wants(site, *MAP_POINTS) and self.tap.whole(site, self.step)

    def form_at(self, site: Site) -> str:
        """Which form of attention runs at a site: "explicit" (with a map) or "fused" (no map).

        Raises ValueError if "fused" was requested but a map is needed.
        """
        asked = self.attention if isinstance(self.attention, str) else self.attention.get(site.name, "auto")
        if not isinstance(asked, str):
            asked = next((form for form, steps in asked.items() if self.step in steps), "auto")
        looks, aligns = self.wants(site, *MAP_POINTS), self._aligns(site)
        if self.attention == "fused" and (looks or aligns):
            why = "one is captured or edited here" if looks else "SAC(align=True) needs the largest entry of each row"
            raise ValueError(f"{site}: attention='fused' holds no map, but {why}; use 'auto'")
        return "explicit" if looks or aligns or asked == "explicit" else "fused"

    def _aligns(self, site: Site) -> bool:
        """Whether SAC aligns rows here, for which it needs the map."""
        may = any(sac.align for sac, _ in self._sacs)
        return may and site.kind == "self" and any(sac.align for _, sac in self.sac_at(site))

    def at(self, site: Site, point: str, hw: tuple[int, int], heads: range | None = None) -> At:
        heads = range(site.heads) if heads is None else heads
        return At(site, point, self.step, self.t, hw, self.branches, self.images, self.rows, heads)

    def tap_at(self, site: Site, hw: tuple[int, int]) -> "Seeing":
        """The tap bound to one site for one forward: `see("q", q)` gives what the next line uses. `unseen` if nobody looks."""
        if self.tap is None:
            return unseen
        points = frozenset(point for point in site.points if self.tap.wants(site, point, self.step))
        return Bound(self, self.tap, site, hw, points) if points else unseen

    def sac_at(self, site: Site, heads: range | None = None) -> list[tuple[Where, SAC]]:
        """What SAC does at a site now: one setting per effect, with the rows and heads it acts on (heads: those computed).

        Images whose settings differ only in where they act share one effect: the setting is that of the first such image.
        """
        return self._groups(self._sacs, site, heads)

    def cam_at(self, site: Site, heads: range | None = None) -> list[tuple[Where, CAM]]:
        """What CAM does at a site now; as `sac_at`."""
        return self._groups(self._cams, site, heads)

    def clones_at(self, site: Site, stage: str, heads: range | None = None) -> list[tuple[Where, SAC, Block, Block, float]]:
        """SAC at a site as single assignments, M[written][where] = s * S[read][where]: (where, setting, written, read, s) of each.

        stage: the maps they act on, "scores" or "probs". S is the map before any of them. Where written and read are one block, it is
        only multiplied; else `SAC.vary` may blend or align it.
        """
        return [
            (where, sac, query + key, from_query + from_key, s)
            for where, sac in self.sac_at(site, heads)
            if sac.stage == stage
            for query, key, from_query, from_key, s in sac.blocks(self.rows)
        ]

    def _groups(self, settings: "list[tuple[Setting, list[int]]]", site: Site, heads: range | None) -> list[tuple[Where, Setting]]:
        """Groups batch rows that share an effect and its heads; a group of all rows and heads is indexed without a copy."""
        heads = range(site.heads) if heads is None else heads
        groups: dict[tuple[tuple[Hashable, ...], frozenset[int]], tuple[list[int], Setting]] = {}
        for setting, images in settings:
            for position in range(self.branches):
                if acts := setting.placement.heads_at(site, self.step, position if self.branches == 2 else TEXT):
                    rows, _ = groups.setdefault((setting.effect, acts), ([], setting))
                    rows += [position * self.images + image for image in images]
        out: list[tuple[Where, Setting]] = []
        for (_, acts), (rows, setting) in sorted(groups.items(), key=lambda group: min(group[1][0])):
            active = tuple(head - heads.start for head in heads if head in acts)
            all_rows, all_heads = len(rows) == self.branches * self.images, len(active) == len(heads)
            if active:
                out.append((Where(None if all_rows else tuple(sorted(rows)), None if all_heads else active), setting))
        return out


def _with_images(settings: tuple[Setting | None, ...]) -> list[tuple[Setting, list[int]]]:
    """Each setting once, with the images that have it: usually they share one, so that placements are asked once per branch."""
    images: dict[int, tuple[Setting, list[int]]] = {}
    for image, setting in enumerate(settings):
        if setting is not None:
            images.setdefault(id(setting), (setting, []))[1].append(image)
    return list(images.values())


Edit = Callable[[Tensor, At], Tensor]
