"""Activations as data: what is written is what captures hold, a killed collection ends with the same bytes, and memory stays bounded."""

import copy
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from analogist import Analogist, study
from analogist.attention.capture.capture import Capture
from analogist.attention.capture.maps import AttentionMap
from analogist.attention.collect.collect import collect
from analogist.attention.collect.rows import COLUMNS, region_name, region_number, rows_of
from analogist.attention.collect.shards import OtherCollection
from analogist.attention.edit import edits
from analogist.grid import PromptGrid
from analogist.models.placement import Site
from analogist.models.unet import UNet
from tests.pictures import random_grid, random_picture
from tests.study_runs import inputs as small_inputs
from tests.study_runs import sample, shape

CHECKPOINT = Path(__file__).parent / "parity" / "checkpoint"
NAMES = ["up.1.attn.2.ff:hidden", "up.1.res.0.block:time", "up.1.attn.2.cross:k", "up.1.attn.2.self:head_out", "conv_in:out"]


class Runs:
    """Stands for a model: three small UNet steps that depend on the grid, the seed and the prompt. calls: how many there were."""

    def __init__(self, unet: UNet, *, rows: int = 2, hw=(16, 16), images: int = 2, steps: int = 2) -> None:
        self.unet, self.shape, self.calls = unet, shape(rows=rows, hw=hw, images=images, steps=steps), 0

    def describe(self) -> dict:
        return {"name": "small"}

    def __call__(self, grid, prompt="", *, seed=0, capture=None):
        self.calls += 1
        look = int(np.asarray(grid.at_size(32).image).sum()) % 1000
        x, text = small_inputs(self.unet, self.shape, 7 * seed + look + len(prompt))
        tap = sample(self.unet, self.shape, capture, x=x, text=text, sac=None, cam=None)[1]
        return tap


def grid(shade: int) -> PromptGrid:
    return PromptGrid(*[np.full((16, 16, 3), min(255, shade + part), np.uint8) for part in range(3)])


def examples(count: int) -> list[dict]:
    return [{"name": f"one {i}", "grid": grid(40 * i), "prompt": "a" * i, "about": {"shade": "dark" if i % 2 else "light"}}
            for i in range(count)]  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def folder(tiny_unet, tmp_path_factory):
    out = tmp_path_factory.mktemp("collected") / "all"
    collect(Runs(tiny_unet), examples(5), NAMES, out=out, seeds=2, steps=[0, 1], branches="text", shard_bytes=400_000, progress=False)
    return out


def test_rows_are_what_a_capture_holds_at_their_step_branch_image_and_token(tiny_unet, folder):
    data = study.load(folder)
    assert set(data) == set(NAMES) and len(data.inputs) == 10
    one = data.inputs[7]
    assert (one["name"], one["seed"], one["prompt"], one["about"]) == ("one 3", 43, "aaa", {"shade": "dark"})
    maps = Runs(tiny_unet)(grid(120), "aaa", seed=43, capture=Capture(*NAMES)).maps
    for name in NAMES:
        rows, m = data[name], maps[name]
        chosen = rows.select(input=7)
        assert np.unique(chosen.index["seed"]).tolist() == [43, 44] and set(chosen.index["branch"]) == {"text"}
        values = chosen.tensor()
        for i in np.linspace(0, len(chosen) - 1, 25).astype(int):
            at = {key: column[i] for key, column in chosen.index.items()}
            part = m.tensor[int(at["step"]), 1, int(at["seed"]) - 43]
            assert m.times[int(at["step"])] == at["t"]
            token = int(at["token"])
            if name.endswith(":time"):
                expected = part
                assert (token, at["region"]) == (-1, "")
            elif name.startswith("conv_in"):
                row, column = divmod(token, 16)
                expected = part[:, row, column]
                assert at["region"] == "AB"[row >= 8] + ("'" if column >= 8 else "")
            elif name.endswith("cross:k"):
                expected = part[:, token]
                assert at["region"] == ""
            else:
                expected = part[token] if "ff" in name else part[:, token]
                assert at["region"] == "AB"[token // 4 >= 2] + ("'" if token % 4 >= 2 else "")
            assert torch.equal(values[i], expected), (name, at)


def test_rows_of_text_columns_say_each_branchs_own_column(tiny_unet):
    """cat is column 1 of the negative prompt "cat bad" and column 2 of "a cat a hat"."""
    name = "up.1.attn.2.cross:k"
    whole, m = (sample(tiny_unet, shape(), one)[1].maps[name] for one in (name, Capture(name, words="cat", branches=[0, 1])))
    rows = rows_of(m, 0, 5)
    assert len(rows.index) == 3 * 2 * 2  # step branch image, one column each
    for values, entry in zip(rows.values, rows.index.tolist(), strict=True):
        at = dict(zip(COLUMNS, entry, strict=True))
        assert at["token"] == (1, 2)[at["branch"]]
        expected = whole.tensor[at["step"], at["branch"], at["seed"] - 5].select(whole.axes.index("key") - 3, at["token"])
        assert torch.equal(values, expected)


def test_every_row_is_there_once_and_rows_can_be_chosen_by_what_the_index_says(folder):
    rows = study.load(folder)[NAMES[0]]
    assert rows.shape == (5 * 2 * 2 * 2 * 16, *rows.values_shape) and rows.axes == ("channel",)
    keys = np.stack([rows.index[name].astype(str) for name in ("input", "seed", "step", "branch", "token")], axis=1)
    assert len(np.unique(keys, axis=0)) == len(rows)
    part = rows.select(region=["B'", "A"], step=1)
    assert len(part) == len(rows) // 4 and set(part.index["region"]) == {"A", "B'"} and set(part.index["step"]) == {1}
    mask = (rows.index["step"] == 1) & np.isin(rows.index["region"], ["A", "B'"])
    assert torch.equal(part.tensor(), rows.tensor()[torch.from_numpy(mask)])
    assert torch.equal(rows[np.array([300, 2, 150])].tensor(), rows.tensor()[torch.tensor([300, 2, 150])])
    assert part.about("shade").tolist() == [["light", "dark"][int(number) // 2 % 2] for number in part.index["input"]]
    with pytest.raises(ValueError, match=r"region \[\"C\"\]|region \['C'\]"):
        rows.select(region="C")
    with pytest.raises(ValueError, match="has no 'colour'; it has shade"):
        rows.about("colour")
    with pytest.raises(ValueError, match="no activations of 'mid.0.attn.0.ff:x' were collected"):
        study.load(folder)["mid.0.attn.0.ff:x"]


@pytest.mark.parametrize("shuffle", [None, 3])
def test_batches_go_through_every_row_once(folder, shuffle):
    rows = study.load(folder)[NAMES[0]].select(step=1)
    batches = list(rows.batches(70, shuffle=shuffle))
    assert [len(values) for values, _ in batches[:-1]] == [70] * (len(rows) // 70)
    for values, chosen in batches:
        assert torch.equal(values, chosen.tensor())
    order = np.concatenate([chosen.kept for _, chosen in batches])
    assert sorted(order) == rows.kept.tolist() and (order.tolist() == rows.kept.tolist()) == (shuffle is None)


def test_there_are_several_shards_and_the_index_says_what_is_in_them(folder):
    lists = [json.loads(path.read_text()) for path in sorted(folder.glob("0*.json"))]
    assert len(lists) > 2 and sum(len(one["inputs"]) for one in lists) == 10 and not any(one["last"] for one in lists[:-1])
    assert json.loads((folder / "index.json").read_text())["columns"] == ["input", "seed", "step", "t", "branch", "token", "region"]


COLLECTING = """
import os, sys, signal
from analogist.attention.collect import shards
from analogist.attention.collect.collect import collect
from tests.small import small_unet
from tests.test_collect import NAMES, Runs, examples
stop, write = int(sys.argv[2]), shards.atomic_write

def writing(path, content):
    if path.suffix == ".safetensors" and int(path.stem) == stop:
        path.with_name(".half.tmp").write_bytes(content[:100])  # what a killed writer leaves behind
        os.kill(os.getpid(), signal.SIGKILL)
    return write(path, content)

shards.atomic_write = writing
settings = dict(seeds=2, steps=[0, 1], branches="text", shard_bytes=400_000, progress=False)
collect(Runs(small_unet()), examples(5), NAMES, out=sys.argv[1], **settings)
"""
ROOT = Path(__file__).parent.parent
ALIKE = {**os.environ, "PYTHONPATH": ".", "OMP_NUM_THREADS": str(torch.get_num_threads())}  # other numbers of threads may round otherwise


def test_a_collection_killed_and_restarted_has_the_same_bytes_and_repeats_no_complete_shard(tiny_unet, folder, tmp_path):
    out = tmp_path / "killed"
    killed = subprocess.run([sys.executable, "-c", COLLECTING, str(out), "2"], cwd=ROOT, env=ALIKE)
    assert killed.returncode == -signal.SIGKILL
    before = files(out)
    assert "00001.json" in before and "00002.json" not in before
    run, kept = Runs(tiny_unet), sum(len(json.loads(before[f"0000{i}.json"])["inputs"]) for i in range(2))
    collect(run, examples(5), NAMES, out=out, seeds=2, steps=[0, 1], branches="text", shard_bytes=400_000, progress=False)
    assert run.calls == 10 - kept
    (out / ".half.tmp").unlink()
    assert files(out) == files(folder)


def test_more_inputs_go_on_behind_those_that_are_there_as_if_all_had_come_at_once(tiny_unet, folder, tmp_path):
    settings = {"out": tmp_path / "more", "seeds": 2, "steps": [0, 1], "branches": "text", "shard_bytes": 400_000, "progress": False}
    run = Runs(tiny_unet)
    collect(run, examples(3), NAMES, **settings)
    collect(run, iter(examples(5)), NAMES, **settings)
    assert files(tmp_path / "more") == files(folder) and run.calls < 20
    calls = run.calls
    collect(run, examples(5), NAMES, **settings)
    assert run.calls == calls and files(tmp_path / "more") == files(folder)


@pytest.mark.parametrize("change, why", [
    ({"selectors": ["conv_in:out"]}, "other selectors"), ({"steps": [0]}, "other steps"), ({"t": 5}, "other call"),
    ({"inputs": [{"name": "one 0", "grid": grid(1), "prompt": ""}]}, r"run 0 \(one 0, seed 42\) is different now"),
    ({"inputs": examples(1)}, r"run 2 \(one 1, seed 42\) is missing now"),
])  # fmt: skip
def test_a_folder_of_another_collection_is_refused_and_left_as_it_is(tiny_unet, folder, change, why):
    before = files(folder)
    call = {"inputs": examples(5), "selectors": NAMES, "steps": [0, 1], **change}
    given, selectors = call.pop("inputs"), call.pop("selectors")
    with pytest.raises(OtherCollection, match=why):
        collect(Runs(tiny_unet), given, selectors, out=folder, seeds=2, branches="text", shard_bytes=400_000, progress=False, **call)
    assert files(folder) == before


def test_a_folder_with_other_files_and_inputs_without_a_grid_are_refused(tiny_unet, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OtherCollection, match="is not empty and holds no collection"):
        collect(Runs(tiny_unet), examples(1), NAMES, out=tmp_path, progress=False)
    with pytest.raises(ValueError, match="input 1: .* has no grid"):
        collect(Runs(tiny_unet), [grid(1), "a cat"], NAMES[:1], out=tmp_path / "a", progress=False)
    with pytest.raises(ValueError, match="about= must be JSON-ready"):
        collect(Runs(tiny_unet), [{"grid": grid(1), "about": {1j}}], NAMES[:1], out=tmp_path / "b", progress=False)
    with pytest.raises(ValueError, match="holds no collection"):
        study.load(tmp_path)


def test_wide_grids_of_several_pairs_have_rows_in_the_regions_of_each_pair(tiny_unet, tmp_path):
    run = Runs(tiny_unet, rows=3, hw=(24, 32), images=1, steps=1)
    data = study.collect(run, [(grid(0), "a")], ["conv_in:out", "9.self:probs"], out=tmp_path / "k", query=["A2'", "B'"], progress=False)
    rows = data["up.1.attn.2.self:probs"]  # 6 x 8 tokens
    assert rows.axes == ("head", "key") and rows.values_shape == (4, 48)
    assert sorted(set(rows.index["region"])) == ["A2'", "B'"]
    assert set(rows.select(region="A2'").index["token"]) == {2 * 8 + 4 + x + 8 * y for x in range(4) for y in range(2)}
    names = ["A", "A'", "B", "B'", "A1", "A1'", "A2", "A2'", "A12'"]
    assert [region_name(region_number(name)) for name in names] == names and len({region_number(name) for name in names}) == len(names)


def test_a_function_that_names_no_progress_gets_none_and_one_that_does_is_quiet(tiny_unet, tmp_path):
    run, seen = Runs(tiny_unet, images=1, steps=1), []

    def any_arguments(grid, **call):
        seen.append(call.pop("progress", "none"))
        return run(grid, **call)

    def named(grid, progress=True, **call):
        return any_arguments(grid, progress=progress, **call)

    for number, model in enumerate((any_arguments, named)):
        collect(model, [grid(0)], "conv_in:out", out=tmp_path / str(number), progress=False)
    assert seen == ["none", False]


def test_a_partial_model_is_told_from_another_and_its_own_arguments_go_on(tiny_unet, tmp_path):
    run = Runs(tiny_unet, images=1, steps=1)
    collect(functools.partial(run, prompt="aa"), [grid(0)], "conv_in:out", out=tmp_path / "p", progress=False)
    with pytest.raises(OtherCollection, match="other model"):
        collect(functools.partial(run, prompt="ab"), [grid(0)], "conv_in:out", out=tmp_path / "p", progress=False)


@pytest.fixture(scope="module")
def model() -> Analogist:
    return Analogist.from_checkpoint(CHECKPOINT, device="cpu")


@pytest.fixture(scope="module")
def called(model):
    """Collects one call of the model on one grid; further arguments change something."""

    def collecting(out, model=model, given=None, **call):
        picture = np.full((16, 16, 3), 200, np.uint8)
        call = {"b_prime": picture, "t": 500, **call}
        return collect(model.at, [(given or random_grid(), "a cat")], "mid.0.attn.0.self:out", out=out, progress=False, **call)

    return collecting


@pytest.fixture(scope="module")
def once(called, tmp_path_factory):
    out = tmp_path_factory.mktemp("called") / "once"
    called(out)
    return out


CHANGES = {
    "model.of.config.sac": lambda model: {"config": model.config.replace(sac=None)},
    "model.of.negative_prompt": lambda model: {"negative_prompt": "dull"},
    "model.of.prompt_suffix": lambda model: {"prompt_suffix": ""},
    "model.of.size": lambda model: {"size": 256},
    "model.of.dtype": lambda model: {"dtype": torch.bfloat16},
}


@pytest.mark.parametrize("differs", CHANGES)
def test_a_folder_is_not_continued_by_a_model_whose_calls_have_other_defaults(model, called, once, differs):
    before, changed = files(once), copy.copy(model)
    vars(changed).update(CHANGES[differs](model))
    with pytest.raises(OtherCollection, match=f"holds a collection with other {re.escape(differs)};"):
        called(once, changed)
    assert files(once) == before


@pytest.mark.parametrize("drawing", [{"aligned": "a-b"}, {"drawn": (32, 32)}])
def test_grids_of_one_picture_that_are_read_in_another_way_are_other_inputs(called, once, tmp_path, drawing):
    """The rows of a new folder show that it matters."""
    of, folder = functools.partial(PromptGrid.from_image, random_grid().image, 128), tmp_path / "ready"
    one = called(folder, given=of())["mid.0.attn.0.self:out"]
    other = of(**drawing)
    assert other.image.tobytes() == of().image.tobytes()
    with pytest.raises(OtherCollection, match=r"run 0 \(0, seed 42\) is different now \(other grid\)"):
        called(folder, given=other)
    rows = called(tmp_path / "other", given=other)["mid.0.attn.0.self:out"]
    assert float((rows.tensor() - one.tensor()).abs().max()) > 1e-3


def test_edits_are_told_apart_by_the_tensors_that_they_hold(model, called, tmp_path):
    name = "up.1.attn.2.self:out"
    maps = [model.at(random_grid(), prompt, b_prime=random_picture(3), capture=name).maps[name] for prompt in ("a", "b c")]
    for number, (one, other) in enumerate([[edits.add(torch.full((64,), value)) for value in (1.0, 2.0)], [edits.patch(m) for m in maps]]):
        folder = tmp_path / str(number)
        called(folder, edit={name: one})
        assert len(called(folder, edit={name: one}).inputs) == 1
        with pytest.raises(OtherCollection, match="other call.edit"):
            called(folder, edit={name: other})


def test_a_folder_of_the_earlier_format_can_be_loaded_and_is_not_continued(called, once, tmp_path):
    earlier = tmp_path / "earlier"
    shutil.copytree(once, earlier)
    head = json.loads((earlier / "index.json").read_text())
    (earlier / "index.json").write_text(json.dumps({**head, "format": "analogist activations 1"}))
    before = files(earlier)
    with pytest.raises(OtherCollection, match="written by an earlier version, .* cannot be continued"):
        called(earlier)
    assert files(earlier) == before and len(study.load(earlier)["mid.0.attn.0.self:out"]) == len(study.load(once)["mid.0.attn.0.self:out"])


class Wide:
    """Stands for a model with 512 tokens of 4,096 channels at one point: 8 MiB a run."""

    def __call__(self, grid, *, seed, capture):
        site, axes = Site("up.3.attn.2.ff", "ff", 15, 1, 0), ("step", "branch", "image", "query", "channel")
        values = torch.full((1, 1, 1, 512, 4096), float(seed))
        coords = {"step": (0,), "branch": ("text",), "image": (0,)}
        m = AttentionMap(f"{site}:x", site, "x", values, axes, (16, 32), (128, 256), 2, coords, {0: 1})
        return SimpleNamespace(maps={m.name: m})


MEMORY = """
import resource, sys
from analogist.attention.collect.collect import collect
from tests.test_collect import Wide, grid
count = int(sys.argv[2])
collect(Wide(), (grid(i) for i in range(count)), "*.ff:x", out=sys.argv[1], shard_bytes=16 * 2**20, progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_ten_thousand_activations_of_one_site_take_hardly_more_memory_than_a_thousand(tmp_path):
    """512 rows a run: 20 runs are 10,240 rows, 160 MiB; a shard holds two of them."""
    peaks = []
    for count in (2, 20):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(tmp_path / str(count)), str(count)], cwd=ROOT, capture_output=True, text=True,
            env=ALIKE, check=True,
        )  # fmt: skip
        peaks.append(int(done.stdout.split()[-1]))
    rows = study.load(tmp_path / "20")["up.3.attn.2.ff:x"]
    assert len(rows) == 10_240 and len(rows.shards) == 10
    assert peaks[1] - peaks[0] < 40  # MiB
    assert rows.select(input=19).tensor().unique().tolist() == [42.0]
