"""LoRA files in every naming that is met, merged as the formula says, and refused whole where anything does not fit."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from analogist import Analogist
from analogist.cli.main import main
from analogist.weights import WeightsError, reader
from analogist.weights.lora import merge_lora
from tests.checkpoints import PARITY
from tests.test_cli import fails

CHECKPOINT = PARITY / "checkpoint"
Q = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"  # a module in diffusers' names
K = "up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_k"
OUT = "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0"
TEXT = "encoder.layers.1.self_attn.v_proj"
OURS = {  # the same parameters in our names
    Q: "down.1.attn.0.blocks.0.self.to_q.weight",
    K: "up.1.attn.2.blocks.0.cross.to_k.weight",
    OUT: "mid.attn.0.blocks.0.cross.to_out.weight",
}


@pytest.fixture(scope="module")
def plain():
    return Analogist.from_checkpoint(CHECKPOINT, device="cpu")


@pytest.fixture
def model():
    return Analogist.from_checkpoint(CHECKPOINT, device="cpu")


def factors(shape: tuple[int, int], rank: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(down [rank in], up [out rank])."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rank, shape[1], generator=generator), torch.randn(shape[0], rank, generator=generator)


def parameter(model: Analogist, module: str) -> torch.Tensor:
    if module == TEXT:
        return next(p for name, p in model.text.model.named_parameters() if name.endswith(TEXT + ".weight"))
    return model.unet.get_parameter(OURS[module])


LDM = {  # the same modules in ComfyUI's names: LDM's running block numbers (conv_in is block 0; two blocks and a downsampling a level)
    Q: "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q",
    K: "diffusion_model.output_blocks.5.1.transformer_blocks.0.attn2.to_k",
    OUT: "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_out.0",
    TEXT: f"text_encoders.clip_l.transformer.text_model.{TEXT}",
}


def kohya_on_ldm(module: str) -> str:
    """A module in kohya's names where it trains LDM's networks."""
    if module == TEXT:
        return "lora_te_text_model_" + TEXT.replace(".", "_")
    return LDM[module].replace("diffusion_model.", "lora_unet_").replace(".", "_")


NAMINGS = {
    "kohya": lambda m: ("lora_te_text_model_" if m == TEXT else "lora_unet_") + m.replace(".", "_") + ".lora_{kohya}.weight",
    "kohya te1": lambda m: ("lora_te1_text_model_" if m == TEXT else "lora_unet_") + m.replace(".", "_") + ".lora_{kohya}.weight",
    "peft": lambda m: ("text_encoder.text_model." if m == TEXT else "unet.") + m + ".lora_{peft}.weight",
    "peft default": lambda m: ("text_encoder." if m == TEXT else "unet.") + m + ".lora_{peft}.default.weight",
    "diffusers": lambda m: ("text_encoder.text_model." if m == TEXT else "unet.") + m + ".lora.{kohya}.weight",
    "peft with an adapter's name": lambda m: ("text_encoder.text_model." if m == TEXT else "unet.") + m + ".lora_{peft}.default_0.weight",
    "peft with another adapter's name": lambda m: ("text_encoder." if m == TEXT else "unet.") + m + ".lora_{peft}.My-Style v2.weight",
    "peft folder": lambda m: "base_model.model." + ("text_model." if m == TEXT else "") + m + ".lora_{peft}.weight",
    "peft folder of transformers 5": lambda m: "base_model.model." + m + ".lora_{peft}.weight",
    "peft inside diffusers": lambda m: ("text_encoder" if m == TEXT else "unet") + ".base_model.model." + m + ".lora_{peft}.weight",
    "peft without weight": lambda m: ("text_encoder." if m == TEXT else "unet.") + m + ".lora_{peft}",
    "one network alone": lambda m: m + ".lora_{peft}.weight",
    "ComfyUI": lambda m: LDM[m] + ".lora_{kohya}.weight",
    "ComfyUI with PEFT's factors": lambda m: LDM[m].removeprefix("text_encoders.") + ".lora_{peft}.weight",
    "kohya on LDM's blocks": lambda m: kohya_on_ldm(m) + ".lora_{kohya}.weight",
    "LyCORIS by itself": lambda m: "lycoris_" + ("text_model." + m if m == TEXT else m).replace(".", "_") + ".lora_{kohya}.weight",
    "diffusers linear": lambda m: ("text_encoder.text_model." if m == TEXT else "unet.") + m + ".lora_linear_layer.{kohya}.weight",
}


@pytest.mark.parametrize("naming", NAMINGS)
def test_every_naming_is_merged_as_the_formula_says(tmp_path, plain, model, naming):
    tensors, expected = {}, {}
    for i, module in enumerate((Q, K, OUT, TEXT)):
        before = parameter(plain, module)
        down, up = factors(before.shape, seed=i)
        stem = NAMINGS[naming](module)
        tensors[stem.format(kohya="down", peft="A")], tensors[stem.format(kohya="up", peft="B")] = down, up
        alpha = 1.0
        if "kohya" in naming:
            tensors[stem.split(".lora_")[0] + ".alpha"], alpha = torch.tensor(1.0 + i), (1.0 + i) / 2
        expected[module] = before + 0.7 * alpha * up @ down
    save_file(tensors, tmp_path / "l.safetensors")
    report = merge_lora(tmp_path / "l.safetensors", model.unet, model.text.model, scale=0.7)
    assert report.modules == {"unet": 3, "text": 1} and report.ranks == (2,) and report.scale == 0.7
    for module, value in expected.items():
        assert torch.allclose(parameter(model, module), value, atol=1e-5), module
    changed = [name for name, p in model.unet.named_parameters() if not torch.equal(p, plain.unet.get_parameter(name))]
    assert sorted(changed) == sorted(OURS.values())


def test_old_processor_names_and_ldm_block_numbers_mean_the_same_modules(tmp_path, plain, model):
    before = parameter(plain, Q)
    down, up = factors(before.shape)
    attention, leaf = Q.rsplit(".", 1)
    out_attention = OUT.removesuffix(".to_out.0")
    out_down, out_up = factors(parameter(plain, OUT).shape, seed=1)
    # down level 1, attention 0 is the fourth input block (conv_in, two of level 0, its downsampling) of LDM
    ldm = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    tensors = {
        f"unet.{attention}.processor.{leaf}_lora.down.weight": down,
        f"unet.{attention}.processor.{leaf}_lora.up.weight": up,
        f"unet.{out_attention}.processor.to_out_lora.down.weight": out_down,
        f"unet.{out_attention}.processor.to_out_lora.up.weight": out_up,
    }
    save_file(tensors, tmp_path / "old.safetensors")
    save_file({f"{ldm}.lora_down.weight": down, f"{ldm}.lora_up.weight": up}, tmp_path / "ldm.safetensors")
    merge_lora(tmp_path / "old.safetensors", model.unet, model.text.model)
    assert torch.allclose(parameter(model, Q), before + up @ down, atol=1e-5)
    assert torch.allclose(parameter(model, OUT), parameter(plain, OUT) + out_up @ out_down, atol=1e-5)
    merge_lora(tmp_path / "ldm.safetensors", model.unet, model.text.model, scale=-1)
    assert torch.allclose(parameter(model, Q), before, atol=1e-4)


def test_convolutions_are_merged_with_and_without_a_middle_factor(tmp_path, plain, model):
    name, module = "down.1.resnets.0.conv2.weight", "lora_unet_down_blocks_1_resnets_0_conv2"
    before = plain.unet.get_parameter(name)
    generator = torch.Generator().manual_seed(3)
    down = torch.randn(2, before.shape[1], 3, 3, generator=generator)
    up = torch.randn(before.shape[0], 2, 1, 1, generator=generator)
    save_file({f"{module}.lora_down.weight": down, f"{module}.lora_up.weight": up}, tmp_path / "c.safetensors")
    merge_lora(tmp_path / "c.safetensors", model.unet, model.text.model)
    x = torch.randn(1, before.shape[1], 6, 6, generator=generator)
    conv = torch.nn.functional.conv2d
    two = conv(conv(x, down, padding=1), up)  # the factors as two convolutions, one after the other
    got = conv(x, model.unet.get_parameter(name) - before, padding=1)
    assert torch.allclose(got, two, atol=1e-3)
    small_down, mid = torch.randn(2, before.shape[1], 1, 1, generator=generator), torch.randn(2, 2, 3, 3, generator=generator)
    middle = {f"{module}.lora_down.weight": small_down, f"{module}.lora_up.weight": up, f"{module}.lora_mid.weight": mid}
    save_file(middle, tmp_path / "m.safetensors")
    between = model.unet.get_parameter(name).clone()
    merge_lora(tmp_path / "m.safetensors", model.unet, model.text.model)
    three = conv(conv(conv(x, small_down), mid, padding=1), up)
    assert torch.allclose(conv(x, model.unet.get_parameter(name) - between, padding=1), three, atol=1e-3)
    projection, theirs = "down.1.attn.0.proj_in.weight", "lora_unet_down_blocks_1_attentions_0_proj_in"
    size = before.shape[0]
    d, u = factors((size, size), seed=4)
    one = {f"{theirs}.lora_down.weight": d[:, :, None, None].clone(), f"{theirs}.lora_up.weight": u[:, :, None, None].clone()}
    save_file(one, tmp_path / "p.safetensors")
    merge_lora(tmp_path / "p.safetensors", model.unet, model.text.model)
    assert torch.allclose(model.unet.get_parameter(projection), plain.unet.get_parameter(projection) + u @ d, atol=1e-5)


KERNELS = {"neither": (), "down": ("down",), "up": ("up",), "both": ("down", "up")}


@pytest.mark.parametrize("module", ["down_blocks.1.attentions.0.proj_in", Q])
@pytest.mark.parametrize("which", KERNELS)
def test_a_kernel_of_one_pixel_may_be_left_out_or_given(tmp_path, plain, model, module, which):
    """proj_in is a convolution of 1 x 1 in SD 1.5's files and a linear layer in SD 2's; trainers write either for both."""
    name = OURS.get(module, "down.1.attn.0.proj_in.weight")
    before = plain.unet.get_parameter(name)
    down, up = factors(before.shape[:2], seed=5)
    held = {"down": down, "up": up}
    for factor in KERNELS[which]:
        held[factor] = held[factor][:, :, None, None].clone()
    save_file({f"unet.{module}.lora_A.weight": held["down"], f"unet.{module}.lora_B.weight": held["up"]}, tmp_path / "l.safetensors")
    merge_lora(tmp_path / "l.safetensors", model.unet, model.text.model)
    expected = before + (up @ down).reshape(before.shape)
    torch.testing.assert_close(model.unet.get_parameter(name), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", [(1, 9), (9, 1), (1, 1), (5, 5), (1, 3), ()], ids=str)
def test_a_kernel_of_another_shape_is_refused_even_if_its_count_fits(tmp_path, plain, model, kernel):
    module, (wide, narrow) = "down_blocks.1.resnets.0.conv2", plain.unet.get_parameter("down.1.resnets.0.conv2.weight").shape[:2]
    down, up = torch.ones(2, narrow, *kernel), torch.ones(wide, 2, 1, 1)
    save_file({f"unet.{module}.lora_A.weight": down, f"unet.{module}.lora_B.weight": up}, tmp_path / "l.safetensors")
    with pytest.raises(WeightsError, match="of the wrong shape"):
        merge_lora(tmp_path / "l.safetensors", model.unet, model.text.model)


def test_alpha_in_the_metadata_counts_for_its_modules(tmp_path, plain, model):
    said = {"unet.r": 2, "unet.lora_alpha": 8, "unet.alpha_pattern": {"mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0": 1}}
    tensors = {}
    for i, module in enumerate((Q, OUT)):
        down, up = factors(parameter(plain, module).shape, seed=i)
        tensors |= {f"unet.{module}.lora_A.weight": down, f"unet.{module}.lora_B.weight": up}
    save_file(tensors, tmp_path / "l.safetensors", metadata={"lora_adapter_metadata": json.dumps(said)})
    merge_lora(tmp_path / "l.safetensors", model.unet, model.text.model)
    for i, (module, strength) in enumerate(((Q, 4.0), (OUT, 0.5))):
        down, up = factors(parameter(plain, module).shape, seed=i)
        assert torch.allclose(parameter(model, module), parameter(plain, module) + strength * up @ down, atol=1e-4), module


def good(plain) -> dict[str, torch.Tensor]:
    down, up = factors(parameter(plain, Q).shape)
    return {f"unet.{Q}.lora_A.weight": down, f"unet.{Q}.lora_B.weight": up}


def test_what_is_for_a_4_channel_unet_is_added_to_the_latents_channels_and_noted(tmp_path, plain, model):
    before = plain.unet.conv_in.weight
    down, up = torch.randn(2, 4, 3, 3), torch.randn(before.shape[0], 2, 1, 1)
    held = {"lora_unet_conv_in.lora_down.weight": down, "lora_unet_conv_in.lora_up.weight": up}
    save_file(held, tmp_path / "l.safetensors")
    report = merge_lora(tmp_path / "l.safetensors", model.unet, model.text.model)
    x = torch.randn(1, 9, 6, 6)
    conv = torch.nn.functional.conv2d
    latents = x[:, :4]  # the first of the nine; mask and masked picture follow
    want = conv(x, before, padding=1) + conv(conv(latents, down, padding=1), up)
    torch.testing.assert_close(conv(x, model.unet.conv_in.weight, padding=1), want, atol=1e-3, rtol=1e-4)
    assert any("conv_in: made for 4 input channels" in note for note in report.notes)
    save_file({**held, "lora_unet_conv_in.lora_down.weight": torch.randn(2, 5, 3, 3)}, tmp_path / "five.safetensors")
    with pytest.raises(WeightsError, match="of the wrong shape: conv_in"):
        merge_lora(tmp_path / "five.safetensors", model.unet, model.text.model)


WORDS = {"mystyle": "string_to_param.*", "my.style": "clip_l", "x": "emb_params", "a b": "string_to_param.*"}


@pytest.mark.parametrize("word", WORDS)
def test_a_bundled_embedding_is_ignored_with_a_note_that_names_its_word(tmp_path, plain, model, word):
    save_file({**good(plain), f"bundle_emb.{word}.{WORDS[word]}": torch.randn(2, 32)}, tmp_path / "l.safetensors")
    report = merge_lora(tmp_path / "l.safetensors", model.unet, model.text.model)
    down, up = factors(parameter(plain, Q).shape)
    torch.testing.assert_close(parameter(model, Q), parameter(plain, Q) + up @ down)
    assert any(f"embedding {word!r} ignored" in note for note in report.notes)


OTHER_KINDS = {  # a name of the file -> what it is called, and the tool that helps
    "lora_unet_x.hada_w1_a": ("LoHa", "tools/merge.py"),
    "lora_unet_x.lokr_w1": ("LoKr", "tools/merge.py"),
    "lora_unet_x.a1.weight": ("GLoRA", "tools/merge.py"),
    "lora_unet_x.oft_blocks": ("OFT", "tools/merge.py"),
    "lora_unet_x.dora_scale": ("DoRA", "tools/merge.py"),
    "lora_unet_x.diff": ("whole-difference", "tools/merge.py"),
    "lora_unet_x.w_norm": ("whole-difference", "tools/merge.py"),
    f"unet.{Q}.lora_magnitude_vector": ("DoRA", "fuse_lora"),
    f"unet.{Q}.lora_magnitude_vector.default.weight": ("DoRA", "fuse_lora"),
    "base_model.model.embeddings.token_embedding.lora_embedding_A": ("embedding-LoRA", "merge_and_unload"),
    f"base_model.model.{Q}.lora_B.bias": ("LoRA-with-biases", "merge_and_unload"),
    f"base_model.model.{Q}.lora_B.default.bias": ("LoRA-with-biases", "merge_and_unload"),
    "base_model.model.conv_out.modules_to_save.weight": ("LoRA-and-whole-modules", "merge_and_unload"),
    f"base_model.model.{Q}.ia3_l": ("IA3", "merge_and_unload"),
    "unet:0:up": ("cloneofsimo-lora", "lora_add"),
}


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_a_file_of_another_kind_is_named_with_the_tool_that_merges_it(tmp_path, plain, model, name):
    kind, tool = OTHER_KINDS[name]
    save_file({**good(plain), name: torch.ones(2, 2)}, tmp_path / "l.safetensors")
    with pytest.raises(WeightsError, match=f"l.safetensors: a {kind} file .*{tool}"):
        merge_lora(tmp_path / "l.safetensors", model.unet, model.text.model)


def test_two_adapters_in_one_file_are_refused_by_name(tmp_path, plain, model):
    one = good(plain)
    both = {name.replace(".weight", f".{adapter}.weight"): tensor.clone() for name, tensor in one.items() for adapter in ("cat", "dog")}
    save_file(both, tmp_path / "l.safetensors")
    with pytest.raises(WeightsError, match=r"2 PEFT adapters in one file \(cat, dog\)"):
        merge_lora(tmp_path / "l.safetensors", model.unet, model.text.model)


def test_a_folder_gives_its_lora_or_says_why_it_has_none(tmp_path, plain, model):
    def refused(words):
        with pytest.raises(WeightsError, match=words):
            merge_lora(tmp_path, model.unet, model.text.model)

    refused("no LoRA in this folder; expected adapter_model.safetensors")
    (tmp_path / "adapter_model.bin").write_bytes(b"PK")
    refused("only pickles .adapter_model.bin.")
    save_file(good(plain), tmp_path / "a.safetensors")
    assert merge_lora(tmp_path, model.unet, model.text.model).path.name == "a.safetensors"
    save_file(good(plain), tmp_path / "b.safetensors")
    refused("holds 2 files .a.safetensors, b.safetensors.; give one of them")
    save_file(good(plain), tmp_path / "pytorch_lora_weights.safetensors")
    assert merge_lora(tmp_path, model.unet, model.text.model).path.name == "pytorch_lora_weights.safetensors"


def test_weights_that_a_merge_makes_infinite_are_an_error_that_names_lora_and_layer(tmp_path, plain):
    held = {name: tensor * (200 if "lora_B" in name else 1) for name, tensor in good(plain).items()}
    small = {name.replace(Q, K): tensor for name, tensor in zip(held, factors(parameter(plain, K).shape), strict=True)}
    save_file({**small, **held}, tmp_path / "l.safetensors")
    model = Analogist.from_checkpoint(CHECKPOINT, device="cpu", dtype="float16")
    before = {name: p.clone() for name, p in model.unet.named_parameters()}
    with pytest.raises(WeightsError, match=r"l.safetensors: at scale 1000 .* down.1.attn.0.blocks.0.self.to_q NaN or infinite in float16"):
        merge_lora(tmp_path / "l.safetensors", model.unet, model.text.model, scale=1000)
    assert all(torch.equal(p, before[name]) for name, p in model.unet.named_parameters())
    with torch.no_grad():
        model.unet.get_parameter(OURS[Q])[0, 0] = float("nan")
    with pytest.raises(WeightsError, match="the checkpoint's own weights of down.1.attn.0.blocks.0.self.to_q hold NaN"):
        merge_lora(tmp_path / "l.safetensors", model.unet, model.text.model)


FLAT = "lora_unet_" + Q.replace(".", "_")
BAD = {
    "the same module twice": ({f"{FLAT}.lora_down.weight": (2, 64), f"{FLAT}.lora_up.weight": (64, 2)}, "1 present twice: down.1.attn.0"),
    "rank 0": ({f"unet.{K}.lora_A.weight": (0, 32), f"unet.{K}.lora_B.weight": (64, 0)}, "of rank 0"),
    "a factor without sides": ({f"unet.{K}.lora_A.weight": (), f"unet.{K}.lora_B.weight": ()}, "of rank 0"),
    "an alpha of two numbers": ({f"unet.{Q}.alpha": (2,)}, "alpha holds 2 numbers"),
    "an alpha without a number": ({f"unet.{Q}.alpha": (0,)}, "alpha holds 0 numbers"),
    "an alpha of nothing": ({"unet.conv_out.alpha": ()}, "without the other factor: conv_out"),
    "a transformer's": ({"lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": (2, 8)}, "made for a diffusion transformer"),
    "an unknown module": ({"unet.down_blocks.9.attentions.0.proj_in.lora_A.weight": (2, 64)}, "do not exist: unet: down_blocks.9"),
    "half a pair": ({f"unet.{K}.lora_A.weight": (2, 32)}, "without the other factor"),
    "another width": ({f"unet.{K}.lora_A.weight": (2, 1024), f"unet.{K}.lora_B.weight": (64, 2)}, "of the wrong shape.*Diffusion 2.x"),
    "another rank": ({f"unet.{K}.lora_A.weight": (2, 32), f"unet.{K}.lora_B.weight": (64, 3)}, "no product"),
    "a strange name": ({"what.is.this": (2,)}, "1 unknown: what.is.this"),
    "LoHa": ({"lora_unet_x.hada_w1_a": (2, 2)}, "a LoHa file"),
    "DoRA": ({f"unet.{Q}.lora_magnitude_vector.weight": (2,)}, "a DoRA file"),
}


@pytest.mark.parametrize("kind", BAD)
def test_nothing_changes_where_one_tensor_does_not_fit(tmp_path, plain, model, kind):
    more, message = BAD[kind]
    save_file(good(plain) | {name: torch.ones(shape) for name, shape in more.items()}, tmp_path / "l.safetensors")
    with pytest.raises(WeightsError, match=message) as caught:
        merge_lora(tmp_path / "l.safetensors", model.unet, model.text.model)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(p, plain.unet.get_parameter(name)) for name, p in model.unet.named_parameters())


def test_nan_other_files_and_pickles_are_refused(tmp_path, plain, model):
    spoilt = good(plain)
    next(iter(spoilt.values()))[0, 0] = float("nan")
    save_file(spoilt, tmp_path / "nan.safetensors")
    (tmp_path / "l.ckpt").write_bytes(b"PK\x03\x04" + bytes(40))
    for name, message in (("nan.safetensors", "NaN"), ("l.ckpt", "pickle"), ("none.safetensors", "cannot be read")):
        with pytest.raises(WeightsError, match=message):
            merge_lora(tmp_path / name, model.unet, model.text.model)
    with pytest.raises(WeightsError, match="not there|unknown"):
        merge_lora(CHECKPOINT / "vae" / "diffusion_pytorch_model.safetensors", model.unet, model.text.model)
    assert torch.equal(parameter(model, Q), parameter(plain, Q))


def test_a_file_that_is_cut_off_while_it_is_merged_changes_nothing(tmp_path, plain, model, monkeypatch):
    path = tmp_path / "l.safetensors"
    save_file(good(plain), path)
    whole, starts = reader._pread, []

    def pread(file, into, start):
        starts.append(start)
        if len(starts) == 2:
            os.truncate(path, start)
        return whole(file, into, start)

    monkeypatch.setattr(reader, "_pread", pread)
    with pytest.raises(WeightsError, match="was truncated while it was read"):
        merge_lora(path, model.unet, model.text.model)
    assert all(torch.equal(p, plain.unet.get_parameter(name)) for name, p in model.unet.named_parameters())
    assert all(torch.equal(p, plain.text.model.get_parameter(name)) for name, p in model.text.model.named_parameters())


@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.float16], ids=str)
def test_an_alpha_may_be_of_any_type(tmp_path, plain, model, kind):
    down, up = factors(parameter(plain, Q).shape)
    save_file({**good(plain), f"unet.{Q}.alpha": torch.tensor(3, dtype=kind)}, tmp_path / "l.safetensors")
    merge_lora(tmp_path / "l.safetensors", model.unet, model.text.model)
    torch.testing.assert_close(parameter(model, Q), parameter(plain, Q) + 3 / 2 * up @ down)


def pair(down: torch.Tensor) -> dict[str, torch.Tensor]:
    """A module's factors, of which one is odd."""
    return {f"unet.{K}.lora_A.weight": down, f"unet.{K}.lora_B.weight": torch.ones(64, 2)}


NO_LORA = {  # what a file holds or is -> a word of the one line
    "a list as metadata": ({}, {"lora_adapter_metadata": "[]"}, "expected a JSON object"),
    "odd alphas": ({f"unet.{Q}.alpha": torch.ones(3)}, None, "alpha holds 3 numbers"),
    "an alpha of NaN": ({f"unet.{Q}.alpha": torch.tensor(float("nan"))}, None, "expected a finite number"),
    "whole numbers": (pair(torch.ones(2, 32).int()), None, "that weights cannot have"),
    "five axes": (pair(torch.ones(2, 1, 1, 1, 32)), None, "no product"),
    "an unknown strength": ({}, {"strange_alpha": "2"}, "strange_alpha"),
    "names of line breaks": ({"a\nb.lora_A.weight": torch.ones(2, 2)}, None, "do not exist"),
}


@pytest.mark.parametrize("kind", [*NO_LORA, "no file", "a folder", "a scale of nan", "a text file"])
def test_an_odd_lora_is_one_line_and_code_2_on_the_command_line(tmp_path, plain, capsys, kind):
    argv = ["run", "--grid", str(PARITY / "grid.png"), "--size", "128", "--steps", "2", "--quiet", "--checkpoint", str(CHECKPOINT)]
    given, words = str(tmp_path / "l.safetensors"), ""
    if kind in NO_LORA:
        more, metadata, words = NO_LORA[kind]
        save_file(good(plain) | more, given, metadata=metadata)
    elif kind == "a folder":
        given, words = str(tmp_path), "no LoRA in this folder"
    elif kind == "a scale of nan":
        save_file(good(plain), given)
        given, words = given + ":nan", "expected a finite number"
    elif kind == "a text file":
        (tmp_path / "l.safetensors").write_text("not weights at all")
    error = fails(capsys, [*argv, "--lora", given, "--out", str(tmp_path / "out")])
    assert words in error and "\n" not in error and not (tmp_path / "out").exists()


def test_a_run_with_a_peft_folder_says_its_strength_and_is_not_repeated_with_another_config(tmp_path, plain, capsys):
    save_file(good(plain), tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    argv = ["run", "--grid", str(PARITY / "grid.png"), "--size", "128", "--steps", "2", "--device", "cpu", "--quiet"]
    argv += ["--checkpoint", str(CHECKPOINT)]
    assert main([*argv, "--lora", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    (kept,) = json.loads((tmp_path / "out" / "run.json").read_text())["checkpoint"]["lora"]
    assert kept["strengths"] == [2.0] and len(kept["config_sha256"]) == 64
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 2}))
    repeat = ["run", "--config", str(tmp_path / "out" / "run.json"), "--out", str(tmp_path / "x"), "--quiet"]
    assert "not the same LoRA" in fails(capsys, repeat)


def test_what_was_assumed_of_a_lora_reaches_the_user(tmp_path, plain, capsys):
    save_file(good(plain), tmp_path / "l.safetensors")
    model = Analogist.from_checkpoint(CHECKPOINT, device="cpu", lora=tmp_path / "l.safetensors")
    said = "LoRA l.safetensors: UNet: no alpha in the file or beside it, so alpha is the rank and strength 1, as in diffusers"
    assert said in model.checkpoint.notes and said in model.describe()["notes"]


def test_a_run_with_loras_says_so_and_is_repeated_byte_for_byte(tmp_path, plain, capsys):
    save_file(good(plain), tmp_path / "l.safetensors")
    argv = ["run", "--grid", str(PARITY / "grid.png"), "--size", "128", "--steps", "2", "--device", "cpu", "--quiet"]
    argv += ["--checkpoint", str(CHECKPOINT)]
    lora = ["--lora", f"{tmp_path / 'l.safetensors'}:0.5"]
    assert main([*argv, *lora, "--out", str(tmp_path / "out")]) == 0
    assert main([*argv, "--out", str(tmp_path / "plain")]) == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    (kept,) = record["checkpoint"]["lora"]
    assert (kept["name"], kept["scale"]) == ("l.safetensors", 0.5) and len(kept["sha256"]) == 64
    picture = (tmp_path / "out" / "b_prime_42.png").read_bytes()
    assert main(["run", "--config", str(tmp_path / "out" / "run.json"), "--out", str(tmp_path / "again"), "--quiet"]) == 0
    assert (tmp_path / "again" / "b_prime_42.png").read_bytes() == picture
    assert (tmp_path / "plain" / "b_prime_42.png").read_bytes() != picture
    save_file({name: 2 * tensor for name, tensor in load_file(tmp_path / "l.safetensors").items()}, tmp_path / "l.safetensors")
    repeat = ["run", "--config", str(tmp_path / "out" / "run.json"), "--out", str(tmp_path / "x"), "--quiet"]
    assert "not the same LoRA" in fails(capsys, repeat)
    assert "cannot be read" in fails(capsys, [*argv, "--lora", str(tmp_path / "none.safetensors"), "--out", str(tmp_path / "x")])


def test_a_picture_of_a_run_with_loras_is_repeated_only_with_them_given_again(tmp_path, plain, capsys):
    save_file(good(plain), tmp_path / "l.safetensors")
    argv = ["run", "--grid", str(PARITY / "grid.png"), "--size", "128", "--steps", "2", "--device", "cpu", "--quiet"]
    lora = ["--lora", f"{tmp_path / 'l.safetensors'}:0.5"]
    assert main([*argv, "--checkpoint", str(CHECKPOINT), *lora, "--out", str(tmp_path / "out")]) == 0
    for name in ("b_prime_42.png", "grid_42.png"):
        repeat = ["run", "--config", str(tmp_path / "out" / name), "--checkpoint", str(CHECKPOINT), "--quiet"]
        error = fails(capsys, [*repeat, "--out", str(tmp_path / "x")])
        assert f"{name}: painted with a LoRA" in error and "give --lora l.safetensors:0.5" in error and not (tmp_path / "x").exists()
        assert main([*repeat, *lora, "--out", str(tmp_path / f"again {name}")]) == 0
        assert (tmp_path / f"again {name}" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
