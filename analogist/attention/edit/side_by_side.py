"""Several edits in one batch: every image runs once for each of them, and each sees its own copy alone."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from analogist.attention.select.run_shape import RunShape, resolve_steps
from analogist.models.control import At, Edit
from analogist.models.placement import Site


class SideBySide:
    """Edits of one selector, one for each copy of the images (None: that copy passes unchanged).

    It asks the run for as many copies (see asks.py); the batch axis is then (branch copy image).
    """

    def __init__(self, edits: Sequence[Edit | None]) -> None:
        self.edits = list(edits)
        self.copies = len(self.edits)

    def __repr__(self) -> str:
        return f"SideBySide({self.copies} edits)"

    def __call__(self, tensor: Tensor, at: At) -> Tensor:
        raise ValueError("edits side by side act inside a run: pass them as edit={'up.1.attn.2.self:head_out': SideBySide([...])}")

    def bind(self, run: RunShape, places: list[tuple[Site, str]]) -> Edit:
        """The function to call in this run. Raises ValueError where the run made no copies, or an edit refuses."""
        if run.copies != self.copies:
            raise ValueError(f"{self.copies} edits side by side, but this run makes {run.copies} copies of its images")
        alone = replace(run, images=run.images // self.copies, copies=1)
        bound: list[tuple[Edit, tuple[int, ...] | None] | None] = []
        for one in self.edits:
            if one is None:
                bound.append(None)
                continue
            steps = getattr(one, "steps", None)
            bind = getattr(one, "bind", None)
            bound.append((one if bind is None else bind(alone, places), None if steps is None else resolve_steps(steps, run.steps)))

        def edit(tensor: Tensor, at: At) -> Tensor:
            shares = tensor.unflatten(0, (at.branches, self.copies, alone.images))
            here = replace(at, images=alone.images)
            parts = []
            for copy, one in enumerate(bound):
                share = shares[:, copy].flatten(0, 1)
                if one is not None and (one[1] is None or at.step in one[1]):
                    share = one[0](share, here)
                if not isinstance(share, Tensor):
                    return share  # refused as the result of any edit is (bind.py)
                parts.append(share.unflatten(0, (at.branches, alone.images)))
            return torch.stack(parts, dim=1).flatten(0, 2)

        return edit
