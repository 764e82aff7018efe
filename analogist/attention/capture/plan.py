"""The plan of a capture, made before the run: exactly what is kept at every point, in which shape, and how many bytes."""

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from analogist.attention.capture.reduce import Function, OverSteps, RegionTotals, TopK
from analogist.attention.select.heads import resolve_heads
from analogist.attention.select.points import layout, select
from analogist.attention.select.regions import rectangle, region_tokens, token_box
from analogist.attention.select.run_shape import RunShape, resolve_branches, resolve_indices, resolve_steps
from analogist.attention.select.word_columns import branch_columns
from analogist.models.cells import REGIONS
from analogist.models.control import At
from analogist.models.placement import MAP_POINTS, Site
from analogist.models.unet import UNet

if TYPE_CHECKING:
    from analogist.attention.capture.capture import Capture

Axes = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Item:
    """One tensor that a capture keeps, from one point.

    name: its name among the maps. steps, branches, images, heads: the kept ones. query, key: token numbers, None for all.
    columns: text columns per branch, in place of key. axes, shape: of the kept tensor, step first unless summed over.
    """

    name: str
    site: Site
    point: str
    request: "Capture"
    steps: tuple[int, ...]
    branches: tuple[str, ...]
    images: tuple[int, ...]
    heads: tuple[int, ...]
    query: Tensor | None
    key: Tensor | None
    columns: dict[str, tuple[int, ...]] | None
    axes: Axes
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def over_steps(self) -> OverSteps | None:
        """The reduction over steps, if there is one."""
        last = self.request.reductions[-1:]
        return last[0] if last and isinstance(last[0], OverSteps) else None

    @property
    def has_index(self) -> bool:
        """Whether the keys of top-k (int32) are kept in addition to the values."""
        return any(isinstance(one, TopK) for one in self.request.reductions)

    @property
    def needs_whole(self) -> bool:
        """Whether a user's function needs all heads in one tensor."""
        return any(isinstance(one, Function) for one in self.request.reductions)

    @property
    def nbytes(self) -> int:
        count = torch.Size(self.shape).numel()
        return count * self.dtype.itemsize + (count * 4 if self.has_index else 0)


class Plan:
    """The tensors that will be kept; prints as a table. `bytes` is the total, in memory or (spilled) on disk."""

    def __init__(self, items: list[Item], run: RunShape) -> None:
        self.items = items
        self.run = run

    @property
    def bytes(self) -> int:
        """Size of all kept tensors in bytes."""
        return sum(item.nbytes for item in self.items)

    def __len__(self) -> int:
        return len(self.items)

    def rows(self) -> list[dict]:
        """One row per kept tensor: name, axes, shape, dtype, bytes."""
        return [
            {"name": i.name, "axes": i.axes, "shape": i.shape, "dtype": str(i.dtype).removeprefix("torch."), "bytes": i.nbytes}
            for i in self.items
        ]

    def table(self, limit: int | None = 40) -> str:
        """The plan as text, one line per tensor; limit: most lines shown, the rest is summed up."""
        lines = [f"{'point':44} {'axes and lengths':72} {'dtype':9} {'MiB':>10}"]
        for row in islice(self.rows(), limit):
            axes = " ".join(f"{name} {length}" for name, length in zip(row["axes"], row["shape"], strict=True))
            lines.append(f"{row['name']:44} {axes:72} {row['dtype']:9} {row['bytes'] / 2**20:10.2f}")
        if limit is not None and len(self.items) > limit:
            rest = sum(item.nbytes for item in self.items[limit:])
            lines.append(f"{f'... {len(self.items) - limit} more':127} {rest / 2**20:10.2f}")
        where = "on disk" if any(item.request.spill is not None for item in self.items) else "in memory"
        lines.append(f"{f'total, {len(self.items)} tensors, {where}':127} {self.bytes / 2**20:10.2f}")
        return "\n".join(lines)

    __repr__ = __str__ = table


def largest(items: list[Item], count: int = 3) -> str:
    """The biggest items, for messages."""
    items = sorted(items, key=lambda item: -item.nbytes)[:count]
    return ", ".join(f"{item.name} {human_bytes(item.nbytes)}" for item in items)


def human_bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:.4g} {unit}"
        count /= 1024
    raise AssertionError("not reached")


def plan_items(request: "Capture", unet: UNet, run: RunShape) -> list[Item]:
    """Everything that one capture keeps, in the steps that are run; nothing where it asks for others only.

    Raises ValueError for steps, branches, ... that the run does not have.
    """
    points = select(request.patterns, unet, request.layers)
    steps = tuple(step for step in resolve_steps(request.steps, run.steps) if step >= run.first)
    branches = resolve_branches(request.branches, run)
    images = resolve_indices(request.images, run.images, "images")
    with_heads = {site.name: site for site, point in points if "head" in site.axes(point)}
    heads = resolve_heads(request.heads, list(with_heads.values()))
    points = [(site, point) for site, point in points if "head" not in site.axes(point) or heads[site.name]]
    items = [_item(request, site, point, run, steps, branches, images, heads.get(site.name, ())) for site, point in points]
    used = {axis for site, point in points for axis in layout(site, point, run)[0]}
    axes_of = {"query": ("query", "row"), "key": ("key",), "words": ("key",), "heads": ("head",)}
    for name, axes in axes_of.items():
        if getattr(request, name) is not None and not used & set(axes):
            raise ValueError(f"{name}= has no meaning at the points captured: none of them has a {axes[0]} axis")
    return items if steps else []


def _item(
    request: "Capture", site: Site, point: str, run: RunShape, steps: tuple[int, ...],
    branches: tuple[str, ...], images: tuple[int, ...], heads: tuple[int, ...],
) -> Item:  # fmt: skip
    name = f"{site}:{point}" + (f"@{request.label}" if request.label else "")
    axes, shape = layout(site, point, run)
    hw = site.hw(run.latent, point)
    heads = heads if "head" in axes else ()
    query = key = columns = None
    try:
        if "head" in axes:
            shape = (len(heads), *shape[1:])
        if request.query is not None and ("query" in axes or "row" in axes):
            query = region_tokens(request.query, hw, run.rows, run.size)
            shape = _with_query(axes, shape, query, hw)
        if "key" in axes:
            at = axes.index("key")
            if site.kind == "self":
                if request.words is not None:
                    raise ValueError("words= selects text tokens, but the keys of self-attention are tokens of the picture; select *.cross")
                if request.key is not None:
                    key = region_tokens(request.key, hw, run.rows, run.size)
                    shape = (*shape[:at], len(key), *shape[at + 1 :])
            else:
                if request.key is not None:
                    raise ValueError("key= selects a region, but the keys of cross-attention are text tokens; use words=")
                if request.words is not None:
                    columns = branch_columns(request.words, branches, run)
                    shape = (*shape[:at], len(columns[branches[0]]), *shape[at + 1 :])
        dtype = request.dtype or (torch.float32 if point in ("scores", "logits") else run.dtype)
        axes, shape, dtype = _reduced(request, site, point, run, axes, shape, dtype, len(branches), len(images))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    full_axes: Axes = ("branch", "image", *axes)
    full_shape = (len(branches), len(images), *shape)
    if not (request.reductions and isinstance(request.reductions[-1], OverSteps)):
        full_axes, full_shape = ("step", *full_axes), (len(steps), *full_shape)
    return Item(
        name, site, point, request, steps, branches, images, heads, query, key, columns, full_axes, full_shape, dtype
    )  # fmt: skip


def _with_query(axes: Axes, shape: tuple[int, ...], query: Tensor, hw: tuple[int, int]) -> tuple[int, ...]:
    if "query" in axes:
        at = axes.index("query")
        return (*shape[:at], len(query), *shape[at + 1 :])
    box = rectangle(query, hw)
    if box is None:
        raise ValueError("query= must be a single rectangle at points of blocks")
    return (shape[0], box[1] - box[0], box[3] - box[2])


def _reduced(
    request: "Capture", site: Site, point: str, run: RunShape, axes: Axes, shape: tuple[int, ...], dtype: torch.dtype,
    branches: int, images: int,
) -> tuple[Axes, tuple[int, ...], torch.dtype]:  # fmt: skip
    for one in request.reductions:
        if isinstance(one, OverSteps):
            if request.dtype not in (None, torch.float32):
                raise ValueError(f"dtype {request.dtype}: sums over steps are kept in float32; leave dtype out")
            dtype = torch.float32
        elif isinstance(one, Function):
            at = At(
                site, point, 0, run.times[0], site.hw(run.latent, point), run.branches, run.images, run.rows, range(site.heads)
            )
            out = _try(one, (branches, images, *shape), run.dtype, at)
            axes, shape = one.result_axes(axes, out.ndim - 2), tuple(out.shape[2:])
            dtype = request.dtype or out.dtype
        elif isinstance(one, RegionTotals):
            if point not in MAP_POINTS:
                raise ValueError("reduce='regions' works only on maps: the points scores, logits and probs")
            for name in one.regions if one.regions != REGIONS else ():
                token_box(name, site.hw(run.latent, point), run.rows, run.size)  # raises here, not in the middle of the run
            axes, shape = one.layout(axes, shape, site.kind)
            dtype = request.dtype or torch.float32
        else:
            axes, shape = one.layout(axes, shape)
            if not isinstance(one, TopK):
                dtype = request.dtype or torch.float32
    return axes, shape, dtype


def _try(function: Function, shape: tuple[int, ...], dtype: torch.dtype, at: At) -> Tensor:
    """The result shape of the user's function; tried on real zeros if it cannot run without values."""
    try:
        return function.apply(torch.empty(shape, dtype=dtype, device="meta"), at)
    except (NotImplementedError, RuntimeError) as error:
        if torch.Size(shape).numel() * dtype.itemsize > 2**30:
            raise ValueError(
                f"the reduction {function.name} cannot be planned: it does not run on tensors without values ({error}), and this "
                f"tensor is too large to try it on zeros; avoid .item() and branches on values in the reduction"
            ) from error
        return function.apply(torch.zeros(shape, dtype=dtype, device="cpu"), at)
