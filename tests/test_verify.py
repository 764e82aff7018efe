"""`weights verify` finds what is missing, altered or not finite, and says yes to what is whole."""

import hashlib
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from analogist.checkpoints.verify import verify
from analogist.cli.main import main
from analogist.weights import WeightsError
from analogist.weights.known import HubSource, Known
from tests.checkpoints import PARITY, STEMS

UNET = f"{STEMS['unet']}.safetensors"


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(PARITY / "checkpoint", tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def change(folder, edit) -> None:
    tensors = load_file(folder / UNET)
    edit(tensors)
    save_file(tensors, folder / UNET)


def test_a_whole_checkpoint_passes_everything(folder, monkeypatch, capsys):
    digest = hashlib.sha256((folder / UNET).read_bytes()).hexdigest()
    entry = Known("tiny", "sd15-inpainting", "x", "x", "x", (HubSource("me/small", sha256={UNET: digest}),))
    monkeypatch.setattr("analogist.checkpoints.verify.known", lambda: {"tiny": entry})
    found = list(verify(folder, progress=False))
    assert [check.name for check in found] == ["family", "complete", "hash", "hash", "hash", "finite", "unet call"]
    assert all(check.passed is not False for check in found)
    assert [check.text for check in found if check.name == "hash" and check.passed] == [f"{UNET} is the published me/small: {UNET}"]
    numbers = sum(tensor.numel() for stem in STEMS.values() for name, tensor in load_file(folder / f"{stem}.safetensors").items()
                  if not name.endswith("position_ids"))  # fmt: skip
    assert next(check.text for check in found if check.name == "finite") == f"{numbers:,} numbers"
    assert main(["weights", "verify", str(folder), "--quiet"]) == 0
    assert "FAILED" not in capsys.readouterr().out


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_found_by_name(folder, value, capsys):
    def spoil(tensors):
        tensors["conv_in.weight"][0, 0, 0, 0] = value

    change(folder, spoil)
    found = {check.name: check for check in verify(folder, progress=False)}
    assert found["finite"].passed is False and "conv_in.weight" in found["finite"].text and "unet call" not in found
    assert main(["weights", "verify", str(folder), "--quiet"]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_a_missing_tensor_is_found(folder):
    change(folder, lambda tensors: tensors.pop("conv_out.bias"))
    (check,) = verify(folder, progress=False)
    assert (check.name, check.passed) == ("complete", False) and "conv_out.bias" in check.text


def test_a_truncated_file_is_found(folder):
    content = (folder / UNET).read_bytes()
    (folder / UNET).write_bytes(content[:-100])
    (check,) = verify(folder, progress=False)
    assert check.passed is False and "cut off" in check.text


def test_a_dead_network_is_found(folder):
    def kill(tensors):
        tensors["conv_out.weight"] = torch.zeros_like(tensors["conv_out.weight"])
        tensors["conv_out.bias"] = torch.zeros_like(tensors["conv_out.bias"])

    change(folder, kill)
    assert next(check for check in verify(folder, progress=False) if check.name == "unet call").passed is False


def test_a_path_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(WeightsError, match="no such file"):
        list(verify(tmp_path / "none"))
