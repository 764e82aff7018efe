"""Pictures of any shape in their cells, B' back in B's own shape, and the published variants of drawing and alignment."""

import numpy as np
import pytest
import torch
from PIL import Image

from analogist.grid import GridError, PromptGrid, to_pixels
from analogist.grid.fit import fitted, stretched_back
from tests.test_grid import plain


def gradient(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth picture in which every place has a colour of its own."""
    y, x = np.mgrid[0:height, 0:width]
    levels = np.stack([255 * x / max(width - 1, 1), 255 * y / max(height - 1, 1), np.full_like(x, 40 * seed, dtype=float)], axis=-1)
    return Image.fromarray(levels.round().astype(np.uint8))


def three(**settings) -> PromptGrid:
    return PromptGrid(gradient(90, 60, 1), gradient(60, 90, 2), gradient(80, 40, 3), **{"size": 128, **settings})


def test_stretching_is_the_published_drawing_and_the_default():
    assert three().image.tobytes() == three(fit="stretch").image.tobytes()
    cell = three().cells(without_border=True)["A"]
    assert cell.tobytes() == gradient(90, 60, 1).resize(cell.size).tobytes()


def test_cropping_takes_the_middle_in_its_own_proportions():
    out = np.asarray(fitted(gradient(300, 100), (50, 50), "crop")).astype(int)
    # of the x axis the middle third is left: levels 85 to 170, of the y axis everything
    assert abs(out[25, 0, 0] - 85) <= 3 and abs(out[25, -1, 0] - 170) <= 3
    assert out[0, 25, 1] <= 4 and out[-1, 25, 1] >= 251
    tall = np.asarray(fitted(gradient(100, 300), (50, 25), "crop")).astype(int)  # of the y axis a sixth: 106 to 149
    assert abs(tall[0, 25, 1] - 106) <= 4 and abs(tall[-1, 25, 1] - 149) <= 4


def test_pictures_of_any_size_can_be_cropped():
    for cell in (29, 61, 253):
        for side in range(1, 200):
            wide = fitted(Image.new("RGB", (3 * side, side), "red"), (cell, cell), "crop")
            tall = fitted(Image.new("RGB", (side, 2 * side), "red"), (cell, cell), "crop")
            assert wide.size == tall.size == (cell, cell) and wide.getpixel((cell - 1, 0)) == tall.getpixel((0, cell - 1)) == (255, 0, 0)


def test_padding_keeps_everything_with_white_around():
    out = np.asarray(fitted(gradient(200, 100), (50, 50), "pad")).astype(int)
    assert (out[:12] == 255).all() and (out[37:] == 255).all()
    inner = out[12:37]
    assert inner[12, 0, 0] <= 5 and inner[12, -1, 0] >= 250 and inner[0, 25, 1] <= 12
    assert fitted(gradient(7, 7), (50, 50), "pad").tobytes() == gradient(7, 7).resize((50, 50)).tobytes()
    assert fitted(gradient(1, 900), (50, 50), "pad").size == (50, 50)


@pytest.mark.parametrize(
    ("cell", "picture", "size"),
    [
        ((64, 64), (80, 40), (128, 64)),
        ((64, 64), (40, 80), (64, 128)),
        ((64, 64), (300, 300), (64, 64)),
        ((96, 64), (300, 200), (96, 64)),
        ((64, 64), (1, 10_000), (1, 8192)),
    ],
)
def test_stretching_back_loses_no_pixel_of_the_cell(cell, picture, size):
    assert stretched_back(cell, picture) == size


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_b_prime_comes_back_in_the_shape_of_b(fit):
    grid = three(fit=fit)
    # A perfect answer: the cell of B' shows what B's cell shows. Then B' is B again, up to resampling.
    canvas = grid.image
    left, top, _, _ = grid.boxes(without_border=True)["B'"]
    canvas.paste(grid.cells(without_border=True)["B"], (left, top))
    b_prime = grid.b_prime(canvas)
    assert abs(b_prime.width - 2 * b_prime.height) <= 1
    expected = np.asarray(gradient(80, 40, 3).resize(b_prime.size)).astype(int)
    inner = (slice(8, -8), slice(8, -8))  # the published cell has a border inside
    assert np.abs(np.asarray(b_prime).astype(int) - expected)[inner].max() <= 16


def test_b_prime_of_a_square_b_is_the_published_quadrant():
    grid = PromptGrid(plain("A"), plain("A'"), plain("B", 50, 50), size=128)
    assert grid.b_prime(grid.image).tobytes() == grid.crop(grid.image).tobytes()
    published = three()
    assert published.b_prime(published.image).tobytes() == published.crop(published.image).tobytes()
    cropped = three(fit="crop")
    assert cropped.b_prime(cropped.image).size == (64, 64)
    ready = PromptGrid.from_image(three().image, 128)
    assert ready.b_prime(ready.image).size == (64, 64)


def test_without_a_border_the_pictures_lie_side_by_side():
    grid = PromptGrid(plain("A"), plain("A'"), plain("B"), size=(128, 192), border=False)
    image = np.asarray(grid.image)
    first, second, left, right = slice(0, 64), slice(64, 128), slice(0, 96), slice(96, 192)
    for name, rows, columns in (("A", first, left), ("A'", first, right), ("B", second, left)):
        assert (image[rows, columns] == np.asarray(plain(name))[0, 0]).all(), name
    assert (image[64:, 96:] == 0).all()
    assert (np.asarray(grid.pasted())[64:, 96:] == np.asarray(plain("B"))[0, 0]).all()
    assert grid.boxes(without_border=True) == grid.boxes()


def test_with_a_and_b_aligned_a_prime_and_b_change_places_in_what_the_model_sees():
    straight, turned = three(), three(aligned="a-b")
    assert turned.image.tobytes() == straight.image.tobytes() and turned.marked().tobytes() == straight.marked().tobytes()
    by_hand = PromptGrid(gradient(90, 60, 1), gradient(80, 40, 3), gradient(60, 90, 2), size=128)
    assert turned.pasted().tobytes() == by_hand.pasted().tobytes() != straight.pasted().tobytes()
    assert (turned.mask() == straight.mask()).all()


def test_a_decoded_grid_comes_back_with_a_prime_and_b_in_their_places():
    turned = three(aligned="a-b")
    seen, back = turned.pasted(), turned.as_given(turned.pasted())
    cells, given = turned.cells(seen), turned.cells(back)
    for name, other in (("A", "A"), ("A'", "B"), ("B", "A'"), ("B'", "B'")):
        assert given[name].tobytes() == cells[other].tobytes(), name
    assert three().as_given(seen).tobytes() == seen.tobytes()


@pytest.mark.parametrize("aligned", ["a-a_prime", "a-b"])
@pytest.mark.parametrize("fit", [None, "crop", "pad"])
@pytest.mark.parametrize("ready", [False, True])
def test_a_known_b_prime_stands_beside_the_cells_that_the_masked_picture_shows(aligned, fit, ready):
    """The known cells agree bit for bit, and B' is drawn as B is: with B itself as B', the two cells hold the same picture."""
    grid = three(aligned=aligned, fit=fit)
    if ready:
        grid = PromptGrid.from_image(grid.image, 128, aligned=aligned, fit=fit, b_size=grid.b_size)
    shown = grid.mask_tensor() == 0
    assert torch.equal(to_pixels(grid.filled(gradient(80, 40, 5))) * shown, grid.masked_pixels())
    own = PromptGrid(*[gradient(80, 40, seed) for seed in (1, 2, 3)], size=128, aligned=aligned, fit=fit)
    cells = own.cells(own.filled(gradient(80, 40, 3)), without_border=True)
    assert cells["B'"].tobytes() == cells["B" if aligned == "a-a_prime" else "A'"].tobytes()


@pytest.mark.parametrize("size", [128, 192, 256])
def test_a_known_b_prime_leaves_no_black_in_a_ready_grid_of_another_size(size):
    """Edges then fall between pixels; black there would be worse than any picture. All pictures here are light, the border is white."""
    light = Image.new("RGB", (300, 300), (200, 180, 160))
    whole = PromptGrid(light, light, light, 512).image
    whole.paste(light.resize((253, 253)), (257, 257))
    filled = np.asarray(PromptGrid.from_image(whole, size).filled(light)).astype(int)
    cell = filled[size // 2 :, size // 2 :]
    assert cell.min() >= 160 and abs(cell - np.asarray(whole.resize((size, size)))[size // 2 :, size // 2 :].astype(int)).max() <= 95


@pytest.mark.parametrize("fit", [None, "stretch", "crop", "pad"])
@pytest.mark.parametrize("border", [True, False])
@pytest.mark.parametrize("size", [128, (128, 256)])
def test_a_written_grid_is_read_back_as_the_same_prompt(fit, border, size):
    grid = three(fit=fit, border=border, size=size, aligned="a-b")
    again = PromptGrid.from_image(grid.image, size, fit=fit, border=border, aligned="a-b", b_size=grid.b_size)
    assert again.image.tobytes() == grid.image.tobytes()
    assert again.pasted().tobytes() == grid.pasted().tobytes()
    assert again.b_prime(again.image).tobytes() == grid.b_prime(grid.image).tobytes()


@pytest.mark.parametrize(
    ("settings", "message"), [({"fit": "squeeze"}, "squeeze"), ({"aligned": "b-a"}, "a-b"), ({"aligned": "none"}, "sac=None")]
)
def test_unknown_variants_are_refused(settings, message):
    with pytest.raises(GridError, match=message):
        three(**settings)
    with pytest.raises(GridError, match=message):
        PromptGrid.from_image(three().image, **settings)


def test_several_pairs_cannot_be_turned():
    pictures = [plain("A"), plain("B")]
    with pytest.raises(GridError, match="one example pair"):
        PromptGrid(pictures, pictures, plain("B"), aligned="a-b")
    with pytest.raises(GridError, match="one example pair"):
        PromptGrid(pictures, pictures, plain("B")).with_aligned("a-b")
