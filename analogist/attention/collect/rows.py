"""From captured maps to rows: one row per input, seed, step, branch and token, with what was there as its values.

Place in the flow: `collect.py` makes rows of every run and writes them in shards, `activations.py` reads them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from analogist.attention.capture.maps import AttentionMap
from analogist.attention.select.regions import rectangle, region_of_token
from analogist.models.cells import REGIONS
from analogist.models.placement import BRANCHES

COLUMNS = ("input", "seed", "step", "t", "branch", "token", "region")  # of the index, int64; branch and region by number
NO_TOKEN, NO_REGION = -1, -1  # of a point without places (`time`), and of tokens of the text
ROWS = ("step", "branch", "image", "query", "row", "column")  # axes that become rows; the keys of k and v too
REDUCED = "captured maps that were reduced have no rows; collect takes a point as it is"


def region_number(name: str) -> int:
    """A, A', B, B' are 0 to 3; A1, A1', A2 ... of several example pairs 4, 5, 6 ..."""
    return REGIONS.index(name) if name in REGIONS else 2 + 2 * int(name[1:].rstrip("'")) + name.endswith("'")


def region_name(number: int) -> str:
    """The inverse of `region_number`; "" for no region."""
    if number < 0:
        return ""
    return REGIONS[number] if number < len(REGIONS) else f"A{(number - 2) // 2}{chr(39) if number % 2 else ''}"


@dataclass(frozen=True)
class Rows:
    """values: row, then the axes `axes` (head, channel, key). index: row column, int64, by COLUMNS."""

    values: Tensor
    index: Tensor
    axes: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        return self.values.numel() * self.values.element_size() + self.index.numel() * self.index.element_size()


def rows_of(m: AttentionMap, number: int, seed: int) -> Rows:
    """The rows of one captured map, in the order step, branch, image, token. number: of the input. seed: of its first image."""
    if m.reduced or m.axes[:3] != ("step", "branch", "image"):
        raise ValueError(f"{m.name}: {REDUCED}")
    places = [axis for axis in m.axes if axis in ROWS or (axis == "key" and m.point in ("k", "v"))]
    axes = tuple(axis for axis in m.axes if axis not in places)
    values = m.tensor.permute([m.axis(axis) for axis in (*places, *axes)])
    lengths, shape = values.shape[:3], values.shape[len(places) :]
    tokens, regions = _tokens(m, places[3:])
    values = values.reshape(-1, *shape)
    entries = {
        "input": [number], "seed": [seed + image for image in m.coords["image"]], "step": list(m.coords["step"]),
        "t": [m.times[step] for step in m.coords["step"]], "branch": [BRANCHES.index(branch) for branch in m.coords["branch"]],
        "region": regions,
    }  # fmt: skip
    dims = {"input": None, "seed": 2, "step": 0, "t": 0, "branch": 1, "region": 3}
    columns: list[Tensor] = []
    for name in COLUMNS:
        if name == "token":
            view = torch.tensor(tokens, device="cpu")[None, :, None, :]
        else:
            column, dim = torch.tensor(entries[name], device="cpu"), dims[name]
            view = column if dim is None else column.view([-1 if i == dim else 1 for i in range(4)])
        columns.append(view.expand(*lengths, len(regions)).reshape(-1))
    return Rows(values, torch.stack(columns, dim=1), axes)


def _tokens(m: AttentionMap, places: list[str]) -> tuple[list[list[int]], list[int]]:
    """The tokens on the rows of one step and image, for each branch or once for all, and their regions, by number."""
    if not places:
        return [[NO_TOKEN]], [NO_REGION]
    if places == ["key"] and m.site.kind == "cross":
        count = m.tensor.shape[m.axis("key")]
        columns = [list(range(count))] if m.columns is None else [list(m.columns[branch]) for branch in m.coords["branch"]]
        return columns, [NO_REGION] * count
    kept = m.key if places == ["key"] else m.query
    tokens = list(range(m.hw[0] * m.hw[1])) if kept is None else kept.tolist()
    assert "row" not in places or kept is None or rectangle(kept, m.hw) is not None, "a capture keeps whole rectangles of a block"
    return [tokens], [region_number(region_of_token(token, m.hw, m.rows)) for token in tokens]
