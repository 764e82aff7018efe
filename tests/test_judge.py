"""Judges on painted pictures: what they are shown and asked, what is kept, and what happens when one is odd, down or alone."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analogist.cli.main import main
from analogist.experiments.evaluate.data import DataError
from analogist.experiments.evaluate.evaluation import evaluate
from analogist.experiments.evaluate.judge import Judging, judge_from, judged_picture
from analogist.experiments.evaluate.judge_wording import Scale
from analogist.experiments.evaluate.kiva import read_kiva
from analogist.experiments.evaluate.labels_file import read_labels
from analogist.experiments.execute.table import read_table
from analogist.grid import PromptGrid
from tests.experiments_small import load_model
from tests.servers.chat import Reply, chat_server, completion, error
from tests.test_evaluation import QUICK

KIVA = Path(__file__).parent / "kiva"
pytest.importorskip("openai")
pytestmark = pytest.mark.usefixtures("no_endpoint")


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def inputs():
    return read_kiva(KIVA)[:3]


@pytest.fixture(scope="module")
def painted(model, inputs, tmp_path_factory):
    """A finished evaluation of three inputs, to be copied."""
    out = tmp_path_factory.mktemp("painted")
    return evaluate(inputs, out, model=model, config=QUICK, images=1, metrics=["mse"], progress=False).folder


@pytest.fixture
def run(model, inputs, painted, tmp_path):
    """Evaluates with judges in a copy of the finished folder, so that nothing is painted again."""
    import shutil

    shutil.copytree(painted, tmp_path / "out")

    def go(*judges, **settings):
        judging = Judging(tuple(judges), **settings) if judges else None
        return evaluate(
            inputs, tmp_path / "out", model=model, config=QUICK, images=1, metrics=["mse"], progress=False, judging=judging
        )

    return go


def scores(accuracy: int, preservation: int) -> str:
    return json.dumps({"accuracy": accuracy, "preservation": preservation})


def judge(server, text: str = "seeing", position: int = 0, **settings):
    return judge_from(f"{text}@{server.url}", position, retries=0, **settings)


def kept(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((folder / "judgements").glob("*.json"))]


def test_every_picture_is_judged_once_and_every_answer_kept_as_it_came(run, inputs) -> None:
    said = ["First, the change. " + scores(k + 1, 9) for k in range(3)]
    with chat_server(*said) as server:
        done = run(judge(server))
        again = run(judge(server))
        assert server.asked == 3
        question = server.question()
    assert again.report == done.report
    rows = [row for row in read_table(done.folder) if row["metric"].startswith("judge_")]
    assert [(row["input"], row["value"]) for row in rows if row["metric"] == "judge_accuracy"] == [
        (one.name, k + 1.0) for k, one in enumerate(inputs)
    ]  # fmt: skip
    assert {row["network"] for row in rows} == {"seeing"} and {row["better"] for row in rows} == {"higher"}
    assert sorted(one["answers"][0]["answer"] for one in kept(done.folder)) == sorted(said)
    assert {one["answers"][0]["question"] for one in kept(done.folder)} == {question} == {Scale().question()}
    assert all(one["judge"]["model"] == "seeing" and one["judge"]["endpoint"] == server.url for one in kept(done.folder))
    with open(done.folder / "summary.csv", newline="") as file:
        means = {(line["level"], line["metric"]): float(line["value"]) for line in csv.DictReader(file)}
    assert means["all", "judge_preservation"] == 9 and means["all", "judge_accuracy"] == pytest.approx(2.0)
    assert f"> {question}" in done.report and "- judge: seeing at " in done.report and "scale: 1 to 10" in done.report


def test_the_judge_sees_the_grid_with_b_prime_painted_and_marked(inputs) -> None:
    grid = inputs[0].grid.with_size(512)
    left, top, right, bottom = grid.boxes()["B'"]
    cell = Image.new("RGB", (right - left, bottom - top), (10, 200, 30))
    seen = np.asarray(judged_picture(grid, cell))
    assert seen.shape == (512, 512, 3) and (seen[top + 60 : bottom, left + 60 : right] == (10, 200, 30)).all()
    marked = np.asarray(grid.marked())
    assert np.array_equal(seen[:top, :left], marked[:top, :left])  # A, as the prompter shows it
    assert np.array_equal(seen[top + 2 : top + 36, left + 2 : left + 36], marked[top + 2 : top + 36, left + 2 : left + 36])  # the letter
    small = judged_picture(inputs[0].grid.with_size(128), cell.resize((64, 64)))
    assert small.size == (512, 512) and small.getpixel((400, 400)) == (10, 200, 30)
    three = PromptGrid([cell] * 2, [cell] * 2, cell, 64)
    assert judged_picture(three, Image.new("RGB", (32, 32))).size == (512, 768)


def test_an_answer_without_scores_is_asked_for_again_more_strictly_and_both_are_kept(run, inputs) -> None:
    with chat_server("I like it.", scores(3, 4), "I'm sorry, but I can't help with that.", "No.", scores(5, 6)) as server:
        done = run(judge(server))
        assert server.asked == 5
    values = {row["input"]: row["value"] for row in read_table(done.folder) if row["metric"] == "judge_accuracy"}
    assert list(values.values()) == [3.0, None, 5.0]
    first = next(one for one in kept(done.folder) if one["scores"] == {"preservation": 4.0, "accuracy": 3.0})
    assert [entry["answer"] for entry in first["answers"]] == ["I like it.", scores(3, 4)]
    assert [entry["question"] for entry in first["answers"]] == [Scale().question(), Scale().stricter()]
    assert any(f"1 answers hold no scores, first {inputs[1].name}: no scores for" in note for note in done.notes)
    assert "mse" in done.report and all(row["value"] is not None for row in done.rows if row["metric"] == "mse")


def test_a_refusal_by_the_protocol_counts_as_an_answer_without_scores(run) -> None:
    refused = Reply(completion(None, refusal="no pictures of bottles"))
    with chat_server(refused, refused, scores(5, 6)) as server:
        done = run(judge(server))
    (one,) = [one for one in kept(done.folder) if not one["scores"]]
    assert "declined" in one["answers"][1]["none"] and "declined" in one["why"]


def test_a_judge_that_is_down_stops_nothing_else(run, painted) -> None:
    done = run(judge_from("seeing@http://127.0.0.1:9/v1", 0, retries=0))
    (note,) = [note for note in done.notes if note.startswith("judge")]
    assert "0 of 3 pictures judged, then: " in note and "cannot be reached" in note and "the address in --judge" in note
    assert [row for row in done.rows if row["metric"] == "mse"] == [row for row in done.rows if not row["metric"].startswith("judge")]
    assert "| mse |" in done.report.replace("| task | inputs | mse |", "| mse |") and note in done.report
    unnamed = run(judge_from("@http://127.0.0.1:9/v1", 0, retries=0))
    assert any(note.startswith("judge was not asked: ") for note in unnamed.notes)
    with chat_server(scores(5, 6)) as server:  # later it is back
        assert len([row for row in run(judge(server)).rows if row["metric"] == "judge_accuracy" and row["value"] == 5]) == 3


def test_a_judge_that_dies_is_left_alone_and_asked_later_only_for_the_rest(run) -> None:
    with chat_server(scores(5, 6), error(500, "out of memory")) as server:
        done = run(judge(server))
        assert server.asked == 3 and len(kept(done.folder)) == 1
    assert any("1 of 3 pictures judged" in note and "500" in note and "run again to continue" in note for note in done.notes)
    with chat_server(scores(7, 8), models=["seeing"]) as server:
        moved = [json.dumps(one).replace(one["judge"]["endpoint"], server.url) for one in kept(done.folder)]
        again = run(judge(server))
        assert server.asked == 3 and moved  # at another address it is another judge: all three are asked
    assert {row["value"] for row in again.rows if row["metric"] == "judge_accuracy"} == {7.0}


def test_three_failures_in_a_row_end_the_asking(run, monkeypatch) -> None:
    monkeypatch.setattr("analogist.experiments.evaluate.judge.GIVES_UP", 2)
    with chat_server(error(500, "broken")) as server:
        run(judge(server))
        assert server.asked == 2


def test_a_second_judge_sees_some_inputs_with_its_own_key_and_agreement_is_reported(run, inputs, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "first-key")
    monkeypatch.setenv("SECOND_JUDGE_API_KEY", "second-key")
    with chat_server(scores(3, 5), scores(4, 5), scores(9, 5)) as one, chat_server(scores(3, 5), scores(2, 5)) as other:
        first = judge(one)
        done = run(first, judge(other, "stern", 1, first_url=first.endpoint), second=2)
        assert (one.asked, other.asked) == (3, 2)
        keys = [{headers["authorization"] for path, headers, _ in server.requests} for server in (one, other)]
        assert keys == [{"Bearer first-key"}, {"Bearer second-key"}]
        assert judge_from(f"x@{one.url}", 1, first.endpoint)._client.api_key == "first-key"  # the same address, the same key
    assert [row["value"] for row in done.rows if row["metric"] == "second_judge_accuracy"] == [3.0, 2.0]
    # accuracy 3 and 4 against 3 and 2: half are equal, bias +1
    assert "Against the second judge:" in done.report and "- second_judge: stern at " in done.report
    assert re.search(r"\| accuracy \| 2 \| 0.50 \| 0.50 \| -?\d.\d\d \| \+1.00 \| 5.33 \| fewer than 3 inputs \|", done.report)
    assert "| preservation | 2 | 1.00 | 1.00 |  | +0.00 | 5.00 |" in done.report
    assert not any(one["judge"].get("api_key") or "key" in json.dumps(one) for one in kept(done.folder))


def test_labels_of_people_correct_the_judges_mean(run, inputs, tmp_path) -> None:
    lines = [f"{one.name},42,{score},{score}" for one, score in zip(inputs, (2, 4, 3), strict=True)] + ["nothing,42,1,1"]
    (tmp_path / "labels.csv").write_text("input,seed,accuracy,preservation\n" + "\n".join(lines) + "\n")
    labels = read_labels(tmp_path / "labels.csv", Scale())
    with chat_server(scores(5, 5), scores(7, 7), scores(6, 6)) as server:
        done = run(judge(server), labels=labels)
    assert "Against people:" in done.report and "| accuracy | 3 | 0.00 | 0.00 |" in done.report
    half = 4.302653 / 3**0.5  # Student's t of 2 degrees of freedom, spread 1
    assert f"| +3.00 | 6.00 | 3.00 ({3 - half:.2f} to {3 + half:.2f}) |" in done.report
    assert any("labels: 1 are of pictures that are not here, first nothing with seed 42" in note for note in done.notes)
    assert not run().report.count("## Judge")  # without judges the part of before is gone


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("input,accuracy\nx,1\n", "expected the columns input, seed and preservation, accuracy; it has input, accuracy"),
        ("input,seed\nx,1\n", "expected the columns"), ("", "it has none"),
        ("input,seed,accuracy\nx,,3\n", "line 2: input and seed are required"),
        ("input,seed,accuracy\nx,1,good\n", "line 2: accuracy 'good' is not a number"),
        ("input,seed,accuracy\nx,1,3\nx,2,11\n", "line 3: accuracy 11 is outside 1 to 10"),
    ],
)  # fmt: skip
def test_broken_labels_name_their_line(text, says, tmp_path) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=re.escape(says)):
        read_labels(tmp_path / "labels.csv", Scale())


def test_several_people_are_averaged_and_empty_cells_passed_over(tmp_path) -> None:
    (tmp_path / "labels.csv").write_text("Input, seed, Accuracy, PRESERVATION, who\nx, 1, 3, , ann\nx, 1, 4, 5, bob\n")
    assert read_labels(tmp_path / "labels.csv", Scale()) == {"accuracy": {("x", "1"): 3.5}, "preservation": {("x", "1"): 5.0}}


def test_wrong_arguments_are_one_line_before_anything_is_loaded(tmp_path, capsys) -> None:
    base = ["evaluate", str(KIVA), "--benchmark", "kiva", "--out", str(tmp_path / "out")]
    for more, says in (
        (["--labels", "x.csv"], "--labels needs --judge"), (["--judge", "a"] * 3, "3 judges; one or two"),
        (["--judge", "m@http://127.0.0.1:9/v1", "--labels", "none.csv"], "none.csv: cannot be read"), (["--judge", "m"], "no endpoint"),
        (["--judge", "m@http://x", "--second-inputs", "0"], "--second-inputs 0: 1 or more"),
    ):  # fmt: skip
        assert main([*base, *more]) == 2
        assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
