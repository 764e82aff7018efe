"""Numbers as they are given: numpy's and torch's scalars count as the Python numbers they hold."""


def plain(value: object) -> object:
    """A numpy or torch scalar as a Python number, a one-dimensional array or tensor as a list; anything else as it is.

    Lists, tuples and dicts likewise, part by part. For arguments, before they are checked: what is then stored, compared or
    written as JSON is plain.
    """
    if type(value) is dict:
        return {key: plain(part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(plain(part) for part in value)  # type: ignore[attr-defined, call-arg]
    if hasattr(value, "tolist") and getattr(value, "ndim", 2) <= 1:
        return value.tolist()
    return value
