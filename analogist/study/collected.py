"""`study.collect` and `study.load`: activations as data, imported when they are called."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from analogist.attention.collect.activations import Activations


def collect(
    model: Callable[..., object], inputs: Iterable[object], selectors: str | Sequence[str], *, out: str | Path, **settings: object
) -> "Activations":
    """Runs every input and writes what was at the selected points, one row per input, seed, step, branch and token.

    settings: seed, seeds, steps, branches, heads, query, dtype, shard_bytes, max_bytes, progress, and arguments of every call; see
    `analogist.attention.collect.collect.collect`, which this calls.
    """
    from analogist.attention.collect.collect import collect as run

    return cast("Callable[..., Activations]", run)(model, inputs, selectors, out=out, **settings)


def load(folder: str | Path) -> "Activations":
    """The activations in a folder that `collect` wrote, read as they are asked for. Raises ValueError for other folders."""
    from analogist.attention.collect.activations import load as read

    return read(folder)
