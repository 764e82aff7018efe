"""`evaluate --prompter`: prompts written anew for every input, each with its author."""

import json

import pytest
from PIL import Image

from analogist.cli.main import main
from analogist.prompting import FilePrompter, PromptError, TextPrompter, ask_all
from tests.prompters import small_grid
from tests.servers.chat import Reply, chat_server, completion, error
from tests.test_cli import CHECKPOINT, fails

pytestmark = pytest.mark.usefixtures("no_endpoint")


@pytest.fixture
def listed(tmp_path):
    """A CSV of two analogies."""
    for name, colour in (("a", "grey"), ("ap", "red"), ("b0", "white"), ("b1", "black"), ("t", "blue")):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{name}.png")
    lines = ["a,a_prime,b,b_prime,prompt,name", *(f"a.png,ap.png,b{i}.png,t.png,listed prompt,one{i}" for i in range(2))]
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "list.csv"


def arguments(listed, out, *flags: str) -> list[str]:
    config = listed.with_name("config.json")
    config.write_text(json.dumps({"sampling": {"steps": 2}}))
    argv = ["evaluate", str(listed), "--out", str(out), "--checkpoint", str(CHECKPOINT), "--device", "cpu", "--size", "128"]
    return [*argv, "--images", "1", "--metrics", "psnr", "--config", str(config), "--quiet", *flags]


def test_every_input_gets_a_prompt_of_its_own_once(listed, tmp_path, monkeypatch):
    class Stop(BaseException):  # no error: those end as one line
        pass

    planned = {}

    def carry_out(plan, *_, **__):  # what would be painted; nothing is
        planned.update({plan.study.inputs[job.input].name: job.prompts["prompt"] for job in plan.jobs})
        raise Stop

    monkeypatch.setattr("analogist.experiments.evaluate.evaluation.carry_out", carry_out)
    with chat_server("red boat", "blue boat") as server:
        for _ in range(2):
            with pytest.raises(Stop):
                main(arguments(listed, tmp_path / "out", "--prompter", "openai", "--base-url", server.url))
        assert server.asked == 2
    assert planned == {"one0": "red boat", "one1": "blue boat"}
    said = json.loads((tmp_path / "out" / "prompts.json").read_text())
    assert {name: entry["prompt"] for name, entry in said.items()} == planned
    assert all(entry["author"]["model"] == "seeing" and entry["author"]["cached"] for entry in said.values())


def test_an_answer_that_cannot_be_had_names_the_input(listed, tmp_path, capsys):
    with chat_server(Reply(completion("red boat")), error(401, "no key")) as server:
        line = fails(capsys, arguments(listed, tmp_path / "out", "--prompter", "openai", "--base-url", server.url))
    assert "one1: " in line and "401" in line and not (tmp_path / "out").exists()


def test_a_file_without_names_is_refused_for_several_grids(tmp_path):
    grid = small_grid()
    (tmp_path / "p.txt").write_text("a boat\na cat\n")
    with pytest.raises(PromptError, match="2 grids need a file with lines of name TAB prompt"):
        ask_all({"x/0": grid, "x/1": grid}, FilePrompter(tmp_path / "p.txt"), progress=False)
    (tmp_path / "n.txt").write_text("0.png\ta boat\n1.png\ta cat\n")
    found = ask_all({"x/0": grid, "x/1": grid}, FilePrompter(tmp_path / "n.txt"), progress=False)
    assert [prompts.first for prompts in found.values()] == ["a boat", "a cat"]
    assert ask_all({"x": grid}, TextPrompter("a ship"), progress=False)["x"].first == "a ship"
