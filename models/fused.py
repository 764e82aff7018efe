"""The same attention without a map: fused `scaled_dot_product_attention`, SAC and CAM included, exactly.

SAC before the softmax: in the rows of A' the logits against the keys of B' are s * q_A k_B and ordinary elsewhere. With
queries [q_A' ; q_A] and keys [k ; 0], but [0 ; s k_B] for B', joined on the head dimension, one fused call over twice
the head dimension gives the cloned map's result. The softmax scale stays 1/sqrt(d) of the original head.
CAM: silenced rows have a zero map, hence a zero head output.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .cells import Cell, all_cells, join_cells, token_cells
from .control import CAM, EVERYTHING, SAC, AttentionControl
from .placement import Site


def self_attention(q: Tensor, k: Tensor, v: Tensor, hw: tuple[int, int], control: AttentionControl, site: Site) -> Tensor:
    """Self-attention with SAC, no map. q, k, v: batch head token d -> batch head token d."""
    groups = control.sac_at(site)
    q, k, v = (tensor.contiguous() for tensor in (q, k, v))  # every query walks over all keys: worth one copy, side by side
    if not groups:
        return F.scaled_dot_product_attention(q, k, v)
    if len(groups) == 1 and groups[0][0] == EVERYTHING:
        return _cloned(q, k, v, hw, control.rows, groups[0][1])
    # Settings that differ within the batch: each group's rows and heads are computed as a batch of their own.
    head_out = F.scaled_dot_product_attention(q, k, v)
    for where, sac in groups:
        chosen = [_as_batch(tensor[where]) for tensor in (q, k, v)]
        head_out = _put(head_out, where, _cloned(*chosen, hw, control.rows, sac))
    return head_out


def _as_batch(tensor: Tensor) -> Tensor:
    """Rows and heads picked by an index, as batch head token d."""
    return tensor if tensor.ndim == 4 else tensor[None]


def _put(into: Tensor, where: tuple, values: Tensor) -> Tensor:
    """A copy of `into` with `values` at `where` (out of place, for gradients)."""
    out = into.clone()
    out[where] = values
    return out


def _cloned(q: Tensor, k: Tensor, v: Tensor, hw: tuple[int, int], rows: int, sac: SAC) -> Tensor:
    """SAC for every row and head of a batch. q, k, v: batch head token d -> the same."""
    q_cells, k_cells, v_cells = (token_cells(tensor, hw, rows) for tensor in (q, k, v))  # row column batch head token d
    clones: dict[Cell, list[tuple[Cell, Cell, Cell, float]]] = {}
    for query, key, from_query, from_key, s in sac.blocks(rows):
        clones.setdefault(query, []).append((key, from_query, from_key, s))

    out: dict[Cell, Tensor] = {}
    plain = [cell for cell in all_cells(rows) if cell not in clones]
    if plain:  # rows of these cells are ordinary attention, in one call
        together = F.scaled_dot_product_attention(torch.cat([q_cells[cell] for cell in plain], dim=-2), k, v)
        out.update(zip(plain, together.chunk(len(plain), dim=-2), strict=True))
    for query, written in clones.items():
        rows_of = _before_softmax if sac.stage == "scores" else _after_softmax
        out[query] = rows_of(query, written, q_cells, k_cells, v_cells, rows)
    joined = torch.stack([torch.stack([out[(row, column)] for column in range(2)]) for row in range(rows)])
    return join_cells(joined, hw, rows)


def _before_softmax(
    query: Cell, written: list[tuple[Cell, Cell, Cell, float]], q: Tensor, k: Tensor, v: Tensor, rows: int
) -> Tensor:
    """The rows of one cell whose logits against some keys are another block's, scaled. q, k, v: by cells."""
    sources = list(dict.fromkeys(from_query for _, from_query, _, _ in written))  # usually one
    slots = {key: (1 + sources.index(from_query), from_key, s) for key, from_query, from_key, s in written}
    queries = torch.cat([q[query], *(q[source] for source in sources)], dim=-1)
    nothing = torch.zeros_like(k[query])
    keys = []
    for cell in all_cells(rows):
        slot, from_key, s = slots.get(cell, (0, cell, 1.0))
        own = k[from_key] if s == 1.0 else s * k[from_key]
        keys.append(torch.cat([own if i == slot else nothing for i in range(1 + len(sources))], dim=-1))
    values = torch.cat([v[cell] for cell in all_cells(rows)], dim=-2)
    # The kernels without a map need values as wide as queries; otherwise torch falls back to one that holds the map.
    values = F.pad(values, (0, queries.shape[-1] - values.shape[-1]))
    out = F.scaled_dot_product_attention(queries, torch.cat(keys, dim=-2), values, scale=q.shape[-1] ** -0.5)
    return out[..., : v.shape[-1]]


def _after_softmax(
    query: Cell, written: list[tuple[Cell, Cell, Cell, float]], q: Tensor, k: Tensor, v: Tensor, rows: int
) -> Tensor:
    """The rows of one cell whose probabilities against some keys are another block's, scaled.

    Its own attention with the values of the written keys left out, plus the other block's rows with the written
    keys' values in place of the values it read. q, k, v: by cells.
    """
    cells = all_cells(rows)
    keys = torch.cat([k[cell] for cell in cells], dim=-2)
    nothing = torch.zeros_like(v[query])

    def attend(queries: Tensor, values: dict[Cell, Tensor]) -> Tensor:
        return F.scaled_dot_product_attention(queries, keys, torch.cat([values.get(cell, nothing) for cell in cells], dim=-2))

    out = attend(q[query], {cell: v[cell] for cell in cells if cell not in {key for key, *_ in written}})
    for key, from_query, from_key, s in written:
        out = out + s * attend(q[from_query], {from_key: v[key]})
    return out


def cross_attention(q: Tensor, k: Tensor, v: Tensor, hw: tuple[int, int], control: AttentionControl, site: Site) -> Tensor:
    """Cross-attention with CAM, no map. q: batch head query d; k, v: batch head token d -> batch head query d."""
    head_out = F.scaled_dot_product_attention(q, k, v)
    groups = control.cam_at(site)
    if not groups:
        return head_out
    cells = token_cells(torch.ones_like(head_out[..., :1]), hw, control.rows)
    for where, cam in groups:
        for cell in cam.cells(control.rows):
            cells[cell][where] = 0
    return head_out * join_cells(cells, hw, control.rows)


def uniformly_heard(control: AttentionControl, site: Site) -> list[Cell] | None:
    """The cells that hear text where one CAM setting covers all rows of the batch and all heads, else None."""
    groups: list[tuple[tuple, CAM]] = control.cam_at(site)
    if len(groups) != 1 or groups[0][0] != EVERYTHING:
        return None
    silenced = set(groups[0][1].cells(control.rows))
    return [cell for cell in all_cells(control.rows) if cell not in silenced]


def cross_attention_of_cells(module, x: Tensor, k: Tensor, v: Tensor, hw: tuple[int, int], rows: int, heard: list[Cell]) -> Tensor:
    """A whole cross-attention module under CAM, computing only the rows of the cells that hear text.

    module: the CrossAttention, for its projections. x: batch token channel; k, v: batch head token d.
    Rows of silenced cells are the output projection's bias.
    """
    cells = token_cells(x, hw, rows)  # row column batch token channel
    silent = module.to_out.bias.to(x.dtype).expand(cells.shape[2:])
    out = {cell: silent for cell in all_cells(rows)}
    if heard:
        tokens = torch.cat([cells[cell] for cell in heard], dim=-2)
        head_out = F.scaled_dot_product_attention(module.split(module.to_q(tokens)), k, v)
        out.update(zip(heard, module.to_out(module.join(head_out)).chunk(len(heard), dim=-2), strict=True))
    joined = torch.stack([torch.stack([out[(row, column)] for column in range(2)]) for row in range(rows)])
    return join_cells(joined, hw, rows)
