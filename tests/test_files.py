"""Writing whole or not at all: atomic_write and output_folder."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from analogist.disk.writing import OutputError, atomic_write, output_folder


def test_atomic_write_writes_bytes_and_what_a_function_writes(tmp_path: Path) -> None:
    atomic_write(tmp_path / "bytes", b"abc")
    atomic_write(tmp_path / "function", lambda file: file.write(b"defg"))
    assert (tmp_path / "bytes").read_bytes() == b"abc"
    assert (tmp_path / "function").read_bytes() == b"defg"
    assert sorted(os.listdir(tmp_path)) == ["bytes", "function"]


def test_a_written_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").write_bytes(b"")
    atomic_write(tmp_path / "ours", b"")
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_an_interrupted_write_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def interrupted(file) -> None:
        file.write(b"new, half")
        file.flush()
        raise error

    with pytest.raises(error):
        atomic_write(path, interrupted)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_target_is_untouched_until_the_content_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    seen = []

    def content(file) -> None:
        file.write(b"new")
        file.flush()
        seen.append(path.read_bytes())

    atomic_write(path, content)
    assert seen == [b"old"]
    assert path.read_bytes() == b"new"


FULL_DISK = """
import resource, sys
from analogist.disk.writing import OutputError, atomic_write
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
contents = {"bytes": bytes(100_000), "function": lambda file: [file.write(bytes(1000)) for _ in range(100)]}
try:
    atomic_write(sys.argv[1], contents[sys.argv[2]])
except OutputError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.parametrize("content", ["bytes", "function"])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_full_disk_is_one_error_and_leaves_no_half_written_file(tmp_path: Path, content: str, old: bytes | None) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path), content], capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == f"cannot write {path}: file too large; nothing was left behind\n"
    assert os.listdir(tmp_path) == ([] if old is None else ["file"])
    assert old is None or path.read_bytes() == old


def test_an_error_about_another_file_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="source"):
        atomic_write(tmp_path / "file", lambda file: file.write((tmp_path / "source").read_bytes()))
    assert os.listdir(tmp_path) == []


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    atomic_write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_a_name_as_long_as_the_file_system_allows_can_be_written(tmp_path: Path) -> None:
    atomic_write(tmp_path / ("n" * 255), b"x")
    with pytest.raises(OutputError, match="name too long"):
        atomic_write(tmp_path / ("n" * 256), b"x")
    assert os.listdir(tmp_path) == ["n" * 255]


def test_what_is_no_regular_file_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path, "a folder"), (tmp_path / "pipe", "not a regular file")):
        with pytest.raises(OutputError, match=f"it is {kind}"):
            atomic_write(path, b"x")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_writing_into_a_missing_folder_or_below_a_file_is_an_error_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="no such file or directory"):
        atomic_write(tmp_path / "missing" / "file", b"x")
    with pytest.raises(OutputError, match="file is a file, not a folder"):
        atomic_write(tmp_path / "file" / "below", b"x")


def test_output_folder_makes_parents_and_accepts_a_folder_that_exists(tmp_path: Path) -> None:
    assert output_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert output_folder(tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("below", ["", "/sub", "/sub/sub"])
def test_output_folder_names_the_file_in_the_way(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    with pytest.raises(OutputError) as error:
        output_folder(f"{tmp_path}/file{below}")
    assert str(error.value) == f"cannot make the folder {tmp_path}/file{below}: {tmp_path}/file is a file; choose another folder"
    assert (tmp_path / "file").read_bytes() == b"kept"


@pytest.mark.parametrize("name", ["n" * 300, "null\0byte", "new\nline/" + "n" * 300])
def test_output_folder_with_an_impossible_name_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError) as error:
        output_folder(tmp_path / name)
    assert "\n" not in str(error.value) and "\0" not in str(error.value)


def test_output_folder_that_may_not_be_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)  # the superuser may write everywhere
    with pytest.raises(OutputError, match="not allowed"):
        output_folder(tmp_path)
