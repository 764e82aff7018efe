"""`analogist evaluate`: the published evaluation, on the published data, on built-in drawings or on your own list of analogies."""

import argparse
import sys

from analogist.cli.ablate import add_model_arguments, add_pool_arguments, load_model, load_networks, pool_from, shard_from
from analogist.cli.prompting import add_prompter_arguments, prompter_from_arguments

EXAMPLES = """examples:
  analogist evaluate drawings --images 1 --out out/drawings      built in: drawings by people, ten kinds of change, exact answers
  analogist data fetch --out data
  analogist evaluate data --checkpoint sd-v1-5-inpainting.safetensors --clip openai/clip-vit-base-patch16 --out out/eval
  analogist evaluate data --tasks colorization,denoise --limit 10 --images 2 --out out/quick
  analogist evaluate triples.csv --out out/mine      columns a, a_prime, b, optional b_prime, prompt, name, group
  analogist evaluate triples.csv --prompter openai --base-url http://localhost:8000/v1 --out out/asked
  analogist evaluate data --shard $i/8 --out out/shard-$i; then: analogist evaluate data --take out/shard-* --out out/eval

Each task runs with its published strength and guidance; --config replaces them for all tasks. Written into DIR: table.csv,
summary.csv, pictures/ and report.md, which compares with the paper's numbers. Run it again to resume it."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """Adds the command `evaluate`."""
    parser = subparsers.add_parser(
        "evaluate", help="the published evaluation, on the published data or a CSV list",
        description="Paints every analogy of a data set several times and measures the result, as the paper did.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("data", metavar="DATA", help="folder in the published layout, a CSV file, or the word drawings (built in)")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to write into; resumed if it exists")
    parser.add_argument("--tasks", metavar="NAMES", help="task names joined by commas (default: all ten); with drawings: kinds of change")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N files of each task (with drawings: N per kind, default 12)")
    parser.add_argument("--images", type=int, default=8, metavar="N", help="images per input (published: 8)")
    parser.add_argument("--seed", type=int, default=42, metavar="S", help="first seed; images take S, S+1, ... (published: 42)")
    parser.add_argument("--config", metavar="FILE", help="a configuration for all tasks instead of the published ones")
    parser.add_argument("--size", type=int, metavar="N", help="size of the grid in pixels (default: the checkpoint's own)")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="images in one UNet call")
    parser.add_argument("--metrics", metavar="NAMES", help="names joined by commas ('analogist ablate list' prints them)")
    parser.add_argument("--take", metavar="DIR", nargs="+", default=[], help="folders of shards whose finished runs are used")
    add_prompter_arguments(parser)
    add_model_arguments(parser)
    add_pool_arguments(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Evaluates."""
    from analogist.config import AnalogistConfig
    from analogist.experiments.evaluate.evaluation import DEFAULT_METRICS, evaluate, read_data
    from analogist.experiments.score.metrics import check_metrics

    shard, pool = shard_from(args.shard), pool_from(args)
    tasks = None if args.tasks is None else [name.strip() for name in args.tasks.split(",")]
    metrics = DEFAULT_METRICS if args.metrics is None else tuple(name.strip() for name in args.metrics.split(","))
    check_metrics(metrics)
    prompter = prompter_from_arguments(args)
    config = None if args.config is None else AnalogistConfig.load(args.config)
    read_data(args.data, tasks=tasks, limit=1)  # faults in the data are reported before a model is loaded
    done = evaluate(
        args.data, args.out, model=load_model(args), config=config, tasks=tasks, limit=args.limit, images=args.images,
        seed=args.seed, metrics=metrics, size=args.size, batch=args.batch, pool=pool, shard=shard, taken=args.take,
        progress=not args.quiet, prompter=prompter, **load_networks(args),
    )  # fmt: skip
    for note in done.notes:
        print(f"analogist evaluate: note: {note}", file=sys.stderr)
    for name in ("table.csv", "summary.csv", "report.md"):
        print(done.folder / name)
    return 0
