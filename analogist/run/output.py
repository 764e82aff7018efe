"""A run's folder: input.png, b_prime_<seed>.png, grid_<seed>.png and run.json, from which the run can be repeated."""

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from analogist.config import AnalogistConfig, read_json
from analogist.disk.foreign import encoded, naming
from analogist.disk.writing import atomic_write, output_folder, shown
from analogist.grid.pictures import PictureError, read_record, save_png
from analogist.grid.prompt_grid import PromptGrid
from analogist.run.record import FORMAT, grid_record, image_record
from analogist.run.result import Result

RECORD = "run.json"
INPUT = "input.png"
_OF_A_RUN = re.compile(r"(b_prime|grid)_.*\d+\.png|maps(_.+)?\.safetensors|look\.html", re.DOTALL)


def prompt_names(prompts: Sequence[str]) -> list[str]:
    """A short file-name part per prompt; equal ones are distinguished by their position."""
    names: dict[str, None] = {}
    for position, prompt in enumerate(prompts):
        name = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40].strip("-") or "prompt"
        while name in names:
            name = f"{name}-{position + 1}"
        names[name] = None
    return list(names)


def save_result(result: Result, folder: Path, name: str | None = None) -> list[Path]:
    """Writes the pictures of B' and of the grid, each with its record in the metadata; returns their paths.

    name: part of the file names if several prompts share the folder. Those of several analogies are numbered from 1.
    """
    written = []
    for k, seed in enumerate(result.record["seeds"]):
        record = image_record(result.record, k)
        middle = ("" if name is None else f"{name}_") + (f"{record['analogy'] + 1}_" if "analogy" in record else "")
        written.append(save_png(result.grids[k], folder / f"grid_{middle}{seed}.png", record))
        written.append(save_png(result.b_primes[k], folder / f"b_prime_{middle}{seed}.png", record))
    return written


def write_input(grid: PromptGrid, folder: str | Path) -> Path:
    """Creates the folder and writes the composed grid, before any long computation. Raises OutputError."""
    return save_png(grid.image, output_folder(folder) / INPUT)


def write_record(
    records: Sequence[dict], folder: Path, *, checkpoint: str | None, inputs: dict, seconds: float, author: dict | None = None,
    files: Sequence[Path] = (),
) -> Path:
    """Writes run.json: the record, with what a PNG must not hold (paths of checkpoint and inputs, who wrote the prompt, time).

    records: of the results, one per prompt. checkpoint: the path as loaded, None for the embedded one. inputs: argument -> path.
    author: of the prompts, None where unknown. files: what the run wrote into the folder, listed by name.
    """
    record = dict(records[0])
    if len(records) > 1:
        record["prompt"] = [one["prompt"] for one in records]
    record["checkpoint"] = {**record["checkpoint"], "path": checkpoint}
    record |= {"files": [path.name for path in files], "inputs": inputs, "prompt_author": author, "seconds": round(seconds, 3)}
    return atomic_write(folder / RECORD, encoded(json.dumps(record, indent=1, ensure_ascii=False) + "\n"))


def remove_stale(folder: Path, written: Sequence[Path]) -> list[str]:
    """Removes files that an earlier run left in a folder and this run did not rewrite; returns their names.

    Removes only files that certainly come from a run: pictures with a run's record, captured maps and the page. Other files stay.
    """
    kept, removed = {path.name for path in written}, []
    for path in sorted(folder.iterdir()):
        if path.name in kept or not _OF_A_RUN.fullmatch(path.name) or not path.is_file():
            continue
        with contextlib.suppress(PictureError):
            if path.suffix == ".png":
                read_record(path)
            path.unlink()
            removed.append(path.name)
    return removed


def finished(folder: Path, expected: Mapping[str, object]) -> bool:
    """Whether a folder holds the whole run that `expected` describes: its record, which is written last, and its files.

    expected: keys of a record. Raises ValueError where the folder holds the record of another run.
    """
    path = folder / RECORD
    if not path.is_file():
        return False
    record, known = read_json(path), json.loads(json.dumps(expected))
    if isinstance(record.get("checkpoint"), dict):  # where it lay is no part of what it is
        record["checkpoint"] = {key: record["checkpoint"].get(key) for key in known.get("checkpoint", {})}
    differing = [key for key, value in known.items() if record.get(key) != value]
    if differing:
        raise ValueError(
            f"{path}: the record of another run (other {', '.join(differing)}); choose another --out, or remove {shown(folder)}"
        )
    return isinstance(record.get("files"), list) and all((folder / str(name)).is_file() for name in record["files"])


class Repeat:
    """A record that was read, from which `analogist run --config` starts: a run's DIR/run.json, or a picture that holds its record.

    Such pictures are b_prime_<seed>.png and grid_<seed>.png of a run, and a study's DIR/pictures/*.png.
    """

    def __init__(self, path: str | Path) -> None:
        """Raises ValueError if the file is not a record of this version, is damaged, or cannot be repeated."""
        self.path = Path(path)
        self.record: dict = {"inputs": {}, **read_record(path)} if self.path.suffix.lower() == ".png" else read_json(path)
        with naming(path):
            _check_record(self.record, path)
            if not self.record.get("repeatable", False):
                raise ValueError(f"{path}: cannot be repeated: {self.record.get('not_repeatable_because')}")
            self.config = AnalogistConfig.from_json(self.record["config"])

    @staticmethod
    def is_record(path: str | Path) -> bool:
        """Whether a file is a picture or a run's record (else it is a configuration)."""
        return Path(path).suffix.lower() == ".png" or "seeds" in read_json(path)

    def grid(self) -> PromptGrid:
        """The grid of the run, from the composed picture that was written with it, checked against its content key."""
        kept = self.record["grid"]
        drawing = {key: kept[key] for key in ("fit", "aligned", "border") if key in kept}
        b_size = None if kept.get("b_size") is None else tuple(kept["b_size"])
        drawing |= {"rows": kept["rows"], "b_size": b_size, "drawn": tuple(kept["drawn"])}
        path = self._input()
        grid = PromptGrid.from_image(path, tuple(kept["size"]), **drawing)
        if grid_record(grid)["sha256"] != kept["sha256"]:
            raise ValueError(f"{path}: not the picture of this run (its content key differs); give --grid or --a, --a-prime, --b")
        return grid

    def _input(self) -> Path:
        """Where the composed grid lies: beside a run's record, or in inputs/ of a study, under the beginning of its picture's name."""
        if "job" not in self.record:
            return self.path.parent / INPUT
        return self.path.parent.parent / "inputs" / f"{self.path.stem.rsplit('_', 2)[0]}.png"

    def prompts(self) -> list[str]:
        prompt = self.record["prompt"]
        return list(prompt) if isinstance(prompt, list) else [prompt]


def _check_record(record: dict, path: str | Path) -> None:
    """Raises ValueError if a run.json lacks a field that a repeat needs, or has it in another form."""
    if record.get("format") != FORMAT:
        raise ValueError(f"{path}: a record of format {record.get('format')!r}; this version repeats format {FORMAT}")
    grid, seeds, prompt = record.get("grid"), record.get("seeds"), record.get("prompt")
    if isinstance(grid, list):
        raise ValueError(f"{path}: the record of one call with {len(grid)} grids; `analogist run --list` runs such and records each")
    prompts = prompt if isinstance(prompt, list) else [prompt]
    in_a_row = False
    if isinstance(seeds, list) and seeds and all(isinstance(seed, int) for seed in seeds):
        in_a_row = seeds == list(range(seeds[0], seeds[0] + len(seeds)))
    well = {
        "seeds": in_a_row,
        "config": isinstance(record.get("config"), dict),
        "prompt": bool(prompts) and (not record.get("repeatable") or all(isinstance(text, str) for text in prompts)),
        "checkpoint": isinstance(record.get("checkpoint"), dict) and isinstance(record["checkpoint"].get("fingerprint"), str),
        "inputs": isinstance(record.get("inputs"), dict),
        "attention_forms": isinstance(record.get("attention_forms", {} if "job" in record else None), dict),  # a study has none
        "grid": False,
    }
    if isinstance(grid, dict) and isinstance(grid.get("rows"), int) and isinstance(grid.get("sha256"), str):
        sides = [grid.get("size"), grid.get("drawn")]
        well["grid"] = all(isinstance(s, list) and len(s) == 2 and all(isinstance(n, int) for n in s) for s in sides)
    damaged = [key for key, good in well.items() if not good]
    if damaged:
        raise ValueError(f"{path}: not the record of a run, or a damaged one ({', '.join(damaged)}); give an unchanged run.json")
