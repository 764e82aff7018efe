"""`analogist run --list`: one run and one record for each line of a list; what is finished is not run again."""

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # --help imports neither Pillow nor torch
    from analogist.cli.run import Asked
    from analogist.pipeline import Analogist


def check_list_arguments(args: argparse.Namespace) -> None:
    """Raises ValueError for arguments that the list replaces."""
    others = ("a", "a_prime", "b", "grid", "rows", "example")
    given = ["--" + name.replace("_", "-") for name in others if getattr(args, name) is not None]
    if given:
        raise ValueError(f"--list brings its own pictures; leave out {', '.join(given)}")


def run_list(
    model: "Analogist", rows: Sequence["Asked"], out: Path, *, call: dict, page: int | None, inputs: dict, where: str | None
) -> int:
    """Paints each row into a folder of its own. Arguments as for `paint`.

    Raises ValueError before anything runs for a row that cannot be run or whose folder holds another run; and at the end, naming them,
    for rows that went wrong while sampling; the others are finished then.
    """
    from analogist.cli.run import paint
    from analogist.run.output import finished
    from analogist.run.result import SamplingError

    todo = [row for row in rows if not finished(out / row.name, expected(model, row, call))]
    if len(todo) < len(rows):
        warnings.warn(f"{len(rows) - len(todo)} of {len(rows)} lines were finished before and are not run again", stacklevel=1)
    failed = []
    for row in todo:
        try:
            paint(model, row, out / row.name, call=call, page=page, inputs=inputs, where=where)
        except SamplingError as error:
            failed.append(f"{row.name}: {error}")
    if failed:
        raise ValueError(f"{len(failed)} of {len(rows)} lines went wrong, the others are finished: {'; '.join(failed)}")
    return 0


def expected(model: "Analogist", row: "Asked", call: dict) -> dict:
    """What the record of a row's run says, as far as it is known before the run. Raises ValueError where it cannot run."""
    from analogist.checkpoints.devices import precision
    from analogist.run.arguments import resolve
    from analogist.run.record import asked_record
    from analogist.run.request import Request

    records = [asked_record(resolve(model, Request(grid=row.grid, prompt=prompt, **call))) for prompt in row.prompts]
    about = model.describe()
    checkpoint = {"fingerprint": about["fingerprint"], "lora": about.get("lora")}
    known = {**records[0], "checkpoint": checkpoint, "dtype": precision(model.dtype, tf32=model.unet.tf32)}
    return known if len(records) == 1 else {**known, "prompt": [one["prompt"] for one in records]}
