"""Train the lab checkpoint: python -m analogist.lab.train vae --out FOLDER, then generic, solver and export.

Interrupt it at will (Ctrl-C, or --minutes): the same command goes on where it stopped.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from .drawings import load_drawings
from .loop import Limits, train
from .mixture import watched_grids
from .recipe import RECIPES, Recipe, load_recipe, with_training
from .state import TrainingError, pick_device, prepare_folder, replace_file

EXAMPLE = """examples:
  python -m analogist.lab.train vae     --drawings drawings --out runs/lab --minutes 20
  python -m analogist.lab.train generic --drawings drawings --out runs/lab --minutes 60      # goes on by itself when called again
  python -m analogist.lab.train solver  --drawings drawings --out runs/lab --minutes 90      # starts from the generic one
  python -m analogist.lab.train export  --out runs/lab --to weights/lab
  python -m analogist.lab.train solver  --drawings drawings --init weights/lab --out runs/on --steps 2000   # on from a finished checkpoint
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m analogist.lab.train", description=__doc__, epilog=EXAMPLE,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("part", choices=("vae", "generic", "solver", "export"),
                   help="what to train, or: write the folder that the pipeline loads")
    p.add_argument("--out", type=Path, required=True, help="folder for state, log and recipe")
    p.add_argument("--recipe", default="small", help=f"{', '.join(RECIPES)} or a JSON file (default: small)")
    p.add_argument("--drawings", type=Path, help="folder of drawings to train on: names.json, flat.png, line.png, soft.png")
    p.add_argument("--minutes", type=float, help="stop after so much wall-clock time, resumable")
    p.add_argument("--steps", type=int,
                   help="length of the whole training; may differ when resumed (it moves the decay of the learning rate)")
    p.add_argument("--batch", type=int, help="grids a step")
    p.add_argument("--seed", type=int, help="0 to 98")
    p.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    p.add_argument("--threads", type=int,
                   help="CPU threads, each with a part of every batch (default: one a core; the same number gives the same bits)")
    p.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16",
                   help="of the networks while training (default: bfloat16)")
    p.add_argument("--init", type=Path,
                   help="start from an exported checkpoint folder (generic, solver: its VAE too, if --out has none)")
    p.add_argument("--stage", choices=("solver", "generic"), default="solver", help="export: which UNet (default: solver)")
    p.add_argument("--to", type=Path, help="export: the folder to write")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    return p


def recipe_of(args: argparse.Namespace) -> Recipe:
    """The recipe with the command line's changes."""
    recipe = load_recipe(args.recipe)
    changes = {name: getattr(args, name) for name in ("steps", "batch", "seed") if getattr(args, name) is not None}
    return with_training(recipe, args.part, **changes) if changes and args.part != "export" else recipe


def run(args: argparse.Namespace) -> None:
    """One part of the training. Raises ValueError (TrainingError) with one clear line."""
    device = pick_device(args.device)
    if args.threads is not None and args.threads < 1:
        raise TrainingError(f"--threads {args.threads}: give 1 or more")
    workers = (args.threads or torch.get_num_threads()) if device.type == "cpu" else 1
    if device.type == "cpu":
        torch.set_num_threads(1)
    recipe = recipe_of(args)
    prepare_folder(args.out)
    if args.part != "export" and any(mix.drawings for mix in (recipe.solver, recipe.generic)) and args.drawings is None:
        raise TrainingError(f"recipe {recipe.name} trains on drawings by people: give their folder with --drawings FOLDER")
    if args.part == "export":
        from .export import export

        if args.to is None:
            raise TrainingError("export: say where to with --to FOLDER")
        export(args.out, args.to, stage=args.stage)
        return
    drawings = load_drawings(args.drawings).to(device) if args.drawings is not None else None
    watched = watched_grids(recipe.size, device)
    if args.part == "vae":
        from .vae_task import VAETask

        task = VAETask(recipe, device, drawings, watched)
    else:
        from .unet_task import UNetTask
        from .warm import adopt_vae

        if args.init is not None and not (args.out / "vae.safetensors").exists():
            adopt_vae(args.out, args.init, recipe)
        task = UNetTask(args.part, recipe, device, args.out, drawings, watched)
    if not (args.out / f"{task.name}.safetensors").exists():
        from .warm import go_on, warm_start

        if args.init is not None:
            warm_start(task, args.init)
        elif args.part == "solver":
            go_on(task, args.out, recipe)
    text = json.dumps(recipe.to_json(), indent=1)
    limits = Limits(minutes=args.minutes, progress=not args.quiet)
    optimisation = getattr(recipe, f"{args.part}_training")
    recipe_file = args.out / f"{args.part}.recipe.json"
    if not recipe_file.exists() or not (args.out / f"{task.name}.safetensors").exists():
        replace_file(recipe_file, lambda path: path.write_text(text))
    train(task, optimisation, recipe.identity(args.part), args.out, limits=limits, device=device,
          precision=getattr(torch, args.precision), workers=workers)
    replace_file(recipe_file, lambda path: path.write_text(text))


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 2 with one line on standard error."""
    args = parser().parse_args(argv)
    try:
        run(args)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
