"""`analogist run --list`: one record per line, gone on with where it stopped, nothing half-written."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analogist.cli.main import main
from analogist.models.unet import UNet
from analogist.run.result import SamplingError

ROOT = Path(__file__).parent.parent
CHECKPOINT = Path(__file__).parent / "parity" / "checkpoint"
FILES = ["b_prime_7.png", "grid_7.png", "input.png", "run.json"]


@pytest.fixture(scope="module")
def triples(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("data")
    for name in ("a", "ap", "b", "c"):
        Image.fromarray(rng.integers(0, 256, (50, 60, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    path = folder / "triples.csv"
    path.write_text("a,a_prime,b,prompt,name\na.png,ap.png,b.png,a red boat,boat\na.png,ap.png,c.png,,\nap.png,a.png,b.png,snow,winter/1\n")
    return path


def command(triples: Path, out: Path) -> list[str]:
    return [
        "run", "--list", str(triples), "--checkpoint", str(CHECKPOINT), "--size", "128", "--steps", "2", "--seed", "7", "--device", "cpu",
        "--quiet", "--out", str(out),
    ]  # fmt: skip


@pytest.fixture
def argv(triples, tmp_path) -> list[str]:
    return command(triples, tmp_path / "out")


@pytest.fixture(scope="module")
def finished(triples, tmp_path_factory) -> Path:
    """A folder in which the whole list was run; never to be changed."""
    out = tmp_path_factory.mktemp("finished") / "out"
    assert main(command(triples, out)) == 0
    return out


ROWS = ["0002-c", "boat", "winter-1"]


def calls(monkeypatch) -> list[int]:
    """Counts the UNet calls from here on."""
    seen, forward = [], UNet.forward
    monkeypatch.setattr(UNet, "forward", lambda self, *args, **named: seen.append(1) or forward(self, *args, **named))
    return seen


def fails(capsys, argv: list[str]) -> str:
    """Runs a command that must fail with exit code 2 and one line of error, behind any notes; returns the line."""
    capsys.readouterr()
    assert main(argv) == 2
    lines = [line for line in capsys.readouterr().err.strip().splitlines() if ": note: " not in line]
    assert len(lines) == 1, lines
    return lines[0]


def test_each_line_gets_a_folder_and_a_record_and_equals_a_run_of_its_own(argv, finished, triples, tmp_path):
    out = finished
    assert sorted(path.name for path in out.iterdir()) == ROWS
    assert all(sorted(path.name for path in (out / row).iterdir()) == FILES for row in ROWS)
    record = json.loads((out / "winter-1" / "run.json").read_text())
    assert record["prompt"] == "snow" and record["repeatable"] and record["inputs"]["row"] == "winter/1"
    data = triples.parent
    single = [
        "run", "--a", str(data / "ap.png"), "--a-prime", str(data / "a.png"), "--b", str(data / "b.png"), "--prompt", "snow",
        "--checkpoint", str(CHECKPOINT), *argv[5:-1], str(tmp_path / "single"),
    ]  # fmt: skip
    assert main(single) == 0
    assert main(["run", "--config", str(out / "winter-1" / "run.json"), "--quiet", "--out", str(tmp_path / "again")]) == 0
    for name in FILES[:3]:
        theirs = (out / "winter-1" / name).read_bytes()
        assert (tmp_path / "single" / name).read_bytes() == theirs and (tmp_path / "again" / name).read_bytes() == theirs, name


def test_finished_lines_are_not_run_again_and_the_others_are(argv, finished, tmp_path, monkeypatch, capsys):
    out = shutil.copytree(finished, tmp_path / "out")
    before = {path: path.read_bytes() for path in out.glob("*/*")}
    times = {path: path.stat().st_mtime_ns for path in before}
    (out / "boat" / "run.json").unlink()  # as an interrupt before the record leaves it
    (out / "0002-c" / "grid_7.png").unlink()
    seen = calls(monkeypatch)
    capsys.readouterr()
    assert main(argv) == 0
    assert "1 of 3 lines were finished before" in capsys.readouterr().err
    assert len(seen) == 2  # two lines; two steps at strength 0.98 execute one
    assert all(path.stat().st_mtime_ns == times[path] for path in before if path.parent.name == "winter-1")
    assert all(path.read_bytes() == content for path, content in before.items() if path.name != "run.json")
    seen.clear()
    assert main(argv) == 0 and not seen


@pytest.mark.parametrize(
    ("change", "what"),
    [(["--steps", "3"], "config"), (["--seed", "8"], "seeds"), (["--size", "256"], "grid"), (["--negative-prompt", "x"], "negative_prompt"),
     (["--dtype", "bfloat16"], "dtype"), (["--prompt", "a hill"], "prompt")],
)  # fmt: skip
def test_a_folder_of_another_run_is_an_error_before_anything_runs(argv, finished, monkeypatch, capsys, change, what):
    seen = calls(monkeypatch)
    error = fails(capsys, [*argv, "--out", str(finished), *change])
    assert f"the record of another run (other {what}" in error and "choose another --out" in error and not seen


def test_one_line_that_goes_wrong_while_sampling_does_not_stop_the_others(argv, tmp_path, monkeypatch, capsys):
    from analogist.run import sampling

    step = sampling.Run._step

    def broken(self, z_t, i, texts):
        if self.text[1].sum() == bad:
            raise SamplingError("NaN or infinite latents at step 0")
        return step(self, z_t, i, texts)

    from analogist.pipeline import Analogist

    model = Analogist.from_checkpoint(CHECKPOINT, device="cpu")
    bad = model.encode_text("a red boat" + model.prompt_suffix)[1].sum()
    monkeypatch.setattr(sampling.Run, "_step", broken)
    error = fails(capsys, argv)
    assert "1 of 3 lines went wrong, the others are finished: boat: NaN" in error
    out = tmp_path / "out"
    assert [(out / row / "run.json").exists() for row in ROWS] == [True, False, True]
    monkeypatch.undo()
    assert main(argv) == 0 and (out / "boat" / "run.json").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--a", "a.png", "--b", "b.png"], "--list brings its own pictures; leave out --a, --b"),
        (["--grid", "g.png"], "leave out --grid"),
        (["--example", "recolour"], "leave out --example"),
    ],
)  # fmt: skip
def test_what_the_list_says_already_is_refused(argv, capsys, flags, message):
    assert message in fails(capsys, [*argv, *flags])


def test_a_bad_line_or_a_size_that_does_not_split_is_an_error_before_anything_is_written(argv, triples, tmp_path, capsys):
    assert "128" in fails(capsys, [*argv, "--size", "130"])
    broken = triples.with_name("broken.csv")
    broken.write_text("a,a_prime,b\na.png,ap.png,b.png\na.png,missing.png,b.png\n")
    assert "broken.csv, line 3" in fails(capsys, [*argv, "--list", str(broken)])
    assert not (tmp_path / "out").exists()


def test_a_record_is_not_repeated_by_a_list(argv, finished, capsys):
    assert "which --list does not repeat" in fails(capsys, [*argv, "--config", str(finished / "boat" / "run.json")])


def test_a_prompter_stands_in_place_of_the_lists_prompts_and_several_prompts_share_a_folder(argv, triples, tmp_path, monkeypatch):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("boat\ta boat\ta ship\n0002-c\ta hill\nwinter/1\tice\n")
    assert main([*argv, "--prompt-file", str(prompts)]) == 0
    boat = json.loads((tmp_path / "out" / "boat" / "run.json").read_text())
    assert boat["prompt"] == ["a boat", "a ship"] and (tmp_path / "out" / "boat" / "b_prime_a-ship_7.png").exists()
    assert json.loads((tmp_path / "out" / "winter-1" / "run.json").read_text())["prompt"] == "ice"
    seen = calls(monkeypatch)
    assert main([*argv, "--prompt-file", str(prompts)]) == 0 and not seen


@pytest.mark.slow  # kills a process
def test_a_killed_list_leaves_whole_files_and_is_gone_on_with(argv, tmp_path):
    from tests.test_cli import environment

    long = [*argv, "--steps", "8"]
    process = subprocess.Popen(
        [sys.executable, "-m", "analogist", *long], stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), cwd=ROOT
    )
    out, deadline = tmp_path / "out", time.monotonic() + 300
    while not list(out.glob("*/run.json")):
        assert time.monotonic() < deadline and process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=300)
    assert len(list(out.glob("*/run.json"))) < 3
    for path in out.glob("*/*.json"):
        json.loads(path.read_text())
    for path in out.glob("*/*.png"):
        Image.open(path).load()
    assert main(long) == 0
    assert len(list(out.glob("*/run.json"))) == 3
