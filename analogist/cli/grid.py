"""`analogist grid`: composes three pictures into a grid. Also defines the grid arguments that other commands share."""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # --help imports neither Pillow nor torch
    from analogist.grid.prompt_grid import PromptGrid

EXAMPLES = """examples:
  analogist grid --a photo.png --a-prime sketch.png --b other.png --out out
  analogist grid --a a1.png a2.png --a-prime p1.png p2.png --b b.png --size 256 --out out   (two example pairs: three rows)
  analogist grid --grid grid.png --out out                                                  (mark a ready grid)
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """Adds the command `grid`."""
    parser = subparsers.add_parser(
        "grid",
        help="compose A, A' and B into a grid, plain and marked with letters and arrows",
        description="Composes A, A' and B into the grid A A' / B B' with B' black. Writes input.png, which `analogist run`\n"
        "takes as --grid, and input_marked.png, with letters and arrows, to show to a vision-language model.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_grid_arguments(parser)
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to write into; made if it is missing")
    parser.set_defaults(run=run)
    return parser


def add_grid_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --a, --a-prime, --b, --grid, --rows and --size; `grid_from_arguments` reads them."""
    group = parser.add_argument_group("pictures", "three pictures, or a ready grid")
    group.add_argument("--a", metavar="A.png", nargs="+", help="A; give several for several example pairs, one row per pair")
    group.add_argument("--a-prime", metavar="AP.png", nargs="+", help="A', the changed A; as many as --a")
    group.add_argument("--b", metavar="B.png", help="B, the picture to change in the same way")
    group.add_argument("--grid", metavar="GRID.png", help="a ready grid A A' / B B' instead; its B' cell is ignored")
    group.add_argument("--rows", metavar="N", type=int, help="rows of the ready grid, one more than its example pairs (default 2)")
    group.add_argument(
        "--fit", choices=("stretch", "crop", "pad"),
        help="how to fit pictures whose shape differs from the cell's; B' comes back in B's shape (default: stretch them, as published)",
    )  # fmt: skip
    group.add_argument("--borderless", action="store_true", help="place the pictures side by side, without the published 2 px border")
    group.add_argument(
        "--size", metavar="N|HxW", type=size_argument,
        help="size of the grid in pixels: N for square cells of N/2, or HxW (default: the checkpoint's own; 512 for `grid`)",
    )  # fmt: skip


def size_argument(text: str) -> int | tuple[int, int]:
    """"512" -> 512, "512x768" -> (512, 768), height first."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; give N or HEIGHTxWIDTH in pixels, such as 512 or 512x768")
    return int(parts[0]) if len(parts) == 1 else (int(parts[0]), int(parts[1]))


def grid_from_arguments(args: argparse.Namespace) -> "PromptGrid":
    """The grid that the arguments describe. Raises PictureError, GridError, and ValueError for arguments that exclude each other."""
    from analogist.grid.prompt_grid import PromptGrid

    given = {"--a": args.a, "--a-prime": args.a_prime, "--b": args.b}
    present = [flag for flag, value in given.items() if value is not None]
    aligned = getattr(args, "aligned", None)  # only `run` has this argument
    drawing: dict[str, Any] = {"border": not args.borderless} | ({"aligned": aligned} if aligned not in (None, "none") else {})
    if args.grid is not None:
        if args.fit is not None:
            raise ValueError("--fit needs --a, --a-prime and --b; the pictures of a ready grid are already in their cells")
        if present:
            raise ValueError(f"--grid is a whole grid and cannot be combined with {', '.join(present)}; give one or the other")
        return PromptGrid.from_image(args.grid, args.size, rows=2 if args.rows is None else args.rows, **drawing)
    missing = [flag for flag in given if flag not in present]
    if missing:
        raise ValueError(f"missing {', '.join(missing)}; give --a, --a-prime and --b, or a ready grid as --grid")
    if args.rows is not None:
        raise ValueError("--rows needs --grid; with --a and --a-prime the number of pictures sets the rows")
    return PromptGrid(args.a, args.a_prime, args.b, args.size, fit=args.fit, **drawing)


def run(args: argparse.Namespace) -> int:
    """Writes DIR/input.png and DIR/input_marked.png."""
    from analogist.disk.writing import output_folder
    from analogist.grid.pictures import save_png

    grid = grid_from_arguments(args)
    folder = output_folder(args.out)
    paths = [save_png(image, folder / name) for name, image in (("input.png", grid.image), ("input_marked.png", grid.marked()))]
    for path in paths:  # printed last: nothing that happens to the output may cost a file
        print(path)
    return 0
