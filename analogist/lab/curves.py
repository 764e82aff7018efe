"""Draws a training's curves from its logs: python -m analogist.lab.curves runs/lab --to weights/lab (needs matplotlib, extra `plots`).

Writes curves.png and copies the logs beside it.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from .state import TrainingError, replace_file


def read_log(path: Path) -> list[dict[str, float]]:
    """Entries of a log, oldest first. If a step was run twice (after an interruption), the later entry counts.

    Raises TrainingError if there is no log.
    """
    if not path.is_file():
        raise TrainingError(f"no log {path}; give the folder of a training")
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return sorted({entry["step"]: entry for entry in entries}.values(), key=lambda entry: entry["step"])


def draw(folder: Path, to: Path) -> None:
    """Draws loss and held-out figures of VAE and UNet over the number of training pictures."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2), dpi=100, layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for axes, name, keys in ((left, "vae", ("squared", "held_out_mse")), (middle, "unet", ("loss", "eps_error"))):
        log = read_log(folder / f"{name}.jsonl")
        for key in keys:
            found = [(entry["pictures"] / 1000, entry[key]) for entry in log if key in entry]
            axes.plot(*zip(*found, strict=True), label=key.replace("_", " "), marker="." if len(found) < 20 else None)
        axes.set(title=f"{name}: training", xlabel="thousand pictures", yscale="log")
        axes.legend()
    log = [entry for entry in read_log(folder / "unet.jsonl") if any(key.startswith("x0_error") for key in entry)]
    for key in (key for key in (log[0] if log else {}) if key.startswith("x0_error")):
        right.plot([e["pictures"] / 1000 for e in log], [e[key] for e in log], marker=".", label=f"t = {key.rsplit('_', 1)[1]}")
    right.set(title="unet: error of x0 in B', held out", xlabel="thousand pictures", yscale="log")
    right.legend()
    replace_file(to / "curves.png", lambda path: figure.savefig(path, format="png"))
    for name in ("vae", "unet"):
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
