"""The README's picture: bundled examples and what the lab checkpoint paints for them, seed 42, its own settings.

    python -m tests.benchmarks.lab_picture --no-prompt --out notebooks/figures/first_run.png
    python -m tests.benchmarks.lab_picture drawing-invert drawing-grey --out out/some.png                   # names as prompts
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from analogist import Analogist, examples
from analogist.disk.writing import atomic_write

SHOWN = ("drawing-invert", "drawing-enhance", "drawing-deblur")
SIDE, GAP, LINE = 124, 10, 22  # pixels of a picture, between pictures, and per line of text


def picture(model: Analogist, names: Sequence[str], *, prompted: bool) -> Image.Image:
    """One row per example: A, A', B, the answer and the truth, at the size at which the model sees them (enlarged)."""
    columns = ("A", "A'", "B", "B' painted", "B' true")
    canvas = Image.new("RGB", (len(columns) * (SIDE + GAP) + GAP, len(names) * (SIDE + LINE + GAP) + LINE), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for k, title in enumerate(columns):
        pen.text((GAP + k * (SIDE + GAP), 3), title, fill="black", font=font)
    for row, name in enumerate(names):
        example = examples.load(name)
        result = model(example.grid(), example.prompt if prompted else "", seed=42, progress=False)
        painted = result.b_prime_inner
        top = LINE + row * (SIDE + LINE + GAP)
        for k, one in enumerate((example.a, example.a_prime, example.b, painted, example.b_prime_truth)):
            seen = one.convert("RGB").resize(painted.size, Image.Resampling.LANCZOS).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            canvas.paste(seen, (GAP + k * (SIDE + GAP), top))
        said = f'prompt "{example.prompt}"' if prompted else "no prompt"
        pen.text((GAP, top + SIDE + 2), f"{example.family}, {said}", fill="dimgrey", font=font)
    return canvas


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.lab_picture", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=SHOWN, metavar="NAME", help=f"examples (default: {' '.join(SHOWN)})")
    parser.add_argument("--checkpoint", help="name or folder (default: lab)")
    parser.add_argument("--no-prompt", action="store_true", help="paint without a prompt")
    parser.add_argument("--out", type=Path, required=True, help="a .png file")
    args = parser.parse_args(argv)
    made = picture(Analogist.from_checkpoint(args.checkpoint, device="cpu"), args.names, prompted=not args.no_prompt)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(args.out, lambda path: made.save(path, format="PNG", optimize=True))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
