"""A content key of a checkpoint: equal for the same bytes under any path, different for different weights.

It is a SHA-256 over all tensors that are used, sorted by part and name on disk. Per tensor: part, name, type, shape, then all bytes of a
tensor of at most 4 KiB (biases, norms), or four blocks of 1 KiB spread evenly from first to last byte of a larger one. Then come the
settings that shapes do not determine (configs, schedule, tokenizer files). About 4 MB of a 4 GB checkpoint are read. Training or merging
changes nearly every number of a tensor, so two different checkpoints with the same key would have to agree in thousands of sampled
numbers. Only a change to a few single numbers outside all sampled blocks goes unnoticed.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from io import FileIO
from pathlib import Path

from .errors import WeightsError
from .header import Header, TensorInfo
from .reader import open_unchanged

WHOLE = 4096
BLOCK = 1024
BLOCKS = 4


def _samples(file: FileIO, info: TensorInfo) -> bytes:
    size = info.stop - info.start
    if size <= WHOLE:
        ranges = [(info.start, size)]
    else:
        ranges = [(info.start + i * (size - BLOCK) // (BLOCKS - 1), BLOCK) for i in range(BLOCKS)]
    result = b""
    for start, length in ranges:
        file.seek(start)
        result += file.read(length)
    return result


def fingerprint(
    parts: Mapping[str, list[TensorInfo]], headers: list[Header], settings: Mapping[str, object], tokenizers: Sequence[Path]
) -> str:
    """The key, 64 hexadecimal digits. parts: part -> its tensors on disk; settings: JSON-ready.

    Raises WeightsError if a file changed after its header was read.
    """
    key = hashlib.sha256(b"analogist checkpoint 1\n")
    try:
        with ExitStack() as stack:
            files = {header.path: stack.enter_context(open_unchanged(header)) for header in headers}
            for part in sorted(parts):
                for info in sorted(parts[part], key=lambda info: info.name):
                    key.update(json.dumps([part, info.name, info.dtype, info.shape]).encode())
                    key.update(_samples(files[info.path], info))
        key.update(json.dumps(settings, sort_keys=True).encode())
        for file in (file for folder in tokenizers for file in sorted(folder.iterdir())):
            if file.is_file():
                key.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    except OSError as error:
        raise WeightsError(f"{error.filename or 'the checkpoint'}: cannot be read ({error.strerror})") from None
    return key.hexdigest()
