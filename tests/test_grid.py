"""The prompt grid: composed as published, cut back into its cells, masked, marked, and turned into tensors and back."""

import io
import pickle
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from analogist.grid import GridError, PromptGrid, check_size, to_image, to_pixels

COLOURS = {
    "A": (200, 30, 30), "A'": (30, 200, 30), "B": (30, 30, 200), "A1": (200, 30, 30), "A1'": (30, 200, 30),
    "A2": (120, 60, 10), "A2'": (10, 60, 120), "B'": (0, 0, 0),
}  # fmt: skip


def plain(name: str, width: int = 40, height: int = 30) -> Image.Image:
    """One colour: whatever the filter, resizing keeps it."""
    return Image.new("RGB", (width, height), COLOURS[name])


def noise(seed: int, height: int = 60, width: int = 50) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def noisy_grid(size: int | tuple[int, int] | None = 128) -> PromptGrid:
    return PromptGrid(noise(0), noise(1), noise(2), size)


def as_drawn(spans_y: list[tuple[int, int]], spans_x: list[tuple[int, int]], names: list[list[str]], size: tuple[int, int]) -> np.ndarray:
    canvas = np.full((*size, 3), 255, np.uint8)
    for (top, bottom), row in zip(spans_y, names, strict=True):
        for (left, right), name in zip(spans_x, row, strict=True):
            canvas[top:bottom, left:right] = COLOURS[name]
    return canvas


NAMES = [["A", "A'"], ["B", "B'"]]


@pytest.mark.parametrize(
    ("size", "spans_y", "spans_x"),
    [  # by hand from the published p = 2, int(cell - 1.5 p), p and cell + p - 1
        (512, [(2, 255), (257, 510)], [(2, 255), (257, 510)]),
        (128, [(2, 63), (65, 126)], [(2, 63), (65, 126)]),
        ((512, 768), [(2, 255), (257, 510)], [(2, 383), (385, 766)]),
    ],
)
def test_the_grid_is_composed_as_published(size, spans_y: list, spans_x: list) -> None:
    grid = PromptGrid(plain("A"), plain("A'"), plain("B"), size)
    height, width = (size, size) if isinstance(size, int) else size
    assert grid.size == (height, width)
    assert np.array_equal(np.asarray(grid.image), as_drawn(spans_y, spans_x, NAMES, (height, width)))


def test_several_example_pairs_stand_above_the_row_of_b() -> None:
    grid = PromptGrid([plain("A1"), plain("A2")], [plain("A1'"), plain("A2'")], plain("B"), 512)
    names = [["A1", "A1'"], ["A2", "A2'"], ["B", "B'"]]
    assert grid.names == tuple(name for row in names for name in row)
    assert (grid.pairs, grid.rows, grid.size) == (2, 3, (768, 512))
    spans_x = [(2, 255), (257, 510)]
    assert np.array_equal(np.asarray(grid.image), as_drawn([*spans_x, (513, 766)], spans_x, names, (768, 512)))


def test_pictures_are_resized_by_bicubic_and_no_other_filter() -> None:
    picture = Image.fromarray(noise(0, 300, 400))
    cell = np.asarray(PromptGrid(picture, picture, picture, 512).image)[2:255, 2:255]
    assert np.array_equal(cell, np.asarray(picture.resize((253, 253), Image.Resampling.BICUBIC)))
    assert not np.array_equal(cell, np.asarray(picture.resize((253, 253), Image.Resampling.LANCZOS)))
    masked = PromptGrid(picture, picture, picture, 512).image
    ready = PromptGrid.from_image(masked, 128).image
    assert np.array_equal(np.asarray(ready)[:64], np.asarray(masked.resize((128, 128), Image.Resampling.BICUBIC))[:64])


def test_composing_and_cropping_gives_the_pictures_back() -> None:
    pictures = [noise(i, 61, 61) for i in range(3)]  # the size of a picture in a 64 px cell, so nothing is resampled
    cells = PromptGrid(*pictures, 128).cells(without_border=True)
    for name, picture in zip(("A", "A'", "B"), pictures, strict=True):
        assert np.array_equal(np.asarray(cells[name]), picture)
    assert not np.asarray(cells["B'"]).any()


def test_cells_tile_the_grid_and_crop_is_the_whole_quadrant_of_b_prime() -> None:
    decoded = noise(5, 96, 64)
    grid = PromptGrid([noise(0)] * 2, [noise(1)] * 2, noise(2), 64)
    cells = grid.cells(Image.fromarray(decoded))
    rows = [np.concatenate([np.asarray(cells[name]) for name in row], 1) for row in (("A1", "A1'"), ("A2", "A2'"), ("B", "B'"))]
    assert np.array_equal(np.concatenate(rows, 0), decoded)
    assert np.array_equal(np.asarray(grid.crop(Image.fromarray(decoded))), decoded[64:, 32:])
    assert np.array_equal(np.asarray(grid.crop(Image.fromarray(decoded), without_border=True)), decoded[65:94, 33:62])


def test_a_picture_of_another_size_is_not_cut() -> None:
    with pytest.raises(GridError, match=r"a picture of 64x128 px for a grid of 128x128 px \(height x width\)"):
        noisy_grid(128).crop(Image.new("RGB", (128, 64)))
    assert noisy_grid(None).crop(Image.new("RGB", (128, 64))).size == (64, 32)  # no size of its own: the picture's


@pytest.mark.parametrize(("pairs", "size"), [(1, (128, 128)), (1, (64, 192)), (2, (96, 64)), (3, (128, 64))])
def test_the_mask_covers_exactly_b_prime(pairs: int, size: tuple[int, int]) -> None:
    grid = PromptGrid([noise(0)] * pairs, [noise(1)] * pairs, noise(2), size)
    height, width = size
    expected = np.zeros(size, np.uint8)
    for y in range(height):
        for x in range(width):
            expected[y, x] = y >= height // (pairs + 1) * pairs and x >= width // 2
    assert grid.mask().dtype == np.uint8
    assert np.array_equal(grid.mask(), expected)
    assert torch.equal(grid.mask_tensor(), torch.tensor(expected, dtype=torch.float32)[None, None])


@pytest.mark.parametrize("pairs", [1, 2])
def test_pasted_copies_the_quadrant_of_b_over_b_prime_and_nothing_else(pairs: int) -> None:
    grid = PromptGrid([noise(0)] * pairs, [noise(1)] * pairs, noise(2), (32 * (pairs + 1), 96))
    image, pasted = np.asarray(grid.image), np.asarray(grid.pasted())
    top = 32 * pairs
    assert np.array_equal(pasted[top:, 48:], image[top:, :48])
    assert np.array_equal(pasted[:top], image[:top])
    assert np.array_equal(pasted[top:, :48], image[top:, :48])


def test_masked_pixels_are_mid_grey_in_b_prime_and_the_pasted_pixels_elsewhere() -> None:
    grid = noisy_grid(64)
    pixels, masked = grid.pixels(), grid.masked_pixels()
    assert pixels.shape == masked.shape == (1, 3, 64, 64)
    assert pixels.dtype == masked.dtype == torch.float32
    assert not masked[..., 32:, 32:].any()
    assert torch.equal(masked[..., :32, :], pixels[..., :32, :])
    assert torch.equal(masked[..., 32:, :32], pixels[..., 32:, :32])
    expected = np.asarray(grid.pasted()).astype(np.float64).transpose(2, 0, 1)[None] / 127.5 - 1
    assert np.abs(pixels.numpy() - expected).max() < 1e-6  # one rounding to float32


def test_pixels_to_image_and_back_keep_every_level() -> None:
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    pixels = to_pixels(Image.fromarray(levels))
    assert (pixels.min(), pixels.max()) == (-1, 1)
    for tensor in (pixels, pixels[0], pixels.double(), pixels.requires_grad_()):
        assert np.array_equal(np.asarray(to_image(tensor)), levels)


def test_pixels_are_clamped_and_rounded_to_the_nearest_level() -> None:
    x = torch.linspace(-1.5, 1.5, 3 * 64 * 64).reshape(1, 3, 64, 64)
    expected = np.floor(255 * np.clip(x.double().numpy() / 2 + 0.5, 0, 1) + 0.5)[0].transpose(1, 2, 0)
    assert np.array_equal(np.asarray(to_image(x)), expected)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4, 4), (1, 4, 4, 4), (4, 4, 3), (1, 1, 3, 4, 4), (3, 0, 4)])
def test_a_tensor_that_is_no_picture_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(GridError, match="is not a picture"):
        to_image(torch.zeros(shape))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pixels_that_are_not_finite_are_an_error(value: float) -> None:
    with pytest.raises(GridError, match="NaN or infinity"):
        to_image(torch.full((3, 4, 4), value))


def test_a_size_is_a_number_for_square_cells_or_height_and_width_or_resolved_later() -> None:
    later = PromptGrid([noise(0)] * 2, [noise(1)] * 2, noise(2))
    assert later.size is None
    assert later.at_size(128).size == (192, 128)
    assert later.at_size((96, 64)).size == (96, 64)
    assert later.with_size(128).at_size(512).size == (192, 128)  # a size once set stays
    assert later.image.size == (512, 768)
    assert noisy_grid(None).at_size(64).size == (64, 64)
    assert noisy_grid((64, 32)).size == (64, 32)
    assert np.array_equal(np.asarray(noisy_grid(None).at_size(64).image), np.asarray(noisy_grid(64).image))


@pytest.mark.parametrize("size", [0, -128, 2, 127, (128, 127), (127, 128), (128, 0), (128,), (1, 2, 3), "128", 128.0, True, (128, 128.0)])
def test_a_size_that_makes_no_cells_is_an_error(size: object) -> None:
    with pytest.raises(GridError, match="give a whole number N|does not split into 2 rows and 2 columns"):
        noisy_grid(size)
    with pytest.raises(GridError):
        noisy_grid(None).at_size(size)
    with pytest.raises(GridError):
        PromptGrid.from_image(noise(0), size)


def test_three_rows_need_a_height_of_three_cells_and_no_grid_is_endless() -> None:
    pair = [noise(0)] * 2
    with pytest.raises(GridError, match="128x128 px .* does not split into 3 rows .* the height must be a multiple of 3"):
        PromptGrid(pair, pair, noise(2), (128, 128))
    with pytest.raises(GridError, match="too large"):
        noisy_grid(100_000)


@pytest.mark.parametrize(("height", "width"), [(128, 128), (512, 768), (1024, 256)])
def test_sizes_that_split_pass(height: int, width: int) -> None:
    check_size(height, width, 128, 128)


@pytest.mark.parametrize(
    ("size", "multiples", "nearest"),
    [
        ((500, 500), (128, 128), "512x512, 512x384, 384x512, 384x384"),
        ((512, 700), (128, 128), "512x640, 512x768"),  # 700 is 60 above the one and 68 below the other
        ((512, 512), (192, 128), "576x512, 384x512"),
        ((64, 64), (128, 128), "128x128"),
        ((0, 128), (128, 128), "128x128"),
        ((384, 128), (256, 128), "256x128, 512x128"),
    ],
)
def test_a_size_that_does_not_split_names_the_nearest_that_do(size: tuple, multiples: tuple, nearest: str) -> None:
    with pytest.raises(GridError) as error:
        check_size(*size, *multiples)
    message = str(error.value)
    assert message.startswith(f"a grid of {size[0]}x{size[1]} px (height x width) does not split")
    assert f"multiple of {multiples[0]}, the width of {multiples[1]}" in message
    assert message.endswith(f"the nearest that work: {nearest}")
    for candidate in nearest.split(", "):
        check_size(*map(int, candidate.split("x")), *multiples)


@pytest.mark.parametrize(("a", "a_prime"), [(0, 0), (2, 1), (1, 2)])
def test_lists_of_unequal_length_are_an_error(a: int, a_prime: int) -> None:
    with pytest.raises(GridError, match=f"{a} pictures A and {a_prime} pictures A'"):
        PromptGrid([noise(0)] * a, [noise(1)] * a_prime, noise(2))


def test_a_list_of_one_is_the_published_grid() -> None:
    one = PromptGrid([noise(0)], [noise(1)], noise(2), 128)
    assert one.names == ("A", "A'", "B", "B'")
    assert np.array_equal(np.asarray(one.image), np.asarray(noisy_grid(128).image))


def test_a_composed_grid_read_back_is_the_same_grid(tmp_path: Path) -> None:
    grid = noisy_grid(128)
    grid.image.save(tmp_path / "input.png")
    back = PromptGrid.from_image(tmp_path / "input.png", 128)
    assert np.array_equal(np.asarray(back.image), np.asarray(grid.image))
    assert torch.equal(back.pixels(), grid.pixels())
    assert torch.equal(back.masked_pixels(), grid.masked_pixels())
    assert back.boxes(without_border=True) == grid.boxes(without_border=True)


def test_what_a_ready_grid_holds_in_b_prime_is_never_used() -> None:
    full = noise(0, 128, 128)
    other = full.copy()
    other[65:126, 65:126] = 99
    for size in (64, 128, 192):
        first, second = (PromptGrid.from_image(picture, size) for picture in (full, other))
        assert np.array_equal(np.asarray(first.image), np.asarray(second.image))
        assert torch.equal(first.pixels(), second.pixels())
        left, top, right, bottom = first.boxes(without_border=True)["B'"]
        assert not np.asarray(first.image)[top:bottom, left:right].any()


@pytest.mark.parametrize("size", [64, 80, 100, 128, 200, (96, 150)])
def test_cells_of_a_resized_ready_grid_are_cut_inside_their_borders(size: int | tuple[int, int]) -> None:
    drawn = PromptGrid(*(Image.new("RGB", (4, 4)) for _ in range(3)), 128).image  # black pictures, white borders
    grid = PromptGrid.from_image(drawn, size)
    # Nearest shows exactly which pixels of the drawing lie under a cut; bicubic would smear the border by a pixel.
    under = drawn.resize((grid.size[1], grid.size[0]), Image.Resampling.NEAREST)
    for name, (left, top, right, bottom) in grid.boxes(without_border=True).items():
        assert not np.asarray(under)[top:bottom, left:right].any(), name
        outer = grid.boxes()[name]
        assert right - left >= (outer[2] - outer[0]) * 61 / 64 - 2 and bottom - top >= (outer[3] - outer[1]) * 61 / 64 - 2


def test_a_ready_grid_may_have_more_rows() -> None:
    drawn = PromptGrid([noise(0)] * 2, [noise(1)] * 2, noise(2), (96, 64))
    grid = PromptGrid.from_image(drawn.image, (96, 64), rows=3)
    assert (grid.names, grid.pairs) == (drawn.names, 2)
    assert torch.equal(grid.pixels(), drawn.pixels())
    for rows in (1, 0, "3"):
        with pytest.raises(GridError, match="at least 2"):
            PromptGrid.from_image(drawn.image, rows=rows)
    with pytest.raises(GridError, match="too small for 2 rows"):
        PromptGrid.from_image(noise(0, 15, 16))


def test_a_grid_cannot_be_changed() -> None:
    grid = noisy_grid(128)
    before = np.asarray(grid.image).copy()
    with pytest.raises(FrozenInstanceError):
        grid.size = (64, 64)
    with pytest.raises(FrozenInstanceError):
        grid.other = 1
    for picture in (grid.image, grid.pasted(), grid.marked(), *grid.cells().values()):
        picture.paste((1, 2, 3), (0, 0, 20, 20))
    grid.mask()[:] = 1
    grid.pixels().zero_()
    assert np.array_equal(np.asarray(grid.image), before)


def test_pictures_are_read_when_the_grid_is_made(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        Image.fromarray(noise(i)).save(path)
    grid = PromptGrid(*paths, 128)
    for path in paths:
        path.unlink()
    assert np.array_equal(np.asarray(grid.image), np.asarray(noisy_grid(128).image))


def test_a_grid_travels_to_another_process() -> None:
    grid = noisy_grid(128)
    assert torch.equal(pickle.loads(pickle.dumps(grid)).pixels(), grid.pixels())


@pytest.mark.parametrize(("size", "times"), [(64, 4), (96, 3), (128, 2), (256, 1), (512, 1)])
def test_a_notebook_shows_the_marked_grid_with_small_pixels_as_squares(size: int, times: int) -> None:
    grid = noisy_grid(size)
    shown = np.asarray(Image.open(io.BytesIO(grid._repr_png_())))
    assert shown.shape == (times * size, times * size, 3)
    plain = np.kron(np.asarray(grid.image), np.ones((times, times, 1), np.uint8))
    changed = (shown != plain).any(-1)
    assert 0 < changed.mean() < 0.12
    for left, top, *_ in grid.boxes(without_border=True).values():  # a letter in the corner of every cell
        assert changed[top * times : top * times + 16, left * times : left * times + 16].any()


def test_a_grid_is_described_in_a_line() -> None:
    assert repr(noisy_grid(None)) == "<PromptGrid: grid of 1 example pair and B, size not set>"
    assert repr(PromptGrid.from_image(noise(0), 64)) == "<PromptGrid: ready grid of 1 example pair and B, 64x64 px (height x width)>"
