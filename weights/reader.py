"""Bytes from file to parameter: each tensor once, into memory of its own.

The bytes are read into the place where they stay, not mapped: a file that is cut off or replaced meanwhile ends in a short
read, which is an error, where a mapped page would end the process; and nothing refers to the file afterwards.
"""

import ctypes
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from io import FileIO

import torch
from torch import Tensor

from .errors import WeightsError
from .header import Header, identity
from .parts import Piece

TORCH_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
# Elements cast at a time: stays inside a core's cache, and below the size at which torch would split the copy over threads again.
CAST_CHUNK = 32_768
DEVICE_CHUNK = 16 * 2**20
READ_LIMIT = 2**30  # a call moves less than 2 GiB on every system


def _fill(file: FileIO, tensor: Tensor, start: int) -> None:
    """Fill a contiguous CPU tensor with the file's bytes from `start`."""
    size = tensor.numel() * tensor.element_size()
    view = memoryview((ctypes.c_char * size).from_address(tensor.data_ptr())).cast("B") if size else memoryview(b"")
    file.seek(start)
    done = 0
    while done < size:
        count = file.readinto(view[done : done + READ_LIMIT])
        if not count:
            raise WeightsError(f"{file.name}: the file became shorter while it was read; fetch it again")
        done += count


def _read(file: FileIO, piece: Piece, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """One parameter in its own memory."""
    start, stored = piece.info.start, TORCH_TYPES[piece.info.dtype]
    result = torch.empty(shape, dtype=dtype, device=device)
    if piece.part:
        start += piece.part[0] * result.numel() * stored.itemsize
    if stored == dtype and device.type == "cpu":
        _fill(file, result, start)
        return result
    flat = result.view(-1)
    chunk = CAST_CHUNK if device.type == "cpu" else DEVICE_CHUNK
    staging = torch.empty(min(chunk, flat.numel()), dtype=stored, pin_memory=device.type == "cuda")
    for first in range(0, flat.numel(), chunk):
        goal = flat[first : first + chunk]
        source = staging[: goal.numel()]
        _fill(file, source, start + first * stored.itemsize)
        goal.copy_(source)
    return result


def read_all(
    pieces: Mapping[str, Piece],
    shapes: Mapping[str, torch.Size],
    headers: list[Header],
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, Tensor]:
    """All parameters, in the dtype and on the device asked for.

    Raises WeightsError where a file is no longer the one whose header was read, or stops being it meanwhile.
    """
    known = {header.path: header for header in headers}

    def one(name: str) -> Tensor:
        piece = pieces[name]
        with open_unchanged(known[piece.info.path]) as file:
            return _read(file, piece, shapes[name], dtype, device)

    # Largest first, so that the threads finish together. Several help a copy to the CPU only; a device takes one stream of
    # copies.
    names = sorted(pieces, key=lambda name: -pieces[name].info.count)
    workers = min(4, torch.get_num_threads()) if device.type == "cpu" else 1
    if workers > 1:
        with ThreadPoolExecutor(workers) as pool:
            tensors = list(pool.map(one, names))
    else:
        tensors = [one(name) for name in names]
    for header in headers:
        open_unchanged(header).close()
    return dict(zip(names, tensors, strict=True))


def open_unchanged(header: Header) -> FileIO:
    """The file of a header, unbuffered. Raises WeightsError where it is no longer the one that was looked at."""
    try:
        file = open(header.path, "rb", buffering=0)
    except OSError as error:
        raise WeightsError(f"{header.path}: cannot be read ({error.strerror})") from None
    if identity(os.fstat(file.fileno())) != header.identity:
        file.close()
        raise WeightsError(f"{header.path}: the file changed after its header was read; open the checkpoint again")
    return file
