"""Loading to another device: a stand-in that copies late shows that nothing is overwritten before it has left, and that reading goes on."""

import math
import os
import threading
import time
from queue import Queue

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from analogist.models.vae import VAE, VAEConfig
from analogist.weights import WeightsError, open_checkpoint, reader
from analogist.weights.carrier import Carrier, Delivery
from analogist.weights.header import read_header
from analogist.weights.parts import Piece
from tests.checkpoints import STEMS, small, write_folder
from tests.devices import device

CPU = torch.device("cpu")
TYPES = [torch.float16, torch.float32, torch.bfloat16]


class Late(Carrier):
    """A carrier whose copies are made by a thread of their own, as a card makes them: some time after they were asked for."""

    log: list[tuple[str, int]] = []

    def __init__(self, size: int, wait: float = 0.003) -> None:
        super().__init__(CPU, size)
        self.wait, self.asked = wait, Queue()
        self.gone = [threading.Event(), threading.Event()]
        for event in self.gone:
            event.set()
        self.thread = threading.Thread(target=self.copy, daemon=True)
        self.thread.start()

    def buffer(self) -> Tensor:
        self.gone[self._turn].wait()
        return self._buffers[self._turn]

    def carry(self, deliveries: list[Delivery]) -> None:
        turn, self._turn = self._turn, 1 - self._turn
        self.gone[turn].clear()
        Late.log.append(("asked", id(self)))
        self.asked.put((turn, deliveries))

    def copy(self) -> None:
        while (task := self.asked.get()) is not None:
            time.sleep(self.wait)
            for delivery in task[1]:
                delivery.hand_over(self._buffers[task[0]])
            Late.log.append(("copied", id(self)))
            self.gone[task[0]].set()

    def finish(self) -> None:
        self.asked.put(None)
        self.thread.join()


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch):
    Late.log = []
    monkeypatch.setattr(reader, "READ", 2**12)
    monkeypatch.setattr(reader, "CAST", 2**10)


def stored(tmp_path, tensors: dict[str, Tensor]):
    """The tensors on disk: pieces, header, and how to read them into given targets."""
    save_file(tensors, tmp_path / "w.safetensors")
    header = read_header(tmp_path / "w.safetensors")

    def reads(targets: dict[str, Tensor], file) -> list[reader._Read]:
        return [reader._reading({header.path: file}, Piece(header.tensors[name]), into) for name, into in targets.items()]

    return header, reads


def some(dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors shorter and longer than a buffer, with odd lengths."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3,), (1,), (), (7, 11), (5000,), (64, 65), (2, 3, 3, 3), (4096,), (31,)]
    return {f"t{i}": torch.randn(shape, generator=generator).to(dtype) for i, shape in enumerate(shapes)}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("goal", TYPES, ids=str)
@pytest.mark.parametrize("kind", [*TYPES, torch.float8_e4m3fn], ids=str)
def test_every_number_arrives_though_the_copies_are_late(tmp_path, monkeypatch, kind, goal, threads):
    tensors = some(kind)
    header, reads = stored(tmp_path, tensors)
    targets = {name: torch.full(tensor.shape, math.nan, dtype=goal) for name, tensor in tensors.items()}
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    with reader.open_unchanged(header) as file:
        reader.send(reads(targets, file), Late)
    for name, tensor in tensors.items():
        assert torch.equal(targets[name], tensor.to(goal)), name
    assert len({who for _, who in Late.log}) <= threads


def test_the_next_numbers_are_read_while_the_last_are_on_their_way(tmp_path):
    header, reads = stored(tmp_path, some(torch.float32))
    targets = {name: torch.empty_like(tensor) for name, tensor in some(torch.float32).items()}
    with reader.open_unchanged(header) as file:
        reader.send(reads(targets, file), Late)
    kinds = [kind for kind, _ in Late.log]
    on_the_way = [kinds[: i + 1].count("asked") - kinds[: i + 1].count("copied") for i in range(len(kinds))]
    assert max(on_the_way) == 2 and len(kinds) > 10


def test_small_tensors_travel_together_and_large_ones_in_parts(tmp_path):
    header, reads = stored(tmp_path, some(torch.float32))
    with reader.open_unchanged(header) as file:
        parcels = list(reader._parcels(reads(some(torch.float32), file)))
    assert max(len(parts) for parts, _ in parcels) > 3
    assert len(parcels) >= 5000 * 4 // 2**12
    for _, deliveries in parcels:
        assert deliveries[-1].stop <= 2**12
        assert all(one.offset % 64 == 0 for one in deliveries)
        assert all(one.stop <= after.offset for one, after in zip(deliveries, deliveries[1:], strict=False))


@pytest.mark.parametrize("goal", [torch.float16, torch.float32], ids=str)
def test_scaled_numbers_arrive_scaled(tmp_path, goal):
    numbers = torch.randn(40, 50, generator=torch.Generator().manual_seed(0)).to(torch.float8_e4m3fn)
    scale = torch.linspace(0.5, 2, 40)
    header, _ = stored(tmp_path, {"w": numbers, "s": scale})
    piece = Piece(header.tensors["w"], scale=header.tensors["s"])
    into = torch.empty(40, 50, dtype=goal)
    with reader.open_unchanged(header) as file:
        reader.send([reader._reading({header.path: file}, piece, into)], Late)
    assert torch.equal(into, (numbers.float() * scale[:, None]).to(goal))


def test_an_error_in_one_thread_stops_the_others_and_is_raised(tmp_path, monkeypatch):
    header, reads = stored(tmp_path, {f"t{i:03}": torch.ones(1024) for i in range(200)})
    targets = {name: torch.empty(1024) for name in header.tensors}
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with reader.open_unchanged(header) as file:
        os.truncate(header.path, 2**14)
        with pytest.raises(WeightsError, match="was truncated while it was read"):
            reader.send(reads(targets, file), Late)
    assert len([kind for kind, _ in Late.log if kind == "asked"]) < 20


@pytest.mark.device
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_network_on_a_device_holds_the_numbers_of_its_file(tmp_path, dtype):
    folder = write_folder(tmp_path / "checkpoint", "sd15")
    checkpoint = open_checkpoint(folder)
    with torch.device("meta"):
        vae = VAE(VAEConfig(**checkpoint.vae))
    checkpoint.load_vae(vae, dtype=dtype, device=device())
    theirs = load_file(folder / f"{STEMS['vae']}.safetensors")
    assert {tensor.device.type for tensor in vae.state_dict().values()} == {device().type}
    ours = sorted(tensor.cpu().float().view(-1).tolist() for tensor in vae.state_dict().values())
    assert ours == sorted(tensor.to(dtype).float().view(-1).tolist() for tensor in theirs.values())
    assert len(theirs) == len(small("sd15")["vae"])


def test_a_network_loaded_to_another_device_lies_there(tmp_path):
    """The meta device stands for one that copies at once."""
    checkpoint = open_checkpoint(write_folder(tmp_path / "checkpoint", "sd15"))
    with torch.device("meta"):
        vae = VAE(VAEConfig(**checkpoint.vae))
    report = checkpoint.load_vae(vae, dtype=torch.float16, device="meta")
    assert report.device == torch.device("meta")
    assert {(tensor.device.type, tensor.dtype) for tensor in vae.state_dict().values()} == {("meta", torch.float16)}
