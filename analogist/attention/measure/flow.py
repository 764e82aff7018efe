"""Attention flow between regions: which share of what a region looks at lies in A, A', B and B'; entropy and reach of rows.

A share says where a head looks, not what it takes from there: `contribution` measures what it writes, ablation how much that matters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from analogist.attention.capture.maps import AttentionMap
from analogist.attention.select.regions import region_tokens
from analogist.grid.layout import cell_names
from analogist.models.cells import REGIONS
from analogist.models.placement import MAP_POINTS

NOT_IMPORTANCE = "shares say where it looks, not what it writes: measures.contribution"


@dataclass(frozen=True, eq=False)
class FlowTable:
    """A table of shares: row the region that looks, column the region looked at.

    Each row sums to 1 on probabilities, if the regions cover the picture once. values: [query region, key region], float32.
    title: where it was taken. regions: the names of its rows and columns.
    """

    values: Tensor
    title: str = ""
    regions: tuple[str, ...] = REGIONS

    def __getitem__(self, pair: tuple[str, str]) -> float:
        """The share of the first region's attention that goes to the second: table["B'", "A'"]."""
        query, key = pair
        for name in pair:
            if name not in self.regions:
                raise ValueError(f"region {name!r}: allowed are {', '.join(self.regions)}")
        return float(self.values[self.regions.index(query), self.regions.index(key)])

    def __repr__(self) -> str:
        head = f"{self.title or 'attention flow'}\n{'looks at':>9}" + "".join(f"{name:>8}" for name in self.regions)
        rows = [f"{name:>9}" + "".join(f"{v:8.3f}" for v in row) for name, row in zip(self.regions, self.values.tolist(), strict=True)]
        return "\n".join([head, *rows, NOT_IMPORTANCE])


def flow(m: AttentionMap, regions: Sequence[str] | None = None) -> AttentionMap:
    """Flow between regions with all other axes kept: [... query_region key_region], mean over a region's queries.

    m: whole self-attention maps (point probs, or scores and logits for their sums), or captured with reduce='regions'.
    regions: their names; None: A, A', B and B', where A and A' are those of all example pairs together; "cells": each cell separately
    (A1, A1', A2 ... B, B'). Raises ValueError for regions that the grid or a reduced map does not have.
    """
    wanted = cell_names(m.rows - 1) if regions == "cells" else REGIONS if regions is None else tuple(regions)
    if m.axes[-2:] == ("query_region", "key_region"):
        have = m.coords.get("query_region", REGIONS)
        missing = [name for name in wanted if name not in have]
        if missing and regions is not None:
            raise ValueError(f"flow: {m.name} was reduced to the regions {', '.join(have)}, not {', '.join(missing)}")
        if missing or wanted == have:
            return m
        places = torch.tensor([have.index(name) for name in wanted], device="cpu")
        return replace(m, tensor=m.tensor[..., places, :][..., places], coords={**m.coords, **_labels(wanted)})
    _whole_self_map(m, "flow")
    one_hot = _membership(m, wanted)
    query = one_hot / one_hot.sum(0)
    values = torch.einsum("qr,...qk,ks->...rs", query, m.tensor.float(), one_hot)
    axes, coords = (*m.axes[:-2], "query_region", "key_region"), {**m.coords, **_labels(wanted)}
    return replace(m, tensor=values, axes=axes, coords=coords, reduced=(*m.reduced, "regions"))


def _labels(names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    return {"query_region": names, "key_region": names}


def flow_table(m: AttentionMap, regions: Sequence[str] | None = None) -> FlowTable:
    """The flow table of a map, mean over steps, branches, images and heads; for a part of these, select it first (`m.sel(step=0)`).

    regions: as for `flow`; flow_table(m, "cells")["B'", "A2'"] is what B' reads of the second example.
    """
    found = flow(m, regions)
    rest = [axis for axis in found.axes if axis not in ("query_region", "key_region")]
    values = (found.mean(*rest) if rest else found).tensor.float()
    return FlowTable(values, _title(m), found.coords.get("query_region", REGIONS))


def flow_rows(maps: Mapping[str, AttentionMap], regions: Sequence[str] | None = None) -> list[dict]:
    """One row per site and step with the share of each pair of regions, mean over branches, images and heads.

    regions: as for `flow`. Keys: name, layer, step, and "B' -> A'" and so on.
    Raises ValueError where no map among them is self-attention.
    """
    rows = []
    for name, m in maps.items():
        if m.site.kind != "self" or m.point != "probs":
            continue
        found = flow(m, regions)
        for step in m.steps if "step" in m.axes else (None,):
            table = flow_table(found if step is None else found.sel(step=step), regions)
            shares = {f"{q} -> {k}": table[q, k] for q in table.regions for k in table.regions}
            rows.append({"name": name, "layer": m.site.layer, "step": step, **shares})
    if not rows:
        raise ValueError("flow_rows: none of these maps holds self-attention probabilities; capture '*.self:probs'")
    return rows


def entropy(m: AttentionMap, *, relative: bool = False) -> AttentionMap:
    """Entropy of each row in bits, [... query]; rows are taken as shares of their sum, rows of zeros (CAM) give nan.

    relative: divided by its maximum log2(keys), 0 (one key) to 1 (uniform). m: point probs with a key axis.
    """
    dim = _keys_of(m, "entropy")
    values = m.tensor.float()
    shares = values / values.sum(dim, keepdim=True)
    bits = -(torch.special.xlogy(shares, shares)).sum(dim) / torch.log(torch.tensor(2.0, dtype=torch.float32, device="cpu"))
    if relative:
        bits = bits / torch.log2(torch.tensor(float(values.shape[dim]), dtype=torch.float32, device="cpu"))
    return replace(m, tensor=bits, axes=m.axes[:dim] + m.axes[dim + 1 :], index=None)


def reach(m: AttentionMap) -> AttentionMap:
    """Mean distance in pixels between a query and what it looks at, [... query]: sum over keys of share times distance.

    m: self-attention probabilities. Source: the attention distance of Dosovitskiy et al. 2021, Sec. 4.5.
    """
    dim = _keys_of(m, "reach")
    if m.site.kind != "self" or m.axes[-2:] != ("query", "key"):
        raise ValueError(f"reach: {m.name} has axes {m.axes}; it needs the queries and keys of a self-attention map")
    distance = torch.cdist(_centres(m, "query"), _centres(m, "key"))
    values = m.tensor.float()
    shares = values / values.sum(dim, keepdim=True)
    return replace(m, tensor=(shares * distance).sum(dim), axes=m.axes[:-1], index=None)


def divergence(first: AttentionMap, second: AttentionMap, *, kind: str = "total variation") -> AttentionMap:
    """How far the rows of two maps lie apart, [... query], 0 (equal) to 1 (nothing in common).

    kind: "total variation", half the sum of differences; or "jensen-shannon", the divergence in bits. Rows are taken as
    shares of their sum. Raises ValueError where axes or lengths differ.
    """
    if first.axes != second.axes or first.shape != second.shape:
        raise ValueError(f"divergence: {first!r} and {second!r} have different axes; select the same part of both")
    dim = _keys_of(first, "divergence")
    p, q = (m.tensor.float() / m.tensor.float().sum(dim, keepdim=True) for m in (first, second))
    if kind == "total variation":
        values = (p - q).abs().sum(dim) / 2
    elif kind == "jensen-shannon":
        middle = (p + q) / 2
        parts = [torch.special.xlogy(s, s).sum(dim) - torch.special.xlogy(s, middle).sum(dim) for s in (p, q)]
        values = (parts[0] + parts[1]) / 2 / torch.log(torch.tensor(2.0, dtype=torch.float32, device="cpu"))
    else:
        raise ValueError(f"divergence kind {kind!r}: allowed are 'total variation' and 'jensen-shannon'")
    return replace(first, tensor=values, axes=first.axes[:dim] + first.axes[dim + 1 :], index=None)


def _membership(m: AttentionMap, regions: Sequence[str]) -> Tensor:
    """[token region], 1 where a token lies in a region."""
    one_hot = torch.zeros(m.hw[0] * m.hw[1], len(regions), dtype=torch.float32, device="cpu")
    for i, name in enumerate(regions):
        one_hot[region_tokens(name, m.hw, m.rows, m.size), i] = 1
    return one_hot


def _centres(m: AttentionMap, axis: str) -> Tensor:
    """Pixel centres (x, y) of the tokens on an axis, [token 2]."""
    tokens = getattr(m, axis)
    tokens = torch.arange(m.hw[0] * m.hw[1], device="cpu") if tokens is None else tokens
    y, x = (tokens // m.hw[1] + 0.5) * m.size[0] / m.hw[0], (tokens % m.hw[1] + 0.5) * m.size[1] / m.hw[1]
    return torch.stack([x, y], dim=-1)


def _whole_self_map(m: AttentionMap, what: str) -> None:
    if m.site.kind != "self" or m.point not in MAP_POINTS:
        raise ValueError(f"{what}: {m.name} is no self-attention map; capture '*.self:probs'")
    if m.axes[-2:] != ("query", "key") or m.query is not None or m.key is not None:
        raise ValueError(f"{what}: {m.name} holds a part of the map only; capture it whole, or with reduce='regions'")


def _keys_of(m: AttentionMap, what: str) -> int:
    if m.point != "probs" or m.axes[-1:] != ("key",):
        raise ValueError(f"{what}: {m.name} has axes {m.axes}; it needs probabilities with a key axis (point probs)")
    return len(m.axes) - 1


def _title(m: AttentionMap) -> str:
    step = f"step {m.steps[0]}" if len(m.steps) == 1 else f"{len(m.steps)} steps"
    branches = m.coords["branch"]
    branch = f", {branches[0]}" if len(branches) == 1 else ""
    head = f", head {m.coords['head'][0]}" if len(m.coords.get("head", (0, 0))) == 1 else ""
    return f"{m.name}, {step}{branch}{head}"
