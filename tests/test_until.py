"""Studies that say beforehand how many inputs they take, and that stop when they are decided."""

import json

import pytest

from analogist.cli.main import main
from analogist.experiments.design.inputs import dealt
from analogist.experiments.design.levels import StudyError
from analogist.experiments.design.study import CHANGE, Hypothesis
from analogist.experiments.execute.ablation import ablate, prepare
from analogist.experiments.execute.dry_run import expect
from analogist.experiments.execute.sample_size import pilot_part
from analogist.experiments.execute.worker import Worker
from analogist.experiments.score.metrics import Measurer
from tests.experiments_small import BASE, CHECKPOINT, PARITY, load_model, one_input, study, without_times
from tests.test_ablation import Counting

CLAIM = Hypothesis("text changes the picture", CHANGE, {"text": "off"}, "higher")


@pytest.fixture(scope="module")
def model():
    return load_model()


def claimed(count: int, **fields):
    given = tuple(one_input(f"i{k}", shift=k * 3) for k in range(count))
    return study(**{
        "inputs": given, "factors": {"text": ["on", "off"]}, "base": BASE.replace(steps=2), "hypotheses": (CLAIM,),
        "metrics": ("mse_to_b",),
    } | fields)  # fmt: skip


def test_a_study_stops_at_the_first_look_that_decides_its_claims_and_a_restart_runs_nothing_more(model, tmp_path) -> None:
    given = claimed(24)
    pool = Counting(model, given)
    outcome = ablate(given, tmp_path, model=model, pool=pool, progress=False, until="decided")
    # equal signs give p = 2 / 2**6 at the first look, which is not enough there (2.1 * 4**0.25 standard deviations)
    assert len({row["input"] for row in outcome.rows}) == 12 and len(pool.ran) < 24 * 2
    assert "looked at 2 of 4 planned times, after 6, 12 inputs" in outcome.report and "**supported**" in outcome.report
    assert json.loads((tmp_path / "study.json").read_text())["fixed"]["looks"] == [6, 12, 18, 24]
    table = without_times(tmp_path / "table.csv")
    again = Counting(model, given)
    ablate(given, tmp_path, model=model, pool=again, progress=False, until="decided")
    assert again.ran == [] and without_times(tmp_path / "table.csv") == table


def test_inputs_are_dealt_evenly_over_their_groups() -> None:
    class Named:
        def __init__(self, name: str) -> None:
            self.name, self.group = name, name[0]

    given = [Named(name) for name in ("a1", "a2", "a3", "b1", "b2", "c1")]
    assert [one.name for one in dealt(given)] == ["a1", "b1", "c1", "a2", "b2", "a3"]


@pytest.mark.parametrize(
    ("fields", "arguments", "says"),
    [
        ({"hypotheses": ()}, {"until": "decided"}, "no hypotheses"), ({}, {"until": "decided", "shard": (0, 2)}, "a shard sees only"),
        ({}, {"until": "soon"}, "allowed is decided"), ({"inputs": (one_input(),)}, {"until": "decided"}, "fewer than two"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_until_decided_is_one_clear_line(model, fields, arguments, says, tmp_path) -> None:
    with pytest.raises(StudyError, match=says):
        ablate(claimed(2, **fields), tmp_path, model=model, progress=False, **arguments)


def test_what_was_to_stand_before_the_runs_and_was_changed_after_them_is_in_the_report(model, tmp_path) -> None:
    first = ablate(claimed(2), tmp_path, model=model, progress=False)
    assert "Changed after runs" not in first.report
    second = ablate(claimed(2, smallest_effect={CHANGE: 0.5}), tmp_path, model=model, progress=False)
    assert 'Changed after runs had finished: smallest_effect was "5 %", is {"change": 0.5}.' in second.report
    third = ablate(claimed(2, smallest_effect={CHANGE: 0.5}), tmp_path, model=model, progress=False)
    assert 'smallest_effect was "5 %"' in third.report  # it stays


def test_a_smallest_effect_that_cannot_be_is_an_error_in_the_study() -> None:
    for wrong, says in ((-1, "a positive number"), ({"mse": 0.1}, r"\['mse'\] are not among"), ({"mse_to_b": "x"}, "of mse_to_b 'x'")):
        with pytest.raises(StudyError, match=says):
            claimed(2, smallest_effect=wrong)


def test_the_dry_run_prints_how_many_inputs_the_claims_take_from_a_pilot(model) -> None:
    claim = Hypothesis("text brings B' closer to B", "mse_to_b", {"text": "off"}, "higher")
    given = claimed(8, hypotheses=(claim,), seeds=(1, 2, 3), smallest_effect=0.01, factors={"text": ["on", "off"], "sac": ["on", "off"]})
    plan = prepare(given, model)
    worker = Worker(model, Measurer(given.metrics))
    part = pilot_part(plan, 4)
    assert len(part.rows) == 4 * 2 * 2 and len({row.input for row in part.rows}) == 4  # inputs, seeds, and no run without SAC
    without = "\n".join(expect(plan, worker))
    # 8 pairs at 5 % and 80 %: 1.16 standard deviations (tables of Cohen 1988 by G*Power)
    assert "8 inputs show a difference of 1.16 standard deviations" in without and "add --pilot 8" in without
    said = "\n".join(expect(plan, worker, pilot=4))
    assert "pilot: 4 inputs, 2 seeds" in said and "text brings B' closer to B: mse_to_b differences have a spread of" in said
    assert "0.01, the least that matters, takes " in said and "inputs to see and" in said


def test_the_command_line_prints_the_sample_size_and_writes_nothing(tmp_path, capsys) -> None:
    data = {
        "name": "file", "factors": {"text": ["on", "off"]}, "seeds": [3], "size": 128,
        "base": BASE.replace(steps=2, strength=0.5).to_json(),
        "inputs": [{"grid": str(PARITY / "grid.png"), "name": name, "prompt": name} for name in ("boat", "cat")], "metrics": ["mse_to_b"],
        "hypotheses": [{"claim": "text matters", "metric": "mse_to_b", "variant": {"text": "off"}, "expect": "differs"}],
    }  # fmt: skip
    path, out = tmp_path / "study.json", tmp_path / "out"
    path.write_text(json.dumps(data))
    common = ["ablate", str(path), "--checkpoint", str(CHECKPOINT), "--device", "cpu", "--out", str(out), "--quiet"]
    assert main([*common, "--dry-run", "--pilot", "2", "--until", "decided"]) == 0
    said = capsys.readouterr().out
    assert "sample size: 2 inputs can show no difference at 0.05: the smallest p of their sign flips is 0.5; 6 inputs are" in said
    assert "pilot: 2 inputs, 1 seeds" in said and not out.exists()
    assert main([*common, "--pilot", "2"]) == 2
    assert "--pilot 2: 2 inputs or more, and with --dry-run" in capsys.readouterr().err
