"""Names on disk -> ours, on the golden lists of the published files."""

import json
import re

import pytest
import torch

from analogist.models.clip_text import CLIPText, CLIPTextConfig
from analogist.models.unet import UNet, UNetConfig
from analogist.models.vae import VAE, VAEConfig
from analogist.weights import open_checkpoint
from analogist.weights.header import TensorInfo
from analogist.weights.keymaps import ema_shadow
from analogist.weights.parts import split, to_ours
from tests.checkpoints import CONFIGS, STEMS, golden, write_configs

FAMILIES = ("sd15", "sd2")
SIZES = {"F16": 2, "F32": 4, "I32": 4, "I64": 8}


def sparse(path, entries):
    """A file with a real header and no data on the disk: enough for everything that reads headers alone."""
    header, offset = {}, 0
    for name, (dtype, *shape) in entries.items():
        stop = offset + torch.Size(shape).numel() * SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, stop]}
        offset = stop
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)
    return path


def infos(entries):
    return {name: TensorInfo(None, name, dtype, tuple(shape), 0, 0) for name, (dtype, *shape) in entries.items()}


def targets(entries, kind, layers=None):
    (group,) = split(infos(entries)).of(kind)
    mapped = to_ours(group, layers)
    assert not mapped.twice
    return {ours: (piece.info.name, piece.part) for ours, piece in mapped.pieces.items()}


def open_sparse(tmp_path, family, layout):
    entries = golden()[family]
    if layout == "single":
        return open_checkpoint(sparse(tmp_path / "model.safetensors", entries["single"]))
    for part, stem in STEMS.items():
        sparse(tmp_path / f"{stem}.safetensors", entries["folder"][part])
    write_configs(tmp_path, family, {part: entries["configs"][file] for part, file in CONFIGS.items()})
    return open_checkpoint(tmp_path)


@pytest.mark.parametrize("layout", ["single", "folder"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_published_name_and_shape_fits_the_full_size_model(tmp_path, family, layout):
    checkpoint = open_sparse(tmp_path, family, layout)
    with torch.device("meta"):
        unet = UNet(UNetConfig(**checkpoint.unet))
        vae = VAE(VAEConfig(**checkpoint.vae))
        text = CLIPText(CLIPTextConfig(**checkpoint.text))
    for part, module in (("unet", unet), ("vae", vae), ("text", text)):
        assert checkpoint.compare(part, module).lines() == []
    counts = {"sd15": (859_535_364, 83_653_863, 123_060_480), "sd2": (865_925_124, 83_653_863, 340_387_840)}
    assert tuple(sum(p.numel() for p in module.parameters()) for module in (unet, vae, text)) == counts[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_published_configs_and_shapes_alone_give_the_same_geometry(tmp_path, family):
    alone, published = (open_sparse(tmp_path / layout, family, layout) for layout in ("single", "folder"))
    assert (alone.unet, alone.vae, alone.scheduler) == (published.unet, published.vae, published.scheduler)
    ids = ("bos_token_id", "eos_token_id", "pad_token_id", "projection_dim")
    assert alone.text == {name: value for name, value in published.text.items() if name not in ids} | {
        "projection_dim": alone.text["projection_dim"]
    }
    assert alone.default_size == published.default_size == 512
    heads = {"sd15": (8, 8, 8, 8), "sd2": (5, 10, 20, 20)}
    assert alone.unet["heads"] == heads[family]


@pytest.mark.parametrize("part", ["unet", "vae", "text"])
@pytest.mark.parametrize("family", FAMILIES)
def test_both_layouts_put_the_same_tensor_under_the_same_name(family, part):
    entries = golden()[family]
    folder = targets(entries["folder"][part], part)
    single = targets(entries["single"], part, layers=23 if (family, part) == ("sd2", "text") else None)
    assert folder.keys() == single.keys()
    for ours, (name, _) in folder.items():
        theirs, block = single[ours]
        assert theirs == entries["ldm_names"][part][name]
        assert block == ({"q": (0, 3), "k": (1, 3), "v": (2, 3)}[re.search(r"\.([qkv])_proj", name)[1]] if ".in_proj_" in theirs else None)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_on_disk_has_exactly_one_place(family):
    entries = golden()[family]
    for part in ("unet", "vae", "text"):
        found = targets(entries["folder"][part], part)
        unused = {name for name in entries["folder"][part] if name.endswith("position_ids")}
        assert {name for name, _ in found.values()} == set(entries["folder"][part]) - unused
    parts = split(infos(entries["single"]))
    claimed = {name for group in parts.groups for name in (info.name for info in group.tensors.values())}
    ignored = {name for names in parts.ignored.values() for name in names}
    assert not parts.other and not parts.ema
    assert claimed | ignored == set(entries["single"]) and not claimed & ignored
    assert {why: len(names) for why, names in parts.ignored.items()} == {"EMA scalars": 2, "schedule buffers": 12}


def test_deprecated_vae_attention_names_mean_the_current_ones():
    entries, old = golden()["sd15"]["folder"]["vae"], golden()["sd15"]["vae_deprecated"]
    renamed = {old.get(name, name): shape for name, shape in entries.items()}
    assert len(set(renamed) - set(entries)) == 16
    current, deprecated = targets(entries, "vae"), targets(renamed, "vae")
    assert {ours: (old.get(name, name), block) for ours, (name, block) in current.items()} == deprecated


def test_ldm_vae_that_was_exported_with_to_q_is_understood():
    entries = golden()["sd15"]["single"]
    leaf = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
    renamed = {re.sub(r"attn_1\.(q|k|v|proj_out)\.", lambda m: f"attn_1.{leaf[m[1]]}.", name): e for name, e in entries.items()}
    assert targets(renamed, "vae").keys() == targets(entries, "vae").keys()


@pytest.mark.parametrize("prefix", ["state_dict.", "state_dict.state_dict.", "a.b.c."])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_prefix_nobody_listed_does_not_matter(family, prefix):
    entries = golden()[family]["single"]
    parts = split(infos({prefix + name: entry for name, entry in entries.items()}))
    assert not parts.other and sum(map(len, parts.ignored.values())) == 14
    for part in ("unet", "vae", "text"):
        (group,) = parts.of(part)
        assert {ours: piece.info.name.removeprefix(prefix) for ours, piece in to_ours(group).pieces.items()} == {
            ours: name for ours, (name, _) in targets(entries, part).items()
        }


@pytest.mark.parametrize("bare", ["model.diffusion_model.", "first_stage_model."])
def test_one_part_without_a_prefix_does_not_swallow_the_others(bare):
    entries = golden()["sd15"]["single"]
    parts = split(infos({name.removeprefix(bare): entry for name, entry in entries.items()}))
    assert not parts.other
    for part, count in (("unet", 686), ("vae", 248), ("text", 197)):
        (group,) = parts.of(part)
        assert len(group.tensors) == count
        assert {piece.info.name for piece in to_ours(group).pieces.values()} == {
            name.removeprefix(bare) for name, _ in targets(entries, part).values()
        }


def test_text_encoder_names_are_found_with_and_without_text_model():
    entries = golden()["sd15"]["single"]
    bare = {name.replace(".text_model.", "."): entry for name, entry in entries.items()}
    assert bare != entries
    assert targets(bare, "text").keys() == targets(entries, "text").keys()
    folder = golden()["sd15"]["folder"]["text"]
    flat = {name.removeprefix("text_model."): entry for name, entry in folder.items()}
    assert targets(flat, "text").keys() == targets(folder, "text").keys()


def test_ema_names_are_the_published_ones():
    prefix = "model.diffusion_model."
    unet = [name.removeprefix(prefix) for name in golden()["sd15"]["single"] if name.startswith(prefix)]
    assert {"model_ema." + ema_shadow(name) for name in unet} == set(golden()["sd15"]["ema_shadow"])


def test_block_numbers_follow_a_files_own_topology():
    # Three levels of one residual block each, attention in the lowest alone: numbers mean something else than in SD.
    names = [f"input_blocks.{n}.0.in_layers.0.weight" for n in (1, 3, 5)] + ["input_blocks.0.0.weight"]
    names += [f"input_blocks.{n}.0.op.weight" for n in (2, 4)]
    names += ["input_blocks.5.1.norm.weight", "output_blocks.0.1.norm.weight", "output_blocks.1.1.norm.weight"]
    names += [f"output_blocks.{n}.0.in_layers.0.weight" for n in range(6)]
    names += ["output_blocks.1.2.conv.weight", "output_blocks.3.1.conv.weight"]
    found = targets({name: ["F32", 1] for name in names}, "unet")
    assert {ours: name for ours, (name, _) in found.items()} == {
        "conv_in.weight": "input_blocks.0.0.weight",
        "down.0.resnets.0.norm1.weight": "input_blocks.1.0.in_layers.0.weight",
        "down.0.downsample.conv.weight": "input_blocks.2.0.op.weight",
        "down.1.resnets.0.norm1.weight": "input_blocks.3.0.in_layers.0.weight",
        "down.1.downsample.conv.weight": "input_blocks.4.0.op.weight",
        "down.2.resnets.0.norm1.weight": "input_blocks.5.0.in_layers.0.weight",
        "down.2.attn.0.norm.weight": "input_blocks.5.1.norm.weight",
        "up.0.resnets.0.norm1.weight": "output_blocks.0.0.in_layers.0.weight",
        "up.0.attn.0.norm.weight": "output_blocks.0.1.norm.weight",
        "up.0.resnets.1.norm1.weight": "output_blocks.1.0.in_layers.0.weight",
        "up.0.attn.1.norm.weight": "output_blocks.1.1.norm.weight",
        "up.0.upsample.conv.weight": "output_blocks.1.2.conv.weight",
        "up.1.resnets.0.norm1.weight": "output_blocks.2.0.in_layers.0.weight",
        "up.1.resnets.1.norm1.weight": "output_blocks.3.0.in_layers.0.weight",
        "up.1.upsample.conv.weight": "output_blocks.3.1.conv.weight",
        "up.2.resnets.0.norm1.weight": "output_blocks.4.0.in_layers.0.weight",
        "up.2.resnets.1.norm1.weight": "output_blocks.5.0.in_layers.0.weight",
    }
