"""The bundled examples: there, loadable, and what the drawing code draws."""

import numpy as np
import pytest

from analogist import PromptGrid, examples
from analogist.lab.draw_examples import DRAWINGS, SCENES, draw
from analogist.lab.vocabulary import WORDS


def test_every_example_has_four_pictures_of_one_size_and_a_short_prompt() -> None:
    assert len(examples.names()) >= 10
    for name in examples.names():
        example = examples.load(name)
        pictures = [example.a, example.a_prime, example.b, example.b_prime_truth]
        assert {picture.size for picture in pictures} == {(256, 256)} and {picture.mode for picture in pictures} == {"RGB"}
        words = example.prompt.split()
        assert 0 < len(words) <= 5 and (name in DRAWINGS or set(words) <= set(WORDS))
        assert PromptGrid(example.path("a"), example.path("a_prime"), example.path("b"), size=128).size == (128, 128)


def test_every_folder_is_an_example() -> None:
    folders = {path.name for path in examples.FOLDER.iterdir() if path.is_dir() and not path.name.startswith("__")}
    assert folders - {"drawings"} == set(examples.names())  # drawings: the sheets of analogist.examples.by_people


@pytest.mark.parametrize("name", ["drawing-invert", "drawing-line", "recolour"])
def test_the_bundled_pictures_are_what_the_code_draws(name: str) -> None:
    assert [*DRAWINGS, *SCENES] == list(examples.names())
    pictures, prompt = draw(name)
    example = examples.load(name)
    assert prompt == example.prompt
    for drawn, picture in zip(pictures, (example.a, example.a_prime, example.b, example.b_prime_truth), strict=True):
        # one level apart where a machine rounds an antialiased edge differently
        assert np.abs(np.asarray(drawn, dtype=int) - np.asarray(picture, dtype=int)).max() <= 1


def test_the_drawings_change_as_their_kind_says() -> None:
    found = {name: [np.asarray(p, dtype=float) for p in (e.a, e.a_prime, e.b, e.b_prime_truth)]
             for name, e in ((n, examples.load(n)) for n in DRAWINGS)}
    for first, second in ((0, 1), (2, 3)):
        invert, grey, enhance = (found[name] for name in ("drawing-invert", "drawing-grey", "drawing-enhance"))
        assert np.array_equal(invert[first] + invert[second], np.full_like(invert[first], 255))
        assert np.ptp(grey[second], axis=-1).max() == 0 and np.ptp(grey[first], axis=-1).max() > 100
        assert np.abs(enhance[second] * 0.25 - enhance[first]).max() <= 0.5


def test_an_unknown_name_is_an_error_that_lists_the_names() -> None:
    with pytest.raises(ValueError, match="no example 'recolor'; available are drawing-invert"):
        examples.load("recolor")
    with pytest.raises(ValueError, match="no picture 'c'"):
        examples.load("recolour").path("c")
