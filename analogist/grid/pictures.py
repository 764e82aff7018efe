"""Reads any picture from a user as plain 8-bit RGB, and writes PNGs that contain their record.

Used between files and `prompt_grid.py`; does not depend on grids, tensors or models.
"""

import contextlib
import io
import json
import os
import stat
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import ExifTags, Image, ImageFile, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from analogist.disk.writing import atomic_write, shown
from analogist.grid import png
from analogist.grid.samples import Refused, over_white, rgb_of_cmyk, to_levels
from analogist.grid.tiff import Tiff, is_tiff

# The forms in which a picture may be given: a path, a PIL image, or a uint8 array [height width 3].
Picture = str | os.PathLike[str] | Image.Image | np.ndarray

RECORD_KEY = "analogist"  # the PNG text chunk that holds the record, as JSON
MAX_PIXELS = 178_956_970  # Pillow's own limit for a decompression bomb; a 16384 x 10922 picture
# Up to the first number of pixels every file is decoded. Above it the file must have one byte per 16384 pixels. Deflate and LZW reach
# at most 8256, so only a damaged or malicious header claims more, and trusting it would waste memory.
SMALL_PIXELS, MAX_PIXELS_PER_BYTE = 16_777_216, 16_384

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF")  # EPS is left out: it runs another program
_READABLE = "PNG, JPEG, WebP, GIF, TIFF, BMP, PPM, JPEG 2000 or AVIF"
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"GIF8", b"II*\0", b"MM\0*", b"BM", b"\0\0\0\x0cjP")
_NOT_READ = {  # what no decoder here reads -> how such files begin, at their first or fifth byte
    "HEIC picture": tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")),
    "JPEG XL picture": (b"\xff\x0a", b"\0\0\0\x0cJXL "),
    "camera's raw file": (b"ftypcrx ", b"FUJIFILMCCD-RAW", b"IIRO", b"IIU\0"),
    "drawing in SVG or another XML file": (b"<svg", b"<?xml"),
    "PDF document": (b"%PDF",),
    "picture in OpenEXR": (b"\x76\x2f\x31\x01",),
    "picture in Radiance HDR": (b"#?RADIANCE", b"#?RGBE"),
    "video": (b"ftypisom", b"ftypmp42", b"ftypqt  ", b"ftypM4V ", b"\x1a\x45\xdf\xa3"),
    "NumPy array": (b"\x93NUMPY",),
}
_TURN = {  # EXIF orientation -> the transformation that turns the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BOMB_LIMIT = f"{MAX_PIXELS:,} pixels, the limit against decompression bombs"
_warnings_lock = threading.Lock()  # warnings.catch_warnings changes global state of the interpreter


class PictureError(ValueError):
    """A picture cannot be read. The message names the picture, its file, the reason and what to do."""


def read_picture(source: Picture, name: str = "picture") -> Image.Image:
    """Any picture as a new RGB image, as an image viewer shows it.

    source: a path, a PIL image, or a uint8 array [height width 3], values 0..255.
    name: the picture's role ("A", "A'", "B", ...), named in errors.
    EXIF rotation is applied (also to a PIL image straight from Image.open; the pixels of a processed one are taken as they are),
    transparency is composited over white. Samples of 1 to 16 bits are scaled so that their highest value becomes 255, floats so that 1
    becomes 255, and rounded. 32-bit and signed integers do not define white: if none is above 255 they are taken as levels, else 32-bit
    ones as 16-bit values. CMYK becomes (255 - c) (255 - k) / 255; the ink of a JPEG is inverted if it has Adobe's marker. Of an
    animation or a file with several pages, the first is taken. Embedded colour profiles are not applied; metadata of any size is ignored.
    Raises PictureError for a file that is missing, empty, truncated, not a picture, larger than MAX_PIXELS, of an
    unsupported kind (named) or of unknown value range, and for an array of another kind.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, name)
    if isinstance(source, Image.Image):
        what = f"{name}: the given image"
        if 0 in source.size:
            raise PictureError(f"{what} is {source.width} x {source.height} pixels; it must have at least one pixel")
        try:
            return _decoded(source, upright=isinstance(source, ImageFile.ImageFile))
        except Refused as error:
            raise PictureError(f"{what} has {error}") from error
        except Exception as error:  # a lazily opened file may fail in the same ways as in _from_file
            raise PictureError(f"{what} cannot be read: {_short(error)}") from error
    if isinstance(source, (str, os.PathLike)):
        return _from_file(source, name)
    kind = type(source).__name__
    raise PictureError(f"{name}: cannot read a {kind}; give a path, a PIL image or a uint8 array [height width 3]")


def save_png(image: Image.Image, path: str | os.PathLike[str], record: Mapping[str, object] | None = None) -> Path:
    """Writes a PNG atomically, the record as JSON in its text chunk "analogist"; the same input gives the same bytes.

    Raises OutputError when the path cannot be written, ValueError when the record is not JSON-ready (NaN included).
    """
    text = PngImagePlugin.PngInfo()
    if record is not None:
        try:
            text.add_text(RECORD_KEY, json.dumps(record, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(f"the record for {shown(path)} is not JSON-ready: {error}") from error
    # Encoded in memory first: Pillow reports a full disk without its reason.
    encoded = io.BytesIO()
    image.save(encoded, format="PNG", pnginfo=text)
    return atomic_write(path, encoded.getvalue())


def read_record(path: str | os.PathLike[str]) -> dict[str, object]:
    """The record that `save_png` wrote into a PNG. Raises PictureError if the file is not such a PNG."""
    what = f"picture: {shown(path)}"
    _check_file(path, what)
    try:
        with open(path, "rb") as file:
            text = png.read_text(file, RECORD_KEY)
        record = None if text is None else json.loads(text)
    except Exception as error:  # see _from_file
        raise PictureError(f"{what}: no record can be read from it: {_short(error)}") from error
    if not isinstance(record, dict):
        raise PictureError(f"{what}: holds no record of Analogist; give a PNG written by `analogist run`")
    return record


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        shape = " ".join(str(length) for length in array.shape)
        raise PictureError(
            f"{name}: an array of {array.dtype} [{shape}]; it must be uint8 [height width 3] with values 0..255 and no side of 0"
        )
    return Image.fromarray(array)  # copies RGB, so later changes to the array have no effect


def _from_file(path: str | os.PathLike[str], name: str) -> Image.Image:
    what = f"{name}: {shown(path)}"
    if isinstance(path, str) and path.startswith(("http://", "https://")):
        raise PictureError(f"{what}: web addresses are not downloaded; download the picture and give its path")
    n_bytes = _check_file(path, what)
    Image.init()
    try:
        # Pillow's warnings (damaged EXIF, size above half the limit) add nothing to the result or to our errors.
        with _warnings_lock, warnings.catch_warnings(), open(path, "rb") as file:
            warnings.simplefilter("ignore")
            head = file.read(len(png.SIGNATURE))
            if is_tiff(head):
                return _from_tiff(file, n_bytes)
            source = png.for_pixels(file) if head == png.SIGNATURE else file
            source.seek(0)
            with Image.open(source, formats=[f for f in _FORMATS if f in Image.OPEN]) as image:
                _check_size(image.width, image.height, n_bytes)
                return _decoded(image, upright=True)
    except Refused as error:
        raise PictureError(f"{what}: has {error}") from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"{what}: has more than {_BOMB_LIMIT}; make it smaller") from error
    except png.TextTooLarge as error:
        raise PictureError(f"{what}: {error}; save it without its metadata") from error
    except UnidentifiedImageError as error:
        raise PictureError(f"{what}: {_not_a_picture(path)}") from error
    except Exception as error:  # on damaged files Pillow's decoders raise nearly any exception, even struct.error and IndexError
        raise PictureError(f"{what}: damaged or truncated ({_short(error)}); get the file again") from error


def _check_file(path: str | os.PathLike[str], what: str) -> int:
    """The size of a regular file that is not empty, in bytes."""
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise PictureError(f"{what}: no such file") from error
    except (OSError, ValueError) as error:
        raise PictureError(f"{what}: cannot be opened: {_short(error)}") from error
    if stat.S_ISDIR(status.st_mode):
        raise PictureError(f"{what}: is a folder; give the path of a picture")
    if not stat.S_ISREG(status.st_mode):
        raise PictureError(f"{what}: is not a regular file; give the path of a picture")
    if status.st_size == 0:
        raise PictureError(f"{what}: is empty (0 bytes); get the file again")
    if not os.access(path, os.R_OK):
        raise PictureError(f"{what}: permission denied; check its permissions")
    return status.st_size


def _from_tiff(file: BinaryIO, n_bytes: int) -> Image.Image:
    tiff = Tiff(file)
    _check_size(tiff.width, tiff.height, n_bytes)
    if tiff.preview:
        raise Refused("only a small preview as its first picture, as cameras' raw files do; export the picture itself as PNG, JPEG or TIFF")
    if tiff.readable():
        with _quiet_libtiff():
            return _turned(Image.fromarray(tiff.rgb()), tiff.orientation)
    if tiff.left_to_pillow():
        with contextlib.suppress(UnidentifiedImageError):
            file.seek(0)
            with Image.open(file, formats=["TIFF"]) as image:
                return _decoded(image, upright=True)
    raise Refused(f"an unsupported kind of pixels: it is {tiff}; save it as an 8-bit or 16-bit picture")


def _check_size(width: int, height: int, n_bytes: int) -> None:
    """Checks, before any pixel is decoded, that the picture is not empty, not too large, and not larger than its bytes can hold."""
    pixels, sides = width * height, f"{width} x {height} pixels"
    if pixels == 0:
        raise Refused(f"{sides}; it must have at least one pixel")
    if pixels > MAX_PIXELS:
        raise Refused(f"{sides}; at most {_BOMB_LIMIT}; make it smaller")
    if pixels > max(SMALL_PIXELS, n_bytes * MAX_PIXELS_PER_BYTE):
        raise Refused(f"{sides} by its header, in {n_bytes} bytes: damaged or a decompression bomb; get the file again")


def _not_a_picture(path: str | os.PathLike[str]) -> str:
    """Why no decoder recognised the file, from its first bytes."""
    with open(path, "rb") as file:
        head = file.read(256)
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the picture; run `git lfs pull`"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "is an HTML page, not a picture; download the picture itself"
    known = next((kind for kind, starts in _NOT_READ.items() if head.startswith(starts) or head[4:12] in starts), None)
    if known is not None:
        return f"is a {known}, which cannot be read; export it as {_READABLE}"
    if head.startswith(_SIGNATURES) or head[4:12] == b"ftypavif":
        return "damaged or truncated (its header cannot be read); get the file again"
    other = _other_format(path)
    if other:
        return f"is a picture of format {other}, which is not supported; export it as {_READABLE}"
    return f"not a picture; give {_READABLE}"


def _other_format(path: str | os.PathLike[str]) -> str:
    """The format, from the header alone, of a picture that Pillow reads and we do not; "" if there is none."""
    formats = [name for name in Image.OPEN if name not in (*_FORMATS, "TGA")]
    if os.fsdecode(path).lower().endswith((".tga", ".targa")):  # a format without a signature: many other files look like it
        formats.append("TGA")
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path, formats=formats) as image:
            return image.format or ""
    return ""


def _decoded(image: Image.Image, *, upright: bool) -> Image.Image:
    """The pixels of the (first) picture as a new RGB image, turned upright by its EXIF or XMP orientation if requested."""
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tile:  # opened, not yet decoded
        tiff = Tiff(cast(BinaryIO, image.fp), image.tag_v2)
        if tiff.readable():
            with _quiet_libtiff():
                return _turned(Image.fromarray(tiff.rgb()), tiff.orientation)
    raw_mode = _raw_mode(image)
    with _quiet_libtiff() if image.format == "TIFF" else contextlib.nullcontext():
        image.load()
    rgb = _rgb(image, raw_mode)
    if not upright:
        return rgb
    orientation = 1
    with contextlib.suppress(Exception):  # damaged EXIF may raise nearly any error; the picture then keeps its orientation
        # Not ImageOps.exif_transpose: it also rewrites the whole EXIF, which fails on pictures with invalid unrelated tags.
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return _turned(rgb, orientation)


def _turned(image: Image.Image, orientation: Any) -> Image.Image:
    turn = _TURN.get(orientation)
    return image if turn is None else image.transpose(turn)


def _raw_mode(image: Image.Image) -> str:
    """The storage format of an opened file's pixels as Pillow names it, such as "L;4" or "CMYK;I"; "" once they are decoded."""
    tiles = getattr(image, "tile", None)
    args = tiles[0][3] if tiles else ""
    return args if isinstance(args, str) else str(args[0]) if args else ""


@contextlib.contextmanager
def _quiet_libtiff() -> Iterator[None]:
    """Silences libtiff, which writes directly to standard error, so that a damaged file gives only our error message."""
    try:
        standard_error = os.dup(2)
    except OSError:  # standard error is closed: nothing to silence
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(standard_error, 2)
        os.close(standard_error)


def _rgb(image: Image.Image, raw_mode: str) -> Image.Image:
    """A decoded image over white. raw_mode: see `_raw_mode`."""
    if image.mode.startswith("I") or image.mode == "F":
        return _rgb_from_deep_grey(image)
    if image.mode == "CMYK":
        ink = np.asarray(image)
        # Pillow turns the ink of every CMYK JPEG round, as Adobe's programs store it; those say so by their marker.
        if image.format == "JPEG" and "adobe" not in image.info:
            ink = 255 - ink
        return Image.fromarray(rgb_of_cmyk(ink))
    if image.mode == "LAB":
        return _rgb_from_lab(image)
    if image.has_transparency_data:
        return _over_white(image, raw_mode)
    rgb = image.convert("RGB")  # a copy even where the mode is RGB already
    rgb.info = {}  # the source's metadata must not travel into what we write
    return rgb


def _over_white(image: Image.Image, raw_mode: str) -> Image.Image:
    if image.mode in ("RGBa", "La"):  # premultiplied
        levels = np.asarray(image)
        colour = levels[..., :-1] if image.mode == "RGBa" else levels[..., :1].repeat(3, -1)
        return Image.fromarray(over_white(colour, levels[..., -1:], premultiplied=True))
    key = image.info.get("transparency")
    if image.mode in ("L", "RGB") and key is not None:  # a PNG's transparent value, given at the file's bit depth
        bits = next((n for n in (2, 4, 16) if f";{n}" in raw_mode), 8)
        wanted = to_levels(np.atleast_1d(np.asarray(key)), bits) if bits < 8 else np.atleast_1d(np.asarray(key)) >> (bits - 8)
        levels = np.array(image.convert("RGB"))
        levels[(levels == wanted).all(-1)] = 255
        return Image.fromarray(levels)
    over = np.asarray(image.convert("RGBA"))
    return Image.fromarray(over_white(over[..., :3], over[..., 3:]))


def _rgb_from_lab(image: Image.Image) -> Image.Image:
    try:
        from PIL import ImageCms

        lab, srgb = (ImageCms.createProfile(space) for space in ("LAB", "sRGB"))
        return cast(Image.Image, ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB"))  # None only if it converts in place
    except ImportError as error:
        raise Refused("CIE Lab pixels, and this Pillow cannot convert them (it lacks littlecms); save it as RGB") from error


def _rgb_from_deep_grey(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float grey, which Pillow's own conversion clips at 255 instead of scaling."""
    grey = np.asarray(image)
    bits, inverted = None if image.mode in ("I", "F") else 16, False
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # decoded by the caller: treated as in Tiff.rgb
        tiff = Tiff(cast(BinaryIO, image.fp), image.tag_v2)  # only its tags are read
        bits, inverted = tiff.bound, tiff.white_is_zero
    elif image.format == "PPM" and image.mode == "I":
        bits = 16  # Pillow scales a file's highest value to 65535
    levels = to_levels(grey.astype(np.uint16) if bits is not None else grey, bits)
    if inverted:
        levels = 255 - levels
    key = image.info.get("transparency")  # the 16-bit value that means "transparent" in a PNG
    if isinstance(key, int):
        levels[grey == key] = 255
    return Image.fromarray(levels).convert("RGB")


def _short(error: Exception) -> str:
    """An exception's own words as one printable line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    text = " ".join(text.split())
    return (text if text.isprintable() else ascii(text))[:160]
