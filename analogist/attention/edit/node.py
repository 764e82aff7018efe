"""A node: the part of a network in which a cause is sought, such as one head of one site in one step."""

from dataclasses import dataclass

import torch
from torch import Tensor

from analogist.attention.select.regions import Region, rectangle, region_tokens
from analogist.attention.select.run_shape import RunShape, resolve_branches
from analogist.models.control import At

Index = tuple[slice | Tensor, ...]


@dataclass(frozen=True)
class Node:
    """A part of the tensor at a point of a site; None means all of that axis.

    site, point: as in selectors. head: of the site. step: executed step. branch: "negative" or "text". query, key: regions.
    """

    site: str
    point: str = "head_out"
    head: int | None = None
    step: int | None = None
    branch: str | None = None
    query: Region | None = None
    key: Region | None = None

    def __post_init__(self) -> None:
        for name in ("query", "key"):
            if isinstance(getattr(self, name), list):  # as JSON gives a box
                object.__setattr__(self, name, tuple(getattr(self, name)))

    def __str__(self) -> str:
        parts = {"head": self.head, "step": self.step, "branch": self.branch, "query": self.query, "key": self.key}
        shown = ", ".join(f"{name} {value}" for name, value in parts.items() if value is not None)
        return f"{self.site}:{self.point}" + (f" ({shown})" if shown else "")

    @classmethod
    def of(cls, value: "Node | str | tuple[str, int]") -> "Node":
        """A node from itself, "site", "site:point" or (either, head). Raises ValueError for anything else."""
        if isinstance(value, cls):
            return value
        name, head = value if isinstance(value, tuple) and len(value) == 2 else (value, None)
        if not isinstance(name, str) or not (head is None or isinstance(head, int)):
            raise ValueError(f"node {value!r}: give a Node, 'up.1.attn.2.self:head_out' or ('up.1.attn.2.self:head_out', head)")
        site, _, point = name.partition(":")
        return cls(site, point or "head_out", head)

    @property
    def place(self) -> str:
        """Its selector."""
        return f"{self.site}:{self.point}"

    def to_json(self) -> dict:
        """Plain values, without what is None; Node(**values) gives it back."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def acts(self, step: int) -> bool:
        """Whether it has a part in an executed step."""
        return self.step is None or self.step == step

    def index(self, at: At, run: RunShape) -> Index:
        """Where it lies in a tensor at its point, (branch image) first; reads and writes by this index go to the same entries.

        Raises ValueError for a region or head at a point without that axis.
        """
        axes = at.site.axes(at.point)
        chosen: dict[str, list[int]] = {}
        if self.branch is not None:
            number = run.branch_labels.index(resolve_branches(self.branch, run)[0])
            chosen["batch"] = list(range(number * at.images, (number + 1) * at.images))
        if self.head is not None:
            if self.head not in range(at.site.heads):
                raise ValueError(f"{self}: {at.site} has heads 0..{at.site.heads - 1}")
            chosen["head"] = [self.head]
        for name in ("query", "key"):
            region = getattr(self, name)
            if region is None:
                continue
            if name == "key" and at.site.kind != "self":
                raise ValueError(f"{self}: a key region is a part of self-attention, whose keys are places of the picture")
            tokens = region_tokens(region, at.hw, run.rows, run.size)
            if name == "query" and "row" in axes:
                box = rectangle(tokens, at.hw)
                if box is None:
                    raise ValueError(f"{self}: a query region of a block must be one rectangle")
                top, bottom, left, right = box
                chosen.update(row=list(range(top, bottom)), column=list(range(left, right)))
            else:
                chosen[name] = tokens.tolist()
        missing = set(chosen) - {"batch", *axes}
        if missing:
            raise ValueError(f"{self}: there is no {min(missing)} axis at this point, which has {', '.join(axes)}")
        picked = [name for name in ("batch", *axes) if name in chosen]
        out: list[slice | Tensor] = []
        for name in ("batch", *axes):
            if name not in chosen:
                out.append(slice(None))
            else:
                shape = [-1 if name == other else 1 for other in picked]
                out.append(torch.tensor(chosen[name], device="cpu").view(shape))
        return tuple(out)
