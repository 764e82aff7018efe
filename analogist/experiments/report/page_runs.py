"""The single runs of a study as its page holds them: their numbers, pictures, records and commands, and their pairs."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from analogist.experiments.decide.level_effects import Comparison
from analogist.experiments.design.inputs import Input
from analogist.experiments.execute.jobs import Plan, content_key
from analogist.experiments.execute.store import Store
from analogist.experiments.report.page_pictures import Album
from analogist.grid.prompt_grid import PromptGrid

DIGITS = 6  # of numbers of single runs


def levels_in(row: Mapping, factors: Sequence[str]) -> tuple[str, ...]:
    """The levels of a row of the table."""
    return tuple(row[name] for name in factors)


def number(value: float | None) -> float | None:
    """A number as JSON can hold it: None for what is not finite."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")


@dataclass
class Pool:
    """Values that many runs share, each kept once."""

    values: list = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)

    def place(self, value: object) -> int:
        """The number of a value."""
        key = json.dumps(value, sort_keys=True)
        if key not in self.places:
            self.places[key] = len(self.values)
            self.values.append(value)
        return self.places[key]


class Runs:
    """The runs that a page shows, numbered. data: their part of the manifest. album: the pictures that it names by number."""

    def __init__(
        self, plan: Plan, store: Store, rows: Sequence[dict], factors: Sequence[str], inputs: set[str], variants: set[tuple]
    ) -> None:  # fmt: skip
        self.album, self.factors = Album(), list(factors)
        self.numbers: dict[tuple, int] = {}  # (input, seed, levels) -> number
        levels_of: dict[tuple[str, ...], int] = {}
        self.inputs: dict[str, int] = {}
        pool, columns = Pool(), {name: [] for name in ("id", "variant", "input", "seed", "picture", "file", "command", "failed", "record")}
        values: dict[str, list[float | None]] = {name: [] for name in dict.fromkeys(row["metric"] for row in rows)}
        jobs = {job.key: job for job in plan.jobs}  # inputs of one content share a job
        given = {plan.study.resolved[row.input].name: (plan.study.resolved[row.input], jobs[row.key].grid) for row in plan.rows}
        for row in rows:
            levels = levels_in(row, factors)
            if row["input"] not in inputs or levels not in variants:
                continue
            key = (row["input"], row["seed"], levels)
            if key not in self.numbers:
                self.numbers[key] = len(self.numbers)
                record = json.loads(row["record"])
                done = row["status"] == "done"
                entry = store.entries[row["job"]]
                columns["id"].append(content_key([row["input"], str(row["seed"]), list(levels)])[:10])
                columns["variant"].append(levels_of.setdefault(levels, len(levels_of)))
                columns["input"].append(self.inputs.setdefault(row["input"], len(self.inputs)))
                columns["seed"].append(str(row["seed"]))  # as text: a script's numbers end at 2**53
                picture = self.album.place(str(entry.sha256), lambda entry=entry: store.picture(entry)) if done else None
                columns["picture"].append(picture)
                columns["file"].append(row["picture"])
                columns["command"].append(repeat_command(record, row["picture"]) if done else "")
                columns["failed"].append("" if done else row["status"])
                columns["record"].append({name: pool.place(value) for name, value in record.items()})
                for of_metric in values.values():
                    of_metric.append(None)
            values[row["metric"]][self.numbers[key]] = number(row["value"])
        self.data = {
            "inputs": [self._input(*given[name]) for name in self.inputs],
            "variants": [list(levels) for levels in levels_of],
            "runs": columns,
            "values": values,
            "pool": pool.values,
        }

    def __len__(self) -> int:
        return len(self.numbers)

    def _input(self, one: Input, grid: PromptGrid) -> dict:
        """An input with the places of its pictures, and the B' cell as left, top, width, height in parts of the grid."""
        image, truth = grid.image, one.truth
        left, top, right, bottom = grid.boxes()["B'"]
        return {
            "name": one.name, "group": one.group, "size": list(image.size),
            "grid": self.album.place(f"grid {one.name}", lambda: grid.image, cells=max(2, grid.rows)),
            "truth": None if truth is None else self.album.place(f"truth {one.name}", lambda: truth),
            "cell": [left / image.width, top / image.height, (right - left) / image.width, (bottom - top) / image.height],
        }  # fmt: skip

    def pairs(self, compared: Iterable[Comparison]) -> dict:
        """The pairs of runs of a comparison, and their differences by metric. compared: the comparison on each metric."""
        places: dict[tuple[int, int], int] = {}
        differences: dict[str, list[float | None]] = {}
        for one in compared:
            of_metric = differences.setdefault(one.metric, [None] * len(places))
            for key, difference in one.differences.items():
                run, against = (
                    self.numbers.get((key[0], key[1], tuple(side[name] for name in self.factors))) for side in one.sides(key)
                )
                if run is None or against is None:  # left out of the page
                    continue
                place = places.setdefault((run, against), len(places))
                of_metric += [None] * (place + 1 - len(of_metric))
                of_metric[place] = number(difference)
        for of_metric in differences.values():
            of_metric += [None] * (len(places) - len(of_metric))
        return {"pairs": [list(pair) for pair in places], "differences": differences}


def repeat_command(record: Mapping, picture: str) -> str:
    """The command that paints a run's picture again, to be run in the folder of the study; empty where no command can.

    picture: its path in that folder.
    """
    from analogist.pipeline import lab_checkpoint

    if not record.get("repeatable"):
        return ""
    name = record["checkpoint"]["name"]
    checkpoint = "" if name == lab_checkpoint().name else f" --checkpoint {name}"
    loras = "".join(f" --lora {one['name']}:{one['scale']}" for one in record["checkpoint"].get("lora", ()))
    return f"analogist run --config {picture}{checkpoint}{loras} --out again"
