"""Does the lab checkpoint solve drawings from other sources? Two sets with exact answers, besides its own held-out grids.

    python -m tests.benchmarks.lab_drawings --out out/drawings                    # the lab checkpoint
    python -m tests.benchmarks.lab_drawings --checkpoint FOLDER --count 40 --steps 1 --out out/other

1. Drawings by people (`analogist.examples.by_people`): 200 concepts that were not in the training, ten kinds of change, with the drawings'
   names as prompts and without a prompt.
2. Plain shapes drawn with Pillow, by code that is independent of the lab's: five kinds of change, without a prompt.

Errors are mean squared errors of B' without its border, pictures in [0, 1]. "Of the better copy" is the error divided by that of the
better of two answers without a model, a copy of B and a copy of A', summed over the kinds. Writes drawings.json, drawings.md and
drawings.png: 60 grids with A, A', B and the answer, the truth below.
"""

import json
import random
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from analogist import Analogist
from analogist.examples import by_people
from analogist.lab.grids import compose, picture_side
from analogist.lab.measure import answers, cell, interval, squared_error

from . import lab_arguments
from .lab import sheet

SEED = 77  # of the pairs; settings were chosen on other seeds
Triple = tuple[list[Image.Image], str]  # A, A', B, B', and the prompt


def tensor(pictures: list[Image.Image]) -> Tensor:
    """[picture 3 side side] in [0, 1]."""
    return torch.stack([torch.from_numpy(np.asarray(p.convert("RGB"), dtype=np.float32) / 255).permute(2, 0, 1) for p in pictures])


def people(kind: str, count: int, side: int) -> list[Triple]:
    """Analogies of one kind of the built-in drawings."""
    found = by_people.analogies(kind, count=count, side=side, seed=SEED)
    return [([one.a, one.a_prime, one.b, one.b_prime], one.prompt) for one in found]


def _shape(rng: random.Random, side: int) -> tuple[Image.Image, tuple[int, int, int], tuple[int, int, int]]:
    """A plain shape on a plain background, drawn four times as large and averaged; its colour, the background's colour."""
    large = 4 * side
    ground, colour = (tuple(rng.randrange(256) for _ in range(3)) for _ in range(2))
    while sum(abs(a - b) for a, b in zip(ground, colour, strict=True)) < 200:
        colour = tuple(rng.randrange(256) for _ in range(3))
    picture = Image.new("RGB", (large, large), ground)
    pen, size = ImageDraw.Draw(picture), large * rng.uniform(0.2, 0.34)
    x, y = (large * rng.uniform(0.38, 0.62) for _ in range(2))
    kind = rng.choice(("ellipse", "rectangle", "polygon", "hexagon", "bar"))
    if kind == "ellipse":
        pen.ellipse((x - size, y - size * 0.8, x + size, y + size * 0.8), fill=colour)
    elif kind == "rectangle":
        pen.rectangle((x - size * 0.8, y - size * 0.8, x + size * 0.8, y + size * 0.8), fill=colour)
    elif kind == "bar":
        pen.rounded_rectangle((x - size, y - size * 0.35, x + size, y + size * 0.35), radius=size * 0.3, fill=colour)
    else:
        pen.regular_polygon((x, y, size), 3 if kind == "polygon" else 6, rotation=rng.randrange(90), fill=colour)
    return picture.resize((side, side), Image.Resampling.BOX), colour, ground


def _recoloured(picture: Image.Image, old: tuple[int, int, int], new: tuple[int, int, int], ground: tuple[int, int, int]) -> Image.Image:
    """The shape in another colour: every pixel is a mixture of shape and background, and keeps its proportions."""
    values, old_, new_, ground_ = (np.asarray(v, dtype=float) for v in (picture, old, new, ground))
    share = ((values - ground_) @ (old_ - ground_)) / ((old_ - ground_) @ (old_ - ground_))
    return Image.fromarray(np.rint(ground_ + share[..., None] * (new_ - ground_)).clip(0, 255).astype(np.uint8))


SHAPE_KINDS = ("recolour", "background", "grey", "invert", "darken")


def shapes(kind: str, count: int, side: int) -> list[Triple]:
    """Analogies of plain shapes, without a prompt."""
    found = []
    for k in range(count):
        rng = random.Random(f"{kind} {SEED} {k}")
        new = tuple(rng.randrange(256) for _ in range(3))
        change: Callable[..., Image.Image] = {
            "recolour": lambda p, c, g, new=new: _recoloured(p, c, new, g),
            "background": lambda p, c, g, new=new: _recoloured(p, g, new, c),
            "grey": lambda p, c, g: p.convert("L").convert("RGB"),
            "invert": lambda p, c, g: ImageOps.invert(p),
            "darken": lambda p, c, g: p.point(lambda v: v * 0.35),
        }[kind]
        (a, *ca), (b, *cb) = _shape(rng, side), _shape(rng, side)
        found.append(([a, change(a, *ca), b, change(b, *cb)], ""))
    return found


def measure(
    model: Analogist, sets: dict[str, list[Triple]], prompted: bool
) -> tuple[dict[str, dict[str, float]], Tensor, Tensor, list[str]]:
    """Errors by kind, the grids [grid 3 size size], the answered grids, and the kind of each."""
    kinds = [kind for kind, triples in sets.items() for _ in triples]
    triples = [one for some in sets.values() for one in some]
    pixels = compose(torch.stack([tensor(pictures) for pictures, _ in triples]), model.size) * 2 - 1
    prompts = [prompt if prompted else "" for _, prompt in triples]
    done = answers(model, pixels, prompts, model.config, seeds=list(range(len(triples))), progress=True)
    truth = cell(pixels, 3)
    errors = {"B'": squared_error(cell(done, 3), truth), "copy of B": squared_error(cell(pixels, 2), truth),
              "copy of A'": squared_error(cell(pixels, 1), truth)}  # fmt: skip
    table = {kind: {name: float(e[[k == kind for k in kinds]].mean()) for name, e in errors.items()} for kind in sets}
    for kind in sets:
        here = torch.tensor([k == kind for k in kinds])
        better = torch.minimum(errors["copy of B"][here].mean(), errors["copy of A'"][here].mean())
        table[kind]["of the better copy"] = table[kind]["B'"] / float(better)
        low, high = interval(errors["B'"][here])[1:]
        table[kind]["low"], table[kind]["high"] = low, high
    return table, pixels, done, kinds


def total(table: dict[str, dict[str, float]]) -> dict[str, float]:
    """Over all kinds: the error divided by the better copies' error, and the number of kinds in which both copies are worse."""
    better = {kind: min(row["copy of B"], row["copy of A'"]) for kind, row in table.items()}
    return {
        "of the better copies": sum(row["B'"] for row in table.values()) / sum(better.values()),
        "kinds better than both copies": sum(row["B'"] < better[kind] for kind, row in table.items()),
        "kinds": len(table),
    }


def markdown(title: str, table: dict[str, dict[str, float]]) -> str:
    """One row per kind."""
    lines = [f"## {title}", "", "| kind | B' | 95 % | copy of B | copy of A' | of the better copy |", "|---|---|---|---|---|---|"]
    for kind, row in table.items():
        lines.append(f"| {kind} | {row['B'+chr(39)]:.4f} | {row['low']:.4f} to {row['high']:.4f} | {row['copy of B']:.4f} | "
                     f"{row['copy of A'+chr(39)]:.4f} | {row['of the better copy']:.2f} |")
    found = total(table)
    lines += ["", f"Total over the better copies' total: {found['of the better copies']:.2f}. "
                  f"Better than both copies in {found['kinds better than both copies']} of {found['kinds']} kinds.", ""]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = lab_arguments.parser("lab_drawings", __doc__)
    parser.add_argument("--count", type=int, default=20, help="analogies per kind (default: 20)")
    args = parser.parse_args(argv)
    model = lab_arguments.opened(args)
    side = picture_side(model.size)
    drawn = {kind: people(kind, args.count, side) for kind in by_people.KINDS}
    plain = {kind: shapes(kind, args.count, side) for kind in SHAPE_KINDS}
    result: dict = {"checkpoint": model.describe(), "config": model.config.to_json(), "count": args.count, "size": model.size}
    text = []
    for title, sets, prompted in (
        ("Drawings by people, names as prompts", drawn, True),
        ("Drawings by people, no prompt", drawn, False),
        ("Plain shapes by other code, no prompt", plain, False),
    ):
        table, pixels, done, kinds = measure(model, sets, prompted)
        result[title] = {"kinds": table, "total": total(table)}
        text.append(markdown(title, table))
        print(text[-1], flush=True)
        if sets is drawn and not prompted:
            chosen = [i for kind in sets for i in [k for k, name in enumerate(kinds) if name == kind][:6]]
            sheet(pixels[chosen], done[chosen]).save(args.out / "drawings.png")
    (args.out / "drawings.json").write_text(json.dumps(result, indent=1))
    (args.out / "drawings.md").write_text("\n".join(text))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
