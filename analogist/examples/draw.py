"""Draws the bundled examples with the lab's own drawing: `python -m analogist.examples.draw` writes them all again."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from PIL import Image

from analogist.examples import FOLDER, PICTURES, Example
from analogist.files import atomic_write, output_folder
from analogist.grid import to_image
from analogist.lab.grids import corners, evaluation_batch, picture_side
from analogist.lab.split import EVALUATION_SEED, HELD_OUT
from analogist.pictures import save_png

# name = family: seed above EVALUATION_SEED, px of the grid. Chosen by eye among the first ten seeds, for scenes told apart at a
# glance. Drawn for 512 px grids, so that a full-size checkpoint can use them; noise is drawn for 128 px, since it is per pixel.
CHOSEN: dict[str, tuple[int, int]] = {
    "recolour": (0, 512),
    "colorize": (4, 512),
    "denoise": (0, 128),
    "fill": (0, 512),
    "swap": (2, 512),
    "background": (3, 512),
    "sketch": (5, 512),
    "texture": (0, 512),
    "skeleton": (4, 512),
    "mask": (8, 512),
    "repaint": (6, 512),
}


def draw(name: str) -> tuple[Example, dict[str, Image.Image]]:
    """One chosen example and its pictures by file name (a, a_prime, b, b_prime); the same on every machine."""
    offset, size = CHOSEN[name]
    batch = evaluation_batch([name], size=size, seed=EVALUATION_SEED + offset)
    side = picture_side(size)
    pictures = {
        which: to_image(batch.pixels[0, :, row : row + side, column : column + side])
        for which, (row, column) in zip(PICTURES, corners(size), strict=True)
    }
    prompt = batch.captions[0]
    return Example(name=name, prompt=prompt, family=name, held_out=name in HELD_OUT, seed=EVALUATION_SEED + offset, size=size), pictures


def main(arguments: list[str] | None = None) -> int:
    """Writes every example's folder and examples.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", metavar="DIR", type=Path, default=FOLDER, help="folder to write into (default: the package's own)")
    out = parser.parse_args(arguments).out
    torch.set_num_threads(1)
    entries = []
    for name in CHOSEN:
        example, pictures = draw(name)
        entries.append(asdict(example))
        folder = output_folder(out / name)
        for which, picture in pictures.items():
            save_png(picture, folder / f"{which}.png")
    atomic_write(out / "examples.json", json.dumps(entries, indent=1).encode() + b"\n")
    print(f"{len(entries)} examples written to {out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
