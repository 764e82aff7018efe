"""The system's page cache, file by file: what it holds, dropping it, and copies that never enter it. Linux only."""

import ctypes
import mmap
import os
from pathlib import Path

BLOCK = 2**22  # bytes; O_DIRECT needs whole pages


def files_of(path: Path) -> list[Path]:
    """A file, or every safetensors file below a folder."""
    return sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]


def fill(path: Path) -> None:
    """Reads a file whole, so that the cache holds it."""
    with path.open("rb", buffering=0) as stream:
        block = bytearray(2**20)
        while stream.readinto(block):
            pass


def cached(path: Path) -> float:
    """The part of a file's pages in the cache, 0..1. Does not read the file. Raises OSError where the system does not tell."""
    size = path.stat().st_size
    pages = -(-size // mmap.PAGESIZE)
    if not pages:
        return 0.0
    held = (ctypes.c_ubyte * pages)()
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as area:
        start = ctypes.c_char.from_buffer(area)
        failed = libc.mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(size), held)
        del start
        if failed:
            raise OSError(ctypes.get_errno(), "mincore")
    return sum(one & 1 for one in held) / pages


def drop(path: Path) -> float:
    """Drops a file from the cache and returns the part of it that stayed (what another process has mapped, or a file system in memory)."""
    with path.open("rb") as file:
        os.fsync(file.fileno())  # pages that are not yet on the disk cannot be dropped
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return cached(path)


def copy_past_cache(source: Path, target: Path) -> None:
    """Writes a copy with O_DIRECT, so that it is on the disk and not in the cache. Raises OSError where the file system cannot."""
    size = source.stat().st_size
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_DIRECT, 0o600)
    try:
        with source.open("rb", buffering=0) as file, mmap.mmap(-1, BLOCK) as block:  # mmap: O_DIRECT takes memory that begins with a page
            while got := file.readinto(block):
                os.writev(descriptor, [memoryview(block)[: -(-got // mmap.PAGESIZE) * mmap.PAGESIZE]])
        os.ftruncate(descriptor, size)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_cold(path: Path) -> None:
    """Takes a file, or all in a folder, out of the cache: dropped, else replaced by a copy that never was in it.

    Raises OSError that says why a file cannot be made cold.
    """
    for file in files_of(path):
        if drop(file) <= 0.01:
            continue
        copy = file.with_name(file.name + ".cold")
        try:
            copy_past_cache(file, copy)
            os.replace(copy, file)
        except OSError as error:
            copy.unlink(missing_ok=True)
            raise OSError(f"{file}: {cached(file):.0%} of it stays in the page cache, and O_DIRECT fails ({error.strerror})") from None
        if (left := cached(file)) > 0.01:
            raise OSError(f"{file}: {left:.0%} of it stays in the page cache, even written anew with O_DIRECT")
