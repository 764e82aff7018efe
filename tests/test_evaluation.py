"""`analogist evaluate` and `report`: the published protocol's means, presets, distances, and the paper's numbers beside."""

import csv
import json
import shutil

import numpy as np
import pytest

from analogist.cli.main import main
from analogist.config import AnalogistConfig, SamplingConfig
from analogist.experiments.evaluate import published
from analogist.experiments.evaluate.evaluation import evaluate, summarise
from analogist.experiments.execute.table import read_table
from analogist.experiments.score.networks import load_network
from tests.experiments_small import CHECKPOINT, load_model, without_times
from tests.test_data import make_data
from tests.test_metrics import tiny_networks

QUICK = AnalogistConfig(sampling=SamplingConfig(steps=2, strength=0.5, guidance=3.0))
TASKS = ["colorization", "deblur"]


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return load_network("clip", str(tiny_networks(tmp_path_factory.mktemp("networks")) / "clip"))


@pytest.fixture(scope="module")
def whole(model, data, clip, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluation")
    return evaluate(data, out, model=model, config=QUICK, tasks=TASKS, images=2, clip=clip, progress=False)


def test_means_go_over_images_then_files_then_tasks() -> None:
    rows = [
        {"metric": "mse", "group": group, "input": one, "seed": seed, "value": value}
        for group, one, seed, value in [
            ("t", "a", 1, 1.0), ("t", "a", 2, 3.0), ("t", "b", 1, 10.0), ("u", "c", 1, 0.0), ("u", "d", 1, None),
        ]
    ]  # fmt: skip
    found = {line["name"]: (line["value"], line["inputs"]) for line in summarise(rows)}
    assert found == {"t": (6.0, 2), "u": (0.0, 1), "all tasks": (3.0, 3)}


def test_the_summary_is_the_table_averaged_and_written(whole) -> None:
    rows = [row for row in read_table(whole.folder) if row["metric"] == "clip_direction"]
    assert len(rows) == 2 * 2 * 2 and {row["seed"] for row in rows} == {"42", "43"}
    deblur = np.mean([row["value"] for row in rows if row["group"] == "deblur"])  # equally many images per input
    with open(whole.folder / "summary.csv", newline="") as file:
        written = {(line["name"], line["metric"]): float(line["value"]) for line in csv.DictReader(file)}
    assert written["deblur", "clip_direction"] == pytest.approx(deblur)
    assert written["all tasks", "clip_direction"] == pytest.approx(np.mean([written[task, "clip_direction"] for task in TASKS]))
    assert "frechet_clip" in {metric for _, metric in written} and ("low-level", "kernel_clip") in written


def test_the_report_stands_beside_the_paper_and_names_what_differs(whole) -> None:
    text = whole.report
    assert "| CLIP direction, colorization | 0.1797 | " in text and "| FID, vision | 96.67 | not measured |" in text
    assert "| CLIP direction, all tasks | 0.2832 |" in text
    for difference in ("here one generator per image", "dtype: float32", "size: [64, 64]", "images: [2]", "tasks: 2 of 10",
                       "settings: different from the published ones in colorization, deblur", "CLIP network: clip"):  # fmt: skip
        assert difference in text, difference
    assert "dino_distance was not measured: no dino network given" in text and "lpips was not measured" in text


def test_published_settings_of_each_task_are_the_default(model, data, tmp_path, monkeypatch) -> None:
    seen = {}

    class Stop(Exception):
        pass

    def planned(plan, *_, **__):
        seen.update({plan.study.inputs[job.input].group: job.config for job in plan.jobs})
        raise Stop

    monkeypatch.setattr("analogist.experiments.evaluate.evaluation.carry_out", planned)
    with pytest.raises(Stop):
        evaluate(data, tmp_path, model=model, progress=False)
    assert {task: (config.sampling.strength, config.sampling.guidance) for task, config in seen.items()} == {
        "colorization": (0.98, 15.0), "deblur": (0.7, 15.0), "denoise": (0.7, 15.0), "enhancement": (0.98, 15.0),
    }  # fmt: skip
    assert all(config.sampling.steps == 50 and config.sac.scale == 1.3 for config in seen.values())


def test_settings_given_go_before_a_tasks_own(whole) -> None:
    found = {row["group"]: AnalogistConfig.from_json(json.loads(row["config"])) for row in read_table(whole.folder)}
    assert found == dict.fromkeys(TASKS, QUICK)  # deblur's own strength would be 0.7


def test_distances_of_a_category_take_every_painting_and_every_truth_once(model, data, clip, whole, tmp_path, monkeypatch) -> None:
    shutil.copytree(whole.folder, tmp_path / "again")
    counted = []

    def counting(painted, truths, networks):
        counted.append((len({one.tobytes() for one in painted}), len(painted), len(truths)))
        return {}, {}

    monkeypatch.setattr("analogist.experiments.evaluate.evaluation.distances", counting)
    evaluate(data, tmp_path / "again", model=model, config=QUICK, tasks=TASKS, images=2, clip=clip, progress=False)
    assert counted == [(8, 8, 4)]  # two tasks of two files and two images, in one category


def test_an_evaluation_goes_on_and_takes_finished_shards(model, data, clip, whole, tmp_path) -> None:
    call = {"model": model, "config": QUICK, "tasks": TASKS, "images": 2, "clip": clip, "progress": False}
    for i in range(2):
        evaluate(data, tmp_path / f"shard{i}", shard=(i, 2), **call)

    class Nothing:
        def measuring(self, metrics):
            return self

        def run(self, groups):
            assert list(groups) == []
            return iter(())

    evaluate(data, tmp_path / "whole", taken=[tmp_path / "shard0", tmp_path / "shard1"], pool=Nothing(), **call)
    assert without_times(tmp_path / "whole" / "table.csv") == without_times(whole.folder / "table.csv")
    assert (tmp_path / "whole" / "report.md").read_text() == whole.report


def test_protocol_equal_to_the_published_one_differs_in_nothing_but_the_random_numbers() -> None:
    record = {
        "checkpoint": {"name": "sd-v1-5-inpainting.safetensors", "family": "sd15-inpainting", "trained": True}, "dtype": "float16",
        "grid": {"size": [512, 512]}, "config": AnalogistConfig().to_json(), "negative_prompt": "", "prompt_suffix": "",
    }  # fmt: skip
    from analogist.config import NEGATIVE_PROMPT, PROMPT_SUFFIX

    record |= {"negative_prompt": NEGATIVE_PROMPT, "prompt_suffix": PROMPT_SUFFIX}
    rows = [
        {"input": "x", "group": "colorization", "seed": str(seed), "metric": "clip_direction", "network": published.NETWORK,
         "record": json.dumps(record)}
        for seed in range(42, 50)
    ]  # fmt: skip
    (only,) = published.differences(rows, ["task"] * 10)
    assert only.startswith("random numbers")
    record["checkpoint"]["lora"] = [{"name": "ink.safetensors", "scale": 0.8}]
    rows = [row | {"record": json.dumps(record)} for row in rows]
    assert published.differences(rows, ["task"] * 10)[1:] == ["weights: with the LoRA ink.safetensors at scale 0.8; published without"]


def test_the_commands_evaluate_a_list_and_report_it(data, tmp_path, capsys) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes((data / "low_level_tasks_processed" / "deblur" / "000.png").read_bytes())
    (tmp_path / "list.csv").write_text("a,a_prime,b,b_prime,prompt\na.png,b.png,a.png,b.png,a boat\n")
    (tmp_path / "config.json").write_text(json.dumps(QUICK.to_json()))
    out = tmp_path / "out"
    arguments = [str(tmp_path / "list.csv"), "--out", str(out), "--images", "1", "--size", "128", "--config", str(tmp_path / "config.json")]
    assert main(["evaluate", *arguments, "--checkpoint", str(CHECKPOINT), "--device", "cpu", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["report", str(out)]) == 0
    said = capsys.readouterr().out
    assert said == (out / "report.md").read_text().split("## Not measured")[0].rstrip() + said[said.index("\n\n## Not measured") :]
    assert "psnr" in said and "Beside the paper" not in said
    assert main(["report", str(tmp_path)]) == 2
    assert "is it the folder of `analogist evaluate`?" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "none"), "--out", str(out)]) == 2
    assert "no such folder" in capsys.readouterr().err
