"""The arguments that the benchmarks of the lab checkpoints share, and the checkpoint they name."""

import argparse
from pathlib import Path

import torch

from analogist import Analogist


def parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """A command line with --checkpoint, --steps, --threads and --out. name: of the module; doc: its docstring."""
    made = argparse.ArgumentParser(prog=f"python -m tests.benchmarks.{name}", description=doc,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--checkpoint", help="name or folder (default: lab)")
    made.add_argument("--steps", type=int, help="sampling steps (default: the checkpoint's own)")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--out", type=Path, required=True)
    return made


def opened(args: argparse.Namespace) -> Analogist:
    """The checkpoint with the asked-for number of steps. Also sets torch's threads and creates the folder of --out."""
    torch.set_num_threads(args.threads)
    folder = args.out.parent if args.out.suffix else args.out
    folder.mkdir(parents=True, exist_ok=True)
    model = Analogist.from_checkpoint(args.checkpoint, device="cpu")
    if args.steps is not None:
        model.config = model.config.replace(steps=args.steps)
    return model
