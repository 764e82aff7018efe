"""The bundled examples: there, loadable, and what the drawing code draws."""

import numpy as np
import pytest

from analogist import PromptGrid, examples
from analogist.lab.draw_examples import CHOSEN, draw
from analogist.lab.vocabulary import WORDS


def test_every_example_has_four_pictures_of_one_size_and_a_short_prompt() -> None:
    assert len(examples.names()) >= 10
    for name in examples.names():
        example = examples.load(name)
        pictures = [example.a, example.a_prime, example.b, example.b_prime_truth]
        assert {picture.size for picture in pictures} == {(256, 256)} and {picture.mode for picture in pictures} == {"RGB"}
        words = example.prompt.split()
        assert 0 < len(words) <= 5 and set(words) <= set(WORDS)
        assert PromptGrid(example.path("a"), example.path("a_prime"), example.path("b"), size=128).size == (128, 128)


def test_every_folder_is_an_example() -> None:
    folders = {path.name for path in examples.FOLDER.iterdir() if path.is_dir() and not path.name.startswith("__")}
    assert folders - {"drawings"} == set(examples.names())  # drawings: the sheets of analogist.examples.by_people


def test_the_bundled_pictures_are_what_the_code_draws() -> None:
    assert set(CHOSEN) == set(examples.names())
    name = examples.names()[0]
    family, drawing = CHOSEN[name]
    pictures, prompt = draw(family, drawing)
    example = examples.load(name)
    assert prompt == example.prompt
    for drawn, picture in zip(pictures, (example.a, example.a_prime, example.b, example.b_prime_truth), strict=True):
        # one level apart where a machine rounds an antialiased edge differently
        assert np.abs(np.asarray(drawn, dtype=int) - np.asarray(picture, dtype=int)).max() <= 1


def test_an_unknown_name_is_an_error_that_lists_the_names() -> None:
    with pytest.raises(ValueError, match="no example 'recolor'; available are recolour"):
        examples.load("recolor")
    with pytest.raises(ValueError, match="no picture 'c'"):
        examples.load("recolour").path("c")
