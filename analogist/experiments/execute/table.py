"""The tidy table of an experiment: one row per run and metric, as CSV and (with pyarrow) as Parquet."""

import csv
import importlib.util
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from analogist.disk.foreign import encoded, naming
from analogist.disk.writing import atomic_write
from analogist.experiments.design.inputs import Input
from analogist.experiments.design.levels import StudyError
from analogist.experiments.design.study import CHANGE
from analogist.experiments.execute.jobs import Plan, Row
from analogist.experiments.execute.store import Entry, Store
from analogist.experiments.score.metrics import Measurer

TIMES = ("seconds",)  # columns that differ from run to run
_FIXED = ("study", "input", "group", "seed", "reference")
_AFTER = (
    "metric", "value", "better", "network", "note", "status", "prompt", "config",
    "picture", "picture_sha256", "job", "record", *TIMES,
)  # fmt: skip


def columns(factors: Sequence[str]) -> list[str]:
    """All columns of a table, factors by name."""
    return [*_FIXED, *factors, *_AFTER]


def make_rows(plan: Plan, store: Store, measurer: Measurer, *, changes: bool = True) -> list[dict]:
    """The table of all finished runs, in the order of the study.

    changes: also measure the difference to the reference's picture, for which all pictures are read.
    """
    reference = {(row.input, row.seed): row.key for row in plan.rows if row.variant.reference}
    pixels = _Pixels(store)
    out: list[dict] = []
    for row in plan.rows:
        entry = store.entries.get(row.key)
        if entry is None:
            continue
        common = _common(plan, row, entry)
        for name in measurer.names:
            value = entry.measures.get(measurer.key(name))
            note = "" if value is not None else entry.failed or entry.notes.get(name, "not measured")
            out.append(common | _measure(name, value, measurer.metrics[name].better, measurer.network(name), note))
        if changes and len(plan.variants) > 1:
            value, note = _change(entry, store.entries.get(reference.get((row.input, row.seed), "")), pixels)
            out.append(common | _measure(CHANGE, value, "", "", note))
    return out


def _measure(metric: str, value: float | None, better: str, network: str, note: str) -> dict:
    return {"metric": metric, "value": value, "better": better, "network": network, "note": note}


def _common(plan: Plan, row: Row, entry: Entry) -> dict:
    one = cast(Input, plan.study.inputs[row.input])  # a plan's are resolved
    return {
        "study": plan.study.name, "input": one.name, "group": one.group, "seed": row.seed, "reference": row.variant.reference,
        **row.variant.levels, "prompt": entry.record["prompt"], "config": json.dumps(entry.record["config"]),
        "status": "done" if entry.failed is None else f"failed: {entry.failed}",
        "picture": entry.picture or "",
        "picture_sha256": entry.sha256 or "", "job": entry.key, "record": json.dumps(entry.record, ensure_ascii=False),
        "seconds": entry.seconds,
    }  # fmt: skip


class _Pixels:
    """Pictures as arrays, the last few remembered (a reference is compared with all runs beside it)."""

    def __init__(self, store: Store) -> None:
        self._store, self._kept = store, {}

    def __call__(self, entry: Entry) -> np.ndarray:
        if entry.key not in self._kept:
            if len(self._kept) > 8:
                self._kept.pop(next(iter(self._kept)))
            self._kept[entry.key] = np.asarray(self._store.picture(entry), np.float64) / 255
        return self._kept[entry.key]


def _change(entry: Entry, reference: Entry | None, pixels: Callable[[Entry], np.ndarray]) -> tuple[float | None, str]:
    if reference is None:
        return None, "the reference is not finished here"
    if entry.failed or reference.failed:
        return None, "no picture"
    return (0.0 if entry.key == reference.key else float(np.abs(pixels(entry) - pixels(reference)).mean())), ""


def write_table(rows: Sequence[dict], factors: Sequence[str], folder: Path) -> list[str]:
    """Writes table.csv and, with pyarrow, table.parquet, each whole or not at all; returns notes on what was not written."""
    names = columns(factors)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([_cell(row.get(name)) for name in names])
    atomic_write(folder / "table.csv", encoded(text.getvalue()))
    if importlib.util.find_spec("pyarrow") is None:
        return ["table.parquet was not written: pyarrow is not installed (pip install 'analogist[eval]')"]
    import pyarrow as pa
    from pyarrow import parquet

    numbers = {"value": pa.float64(), "seconds": pa.float64(), "reference": pa.bool_()}
    schema = pa.schema([(name, numbers.get(name, pa.string())) for name in names])
    data = [{name: _typed(row.get(name), schema.field(name).type, pa) for name in names} for row in rows]
    atomic_write(folder / "table.parquet", lambda file: parquet.write_table(pa.Table.from_pylist(data, schema=schema), file))
    return []


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


def _typed(value: object, kind, pa) -> object:
    return value if value is None or kind != pa.string() else _cell(value)


def read_table(path: str | Path) -> list[dict]:
    """The rows of a table.csv (or of the folder that holds it); value and seconds as numbers, reference as a truth value.

    Raises StudyError where it is no such table.
    """
    path = Path(path)
    path = path / "table.csv" if path.is_dir() else path
    try:
        with naming(path, StudyError), open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise StudyError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not rows or not {"metric", "value", "input", "seed"} <= set(rows[0]):
        raise StudyError(f"{path}: not a table of an ablation or evaluation (no metric, value, input and seed)")
    with naming(path, StudyError):
        for row in rows:
            row["value"] = float(row["value"]) if row["value"] else None
            row["seconds"] = float(row["seconds"]) if row.get("seconds") else math.nan
            row["reference"] = row.get("reference") == "true"
    return rows


def factors_of(rows: Sequence[dict]) -> list[str]:
    """The factor columns of a table."""
    names = list(rows[0]) if rows else []
    return names[len(_FIXED) : len(names) - len(_AFTER)]
