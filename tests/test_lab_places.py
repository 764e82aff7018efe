"""The loss that teaches heads where the neighbouring cells are: its targets, its value, the sites, and that training lowers it."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from analogist.lab import train
from analogist.lab.places import Places, same_places, taught_sites
from analogist.lab.recipe import Optimisation, Recipe, fine, small
from analogist.models.control import AttentionControl
from analogist.models.unet import UNet
from tests.test_lab_train import TINY

TWO_HEADS = replace(
    TINY, size=16, unet=replace(TINY.unet, layers_per_block=1, heads=(2, 2, 2, 2)), reuse=1, taught=1.0, taught_steps=40,
    solver_training=Optimisation(batch=8, steps=60, warmup=1, learning_rate=1e-2),
)  # fmt: skip


def test_a_taught_key_is_the_same_place_of_the_cell_beside_or_above() -> None:
    beside, above = same_places(8, torch.device("cpu")).view(2, 8, 8).tolist()
    for row in range(8):
        for column in range(8):
            place = (row % 4, column % 4)  # in its cell of 4 x 4
            for key, cell in ((beside[row][column], (row // 4, 1 - column // 4)), (above[row][column], (1 - row // 4, column // 4))):
                assert (key // 8 % 4, key % 8 % 4) == place and (key // 8 // 4, key % 8 // 4) == cell


def test_an_even_map_costs_the_logarithm_of_its_keys_and_a_taught_one_nothing() -> None:
    unet = UNet(TWO_HEADS.unet)
    site = next(site for site in unet.sites if site.kind == "self")
    at = AttentionControl(branches=1, images=3).at(site, "probs", (8, 8))
    for maps, cost in ((torch.full((3, 4, 64, 64), 1 / 64), math.log(64)), (torch.eye(64).expand(3, 4, 64, 64), -math.log(1e-6))):
        tap = Places(frozenset({site.name}))
        assert tap(maps, at) is maps
        assert tap.loss.item() == pytest.approx(cost, abs=1e-3)
    taught = torch.zeros(3, 4, 64, 64)
    rows = torch.arange(64)
    taught[:, 0, rows, rows // 8 * 8 + (rows + 4) % 8] = 1  # the heads after the second may do anything
    taught[:, 1, rows, (rows + 32) % 64] = 1
    tap = Places(frozenset({site.name}))
    tap(taught, at)
    assert tap.loss.item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("recipe", [small(), fine()])
def test_the_taught_sites_know_places_and_have_room_for_them(recipe: Recipe) -> None:
    with torch.device("meta"):
        unet = UNet(recipe.unet)
    names = taught_sites(unet, recipe.size // 4)
    assert "up.3.attn.0.self" in names and not names & {"up.3.attn.1.self", "up.3.attn.2.self", "down.0.attn.0.self", "down.0.attn.1.self"}
    assert {"down.1.attn.0.self", "down.1.attn.1.self", "up.2.attn.0.self", "up.2.attn.1.self", "up.2.attn.2.self"} <= names
    assert ("down.2.attn.0.self" in names) == (recipe.size == 128)  # cells of 2 x 2 tokens are left alone


def test_one_head_is_too_few_and_the_error_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="2 heads.*set taught to 0"):
        taught_sites(UNet(replace(TWO_HEADS.unet, heads=(1, 1, 1, 1))), 8)


def test_training_teaches_the_solver_alone_and_stops_after_the_taught_steps(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(TWO_HEADS.to_json()))
    common = ["--recipe", str(recipe), "--out", str(tmp_path / "run"), "--device", "cpu", "--threads", "2", "--quiet"]
    for part in ("vae", "generic", "solver"):
        assert train.main([part, *common]) == 0
    log = [json.loads(line) for line in (tmp_path / "run" / "solver.jsonl").read_text().splitlines()]
    taught = [entry["places"] for entry in log if "places" in entry]
    assert [entry["step"] for entry in log if "places" in entry] == [20, 40] and log[-1]["step"] == 60
    assert taught[1] < taught[0] - 0.1
