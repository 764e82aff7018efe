"""`analogist prompt` and `run --prompter`, end to end against a chat endpoint on the loopback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from analogist.cli.main import main
from tests.prompters import grid_file
from tests.servers.chat import chat_server, error
from tests.test_cli import CHECKPOINT, ROOT, fails

pytestmark = pytest.mark.usefixtures("no_endpoint")
KEY = "sk-planted-91bc"


@pytest.fixture
def grid(tmp_path) -> str:
    return grid_file(tmp_path)


@pytest.fixture
def arguments(grid, tmp_path) -> list[str]:
    return [
        "run", "--grid", grid, "--checkpoint", str(CHECKPOINT), "--size", "128", "--steps", "2", "--device", "cpu", "--quiet",
        "--out", str(tmp_path / "out"),
    ]  # fmt: skip


def record(tmp_path) -> dict:
    return json.loads((tmp_path / "out" / "run.json").read_text())


def test_prompt_prints_the_candidates_and_writes_a_file_that_run_takes(grid, tmp_path, capsys, arguments):
    with chat_server("red boat, blue boat") as server:
        argv = ["prompt", "--grid", grid, "--prompter", "openai", "--base-url", server.url, "--candidates", "2"]
        assert main([*argv, "--out", str(tmp_path / "p.txt")]) == 0
        assert capsys.readouterr().out == "red boat\nblue boat\n"
        assert main(argv) == 0
        assert server.asked == 1 and "--no-prompt-cache" in capsys.readouterr().err
        assert main([*argv, "--json", "--no-prompt-cache"]) == 0
        assert server.asked == 2 and json.loads(capsys.readouterr().out)["author"]["model"] == "seeing"
    assert main([*arguments, "--prompt-file", str(tmp_path / "p.txt")]) == 0
    assert record(tmp_path)["prompt"] == ["red boat", "blue boat"]


def test_run_asks_paints_and_records_the_author_and_a_repeat_asks_nothing(arguments, tmp_path):
    with chat_server("A red boat.") as server:
        assert main([*arguments, "--prompter", "openai", "--base-url", server.url]) == 0
    kept = record(tmp_path)
    assert kept["prompt"] == "A red boat"
    assert kept["prompt_author"]["model"] == "seeing" and kept["prompt_author"]["wording"] == "published"
    assert main(["run", "--config", str(tmp_path / "out" / "run.json"), "--out", str(tmp_path / "again"), "--quiet"]) == 0
    again = json.loads((tmp_path / "again" / "run.json").read_text())
    assert again["prompt_author"] == kept["prompt_author"]
    assert (tmp_path / "again" / "b_prime_42.png").read_bytes() == (tmp_path / "out" / "b_prime_42.png").read_bytes()
    assert b"seeing" not in (tmp_path / "out" / "b_prime_42.png").read_bytes()


def test_run_goes_on_without_a_prompt_only_where_auto_chose(arguments, tmp_path, capsys):
    with chat_server(error(401, "no such key")) as server:
        line = fails(capsys, [*arguments, "--prompter", "openai", "--base-url", server.url])
        assert "401: no such key" in line
        assert not (tmp_path / "out").exists()
        assert main([*arguments, "--prompter", "auto", "--base-url", server.url]) == 0
    assert "picture prompt alone" in capsys.readouterr().err
    assert record(tmp_path)["prompt"] == "" and "401" in record(tmp_path)["prompt_author"]["because"]


def test_run_takes_the_published_file_by_the_grids_name(arguments, tmp_path):
    listed = tmp_path / "gpt4_out.txt"
    listed.write_text("006.png\ta cat\n007.png\ta red boat\ta ship\n")
    assert main([*arguments, "--prompt-file", str(listed)]) == 0
    assert record(tmp_path)["prompt"] == ["a red boat", "a ship"]
    assert record(tmp_path)["prompt_author"] == {"prompter": "file", "file": "gpt4_out.txt", "line": "007.png"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prompter", "text"], "needs --prompt"),
        (["--prompter", "file"], "needs --prompt-file"),
        (["--prompter", "openai", "--prompt", "a boat"], "cannot be combined"),
        (["--prompter", "openai"], "OPENAI_API_KEY"),
        (["--prompter", "local"], "needs --prompter-model"),
        (["--base-url", "http://localhost:1/v1"], "--base-url needs --prompter openai or auto"),
        (["--prompter", "none", "--words", "3"], "--words needs --prompter"),
        (["--prompter", "openai", "--base-url", "localhost"], "http://"),
        (["--prompter", "openai", "--base-url", "http://localhost:1/v1", "--candidates", "11"], "candidates 11"),
        (["--prompter", "openai", "--wording", "rude"], "invalid choice"),
        (["--prompter", "guess"], "invalid choice"),
    ],
)
def test_bad_arguments_end_in_one_line(arguments, tmp_path, capsys, flags, message):
    assert message in fails(capsys, [*arguments, *flags])
    assert not (tmp_path / "out").exists()


def test_prompt_without_anybody_to_ask_says_what_to_give(grid, capsys):
    assert "openai, local or auto" in fails(capsys, ["prompt", "--grid", grid])
    capsys.readouterr()
    assert main(["prompt", "--grid", grid, "--prompter", "auto"]) == 2
    assert "no prompt: no endpoint is set up" in capsys.readouterr().err


def test_a_planted_key_is_in_no_file_and_no_output_of_the_program(arguments, grid, tmp_path):
    with chat_server("A red boat.", error(401, f"Incorrect API key provided: {KEY}")) as server:
        environment = {
            **os.environ, "OPENAI_API_KEY": KEY, "OPENAI_LOG": "debug", "HF_TOKEN": KEY, "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT), "OPENAI_BASE_URL": server.url, "OPENAI_MODEL": "m",
        }  # fmt: skip
        calls = [[*arguments, "--prompter", "auto"], ["prompt", "--grid", grid, "--prompter", "openai", "--wording", "json"]]
        code = f"from analogist.cli.main import main\nfor argv in {calls!r}: print('exit code', main(argv))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT)
        said = done.stdout + done.stderr
        assert "exit code 0" in said and "exit code 2" in said and "401" in said, said
        assert server.requests[-1][1]["authorization"] == f"Bearer {KEY}"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"run.json", "b_prime_42.png"} <= {path.name for path in files} and len(list(tmp_path.glob("cache/prompts/*.json"))) == 1
    assert KEY not in said and not any(KEY.encode() in Path(path).read_bytes() for path in files)
