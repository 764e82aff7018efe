"""Files that other programs wrote: byte-order marks, names in either form of Unicode, content that is not what it should be.

And the reverse: text for our own files that holds what UTF-8 cannot, such as file names that are not UTF-8.
"""

import contextlib
import csv
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from analogist.disk.writing import shown

_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def decoded(raw: bytes) -> str:
    """Text in UTF-8, or in UTF-16 or UTF-32 with its byte-order mark; the mark is left out. Raises UnicodeDecodeError."""
    return raw.decode(next((encoding for mark, encoding in _MARKS.items() if raw.startswith(mark)), "utf-8"))


def encoded(text: str) -> bytes:
    """UTF-8; half characters, as in file names that are not UTF-8, become escapes such as \\udce9, which JSON reads back."""
    return text.encode("utf-8", "backslashreplace")


def text_problem(text: str) -> str | None:
    """What is wrong with a text that cannot be written as UTF-8, for a message that begins with what it is; None where nothing is.

    Such a text holds half of a character ("lone surrogate"): from bytes that are not UTF-8 on a command line, or from an escape such
    as \\ud83d alone in JSON.
    """
    at = next((i for i, character in enumerate(text) if "\ud800" <= character <= "\udfff"), None)
    if at is None:
        return None
    return f"is not valid Unicode text at character {at + 1}: {text[max(at - 20, 0) : at + 20]!a}; give it as UTF-8"


def composed(text: str) -> str:
    """The text with its letters composed (Unicode's NFC), so that names from different systems can be compared."""
    return unicodedata.normalize("NFC", text)


def existing(path: str | os.PathLike[str]) -> Path:
    """The path, or where nothing lies there the one that differs from it in Unicode normalisation alone; where there is none, the path."""
    path = Path(path)
    with contextlib.suppress(OSError, ValueError):
        if path.exists() or path == path.parent:
            return path
        folder = existing(path.parent)
        for entry in folder.iterdir() if folder.is_dir() else ():
            if composed(entry.name) == composed(path.name):
                return entry
    return path


@contextlib.contextmanager
def naming(path: str | os.PathLike[str], kind: type[ValueError] = ValueError) -> Iterator[None]:
    """Errors from reading a file's content name the file; values of kinds that nobody expected become such errors too."""
    where = shown(path)
    try:
        yield
    except ValueError as error:
        if where in str(error):
            raise
        raise (kind if not isinstance(error, kind) else type(error))(f"{where}: {error}") from error
    except KeyError as error:
        raise kind(f"{where}: damaged, or written by something else: {error} is missing in it") from error
    except (TypeError, AttributeError, IndexError, ArithmeticError, RecursionError, StopIteration, csv.Error) as error:
        raise kind(f"{where}: damaged, or written by something else ({' '.join(str(error).split())[:160]})") from error
