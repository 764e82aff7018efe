"""The header of a safetensors file, read without trusting it.

First step of every load: nothing is allocated or trusted before names, types, shapes and byte ranges agree with the
file.
Source: the safetensors format, https://github.com/huggingface/safetensors (8 bytes little-endian length, JSON, tensor bytes).
"""

import json
import os
import stat
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from .errors import WeightsError

# Bytes per element, for each dtype code of the format.
ITEM_SIZE = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})

# The format's own limit. Headers of checkpoints have 30 KB to 600 KB; previews and tag lists in the metadata add some MB. Parsed JSON takes
# up to thirty times the memory of its text, so the text is limited, by this and by the file's size, before it is parsed.
MAX_HEADER = 100_000_000
MAX_DIMS = 8
MAX_SIDE = 2**31

PICKLE_SUFFIXES = frozenset({".ckpt", ".bin", ".pt", ".pth", ".pkl", ".pickle"})
CONVERT = (
    "convert it once, if you trust its source: "
    "python -c \"import sys, torch; from safetensors.torch import save_file; d = torch.load(sys.argv[1], map_location='cpu', "
    "weights_only=True); d = d.get('state_dict', d); save_file({k: v.contiguous().clone() for k, v in d.items() "
    "if hasattr(v, 'shape')}, sys.argv[2])\" IN OUT.safetensors"
)


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file. start, stop: byte offsets from the beginning of the file."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def count(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class Header:
    """The content of one safetensors file by its header, checked against its size. identity: device, inode, bytes, time of change."""

    path: Path
    tensors: dict[str, TensorInfo] = field(repr=False)
    metadata: dict[str, str] = field(repr=False)
    identity: tuple[int, int, int, int]


def identity(status: os.stat_result) -> tuple[int, int, int, int]:
    """Device, inode, bytes and time of change, which show whether a path still leads to the same unchanged file."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _pairs(items: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(items)
    if len(result) != len(items):
        seen: set[str] = set()
        twice = next(key for key, _ in items if key in seen or seen.add(key))
        raise WeightsError(f"the name {twice[:80]!r} occurs twice in one object of its header")
    return result


def _constant(text: str) -> object:
    raise WeightsError(f"its header holds {text}, which is not JSON")


def _is_count(value: object, limit: int) -> bool:
    return type(value) is int and 0 <= value <= limit


def sniff(path: Path, start: bytes, size: int) -> None:
    """Raises WeightsError if the suffix or the first bytes show that this is not a safetensors file."""
    why = "a pickle can run any code that its author put into it, so it is never opened"
    if size == 0:
        raise WeightsError(f"{path}: the file is empty; fetch it again")
    if start.startswith(b"PK\x03\x04"):
        raise WeightsError(f"{path}: this is a zip archive as torch.save writes it (a pickle), not safetensors; {why}; {CONVERT}")
    # Pickle protocols 2 to 5 begin with 0x80 and their number. A safetensors header length below 2**15 never looks like that, a larger one
    # only by coincidence of its low bytes.
    if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05" and start[2:3] in b"}].(cX\x8a\x8c\x95":
        raise WeightsError(f"{path}: this is a pickle, not safetensors; {why}; {CONVERT}")
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise WeightsError(f"{path}: {path.suffix} files are pickles; {why}; look for a .safetensors file of the same model, or {CONVERT}")
    if start.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path}: this is a Git-LFS pointer of {size} bytes, not the file; fetch it with `git lfs pull`")
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise WeightsError(f"{path}: this is a web page, not a checkpoint (a download that needed a login?); fetch the file itself")
    if text.startswith((b'{"error', b"{'error", b"invalid username", b"access to model", b"entry not found", b"repository not found")):
        raise WeightsError(f"{path}: this is a server's error message, not a checkpoint; fetch the file itself")
    if start.startswith(b"GGUF"):
        raise WeightsError(f"{path}: this is a GGUF file; only safetensors checkpoints are read")
    if size < 8 + 2:
        raise WeightsError(f"{path}: {size} bytes are too few for a safetensors file; fetch it again")


def read_header(path: Path | str) -> Header:
    """Names, types, shapes and byte ranges of a safetensors file; reads the header only.

    Raises WeightsError for anything but a complete, well-formed safetensors file, and says what the file looks like instead.
    """
    path = Path(path)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise WeightsError(f"{path}: this is a folder, not a .safetensors file")
        if not stat.S_ISREG(status.st_mode):
            raise WeightsError(f"{path}: this is not a regular file")
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            size = status.st_size
            start = file.read(64)
            sniff(path, start, size)
            length = int.from_bytes(start[:8], "little")
            if length > size - 8 or length > MAX_HEADER or length < 2:
                raise WeightsError(
                    f"{path}: its header claims {length} bytes, the whole file has {size} (the format allows {MAX_HEADER}); "
                    "it is not a safetensors file, or the download was cut off"
                )
            file.seek(8)
            text = file.read(length)
    except (OSError, ValueError) as error:
        if isinstance(error, WeightsError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(f"{path}: cannot be read ({reason})") from None
    try:
        tensors, metadata = parse_header(text, size, path)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    return Header(path, tensors, metadata, identity(status))


def parse_header(text: bytes, size: int, path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Tensors and metadata from a header's JSON; size: bytes of the whole file at path.

    Raises WeightsError unless every entry is well-formed and the byte ranges cover the rest of the file exactly once.
    """
    if text[:1] != b"{":
        raise WeightsError("not a safetensors file: its header does not begin with '{'")
    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=_pairs, parse_constant=_constant)
    except WeightsError:
        raise
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"not a safetensors file: its header is not JSON ({type(error).__name__})") from None
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise WeightsError("its header's __metadata__ is not an object of texts")

    data = 8 + len(text)
    tensors = {name: _entry(path, name, entry, data, size) for name, entry in entries.items()}
    end = data
    for info in sorted(tensors.values(), key=lambda info: (info.start, info.stop)):
        if info.start != end:
            kind = "overlaps the tensor before it" if info.start < end else "leaves a gap before it"
            raise WeightsError(f"the byte range of tensor {info.name[:80]!r} {kind}")
        end = info.stop
    if end != size:
        raise WeightsError(f"the tensors end at byte {end}, the file at byte {size}: the header does not describe this file")
    return tensors, metadata


def _entry(path: Path, name: str, entry: object, data: int, size: int) -> TensorInfo:
    short = repr(name[:80])
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise WeightsError(f"the header's entry for {short} must consist of dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_SIZE:
        raise WeightsError(f"tensor {short} has the type {str(dtype)[:20]!r}; known are {', '.join(ITEM_SIZE)}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMS or not all(_is_count(side, MAX_SIDE) for side in shape):
        raise WeightsError(f"tensor {short} has no valid shape")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_count(offset, 2**63) for offset in offsets):
        raise WeightsError(f"tensor {short} has no valid data_offsets")
    start, stop = data + offsets[0], data + offsets[1]
    if stop > size:
        raise WeightsError(f"the file has {size} bytes, but tensor {short} ends at byte {stop}: it was cut off; fetch it again")
    if stop - start != prod(shape) * ITEM_SIZE[dtype]:
        raise WeightsError(f"tensor {short} of shape {shape} and type {dtype} does not fill its {stop - start} bytes")
    return TensorInfo(path, name, dtype, tuple(shape), start, stop)
