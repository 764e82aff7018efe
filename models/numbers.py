"""Numbers as they are given: numpy's and torch's scalars count as the Python numbers they hold."""

from typing import Any, TypeVar, cast

Given = TypeVar("Given")


def plain(value: Given) -> Given:
    """A numpy or torch scalar as a Python number, a one-dimensional array or tensor as a list; anything else as it is.

    Lists, tuples and dicts likewise, part by part. For arguments, before they are checked: what is then stored, compared or
    written as JSON is plain.
    """
    given = cast(Any, value)
    if type(given) is dict:
        return cast(Given, {key: plain(part) for key, part in cast("dict[Any, Any]", given).items()})
    if type(given) in (list, tuple):
        return type(given)(plain(part) for part in given)
    if hasattr(given, "tolist") and getattr(given, "ndim", 2) <= 1:
        return given.tolist()
    return value
