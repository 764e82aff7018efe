"""Fetching the benchmarks' data from servers on the loopback: by revision, resumable, licence and size said before."""

from pathlib import Path

import pytest

from analogist.cli.main import main
from analogist.experiments.evaluate.benchmarks import BENCHMARKS
from analogist.experiments.evaluate.data import DataError
from analogist.experiments.evaluate.fetch import fetch, look
from analogist.experiments.evaluate.kiva import read_kiva
from analogist.experiments.evaluate.sources import SOURCES
from tests.servers.github import COMMIT, github_server
from tests.servers.hub import of_folder

KIVA = Path(__file__).parent / "kiva"
PLACE = "transformed objects/KiVA"
LICENCE = b"\nSome License\n\nall the rest\n"


@pytest.fixture
def github(monkeypatch):
    """KiVA's repository with the six real trials, and other things that no run needs."""
    trials = {name: content for name, content in of_folder(KIVA).items() if name != "LICENCE.md"}
    files = {f"{PLACE}/{name}": content for name, content in trials.items()}
    files |= {f"{PLACE}/Resize/.DS_Store": b"x", "transformed objects/stitched_KiVA/a.jpg": b"y" * 50, "LICENSE": LICENCE}
    with github_server("ey242/KiVA", files) as server:
        monkeypatch.setenv("GITHUB_API_URL", server.url)
        monkeypatch.setenv("GITHUB_RAW_URL", server.url)
        monkeypatch.delenv("GITHUB_TOKEN", raising=False)
        monkeypatch.setattr("analogist.experiments.evaluate.github._pause", lambda attempt: 0.0)
        yield server


def held(server, *starts: str) -> dict[str, bytes]:
    """What should be downloaded: the pictures and trackers, by their places in the folder."""
    names = {name.removeprefix(f"{PLACE}/"): body for name, body in server.files.items() if name.startswith(PLACE) and "DS_" not in name}
    return {name: body for name, body in names.items() if not starts or any(start in name for start in starts)}


def test_kiva_comes_with_its_trackers_and_nothing_else_and_is_read(github, tmp_path) -> None:
    said = []
    done = fetch(tmp_path / "kiva", name="kiva", say=said.append)
    wanted = held(github)
    assert of_folder(tmp_path / "kiva") == wanted and done.revision == COMMIT
    assert [one.name for one in read_kiva(done.folder)] == [one.name for one in read_kiva(KIVA)]
    assert ("Resize/Resize2XY", 1, True) in done.tasks  # the layout is tried on one trial of each
    size = sum(map(len, wanted.values())) / 1e6
    assert said == [f"kiva: ey242/KiVA at {COMMIT}, licence Some License: 35 files, {size:.1f} MB; into {tmp_path / 'kiva'}"]


def test_licence_and_size_are_said_before_the_first_file_and_without_any(github, tmp_path, capsys) -> None:
    assert main(["data", "fetch", "kiva", "--out", str(tmp_path / "kiva"), "--dry-run"]) == 0
    assert "licence Some License: 35 files" in capsys.readouterr().out and not (tmp_path / "kiva").exists()
    assert github.raw() == ["LICENSE"]
    fetch(tmp_path / "kiva", name="kiva", say=lambda line: github.requests.append((f"/{COMMIT}/said", False)))
    assert github.raw()[1:3] == ["LICENSE", "said"]


def test_tasks_and_domains_are_fetched_alone(github, tmp_path) -> None:
    fetch(tmp_path / "kiva", name="kiva", only=["ReflectX", "Counting"])
    assert of_folder(tmp_path / "kiva") == held(github, "ReflectX", "Counting")
    with pytest.raises(DataError, match="no files of the tasks Reflex in the layout"):
        look("kiva", only=["Reflex"])


def test_a_stopped_download_goes_on_with_what_is_missing(github, tmp_path, capsys) -> None:
    lost = f"{PLACE}/Reflect/ReflectX_0_test_0_input.png"
    github.fails[lost] = [404]
    arguments = ["data", "fetch", "kiva", "--out", str(tmp_path / "kiva"), "--quiet"]
    assert main(arguments) == 2
    assert "ReflectX_0_test_0_input.png cannot be downloaded" in capsys.readouterr().err
    before = set(of_folder(tmp_path / "kiva"))
    github.requests.clear()
    assert main(arguments) == 0
    assert {name.removeprefix(f"{PLACE}/") for name in github.raw()} - {"LICENSE"} == set(held(github)) - before
    assert f"{len(before)} of them already here" in capsys.readouterr().out
    (tmp_path / "kiva" / "Reflect" / "ReflectX_0_test_0_input.png").write_bytes(b"cut")
    assert main(arguments) == 0
    assert of_folder(tmp_path / "kiva") == held(github)


def test_a_busy_server_is_asked_again_and_wrong_content_is_refused(github, tmp_path) -> None:
    name = f"{PLACE}/Reflect/ReflectX_0_test_0_input.png"
    github.fails[name] = [503, 429]
    fetch(tmp_path / "kiva", name="kiva", only=["ReflectX"])
    assert github.raw().count(name) == 3
    github.wrong.add(name)
    with pytest.raises(DataError, match="its content is not what the commit says"):
        fetch(tmp_path / "other", name="kiva", only=["ReflectX"])
    assert not (tmp_path / "other" / "Reflect" / "ReflectX_0_test_0_input.png").exists()


def test_the_place_in_the_newer_repository_is_found(github, tmp_path) -> None:
    github.files = {name.replace("transformed objects", "stimuli"): body for name, body in github.files.items()}
    assert look("kiva", revision=COMMIT).inside == "stimuli/KiVA"


def test_what_github_refuses_is_one_line_with_a_way_out(github, tmp_path, capsys, monkeypatch) -> None:
    with pytest.raises(DataError, match=r"ey242/KiVA/commits/v9: cannot be listed \(422: no such revision\)"):
        look("kiva", revision="v9")
    monkeypatch.setenv("GITHUB_TOKEN", "ghp_secret")
    github.truncated = True
    with pytest.raises(DataError, match="GitHub lists only a part of transformed objects/KiVA"):
        look("kiva")
    assert {token for path, token in github.requests if path.startswith("/repos")} == {False, True}  # once without, then with
    github.limited = True
    assert main(["data", "fetch", "kiva", "--out", str(tmp_path / "kiva")]) == 2
    line = capsys.readouterr().err
    assert "set GITHUB_TOKEN" in line and "ghp_secret" not in line and len(line.strip().splitlines()) == 1
    github.limited, github.truncated, github.files = False, False, {"README.md": b"#"}
    with pytest.raises(DataError, match="it has none of the folders transformed objects/KiVA, stimuli/KiVA"):
        look("kiva")
    monkeypatch.setenv("GITHUB_API_URL", "http://127.0.0.1:9")
    with pytest.raises(DataError, match="GITHUB_API_URL selects another address"):
        look("kiva")


def test_the_token_goes_to_the_api_alone(github, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "ghp_secret")
    fetch(tmp_path / "kiva", name="kiva", only=["ReflectX"])
    assert all(token == path.startswith("/repos/") for path, token in github.requests)


def test_every_benchmark_has_a_source_and_the_list_says_what_was_tried(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "kiva").mkdir(parents=True)
    assert list(SOURCES) == list(BENCHMARKS)
    assert main(["data", "list"]) == 0
    said = capsys.readouterr().out
    for name, one in BENCHMARKS.items():
        assert f"{name}: {one.what}" in said and SOURCES[name].repository in said and f"reader: {one.met}" in said
    assert said.count("; here in data/kiva") == 1
    with pytest.raises(DataError, match="benchmark 'nothing': allowed are analogist, kiva"):
        look("nothing")


def test_a_folder_is_checked_in_a_benchmarks_layout(capsys, tmp_path) -> None:
    assert main(["data", "check", str(KIVA), "--benchmark", "kiva"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "Resize/Resize2XY: 2 analogies"
    assert main(["data", "check", str(tmp_path), "--benchmark", "kiva"]) == 2
    assert "not the layout of KiVA" in capsys.readouterr().err
