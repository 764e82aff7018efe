"""Selectors: which points of which sites a text names, and what a tensor looks like there.

A selector is a shell pattern on "site:point" ("up.1.*.self:probs"). Its site part may start with a layer number
("9.self:probs", "9:*"), which stands for the transformer block of that number.
"""

import difflib
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from analogist.attention.select.run_shape import RunShape
from analogist.models.placement import MAP_POINTS, Site
from analogist.models.unet import UNet

_LAYER = re.compile(r"([0-9]+)(\.(?:self|cross|\*))?:(.+)")


def all_points(unet: UNet) -> list[tuple[Site, str]]:
    """Every point of every site and block of a UNet, sites first. Only blocks that join a skip have the point `skip`."""
    attention = [(site, point) for site in unet.sites for point in site.points]
    channels = widths(unet)
    return attention + [(site, point) for site in unet.places for point in site.points if (site.name, point) in channels]


def matches(selector: str, site: Site, point: str) -> bool:
    """Whether a selector names this point."""
    layer = _LAYER.fullmatch(selector)
    if layer is not None:
        kind = (layer[2] or ".*")[1:]
        return site.layer == int(layer[1]) and fnmatchcase(site.kind, kind) and fnmatchcase(point, layer[3])
    return fnmatchcase(f"{site}:{point}", selector)


def select(selectors: Iterable[str], unet: UNet, layers: frozenset[int] | None = None) -> list[tuple[Site, str]]:
    """The points that any of the selectors names, in execution order of sites.

    layers: only transformer blocks of these numbers. Raises ValueError for a selector that matches nothing.
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
        f"such as {', '.join(repr(name) for name in near)}; points are x q k v scores logits probs head_out out, and x skip out of blocks"
    )


def widths(unet: UNet) -> dict[tuple[str, str], int]:
    """Channels of the tensors at the points that have a channel axis, by (site name, point)."""
    out: dict[tuple[str, str], int] = {}
    for module in unet.modules():
        site = getattr(module, "site", None)
        if site is None or site.kind == "block":
            continue
        inner = module.to_q.out_features // module.heads
        out.update({(site.name, point): inner for point in ("q", "k", "v", "head_out")})
        out[site.name, "x"], out[site.name, "out"] = module.to_q.in_features, module.to_out.out_features
    channels, skips = unet.config.channels, [unet.config.channels[0]]
    current = channels[0]
    for name, level in _levels(unet):
        for i, resnet in enumerate(level.resnets):
            block = f"{name}.res.{i}.block"
            out[block, "x"] = current
            if name.startswith("up"):
                out[block, "skip"] = skips.pop()
            current = out[block, "out"] = resnet.conv1.out_channels
            if i < len(level.attn):
                out[f"{name}.attn.{i}.block", "x"] = out[f"{name}.attn.{i}.block", "out"] = current
            if name.startswith("down"):
                skips.append(current)
        if name.startswith("down") and level.downsample is not None:
            skips.append(current)
    return out


def _levels(unet: UNet) -> list[tuple]:
    down = [(f"down.{i}", level) for i, level in enumerate(unet.down)]
    return [*down, ("mid.0", unet.mid), *((f"up.{i}", level) for i, level in enumerate(unet.up))]


def layout(site: Site, point: str, run: RunShape, channels: dict[tuple[str, str], int]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and lengths of the axes that follow (branch, image) at a point."""
    h, w = site.hw(run.latent)
    if site.kind == "block":
        return ("channel", "row", "column"), (channels[site.name, point], h, w)
    keys = h * w if site.kind == "self" else run.tokens
    if point in MAP_POINTS:
        return ("head", "query", "key"), (site.heads, h * w, keys)
    width = channels[site.name, point]
    if point in ("x", "out"):
        return ("query", "channel"), (h * w, width)
    if point in ("k", "v"):
        return ("head", "key", "channel"), (site.heads, keys, width)
    return ("head", "query", "channel"), (site.heads, h * w, width)
