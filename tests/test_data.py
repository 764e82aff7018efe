"""The published layout and CSV lists: what is accepted, and what a broken one is told; fetching from a hub on the loopback."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analogist.cli.main import main
from analogist.experiments.evaluate.data import CATEGORIES, DataError, find_tasks, read_csv, task_inputs
from analogist.experiments.evaluate.fetch import fetch
from tests.servers.hub import COMMIT, Repository, hub_server


def make_grid(path: Path, seed: int, size: tuple[int, int] = (64, 64)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)).save(path)


def make_data(root: Path, tasks: tuple[str, ...] = ("colorization", "deblur"), files: int = 2) -> Path:
    """A small data set in the published layout; a category is there with all its tasks or not at all."""
    for folder, names in CATEGORIES.items():
        for name in names if set(names) & set(tasks) else ():
            for k in range(files):
                make_grid(root / folder / name / f"{k:03d}.png", k)
                make_grid(root / folder / f"{name}_masked" / f"{k:03d}.png", k)
            lines = "".join(f"{k:03d}.png\ta {name} {k}\tanother prompt\n" for k in range(files))
            (root / folder / f"{name}_gpt4_out.txt").write_text(lines)
    return root


@pytest.fixture
def data(tmp_path) -> Path:
    return make_data(tmp_path / "data")


LOW = "low_level_tasks_processed"


def test_the_published_layout_is_read_with_prompts_truths_and_settings(data) -> None:
    tasks = find_tasks(data)
    assert [(task.name, task.category, task.prompts) for task in tasks][1] == ("deblur", "low-level", ("a deblur 0", "a deblur 1"))
    one = task_inputs(tasks[1])[1]
    assert (one.name, one.prompt, one.group, one.strength, one.guidance) == ("deblur/001", "a deblur 1", "deblur", 0.7, 15.0)
    whole = np.asarray(Image.open(data / LOW / "deblur" / "001.png"))
    left, top, right, bottom = one.grid.with_size(64).boxes(without_border=True)["B'"]
    assert np.array_equal(np.asarray(one.truth), whole[top:bottom, left:right])
    assert len(task_inputs(tasks[0], limit=1)) == 1 and [task.name for task in find_tasks(data, ["deblur"])] == ["deblur"]


def test_truths_may_be_missing_as_a_whole(data) -> None:
    for path in (data / LOW / "deblur").iterdir():
        path.unlink()
    (data / LOW / "deblur").rmdir()
    assert task_inputs(find_tasks(data, ["deblur"])[0])[0].truth is None


def broken_missing_picture(data: Path) -> str:
    (data / LOW / "deblur_masked" / "001.png").unlink()
    return "deblur_gpt4_out.txt: 2 lines, but deblur_masked holds 1 pictures"


def broken_line_count(data: Path) -> str:
    (data / LOW / "deblur_gpt4_out.txt").write_text("000.png\ta\n001.png\tb\n002.png\tc\n")
    return "3 lines, but deblur_masked holds 2 pictures"


def broken_no_tab(data: Path) -> str:
    (data / LOW / "deblur_gpt4_out.txt").write_text("000.png\ta\n001.png b\n")
    return "line 2: no tab between a file name and a prompt"


def broken_names(data: Path) -> str:
    (data / LOW / "deblur_gpt4_out.txt").write_text("000.png\ta\n007.png\tb\n")
    return "line 2: '007.png', but the picture at this position is 001.png"


def broken_not_square(data: Path) -> str:
    make_grid(data / LOW / "deblur_masked" / "001.png", 1, (64, 48))
    return "001.png: 64 x 48 px is not a 2 x 2 grid"


def broken_not_a_picture(data: Path) -> str:
    (data / LOW / "deblur_masked" / "001.png").write_text("<html>")
    return "001.png"


def broken_truth(data: Path) -> str:
    (data / LOW / "deblur" / "001.png").unlink()
    return "1 pictures of deblur_masked are missing here, first 001"


def broken_no_prompts(data: Path) -> str:
    (data / LOW / "deblur_gpt4_out.txt").unlink()
    return "deblur_gpt4_out.txt: cannot be read"


def broken_no_task(data: Path) -> str:
    (data / LOW / "denoise_masked").rename(data / LOW / "denoise_maskd")
    return "it has no folder denoise_masked"


BROKEN = [
    broken_missing_picture, broken_line_count, broken_no_tab, broken_names, broken_not_square, broken_not_a_picture, broken_truth,
    broken_no_prompts, broken_no_task,
]  # fmt: skip


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__.removeprefix("broken_"))
def test_a_broken_data_set_is_one_line_that_names_what_is_wrong(damage, data, tmp_path, capsys) -> None:
    says = damage(data)
    with pytest.raises(DataError, match=re.escape(says)):
        [task_inputs(task) for task in find_tasks(data)]
    assert main(["data", "check", str(data)]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and says in error[0]


def test_a_folder_of_something_else_is_told_the_layout(tmp_path) -> None:
    with pytest.raises(DataError, match="not the published layout"):
        find_tasks(tmp_path)
    with pytest.raises(DataError, match="no such folder; `analogist data fetch"):
        find_tasks(tmp_path / "none")
    with pytest.raises(DataError, match="allowed are colorization"):
        find_tasks(tmp_path, ["colourization"])


def test_a_list_of_analogies_is_read_beside_its_file(tmp_path) -> None:
    for name in ("a", "ap", "b", "t"):
        make_grid(tmp_path / f"{name}.png", ord(name[0]))
    path = tmp_path / "list.csv"
    path.write_text("a,a_prime,b,b_prime,prompt,group\na.png,ap.png,b.png,t.png,a cat,cats\na.png,ap.png,t.png,,,\n")
    first, second = read_csv(path)
    assert (first.prompt, first.group, first.name) == ("a cat", "cats", "0001-b") and first.truth.size == (64, 64)
    assert second.truth is None and second.prompt == "" and first.strength is None


def test_columns_may_be_written_in_any_case(tmp_path) -> None:
    make_grid(tmp_path / "x.png", 1)
    (tmp_path / "list.csv").write_text("Name;A;A_Prime;B;PROMPT\none;x.png;x.png;x.png;a Cat\n")
    (one,) = read_csv(tmp_path / "list.csv")
    assert (one.name, one.prompt) == ("one", "a Cat")


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("one", "one"), "two inputs are named 'one'; give each its own name"),
        (("One", "one"), "the inputs 'One' and 'one' would share a file name"),  # on disks that ignore capitals
        (("one two", "one-two"), "the inputs 'one two' and 'one-two' would share a file name"),
        (("Straße", "STRASSE"), "the inputs 'Straße' and 'STRASSE' would share a file name"),
    ],
)
def test_a_list_whose_names_would_share_a_file_is_refused_and_named(names, says, tmp_path) -> None:
    make_grid(tmp_path / "x.png", 1)
    lines = [f"x.png,x.png,x.png,{name}" for name in names]
    (tmp_path / "list.csv").write_text("\n".join(["a,a_prime,b,name", *lines]))
    with pytest.raises(ValueError, match=f"list.csv: {re.escape(says)}"):
        read_csv(tmp_path / "list.csv")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\nx,y\n", "columns are missing a_prime"), ("a,a_prime,b,colour\n1,2,3,4\n", "unknown 'colour'"),
        ("a,a_prime,b\n", "no lines below"), ("a,a_prime,b\nx.png,,y.png\n", "line 2: a, a_prime and b are required"),
        ("a,a_prime,b\nx.png,y.png,z.png\n", "line 2: A"), ("a,a_prime,b\nx.png,y.png,z.png,more\n", "at most as many fields as columns"),
    ],
)  # fmt: skip
def test_a_broken_list_names_its_line(text, says, tmp_path) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=re.escape(says)):
        read_csv(tmp_path / "list.csv")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on the loopback that holds the published data set."""
    source = make_data(tmp_path / "source")
    files = {path.relative_to(source).as_posix(): path.read_bytes() for path in sorted(source.rglob("*")) if path.is_file()}
    files |= {"README.md": b"# data\n", "other/large.bin": b"x" * 1000, f"{LOW}/deblur_masked_marked/000.png": b"marked"}
    with hub_server({"picana/Analogist": Repository(files, licence="cc-by-4.0")}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        yield files, server


def test_fetching_takes_what_the_evaluation_needs_and_checks_it(hub, tmp_path) -> None:
    files, server = hub
    done = fetch(tmp_path / "data", only=["deblur"])
    assert done.revision == COMMIT and done.tasks == [("low-level deblur", 2, True)]
    expected = {name for name in files if name.startswith((f"{LOW}/deblur/", f"{LOW}/deblur_masked/", f"{LOW}/deblur_gpt4"))}
    assert set(server.fetched()) == expected | {"README.md"}
    assert all((tmp_path / "data" / name).read_bytes() == files[name] for name in expected)
    fetch(tmp_path / "data", only=["deblur"], marked=True)
    assert set(server.fetched()) == expected | {"README.md", f"{LOW}/deblur_masked_marked/000.png"}


def test_fetching_goes_on_where_it_stopped(hub, tmp_path) -> None:
    _, server = hub
    repository = server.repositories["picana/Analogist"]
    repository.lost.add(f"{LOW}/deblur/001.png")
    with pytest.raises(DataError, match="cannot be downloaded from the hub"):
        fetch(tmp_path / "data", only=["deblur"])
    before = {path.relative_to(tmp_path / "data").as_posix() for path in (tmp_path / "data" / LOW).rglob("*") if path.is_file()}
    assert before
    repository.lost.clear()
    server.requests.clear()
    fetch(tmp_path / "data", only=["deblur"])
    assert f"{LOW}/deblur/001.png" in server.fetched() and not before & set(server.fetched())


def test_the_command_says_what_it_fetched_and_names_a_wrong_revision(hub, tmp_path, capsys) -> None:
    arguments = ["data", "fetch", "--out", str(tmp_path / "data"), "--tasks", "deblur,colorization"]
    assert main(arguments) == 0
    said = capsys.readouterr().out.splitlines()
    assert COMMIT in said[0] and "cc-by-4.0" in said[0] and "low-level deblur: 2 grids" in said[2]
    again = [*arguments, "--dry-run"]
    assert main(again) == 0
    size = sum(len(body) for name, body in hub[0].items() if name == "README.md" or "colorization" in name or "deblur" in name)
    size -= len(b"marked")
    assert f"11 files, {size / 1e6:.1f} MB, 11 of them already here" in capsys.readouterr().out  # 2 x (2 grids, 2 truths, prompts), README
    assert main([*arguments, "--revision", "v9"]) == 2
    assert "picana/Analogist at v9: cannot be downloaded" in capsys.readouterr().err.strip().splitlines()[-1]
