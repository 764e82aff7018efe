"""Bytes from the host to another device, copied while the next ones are read.

Place in the flow: reader.py fills one of two buffers; the carrier copies it to the device while reader.py fills the other.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Delivery:
    """Numbers in a buffer: of the type `dtype`, from byte `offset`, for `target` (flat, on the device; cast there if its type differs)."""

    target: Tensor
    offset: int
    dtype: torch.dtype

    @property
    def stop(self) -> int:
        """The first byte after it."""
        return self.offset + self.target.numel() * self.dtype.itemsize

    def hand_over(self, there: Tensor) -> None:
        """Puts the numbers in their place. there: the buffer's bytes on the device."""
        self.target.copy_(there[self.offset : self.stop].view(self.dtype))


class Carrier:
    """Two buffers of `size` bytes on the host, whose bytes are copied to a device. For one thread at a time.

    On a CUDA device the buffers are pinned and the copies run on a stream of their own, so that reading does not wait for them.
    Other devices copy at once.
    """

    def __init__(self, device: torch.device, size: int) -> None:
        self.device, self.size = device, size
        cuda = device.type == "cuda"
        self._buffers = [torch.empty(size, dtype=torch.uint8, pin_memory=cuda, device="cpu") for _ in range(2)]
        self._left: list[torch.cuda.Event | None] = [None, None]
        self._turn = 0
        self._stream = torch.cuda.Stream(device) if cuda else None
        if self._stream is not None:  # the targets' memory may still be in use by what was asked for before
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def buffer(self) -> Tensor:
        """The buffer whose turn it is, uint8 [size]; waits until the bytes that it held have left."""
        event = self._left[self._turn]
        if event is not None:
            event.synchronize()
        return self._buffers[self._turn]

    def carry(self, deliveries: list[Delivery]) -> None:
        """Begins to copy what `buffer` holds to its targets; the other buffer is then next."""
        used = self._buffers[self._turn][: max(delivery.stop for delivery in deliveries)]
        with torch.cuda.stream(self._stream):  # None: no effect
            there = used.to(self.device, non_blocking=self._stream is not None)
            for delivery in deliveries:
                delivery.hand_over(there)
            if self._stream is not None:
                self._left[self._turn] = event = torch.cuda.Event()
                event.record(self._stream)
        self._turn = 1 - self._turn

    def finish(self) -> None:
        """Waits until everything has arrived."""
        if self._stream is not None:
            self._stream.synchronize()
