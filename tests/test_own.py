"""Studies with a researcher's own metrics and edits: the same as calling the model by hand, wherever and however they run."""

import dataclasses
import json
import shutil
import threading

import pytest
import torch

from analogist.attention.edit import edits
from analogist.cli.main import main
from analogist.experiments import Study, ablate
from analogist.experiments.design.inputs import Input
from analogist.experiments.design.levels import StudyError
from analogist.experiments.design.own import OwnMetric
from analogist.experiments.execute.ablation import prepare
from analogist.experiments.execute.engine import Engine
from analogist.experiments.execute.merge import merge
from analogist.experiments.execute.table import read_table
from analogist.experiments.score.metrics import Painted
from analogist.grid.pictures import read_picture
from tests.experiments_small import BASE, CHECKPOINT, PARITY, load_model, one_input, without_times
from tests.own_functions import blind, broken, halve, read_from_a_prime, warmth
from tests.test_ablation import Counting

EDITS = {"none": None, "blind": {"*.self:probs": blind}, "halved": {"up.1.*.self:logits": halve}}


@pytest.fixture(scope="module")
def model():
    return load_model()


def small(**fields) -> Study:
    inputs = (one_input(), one_input("y", "a cat", shift=60))
    return Study(**{
        "name": "own", "base": BASE, "seeds": (1,), "inputs": inputs, "factors": {"edit": EDITS, "sac": ["on", "off"]},
        "metrics": ["mse", warmth], "group": 3, "batch": 2,
    } | fields)  # fmt: skip


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """The study run without any interruption."""
    return ablate(small(), tmp_path_factory.mktemp("whole"), model=model, progress=False)


def test_a_run_with_an_edit_is_the_call_of_the_model_with_it_bit_for_bit(model) -> None:
    plan = prepare(small(), model)
    seen = set()
    for group in plan.groups:
        if group.jobs[0].edit is None:
            continue
        (job,) = group.jobs
        (latents,) = Engine(model).sample(group).latents
        expected = model(
            job.grid, job.prompts["prompt"], seed=job.seed, config=job.config, edit=EDITS[job.edit.label], progress=False
        ).latents  # fmt: skip
        assert torch.equal(latents[None], expected)
        seen.add((job.edit.label, latents.sum().item()))
    assert len(seen) == 4  # two edits on two inputs: the edits do something


def test_the_table_holds_what_the_function_says_of_each_picture(whole) -> None:
    rows = [row for row in whole.rows if row["metric"] == "warmth"]
    by_name = {one.name: one for one in whole.plan.study.inputs}
    assert len(rows) == 2 * 4 and {row["better"] for row in rows} == {"higher"}
    assert {(row["edit"], row["sac"]) for row in rows} == {("none", "on"), ("blind", "on"), ("halved", "on"), ("none", "off")}
    for row in rows:
        one = by_name[row["input"]]
        painted = Painted(read_picture(whole.folder / row["picture"]), one.grid, one.truth)
        assert row["value"] == warmth(painted.picture(), painted.other("truth"), one)
    record = json.loads(next(row["record"] for row in rows if row["edit"] == "blind"))
    assert record["not_repeatable_because"] == ["edit"] and list(record["edit"]["edits"]) == ["*.self:probs"]
    assert list(record["metrics"]) == ["warmth"]
    assert "How red B' is, beside the truth; higher is better." in whole.report
    written = json.loads((whole.folder / "study.json").read_text())
    assert written["metrics"][1]["name"] == "warmth" and written["factors"]["edit"]["none"] is None


def test_a_metric_with_a_capture_gets_the_maps_of_its_run(model, tmp_path) -> None:
    given = small(metrics=["mse_to_b", read_from_a_prime], factors={"edit": {"none": None, "blind": EDITS["blind"]}})
    outcome = ablate(given, tmp_path, model=model, progress=False, outputs=False)
    values = {(row["input"], row["edit"]): row["value"] for row in outcome.rows if row["metric"] == "read_from_a_prime"}
    for job in outcome.plan.jobs:
        label = "none" if job.edit is None else "blind"
        result = model(
            job.grid, job.prompts["prompt"], seed=job.seed, config=job.config, edit=EDITS[label], capture=read_from_a_prime.capture,
            progress=False,
        )  # fmt: skip
        one = given.inputs[job.input]
        assert values[one.name, label] == read_from_a_prime(None, None, one, result.maps)
    assert values["x", "blind"] == 0 < values["x", "none"]


def test_interrupted_and_sharded_studies_end_with_the_same_table(model, whole, tmp_path) -> None:
    out = tmp_path / "stopped"
    for stop_after in (1, 3):
        pool = Counting(model, whole.plan.study, stop_after=stop_after)
        with pytest.raises(KeyboardInterrupt):
            ablate(small(), out, model=model, pool=pool, progress=False)
    ablate(small(), out, model=model, progress=False)
    assert without_times(out / "table.csv") == without_times(whole.folder / "table.csv")
    folders = [tmp_path / f"shard{i}" for i in range(2)]
    for i, folder in enumerate(folders):
        ablate(small(), folder, model=model, shard=(i, 2), progress=False)
    merge(folders, tmp_path / "merged", model=model, study=small())
    assert without_times(tmp_path / "merged" / "table.csv") == without_times(whole.folder / "table.csv")


def changed_warmth(b_prime, truth, example) -> float:
    """As warmth, with another body."""
    return 2 * warmth(b_prime, truth, example)


changed_warmth.__name__ = "warmth"


def test_a_changed_function_is_another_job_and_a_metric_needs_no_new_picture(model, whole, tmp_path) -> None:
    shutil.copytree(whole.folder, tmp_path / "copy")
    keys = {job.key for job in whole.plan.jobs}
    changed = prepare(small(metrics=["mse", changed_warmth]), model)
    assert not keys & {job.key for job in changed.jobs}
    assert {job.painting for job in changed.jobs} == {job.painting for job in whole.plan.jobs}
    pool = Counting(model, changed.study)
    outcome = ablate(small(metrics=["mse", changed_warmth]), tmp_path / "copy", model=model, pool=pool, progress=False)
    assert pool.ran == []  # measured from the pictures
    before, after = ({(r["input"], r["edit"], r["sac"], r["metric"]): r["value"] for r in rows} for rows in (whole.rows, outcome.rows))
    assert after.keys() == before.keys()
    assert all(value == (2 * before[key] if key[-1] == "warmth" else before[key]) for key, value in after.items())

    other = EDITS | {"blind": {"*.self:probs": edits.zero_block("B'", "A")}}
    pool = Counting(model, whole.plan.study)
    outcome = ablate(small(factors={"edit": other, "sac": ["on", "off"]}), tmp_path / "copy", model=model, pool=pool, progress=False)
    edited = {row.key for row in outcome.plan.rows if row.variant.levels["edit"] == "blind"}
    assert set(pool.ran) == edited and len(edited) == 2  # the edit of two inputs alone


def test_a_metric_that_looks_at_maps_is_another_picture_job_when_it_changes(model) -> None:
    def reading(b_prime, truth, example, maps) -> float:
        return 0.0

    plans = []
    for capture in ("up.1.attn.0.self:probs", "up.1.attn.1.self:probs"):
        reading.capture = capture
        plans.append(prepare(small(metrics=[reading]), model))
    assert not {job.painting for job in plans[0].jobs} & {job.painting for job in plans[1].jobs}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"metrics": [broken]}, r"metric broken failed: AttributeError: .*tried on the input 'x' before the first run"),
        ({"metrics": [lambda b, t, e: 1.0]}, "give a function with a name"),
        ({"metrics": [warmth, warmth]}, r"metrics \['warmth'\] come twice"),
        ({"factors": {"edit": {"none": None, "mine": {"up.9.*.self:probs": halve}}}}, "edit 'mine'.*up.9"),
        ({"factors": {"edit": {"none": None, "mine": {"up.1.*.self:k": blind}}}}, "edit 'mine'.*works at"),
        ({"factors": {"edit": {"mine": {"*.self:probs": halve}}}, "attention": "fused"}, "edit 'mine': .*fused"),
        ({"factors": {"edit": "blind"}}, "give levels by name"),
        ({"metrics": ["mse", "tests.own_functions:nothing"]}, "has no nothing"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_an_error_before_the_first_run(model, fields, says, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Engine, "sample", lambda *_, **__: pytest.fail("something was sampled"))
    with pytest.raises(StudyError, match=says):
        ablate(small(**fields), tmp_path, model=model, progress=False)


def test_a_metric_of_the_name_of_another_is_refused(model, tmp_path) -> None:
    def mse(b_prime, truth, example) -> float:
        return 0.0

    with pytest.raises(StudyError, match=r"\['mse'\] (come twice|already exist)"):
        ablate(small(metrics=["mse", mse]), tmp_path, model=model, progress=False)
    with pytest.raises(StudyError, match=r"\['mse'\] already exist"):
        ablate(small(metrics=[mse]), tmp_path, model=model, progress=False)


def test_a_metric_that_fails_on_some_pictures_says_so_in_the_table_and_the_rest_goes_on(model, tmp_path) -> None:
    def needs_truth(b_prime, truth, example) -> float:
        return float(truth.width)

    inputs = (one_input(), one_input("y", shift=60, truth=False))
    given = small(metrics=["mse_to_b", needs_truth], inputs=inputs, factors={"sac": ["on", "off"]})
    outcome = ablate(given, tmp_path, model=model, progress=False)
    found = {(row["input"], row["metric"]): (row["value"], row["note"]) for row in outcome.rows if row["sac"] == "on"}
    assert found["x", "needs_truth"] == (30.0, "") and found["y", "mse_to_b"][0] > 0
    assert found["y", "needs_truth"][0] is None and "needs_truth failed: AttributeError" in found["y", "needs_truth"][1]
    assert "needs_truth was not measured in 2 runs" in outcome.report


@pytest.mark.parametrize(("value", "says"), [(None, "returned NoneType"), (float("nan"), "returned nan"), ("a", "returned str")])
def test_a_metric_must_return_a_finite_number(value, says) -> None:
    def score(b_prime, truth, example):
        return value

    with pytest.raises(StudyError, match=says):
        OwnMetric.of(score).measure(None, None, None)


def test_the_command_line_takes_functions_by_name_from_beside_the_study_file(tmp_path, capsys) -> None:
    (tmp_path / "cli_functions.py").write_text(
        "def size(b_prime, truth, example):\n    return b_prime.width\n\n\ndef keep(tensor, at):\n    return tensor * 0.5\n"
    )
    data = {
        "name": "file", "factors": {"edit": {"none": None, "half": {"up.1.*.self:logits": "cli_functions:keep"}}}, "seeds": [3],
        "base": BASE.replace(steps=2, strength=0.5).to_json(), "size": 128, "metrics": ["mse_to_b", "cli_functions:size"],
        "inputs": [{"grid": str(PARITY / "grid.png"), "name": "grid", "prompt": "a boat"}],
        "hypotheses": [{"claim": "halving changes nothing", "metric": "size", "variant": {"edit": "half"}, "expect": "differs"}],
    }  # fmt: skip
    path, out = tmp_path / "study.json", tmp_path / "out"
    path.write_text(json.dumps(data))
    common = ["ablate", str(path), "--checkpoint", str(CHECKPOINT), "--device", "cpu", "--out", str(out), "--quiet"]
    assert main(common) == 0
    rows = {(row["edit"], row["metric"]): row["value"] for row in read_table(out)}
    assert rows["half", "size"] == rows["none", "size"] > 50 and rows["half", "mse_to_b"] != rows["none", "mse_to_b"]
    capsys.readouterr()
    assert main([*common, "--metrics", "mse_to_b,tests.own_functions:nothing"]) == 2
    assert "tests.own_functions has no nothing" in capsys.readouterr().err


@dataclasses.dataclass(frozen=True, eq=False)
class Marked(Input):
    """An input with a field of its own, which only own metrics read."""

    marks: tuple[float, ...] = ()

    def weight(self) -> float:
        return sum(self.marks)


@dataclasses.dataclass(frozen=True, eq=False)
class MarkedOtherwise(Input):
    """As Marked, with another body."""

    marks: tuple[float, ...] = ()

    def weight(self) -> float:
        return -sum(self.marks)


def letters(b_prime, truth, example) -> float:
    return float(sum(len(text or "") for text in (example.name, example.prompt, example.wrong_prompt, example.group)))


def heavy(b_prime, truth, example) -> float:
    return example.weight()


def read_with_letters(b_prime, truth, example, maps) -> float:
    return letters(b_prime, truth, example) + read_from_a_prime(b_prime, truth, example, maps)


read_with_letters.capture = read_from_a_prime.capture


def values_of(outcome, metric: str) -> dict:
    """By input and level of the factor text."""
    return {(row["input"], row["text"]): row["value"] for row in outcome.rows if row["metric"] == metric}


def test_inputs_of_one_picture_are_each_measured_with_their_own_example(model, tmp_path) -> None:
    inputs = (one_input("a", "cat"), one_input("b", "a much longer prompt", wrong=None))
    given = small(inputs=inputs, factors={"text": ["on", "off"]}, metrics=["mse", letters])
    found = values_of(ablate(given, tmp_path, model=model, progress=False, outputs=False), "letters")
    group = len("made up")
    a, b = len("a" + "cat" + "a blue car") + group, len("b" + "a much longer prompt") + group
    assert a != b
    assert found == {("a", "on"): a, ("a", "off"): a, ("b", "on"): b, ("b", "off"): b}


def marked(kind: type[Input] = Marked, **fields) -> Input:
    return kind(**{name: value for name, value in vars(one_input()).items()} | {"marks": (1.0, 2.0)} | fields)


@pytest.mark.parametrize("metric", [letters, heavy, read_with_letters])
def test_a_changed_example_gives_the_values_of_a_fresh_folder(model, tmp_path, metric) -> None:
    examples = [
        marked(), marked(group="hard"), marked(wrong_prompt="a green bus"), marked(wrong_prompt=None), marked(marks=(1.0, 5.0)),
        marked(MarkedOtherwise), marked(prompt="a ship"),
    ]  # fmt: skip
    pool = Counting(model, small(metrics=["mse", OwnMetric.of(metric)]))

    def run(one: Input, folder: str) -> dict:
        given = small(inputs=(one,), factors={"text": ["off"]}, metrics=["mse", metric])
        return values_of(ablate(given, tmp_path / folder, model=model, pool=pool, progress=False, outputs=False), metric.__name__)

    fresh = [run(one, f"fresh {i}") for i, one in enumerate(examples)]
    assert len({tuple(value.values()) for value in fresh}) > 2
    pool.ran.clear()
    assert [run(one, "one") for one in [*examples, *examples]] == fresh * 2
    # Without maps, the examples share their pictures: one for each prompt and one without. With maps, each example is painted for itself.
    assert len(pool.ran) == (2 * len(examples) if metric is read_with_letters else 3)


def test_a_picture_taken_over_keeps_no_value_of_another_example(model, tmp_path) -> None:
    def only_easy(b_prime, truth, example) -> float:
        return {"easy": 1.0}[example.group]

    inputs = [(dataclasses.replace(one_input(), group="easy"), dataclasses.replace(one_input("y", shift=60), group=group))
              for group in ("easy", "hard")]  # fmt: skip
    for of_y, note in zip(inputs, ("", "metric only_easy failed: KeyError: 'hard'"), strict=True):
        given = small(inputs=of_y, factors={"text": ["off"]}, metrics=["mse", only_easy])
        rows = ablate(given, tmp_path, model=model, progress=False, outputs=False).rows
        found = {(row["input"], row["metric"]): (row["value"], row["note"]) for row in rows}
        assert found["x", "only_easy"] == (1.0, "") and found["y", "only_easy"] == (None if note else 1.0, note)
        assert found["y", "mse"][0] > 0


def test_an_example_that_cannot_be_hashed_is_an_error_before_the_first_run(model) -> None:
    odd = marked(marks=(threading.Lock(),))
    with pytest.raises(StudyError, match="input x: its field marks cannot be hashed"):
        prepare(small(inputs=(odd,)), model)
    assert prepare(small(inputs=(odd,), metrics=["mse"]), model).jobs


def test_a_metric_that_failed_is_measured_when_its_cause_is_gone(model, tmp_path) -> None:
    masks = tmp_path / "masks"

    def masked(b_prime, truth, example) -> float:
        return float((masks / f"{example.name}.txt").read_text())

    def masked_maps(b_prime, truth, example, maps) -> float:
        return masked(b_prime, truth, example)

    masks.mkdir()
    (masks / "x.txt").write_text("1")  # of the first input, on which metrics are tried before the run
    given = small(factors={"text": ["on", "off"]}, metrics=["mse", masked])

    def run(folder: str, given: Study = given, name: str = "masked") -> dict:
        pool = Counting(model, given.with_own())
        rows = ablate(given, tmp_path / folder, model=model, pool=pool, progress=False, outputs=False).rows
        painted.append(len(pool.ran))
        return {(row["input"], row["text"]): (row["value"], row["note"]) for row in rows if row["metric"] == name}

    painted: list[int] = []
    first = run("one")
    assert first["y", "on"][0] is None and "FileNotFoundError" in first["y", "on"][1] and first["x", "on"] == (1, "")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*.json") if "study" not in path.name}
    assert run("one") == first and before == {path: path.stat().st_mtime_ns for path in before}  # in vain again: nothing is written
    masked_maps.capture = read_from_a_prime.capture
    captured = small(factors={"text": ["on"]}, metrics=["mse", masked_maps])
    with_maps = run("maps", captured, "masked_maps")
    (masks / "y.txt").write_text("2")
    again = run("one")
    assert again == run("fresh") == {(name, text): (value, "") for name, value in (("x", 1), ("y", 2)) for text in ("on", "off")}
    assert painted == [4, 0, 2, 0, 4]  # the pictures stay
    # Its maps were there only while the picture was painted: the reason stays, and no other takes its place.
    assert run("maps", captured, "masked_maps") == with_maps and "FileNotFoundError" in with_maps["y", "on"][1]
