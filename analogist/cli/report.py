"""`analogist report`: compares an evaluation with the paper's published numbers."""

import argparse
from pathlib import Path

EXAMPLES = """examples:
  analogist report out/eval                     prints Markdown
  analogist report out/eval --out results.md"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """Adds the command `report`."""
    parser = subparsers.add_parser(
        "report", help="compare an evaluation with the paper's published numbers",
        description="Reads a folder of `analogist evaluate` and prints its numbers beside the published ones, with what differs.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("folder", metavar="DIR", help="folder of an evaluation")
    parser.add_argument("--out", metavar="FILE", help="write the Markdown there instead of printing it")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Prints or writes the report."""
    from analogist.disk.foreign import encoded
    from analogist.disk.writing import atomic_write
    from analogist.experiments.evaluate.evaluation_report import report_folder

    text = report_folder(args.folder)
    if args.out is None:
        print(text, end="")
    else:
        print(atomic_write(Path(args.out), encoded(text)))
    return 0
