"""`analogist ablate` from end to end: what comes out, going on where it stopped, one coordinator, shards."""

import csv
import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from analogist import SAC, Analogist, Placement
from analogist.cli.main import main
from analogist.experiments.decide.statistics import Effect
from analogist.experiments.design.claims import claims
from analogist.experiments.design.ready_studies import READY
from analogist.experiments.design.space import Space
from analogist.experiments.design.study import CHANGE, Hypothesis
from analogist.experiments.execute.ablation import Local, ablate, prepare
from analogist.experiments.execute.jobs import Group
from analogist.experiments.execute.merge import merge
from analogist.experiments.execute.store import Done, Store, read_entries
from analogist.experiments.execute.table import read_table
from analogist.experiments.execute.worker import Worker
from analogist.experiments.report.outputs import write_sheet
from analogist.experiments.report.plots import plot_effects
from analogist.experiments.report.report_text import effect_lines
from analogist.experiments.report.sheet import broken_lines, contact_sheet
from analogist.experiments.score.metrics import METRICS, Measurer
from analogist.grid.pictures import read_picture, read_record
from tests.experiments_small import BASE, CHECKPOINT, PARITY, load_model, load_parity, one_input, study, without_times, write_lora

FACTORS = {"sac": ["on", "off"], "text": ["on", "off"]}


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def small():
    return study(factors=FACTORS, design="full", inputs=(one_input(), one_input("y", "a cat", shift=60)), group=3, batch=2)


@pytest.fixture(scope="module")
def whole(model, small, tmp_path_factory):
    """The study run without any interruption."""
    return ablate(small, tmp_path_factory.mktemp("whole"), model=model, progress=False)


class Counting(Local):
    """A pool that counts the jobs it runs, and stops after some groups as an interrupt would."""

    def __init__(self, model, small, *, stop_after: int | None = None) -> None:
        super().__init__(Worker(model, Measurer(small.metrics)))
        self.ran: list[str] = []
        self.stop_after = stop_after

    def run(self, groups):
        for number, (group, results, seconds) in enumerate(super().run(groups)):
            if number == self.stop_after:
                raise KeyboardInterrupt
            self.ran += [job.key for job in group.jobs]
            yield group, results, seconds


def test_the_table_has_a_row_a_run_and_metric_with_every_factor_and_the_record(whole, small) -> None:
    with open(whole.folder / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    metrics = [*small.metrics, CHANGE]
    found = {(row["input"], row["seed"], row["sac"], row["text"], row["metric"]) for row in rows}
    assert len(rows) == len(found) == 2 * 4 * len(metrics)
    for row in rows:
        record = json.loads(row["record"])
        assert record["seeds"] == [int(row["seed"])] and record["config"] == json.loads(row["config"])
        assert (record["config"]["sac"] is None) == (row["sac"] == "off")
        assert record["prompt"] == row["prompt"] and (row["prompt"] == "") == (row["text"] == "off")
        picture = whole.folder / row["picture"]
        assert read_record(picture) == record
        assert row["reference"] == ("true" if (row["sac"], row["text"]) == ("on", "on") else "false")


def test_parquet_holds_the_same_table(whole) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(whole.folder / "table.parquet").to_pylist()
    rows = read_table(whole.folder)
    assert len(table) == len(rows)
    for one, other in zip(table, rows, strict=True):
        assert (one["metric"], one["value"], one["job"], one["reference"]) == (
            other["metric"], other["value"], other["job"], other["reference"],
        )  # fmt: skip


def test_metrics_in_the_table_are_those_of_the_pictures(whole) -> None:
    rows = read_table(whole.folder)
    by_run = {(row["input"], row["sac"], row["text"], row["metric"]): row for row in rows}
    for row in rows:
        cell = np.asarray(read_picture(whole.folder / row["picture"]), float) / 255
        if row["metric"] == CHANGE:
            reference = np.asarray(read_picture(whole.folder / by_run[row["input"], "on", "on", CHANGE]["picture"]), float) / 255
            assert row["value"] == pytest.approx(np.abs(cell - reference).mean())
        if row["metric"] == "mse":  # the truth is compared with the picture inside the cell's border
            one = next(one for one in whole.plan.study.inputs if one.name == row["input"])
            whole_cell, inner = one.grid.boxes()["B'"], one.grid.boxes(without_border=True)["B'"]
            left, top, right, bottom = (edge - whole_cell[k % 2] for k, edge in enumerate(inner))
            b = np.asarray(one.truth.resize((right - left, bottom - top)), float) / 255
            assert row["value"] == pytest.approx(((cell[top:bottom, left:right] - b) ** 2).mean(), rel=1e-4)


def test_a_change_is_measured_against_the_reference_of_the_same_seed(model, tmp_path) -> None:
    done = ablate(study(factors={"sac": ["on", "off"]}, seeds=(1, 2)), tmp_path, model=model, progress=False)
    rows = [row for row in read_table(done.folder) if row["metric"] == CHANGE]
    pictures = {(row["seed"], row["sac"]): np.asarray(read_picture(tmp_path / row["picture"]), float) / 255 for row in rows}
    for row in rows:
        expected = np.abs(pictures[row["seed"], row["sac"]] - pictures[row["seed"], "on"]).mean()
        assert row["value"] == pytest.approx(expected, abs=1e-12), (row["seed"], row["sac"])
    assert len(rows) == 4


def test_sheet_plots_effects_and_report_are_there(whole) -> None:
    assert whole.sheet.size[0] > 0 and "paired" in whole.report and "NOT TRAINED" not in whole.report
    effects = list(csv.DictReader(open(whole.folder / "effects.csv", newline="")))
    assert {(row["factor"], row["level"]) for row in effects} == {("sac", "off"), ("text", "off")}
    sac = next(row for row in effects if row["metric"] == "mse" and row["factor"] == "sac")
    values = {(row["input"], row["sac"], row["text"]): row["value"] for row in read_table(whole.folder) if row["metric"] == "mse"}
    by_hand = np.mean([values[i, "off", t] - values[i, "on", t] for i in ("x", "y") for t in ("on", "off")])
    assert float(sac["mean"]) == pytest.approx(by_hand) and sac["pairs"] == "4"
    pytest.importorskip("matplotlib")
    assert (whole.folder / "plots" / "mse.png").stat().st_size > 1000


def test_a_stopped_study_goes_on_and_does_nothing_twice(model, small, whole, tmp_path) -> None:
    ran: list[str] = []
    for stop_after in (1, 0, 1):
        pool = Counting(model, small, stop_after=stop_after)
        with pytest.raises(KeyboardInterrupt):
            ablate(small, tmp_path, model=model, pool=pool, progress=False)
        ran += pool.ran
    pool = Counting(model, small)
    ablate(small, tmp_path, model=model, pool=pool, progress=False)
    ran += pool.ran
    assert sorted(ran) == sorted(job.key for job in whole.plan.jobs)
    assert without_times(tmp_path / "table.csv") == without_times(whole.folder / "table.csv")
    assert (tmp_path / "report.md").read_text() == (whole.folder / "report.md").read_text()
    last = Counting(model, small)
    ablate(small, tmp_path, model=model, pool=last, progress=False)
    assert last.ran == []


def test_a_study_that_grew_runs_only_what_is_new(model, small, whole, tmp_path) -> None:
    first = ablate(small, tmp_path, model=model, changes={"inputs": small.inputs[:1]}, progress=False)
    pool = Counting(model, small)
    ablate(small, tmp_path, model=model, pool=pool, progress=False)
    assert sorted(pool.ran) == sorted({job.key for job in whole.plan.jobs} - {job.key for job in first.plan.jobs})


def test_a_metric_added_later_is_measured_from_the_pictures(model, small, whole, tmp_path) -> None:
    ablate(small, tmp_path, model=model, changes={"metrics": ("psnr",)}, progress=False)
    pool = Counting(model, small)
    ablate(small, tmp_path, model=model, pool=pool, progress=False)
    assert pool.ran == []
    assert without_times(tmp_path / "table.csv") == without_times(whole.folder / "table.csv")


def test_inputs_that_differ_in_the_truth_alone_are_jobs_of_one_picture_each_with_its_own_values(model, tmp_path) -> None:
    one = one_input()
    cells = one.grid.cells(without_border=True)
    inputs = (one, dataclasses.replace(one, name="y", truth=cells["A'"]))
    pool = Counting(model, given := study(inputs=inputs, metrics=["mse", "mse_to_b"]))

    def values(folder, **fields) -> dict:
        rows = ablate(given, folder, model=model, changes=fields, pool=pool, progress=False, outputs=False).rows
        painted = np.asarray(read_picture(folder / rows[0]["picture"]).convert("RGB").crop(inside), np.float64) / 255
        assert len({row["picture_sha256"] for row in rows}) == 1
        found = {(row["input"], row["metric"]): row["value"] for row in rows}
        for used in fields.get("inputs", inputs):
            for metric, other in (("mse", used.truth), ("mse_to_b", cells["B"])):
                if other is not None:
                    expected = ((painted - np.asarray(other.convert("RGB"), np.float64) / 255) ** 2).mean()
                    assert found[used.name, metric] == pytest.approx(expected, rel=1e-4, abs=1e-9)
        return found

    whole, inner = one.grid.boxes()["B'"], one.grid.boxes(without_border=True)["B'"]
    inside = (inner[0] - whole[0], inner[1] - whole[1], inner[2] - whole[0], inner[3] - whole[1])
    found = values(tmp_path)
    assert len(set(pool.ran)) == 2 and found["x", "mse"] != found["y", "mse"]
    # Another truth, or none, is measured from the picture that is there.
    values(tmp_path, inputs=(dataclasses.replace(one, truth=cells["A"]),))
    without = values(tmp_path, inputs=(dataclasses.replace(one, truth=None),))
    assert without["x", "mse"] is None and len(pool.ran) == 2


def test_a_second_coordinator_is_refused_and_told_who_holds_the_folder(tmp_path) -> None:
    with Store(tmp_path):
        with pytest.raises(ValueError, match=f"in use by process {os.getpid()} on .* since "), Store(tmp_path):
            pass
    with Store(tmp_path):
        pass  # free again


def test_a_damaged_picture_is_noticed(model, small, whole, tmp_path) -> None:
    outcome = ablate(small, tmp_path, model=model, changes={"inputs": small.inputs[:1]}, progress=False)
    picture = outcome.folder / outcome.rows[0]["picture"]
    Image.new("RGB", (32, 32)).save(picture)
    with pytest.raises(ValueError, match="not the picture that was written"):
        ablate(small, tmp_path, model=model, changes={"inputs": small.inputs[:1]}, progress=False)


def test_one_run_with_two_pictures_is_not_merged(model, small, whole, tmp_path) -> None:
    for name in ("one", "other"):
        shutil.copytree(whole.folder, tmp_path / name)
    picture = tmp_path / "other" / whole.rows[0]["picture"]
    painted = read_picture(picture)
    painted.putpixel((0, 0), tuple(255 - level for level in painted.getpixel((0, 0))))
    painted.save(picture)
    with pytest.raises(ValueError, match="are two different pictures of one run; give all shards the same kind of machine"):
        merge([tmp_path / "one", tmp_path / "other"], tmp_path / "merged", model=model, study=small)


def test_a_run_counts_as_finished_only_after_its_picture_is_there(tmp_path, monkeypatch) -> None:
    group = Group("g", (), 1)
    done = Done("k" * 64, Image.new("RGB", (8, 8)), {})
    with Store(tmp_path) as store:
        with monkeypatch.context() as full_disk:
            full_disk.setattr("analogist.experiments.execute.store.save_png", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
            with pytest.raises(OSError, match="disk full"):
                store.commit(group, [done], {done.key: "x"}, 1.0)
        assert store.entries == {} == read_entries(tmp_path)
        store.commit(group, [done], {done.key: "x"}, 1.0)
        assert read_entries(tmp_path) == store.entries and store.picture(store.entries[done.key]).size == (8, 8)


def test_a_folder_of_another_version_is_refused(tmp_path) -> None:
    (tmp_path / "groups").mkdir()
    (tmp_path / "groups" / "x.json").write_text('{"format": 99, "jobs": []}')
    with pytest.raises(ValueError, match="format 99; this version reads 1"), Store(tmp_path):
        pass
    with pytest.raises(ValueError, match="format 99"), Store(tmp_path):  # and the folder is free again
        pass


def test_three_shards_merged_give_the_table_of_one_run(model, small, whole, tmp_path) -> None:
    folders = []
    for i in range(3):
        folders.append(tmp_path / f"shard{i}")
        ablate(small, folders[-1], model=model, shard=(i, 3), progress=False)
    with pytest.raises(ValueError, match="runs are missing"):
        merge(folders[:2], tmp_path / "part", model=model, study=small)
    merge(folders, tmp_path / "merged", model=model, study=small)
    assert (tmp_path / "merged" / "report.md").read_text() == (whole.folder / "report.md").read_text()
    assert without_times(tmp_path / "merged" / "table.csv") == without_times(whole.folder / "table.csv")
    assert (tmp_path / "merged" / "sheet.png").read_bytes() == (whole.folder / "sheet.png").read_bytes()


def test_hypotheses_get_a_verdict_from_paired_differences(model, small, tmp_path) -> None:
    hypotheses = (
        Hypothesis("text changes the picture", CHANGE, {"text": "off"}, "higher"),
        Hypothesis("never measured", "mse", {"text": "off"}, "lower"),  # these inputs have no truth
    )
    inputs = tuple(one_input(f"i{k}", shift=k * 3, truth=False) for k in range(7))
    changes = {"hypotheses": hypotheses, "inputs": inputs, "factors": {"text": ["on", "off"]}, "base": BASE.replace(steps=2)}
    outcome = ablate(small, tmp_path, model=model, changes=changes, progress=False)
    claims = [line for line in outcome.report.splitlines() if line.startswith(("| text changes", "| never"))]
    assert "**supported**" in claims[0] and "**not tested**" in claims[1]  # seven equal signs: p = 2 / 2**7 = 0.016


def test_ready_studies_can_be_planned_on_any_checkpoint(model) -> None:
    for name, make in READY.items():
        plan = prepare(make(model), model, changes={"inputs": (one_input(),)})
        assert len(plan.variants) > 3 and plan.variants[0].reference, name
    tested = READY["paper-claims"](model)
    named = {tuple(sorted(v.items())) for one in tested.hypotheses for v in (one.variant, one.against) if v}
    run = {tuple(sorted((k, str(v)) for k, v in run.items())) for run in tested.runs}
    assert named <= run and {one.metric for one in tested.hypotheses} <= set(METRICS)


@pytest.mark.parametrize("own", [1.3, 2.0])
def test_the_claim_on_the_scale_compares_with_the_papers_whatever_the_checkpoints_own_is(model, own: float) -> None:
    config = model.config.replace(sac=SAC(Placement.layers([0]), scale=own))
    runs, hypotheses = claims(Space.of(model.unet.sites, config, (128, 128), model.vae.config.factor), config)
    one = next(one for one in hypotheses if "degrades" in one.claim)
    assert one.variant == {"sac.scale": "1.8"} and "than with s = 1.3" in one.claim
    assert one.against == ({} if own == 1.3 else {"sac.scale": "1.3"})
    assert ({"sac.scale": 1.3} in runs) == (own != 1.3) and {"sac.scale": 1.8} in runs


def test_the_sheet_shrinks_then_drops_rows_and_says_so() -> None:
    def picture(row: int, column: int) -> Image.Image | None:
        return None if row == 0 else Image.new("RGB", (64, 64), (255, 0, 0))

    sheet, note = contact_sheet(["a", "b"], ["c"], picture, side=64)
    assert note == "" and sheet.getpixel((sheet.width - 10, sheet.height - 10)) == (255, 0, 0)
    assert sheet.height - contact_sheet(["a"], ["c"], picture, side=64)[0].height == 2 * 64 + 4  # enlarged, and the gap between rows
    close, note = contact_sheet(["a", "b"], ["c"], picture, side=64, max_pixels=40_000)  # no room to enlarge
    assert note == "" and sheet.width - close.width == 128 - 64
    sheet, note = contact_sheet([str(i) for i in range(50)], ["c"] * 20, picture, side=64, max_pixels=400_000)
    assert sheet.width * sheet.height <= 400_000 and "pictures shown at 32 px of 64" in note and "rows left out" in note


def test_captions_break_between_words_and_within_one_only_where_it_is_too_long() -> None:
    font = ImageFont.load_default(13)
    assert broken_lines("sketch-0 seed 42", 64, font) == ["sketch-0", "seed 42"]
    lines = broken_lines("averyverylongnameofaninput seed 42", 64, font, most=9)
    assert "".join(lines[:-1]) == "averyverylongnameofaninput" and lines[-1] == "seed 42"
    assert all(font.getlength(line) <= 64 for line in lines)
    assert broken_lines("one two three four five six", 40, font, most=2)[-1].endswith("…")
    assert broken_lines("", 40, font) == [""]


def test_the_sheet_shows_what_was_given_and_the_truth_above_what_was_painted(whole, tmp_path, monkeypatch) -> None:
    shutil.copytree(whole.folder, tmp_path / "copy")
    drawn = {}

    def drawing(rows, columns, picture, *, side):
        drawn.update(rows=rows, columns=columns, pictures=[[picture(r, c) for c in range(len(columns))] for r in range(len(rows))])
        return contact_sheet(rows, columns, picture, side=side)

    monkeypatch.setattr("analogist.experiments.report.outputs.contact_sheet", drawing)
    with Store(tmp_path / "copy") as store:
        write_sheet(whole.plan, store)
    assert drawn["rows"] == ["A", "A'", "B", "true B'", "reference: sac on, text on", "text off", "sac off", "sac off, text off"]
    assert drawn["columns"] == ["x seed 1", "y seed 1"]
    for c, one in enumerate(whole.plan.study.inputs):
        cells = one.grid.cells(without_border=True)
        for r, expected in enumerate([cells["A"], cells["A'"], cells["B"], one.truth]):
            assert drawn["pictures"][r][c].tobytes() == expected.tobytes()
        by_levels = {(row["input"], row["sac"], row["text"]): row["picture"] for row in whole.rows}
        painted = read_picture(whole.folder / by_levels[one.name, "off", "on"])
        assert drawn["pictures"][6][c].tobytes() == painted.tobytes()


def test_plots_have_numbers_in_their_order_and_name_what_each_level_is_compared_with(tmp_path, monkeypatch) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure
    shown = []

    def saved(drawn, *_, **__):
        (axes,) = drawn.axes
        shown.append(([label.get_text() for label in axes.get_yticklabels()], axes.get_title()))

    monkeypatch.setattr(figure, "savefig", saved)
    found = [
        Effect("mse", factor, level, against, mean, mean - 1, mean + 1, 0.5, 2, 2, 0.0)
        for factor, level, against, mean in [("sac.scale", "2.5", "1.0", 9.0), ("cam", "off", "on", 5.0), ("sac.scale", "0.5", "1.0", 1.0)]
    ]
    plot_effects(found, {"sac.scale": ["1.0", "2.5", "0.5"], "cam": ["on", "off"]}, tmp_path)
    assert shown == [
        (["sac.scale 0.5 (not 1.0)", "sac.scale 2.5 (not 1.0)", "cam off (not on)"],
         "mean squared error to the truth, levels 0..1; lower is better")
    ]  # fmt: skip


def test_the_report_names_the_reference_and_says_where_no_difference_could_be_told_from_chance(whole) -> None:
    assert "The reference has sac on, text on." in whole.report
    # two inputs: the smallest p is 2 / 2**2, twice over two comparisons
    assert whole.report.count("With 2 independent inputs or seeds and 2 comparisons no p can fall below 1:") == 5
    many = [Effect("mse", "f", str(k), "0", 1.0, 0.5, 1.5, 0.1, 8, units, 0.0, 0.2) for k, units in enumerate([8, 7])]
    assert "no p can fall below" not in "".join(effect_lines("mse", many))  # 2 * 2 / 2**8
    assert "no p can fall below 0.062" in "".join(effect_lines("mse", many[1:] * 4))


def study_file(folder: Path) -> Path:
    data = {
        "name": "file", "factors": {"sac.scale": [1.0, 1.3]}, "base": BASE.replace(steps=2, strength=0.5).to_json(), "seeds": [3],
        "size": 128, "inputs": [{"grid": str(PARITY / "grid.png"), "name": "grid", "prompt": "a boat"}],
    }  # fmt: skip
    path = folder / "study.json"
    path.write_text(json.dumps(data))
    return path


def test_the_command_runs_a_study_file_and_the_dry_run_writes_nothing(tmp_path, capsys) -> None:
    path, out = study_file(tmp_path), tmp_path / "out"
    common = ["ablate", str(path), "--checkpoint", str(CHECKPOINT), "--device", "cpu", "--out", str(out), "--quiet"]
    assert main([*common, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "2 variants x 1 inputs x 1 seeds = 2 runs, 2 different ones" in said and "one run alone took" in said
    assert "memory" in said and not out.exists()
    assert main(common) == 0
    assert str(out / "table.csv") in capsys.readouterr().out
    assert {row["sac.scale"] for row in read_table(out)} == {"1.0", "1.3"}
    assert "no true B'" in (out / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nope"], "ready studies are"), (["sac-scale"], "missing --out"), (["sac-scale", "--out", "x", "--shard", "3/3"], "0/3 to 2/3"),
        (["sac-scale", "--out", "x", "--seeds", "a"], "--seeds"), (["sac-scale", "--out", "x", "--on", "slurm"], "here, ray"),
        (["sac-scale", "--out", "x", "--metrics", "beauty"], "allowed are mse"),
        (["sac-scale", "--out", "x", "--workers", "2"], "--on ray"),
        (["sac-scale", "--out", "x", "--count", "2"], "count 2: this study's inputs are pictures that are given, not drawn"),
    ],
)  # fmt: skip
def test_bad_arguments_are_one_line_and_exit_code_2(arguments, says, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["ablate", *arguments, "--checkpoint", str(CHECKPOINT)]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and says in error[0]


def test_the_number_of_drawn_inputs_can_be_set_in_the_command(capsys, tmp_path) -> None:
    arguments = ["ablate", "sac-x-cam", "--dry-run", "--steps", "1", "--device", "cpu", "--quiet"]
    assert main([*arguments, "--count", "2"]) == 0
    assert "12 variants x 20 inputs x 1 seeds" in capsys.readouterr().out  # ten kinds of change
    drawn = {"lab": ["recolour", "resize"], "count": 1, "seed": 3}
    study = {"name": "s", "inputs": [drawn, {"drawings": ["invert"]}], "factors": {"sac": ["on", "off"]}}
    (tmp_path / "s.json").write_text(json.dumps(study))
    assert main(["ablate", str(tmp_path / "s.json"), *arguments[2:], "--count", "3"]) == 0
    assert "2 variants x 9 inputs x 1 seeds" in capsys.readouterr().out
    assert main(["ablate", str(tmp_path / "s.json"), *arguments[2:], "--count", "0"]) == 2
    assert "s.json: inputs: count 0: expected a whole number from 1 to 10000" in capsys.readouterr().err


def test_the_list_names_ready_studies_and_metrics(capsys) -> None:
    assert main(["ablate", "list"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in (*READY, *METRICS))


def test_a_study_in_the_folder_of_one_without_a_lora_is_that_of_a_fresh_folder(tmp_path) -> None:
    parity = load_parity()
    write_lora(parity, tmp_path / "l.safetensors")
    shutil.copy(tmp_path / "l.safetensors", tmp_path / "renamed.safetensors")
    given = study(inputs=(one_input(size=128),), size=128, metrics=("mse_to_b",))

    def values(folder: str, lora: object) -> list[float]:
        model = parity if lora is None else Analogist.from_checkpoint(CHECKPOINT, device="cpu", lora=lora)
        pool = Counting(model, given)
        rows = ablate(given, tmp_path / folder, model=model, pool=pool, progress=False).rows
        painted.append(len(pool.ran))
        return [row["value"] for row in rows]

    painted: list[int] = []
    file = tmp_path / "l.safetensors"
    loras = [None, file, (file, 0.5), [file, (file, 0.5)]]
    fresh = [values(f"fresh {i}", lora) for i, lora in enumerate(loras)]
    assert len({value for (value,) in fresh}) == 4
    assert [values("one", lora) for lora in loras] == fresh and painted == [1] * 8
    assert [values("one", lora) for lora in [*loras, tmp_path / "renamed.safetensors"]] == [*fresh, fresh[1]]
    assert painted[8:] == [0] * 5  # nothing is painted twice; where a file lies or how it is called is no part of what it is
    assert "with the LoRA l.safetensors at scale 1.0" in (tmp_path / "fresh 1" / "report.md").read_text()
    page = (tmp_path / "fresh 2" / "study.html").read_text()
    assert " --lora l.safetensors:0.5 --out again" in page
