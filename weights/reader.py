"""Bytes from file to parameter: each tensor copied or cast once, out of a mapping of the file into memory of its own.

The mapping is gone when the load is done, so that a file that is cut off, overwritten or replaced during a run cannot change or crash it.
"""

import mmap
import os
from collections.abc import Mapping
from contextlib import ExitStack
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor

from .errors import WeightsError
from .header import Header, identity
from .parts import Piece

TORCH_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
CHUNK = 2**22  # elements cast at a time, so that a copy to an aligned place stays small


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
    with ExitStack() as stack:
        mappings: dict[Path, mmap.mmap] = {}
        for header in headers:
            file = stack.enter_context(open_unchanged(header))
            # Copy-on-write, since torch wants writable memory; nothing is ever written.
            mappings[header.path] = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        result = {name: _parameter(mappings[piece.info.path], piece, shapes[name], dtype, device) for name, piece in pieces.items()}
    for header in headers:
        open_unchanged(header).close()
    return result


def _parameter(mapping: mmap.mmap, piece: Piece, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """One parameter in its own memory. The copies run on torch's threads."""
    count = shape.numel()
    if not count:
        return torch.empty(shape, dtype=dtype, device=device)
    stored = TORCH_TYPES[piece.info.dtype]
    start = piece.info.start + (piece.part[0] * count * stored.itemsize if piece.part else 0)
    if device.type != "cpu":
        # The smaller of the two types travels.
        source = _aligned(mapping, stored, count, start)
        return (source.to(dtype) if dtype.itemsize < stored.itemsize else source).to(device).to(dtype).view(shape)
    result = torch.empty(count, dtype=dtype)
    if stored == dtype:
        result.view(torch.uint8).copy_(_view(mapping, torch.uint8, count * stored.itemsize, start))
    else:
        for first in range(0, count, CHUNK):
            length = min(CHUNK, count - first)
            result[first : first + length].copy_(_aligned(mapping, stored, length, start + first * stored.itemsize))
    return result.view(shape)


def _aligned(mapping: mmap.mmap, dtype: torch.dtype, count: int, start: int) -> Tensor:
    """Numbers of the mapping, or a copy where they lie at odd places: files written before safetensors 0.3 have headers of any length."""
    if start % dtype.itemsize == 0:
        return _view(mapping, dtype, count, start)
    return _view(mapping, torch.uint8, count * dtype.itemsize, start).clone().view(dtype)


def _view(mapping: mmap.mmap, dtype: torch.dtype, count: int, start: int) -> Tensor:
    return torch.frombuffer(mapping, dtype=dtype, count=count, offset=start)


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
