"""The only exception class of this package."""

from collections.abc import Iterator
from contextlib import contextmanager


class WeightsError(ValueError):
    """A checkpoint cannot be used as it is. The message says what was given, what is allowed and what to do."""


@contextmanager
def about(label: str) -> Iterator[None]:
    """Puts the path in front of the message of a WeightsError that does not name one yet."""
    try:
        yield
    except WeightsError as error:
        if str(error).startswith(label):
            raise
        raise WeightsError(f"{label}: {error}") from None
