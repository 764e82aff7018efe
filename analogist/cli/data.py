"""`analogist data`: the published data set, fetched and checked."""

import argparse

EXAMPLES = """examples:
  analogist data fetch --out data
  analogist data fetch --out data --tasks colorization,denoise --revision main
  HF_ENDPOINT=https://hf-mirror.example analogist data fetch --out data
  analogist data check data

The data set is picana/Analogist on the hub (cc-by-4.0). Files that already exist are not downloaded again."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """Adds the command `data`."""
    parser = subparsers.add_parser(
        "data", help="fetch and check the published data set", description="Fetches or checks the data of the published evaluation.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")
    fetch = actions.add_parser("fetch", help="download the data set and check it", epilog=EXAMPLES)
    fetch.formatter_class = argparse.RawDescriptionHelpFormatter
    fetch.add_argument("--out", metavar="DIR", required=True, help="folder to write into; an existing one is completed")
    fetch.add_argument("--revision", default="main", metavar="R", help="branch, tag or commit (default: main)")
    fetch.add_argument("--tasks", metavar="NAMES", help="task names joined by commas (default: all ten)")
    fetch.add_argument("--marked", action="store_true", help="also fetch the marked grids, which no run needs")
    fetch.set_defaults(run=run_fetch)
    check = actions.add_parser("check", help="print what a folder holds, or what is wrong with it")
    check.add_argument("folder", metavar="DIR")
    check.set_defaults(run=run_check)
    return parser


def run_fetch(args: argparse.Namespace) -> int:
    """Fetches and checks."""
    from analogist.experiments.evaluate.fetch import describe, fetch

    tasks = None if args.tasks is None else [name.strip() for name in args.tasks.split(",")]
    for line in describe(fetch(args.out, revision=args.revision, only=tasks, marked=args.marked)):
        print(line)
    return 0


def run_check(args: argparse.Namespace) -> int:
    """Reads every picture and prompt of a folder."""
    from analogist.experiments.evaluate.data import check_grid, find_tasks

    for task in find_tasks(args.folder):
        for path in (*task.grids, *task.truths):
            check_grid(path)
        print(f"{task.category} {task.name}: {len(task.grids)} grids" + ("" if task.truths else ", no true answers"))
    return 0
