"""Draws a training's curves from its logs: python -m analogist.lab.curves runs/lab --to weights/lab (needs matplotlib, extra `plots`).

Writes curves.png and copies the logs beside it.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from analogist.disk.foreign import naming

from .state import TrainingError, replace_file


def read_log(path: Path) -> list[dict[str, float]]:
    """Entries of a log, oldest first. If a step was run twice (after an interruption), the later entry counts.

    Raises TrainingError if there is no log.
    """
    if not path.is_file():
        raise TrainingError(f"no log {path}; give the folder of a training")
    with naming(path, TrainingError):
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return sorted({entry["step"]: entry for entry in entries}.values(), key=lambda entry: entry["step"])


STAGES = {"vae": ("squared", "held_out_mse"), "generic": ("x0_error_",), "solver": ("x0_error_",)}  # what is drawn: starts of names


def draw(folder: Path, to: Path) -> None:
    """Draws the autoencoder's errors and the UNet's errors of x0 in B' at three times, over the pictures of each stage that has a log."""
    from matplotlib.figure import Figure

    there = [name for name in STAGES if (folder / f"{name}.jsonl").is_file()]
    if not there:
        raise TrainingError(f"{folder}: no logs ({', '.join(f'{name}.jsonl' for name in STAGES)}); give the folder of a training")
    figure = Figure(figsize=(3.4 * len(there), 3.2), dpi=100, layout="constrained")
    for axes, name in zip(figure.subplots(1, len(there), squeeze=False)[0], there, strict=True):
        log = read_log(folder / f"{name}.jsonl")
        for key in sorted({key for entry in log for key in entry if key.startswith(STAGES[name])}):
            found = [(entry["pictures"] / 1000, entry[key]) for entry in log if key in entry]
            axes.plot(*zip(*found, strict=True), label=key.replace("_", " "), marker="." if len(found) < 20 else None)
        axes.set(title=name, xlabel="thousand pictures", yscale="log")
        axes.legend()
    replace_file(to / "curves.png", lambda path: figure.savefig(path, format="png"))
    for name in there:
        if folder.resolve() != to.resolve():
            replace_file(to / f"{name}.jsonl", lambda path, name=name: shutil.copyfile(folder / f"{name}.jsonl", path))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analogist.lab.curves", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--to", type=Path, required=True)
    args = parser.parse_args(argv)
    try:
        draw(args.folder, args.to)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
