"""A circuit as a picture: sites from left to right in execution order, lower resolutions below, regions as colour, edges by weight."""

import re

from PIL import Image, ImageDraw

from analogist.attention.edit.node import Node
from analogist.attention.look.drawing import INK, PAPER, margin, put_text, titled
from analogist.attention.measure.circuit import Circuit
from analogist.attention.measure.edges import OUTPUT

COLOURS = {"A": (0, 114, 178), "A'": (213, 94, 0), "B": (0, 158, 115), "B'": (204, 121, 167)}  # Okabe and Ito 2008
ELSEWHERE = (90, 90, 90)  # a node without a query region
STEP, RADIUS, ROW = 34, 11, 34  # px


def draw_circuit(circuit: Circuit) -> Image.Image:
    """A picture of a circuit: a column for each site of its pool, a circle for each node, an arrow for each edge.

    A circle is filled by the part of the gap that its node closes, and coloured by the node's query region. An arrow is as wide as the
    part that its edge closes; a dashed one is negative.
    """
    sites = list(dict.fromkeys(site for site, _, _ in circuit.axes.places))
    below = _depths(sites)
    rows = max(below.values()) + 1
    places = _places(circuit, sites, below)
    height = round(max([(rows + 1) * ROW, *(y for _, y in places.values())])) + 2 * RADIUS
    image = Image.new("RGB", (STEP * (len(sites) + 2) + 40, height + 90), PAPER)
    drawing = ImageDraw.Draw(image)
    for i, site in enumerate(sites):
        x, y = STEP * (i + 1), ROW * (below[site] + 2)
        drawing.line((x - 4, y, x + 4, y), fill=(190, 190, 190), width=2)
        label = Image.new("RGB", (84, 14), PAPER)
        put_text(label, (84, 0), site.replace(".attn.", "."), 11, "ra")
        turned = label.rotate(90, expand=True)
        image.paste(turned, (x - 7, height + 2))
    places[OUTPUT] = (STEP * (len(sites) + 1), 2 * ROW)
    for sender, receiver, weight in circuit.edges:
        _arrow(drawing, places[sender], places[receiver], weight)
    most = max((abs(part) for part in circuit.nodes.values()), default=1.0)
    for node, part in circuit.nodes.items():
        x, y = places[node]
        colour = COLOURS.get(_region(node), ELSEWHERE)
        share = min(1.0, abs(part) / most) if part == part and most > 0 else 1.0
        fill = tuple(round(255 - (255 - channel) * (0.25 + 0.75 * share)) for channel in colour)
        drawing.ellipse((x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS), fill=fill, outline=INK)
        put_text(image, (x, y), "" if node.head is None else str(node.head), 12, "mm", PAPER if share > 0.5 else INK)
    x, y = places[OUTPUT]
    drawing.rectangle((x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS), fill=PAPER, outline=INK, width=2)
    put_text(image, (x + RADIUS + 4, y), "out", 12, "lm")
    shown = [region for region in COLOURS if any(_region(node) == region for node in circuit.nodes)]
    for i, region in enumerate(shown):
        put_text(image, (STEP * (len(sites) + 1) - 10, height + 4 + 15 * i), f"query {region}", 12, "la", COLOURS[region])
    text = f"{len(circuit.nodes)} nodes (number: head), {len(circuit.edges)} edges, each closing {circuit.threshold:g} of the gap or more"
    return margin(titled(image, text))


def _region(node: Node) -> str:
    """The name of its query region, A1 and A2 as A: pairs share a colour."""
    return re.sub("[0-9]", "", str(node.query))


def _depths(sites: list[str]) -> dict[str, int]:
    """How far below the full resolution each site lies, from the levels in the names: the last level up is the first level down."""
    named = [site.split(".") if "." in site else ["down", "0"] for site in sites]  # conv_in and conv_out: at full resolution
    levels = [(part, int(level)) for part, level, *_ in named]
    down, up = ([level for part, level in levels if part == name] for name in ("down", "up"))
    last = max(up, default=max(down, default=0) + 1)
    depth = {"down": lambda level: level, "mid": lambda level: last, "up": lambda level: last - level}
    return {site: depth[part](level) for site, (part, level) in zip(sites, levels, strict=True)}


def _places(circuit: Circuit, sites: list[str], below: dict[str, int]) -> dict[Node | str, tuple[float, float]]:
    """The centre of each node; nodes of one site stand below each other."""
    counts: dict[str, int] = {}
    out: dict[Node | str, tuple[float, float]] = {}
    for node in circuit.nodes:
        number = counts.get(node.site, 0)
        counts[node.site] = number + 1
        out[node] = (STEP * (sites.index(node.site) + 1), ROW * (below[node.site] + 2) + number * 2.2 * RADIUS)
    return out


def _arrow(drawing: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float], weight: float) -> None:
    """From node to node; bent where it would run through the nodes between them."""
    width = max(1, round(6 * min(1.0, abs(weight))))
    (x0, y0), (x1, y1) = start, end
    bend = 2 * ROW if y0 == y1 and abs(x1 - x0) > 1.5 * STEP else 0
    xc, yc = (x0 + x1) / 2, (y0 + y1) / 2 - bend * 0.6  # control point of a quadratic curve

    def curve(t: float) -> tuple[float, float]:
        a, b, c = (1 - t) ** 2, 2 * t * (1 - t), t**2
        return a * x0 + b * xc + c * x1, a * y0 + b * yc + c * y1

    length = max(1.0, ((x1 - xc) ** 2 + (y1 - yc) ** 2) ** 0.5)
    ux, uy = (x1 - xc) / length, (y1 - yc) / length
    pieces = max(8, 2 * int(length // 10))
    for i in range(0, pieces, 1 if weight >= 0 else 2):
        drawing.line((*curve(i / pieces), *curve((i + 1) / pieces)), fill=(120, 120, 120), width=width)
    x1, y1, side = x1 - RADIUS * ux, y1 - RADIUS * uy, 4 + width
    drawing.polygon([(x1, y1), (x1 - side * ux - side * uy / 2, y1 - side * uy + side * ux / 2),
                     (x1 - side * ux + side * uy / 2, y1 - side * uy - side * ux / 2)], fill=(80, 80, 80))  # fmt: skip
