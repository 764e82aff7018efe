"""Drawings by people in the lab: what they promise to training, and the ten kinds of change with exact answers."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from analogist.examples import by_people
from analogist.experiments.design.inputs import from_json
from analogist.experiments.evaluate.evaluation import read_data
from analogist.grid.prompt_grid import to_image
from analogist.lab.changes import CHANGES, HELD_OUT_CHANGES, change_of, gaussian_blur, styles_of
from analogist.lab.draw import Draw
from analogist.lab.drawings import OPEN_DRAWINGS, Drawings, load_drawings, paper_around
from analogist.lab.lookups import look_ups
from analogist.lab.mixture import drawn_analogies, drawn_collages, training_batch, watched_grids
from analogist.lab.recipe import MIX_KINDS, Mix
from analogist.lab.sketches import hue_turn, mixed, plan, sketches
from analogist.lab.state import TrainingError
from analogist.lab.vocabulary import WORDS

SIDE = 29


@pytest.fixture(scope="module")
def drawings() -> Drawings:
    return load_drawings(OPEN_DRAWINGS)


def draw(seed: int = 0) -> Draw:
    return Draw(torch.Generator().manual_seed(seed))


def test_paper_is_the_white_that_reaches_the_edge_and_not_the_white_within() -> None:
    picture = np.full((9, 9, 3), 255, dtype=np.uint8)
    picture[2:7, 2:7] = 0
    picture[4, 4] = 255  # an eye
    picture[2, 4] = 255  # a notch in the outline, open to the outside
    paper = paper_around(picture)
    expected = np.ones((9, 9), dtype=bool)
    expected[2:7, 2:7] = False
    expected[2, 4] = True
    assert np.array_equal(paper, expected)


def test_paper_winds_through_a_maze() -> None:
    picture = np.full((9, 9, 3), 0, dtype=np.uint8)
    way = [(0, 1), (1, 1), (2, 1), (3, 1), (3, 2), (3, 3), (2, 3), (1, 3), (1, 4), (1, 5), (2, 5), (3, 5), (4, 5), (5, 5), (5, 4), (5, 3)]
    for row, column in way:
        picture[row, column] = 255
    picture[7, 7] = 255  # white, but walled in
    paper = paper_around(picture)
    assert {(int(r), int(c)) for r, c in zip(*np.nonzero(paper), strict=True)} == set(way)


def test_a_folder_without_its_sheets_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="names.json"):
        load_drawings(tmp_path)
    (tmp_path / "names.json").write_text('[{"name": "a"}]')
    with pytest.raises(TrainingError, match="flat.png"):
        load_drawings(tmp_path)
    Image.new("RGB", (100, 64)).save(tmp_path / "flat.png")
    with pytest.raises(TrainingError, match="100 x 64"):
        load_drawings(tmp_path)


def test_a_hue_turn_keeps_greys_and_turns_red_to_green_after_a_third() -> None:
    third = hue_turn(torch.tensor(2 * torch.pi / 3))
    assert torch.allclose(third @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]), atol=1e-6)
    assert torch.allclose(hue_turn(torch.tensor(1.1)) @ torch.full((3,), 0.4), torch.full((3,), 0.4), atol=1e-6)


def test_colours_are_mixed_by_each_pictures_own_matrix() -> None:
    pictures, matrix = torch.rand(3, 2, 3, 4, 5), torch.rand(3, 3, 3)
    found = mixed(pictures, matrix)
    for n in range(3):
        for k in range(2):
            expected = torch.stack([sum(matrix[n, i, j] * pictures[n, k, j] for j in range(3)) for i in range(3)])
            assert torch.allclose(found[n, k], expected.clamp(0, 1), atol=1e-6)


def test_blur_has_the_width_asked_for() -> None:
    point = torch.zeros(2, 1, 41, 41)
    point[:, :, 20, 20] = 1
    blurred = gaussian_blur(point, torch.tensor([1.5, 3.0]))
    axis = torch.arange(41.0) - 20
    variance = (blurred[:, 0] * axis**2).sum((1, 2))
    assert variance.tolist() == pytest.approx([1.5**2, 3.0**2], rel=0.03)


@pytest.mark.parametrize("name", [*CHANGES, *HELD_OUT_CHANGES])
def test_every_change_shows_and_stays_within_the_range(name: str, drawings: Drawings) -> None:
    planned = plan(draw(), drawings, 12, 2, SIDE)
    if (styles := styles_of(name)) is not None:
        planned.style[:], planned.other_style[:] = styles
    source, target = change_of(name).pairs(sketches(drawings, planned), draw(1))
    assert source.shape == target.shape == (12, 2, 3, SIDE, SIDE)
    for pictures in (source, target):
        assert pictures.min() >= 0 and pictures.max() <= 1
    seen = (source - target).square().mean((2, 3, 4)) > 1e-6
    assert not seen.any() if name == "copy" else seen.float().mean() > 0.7  # a grey drawing stays as it is when it is made grey


@pytest.mark.parametrize("name", ["invert", "hue", "colours", "two tones", "multiply", "gamma", "posterise", "tint", "solarise"])
def test_a_map_of_colours_is_the_same_for_a_and_b(name: str, drawings: Drawings) -> None:
    """A' says what B' must be: where A and B have the same colour, A' and B' have."""
    planned = plan(draw(2), drawings, 6, 2, SIDE)
    planned.ground[:] = torch.rand(6, 1, 3, 1, 1, generator=torch.Generator().manual_seed(3))  # the same one colour in A and B
    s = sketches(drawings, planned)
    source, target = change_of(name).pairs(s, draw(4))
    for g in range(6):
        spots = [(s.outside[g, k, 0] == 1).nonzero()[0] for k in range(2)]
        before, after = ([pictures[g, k, :, y, x] for k, (y, x) in enumerate(spots)] for pictures in (source, target))
        assert torch.allclose(*before, atol=1e-6) and torch.allclose(*after, atol=1e-5)


def test_the_colours_of_a_look_up_can_be_read_at_a(drawings: Drawings) -> None:
    """Each colour of B that is also in A becomes in B' what it became in A'."""
    pictures = look_ups(drawings, draw(5), 20, SIDE, torch.zeros(20, dtype=torch.bool))
    moved = 0
    for a, a_prime, b, b_prime in pictures:
        mapping = {tuple(a[:, y, x].tolist()): a_prime[:, y, x] for y in range(SIDE) for x in range(SIDE)}
        for y in range(SIDE):
            for x in range(SIDE):
                colour = tuple(b[:, y, x].tolist())
                if colour in mapping:  # edges mix two colours and mostly occur once
                    assert torch.allclose(mapping[colour], b_prime[:, y, x], atol=0.02)
                    moved += not torch.allclose(b[:, y, x], b_prime[:, y, x], atol=0.05)
    assert moved > 20 * SIDE  # the check has met many pixels that change


def test_a_collage_is_never_an_analogy(drawings: Drawings) -> None:
    """No grid shows, left to right, one change in both of its rows: where rows change, they do not change alike."""
    pictures, _ = drawn_collages(drawings, draw(6), 150, SIDE, random.Random(0))
    a, a_prime, b, b_prime = (pictures[:, i].mean((2, 3)) for i in range(4))  # mean colours
    same_row = (pictures[:, 0] - pictures[:, 1]).abs().amax((1, 2, 3)) < 1e-6
    same_row_below = (pictures[:, 2] - pictures[:, 3]).abs().amax((1, 2, 3)) < 1e-6
    same_column = (pictures[:, 0] - pictures[:, 2]).abs().amax((1, 2, 3)) < 1e-6
    changed = ~same_row & ~same_row_below & ~same_column
    alike = changed & ((a_prime - a) - (b_prime - b)).abs().amax(1).lt(0.01)
    assert changed.sum() > 50 and alike.sum() <= 0.04 * changed.sum()  # by chance


def test_a_seed_gives_the_same_batch_and_another_seed_another(drawings: Drawings) -> None:
    mix = Mix(**dict.fromkeys(MIX_KINDS, 1.0))
    first, again, other = (training_batch(24, mix=mix, size=64, seed=seed, drawings=drawings) for seed in (3, 3, 4))
    assert torch.equal(first.pixels, again.pixels) and first.captions == again.captions and first.families == again.families
    assert not torch.equal(first.pixels, other.pixels)
    assert first.pixels.shape == (24, 3, 64, 64) and first.pixels.abs().max() <= 1
    assert {"collage", "single"} < set(first.families)


def test_a_mix_is_drawn_in_its_proportions(drawings: Drawings) -> None:
    batch = training_batch(100, mix=Mix(drawing_analogies=0.5, singles=0.3, drawing_collages=0.2), size=64, seed=0, drawings=drawings)
    assert batch.families.count("single") == 30 and batch.families.count("collage") == 20
    assert sum(name in CHANGES for name in batch.families) == 50
    with pytest.raises(ValueError, match="at least one above 0"):
        training_batch(4, mix=Mix(), size=64, seed=0, drawings=drawings)
    with pytest.raises(ValueError, match="give them with drawings="):
        training_batch(4, mix=Mix(singles=1.0), size=64, seed=0, drawings=None)


def test_generic_captions_describe_all_four_cells_and_solver_captions_the_painted_one(drawings: Drawings) -> None:
    whole = training_batch(40, mix=Mix(drawing_collages=1.0, whole_captions=1.0), size=64, seed=1, drawings=drawings)
    one = training_batch(40, mix=Mix(drawing_collages=1.0), size=64, seed=1, drawings=drawings)
    assert all(caption.count(" and ") >= 3 for caption in whole.captions)
    assert sum(caption.count(" and ") for caption in one.captions) < 40


def test_what_is_held_out_is_never_trained(drawings: Drawings) -> None:
    assert not set(CHANGES) & set(HELD_OUT_CHANGES)
    names = random.Random(0).choices(list(CHANGES), k=40)
    _, captions = drawn_analogies(drawings, names, draw(), SIDE, random.Random(0))
    assert len(captions) == 40 and all(len(row) == 4 for row in captions)


def test_the_watched_grids_hold_every_change() -> None:
    batch = watched_grids(64)
    assert set(CHANGES) <= set(batch.families) and len(batch.pixels) == 90
    assert torch.equal(batch.mask[:, :, 32:, 32:], torch.ones(90, 1, 32, 32)) and batch.mask.sum() == 90 * 32 * 32


def test_every_word_of_a_trained_name_is_in_the_vocabulary() -> None:
    assert {"apple", "face", "with", "line", "soft"} <= set(WORDS) and len(WORDS) == len(set(WORDS))


def test_the_ten_kinds_have_exact_answers_at_the_size_of_the_cell() -> None:
    side = 61
    flat = {name: by_people.drawing(name).resize((side, side), Image.Resampling.LANCZOS) for name in by_people.names()}
    for kind in by_people.KINDS:
        first, second = by_people.analogies(kind, count=2, side=side)
        assert {p.size for p in (first.a, first.a_prime, first.b, first.b_prime)} == {(side, side)}
        assert first.prompt in by_people.names() and first.name != second.name
        again = by_people.analogies(kind, count=1, side=side)[0]
        assert all(np.array_equal(getattr(first, n), getattr(again, n)) for n in ("a", "a_prime", "b", "b_prime"))
        b, b_prime, true = (np.asarray(p, dtype=float) / 255 for p in (first.b, first.b_prime, flat[first.prompt]))
        if kind in ("colorize", "denoise", "deblur", "enhance", "fill"):
            assert np.array_equal(b_prime, true)
        if kind == "colorize":
            assert np.allclose(b[..., 0], true @ [0.299, 0.587, 0.114], atol=1.5 / 255)
        if kind == "enhance":
            assert np.allclose(b, true / 4, atol=0.6 / 255)
        if kind == "invert":
            assert np.allclose(b_prime, 1 - true, atol=0.6 / 255) and np.array_equal(b, true)
        if kind == "denoise":  # clipping to [0, 1] takes half of the noise off white paper
            inside = (true > 0.35) & (true < 0.65)
            assert (b - true)[inside].std() == pytest.approx(0.2, rel=0.12)
        if kind == "fill":
            box = np.all(np.isclose(b, 128 / 255), axis=-1) & ~np.all(np.isclose(true, 128 / 255), axis=-1)
            rows, columns = np.nonzero(box)
            assert np.ptp(rows) + 1 == round(0.35 * side) and np.ptp(columns) + 1 == round(0.4 * side)


def test_the_built_in_drawings_are_inputs_of_studies_and_evaluations() -> None:
    found = from_json([{"drawings": ["invert", "fill"], "count": 3, "seed": 5}], 128)
    assert [one.group for one in found] == ["invert"] * 3 + ["fill"] * 3 and len({one.name for one in found}) == 6
    direct = by_people.analogies("fill", count=3, side=61, seed=5)
    for one, analogy in zip(found[3:], direct, strict=True):
        assert one.prompt == analogy.prompt and one.wrong_prompt != one.prompt
        assert np.array_equal(one.truth, analogy.b_prime) and one.truth.size == (61, 61)
        # the grid holds the pictures pixel for pixel: their size is the cell's, so nothing is resized
        whole = np.asarray(to_image(one.grid.masked_pixels()[0]))
        assert np.array_equal(whole[2:63, 2:63], analogy.a) and np.array_equal(whole[65:126, 2:63], analogy.b)
    assert all(one.prompt == "" for one in from_json([{"drawings": "all", "prompts": False}], 64))
    inputs, published = read_data("drawings", tasks=["denoise"], limit=2, size=64)
    assert not published and [one.group for one in inputs] == ["denoise"] * 2
    with pytest.raises(ValueError, match="allowed are colorize"):
        from_json([{"drawings": ["recolor"]}], 64)
    with pytest.raises(ValueError, match="unknown keys"):
        from_json([{"drawings": "all", "number": 3}], 64)


def test_unknown_kinds_names_and_styles_are_errors_that_list_what_there_is() -> None:
    with pytest.raises(ValueError, match="allowed are colorize"):
        by_people.analogies("invret", count=1, side=29)
    with pytest.raises(ValueError, match="by_people.names"):
        by_people.drawing("nothing")
    with pytest.raises(ValueError, match="flat, line, soft"):
        by_people.drawing("anchor", "sketch")
