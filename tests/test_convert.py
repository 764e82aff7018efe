"""Checkpoints written anew: single file to folder and back, other precisions, read by diffusers as by us."""

import functools
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextModel

from analogist.cli.main import main
from analogist.models.unet import UNet, UNetConfig
from analogist.weights import WeightsError, open_checkpoint, outmaps
from analogist.weights.convert import convert
from analogist.weights.writer import Planned, write
from tests.checkpoints import PARITY, STEMS, golden, small, small_configs, write_folder, write_single
from tests.test_cli import fails
from tests.test_keymaps import targets

FAMILIES = ("sd15", "sd2")
SETTINGS = ("unet", "vae", "text", "scheduler", "pad_token_id", "family")


def described(path: Path, **settings) -> dict:
    checkpoint = open_checkpoint(path, **settings)
    return {name: getattr(checkpoint, name) for name in SETTINGS}


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def unet_tensors(path: Path, **settings) -> dict[str, torch.Tensor]:
    checkpoint = open_checkpoint(path, **settings)
    with torch.device("meta"):
        unet = UNet(UNetConfig(**checkpoint.unet))
    checkpoint.load_unet(unet)
    return unet.state_dict()


@pytest.mark.parametrize("family", FAMILIES)
def test_our_names_go_back_to_every_published_name(family):
    """On the golden lists: the way out is the inverse of the way in, in both layouts."""
    entries = golden()[family]
    block_types = entries["configs"]["unet/config.json"]["down_block_types"]
    depth = [1 if kind.startswith("CrossAttn") else 0 for kind in block_types]
    back = {
        ("folder", "unet"): outmaps.unet_to_diffusers,
        ("folder", "vae"): outmaps.vae_to_diffusers,
        ("folder", "text"): lambda name: "text_model." + name,
        ("single", "unet"): lambda name: "model.diffusion_model." + outmaps.unet_to_ldm(name, 2, depth),
        ("single", "vae"): lambda name: "first_stage_model." + outmaps.vae_to_ldm(name, 4),
        ("single", "text"): {
            "sd15": lambda name: f"cond_stage_model.transformer.text_model.{name}",
            "sd2": lambda name: "cond_stage_model.model." + outmaps.text_to_openclip(name),
        }[family],
    }  # fmt: skip
    for (layout, part), name_of in back.items():
        listed = entries["folder"][part] if layout == "folder" else entries["single"]
        for ours, (theirs, _) in targets(listed, part).items():
            assert name_of(ours) == theirs


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_becomes_one_file_and_comes_back_bit_for_bit(tmp_path, family):
    folder = write_folder(tmp_path / "folder", family)
    report = convert(folder, tmp_path / "one.safetensors")
    # What the single file holds is, name by name, what the golden name map makes of the folder.
    written, expected = load_file(tmp_path / "one.safetensors"), small(family)
    names = golden()[family]["ldm_names"]
    for part in ("unet", "vae"):
        for name, tensor in expected[part].items():
            assert torch.equal(written[names[part][name]].reshape(tensor.shape), tensor), name
    assert described(tmp_path / "one.safetensors") == described(folder)
    assert any("copy" in note for note in report.notes) == (family == "sd2")
    convert(tmp_path / "one.safetensors", tmp_path / "again")
    for part, stem in STEMS.items():
        assert same(load_file(tmp_path / "again" / f"{stem}.safetensors"), expected[part]), part
    assert described(tmp_path / "again") == described(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_published_single_file_becomes_a_folder_that_diffusers_reads(tmp_path, family):
    configs = {
        "unet": small_configs(family)["unet"],
        "vae": small_configs(family)["vae"],
        "text_encoder": small_configs(family)["text"],
    }
    if family == "sd2":
        configs["text_encoder"] |= {"num_hidden_layers": 4}
        configs["text_layer"] = "penultimate"
    single = write_single(tmp_path / "one.safetensors", family)
    convert(single, tmp_path / "folder", config=configs)
    kinds = {"unet": (UNet2DConditionModel, "unet"), "vae": (AutoencoderKL, "vae"), "text": (CLIPTextModel, "text_encoder")}
    for part, (kind, subfolder) in kinds.items():
        model = kind.from_pretrained(tmp_path / "folder" / subfolder, local_files_only=True)
        tensors = {name.removeprefix("text_model."): tensor for name, tensor in small(family)[part].items()}
        held = {
            name.removeprefix("text_model."): tensor for name, tensor in model.state_dict().items() if "position_ids" not in name
        }
        assert same(held, tensors), part
    index = json.loads((tmp_path / "folder" / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionInpaintPipeline"


def test_a_single_file_of_another_precision_keeps_everything_else(tmp_path):
    single = write_single(tmp_path / "one.safetensors", "sd15")
    configs = {
        "unet": small_configs("sd15")["unet"],
        "vae": small_configs("sd15")["vae"],
        "text_encoder": small_configs("sd15")["text"],
    }
    convert(single, tmp_path / "half.safetensors", dtype=torch.float16, config=configs)
    before, after = load_file(single), load_file(tmp_path / "half.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor.half() if tensor.is_floating_point() else tensor), name


@pytest.mark.parametrize(("name", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_every_weight_is_cast_as_torch_casts_it(tmp_path, name, dtype):
    convert(PARITY / "checkpoint", tmp_path / name, dtype=dtype)
    stem = STEMS["unet"]
    before = load_file(PARITY / "checkpoint" / f"{stem}.safetensors")
    after = load_file(tmp_path / name / f"{stem}.safetensors")
    assert same(after, {name: tensor.to(dtype) for name, tensor in before.items()})


def test_what_shapes_do_not_tell_is_written_beside_a_single_file(tmp_path):
    """The parity checkpoint has 8 heads at 32 channels, which its shapes do not say."""
    report = convert(PARITY / "checkpoint", tmp_path / "one.safetensors")
    assert described(tmp_path / "one.safetensors") == described(PARITY / "checkpoint")
    beside = tmp_path / "one.json"
    assert (beside in report.files) == beside.exists() == any("one.json" in note for note in report.notes)
    assert same(unet_tensors(tmp_path / "one.safetensors"), unet_tensors(PARITY / "checkpoint"))


def test_a_number_beyond_float16_is_named_and_nothing_is_left(tmp_path):
    parts = {part: dict(tensors) for part, tensors in small("sd15").items()}
    name = "down_blocks.0.resnets.0.conv1.bias"
    parts["unet"][name] = parts["unet"][name].clone()
    parts["unet"][name][0] = 1e5
    folder = write_folder(tmp_path / "folder", "sd15", parts)
    for out in ("one.safetensors", "half"):
        with pytest.raises(WeightsError, match=rf"{name}: holds 1e\+05, beyond float16's 65504"):
            convert(folder, tmp_path / out, dtype=torch.float16)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_nothing_is_ever_overwritten(tmp_path):
    folder = write_folder(tmp_path / "folder", "sd15")
    (tmp_path / "one.safetensors").write_bytes(b"mine")
    for out in (tmp_path / "one.safetensors", folder):
        with pytest.raises(WeightsError, match="already exists; give another path"):
            convert(folder, out)
    assert (tmp_path / "one.safetensors").read_bytes() == b"mine"


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    folder = write_folder(tmp_path / "folder", "sd15")
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "from analogist.weights import WeightsError; from analogist.weights.convert import convert\n"
        "for out in ('one.safetensors', 'out'):\n"
        f"    try: convert({str(folder)!r}, {str(tmp_path)!r} + '/' + out)\n"
        "    except WeightsError as error: print('ERROR', error)\n"
    )
    assert resource.RLIMIT_FSIZE is not None
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.stdout.count("ERROR") == 2 and done.stdout.count("nothing was left behind") == 2, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_the_writer_holds_one_tensor_at_a_time_and_checks_what_it_gets(tmp_path):
    alive, most = [], []

    def make(value: float) -> torch.Tensor:
        tensor = torch.full((3, 5), value, dtype=torch.bfloat16)
        alive.append(value)
        most.append(len(alive))
        return tensor

    planned = [Planned(f"t{i}", torch.bfloat16, (3, 5), functools.partial(make, float(i))) for i in range(3)]
    assert (
        write(tmp_path / "x.safetensors", planned, progress=lambda _: alive.pop()) == (tmp_path / "x.safetensors").stat().st_size
    )
    assert most == [1, 1, 1]
    assert same(
        load_file(tmp_path / "x.safetensors"), {f"t{i}": torch.full((3, 5), float(i), dtype=torch.bfloat16) for i in range(3)}
    )
    with pytest.raises(WeightsError, match="instead of"):
        write(tmp_path / "y.safetensors", [Planned("t", torch.float32, (4,), lambda: torch.zeros(3))])
    assert not (tmp_path / "y.safetensors").exists()


def test_convert_on_the_command_line_brings_a_tokenizer_that_transformers_reads(tmp_path, capsys):
    out = tmp_path / "half"
    assert main(["weights", "convert", str(PARITY / "checkpoint"), str(out), "--dtype", "fp16", "--quiet"]) == 0
    assert str(out) in capsys.readouterr().out
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(out / "tokenizer", local_files_only=True)
    assert tokenizer("a photo of a cat")["input_ids"] == [49406, 320, 1125, 539, 320, 2368, 49407]  # CLIP's published ids
    assert tokenizer.pad_token_id == 49407
    assert open_checkpoint(out).pad_token_id == open_checkpoint(PARITY / "checkpoint").pad_token_id
    assert "already exists; give another path" in fails(capsys, ["weights", "convert", str(PARITY / "checkpoint"), str(out)])
    assert "no such file" in fails(capsys, ["weights", "convert", str(tmp_path / "none"), str(tmp_path / "x")])
    assert "invalid choice" in fails(capsys, ["weights", "convert", str(out), str(tmp_path / "x"), "--dtype", "int8"])
