"""Analogies of plain shapes: what they promise to the lab's training."""

import random

import pytest
import torch

from analogist.lab.changes import HELD_OUT_CHANGES
from analogist.lab.drawings import OPEN_DRAWINGS, Drawings, load_drawings
from analogist.lab.mixture import training_batch
from analogist.lab.plain import PLAIN_CHANGES, plain_analogies, plain_shapes
from analogist.lab.recipe import RECIPES, Mix
from tests.test_lab_drawings import SIDE, draw


@pytest.fixture(scope="module")
def drawings() -> Drawings:
    return load_drawings(OPEN_DRAWINGS)


def test_a_plain_shape_is_two_clearly_different_colours_and_their_mixtures_at_the_edge(drawings: Drawings) -> None:
    s = plain_shapes(drawings, draw(), 200, SIDE)
    inside = (s.outside == 0).expand_as(s.picture)
    for g in range(200):
        for k in range(2):
            ground, shape = (s.picture[g, k][:, where[g, k, 0]] for where in (s.outside == 1, inside))
            for colour in (ground, shape):
                assert colour.numel() == 0 or torch.equal(colour, colour[:, :1].expand_as(colour))
            if ground.numel() and shape.numel():
                assert (ground[:, 0] - shape[:, 0]).abs().mean() >= 0.25 - 1e-6
    assert inside[:, :, 0].flatten(2).any(-1).float().mean() > 0.95  # nearly every shape has an inside


def test_a_recoloured_shape_has_one_colour_in_both_answers_and_keeps_its_background(drawings: Drawings) -> None:
    s = plain_shapes(drawings, draw(1), 30, SIDE)
    source, target = PLAIN_CHANGES["recolour"].pairs(s, draw(2))
    ground, shape = (s.outside == 1).expand_as(source), (s.outside == 0)[:, :, 0]
    assert torch.equal(source[ground], target[ground])
    for g in range(30):
        colours = torch.cat([target[g, k][:, shape[g, k]] for k in range(2)], 1)
        assert torch.equal(colours, colours[:, :1].expand_as(colours))


@pytest.mark.parametrize("name", sorted(PLAIN_CHANGES))
def test_every_change_of_plain_shapes_shows_and_stays_within_the_range(name: str, drawings: Drawings) -> None:
    source, target = PLAIN_CHANGES[name].pairs(plain_shapes(drawings, draw(3), 12, SIDE), draw(4))
    assert source.shape == target.shape == (12, 2, 3, SIDE, SIDE)
    assert min(source.min(), target.min()) >= 0 and max(source.max(), target.max()) <= 1
    seen = (source - target).square().mean((2, 3, 4)) > 1e-6
    assert not seen.any() if name == "copy" else seen.float().mean() > 0.6


def test_what_is_held_out_or_needs_a_drawings_own_colours_is_no_change_of_plain_shapes() -> None:
    assert not set(PLAIN_CHANGES) & set(HELD_OUT_CHANGES)
    assert not [name for name in PLAIN_CHANGES if " to " in name or name == "colorize"]


def test_a_and_its_change_stand_above_b_and_its_change(drawings: Drawings) -> None:
    pictures, names = plain_analogies(drawings, draw(5), 60, SIDE, random.Random(0))
    assert pictures.shape == (60, 4, 3, SIDE, SIDE) and len(set(names)) > 15
    kept = [g for g, name in enumerate(names) if name == "invert"]
    assert kept and all(torch.allclose(pictures[g, k + 1], 1 - pictures[g, k]) for g in kept for k in (0, 2))


def test_a_mix_has_its_share_of_plain_shapes_without_captions(drawings: Drawings) -> None:
    batch = training_batch(40, mix=Mix(plain_analogies=0.25, singles=0.75), size=64, seed=0, drawings=drawings)
    plain = [i for i, family in enumerate(batch.families) if family.startswith("plain ")]
    assert len(plain) == 10 and all(batch.captions[i] == "" for i in plain)
    assert all(RECIPES[name]().solver.plain_analogies > 0 and not RECIPES[name]().generic.plain_analogies for name in RECIPES)
