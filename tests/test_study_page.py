"""The page to read a study in holds what the report says, within its size; what the pictures say to a repeat; on made-up pictures."""

import base64
import dataclasses
import io
import json
import re
import shlex

import numpy as np
import pytest
from PIL import Image

from analogist.attention.edit import edits
from analogist.cli.main import main
from analogist.experiments.design.study import Hypothesis
from analogist.experiments.execute.ablation import ablate
from analogist.experiments.execute.merge import merge
from analogist.experiments.execute.store import Store
from analogist.experiments.execute.worker import Worker
from analogist.experiments.report.page_runs import number
from analogist.experiments.report.report_text import Findings
from analogist.experiments.report.study_page import Told, study_page
from analogist.experiments.score.metrics import Measurer
from analogist.grid.pictures import read_picture, read_record
from tests.experiments_small import CHECKPOINT, PARITY, load_model, one_input, study
from tests.fake_study import MadeUp

METRICS = ("mse", "psnr", "mse_to_b")
FACTORS = {"sac": ["on", "off"], "sac.scale": [1.3, 1.8], "text": ["on", "off"]}
CLAIMS = [
    Hypothesis("without SAC B' is worse | much worse", "mse", {"sac": "off"}, "higher"),
    Hypothesis("a scale of 1.8 changes nothing", "mse", {"sac.scale": "1.8"}, "differs"),
]


@pytest.fixture(scope="module")
def model():
    return load_model()


def inputs(count: int) -> tuple:
    return tuple(one_input(f"x{i}", f"boat {i}", shift=9 * i) for i in range(count))


def some(**fields):
    """A study of made-up pictures."""
    return study(**{
        "name": "made up", "question": "Is SAC needed?", "factors": FACTORS, "inputs": inputs(8), "seeds": (1, 2), "metrics": METRICS,
        "hypotheses": CLAIMS, "smallest_effect": {"mse": 0.002},
    } | fields)  # fmt: skip


def made(model, given, out, *, failing=(), **how):
    pool = MadeUp(Worker(model, Measurer(given.with_own().all_metrics)), failing=failing)
    return ablate(given, out, model=model, pool=pool, progress=False, **how)


def manifest(page: str) -> dict:
    return json.loads(re.search(r'id="manifest">(.*?)</script>', page, re.DOTALL)[1])


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    return made(model, some(design="full"), tmp_path_factory.mktemp("whole"))


def tables(report: str) -> list[list[str]]:
    """The cells of all rows of a report's tables; of bold ones the text."""
    lines = [line for line in report.splitlines() if line.startswith("| ")]
    return [[cell.strip().strip("*").replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_tables_of_the_page_are_those_of_the_report(whole):
    data, rows = manifest(whole.page.html), tables(whole.report)
    for name in ("claims", "effects", "interactions"):
        assert data["heads"][name] in rows
        for one in data[name]:
            assert one["cells"] in rows
    assert len(data["claims"]) == 2 and len(data["effects"]) == 4 * 3
    assert {one["metric"] for one in data["interactions"]} == {*METRICS, "change"}
    assert data["claims"][0]["cells"][0] == CLAIMS[0].claim  # a bar in a claim breaks no table
    for text in (data["facts"], *data["about"], *data["notes"]["moot"]):
        assert text in whole.report


def test_paired_differences_of_the_page_give_the_reports_effects(whole):
    data = manifest(whole.page.html)
    runs, values = data["runs"], data["values"]
    for one in (*data["effects"], *data["claims"]):
        compared = data["comparisons"][one["comparison"]]
        by_input: dict[int, list[float]] = {}
        for (run, against), difference in zip(compared["pairs"], compared["differences"][one["metric"]], strict=True):
            assert runs["input"][run] == runs["input"][against] and runs["seed"][run] == runs["seed"][against]
            found = values[one["metric"]]
            assert difference == pytest.approx(found[run] - found[against], abs=2e-5 * max(1, abs(found[run])))
            by_input.setdefault(runs["input"][run], []).append(difference)
        assert np.mean([np.mean(found) for found in by_input.values()]) == pytest.approx(one["mean"], rel=1e-4, abs=1e-9)
        assert one["mean"] == pytest.approx(float(one["cells"][3 if "factor" in one else 2].split()[-1]), rel=1e-3)


def test_moot_pairs_are_not_on_the_page(whole):
    data = manifest(whole.page.html)
    scale = next(one for one in data["effects"] if one["factor"] == "sac.scale" and one["metric"] == "mse")
    sac = [factor["name"] for factor in data["factors"]].index("sac")
    levels = {data["variants"][data["runs"]["variant"][run]][sac] for run, _ in data["comparisons"][scale["comparison"]]["pairs"]}
    assert levels == {"on"} and data["notes"]["moot"]


def test_runs_on_the_page_are_the_tables(whole):
    data = manifest(whole.page.html)
    runs, places = data["runs"], {}
    for place, (variant, one, seed) in enumerate(zip(runs["variant"], runs["input"], runs["seed"], strict=True)):
        places[tuple(data["variants"][variant]), data["inputs"][one]["name"], seed] = place
    assert len(places) == len(set(runs["id"])) == 8 * 8 * 2
    for row in whole.rows:
        place = places[tuple(row[name] for name in FACTORS), row["input"], str(row["seed"])]
        assert data["values"][row["metric"]][place] == pytest.approx(row["value"], rel=1e-5)
        record = {name: data["pool"][at] for name, at in runs["record"][place].items()}
        assert record == read_record(whole.folder / runs["file"][place])


def picture(data: dict, place: int) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data["pictures"][place].split(",")[1])))


def test_pictures_that_fit_are_kept_without_loss_in_their_places(whole):
    data = manifest(whole.page.html)
    runs = data["runs"]
    for run in (0, 77):
        stored = read_picture(whole.folder / runs["file"][run])
        assert np.array_equal(picture(data, runs["picture"][run]), stored)
        one = data["inputs"][runs["input"][run]]
        grid, given = picture(data, one["grid"]), whole.plan.study.resolved[runs["input"][run]]
        assert np.array_equal(grid, given.grid.image) and np.array_equal(picture(data, one["truth"]), given.truth)
        left, top, width, height = (part * grid.width for part in one["cell"])
        assert (left, top, left + width, top + height) == given.grid.boxes()["B'"] and stored.size == (width, height)
    assert whole.report.count("PNG without loss") == 1 and "Left out: nothing." in whole.report


def test_a_page_keeps_its_size_by_steps_that_it_and_the_report_state(model, tmp_path, whole):
    done = made(model, some(inputs=inputs(16)), tmp_path)
    findings = Findings((), (), (), ())
    sizes, said = [], []
    with Store(tmp_path) as store:
        for most in (2_000_000, 450_000, 400_000, 150_000):
            page = study_page(done.plan, store, done.rows, Told(findings, {}), max_bytes=most)
            data = manifest(page.html)
            assert page.nbytes <= most
            assert data["notes"]["holds"][0] in page.said and all(line in page.said for line in data["notes"]["left_out"])
            assert f"{len(data['runs']['id'])} runs on {len(data['inputs'])} inputs" in page.said
            assert f"{len(data['pictures'])} pictures" in page.said
            sizes.append((len(data["inputs"]), len(data["pictures"])))
            said.append(page.said)
        with pytest.raises(ValueError, match="holds not even one run"):
            study_page(done.plan, store, done.rows, Told(findings, {}), max_bytes=10_000)
    assert sizes[0] == (16, 160) and sizes == sorted(sizes, reverse=True) and sizes[-1][0] < 16
    assert "PNG without loss" in said[0] and "JPEG of quality" in said[1] and "px per side" in said[2] + said[3]
    assert f"{16 - sizes[-1][0]} of 16 inputs: their runs are in table.csv and pictures/" in said[-1]


def test_stopped_and_sharded_studies_have_the_page_of_one_run(model, tmp_path, whole):
    given = some(design="full")
    for i in range(2):
        made(model, given, tmp_path / f"shard-{i}", shard=(i, 2))
    assert (tmp_path / "shard-0" / "study.html").is_file()
    merge([tmp_path / "shard-0", tmp_path / "shard-1"], tmp_path / "merged", study=given, model=model)
    page = (whole.folder / "study.html").read_bytes()
    assert (tmp_path / "merged" / "study.html").read_bytes() == page
    made(model, given, tmp_path / "again", shard=(0, 2))
    assert (tmp_path / "again" / "study.html").read_bytes() != page
    made(model, given, tmp_path / "again")
    assert (tmp_path / "again" / "study.html").read_bytes() == page


def test_a_failed_run_has_no_picture_and_a_run_with_an_edit_no_command(model, tmp_path):
    factors = {"edit": {"none": None, "blind": {"*.self:probs": edits.zero_block("B'", "A'")}}}
    done = made(model, some(factors=factors, hypotheses=()), tmp_path, failing=(2,))
    data = manifest(done.page.html)
    runs = data["runs"]
    for run, seed in enumerate(runs["seed"]):
        blind = data["variants"][runs["variant"][run]] == ["blind"]
        assert (runs["picture"][run] is None) == (seed == "2") == bool(runs["failed"][run])
        assert bool(runs["command"][run]) == (seed == "1" and not blind)
    assert data["values"]["mse"][runs["seed"].index("2")] is None


def test_inputs_of_one_content_are_shown_each_with_its_own_name(model, tmp_path):
    same = one_input()
    done = made(model, some(inputs=(same, dataclasses.replace(same, name="y")), factors={"sac": ["on", "off"]}, hypotheses=()), tmp_path)
    data = manifest(done.page.html)
    assert [one["name"] for one in data["inputs"]] == ["x", "y"] and len(data["runs"]["id"]) == 8
    assert len(set(data["runs"]["picture"])) == 4 and done.sheet.width > 0


@pytest.mark.parametrize("value, kept", [(float("inf"), None), (None, None), (0.12345678, 0.123457), (0, 0.0)])
def test_numbers_are_kept_to_six_digits_and_only_where_json_can_hold_them(value, kept):
    assert number(value) == kept


def test_the_command_on_the_page_paints_the_runs_picture_again(tmp_path, monkeypatch, capsys):
    data = {
        "name": "one", "factors": {"sac": ["on", "off"]}, "seeds": [3], "batch": 1, "metrics": ["mse"], "size": 128,
        "base": {"sampling": {"steps": 2, "strength": 1.0}},
        "inputs": [{"grid": str(PARITY / "grid.png"), "prompt": "a boat", "name": "it"}],
    }  # fmt: skip
    (tmp_path / "study.json").write_text(json.dumps(data))
    out = tmp_path / "out"
    assert main(["ablate", str(tmp_path / "study.json"), "--checkpoint", str(CHECKPOINT), "--out", str(out), "--quiet"]) == 0
    assert str(out / "study.html") in capsys.readouterr().out
    page = manifest((out / "study.html").read_text())
    monkeypatch.chdir(out)
    for run in range(2):
        words = shlex.split(page["runs"]["command"][run])
        assert words[:2] == ["analogist", "run"] and words[words.index("--checkpoint") + 1] == CHECKPOINT.name
        words[words.index("--checkpoint") + 1] = str(CHECKPOINT)
        assert main([*words[1:], "--quiet"]) == 0
        assert np.array_equal(read_picture(out / "again" / "b_prime_3.png"), read_picture(out / page["runs"]["file"][run]))
    assert main(["run", "--config", str(out / "again" / "b_prime_3.png"), "--checkpoint", str(CHECKPOINT), "--out", "b", "--quiet"]) == 0
    assert np.array_equal(read_picture(out / "b" / "grid_3.png"), read_picture(out / "again" / "grid_3.png"))
    (out / "inputs" / "it.png").write_bytes((out / page["runs"]["file"][0]).read_bytes())
    assert main([*words[1:], "--quiet"]) == 2
    assert "not the picture of this run" in capsys.readouterr().err
