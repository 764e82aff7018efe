"""TIFF pictures of any depth and layout as 8-bit RGB: grey, RGB, palette and CMYK with samples of 1 to 16, 32 and 64 bits and floats.

Pillow decompresses. Kinds for which it has no pixel mode (float RGB, planar 16-bit, 12-bit, premultiplied deep alpha, ...) are assembled
here from the file's tags. Source: TIFF Revision 6.0 (Adobe 1992) and Technical Notes 1 to 3.
"""

import io
import struct
import zlib
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import PREFIXES, ImageFileDirectory_v2

from analogist.grid.samples import Refused, over_white, rgb_of_cmyk, to_levels

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS_PER_STRIP, _STRIP_BYTES, _PLANAR = 273, 274, 277, 278, 279, 284
_PREDICTOR, _COLOUR_MAP, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES = 317, 320, 322, 323, 324, 325
_INK_SET, _EXTRA, _FORMAT, _SUBFILE, _OLD_SUBFILE, _SUB_PICTURES = 332, 338, 339, 254, 255, 330

_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4}  # photometric interpretation -> colour samples: white is 0, black is 0, RGB, palette, CMYK
_PHOTOMETRICS = {
    0: "grey, white is 0", 1: "grey", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr", 8: "CIE Lab", 9: "ICC Lab",
    10: "ITU Lab", 32803: "colour filter array", 32844: "LogL", 32845: "LogLuv", 34892: "linear raw",
}  # fmt: skip
_FORMATS = {1: "unsigned", 2: "signed", 3: "float", 4: "undefined", 5: "complex integer", 6: "complex float"}
_COMPRESSIONS = {
    1: "no", 2: "CCITT", 3: "CCITT group 3", 4: "CCITT group 4", 5: "LZW", 6: "old JPEG", 7: "JPEG", 8: "deflate", 32773: "PackBits",
    32809: "ThunderScan", 32946: "deflate", 34712: "JPEG 2000", 34887: "LERC", 34925: "LZMA", 50000: "zstd", 50001: "WebP",
    50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
_BYTEWISE = (1, 5, 8, 32773, 32946, 34925, 50000)  # compressions that work on bytes, whatever they mean
_EIGHT_BIT = (6, 7, 50001)  # compressions of pictures, which Pillow reads at 8 bits


def is_tiff(head: bytes) -> bool:
    """Whether a file with these first bytes is a TIFF."""
    return head[:4] in PREFIXES


class Tiff:
    """The first picture of a TIFF file, read by its tags."""

    def __init__(self, file: BinaryIO, tags: ImageFileDirectory_v2 | None = None) -> None:
        """Reads the tags of the file's first picture, or takes the given tags."""
        self._file = file
        if tags is None:
            file.seek(0)
            head = file.read(16)
            big = 43 in head[2:4]
            # Pillow recognises a BigTIFF by its third byte, which is only correct for little-endian files.
            tags = ImageFileDirectory_v2(b"II+\0" + head[4:], prefix=head[:2]) if big else ImageFileDirectory_v2(head[:8])
            file.seek(tags.next)
            tags.load(file)
        self._tags = tags
        self.width, self.height = int(tags[_WIDTH]), int(tags[_HEIGHT])
        self._compression = int(tags.get(_COMPRESSION, 1))
        self._samples = int(tags.get(_SAMPLES, 1))
        self._photometric = int(tags.get(_PHOTOMETRIC, 2 if self._samples > 2 else 0))
        self._bits, self._formats = (set(_many(tags.get(tag, 1))) for tag in (_BITS, _FORMAT))
        self._planar = tags.get(_PLANAR, 1) == 2 and self._samples > 1
        self._order: Literal["<", ">"] = "<" if tags.prefix == b"II" else ">"

    def __str__(self) -> str:
        bits = " and ".join(str(bits) for bits in sorted(self._bits))
        form = " and ".join(_FORMATS.get(form, f"format {form}") for form in sorted(self._formats))
        colours = _PHOTOMETRICS.get(self._photometric, f"photometric {self._photometric}")
        compression = _COMPRESSIONS.get(self._compression, str(self._compression))
        return f"a TIFF of {self._samples} x {bits}-bit samples ({form}; {colours}; {compression} compression)"

    @property
    def orientation(self) -> int:
        """The EXIF orientation: 1 is upright."""
        return int(self._tags.get(_ORIENTATION, 1))

    @property
    def bound(self) -> int | None:
        """The bits whose highest value is white; None for floats, and for integers that do not define white (32 bits, signed)."""
        bits = min(self._bits)
        return bits if self._formats <= {1, 4} and bits <= 16 else None

    @property
    def white_is_zero(self) -> bool:
        return self._photometric == 0

    @property
    def preview(self) -> bool:
        """Whether the file's first picture is only a smaller copy of another one in the file, as in cameras' raw files."""
        smaller = int(self._tags.get(_SUBFILE, 0)) & 1 or self._tags.get(_OLD_SUBFILE) == 2
        return self._canon() or bool(smaller and (self._tags.next or _SUB_PICTURES in self._tags))

    def _canon(self) -> bool:
        """Whether the file has the mark of Canon's raw files, between header and first directory."""
        self._file.seek(0)
        return self._file.read(12)[4:] == b"\x10\0\0\0CR\2\0"

    def readable(self) -> bool:
        """Whether `rgb` supports this kind."""
        bits, form = min(self._bits), min(self._formats)
        if form in (1, 4):
            known = 1 <= bits <= 16 or bits in (32, 64)
        else:
            known = bits in {2: (8, 16, 32, 64), 3: (16, 32, 64)}.get(form, ())
        return (
            self._photometric in _COLOURS
            and self._samples >= _COLOURS[self._photometric]
            and self._compression in _BYTEWISE
            and len(self._bits) == len(self._formats) == 1
            and known
            and (self._tags.get(_FILL_ORDER, 1) == 1 or self._compression == 1)
            and (self._photometric != 3 or form in (1, 4) and bits <= 16)
            and not self._other_inks()
        )

    def left_to_pillow(self) -> bool:
        """Whether Pillow has a true mode for a kind that `rgb` does not read."""
        eight = self._bits == {8} and self._formats == {1} and self._compression in (*_EIGHT_BIT, *_BYTEWISE)
        return (eight or self._bits == {1}) and not self._other_inks()

    def _other_inks(self) -> bool:
        return self._photometric == 5 and self._tags.get(_INK_SET, 1) != 1

    def rgb(self) -> np.ndarray:
        """The picture before its orientation is applied: uint8 [height width 3], alpha composited over white.

        Raises Refused for values without a known white; for a damaged file, nearly any error.
        """
        colours, bound = _COLOURS[self._photometric], self.bound
        extra = _many(self._tags.get(_EXTRA, 2 if self._photometric == 2 and self._samples == 4 else ()))  # RGBA files often lack this tag
        alpha = next((k for k, kind in enumerate(extra) if kind in (1, 2, 999) and colours + k < self._samples), None)
        wanted = list(range(colours)) + ([] if alpha is None else [colours + alpha])
        samples = self._decoded(wanted)
        if self._photometric == 3:
            # The high byte, as other readers do: writers fill the low byte with 0 or repeat the high one.
            table = (np.asarray(self._tags[_COLOUR_MAP], np.uint16) >> 8).astype(np.uint8).reshape(3, -1).T
            shade = table[samples[..., 0]]
        else:
            shade = to_levels(samples[..., :colours], bound)
        if self.white_is_zero:
            shade = 255 - shade
        if self._photometric == 5:
            shade = rgb_of_cmyk(shade)
        if colours == 1 and self._photometric != 3:
            shade = shade.repeat(3, -1)
        if alpha is None:
            return shade
        return over_white(shade, to_levels(samples[..., -1:], bound), premultiplied=extra[alpha] == 1)

    def _decoded(self, wanted: list[int]) -> np.ndarray:
        """The requested samples [height width sample], in their own type."""
        tags, tiled = self._tags, _TILE_OFFSETS in self._tags
        offsets = _many(tags[_TILE_OFFSETS if tiled else _STRIP_OFFSETS])
        lengths = _many(tags.get(_TILE_BYTES if tiled else _STRIP_BYTES, ()))
        high = int(tags[_TILE_HEIGHT]) if tiled else min(int(tags.get(_ROWS_PER_STRIP, self.height)), self.height)
        wide = int(tags[_TILE_WIDTH]) if tiled else self.width
        down, across = -(-self.height // high), -(-self.width // wide)
        each = 1 if self._planar else self._samples
        out = np.zeros((self.height, self.width, len(wanted)), self._type())
        for plane, samples in enumerate([[0]] * len(wanted) if self._planar else [wanted]):
            first = wanted[plane] * down * across if self._planar else 0
            for place in range(down * across):
                top, left = place // across * high, place % across * wide
                rows = high if tiled else min(high, self.height - top)
                length = lengths[first + place] if lengths else None
                if length == 0:
                    continue  # a sparse file's empty part
                block = self._block(offsets[first + place], length, rows, wide, each)
                part = out[top : top + rows, left : left + wide, slice(plane, plane + 1) if self._planar else slice(None)]
                part[...] = block[: part.shape[0], : part.shape[1], samples]
        return out

    def _type(self) -> np.dtype:
        bits, form = min(self._bits), min(self._formats)
        size = 1 if bits <= 8 else 2 if bits <= 16 else bits // 8
        return np.dtype(f"{'f' if form == 3 else 'i' if form == 2 else 'u'}{size}")

    def _block(self, offset: int, length: int | None, rows: int, wide: int, each: int) -> np.ndarray:
        """A strip or tile as [row column sample]."""
        bits, n_row = min(self._bits), -(-wide * each * min(self._bits) // 8)
        self._file.seek(offset)
        raw = self._file.read(rows * n_row if self._compression == 1 else -1 if length is None else length)
        flat = np.frombuffer(self._inflated(raw, rows, n_row), np.uint8)
        if flat.size < rows * n_row:
            raise ValueError(f"a part of {rows} rows ends after {flat.size} of {rows * n_row} bytes")
        block = flat[: rows * n_row].reshape(rows, n_row)
        if self._tags.get(_FILL_ORDER, 1) == 2 and bits < 8:  # the lowest bit of a byte is first
            block = np.packbits(np.unpackbits(block, axis=1, bitorder="little"), axis=1)
        predictor, type_ = self._tags.get(_PREDICTOR, 1), self._type()
        if predictor not in (1, 2, 3):
            raise Refused(f"{self}, predictor {predictor}, which is not supported; save it as an 8-bit or 16-bit picture")
        if bits % 8:
            values = _unpacked(block, bits, wide * each)
        elif predictor == 3:
            # Technical Note 3: the bytes of a row are ordered by significance, highest first, and stored as differences.
            sums = np.cumsum(block.reshape(rows, -1, each), axis=1, dtype=np.uint8).reshape(rows, type_.itemsize, wide * each)
            values = np.ascontiguousarray(sums.transpose(0, 2, 1)).view(type_.newbyteorder(">"))[..., 0]
        else:
            values = block.view(type_.newbyteorder(self._order))
        values = values.reshape(rows, wide, each).astype(type_)
        if predictor == 2:
            unsigned = values.view(f"u{type_.itemsize}")
            values = np.cumsum(unsigned, axis=1, dtype=unsigned.dtype).view(type_)
            if bits % 8:
                values &= 2**bits - 1
        return values

    def _inflated(self, raw: bytes, rows: int, n_row: int) -> bytes:
        if self._compression == 1:
            return raw
        if self._compression in (8, 32946):
            return zlib.decompressobj().decompress(raw, rows * n_row)
        return _by_libtiff(raw, self._compression, rows, n_row)


def _by_libtiff(raw: bytes, compression: int, rows: int, n_row: int) -> bytes:
    """Decompresses a strip by giving it to Pillow as a separate TIFF: each byte as a grey pixel, or four as an RGBA pixel."""
    four = n_row % 4 == 0
    tags = {
        _WIDTH: n_row // 4 if four else n_row, _HEIGHT: rows, _BITS: 8, _COMPRESSION: compression, _PHOTOMETRIC: 2 if four else 1,
        _STRIP_OFFSETS: 0, _SAMPLES: 4 if four else 1, _ROWS_PER_STRIP: rows, _STRIP_BYTES: len(raw),
    }  # fmt: skip
    tags[_STRIP_OFFSETS] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    whole = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + raw
    try:
        with Image.open(io.BytesIO(whole), formats=["TIFF"]) as image:
            return image.tobytes()
    except Image.DecompressionBombError as error:
        raise Refused(f"a strip of {n_row * rows:,} bytes once decompressed; save it in smaller strips") from error


def _unpacked(block: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Samples of 1 to 15 bits, packed highest bit first, each row from a byte's start: [row count]."""
    digits = np.unpackbits(block, axis=1)[:, : count * bits].reshape(len(block), count, bits)
    values = np.zeros(digits.shape[:2], np.uint16)
    for k in range(bits):
        values = values << 1 | digits[..., k]
    return values


def _many(value: object) -> tuple[int, ...]:
    """The value or values of a tag."""
    return tuple(int(one) for one in value) if isinstance(value, tuple) else (int(value),)  # type: ignore[call-overload]
