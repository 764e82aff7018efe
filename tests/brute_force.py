"""SAC and CAM written once more, with index lists and loops in float64, to compare the modules with."""

import torch
from torch import Tensor

# (cells written: query, key; cells read: query, key), as (row, column) of a 2x2 grid
A, Ap, B, Bp = (0, 0), (0, 1), (1, 0), (1, 1)


def tokens_of(cell: tuple[int, int], hw: tuple[int, int], rows: int = 2) -> list[int]:
    """Numbers of a cell's tokens, row by row."""
    height, width = hw[0] // rows, hw[1] // 2
    top, left = cell[0] * height, cell[1] * width
    return [y * hw[1] + x for y in range(top, top + height) for x in range(left, left + width)]


def clone_blocks(maps: Tensor, hw: tuple[int, int], blocks: list, rows: int = 2) -> Tensor:
    """maps: ... query key. blocks: (query, key, from_query, from_key, s). Every block reads the maps as they were."""
    out = maps.clone()
    for query, key, from_query, from_key, s in blocks:
        for i, source in zip(tokens_of(query, hw, rows), tokens_of(from_query, hw, rows), strict=True):
            for j, target in zip(tokens_of(key, hw, rows), tokens_of(from_key, hw, rows), strict=True):
                out[..., i, j] = s * maps[..., source, target]
    return out


def published_blocks(s: float = 1.3, mirror: bool = True) -> list:
    """The released code's clone of a 2x2 grid."""
    both = [(Ap, Bp, A, B, s), (Bp, Ap, B, A, s)]
    return both if mirror else both[:1]


def heads_of(x: Tensor, heads: int) -> Tensor:
    """batch token (head d) -> batch head token d, by slicing."""
    width = x.shape[-1] // heads
    return torch.stack([x[..., i * width : (i + 1) * width] for i in range(heads)], dim=1)


def self_attention(module, x: Tensor, hw: tuple[int, int], blocks: list, *, rows: int = 2, stage: str = "scores") -> dict[str, Tensor]:
    """Every tensor of a self-attention module, in float64."""
    x = x.double()
    q, k, v = (heads_of(x @ weight.double().T, module.heads) for weight in (module.to_q.weight, module.to_k.weight, module.to_v.weight))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    logits = clone_blocks(scores, hw, blocks, rows) if stage == "scores" else scores
    probs = logits.exp() / logits.exp().sum(-1, keepdim=True)
    if stage == "probs":
        probs = clone_blocks(probs, hw, blocks, rows)
    return {"scores": scores, "logits": logits, "probs": probs, "out": project(module, probs @ v)}


def cross_attention(module, x: Tensor, text: Tensor, hw: tuple[int, int], silenced: list, *, rows: int = 2) -> dict[str, Tensor]:
    """Every tensor of a cross-attention module, in float64. silenced: cells whose rows are zero."""
    q = heads_of(x.double() @ module.to_q.weight.double().T, module.heads)
    k, v = (heads_of(text.double() @ weight.double().T, module.heads) for weight in (module.to_k.weight, module.to_v.weight))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    probs = scores.exp() / scores.exp().sum(-1, keepdim=True)
    for cell in silenced:
        for token in tokens_of(cell, hw, rows):
            probs[:, :, token] = 0
    return {"scores": scores, "probs": probs, "out": project(module, probs @ v)}


def project(module, head_out: Tensor) -> Tensor:
    """Heads side by side, then the output projection."""
    joined = torch.cat(list(head_out.unbind(1)), dim=-1)
    return joined @ module.to_out.weight.double().T + module.to_out.bias.double()
