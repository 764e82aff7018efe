"""Attention rollout: what a place is made of after many sites, instead of what it looks at in one."""

from collections.abc import Mapping
from dataclasses import replace

import torch

from analogist.attention.capture.maps import AttentionMap


def rollout(maps: Mapping[str, AttentionMap], *, hw: tuple[int, int] | int | None = None, residual: float = 0.5) -> AttentionMap:
    """The product of the self-attention maps of many sites in the order in which they run, [step branch image query key].

    Each map (its mean over heads, its rows as shares of their sum) is brought to one grid of tokens and mixed with the identity, which
    stands for the residual stream around the site: A := residual I + (1 - residual) A. A row says where the output at this place came
    from since the first of these sites. It is a sketch: what convolutions, skips and values do is left out.

    maps: whole self-attention probabilities of at least one site, with the same steps, branches and images; others are left out. hw:
    token rows and columns of the result; None: those of the finest site. residual: 0..1. Raises ValueError where no map can be
    multiplied, or maps differ. Source: Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers", Sec. 3.
    """
    if not 0 <= residual <= 1:
        raise ValueError(f"rollout residual {residual!r}: expected 0 (attention alone) to 1 (the residual stream alone)")
    chosen = [m for m in maps.values() if m.site.kind == "self" and m.point == "probs"]
    partial = [m.name for m in chosen if m.axes[-2:] != ("query", "key") or m.query is not None or m.key is not None]
    if not chosen or partial:
        what = f"{partial[0]} holds a part of the map only" if partial else "none of these maps holds self-attention probabilities"
        raise ValueError(f"rollout: {what}; capture '*.self:probs' whole")
    chosen.sort(key=lambda m: m.site.layer)
    means = [m.mean("head") if "head" in m.axes else m for m in chosen]
    if len({m.axes for m in means}) > 1 or len({tuple(m.tensor.shape[:-2]) for m in means}) > 1:
        raise ValueError("rollout: these maps differ in steps, branches or images; capture them in one run, with one Capture")
    grid = max((m.hw for m in means), key=lambda sides: sides[0] * sides[1]) if hw is None else hw
    product = None
    for m in means:
        on_grid = m.resize(grid)
        shares = on_grid.tensor / on_grid.tensor.sum(-1, keepdim=True)
        mixed = residual * torch.eye(shares.shape[-1], device="cpu") + (1 - residual) * shares
        product = mixed if product is None else mixed @ product
    last = on_grid
    coords = {name: values for name, values in last.coords.items() if name != "head"}
    name = f"rollout of {len(means)} sites up to {last.site}"
    return replace(last, name=name, tensor=product, coords=coords, reduced=("mean_heads", "rollout"))
