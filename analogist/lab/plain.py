"""Analogies of plain shapes: the outline of a drawing, filled with one colour on a background of one colour.

All that A' can tell is where two colours went, so the answer's colours must be exact. Detailed drawings teach that slowly.
"""

import random
from dataclasses import replace

import torch
from torch import Tensor

from .changes import CHANGES, Change, changed_pictures, needs_natural, recolour, styles_of
from .draw import Draw
from .drawings import FLAT, Drawings
from .sketches import Sketches, plan, random_colours, sketches

_APART = 0.25  # smallest mean difference of the channels between a shape and its background


# Of the drawings' changes, all that need neither another style nor a drawing's own colours.
PLAIN_CHANGES: dict[str, Change] = {name: c for name, c in CHANGES.items() if styles_of(name) is None and not needs_natural(name)}
PLAIN_CHANGES["recolour"] = Change(recolour, share=2.0)


def plain_shapes(drawings: Drawings, draw: Draw, count: int, side: int) -> Sketches:
    """Shapes for `count` analogies. A shape and its background differ clearly; A and B share no colour except by chance."""
    planned = plan(draw, drawings, count, 2, side)
    planned.style[:] = FLAT
    s = sketches(drawings, planned, restyled=False)
    ground, colour = random_colours(draw, count, 2), random_colours(draw, count, 2)
    alike = (colour - ground).abs().mean(-1, keepdim=True) < _APART
    colour = torch.where(alike, (ground + 0.5) % 1, colour)
    device = s.picture.device
    ground, colour = (c[..., None, None].to(device) for c in (ground, colour))
    picture = torch.lerp(colour.expand_as(s.picture), ground.expand_as(s.picture), s.outside)
    return replace(s, picture=picture, restyled=picture, ground=ground)


def plain_analogies(drawings: Drawings, draw: Draw, count: int, side: int, rng: random.Random) -> tuple[Tensor, list[str]]:
    """Pictures [grid 4 3 side side] in [0, 1] (A, A', B, B'), and the name of each grid's change."""
    names = rng.choices(list(PLAIN_CHANGES), [change.share for change in PLAIN_CHANGES.values()], k=count)
    return changed_pictures(plain_shapes(drawings, draw, count, side), names, PLAIN_CHANGES, draw), names
