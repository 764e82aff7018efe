"""The same attention without a map: torch's fused kernels (kernels.py), SAC and CAM included, exactly.

SAC before the softmax: in the rows of A' the logits against the keys of B' are s * q_A k_B and ordinary elsewhere. With
queries [q_A' ; q_A] and keys [k ; 0], but [0 ; s k_B] for B', joined on the head dimension, one fused call over twice
the head dimension gives the cloned map's result. The softmax scale stays 1/sqrt(d) of the original head.
CAM: silenced rows have a zero map, hence a zero head output.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cells import Cell, by_cells, cell_view, from_cells, join_cells, number, token_cells
from .control import CAM, EVERYTHING, SAC, AttentionControl, Index, Where
from .cpu_tricks import side_by_side
from .kernels import attend
from .placement import Site

Silenced = list[tuple[Where, CAM]]  # what CAM does at a site (`AttentionControl.cam_at`)


def self_attention(q: Tensor, k: Tensor, v: Tensor, hw: tuple[int, int], control: AttentionControl, site: Site) -> Tensor:
    """Self-attention with SAC, no map. q, k, v: batch head token d -> batch head token d."""
    groups = control.sac_at(site)
    if len(groups) == 1 and groups[0][0] == EVERYTHING:
        return _cloned(q, k, v, hw, control.rows, groups[0][1])
    q, k, v = side_by_side(q, k, v)
    if not groups:
        return attend(q, k, v)
    # Settings that differ within the batch: each group's rows and heads are computed as a batch of their own.
    head_out = attend(q, k, v)
    for where, sac in groups:
        rows = where.on(q.device)
        cloned = _cloned(_as_batch(q[rows]), _as_batch(k[rows]), _as_batch(v[rows]), hw, control.rows, sac)
        head_out = _put(head_out, rows, cloned)
    return head_out


def _as_batch(tensor: Tensor) -> Tensor:
    """Rows and heads selected by an index, as batch head token d."""
    return tensor if tensor.ndim == 4 else tensor[None]


def _put(into: Tensor, where: Index, values: Tensor) -> Tensor:
    """A copy of `into` with `values` at `where` (out of place, for gradients)."""
    out = into.clone()
    out[where] = values
    return out


class Clone(NamedTuple):
    """One block of a query cell's rows: M[query, key] := s M[from_query, from_key] + own M[query, key]."""

    key: int
    from_query: int
    from_key: int
    s: float
    own: float  # 1 - blend; 0 for a plain clone


Cells = slice | list[int]  # some cells in an order


@dataclass(frozen=True)
class ClonePlan:
    """What SAC does to a grid; cells are numbered row by row.

    clones: query cell -> the blocks of its rows that SAC rewrites. plain: the query cells that it leaves alone.
    order: for each cell, its place in the list plain + clones, to put results back.

    The rest is for SAC before the softmax. A head of width d is widened to several slots of width d. Slot 0 holds a cell's own
    queries; each further slot holds the queries of one cell that it reads. A key is non-zero in one slot only, so it meets only the
    queries of that slot, and one ordinary attention call computes q_own . k for some keys and s q_read . k for others. The key of a
    blended block is the sum of two such keys, in two slots.
    queries: for each slot, the cell whose queries stand in it, for every cloned cell.
    pool: (slot, s); each entry stands for the keys of all cells, times s, in that slot.
    mixed: the keys of a blended block, s k[read] in `slot` plus own k[key] in slot 0, as (slot, s, read, own, key).
    keys: for every cloned cell and key cell, which key to take: a number into the pool, then into mixed.
    """

    clones: dict[int, list[Clone]]
    plain: Cells
    order: list[int]
    queries: list[Cells]
    pool: list[tuple[int, float]]
    mixed: list[tuple[int, float, int, float, int]]
    keys: list[int]


@lru_cache(maxsize=256)
def _plan(blocks: tuple[tuple[Cell, Cell, Cell, Cell, float], ...], rows: int, blend: float) -> ClonePlan:
    """blocks, blend: of a SAC. Cached: the same at every site of every step."""
    cells = 2 * rows
    clones: dict[int, list[Clone]] = {}
    for query, key, from_query, from_key, s in blocks:
        part = 1.0 if (query, key) == (from_query, from_key) else blend  # a block that is only multiplied has nothing to blend with
        clones.setdefault(number(query), []).append(Clone(number(key), number(from_query), number(from_key), s * part, own=1 - part))
    plain = [cell for cell in range(cells) if cell not in clones]
    order = [*plain, *clones]
    # the other cells whose queries each cloned cell reads; usually one
    sources = [list(dict.fromkeys(clone.from_query for clone in each if clone.from_query != cell)) for cell, each in clones.items()]
    more = max(len(each) for each in sources)
    queries = [[each[j] if j < len(each) else cell for cell, each in zip(clones, sources, strict=True)] for j in range(more)]
    slots = [_as_slice(cells) for cells in (list(clones), *queries)]
    pool: dict[tuple[int, float], int] = {(0, 1.0): 0}
    mixed: list[tuple[int, float, int, float, int]] = []
    keys: list[int] = []
    for (cell, written), each in zip(clones.items(), sources, strict=True):
        picked = list(range(cells))
        for clone in written:
            slot = 0 if clone.from_query == cell else 1 + each.index(clone.from_query)
            if clone.own:
                mixed.append((slot, clone.s, clone.from_key, clone.own, clone.key))
                picked[clone.key] = -len(mixed)
            else:
                picked[clone.key] = cells * pool.setdefault((slot, clone.s), len(pool)) + clone.from_key
        keys += picked
    keys = [cells * len(pool) - 1 - key if key < 0 else key for key in keys]
    order = [order.index(cell) for cell in range(cells)]
    return ClonePlan(clones, _as_slice(plain), order, slots, list(pool), mixed, keys)


def _as_slice(cells: list[int]) -> Cells:
    """The same cells as a slice, which picks them as a view, if they are evenly spaced."""
    stride = cells[1] - cells[0] if len(cells) > 1 else 1
    if cells and stride > 0 and cells == list(range(cells[0], cells[-1] + 1, stride)):
        return slice(cells[0], cells[-1] + 1, stride)
    return cells


def _cloned(q: Tensor, k: Tensor, v: Tensor, hw: tuple[int, int], rows: int, sac: SAC) -> Tensor:
    """SAC for every row and head of a batch. q, k, v: batch head token d -> the same."""
    plan = _plan(tuple(sac.blocks(rows)), rows, sac.blend)
    q, k, v = by_cells(torch.stack([q, k, v]), hw, rows).unbind()  # batch head cell token d
    clones = (_before_softmax if sac.stage == "scores" else _after_softmax)(plan, q, k, v)
    parts = [clones]
    if plan.plain:  # rows of these cells are ordinary attention, in one call
        plain = _pick(q, plan.plain)
        together = attend(plain.flatten(2, 3), k.flatten(2, 3), v.flatten(2, 3))
        parts = [together.view(plain.shape), clones]
    return from_cells(_gather(parts, plan.order), hw, rows)


def _pick(x: Tensor, cells: Cells) -> Tensor:
    """Some cells in this order. x: batch head cell token d."""
    return x[:, :, cells] if isinstance(cells, slice) else _gather([x], cells)


def _gather(parts: list[Tensor], cells: list[int]) -> Tensor:
    """Some cells in this order, numbered through the parts; without an index tensor, which would have to be copied to the device.

    parts: each batch head cell token d.
    """
    each = [cell for part in parts for cell in part.unbind(2)]
    return torch.stack([each[cell] for cell in cells], dim=2)


def _before_softmax(plan: ClonePlan, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The rows of cells whose logits against some keys are another block's, scaled; all such cells in one call, beside the heads.

    q, k, v: batch head cell token d. Returns batch head clone token d.
    """
    d, count, more = q.shape[-1], len(plan.clones), len(plan.queries) - 1
    queries = torch.cat([_pick(q, cells) for cells in plan.queries], dim=-1)  # batch head clone token (slot d)

    def in_slot(part: Tensor, slot: int, s: float) -> Tensor:
        return F.pad(part if s == 1 else s * part, (d * slot, d * (more - slot)))

    pool = [in_slot(k, slot, s) for slot, s in plan.pool]
    for slot, s, read, own, key in plan.mixed:
        pool.append(in_slot(k[:, :, read : read + 1], slot, s) + in_slot(k[:, :, key : key + 1], 0, own))
    keys = _gather(pool, plan.keys)  # batch head (clone cell) token (slot d)
    # The kernels without a map need values as wide as queries; otherwise torch falls back to a kernel that holds the map. So every slot
    # holds the values again, and that of one slot is used.
    values = v.unsqueeze(2).unsqueeze(-2).expand(-1, -1, count, -1, -1, more + 1, -1)  # batch head clone cell token slot d
    keys = keys.view(len(q), -1, v.shape[2] * v.shape[3], queries.shape[-1])  # batch (head clone) (cell token) (slot d)
    out = attend(queries.flatten(1, 2), keys, values.reshape(keys.shape), scale=d**-0.5)
    return torch.unflatten(out[..., :d], 1, (-1, count))


def _after_softmax(plan: ClonePlan, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The rows of cells whose probabilities against some keys are another block's, scaled. As `_before_softmax`.

    Its own attention with the values of the written keys left out (or kept in part), plus the other block's rows with the
    written keys' values in place of the values it read.
    """

    def row_of(cell: int, values: Tensor) -> Tensor:
        return attend(q[:, :, cell], k.flatten(2, 3), values.flatten(2, 3))

    out: list[Tensor] = []
    for query, written in plan.clones.items():
        own = v.clone()
        for clone in written:
            own[:, :, clone.key] *= clone.own
        row = row_of(query, own)
        for clone in written:
            values = torch.zeros_like(v)
            values[:, :, clone.from_key] = v[:, :, clone.key]
            row = row + clone.s * row_of(clone.from_query, values)
        out.append(row)
    return torch.stack(out, dim=2)


def cross_attention(q: Tensor, k: Tensor, v: Tensor, hw: tuple[int, int], silenced: Silenced, rows: int) -> Tensor:
    """Cross-attention with CAM, no map. q: batch head query d; k, v: batch head token d -> batch head query d."""
    head_out = attend(q, k, v)
    if not silenced:
        return head_out
    cells = token_cells(torch.ones_like(head_out[..., :1]), hw, rows)
    for where, cam in silenced:
        index = where.on(q.device)
        for cell in cam.cells(rows):
            cells[cell][index] = 0
    return head_out * join_cells(cells, hw, rows)


def uniformly_heard(silenced: Silenced, rows: int) -> list[Cell] | None:
    """The cells that attend to the text if one CAM setting covers all batch rows and all heads, else None."""
    if len(silenced) != 1 or silenced[0][0] != EVERYTHING:
        return None
    return silenced[0][1].heard(rows)


class Projections(Protocol):
    """What is used here of a CrossAttention, which imports this file."""

    to_q: nn.Linear
    to_out: nn.Linear

    def split(self, x: Tensor) -> Tensor:
        """batch token (head d) -> batch head token d."""
        ...

    def join(self, x: Tensor) -> Tensor:
        """batch head token d -> batch token (head d)."""
        ...


def cross_attention_of_cells(
    module: Projections, x: Tensor, k: Tensor, v: Tensor, hw: tuple[int, int], rows: int, heard: list[Cell]
) -> Tensor:
    """A whole cross-attention module under CAM, computing only the rows of the cells that attend to the text.

    module: the CrossAttention, for its projections. x: batch token channel; k, v: batch head token d.
    Rows of silenced cells are the output projection's bias.
    """
    out = module.to_out.bias.to(x.dtype).expand_as(x).clone()
    if heard:
        cells = [cell_view(x, cell, hw, rows).flatten(1, 2) for cell in heard]
        tokens = cells[0] if len(cells) == 1 else torch.cat(cells, dim=1)
        head_out = attend(module.split(module.to_q(tokens)), k, v)
        answers = module.to_out(module.join(head_out)).chunk(len(heard), dim=1)
        for cell, answer in zip(heard, answers, strict=True):
            place = cell_view(out, cell, hw, rows)
            place.copy_(answer.view(place.shape))
    return out
