"""Contribution: what a head writes into the residual stream, not where it looks.

A share of attention says nothing about what is carried: values may be small, and the output projection may discard them. Here
probabilities are weighted by values and by the head's part of the output projection.
Source of the idea: Kobayashi et al. 2020, "Attention is Not Only a Weight", Sec. 3 (norms of value-weighted vectors).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import einsum
from torch import Tensor

from analogist.attention.capture.capture import CaptureTooLarge
from analogist.attention.capture.plan import human_bytes
from analogist.attention.edit.bind import Edit
from analogist.attention.measure.runs import Runs, call, interval, listed
from analogist.attention.select.points import matches
from analogist.attention.select.regions import Region, region_tokens
from analogist.attention.select.run_shape import RunShape, Steps, resolve_branches, resolve_steps
from analogist.attention.select.word_columns import columns_of
from analogist.models.attention import Attention
from analogist.models.cells import REGIONS
from analogist.models.control import At
from analogist.models.placement import Site
from analogist.models.unet import UNet

Direction = Mapping[str, Tensor] | Callable[[Site], Tensor]
TEXT_KEYS = "text"  # the key region that stands for all tokens of cross-attention


@dataclass(frozen=True, eq=False)
class Contribution:
    """What heads write into the residual stream, over the norm of the stream before it, by query and key region.

    values: [site step branch head query_region key_region], the mean over inputs; nan where a site has fewer heads. The head axis has
    one entry -1 where all heads are taken together. each: [input ...] of each input; low, high: 95 % interval of the mean, nan for
    one input. signed: parts along a direction in place of norms.
    vectors: by site the written vectors, [step branch image head key_region query channel], of the first input, where asked for.
    """

    values: Tensor
    sites: tuple[str, ...]
    steps: tuple[int, ...]
    branches: tuple[str, ...]
    heads: tuple[int, ...]
    query: tuple[Region, ...]
    key: tuple[Region | int, ...]
    each: Tensor
    low: Tensor
    high: Tensor
    signed: bool = False
    vectors: dict[str, Tensor] | None = None

    def sel(
        self, *, site: str | None = None, step: int | None = None, branch: str | None = None, head: int | None = None,
        query: Region | None = None, key: Region | int | None = None,
    ) -> Tensor:  # fmt: skip
        """A part of `values`; a chosen entry drops its axis. Raises ValueError for what was not measured."""
        out, dim = self.values, 0
        names = ("site", "step", "branch", "head", "query", "key")
        have = (self.sites, self.steps, self.branches, self.heads, self.query, self.key)
        for name, entries, wanted in zip(names, have, (site, step, branch, head, query, key), strict=True):
            if wanted is None:
                dim += 1
            elif wanted in entries:
                out = out.select(dim, entries.index(wanted))
            else:
                raise ValueError(f"{name} {wanted!r}: measured are {', '.join(map(str, entries))}")
        return out

    def rows(self, query: Region | None = None, key: Region | int | None = None) -> list[dict]:
        """One row per site, head and pair of regions, the mean over steps and branches: site, head, query, key, contribution."""
        mean = self.values.mean(dim=(1, 2))
        return [
            {"site": site, "head": head, "query": q, "key": k, "contribution": float(mean[i, j, m, n])}
            for i, site in enumerate(self.sites)
            for j, head in enumerate(self.heads)
            for m, q in enumerate(self.query)
            for n, k in enumerate(self.key)
            if query in (None, q) and key in (None, k) and not mean[i, j, m, n].isnan()
        ]

    def best(self, k: int = 5, *, query: Region | None = "B'", key: Region | int | None = "A'") -> list[dict]:
        """The k heads that write most into a region from another, mean over steps and branches."""
        query, key = query if query in self.query else None, key if key in self.key else None
        return sorted(self.rows(query, key), key=lambda row: -abs(row["contribution"]))[:k]

    def __repr__(self) -> str:
        what = "signed part along the direction" if self.signed else "norm written"
        lines = [f"contribution: {what} over the norm of the residual stream, greatest first"]
        for row in self.best(12):
            head = "all heads" if row["head"] < 0 else f"head {row['head']}"
            lines.append(f"{row['site']:28} {head:10} {row['query']!s:>4} <- {row['key']!s:4} {row['contribution']:8.4f}")
        return "\n".join(lines)


def contribution(
    clean: Runs, selector: str = "*.self", heads: bool = True, *, query: Sequence[Region] = REGIONS,
    key: Sequence[Region | int] | None = None, steps: Steps = None, branches: str | Sequence[str] | None = None, vectors: bool = False,
    direction: Direction | None = None, max_bytes: int = 2**32,
) -> Contribution:  # fmt: skip
    """Runs once for each input and measures what every head writes into each query region from each key region.

    The measure is ||P_qk V W_out|| / ||residual||: the Frobenius norm over the query region's tokens (of all images) of the head's
    probabilities restricted to the keys, times values, times the head's part of the output projection, over that of the residual stream
    before the addition. SAC and CAM are in it as they acted. No map is stored, and maps may come in slices of heads.

    clean: a function that takes capture= and edit=, or a list of them, one per input. selector: a shell pattern on site names, of
    self-attention or of cross-attention. heads: head by head; else all heads of a site together. query, key: regions ("A1'" and pixel
    boxes too); key None: the four regions, and all text tokens at cross-attention, where words and column numbers can be given.
    vectors: also the written vectors themselves, at most max_bytes of them. direction: the signed part along it in place of the norm:
    by site name (or a function of the site) a tensor [channel], [query channel] or [branch image query channel]; its length does not
    count. For the direction towards the true B', for example, take the captured residual of a run that holds it minus that of this run.
    Raises ValueError for a selector that matches no site or both kinds, CaptureTooLarge for vectors over max_bytes.
    """
    found = []
    for number, run in enumerate(listed(clean, "clean")):
        weigh = Weigh(selector, heads, query, key, steps, branches, direction, vectors and number == 0, max_bytes)
        call(run, edit={"*:*": weigh})
        found.append(weigh)
    first = found[0]
    if any(other.labels != first.labels for other in found):
        raise ValueError("contribution: the inputs differ in steps, branches or sites; give only inputs that agree in these")
    each = torch.stack([weigh.values for weigh in found])
    low, high = interval(each)
    sites, kept, labels, numbers = first.labels
    return Contribution(
        each.mean(0), sites, kept, labels, numbers, tuple(query), first.key, each, low, high, direction is not None,
        {name: torch.stack(first.vectors[name]) for name in sites} if vectors else None,
    )  # fmt: skip


class Weigh:
    """An edit that changes nothing and weighs what each head writes; maps may come to it in slices of heads."""

    by_head = True

    def __init__(
        self, selector: str, heads: bool, query: Sequence[Region], key: Sequence[Region | int] | None, steps: Steps,
        branches: str | Sequence[str] | None, direction: Direction | None, keep: bool, max_bytes: int, each_image: bool = False,
    ) -> None:  # fmt: skip
        self.each_image = each_image  # then `values` has an axis image before the heads
        self.selector, self.by_heads, self.query, self.direction = selector, heads, list(query), direction
        self.asked_key, self.asked_branches, self.keep, self.max_bytes = key, branches, keep, max_bytes
        if steps is not None:
            self.steps = steps
        self.vectors: dict[str, list[Tensor]] = {}

    def meet(self, unet: UNet, places: list[tuple[Site, str]]) -> list[tuple[Site, str]]:
        """Chooses the points: values, maps and the residual stream before the chosen sites."""
        self.modules = {module.site.name: module for module in unet.modules() if isinstance(module, Attention)}
        self.sites = [site for site in unet.sites if matches(f"{self.selector}:probs", site, "probs")]
        if not self.sites:
            raise ValueError(f"contribution: {self.selector!r} matches no attention site; it is a shell pattern such as 'up.1.*.self'")
        if len({site.kind for site in self.sites}) > 1:
            raise ValueError(f"contribution: {self.selector!r} names both kinds of attention; take '*.self' or '*.cross'")
        self.chosen = {site.name for site in self.sites}
        needed = {(name, point) for name in self.chosen for point in ("stream", "v", "probs")}
        return [(site, point) for site, point in places if (site.name, point) in needed]

    def bind(self, run: RunShape, places: list[tuple[Site, str]]) -> Edit:
        steps = resolve_steps(getattr(self, "steps", None), run.steps)
        self.branches = resolve_branches(self.asked_branches, run)
        self.numbers = [run.branch_labels.index(branch) for branch in self.branches]
        cross = self.sites[0].kind == "cross"
        self.key = tuple(((TEXT_KEYS,) if cross else REGIONS) if self.asked_key is None else self.asked_key)
        count = max(site.heads for site in self.sites)
        heads = tuple(range(count)) if self.by_heads else (-1,)
        self.labels = (tuple(site.name for site in self.sites), steps, self.branches, heads)
        lengths = [*map(len, self.labels), len(self.query), len(self.key)]
        lengths[3:3] = [run.images] if self.each_image else []
        self.values = torch.full(lengths, float("nan"), dtype=torch.float32, device="cpu")
        self.run, self.streams, self.held = run, {}, {}
        self.query_of = {site.name: self._membership(self.query, site) for site in self.sites}
        self.key_of = {site.name: self._text_membership() if cross else self._membership(self.key, site) for site in self.sites}
        if self.keep:
            self._check_size(run, len(steps))
            self.vectors = {site.name: [] for site in self.sites}
        return self

    def _check_size(self, run: RunShape, steps: int) -> None:
        sizes = [torch.Size(site.hw(run.latent)).numel() * self.modules[site.name].to_out.out_features for site in self.sites]
        heads = [site.heads if self.by_heads else 1 for site in self.sites]
        count = sum(size * head for size, head in zip(sizes, heads, strict=True)) * steps * len(self.branches) * run.images * len(self.key)
        if count * 4 > self.max_bytes:
            raise CaptureTooLarge(
                f"contribution: these vectors are {human_bytes(count * 4)}, max_bytes is {human_bytes(self.max_bytes)}; "
                "choose fewer sites, steps or key regions, or leave vectors= out"
            )

    def _membership(self, regions: Sequence[Region | int], site: Site) -> Tensor:
        """[region token], 1 where the token lies in the region."""
        hw = site.hw(self.run.latent)
        out = torch.zeros(len(regions), hw[0] * hw[1], dtype=torch.float32, device="cpu")
        for i, region in enumerate(regions):
            if isinstance(region, int):
                raise ValueError(f"key {region!r}: the keys of self-attention are regions of the picture")
            out[i, region_tokens(region, hw, self.run.rows, self.run.size)] = 1
        return out

    def _text_membership(self) -> Tensor:
        """[branch region token]: text columns may differ from branch to branch."""
        out = torch.zeros(self.run.branches, len(self.key), self.run.tokens, dtype=torch.float32, device="cpu")
        for b, branch in enumerate(self.run.branch_labels):
            for i, word in enumerate(self.key):
                if isinstance(word, tuple):
                    raise ValueError(f"key {word!r}: the keys of cross-attention are words or token columns")
                out[b, i, list(range(self.run.tokens) if word == TEXT_KEYS else columns_of(word, branch, self.run))] = 1
        return out.repeat_interleave(self.run.images, dim=0)

    def __call__(self, tensor: Tensor, at: At) -> Tensor:
        """Any of the points chosen; the tensor goes on as it came."""
        with torch.no_grad():
            name = at.site.name
            if at.point == "probs":
                self._weigh(tensor, at)
            else:
                (self.held if at.point == "v" else self.streams)[name] = tensor
        return tensor

    def _weigh(self, probs: Tensor, at: At) -> None:
        """probs: (branch image) head query key, all heads or a slice of them."""
        name, site = at.site.name, at.site
        module, here = self.modules[name], slice(at.heads.start, at.heads.stop)
        member = self.key_of[name].to(probs.device, probs.dtype)
        member = member if member.ndim == 3 else member.expand(len(probs), -1, -1)
        v = self.held[name][:, here]
        parts = einsum(v, member, "b head key d, b region key -> b head key region d").flatten(-2)
        flow = (probs @ parts).unflatten(-1, (len(self.key), -1)).float()  # b head query region d
        w_out = module.to_out.weight.float().unflatten(1, (module.heads, -1))[:, here]  # channel head d
        stream = self.streams[name].float()
        i = self.labels[0].index(name)
        if self.by_heads:
            self._note(flow, w_out, stream, at, i, list(at.heads))
            if self.keep:
                self._hold(einsum(flow, w_out, "b head query region d, channel head d -> b head region query channel"), at)
            return
        written = einsum(flow, w_out, "b head query region d, channel head d -> b query region channel")
        if at.heads.start:
            written = written + self.held.pop(name + " written")
        if at.heads.stop < site.heads:
            self.held[name + " written"] = written
            return
        self._note(written[:, None], torch.eye(written.shape[-1], device=written.device)[:, None], stream, at, i, [0])
        if self.keep:
            self._hold(written[:, None].transpose(2, 3), at)

    def _note(self, flow: Tensor, w_out: Tensor, stream: Tensor, at: At, i: int, heads: list[int]) -> None:
        """Reduces to the query regions. flow: b head query region d. w_out: channel head d. stream: b query channel."""
        regions = self.query_of[at.site.name].to(flow.device)
        before = einsum(stream.square().sum(-1), regions, "b query, region query -> b region")
        if self.direction is None:
            gram = einsum(w_out, w_out, "channel head d, channel head e -> head d e")
            squares = einsum(flow @ gram[:, None], flow, "b head query key d, b head query key d -> b head query key")
        else:
            along = self._along(at, stream)
            back = einsum(along, w_out, "b query channel, channel head d -> b head query d")
            squares = einsum(flow, back, "b head query key d, b head query d -> b head query key")
        sums = einsum(squares, regions, "b head query key, region query -> b head region key")
        sums, before = (self._images(part, at) for part in (sums, before))
        if self.direction is None:
            value = (sums.clamp_min(0) / before[..., None, :, None]).sqrt()
        else:
            length = einsum(along.square().sum(-1), regions, "b query, region query -> b region")
            value = sums / (self._images(length, at) * before).sqrt()[..., None, :, None]
        self.values[i, self.labels[1].index(at.step)][..., heads, :, :] = value.cpu()

    def _images(self, part: Tensor, at: At) -> Tensor:
        """(branch image) ... -> branch ..., the sum over images; with each_image, branch image ..."""
        parts = part.unflatten(0, (at.branches, at.images))[self.numbers]
        return parts if self.each_image else parts.sum(1)

    def _along(self, at: At, stream: Tensor) -> Tensor:
        """The direction as b query channel."""
        given = self.direction(at.site) if callable(self.direction) else (self.direction or {}).get(at.site.name)
        if given is None:
            raise ValueError(f"contribution: direction= has nothing for {at.site}; give one for every site, or narrow the selector")
        want = (at.branches, at.images, *stream.shape[1:])
        try:
            return given.to(stream).expand(want).flatten(0, 1)
        except RuntimeError as error:
            raise ValueError(
                f"contribution: the direction at {at.site} is {tuple(given.shape)}; give [channel], [query channel] or "
                f"[branch image query channel] = {want}"
            ) from error

    def _hold(self, written: Tensor, at: At) -> None:
        """written: b head region query channel, all heads or a slice of them."""
        part = written.unflatten(0, (at.branches, at.images))[self.numbers].cpu()
        kept = self.vectors[at.site.name]
        if self.by_heads and at.heads.start:
            kept[-1] = torch.cat([kept[-1], part], dim=2)
        else:
            kept.append(part)
