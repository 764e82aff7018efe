"""Where captured tensors are stored during the run: in memory, or in safetensors files that grow step by step."""

import json
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from analogist.attention.capture.storage import FORMAT

_TYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int32: "I32"}


class Memory:
    """One tensor [step branch image ...] on the CPU, filled step by step."""

    lost = ""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.shape, self.dtype = shape, dtype
        self.data: Tensor | None = None

    def write(self, step: int, heads: slice | None, tensor: Tensor) -> None:
        """Copies one step's tensor [branch image (head) ...] to its place; heads: the slice of the head axis that it covers."""
        if self.data is None:
            self.data = torch.empty(self.shape, dtype=self.dtype, device="cpu")
        place = self.data[step] if heads is None else self.data[step, :, :, heads]
        place.copy_(tensor)

    def read(self, steps: int) -> Tensor:
        """The first steps."""
        return torch.empty((0, *self.shape[1:]), dtype=self.dtype, device="cpu") if self.data is None else self.data[:steps]

    def finish(self, steps: int, about: dict) -> None:
        """Does nothing: the tensor stays in memory."""


class GrowingFile:
    """A safetensors file of one tensor [step branch image ...], filled step by step; complete once `finish` has run.

    Until then its name ends in .part. A failed write (a full disk) is recorded in `lost`, never raised, so that the
    run goes on. Raises ValueError if the file already exists or cannot be created.
    """

    def __init__(self, path: Path, name: str, shape: tuple[int, ...], dtype: torch.dtype, about: dict) -> None:
        self.path, self.part = path, path.with_name(path.name + ".part")
        self.name, self.shape, self.dtype, self.lost = name, shape, dtype, ""
        if path.exists():
            raise ValueError(f"spill: {path} already exists; give every run its own folder")
        head = self._header(shape[0], about)
        self.room = -(-len(head) // 8) * 8  # the final header has at most as many steps, so it is never longer
        try:
            with open(self.part, "xb") as file:
                file.write(self._padded(head))
        except FileExistsError:
            raise ValueError(
                f"spill: {self.part} is being written by another run, or was left by one that was killed; "
                "give every run its own folder"
            ) from None
        except OSError as error:
            self.part.unlink(missing_ok=True)
            raise ValueError(f"spill: {self.part} cannot be written ({error.strerror})") from error

    def _bytes(self, shape: tuple[int, ...]) -> int:
        return torch.Size(shape).numel() * self.dtype.itemsize

    def _header(self, steps: int, about: dict) -> bytes:
        shape = (steps, *self.shape[1:])
        entry = {"dtype": _TYPES[self.dtype], "shape": shape, "data_offsets": [0, self._bytes(shape)]}
        said = {"format": FORMAT, "maps": json.dumps(about), "lost": "{}"}
        return json.dumps({"__metadata__": said, self.name: entry}).encode()

    def _padded(self, head: bytes) -> bytes:
        return self.room.to_bytes(8, "little") + head.ljust(self.room)

    def write(self, step: int, heads: slice | None, tensor: Tensor) -> None:
        """Writes one step's tensor [branch image (head) ...] to its place; heads: the slice of the head axis that it covers."""
        if self.lost:
            return
        tensor = tensor.detach().to("cpu", self.dtype).contiguous()
        start = 8 + self.room + step * self._bytes(self.shape[1:])
        if heads is None:
            pieces = [(start, tensor)]
        else:  # a slice of heads is one piece per branch and image
            offset, one = heads.start * self._bytes(self.shape[4:]), self._bytes(self.shape[3:])
            rows = [(branch, image) for branch in range(self.shape[1]) for image in range(self.shape[2])]
            pieces = [(start + i * one + offset, tensor[row]) for i, row in enumerate(rows)]
        try:
            with open(self.part, "r+b") as file:
                for place, piece in pieces:
                    file.seek(place)
                    file.write(memoryview(piece.reshape(-1).view(torch.uint8).numpy().data))
        except OSError as error:
            self.lost = f"{self.path}: {error.strerror or error}"

    def read(self, steps: int) -> Tensor:
        """The first steps, memory-mapped."""
        shape = (steps, *self.shape[1:])
        if not steps or not self._bytes(shape):
            return torch.empty(shape, dtype=self.dtype, device="cpu")
        path = self.part if self.part.exists() else self.path
        # copy-on-write: writing into the tensor does not change the file
        raw = np.memmap(path, np.uint8, "c", 8 + self.room, (self._bytes(shape),))
        return torch.from_numpy(raw).view(self.dtype).reshape(shape)

    def finish(self, steps: int, about: dict) -> None:
        """Truncates the file to the complete steps and gives it its final name; without any, deletes it."""
        if not self.part.exists():
            return
        if not steps:
            self.part.unlink()
            return
        try:
            with open(self.part, "r+b") as file:
                file.write(self._padded(self._header(steps, about)))
                file.truncate(8 + self.room + self._bytes((steps, *self.shape[1:])))
            # No fsync: there are hundreds of files, and a crash of the machine loses the run anyway.
            os.replace(self.part, self.path)
        except OSError as error:
            self.lost = self.lost or f"{self.path}: {error.strerror or error}"
