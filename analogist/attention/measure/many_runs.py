"""One run with many different edits: several to a batch where the run makes copies of its images and memory allows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace

from torch import Tensor
from tqdm import tqdm

from analogist.attention.edit.bind import Edit
from analogist.attention.edit.side_by_side import SideBySide
from analogist.attention.measure.runs import Learn, Measure, Outcome, Run, call, number_of

Job = Mapping[str, Edit]


def measured(
    run: Run, jobs: Sequence[Job], measure: Measure, learnt: Learn, *, batch: int | None, progress: bool, describe: str
) -> list[float]:
    """The measure of the run with each of these edits.

    learnt: from a run of this kind. batch: edits in one batch; None: as many as the run has room for. Raises ValueError for more.
    """
    shape, _ = learnt.known()
    size = shape.room if batch is None else batch
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= max(1, shape.room):
        raise ValueError(f"batch {batch!r}: from 1 to the {shape.room} copies that this run has room for")
    found: list[float] = []
    with tqdm(total=len(jobs), desc=describe, unit="run", disable=not progress) as bar:
        for first in range(0, len(jobs), size):
            some = jobs[first : first + size]
            if len(some) == 1:
                results = [call(run, edit=dict(some[0]))]
            else:
                places = dict.fromkeys(place for job in some for place in job)
                result = call(run, edit={place: SideBySide([job.get(place) for job in some]) for place in places})
                results = shares(result, len(some), shape.images)
            found += [number_of(measure(one)) for one in results]
            bar.update(len(some))
    return found


def shares(result: Outcome, copies: int, images: int) -> list[Outcome]:
    """The result of each copy, from that of a run whose images are (copy image). Raises ValueError where it cannot be divided."""
    if not is_dataclass(result) or isinstance(result, type):
        raise ValueError(f"a result of the type {type(result).__name__} cannot be divided among copies; use batch=1")
    total = copies * images

    def cut(part: slice) -> Callable[[object], object]:
        def of(value: object) -> object:
            if isinstance(value, list) or (isinstance(value, Tensor) and value.ndim > 0):
                return value[part] if len(value) == total else value
            return value

        return of

    names = [f.name for f in fields(result) if f.init]
    parts = [cut(slice(copy * images, (copy + 1) * images)) for copy in range(copies)]
    return [replace(result, **{name: part(getattr(result, name)) for name in names}) for part in parts]
