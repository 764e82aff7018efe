"""`analogist explore`: makes the attention explorer, one HTML page, from the folder of a run with captures."""

import argparse
from pathlib import Path

EXAMPLES = """examples:
  analogist run --a a.png --a-prime ap.png --b b.png --prompt "a red boat" --explore --out out     writes out/look.html too
  analogist explore out -o look.html
  analogist explore with_sac without_sac --label "SAC on" --label "SAC off" -o compare.html     (two runs under one pointer)
  analogist explore out -o small.html --max-mb 5

The page needs no server and no network: open it in a browser. It says what was left out to make it fit."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """Adds the command `explore`."""
    parser = subparsers.add_parser(
        "explore",
        help="look at attention: one page from a run with captures",
        description="Makes one self-contained page from runs made with --explore: point at a pixel to see where it looks.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", metavar="DIR", nargs="+", help="folder of a run made with --explore; several are shown side by side")
    parser.add_argument("-o", "--out", metavar="FILE", help="the page (default: look.html in the first folder)")
    parser.add_argument("--label", metavar="TEXT", action="append", help="name of a run, once per DIR (default: SAC, CAM and seed)")
    parser.add_argument("--max-mb", type=float, default=20, metavar="X", help="largest size of the page in megabytes (default 20)")
    parser.set_defaults(run=run)
    return parser


def page_bytes(megabytes: float, flag: str) -> int:
    """Converts a size from megabytes to bytes. Raises ValueError unless it is positive and finite."""
    if not 0 < megabytes < float("inf"):
        raise ValueError(f"{flag} {megabytes:g}: give a size in megabytes, more than 0 (20 is the default)")
    return int(megabytes * 1e6)


def run(args: argparse.Namespace) -> int:
    """Writes the page and prints its path."""
    size = page_bytes(args.max_mb, "--max-mb")
    from analogist.explore import PAGE, explore_folder

    page = explore_folder(args.folders, labels=args.label, max_bytes=size)
    print(page.save(Path(args.out) if args.out is not None else Path(args.folders[0]) / PAGE))
    return 0
