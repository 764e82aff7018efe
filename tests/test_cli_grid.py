"""The command `analogist grid` and the grid arguments that `run` shares with it."""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from analogist.cli.grid import add_parser, grid_from_arguments
from analogist.grid import PromptGrid


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (60, 50, 3), dtype=np.uint8)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("analogist")
    add_parser(parser.add_subparsers(required=True))
    return parser


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    for i, name in enumerate(("a", "p", "b")):
        Image.fromarray(noise(i)).save(tmp_path / f"{name}.png")
    return {name: str(tmp_path / f"{name}.png") for name in ("a", "p", "b")} | {"out": str(tmp_path / "deep" / "out")}


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize(("flags", "size"), [([], None), (["--size", "128"], 128), (["--size", "64x96"], (64, 96))])
def test_the_command_writes_the_grid_plain_and_marked(files: dict[str, str], flags: list[str], size) -> None:
    three = ["grid", "--a", files["a"], "--a-prime", files["p"], "--b", files["b"]]
    args = parser().parse_args([*three, "--out", files["out"], *flags])
    assert args.run(args) == 0
    grid, out = PromptGrid(noise(0), noise(1), noise(2), size or 512), Path(files["out"])
    assert sorted(path.name for path in out.iterdir()) == ["input.png", "input_marked.png"]
    assert np.array_equal(read(out / "input.png"), np.asarray(grid.image))
    assert np.array_equal(read(out / "input_marked.png"), np.asarray(grid.marked()))


def test_the_command_takes_several_pairs_and_ready_grids(files: dict[str, str]) -> None:
    pair = ["grid", "--a", files["a"], files["b"], "--a-prime", files["p"], files["a"], "--b", files["b"]]
    args = parser().parse_args([*pair, "--out", files["out"], "--size", "128"])
    args.run(args)
    expected = PromptGrid([noise(0), noise(2)], [noise(1), noise(0)], noise(2), 128)
    written = Path(files["out"]) / "input.png"
    assert np.array_equal(read(written), np.asarray(expected.image))
    ready = parser().parse_args(["grid", "--grid", str(written), "--rows", "3", "--size", "128", "--out", files["out"]])
    assert torch.equal(grid_from_arguments(ready).pixels(), expected.pixels())


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "missing --a, --a-prime, --b; give"),
        (["--a", "a.png", "--b", "b.png"], "missing --a-prime; give"),
        (["--grid", "g.png", "--b", "b.png"], "--grid is a whole grid and cannot be combined with --b"),
        (["--a", "a.png", "--a-prime", "p.png", "--b", "b.png", "--rows", "2"], "--rows needs --grid"),
        (["--a", "a.png", "--a-prime", "p.png", "--b", "b.png"], "^A: a.png: no such file"),
        (["--grid", "g.png"], "^grid: g.png: no such file"),
        (["--a", "a.png", "a.png", "--a-prime", "p.png", "--b", "b.png"], "2 pictures A and 1 pictures A'"),
    ],
)
def test_arguments_that_make_no_grid_are_one_clear_error(flags: list[str], says: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    args = parser().parse_args(["grid", "--out", "out", *flags])
    with pytest.raises(ValueError, match=says) as error:
        args.run(args)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "x", "12x", "1x2x3", "-5", "5.0", "512,512", "٣", "9999999999"])
def test_a_size_that_is_no_size_is_refused_by_the_parser(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parser().parse_args(["grid", "--out", "out", f"--size={text}"])
    assert stopped.value.code == 2
    assert f"{text!r} is not a size; give N or HEIGHTxWIDTH" in capsys.readouterr().err


def test_the_help_shows_examples_and_imports_neither_torch_nor_pillow() -> None:
    code = (
        "import argparse, sys; from analogist.cli.grid import add_parser\n"
        "parser = argparse.ArgumentParser('analogist'); add_parser(parser.add_subparsers())\n"
        "try: parser.parse_args(['grid', '--help'])\n"
        "except SystemExit: print('loaded', {'torch', 'PIL', 'numpy'} & set(sys.modules))\n"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert "analogist grid --a photo.png --a-prime sketch.png --b other.png --out out" in done.stdout
    assert done.stdout.endswith("loaded set()\n")
