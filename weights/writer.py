"""Writes a safetensors file tensor by tensor, completely or not at all; never holds more than one tensor in memory.

Source: the safetensors format, https://github.com/huggingface/safetensors.
"""

import contextlib
import ctypes
import json
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from .errors import WeightsError
from .header import ITEM_SIZE
from .reader import OTHER_TYPES, TORCH_TYPES

CODES = {dtype: code for code, dtype in {**TORCH_TYPES, **OTHER_TYPES}.items()}


@dataclass(frozen=True)
class Planned:
    """A tensor to be written. make: called when its turn comes; returns the tensor in this shape and type."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    make: Callable[[], Tensor]

    @property
    def bytes(self) -> int:
        """Its size on disk."""
        return prod(self.shape) * ITEM_SIZE[CODES[self.dtype]]


def write(path: Path, planned: Sequence[Planned], *, progress: Callable[[int], object] | None = None) -> int:
    """Writes a temporary file beside the path and renames it; returns its size in bytes. progress: called with the bytes of each tensor.

    Raises WeightsError, with the reason, if it cannot be written; nothing is left behind then.
    """
    twice = len(planned) - len({plan.name for plan in planned})
    if twice:
        raise WeightsError(f"{path}: {twice} names would be in it twice")
    entries, end = {}, 0
    for plan in planned:
        entries[plan.name] = {"dtype": CODES[plan.dtype], "shape": list(plan.shape), "data_offsets": [end, end + plan.bytes]}
        end += plan.bytes
    header = json.dumps({"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # aligns the tensors
    temporary = path.parent / f".analogist-{secrets.token_hex(8)}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for plan in planned:
                tensor = plan.make().contiguous()
                if tuple(tensor.shape) != plan.shape or tensor.dtype != plan.dtype:
                    raise WeightsError(
                        f"{plan.name}: {list(tensor.shape)} {tensor.dtype} instead of {list(plan.shape)} {plan.dtype}"
                    )
                if plan.bytes:
                    file.write(memoryview((ctypes.c_char * plan.bytes).from_address(tensor.data_ptr())).cast("B"))
                if progress is not None:
                    progress(plan.bytes)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise WeightsError(f"{path}: cannot be written ({error.strerror or error}); nothing was left behind") from None
        raise
    return 8 + len(header) + end
