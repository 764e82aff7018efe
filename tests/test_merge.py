"""Merging shards loses nothing: what was changed after runs had finished, runs of other settings, a judge's answers."""

import argparse
import json
import shutil
from pathlib import Path

import pytest

from analogist.cli import ablate as ablate_command
from analogist.cli import merge as merge_command
from analogist.cli.main import main
from analogist.experiments.design.study import Hypothesis
from analogist.experiments.execute.ablation import ablate
from analogist.experiments.execute.merge import merge, take
from analogist.experiments.execute.store import Store, _changes
from analogist.experiments.execute.table import read_table
from analogist.experiments.report.report_text import changed_text
from tests.experiments_small import BASE, CHECKPOINT, load_model, one_input, plan_of, study


@pytest.fixture(scope="module")
def model():
    return load_model()


def claim(expect: str) -> tuple[Hypothesis, ...]:
    return (Hypothesis("SAC changes the error", "mse", {"sac": "off"}, expect),)


FIELDS = {"factors": {"sac": ["on", "off"]}, "inputs": (one_input(), one_input("y", "a cat", shift=60)), "group": 2, "batch": 2}
FIRST = study(**FIELDS, smallest_effect=0.01, hypotheses=claim("lower"))
CHANGED = study(**FIELDS, smallest_effect=0.5, hypotheses=claim("higher"))


def said(folder: Path) -> list[str]:
    """The remarks in study.json; the report says the same."""
    changed = json.loads((folder / "study.json").read_text())["changed"]
    assert changed == [] or changed_text(changed) in (folder / "report.md").read_text()
    assert bool(changed) == ("Changed after runs" in (folder / "report.md").read_text())
    return changed


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    """The study in two shards as it was at first, and what one folder says of the changes when all runs are done in it."""
    folder = tmp_path_factory.mktemp("run")
    for i in range(2):
        ablate(FIRST, folder / f"shard{i}", model=model, shard=(i, 2), progress=False, outputs=False)
    for one in (FIRST, CHANGED):
        ablate(one, folder / "whole", model=model, progress=False)
    remarks = said(folder / "whole")
    assert remarks == [
        "smallest_effect was 0.01, is 0.5", 'hypotheses: changed "SAC changes the error" (expect was "lower", is "higher")',
    ]  # fmt: skip
    return folder, remarks


@pytest.mark.parametrize("again", [(), (0,), (1,), (0, 1)], ids=["no shard", "the first", "the second", "both"])
def test_a_merged_report_says_what_was_changed_as_one_folder_does_whichever_shards_ran_again(model, run, tmp_path, again) -> None:
    shards, (source, remarks) = [tmp_path / f"shard{i}" for i in range(2)], run
    for shard in shards:
        shutil.copytree(source / shard.name, shard)
    for i in again:
        ablate(CHANGED, shards[i], model=model, shard=(i, 2), progress=False, outputs=False)
    for _ in range(2):  # merged a second time it says the same
        merge(shards, tmp_path / "merged", model=model, study=CHANGED)
        assert said(tmp_path / "merged") == remarks


def test_a_merged_report_says_nothing_of_changes_where_there_were_none(model, run, tmp_path) -> None:
    source, _ = run
    merge([source / "shard0", source / "shard1"], tmp_path, model=model, study=FIRST)
    assert said(tmp_path) == []


def test_what_was_changed_is_known_after_a_merge_that_lacked_runs(model, run, tmp_path) -> None:
    source, remarks = run
    with pytest.raises(ValueError, match="2 of 4 runs are missing"):
        merge([source / "shard0"], tmp_path, model=model, study=CHANGED)
    ablate(CHANGED, tmp_path, model=model, progress=False)  # the rest is run here
    assert said(tmp_path) == remarks


def test_a_change_that_was_made_twice_is_said_twice_and_a_folder_without_runs_says_nothing(tmp_path) -> None:
    with Store(tmp_path) as store:
        back = {"changed": ["x was 1, is 2", "x was 2, is 1", "x was 1, is 2"], "fixed": {"x": 2}}
        for _ in range(2):
            assert store.write_study({}, fixed={"x": 1}, taken=[{}, back, back]) == [*back["changed"], "x was 2, is 1"]


def test_runs_that_the_merged_study_does_not_have_are_counted_in_a_note(model, run, tmp_path) -> None:
    source, _ = run
    notes = merge([source / "shard0", source / "shard1"], tmp_path, model=model, study=FIRST, changes={"inputs": FIELDS["inputs"][:1]})
    assert len([note for note in notes if note.startswith("finished runs in these folders that are not in the study as it is given")]) == 1
    assert ": 2; give the settings that the shards had" in notes[0]


def test_merge_takes_the_count_that_the_shards_had_and_says_when_it_is_forgotten(tmp_path, capsys) -> None:
    given = {
        "name": "drawn", "base": BASE.replace(steps=1, strength=1.0).to_json(), "seeds": [3], "size": 128, "group": 1,
        "inputs": [{"drawings": ["invert"], "count": 1}],
    }  # fmt: skip
    (tmp_path / "s.json").write_text(json.dumps(given))
    common = [str(tmp_path / "s.json"), "--checkpoint", str(CHECKPOINT), "--device", "cpu"]
    shards = [str(tmp_path / f"shard{i}") for i in range(2)]
    for i, shard in enumerate(shards):
        assert main(["ablate", *common, "--count", "2", "--shard", f"{i}/2", "--out", shard, "--quiet"]) == 0
    whole = [common[0], *shards, *common[1:]]
    assert main(["merge", *whole, "--count", "2", "--out", str(tmp_path / "whole")]) == 0
    assert "not in the study" not in capsys.readouterr().err and len({row["input"] for row in read_table(tmp_path / "whole")}) == 2
    assert main(["merge", *whole, "--out", str(tmp_path / "part")]) == 0
    assert "not in the study as it is given here, left out of its table: 1; give the settings" in capsys.readouterr().err
    assert len({row["input"] for row in read_table(tmp_path / "part")}) == 1


def test_merge_knows_every_setting_with_which_shards_may_be_run() -> None:
    def settings(command) -> list[set[str]]:
        parser = command.add_parser(argparse.ArgumentParser().add_subparsers())
        chosen = [group for group in parser._action_groups if (group.title or "").startswith(("settings that replace", "model"))]
        return [{option for action in group._group_actions for option in action.option_strings} for group in chosen]

    assert settings(merge_command) == settings(ablate_command) and "--count" in settings(merge_command)[0]


def test_a_judges_answers_are_taken_with_the_pictures(model, run, tmp_path) -> None:
    source, _ = run
    shutil.copytree(source / "shard0", tmp_path / "shard")
    (tmp_path / "shard" / "judgements").mkdir()
    (tmp_path / "shard" / "judgements" / "a.json").write_text('{"answers": []}')
    with Store(tmp_path / "whole") as store:
        take([tmp_path / "shard"], store, plan_of(model, **FIELDS))
    assert (tmp_path / "whole" / "judgements" / "a.json").read_text() == '{"answers": []}'


def test_of_a_long_list_that_was_changed_a_remark_names_what_came_went_or_became_another() -> None:
    def claims(**expects: str) -> list[dict]:
        return [{"claim": name, "metric": "mse", "variant": {"sac": "off"}, "expect": expect} for name, expect in expects.items()]

    with_three, other = claims(one="lower", two="higher", three="lower"), claims(two="lower", three="lower", four="lower")
    for before, now, said in (
        (with_three, other, 'taken out "one"; put in "four"; changed "two" (expect was "higher", is "lower")'),
        (with_three, with_three[:2], 'taken out "three"'),
        ([], with_three[:1], 'put in "one"'),
        (with_three, with_three[::-1], "in another order"),
        (list(range(40)), list(range(2, 41)), "taken out 0, 1; put in 40"),
    ):
        assert _changes({"x": before}, {"x": now}) == [f"x: {said}"]
    assert _changes({"x": [1, 2], "y": 3}, {"x": [2], "y": 3}) == ["x was [1, 2], is [2]"]
