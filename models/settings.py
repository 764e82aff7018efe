"""SAC and CAM as settings: what they do to attention where they act.

Place in the flow: a configuration holds them, `AttentionControl` resolves them site by site, attention applies them.
Source: Gu et al. 2024 (Analogist), Sec. 4.2 and 4.3.
"""

# pyright: reportUnnecessaryIsInstance=false
# Arguments are also checked at run time, because a caller may not check types.

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor

from .cells import REGIONS, Cell, all_cells, cells_of, names_region
from .numbers import plain
from .placement import Placement

EVERY_PAIR = ("A", "A'")  # regions that each example pair has; A1, A1', A2 ... are of one pair
Block = tuple[str, str]  # names of regions: query, key
Scaled = tuple[tuple[str, str, float], ...]  # query, key, factor


@dataclass(frozen=True)
class SAC:
    """Self-Attention Cloning: M_s(A', B') := s * M_s(A, B).

    Source: Gu et al. 2024 (Analogist), Sec. 4.2; `mirror` (M_s(B', A') := s * M_s(B, A)) is in the authors' code only.
    The fields from `blend` on are variants that neither has; by default they change nothing. Every block is read before any is written.
    """

    placement: Placement = Placement.layers(3, 11)
    scale: float | tuple[float, ...] = 1.3  # s; the paper uses 1.4 for skeleton-to-image; a tuple: one per example pair
    mirror: bool = True  # also the transposed block, as in the authors' code
    stage: str = "scores"  # "scores": before the softmax (published); "probs": after it, no renormalisation
    clone: tuple[Block, Block] | None = (("A'", "B'"), ("A", "B"))  # (query, key) written, (query, key) read; None: nothing is cloned
    blend: float = 1.0  # 0..1: the part of the clone in what is written; the rest is what stood there
    align: bool = False  # gives each cloned row the maximum of the row it replaces: by a term before the softmax, by a factor after it
    scaled: float | Scaled = ()  # (query, key, factor) of blocks that are multiplied; a number: the factor of B' -> A' (B' reads A')
    others: float = 1.0  # factor of all blocks that are neither cloned nor in `scaled`

    def __post_init__(self) -> None:
        scale: object = plain(self.scale)
        object.__setattr__(self, "scale", tuple(cast("list[object]", scale)) if isinstance(scale, list) else scale)
        for name in ("mirror", "blend", "align", "others"):
            object.__setattr__(self, name, plain(getattr(self, name)))
        scales = self.scale if isinstance(self.scale, tuple) else (self.scale,)
        if not isinstance(self.placement, Placement):
            raise ValueError(f"SAC placement {self.placement!r}: give a Placement, such as Placement.layers(3, 11) or Placement('up.*')")
        for name in ("mirror", "align"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"SAC {name} {getattr(self, name)!r}: allowed are True and False")
        if not scales or not all(map(_finite, scales)):
            raise ValueError(f"SAC scale {self.scale!r}: a finite number, or one per example pair")
        if self.stage not in ("scores", "probs"):
            raise ValueError(f"SAC stage {self.stage!r}: allowed are 'scores' (before the softmax) and 'probs' (after it)")
        if not _finite(self.blend) or not 0 <= self.blend <= 1:
            raise ValueError(f"SAC blend {self.blend!r}: allowed is 0 (what stood there) to 1 (the clone alone)")
        if not _finite(self.others):
            raise ValueError(f"SAC others {self.others!r}: a finite number, the factor of all other blocks")
        object.__setattr__(self, "scaled", _factors(self.scaled))
        if self.clone is not None:
            self._check_clone(scales)
        elif not self.scaled and self.others == 1:
            raise ValueError("SAC clone None: then give scaled= or others=; for no SAC at all give None in place of it")

    def _check_clone(self, scales: Sequence[float]) -> None:
        """Puts `clone` into its form. Raises ValueError where it is none, or contradicts other fields."""
        blocks = _regions_by_two(self.clone)
        if blocks is None:
            raise ValueError(f"SAC clone {self.clone!r}: expected two (query, key) pairs of the regions {', '.join(REGIONS)}")
        object.__setattr__(self, "clone", blocks)
        (query, key), (from_query, from_key) = blocks
        if self.mirror and query == key and from_query != from_key:
            raise ValueError(f"SAC clone {self.clone!r}: its mirror writes the same block from a different block; use mirror=False")
        if blocks[0] == blocks[1] and (self.blend != 1 or self.align):
            raise ValueError(f"SAC clone {self.clone!r}: a block cloned from itself has nothing to blend with or align to; use scaled=")
        if self.align and self.stage == "probs" and min(scales) <= 0:
            raise ValueError(f"SAC scale {self.scale!r} with align and stage 'probs': probabilities can be aligned for a scale over 0 only")
        cloned = {(query, key), (key, query)} if self.mirror else {(query, key)}
        both = [block[:2] for block in self.factors if block[:2] in cloned]
        if both:
            raise ValueError(f"SAC scaled {both[0]!r}: this block is cloned; its factor is scale=, or set clone=None")

    @property
    def factors(self) -> Scaled:
        """`scaled` as stored: (query, key, factor) of each block."""
        return cast(Scaled, self.scaled)

    @property
    def effect(self) -> tuple[Hashable, ...]:
        """Its effect where it acts; batch rows with equal effects are computed together."""
        return self.scale, self.mirror, self.stage, self.clone, self.blend, self.align, self.scaled, self.others

    def blocks(self, rows: int) -> list[tuple[Cell, Cell, Cell, Cell, float]]:
        """(query, key) cells written, (query, key) cells read, scale: for every example pair of a grid of `rows` rows.

        A block that is only multiplied reads itself.
        """
        return list(_blocks(self.clone, self.scale, self.mirror, self.factors, self.others, rows))

    @property
    def varied(self) -> bool:
        """Whether a cloned block is not simply s times the block it is read from."""
        return self.align or self.blend != 1

    def vary(self, new: Tensor, before: Tensor) -> Tensor:
        """What a cloned block becomes. new: s times the block it is read from; before: what stood there; both [... key row, key column]."""
        if self.align:
            top, own = new.amax((-2, -1), keepdim=True), before.amax((-2, -1), keepdim=True)
            if self.stage == "scores":  # rows of -inf, which an edit may have made, stay rows of -inf
                new = new + (own - top).nan_to_num(nan=0.0, posinf=0.0, neginf=-torch.inf)
            else:
                new = new * (own / top.clamp_min(torch.finfo(top.dtype).tiny))
        return new if self.blend == 1 else self.blend * new + (1 - self.blend) * before


@lru_cache(maxsize=256)
def _blocks(
    clone: tuple[Block, Block] | None, scale: float | tuple[float, ...], mirror: bool, scaled: Scaled, others: float, rows: int
) -> list[tuple[Cell, Cell, Cell, Cell, float]]:
    """`SAC.blocks`, cached, because every site needs it in every step."""
    out = [] if clone is None else _cloned(clone, scale, mirror, rows)
    factors = {(query, key): s for q, k, s in scaled for query in cells_of(q, rows) for key in cells_of(k, rows)}
    cloned = {block[:2] for block in out}
    if not cloned.isdisjoint(factors):
        raise ValueError(f"SAC scaled {scaled}: it names a block that the clone {clone} writes; its factor is scale=, or set clone=None")
    if others != 1:
        cells = all_cells(rows)
        factors = {(q, k): factors.get((q, k), others) for q in cells for k in cells if (q, k) not in cloned}
    return out + [(query, key, query, key, float(s)) for (query, key), s in factors.items()]


def _cloned(
    clone: tuple[Block, Block], scale: float | tuple[float, ...], mirror: bool, rows: int
) -> list[tuple[Cell, Cell, Cell, Cell, float]]:
    """The blocks that are cloned, pair by pair."""
    pairs = rows - 1
    scales = scale if isinstance(scale, tuple) else (scale,) * pairs
    if len(scales) != pairs:
        raise ValueError(f"SAC scale {scale}: {len(scales)} numbers, but the grid has {pairs} example pair(s)")
    names = [name for block in clone for name in block]
    if not any(name in EVERY_PAIR for name in names):
        # One block only. If it names a pair (A2, A2'), it takes that pair's scale, else the first.
        named = [name for name in names if name.startswith("A")]
        pair = cells_of(named[0], rows)[0][0] if named else 0
        scales = scales[pair : pair + 1]
    out: list[tuple[Cell, Cell, Cell, Cell, float]] = []
    for i, s in enumerate(scales):
        query, key, from_query, from_key = (cells_of(name, rows)[i if name in EVERY_PAIR else 0] for name in names)
        out.append((query, key, from_query, from_key, float(s)))
        if mirror and (key, query) != (query, key):
            out.append((key, query, from_key, from_query, float(s)))
    written = [block[:2] for block in out]
    if len(set(written)) < len(written):
        raise ValueError(
            f"SAC clone {clone}: with {pairs} example pairs it writes the same block {pairs} times, each time from a different block; "
            "write a block of A or A', which every pair has, or use one pair"
        )
    return out


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _factors(given: object) -> Scaled:
    """`scaled` in its form: (query, key, factor) of each block. Raises ValueError for anything else."""
    value = plain(given)
    if _finite(value):
        return (("B'", "A'", float(cast(float, value))),)
    out: list[tuple[str, str, float]] = []
    for one in cast("Sequence[object]", value) if isinstance(value, tuple | list) else [value]:
        entries = cast("Sequence[object]", one) if isinstance(one, tuple | list) else ()
        if len(entries) != 3 or not all(map(names_region, entries[:2])) or not _finite(factor := plain(entries[2])):
            raise ValueError(
                f"SAC scaled {given!r}: a finite number, the factor of B' -> A', or (query, key, factor) of each block, "
                f"of the regions {', '.join(REGIONS)}"
            )
        out.append((str(entries[0]), str(entries[1]), float(cast(float, factor))))
    if len({block[:2] for block in out}) < len(out):
        raise ValueError(f"SAC scaled {given!r}: a block is named twice")
    return tuple(out)


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
        if not names_region(query) or not names_region(key):
            return None
        blocks.append((str(query), str(key)))
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
        if not names or not all(map(names_region, names)):
            raise ValueError(f"CAM silence {self.silence!r}: one or more of {', '.join(REGIONS)}, or A1, A1', A2 ... of single pairs")
        object.__setattr__(self, "silence", tuple(sorted(set(self.silence), key=lambda name: (name[0], name.endswith("'"), name))))

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
