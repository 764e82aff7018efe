"""Every form of picture that Pillow or tifffile takes is read with its values, or refused by a line that says what it is.

Expected levels come from the numbers that were written, by the formulas in the tests; tifffile writes and reads back as a witness.
"""

import io
import itertools
import lzma
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, PngImagePlugin

from analogist.grid.pictures import PictureError, read_picture

HEIGHT, WIDTH = 21, 37  # neither is a multiple of a tile's 16, so that edges of tiles and of packed rows show


def noise(samples: int, highest: float, dtype: str, low: float = 0) -> np.ndarray:
    """Numbers [height width sample] over the whole range, both ends included."""
    values = low + np.random.default_rng(samples).random((HEIGHT, WIDTH, samples)) * (highest - low)
    values[0, :2] = [[low], [highest]]
    return (values if dtype.startswith("f") else values.round()).astype(dtype)


def three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey.reshape(HEIGHT, WIDTH, 1), 3, -1)


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return colour * alpha + 1 - alpha


def assert_read(path: Path, light: np.ndarray, tolerance: float = 0.5) -> None:
    """light: what the picture shows, 0..1 [height width 3]; half a level of rounding, and what the form itself loses."""
    read = np.asarray(read_picture(path)).astype(float)
    assert read.shape == light.shape
    assert np.abs(read - 255 * light).max() <= tolerance + 1e-3, np.abs(read - 255 * light).max()


WHITE = {"u1": 255, "u2": 65535, "f2": 1, "f4": 1, "f8": 1}  # the sample value that shows as white
KINDS = {"minisblack": 1, "miniswhite": 1, "rgb": 3, "separated": 4}


def shown(kind: str, values: np.ndarray, white: float) -> np.ndarray:
    """What samples show as light, by the definitions of TIFF's photometric interpretations."""
    x = values.astype(float) / white
    if kind == "separated":
        return (1 - x[..., :3]) * (1 - x[..., 3:4])
    if kind == "rgb":
        return x[..., :3]
    return three(1 - x[..., 0] if kind == "miniswhite" else x[..., 0])


def roundings(kind: str, bits: int) -> float:
    """Half a level for each rounding: ink that is not of 8 bits is rounded before it is multiplied, and so is black."""
    return 1.5 if kind == "separated" and bits != 8 else 0.5


@pytest.mark.parametrize(
    ("layout", "order"),
    [("strips", ">"), ("one strip", "<"), ("tiles", ">"), ("deflate", "<"), ("deflate tiles", "<"), ("bigtiff", "<"), ("bigtiff", ">")],
)
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize(("kind", "dtype"), [*itertools.product(KINDS, WHITE)])
def test_tiffs_of_every_depth_and_layout_are_read(tmp_path: Path, kind: str, dtype: str, order: str, planar: str, layout: str) -> None:
    samples = KINDS[kind]
    values = noise(samples, WHITE[dtype], dtype)
    data = np.ascontiguousarray(values.transpose(2, 0, 1)) if planar == "separate" else values
    options: dict = {"tile": (16, 32)} if "tiles" in layout else {"rowsperstrip": HEIGHT if layout == "one strip" else 5}
    options |= {"compression": "zlib"} if "deflate" in layout else {}
    if samples == 1:  # one sample is one plane
        data = values[..., 0]
    else:
        options["planarconfig"] = planar
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, data, photometric=kind, byteorder=order, bigtiff=layout == "bigtiff", metadata=None, **options)
    assert np.array_equal(tifffile.imread(path), data)
    light = shown(kind, values, WHITE[dtype])
    assert_read(path, light, roundings(kind, 8 if dtype == "u1" else 16))


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("kind", ["minisblack", "rgb", "separated"])
@pytest.mark.parametrize("extra", ["unassalpha", "assocalpha", "unspecified", "unspecified+unassalpha", "unassalpha+unspecified"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_alpha_in_a_tiff_is_laid_over_white_straight_or_premultiplied(
    tmp_path: Path, kind: str, dtype: str, extra: str, planar: str
) -> None:
    kinds = extra.split("+")
    if kind == "separated" and "assocalpha" in kinds:
        kind = "miniswhite"  # premultiplied ink has no agreed meaning
    values = noise(KINDS[kind] + len(kinds), WHITE[dtype], dtype)
    alpha = next((KINDS[kind] + k for k, one in enumerate(kinds) if one != "unspecified"), None)
    light = shown(kind, values[..., : KINDS[kind]], WHITE[dtype])
    if alpha is not None:
        a = values[..., alpha : alpha + 1].astype(float) / WHITE[dtype]
        if kinds[alpha - KINDS[kind]] == "assocalpha":
            values[..., : KINDS[kind]] = (values * a).astype(dtype)[..., : KINDS[kind]]
            light = np.clip(shown(kind, values[..., : KINDS[kind]], WHITE[dtype]) + 1 - a, 0, 1)
        else:
            light = over_white(light, a)
    data = np.ascontiguousarray(values.transpose(2, 0, 1)) if planar == "separate" else values
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, data, photometric=kind, extrasamples=kinds, planarconfig=planar, metadata=None)
    assert_read(path, light, 0.5 if dtype == "u1" and kind != "separated" else 1.5)  # colour, alpha and their product each round


def packed(values: np.ndarray, bits: int) -> bytes:
    """Rows [row sample] of whole numbers, highest bit first, each row from a byte's start."""
    rows = ["".join(f"{value:0{bits}b}" for value in row) for row in values]
    return b"".join(int(row.ljust(-(-len(row) // 8) * 8, "0"), 2).to_bytes(-(-len(row) // 8), "big") for row in rows)


def tiff(values: np.ndarray, bits: int, photometric: int, *, order: str = "<", compress=bytes, **tags: int | tuple) -> bytes:
    """A TIFF of one strip, written by hand. tags: t258=.. and so on, over the usual ones."""
    samples = values.shape[2]
    if bits % 8:
        raw = packed(values.reshape(HEIGHT, -1), bits)
    else:
        raw = values.astype(values.dtype.newbyteorder(order)).tobytes()
    raw = compress(raw)
    entries: dict[int, int | tuple] = {
        256: WIDTH, 257: HEIGHT, 258: (bits,) * samples, 259: 1, 262: photometric, 273: 8, 277: samples, 278: HEIGHT, 279: len(raw),
    } | {int(name[1:]): value for name, value in tags.items()}  # fmt: skip
    out = bytearray(raw + b"\0" * (len(raw) % 2))
    table = b""
    for tag, value in sorted(entries.items()):
        several = value if isinstance(value, tuple) else (value,)
        size, code = (3, "H") if max(several) < 65536 and tag not in (273, 279) else (4, "I")
        content = struct.pack(f"{order}{len(several)}{code}", *several).ljust(4, b"\0")
        if len(content) > 4:
            content, there = struct.pack(f"{order}I", 8 + len(out)), content
            out += there + b"\0" * (len(there) % 2)
        table += struct.pack(f"{order}HHI", tag, size, len(several)) + content
    directory = struct.pack(f"{order}H", len(entries)) + table + bytes(4)
    return (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(out)) + bytes(out) + directory


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("photometric", [0, 1, 2, 5])
def test_tiffs_of_one_to_sixteen_bits_are_read(tmp_path: Path, bits: int, photometric: int) -> None:
    kind = {0: "miniswhite", 1: "minisblack", 2: "rgb", 5: "separated"}[photometric]
    values = noise(KINDS[kind], 2**bits - 1, "u1" if bits == 8 else "u2")
    for order in "<>":
        (tmp_path / "x.tif").write_bytes(tiff(values, bits, photometric, order=order))
        assert_read(tmp_path / "x.tif", shown(kind, values, 2**bits - 1), roundings(kind, bits))


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_palettes_of_tiffs_are_read(tmp_path: Path, bits: int) -> None:
    table = np.random.default_rng(0).integers(0, 256, (3, 2**bits))
    values = noise(1, 2**bits - 1, "u1" if bits == 8 else "u2")
    (tmp_path / "x.tif").write_bytes(tiff(values, bits, 3, t320=tuple(int(v) * 257 for v in table.reshape(-1))))
    assert_read(tmp_path / "x.tif", table.T[values[..., 0]] / 255, 0)


def lzw(raw: bytes) -> bytes:
    """LZW without matches: a clear code before every 250 bytes keeps the codes at 9 bits."""
    codes = [code for k in range(0, len(raw), 250) for code in (256, *raw[k : k + 250])] + [257]
    return packed(np.array([codes]), 9)


def packbits(raw: bytes) -> bytes:
    return b"".join(bytes([len(raw[k : k + 128]) - 1]) + raw[k : k + 128] for k in range(0, len(raw), 128))


COMPRESS = {5: lzw, 8: zlib.compress, 32946: zlib.compress, 32773: packbits, 34925: lzma.compress}


@pytest.mark.parametrize("code", COMPRESS)
@pytest.mark.parametrize(("dtype", "samples"), [("u1", 1), ("u1", 3), ("u2", 3), ("f4", 3), ("f2", 1), ("u2", 4)])
def test_compressions_of_bytes_are_undone_at_every_depth(tmp_path: Path, code: int, dtype: str, samples: int) -> None:
    kind = {1: "minisblack", 3: "rgb", 4: "separated"}[samples]
    values = noise(samples, WHITE[dtype], dtype)
    form = {"t339": (3,) * samples} if dtype.startswith("f") else {}
    bits, photometric = int(dtype[1:]) * 8, {1: 1, 3: 2, 4: 5}[samples]
    for order in "<>":
        (tmp_path / "x.tif").write_bytes(tiff(values, bits, photometric, order=order, compress=COMPRESS[code], t259=code, **form))
        assert_read(tmp_path / "x.tif", shown(kind, values, WHITE[dtype]), roundings(kind, bits))


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "zstd", "lzma", "packbits", "raw"])
@pytest.mark.parametrize(
    ("mode", "dtype", "predictor"), [("RGB", "u1", 2), ("L", "u1", 2), ("I;16", "u2", 2), ("F", "f4", 3), ("RGBA", "u1", 1)]
)
def test_predictors_that_libtiff_writes_are_undone(tmp_path: Path, compression: str, mode: str, dtype: str, predictor: int) -> None:
    values = noise({"RGB": 3, "RGBA": 4}.get(mode, 1), WHITE[dtype], dtype)
    image = Image.fromarray(values if values.shape[2] > 1 else values[..., 0])
    assert image.mode == mode
    predicted = compression in ("tiff_lzw", "tiff_adobe_deflate", "zstd") and predictor > 1
    image.save(tmp_path / "x.tif", compression=compression, tiffinfo={317: predictor} if predicted else {})
    assert Image.open(tmp_path / "x.tif").tag_v2.get(317, 1) == (predictor if predicted else 1)
    light = shown("rgb" if values.shape[2] > 1 else "minisblack", values, WHITE[dtype])
    assert_read(tmp_path / "x.tif", over_white(light, values[..., 3:] / 255) if mode == "RGBA" else light)


def differences(values: np.ndarray) -> np.ndarray:
    """Predictor 2, by its definition: each sample minus that of the pixel before, modulo its type."""
    out = values.copy()
    out[:, 1:] = values[:, 1:] - values[:, :-1]
    return out


def float_differences(values: np.ndarray) -> bytes:
    """Predictor 3, by Technical Note 3: the bytes of a row by significance, highest first, then differences a pixel apart."""
    out = []
    for row in values.astype(values.dtype.newbyteorder(">")):
        planes = np.frombuffer(row.tobytes(), np.uint8).reshape(-1, values.dtype.itemsize).T.reshape(-1)
        stride = values.shape[2]
        out.append((planes - np.concatenate([np.zeros(stride, np.uint8), planes[:-stride]])).tobytes())
    return b"".join(out)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("dtype", "samples"), [("u1", 3), ("u2", 3), ("u2", 1), ("f2", 3), ("f4", 3), ("f8", 1)])
def test_predictors_are_undone_at_every_depth(tmp_path: Path, dtype: str, samples: int, order: str) -> None:
    values = noise(samples, WHITE[dtype], dtype)
    bits, kind = int(dtype[1:]) * 8, "rgb" if samples == 3 else "minisblack"
    if dtype.startswith("f"):
        extra = {"t317": 3, "t339": (3,) * samples, "compress": lambda raw: zlib.compress(float_differences(values))}
        written = tiff(values, bits, 1 + (samples == 3), order=order, t259=8, **extra)
    else:
        written = tiff(differences(values), bits, 1 + (samples == 3), order=order, compress=zlib.compress, t259=8, t317=2)
    (tmp_path / "x.tif").write_bytes(written)
    assert_read(tmp_path / "x.tif", shown(kind, values, WHITE[dtype]))


@pytest.mark.parametrize(("compression", "mode"), [("group3", "1"), ("group4", "1"), ("tiff_ccitt", "1"), ("jpeg", "L"), ("jpeg", "RGB")])
def test_compressions_of_pictures_are_undone_by_pillow(tmp_path: Path, compression: str, mode: str) -> None:
    light = np.repeat(np.repeat(np.random.default_rng(0).integers(0, 2, (4, 5, 3 if mode == "RGB" else 1)), 16, 0), 16, 1)
    image = Image.fromarray((light * 255).astype(np.uint8) if mode == "RGB" else (light[..., 0] * 255).astype(np.uint8)).convert(mode)
    image.save(tmp_path / "x.tif", compression=compression, **({"quality": 100} if compression == "jpeg" else {}))
    read = np.asarray(read_picture(tmp_path / "x.tif"))[8::16, 8::16] / 255
    assert np.abs(read - light[8::16, 8::16]).max() <= (0.02 if compression == "jpeg" else 0)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_tiff_whose_lowest_bit_comes_first_is_read(tmp_path: Path, bits: int) -> None:
    values = noise(1, 2**bits - 1, "u2")
    turned = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
    (tmp_path / "x.tif").write_bytes(tiff(values, bits, 1, compress=lambda raw: raw.translate(turned), t266=2))
    assert_read(tmp_path / "x.tif", shown("minisblack", values, 2**bits - 1))


@pytest.mark.parametrize("dtype", ["u4", "i4", "u8", "i8", "i2", "i1"])
@pytest.mark.parametrize("kind", ["minisblack", "rgb"])
def test_integers_that_say_no_white_are_levels_up_to_255(tmp_path: Path, dtype: str, kind: str) -> None:
    highest = 127 if dtype == "i1" else 252
    values = noise(KINDS[kind], highest, dtype)
    tifffile.imwrite(tmp_path / "x.tif", values if kind == "rgb" else values[..., 0], photometric=kind, metadata=None)
    assert_read(tmp_path / "x.tif", shown(kind, values, 255), 0)
    values = noise(KINDS[kind], 60000 if dtype[1] in "48" else highest, dtype)
    tifffile.imwrite(tmp_path / "x.tif", values if kind == "rgb" else values[..., 0], photometric=kind, metadata=None)
    assert_read(tmp_path / "x.tif", shown(kind, values, 65535 if dtype[1] in "48" else 255))
    for beyond in ([70000] if dtype[1] in "48" else [300] if dtype == "i2" else []) + ([-1] if dtype.startswith("i") else []):
        values[3, 3, 0] = beyond
        tifffile.imwrite(tmp_path / "x.tif", values if kind == "rgb" else values[..., 0], photometric=kind, metadata=None)
        with pytest.raises(PictureError, match=f"values from .*{'-1' if beyond < 0 else ''}.* allowed are 0 to") as error:
            read_picture(tmp_path / "x.tif", "A")
        assert "damaged" not in str(error.value)


@pytest.mark.parametrize(
    "form",
    [
        "L", "I 0..252", "I 0..65535", "I;16 dark", "I;16B dark", "F", "1", "P", "PA", "LA", "La", "RGBA", "RGBa", "RGBX", "CMYK", "HSV",
        "YCbCr", "LAB",
    ],
)  # fmt: skip
def test_images_of_every_mode_of_pillow_are_read(form: str) -> None:
    mode = form.split()[0]
    grey = noise(1, 252, "u1")[..., 0]
    if mode in ("I", "I;16", "I;16B", "F"):
        dtype, highest = {"I": ("i4", 252 if "252" in form else 65535), "I;16": ("u2", 200), "I;16B": (">u2", 200), "F": ("f4", 1)}[mode]
        values = noise(1, highest, "f4" if mode == "F" else "u2")[..., 0]
        image = Image.frombytes(mode, (WIDTH, HEIGHT), values.astype(dtype).tobytes())
        light = three(values / {"I": 255 if "252" in form else 65535, "F": 1}.get(mode, 65535))
    elif mode in ("RGBA", "RGBa", "LA", "La"):
        values = noise(len(mode), 255, "u1")
        if mode[-1] == "a":
            values[..., :-1] = values[..., :-1] * (values[..., -1:] / 255)
        image = Image.frombytes(mode, (WIDTH, HEIGHT), values.tobytes())
        alpha, colour = values[..., -1:] / 255, values[..., :-1] / 255 * np.ones(3)
        light = colour + 1 - alpha if mode[-1] == "a" else over_white(colour, alpha)
    elif mode == "LAB":
        # A grey a and b of 0 are neutral: CIE L* of Y by its definition, Y of sRGB by its curve.
        image = Image.merge("LAB", [Image.fromarray(grey), *[Image.new("L", (WIDTH, HEIGHT), 128)] * 2])
        lightness = grey / 255 * 100
        y = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)
        light = three(np.where(y <= 0.0031308, 12.92 * y, 1.055 * y ** (1 / 2.4) - 0.055))
        assert np.abs(np.asarray(read_picture(image)) - 255 * light).max() <= 2  # littlecms computes in fixed point
        return
    else:
        bits = grey > 100
        image = Image.fromarray(bits if mode == "1" else grey)
        light = three(bits.astype(float) if mode == "1" else grey / 255)
        if mode in ("P", "PA"):
            image = image.convert("P")
            image.putpalette([255 - k for k in range(256) for _ in range(3)])
            light = 1 - light
            if mode == "PA":
                image = image.convert("PA")
        elif mode in ("HSV", "YCbCr", "CMYK", "RGBX"):
            image = image.convert("RGB").convert(mode)  # grey survives all of these
    assert image.mode == mode
    read = np.asarray(read_picture(image)).astype(float)
    assert np.abs(read - 255 * light).max() <= (1 if mode == "YCbCr" else 0.501)  # Pillow's YCbCr is off by one


@pytest.mark.parametrize("depth", ["loaded", "opened"])
def test_a_deep_tiff_given_as_an_image_is_read_as_its_file_is(tmp_path: Path, depth: str) -> None:
    for bits, photometric in ((12, 1), (16, 0), (16, 1)):
        values = noise(1, 2**bits - 1, "u2")
        (tmp_path / "x.tif").write_bytes(tiff(values, bits, photometric))
        image = Image.open(tmp_path / "x.tif")
        if depth == "loaded":
            image.load()
        assert np.array_equal(np.asarray(read_picture(image)), np.asarray(read_picture(tmp_path / "x.tif")))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(values: np.ndarray, bits: int, colour_type: int, *between: bytes, after: bytes = b"") -> bytes:
    """A PNG written by hand, without filters."""
    rows = values.reshape(HEIGHT, -1)
    lines = [packed(rows[k : k + 1], bits) if bits < 8 else rows[k].astype(f">u{bits // 8}").tobytes() for k in range(HEIGHT)]
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + line for line in lines)))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(between) + data + after + chunk(b"IEND", b"")


@pytest.mark.parametrize("key", [False, True])
@pytest.mark.parametrize(
    ("colour_type", "bits"), [*((0, bits) for bits in (1, 2, 4, 8, 16)), *((kind, bits) for kind in (2, 4, 6) for bits in (8, 16))]
)
def test_pngs_of_every_depth_and_their_transparent_value_are_read(tmp_path: Path, colour_type: int, bits: int, key: bool) -> None:
    samples = {0: 1, 2: 3, 4: 2, 6: 4}[colour_type]
    values = noise(samples, 2**bits - 1, "u2")
    light = values / (2**bits - 1)
    between = []
    if colour_type in (4, 6):
        light = over_white(light[..., :-1], light[..., -1:])
    elif key:
        chosen = values[1, 1]
        between = [chunk(b"tRNS", b"".join(struct.pack(">H", int(v)) for v in chosen))]
        light[(values == chosen).all(-1)] = 1
    (tmp_path / "x.png").write_bytes(png(values, bits, colour_type, *between))
    # Of colours and alpha of 16 bits Pillow keeps the high byte; grey of 16 bits with alpha loses the same way.
    assert_read(tmp_path / "x.png", light * np.ones(3), 2.0 if bits == 16 and colour_type else 0.5)


BIG = 3 << 20  # bytes of text; Pillow takes at most 1 MB of compressed text
TEXTS = {
    "tEXt": chunk(b"tEXt", b"workflow\0" + b"x" * BIG),
    "zTXt": chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"x" * BIG)),
    "iTXt": chunk(b"iTXt", b"workflow\0\0\0en\0w\0" + b"x" * BIG),
    "iTXt compressed": chunk(b"iTXt", b"workflow\0\1\0en\0w\0" + zlib.compress(b"x" * BIG)),
    "XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"<x>" + b" " * BIG + b"</x>")),
    "EXIF as text": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n      6\n" + b"457869660000\n" + b"0" * BIG)),
    "ICC": chunk(b"iCCP", b"a profile\0\0" + zlib.compress(bytes(BIG))),
    "palette of suggestions": chunk(b"sPLT", b"name\0\x08" + bytes(BIG)),
    "70 MB of text": chunk(b"tEXt", b"workflow\0" + bytes(70 << 20)),
    "many texts": b"".join(chunk(b"zTXt", b"k%d\0\0" % k + zlib.compress(b"x" * BIG)) for k in range(30)),
    "damaged text": chunk(b"zTXt", b"workflow\0\0" + b"not deflate"),
    "text without keyword": chunk(b"tEXt", b""),
    "text of an unknown kind": chunk(b"zTXt", b"workflow\0\7" + b"???"),
    "damaged EXIF": chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"),
}


@pytest.mark.parametrize("place", ["before the pixels", "after them"])
@pytest.mark.parametrize("text", TEXTS)
def test_metadata_of_any_size_does_not_stop_a_png(tmp_path: Path, text: str, place: str) -> None:
    values = noise(3, 255, "u1")
    before, after = ([TEXTS[text]], b"") if place == "before the pixels" else ([], TEXTS[text])
    (tmp_path / "x.png").write_bytes(png(values, 8, 2, *before, after=after))
    assert_read(tmp_path / "x.png", values / 255, 0)


@pytest.mark.parametrize("size", [10, BIG])
def test_a_large_text_still_turns_its_picture(tmp_path: Path, size: int) -> None:
    values = noise(3, 255, "u1")
    xmp = b'<x tiff:Orientation="3">' + b" " * size + b"</x>"
    (tmp_path / "x.png").write_bytes(png(values, 8, 2, chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp))))
    assert_read(tmp_path / "x.png", values[::-1, ::-1] / 255, 0)


def test_a_text_that_would_fill_the_memory_is_refused_by_name(tmp_path: Path) -> None:
    bomb = chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(40 << 20)))
    (tmp_path / "x.png").write_bytes(png(noise(3, 255, "u1"), 8, 2, bomb))
    with pytest.raises(PictureError, match="text 'XML:com.adobe.xmp' has more than .* save it without its metadata"):
        read_picture(tmp_path / "x.png")


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "TIFF", "GIF"])
def test_metadata_of_any_size_does_not_stop_other_pictures(tmp_path: Path, form: str) -> None:
    values = noise(1, 255, "u1")[..., 0]
    options: dict = {
        "JPEG": {"quality": 100, "icc_profile": bytes(BIG)},
        "WEBP": {"lossless": True, "icc_profile": bytes(BIG), "xmp": bytes(BIG)},
        "TIFF": {"icc_profile": bytes(BIG), "tiffinfo": {270: "x" * BIG, 700: bytes(BIG)}},
        "GIF": {"comment": b"x" * BIG},
    }[form]
    Image.fromarray(values).save(tmp_path / "x", format=form, **options)
    assert_read(tmp_path / "x", three(values) / 255, 2 if form == "JPEG" else 0)


INK = np.array(
    [[0, 0, 0, 0], [0, 0, 0, 255], [255, 0, 0, 0], [0, 255, 0, 0], [0, 0, 255, 0], [128, 0, 0, 128], [40, 90, 200, 30]], np.uint8
)  # fmt: skip


@pytest.mark.parametrize("adobe", [True, False])
@pytest.mark.parametrize("given", ["path", "opened image"])
def test_cmyk_jpegs_are_read_with_and_without_adobes_inversion(tmp_path: Path, adobe: bool, given: str) -> None:
    ink = np.repeat(INK.reshape(1, -1, 4), 16, 0).repeat(16, 1)
    # Pillow writes Adobe's marker and inverted ink. Without the marker the numbers are ink as they are.
    written = Image.fromarray(ink if adobe else 255 - ink, mode="CMYK")
    stream = io.BytesIO()
    written.save(stream, "JPEG", quality=100, subsampling=0)
    data = stream.getvalue()
    marker = data.index(b"\xff\xee\x00\x0eAdobe")
    if not adobe:
        data = data[:marker] + data[marker + 16 :]
    (tmp_path / "x.jpg").write_bytes(data)
    read = np.asarray(read_picture(tmp_path / "x.jpg" if given == "path" else Image.open(tmp_path / "x.jpg")))[8, 8::16].astype(float)
    expected = (255.0 - INK[:, :3]) * (255 - INK[:, 3:]) / 255
    assert np.abs(read - expected).max() <= 3


REFUSED = {
    "complex": (lambda: tiff(noise(1, 1, "u8"), 64, 1, t339=6), "complex float"),
    "logluv": (lambda: tiff(noise(3, 255, "u2"), 16, 32845), "LogLuv"),
    "filter array": (lambda: tiff(noise(1, 255, "u2"), 16, 32803), "colour filter array"),
    "linear raw": (lambda: tiff(noise(3, 255, "u2"), 16, 34892), "linear raw"),
    "lab of 16 bits": (lambda: tiff(noise(3, 255, "u2"), 16, 8), "CIE Lab"),
    "mask": (lambda: tiff(noise(1, 1, "u2"), 1, 4), "mask"),
    "24 bits": (lambda: tiff(noise(3, 255, "u1"), 24, 1, t277=1, t258=24), "24-bit"),
    "bits that differ": (lambda: tiff(noise(3, 255, "u1"), 8, 2, t258=(5, 6, 5)), "5 and 6-bit"),
    "formats that differ": (lambda: tiff(noise(3, 255, "u1"), 8, 2, t339=(1, 2, 1)), "unsigned and signed"),
    "LERC": (lambda: tiff(noise(1, 1, "f4"), 32, 1, t259=34887, t339=3), "LERC"),
    "JPEG XL": (lambda: tiff(noise(3, 255, "u1"), 8, 2, t259=50002), "JPEG XL"),
    "JPEG 2000": (lambda: tiff(noise(3, 255, "u1"), 8, 2, t259=34712), "JPEG 2000"),
    "unknown compression": (lambda: tiff(noise(3, 255, "u1"), 8, 2, t259=9999), "9999 compression"),
    "JPEG of 12 bits": (lambda: tiff(noise(1, 255, "u2"), 12, 1, t259=7), "12-bit"),
    "other inks": (lambda: tiff(noise(4, 255, "u1"), 8, 5, t332=2), "CMYK"),
    "unknown predictor": (lambda: tiff(noise(3, 255, "u1"), 8, 2, compress=zlib.compress, t259=8, t317=34892), "predictor 34892"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_a_tiff_that_is_not_read_is_called_what_it_is_and_never_damaged(tmp_path: Path, kind: str) -> None:
    make, says = REFUSED[kind]
    (tmp_path / "x.tif").write_bytes(make())
    with pytest.raises(PictureError, match=says) as error:
        read_picture(tmp_path / "x.tif", "B")
    assert str(error.value).startswith(f"B: {tmp_path}/x.tif: ")
    assert "damaged" not in str(error.value)
    assert "8-bit or 16-bit" in str(error.value)


@pytest.mark.parametrize("form", ["TGA", "PCX", "ICO", "DDS", "SGI", "PSD", "EPS"])
def test_a_picture_of_another_format_is_called_by_its_name(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"x.{form.lower()}"
    if form == "PSD":
        path.write_bytes(b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 4, 4, 8, 3) + bytes(12) + bytes(2 + 48))
    else:
        Image.new("RGB", (16, 16), "red").save(path, format=form)
    with pytest.raises(PictureError, match=f"is a picture of format {form}, which is not supported; export it as PNG") as error:
        read_picture(path)
    assert "damaged" not in str(error.value)


def test_a_sparse_tiff_is_black_where_it_holds_nothing(tmp_path: Path) -> None:
    values = noise(1, 65535, "u2")
    (tmp_path / "x.tif").write_bytes(tiff(values, 16, 1, t279=0))  # a strip of 0 bytes
    assert not np.asarray(read_picture(tmp_path / "x.tif")).any()


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_truncated_tiff_is_called_so(tmp_path: Path, dtype: str, compression: str | None) -> None:
    values = np.random.default_rng(0).random((64, 64, 3)) * WHITE[dtype]
    tifffile.imwrite(tmp_path / "x.tif", values.astype(dtype), photometric="rgb", compression=compression, metadata=None)
    whole = (tmp_path / "x.tif").read_bytes()
    (tmp_path / "x.tif").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(PictureError, match="damaged or truncated"):
        read_picture(tmp_path / "x.tif")


def test_the_first_page_of_a_deep_tiff_and_its_orientation_count(tmp_path: Path) -> None:
    pages = np.stack([noise(3, 1, "f4"), 1 - noise(3, 1, "f4")])
    tifffile.imwrite(tmp_path / "x.tif", pages, photometric="rgb", metadata=None, extratags=[(274, "H", 1, 6, True)])
    assert_read(tmp_path / "x.tif", np.rot90(pages[0], -1))
    image = Image.new("RGB", (4, 4))
    image.save(tmp_path / "y.png", pnginfo=PngImagePlugin.PngInfo())
    assert read_picture(tmp_path / "y.png").size == (4, 4)


def pages(path: Path, *written: tuple[np.ndarray, dict]) -> Path:
    with tifffile.TiffWriter(path) as file:
        for picture, options in written:
            file.write(picture, photometric="rgb", metadata=None, **options)
    return path


LARGE, LITTLE = noise(3, 255, "u1"), noise(3, 255, "u1")[::2, ::2].copy()
PREVIEWS = {  # a camera's raw file (DNG, NEF, ARW) holds the picture below its preview; other programs write it as the next page
    "below the preview": ((LITTLE, {"subfiletype": 1, "subifds": 1}), (LARGE, {"subfiletype": 0})),
    "after the preview": ((LITTLE, {"subfiletype": 1}), (LARGE, {})),
}
NO_PREVIEWS = {
    "a pyramid": ((LARGE, {"subifds": 1}), (LITTLE, {"subfiletype": 1})),
    "pages": ((LARGE, {"subfiletype": 2}), (LITTLE, {"subfiletype": 2})),
    "a preview cut out of its file": ((LARGE, {"subfiletype": 1}),),
}


@pytest.mark.parametrize("form", PREVIEWS)
def test_a_preview_is_never_taken_for_the_picture(tmp_path: Path, form: str) -> None:
    with pytest.raises(PictureError, match=r"A: .*x\.tif: has only a small preview as its first picture.*export"):
        read_picture(pages(tmp_path / "x.tif", *PREVIEWS[form]), "A")


def test_canons_raw_file_is_refused_whatever_its_first_picture_is(tmp_path: Path) -> None:
    tags = {256: 2, 257: 1, 258: 8, 259: 1, 262: 1, 277: 1, 278: 1, 279: 2}
    entries = tags | {273: 16 + 2 + 12 * (len(tags) + 1) + 4}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    whole = struct.pack("<H", len(entries)) + directory + bytes(4) + bytes([7, 9])
    for mark in (bytes(8), b"CR\2\0" + bytes(4)):
        (tmp_path / "x.cr2").write_bytes(b"II*\0" + struct.pack("<I", 16) + mark + whole)
        if mark.startswith(b"CR"):
            with pytest.raises(PictureError, match="raw files"):
                read_picture(tmp_path / "x.cr2")
        else:  # the same file without Canon's mark
            assert np.asarray(read_picture(tmp_path / "x.cr2"))[0, :, 0].tolist() == [7, 9]


def test_a_tiff_whose_first_pixel_looks_like_canons_mark_is_read(tmp_path: Path) -> None:
    values = noise(3, 255, "u1")
    values[0, :2] = [[ord("C"), ord("R"), 2], [0, 5, 6]]
    (tmp_path / "x.tif").write_bytes(tiff(values, 8, 2))
    assert (tmp_path / "x.tif").read_bytes()[8:12] == b"CR\2\0"
    assert np.array_equal(np.asarray(read_picture(tmp_path / "x.tif")), values)


@pytest.mark.parametrize("form", NO_PREVIEWS)
def test_the_first_picture_of_a_file_that_is_no_preview_is_read(tmp_path: Path, form: str) -> None:
    assert np.array_equal(np.asarray(read_picture(pages(tmp_path / "x.tif", *NO_PREVIEWS[form]))), LARGE)
