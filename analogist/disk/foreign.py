"""Reading files that other programs wrote: byte-order marks, names in both forms of Unicode, content of an unexpected kind.

Also writing text that plain UTF-8 cannot hold, such as file names that are not UTF-8.
"""

import contextlib
import csv
import errno
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from analogist.disk.writing import shown

_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}

MAX_BYTES = 64 * 2**20  # of a text file that somebody gives
MAX_CHARACTERS = 100_000  # of a text that somebody gives, such as a prompt; text encoders read about 75 words of it


def decoded(raw: bytes) -> str:
    """Decodes UTF-8, or UTF-16 and UTF-32 with a byte-order mark; the mark is removed. Raises UnicodeDecodeError."""
    return raw.decode(next((encoding for mark, encoding in _MARKS.items() if raw.startswith(mark)), "utf-8"))


def read_text(path: str | os.PathLike[str]) -> str:
    """A whole text file, decoded as by `decoded`. Raises UnicodeDecodeError, and OSError also for more than MAX_BYTES: a file given by
    mistake, or one without an end such as /dev/zero.
    """
    with open(path, "rb") as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise OSError(errno.EFBIG, f"larger than {MAX_BYTES:,} bytes, which no file of its kind is")
    return decoded(raw)


def encoded(text: str) -> bytes:
    """Encodes as UTF-8. Half characters, as in file names that are not UTF-8, become escapes such as \\udce9, which JSON reads back."""
    return text.encode("utf-8", "backslashreplace")


def text_problem(text: str) -> str | None:
    """Why a text cannot be used, to follow the text's name in a message; None if it can: too long, or no valid Unicode.

    Text that is no valid Unicode holds half of a character (a "lone surrogate"). It comes from bytes on a command line that are not
    UTF-8, or from a lone escape such as \\ud83d in JSON.
    """
    if len(text) > MAX_CHARACTERS:
        return f"has {len(text):,} characters, at most {MAX_CHARACTERS:,} are allowed; it begins {text[:40]!a}"
    at = next((i for i, character in enumerate(text) if "\ud800" <= character <= "\udfff"), None)
    if at is None:
        return None
    return f"is not valid Unicode text at character {at + 1}: {text[max(at - 20, 0) : at + 20]!a}; give it as UTF-8"


def composed(text: str) -> str:
    """The text with its letters composed (Unicode's NFC), so that names from different systems can be compared."""
    return unicodedata.normalize("NFC", text)


def existing(path: str | os.PathLike[str]) -> Path:
    """The path if it exists, else an existing path that differs only in Unicode normalisation, else the path as given."""
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
    """Turns errors from reading a file's content into errors that name the file; values of unexpected types become such errors too."""
    where = shown(path)
    try:
        yield
    except ValueError as error:
        if where in str(error):
            raise
        raise (kind if not isinstance(error, kind) else type(error))(f"{where}: {error}") from error
    except KeyError as error:
        raise kind(f"{where}: damaged, or written by another program: {error} is missing") from error
    except (TypeError, AttributeError, IndexError, ArithmeticError, RecursionError, StopIteration, csv.Error) as error:
        raise kind(f"{where}: damaged, or written by another program ({' '.join(str(error).split())[:160]})") from error
