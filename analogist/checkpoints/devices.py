"""Which device and dtype the networks compute in."""

import warnings

import torch

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
TF32 = "tf32"  # float32 everywhere, but products in the UNet keep 10 of 23 bits of the fraction: faster on the tensor cores of a GPU


def pick_device(device: str | torch.device | None) -> torch.device:
    """The requested device; None: cuda, else mps, else cpu. Raises ValueError if it is not available."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r}: give cpu, cuda, cuda:1 or mps") from error
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(chosen.type, False):
        raise ValueError(f"device {device!r} is not available on this machine; use 'cpu', or leave the device out")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {device!r}: this machine has {torch.cuda.device_count()} CUDA device(s), numbered from 0")
    return chosen


def pick_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The requested dtype; None: float16 on cuda, else float32; "tf32" (on cuda only): float32, whose products are rounded to TF32."""
    if dtype is None:
        return torch.float16 if device.type == "cuda" else torch.float32
    if dtype == TF32:
        if device.type != "cuda":
            raise ValueError(f"dtype 'tf32' on {device}: only CUDA devices compute in it; use float32")
        return torch.float32
    chosen = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in DTYPES.values():
        raise ValueError(f"dtype {dtype!r}: allowed are {', '.join(DTYPES)} and {TF32}")
    return chosen


def precision(dtype: torch.dtype, *, tf32: bool) -> str:
    """The name of what a model computes in, as records and content keys hold it. tf32: of its UNet."""
    return TF32 if tf32 else str(dtype).removeprefix("torch.")


def bfloat16_units() -> bool | None:
    """Whether this machine's processor computes in bfloat16 itself; None: this torch does not tell."""
    ask = getattr(torch.cpu, "get_capabilities", None)
    if ask is None:
        return None
    found = ask()
    return any(found.get(name, False) for name in ("avx512_bf16", "avx10_1", "amx_bf16", "bf16", "sve_bf16"))


def warn_if_slow(device: torch.device, dtype: torch.dtype) -> None:
    """Warns of bfloat16 on a processor without units for it, where float32 is faster."""
    if device.type == "cpu" and dtype == torch.bfloat16 and bfloat16_units() is False:
        warnings.warn(
            "bfloat16 on a processor without units for it: float32 is faster here (bfloat16 still takes half of the memory)",
            UserWarning, stacklevel=3,
        )  # fmt: skip
