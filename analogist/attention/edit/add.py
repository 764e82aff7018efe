"""Adding a vector to activations: steering along a direction, such as a difference of means between two kinds of inputs.

Source of the idea: Turner et al. 2023, "Activation Addition"; Rimsky et al. 2024, "Steering Llama 2 via Contrastive Activation Addition".
"""

from typing import Unpack

import torch
from torch import Tensor

from analogist.attention.edit.ready_edit import ANYWHERE, Chosen, ReadyEdit, RunChange, number
from analogist.attention.select.regions import Region, token_box
from analogist.attention.select.run_shape import RunShape, resolve_indices
from analogist.models.control import At
from analogist.models.placement import Site


def add(vector: Tensor, scale: float = 1.0, *, query: Region | None = None, **where: Unpack[Chosen]) -> ReadyEdit:
    """Adds scale * vector at every token of a point that has channels, such as a steering vector to the residual stream.

    vector: [channel] of the point, or [head channel] where it has heads (of those in heads=). query: only in this region; it has no
    meaning at keys and values. Raises ValueError before the run where the vector does not fit a point.
    """
    return Adding(vector, scale, query, **where)


class Adding(ReadyEdit):
    """The edit of `add`."""

    def __init__(self, vector: Tensor, scale: float, query: Region | None, **where: Unpack[Chosen]) -> None:
        given = vector if isinstance(vector, Tensor) else torch.tensor(vector, device="cpu")
        self.vector, self.scale, self.query = given.detach().clone(), number(scale, "add scale"), query
        if self.vector.ndim not in (1, 2) or not torch.isfinite(self.vector).all():
            raise ValueError(f"add: the vector {list(self.vector.shape)} must be [channel] or [head channel], of finite numbers")
        region = "" if query is None else f", query={query!r}"
        super().__init__(f"add({list(self.vector.shape)}, {scale}{region})", ANYWHERE, prepare=self._prepare, **where)

    def check(self, site: Site, point: str) -> None:
        super().check(site, point)
        axes, channels, given = site.axes(point), site.widths.get(point), list(self.vector.shape)
        heads = [len(resolve_indices(self.heads, site.heads, "heads")), channels] if "head" in axes else None
        if channels is None or given not in ([channels], heads):
            wanted = "no channels" if channels is None else f"[{channels}]" + ("" if heads is None else f" or {heads}")
            raise ValueError(f"add: the vector is {given}, but {site}:{point} has {wanted}")
        if self.query is not None and not {"query", "row"} & set(axes):
            raise ValueError(f"add: query= has no meaning at {site}:{point}, which has the axes {', '.join(axes)}")

    def _prepare(self, run: RunShape, chosen: tuple[str, ...]) -> RunChange:
        def change(part: Tensor, at: At, labels: list[str]) -> Tensor:
            axes, lengths = at.site.axes(at.point), {"channel": self.vector.shape[-1]}
            if self.vector.ndim == 2:
                lengths["head"] = self.vector.shape[0]
            step = self.scale * self.vector.to(part).view([lengths.get(axis, 1) for axis in axes])
            if self.query is None:
                return part + step
            inside = torch.zeros(at.hw, dtype=part.dtype, device=part.device)
            top, bottom, left, right = token_box(self.query, at.hw, run.rows, run.size)
            inside[top:bottom, left:right] = 1
            return part + step * (inside if "row" in axes else inside.flatten()[:, None])

        return change
