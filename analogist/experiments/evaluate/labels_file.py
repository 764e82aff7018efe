"""People's scores of painted pictures, from a CSV: columns input, seed, and one for each criterion, in any case."""

import csv
from pathlib import Path

from analogist.disk.foreign import read_text
from analogist.disk.writing import shown
from analogist.experiments.evaluate.data import DataError
from analogist.experiments.evaluate.judge_wording import CRITERIA, Scale


def read_labels(path: str | Path, scale: Scale) -> dict[str, dict[tuple[str, str], float]]:
    """criterion -> (input, seed) -> score, the mean where several people scored one picture. Empty cells are passed over.

    Raises DataError that names the column or line.
    """
    path = Path(path)
    try:
        lines = list(csv.DictReader(read_text(path).splitlines()))
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read ({error.strerror or error})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{shown(path)}: not a CSV file in UTF-8 ({error})") from error
    columns = [name.strip().lower() for name in (lines[0] if lines else {}) if name is not None]
    missing = [name for name in ("input", "seed") if name not in columns]
    there = [name for name in CRITERIA if name in columns]
    if missing or not there:
        raise DataError(f"{shown(path)}: expected the columns input, seed and {', '.join(CRITERIA)}; it has {', '.join(columns) or 'none'}")
    found: dict[str, dict[tuple[str, str], list[float]]] = {name: {} for name in there}
    for number, line in enumerate(lines, 2):
        row = {(key or "").strip().lower(): value.strip() for key, value in line.items() if isinstance(value, str)}
        if not row.get("input") or not row.get("seed"):
            raise DataError(f"{shown(path)}, line {number}: input and seed are required")
        for name in there:
            if not row.get(name):
                continue
            try:
                score = float(row[name])
            except ValueError:
                raise DataError(f"{shown(path)}, line {number}: {name} {row[name]!r} is not a number") from None
            if not scale.low <= score <= scale.high:
                raise DataError(f"{shown(path)}, line {number}: {name} {score:g} is outside {scale.low} to {scale.high}")
            found[name].setdefault((row["input"], row["seed"]), []).append(score)
    return {name: {key: sum(scores) / len(scores) for key, scores in of.items()} for name, of in found.items()}
