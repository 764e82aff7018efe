"""Whatever a prompt file or an argument about prompts holds, the command line ends in one line and exit code 2, the file named."""

import os

import pytest

from analogist.cli.main import main
from tests.prompters import grid_file
from tests.servers.chat import chat_server

pytestmark = pytest.mark.usefixtures("no_endpoint")
HALF = "a caf\udce9 boat"  # as Python gives an argument in Latin-1


@pytest.fixture
def grid(tmp_path) -> str:
    return grid_file(tmp_path)


def one_line(capsys, argv: list[str]) -> str:
    """The one line that a command ends with."""
    try:
        code = main(argv)
    except SystemExit as end:  # argparse's own
        code = end.code
    said = capsys.readouterr()
    assert code == 2 and said.out == "" and said.err.endswith("\n") and said.err.count("\n") == 1, (code, said)
    assert said.err.startswith("analogist ") and ": error: " in said.err
    return said.err


FILES = {
    "empty": b"",
    "blank lines": b"\r\n \r\n\t\n",
    "a mark alone": b"\xef\xbb\xbf",
    "UTF-16 without a mark": "a réd boat\n".encode("utf-16-le"),
    "UTF-32 without a mark": "a réd boat\n".encode("utf-32-le"),
    "Latin-1": "un bateau doré\n".encode("latin-1"),
    "Shift JIS": "赤い船\n".encode("shift-jis"),
    "half a character": b"a \xed\xa0\xbd boat\n",
    "a picture": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\xff\xfe",
    "zeros": b"\x00\xff" * 5000,
    "a name alone": b"007.png\t\n",
    "a prompt without a name": b"007.png\ta red boat\n\ta blue boat\n",
    "lines of two kinds": b"007.png\ta red boat\njust words\n",
    "a name twice": b"007.png\ta\n007.png\tb\n",
    "another name": b"008.png\ta red boat\n",
    "cut in a character": "007.png\tdoré".encode()[:-1],
}


@pytest.mark.parametrize("command", ["run", "prompt"])
@pytest.mark.parametrize("kind", FILES)
def test_whatever_a_prompt_file_holds_the_error_is_one_line_that_names_it(grid, tmp_path, capsys, command, kind):
    path = tmp_path / "prompts.txt"
    path.write_bytes(FILES[kind])
    out = ["--out", str(tmp_path / "out")]
    assert "prompts.txt" in one_line(capsys, [command, "--grid", grid, "--prompt-file", str(path), *out])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["missing", "a folder", "below a file", "not allowed", "a circle", "too long", "not UTF-8", "two lines"])
@pytest.mark.parametrize("command", ["run", "prompt"])
def test_a_prompt_file_that_cannot_be_opened_is_one_line_that_names_it(grid, tmp_path, capsys, command, kind):
    path = tmp_path / "prompts"
    match kind:
        case "a folder":
            path.mkdir()
        case "below a file":
            path = tmp_path / "007.png" / "prompts"
        case "not allowed":
            path.write_text("a boat\n")
            path.chmod(0)
            if os.access(path, os.R_OK):
                pytest.skip("this user may read every file")
        case "a circle":
            path.symlink_to(path)
        case "too long":
            path = tmp_path / ("prompts" * 100)
        case "not UTF-8":
            path = tmp_path / "prompts\udce9.txt"
        case "two lines":
            path = tmp_path / "prompts\nof mine.txt"
    line = one_line(capsys, [command, "--grid", grid, "--prompt-file", str(path), "--out", str(tmp_path / "out")])
    assert "prompts" in line and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--prompt", HALF], "the prompt"),
        (["--prompt", "\ud83d"], "the prompt"),
        (["--prompter", "openai", "--base-url", "http://[::1", "--prompter-model", "m"], "base URL"),
        (["--prompter", "openai", "--base-url", "http://", "--prompter-model", "m"], "base URL"),
        (["--prompter", "openai", "--base-url", "ftp://host/v1", "--prompter-model", "m"], "base URL"),
        (["--prompter", "openai", "--base-url", "http://host:99999/v1", "--prompter-model", "m"], "base URL"),
        (["--prompter", "openai", "--base-url", "http://host:x/v1", "--prompter-model", "m"], "base URL"),
        (["--prompter", "openai", "--base-url", f"http://{'a' * 70}/v1", "--prompter-model", "m"], "base URL"),
        (["--prompter", "openai", "--base-url", "http://a b/v1", "--prompter-model", "m"], "base URL"),
        (["--prompter", "openai", "--base-url", "http://caf\udce9/v1", "--prompter-model", "m"], "base URL"),
        (["--prompter", "openai", "--base-url", "http://host/v1", "--prompter-model", HALF], "the model's name"),
        (["--prompter", "openai", "--api-key", "clé", "--prompter-model", "m"], "API key"),
        (["--prompter", "openai", "--api-key", HALF, "--prompter-model", "m"], "API key"),
        (["--prompter", "openai", "--api-key", "k", "--prompter-model", "m", "--candidates", "0"], "candidates 0"),
        (["--prompter", "openai", "--api-key", "k", "--prompter-model", "m", "--words", "-1"], "words -1"),
        (["--prompter", "openai", "--api-key", "k", "--prompter-model", "m", "--max-tokens", "0"], "max_tokens 0"),
        (["--prompter", "openai", "--api-key", "k", "--prompter-model", "m", "--max-tokens", "many"], "--max-tokens"),
        (["--prompter", "openai", "--api-key", "k", "--prompter-model", "m", "--prompter-timeout", "nan"], "timeout"),
        (["--prompter", "openai", "--api-key", "k", "--prompter-model", "m", "--prompter-timeout", "inf"], "timeout"),
        (["--prompter", "local", "--prompter-model", "m", "--prompter-device", "toaster"], "toaster"),
        (["--prompter", "local", "--prompter-model", "m", "--prompter-dtype", "int3", "--prompter-device", "cpu"], "int3"),
        (["--prompter", "local", "--prompter-model", "m\udce9", "--prompter-device", "cpu"], "m\\udce9"),
        (["--prompter", "local", "--prompter-model", "", "--prompter-device", "cpu"], "--prompter-model"),
        (["--prompter", "local", "--prompter-model", "a\nb", "--prompter-device", "cpu"], "a"),
    ],
)
@pytest.mark.parametrize("command", ["run", "prompt"])
def test_whatever_an_argument_about_prompts_holds_the_error_is_one_line(grid, tmp_path, capsys, monkeypatch, command, flags, named):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert named in one_line(capsys, [command, "--grid", grid, *flags, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "answer", ["I'm sorry, I cannot see any image.\nPlease upload it.", "N/A", "\x00", "<think>We\nsee", '{"error": "a\\nb"}', "\ud83d"]
)
def test_an_answer_that_is_no_prompt_ends_in_one_line_and_nothing_is_painted(grid, tmp_path, capsys, answer):
    with chat_server(answer) as server:
        flags = ["--prompter", "openai", "--base-url", server.url, "--prompter-model", "seer"]
        for command in ("run", "prompt"):
            assert "seer" in one_line(capsys, [command, "--grid", grid, *flags, "--out", str(tmp_path / "out")])
        assert server.asked == 4 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["", "007.png/below", "\udce9" * 300])
def test_prompts_that_cannot_be_written_are_one_line(grid, tmp_path, capsys, out):
    with chat_server("a red boat") as server:
        flags = ["--prompter", "openai", "--base-url", server.url, "--prompter-model", "seer", "--out", str(tmp_path / out)]
        assert "cannot write" in one_line(capsys, ["prompt", "--grid", grid, *flags])
