"""Every kind of picture is read as a viewer shows it; PNGs carry their record."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analogist.disk.writing import OutputError
from analogist.grid.pictures import PictureError, read_picture, read_record, save_png

# Two by three pixels, all different, so that any turn, flip or swap of channels shows.
SMALL = np.array(
    [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[10, 20, 30], [200, 150, 100], [255, 255, 255]]], dtype=np.uint8
)  # fmt: skip


def blocks(pixels: np.ndarray, side: int = 16) -> Image.Image:
    """The pixels enlarged, so that JPEG keeps the middle of each block."""
    return Image.fromarray(pixels.repeat(side, 0).repeat(side, 1))


def middles(image: Image.Image, side: int = 16) -> np.ndarray:
    return np.asarray(image)[side // 2 :: side, side // 2 :: side].astype(int)


def test_a_plain_png_is_read_exactly_from_a_path_a_string_an_image_and_an_array(tmp_path: Path) -> None:
    path = tmp_path / "plain.png"
    Image.fromarray(SMALL).save(path)
    for source in (path, str(path), Image.open(path), Image.fromarray(SMALL), SMALL):
        image = read_picture(source)
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), SMALL)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["jpg", "png", "webp", "tif", "lzw.tif"])
def test_exif_orientation_turns_the_picture_upright(tmp_path: Path, orientation: int, form: str) -> None:
    # What the camera stored for each EXIF value, from the standard's table of where row 0 and column 0 lie.
    stored = {
        1: SMALL, 2: SMALL[:, ::-1], 3: SMALL[::-1, ::-1], 4: SMALL[::-1], 5: SMALL.swapaxes(0, 1),
        6: np.rot90(SMALL, 1), 7: SMALL[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(SMALL, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{form}"
    options = {"jpg": {"quality": 95, "subsampling": 0}, "webp": {"lossless": True}, "lzw.tif": {"compression": "tiff_lzw"}}
    blocks(np.ascontiguousarray(stored)).save(path, exif=exif, **options.get(form, {}))
    for source in (path, Image.open(path)):
        image = read_picture(source)
        assert image.size == (48, 32)
        assert np.abs(middles(image) - SMALL).max() <= (6 if form == "jpg" else 0)


def test_an_image_already_processed_is_taken_as_its_pixels_stand(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    blocks(SMALL).save(tmp_path / "turned.png", exif=exif)
    turned_by_hand = Image.open(tmp_path / "turned.png").rotate(-90, expand=True)
    assert np.array_equal(np.asarray(read_picture(turned_by_hand)), np.asarray(turned_by_hand))


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    a = alpha[..., None] / 255
    return colour * a + 255 * (1 - a)


ALPHA = np.array([[0, 255, 128], [64, 200, 1]], dtype=np.uint8)


@pytest.mark.parametrize("form", ["png", "webp", "tif"])
def test_alpha_is_laid_over_white(tmp_path: Path, form: str) -> None:
    options = {"lossless": True, "exact": True} if form == "webp" else {}
    Image.fromarray(np.dstack([SMALL, ALPHA])).save(tmp_path / f"alpha.{form}", **options)
    read = np.asarray(read_picture(tmp_path / f"alpha.{form}")).astype(float)
    assert np.abs(read - over_white(SMALL, ALPHA)).max() <= 0.51  # half a level of rounding


def test_grey_with_alpha_is_laid_over_white(tmp_path: Path) -> None:
    grey = SMALL[..., 0]
    Image.fromarray(np.dstack([grey, ALPHA])).save(tmp_path / "la.png")
    assert Image.open(tmp_path / "la.png").mode == "LA"
    read = np.asarray(read_picture(tmp_path / "la.png")).astype(float)
    assert np.abs(read - over_white(np.dstack([grey] * 3), ALPHA)).max() <= 0.51


def test_premultiplied_alpha_is_laid_over_white() -> None:
    image = Image.fromarray(np.dstack([SMALL, np.full((2, 3), 255, np.uint8)])).convert("RGBa")
    assert np.array_equal(np.asarray(read_picture(image)), SMALL)


def palette_image() -> Image.Image:
    image = Image.fromarray(np.array([[0, 1, 2], [3, 4, 5]], dtype=np.uint8), mode="P")
    image.putpalette(SMALL.reshape(-1).tolist())
    return image


@pytest.mark.parametrize("form", ["png", "gif", "bmp", "tif"])
def test_palettes_are_read(tmp_path: Path, form: str) -> None:
    palette_image().save(tmp_path / f"palette.{form}")
    assert np.array_equal(np.asarray(read_picture(tmp_path / f"palette.{form}")), SMALL)
    assert np.array_equal(np.asarray(read_picture(palette_image())), SMALL)


@pytest.mark.parametrize("form", ["png", "gif"])
def test_a_transparent_palette_entry_is_white(tmp_path: Path, form: str) -> None:
    palette_image().save(tmp_path / f"palette.{form}", transparency=3)
    expected = SMALL.copy()
    expected[1, 0] = 255
    assert np.array_equal(np.asarray(read_picture(tmp_path / f"palette.{form}")), expected)


def test_a_palette_with_alpha_per_entry_is_laid_over_white(tmp_path: Path) -> None:
    palette_image().save(tmp_path / "palette.png", transparency=bytes(ALPHA.reshape(-1)))
    read = np.asarray(read_picture(tmp_path / "palette.png")).astype(float)
    assert np.abs(read - over_white(SMALL, ALPHA)).max() <= 0.51


def test_a_transparent_colour_of_an_rgb_png_is_white(tmp_path: Path) -> None:
    Image.fromarray(SMALL).save(tmp_path / "key.png", transparency=(10, 20, 30))
    expected = SMALL.copy()
    expected[1, 0] = 255
    assert np.array_equal(np.asarray(read_picture(tmp_path / "key.png")), expected)


@pytest.mark.parametrize("form", ["png", "jpg", "tif"])
def test_greyscale_has_equal_channels(tmp_path: Path, form: str) -> None:
    grey = np.array([[0, 60, 120], [180, 240, 255]], dtype=np.uint8)
    blocks(grey).save(tmp_path / f"grey.{form}")
    read = middles(read_picture(tmp_path / f"grey.{form}"))
    assert np.abs(read - grey[..., None]).max() <= (2 if form == "jpg" else 0)


def test_one_bit_pictures_are_black_and_white(tmp_path: Path) -> None:
    bits = np.array([[True, False, True], [False, False, True]])
    Image.fromarray(bits).save(tmp_path / "bits.png")
    assert np.array_equal(np.asarray(read_picture(tmp_path / "bits.png")), np.dstack([bits * np.uint8(255)] * 3))


@pytest.mark.parametrize("form", ["png", "tif", "pgm"])
def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path, form: str) -> None:
    deep = np.array([[0, 255, 256], [32768, 65000, 65535]], dtype=np.uint16)
    path = tmp_path / f"deep.{form}"
    if form == "pgm":  # written by hand: big-endian 16 bit with its highest value in the header
        path.write_bytes(b"P5 3 2 65535\n" + deep.astype(">u2").tobytes())
    else:
        Image.fromarray(deep).save(path)
    expected = np.round(deep / 257).astype(np.uint8)
    assert np.array_equal(np.asarray(read_picture(path)), np.dstack([expected] * 3))


def test_a_big_endian_sixteen_bit_tiff_is_read(tmp_path: Path) -> None:
    deep = np.array([[0, 255, 256], [32768, 65000, 65535]], dtype=np.uint16)
    image = Image.frombytes("I;16B", (3, 2), deep.astype(">u2").tobytes())
    assert np.array_equal(np.asarray(read_picture(image))[..., 0], np.round(deep / 257).astype(np.uint8))


def test_the_transparent_value_of_a_sixteen_bit_png_is_white(tmp_path: Path) -> None:
    deep = np.array([[300, 301]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "key.png", transparency=300)
    assert np.asarray(read_picture(tmp_path / "key.png"))[0, :, 0].tolist() == [255, 1]


def test_float_grey_between_zero_and_one_is_scaled(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32)).save(tmp_path / "float.tif")
    assert np.asarray(read_picture(tmp_path / "float.tif"))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(("values", "mode"), [([[0, 2]], "F"), ([[0, float("nan")]], "F"), ([[-1, 5]], "I"), ([[0, 70000]], "I")])
def test_grey_of_unknown_scale_is_an_error_not_a_guess(values: list, mode: str) -> None:
    image = Image.fromarray(np.array(values, dtype=np.float32 if mode == "F" else np.int32))
    assert image.mode == mode
    with pytest.raises(PictureError, match="^A': the given image has grey values from .* allowed are 0 to"):
        read_picture(image, "A'")


@pytest.mark.parametrize("form", ["jpg", "tif"])
def test_cmyk_is_converted(tmp_path: Path, form: str) -> None:
    rows = [[[0, 0, 0, 0], [0, 0, 0, 255], [255, 0, 0, 0]], [[0, 255, 0, 0], [0, 0, 255, 0], [128, 0, 0, 128]]]
    cmyk = np.array(rows, np.uint8)
    image = Image.fromarray(cmyk.repeat(16, 0).repeat(16, 1), mode="CMYK")
    image.save(tmp_path / f"cmyk.{form}", **({"quality": 98} if form == "jpg" else {}))
    expected = (255 - cmyk[..., :3].astype(float)) * (255 - cmyk[..., 3:]) / 255
    assert np.abs(middles(read_picture(tmp_path / f"cmyk.{form}")) - expected).max() <= (8 if form == "jpg" else 1)


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 3), colour) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    for form in ("gif", "png", "webp", "tif"):
        path = tmp_path / f"moving.{form}"
        frames[0].save(path, save_all=True, append_images=frames[1:], **({"lossless": True} if form == "webp" else {}))
        assert Image.open(path).n_frames == 3
        assert np.asarray(read_picture(path)).reshape(-1, 3).tolist() == [[200, 0, 0]] * 12


def test_reading_leaves_the_source_unchanged_and_shares_nothing_with_it() -> None:
    array, image = SMALL.copy(), Image.fromarray(SMALL)
    from_array, from_image = read_picture(array), read_picture(image)
    array[:] = 7
    image.paste((7, 7, 7), (0, 0, 3, 2))
    assert np.array_equal(np.asarray(from_array), SMALL)
    assert np.array_equal(np.asarray(from_image), SMALL)
    from_image.paste((9, 9, 9), (0, 0, 3, 2))
    assert image.getpixel((0, 0)) == (7, 7, 7)


def test_a_colour_profile_does_not_travel_and_changes_no_pixel(tmp_path: Path) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(SMALL).save(tmp_path / "profile.png", icc_profile=profile)
    image = read_picture(tmp_path / "profile.png")
    assert image.info == {}
    assert np.array_equal(np.asarray(image), SMALL)


RECORD = {"seed": 42, "prompt": "käse 猫 \u2028", "nested": {"list": [1, 2.5, None, True]}, "empty": {}}


def test_a_png_carries_its_record(tmp_path: Path) -> None:
    path = save_png(Image.fromarray(SMALL), tmp_path / "out.png", RECORD)
    assert read_record(path) == RECORD
    assert json.loads(Image.open(path).info["analogist"]) == RECORD
    assert np.array_equal(np.asarray(Image.open(path)), SMALL)


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (save_png(Image.fromarray(SMALL), tmp_path / name, RECORD).read_bytes() for name in ("1.png", "2.png"))
    assert first == second
    assert str(tmp_path).encode() not in first


@pytest.mark.parametrize("record", [{"x": float("nan")}, {"x": object()}])
def test_a_record_that_is_not_json_is_an_error_before_anything_is_written(tmp_path: Path, record: dict) -> None:
    with pytest.raises(ValueError, match="not JSON-ready"):
        save_png(Image.fromarray(SMALL), tmp_path / "out.png", record)
    assert not (tmp_path / "out.png").exists()


def test_a_png_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="is a file, not a folder"):
        save_png(Image.fromarray(SMALL), tmp_path / "file" / "out.png")


def test_a_png_without_a_record_says_so(tmp_path: Path) -> None:
    save_png(Image.fromarray(SMALL), tmp_path / "plain.png")
    with pytest.raises(PictureError, match="holds no record"):
        read_record(tmp_path / "plain.png")
    text = io.BytesIO()
    Image.fromarray(SMALL).save(text, format="JPEG")
    (tmp_path / "a.jpg").write_bytes(text.getvalue())
    with pytest.raises(PictureError, match="no record can be read"):
        read_record(tmp_path / "a.jpg")
    with pytest.raises(PictureError, match="no such file"):
        read_record(tmp_path / "missing.png")
