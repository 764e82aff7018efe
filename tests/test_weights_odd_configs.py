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
from analogist.weights.embedded import EMBEDDED
from analogist.weights.known import HubSource, known
from analogist.weights.lora import merge_lora
from analogist.weights.survey import survey
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


INDEXES: list[bytes | None] = [
    None, *(content.encode() for content in WHOLE), *(json.dumps(value).encode() for value in ODD), b"\xff\xfe", b"\xef\xbb\xbf{}",
    b'{"_class_name": "StableDiffusionXLInpaintPipeline", "unet": ["somebody", "Net"], "text_encoder_2": ["transformers", null]}',
    b'{"_class_name": ["FluxPipeline"], "_diffusers_version": 3, "vae": [null, null], "scheduler": "../../etc"}',
]  # fmt: skip


def test_model_index_json_decides_nothing_so_it_may_hold_anything(folder: Path, tmp_path: Path, capsys) -> None:
    index = folder / "model_index.json"
    before = index.read_bytes() if index.exists() else None
    expected = survey(folder)
    assert expected.parts and expected.problem is None
    try:
        for content in INDEXES:
            index.unlink(missing_ok=True)
            if content is not None:
                index.write_bytes(content)
            assert survey(folder) == expected and not refusal(folder), content
        assert main(["weights", "inspect", str(folder)]) == 0
        assert "usable      yes" in capsys.readouterr().out
        assert main(["weights", "convert", str(folder), str(tmp_path / "out"), "--quiet"]) == 0
        assert json.loads((tmp_path / "out" / "model_index.json").read_text())["unet"] == ["diffusers", "UNet2DConditionModel"]
    finally:
        index.unlink(missing_ok=True)
        if before is not None:
            index.write_bytes(before)


REFERENCES = [b"", b"\xff\xfe", b"../../..", b"a\0b", b"x" * 5000, b"0" * 39, b"0" * 40, b"main", "n\u00e9".encode(), b"\n" * 9]
HELD = [None, b"", b"{", b"\xff", b"[]", b"\x08" + b"\0" * 7 + b"{}      ", b"version https://git-lfs", b"PK\x03\x04" + b"\0" * 99]


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def listed(capsys) -> str:
    """What `weights list` prints; it must end well, name every known checkpoint and say nothing on standard error."""
    assert main(["weights", "list"]) == 0
    said = capsys.readouterr()
    assert said.err == "" and all(f"{name}: " in said.out for name in [*known(), *EMBEDDED])
    return said.out


def repository(cache: Path, source: HubSource) -> Path:
    return cache / ("models--" + source.repo.replace("/", "--"))


SOURCES = [source for entry in known().values() for source in entry.sources]


@pytest.mark.parametrize("reference", REFERENCES, ids=lambda reference: repr(reference[:8]))
def test_the_list_is_printed_whatever_the_references_in_the_hub_cache_hold(hub_cache: Path, reference: bytes, capsys) -> None:
    by_branch = [source for source in SOURCES if len(source.revision) != 40]
    assert by_branch
    for source in by_branch:
        file = repository(hub_cache, source) / "refs" / source.revision
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(reference)
        (repository(hub_cache, source) / "snapshots").mkdir(exist_ok=True)
    assert "in the cache" not in listed(capsys)


@pytest.mark.parametrize("content", HELD, ids=str)
def test_the_list_is_printed_whatever_the_files_in_the_hub_cache_hold(hub_cache: Path, content: bytes | None, capsys) -> None:
    for source in SOURCES:
        commit = source.revision if len(source.revision) == 40 else "0" * 40
        (repository(hub_cache, source) / "refs").mkdir(parents=True, exist_ok=True)
        (repository(hub_cache, source) / "refs" / source.revision).write_text(commit)
        for name in [source.file] if source.file else ["model_index.json", *FILES, "unet/diffusion_pytorch_model.safetensors"]:
            file = repository(hub_cache, source) / "snapshots" / commit / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.unlink(missing_ok=True)  # two sources may share a repository
            if content is None:
                file.symlink_to(file)  # leads to itself
            else:
                file.write_bytes(content)
    assert "in the cache" not in listed(capsys)


@pytest.mark.parametrize("place", ["", "/dev/null", "~nobody-of-this-name/x", "$NOT_SET/hub", "a\nb", "\udcff"])
def test_the_list_is_printed_wherever_the_hub_cache_is_said_to_be(place: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", place)
    listed(capsys)


def test_a_variable_that_huggingface_hub_cannot_read_is_one_line_that_names_it(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    for name, value in {"HF_HUB_ETAG_TIMEOUT": "soon", "HF_HUB_DOWNLOAD_TIMEOUT": "1.5"}.items():
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            for command in (["list"], ["fetch", "owner/name", "--quiet"]):
                error = fails(capsys, ["weights", *command])
                assert f"{name}={value}" in error and "hf_secret" not in error


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
