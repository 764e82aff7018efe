"""Selectors: the points and sites that a text names, and the axes of the tensor there.

A selector is a shell pattern on "site:point" ("up.1.*.self:probs"). Its site part may start with a layer number
("9.self:probs", "9:*"), which stands for the transformer block with that number.
"""

import difflib
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from analogist.attention.select.run_shape import RunShape
from analogist.models.placement import BLOCK_POINTS, FF_POINTS, POINTS, Site
from analogist.models.unet import UNet

_LAYER = re.compile(r"([0-9]+)(\.(?:self|cross|ff|\*))?:(.+)")


def all_points(unet: UNet) -> list[tuple[Site, str]]:
    """Every point of a UNet: those of its attention sites first, then those of everything else."""
    return [(site, point) for site in (*unet.sites, *unet.places) for point in site.points]


class PointTable(list):
    """Rows of `table`, dictionaries with site, module, kind, layer, stride, point, axes and channels; prints one line per row."""

    def __repr__(self) -> str:
        lines = [f"{'point':36} {'module and prefix of its parameters':38} {'axes after branch and image':28} {'channels':>8}"]
        for row in self:
            channels = "" if row["channels"] is None else row["channels"]
            lines.append(f"{row['site'] + ':' + row['point']:36} {row['module']:38} {' '.join(row['axes']):28} {channels:>8}")
        return "\n".join(lines)


def table(unet: UNet, selector: str = "*:*") -> PointTable:
    """Every point of a UNet that a selector names, with its axes and the name of its module, which the names of its parameters start with.

    channels: None at points that have no channel axis. stride: latent pixels per token there. Raises ValueError for a selector that
    matches nothing.
    """
    names = unet.module_names
    return PointTable(
        {
            "site": site.name, "module": names[site.name], "kind": site.kind, "layer": site.layer, "point": point,
            "stride": site.strides.get(point, site.stride), "axes": site.axes(point), "channels": site.widths.get(point),
        }
        for site, point in select([selector], unet)
    )  # fmt: skip


def matches(selector: str, site: Site, point: str) -> bool:
    """Whether a selector names this point."""
    layer = _LAYER.fullmatch(selector)
    if layer is not None:
        kind = (layer[2] or ".*")[1:]
        return site.layer == int(layer[1]) and fnmatchcase(site.kind, kind) and fnmatchcase(point, layer[3])
    return fnmatchcase(f"{site}:{point}", selector)


def select(selectors: Iterable[str], unet: UNet, layers: frozenset[int] | None = None) -> list[tuple[Site, str]]:
    """The points that at least one selector names, in execution order of sites.

    layers: only transformer blocks with these numbers. Raises ValueError for a selector that matches nothing.
    """
    points = all_points(unet)
    chosen: set[tuple[str, str]] = set()
    for selector in selectors:
        found = [(site, point) for site, point in points if matches(selector, site, point)]
        kept = [pair for pair in found if layers is None or pair[0].layer in layers]
        if not kept:
            raise ValueError(_nothing(selector, points, layers if found else None))
        chosen.update((site.name, point) for site, point in kept)
    return [(site, point) for site, point in points if (site.name, point) in chosen]


def _nothing(selector: str, points: list[tuple[Site, str]], layers: frozenset[int] | None) -> str:
    if layers is not None:
        return f"selector {selector!r} matches no site in layers {sorted(layers)}"
    if ":" not in selector:
        return f"selector {selector!r} matches nothing: add a point, such as '{selector}:probs'"
    names = [f"{site}:{point}" for site, point in points]
    near = difflib.get_close_matches(selector, names, 3, 0.5) or names[6:7]
    return (
        f"selector {selector!r} matches none of the {len(names)} points of this UNet; it is a shell pattern on site:point, "
        f"such as {', '.join(repr(name) for name in near)}; points are {' '.join(POINTS)}, "
        f"{' '.join(FF_POINTS)} of feed-forwards, and {' '.join(BLOCK_POINTS)} of blocks"
    )


def layout(site: Site, point: str, run: RunShape) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and lengths of the axes that follow (branch, image) at a point. site: a site of a UNet, which holds its widths."""
    (h, w), axes = site.hw(run.latent, point), site.axes(point)
    lengths = {"head": site.heads, "query": h * w, "key": h * w if site.kind == "self" else run.tokens, "row": h, "column": w}
    return axes, tuple(site.widths[point] if axis == "channel" else lengths[axis] for axis in axes)
