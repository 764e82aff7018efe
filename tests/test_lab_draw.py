"""The lab's drawings: what they promise to training (nothing held out leaks) and to the pipeline (the published grid)."""

import math

import pytest
import torch
from PIL import Image

from analogist import PromptGrid
from analogist.lab import effects
from analogist.lab.captions import caption
from analogist.lab.draw import Draw
from analogist.lab.families import CHANGES, collages
from analogist.lab.grids import draw_cells, evaluation_batch, picture_side, scene_grids
from analogist.lab.measure import as_shown, cell
from analogist.lab.mixture import training_batch
from analogist.lab.recipe import Mix
from analogist.lab.scene import MASK, OBJECTS, PICTURE, Scenes, render
from analogist.lab.split import EVALUATION_SEED, FAMILIES, HELD_OUT, HELD_OUT_PAIRS, TRAINED
from analogist.lab.vocabulary import COLOUR_NAMES, SHAPE_NAMES, WORDS


def one_object(shape: str, *, size: float, turn: float = 0.0, mode: int = MASK, x: float = 0.0, y: float = 0.0) -> Scenes:
    """A single object in the middle, white on black in mode MASK."""
    def per(value: float) -> torch.Tensor:
        return torch.full((1, OBJECTS), float(value))

    return Scenes(
        ground=torch.tensor([COLOUR_NAMES.index("blue")]), ground_texture=torch.tensor([0]),
        on=torch.tensor([[True, False, False]]), shape=torch.full((1, OBJECTS), SHAPE_NAMES.index(shape)),
        colour=torch.full((1, OBJECTS), COLOUR_NAMES.index("red")), texture=torch.zeros(1, OBJECTS, dtype=torch.long),
        x=per(x), y=per(y), size=per(size), turn=per(turn), tint=torch.zeros(1, 3), mode=torch.tensor([mode]),
        outline=torch.tensor([False]),
    )  # fmt: skip


# Areas in units of the size squared, from the shapes' definitions by elementary geometry.
AREAS = {
    "circle": math.pi * 0.85**2,
    "square": (2 * 0.74) ** 2,
    "triangle": 3 * math.sqrt(3) * 0.52**2,  # equilateral, in-radius 0.52
    "ring": math.pi * (0.9**2 - 0.42**2),
    "cross": 2 * (1.8 * 0.6) - 0.6**2,
    "star": 5 * 1.08 * 0.47 * math.sin(math.pi / 5),  # ten triangles between tip, notch and middle
}


@pytest.mark.parametrize("shape", AREAS)
def test_shapes_cover_the_area_that_geometry_says(shape: str) -> None:
    picture = render(one_object(shape, size=0.6), 128)[0, 0]
    assert picture.mean().item() * 4 == pytest.approx(AREAS[shape] * 0.6**2, rel=0.01)


@pytest.mark.parametrize("shape", SHAPE_NAMES)
def test_a_quarter_turn_of_the_object_is_a_quarter_turn_of_the_picture(shape: str) -> None:
    upright, turned = (render(one_object(shape, size=0.6, turn=angle), 64)[0] for angle in (0.3, 0.3 + math.pi / 2))
    assert torch.allclose(torch.rot90(upright, 1, (1, 2)), turned, atol=2e-3)  # float32 sine and cosine


def test_x_is_to_the_right_and_y_is_up() -> None:
    picture = render(one_object("circle", size=0.3, x=0.6, y=0.6), 64)[0, 0]
    assert picture[:32, 32:].sum() > 0.99 * picture.sum()


def test_pictures_of_any_resolution_show_the_same() -> None:
    fine, coarse = (render(one_object("heart", size=0.6, mode=PICTURE), side) for side in (240, 60))
    # antialiased edges are one pixel of the coarse picture wide, so averaging the fine one gives nearly the coarse one
    assert (torch.nn.functional.avg_pool2d(fine, 4) - coarse).abs().mean() < 0.004


def test_a_seed_gives_the_same_grids_and_another_seed_others() -> None:
    mix = Mix(scene_analogies=0.5, scene_collages=0.5)
    first, again, other = (training_batch(8, mix=mix, size=64, seed=seed, drawings=None) for seed in (3, 3, 4))
    assert torch.equal(first.pixels, again.pixels) and torch.equal(first.mask, again.mask) and first.captions == again.captions
    assert not torch.equal(first.pixels, other.pixels)


def test_training_never_sees_what_is_held_out() -> None:
    held = {(SHAPE_NAMES.index(s), COLOUR_NAMES.index(c)) for s, c in HELD_OUT_PAIRS}
    batch = scene_grids(210, 90, size=16, draw=Draw(torch.Generator().manual_seed(1)), seed=1, device=torch.device("cpu"))
    assert not set(batch.families) & set(HELD_OUT)
    s = batch.cells.scenes
    seen = {
        (int(shape), int(colour))
        for shape, colour, on in zip(s.shape.flatten(), s.colour.flatten(), s.on.flatten(), strict=True) if on
    }  # fmt: skip
    assert not seen & held
    assert len(seen) == len(SHAPE_NAMES) * len(COLOUR_NAMES) - len(held)  # every other pair does occur


def test_held_out_pairs_can_be_asked_for() -> None:
    batch = evaluation_batch(list(TRAINED), size=16, seed=EVALUATION_SEED, held_out_pairs=True)
    s = batch.cells.scenes
    for g in range(len(batch.families)):
        pairs = {(SHAPE_NAMES[s.shape[g, 3, k]], COLOUR_NAMES[s.colour[g, 3, k]]) for k in range(OBJECTS) if s.on[g, 3, k]}
        assert pairs & set(HELD_OUT_PAIRS)


def test_every_family_has_its_change_and_every_published_task_a_family() -> None:
    assert set(CHANGES) == set(FAMILIES) and not set(TRAINED) & set(HELD_OUT)
    published = {"colorization", "deblur", "denoise", "enhancement", "inpainting", "image editing", "image translation",
                 "style transfer", "skeleton to image", "mask to image"}
    assert set(TRAINED.values()) == published


@pytest.mark.parametrize("family", FAMILIES)
def test_the_answer_differs_from_b_and_follows_from_the_example(family: str) -> None:
    batch = evaluation_batch([family] * 8, size=128, seed=EVALUATION_SEED + 5)
    a, a_prime, b, b_prime = (cell(batch.pixels, i) for i in range(4))
    assert ((a - a_prime).square().mean((1, 2, 3)) > 1e-5).all() and ((b - b_prime).square().mean((1, 2, 3)) > 1e-5).all()
    assert torch.equal(batch.cells.effect[:, 0], batch.cells.effect[:, 2])
    assert torch.equal(batch.cells.effect[:, 1], batch.cells.effect[:, 3])


def test_recolour_gives_both_objects_the_same_new_colour_and_moves_nothing() -> None:
    s = evaluation_batch(["recolour"] * 20, size=16, seed=EVALUATION_SEED + 6).cells.scenes
    assert torch.equal(s.colour[:, 1, 0], s.colour[:, 3, 0])
    assert (s.colour[:, 0, 0] != s.colour[:, 1, 0]).all() and (s.colour[:, 2, 0] != s.colour[:, 3, 0]).all()
    for name in ("x", "y", "size", "turn", "shape"):
        field = getattr(s, name)
        assert torch.equal(field[:, 2], field[:, 3]), name


def test_a_drawn_grid_is_the_grid_that_prompt_grid_composes() -> None:
    batch = evaluation_batch(["recolour", "sketch", "denoise"], size=128, seed=EVALUATION_SEED + 7)
    pictures = draw_cells(batch.cells, picture_side(128), torch.Generator().manual_seed(EVALUATION_SEED + 7))
    for g in range(3):
        a, a_prime, b, _ = (Image.fromarray((p * 255).round().byte().permute(1, 2, 0).numpy()) for p in pictures[g])
        composed = PromptGrid(a, a_prime, b, size=128)
        ours = as_shown(batch.pixels[g])
        theirs = composed.masked_pixels()[0]
        mask = composed.mask_tensor()[0, 0] > 0
        assert torch.equal(mask, batch.mask[g, 0] > 0)
        assert torch.allclose(ours[:, ~mask], theirs[:, ~mask], atol=1e-6)


def test_collages_share_attributes_along_rows_or_everywhere_but_never_change_alike_in_both_rows() -> None:
    s = collages(400, Draw(torch.Generator().manual_seed(0))).scenes
    for name in ("shape", "turn", "ground"):
        field = getattr(s, name)[..., 0] if name != "ground" else s.ground
        changed = (field[:, 0] != field[:, 1]) & (field[:, 2] != field[:, 3])
        alike = changed & (field[:, 1] == field[:, 3])
        # where both rows change, arriving at the same value is a coincidence (shape: 1 in 8, ground: 1 in 9, turn: never)
        assert alike.sum() <= 0.3 * changed.sum(), name


def test_captions_are_at_most_five_words_for_the_answer_all_of_them_known() -> None:
    batch = evaluation_batch(list(FAMILIES) * 4, size=16, seed=EVALUATION_SEED + 8)
    for g in range(len(batch.captions)):
        words = caption(batch.cells, g, 3).split()
        assert len(words) <= 5 and set(words) <= set(WORDS)


def test_noise_comes_from_the_generator_and_grey_has_no_colour() -> None:
    picture = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    kind, amount = torch.tensor([effects.NOISE, effects.GREY]), torch.full((2, 4), 0.5)
    once, twice = (effects.apply(picture.clone(), kind, amount, torch.Generator().manual_seed(9)) for _ in range(2))
    assert torch.equal(once, twice) and not torch.equal(once[0], picture[0])
    assert torch.equal(once[1, 0], once[1, 1]) and torch.equal(once[1, 1], once[1, 2])


def test_blur_is_a_gaussian_of_the_width_asked_for() -> None:
    point = torch.zeros(1, 3, 61, 61)
    point[:, :, 30, 30] = 1
    blurred = effects.blur(point, torch.tensor([0.1]))[0, 0]
    axis = torch.arange(61.0) - 30
    variance = (blurred * axis[None] ** 2).sum()
    assert blurred.sum().item() == pytest.approx(1, abs=1e-4)
    assert variance.item() == pytest.approx((0.1 * 61 / 2) ** 2, rel=0.02)


def test_an_unknown_family_is_an_error_that_names_the_families() -> None:
    with pytest.raises(ValueError, match="recolor.*available are colorize"):
        evaluation_batch(["recolor"], size=64, seed=EVALUATION_SEED)
