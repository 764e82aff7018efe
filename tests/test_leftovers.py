"""Checkpoints with more in them than a model: what trainers and merges leave, parts twice, 8-bit weights with scales, large headers."""

import json

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from analogist.models.clip_text import CLIPText, CLIPTextConfig
from analogist.models.unet import UNet, UNetConfig
from analogist.models.vae import VAE, VAEConfig
from analogist.weights import WeightsError, open_checkpoint
from analogist.weights.convert import convert
from analogist.weights.header import read_header
from analogist.weights.survey import survey
from tests.checkpoints import single_file, small, small_configs, write_configs, write_folder
from tests.test_cli import fails

FAMILIES = ("sd15", "sd2")
NEW = "cond_stage_model.transformer.text_model."
OLD = "cond_stage_model.transformer."
Q = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q"


@pytest.fixture
def config(tmp_path):
    """A folder with the small model's configs."""
    write_configs(tmp_path / "configs", "sd15", small_configs("sd15"))
    return tmp_path / "configs"


def write(path, tensors: dict[str, Tensor]):
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def loaded(checkpoint) -> dict[str, Tensor]:
    """All parameters of the three networks, as the product loads them."""
    with torch.device("meta"):
        modules = {
            "unet": UNet(UNetConfig(**checkpoint.unet)),
            "vae": VAE(VAEConfig(**checkpoint.vae)),
            "text": CLIPText(CLIPTextConfig(**checkpoint.text)),
        }
    for part, module in modules.items():
        getattr(checkpoint, f"load_{part}")(module)
    return {f"{part}.{name}": tensor for part, module in modules.items() for name, tensor in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


LEFT = {  # what lies in the file -> a word of the note
    "global_step": "counters",
    "state_dict.global_step": "counters",
    "epoch": "counters",
    "iteration": "counters",
    "embedding_manager.embedder.weight": "textual inversion",
    "embedding_manager.string_to_param_dict.*": "textual inversion",
    "model.embedding_manager.initial_embeddings.*": "textual inversion",
    "optimizer_states.0.state.17.exp_avg": "states of a trainer",
    "optimizer.state.0.exp_avg_sq": "states of a trainer",
    "lr_schedulers.0.last_lr": "states of a trainer",
    "callbacks.ModelCheckpoint.best": "states of a trainer",
    "loops.fit_loop.epoch_progress": "states of a trainer",
    "rng_state": "states of a trainer",
    "safety_checker.concept_embeds": "safety checker",
    "safety_checker.vision_model.vision_model.encoder.layers.0.mlp.fc1.weight": "safety checker",
    "cond_stage_model.transformer.vision_model.encoder.layers.0.self_attn.q_proj.weight": "image encoder",
    "cond_stage_model.transformer.visual_projection.weight": "image encoder",
    "model_sampling.sigmas": "schedule",
    "model_sampling.log_sigmas": "schedule",
    "loss.logvar_net.weight": "training loss",
    "cond_stage_model.logit_scale": "text encoder",
}


def settings(family: str) -> dict[str, object]:
    """config= for a single file of a family, whose tower has a layer more than runs for SD 2."""
    configs = small_configs(family)
    text = {key: value for key, value in configs["text"].items() if key != "num_hidden_layers"}
    layer = {"text_layer": "penultimate"} if family == "sd2" else {}
    return {"unet": configs["unet"], "vae": configs["vae"], "text_encoder": text, **layer}


@pytest.fixture(scope="module", params=FAMILIES)
def plain(request, tmp_path_factory):
    """(family, a checkpoint in one file with nothing left in it)."""
    path = write(tmp_path_factory.mktemp("plain") / "a.safetensors", single_file(request.param, small(request.param)))
    return request.param, open_checkpoint(path, config=settings(request.param))


@pytest.mark.parametrize("name", LEFT)
def test_what_trainers_and_merges_leave_is_ignored_with_a_note(tmp_path, plain, name):
    family, before = plain
    path = tmp_path / "left.safetensors"
    after = open_checkpoint(write(path, single_file(family, small(family)) | {name: torch.ones(3)}), config=settings(family))
    assert {part: source.mapped.pieces.keys() for part, source in after.sources.items()} == {
        part: source.mapped.pieces.keys() for part, source in before.sources.items()
    }
    assert all(not source.outside for source in after.sources.values())
    fresh = set(after.notes) - set(before.notes)
    assert len(fresh) == 1 and LEFT[name] in fresh.pop()
    assert survey(path, config=settings(family)).problem is None


def test_a_checkpoint_with_everything_left_in_it_loads_to_the_same_numbers(tmp_path, plain):
    family, before = plain
    tensors = single_file(family, small(family)) | {name: torch.ones(3) for name in LEFT}
    assert same(loaded(open_checkpoint(write(tmp_path / "left.safetensors", tensors), config=settings(family))), loaded(before))


def test_what_is_left_in_a_parts_own_file_is_ignored_with_a_note_too(tmp_path):
    parts = {part: dict(tensors) for part, tensors in small("sd15").items()}
    parts["unet"]["global_step"] = torch.tensor(7)
    parts["vae"]["optimizer_states.0"] = torch.ones(3)
    checkpoint = open_checkpoint(write_folder(tmp_path, "sd15", parts))
    loaded(checkpoint)
    assert any(note.startswith("UNet: 1 counters of a trainer") for note in checkpoint.notes)
    assert any(note.startswith("VAE: 1 states of a trainer") for note in checkpoint.notes)


STRANGE = {  # a name nobody knows -> what is blamed
    "colour.weight": "belong to no part of a checkpoint",
    "model.v_prediction": "its UNet does not fit: 1 extra: model.v_prediction",
    "edm_vpred.sigma_max": "edm_vpred.sigma_max: it says that its UNet is one for EDM's noise levels",
    "edm_mean": "edm_mean: it says that its UNet is one for EDM's noise levels",
    "my_global_step_2": "belong to no part of a checkpoint",
    "cond_stage_model.colour.weight": "its text encoder does not fit: 1 extra: cond_stage_model.colour.weight",
    "cond_stage_model.transformer.text_model.colour": "its text encoder does not fit: 1 extra: cond_stage_model.transformer.text_model.c",
    "first_stage_model.colour.weight": "its VAE does not fit: 1 extra: first_stage_model.colour.weight",
    "first_stage_model.decoder.colour.weight": "its VAE does not fit: 1 extra: first_stage_model.decoder.colour.weight",
    "model.diffusion_model.colour.weight": "its UNet does not fit: 1 extra: model.diffusion_model.colour.weight",
    "model.colour": "its UNet does not fit: 1 extra: model.colour",
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_name_that_nobody_knows_is_an_error_that_blames_the_part_it_stands_in(tmp_path, config, name):
    path = write(tmp_path / "a.safetensors", single_file("sd15", small("sd15")) | {name: torch.zeros(2)})
    with pytest.raises(WeightsError) as caught:
        loaded(open_checkpoint(path, config=config))
    assert STRANGE[name] in str(caught.value) and name in str(caught.value)


# ---- marks of what the UNet predicts: empty tensors, as ComfyUI writes them into a checkpoint whose UNet predicts the velocity

EMPTY = torch.tensor([])
VELOCITY, ZERO = {"prediction_type": "v_prediction"}, {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
MARKED = {  # names of empty tensors in the file, what the config says of the scheduler -> settings of the schedule that is sampled
    "v_pred": (["v_pred"], {}, VELOCITY),
    "v_pred and ztsnr": (["v_pred", "ztsnr"], {}, ZERO),
    "below a trainer's prefix": (["state_dict.v_pred", "module.ztsnr"], {}, ZERO),
    "v_pred, and the config says so too": (["v_pred"], VELOCITY, VELOCITY),
    "v_pred against a config": (["v_pred"], {"prediction_type": "epsilon"}, {"prediction_type": "epsilon"}),
    "v_pred against a config without a word on it": (["v_pred"], {"prediction_type": None, "timestep_spacing": "trailing"}, VELOCITY),
    "ztsnr with a config that says velocity": (["ztsnr"], VELOCITY, ZERO),
    "ztsnr that the config takes back": (["v_pred", "ztsnr"], {"rescale_betas_zero_snr": False}, VELOCITY),
    "neither": ([], {}, {"prediction_type": "epsilon"}),
}


@pytest.mark.parametrize("case", MARKED)
def test_the_marks_of_velocity_and_zero_terminal_snr_are_honoured_with_a_note(tmp_path, case):
    names, scheduler, want = MARKED[case]
    path = write(tmp_path / "a.safetensors", single_file("sd15", small("sd15")) | dict.fromkeys(names, EMPTY))
    known = {**settings("sd15"), "scheduler": scheduler}
    checkpoint = open_checkpoint(path, config=known)
    expected = {"rescale_betas_zero_snr": None, **want}
    assert {name: checkpoint.scheduler.get(name) for name in expected} == expected
    for name in names:
        assert sum(f"the tensor {name} in the file says" in note for note in checkpoint.notes) == 1
    assert any("is assumed" in note for note in checkpoint.notes) == (case == "neither")
    against = case in ("v_pred against a config", "ztsnr that the config takes back")
    assert any("which was taken" in note for note in checkpoint.notes) == against
    assert survey(path, config=known).problem is None
    loaded(checkpoint)


def test_zero_terminal_snr_without_a_word_on_what_is_predicted_is_refused_with_the_way_on(tmp_path, config):
    path = write(tmp_path / "a.safetensors", single_file("sd15", small("sd15")) | {"ztsnr": EMPTY})
    with pytest.raises(WeightsError, match="ztsnr says that the noise schedule ends in pure noise.*v_pred.*config="):
        open_checkpoint(path, config=config)
    known = {**settings("sd15"), "scheduler": {"rescale_betas_zero_snr": False, "prediction_type": "epsilon"}}
    assert open_checkpoint(path, config=known).scheduler["prediction_type"] == "epsilon"


def test_the_config_beside_a_file_goes_before_its_marks_and_a_converted_copy_keeps_what_they_say(tmp_path):
    source = write(tmp_path / "a.safetensors", single_file("sd15", small("sd15")) | {"v_pred": EMPTY, "ztsnr": EMPTY})
    for out in ("folder", "one.safetensors"):
        convert(source, tmp_path / out, config=settings("sd15"), dtype=torch.float16)
        assert open_checkpoint(tmp_path / out).scheduler.items() >= ZERO.items()
    otherwise = {"prediction_type": "epsilon", "rescale_betas_zero_snr": False}
    (tmp_path / "a.json").write_text(json.dumps({**settings("sd15"), "scheduler": otherwise}))
    assert open_checkpoint(source).scheduler["prediction_type"] == "epsilon"


def twice(change: dict[str, Tensor] | None = None, only: str = "") -> dict[str, Tensor]:
    """A single file with the text encoder under its new and old names; change: in the old ones; only: those with this in their names."""
    tensors = single_file("sd15", small("sd15"))
    old = {name.replace(NEW, OLD): tensor.clone() for name, tensor in tensors.items() if name.startswith(NEW) and only in name}
    return tensors | old | (change or {})


@pytest.mark.parametrize("only", ["", "encoder.layers.", "mlp"])
def test_a_text_encoder_under_old_and_new_names_with_equal_numbers_is_taken_once_with_a_note(tmp_path, config, only):
    plain = open_checkpoint(write(tmp_path / "plain.safetensors", single_file("sd15", small("sd15"))), config=config)
    checkpoint = open_checkpoint(write(tmp_path / "a.safetensors", twice(only=only)), config=config)
    assert same(loaded(checkpoint), loaded(plain))
    assert sum("text encoder: present twice" in note and repr(NEW) in note and repr(OLD) in note for note in checkpoint.notes) == 1


def test_a_text_encoder_under_old_and_new_names_that_differ_is_blamed(tmp_path, config):
    name = OLD + "encoder.layers.1.mlp.fc1.bias"
    path = write(tmp_path / "a.safetensors", twice({name: torch.zeros(48)}))
    with pytest.raises(WeightsError, match="the text encoder is present twice.*1 tensors differ.*layers.1.mlp.fc1.bias.*remove one"):
        open_checkpoint(path, config=config)
    assert "the text encoder is present twice" in survey(path, config=config).problem


def test_a_text_encoder_of_which_each_form_holds_something_of_its_own_is_blamed(tmp_path, config):
    tensors = twice()
    for name in (NEW + "encoder.layers.1.mlp.fc1.bias", NEW + "encoder.layers.0.mlp.fc1.bias", OLD + "final_layer_norm.bias"):
        del tensors[name]
    with pytest.raises(WeightsError, match="the text encoder is present in two forms"):
        open_checkpoint(write(tmp_path / "a.safetensors", tensors), config=config)


def test_another_part_twice_is_taken_once_or_blamed_as_well(tmp_path, config):
    tensors = single_file("sd15", small("sd15"))
    copy = {"unet." + name: tensor.clone() for name, tensor in small("sd15")["unet"].items()}
    checkpoint = open_checkpoint(write(tmp_path / "a.safetensors", tensors | copy), config=config)
    assert any("UNet: present twice" in note for note in checkpoint.notes)
    copy["unet.conv_in.bias"] = copy["unet.conv_in.bias"] + 1
    with pytest.raises(WeightsError, match="the UNet is present twice.*1 tensors differ"):
        open_checkpoint(write(tmp_path / "b.safetensors", tensors | copy), config=config)


def test_equal_tensors_under_deprecated_and_current_names_are_taken_once(tmp_path):
    parts = {part: dict(tensors) for part, tensors in small("sd15").items()}
    name = "decoder.mid_block.attentions.0.{}.weight"
    parts["vae"][name.format("query")] = parts["vae"][name.format("to_q")].clone()
    checkpoint = open_checkpoint(write_folder(tmp_path / "equal", "sd15", parts))
    assert same(loaded(checkpoint), loaded(open_checkpoint(write_folder(tmp_path / "plain", "sd15"))))
    assert any("VAE: 1 stored tensors not needed" in note for note in checkpoint.notes)
    parts["vae"][name.format("query")] += 1
    with pytest.raises(WeightsError, match="its VAE does not fit: 1 present twice"):
        loaded(open_checkpoint(write_folder(tmp_path / "different", "sd15", parts)))


# ---- 8-bit weights

E4, E5 = torch.float8_e4m3fn, torch.float8_e5m2


def scaled(tensors: dict[str, Tensor], names: list[str], *, ending="scale_weight", dtype=E4, rows=False) -> dict[str, Tensor]:
    """The same with some weights in 8 bits beside a scale, as ComfyUI writes them."""
    out = dict(tensors)
    for name in names:
        weight = out[name + ".weight"].float()
        scale = weight.abs().flatten(1).amax(1) / 100 if rows else weight.abs().max() / 100
        wide = scale.view(-1, *(1 for _ in weight.shape[1:])) if rows else scale
        out[name + ".weight"] = (weight / wide).to(dtype)
        out[f"{name}.{ending}"] = scale
    return out


LAYERS = [Q, "model.diffusion_model.input_blocks.0.0", "first_stage_model.encoder.conv_in", NEW + "encoder.layers.0.mlp.fc1"]
SCALED = {
    "scale_weight": {},
    "weight_scale": {"ending": "weight_scale"},
    "a scale for each row": {"rows": True},
    "the other 8-bit type": {"dtype": E5},
    "16-bit weights with scales": {"dtype": torch.float16},
}


def plainly(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The product written out: stored number times scale, in float32, and no scales."""
    out = {}
    for name, tensor in tensors.items():
        stem = name.removesuffix("weight")
        scale = next((tensors[stem + ending] for ending in ("scale_weight", "weight_scale") if stem + ending in tensors), None)
        if name.endswith(("scale_weight", "weight_scale")):
            continue
        wide = None if scale is None else scale.view(-1, *(1 for _ in tensor.shape[1:])) if scale.numel() > 1 else scale
        out[name] = tensor if scale is None else tensor.float() * wide
    return out


@pytest.mark.parametrize("form", SCALED)
def test_weights_with_scales_load_as_their_product(tmp_path, config, form):
    tensors = scaled(single_file("sd15", small("sd15")), LAYERS, **SCALED[form])
    marks = {"model.diffusion_model.scaled_fp8": torch.zeros(2).to(E4), Q + ".scale_input": torch.tensor(3.0)}
    marks[Q + ".comfy_quant"] = torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8)
    checkpoint = open_checkpoint(write(tmp_path / "a.safetensors", tensors | marks), config=config)
    want = open_checkpoint(write(tmp_path / "b.safetensors", plainly(tensors)), config=config)
    assert same(loaded(checkpoint), loaded(want))
    assert any("3 marks of 8-bit weights" in note for note in checkpoint.notes)
    assert any("multiplied by their scales" in note for note in checkpoint.notes) == (tensors[Q + ".weight"].itemsize == 1)
    assert checkpoint.fingerprint != open_checkpoint(
        write(tmp_path / "c.safetensors", tensors | {Q + ".scale_weight": torch.tensor(9.0)}), config=config
    ).fingerprint


def test_a_scale_of_stacked_rows_scales_its_own_rows(tmp_path):
    name = "cond_stage_model.model.transformer.resblocks.1.attn.out_proj"
    tensors = scaled(single_file("sd2", small("sd2")), [name], rows=True)
    got = loaded(open_checkpoint(write(tmp_path / "a.safetensors", tensors), config=settings("sd2")))
    assert torch.equal(got["text.encoder.layers.1.self_attn.out_proj.weight"], plainly(tensors)[name + ".weight"])


ODD_SCALES = {
    "of too many numbers": torch.ones(3),
    "by block": torch.ones(2, 2),
    "of whole numbers": torch.ones((), dtype=torch.int32),
    "without a weight": None,
}


@pytest.mark.parametrize("form", ODD_SCALES)
def test_a_scale_that_is_not_understood_is_refused_by_loading_and_converting(tmp_path, config, form):
    tensors = scaled(single_file("sd15", small("sd15")), [Q])
    name = Q + ".scale_weight"
    if ODD_SCALES[form] is None:
        name = Q.replace("to_q", "to_nothing") + ".scale_weight"
        tensors[name] = torch.ones(())
    else:
        tensors[name] = ODD_SCALES[form]
    path = write(tmp_path / "a.safetensors", tensors)
    with pytest.raises(WeightsError, match=f"its UNet does not fit.*extra: {name}"):
        loaded(open_checkpoint(path, config=config))


def test_a_scale_that_is_not_finite_is_named(tmp_path, config):
    tensors = scaled(single_file("sd15", small("sd15")), [Q]) | {Q + ".scale_weight": torch.tensor(float("nan"))}
    with pytest.raises(WeightsError, match="scale_weight holds NaN"):
        loaded(open_checkpoint(write(tmp_path / "a.safetensors", tensors), config=config))


CONVERTED = [(form, dtype) for form in ("scales", "8 bits without scales", "leftovers", "text twice") for dtype in (None, torch.float16)]
CONVERTED += [("scales", torch.bfloat16), ("scales", torch.float32), ("scales for each row", None), ("scales for each row", torch.float32)]


@pytest.mark.parametrize("out", ["one.safetensors", "folder"])
@pytest.mark.parametrize(("form", "dtype"), CONVERTED, ids=str)
def test_whatever_convert_writes_loads_to_the_sources_numbers(tmp_path, config, form, dtype, out):
    tensors = single_file("sd15", small("sd15"))
    match form:
        case "leftovers":
            tensors |= {"global_step": torch.tensor(3, dtype=torch.uint64), "embedding_manager.x": torch.ones(2)}
        case "text twice":
            tensors = twice()
        case "8 bits without scales":
            tensors[Q + ".weight"] = tensors[Q + ".weight"].to(E4)
        case _:
            tensors = scaled(tensors, LAYERS, rows="row" in form) | {"model.diffusion_model.scaled_fp8": torch.zeros(2).to(E4)}
    source = write(tmp_path / "a.safetensors", tensors)
    convert(source, tmp_path / out, dtype=dtype, config=config)
    want, got = loaded(open_checkpoint(source, config=config)), loaded(open_checkpoint(tmp_path / out))
    assert want.keys() == got.keys()
    for name, tensor in want.items():
        expected = tensor.to(dtype).float() if dtype is not None else tensor
        if dtype is None and out == "folder" and "scales" in form and not torch.equal(expected, got[name]):
            expected = tensor.half().float()  # this layout has no place for scales
        assert torch.equal(got[name], expected), name


def test_a_converted_folder_with_scales_worked_in_is_what_diffusers_reads(tmp_path, config):
    tensors = scaled(single_file("sd15", small("sd15")), [Q])
    report = convert(write(tmp_path / "a.safetensors", tensors), tmp_path / "folder", config=config)
    assert any("written as float16" in note for note in report.notes)
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "folder" / "unet", local_files_only=True)
    held = unet.get_submodule("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q").weight
    assert torch.equal(held, plainly(tensors)[Q + ".weight"].half().float())


REFUSED = {  # what cannot be loaded -> a word of the refusal
    "a strange name": ({"model.diffusion_model.colour": torch.ones(2)}, "extra"),
    "a strange name of no part": ({"colour": torch.ones(2)}, "belong to no part"),
    "whole numbers as weights": ({Q + ".weight": torch.ones(64, 64, dtype=torch.int32)}, "of a type that weights cannot have"),
    "a tensor missing": ({Q + ".weight": None}, "missing"),
    "another shape": ({Q + ".weight": torch.ones(64, 63)}, "of the wrong shape"),
    "an odd scale": ({Q + ".scale_weight": torch.ones(3)}, "extra"),
}


@pytest.mark.parametrize("out", ["one.safetensors", "folder"])
@pytest.mark.parametrize("form", REFUSED)
def test_convert_refuses_at_once_what_could_not_be_loaded(tmp_path, config, capsys, form, out):
    change, words = REFUSED[form]
    tensors = {name: tensor for name, tensor in (single_file("sd15", small("sd15")) | change).items() if tensor is not None}
    source = write(tmp_path / "a.safetensors", tensors)
    assert words in fails(capsys, ["weights", "convert", str(source), str(tmp_path / out), "--config", str(config), "--quiet"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "configs"]


def test_convert_leaves_a_settings_file_that_is_in_the_way_alone(tmp_path):
    folder = write_folder(tmp_path / "folder", "sd15")
    (tmp_path / "one.json").write_text("{}")
    with pytest.raises(WeightsError, match="one.json already exists and would be read as the settings of one.safetensors"):
        convert(folder, tmp_path / "one.safetensors")
    assert (tmp_path / "one.json").read_text() == "{}" and not (tmp_path / "one.safetensors").exists()


def test_a_number_beyond_the_type_asked_for_is_named_whatever_type_it_is(tmp_path, config):
    tensors = single_file("sd15", small("sd15"))
    tensors[Q + ".weight"] = torch.full((64, 64), 1e300, dtype=torch.float64)
    source = write(tmp_path / "a.safetensors", tensors)
    for dtype, kind in ((torch.float32, "float32"), (torch.bfloat16, "bfloat16"), (torch.float16, "float16")):
        with pytest.raises(WeightsError, match=f"holds 1e\\+300, beyond {kind}"):
            convert(source, tmp_path / "o.safetensors", dtype=dtype, config=config)
    assert not (tmp_path / "o.safetensors").exists()


# ---- headers


@pytest.mark.parametrize("megabytes", [17, 64, 99])
def test_a_header_up_to_the_formats_limit_is_read(tmp_path, megabytes):
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(2)}, path, metadata={"modelspec.thumbnail": "A" * (megabytes * 10**6)})
    with safe_open(path, "pt") as file:
        assert list(file.keys()) == list(read_header(path).tensors)


def test_a_header_beyond_the_formats_limit_is_refused_as_by_safetensors(tmp_path):
    path = tmp_path / "a.safetensors"
    header = json.dumps({"__metadata__": {"x": "A" * 100_000_000}, "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    with pytest.raises(Exception, match="(?i)header"), safe_open(path, "pt"):
        pass
    with pytest.raises(WeightsError, match="the format allows 100000000"):
        read_header(path)


def test_a_checkpoint_with_a_preview_in_its_header_loads(tmp_path, config):
    tensors = single_file("sd15", small("sd15"))
    save_file(tensors, tmp_path / "a.safetensors", metadata={"modelspec.thumbnail": "data:image/jpeg;base64," + "A" * (20 << 20)})
    plain = open_checkpoint(write(tmp_path / "b.safetensors", tensors), config=config)
    assert same(loaded(open_checkpoint(tmp_path / "a.safetensors", config=config)), loaded(plain))
