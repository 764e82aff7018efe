"""`analogist evaluate`: the published evaluation and other benchmarks, on built-in drawings or on your own list of analogies."""

import argparse
import sys

from analogist.cli.ablate import add_model_arguments, add_pool_arguments, load_model, load_networks, pool_from, shard_from
from analogist.cli.prompting import add_prompter_arguments, prompter_from_arguments

EXAMPLES = """examples:
  analogist evaluate drawings --images 1 --out out/drawings      built in: drawings by people, ten kinds of change, exact answers
  analogist data fetch --out data
  analogist evaluate data --checkpoint sd-v1-5-inpainting.safetensors --clip openai/clip-vit-base-patch16 --out out/eval
  analogist evaluate data --tasks colorization,denoise --limit 10 --images 2 --out out/quick
  analogist data fetch kiva; analogist evaluate --benchmark kiva --out out/kiva
  analogist evaluate kiva-sample --benchmark kiva --tasks Reflect,Resize2XY --dry-run
  analogist evaluate --benchmark lorweb --judge gemma-3-27b-it@http://localhost:8000/v1 --labels labels.csv --out out/lorweb
  analogist evaluate triples.csv --out out/mine      columns a, a_prime, b, optional b_prime, prompt, name, group
  analogist evaluate triples.csv --prompter openai --base-url http://localhost:8000/v1 --out out/asked
  analogist evaluate data --shard $i/8 --out out/shard-$i; then: analogist evaluate data --take out/shard-* --out out/eval

With --benchmark, DATA is the folder of that benchmark (default: data/NAME, where `analogist data fetch NAME` puts it). Each task of the
published set runs with its published strength and guidance; --config replaces them for all tasks. Written into DIR: table.csv,
summary.csv, pictures/ and report.md, which shows the published numbers beside ours, with the differences in protocol.
Run it again to resume it."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """Adds the command `evaluate`."""
    parser = subparsers.add_parser(
        "evaluate", help="the published evaluation, on the published data or a CSV list",
        description="Paints every analogy of a data set several times and measures the result, as the paper did.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "data", metavar="DATA", nargs="?",
        help="folder in the published layout or of a benchmark, a CSV file, or the word drawings (built in)",
    )  # fmt: skip
    parser.add_argument("--benchmark", metavar="NAME", help="whose data and protocol to use ('analogist data list' names them)")
    parser.add_argument("--out", metavar="DIR", help="folder to write into; resumed if it exists")
    parser.add_argument("--dry-run", action="store_true", help="print how many runs there are and how long they take; nothing is written")
    parser.add_argument("--tasks", metavar="NAMES", help="task names joined by commas (default: all); with drawings: kinds of change")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N inputs of each task (with drawings: N per kind, default 12)")
    parser.add_argument("--images", type=int, metavar="N", help="images per input (default as published: 8; 1 for the other benchmarks)")
    parser.add_argument("--seed", type=int, default=42, metavar="S", help="first seed; images take S, S+1, ... (published: 42)")
    parser.add_argument("--config", metavar="FILE", help="a configuration for all tasks instead of the published ones")
    parser.add_argument("--size", type=int, metavar="N", help="size of the grid in pixels (default: the checkpoint's own)")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="images in one UNet call")
    parser.add_argument("--metrics", metavar="NAMES", help="names joined by commas ('analogist ablate list' prints them)")
    parser.add_argument("--take", metavar="DIR", nargs="+", default=[], help="folders of shards whose finished runs are used")
    add_prompter_arguments(parser)
    _add_judge_arguments(parser)
    add_model_arguments(parser)
    add_pool_arguments(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Evaluates, or prints what it would take (--dry-run)."""
    from analogist.config import AnalogistConfig
    from analogist.experiments.evaluate.benchmarks import benchmark_named, default_folder
    from analogist.experiments.evaluate.evaluation import Protocol, carry_out_protocol, read_data

    shard, pool = shard_from(args.shard), pool_from(args)
    data = args.data
    if args.benchmark is not None:
        data = default_folder(benchmark_named(args.benchmark).name) if data is None else data
    elif data is None:
        raise ValueError("missing DATA: give a folder, a CSV file or the word drawings, or --benchmark NAME")
    if args.out is None and not args.dry_run:
        raise ValueError("missing --out DIR, the folder to write into")
    protocol = Protocol(
        data=data, benchmark=args.benchmark, tasks=_names(args.tasks), limit=args.limit, images=args.images, seed=args.seed,
        metrics=_names(args.metrics), size=args.size, batch=args.batch, prompter=prompter_from_arguments(args),
        config=None if args.config is None else AnalogistConfig.load(args.config), judging=_judging(args),
    )  # fmt: skip
    protocol.chosen_metrics()  # faults in the arguments and in the data are reported before a model is loaded
    read_data(data, tasks=protocol.tasks, limit=1, benchmark=args.benchmark)
    model, networks = load_model(args), load_networks(args)
    if args.dry_run:
        return _dry_run(args, protocol, model, networks, shard)
    assert args.out is not None, "without a folder it is a dry run"
    done = carry_out_protocol(
        protocol, args.out, model, pool=pool, shard=shard, taken=args.take, progress=not args.quiet, **networks
    )  # fmt: skip
    for note in done.notes:
        print(f"analogist evaluate: note: {note}", file=sys.stderr)
    for name in ("table.csv", "summary.csv", "report.md"):
        print(done.folder / name)
    return 0


def _add_judge_arguments(parser: argparse.ArgumentParser) -> None:
    judge = parser.add_argument_group("judge: a vision-language model that scores every picture for accuracy and preservation")
    judge.add_argument(
        "--judge", metavar="MODEL@URL", action="append", default=[],
        help="model at an OpenAI-compatible address, or @URL for the only one there; given twice, the second judge scores a part of the "
        "pictures. Keys: OPENAI_API_KEY, and SECOND_JUDGE_API_KEY for a second judge at another address",
    )  # fmt: skip
    judge.add_argument("--second-inputs", type=int, default=50, metavar="N", help="inputs that the second judge sees (default 50)")
    judge.add_argument("--labels", metavar="FILE", help="people's scores: a CSV with input, seed, accuracy, preservation")
    judge.add_argument("--judge-timeout", type=float, default=120.0, metavar="S", help="longest time per attempt in seconds (default 120)")


def _judging(args: argparse.Namespace):
    """Who judges; None: nobody. Nothing is asked yet."""
    if not args.judge:
        if args.labels is not None:
            raise ValueError("--labels needs --judge: people's scores correct those of a judge")
        return None
    if len(args.judge) > 2:
        raise ValueError(f"--judge: {len(args.judge)} judges; one or two are allowed")
    if args.second_inputs < 1:
        raise ValueError(f"--second-inputs {args.second_inputs}: 1 or more")
    from analogist.experiments.evaluate.benchmarks import ANALOGIST, benchmark_named
    from analogist.experiments.evaluate.judge import Judging, judge_from
    from analogist.experiments.evaluate.labels_file import read_labels

    scale = (ANALOGIST if args.benchmark is None else benchmark_named(args.benchmark)).scale
    judges = [judge_from(args.judge[0], 0, timeout=args.judge_timeout)]
    judges += [judge_from(text, 1, judges[0].endpoint, timeout=args.judge_timeout) for text in args.judge[1:]]
    labels = {} if args.labels is None else read_labels(args.labels, scale)
    return Judging(tuple(judges), scale, args.second_inputs, labels)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _dry_run(args: argparse.Namespace, protocol, model, networks: dict, shard: tuple[int, int] | None) -> int:
    from analogist.experiments.execute.dry_run import expect
    from analogist.experiments.execute.worker import Worker
    from analogist.experiments.score.metrics import Measurer

    plan, _ = protocol.plan(model, progress=not args.quiet)
    for line in expect(plan, Worker(model, Measurer(plan.study.all_metrics, **networks)), out=args.out, shard=shard):
        print(line)
    return 0
