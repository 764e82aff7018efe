"""Reading while files change, end early or come in drops; what memory parameters get; nothing is ever mapped."""

import dataclasses
import errno
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from analogist import Analogist, PromptGrid
from analogist.config import SamplingConfig
from analogist.models.vae import VAE, VAEConfig
from analogist.pipeline import lab_checkpoint
from analogist.weights import WeightsError, open_checkpoint, reader
from tests.checkpoints import STEMS, small, write_folder

TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)  # float32 lies on disk: copied, and cast
status = Path("/proc/self/status")


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "checkpoint", "sd15")


def vae_file(folder: Path) -> Path:
    return folder / f"{STEMS['vae']}.safetensors"


def load_vae(folder: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    checkpoint = open_checkpoint(folder)
    with torch.device("meta"):
        vae = VAE(VAEConfig(**checkpoint.vae))
    checkpoint.load_vae(vae, dtype=dtype)
    return vae.state_dict()


def numbers(tensors) -> list[bytes]:
    """The numbers of all tensors whatever they are called."""
    return sorted(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() for tensor in tensors.values())


def during_the_first_read(monkeypatch, action) -> None:
    """Runs an action once, after the header was checked and the file opened, before a byte is read."""
    lock, rest, whole = threading.Lock(), [action], reader._pread

    def pread(file, into, start):
        with lock:
            while rest:
                rest.pop()()
        return whole(file, into, start)

    monkeypatch.setattr(reader, "_pread", pread)


@TYPES
@pytest.mark.parametrize("kept", [0, 0.5, 0.999])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_file_that_is_cut_off_while_it_is_read_is_one_clear_error(folder, monkeypatch, kept, threads, dtype):
    file = vae_file(folder)
    size = int(kept * file.stat().st_size)
    during_the_first_read(monkeypatch, lambda: os.truncate(file, size))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with pytest.raises(WeightsError) as caught:
            load_vae(folder, dtype)
    finally:
        torch.set_num_threads(before)
    assert str(caught.value).startswith(f"{file}: the file was truncated while it was read")


@TYPES
def test_a_file_that_is_replaced_while_it_is_read_is_one_clear_error(folder, tmp_path, monkeypatch, dtype):
    file = vae_file(folder)
    shutil.copy(file, tmp_path / "new")
    during_the_first_read(monkeypatch, lambda: os.replace(tmp_path / "new", file))
    with pytest.raises(WeightsError, match="changed after its header was read"):
        load_vae(folder, dtype)


@TYPES
def test_a_disk_that_fails_while_it_is_read_is_one_clear_error(folder, monkeypatch, dtype):
    def broken():
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    during_the_first_read(monkeypatch, broken)
    with pytest.raises(WeightsError, match=f"{vae_file(folder)}: cannot be read \\(Input/output error\\)"):
        load_vae(folder, dtype)


@TYPES
@pytest.mark.parametrize("at_once", [1000, 4096])
def test_reads_that_come_back_short_are_gone_on_with(folder, monkeypatch, at_once, dtype):
    whole = reader._pread
    counts = []

    def drops(file, into, start):
        counts.append(len(into))
        return whole(file, into[:at_once], start)

    monkeypatch.setattr(reader, "_pread", drops)
    got = load_vae(folder, dtype)
    assert max(counts) > at_once
    assert numbers(got) == numbers({name: tensor.to(dtype) for name, tensor in small("sd15")["vae"].items()})


@TYPES
def test_a_load_in_many_slices_on_several_threads_gives_every_number_its_place(folder, monkeypatch, dtype):
    monkeypatch.setattr(reader, "READ", 2**10)
    monkeypatch.setattr(reader, "CAST", 2**9)
    monkeypatch.setattr(reader, "GRAIN", 60)
    monkeypatch.setattr(reader, "AREA", 2**14)
    seen, whole = set(), reader._pread
    both = threading.Barrier(2, timeout=300)

    def pread(file, into, start):
        if threading.get_ident() not in seen:
            seen.add(threading.get_ident())
            both.wait()
        return whole(file, into, start)

    monkeypatch.setattr(reader, "_pread", pread)
    monkeypatch.setattr(reader, "THREADS", 2)
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    try:
        got = load_vae(folder, dtype)
    finally:
        torch.set_num_threads(before)
    assert len(seen) == 2
    assert numbers(got) == numbers({name: tensor.to(dtype) for name, tensor in small("sd15")["vae"].items()})


@TYPES
def test_where_the_system_can_neither_read_at_a_place_nor_give_huge_pages_the_same_is_loaded(folder, monkeypatch, dtype):
    monkeypatch.delattr(os, "preadv")
    monkeypatch.delattr("mmap.MADV_HUGEPAGE")
    got = load_vae(folder, dtype)
    assert numbers(got) == numbers({name: tensor.to(dtype) for name, tensor in small("sd15")["vae"].items()})


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="mappings are listed in /proc")
@TYPES
def test_no_weights_are_mapped_while_they_are_read(folder, monkeypatch, dtype):
    maps = []
    during_the_first_read(monkeypatch, lambda: maps.append(Path("/proc/self/maps").read_text()))
    load_vae(folder, dtype)
    assert len(maps) == 1 and str(folder) not in maps[0]


@TYPES
def test_parameters_begin_where_vector_instructions_like_it_and_do_not_overlap(folder, dtype):
    tensors = load_vae(folder, dtype).values()
    places = sorted((tensor.data_ptr(), tensor.numel() * tensor.element_size()) for tensor in tensors)
    assert all(start % 64 == 0 for start, _ in places)
    assert all(start + size <= after for (start, size), (after, _) in zip(places, places[1:], strict=False))


def test_loaded_parameters_can_be_changed_in_place_and_carry_gradients(folder):
    checkpoint = open_checkpoint(folder)
    with torch.device("meta"):
        vae = VAE(VAEConfig(**checkpoint.vae))
    checkpoint.load_vae(vae)
    weight = vae.decoder.conv_out.weight
    weight.square().sum().backward()
    assert torch.equal(weight.grad, 2 * weight)
    with torch.no_grad():
        weight.fill_(3.0)
    assert weight.sum() == 3.0 * weight.numel()
    assert numbers(load_file(vae_file(folder))) == numbers(small("sd15")["vae"])


def anonymous() -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


@pytest.mark.skipif(not status.exists(), reason="anonymous memory is read from /proc")
def test_parameters_that_are_replaced_one_by_one_give_their_memory_back():
    tensors = reader.allocate([torch.Size([2**22])] * 32, torch.float32)  # 512 MiB
    for tensor in tensors:
        tensor.fill_(1.0)
    full = anonymous()
    del tensor
    while len(tensors) > 8:
        tensors.pop()
    assert full - anonymous() >= (24 * 16 - 64 - 16) * 2**20  # what still shares an area with one that is kept stays
    assert all(bool((tensor == 1).all()) for tensor in tensors)


CUT = """
import os, sys, torch
from analogist.weights import WeightsError, open_checkpoint, reader
from analogist.models.vae import VAE, VAEConfig
checkpoint = open_checkpoint(sys.argv[1])
with torch.device("meta"):
    vae = VAE(VAEConfig(**checkpoint.vae))
whole, rest = reader._pread, [1]
def pread(file, into, start):
    if rest and rest.pop():
        os.truncate(file.name, 0)
    return whole(file, into, start)
reader._pread = pread
try:
    checkpoint.load_vae(vae)
except WeightsError as error:
    print(error)
"""


def test_a_process_survives_a_file_that_is_cut_off_under_its_hands(folder):
    done = subprocess.run([sys.executable, "-c", CUT, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "was truncated while it was read" in done.stdout


@pytest.mark.parametrize("how", ["replaced", "cut", "overwritten"])
def test_a_file_that_changes_during_a_run_does_not_change_the_run(tmp_path, how):
    folder = tmp_path / "lab"
    shutil.copytree(lab_checkpoint(), folder)
    model = Analogist.from_checkpoint(folder)
    grid = PromptGrid(*(Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue")))
    config = dataclasses.replace(model.config, sampling=SamplingConfig(steps=3, strength=1.0))
    want = model(grid, "a", config=config, progress=False)
    steps = model.steps(grid, "a", config=config)
    next(steps)
    for file in folder.rglob("*.safetensors"):
        size = file.stat().st_size
        if how == "replaced":
            save_file({"other": torch.zeros(3)}, tmp_path / "new")
            os.replace(tmp_path / "new", file)
        elif how == "cut":
            os.truncate(file, 0)
        else:
            with file.open("r+b") as stream:
                stream.write(b"\xff" * size)
    assert torch.equal(list(steps)[-1].z_t, want.latents)
