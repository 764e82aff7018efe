"""What is free: of the system, and of the control groups that hold this process, as Linux's files say it."""

from pathlib import Path

import pytest
import torch

from analogist.models.unet import UNetConfig
from analogist.run import memory

MIB = 2**20
CPU = torch.device("cpu")


def group(folder: Path, limit: object, used: int, inactive: int, version: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current", "inactive_file") if version == 2 else (
        "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")  # fmt: skip
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 7\n{names[2]} {inactive}\nfile 9\n")


def left(tmp_path: Path, own: str) -> list[int]:
    (tmp_path / "own").write_text(own)
    return sorted(memory._left_in_groups(tmp_path / "own", tmp_path / "fs"))


def test_a_group_leaves_what_its_limit_allows_and_what_of_it_can_be_dropped(tmp_path):
    group(tmp_path / "fs/job/step", 1000 * MIB, 700 * MIB, 200 * MIB)
    group(tmp_path / "fs/job", 900 * MIB, 800 * MIB, 0)
    group(tmp_path / "fs", "max", 5000 * MIB, 0)
    assert left(tmp_path, "0::/job/step\n") == [100 * MIB, 500 * MIB]


def test_a_group_over_its_limit_leaves_nothing(tmp_path):
    group(tmp_path / "fs", 100, 700, 0)
    assert left(tmp_path, "0::/\n") == [0]


def test_the_first_version_of_control_groups_is_read_where_its_folder_lies(tmp_path):
    group(tmp_path / "fs/memory/batch", 64 * MIB, 32 * MIB, 8 * MIB, version=1)
    group(tmp_path / "fs/cpu/batch", 1, 1, 1, version=1)
    assert left(tmp_path, "4:memory:/batch\n2:cpu,cpuacct:/batch\n0::/\n") == [40 * MIB]


def test_a_container_sees_its_own_group_at_the_root_under_a_path_that_is_not_there(tmp_path):
    group(tmp_path / "fs/memory", 64 * MIB, 32 * MIB, 0, version=1)
    assert left(tmp_path, "4:memory:/docker/abc\n") == [32 * MIB]


def test_without_control_groups_nothing_limits(tmp_path):
    assert list(memory._left_in_groups(tmp_path / "none", tmp_path)) == []
    assert left(tmp_path, "0::/\n") == []


def test_what_is_free_is_the_least_of_system_and_groups(monkeypatch, tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    4096 kB\n")
    assert memory._available(tmp_path / "meminfo") == 4 * MIB
    assert memory._available(tmp_path / "none") == memory.UNKNOWN
    monkeypatch.setattr(memory, "_available", lambda: 4 * MIB)
    for groups, free in (([], 4), ([7 * MIB], 4), ([9 * MIB, 3 * MIB], 3)):
        monkeypatch.setattr(memory, "_left_in_groups", lambda groups=groups: iter(groups))
        assert memory.free_bytes(CPU) == free * MIB


@pytest.mark.parametrize("maps", [False, True])
def test_a_batch_fits_into_half_of_what_is_free(monkeypatch, maps):
    settings = {"branches": 2, "h": 64, "w": 64, "dtype": torch.float16, "maps": maps}
    one = memory.call_bytes(UNetConfig(), **settings)
    for free, chosen in ((one, 1), (4 * one, 2), (9 * one, 4), (1000 * one, 8)):
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        assert memory.images_at_once(UNetConfig(), images=8, device=CPU, **settings) == chosen


def test_maps_add_those_of_one_head_at_the_finest_site_with_attention():
    settings = {"branches": 2, "h": 64, "w": 64, "dtype": torch.float16}
    for config, tokens in ((UNetConfig(), 64 * 64), (UNetConfig(depth=(0, 1, 1, 0)), 32 * 32)):
        more = memory.call_bytes(config, maps=True, **settings) - memory.call_bytes(config, maps=False, **settings)
        assert more == 2 * tokens**2 * (2 + 4)
