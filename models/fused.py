"""The same attention without a map: fused `scaled_dot_product_attention`, SAC and CAM included, exactly.

SAC before the softmax: in the rows of A' the logits against the keys of B' are s * q_A k_B and ordinary elsewhere. With
queries [q_A' ; q_A] and keys [k ; 0], but [0 ; s k_B] for B', joined on the head dimension, one fused call over twice
the head dimension gives the cloned map's result. The softmax scale stays 1/sqrt(d) of the original head.
CAM: silenced rows have a zero map, hence a zero head output.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .cells import Cell, all_cells, by_cells, cell_view, from_cells, join_cells, number, token_cells
from .control import CAM, EVERYTHING, SAC, AttentionControl
from .placement import Site


def self_attention(q: Tensor, k: Tensor, v: Tensor, hw: tuple[int, int], control: AttentionControl, site: Site) -> Tensor:
    """Self-attention with SAC, no map. q, k, v: batch head token d -> batch head token d."""
    groups = control.sac_at(site)
    if len(groups) == 1 and groups[0][0] == EVERYTHING:
        return _cloned(q, k, v, hw, control.rows, groups[0][1])
    q, k, v = (tensor.contiguous() for tensor in (q, k, v))  # every query walks over all keys: worth one copy, side by side
    if not groups:
        return F.scaled_dot_product_attention(q, k, v)
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
    q, k, v = (by_cells(tensor, hw, rows) for tensor in (q, k, v))  # batch head cell token d
    clones: dict[int, list[Clone]] = {}
    for query, key, from_query, from_key, s in sac.blocks(rows):
        clones.setdefault(number(query), []).append((number(key), number(from_query), number(from_key), s))

    out = torch.empty_like(q)
    plain = [cell for cell in range(2 * rows) if cell not in clones]
    if plain:  # rows of these cells are ordinary attention, in one call
        together = F.scaled_dot_product_attention(q[:, :, plain].flatten(2, 3), k.flatten(2, 3), v.flatten(2, 3))
        out[:, :, plain] = together.unflatten(2, (len(plain), -1))
    rows_of = _before_softmax if sac.stage == "scores" else _after_softmax
    for query, written in clones.items():
        out[:, :, query] = rows_of(query, written, q, k, v)
    return from_cells(out, hw, rows)


Clone = tuple[int, int, int, float]  # a written key's cell, the query's and the key's cell that are read, and s


def _before_softmax(query: int, written: list[Clone], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The rows of one cell whose logits against some keys are another block's, scaled. q, k, v: batch head cell token d."""
    d = q.shape[-1]
    sources = list(dict.fromkeys(from_query for _, from_query, _, _ in written))  # usually one
    queries = torch.cat([q[:, :, cell] for cell in (query, *sources)], dim=-1)
    keys = F.pad(k, (0, d * len(sources)))
    for key, from_query, from_key, s in written:
        first = d * (1 + sources.index(from_query))
        keys[:, :, key, :, :d] = 0
        keys[:, :, key, :, first : first + d] = s * k[:, :, from_key]
    # The kernels without a map need values as wide as queries; otherwise torch falls back to one that holds the map.
    values = F.pad(v, (0, queries.shape[-1] - d))
    out = F.scaled_dot_product_attention(queries, keys.flatten(2, 3), values.flatten(2, 3), scale=d**-0.5)
    return out[..., :d]


def _after_softmax(query: int, written: list[Clone], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The rows of one cell whose probabilities against some keys are another block's, scaled.

    Its own attention with the values of the written keys left out, plus the other block's rows with the written
    keys' values in place of the values it read. q, k, v: batch head cell token d.
    """

    def attend(cell: int, values: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q[:, :, cell], k.flatten(2, 3), values.flatten(2, 3))

    own = v.clone()
    own[:, :, [key for key, *_ in written]] = 0
    out = attend(query, own)
    for key, from_query, from_key, s in written:
        values = torch.zeros_like(v)
        values[:, :, from_key] = v[:, :, key]
        out = out + s * attend(from_query, values)
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
    out = module.to_out.bias.to(x.dtype).expand_as(x).clone()
    if heard:
        tokens = torch.cat([cell_view(x, hw, rows)[cell].flatten(1, 2) for cell in heard], dim=1)
        head_out = F.scaled_dot_product_attention(module.split(module.to_q(tokens)), k, v)
        answers = module.to_out(module.join(head_out)).chunk(len(heard), dim=1)
        for cell, answer in zip(heard, answers, strict=True):
            place = cell_view(out, hw, rows)[cell]
            place.copy_(answer.view(place.shape))
    return out
