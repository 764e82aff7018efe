"""A run's folder: input.png, b_prime_<seed>.png, grid_<seed>.png and run.json, from which the run can be repeated."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from analogist.config import AnalogistConfig, read_json
from analogist.files import atomic_write, output_folder
from analogist.grid import PromptGrid
from analogist.pictures import save_png
from analogist.record import grid_record
from analogist.result import Result

RECORD = "run.json"
INPUT = "input.png"


def prompt_names(prompts: Sequence[str]) -> list[str]:
    """A short file-name part for each of several prompts; equal ones are told apart by their position."""
    names: list[str] = []
    for position, prompt in enumerate(prompts):
        name = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40].strip("-") or "prompt"
        names.append(name if name not in names else f"{name}-{position + 1}")
    return names


def save_result(result: Result, folder: Path, name: str | None = None) -> list[Path]:
    """Writes b_prime and grid pictures of one prompt, each with its record in the metadata; returns the B' paths.

    name: part of the file names where several prompts share the folder.
    """
    written = []
    middle = "" if name is None else f"{name}_"
    for k, seed in enumerate(result.record["seeds"]):
        record = {**result.record, "seeds": [seed], "image": k}
        save_png(result.grids[k], folder / f"grid_{middle}{seed}.png", record)
        written.append(save_png(result.b_primes[k], folder / f"b_prime_{middle}{seed}.png", record))
    return written


def write_input(grid: PromptGrid, folder: str | Path) -> Path:
    """Makes the folder and writes the composed grid, before anything long is computed. Raises OutputError."""
    return save_png(grid.image, output_folder(folder) / INPUT)


def write_record(
    results: Sequence[Result], folder: Path, *, checkpoint: str | None, inputs: dict, seconds: float, author: dict | None = None
) -> Path:
    """Writes run.json: the record, with what a PNG must not hold (where checkpoint and inputs lie, who wrote the prompt, time).

    checkpoint: the path as loaded, None for the embedded one. inputs: argument -> path. author: of the prompts, None where unknown.
    """
    record = dict(results[0].record)
    if len(results) > 1:
        record["prompt"] = [result.record["prompt"] for result in results]
    record["checkpoint"] = {**record["checkpoint"], "path": checkpoint}
    record |= {"inputs": inputs, "prompt_author": author, "seconds": round(seconds, 3)}
    return atomic_write(folder / RECORD, json.dumps(record, indent=1, ensure_ascii=False).encode() + b"\n")


class Repeat:
    """A run.json read back: what `analogist run --config DIR/run.json` starts from."""

    def __init__(self, path: str | Path) -> None:
        """Raises ValueError where the file is no record, cannot be repeated, or its input.png is missing or another."""
        self.path = Path(path)
        self.record = read_json(path)
        if "config" not in self.record or "seeds" not in self.record:
            raise ValueError(f"{path}: not the record of a run (no 'config' and 'seeds')")
        if not self.record.get("repeatable", False):
            raise ValueError(f"{path}: cannot be repeated: {'; '.join(self.record.get('not_repeatable_because', []))}")
        self.config = AnalogistConfig.from_json(self.record["config"])

    @staticmethod
    def is_record(path: str | Path) -> bool:
        """Whether a JSON file is a run's record (else it is a configuration)."""
        return "seeds" in read_json(path)

    def grid(self) -> PromptGrid:
        """The grid of the run, from the input.png beside the record, checked against its content key."""
        kept = self.record["grid"]
        drawing = {key: kept[key] for key in ("fit", "aligned", "border") if key in kept}
        b_size = None if kept.get("b_size") is None else tuple(kept["b_size"])
        grid = PromptGrid.from_image(self.path.parent / INPUT, tuple(kept["size"]), rows=kept["rows"], b_size=b_size, **drawing)
        if grid_record(grid)["sha256"] != kept["sha256"]:
            raise ValueError(
                f"{self.path.parent / INPUT}: not the picture of this run (its content key differs); give --grid or --a, --a-prime, --b"
            )
        return grid

    def prompts(self) -> list[str]:
        prompt = self.record["prompt"]
        return list(prompt) if isinstance(prompt, list) else [prompt]
