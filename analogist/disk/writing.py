"""Writing files whole or not at all, and folders to write into.

Pictures, records, tables and pages of a run go through `atomic_write`. Three kinds of file are written under a temporary name and
then renamed by their own writers: captured maps (attention/capture), the lab's training files (lab/state.py) and checkpoints
(weights/, which imports nothing of this package). The lab's logs grow by one line at a time.
"""

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


class OutputError(ValueError):
    """A file or folder cannot be written: the message names the path, the reason and what to do."""


def shown(path: object) -> str:
    """A path as one printable line for a message; quoted if it is empty or holds control characters."""
    text = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else str(path)
    return text if text and text.isprintable() else ascii(text)


def output_folder(path: str | os.PathLike[str]) -> Path:
    """Makes the folder and its parents if they are missing, checks that it is writable, and returns it.

    Raises OutputError if a part of the path is a file (the message names it), or if making or writing is not allowed.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        in_the_way = _file_in_the_way(folder)
        reason = _reason(error) if in_the_way is None else f"{shown(in_the_way)} is a file; choose another folder"
        raise OutputError(f"cannot make the folder {shown(folder)}: {reason}") from error
    except ValueError as error:  # a null byte in the name
        raise OutputError(f"cannot make the folder {shown(folder)}: {error}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write into the folder {shown(folder)}: not allowed; choose another folder")
    return folder


def atomic_write(path: str | os.PathLike[str], content: bytes | Callable[[BinaryIO], object]) -> Path:
    """Writes a file whole or not at all: to a temporary name beside it, flushed to disk, then renamed over it.

    content: the bytes, or a function that writes them to the open binary file it is given.
    A symbolic link is followed. On any error, an interrupt included, the temporary file is removed and an older file
    stays as it was.
    Raises OutputError when the path cannot be written (a full disk, no such folder, not allowed, not a regular file);
    what `content` itself raises passes through.
    """
    asked = Path(path)
    try:
        target = Path(os.path.realpath(asked))
        target_exists, target_is_file = target.exists(), target.is_file()
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot write {shown(asked)}: {_reason(error)}") from error
    if target_exists and not target_is_file:  # never replace a device such as /dev/null by a file
        kind = "a folder" if target.is_dir() else "not a regular file"
        raise OutputError(f"cannot write {shown(asked)}: it is {kind}; give the path of a file")
    # Not based on the target's name, which may already be as long as the file system allows.
    temporary = target.parent / f".analogist-{secrets.token_hex(8)}.tmp"
    try:
        with open(temporary, "xb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        # An OSError about another file comes from `content` (say, a source that could not be read).
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            in_the_way = _file_in_the_way(target.parent)
            reason = f"{shown(in_the_way)} is a file, not a folder" if in_the_way is not None else _reason(error)
            raise OutputError(f"cannot write {shown(asked)}: {reason}; nothing was left behind") from error
        raise
    return asked


def _file_in_the_way(folder: Path) -> Path | None:
    """The outermost part of the path that exists and is not a folder, or None."""
    for part in [*reversed(folder.parents), folder]:
        with contextlib.suppress(OSError, ValueError):
            if part.exists() and not part.is_dir():
                return part
    return None


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return text[:1].lower() + text[1:]
