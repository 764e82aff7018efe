"""Pictures of attention as PIL images, which notebooks display: heat maps, overlays, sheets, tables, arrows.

Every picture has a colour scale with its unit. Values may be tensors, arrays or AttentionMaps with two axes.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw

from analogist.attention.capture.maps import AttentionMap
from analogist.attention.look.colours import colourise
from analogist.attention.look.drawing import GAP, INK, PAPER, beside, colour_bar, enlarge, margin, outline, put_text, text_size, titled
from analogist.attention.measure.correspond import Field, Match
from analogist.attention.measure.flow import FlowTable
from analogist.attention.measure.heat import WordHeat
from analogist.attention.select.regions import Region, token_box

Values = torch.Tensor | np.ndarray | AttentionMap | WordHeat


def array(values: Values) -> np.ndarray:
    """Values as a float array with two axes. Raises ValueError for another number of axes."""
    if isinstance(values, AttentionMap | WordHeat):
        values = values.tensor if isinstance(values, AttentionMap) else values.values
    out = values.detach().float().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values, dtype=np.float64)
    if out.ndim != 2 or 0 in out.shape:
        raise ValueError(f"values of shape {out.shape}: a picture needs two axes; select or average the others first")
    return out


def limits(values: np.ndarray, low: float | None, high: float | None) -> tuple[float, float]:
    """The ends of the colour scale; None: the smallest and largest value."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        finite = np.zeros(1)
    return (float(finite.min()) if low is None else float(low)), (float(finite.max()) if high is None else float(high))


def heatmap(
    values: Values, *, title: str | None = None, unit: str = "share of attention", low: float | None = None, high: float | None = None,
    diverging: bool = False, side: int = 320,
) -> Image.Image:  # fmt: skip
    """A heat map with its colour scale. values: [row column]. low, high: ends of the scale; None: the values' own.

    title: None: an AttentionMap's name and axes, otherwise no title. diverging: zero in the middle, for differences. side:
    approximate length of the longer side in pixels.
    """
    data = array(values)
    if title is None:
        title = f"{values.name}: {values.axes[0]} down, {values.axes[1]} across" if isinstance(values, AttentionMap) else ""
    low, high = limits(data, low, high)
    if diverging:
        high = max(abs(low), abs(high))
        low = -high
    picture = enlarge(colourise(data, low, high, diverging=diverging), side)
    return margin(titled(beside([picture, colour_bar(picture.height, low, high, unit, diverging=diverging)]), title))


def overlay(
    image: Image.Image, values: Values, *, region: Region | None = None, pixel: tuple[float, float] | None = None, title: str = "",
    unit: str = "share of attention", low: float | None = 0.0, high: float | None = None, opacity: float = 0.65, fade: bool = False,
    side: int = 384, rows: int = 2, region_values: Region | None = None,
) -> Image.Image:  # fmt: skip
    """A heat map over a picture, optionally with a frame around a region and a mark at a pixel.

    image: the grid picture. values: [row column] over the whole picture, or only over `region_values`. region: to be framed.
    pixel: (x, y) to be marked, such as the query. opacity: of the map, 0..1. fade: opacity follows the value, from none at `low` to
    `opacity` at `high`, so that only what is looked at is covered. rows: rows of cells. side: of the result, in pixels.
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity {opacity}: expected 0..1")
    data = array(values)
    low, high = limits(data, low, high)
    scale = max(1, round(side / max(image.size)))
    base = image.convert("RGB").resize((image.width * scale, image.height * scale), Image.Resampling.LANCZOS)
    box = (0, 0, base.width, base.height) if region_values is None else _box(region_values, base, rows)
    size = (box[2] - box[0], box[3] - box[1])
    ground = base.convert("L").convert("RGB")
    colours = Image.fromarray(colourise(data, low, high)).resize(size, Image.Resampling.NEAREST)
    if fade:
        cover = np.clip((np.nan_to_num(data, nan=low) - low) / max(high - low, 1e-30), 0, 1)
        mask = Image.fromarray((255 * opacity * cover).round().astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
        ground.paste(colours, box[:2], mask)
    else:
        ground.paste(Image.blend(ground.crop(box), colours, opacity), box[:2])
    if region is not None:
        outline(ground, _box(region, base, rows))
    if pixel is not None:
        _mark(ground, (pixel[0] * scale, pixel[1] * scale))
    return margin(titled(beside([ground, colour_bar(ground.height, low, high, unit)]), title))


def looks_at(
    m: AttentionMap, pixel: tuple[float, float], image: Image.Image, *, title: str | None = None, fade: bool = False, side: int = 384
) -> Image.Image:  # fmt: skip
    """Where a pixel looks: its row of a self-attention map, drawn over the picture; mean over all other axes. pixel: (x, y).

    fade: opacity follows the value, as in `overlay`.
    """
    row = m.sel(query=pixel)
    rest = [axis for axis in row.axes if axis not in ("query", "key")]
    row = row.mean(*rest, "query")
    title = f"{m.name}: where ({pixel[0]:g}, {pixel[1]:g}) looks" if title is None else title
    return overlay(image, row.grid("key"), pixel=pixel, title=title, fade=fade, side=side, rows=m.rows)


def head_grid(m: AttentionMap, *, axis: str = "key", unit: str = "share of attention", side: int = 160) -> Image.Image:
    """One heat map per head, all on one colour scale; mean over all axes except head and the one shown ("key" or "query")."""
    rest = [name for name in m.axes if name not in ("head", axis)]
    part = m.mean(*rest) if rest else m
    part_axes = part.axis("head")
    maps = part.grid(axis).movedim(part_axes, 0) if part_axes else part.grid(axis)
    captions = [f"head {head}" for head in m.coords["head"]]
    return sheet([list(maps.float().numpy())], [m.name], captions, unit=unit, low=0.0 if m.point == "probs" else None, side=side)


def sheet(
    values: Sequence[Sequence[Values]], row_names: Sequence[str], column_names: Sequence[str], *, title: str = "",
    unit: str = "share of attention", low: float | None = None, high: float | None = None, diverging: bool = False, side: int = 96,
    by_row: bool = False,
) -> Image.Image:  # fmt: skip
    """Heat maps in rows and columns on one colour scale, such as layer by step. values: one list per row.

    by_row: one scale per row, drawn at its end. Useful because shares at a site of 4 tokens and at one of 256 differ widely.
    """
    data = [[array(torch.from_numpy(v) if isinstance(v, np.ndarray) else v) for v in row] for row in values]
    if len(data) != len(row_names) or any(len(row) != len(column_names) for row in data):
        raise ValueError(f"sheet: {len(data)} rows for {len(row_names)} names, {len(column_names)} column names: expected one each")
    groups = data if by_row else [[v for row in data for v in row]] * len(data)
    scales = [limits(np.concatenate([v.ravel() for v in group]), low, high) for group in groups]
    if diverging:
        scales = [(-max(abs(a), abs(b)), max(abs(a), abs(b))) for a, b in scales]
    pictures = [[enlarge(colourise(v, *ends, diverging=diverging), side) for v in row] for row, ends in zip(data, scales, strict=True)]
    if by_row:
        for row, ends in zip(pictures, scales, strict=True):
            row.append(colour_bar(max(p.height for p in row), *ends, "", diverging=diverging))
        return margin(titled(_table(pictures, row_names, [*column_names, unit]), title))
    table = _table(pictures, row_names, column_names)
    return margin(titled(beside([table, colour_bar(table.height, *scales[0], unit, diverging=diverging)]), title))


def matrix(
    values: Values, row_names: Sequence[str], column_names: Sequence[str], *, title: str = "", unit: str = "", low: float | None = None,
    high: float | None = None, diverging: bool = False, cell: tuple[int, int] = (56, 26), numbers: bool = True,
) -> Image.Image:  # fmt: skip
    """A table of numbers as colours, such as recovered effect by site and step. cell: width and height of a cell in pixels."""
    data = array(values)
    if data.shape != (len(row_names), len(column_names)):
        raise ValueError(f"matrix {data.shape}: {len(row_names)} row and {len(column_names)} column names; expected one per row and column")
    low, high = limits(data, low, high)
    if diverging:
        high = max(abs(low), abs(high))
        low = -high
    colours = colourise(data, low, high, diverging=diverging)
    width, height = max(cell[0], *(text_size(name, 12)[0] + 6 for name in column_names)), cell[1]
    pictures = []
    for i, row in enumerate(data):
        line = []
        for j, value in enumerate(row):
            picture = Image.new("RGB", (width, height), tuple(int(c) for c in colours[i, j]))
            if numbers:
                bright = colours[i, j] @ np.array([0.299, 0.587, 0.114]) > 140
                put_text(picture, (width / 2, height / 2), cell_text(value), 12, "mm", INK if bright else PAPER)
            line.append(picture)
        pictures.append(line)
    table = _table(pictures, row_names, column_names, gap=1)
    return margin(titled(beside([table, colour_bar(max(table.height, 90), low, high, unit, diverging=diverging)]), title))


def cell_text(value: float) -> str:
    """A number for a table: three decimals, fewer for large numbers; "~0" for what would be 0.000, empty for NaN."""
    if value != value:
        return ""
    if value == 0 or abs(value) < 0.0005:
        return "0" if value == 0 else "~0"
    return f"{value:.{3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0}f}"


def flow_picture(table: FlowTable, *, title: str | None = None, high: float | None = None) -> Image.Image:
    """A flow table: the row is the region that looks, the column the region looked at.

    high: upper end of the colour scale (use the same for tables to be compared); None: the table's largest share.
    """
    return matrix(
        table.values, [f"{name} looks at" for name in table.regions], list(table.regions), title=table.title if title is None else title,
        unit="share", low=0.0, high=high, cell=(56, 44),
    )  # fmt: skip


def arrows(
    image: Image.Image, matches: Field | Sequence[tuple[tuple[float, float], Match]], *, every: int = 1, least: float = 0.0,
    strongest: int | None = None, title: str = "", side: int = 512,
) -> Image.Image:  # fmt: skip
    """Correspondences as arrows from query to match, coloured by share. matches: a Field, or pairs of (x, y) and Match.

    every: draw only every n-th token of a field along both sides. least: only matches with at least this share of the attention.
    strongest: at most this many, those with the greatest shares. Raises ValueError where none is left to draw.
    """
    if isinstance(matches, Field):
        start, end, share = (t[every // 2 :: every, every // 2 :: every].flatten(0, 1) for t in (matches.start, matches.end, matches.share))
        lines = list(zip(start.tolist(), end.tolist(), share.tolist(), strict=True))
        title = title or f"{matches.query} -> {matches.key}"
    else:
        lines = [(list(pixel), [match.x, match.y], match.share) for pixel, match in matches]
    if not lines:
        raise ValueError("arrows: no correspondences to draw; give at least one pair of a pixel and its match, or a smaller `every`")
    most = max(share for *_, share in lines)
    strong = sorted((line for line in lines if line[2] >= least), key=lambda line: -line[2])[:strongest]
    if not strong:
        raise ValueError(f"arrows: none of {len(lines)} correspondences has a share of {least:.3g} or more; the greatest is {most:.3g}")
    if len(strong) < len(lines):
        title = f"{title}{': ' if title else ''}{len(strong)} strongest of {len(lines)} matches"
    lines = strong
    scale = max(1, round(side / max(image.size)))
    base = image.convert("RGB").resize((image.width * scale, image.height * scale), Image.Resampling.LANCZOS)
    shares = np.array([share for *_, share in lines])
    low, high = 0.0, float(shares.max())
    colours = colourise(shares, low, high)
    drawing = ImageDraw.Draw(base)
    for i in np.argsort(shares):
        (x0, y0), (x1, y1), _ = lines[i]
        r, g, b = (int(c) for c in colours[i])
        _arrow(drawing, (x0 * scale, y0 * scale), (x1 * scale, y1 * scale), (r, g, b))
    return margin(titled(beside([base, colour_bar(base.height, low, high, "share of attention")]), title))


def contact_sheet(
    images: Sequence[Image.Image], captions: Sequence[str] | None = None, *, columns: int = 4, side: int | None = 192
) -> Image.Image:  # fmt: skip
    """Pictures in rows with a caption above each.

    side: longer side of each in pixels, very small ones enlarged by whole factors; None: unchanged (for pictures with text).
    """
    captions = [""] * len(images) if captions is None else list(captions)
    if not images or len(images) != len(captions):
        raise ValueError(f"contact_sheet: {len(images)} pictures and {len(captions)} captions; expected at least one, and as many captions")
    cells = []
    for image, caption in zip(images, captions, strict=True):
        factor = 1 if side is None else side / max(image.size)
        resample = Image.Resampling.NEAREST if factor >= 4 else Image.Resampling.LANCZOS  # few pixels: keep them visible as squares
        factor = math.floor(factor) if factor >= 4 else factor
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        cells.append(titled(image.convert("RGB").resize(size, resample), caption))
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    width = max(cell.width for cell in cells)
    out = Image.new("RGB", (len(rows[0]) * (width + GAP), sum(max(c.height for c in row) + GAP for row in rows)), PAPER)
    y = 0
    for row in rows:
        height = max(cell.height for cell in row)
        for i, cell in enumerate(row):
            out.paste(cell, (i * (width + GAP), y + height - cell.height))
        y += height + GAP
    return margin(out)


def _table(
    pictures: Sequence[Sequence[Image.Image]], row_names: Sequence[str], column_names: Sequence[str], gap: int = 4
) -> Image.Image:  # fmt: skip
    """Pictures in rows and columns, with names on the left and above; columns as wide as their widest picture or name."""
    widths = [max([row[j].width for row in pictures] + [text_size(name, 12)[0]]) for j, name in enumerate(column_names)]
    heights = [max(max(p.height for p in row), text_size("0", 12)[1]) for row in pictures]
    left = max(text_size(name, 12)[0] for name in row_names) + 6
    top = max(text_size(name, 12)[1] for name in column_names) + 6
    out = Image.new("RGB", (left + sum(widths) + gap * len(widths), top + sum(heights) + gap * len(heights)), PAPER)
    x = left
    for name, width in zip(column_names, widths, strict=True):
        put_text(out, (x + width / 2, 0), name, 12, "ma")
        x += width + gap
    y = top
    for name, row, height in zip(row_names, pictures, heights, strict=True):
        put_text(out, (left - 6, y + height / 2), name, 12, "rm")
        x = left
        for picture, width in zip(row, widths, strict=True):
            out.paste(picture, (x + (width - picture.width) // 2, y))
            x += width + gap
        y += height + gap
    return out


def _box(region: Region, image: Image.Image, rows: int) -> tuple[int, int, int, int]:
    """left, top, right, bottom of a region on an enlarged picture."""
    top, bottom, left, right = token_box(region, (image.height, image.width), rows, (image.height, image.width))
    return left, top, right, bottom


def _mark(image: Image.Image, place: tuple[float, float], radius: int = 6) -> None:
    """A ring with a white and a dark line, visible on any background."""
    drawing = ImageDraw.Draw(image)
    x, y = place
    for grow, colour, width in ((2, INK, 5), (1, PAPER, 3)):
        drawing.ellipse((x - radius - grow, y - radius - grow, x + radius + grow, y + radius + grow), outline=colour, width=width)


def _arrow(drawing: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float], colour: tuple[int, int, int]) -> None:
    """A line with a dark rim, a dot at its start and an arrowhead at its end."""
    for fill, width, dot in ((INK, 4, 4), (colour, 2, 3)):
        drawing.line((start, end), fill=fill, width=width)
        drawing.ellipse((start[0] - dot, start[1] - dot, start[0] + dot, start[1] + dot), fill=fill)
    angle = math.atan2(end[1] - start[1], end[0] - start[0])
    tip = [(end[0] - 9 * math.cos(angle + turn), end[1] - 9 * math.sin(angle + turn)) for turn in (0.45, -0.45)]
    drawing.polygon([end, *tip], fill=colour, outline=INK)


__all__ = [
    "arrows", "contact_sheet", "flow_picture", "head_grid", "heatmap", "looks_at", "matrix", "overlay", "sheet",
]  # fmt: skip
