"""What a file is, told by its tensors alone; and what shapes cannot tell."""

import json

import pytest
import torch
from safetensors.torch import save_file

from analogist.cli.main import main
from analogist.weights import WeightsError, open_checkpoint
from analogist.weights.model_families import guess, unet_family
from analogist.weights.parts import split, to_ours
from analogist.weights.survey import survey
from tests.checkpoints import golden, single_file, small, small_configs, write_folder, write_single
from tests.test_keymaps import infos, sparse


def family_of(entries):
    parts = split(infos(entries))
    text = parts.of("text")
    return unet_family(to_ours(parts.of("unet")[0]).pieces, text[0] if text else None).name


def with_inputs(entries, channels):
    return {
        name: [entry[0], entry[1], channels, 3, 3] if name.endswith("input_blocks.0.0.weight") or name == "conv_in.weight" else entry
        for name, entry in entries.items()
    }


@pytest.mark.parametrize("base", ["sd15", "sd2", "sdxl"])
def test_published_unets_are_told_apart_by_shapes(base):
    entries = golden()[base]["folder"]["unet"]
    assert family_of(entries) == f"{base}-inpainting"
    assert family_of(with_inputs(entries, 4)) == base
    if base != "sdxl":
        assert family_of(golden()[base]["single"]) == f"{base}-inpainting"


@pytest.mark.parametrize("family", ["sd15", "sd2"])
def test_small_models_of_widths_nobody_published_keep_their_family(family):
    tensors = single_file(family, small(family))
    assert family_of({name: ["F32", *tensor.shape] for name, tensor in tensors.items()}) == f"{family}-inpainting"


def message(path, **options):
    with pytest.raises(WeightsError) as caught:
        open_checkpoint(path, **options)
    return str(caught.value)


def test_a_checkpoint_with_4_channels_is_named_as_not_inpainting(tmp_path):
    text = message(sparse(tmp_path / "a.safetensors", with_inputs(golden()["sd15"]["single"], 4)))
    assert "4 input channels" in text and "not an inpainting checkpoint" in text


def sdxl_folder(folder, **changed):
    """The published SDXL inpainting folder's headers; changed: a part's entries, None leaves it out."""
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        entries = changed.get(part, golden()["sdxl"]["folder"][part])
        stem = "model" if part.startswith("text") else "diffusion_pytorch_model"
        if entries is not None:
            sparse(folder / part / f"{stem}.safetensors", entries)
    return folder


def test_an_sdxl_folder_without_its_second_text_encoder_says_so(tmp_path):
    text = message(sdxl_folder(tmp_path, text_encoder_2=None))
    assert "Stable Diffusion XL inpainting" in text and "text_encoder_2/ is missing" in text


def test_sdxl_with_4_channels_is_named_as_not_inpainting(tmp_path):
    text = message(sdxl_folder(tmp_path, unet=with_inputs(golden()["sdxl"]["folder"]["unet"], 4)))
    assert "Stable Diffusion XL with 4 input channels" in text and "not an inpainting checkpoint" in text


def test_a_second_text_encoder_without_its_projection_is_named(tmp_path):
    entries = {name: entry for name, entry in golden()["sdxl"]["folder"]["text_encoder_2"].items() if name != "text_projection.weight"}
    assert "no text_projection.weight" in message(sdxl_folder(tmp_path, text_encoder_2=entries))


def test_the_published_sdxl_folder_fits_the_networks_built_for_it(tmp_path):
    import torch

    from analogist.models.clip_text import CLIPText, CLIPTextConfig
    from analogist.models.unet import UNet, UNetConfig
    from analogist.models.vae import VAE, VAEConfig

    checkpoint = open_checkpoint(sdxl_folder(tmp_path))
    assert checkpoint.family == "sdxl-inpainting" and checkpoint.vae["scaling_factor"] == 0.13025 and checkpoint.vae_float32
    assert checkpoint.pad_token_id == 49407 and checkpoint.pad_token_id_2 == 0
    assert (checkpoint.unet["heads"], checkpoint.unet["depth"], checkpoint.unet["pooled_width"]) == ((5, 10, 20), (0, 2, 10), 1280)
    assert checkpoint.text["hidden_act"] == "quick_gelu" and checkpoint.text_2["hidden_act"] == "gelu"
    with torch.device("meta"):
        modules = {
            "unet": UNet(UNetConfig(**checkpoint.unet)), "vae": VAE(VAEConfig(**checkpoint.vae)),
            "text": CLIPText(CLIPTextConfig(**checkpoint.text)),
            "text_2": CLIPText(CLIPTextConfig(**checkpoint.text_2), projected=True),
        }  # fmt: skip
    for part, module in modules.items():
        assert checkpoint.compare(part, module).fits, part
    assert sum(p.numel() for p in modules["unet"].parameters()) == 2_567_478_084  # as published
    assert sum(p.numel() for p in modules["text_2"].parameters()) == 694_659_840


LORA_KOHYA = {
    f"lora_unet_down_blocks_{i}_attentions_0_proj_in.{leaf}": ["F16", 4, 4]
    for i in range(3)
    for leaf in ("lora_down.weight", "lora_up.weight")
}
LORA_PEFT = {f"unet.down_blocks.{i}.attentions.0.proj_in.lora_{x}.weight": ["F16", 4, 4] for i in range(3) for x in "AB"}
CONTROL = {"control_model.input_hint_block.0.weight": ["F16", 4], "control_model.input_blocks.0.0.weight": ["F16", 4, 4, 3, 3]}
FLUX = {f"double_blocks.{i}.img_attn.qkv.weight": ["F16", 4, 4] for i in range(3)}


@pytest.mark.parametrize(
    ("entries", "name", "words"),
    [
        (LORA_KOHYA, "lora", "LoRA"),
        (LORA_PEFT, "lora", "LoRA"),
        (CONTROL, "controlnet", "ControlNet"),
        (FLUX, "transformer", "diffusion transformer"),
        (golden()["sd15"]["folder"]["vae"], "vae", "a VAE alone"),
        (golden()["sd15"]["folder"]["text"], "text-encoder", "a text encoder alone"),
        ({"emb_params": ["F16", 2, 768]}, "textual-inversion", "textual inversion"),
        ({"x": ["F16", 2], "y": ["F16", 2], "z": ["F16", 2]}, "unknown", "not a Stable Diffusion checkpoint"),
        ({}, "unknown", "no tensors"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_checkpoint_is_named(tmp_path, entries, name, words):
    assert guess(split(infos(entries)), list(entries)).name == name
    path = sparse(tmp_path / "a.safetensors", entries)
    assert words in message(path)
    assert survey(path).family.name == name


def test_heads_come_from_config_then_from_beside_then_from_the_family(tmp_path):
    path = write_single(tmp_path / "a.safetensors", "sd15")
    text = {"text_encoder": {"num_attention_heads": 3}, "vae": {"norm_num_groups": 8}}
    unet = {"norm_num_groups": 16}
    assert open_checkpoint(path, config={"unet": unet, **text}).unet["heads"] == (8, 8, 8, 8)
    (tmp_path / "a.json").write_text(json.dumps({"unet": {**unet, "attention_head_dim": 4}, **text}))
    beside = open_checkpoint(path)
    assert beside.unet["heads"] == (4, 4, 4, 4) and any("a.json" in note for note in beside.notes)
    assert open_checkpoint(path, config={"unet": {"attention_head_dim": [1, 2, 4, 8]}}).unet["heads"] == (1, 2, 4, 8)


UNRELATED = {
    "metadata of a user interface": {"description": "a model", "sd version": "SD1", "text": "", "notes": "", "preferred weight": 0},
    "metadata of a model site": {"id": 1, "modelId": 2, "model": {"name": "x", "type": "Checkpoint"}, "files": [{"sizeKB": 3.5}]},
    "a language model's config": {"model_type": "llama", "num_attention_heads": 4, "pad_token_id": 0, "architectures": ["Llama"]},
    "another network's config": {"_class_name": "FluxTransformer2DModel", "attention_head_dim": 4, "num_attention_heads": 4},
    "a list": [1, 2],
    "nothing": {},
    "over what a config may have": {"preview": "x" * 2**24},
}


@pytest.mark.parametrize("content", UNRELATED.values(), ids=UNRELATED.keys())
def test_a_json_that_is_no_config_is_ignored_with_a_note_beside_the_weights_and_refused_as_config(tmp_path, content):
    path = write_single(tmp_path / "model.safetensors", "sd15")
    known = {"unet": {"norm_num_groups": 16}, "text_encoder": {"num_attention_heads": 3}, "vae": {"norm_num_groups": 8}}
    alone = open_checkpoint(path, config=known)
    for name in ("model.json", "model.civitai.info.json", "config.json"):
        (tmp_path / name).write_text(json.dumps(content))
    beside = open_checkpoint(path, config=known)
    assert [note for note in beside.notes if note not in alone.notes] == [note for note in beside.notes if note.startswith("model.json ")]
    assert sum("model.json beside the weights ignored" in note for note in beside.notes) == 1
    assert (beside.unet, beside.vae, beside.text, beside.pad_token_id, beside.fingerprint) == (
        alone.unet, alone.vae, alone.text, alone.pad_token_id, alone.fingerprint,
    )  # fmt: skip
    assert "model.json" in message(path, config=tmp_path / "model.json")


def test_an_unrelated_config_at_the_root_of_a_folder_is_ignored_with_a_note_and_refused_as_config(tmp_path):
    folder = write_folder(tmp_path / "folder", "sd15", configs=False)
    (folder / "config.json").write_text(json.dumps(UNRELATED["a language model's config"]))
    configs = small_configs("sd15")
    known = {"unet": configs["unet"], "vae": configs["vae"], "text_encoder": configs["text"]}
    assert any("config.json beside the weights ignored" in note for note in open_checkpoint(folder, config=known).notes)
    assert "no config in this folder" in message(folder, config=folder)
    single = write_single(tmp_path / "a.safetensors", "sd15")
    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    (folder / "vae" / "config.json").write_text(json.dumps({"model_type": "other"}))
    notes = open_checkpoint(single, config=known, vae=vae).notes
    assert any("config.json beside the weights ignored" in note for note in notes)


def test_a_cut_off_config_beside_the_weights_is_still_an_error(tmp_path):
    path = write_single(tmp_path / "a.safetensors", "sd15")
    (tmp_path / "a.json").write_text('{"unet": {"attention_head_dim"')
    assert "a.json: not a JSON file" in message(path)


def test_metadata_beside_a_file_does_not_hide_the_folder_it_lies_in(tmp_path):
    write_folder(tmp_path, "sd2")
    path = write_single(tmp_path / "all.safetensors", "sd2")
    (tmp_path / "all.json").write_text(json.dumps(UNRELATED["metadata of a model site"]))
    checkpoint = open_checkpoint(path)
    assert checkpoint.unet["heads"] == (1, 2, 4, 4) and any("all.json beside the weights ignored" in note for note in checkpoint.notes)


def test_a_single_file_inside_a_diffusers_folder_takes_its_configs(tmp_path):
    write_folder(tmp_path, "sd2")
    path = write_single(tmp_path / "all.safetensors", "sd2")
    checkpoint = open_checkpoint(path)
    assert (checkpoint.unet["heads"], checkpoint.text["hidden_act"]) == ((1, 2, 4, 4), "gelu")
    assert checkpoint.text["num_hidden_layers"] == 3


def test_config_may_be_a_folder_a_json_file_or_one_parts_own_config(tmp_path):
    path = write_single(tmp_path / "a.safetensors", "sd15")
    folder = write_folder(tmp_path / "folder", "sd15")
    whole = open_checkpoint(path, config=folder)
    assert (whole.unet, whole.vae, whole.text) == tuple(getattr(open_checkpoint(folder), part) for part in ("unet", "vae", "text"))
    file = tmp_path / "any.json"
    file.write_text(json.dumps(small_configs("sd15")["unet"]))
    assert "norm groups do not divide the VAE" in message(path, config=file)
    assert "none of its keys is known" in message(path, config={"colour": 3})


def test_numbers_that_do_not_divide_ask_for_a_config(tmp_path):
    path = write_single(tmp_path / "a.safetensors", "sd2")
    assert "unet.attention_head_dim" in message(path)
    assert "unet.norm_num_groups" in message(path, config={"unet": {"attention_head_dim": 1, "norm_num_groups": 48}})
    assert "vae.norm_num_groups" in message(path, config={"unet": {"attention_head_dim": 1}})
    assert "text_encoder.num_attention_heads" in message(
        path, config={"unet": {"attention_head_dim": 1, "norm_num_groups": 16}, "vae": {"norm_num_groups": 8}}
    )
    assert "must divide" in message(path, config={"unet": {"attention_head_dim": 7}})


@pytest.mark.parametrize(
    ("scheduler", "words"),
    [
        ({"prediction_type": "sample"}, "allowed are 'epsilon' (the noise) and 'v_prediction' (the velocity)"),
        ({"timestep_spacing": "linspace"}, "one whole stride apart"),
        ({"rescale_betas_zero_snr": True}, "x0 would be 0 / 0"),
        ({"rescale_betas_zero_snr": "yes"}, "true or false"),
        ({"beta_schedule": "linear"}, "scaled_linear"),
        ({"beta_end": 2.0}, "betas run from"),
        ({"steps_offset": -1}, "steps_offset"),
        ({"num_train_timesteps": "many"}, "num_train_timesteps"),
    ],
)
def test_a_schedule_that_is_not_stable_diffusions_is_refused(tmp_path, scheduler, words):
    assert words in message(write_folder(tmp_path, "sd15"), config={"scheduler": scheduler})


def test_velocity_zero_terminal_snr_and_trailing_times_are_read_from_the_scheduler_file(tmp_path):
    folder = write_folder(tmp_path, "sd15")
    published = open_checkpoint(folder)
    assert published.scheduler["prediction_type"] == "epsilon"
    said = {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | said))
    changed = open_checkpoint(folder)
    assert {name: changed.scheduler[name] for name in said} == said
    assert changed.fingerprint != published.fingerprint
    file.write_text(json.dumps(json.loads(file.read_text()) | {**said, "prediction_type": "epsilon"}))
    assert "x0 would be 0 / 0" in message(folder)


def test_a_single_file_says_that_the_noise_is_assumed_and_how_to_say_otherwise(tmp_path):
    path, given = write_single(tmp_path / "a.safetensors", "sd15"), small_configs("sd15")
    known = {part: config for part, config in given.items() if part != "scheduler"}
    (assumed,) = [note for note in open_checkpoint(path, config=known).notes if "assumed" in note]
    assert "'epsilon'" in assumed and 'config={"scheduler": {"prediction_type": "v_prediction"}}' in assumed
    said = open_checkpoint(path, config={**known, "scheduler": {"prediction_type": "v_prediction"}})
    assert said.scheduler["prediction_type"] == "v_prediction" and not any("assumed" in note for note in said.notes)


def test_settings_of_a_network_that_is_not_built_here_are_refused(tmp_path):
    folder = write_folder(tmp_path, "sd15")
    assert "act_fn" in message(folder, config={"unet": {"act_fn": "gelu"}})
    assert "latents_mean" in message(folder, config={"vae": {"latents_mean": [0.0] * 4}})


def test_tensors_win_over_a_config_that_contradicts_them(tmp_path):
    checkpoint = open_checkpoint(write_folder(tmp_path, "sd15"), config={"unet": {"in_channels": 4}})
    assert checkpoint.unet["in_channels"] == 9
    assert any("in_channels = 4" in note and "shapes were used" in note for note in checkpoint.notes)


def test_parts_of_two_models_do_not_go_together(tmp_path):
    parts = dict(small("sd15"))
    parts["text"] = {name: torch.cat([t, t], -1) if name.endswith("embedding.weight") else t for name, t in parts["text"].items()}
    folder = write_folder(tmp_path, "sd15", parts)
    assert "48 wide, the UNet expects 24" in message(folder)


def inspect(path, capsys, *more):
    code = main(["weights", "inspect", str(path), *more])
    return code, capsys.readouterr()


def test_inspect_prints_family_layout_parts_types_and_counts(tmp_path, capsys):
    code, out = inspect(write_folder(tmp_path, "sd2", variant="fp16"), capsys)
    assert code == 0 and not out.err
    for words in ("sd2-inpainting", "folder", "686 tensors (686 F16)", "248 tensors (248 F16)", "0 missing, 0 extra", "usable      yes"):
        assert words in out.out
    for part in ("unet", "vae", "text"):
        assert f"{sum(tensor.numel() for tensor in small('sd2')[part].values()):,} parameters" in out.out


def test_inspect_says_what_is_missing_and_extra(tmp_path, capsys):
    tensors = single_file("sd15", small("sd15"))
    del tensors["model.diffusion_model.input_blocks.4.1.proj_in.weight"]
    tensors["model.diffusion_model.colour.weight"] = torch.zeros(2)
    save_file(tensors, tmp_path / "a.safetensors")
    code, out = inspect(tmp_path / "a.safetensors", capsys)
    assert code == 0
    assert "1 missing: down.1.attn.0.proj_in.weight" in out.out
    assert "1 extra: model.diffusion_model.colour.weight" in out.out
    assert "usable      no" in out.out


def test_inspect_describes_what_is_no_checkpoint(tmp_path, capsys):
    code, out = inspect(sparse(tmp_path / "a.safetensors", LORA_KOHYA), capsys)
    assert code == 0 and "lora: a LoRA" in out.out and "usable      no" in out.out


def test_inspect_of_a_missing_path_is_one_line_and_code_2(tmp_path, capsys):
    code, out = inspect(tmp_path / "nowhere", capsys)
    assert code == 2 and not out.out
    assert out.err.count("\n") == 1 and "no such file or folder" in out.err
