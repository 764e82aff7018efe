"""`analogist merge`: the folders of shards put together."""

import argparse
import sys

from analogist.cli.ablate import add_model_arguments, load_model, load_networks

EXAMPLES = """examples:
  for i in 0 1 2; do analogist ablate study.json --out out/shard-$i --shard $i/3; done
  analogist merge study.json out/shard-0 out/shard-1 out/shard-2 --out out/whole

A SLURM job array runs `analogist ablate study.json --out out/shard-$SLURM_ARRAY_TASK_ID --shard $SLURM_ARRAY_TASK_ID/8` with
--array=0-7, then one job that merges. Give merge the flags that the shards had (--checkpoint, --seeds, --size, ...)."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """Adds the command `merge`."""
    parser = subparsers.add_parser(
        "merge", help="put the folders of --shard runs together",
        description="Copies the runs of several folders of one study into one and writes its table, sheet and report.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("study", metavar="STUDY", help="the study file or ready study that the shards ran")
    parser.add_argument("folders", metavar="DIR", nargs="+", help="folders of the shards")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to write into")
    study = parser.add_argument_group("put over the study, as the shards had it")
    study.add_argument("--seeds", metavar="S", help="42,43 or 42-49")
    study.add_argument("--size", metavar="N|HxW", help="of the grid in pixels")
    study.add_argument("--steps", type=int, metavar="N", help="of the whole schedule, in the base settings")
    study.add_argument("--batch", type=int, metavar="N", help="images in one UNet call")
    study.add_argument("--group", type=int, metavar="N", help="runs computed and written together")
    study.add_argument("--metrics", metavar="NAMES", help="joined by commas")
    add_model_arguments(parser)
    parser.set_defaults(run=run, threads=None)
    return parser


def run(args: argparse.Namespace) -> int:
    """Merges."""
    from analogist.cli.ablate import changes_from, with_steps
    from analogist.experiments.execute.ablation import load_study
    from analogist.experiments.execute.merge import merge

    changes = changes_from(args)
    model = load_model(args)
    study = load_study(args.study, model)
    changes |= with_steps(args, study, model)
    for note in merge(args.folders, args.out, study=study, model=model, changes=changes, **load_networks(args)):
        print(f"analogist merge: note: {note}", file=sys.stderr)
    print(f"{args.out}/table.csv")
    return 0
