"""`analogist data`: the benchmarks' data: listed, fetched and checked."""

import argparse
from pathlib import Path

EXAMPLES = """examples:
  analogist data list                                      the benchmarks, their sources and licences
  analogist data fetch                                     the published set, picana/Analogist, into data/analogist
  analogist data fetch --out data --tasks colorization,denoise --revision main
  analogist data fetch kiva --dry-run                      how much it is and under which licence; nothing is downloaded
  analogist data fetch kiva --tasks Reflect,Resize2XY
  HF_ENDPOINT=https://hf-mirror.example analogist data fetch --out data
  analogist data check data
  analogist data check data/kiva --benchmark kiva

Licence and size are shown before the download. Files that already exist are not downloaded again; run a stopped download again to resume
it. Data sets on the hub: HF_ENDPOINT, HF_TOKEN. On GitHub: GITHUB_API_URL and GITHUB_RAW_URL (other addresses), GITHUB_TOKEN."""

CHECK_EXAMPLES = """examples:
  analogist data check data
  analogist data check data/kiva --benchmark kiva"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """Adds the command `data`."""
    parser = subparsers.add_parser(
        "data", help="list, fetch and check the benchmarks' data", description="Lists, fetches or checks the data of the benchmarks.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")
    listing = actions.add_parser("list", help="print the benchmarks", epilog="example:\n  analogist data list")
    listing.set_defaults(run=run_list)
    fetch = actions.add_parser("fetch", help="download a data set and check it", epilog=EXAMPLES)
    fetch.formatter_class = argparse.RawDescriptionHelpFormatter
    fetch.add_argument("name", metavar="NAME", nargs="?", default="analogist", help="a benchmark (default: analogist, the published set)")
    fetch.add_argument("--out", metavar="DIR", help="folder to write into; an existing one is completed (default: data/NAME)")
    fetch.add_argument("--revision", default="main", metavar="R", help="branch, tag or commit (default: main)")
    fetch.add_argument("--tasks", metavar="NAMES", help="task names joined by commas (default: all)")
    fetch.add_argument("--marked", action="store_true", help="also fetch the published set's marked grids, which no run needs")
    fetch.add_argument("--dry-run", action="store_true", help="print licence and size; nothing is downloaded")
    fetch.add_argument("--quiet", action="store_true", help="no progress bar")
    fetch.set_defaults(run=run_fetch)
    check = actions.add_parser("check", help="print what a folder holds, or what is wrong with it", epilog=CHECK_EXAMPLES)
    check.add_argument("folder", metavar="DIR")
    check.add_argument("--benchmark", metavar="NAME", default="analogist", help="whose layout it has (default: analogist)")
    check.set_defaults(run=run_check)
    return parser


def run_list(args: argparse.Namespace) -> int:
    """Prints the benchmarks."""
    from analogist.experiments.evaluate.benchmarks import BENCHMARKS, default_folder
    from analogist.experiments.evaluate.sources import SOURCES

    for one in BENCHMARKS.values():
        source = SOURCES[one.name]
        place = "on the hub" if source.where == "hub" else "on GitHub"
        print(f"{one.name}: {one.what}")
        print(f"    {source.repository} {place}, licence {source.licence or 'as the repository says (`data fetch --dry-run` shows it)'}")
        print(f"    reader: {one.met}" + (f"; here in {default_folder(one.name)}" if default_folder(one.name).is_dir() else ""))
    return 0


def run_fetch(args: argparse.Namespace) -> int:
    """Fetches and checks."""
    from analogist.experiments.evaluate.benchmarks import benchmark_named, default_folder
    from analogist.experiments.evaluate.fetch import fetch, look

    benchmark_named(args.name)
    tasks = None if args.tasks is None else [name.strip() for name in args.tasks.split(",")]
    out = Path(default_folder(args.name) if args.out is None else args.out)
    chosen = {"name": args.name, "revision": args.revision, "only": tasks, "marked": args.marked}
    if args.dry_run:
        print(look(**chosen).describe(args.name, out))
        return 0
    done = fetch(out, **chosen, say=lambda line: print(line, flush=True), progress=not args.quiet)
    if args.name == "analogist":
        _print_tasks(done.tasks)
    else:
        print(f"  {len(done.tasks)} tasks; `analogist evaluate {out} --benchmark {args.name} --out DIR` runs them")
    return 0


def run_check(args: argparse.Namespace) -> int:
    """Reads every picture and prompt of a folder."""
    from analogist.experiments.evaluate.fetch import check_layout

    _print_tasks(check_layout(args.benchmark, Path(args.folder), limit=None), "grids" if args.benchmark == "analogist" else "analogies")
    return 0


def _print_tasks(tasks: list[tuple[str, int, bool]], what: str = "grids") -> None:
    for name, count, with_truths in tasks:
        print(f"{name}: {count} {what}" + ("" if with_truths else ", no true answers"))
