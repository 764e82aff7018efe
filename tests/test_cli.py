"""The command line, end to end on the small parity checkpoint: files, repeats, one-line errors."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analogist.cli.main import main
from analogist.grid.pictures import read_record
from analogist.models.placement import Placement
from analogist.run.layers import parse_layers
from analogist.run.output import prompt_names

ROOT = Path(__file__).parent.parent
CHECKPOINT = Path(__file__).parent / "parity" / "checkpoint"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    paths = {}
    for name in ("a", "a_prime", "b"):
        path = folder / f"{name}.png"
        Image.fromarray(rng.integers(0, 256, (50, 60, 3), dtype=np.uint8)).save(path)
        paths[name] = str(path)
    return paths


@pytest.fixture
def arguments(pictures, tmp_path) -> list[str]:
    return [
        "run", "--a", pictures["a"], "--a-prime", pictures["a_prime"], "--b", pictures["b"], "--checkpoint", str(CHECKPOINT),
        "--size", "128", "--steps", "3", "--device", "cpu", "--quiet", "--out", str(tmp_path / "out"),
    ]  # fmt: skip


def fails(capsys, argv: list[str]) -> str:
    """Runs a command that must fail with exit code 2 and one line; returns the line."""
    capsys.readouterr()
    try:
        code = main(argv)
    except SystemExit as stop:  # argparse's own errors
        code = stop.code
    error = capsys.readouterr().err.strip()
    assert code == 2, error
    assert len(error.splitlines()) == 1 and "Traceback" not in error, error
    return error


def test_run_writes_the_contracts_files_with_their_records(arguments, tmp_path):
    assert main([*arguments, "--prompt", "a red boat", "--images", "2", "--seed", "7"]) == 0
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == [
        "b_prime_7.png", "b_prime_8.png", "grid_7.png", "grid_8.png", "input.png", "run.json"
    ]  # fmt: skip
    record = json.loads((out / "run.json").read_text())
    assert record["prompt"] == "a red boat" and record["seeds"] == [7, 8] and record["repeatable"]
    kept = read_record(out / "b_prime_8.png")
    assert kept["seeds"] == [8] and kept["config"] == record["config"]
    text = json.dumps(kept)
    assert str(tmp_path) not in text and "/" not in kept["checkpoint"]["name"] and "seconds" not in kept


def test_a_run_is_repeated_from_its_record_byte_for_byte(arguments, tmp_path, pictures):
    assert main([*arguments, "--prompt", "a red boat", "--images", "2", "--sac-layers", "2-9", "--sac-scale", "1.1"]) == 0
    out, again = tmp_path / "out", tmp_path / "again"
    assert main(["run", "--config", str(out / "run.json"), "--out", str(again), "--quiet"]) == 0
    for name in ("input.png", "b_prime_42.png", "grid_43.png"):
        assert (again / name).read_bytes() == (out / name).read_bytes(), name
    assert main(["run", "--config", str(out / "run.json"), "--quiet"]) == 0
    assert (tmp_path / "out_repeat" / "b_prime_43.png").read_bytes() == (out / "b_prime_43.png").read_bytes()
    # and once more from the repeat, whose own inputs are files beside it
    assert main(["run", "--config", str(again / "run.json"), "--out", str(tmp_path / "third"), "--quiet"]) == 0
    assert (tmp_path / "third" / "b_prime_42.png").read_bytes() == (out / "b_prime_42.png").read_bytes()


def test_an_enlarged_ready_grid_and_a_run_that_kept_maps_are_repeated_too(arguments, tmp_path, pictures):
    from analogist import PromptGrid

    grid = tmp_path / "grid.png"
    PromptGrid(pictures["a"], pictures["a_prime"], pictures["b"], size=128).image.resize((96, 96)).save(grid)
    tail = arguments[arguments.index("--checkpoint") :]
    assert main(["run", "--grid", str(grid), *tail, "--images", "2", "--explore", "1"]) == 0
    out, again = tmp_path / "out", tmp_path / "again"
    assert "explicit" in str(json.loads((out / "run.json").read_text())["attention_forms"])
    assert main(["run", "--config", str(out / "run.json"), "--out", str(again), "--quiet"]) == 0
    assert (again / "b_prime_43.png").read_bytes() == (out / "b_prime_43.png").read_bytes()


def test_a_repeat_without_out_never_overwrites(arguments, tmp_path):
    assert main(arguments) == 0
    for name in ("out_repeat", "out_repeat2"):
        assert main(["run", "--config", str(tmp_path / "out" / "run.json"), "--quiet"]) == 0
        assert (tmp_path / name / "b_prime_42.png").exists()


DAMAGE = [
    ("format", 99), ("seeds", []), ("seeds", 5), ("seeds", [5, 9]), ("grid", None), ("grid", {"size": 5}), ("prompt", 3), ("config", 4),
    ("checkpoint", "text"), ("checkpoint", {}), ("inputs", "text"), ("attention_forms", None), ("repeatable", False),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), DAMAGE, ids=[f"{key}={value}" for key, value in DAMAGE])
def test_a_damaged_record_is_one_line(record, tmp_path, capsys, key, value):
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**json.loads(record.read_text()), key: value}))
    assert "run.json" in fails(capsys, ["run", "--config", str(path), "--out", str(tmp_path / "x")])
    assert not (tmp_path / "x").exists()


@pytest.fixture(scope="module")
def record(pictures, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("record")
    argv = ["run", "--a", pictures["a"], "--a-prime", pictures["a_prime"], "--b", pictures["b"], "--checkpoint", str(CHECKPOINT)]
    assert main([*argv, "--size", "128", "--steps", "2", "--device", "cpu", "--quiet", "--out", str(folder)]) == 0
    return folder / "run.json"


@pytest.mark.parametrize(
    "config",
    ['{"cam":{"silence":5}}', '{"cam":{"silence":[["A"]]}}', '{"cam":{"silence":"AB"}}', '{"sac":{"clone":5}}', '{"sac":{"clone":[1,2]}}',
     '{"sac":{"mirror":"false"}}', '{"sac":{"placement":{"layers":5}}}', '{"sac":{"scale":"2"}}', "[" * 100_000, '{"sac":5}'],
)  # fmt: skip
def test_a_bad_configuration_file_is_one_line(arguments, tmp_path, capsys, config):
    path = tmp_path / "config.json"
    path.write_text(config)
    assert "config.json" in fails(capsys, [*arguments, "--config", str(path)])


def test_a_configuration_leaves_the_rest_to_the_checkpoint(arguments, tmp_path):
    from analogist import AnalogistConfig, SamplingConfig

    base = AnalogistConfig(sampling=SamplingConfig(steps=9, guidance=2.0), sac=None)
    assert AnalogistConfig.from_json({"sampling": {"steps": 3}}, base) == base.replace(steps=3)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n broken"], ids=["empty", "text", "truncated"])
def test_a_bad_picture_is_one_line(arguments, tmp_path, capsys, content):
    (tmp_path / "b.png").write_bytes(content)
    assert "b.png" in fails(capsys, [*arguments, "--b", str(tmp_path / "b.png")])


def test_nan_while_sampling_is_one_line(arguments, capsys):
    line = fails(capsys, [*arguments, "--sac-scale", "1e38"])
    assert "step 0" in line and "float32" in line


def test_flags_override_a_repeated_record(arguments, tmp_path):
    assert main([*arguments, "--prompt", "a red boat"]) == 0
    assert main(["run", "--config", str(tmp_path / "out" / "run.json"), "--seed", "9", "--out", str(tmp_path / "again"), "--quiet"]) == 0
    assert (tmp_path / "again" / "b_prime_9.png").exists()
    assert json.loads((tmp_path / "again" / "run.json").read_text())["prompt"] == "a red boat"


def test_a_changed_input_is_not_taken_for_the_runs_own(arguments, tmp_path, capsys):
    assert main(arguments) == 0
    Image.new("RGB", (128, 128), (9, 9, 9)).save(tmp_path / "out" / "input.png")
    repeat = ["run", "--config", str(tmp_path / "out" / "run.json"), "--out", str(tmp_path / "x")]
    assert "not the picture of this run" in fails(capsys, repeat)
    assert not (tmp_path / "x").exists()


def test_the_same_in_python_and_on_the_command_line(arguments, tmp_path, pictures):
    from analogist import Analogist, PromptGrid

    assert main([*arguments, "--prompt", "a red boat"]) == 0
    model = Analogist.from_checkpoint(CHECKPOINT, device="cpu")
    grid = PromptGrid(pictures["a"], pictures["a_prime"], pictures["b"], size=128)
    result = model(grid, "a red boat", config=model.config.replace(steps=3), progress=False)
    with Image.open(tmp_path / "out" / "b_prime_42.png") as written:
        assert written.tobytes() == result.b_prime.tobytes()


def test_several_prompts_get_names_of_their_own(arguments, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red boat\n\na green hill\n", encoding="utf-8")
    assert main([*arguments, "--prompt-file", str(prompts)]) == 0
    out = tmp_path / "out"
    assert (out / "b_prime_a-red-boat_42.png").exists() and (out / "grid_a-green-hill_42.png").exists()
    assert json.loads((out / "run.json").read_text())["prompt"] == ["a red boat", "a green hill"]
    assert main(["run", "--config", str(out / "run.json"), "--out", str(tmp_path / "again"), "--quiet"]) == 0
    assert (tmp_path / "again" / "b_prime_a-green-hill_42.png").read_bytes() == (out / "b_prime_a-green-hill_42.png").read_bytes()
    assert prompt_names(["!?", "a b", "A  B", "x" * 60]) == ["prompt", "a-b", "a-b-3", "x" * 40]
    assert len(set(prompt_names(["a b", "a b 3", "A B", "a-b"]))) == 4


def test_a_ready_grid_and_a_configuration_file_are_taken(arguments, pictures, tmp_path):
    from analogist import AnalogistConfig, PromptGrid, SamplingConfig

    config = tmp_path / "config.json"
    config.write_text(json.dumps(AnalogistConfig(sampling=SamplingConfig(steps=2), sac=None).to_json()))
    grid = tmp_path / "grid.png"
    PromptGrid(pictures["a"], pictures["a_prime"], pictures["b"], size=128).image.save(grid)
    argv = ["run", "--grid", str(grid), "--size", "128", "--checkpoint", str(CHECKPOINT), "--config", str(config), "--quiet"]
    assert main([*argv, "--out", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["config"]["sac"] is None and record["config"]["sampling"]["steps"] == 2


def test_layer_arguments_include_both_ends():
    assert parse_layers("none", "--sac-layers") is None
    assert parse_layers("3-10", "--sac-layers") == Placement.layers(3, 11)
    assert parse_layers("3,5, 8", "--sac-layers") == Placement.layers([3, 5, 8])
    assert parse_layers("up.*,mid.*", "--sac-layers") == Placement("up.*", "mid.*")
    assert parse_layers("3,up.*", "--sac-layers") == Placement.layers([3]) | Placement("up.*")


BAD = [
    (["--strength", "0"], "strength 0"),
    (["--strength", "1.2"], "strength 1.2"),
    (["--steps", "0"], "steps 0"),
    (["--steps", "3", "--strength", "0.1"], "leaves no step"),
    (["--size", "200"], "128"),
    (["--size", "512x"], "512x768"),
    (["--sac-layers", "3-16"], "layers 0..15"),
    (["--cam-layers", "9-3"], "runs backwards"),
    (["--sac-layers", "sideways.*"], "matches none"),
    (["--sac-layers", "3--5"], "allowed are none"),
    (["--sac-layers", "none", "--sac-scale", "2"], "SAC is off"),
    (["--images", "0"], "images 0"),
    (["--seed", "-3"], "seed -3"),
    (["--dtype", "int4"], "float32"),
    (["--device", "cuda:99"], "not available"),
    (["--prompt", "a", "--prompt-file", "b"], "cannot be combined"),
    (["--prompt-file", "/nowhere/prompts.txt"], "cannot be read"),
    (["--config", "/nowhere/config.json"], "cannot be read"),
    (["--guidance", "nan"], "guidance"),
    (["--attention", "flash"], "invalid choice"),
    (["--no-such-flag"], "unrecognized arguments"),
    (["--checkpoint", "/nowhere/model.safetensors"], "/nowhere/model.safetensors"),
    (["--b", "/nowhere/b.png"], "/nowhere/b.png"),
    (["--example", "recolour"], "leave out --a"),
]


@pytest.mark.parametrize(("flags", "message"), BAD, ids=[" ".join(flags) for flags, _ in BAD])
def test_bad_arguments_end_in_one_line_and_exit_code_2(arguments, tmp_path, capsys, flags, message):
    assert message in fails(capsys, [*arguments, *flags])
    assert not list(tmp_path.glob("out/b_prime*"))


def test_missing_inputs_are_named(capsys, pictures, tmp_path):
    assert "--out" in fails(capsys, ["run", "--a", pictures["a"], "--a-prime", pictures["a"], "--b", pictures["b"]])
    assert "--a-prime, --b" in fails(capsys, ["run", "--a", pictures["a"], "--out", str(tmp_path)])
    assert "arguments are required: command" in fails(capsys, [])


def test_an_output_path_below_a_file_is_an_error(arguments, capsys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert "file" in fails(capsys, [*arguments, "--out", str(tmp_path / "file" / "deeper")])


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_help_imports_no_torch():
    code = (
        "import sys\nfrom analogist.cli.main import main\n"
        "for argv in (['--help'], ['run', '--help'], ['grid', '--help'], ['weights', '--help'], ['weights', 'inspect', '--help']):\n"
        "    try: main(argv)\n    except SystemExit as stop: assert stop.code == 0, argv\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("examples:") >= 4


def test_an_interrupt_leaves_no_half_written_file(arguments, tmp_path):
    argv = [sys.executable, "-m", "analogist", *arguments, "--steps", "400", "--prompt", "a"]
    process = subprocess.Popen(
        argv, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background may have it ignored
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not (tmp_path / "out" / "input.png").exists():
        assert time.monotonic() < deadline and process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130 and b"interrupted" in error and b"Traceback" not in error
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["input.png"]


def test_a_full_disk_is_one_line_and_leaves_no_half_written_file(arguments, tmp_path):
    code = (
        "import resource, sys\nfrom analogist.cli.main import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\nsys.exit(main(sys.argv[1:]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment(), cwd=ROOT)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not list((tmp_path / "out").glob("*"))
