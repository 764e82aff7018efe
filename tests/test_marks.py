"""Letters and arrows on the grid: in every cell, legible, of the published measures, and nothing else touched."""

import numpy as np
import pytest
from PIL import Image

from analogist.grid import PromptGrid

GREY = Image.new("RGB", (8, 8), (128, 128, 128))


@pytest.mark.parametrize(("pairs", "size"), [(1, (128, 128)), (1, (512, 512)), (1, (512, 768)), (1, (1024, 1024)), (2, (768, 512))])
def test_marks_are_a_letter_in_every_cell_and_an_arrow_in_every_row(pairs: int, size: tuple[int, int]) -> None:
    grid = PromptGrid([GREY] * pairs, [GREY] * pairs, GREY, size)
    image, marked = np.asarray(grid.image).astype(int), np.asarray(grid.marked()).astype(int)
    cell_height, cell_width = size[0] // (pairs + 1), size[1] // 2
    cell = min(cell_height, cell_width)
    side = 36 * cell // 256 if cell >= 128 else 16
    changed = (marked != image).any(-1)
    letters = {}
    for name, (left, top, *_) in grid.boxes(without_border=True).items():
        square = marked[top : top + side, left : left + side]
        white = (square > 128).all(-1)
        assert (square == square[..., :1]).all()  # black, white and between
        assert 0.05 < white.mean() < 0.5, name
        edge = np.concatenate([square[0], square[-1], square[:, 0], square[:, -1]])
        assert not edge.any(), name  # the letter keeps clear of the edge
        ys, xs = np.nonzero(white)
        assert ys.max() - ys.min() >= side * (0.4 if pairs == 1 else 0.25), name  # large enough to be read
        letters[name] = white
        changed[top : top + side, left : left + side] = False
    shapes = [tuple(map(tuple, letter)) for letter in letters.values()]
    assert len(set(shapes)) == len(shapes)  # no two cells look the same
    for row in range(pairs + 1):
        y, x = row * cell_height + cell_height // 2, cell_width
        # cv2.arrowedLine's numbers: the shaft reaches cell / 10 to both sides, the barbs 0.35 of its length at 45 degrees.
        half, barb = cell / 10, 0.35 * 2 * cell / 10 / 2**0.5
        for dx in (-0.8 * half, 0, 0.8 * half):
            red = marked[y - 1 : y + 1, round(x + dx)]
            assert (red[:, 0] > 180).all() and (red[:, 1:] < 60).all()
        for sign in (-1, 1):
            red, green, blue = marked[round(y + sign * barb * 0.9), round(x + half - barb * 0.9)]
            assert red > green + 60 and red > blue + 60
        reach = half + cell / 64 + 2
        changed[round(y - barb - cell / 64 - 2) : round(y + barb + cell / 64 + 2), round(x - reach) : round(x + reach)] = False
    assert not changed.any()  # nothing else was touched


def test_the_full_size_marks_have_the_published_measures() -> None:
    marked = np.asarray(PromptGrid(GREY, GREY, GREY, 512).marked()).astype(int)
    red = (marked == (230, 0, 0)).all(-1)
    ys, xs = np.nonzero(red[:256])
    assert abs(xs.min() - (256 - 25.6)) <= 3 and abs(xs.max() - (256 + 25.6)) <= 3
    assert red[:256, 240].sum() == 4  # the thickness, 256 / 64
    black = (marked == 0).all(-1)
    assert black[2, 2:38].all() and not black[2, 38] and black[2:38, 2].all() and not black[38, 2]
