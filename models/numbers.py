"""Numbers in any form: numpy and torch scalars are converted to Python numbers."""

from typing import Any, TypeVar, cast

Given = TypeVar("Given")


def plain(value: Given) -> Given:
    """A numpy or torch scalar as a Python number, a one-dimensional array or tensor as a list; anything else unchanged.

    Lists, tuples and dicts likewise, part by part. Applied to arguments before they are checked, so that only plain values are stored,
    compared or written as JSON.
    """
    given = cast(Any, value)
    if type(given) is dict:
        return cast(Given, {key: plain(part) for key, part in cast("dict[Any, Any]", given).items()})
    if type(given) in (list, tuple):
        return type(given)(plain(part) for part in given)
    if hasattr(given, "tolist") and getattr(given, "ndim", 2) <= 1:
        return given.tolist()
    return value
