"""Captions of words outside the vocabulary, which teach the lab's models that an unknown name says nothing."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from analogist.lab import train
from analogist.lab.mixture import watched_grids
from analogist.lab.recipe import Optimisation
from analogist.lab.unet_task import UNKNOWN, UNetTask
from analogist.lab.vocabulary import WORDS
from analogist.lab.words import tokenizer, unknown_captions
from tests.test_lab_train import TINY


def test_captions_of_unknown_words_hold_no_known_word_and_hardly_repeat() -> None:
    made = unknown_captions(2000, seed=3)
    assert made == unknown_captions(2000, seed=3) != unknown_captions(2000, seed=4)
    assert not {word for caption in made for word in caption.split()} & set(WORDS)
    assert {len(caption.split()) for caption in made} == {1, 2} and len(set(made)) > 1900


def test_their_share_of_a_batch_is_the_recipes_and_the_rest_stays(tmp_path: Path) -> None:
    recipe = replace(TINY, dropped=0.25, unknown=0.4, solver_training=Optimisation(batch=400, steps=1), reuse=1)
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.to_json()))
    assert train.main(["vae", "--recipe", str(tmp_path / "recipe.json"), "--out", str(tmp_path), "--device", "cpu", "--quiet"]) == 0
    device = torch.device("cpu")

    def ids(unknown: float) -> torch.Tensor:
        task = UNetTask("solver", replace(recipe, unknown=unknown), device, tmp_path, None, watched_grids(recipe.size, device))
        return task.batch(5, 0)[2]

    def rows(captions: list[str]) -> set[tuple[int, ...]]:
        coded = tokenizer(recipe.text.positions)(captions, padding="max_length", truncation=True)["input_ids"]
        return {tuple(row) for row in coded}

    mixed, plain = (list(map(tuple, ids(unknown).tolist())) for unknown in (0.4, 0.0))
    unknown, empty = rows(unknown_captions(UNKNOWN, recipe.solver_training.seed)), rows([""])
    share = sum(row in unknown for row in mixed) / 400
    assert abs(share - 0.4 * 0.75) < 0.08  # three standard deviations
    assert not any(row in unknown for row in plain)
    assert all(row in unknown or row in empty or row == other for row, other in zip(mixed, plain, strict=True))
    assert [row in empty for row in mixed] == [row in empty for row in plain]  # the same captions are left empty
