"""Strict loading: every layout gives the same model, anything that does not fit is one error, and the file may go afterwards."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from analogist.models.clip_text import CLIPText, CLIPTextConfig
from analogist.models.unet import UNet, UNetConfig
from analogist.models.vae import VAE, VAEConfig
from analogist.weights import Checkpoint, WeightsError, open_checkpoint
from tests.checkpoints import (
    STEMS,
    golden,
    reference,
    remove,
    single_file,
    small,
    small_configs,
    write_configs,
    write_folder,
    write_full_size,
    write_single,
)

KINDS = {"unet": (UNet, UNetConfig), "vae": (VAE, VAEConfig), "text": (CLIPText, CLIPTextConfig)}


def on_meta(checkpoint: Checkpoint, part: str) -> nn.Module:
    model, config = KINDS[part]
    with torch.device("meta"):
        return model(config(**getattr(checkpoint, part)))


def loaded(path: Path, part: str, dtype=torch.float32, **options) -> dict[str, torch.Tensor]:
    checkpoint = open_checkpoint(path, **options)
    module = on_meta(checkpoint, part)
    getattr(checkpoint, f"load_{part}")(module, dtype=dtype)
    return module.state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module", params=["sd15", "sd2"])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp(family), family)


@pytest.fixture(scope="module")
def plain(folder):
    return {part: loaded(folder, part) for part in KINDS}


@torch.no_grad()
def test_loaded_networks_compute_what_diffusers_and_transformers_compute(family, folder):
    checkpoint = open_checkpoint(folder)
    configs, parts = small_configs(family), small(family)
    theirs = {part: reference(part, configs[part]) for part in KINDS}
    theirs["text"].load_state_dict({name.removeprefix("text_model."): t for name, t in parts["text"].items()})
    for part in ("unet", "vae"):
        theirs[part].load_state_dict(parts[part])
    ours = {part: on_meta(checkpoint, part) for part in KINDS}
    for part, module in ours.items():
        getattr(checkpoint, f"load_{part}")(module)
        module.eval()
    ids = torch.randint(0, 640, (2, 77))
    text = theirs["text"](ids).last_hidden_state
    assert torch.equal(ours["text"](ids).last, text)
    x = torch.randn(2, 9, 16, 16)
    want = theirs["unet"](x, 501, text).sample
    assert (ours["unet"](x, 501, text) - want).norm() < 1e-5 * want.norm()
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    want = theirs["vae"].encode(pixels).latent_dist.mean
    assert (ours["vae"].posterior(pixels).mean - want).norm() < 1e-5 * want.norm()


def prefixed(parts, prefix):
    return {prefix + name: tensor for name, tensor in parts.items()}


def unprefixed_text(parts):
    return {**parts, "text": {name.removeprefix("text_model."): tensor for name, tensor in parts["text"].items()}}


def deprecated_vae(parts):
    old = golden()["sd15"]["vae_deprecated"]
    return {**parts, "vae": {old.get(name, name): tensor for name, tensor in parts["vae"].items()}}


def other_shapes(parts):
    """Attention weights as 1x1 convolutions where they were linear layers, and the other way round."""

    def turned(name, tensor):
        if not re.search(r"(proj_in|proj_out|to_[qkv]|to_out\.0)\.weight$", name) or "transformer_blocks" in name:
            return tensor
        return tensor[:, :, None, None].clone() if tensor.ndim == 2 else tensor[:, :, 0, 0].clone()

    return {part: {name: turned(name, tensor) for name, tensor in tensors.items()} for part, tensors in parts.items()}


def stray(parts):
    extra = {"text_model.embeddings.position_ids": torch.arange(77)[None].half()}
    return {**parts, "text": {**parts["text"], **extra}}


@pytest.mark.parametrize("change", [unprefixed_text, deprecated_vae, other_shapes, stray], ids=lambda change: change.__name__)
def test_every_form_of_a_folder_loads_to_the_same_parameters(tmp_path, family, plain, change):
    write_folder(tmp_path, family, change(small(family)))
    for part in KINDS:
        assert same(loaded(tmp_path, part), plain[part])


@pytest.mark.parametrize("prefix", ["", "state_dict.", "foo.bar."])
def test_a_single_file_loads_to_the_parameters_of_the_folder(tmp_path, family, folder, plain, prefix):
    save_file(prefixed(single_file(family, small(family)), prefix), tmp_path / "a.safetensors")
    for part in KINDS:
        assert same(loaded(tmp_path / "a.safetensors", part, config=folder), plain[part])


def test_the_penultimate_layer_of_an_openclip_tower_is_the_last_that_loads(tmp_path):
    path = write_single(tmp_path / "a.safetensors", "sd2")
    config = {"unet": {"attention_head_dim": 1, "norm_num_groups": 16}, "vae": {"norm_num_groups": 8}, "text": {"num_attention_heads": 3}}
    checkpoint = open_checkpoint(path, config=config)
    assert (checkpoint.text_layer, checkpoint.text["num_hidden_layers"], checkpoint.pad_token_id) == ("penultimate", 3, 0)
    assert any("3 of its 4 layers" in note for note in checkpoint.notes)
    whole = open_checkpoint(path, config={**config, "text_layer": "last"})
    assert whole.text["num_hidden_layers"] == 4
    whole.load_text(on_meta(whole, "text"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_every_type_is_read_and_cast_once(tmp_path, stored, dtype):
    parts = {part: {name: tensor.to(stored) for name, tensor in tensors.items()} for part, tensors in small("sd15").items()}
    write_folder(tmp_path, "sd15", parts)
    got = loaded(tmp_path, "vae", dtype)
    want = {name: tensor.to(dtype) for name, tensor in loaded(tmp_path, "vae", torch.float32).items()}
    assert same(got, want) and {tensor.dtype for tensor in got.values()} == {dtype}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shift", [1, 2, 3])
def test_numbers_at_odd_places_of_a_file_are_read(tmp_path, shift, dtype):
    want = loaded(write_folder(tmp_path, "sd15"), "vae", dtype)
    file = tmp_path / f"{STEMS['vae']}.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    file.write_bytes((length + shift).to_bytes(8, "little") + content[8 : 8 + length] + b" " * shift + content[8 + length :])
    assert same(loaded(tmp_path, "vae", dtype), want)


def test_types_may_be_mixed_and_are_reported(tmp_path):
    parts = dict(small("sd15"))
    parts["unet"] = {name: tensor.half() if "weight" in name else tensor for name, tensor in parts["unet"].items()}
    checkpoint = open_checkpoint(write_folder(tmp_path, "sd15", parts))
    assert checkpoint.dtypes["unet"].keys() == {"F16", "F32"} and sum(checkpoint.dtypes["unet"].values()) == 686
    report = checkpoint.load_unet(on_meta(checkpoint, "unet"), dtype=torch.float32)
    assert report.types == checkpoint.dtypes["unet"] and report.tensors == 686


def test_8_bit_floats_are_cast_up_and_noted(tmp_path):
    parts = dict(small("sd15"))
    parts["vae"] = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in parts["vae"].items()}
    checkpoint = open_checkpoint(write_folder(tmp_path, "sd15", parts))
    assert any("248 tensors of 8-bit floats" in note for note in checkpoint.notes)
    module = on_meta(checkpoint, "vae")
    checkpoint.load_vae(module, dtype=torch.bfloat16)
    assert torch.equal(module.quant_conv.bias, parts["vae"]["quant_conv.bias"].to(torch.bfloat16))


def test_a_type_that_nothing_computes_in_is_refused(folder):
    checkpoint = open_checkpoint(folder)
    with pytest.raises(ValueError, match="float32, torch.float16, torch.bfloat16"):
        checkpoint.load_unet(on_meta(checkpoint, "unet"), dtype=torch.float64)


def test_the_fp16_variant_is_taken_where_the_full_one_is_missing(tmp_path):
    write_folder(tmp_path, "sd15", variant="fp16")
    checkpoint = open_checkpoint(tmp_path)
    assert all(set(types) == {"F16"} for types in checkpoint.dtypes.values())
    assert sum("variant fp16" in note for note in checkpoint.notes) == 3
    write_folder(tmp_path, "sd15")
    both = open_checkpoint(tmp_path)
    assert all(set(types) == {"F32"} for types in both.dtypes.values()) and both.notes == []
    assert all(set(types) == {"F16"} for types in open_checkpoint(tmp_path, variant="fp16").dtypes.values())


def test_a_variant_that_only_some_parts_have_is_noted(tmp_path):
    folder = write_folder(write_folder(tmp_path, "sd15"), "sd15", variant="fp16")
    (folder / "vae" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    checkpoint = open_checkpoint(folder, variant="fp16")
    assert {part: set(types) for part, types in checkpoint.dtypes.items()} == {"unet": {"F16"}, "vae": {"F32"}, "text": {"F16"}}
    assert [note for note in checkpoint.notes if "no variant 'fp16' in vae/" in note]


@pytest.mark.parametrize(
    ("index", "shard", "variant"),
    [
        ("diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model-{}-of-2.safetensors", None),
        ("diffusion_pytorch_model.safetensors.index.fp16.json", "diffusion_pytorch_model-{}-of-2.fp16.safetensors", "fp16"),
        ("diffusion_pytorch_model.safetensors.fp16.index.json", "diffusion_pytorch_model.fp16-{}-of-2.safetensors", "fp16"),
    ],
)
def test_shards_are_read_through_their_index_in_every_spelling(tmp_path, family, plain, index, shard, variant):
    write_folder(tmp_path, family)
    whole = tmp_path / f"{STEMS['unet']}.safetensors"
    tensors = load_file(whole)
    whole.unlink()
    halves = {name: shard.format(1 + i % 2) for i, name in enumerate(tensors)}
    for file in set(halves.values()):
        save_file({name: tensor for name, tensor in tensors.items() if halves[name] == file}, tmp_path / "unet" / file)
    (tmp_path / "unet" / "stray-copy.safetensors").write_bytes(b"not looked at")
    (tmp_path / "unet" / index).write_text(json.dumps({"metadata": {}, "weight_map": halves}))
    checkpoint = open_checkpoint(tmp_path, variant=variant)
    assert any("2 shards" in note for note in checkpoint.notes)
    module = on_meta(checkpoint, "unet")
    report = checkpoint.load_unet(module)
    assert len(report.files) == 2 and same(module.state_dict(), plain["unet"])


def write_with_ema(path):
    tensors = single_file("sd15", small("sd15"))
    prefix = "model.diffusion_model."
    shadows = {name: tensor + 1 for name, tensor in tensors.items() if name.startswith(prefix)}
    save_file({**tensors, **{"model_ema." + name.removeprefix("model.").replace(".", ""): t for name, t in shadows.items()}}, path)


def test_moving_averages_are_ignored_unless_asked_for(tmp_path):
    folder = write_folder(tmp_path / "folder", "sd15")
    plain = {"unet": loaded(folder, "unet")}
    write_with_ema(tmp_path / "a.safetensors")
    weights = open_checkpoint(tmp_path / "a.safetensors", config=folder)
    assert any("not the 686 moving averages" in note for note in weights.notes)
    assert same(loaded(tmp_path / "a.safetensors", "unet", config=folder), plain["unet"])
    averages = open_checkpoint(tmp_path / "a.safetensors", config=folder, ema=True)
    assert any("686 moving averages (model_ema.*) were taken" in note for note in averages.notes)
    got = loaded(tmp_path / "a.safetensors", "unet", config=folder, ema=True)
    assert same(got, {name: tensor + 1 for name, tensor in plain["unet"].items()})
    assert averages.fingerprint != weights.fingerprint


@pytest.mark.parametrize("form", ["bare", "prefixed", "folder", "checkpoint folder", "ldm bare"])
def test_a_vae_from_elsewhere_is_used(tmp_path, form):
    parts = {**small("sd15"), "vae": {name: tensor + 1 for name, tensor in small("sd15")["vae"].items()}}
    path = write_single(tmp_path / "without.safetensors", "sd15", {**parts, "vae": {}})
    config = write_folder(tmp_path / "other", "sd15", parts)
    file = tmp_path / "other" / f"{STEMS['vae']}.safetensors"
    if form == "prefixed":
        file = tmp_path / "p.safetensors"
        save_file(prefixed(parts["vae"], "anything."), file)
    elif form == "ldm bare":
        file = tmp_path / "ldm.safetensors"
        names = golden()["sd15"]["ldm_names"]["vae"]
        bare = {names[name].removeprefix("first_stage_model."): tensor for name, tensor in parts["vae"].items()}
        save_file({**bare, "model_ema.decay": torch.ones(())}, file)
    elif form != "bare":
        file = file.parent if form == "folder" else tmp_path / "other"
    got = loaded(path, "vae", config=config, vae=file)
    assert same(got, loaded(config, "vae"))


def test_a_vae_given_beside_one_inside_wins_and_is_noted(tmp_path, folder, family):
    path = write_single(tmp_path / "a.safetensors", family)
    checkpoint = open_checkpoint(path, config=folder, vae=folder)
    assert any("VAE: taken from vae=" in note for note in checkpoint.notes)


def broken(folder, change):
    """The message of loading a folder's UNet after a change to its tensors."""
    file = folder / f"{STEMS['unet']}.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    checkpoint = open_checkpoint(folder)
    module = on_meta(checkpoint, "unet")
    with pytest.raises(WeightsError) as caught:
        checkpoint.load_unet(module)
    assert all(parameter.is_meta for parameter in module.parameters())
    return str(caught.value)


def test_everything_that_does_not_fit_is_one_error_with_counts_and_first_names(tmp_path):
    def change(tensors):
        for i in range(10):
            tensors[f"colour.{i}"] = torch.zeros(2)
        for name in [name for name in tensors if ".attentions.1." in name and name.endswith("proj_in.bias")]:
            del tensors[name]
        tensors["conv_out.bias"] = torch.zeros(5)

    text = broken(write_folder(tmp_path, "sd15"), change)
    gone = [name for name in golden()["sd15"]["folder"]["unet"] if ".attentions.1." in name and name.endswith("proj_in.bias")]
    assert f"{len(gone)} missing: down.0.attn.1.proj_in.bias" in text
    assert "10 extra: colour.0, colour.1" in text and "and 2 more" in text and "colour.9" not in text
    assert "1 of the wrong shape: conv_out.bias [5] instead of [4]" in text
    assert "Stable Diffusion 1.x inpainting" in text and str(tmp_path) in text


def test_a_misspelt_name_is_shown_beside_the_nearest(tmp_path):
    def change(tensors):
        tensors["conv_norm_ouT.weight"] = tensors.pop("conv_norm_out.weight")

    assert "norm_out.weight (most similar: conv_norm_ouT.weight)" in broken(write_folder(tmp_path, "sd15"), change)


def test_a_name_that_two_different_tensors_claim_is_named(tmp_path):
    def change(tensors):
        tensors["norm_out.weight"] = tensors["conv_norm_out.weight"] + 1

    text = broken(write_folder(tmp_path, "sd15"), change)
    assert "1 present twice: norm_out.weight (conv_norm_out.weight and norm_out.weight)" in text or "(norm_out.weight and" in text


def test_whole_numbers_are_no_weights(tmp_path):
    def change(tensors):
        tensors["conv_out.bias"] = torch.zeros(4, dtype=torch.int64)

    assert "1 of a type that weights cannot have: conv_out.bias (I64)" in broken(write_folder(tmp_path, "sd15"), change)


def test_the_file_may_be_cut_or_replaced_once_loaded(tmp_path):
    folder = write_folder(tmp_path, "sd15")
    checkpoint = open_checkpoint(folder)
    module = on_meta(checkpoint, "unet")
    checkpoint.load_unet(module)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    file = folder / f"{STEMS['unet']}.safetensors"
    maps = Path("/proc/self/maps")
    assert not maps.exists() or str(file) not in maps.read_text()
    os.truncate(file, 0)
    assert same(module.state_dict(), before)


@pytest.mark.parametrize("how", ["cut", "replaced", "rewritten", "gone"])
def test_a_file_that_changed_since_it_was_opened_is_an_error(tmp_path, how):
    folder = write_folder(tmp_path, "sd15")
    checkpoint = open_checkpoint(folder)
    file = folder / f"{STEMS['vae']}.safetensors"
    content = file.read_bytes()
    time.sleep(0.01)
    if how == "cut":
        os.truncate(file, len(content) // 2)
    elif how == "replaced":
        (tmp_path / "new").write_bytes(content)
        os.replace(tmp_path / "new", file)
    elif how == "rewritten":
        file.write_bytes(content)
    else:
        file.unlink()
    for use in (lambda: checkpoint.load_vae(on_meta(checkpoint, "vae")), lambda: checkpoint.fingerprint):
        with pytest.raises(WeightsError, match="cannot be read" if how == "gone" else "changed after its header was read"):
            use()


def test_every_parameter_has_memory_of_its_own(folder):
    checkpoint = open_checkpoint(folder)
    module = on_meta(checkpoint, "unet")
    checkpoint.load_unet(module)
    storages = [parameter.untyped_storage() for parameter in module.parameters()]
    assert len({storage.data_ptr() for storage in storages}) == len(storages)
    assert all(s.nbytes() == 4 * p.numel() for s, p in zip(storages, module.parameters(), strict=True))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="anonymous memory is read from /proc")
@pytest.mark.parametrize("layout", ["single", "folder"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_full_size_load_takes_at_most_a_tenth_more_memory_than_the_model(tmp_path, layout, dtype):
    path = write_full_size(tmp_path, "sd15", layout)
    try:
        line = [sys.executable, "-m", "tests.benchmarks.load", "--one", "ours", str(path), dtype, str(path), "peak"]
        done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    finally:
        remove(path)
    run = json.loads(done.stdout.splitlines()[-1])
    assert run["model"] == {"float16": 2, "float32": 4}[dtype] * (859_535_364 + 83_653_863 + 123_060_480)
    assert 0.9 * run["model"] < run["anonymous"] <= 1.1 * run["model"]


def test_a_fingerprint_follows_the_content_and_not_the_path(tmp_path):
    one, other = write_folder(tmp_path / "one", "sd15"), write_folder(tmp_path / "other", "sd15")
    first = open_checkpoint(one).fingerprint
    assert re.fullmatch("[0-9a-f]{64}", first) and open_checkpoint(other).fingerprint == first
    seen = {first}
    parts = small("sd15")
    for part, name in (
        ("unet", "mid_block.attentions.0.proj_in.weight"),
        ("vae", "quant_conv.bias"),
        ("text", "text_model.final_layer_norm.bias"),
    ):
        changed = {**parts, part: {**parts[part], name: parts[part][name] + 0.1}}
        seen.add(open_checkpoint(write_folder(other, "sd15", changed)).fingerprint)
    seen.add(open_checkpoint(one, config={"unet": {"attention_head_dim": 4}}).fingerprint)
    assert len(seen) == 5


def test_own_settings_and_tokenizer_of_a_folder_are_found(tmp_path):
    folder = write_folder(tmp_path, "sd15")
    plain = open_checkpoint(folder)
    assert (plain.defaults, plain.tokenizer, plain.pad_token_id, plain.default_size) == (None, None, 49407, 512)
    (folder / "analogist.json").write_text('{"size": 64}')
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "special_tokens_map.json").write_text('{"pad_token": {"content": "!"}}')
    (folder / "tokenizer" / "tokenizer_config.json").write_text('{"pad_token": "<|endoftext|>"}')
    (folder / "tokenizer" / "vocab.json").write_text('{"!": 5, "<|endoftext|>": 7}')
    own = open_checkpoint(folder)
    assert (own.defaults, own.tokenizer, own.pad_token_id) == ({"size": 64}, folder / "tokenizer", 5)
    write_configs(folder, "sd15", {"unet": {**small_configs("sd15")["unet"], "sample_size": [8, 16]}})
    assert open_checkpoint(folder).default_size == (64, 128)
    write_configs(folder, "sd15", {"unet": {**small_configs("sd15")["unet"], "sample_size": [8, 16, 24]}})
    with pytest.raises(WeightsError, match=r"sample_size is \[8, 16, 24\]; expected a whole number or \[height, width\]"):
        open_checkpoint(folder)


def test_unknown_keys_in_a_checkpoints_own_settings_are_an_error_that_names_them(tmp_path):
    folder = write_folder(tmp_path, "sd15")
    own = folder / "analogist.json"
    own.write_text('{"size": 64, "sizes": 64, "negative": "grey"}')
    with pytest.raises(WeightsError, match=r"analogist\.json: unknown keys negative, sizes; allowed are config, negative_prompt, .*size"):
        open_checkpoint(folder)
    allowed = {"size": 64, "config": {}, "negative_prompt": "", "prompt_suffix": "", "trained": False}
    own.write_text(json.dumps(allowed))
    assert open_checkpoint(folder).defaults == allowed


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("size", "128", '"128"; a whole number of pixels'),
        ("size", True, "true; a whole number of pixels"),
        ("config", [], r"\[\]; an object"),
        ("negative_prompt", None, "null; a string"),
        ("prompt_suffix", 3, "3; a string"),
        ("trained", "no", '"no"; true or false'),
    ],
)
def test_a_value_of_another_kind_in_a_checkpoints_own_settings_is_an_error(tmp_path, key, value, message):
    folder = write_folder(tmp_path, "sd15")
    (folder / "analogist.json").write_text(json.dumps({key: value}))
    with pytest.raises(WeightsError, match=rf"analogist\.json: {key} is {message} is expected"):
        open_checkpoint(folder)
