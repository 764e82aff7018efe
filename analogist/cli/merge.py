"""`analogist merge`: merges the folders of shards into one study."""

import argparse
import sys

from analogist.cli.ablate import add_model_arguments, add_study_arguments, load_model, load_networks

EXAMPLES = """examples:
  for i in 0 1 2; do analogist ablate study.json --out out/shard-$i --shard $i/3; done
  analogist merge study.json out/shard-0 out/shard-1 out/shard-2 --out out/whole

A SLURM job array runs `analogist ablate study.json --out out/shard-$SLURM_ARRAY_TASK_ID --shard $SLURM_ARRAY_TASK_ID/8` with
--array=0-7; then one job merges. Give merge the same flags as the shards (--checkpoint, --count, --seeds, --size, ...)."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """Adds the command `merge`."""
    parser = subparsers.add_parser(
        "merge", help="merge the folders of --shard runs",
        description="Copies the runs of one study from several folders into one folder and writes its table, sheet, report and page.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("study", metavar="STUDY", help="the study file or ready study that the shards ran")
    parser.add_argument("folders", metavar="DIR", nargs="+", help="folders of the shards")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to write into")
    add_study_arguments(parser, "; give the same as for the shards")
    add_model_arguments(parser)
    parser.set_defaults(run=run, threads=None)
    return parser


def run(args: argparse.Namespace) -> int:
    """Merges."""
    from analogist.cli.ablate import changes_from, changes_to
    from analogist.experiments.execute.ablation import load_study
    from analogist.experiments.execute.merge import merge

    changes = changes_from(args)
    model = load_model(args)
    study = load_study(args.study, model)
    changes |= changes_to(study, args, model)
    for note in merge(args.folders, args.out, study=study, model=model, changes=changes, **load_networks(args)):
        print(f"analogist merge: note: {note}", file=sys.stderr)
    print(f"{args.out}/table.csv")
    return 0
