"""Between host and device without waiting: pinned copies to it, and numbers that come back when the device has them.

Everything that a run reads back as a Python number passes here, so that no step waits for the device.
"""

import torch
from torch import Tensor

from analogist.run.denoise import not_finite
from analogist.run.result import SamplingError


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A host's tensor on a device. For a CUDA device it is pinned first, so that the copy runs beside what was asked before."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Arriving:
    """Truth values on their way from a device to the host. flags: bool [flag]."""

    def __init__(self, flags: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._flags = flags
        if flags.device.type == "cuda":
            self._flags = torch.empty(flags.shape, dtype=torch.bool, pin_memory=True, device="cpu")
            self._flags.copy_(flags, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    @property
    def here(self) -> bool:
        """Whether they can be read without waiting. Only CUDA is asked; on other devices they are read at once."""
        return self._event is None or self._event.query()

    def read(self) -> list[bool]:
        """The values; waits where they are not here yet."""
        if self._event is not None:
            self._event.synchronize()
        return self._flags.tolist()


class FiniteCheck:
    """Whether the latents of a run stay finite, looked at once a step.

    On a CUDA device a step may have ended before its answer is here; then the error comes in a later step or at the end, and names
    the step at which it happened. dtype: what the networks compute in.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._waiting: list[tuple[int, int, Arriving]] = []

    def look(self, z: Tensor, step: int, t: int) -> None:
        """Asks about the latents after a step, and reads every answer that is here. Raises SamplingError as `read`."""
        self._waiting.append((step, t, Arriving(torch.isfinite(z).all()[None])))
        self.read(wait=False)

    def read(self, *, wait: bool) -> None:
        """Reads answers in the order of the steps. Raises SamplingError for the first step with NaN or infinite latents."""
        while self._waiting and (wait or self._waiting[0][2].here):
            step, t, finite = self._waiting.pop(0)
            if not all(finite.read()):
                self._waiting.clear()
                raise SamplingError(not_finite(step, t, self.dtype))
