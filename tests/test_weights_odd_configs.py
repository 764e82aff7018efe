"""Whatever the configs of a checkpoint or LoRA hold, commands on weights succeed, or end in code 2 and one line that names the file."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from analogist.cli.main import main
from analogist.models.unet import UNet, UNetConfig
from analogist.weights import WeightsError, open_checkpoint
from analogist.weights.lora import merge_lora
from tests.checkpoints import write_folder
from tests.test_cli import fails

ODD: list[Any] = [None, True, -1, 0, 2.5, 10**400, "", "a\nb", [], ["a"], {"a": 1}, [[1]]]

MISSING = object()

# File and key -> a value that is refused. All of ODD must be read or refused too.
REFUSED: dict[tuple[str, str], Any] = {
    ("unet/config.json", "attention_head_dim"): [],
    ("unet/config.json", "norm_num_groups"): "32",
    ("unet/config.json", "sample_size"): [64],
    ("unet/config.json", "act_fn"): 3,
    ("vae/config.json", "scaling_factor"): "x",
    ("vae/config.json", "norm_num_groups"): 7,
    ("vae/config.json", "latents_mean"): [1.0],
    ("text_encoder/config.json", "num_attention_heads"): 5,
    ("text_encoder/config.json", "layer_norm_eps"): [1],
    ("text_encoder/config.json", "hidden_act"): ["gelu"],
    ("text_encoder/config.json", "num_hidden_layers"): 99,
    ("scheduler/scheduler_config.json", "beta_start"): "x",
    ("scheduler/scheduler_config.json", "beta_end"): 2,
    ("scheduler/scheduler_config.json", "prediction_type"): "sample",
    ("scheduler/scheduler_config.json", "timestep_spacing"): "linspace",
    ("scheduler/scheduler_config.json", "num_train_timesteps"): [1000],
    ("scheduler/scheduler_config.json", "steps_offset"): -5,
    ("scheduler/scheduler_config.json", "set_alpha_to_one"): "yes",
    ("scheduler/scheduler_config.json", "rescale_betas_zero_snr"): "yes",
}
FILES = sorted({file for file, _ in REFUSED})
WHOLE = ["", "{", "[]", "3", "null", '"text"', '{"a": 1, "a": 2}', "{}", '{"unet": {"unet": {}}}', "[" * 50_000, "\x00", "{\"a\": NaN}"]


def refusal(path: Path) -> str:
    """Why a checkpoint is refused, one line that names it; "" if it is opened."""
    try:
        open_checkpoint(path)
    except WeightsError as error:
        assert len(str(error).splitlines()) == 1 and str(path) in str(error)
        return str(error)
    return ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("odd"), "sd15")


@pytest.fixture
def config(folder: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """One of the folder's config files, which a test may write over."""
    path = folder / request.param
    before = path.read_bytes()
    yield path
    path.write_bytes(before)


@pytest.mark.parametrize(("config", "key"), REFUSED, indirect=["config"])
def test_an_odd_value_in_a_config_is_read_or_refused_in_one_line(folder: Path, config: Path, key: str, tmp_path: Path, capsys) -> None:
    good = json.loads(config.read_text())
    for value in (*ODD, MISSING):
        config.write_text(json.dumps({name: old for name, old in (good | {key: value}).items() if old is not MISSING}))
        refusal(folder)
    config.write_text(json.dumps(good | {key: REFUSED[config.relative_to(folder).as_posix(), key]}))
    assert refusal(folder)
    assert str(folder) in fails(capsys, ["weights", "convert", str(folder), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("config", FILES, indirect=True)
def test_a_config_that_is_no_object_or_nested_wrongly_is_read_or_refused_by_every_command(
    folder: Path, config: Path, tmp_path: Path, capsys
) -> None:
    for content in WHOLE:
        config.write_text(content)
        if not content.startswith("{") or content == "{":
            assert config.name in refusal(folder)
            assert str(config) in fails(capsys, ["weights", "inspect", str(folder)])
            assert str(config) in fails(capsys, ["weights", "convert", str(folder), str(tmp_path / "out")])
            assert main(["weights", "verify", str(folder), "--quiet"]) == 1  # a check that failed, not a bad argument
            said = capsys.readouterr()
            assert str(config) in said.out and "Traceback" not in said.out + said.err
        else:
            refusal(folder)


QUERY = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
PEFT = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}
REFUSED_PEFT = {"r": "two", "lora_alpha": [4], "use_rslora": "yes", "rank_pattern": [2], "alpha_pattern": {"to_q": "x"}, "peft_type": "IA3"}


@pytest.mark.parametrize("key", PEFT)
def test_an_odd_value_in_a_loras_config_is_read_or_refused_in_one_line(key: str, tmp_path: Path) -> None:
    unet = UNet(UNetConfig(channels=(32, 64, 128, 128), text_width=24, norm_groups=16)).requires_grad_(False)
    factors = {f"{QUERY}.lora_A.weight": torch.ones(2, 32), f"{QUERY}.lora_B.weight": torch.ones(32, 2)}
    save_file(factors, tmp_path / "adapter_model.safetensors")

    def refused(value: Any) -> str:
        (tmp_path / "adapter_config.json").write_text(json.dumps({n: v for n, v in (PEFT | {key: value}).items() if v is not MISSING}))
        try:
            merge_lora(tmp_path, unet)
        except WeightsError as error:
            assert len(str(error).splitlines()) == 1 and str(tmp_path) in str(error)
            return str(error)
        return ""

    assert not refused(PEFT[key])
    for value in (*ODD, MISSING):
        refused(value)
    assert "adapter_config.json" in refused(REFUSED_PEFT[key])
