"""Bytes from file to parameter: read (never memory-mapped) into the model's own memory, and cast on the way if needed.

Why no memory mapping: if a mapped file is truncated, the next access to its pages kills the process (SIGBUS), during the load and, if the
parameters stay mapped, in any later run. A short read is an ordinary error. Once a part is loaded, its file is never read again: it may be
truncated, overwritten or replaced.

Why it is still fast: a few threads read at once (the kernel copies without holding Python's GIL), into memory that is allocated in huge
pages (one page fault instead of 512). Numbers are cast in slices that are still in the processor's cache. For another device the threads
read into buffers that are copied to it as they fill up (carrier.py).
"""

import contextlib
import mmap
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor

from .carrier import Carrier, Delivery
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
# Not weights, but converting keeps a single file's counters and position ids, and LoRA files may store alpha as an integer.
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
THREADS = 4  # two threads already read as fast as most memory can be written
AREA = 2**26  # bytes per allocation: small enough that parameters replaced later free their memory
HUGE = 2**21  # bytes of a huge page on most machines
READ = 2**24  # bytes per read without a cast
CAST = 2**20  # bytes per read with a cast
GRAIN = 2**15  # numbers that torch casts in one thread; its own threads would compete with ours
ALIGNED = 64  # bytes; for vector instructions


@dataclass(frozen=True)
class _Read:
    """Reads the numbers of `into` (flat), stored in the type `stored`, from byte `start` of a file. scale: what they are multiplied by,
    one number or one per row (rows are equally long). `run` is for the CPU alone; `send` takes what is on other devices.
    """

    file: FileIO
    start: int
    stored: torch.dtype
    into: Tensor
    scale: Tensor | None = None

    def run(self) -> None:
        """Read, and cast if the types differ. Raises WeightsError if the file ends too early or cannot be read."""
        if self.stored == self.into.dtype and self.scale is None:
            fill(self.file, self.start, self.into)
            return
        numbers = torch.empty(self.into.numel(), dtype=self.stored, device="cpu")
        fill(self.file, self.start, numbers)
        if self.scale is not None:
            rows = numbers.view(self.scale.numel(), -1).float() * self.scale.view(-1, 1)
            self.into.copy_(rows.view(-1))
            return
        for source, target in zip(numbers.split(GRAIN), self.into.split(GRAIN), strict=True):
            target.copy_(source)

    def slices(self, goal: torch.dtype) -> "Iterator[_Read]":
        """This read in pieces for several threads; a scaled one stays whole. goal: the type that the numbers get on the CPU."""
        if self.scale is not None:
            yield self
            return
        count = (READ if self.stored == goal else CAST) // self.stored.itemsize
        for i, into in enumerate(self.into.split(count)):
            yield _Read(self.file, self.start + i * count * self.stored.itemsize, self.stored, into)

    @property
    def travels_as(self) -> torch.dtype:
        """The type in which the numbers go to another device: the smaller of the two."""
        return self.into.dtype if self.into.dtype.itemsize < self.stored.itemsize or self.scale is not None else self.stored


def read_all(
    pieces: Mapping[str, Piece],
    shapes: Mapping[str, torch.Size],
    headers: list[Header],
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, Tensor]:
    """All parameters, in the given dtype and on the given device.

    Raises WeightsError if a file changed after its header was read, changes during the load, or cannot be read.
    """
    with ExitStack() as stack:
        files: dict[Path, FileIO] = {header.path: stack.enter_context(open_unchanged(header)) for header in headers}
        ordered = sorted(pieces, key=lambda name: (str(pieces[name].info.path), _start(pieces[name])))
        if device.type == "cpu":
            result = dict(zip(ordered, allocate([shapes[name] for name in ordered], dtype), strict=True))
        else:
            result = {name: torch.empty(shapes[name], dtype=dtype, device=device) for name in ordered}
        reads = [_reading(files, pieces[name], result[name]) for name in ordered]
        if device.type == "cpu":
            _run(reads)
        else:
            send(reads, lambda size: Carrier(device, size))
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
    """What a piece's numbers are multiplied by: one number, or one per row. Raises WeightsError if one is not finite."""
    scale = read_tensor(file, info).view(-1)
    if not scale.isfinite().all():
        raise WeightsError(f"{info.path}: {info.name} holds NaN or infinity")
    return scale.chunk(part[1])[part[0]] if part and scale.numel() > 1 else scale


def read_tensor(file: FileIO, info: TensorInfo) -> Tensor:
    """One tensor as float32. Raises WeightsError if the file ends too early, cannot be read, or torch lacks the type."""
    stored = (TORCH_TYPES | OTHER_TYPES).get(info.dtype)
    if stored is None:
        raise WeightsError(f"{info.path}: {info.name} has the type {info.dtype}, which cannot be read")
    result = torch.empty(info.shape, dtype=torch.float32, device="cpu")
    _Read(file, info.start, stored, result.view(-1)).run()
    return result


def read_piece(files: Mapping[Path, FileIO], piece: Piece) -> Tensor:
    """One of our parameters as float32, scaled. Raises WeightsError as read_tensor."""
    if piece.info.dtype not in TORCH_TYPES:
        raise WeightsError(f"{piece.info.path}: {piece.info.name} has the type {piece.info.dtype}, which weights cannot have")
    result = torch.empty(piece.shape, dtype=torch.float32, device="cpu")
    _reading(files, piece, result).run()
    return result


def _threads(tasks: int) -> int:
    """As many as torch may use, at most THREADS."""
    return max(1, min(THREADS, torch.get_num_threads(), tasks)) if hasattr(os, "preadv") else 1


def _run(reads: list[_Read]) -> None:
    """All reads, on several threads; the first error stops them."""
    slices = [part for read in reads if read.into.numel() for part in read.slices(read.into.dtype)]
    count = _threads(len(slices))
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


def send(reads: list[_Read], carrier: Callable[[int], Carrier]) -> None:
    """All reads, whose `into` lie on another device, on several threads; the first error stops them.

    carrier: makes one with buffers of so many bytes; each thread has its own.
    """
    parcels = deque(_parcels(reads))
    if not parcels:
        return
    size = max(deliveries[-1].stop for _, deliveries in parcels)
    carriers = [carrier(size) for _ in range(_threads(len(parcels)))]

    def work(own: Carrier) -> None:
        try:
            while True:
                try:
                    parts, deliveries = parcels.popleft()
                except IndexError:
                    break
                buffer = own.buffer()
                for part, delivery in zip(parts, deliveries, strict=True):
                    here = buffer[delivery.offset : delivery.stop].view(delivery.dtype)
                    _Read(part.file, part.start, part.stored, here, part.scale).run()
                own.carry(deliveries)
        except BaseException:
            parcels.clear()  # the other threads stop after the parcel at which they are
            raise
        finally:
            own.finish()

    with ThreadPoolExecutor(len(carriers), "read-weights") as pool:
        for done in [pool.submit(work, own) for own in carriers]:
            done.result()


def _parcels(reads: list[_Read]) -> Iterator[tuple[list[_Read], list[Delivery]]]:
    """Reads that travel in one buffer of about READ bytes, with their places in it, in the order of the reads."""
    parts: list[_Read] = []
    deliveries: list[Delivery] = []
    for part in (part for read in reads if read.into.numel() for part in read.slices(read.travels_as)):
        offset = -(-deliveries[-1].stop // ALIGNED) * ALIGNED if deliveries else 0
        if deliveries and offset + part.into.numel() * part.travels_as.itemsize > READ:
            yield parts, deliveries
            parts, deliveries, offset = [], [], 0
        parts.append(part)
        deliveries.append(Delivery(part.into, offset, part.travels_as))
    if parts:
        yield parts, deliveries


def fill(file: FileIO, start: int, numbers: Tensor) -> None:
    """Fills a contiguous tensor on the CPU with the bytes that begin at `start`.

    Raises WeightsError if the file ends before the tensor is full, or cannot be read.
    """
    left = memoryview(numbers.view(-1).view(torch.uint8).numpy().data) if numbers.numel() else memoryview(b"")
    try:
        while left:
            got = _pread(file, left, start)
            if got == 0:
                raise WeightsError(f"{file.name}: the file was truncated while it was read; open the checkpoint again once it is complete")
            left, start = left[got:], start + got
    except OSError as error:
        raise WeightsError(f"{file.name}: cannot be read ({error.strerror})") from None


def _pread(file: FileIO, into: memoryview, start: int) -> int:
    """Reads at a given place and returns the number of bytes, possibly fewer than asked for; 0: the file ends there."""
    if hasattr(os, "preadv"):
        return os.preadv(file.fileno(), [into], start)
    file.seek(start)
    return file.readinto(into)


def allocate(shapes: list[torch.Size], dtype: torch.dtype) -> list[Tensor]:
    """Uninitialised tensors on the CPU. Neighbours share blocks of AREA bytes, freed together; a larger tensor has its own block."""
    sizes = [-(-shape.numel() * dtype.itemsize // ALIGNED) * ALIGNED for shape in shapes]
    result: list[Tensor] = []
    while len(result) < len(shapes):
        last = len(result) + 1
        while last < len(shapes) and sum(sizes[len(result) : last + 1]) <= AREA:
            last += 1
        area, offset = _area(sum(sizes[len(result) : last])), 0
        for shape, size in zip(shapes[len(result) : last], sizes[len(result) : last], strict=True):
            empty = torch.empty(shape, dtype=dtype, device="cpu")
            result.append(torch.frombuffer(area, dtype=dtype, count=shape.numel(), offset=offset).view(shape) if size else empty)
            offset += size
    return result


def _area(size: int) -> "mmap.mmap | bytearray":
    """Private memory of this process, in huge pages if the system has them."""
    if size == 0 or not hasattr(mmap, "MADV_HUGEPAGE"):
        return bytearray(size)
    if size >= HUGE:
        size = -(-size // HUGE) * HUGE  # only sizes that are a multiple of huge pages are aligned for them
    area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages is only slower
        area.madvise(mmap.MADV_HUGEPAGE)
    return area


def open_unchanged(header: Header) -> FileIO:
    """The file of a header, unbuffered. Raises WeightsError if it is no longer the one whose header was read."""
    try:
        file = open(header.path, "rb", buffering=0)
    except OSError as error:
        raise WeightsError(f"{header.path}: cannot be read ({error.strerror})") from None
    if identity(os.fstat(file.fileno())) != header.identity:
        file.close()
        raise WeightsError(f"{header.path}: the file changed after its header was read; open the checkpoint again")
    return file
