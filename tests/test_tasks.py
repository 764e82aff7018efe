"""Task presets and the published variants on the command line."""

import json

import numpy as np
import pytest
from PIL import Image

from analogist import Placement
from analogist.cli.main import main
from analogist.config import TASKS
from analogist.run.tasks import task, tasks
from tests.test_cli import CHECKPOINT, fails

# The table of the published evaluation (authors' script) and the demos of their README: strength, guidance, first and last layer.
PUBLISHED = {
    "colorization": (0.98, 15, 3, 10), "enhancement": (0.98, 15, 3, 10), "image_editing": (0.98, 15, 3, 10),
    "image_translation": (0.98, 15, 3, 10), "style_transfer": (0.98, 15, 3, 10), "ubcfashion": (0.98, 15, 3, 10),
    "scannet": (0.98, 15, 3, 10), "deblur": (0.7, 15, 3, 10), "denoise": (0.7, 15, 3, 10), "inpainting": (0.98, 7.5, 3, 10),
    "caricature": (0.96, 15, 4, 8), "corgi": (0.8, 15, 4, 7),
}  # fmt: skip


@pytest.fixture
def arguments(tmp_path) -> list[str]:
    rng = np.random.default_rng(0)
    flags = []
    for name, (height, width) in {"a": (40, 60), "a-prime": (50, 50), "b": (30, 60)}.items():
        path = tmp_path / f"{name}.png"
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        flags += [f"--{name}", str(path)]
    return ["run", *flags, "--checkpoint", str(CHECKPOINT), "--device", "cpu", "--quiet", "--out", str(tmp_path / "out")]


def record(tmp_path, folder: str = "out") -> dict:
    return json.loads((tmp_path / folder / "run.json").read_text())


def test_every_task_has_the_published_settings():
    assert set(tasks()) == set(PUBLISHED) == set(TASKS) | {"caricature", "corgi"}
    for name, (strength, guidance, first, last) in PUBLISHED.items():
        found = task(name)
        sampling = found.config.sampling
        assert (sampling.strength, sampling.guidance, sampling.steps) == (strength, guidance, 50), name
        assert found.config.sac.placement == found.config.cam.placement == Placement.layers(first, last + 1), name
        assert found.config.sac.scale == 1.3 and found.layers == (first, last), name
    assert (task("corgi").aligned, task("corgi").size, task("deblur").size) == ("a-b", 1024, None)


def test_tasks_are_listed_with_what_each_is_for(capsys):
    assert main(["tasks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(PUBLISHED)
    deblur = next(line for line in lines if line.startswith("deblur"))
    assert "0.7" in deblur and "15" in deblur and "3-10" in deblur and "sharp" in deblur


def test_a_task_sets_what_flags_leave_open(arguments, tmp_path):
    assert main([*arguments, "--task", "deblur", "--size", "128", "--steps", "3", "--guidance", "4"]) == 0
    sampling = record(tmp_path)["config"]["sampling"]
    assert (sampling["strength"], sampling["guidance"], sampling["steps"]) == (0.7, 4.0, 3)
    assert main([*arguments, "--task", "corgi", "--size", "128", "--steps", "3"]) == 0
    kept = record(tmp_path)
    assert kept["grid"]["aligned"] == "a-b" and kept["config"]["sampling"]["strength"] == 0.8


def test_every_variant_is_recorded_and_repeated_byte_for_byte(arguments, tmp_path):
    flags = ["--size", "128", "--steps", "2", "--fit", "pad", "--borderless", "--aligned", "a-b"]
    assert main([*arguments, *flags]) == 0
    grid = record(tmp_path)["grid"]
    assert (grid["fit"], grid["border"], grid["aligned"], grid["b_size"]) == ("pad", False, "a-b", [30, 60])
    with Image.open(tmp_path / "out" / "b_prime_42.png") as b_prime:
        assert b_prime.size == (64, 32)
    assert main(["run", "--config", str(tmp_path / "out" / "run.json"), "--out", str(tmp_path / "again"), "--quiet"]) == 0
    for name in ("input.png", "b_prime_42.png", "grid_42.png"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes(), name


def test_with_nothing_aligned_only_cam_is_on(arguments, tmp_path):
    assert main([*arguments, "--size", "128", "--steps", "2", "--aligned", "none"]) == 0
    config = record(tmp_path)["config"]
    assert config["sac"] is None and config["cam"] is not None


def test_two_example_pairs_run_with_a_weight_each(arguments, tmp_path):
    a, a_prime = arguments[2], arguments[4]
    pairs = ["run", "--a", a, a_prime, "--a-prime", a_prime, a, *arguments[5:]]
    assert main([*pairs, "--size", "192x128", "--steps", "2", "--sac-scale", "1.3,0.5"]) == 0
    kept = record(tmp_path)
    assert kept["config"]["sac"]["scale"] == [1.3, 0.5] and kept["grid"]["rows"] == 3
    assert main(["run", "--config", str(tmp_path / "out" / "run.json"), "--out", str(tmp_path / "again"), "--quiet"]) == 0
    assert (tmp_path / "again" / "b_prime_42.png").read_bytes() == (tmp_path / "out" / "b_prime_42.png").read_bytes()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task", "cooking"], "task 'cooking': allowed are colorization"),
        (["--task", "deblur", "--config", "x.json"], "--task and --config"),
        (["--aligned", "none", "--sac-scale", "1.2"], "--aligned none turns SAC off"),
        (["--aligned", "b-a"], "invalid choice"),
        (["--fit", "squeeze"], "invalid choice"),
        (["--sac-scale", "1.3,"], "is not a scale"),
        (["--sac-scale", "1.3,0.5", "--size", "128"], "2 numbers, but the grid has 1 example pair"),
    ],
)
def test_variants_that_do_not_go_together_are_one_line(arguments, tmp_path, capsys, flags, message):
    assert message in fails(capsys, [*arguments, *flags])
    assert not (tmp_path / "out").exists()


def test_a_ready_grid_cannot_be_fitted_and_an_example_not_redrawn(capsys, tmp_path):
    Image.new("RGB", (128, 128)).save(tmp_path / "grid.png")
    ready = ["run", "--grid", str(tmp_path / "grid.png"), "--out", str(tmp_path / "o")]
    assert "--fit needs --a" in fails(capsys, [*ready, "--fit", "pad"])
    assert "--borderless" in fails(capsys, ["run", "--example", "recolour", "--borderless", "--out", str(tmp_path / "o")])
