"""A PNG file without metadata that does not affect its pixels, and its text chunks.

Pillow refuses a picture whose compressed text or colour profile is larger than 1 MB, but workflows and profiles often are.
Source: PNG specification, third edition (W3C 2025), sections 5 and 11.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_TEXT = 32 * 2**20  # most bytes of a text that is read, decompressed

_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_UNREAD = (*_TEXTS, b"iCCP", b"sPLT")
_LONGEST_KEYWORD = 79
_XMP, _EXIF = b"XML:com.adobe.xmp", b"Raw profile type exif"  # the texts that may contain the orientation


class TextTooLarge(ValueError):
    """A required text has more than MAX_TEXT bytes."""


def for_pixels(file: BinaryIO) -> io.BytesIO:
    """The PNG with only the chunks that its pixels and their orientation need; a truncated file stays truncated.

    Raises TextTooLarge for an EXIF or XMP text beyond MAX_TEXT.
    """
    out = io.BytesIO()
    out.write(SIGNATURE)
    for kind, data, whole in _chunks(file, (_XMP, _EXIF)):
        if kind not in _TEXTS:
            out.write(whole)
        elif text := _text(kind, data):
            keyword, value = text
            # Written as plain text, which Pillow accepts at any length.
            plain = b"iTXt" + keyword + bytes(5) + value if keyword == _XMP else b"tEXt" + keyword + b"\0" + value
            out.write(struct.pack(">I", len(plain) - 4) + plain + struct.pack(">I", zlib.crc32(plain)))
    out.seek(0)
    return out


def read_text(file: BinaryIO, keyword: str) -> str | None:
    """The first text of a PNG under a keyword, or None. Raises ValueError if the file is not a PNG, TextTooLarge for a long text."""
    for kind, data, _ in _chunks(file, (keyword.encode("latin-1"),)):
        if kind in _TEXTS and (text := _text(kind, data)):
            return text[1].decode("utf-8" if kind == b"iTXt" else "latin-1")
    return None


def _chunks(file: BinaryIO, keywords: tuple[bytes, ...]) -> Iterator[tuple[bytes, bytes, bytes]]:
    """(kind, data, the whole chunk) up to the end; without profiles, and without texts under other keywords."""
    file.seek(0)
    if file.read(len(SIGNATURE)) != SIGNATURE:
        raise ValueError("not a PNG")
    kind = b""
    while kind != b"IEND" and len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in _UNREAD:
            start = file.read(min(length, _LONGEST_KEYWORD + 1))
            if kind not in _TEXTS or start.split(b"\0")[0] not in keywords:
                file.seek(length - len(start) + 4, io.SEEK_CUR)
                continue
            file.seek(-len(start), io.SEEK_CUR)
        body = file.read(length + 4)
        yield kind, body[:length], head + body


def _text(kind: bytes, data: bytes) -> tuple[bytes, bytes] | None:
    """(keyword, text) of a text chunk; None if it is damaged, which does not affect pixels."""
    keyword, _, rest = data.partition(b"\0")
    squeezed = kind == b"zTXt"
    if kind == b"iTXt":
        parts = rest[2:].split(b"\0", 2)  # language, translated keyword, text
        if len(parts) < 3:
            return None
        squeezed, rest = rest[0] == 1, parts[2]
    elif squeezed:
        rest = rest[1:]
    if not squeezed:
        return keyword, rest
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(rest, MAX_TEXT)
    except zlib.error:
        return None
    if inflater.unconsumed_tail:
        raise TextTooLarge(f"the text {keyword.decode('latin-1')!r} has more than {MAX_TEXT:,} bytes")
    return keyword, text
