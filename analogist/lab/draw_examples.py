"""Draws the bundled examples: python -m analogist.lab.draw_examples --to analogist/examples

Pictures are 256 px, large enough for Stable Diffusion as well. DRAWINGS are by people (`analogist.examples.by_people`), SCENES are the
lab's own; both say which one of each kind is used.
"""

import argparse
import json
from pathlib import Path

import torch
from PIL import Image

from analogist.examples import PICTURES, by_people

from .captions import caption
from .grids import draw_cells, evaluation_batch
from .split import EVALUATION_SEED
from .state import prepare_folder, replace_file

SEED = EVALUATION_SEED + 2_000_000
SIDE = 256
DRAWING_SEED = 5
# name: (kind, number of the analogy)
DRAWINGS: dict[str, tuple[str, int]] = {
    "drawing-invert": ("invert", 10),
    "drawing-grey": ("grey out", 5),
    "drawing-enhance": ("enhance", 0),
    "drawing-colorize": ("colorize", 2),
    "drawing-line": ("flat to line", 11),
    "drawing-flat": ("line to flat", 10),
    "drawing-soft": ("flat to full colour", 2),
    "drawing-deblur": ("deblur", 9),
    "drawing-fill": ("fill", 3),
}
# name: (family, number of the drawing)
SCENES: dict[str, tuple[str, int]] = {
    "recolour": ("recolour", 3),
    "colorize": ("colorize", 7),
    "background": ("background", 3),
    "swap": ("swap", 3),
    "sketch": ("sketch", 1),
    "mask": ("mask", 4),
    "skeleton": ("skeleton", 7),
    "denoise": ("denoise", 5),
    "fill": ("fill", 4),
    "cartoon": ("cartoon", 3),
    "repaint": ("repaint", 3),
    "decolour": ("decolour", 7),
}


def draw_drawing(kind: str, number: int) -> tuple[list[Image.Image], str]:
    """A, A', B and the true B' of drawings by people, and the prompt, which is the drawing's name."""
    one = by_people.analogies(kind, count=number + 1, side=SIDE, seed=DRAWING_SEED)[number]
    return [one.a, one.a_prime, one.b, one.b_prime], one.prompt


def draw_scene(family: str, drawing: int) -> tuple[list[Image.Image], str]:
    """A, A', B and the true B' of the lab's own scenes, and the prompt."""
    cells = evaluation_batch([family], size=128, seed=SEED + drawing).cells
    assert cells is not None, "an evaluation batch is of scenes"
    pictures = draw_cells(cells, SIDE, torch.Generator().manual_seed(SEED + drawing))[0]
    arrays = (pictures * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(array) for array in arrays], caption(cells, 0, 3)


def draw(name: str) -> tuple[list[Image.Image], str]:
    """The four pictures and the prompt of a bundled example. Raises KeyError for an unknown name."""
    return draw_drawing(*DRAWINGS[name]) if name in DRAWINGS else draw_scene(*SCENES[name])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analogist.lab.draw_examples", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, required=True)
    args = parser.parse_args(argv)
    table = {}
    for name, (family, _) in {**DRAWINGS, **SCENES}.items():
        pictures, prompt = draw(name)
        prepare_folder(args.to / name)
        for picture, image in zip(PICTURES, pictures, strict=True):
            replace_file(args.to / name / f"{picture}.png", lambda p, image=image: image.save(p, format="PNG", optimize=True))
        table[name] = {"family": family, "prompt": prompt}
    replace_file(args.to / "examples.json", lambda p: p.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
