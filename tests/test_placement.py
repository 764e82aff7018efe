"""Placements: at which sites, steps, heads and branches something acts."""

import json
import random

import pytest

from analogist.models.placement import NEGATIVE, TEXT, Placement


def named(placement: Placement, sites, **where) -> list[str]:
    """Names of the sites at which any head is active."""
    where = {"step": 0, "branch": TEXT, **where}
    return [site.name for site in sites if placement.heads_at(site, **where)]


@pytest.fixture(scope="module")
def sites(tiny_unet):
    return tiny_unet.sites


def test_layers_three_to_eleven_are_the_released_default(sites) -> None:
    patterns = Placement("down.1.attn.1.*", "down.2.*", "mid.*", "up.1.*", "up.2.attn.0.*")
    assert named(Placement.layers(3, 11), sites) == named(patterns, sites)
    assert [site.layer for site in sites if Placement.layers(3, 11).matches(site)] == [n for n in range(3, 11) for _ in "sc"]


def test_a_list_of_layers_names_just_these(sites) -> None:
    assert named(Placement.layers([8, 3, 5]), sites) == [
        f"{block}.{kind}" for block in ("down.1.attn.1", "down.2.attn.1", "up.1.attn.1") for kind in ("self", "cross")
    ]


def test_patterns_are_shell_patterns_and_case_sensitive(sites) -> None:
    assert named(Placement("mid.*.self"), sites) == ["mid.0.attn.0.self"]
    assert named(Placement("up.[12].attn.?.cross"), sites) == [f"up.{level}.attn.{i}.cross" for level in (1, 2) for i in range(3)]
    assert named(Placement("UP.*"), sites) == []


def test_nowhere_names_no_site(sites) -> None:
    assert named(Placement.nowhere(), sites) == [] and not any(Placement.nowhere().matches(site) for site in sites)


def test_steps_are_executed_steps_and_a_range_is_half_open(sites) -> None:
    window, chosen = Placement("mid.*", steps=range(3, 7)), Placement("mid.*", steps=[9, 0, 2])
    assert [step for step in range(12) if named(window, sites, step=step)] == [3, 4, 5, 6]
    assert [step for step in range(12) if named(chosen, sites, step=step)] == [0, 2, 9]


def test_heads_and_branches_restrict_where_it_acts(sites) -> None:
    site = sites[12]
    placement = Placement("*", heads=[0, 2], branches=["text"])
    assert site.heads == 4 and placement.heads_at(site, 0, TEXT) == {0, 2}
    assert placement.heads_at(site, 0, NEGATIVE) == frozenset()
    assert Placement("*").heads_at(site, 0, NEGATIVE) == {0, 1, 2, 3}
    assert Placement("*", branches=[1]) == Placement("*", branches=["text"]) != Placement("*")


def test_union_and_difference_work_on_sites_steps_heads_and_branches(sites) -> None:
    site = sites[12]
    both = Placement("mid.*", steps=[0], heads=[0]) | Placement.layers(6, 7, steps=[0, 1], heads=[1])
    assert both.heads_at(site, 0, TEXT) == {0, 1} and both.heads_at(site, 1, TEXT) == {1} and both.heads_at(site, 2, TEXT) == frozenset()
    rest = Placement.layers(3, 11) - Placement("mid.*", heads=[0, 3]) - Placement("*", branches=["negative"])
    assert rest.heads_at(site, 0, TEXT) == {1, 2} and rest.heads_at(site, 0, NEGATIVE) == frozenset()
    only = Placement.layers(3, 11) - Placement.layers(4, 16)
    assert named(only, sites) == ["down.1.attn.1.self", "down.1.attn.1.cross"]


def test_random_combinations_agree_with_sets_of_site_step_head_and_branch(sites) -> None:
    """| and - against Python's own sets of the points in this space."""
    space = [(site, step, branch, head) for site in sites for step in range(3) for branch in (0, 1) for head in range(site.heads)]

    def as_set(placement: Placement) -> set:
        return {point for point in space if point[3] in placement.heads_at(*point[:3])}

    for seed in range(8):
        dice = random.Random(seed)
        leaves = [
            Placement.layers(dice.sample(range(16), 6), steps=dice.choice([None, [0, 2]]), heads=dice.choice([None, [1]])),
            Placement(dice.choice(["up.*", "*.cross", "down.2.*"]), branches=[dice.choice([0, 1])]),
            Placement.layers(3, 11, heads=[0, 3]),
        ]
        first, second, third = dice.sample(leaves, 3)
        assert as_set((first | second) - third) == (as_set(first) | as_set(second)) - as_set(third)
        assert as_set(first - (second | third)) == as_set(first) - (as_set(second) | as_set(third))
        assert as_set(first | (second - third)) == as_set(first) | (as_set(second) - as_set(third))


@pytest.mark.parametrize(
    "placement",
    [
        Placement.layers(3, 11),
        Placement.layers([3, 5, 8], steps=range(3, 7), heads=[0, 1], branches=["text"]),
        Placement("up.*", "mid.*"),
        Placement.nowhere(),
        Placement("up.*") | Placement.layers(3, 5) | Placement("mid.*", steps=[0]),
        (Placement("*") - Placement("mid.*", branches=["negative"])) | Placement.layers(0, 1),
    ],
)
def test_json_and_back_is_the_same_placement(placement: Placement, sites) -> None:
    again = Placement.from_json(json.loads(json.dumps(placement.to_json())))
    for site in sites:
        for step in range(8):
            for branch in (NEGATIVE, TEXT):
                assert again.heads_at(site, step, branch) == placement.heads_at(site, step, branch)
    assert again == placement and hash(again) == hash(placement)


@pytest.mark.parametrize(
    "data, message",
    [
        ({"layer": [3]}, r"unknown keys \['layer'\]"),
        ([3, 4], "give an object with 'layers' or 'sites'"),
        ({"any": []}, "'any' takes a list"),
        ({"any": [{"layers": [1]}], "steps": [0]}, "'any' takes a list of placements and allows no other keys"),
        ({"any": {"layers": [1]}}, "'any' takes a list"),
        ({"of": {"layers": [1]}}, "'of' and 'except' must be given together"),
        ({"layers": [-1]}, r"layers \[-1\]"),
        ({"layers": 3}, "layers 3: give a list"),
        ({"sites": "up.*"}, r"sites 'up\.\*': give a list"),
        ({"sites": [3]}, "site pattern 3: give text"),
        ({"layers": ["3"]}, r"layers \['3'\]: expected whole numbers"),
        ({"layers": [3], "steps": 5}, "steps 5: give a list"),
        ({"layers": [3], "branches": "text"}, "branches 'text': give a list"),
    ],
)
def test_json_that_is_no_placement_is_an_error_that_says_why(data, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Placement.from_json(data)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Placement(3), "site pattern 3: give text such as"),
        (lambda: Placement(""), "site pattern ''"),
        (lambda: Placement.layers(11, 3), r"layers\(11, 3\): give a half-open range with stop > start"),
        (lambda: Placement.layers(3), r"layers\(3, None\)"),
        (lambda: Placement.layers([3], 5), "either a range .start, stop. or one list"),
        (lambda: Placement.layers([-1, 3]), r"layers \[-1\]: expected whole numbers of at least 0"),
        (lambda: Placement.layers(-2, 3), r"layers \[-2, -1\]"),
        (lambda: Placement("*", steps=[-1]), r"steps \[-1\]"),
        (lambda: Placement("*", steps=[0.5]), r"steps \[0\.5\]"),
        (lambda: Placement("*", heads=[True]), r"heads \[True\]"),
        (lambda: Placement("*", steps=3), "steps 3: give a list"),
        (lambda: Placement("*", branches=["both"]), r"branches \['both'\]: allowed are 0 or 'negative'"),
        (lambda: Placement("*", branches="text"), "branches 'text': give a list"),
        (lambda: Placement("*", branches=[]), r"branches \(\): give at least one"),
        (lambda: Placement("*", branches=[["text"]]), r"branches \[\[.text.\]\]: allowed are"),
        (lambda: Placement("*", steps=[]), "steps .*: give at least one"),
        (lambda: Placement("*", heads=[]), "heads .*: give at least one"),
    ],
)
def test_an_impossible_placement_is_an_error_where_it_is_made(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "placement, kind, steps, message",
    [
        (Placement("up.9.*"), "self", None, r"site pattern 'up\.9\.\*' matches none of the 16 self-attention sites"),
        (Placement("UP.*"), "self", None, "matches none"),
        (Placement("up.*.cross"), "self", None, "matches none of the 16 self-attention sites"),
        (Placement("up.*.self"), "cross", None, "matches none of the 16 cross-attention sites"),
        (Placement.layers(3, 18), "self", None, r"layers \[16, 17\]: this UNet has layers 0\.\.15"),
        (Placement("up.*") | Placement("ub.*"), "self", None, "'ub.*' matches none"),
        (Placement("*") - Placement("middle.*"), "self", None, "'middle.*' matches none"),
        (Placement("*", heads=[0, 4]), "self", None, r"heads \[4\]: these sites have at most 4 heads"),
        (Placement("down.0.*", heads=[3]), "self", None, r"heads \[3\]: these sites have at most 2 heads"),
        (Placement("*", steps=[0, 49]), "self", 49, r"steps \[49\]: this run executes 49 steps, numbered 0\.\.48"),
    ],
)
def test_a_name_that_names_nothing_is_an_error_and_not_a_silent_off(sites, placement, kind, steps, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        placement.check(sites, kind, steps)


def test_placements_that_fit_pass_the_check(sites) -> None:
    Placement.layers(0, 16, heads=[3], steps=[48]).check(sites, "self", 49)
    (Placement("up.*.self") | Placement.layers([0]) - Placement("mid.*")).check(sites, "self")
    Placement.nowhere().check(sites, "cross", 1)


def test_an_empty_list_of_layers_is_an_error_that_says_what_off_is():
    with pytest.raises(ValueError, match="Placement.nowhere"):
        Placement.layers([])
