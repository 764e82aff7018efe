"""The bundled examples: complete, what their script draws, and never in training."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analogist import examples
from analogist.examples import draw
from analogist.grid import PromptGrid
from analogist.lab.split import EVALUATION_SEED, FAMILIES, HELD_OUT_PAIRS


def test_every_example_has_its_four_pictures_of_one_size_and_a_prompt() -> None:
    assert len(examples.names()) >= 10
    for name in examples.names():
        example = examples.load(name)
        sizes = {Image.open(path).size for path in (example.a, example.a_prime, example.b, example.b_prime)}
        assert len(sizes) == 1, name
        assert 3 <= len(example.prompt.split()) <= 8, name


def test_no_folder_lies_there_that_no_example_names() -> None:
    folders = {path.name for path in examples.FOLDER.iterdir() if path.is_dir() and not path.name.startswith("__")}
    assert folders == set(examples.names())


def test_an_example_composes_into_a_grid_of_any_size() -> None:
    example = examples.load("recolour")
    grid, own = example.grid(128), PromptGrid(example.a, example.a_prime, example.b, 128)
    assert np.array_equal(np.asarray(grid.image), np.asarray(own.image))
    assert example.grid().size is None


def test_an_unknown_example_names_those_there_are() -> None:
    with pytest.raises(ValueError, match="no example 'recolor'; there are recolour, colorize, "):
        examples.load("recolor")


@pytest.mark.parametrize("name", examples.names())
def test_the_bundled_pictures_are_what_the_script_draws(name: str) -> None:
    example, pictures = draw.draw(name)
    assert example == examples.load(name), "draw them again: python -m analogist.examples.draw"
    for which, drawn in pictures.items():
        bundled = np.asarray(Image.open(getattr(example, which))).astype(int)
        # A level of rounding may differ between machines; at an edge of a shape a pixel may fall to the other side.
        different = (np.abs(bundled - np.asarray(drawn)) > 1).any(-1).mean()
        assert different <= 0.001, f"{which}; draw them again: python -m analogist.examples.draw"


def test_examples_are_drawn_by_seeds_that_training_never_uses_and_hold_no_held_out_pair() -> None:
    for name in examples.names():
        example = examples.load(name)
        assert example.seed >= EVALUATION_SEED
        assert example.family in FAMILIES
        words = example.prompt.split()
        assert not any(shape in words and colour in words[: words.index(shape)] for shape, colour in HELD_OUT_PAIRS), name


def test_the_script_writes_a_complete_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw, "CHOSEN", {"recolour": draw.CHOSEN["recolour"]})
    assert draw.main(["--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "examples.json").read_text()) == [asdict(examples.load("recolour"))]
    assert sorted(path.name for path in (tmp_path / "recolour").iterdir()) == ["a.png", "a_prime.png", "b.png", "b_prime.png"]


def test_naming_the_examples_imports_neither_torch_nor_pillow() -> None:
    code = "import sys; from analogist import examples; examples.names(); print({'torch', 'PIL', 'numpy'} & set(sys.modules))"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout == "set()\n"
