"""Bad pictures end in one clear line that names the file and which picture of the grid it is."""

import io
import os
import random
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from analogist.grid import PromptGrid, pictures
from analogist.grid.pictures import PictureError, read_picture, read_record

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)


def encoded(form: str, image: Image.Image | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(PIXELS) if image is None else image).save(buffer, format=form, **options)
    return buffer.getvalue()


def error_of(path: Path | str, name: str = "B") -> str:
    with pytest.raises(PictureError) as error:
        read_picture(path, name)
    message = str(error.value)
    assert message.isprintable()  # one line
    assert message.startswith(f"{name}: ")
    return message


def test_a_missing_file_a_folder_and_an_empty_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    assert error_of(tmp_path / "no.png") == f"B: {tmp_path}/no.png: no such file"
    assert error_of(tmp_path) == f"B: {tmp_path}: is a folder; give the path of a picture"
    assert error_of(tmp_path / "empty.png") == f"B: {tmp_path}/empty.png: is empty (0 bytes); get the file again"
    assert error_of("") == "B: '': no such file"


def test_odd_paths_are_one_line(tmp_path: Path) -> None:
    assert "cannot be opened" in error_of("null\0byte")
    assert "File name too long" in error_of("n" * 5000)
    assert "no such file" in error_of("new\nline")
    (tmp_path / "file").write_bytes(b"x")
    assert "Not a directory" in error_of(tmp_path / "file" / "below.png")
    assert "not downloaded" in error_of("https://example.org/a.png")


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in error_of(tmp_path / "pipe")
    assert "not a regular file" in error_of("/dev/zero")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"hello, I am text", "not a picture; give PNG, JPEG"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>404</html>", "HTML page"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        *[(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0", "HEIC") for brand in (b"heix", b"heim", b"hevc", b"mif1", b"msf1")],
        (b"\xff\x0a" + bytes(50), "a JPEG XL picture, which cannot be read; export it as PNG"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(50), "JPEG XL"),
        (b"\0\0\0\x18ftypcrx " + bytes(50), "camera's raw file"),
        (b"FUJIFILMCCD-RAW 0201", "camera's raw file"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b'<?xml version="1.0"?>\n<svg/>', "SVG"),
        (b"%PDF-1.7\n%\xe2\xe3", "PDF"),
        (b"\x76\x2f\x31\x01\2\0\0\0", "OpenEXR"),
        (b"#?RADIANCE\n", "Radiance"),
        (b"\0\0\0\x20ftypisom" + bytes(50), "video"),
        (b"\x1a\x45\xdf\xa3" + bytes(50), "video"),
        (b"\x93NUMPY\1\0", "NumPy array"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "format EPS, which is not supported"),  # never handed to another program
        (b"\x89PNG\r\n\x1a\n", "damaged or truncated"),
        (b"\xff\xd8\xff", "damaged or truncated"),
    ],
)
def test_what_is_no_picture_is_told_apart(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "file.png").write_bytes(content)
    assert says in error_of(tmp_path / "file.png")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.8])
def test_a_truncated_picture_is_an_error_never_a_half_grey_picture(tmp_path: Path, form: str, part: float) -> None:
    content = encoded(form, Image.fromarray(PIXELS.repeat(8, 0).repeat(8, 1)))
    path = tmp_path / "cut"
    path.write_bytes(content)
    read_picture(path)
    path.write_bytes(content[: int(part * len(content))])
    assert "damaged or truncated" in error_of(path)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate"])
def test_a_damaged_tiff_adds_no_lines_of_its_decoder(tmp_path: Path, capfd: pytest.CaptureFixture[str], compression: str) -> None:
    content = bytearray(encoded("TIFF", compression=compression))
    content[60:200] = bytes(140)
    path = tmp_path / "damaged.tif"
    path.write_bytes(content)
    with pytest.raises(OSError), Image.open(path) as image:
        image.load()
    os.write(2, b"|")
    assert "damaged or truncated" in error_of(path)
    os.write(2, b"|")
    before, during, after = capfd.readouterr().err.split("|")
    assert before  # what the decoder says where nobody keeps it quiet
    assert (during, after) == ("", "")


def png_of_size(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("side", "says"), [(60_000, "178,956,970 pixels, the limit"), (14_000, "178,956,970 pixels, the limit"),
                                            (13_000, "13000 x 13000 pixels by its header")])  # fmt: skip
def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path, side: int, says: str) -> None:
    (tmp_path / "bomb.png").write_bytes(png_of_size(side, side, bytes(1000)))
    start = time.process_time()
    assert says in error_of(tmp_path / "bomb.png")
    assert time.process_time() - start < 2  # a few hundredths; unpacking half a gigabyte takes longer


def test_a_large_picture_below_the_limit_is_read_without_a_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    side = 9500  # 90 megapixels: Pillow itself warns from 89 on
    Image.new("1", (side, side), 1).save(tmp_path / "large.png")
    assert read_picture(tmp_path / "large.png").size == (side, side)
    with pytest.raises(PictureError, match="holds no record"):
        read_record(tmp_path / "large.png")
    assert not recwarn.list


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((3, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8), np.zeros((1, 4, 4, 3), np.uint8), np.zeros((), np.uint8), np.zeros((4, 4, 3), np.int64),
        np.zeros((4, 4, 3), object),
    ],
)  # fmt: skip
def test_an_array_of_another_kind_is_described(array: np.ndarray) -> None:
    with pytest.raises(PictureError) as error:
        read_picture(array, "A")
    shape = " ".join(str(side) for side in array.shape)
    assert str(error.value).startswith(f"A: an array of {array.dtype} [{shape}]; it must be uint8 [height width 3]")


@pytest.mark.parametrize("source", [None, 3, b"bytes", io.BytesIO(b""), {"a": 1}])
def test_anything_else_is_named_by_its_type(source: object) -> None:
    with pytest.raises(PictureError, match=f"^A': cannot read a {type(source).__name__}; give a path"):
        read_picture(source, "A'")


def test_an_image_without_pixels_or_with_a_closed_or_cut_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="^A: the given image is 0 x 5 pixels"):
        read_picture(Image.new("RGB", (0, 5)), "A")
    content = encoded("PNG")
    (tmp_path / "file.png").write_bytes(content)
    closed = Image.open(tmp_path / "file.png")
    closed.close()
    with pytest.raises(PictureError, match="^A: the given image cannot be read"):
        read_picture(closed, "A")
    with pytest.raises(PictureError, match="^A: the given image cannot be read"):
        read_picture(Image.open(io.BytesIO(content[:200])), "A")


def test_the_grid_says_which_picture_is_bad(tmp_path: Path) -> None:
    for position, name in enumerate(("A", "A'", "B")):
        sources: list[object] = [PIXELS, PIXELS, PIXELS]
        sources[position] = tmp_path / "missing.png"
        with pytest.raises(PictureError, match=f"^{name}: .*missing.png: no such file"):
            PromptGrid(*sources)
    with pytest.raises(PictureError, match="^A2': .*missing.png"):
        PromptGrid([PIXELS, PIXELS], [PIXELS, tmp_path / "missing.png"], PIXELS)
    with pytest.raises(PictureError, match="^grid: .*missing.png"):
        PromptGrid.from_image(tmp_path / "missing.png")


def seeds() -> list[bytes]:
    """One small file of each format and of the modes that take a path of their own."""
    exif = Image.Exif()
    exif[0x0112] = 6
    rgba = Image.fromarray(np.dstack([PIXELS, PIXELS[..., 0]]))
    palette, deep = Image.fromarray(PIXELS).quantize(16), Image.fromarray(PIXELS.astype(np.uint16)[..., 0] * 257)
    frames = {"save_all": True, "append_images": [Image.fromarray(PIXELS[::-1])]}
    return [
        encoded("PNG", exif=exif), encoded("PNG", rgba), encoded("PNG", palette, transparency=bytes(range(16))),
        encoded("PNG", deep), encoded("PNG", **frames),
        encoded("JPEG", exif=exif), encoded("JPEG", progressive=True), encoded("JPEG", rgba.convert("CMYK")),
        encoded("WEBP", rgba, lossless=True), encoded("WEBP", exif=exif), encoded("WEBP", **frames),
        encoded("GIF", palette), encoded("GIF", **frames),
        encoded("TIFF", exif=exif), encoded("TIFF", compression="tiff_lzw"), encoded("TIFF", deep),
        encoded("TIFF", rgba, compression="tiff_deflate"), encoded("TIFF", **frames),
        encoded("BMP"), encoded("PPM"),
    ]  # fmt: skip


SEEDS = seeds()


def mutated(content: bytes, rng: random.Random) -> bytes:
    """A few bytes, bits or 32-bit numbers changed, pieces cut, doubled or inserted; a PNG's checksums often made right again."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(data) or 1)
        kind = rng.randrange(6)
        if kind == 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            data[at : at + 4] = struct.pack(rng.choice("<>") + "I", rng.choice((0, 1, 255, 65535, 2**31 - 1, 2**32 - 1)))
        elif kind == 2:
            del data[at : at + rng.randrange(1, 40)]
        elif kind == 3:
            data[at:at] = data[at : at + rng.randrange(1, 40)]
        elif kind == 4:
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif len(data):
            data[at] ^= 1 << rng.randrange(8)
    if data[:8] == b"\x89PNG\r\n\x1a\n" and rng.random() < 0.8:  # else nearly every change would stop at a checksum
        at = 8
        while at + 12 <= len(data):
            length = int.from_bytes(data[at : at + 4], "big")
            if at + 12 + length > len(data):
                break
            data[at + 8 + length : at + 12 + length] = struct.pack(">I", zlib.crc32(data[at + 4 : at + 8 + length]))
            at += 12 + length
    return bytes(data)


# Drawing one number and mutating by hand is much faster than building bytes from strategies.
@settings(max_examples=1000)
@given(number=st.integers(0, 2**32 - 1))
def test_a_thousand_mutated_pictures_end_in_a_picture_or_a_picture_error(
    number: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = random.Random(number)
    content = mutated(rng.choice(SEEDS), rng)
    path = tmp_path_factory.getbasetemp() / "mutated"
    path.write_bytes(content)
    try:
        image = read_picture(path, "A")
    except PictureError as error:
        assert str(error).startswith(f"A: {path}: ")
        assert str(error).isprintable()
    else:
        assert image.mode == "RGB"
        assert 0 < image.width * image.height <= max(pictures.SMALL_PIXELS, len(content) * pictures.MAX_PIXELS_PER_BYTE)
    try:
        assert isinstance(read_record(path), dict)
    except PictureError as error:
        assert str(error).isprintable()
