"""One run with many different edits.

Several share a batch where the run makes copies of its images, memory allows it, and the result can be divided among the copies.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace

import numpy as np
from torch import Tensor
from tqdm import tqdm

from analogist.attention.edit.bind import Edit
from analogist.attention.edit.side_by_side import SideBySide
from analogist.attention.measure.runs import Learn, Measure, Outcome, Run, call, number_of
from analogist.models.numbers import plain

Job = Mapping[str, Edit]


def measured(
    run: Run, jobs: Sequence[Job], measure: Measure, learnt: Learn, *, batch: int | None, progress: bool, describe: str
) -> list[float]:
    """The measure of the run with each of these edits.

    learnt: from a run of this kind. batch: edits in one batch; None: as many as the run has room for, and one where the result of
    several copies cannot be divided (`undividable`). Raises ValueError for more.
    """
    shape, _ = learnt.known()
    most = max(1, shape.room)
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or not 1 <= batch <= most):
        raise ValueError(f"batch {batch!r}: from 1 to the {most} copies that this run has room for")
    found: list[float] = []
    size = 1  # the first edit runs alone: its result shows whether that of several copies can be divided
    with tqdm(total=len(jobs), desc=describe, unit="run", disable=not progress) as bar:
        while len(found) < len(jobs):
            some = jobs[len(found) : len(found) + size]
            if len(some) == 1:
                results = [call(run, edit=dict(some[0]))]
            else:
                places = dict.fromkeys(place for job in some for place in job)
                result = call(run, edit={place: SideBySide([job.get(place) for job in some]) for place in places})
                results = shares(result, len(some), shape.images)
            if not found:
                why = undividable(results[0])
                if why and batch is not None and batch > 1:
                    raise ValueError(f"batch {batch}: {why}, so that edits cannot share a batch; use batch=1, or leave batch out")
                size = 1 if why else most if batch is None else batch
            found += [number_of(measure(one)) for one in results]
            bar.update(len(some))
    return found


def undividable(result: Outcome) -> str:
    """Why the result of several copies cannot be divided into one for each, judged by the result of one; empty where it can be.

    Maps hold what the capture of the whole batch kept, reduced or not, and a capture of some images would hold those of the first copy;
    a single number (a loss) is that of all copies together.
    """
    if not is_dataclass(result) or isinstance(result, type):
        return f"the result, of the type {type(result).__name__}, is no dataclass"
    if getattr(result, "maps", None):
        return "the run captures maps of its own"
    numbers = [f.name for f in fields(result) if f.init and isinstance(plain(getattr(result, f.name)), float)]
    return f"the result holds one number for all images ({', '.join(numbers)})" if numbers else ""


def shares(result: Outcome, copies: int, images: int) -> list[Outcome]:
    """The result of each copy, from that of a run whose images are (copy image): what has one entry for each of these is divided.

    Not for results that are `undividable`.
    """
    assert is_dataclass(result) and not isinstance(result, type), "measured runs one by one what is no dataclass"
    total = copies * images

    def cut(part: slice) -> Callable[[object], object]:
        def of(value: object) -> object:
            if isinstance(value, Tensor | np.ndarray):
                return value[part] if value.ndim > 0 and len(value) == total else value
            return value[part] if isinstance(value, list | tuple) and len(value) == total else value

        return of

    names = [f.name for f in fields(result) if f.init]
    parts = [cut(slice(copy * images, (copy + 1) * images)) for copy in range(copies)]
    return [replace(result, **{name: part(getattr(result, name)) for name in names}) for part in parts]
