"""What acts on attention during one UNet call: SAC, CAM, and the tap that captures and edits.

Everything is an argument of the call; nothing is kept on the model. The step is an argument, never a counter.
"""

# pyright: reportUnnecessaryIsInstance=false
# Arguments are also checked at run time, because a caller may not check types.

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeVar, cast

import torch
from torch import Tensor

from .cells import REGIONS, Cell, all_cells, cells_of, cross_cells, self_cells
from .numbers import plain
from .placement import MAP_POINTS, TEXT, Placement, Site

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


@dataclass(frozen=True)
class SAC:
    """Self-Attention Cloning: M_s(A', B') := s * M_s(A, B).

    Source: Gu et al. 2024 (Analogist), Sec. 4.2; `mirror` (M_s(B', A') := s * M_s(B, A)) is in the authors' code only.
    """

    placement: Placement = Placement.layers(3, 11)
    scale: float | tuple[float, ...] = 1.3  # s; the paper uses 1.4 for skeleton-to-image; a tuple: one per example pair
    mirror: bool = True  # also the transposed block, as in the authors' code
    stage: str = "scores"  # "scores": before the softmax (published); "probs": after it, no renormalisation
    clone: tuple[tuple[str, str], tuple[str, str]] = (("A'", "B'"), ("A", "B"))  # (query, key) written, (query, key) read

    def __post_init__(self) -> None:
        scale: object = plain(self.scale)
        object.__setattr__(self, "scale", tuple(cast("list[object]", scale)) if isinstance(scale, list) else scale)
        object.__setattr__(self, "mirror", plain(self.mirror))
        scales = self.scale if isinstance(self.scale, tuple) else (self.scale,)
        if not isinstance(self.placement, Placement):
            raise ValueError(f"SAC placement {self.placement!r}: give a Placement, such as Placement.layers(3, 11) or Placement('up.*')")
        if not isinstance(self.mirror, bool):
            raise ValueError(f"SAC mirror {self.mirror!r}: allowed are True and False")
        if not scales or not all(isinstance(s, int | float) and not isinstance(s, bool) and abs(s) < float("inf") for s in scales):
            raise ValueError(f"SAC scale {self.scale!r}: a finite number, or one per example pair")
        if self.stage not in ("scores", "probs"):
            raise ValueError(f"SAC stage {self.stage!r}: allowed are 'scores' (before the softmax) and 'probs' (after it)")
        blocks = _regions_by_two(self.clone)
        if blocks is None:
            raise ValueError(f"SAC clone {self.clone!r}: expected two (query, key) pairs of the regions {', '.join(REGIONS)}")
        object.__setattr__(self, "clone", blocks)
        (query, key), (from_query, from_key) = blocks
        if self.mirror and query == key and from_query != from_key:
            raise ValueError(f"SAC clone {self.clone!r}: its mirror writes the same block from a different block; use mirror=False")

    @property
    def effect(self) -> tuple[Hashable, ...]:
        """Its effect where it acts; batch rows with equal effects are computed together."""
        return self.scale, self.mirror, self.stage, self.clone

    def blocks(self, rows: int) -> list[tuple[Cell, Cell, Cell, Cell, float]]:
        """(query, key) cells written, (query, key) cells read, scale: for every example pair of a grid of `rows` rows."""
        return list(_blocks(self.clone, self.scale, self.mirror, rows))


@lru_cache(maxsize=256)
def _blocks(
    clone: tuple[tuple[str, str], tuple[str, str]], scale: float | tuple[float, ...], mirror: bool, rows: int
) -> list[tuple[Cell, Cell, Cell, Cell, float]]:
    """`SAC.blocks`, cached, because every site needs it in every step."""
    pairs = rows - 1
    scales = scale if isinstance(scale, tuple) else (scale,) * pairs
    if len(scales) != pairs:
        raise ValueError(f"SAC scale {scale}: {len(scales)} numbers, but the grid has {pairs} example pair(s)")
    names = [name for block in clone for name in block]
    out: list[tuple[Cell, Cell, Cell, Cell, float]] = []
    for i, s in enumerate(scales):
        query, key, from_query, from_key = (cells_of(name, rows)[i if name.startswith("A") else 0] for name in names)
        out.append((query, key, from_query, from_key, float(s)))
        if mirror and (key, query) != (query, key):
            out.append((key, query, from_key, from_query, float(s)))
        if not any(name.startswith("A") for name in names):
            break  # nothing depends on the pair
    written = [block[:2] for block in out]
    if len(set(written)) < len(written):
        raise ValueError(
            f"SAC clone {clone}: with {pairs} example pairs it writes the same block {pairs} times, each time from a different block; "
            "write a block of A or A', which every pair has, or use one pair"
        )
    return out


def _two(value: object) -> tuple[object, object] | None:
    """The entries of a tuple or list of two, or None for anything else."""
    if not isinstance(value, tuple | list):
        return None
    entries = cast("Sequence[object]", value)
    return (entries[0], entries[1]) if len(entries) == 2 else None


def _regions_by_two(clone: object) -> tuple[tuple[str, str], tuple[str, str]] | None:
    """Two (query, key) pairs of region names, or None for anything else."""
    halves = _two(clone)
    if halves is None:
        return None
    blocks: list[tuple[str, str]] = []
    for half in halves:
        block = _two(half)
        if block is None:
            return None
        query, key = block
        if not isinstance(query, str) or not isinstance(key, str) or query not in REGIONS or key not in REGIONS:
            return None
        blocks.append((query, key))
    return blocks[0], blocks[1]


@dataclass(frozen=True)
class CAM:
    """Cross-Attention Masking: M_c(A) = M_c(A') = M_c(B) := 0 after the softmax, no renormalisation.

    Source: Gu et al. 2024 (Analogist), Sec. 4.3.
    """

    placement: Placement = Placement.layers(3, 11)
    silence: tuple[str, ...] = ("A", "A'", "B")  # regions that are masked from the text

    def __post_init__(self) -> None:
        if not isinstance(self.placement, Placement):
            raise ValueError(f"CAM placement {self.placement!r}: give a Placement, such as Placement.layers(3, 11) or Placement('up.*')")
        names = self.silence if isinstance(self.silence, tuple | list) else ()
        if not names or not all(isinstance(name, str) and name in REGIONS for name in names):
            raise ValueError(f"CAM silence {self.silence!r}: one or more of {', '.join(REGIONS)}")
        object.__setattr__(self, "silence", tuple(sorted(set(self.silence), key=REGIONS.index)))

    @property
    def effect(self) -> tuple[Hashable, ...]:
        """Its effect where it acts; batch rows with equal effects are computed together."""
        return (self.silence,)

    def cells(self, rows: int) -> list[Cell]:
        """The silenced cells of a grid of `rows` rows."""
        return [cell for region in self.silence for cell in cells_of(region, rows)]

    def heard(self, rows: int) -> list[Cell]:
        """The other cells, whose tokens attend to the text."""
        return list(_heard(self.silence, rows))


@lru_cache(maxsize=256)
def _heard(silence: tuple[str, ...], rows: int) -> tuple[Cell, ...]:
    """`CAM.heard`, cached like `_blocks`."""
    silenced = {cell for region in silence for cell in cells_of(region, rows)}
    return tuple(cell for cell in all_cells(rows) if cell not in silenced)


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
        for sac in self._sacs:
            if sac is not None:
                sac.blocks(self.rows)  # raises before the run if its scales or clone do not fit the grid

    @property
    def _sacs(self) -> tuple[SAC | None, ...]:
        """`sac` as stored: one entry per image."""
        return cast(tuple[SAC | None, ...], self.sac)

    @property
    def _cams(self) -> tuple[CAM | None, ...]:
        """`cam` as stored, like `_sacs`."""
        return cast(tuple[CAM | None, ...], self.cam)

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
        looks = self.wants(site, *MAP_POINTS)
        if self.attention == "fused" and looks:
            raise ValueError(f"{site}: attention='fused' holds no map, but one is captured or edited here; use 'auto'")
        return "explicit" if looks or asked == "explicit" else "fused"

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

    def clones_at(self, site: Site, stage: str, heads: range | None = None) -> list[tuple[Where, Block, Block, float]]:
        """SAC at a site as single assignments, M[written][where] = s * M[read][where]: (where, written, read, s) of each.

        stage: the maps they act on, "scores" or "probs". No block is both read and written.
        """
        return [
            (where, query + key, from_query + from_key, s)
            for where, sac in self.sac_at(site, heads)
            if sac.stage == stage
            for query, key, from_query, from_key, s in sac.blocks(self.rows)
        ]

    def _groups(self, settings: tuple[Setting | None, ...], site: Site, heads: range | None) -> list[tuple[Where, Setting]]:
        """Groups batch rows that share an effect and its heads; a group of all rows and heads is indexed without a copy."""
        if not any(settings):
            return []
        heads = range(site.heads) if heads is None else heads
        groups: dict[tuple[tuple[Hashable, ...], tuple[int, ...]], tuple[list[int], Setting]] = {}
        known: dict[tuple[int, int], tuple[int, ...]] = {}  # images usually share one setting, so placements are asked once per branch
        for position in range(self.branches):
            branch = position if self.branches == 2 else TEXT
            for image, setting in enumerate(settings):
                if setting is None:
                    continue
                key = id(setting), branch
                if key not in known:
                    acts = setting.placement.heads_at(site, self.step, branch)
                    known[key] = tuple(h - heads.start for h in sorted(acts) if h in heads) if acts else ()
                if active := known[key]:
                    rows, _ = groups.setdefault((setting.effect, active), ([], setting))
                    rows.append(position * self.images + image)
        batch = self.branches * self.images
        out: list[tuple[Where, Setting]] = []
        for (_, active), (rows, setting) in groups.items():
            all_rows, all_heads = len(rows) == batch, len(active) == len(heads)
            out.append((Where(None if all_rows else tuple(rows), None if all_heads else active), setting))
        return out


Edit = Callable[[Tensor, At], Tensor]
