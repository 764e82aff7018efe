"""Selectors: the points and sites that a text names, and the axes of the tensor there.

A selector is a shell pattern on "site:point" ("up.1.*.self:probs"). Its site part may start with a layer number
("9.self:probs", "9:*"), which stands for the transformer block with that number.
"""

import difflib
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from analogist.attention.select.run_shape import RunShape
from analogist.models.placement import BLOCK_POINTS, POINTS, Site
from analogist.models.unet import UNet

_LAYER = re.compile(r"([0-9]+)(\.(?:self|cross|\*))?:(.+)")


def all_points(unet: UNet) -> list[tuple[Site, str]]:
    """Every point of every site and block of a UNet, sites first. Only blocks that concatenate a skip have the point `skip`."""
    attention = [(site, point) for site in unet.sites for point in site.points]
    return attention + [(site, point) for site in unet.places for point in site.points if point in site.widths]


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
        f"such as {', '.join(repr(name) for name in near)}; points are {' '.join(POINTS)}, and {' '.join(BLOCK_POINTS)} of blocks"
    )


def layout(site: Site, point: str, run: RunShape) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and lengths of the axes that follow (branch, image) at a point. site: a site of a UNet, which holds its widths."""
    (h, w), axes = site.hw(run.latent), site.axes(point)
    lengths = {"head": site.heads, "query": h * w, "key": h * w if site.kind == "self" else run.tokens, "row": h, "column": w}
    return axes, tuple(site.widths[point] if axis == "channel" else lengths[axis] for axis in axes)
