"""The grids of one training batch: analogies, look-ups, collages and single pictures, of drawings by people and of the lab's own scenes.

`Mix` sets the share of each. A mix without analogies and look-ups is the "generic" one: its grids share attributes along rows, along
columns or everywhere, but no change goes from left to right in both rows, so no grid is an analogy.
"""

import random
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from .captions import training_caption
from .changes import CHANGES, WORD_OF, change_of, changed_pictures, needs_natural, styles_of
from .draw import Draw
from .drawings import OPEN_DRAWINGS, Drawings, load_drawings
from .grids import Batch, compose, masks, picture_side, scene_grids
from .lookups import LOOK_UPS, look_ups
from .plain import plain_analogies
from .recipe import MIX_KINDS, Mix
from .sketches import Sketches, plan, sketches
from .split import EVALUATION_SEED
from .vocabulary import COLOUR_NAMES, palette

_LOOKS = ("", "line", "soft")
_COLUMN = torch.tensor([0, 1, 0, 1])  # the cell that A, A', B, B' take a value from if both rows share it
_ROW = torch.tensor([0, 0, 2, 2])
_OWN, _SAME = torch.arange(4), torch.zeros(4, dtype=torch.long)
# Groups of a drawing's attributes. A collage decides for each group whether its cells share it.
_GROUPS = (("concept",), ("style", "other_style"), ("pose",), ("natural", "colours", "dark"), ("ground",))
_COLLAGE_EFFECTS = tuple(name for name in CHANGES if styles_of(name) is None and name != "copy")


def _counts(count: int, mix: Mix) -> dict[str, int]:
    """Whole numbers that follow the mix's proportions and add up to `count`."""
    used = mix.kinds()
    shares = {name: getattr(mix, name) if name in used else 0.0 for name in MIX_KINDS}
    total, counts, done, left = sum(shares.values()), {}, 0.0, 0
    for name, share in shares.items():
        done += share / total * count
        counts[name] = round(done) - left
        left = round(done)
    return counts


def _ground_words(ground: Tensor) -> list[str]:
    """Name of the nearest known colour for each colour [n 3]."""
    nearest = (ground[:, None] - palette().to(ground.device)[None]).square().sum(-1).argmin(1)
    return [COLOUR_NAMES[i] for i in nearest.tolist()]


def cell_captions(drawings: Drawings, s: Sketches, style: Tensor, words: list[list[str]], rng: random.Random) -> list[list[str]]:
    """Caption of each cell, [grid][cell]: look, change, the drawing's name, sometimes its ground. words: of the change, [grid][cell]."""
    grid_count, cells = style.shape
    grounds = _ground_words(s.ground.flatten(0, 1)[..., 0, 0].cpu())
    out = []
    for g in range(grid_count):
        row = []
        for c in range(cells):
            parts = [words[g][c], _LOOKS[int(style[g, c])], drawings.names[int(s.concept[g, c])]]
            text = " ".join(part for part in parts if part)
            if not words[g][c] and rng.random() < 0.4:
                text += f" on {grounds[g * cells + c]}"
            row.append(text)
        out.append(row)
    return out


def drawn_analogies(drawings: Drawings, names: list[str], draw: Draw, side: int, rng: random.Random) -> tuple[Tensor, list[list[str]]]:
    """Analogies of the named changes, one per name: pictures [grid 4 3 side side] in [0, 1], and captions [grid][cell]."""
    count = len(names)
    planned = plan(draw, drawings, count, 2, side)
    for g, name in enumerate(names):
        styles = styles_of(name)
        if styles is not None:
            planned.style[g], planned.other_style[g] = styles
        if needs_natural(name):
            planned.natural[g], planned.dark[g], planned.colours[g] = True, 1.0, torch.eye(3)
            if name == "colorize" and int(planned.style[g, 0]) == 1:
                planned.style[g] = 0
    s = sketches(drawings, planned)
    pictures = changed_pictures(s, names, {name: change_of(name) for name in names}, draw)
    styles = torch.stack([s.style[:, 0], s.style[:, 0], s.style[:, 1], s.style[:, 1]], 1)
    restyled = torch.tensor([styles_of(name) is not None for name in names])
    styles[restyled, 1], styles[restyled, 3] = s.other_style[restyled, 0], s.other_style[restyled, 1]
    words = [["", WORD_OF.get(name, ""), "", WORD_OF.get(name, "")] for name in names]
    doubled = replace_cells(s, torch.tensor([0, 0, 1, 1]))
    return pictures, cell_captions(drawings, doubled, styles, words, rng)


def replace_cells(s: Sketches, cells: Tensor) -> Sketches:
    """Sketches with the given cells on their second axis, for captions. cells: long."""
    there = cells.to(s.picture.device)
    return replace(s, ground=s.ground[:, there], concept=s.concept[:, cells], style=s.style[:, cells])


def _shared(draw: Draw, count: int) -> Tensor:
    """For each group of attributes, the cell from which each cell takes its value: [count group 4].

    A grid shares along rows or along columns, never both: one attribute along rows and another along columns would be an analogy.
    """
    along = torch.where(draw.chance(count, 1, 1, p=0.5), _ROW, _COLUMN)
    how = draw.uniform(count, len(_GROUPS), 1)
    return torch.where(how < 0.25, _SAME, torch.where(how < 0.7, along, _OWN))


def drawn_collages(drawings: Drawings, draw: Draw, count: int, side: int, rng: random.Random) -> tuple[Tensor, list[list[str]]]:
    """Collages and series: four drawings that share some of concept, style, pose, colours and ground. As `drawn_analogies`."""
    planned = plan(draw, drawings, count, 4, side)
    planned.style = draw.index(count, 4, below=3)
    source = _shared(draw, count)
    for group, names in enumerate(_GROUPS):
        planned.shared(source[:, group], *names)
    s = sketches(drawings, planned, restyled=False)
    pictures = s.picture.clone()
    # A third of them have a change of the whole picture, everywhere or in the direction in which the grid shares attributes.
    words = [["", "", "", ""] for _ in range(count)]
    changed = draw.chance(count, p=0.35)
    rows_alone = (source[:, :, 3] == 2).any(1)
    columns_alone = (source[:, :, 3] == 1).any(1)
    everywhere = draw.chance(count, p=0.4) | (rows_alone & columns_alone)
    second = draw.index(count, below=2)
    names = [rng.choice(_COLLAGE_EFFECTS) for _ in range(count)]
    for name in sorted(set(names)):
        rows = torch.tensor([g for g in range(count) if names[g] == name and changed[g]], dtype=torch.long)
        if not len(rows):
            continue
        effect = CHANGES[name].effect
        assert effect is not None, "the effects of collages are changes of the picture"
        worse = effect(s.rows(rows), draw)
        for i, g in enumerate(rows.tolist()):
            if everywhere[g]:
                cells = [0, 1, 2, 3]
            elif columns_alone[g]:
                cells = [int(second[g]), 2 + int(second[g])]
            else:
                cells = [2 * int(second[g]), 2 * int(second[g]) + 1]
            pictures[g, cells] = worse[i, cells]
            for c in cells:
                words[g][c] = WORD_OF.get(name, "")
    return pictures, cell_captions(drawings, s, s.style, words, rng)


def _singles(drawings: Drawings, draw: Draw, count: int, size: int, rng: random.Random) -> tuple[Tensor, list[list[str]]]:
    """One drawing over the whole grid: [picture 3 size size] in [0, 1], and captions."""
    s = sketches(drawings, plan(draw, drawings, count, 1, size), restyled=False)
    return s.picture[:, 0], cell_captions(drawings, s, s.style, [[""] for _ in range(count)], rng)


def _caption(cells: list[str], about: int, whole: float, rng: random.Random) -> str:
    """The caption of the painted cell, or of the whole grid."""
    if len(cells) == 1:
        return cells[0]
    return " and ".join(cells) if rng.random() < whole else cells[about]


def training_batch(count: int, *, mix: Mix, size: int, seed: int, drawings: Drawings | None, device: torch.device | str = "cpu") -> Batch:
    """A training batch without anything held out; the same seed gives the same batch. Captions are complete; the task drops some.

    drawings: on `device`; may be None for a mix of scenes alone.
    """
    draw, rng = Draw(torch.Generator().manual_seed(seed)), random.Random(seed)
    counts, side, device = _counts(count, mix), picture_side(size), torch.device(device)
    mask, about = masks(count, size, draw, mix.only_cell)
    canvases, captions, families = [], [], []

    def people() -> Drawings:
        if drawings is None:
            raise ValueError("this mix is of drawings by people; give them with drawings=, or a mix of scenes alone")
        return drawings

    def add(canvas: Tensor, cells: list[list[str]], labels: list[str]) -> None:
        canvases.append(canvas)
        for each in cells:
            captions.append(_caption(each, about[len(captions)], mix.whole_captions, rng))
        families.extend(labels)

    scenes = counts["scene_analogies"] + counts["scene_collages"]
    if scenes:
        batch = scene_grids(counts["scene_analogies"], counts["scene_collages"], size=size, draw=draw, seed=seed, device=device)
        assert batch.cells is not None, "scenes have cells"
        canvases.append(batch.pixels)
        for g in range(scenes):
            whole = rng.random() < mix.whole_captions
            cells = range(4) if whole else (about[len(captions)],)
            captions.append(" and ".join(training_caption(batch.cells, g, c, rng) for c in cells))
        families.extend(batch.families)
    if counts["drawing_analogies"]:
        names = rng.choices(list(CHANGES), [change.share for change in CHANGES.values()], k=counts["drawing_analogies"])
        pictures, cells = drawn_analogies(people(), names, draw, side, rng)
        add(compose(pictures, size), cells, names)
    if n := counts["plain_analogies"]:
        pictures, names = plain_analogies(people(), draw, n, side, rng)
        add(compose(pictures, size), [[""] * 4] * n, [f"plain {name}" for name in names])
    if n := counts["look_ups"]:
        patterns = draw.chance(n, p=0.3)
        pictures = look_ups(people(), draw, n, side, patterns)
        add(compose(pictures, size), [[""] * 4] * n, [LOOK_UPS[int(p)] for p in patterns])
    if n := counts["drawing_collages"]:
        pictures, cells = drawn_collages(people(), draw, n, side, rng)
        add(compose(pictures, size), cells, ["collage"] * n)
    if n := counts["singles"]:
        pictures, cells = _singles(people(), draw, n, size, rng)
        add(pictures, cells, ["single"] * n)
    captions = ["" if not c.strip(" and") else c for c in captions]
    return Batch(torch.cat(canvases) * 2 - 1, mask.to(device), captions, families, None)



def watched_batch(count: int, *, size: int, seed: int, drawings: Drawings, device: torch.device | str = "cpu") -> Batch:
    """Grids for checks during a training: all trained changes of drawings and the look-ups in turn, B' masked, captions of B'.

    drawings: ones that are not trained on.
    """
    draw, rng = Draw(torch.Generator().manual_seed(seed)), random.Random(seed)
    kinds = [*CHANGES, *LOOK_UPS]
    names = [kinds[i % len(kinds)] for i in range(count)]
    side = picture_side(size)
    drawn = [name for name in names if name in CHANGES]
    pictures, cells = drawn_analogies(drawings, drawn, draw, side, rng)
    looked = [name for name in names if name in LOOK_UPS]
    if looked:
        more = look_ups(drawings, draw, len(looked), side, torch.tensor([name == LOOK_UPS[1] for name in looked]))
        pictures, cells = torch.cat([pictures, more]), cells + [[""] * 4] * len(looked)
    mask = torch.zeros(count, 1, size, size)
    mask[:, :, size // 2 :, size // 2 :] = 1
    pixels = compose(pictures, size) * 2 - 1
    return Batch(pixels, mask.to(device), [each[3] for each in cells], drawn + looked, None)


@cache
def watched_grids(size: int, device: torch.device | str = "cpu") -> Batch:
    """The 90 grids for the checks of every training, two per change, of drawings that are never trained on."""
    return watched_batch(90, size=size, seed=EVALUATION_SEED + 17, drawings=load_drawings(OPEN_DRAWINGS).to(device), device=device)
