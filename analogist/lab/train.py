"""Trains the lab checkpoint: python -m analogist.lab.train vae --out FOLDER, then generic, solver and export.

You can interrupt it at any time (Ctrl-C, or --minutes); the same command resumes it.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from .drawings import Drawings, load_drawings
from .export import export
from .loop import Limits, train
from .mixture import watched_grids
from .recipe import RECIPES, Recipe, load_recipe, with_training
from .state import TrainingError, pick_device, prepare_folder, replace_file
from .unet_task import UNetTask
from .vae_task import VAETask
from .warm import adopt_vae, go_on, warm_start

SHARES = {"vae": 0.15, "generic": 0.25, "solver": 0.6}  # shares of the time of `all`
EXPORTING = 0.1  # minutes reserved for writing the checkpoint

EXAMPLE = """examples:
  python -m analogist.lab.train all --recipe fine --device cuda --minutes 13 --drawings drawings --out runs/card --to weights/lab
  python -m analogist.lab.train vae     --drawings drawings --out runs/lab --minutes 20
  python -m analogist.lab.train generic --drawings drawings --out runs/lab --minutes 60      # resumes when called again
  python -m analogist.lab.train solver  --drawings drawings --out runs/lab --minutes 90      # starts from the generic stage
  python -m analogist.lab.train export  --out runs/lab --to weights/lab
  python -m analogist.lab.train solver  --drawings drawings --init weights/lab --out runs/on --steps 2000   # continues training
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m analogist.lab.train", description=__doc__, epilog=EXAMPLE,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("part", choices=("vae", "generic", "solver", "export", "all"),
                   help="what to train; export: write the folder that the pipeline loads; all: everything within --minutes")
    p.add_argument("--out", type=Path, required=True, help="folder for state, log and recipe")
    p.add_argument("--recipe", default="small", help=f"{', '.join(RECIPES)} or a JSON file (default: small)")
    p.add_argument("--drawings", type=Path, help="folder of drawings to train on: names.json, flat.png, line.png, soft.png")
    p.add_argument("--minutes", type=float, help="stop after this wall-clock time (can be resumed); all: the time for all parts together")
    p.add_argument("--steps", type=int,
                   help="length of the whole training in steps; may change on resuming (this moves the decay of the learning rate)")
    p.add_argument("--batch", type=int, help="grids per step")
    p.add_argument("--seed", type=int, help="0 to 98")
    p.add_argument("--device", help="cpu or cuda (default: cuda if available)")
    p.add_argument("--threads", type=int,
                   help="CPU threads, each with a part of every batch (default: one per core; the same number gives the same bits)")
    p.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16",
                   help="type of the networks while training (default: bfloat16)")
    p.add_argument("--init", type=Path,
                   help="start from an exported checkpoint folder (generic, solver: also takes its VAE if --out has none)")
    p.add_argument("--stage", choices=("solver", "generic"), default="solver", help="export: the UNet of which stage (default: solver)")
    p.add_argument("--to", type=Path, help="export: the folder to write")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    return p


def recipe_of(args: argparse.Namespace) -> Recipe:
    """The recipe with the changes from the command line."""
    recipe = load_recipe(args.recipe)
    changes = {name: getattr(args, name) for name in ("steps", "batch", "seed") if getattr(args, name) is not None}
    return with_training(recipe, args.part, **changes) if changes and args.part not in ("export", "all") else recipe


def run(args: argparse.Namespace) -> None:
    """Runs one part of the training, or all of them. Raises ValueError (TrainingError) with a one-line message."""
    device = pick_device(args.device)
    if args.threads is not None and args.threads < 1:
        raise TrainingError(f"--threads {args.threads}: give 1 or more")
    workers = (args.threads or torch.get_num_threads()) if device.type == "cpu" else 1
    if device.type == "cpu":
        torch.set_num_threads(1)
    recipe = recipe_of(args)
    prepare_folder(args.out)
    if args.part == "export":
        if args.to is None:
            raise TrainingError("export: give the folder to write with --to FOLDER")
        export(args.out, args.to, stage=args.stage)
        return
    if any(mix.drawings for mix in (recipe.solver, recipe.generic)) and args.drawings is None:
        raise TrainingError(f"recipe {recipe.name} trains on drawings by people; give their folder with --drawings FOLDER")
    if args.part == "all":
        if args.minutes is None or args.minutes <= 0:
            raise TrainingError("all: give the time it may take with --minutes N")
        if args.steps is not None or args.batch is not None or args.seed is not None:
            raise TrainingError("all: --steps, --batch and --seed apply to one part; put them into a recipe file, or train part by part")
    drawings = load_drawings(args.drawings).to(device) if args.drawings is not None else None
    if args.part == "all":
        everything(args, recipe, device, workers, drawings)
    else:
        limits = Limits(minutes=args.minutes, progress=not args.quiet)
        part(args.part, args, recipe, device, workers, drawings, limits)


def part(
    name: str, args: argparse.Namespace, recipe: Recipe, device: torch.device, workers: int, drawings: Drawings | None, limits: Limits
) -> bool:
    """Trains "vae", "generic" or "solver", and resumes a training that was interrupted. Returns whether it came to its end."""
    watched = watched_grids(recipe.size, device)
    if name == "vae":
        task = VAETask(recipe, device, drawings, watched)
    else:
        if args.init is not None and not (args.out / "vae.safetensors").exists():
            adopt_vae(args.out, args.init, recipe)
        task = UNetTask(name, recipe, device, args.out, drawings, watched)
    new = not (args.out / f"{name}.safetensors").exists()
    if new and args.init is not None:
        warm_start(task, args.init)
    elif new and name == "solver":
        go_on(task, args.out, recipe)
    recipe_file = args.out / f"{name}.recipe.json"
    text = json.dumps(recipe.to_json(), indent=1)
    if new or not recipe_file.exists():
        replace_file(recipe_file, lambda path: path.write_text(text))
    done = train(task, getattr(recipe, f"{name}_training"), recipe.identity(name), args.out, limits=limits, device=device,
                 precision=getattr(torch, args.precision), workers=workers)
    replace_file(recipe_file, lambda path: path.write_text(text))
    return done


def everything(args: argparse.Namespace, recipe: Recipe, device: torch.device, workers: int, drawings: Drawings | None) -> None:
    """Trains autoencoder, generic UNet and solver and exports them, within --minutes. Parts finished before an interruption are kept.

    Each part gets its share of the remaining time, and the learning rate falls by the clock. The generic UNet is exported beside `--to`,
    into a folder with the ending -generic, and the solver into `--to`.
    """
    began = time.monotonic()
    finished_file = args.out / "finished.json"
    finished = json.loads(finished_file.read_text()) if finished_file.exists() else []
    shares = {name: share for name, share in SHARES.items() if name not in finished}
    for name, share in shares.items():
        left = args.minutes - (time.monotonic() - began) / 60 - EXPORTING
        minutes = left * share / sum(other for other_name, other in shares.items() if other_name not in finished)
        if minutes <= 0:
            raise TrainingError(f"all: no time left for {name} within --minutes {args.minutes:g}; give more time (finished parts are kept)")
        limits = Limits(minutes=minutes, progress=not args.quiet, by_clock=True, save_every=60)
        if not part(name, args, recipe, device, workers, drawings, limits):
            raise TrainingError(f"all: interrupted in {name}; the same command goes on from there, with the parts that are left")
        finished.append(name)
        replace_file(finished_file, lambda path: path.write_text(json.dumps(finished)))
        if args.to is not None and name != "vae":
            export(args.out, args.to if name == "solver" else args.to.with_name(f"{args.to.name}-generic"), stage=name)


def main(argv: list[str] | None = None) -> int:
    """Returns exit code 0, or 2 after one line on standard error."""
    args = parser().parse_args(argv)
    try:
        run(args)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
