"""Bytes from file to parameter: read (never mapped) into memory of the model's own, cast on the way where another type is asked for.

Why no mapping: a mapped file that somebody cuts off ends the process at the next touch of its pages (SIGBUS), during the load, and during
every later run where parameters stay in the mapping. A read that comes back short is an error like any other, and once a part is loaded
nothing looks at its file again: it may be cut off, overwritten or replaced.

Why it is quick all the same: a few threads read at once (the kernel copies without Python's lock), into memory that the kernel gives out
in huge pages (one page fault instead of 512); numbers are cast in slices that still lie in the processor's cache.
"""

import contextlib
import mmap
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor

from .errors import WeightsError
from .header import Header, TensorInfo, identity
from .parts import Piece

TORCH_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
# No weights, but a single file written anew keeps its counters and positions, and LoRA files have whole alphas.
OTHER_TYPES = {
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
THREADS = 4  # two already read as fast as most memory writes
AREA = 2**26  # bytes given out at a time: small enough that parameters which are replaced later give their memory back
HUGE = 2**21  # bytes of a huge page on most machines
READ = 2**24  # bytes of one read into place
CAST = 2**20  # bytes of one read that is cast
GRAIN = 2**15  # numbers that torch casts without threads of its own, which would get in the way of those here
ALIGNED = 64  # bytes; vector instructions like it


@dataclass(frozen=True)
class _Read:
    """Bytes from `start` of a file that become the numbers of `into` (flat, on the CPU), which are stored as `stored`. scale: what they are
    multiplied by, one number or one for each of as many equal rows.
    """

    file: FileIO
    start: int
    stored: torch.dtype
    into: Tensor
    scale: Tensor | None = None

    def run(self) -> None:
        """Read, and cast where the types differ. Raises WeightsError where the file ends too early or cannot be read."""
        if self.stored == self.into.dtype and self.scale is None:
            fill(self.file, self.start, self.into)
            return
        numbers = torch.empty(self.into.numel(), dtype=self.stored)
        fill(self.file, self.start, numbers)
        if self.scale is not None:
            rows = numbers.view(self.scale.numel(), -1).float() * self.scale.view(-1, 1)
            self.into.copy_(rows.view(-1))
            return
        for source, target in zip(numbers.split(GRAIN), self.into.split(GRAIN), strict=True):
            target.copy_(source)

    def slices(self) -> "Iterator[_Read]":
        """The same in pieces that several threads can share; whole where it is scaled."""
        if self.scale is not None:
            yield self
            return
        count = READ // self.stored.itemsize if self.stored == self.into.dtype else CAST // self.stored.itemsize
        for i, into in enumerate(self.into.split(count)):
            yield _Read(self.file, self.start + i * count * self.stored.itemsize, self.stored, into)


def read_all(
    pieces: Mapping[str, Piece],
    shapes: Mapping[str, torch.Size],
    headers: list[Header],
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, Tensor]:
    """All parameters, in the dtype and on the device asked for.

    Raises WeightsError where a file is no longer the one whose header was read, stops being it meanwhile, or cannot be read.
    """
    with ExitStack() as stack:
        files: dict[Path, FileIO] = {header.path: stack.enter_context(open_unchanged(header)) for header in headers}
        ordered = sorted(pieces, key=lambda name: (str(pieces[name].info.path), _start(pieces[name])))
        if device.type == "cpu":
            result = dict(zip(ordered, allocate([shapes[name] for name in ordered], dtype), strict=True))
            _run([_reading(files, pieces[name], result[name]) for name in ordered])
        else:
            result = {name: _travel(files, pieces[name], shapes[name], dtype, device) for name in ordered}
    for header in headers:
        open_unchanged(header).close()
    return {name: result[name] for name in pieces}


def _start(piece: Piece) -> int:
    """Where a piece begins in its file."""
    return piece.info.start + (piece.part[0] * (piece.info.stop - piece.info.start) // piece.part[1] if piece.part else 0)


def _reading(files: Mapping[Path, FileIO], piece: Piece, into: Tensor) -> _Read:
    scale = None if piece.scale is None else read_scale(files[piece.scale.path], piece.scale, piece.part)
    return _Read(files[piece.info.path], _start(piece), TORCH_TYPES[piece.info.dtype], into.view(-1), scale)


def read_scale(file: FileIO, info: TensorInfo, part: tuple[int, int] | None) -> Tensor:
    """What a piece's numbers are multiplied by: one number, or one for each of its rows. Raises WeightsError where one is not finite."""
    scale = read_tensor(file, info).view(-1)
    if not scale.isfinite().all():
        raise WeightsError(f"{info.path}: {info.name} holds NaN or infinity")
    return scale.chunk(part[1])[part[0]] if part and scale.numel() > 1 else scale


def _travel(files: Mapping[Path, FileIO], piece: Piece, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """One parameter on another device; the smaller of the two types travels."""
    stored = TORCH_TYPES[piece.info.dtype]
    here = torch.empty(shape, dtype=dtype if dtype.itemsize < stored.itemsize or piece.scale is not None else stored)
    _run([_reading(files, piece, here)])
    return here.to(device).to(dtype)


def read_tensor(file: FileIO, info: TensorInfo) -> Tensor:
    """One tensor by itself, as float32. Raises WeightsError where the file ends too early, cannot be read, or torch lacks the type."""
    stored = (TORCH_TYPES | OTHER_TYPES).get(info.dtype)
    if stored is None:
        raise WeightsError(f"{info.path}: {info.name} has the type {info.dtype}, which is not read")
    result = torch.empty(info.shape, dtype=torch.float32)
    _Read(file, info.start, stored, result.view(-1)).run()
    return result


def read_piece(files: Mapping[Path, FileIO], piece: Piece) -> Tensor:
    """One of our parameters by itself, as float32, scaled. Raises WeightsError as read_tensor."""
    if piece.info.dtype not in TORCH_TYPES:
        raise WeightsError(f"{piece.info.path}: {piece.info.name} has the type {piece.info.dtype}, which holds no weights")
    result = torch.empty(piece.shape, dtype=torch.float32)
    _reading(files, piece, result).run()
    return result


def _run(reads: list[_Read]) -> None:
    """All reads, on as many threads as torch may use, THREADS at most; the first error ends them."""
    slices = [part for read in reads if read.into.numel() for part in read.slices()]
    count = min(THREADS, torch.get_num_threads(), len(slices)) if hasattr(os, "preadv") else 1
    if count <= 1:
        for part in slices:
            part.run()
        return
    with ThreadPoolExecutor(count, "read-weights") as pool:
        try:
            for done in [pool.submit(part.run) for part in slices]:
                done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def fill(file: FileIO, start: int, numbers: Tensor) -> None:
    """Fills a contiguous tensor on the CPU with the bytes that begin at `start`.

    Raises WeightsError where the file ends before the tensor is full, or cannot be read.
    """
    left = memoryview(numbers.view(-1).view(torch.uint8).numpy().data) if numbers.numel() else memoryview(b"")
    try:
        while left:
            got = _pread(file, left, start)
            if got == 0:
                raise WeightsError(f"{file.name}: the file became shorter while it was read; open the checkpoint again once it is whole")
            left, start = left[got:], start + got
    except OSError as error:
        raise WeightsError(f"{file.name}: cannot be read ({error.strerror})") from None


def _pread(file: FileIO, into: memoryview, start: int) -> int:
    """Bytes read at a place, possibly fewer than asked for; 0: the file ends there."""
    if hasattr(os, "preadv"):
        return os.preadv(file.fileno(), [into], start)
    file.seek(start)
    return file.readinto(into)


def allocate(shapes: list[torch.Size], dtype: torch.dtype) -> list[Tensor]:
    """Tensors of unset numbers on the CPU, neighbours in areas of AREA bytes (larger ones in an area each) that are given back together."""
    sizes = [-(-shape.numel() * dtype.itemsize // ALIGNED) * ALIGNED for shape in shapes]
    result: list[Tensor] = []
    while len(result) < len(shapes):
        last = len(result) + 1
        while last < len(shapes) and sum(sizes[len(result) : last + 1]) <= AREA:
            last += 1
        area, offset = _area(sum(sizes[len(result) : last])), 0
        for shape, size in zip(shapes[len(result) : last], sizes[len(result) : last], strict=True):
            empty = torch.empty(shape, dtype=dtype)
            result.append(torch.frombuffer(area, dtype=dtype, count=shape.numel(), offset=offset).view(shape) if size else empty)
            offset += size
    return result


def _area(size: int) -> "mmap.mmap | bytearray":
    """Memory of this process alone, in huge pages where the system has them."""
    if size == 0 or not hasattr(mmap, "MADV_HUGEPAGE"):
        return bytearray(size)
    if size >= HUGE:
        size = -(-size // HUGE) * HUGE  # only what is a multiple of huge pages is laid where huge pages fit
    area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages: slower, nothing else
        area.madvise(mmap.MADV_HUGEPAGE)
    return area


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
