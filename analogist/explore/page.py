"""The explorer's page: its data as a manifest, and the page as one HTML text."""

import base64

import analogist
from analogist.grid.layout import cell_names
from analogist.models.placement import BRANCHES

from .html_page import ASSETS, build
from .notes import notes
from .pack import Packed, kept
from .source import Source, encode_picture

SCRIPTS = (
    "data.js", "rows.js", "colour.js", "state.js", "picture.js", "lines.js", "panels.js", "written.js", "strip.js", "keys.js", "main.js"
)  # fmt: skip
PICTURES = 0.05  # share of the page that pictures may take
FORMAT = 1


def picture_entries(sources: list[Source], max_bytes: int) -> list[dict]:
    """The sources' pictures as data URLs, each within its share of the page."""
    limit = max(8_000, int(PICTURES * max_bytes / len(sources) * 3 / 4))
    out = []
    for source in sources:
        kind, data, done = encode_picture(source.picture, limit)
        out.append({"src": f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}", "done": done})
    return out


def manifest(sources: list[Source], packed: Packed, pictures: list[dict], max_bytes: int) -> dict:
    """All data of the page except the blocks, JSON-ready."""
    shown = [source for source in sources if any(other is source for other, _ in kept(sources, packed.detail))]
    groups = [{**group, "source": shown.index(sources[group["source"]])} for group in packed.groups]
    said = notes(sources, packed.detail)
    return {
        "format": FORMAT,
        "analogist": analogist.__version__,
        "max_bytes": max_bytes,
        "sources": [source_entry(source, pictures[sources.index(source)]) for source in shown],
        "groups": groups,
        "notes": said,
    }


def source_entry(source: Source, picture: dict) -> dict:
    """The data of one image of one run."""
    sites = {one.site.name: one for one in source.held}
    config = source.config
    return {
        "label": source.label,
        "prompt": source.prompt,
        "negative": source.negative,
        "seed": source.seed,
        "image": source.image,
        "size": list(source.size),
        "rows": source.rows,
        "cells": list(cell_names(source.rows - 1)),
        "times": list(source.times),
        "checkpoint": source.checkpoint,
        "trained": source.trained,
        "guidance": config.sampling.guidance,
        "scale": None if config.sac is None else config.sac.scale,
        "sites": [
            {
                "name": name, "kind": one.site.kind, "layer": one.site.layer, "hw": list(one.map.hw), "heads": one.site.heads,
                "acts": acting(source, one),
            }  # fmt: skip
            for name, one in sites.items()
        ],
        "written": source.written,
        "picture": picture["src"],
        "picture_done": picture["done"],
    }


def acting(source: Source, one) -> bool:
    """Whether SAC (self) or CAM (cross) acts at a site, in any step and branch of the run."""
    setting = source.config.sac if one.site.kind == "self" else source.config.cam
    steps = range(len(source.times))
    return any(source.acts(setting, one, step, branch) for step in steps for branch in BRANCHES)


def page_text(data: dict, chunks: list[str], title: str) -> str:
    """The whole page as text."""
    return build(ASSETS, "page.html", "page.css", SCRIPTS, data, title, chunks)
