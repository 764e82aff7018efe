"""KiVA on six real trials: roles by the rule, the choice metrics, broken layouts, and the whole command."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from analogist.cli.main import main
from analogist.experiments.evaluate.data import DataError
from analogist.experiments.evaluate.evaluation import evaluate, read_data
from analogist.experiments.evaluate.kiva import choice, choice_of_three, read_kiva
from analogist.experiments.execute.table import read_table
from tests.experiments_small import CHECKPOINT, load_model
from tests.test_evaluation import QUICK

KIVA = Path(__file__).parent / "kiva"


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB"), np.float64)


@pytest.fixture
def data(tmp_path) -> Path:
    return Path(shutil.copytree(KIVA, tmp_path / "kiva"))


def test_the_pictures_of_real_trials_stand_in_the_roles_that_the_rule_gives_them() -> None:
    found = {one.name: one for one in read_kiva(KIVA)}
    assert [one.group for one in found.values()] == [
        "2DRotation/2DRotation+90", "Colour/ColourBlue", "Counting/Counting+1", "Reflect/ReflectX", "Resize/Resize2XY", "Resize/Resize2XY",
    ]  # fmt: skip
    over_white = {name: [over(part, name) for part in ("train_0_input", "train_0_output")] for name in ("ReflectX_0", "2DRotation+90_0")}
    for name, rule, other in (
        ("ReflectX_0", ImageOps.flip, ImageOps.mirror), ("2DRotation_plus90_0", lambda p: p.rotate(-90), lambda p: p.rotate(180)),
    ):  # fmt: skip
        one = found[name]
        a, a_prime = over_white[name.replace("_plus", "+")]
        assert np.array_equal(pixels(rule(a)), pixels(a_prime))
        assert np.array_equal(pixels(rule(one.b)), pixels(one.truth)) and np.array_equal(pixels(other(one.b)), pixels(one.wrong))
        cells = one.grid.with_size(512).cells(without_border=True)
        assert np.array_equal(pixels(cells["A"]), pixels(a.resize(cells["A"].size)))
        assert np.array_equal(pixels(cells["A'"]), pixels(a_prime.resize(cells["A'"].size)))
    assert found["Counting_plus1_0"].rule == {"train_0_input": "2", "train_0_output": "3", "test_input": "2", "mc": "1"}
    assert found["ColourBlue_1"].rule["mc"] == "Red"  # the second trial of its tracker


def over(part: str, name: str) -> Image.Image:
    """A picture of a trial over white, by Pillow alone."""
    path = next(KIVA.glob(f"*/{name}_{part}.png"))
    picture = Image.open(path).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    return white.convert("RGB")


def test_the_choice_is_right_for_the_truth_and_wrong_for_the_wrong_picture() -> None:
    for one in read_kiva(KIVA):
        assert [choice(picture, one.truth, one) for picture in (one.truth, one.wrong)] == [1, 0]
        assert [choice_of_three(picture, one.truth, one) for picture in (one.truth, one.wrong, one.b)] == [1, 0, 0]
    same = Image.new("RGB", (8, 8), "red")
    tied = type(one)(**{**vars(one), "wrong": same, "b": same})
    assert choice(same, same, tied) == 1 / 2 and choice_of_three(same, same, tied) == pytest.approx(1 / 3)


def test_the_repository_and_the_names_of_kiva_adults_are_read_too(data, tmp_path) -> None:
    for path in list(data.glob("*/*.png")):
        path.rename(path.with_name(path.name.replace("train_0_", "train_").replace("test_0_", "test_")))
    for place in ("transformed objects", "stimuli"):
        root = tmp_path / place.replace(" ", "-")
        shutil.copytree(data, root / place / "KiVA")
        assert [one.name for one in read_kiva(root)] == [one.name for one in read_kiva(KIVA)]
    shutil.rmtree(data / "trial_tracker")
    assert all(one.rule == {} for one in read_kiva(data))


def test_domains_and_transformations_are_tasks_and_the_limit_is_per_transformation() -> None:
    assert {one.group for one in read_kiva(KIVA, tasks=["Resize", "ReflectX"])} == {"Resize/Resize2XY", "Reflect/ReflectX"}
    assert [one.name for one in read_kiva(KIVA, tasks=["Resize"], limit=1)] == ["Resize2XY_0"]
    with pytest.raises(DataError, match="this folder has 2DRotation, Colour, Counting, Reflect, Resize, 2DRotation.90"):
        read_kiva(KIVA, tasks=["Rotation"])


def gone(path: Path) -> None:
    path.unlink()


BROKEN = {
    "a part is missing": (
        lambda data: gone(data / "Reflect" / "ReflectX_0_test_mc_1_input.png"),
        "trial 0 of ReflectX has no the wrong B' (ReflectX_0_test_mc_1_input.png)",
    ),
    "a strange file": (
        lambda data: shutil.copy(data / "Reflect" / "ReflectX_0_test_0_input.png", data / "Reflect" / "ReflectX_0_test.png"),
        "ReflectX_0_test.png: not the name of a trial's picture; expected Reflect..._<trial>_<part>.png",
    ),
    "another domain's file": (
        lambda data: shutil.move(data / "Reflect" / "ReflectX_0_test_0_input.png", data / "Resize"),
        "ReflectX_0_test_0_input.png: not the name of a trial's picture; expected Resize...",
    ),
    "both spellings": (
        lambda data: shutil.copy(data / "Reflect" / "ReflectX_0_test_0_input.png", data / "Reflect" / "ReflectX_0_test_input.png"),
        "ReflectX_0_test_input.png: B of this trial is present twice, also as ReflectX_0_test_0_input.png",
    ),
    "no picture": (
        lambda data: (data / "Reflect" / "ReflectX_0_test_0_input.png").write_text("<html>"), "ReflectX_0_test_0_input.png",
    ),
    "no tracker": (lambda data: gone(data / "trial_tracker" / "output_ReflectX.txt"), "output_ReflectX.txt: cannot be read"),
    "a line of the tracker": (
        lambda data: (data / "trial_tracker" / "output_ReflectX.txt").write_text("train_0_input: 0\nX\n"),
        "output_ReflectX.txt, line 2: 'X'; expected `key: value`",
    ),
    "a short tracker": (
        lambda data: (data / "trial_tracker" / "output_Resize2XY.txt").write_text("train_0_input: 0\nmc: 2\n"),
        "output_Resize2XY.txt: 1 trials, but there are pictures of trial 1",
    ),
    "a cut tracker": (
        lambda data: (data / "trial_tracker" / "output_Resize2XY.txt").write_text("train_0_input: 0\nmc: 2\ntrain_0_input: 0\n"),
        "output_Resize2XY.txt: trial 1 is cut off; expected train_0_input, mc",
    ),
    "other keys": (
        lambda data: (data / "trial_tracker" / "output_Resize2XY.txt").write_text("input: 0\nmc: 2\ninput: 0\nmcc: 1\n"),
        "output_Resize2XY.txt, line 4: trial 1 has other keys than the first",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage, says", BROKEN.values(), ids=BROKEN)
def test_a_broken_folder_is_one_line_that_names_what_is_wrong(damage, says, data, tmp_path, capsys) -> None:
    damage(data)
    with pytest.raises(DataError, match=re.escape(says)):
        read_kiva(data)
    assert main(["evaluate", str(data), "--benchmark", "kiva", "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert says in line and not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_told_the_layout(tmp_path) -> None:
    with pytest.raises(DataError, match="not the layout of KiVA; expected folders 2DRotation"):
        read_kiva(tmp_path)
    with pytest.raises(DataError, match="no such folder; `analogist data fetch kiva"):
        read_kiva(tmp_path / "none")
    with pytest.raises(DataError, match="benchmark 'kivaa': allowed are analogist, kiva"):
        read_data(tmp_path, benchmark="kivaa")


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    return evaluate(KIVA, tmp_path_factory.mktemp("out"), model=load_model(), benchmark="kiva", config=QUICK, progress=False)


def nearest(b_prime: Image.Image, pictures) -> list[float]:
    ours = pixels(b_prime)
    return [float(((pixels(one.resize(b_prime.size)) - ours) ** 2).mean()) for one in pictures]


def test_an_evaluation_measures_error_and_choices_of_every_trial(painted) -> None:
    inputs = {one.name: one for one in read_kiva(KIVA)}
    rows = read_table(painted.folder)
    values = {(row["input"], row["metric"]): row["value"] for row in rows}
    assert len({row["seed"] for row in rows}) == 1  # one picture of each, as published
    for row in rows:
        one, (left, top, right, bottom) = inputs[row["input"]], (1, 1, 30, 30)  # the picture in a cell of 32 px
        if row["metric"] == "mse":
            picture = Image.open(painted.folder / row["picture"]).crop((left, top, right, bottom))
            truth, wrong, b = nearest(picture, (one.truth, one.wrong, one.b))
            assert row["value"] == pytest.approx(truth / 255**2, rel=1e-4)
            assert values[one.name, "choice"] == (truth < wrong) and values[one.name, "choice_of_three"] == (truth < min(wrong, b))
    with open(painted.folder / "summary.csv", newline="") as file:
        means = {(line["level"], line["name"], line["metric"]): float(line["value"]) for line in csv.DictReader(file)}
    resize = np.mean([values["Resize2XY_0", "mse"], values["Resize2XY_1", "mse"]])
    assert means["task", "Resize/Resize2XY", "mse"] == means["domain", "Resize", "mse"] == pytest.approx(resize)
    assert means["all", "all tasks", "choice"] == pytest.approx(
        np.mean([means["task", one.group, "choice"] for one in {one.group: one for one in inputs.values()}.values()])
    )


def test_copies_of_b_and_of_a_prime_are_measured_as_ours_is(painted) -> None:
    with open(painted.folder / "summary.csv", newline="") as file:
        trivial = {(line["name"], line["metric"]): float(line["value"]) for line in csv.DictReader(file) if line["level"] == "trivial"}
    by_group: dict[str, list[float]] = {}
    for one in read_kiva(KIVA):
        cell = one.grid.with_size(64).cells(without_border=True)["B"]
        by_group.setdefault(one.group, []).append(nearest(cell, [one.truth])[0] / 255**2)
    assert trivial["copy of B", "mse"] == pytest.approx(np.mean([np.mean(values) for values in by_group.values()]), rel=1e-3)
    assert trivial["copy of B", "choice_of_three"] == 0 and trivial["copy of B", "mse_to_b"] == 0
    assert trivial["copy of A'", "mse_to_a_prime"] == 0


def test_the_report_shows_chance_and_copies_beside_ours_and_what_differs(painted) -> None:
    text = painted.report
    assert "| chance | 0.500 | 0.333 |  |" in text and "| copy of B |" in text and "| **here: Analogist," in text
    for difference in ("published: a vision-language model picks one of three", "text: none is given", "inputs: here 6 of 5 tasks"):
        assert difference in text, difference
    assert "Beside the paper" not in text and "| Resize | 2 |" in text


def test_the_command_goes_on_reports_and_tells_what_it_would_take(tmp_path, capsys, monkeypatch) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QUICK.to_json()))
    arguments = [str(KIVA), "--benchmark", "kiva", "--tasks", "Counting", "--config", str(tmp_path / "config.json"), "--quiet"]
    arguments += ["--checkpoint", str(CHECKPOINT), "--device", "cpu", "--size", "128", "--metrics", "mse,choice"]
    assert main(["evaluate", *arguments, "--dry-run"]) == 0
    assert "kiva: 1 variants x 1 inputs x 1 seeds = 1 runs" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [tmp_path / "config.json"]
    out = tmp_path / "out"
    assert main(["evaluate", *arguments, "--out", str(out)]) == 0
    before = {path: path.stat().st_mtime_ns for path in out.glob("pictures/*")}
    assert main(["evaluate", *arguments, "--out", str(out)]) == 0 and len(before) == 1
    assert {path: path.stat().st_mtime_ns for path in out.glob("pictures/*")} == before
    capsys.readouterr()
    assert main(["report", str(out)]) == 0
    assert "## Beside the published rows: kiva" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "--benchmark", "kiva", "--out", str(out)]) == 2
    assert "data/kiva: no such folder; `analogist data fetch kiva" in capsys.readouterr().err
    assert main(["evaluate", "--out", str(out)]) == 2
    assert "missing DATA" in capsys.readouterr().err


def test_a_new_wrong_choice_gives_the_value_of_a_fresh_folder_from_the_same_picture(data, tmp_path) -> None:
    model = load_model()

    def chosen(out: str) -> dict[str, float]:
        done = evaluate(data, tmp_path / out, model=model, benchmark="kiva", config=QUICK, tasks=["ReflectX"], images=1, progress=False)
        return {row["picture_sha256"]: row["value"] for row in done.rows if row["metric"] == "choice"}

    first = chosen("one")
    other = data / "Reflect" / "ReflectX_0_test_mc_1_input.png"
    truth = data / "Reflect" / "ReflectX_0_test_mc_0_input.png"
    shutil.copy(truth, other)  # as near as the truth: one half
    again = chosen("one")
    assert again == chosen("fresh") == dict.fromkeys(first, 0.5) and set(first.values()) <= {0.0, 1.0}


@pytest.mark.parametrize("metrics", [None, ["mse"]])
def test_trials_of_equal_pictures_are_each_measured_and_answered(data, tmp_path, metrics) -> None:
    for path in list((data / "Resize").glob("Resize2XY_0_*")):
        shutil.copy(path, path.with_name(path.name.replace("_0_", "_1_", 1)))
    done = evaluate(
        data, tmp_path / "out", model=load_model(), benchmark="kiva", config=QUICK, tasks=["Resize2XY"], images=1, metrics=metrics,
        progress=False,
    )  # fmt: skip
    counted = {line["inputs"] for line in done.summary if line["level"] in ("all", "trivial")}
    assert counted == {2} and {line["level"] for line in done.summary} >= {"all", "trivial"}
