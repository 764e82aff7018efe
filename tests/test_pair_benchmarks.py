"""LoRWeB's evaluation set and Relation252K on small folders in their published layouts, fetched from a hub on the loopback."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analogist.cli.main import main
from analogist.experiments.evaluate.benchmarks import LORWEB, RELATION252K
from analogist.experiments.evaluate.data import DataError
from analogist.experiments.evaluate.evaluation import evaluate
from analogist.experiments.evaluate.fetch import fetch, look
from analogist.experiments.evaluate.judge import Judging, judge_from
from analogist.experiments.evaluate.lorweb import read_lorweb
from analogist.experiments.evaluate.relation252k import DataWarning, read_relation252k
from analogist.experiments.execute.table import read_table
from analogist.experiments.score.metrics import METRICS, Measurer
from analogist.experiments.score.networks import load_network
from tests.experiments_small import load_model
from tests.servers.chat import chat_server
from tests.servers.hub import COMMIT, Repository, hub_server, of_folder
from tests.test_evaluation import QUICK
from tests.test_metrics import tiny_networks

ARMOUR, CROWN = "Give_this_animal_a_set_of_armor", "Add_a_crown"


def save(path: Path, colour, size: tuple[int, int] = (60, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, quality=95, subsampling=0)


@pytest.fixture
def lorweb(tmp_path) -> Path:
    """Four photos, one of another proportion; two instructions, three edits."""
    root = tmp_path / "lorweb"
    originals, edits = root / "data" / "original" / "unsplash_animals", root / "data" / "decoded_random_inference_set"
    for k, (name, size) in enumerate({"cat-1_x": (600, 400), "dog": (60, 40), "fox": (62, 42), "owl": (40, 60)}.items()):
        save(originals / f"{name}.jpg", (60 * k, 10, 10), size)
    save(edits / "db_not_in_trainset" / "animals" / ARMOUR / "cat-1_x_2.png", (0, 255, 0))
    save(edits / "db_not_in_trainset" / "animals" / ARMOUR / "dog_0.png", (0, 250, 0))
    save(edits / "community_loras" / "animals" / CROWN / "fox_1.png", (0, 0, 255))
    return root


@pytest.fixture
def relation(tmp_path) -> Path:
    """Two tasks of three pairs; the second task's group has another name."""
    root = tmp_path / "relation"
    for t, (task, group) in enumerate((("9-Disney_Style", "Group1"), ("87-Gesture_Edit", "Group2"))):
        labels = []
        for k in range(3):
            whole = Image.new("RGB", (80, 40), (10 * k, 100 * t, 0))
            whole.paste((10 * k, 100 * t, 255), (40, 0, 80, 40))
            (root / task / group).mkdir(parents=True, exist_ok=True)
            whole.save(root / task / group / f"{k}.png")
            described = {"left_image_description": "l", "right_image_description": "r"}
            labels.append({"img_name": f"{k}.png", "edit_instruction": f"edit {t} {k}", **described})
        (root / task / group / "labels.json").write_text(json.dumps(labels))
    return root


def colour(picture: Image.Image) -> tuple[int, int, int]:
    return tuple(int(round(one)) for one in np.asarray(picture, float)[5:-5, 5:-5].reshape(-1, 3).mean(0))


# --- LoRWeB -------------------------------------------------------------------------------------------------------------------


def test_triplets_are_an_original_its_edit_and_another_photo_of_nearly_its_shape(lorweb) -> None:
    found = read_lorweb(lorweb)
    assert [(one.group, one.prompt) for one in found] == [("animals/Add_a_crown", "Add a crown")] * 2 + [
        (f"animals/{ARMOUR}", "Give this animal a set of armor")
    ] * 4
    reds = {name: 60 * k for k, name in enumerate(("cat-1_x", "dog", "fox", "owl"))}
    for one, (a, edit, b_any) in zip(
        found, [("fox", (0, 0, 255), ("cat-1_x", "dog"))] * 2 + [("cat-1_x", (0, 255, 0), ("dog", "fox"))] * 2
        + [("dog", (0, 250, 0), ("cat-1_x", "fox"))] * 2, strict=True,
    ):  # fmt: skip
        cells = {name: colour(cell) for name, cell in one.grid.with_size(128).cells(without_border=True).items()}
        assert abs(cells["A"][0] - reds[a]) <= 2 and cells["A'"] == edit and one.truth is None
        assert any(abs(cells["B"][0] - reds[b]) <= 2 for b in b_any)  # never the upright owl
    of_cat = [colour(one.grid.with_size(128).cells(without_border=True)["B"]) for one in found[2:4]]
    assert of_cat[0] != of_cat[1] and len({one.name for one in found}) == 6


def test_the_same_photos_b_are_drawn_in_every_run_and_from_any_folder(lorweb, tmp_path) -> None:
    shutil.copytree(lorweb / "data", tmp_path / "elsewhere")
    first, again = read_lorweb(lorweb), read_lorweb(tmp_path / "elsewhere")
    for one, other in zip(first, again, strict=True):
        assert one.name == other.name and one.grid.image.tobytes() == other.grid.image.tobytes()


def test_every_picture_of_relation252k_is_read_once(relation, monkeypatch) -> None:
    from analogist.experiments.evaluate import relation252k

    read, reader = [], relation252k.read_picture
    monkeypatch.setattr(relation252k, "read_picture", lambda path, what: (read.append(path), reader(path, what))[1])
    assert len(read_relation252k(relation)) == 6
    assert len(read) == len(set(read)) == 6  # two tasks of three pairs; each pair is an example once and an answer once


def test_b_is_cropped_to_a_and_large_photos_are_made_smaller(lorweb) -> None:
    found = read_lorweb(lorweb, size=100)
    for one in found:
        a, b = one.grid._pictures[0].size, one.grid._pictures[2].size
        assert max(*a, *b) <= 100 and abs(a[0] / a[1] - b[0] / b[1]) < 0.03


def test_groups_and_instructions_are_tasks(lorweb) -> None:
    assert {one.group for one in read_lorweb(lorweb, tasks=[CROWN])} == {f"animals/{CROWN}"}
    assert len(read_lorweb(lorweb, tasks=["animals"], limit=1)) == 2
    with pytest.raises(DataError, match="this folder has animals, Add_a_crown"):
        read_lorweb(lorweb, tasks=["persons"])


ORIGINALS, EDITS = Path("data/original"), Path("data/decoded_random_inference_set")
BROKEN_LORWEB = {
    "no originals": (lambda root: shutil.rmtree(root / ORIGINALS), "original: no such folder; the original photos (Unsplash) belong there"),
    "no edits": (lambda root: shutil.rmtree(root / EDITS), "not the layout of LoRWeB's evaluation set; expected data/decoded_random"),
    "no group": (
        lambda root: (root / ORIGINALS / "unsplash_animals").rename(root / ORIGINALS / "beasts"), "no folder of the group animals",
    ),
    "two groups": (lambda root: (root / ORIGINALS / "my_animals").mkdir(), "several folders (my_animals, unsplash_animals) of the group"),
    "no original of an edit": (
        lambda root: (root / ORIGINALS / "unsplash_animals" / "fox.jpg").unlink(), "fox_1.png: no original fox among the photos of animals",
    ),
    "an edit without number": (
        lambda root: (root / EDITS / "community_loras/animals" / CROWN / "fox_1.png").rename(
            root / EDITS / "community_loras/animals" / CROWN / "fox.png"
        ),
        "fox.png: no original fox among the photos of animals; expected <photo>_<k>.png",
    ),
    "an empty instruction": (lambda root: (root / EDITS / "community_loras/animals/Empty").mkdir(), "Empty: it holds no picture"),
    "no picture": (
        lambda root: (root / EDITS / "community_loras/animals" / CROWN / "fox_1.png").write_text("<html>"), "fox_1.png",
    ),
    "an original that is none": (
        lambda root: (root / ORIGINALS / "unsplash_animals" / "owl.jpg").write_text("<html>"), "owl.jpg: not a picture",
    ),
    "no other photo": (
        lambda root: [(root / ORIGINALS / "unsplash_animals" / f"{name}.jpg").unlink() for name in ("dog", "owl", "cat-1_x")],
        "1 photos; a triplet needs another photo as B",
    ),
    "no other shape": (
        lambda root: save(root / ORIGINALS / "unsplash_animals" / "fox.jpg", "red", (200, 40)),
        "fox.jpg: no other photo of animals has its aspect ratio (5.00, up to 0.15 apart) to be B",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage, says", BROKEN_LORWEB.values(), ids=BROKEN_LORWEB)
def test_a_broken_lorweb_folder_is_one_line_that_names_what_is_wrong(damage, says, lorweb, capsys) -> None:
    damage(lorweb)
    with pytest.raises(DataError, match=re.escape(says)):
        read_lorweb(lorweb)
    assert main(["data", "check", str(lorweb), "--benchmark", "lorweb"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert says in line


# --- Relation252K -------------------------------------------------------------------------------------------------------------


def test_an_analogy_is_two_pairs_of_one_task_in_turn(relation) -> None:
    found = read_relation252k(relation)
    assert [one.group for one in found] == ["87-Gesture_Edit"] * 3 + ["9-Disney_Style"] * 3
    for one, (t, k) in zip(found, [(t, k) for t in (1, 0) for k in range(3)], strict=True):
        after = (k + 1) % 3
        cells = {name: colour(cell) for name, cell in one.grid.with_size(128).cells(without_border=True).items()}
        assert (cells["A"], cells["A'"]) == ((10 * k, 100 * t, 0), (10 * k, 100 * t, 255))
        assert (cells["B"], colour(one.truth)) == ((10 * after, 100 * t, 0), (10 * after, 100 * t, 255))
        assert one.prompt == f"edit {t} {after}"


def test_at_most_thirty_of_a_task_unless_told_otherwise(relation, tmp_path) -> None:
    place = relation / "9-Disney_Style" / "Group1"
    labels = []
    for k in range(34):
        save(place / f"n{k}.png", (k, k, k), (40, 20))
        labels.append({"img_name": f"n{k}.png", "edit_instruction": "x"})
    (place / "labels.json").write_text(json.dumps(labels))
    assert len(read_relation252k(relation, tasks=["9-Disney_Style"])) == 30
    assert len(read_relation252k(relation, limit=2)) == 4
    assert read_relation252k(relation, tasks=["9-Disney_Style"], limit=34)[33].truth is not None
    assert {max(one.truth.size) for one in read_relation252k(relation, size=32, limit=1)} == {16}


def test_a_missing_picture_is_left_out_and_said(relation) -> None:
    (relation / "9-Disney_Style" / "Group1" / "1.png").unlink()
    with pytest.warns(DataWarning, match="1 of 3 pictures of labels.json are missing, first 1.png; they are left out"):
        assert len(read_relation252k(relation, tasks=["9-Disney_Style"])) == 2


def written(text: str):
    return lambda root: (root / "9-Disney_Style" / "Group1" / "labels.json").write_text(text)


BROKEN_RELATION = {
    "no labels": (lambda root: (root / "9-Disney_Style" / "Group1" / "labels.json").unlink(), "labels.json: no such file; every task"),
    "no JSON": (written("[{"), "labels.json: not JSON"),
    "no list": (written("{}"), "expected a list of objects with img_name, edit_instruction"),
    "no name": (written('[{"edit_instruction": "x"}]'), "entry 0 has no img_name"),
    "no text": (written('[{"img_name": "0.png", "edit_instruction": 3}]'), "entry 0 has no edit_instruction"),
    "no object": (written("[3]"), "entry 0 has no img_name and no edit_instruction"),
    "twice": (written(json.dumps([{"img_name": "0.png", "edit_instruction": "x"}] * 2)), "entry 1: img_name '0.png' is listed twice"),
    "elsewhere": (
        written('[{"img_name": "../x.png", "edit_instruction": "x"}]'), "entry 0: img_name '../x.png' is not the name of a file beside it",
    ),
    "one pair": (written('[{"img_name": "0.png", "edit_instruction": "x"}]'), "1 pairs; an analogy takes two"),
    "no pair of pictures": (
        lambda root: save(root / "9-Disney_Style" / "Group1" / "0.png", "red", (1, 4)), "0.png: 1 x 4 px cannot hold two pictures",
    ),
    "no picture": (lambda root: (root / "9-Disney_Style" / "Group1" / "0.png").write_text("<html>"), "0.png"),
    "nothing": (lambda root: [shutil.rmtree(path) for path in root.iterdir()], "not the layout of Relation252K; expected <task>/Group1/"),
}  # fmt: skip


@pytest.mark.parametrize("damage, says", BROKEN_RELATION.values(), ids=BROKEN_RELATION)
def test_a_broken_relation_folder_is_one_line_that_names_what_is_wrong(damage, says, relation, capsys) -> None:
    damage(relation)
    with pytest.raises(DataError, match=re.escape(says)):
        read_relation252k(relation)
    assert main(["data", "check", str(relation), "--benchmark", "relation252k"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert says in line


def test_no_folder_and_unknown_tasks_say_what_to_do(relation, tmp_path) -> None:
    for read, name in ((read_lorweb, "lorweb"), (read_relation252k, "relation252k")):
        with pytest.raises(DataError, match=f"no such folder; `analogist data fetch {name}"):
            read(tmp_path / "none")
    with pytest.raises(DataError, match="this folder has 87-Gesture_Edit, 9-Disney_Style"):
        read_relation252k(relation, tasks=["Disney"])


# --- from the hub, and through the whole protocol -------------------------------------------------------------------------------


def test_both_are_fetched_from_a_hub_in_their_published_layout(lorweb, relation, tmp_path, monkeypatch, capsys) -> None:
    unneeded = {"video.mp4": b"x", "data/original/list.txt": b"y", "9-Disney_Style/notes.txt": b"z", "README.md": b"# about"}
    repositories = {
        "hilamanor/LoRWeB_evalset": Repository(of_folder(lorweb) | unneeded, licence="other"),
        "handsomeWilliam/Relation252K": Repository(of_folder(relation) | unneeded),
    }
    with hub_server(repositories) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.chdir(tmp_path)
        assert main(["data", "fetch", "lorweb", "--quiet"]) == 0
        assert f"lorweb: hilamanor/LoRWeB_evalset at {COMMIT}, licence other: 8 files" in capsys.readouterr().out
        assert [one.name for one in read_lorweb("data/lorweb")] == [one.name for one in read_lorweb(lorweb)]
        done = fetch(tmp_path / "r", name="relation252k", only=["9-Disney_Style"])
        assert done.tasks == [("9-Disney_Style", 1, True)] and not (tmp_path / "r" / "87-Gesture_Edit").exists()
        assert "licence not stated in the repository" in look("relation252k").describe("relation252k", tmp_path)
        assert not {"video.mp4", "data/original/list.txt", "9-Disney_Style/notes.txt"} & set(server.fetched())
        repositories["hilamanor/LoRWeB_evalset"].files = {"data.zip": b"packed"}
        with pytest.raises(DataError, match="no files in the layout data/decoded_random_inference_set.*; it has data.zip"):
            look("lorweb")


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return load_network("clip", str(tiny_networks(tmp_path_factory.mktemp("networks")) / "clip"))


def answer(accuracy: int, preservation: int) -> str:
    return json.dumps({"accuracy": accuracy, "consistency": preservation})


def test_lorweb_has_its_published_rows_beside_ours(lorweb, model, clip, tmp_path) -> None:
    with chat_server(answer(2, 9)) as server:
        judging = Judging((judge_from(f"seeing@{server.url}", 0, retries=0),), LORWEB.scale)
        done = evaluate(
            lorweb, tmp_path / "out", model=model, clip=clip, benchmark="lorweb", config=QUICK, tasks=[CROWN], judging=judging,
            progress=False,
        )  # fmt: skip
        assert server.asked == 2
    text = done.report
    assert "| LoRWeB | 7.870 | 5.940 | 0.310 | 0.210 |" in text and "| EditTransfer | 7.380 | 4.790 | 0.310 | 0.040 |" in text
    direction = np.mean([row["value"] for row in read_table(done.folder) if row["metric"] == "clip_direction_normalised"])
    assert f"| 9.000 | 2.000 | not measured | {direction:.3f} |" in text  # no torchvision here: LPIPS says so
    assert "lpips_to_b was not measured" in text and "published Gemma 3" in text and "inputs: here 2 of 1 tasks" in text


def test_relation252k_has_its_published_rows_beside_ours(relation, model, clip, tmp_path) -> None:
    with chat_server(answer(4, 3)) as server:
        judging = Judging((judge_from(f"seeing@{server.url}", 0, retries=0),), RELATION252K.scale)
        done = evaluate(
            relation, tmp_path / "out", model=model, clip=clip, benchmark="relation252k", config=QUICK, limit=1, judging=judging,
            progress=False,
        )  # fmt: skip
        assert "from 1 (worst) to 5 (best)" in server.question()
    values = {
        metric: np.mean([row["value"] for row in read_table(done.folder) if row["metric"] == metric]) for metric in ("mse", "clip_distance")
    }
    assert f"| {values['mse']:.3f} | {1 - values['clip_distance']:.3f} | 3.000 | 4.000 |" in done.report
    assert "| RelationAdapter, EditTransfer's tasks | 0.020 | 0.905 | 4.437 | 4.429 |" in done.report
    copied = re.search(r"\| copy of A' \| (\d\.\d+) \|", done.report)
    # A' has B's colours of the pair before: red is 10 levels off, or 20 after the last; here of the first pair of each task 10.
    assert float(copied[1]) == pytest.approx((10 / 255) ** 2 / 3, abs=2e-3)


def test_lpips_to_b_is_measured_against_b_and_says_when_its_weights_are_lost(monkeypatch, relation) -> None:
    from analogist.experiments.score.metrics import Painted

    one = read_relation252k(relation)[0]
    grid = one.grid.with_size(128)
    asked = []

    def net(ours, other):
        asked.append(colour(Image.fromarray((other[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8))))
        raise OSError("no route to host")

    measurer = Measurer(["lpips_to_b", "lpips", "mse_to_b"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    measurer._lpips = net
    painted = Painted(grid.cells()["B"], grid, one.truth)
    first, again = measurer.measure(painted), measurer.measure(painted)
    b = colour(grid.cells(without_border=True)["B"])
    assert asked == [b] and first == again  # asked once
    assert first["lpips_to_b"] == first["lpips"] == "its weights cannot be had (no route to host)" and isinstance(first["mse_to_b"], float)
    assert METRICS["lpips_to_b"].needs == ("torchmetrics", "lpips")
