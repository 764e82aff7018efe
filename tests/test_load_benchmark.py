"""The benchmark of loading, tried on small checkpoints: cold files are cold, and every loader loads."""

import os
import sys

import pytest
import torch

from tests.benchmarks import load, page_cache
from tests.checkpoints import write_folder

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the page cache is asked and emptied as Linux does it")


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "checkpoint", "sd15", variant=None)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file.safetensors"
    path.write_bytes(os.urandom(3 * 2**20 + 123))
    return path


def on_a_disk(path) -> bool:
    """Whether the file system lets a file leave the page cache: one in memory does not."""
    return page_cache.drop(path) == 0.0


@linux
def test_a_file_is_filled_into_the_page_cache_and_dropped_from_it(file):
    if not on_a_disk(file):
        pytest.skip("the temporary folder lies in memory")
    page_cache.fill(file)
    assert page_cache.cached(file) == 1.0
    assert page_cache.drop(file) == 0.0 == page_cache.cached(file)


@linux
def test_a_copy_written_past_the_cache_is_equal_and_cold(file, tmp_path):
    if not on_a_disk(file):
        pytest.skip("the temporary folder lies in memory")
    page_cache.copy_past_cache(file, tmp_path / "copy")
    assert page_cache.cached(tmp_path / "copy") == 0.0
    assert (tmp_path / "copy").read_bytes() == file.read_bytes()


@linux
def test_a_file_that_cannot_be_dropped_is_replaced_by_a_cold_copy(file, monkeypatch):
    if not on_a_disk(file):
        pytest.skip("the temporary folder lies in memory")
    content = file.read_bytes()
    monkeypatch.setattr(page_cache, "drop", page_cache.cached)  # as if another process had it mapped
    page_cache.make_cold(file)
    assert page_cache.cached(file) == 0.0
    assert file.read_bytes() == content
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@linux
def test_a_case_that_cannot_be_cold_or_has_no_device_is_not_measured_and_says_why(file, monkeypatch):
    monkeypatch.setattr(page_cache, "cached", lambda path: 1.0)
    assert "100% of it stays in the page cache" in load.impossible(str(file), "cold", "cpu")
    assert load.impossible(str(file), "cached", "cpu") is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "'cuda' is not available" in load.impossible(str(file), "cached", "cuda")


@linux
@pytest.mark.parametrize("state", load.STATES)
@pytest.mark.parametrize("loader", load.LOADERS)
def test_every_loader_loads_from_files_in_the_state_that_was_asked_for(folder, monkeypatch, loader, state):
    if not all(on_a_disk(path) for path in page_cache.files_of(folder)):
        pytest.skip("the temporary folder lies in memory")
    seen, whole = [], load.loader_of

    def watched(*arguments):
        run = whole(*arguments)

        def wrapped():
            seen.extend(page_cache.cached(path) for path in page_cache.files_of(folder))
            return run()

        return wrapped

    monkeypatch.setattr(load, "loader_of", watched)
    monkeypatch.setattr(load, "STORED", "float32")
    run = load.measure(loader, str(folder), "float32", str(folder), "as given", state, "cpu")
    assert seen == [1.0 if state == "cached" else 0.0] * 3
    assert run["seconds"] >= run["loaded"] > 0
    assert run["model"] >= sum(path.stat().st_size for path in page_cache.files_of(folder)) * 0.9


def test_a_row_gives_the_ratios_of_medians_and_leaves_out_what_was_not_measured():
    runs = {name: [{"seconds": s, "cpu": 2 * s} for s in times] for name, times in (("ours", (1, 3, 2)), ("diffusers", (4, 5, 8)))}
    peaks = {name: {"anonymous": 11, "model": 10} for name in runs}
    cells = [cell.strip() for cell in load.row("one", runs, peaks).strip("|").split("|")]
    assert cells[:6] == ["one", "2.00", "5.00", "", "0.40", ""]
    assert cells[-3:] == ["1.100", "1.100", "ours 1.00 3.00 2.00; diffusers 4.00 5.00 8.00"]
    assert len(cells) == len(load.COLUMNS)
