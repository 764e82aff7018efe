"""How strongly a LoRA counts, in every form that a file or its neighbour says it: as PEFT and diffusers merge the same file."""

import copy
import functools
import json
import math
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextModel

from analogist.models.unet import UNet, UNetConfig
from analogist.weights import WeightsError, open_checkpoint, outmaps
from analogist.weights.lora import LoraReport, merge_lora
from tests.checkpoints import PARITY

CHECKPOINT = PARITY / "checkpoint"
DOWN, UP = "down_blocks.1.attentions.0.transformer_blocks.0", "up_blocks.1.attentions.2.transformer_blocks.0"
CONV, TEXT = "down_blocks.1.resnets.0.conv2", "encoder.layers.1.self_attn.v_proj"
RANKS = {f"{DOWN}.attn1.to_q": 4, f"{DOWN}.attn2.to_k": 4, f"{UP}.attn1.to_out.0": 4, f"{UP}.ff.net.0.proj": 2}
UNET_ONLY = {"r": 4, "rank_pattern": {f"{UP}.ff.net.0.proj": 2}}
SHORT = {"r": 4, "rank_pattern": {"ff.net.0.proj": 2}}


@pytest.fixture(scope="module")
def theirs() -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(CHECKPOINT / "unet", torch_dtype=torch.float32, local_files_only=True).eval()


@functools.cache
def _loaded() -> tuple[UNet, CLIPTextModel]:
    checkpoint = open_checkpoint(CHECKPOINT)
    with torch.device("meta"):
        unet = UNet(UNetConfig(**checkpoint.unet))
    checkpoint.load_unet(unet)
    text = CLIPTextModel.from_pretrained(CHECKPOINT / "text_encoder", torch_dtype=torch.float32, local_files_only=True)
    return unet.requires_grad_(False), text.eval().requires_grad_(False)


def ours() -> tuple[UNet, CLIPTextModel]:
    """A UNet and a text encoder of their own, freshly loaded."""
    return copy.deepcopy(_loaded())


def factors(module: nn.Module, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """(down, up) of a layer, small enough that differences show beside its weights."""
    generator = torch.Generator().manual_seed(seed)
    shape = module.weight.shape
    down = torch.randn(rank, *shape[1:], generator=generator)
    return down / 10, torch.randn(shape[0], rank, *(1 for _ in shape[2:]), generator=generator) / 10


def tensors(theirs: UNet2DConditionModel, named: str, ranks: dict[str, int] = RANKS, text: bool = False) -> dict[str, Tensor]:
    """A LoRA for RANKS' modules; named: with {module} and {down|up}."""
    found = {}
    for seed, (name, rank) in enumerate(ranks.items()):
        down, up = factors(theirs.get_submodule(name), rank, seed)
        kohya = "lora_unet_" + name.replace(".", "_")
        found[named.format(module=name, kohya=kohya, ab="A", way="down")] = down
        found[named.format(module=name, kohya=kohya, ab="B", way="up")] = up
    if text:
        down, up = factors(_loaded()[1].get_submodule(TEXT), 4, 99)
        found |= {f"text_encoder.text_model.{TEXT}.lora_A.weight": down, f"text_encoder.text_model.{TEXT}.lora_B.weight": up}
    return found


def same_as(unet: nn.Module, reference: nn.Module, plain: nn.Module, changed: list[str]) -> None:
    """Every parameter equal, and those that a LoRA is for changed by it."""
    want, before = reference.state_dict(), plain.state_dict()
    for name, parameter in unet.named_parameters():
        theirs = outmaps.unet_to_diffusers(name)
        expected = want[theirs].reshape(parameter.shape)
        torch.testing.assert_close(parameter, expected, atol=2e-6, rtol=1e-5, msg=lambda text, name=theirs: f"{name}: {text}")
    for name in changed:
        assert not torch.allclose(want[f"{name}.weight"], before[f"{name}.weight"], atol=1e-4), name


def said(network: str = "unet", **entries) -> dict[str, str]:
    """A header as diffusers writes it."""
    return {"lora_adapter_metadata": json.dumps({f"{network}.{key}": value for key, value in entries.items()})}


def diffusers_merges(theirs: UNet2DConditionModel, file: Path) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """UNet and text encoder with the file merged by diffusers, at scale 1."""
    unet, text = copy.deepcopy(theirs), copy.deepcopy(_loaded()[1])
    state, alphas, metadata = StableDiffusionPipeline.lora_state_dict(file, unet_config=unet.config, return_lora_metadata=True)
    StableDiffusionPipeline.load_lora_into_unet(state, alphas, unet, metadata=metadata)
    if any(name.startswith("text_encoder.") for name in state):
        StableDiffusionPipeline.load_lora_into_text_encoder(state, alphas, text, prefix="text_encoder", metadata=metadata)
    for network in (unet, text):
        for module in network.modules():
            if isinstance(module, BaseTunerLayer):
                module.merge()
    unet.unload_lora()
    return unet, text


def merged_text(text: CLIPTextModel) -> Tensor:
    """The weights of TEXT, whether or not PEFT has wrapped them."""
    layer = text.get_submodule(TEXT)
    return (layer.base_layer if isinstance(layer, BaseTunerLayer) else layer).weight


HEADERS = {  # what diffusers writes into lora_adapter_metadata, without its prefix
    "an alpha": UNET_ONLY | {"lora_alpha": 8},
    "an alpha of a fraction": UNET_ONLY | {"lora_alpha": 0.5},
    "an alpha of zero for one module": UNET_ONLY | {"lora_alpha": 4, "alpha_pattern": {f"{DOWN}.attn1.to_q": 0}},
    "a negative alpha": UNET_ONLY | {"lora_alpha": -4},
    "rslora": UNET_ONLY | {"lora_alpha": 8, "use_rslora": True},
    "rslora said to be off": UNET_ONLY | {"lora_alpha": 8, "use_rslora": False},
    "an alpha of one module": UNET_ONLY | {"lora_alpha": 4, "alpha_pattern": {f"{DOWN}.attn1.to_q": 32}},
    "a pattern from the start": UNET_ONLY | {"lora_alpha": 4, "alpha_pattern": {"^down_blocks.*to_q": 32}},
    "a pattern for the end": UNET_ONLY | {"lora_alpha": 4, "alpha_pattern": {"to_k": 32, "proj": 1}},
    "a pattern with choices": UNET_ONLY | {"lora_alpha": 4, "alpha_pattern": {r"attn[12]\.to_(q|k)": 16}},
    "two patterns of which the first counts": UNET_ONLY | {"lora_alpha": 4, "alpha_pattern": {"to_q": 1, "attn1.to_q": 64}},
    "a pattern that matches the middle only": UNET_ONLY | {"lora_alpha": 4, "alpha_pattern": {"attn1": 64}},
    "rslora with both patterns": UNET_ONLY | {"lora_alpha": 3, "use_rslora": True, "alpha_pattern": {"ff.net.0.proj": 6}},
    "ranks by a pattern with choices": {"r": 2, "lora_alpha": 8, "rank_pattern": {r".*attn[12]\.to_(q|k|out\.0)": 4}},
    "an empty alpha pattern": UNET_ONLY | {"lora_alpha": 8, "alpha_pattern": {}},
}


@pytest.mark.parametrize("form", HEADERS)
def test_a_header_of_diffusers_counts_as_in_diffusers(tmp_path, theirs, form):
    whole = LoraConfig(**HEADERS[form]).to_dict() | {"target_modules": list(RANKS)}  # every field, as diffusers' trainers write it
    save_file(tensors(theirs, "unet.{module}.lora_{ab}.weight"), tmp_path / "l.safetensors", metadata=said(**whole))
    unet, text = ours()
    merge_lora(tmp_path / "l.safetensors", unet, text)
    reference, _ = diffusers_merges(theirs, tmp_path / "l.safetensors")
    same_as(unet, reference, theirs, [name for name in RANKS if "to_q" not in name])


def test_unet_and_text_encoder_have_their_own_strengths_in_one_header(tmp_path, theirs):
    headers = (
        said(target_modules=list(RANKS), lora_alpha=8, **UNET_ONLY),
        said("text_encoder", target_modules=["v_proj"], r=4, lora_alpha=2, use_rslora=True),
    )
    entries = [json.loads(header["lora_adapter_metadata"]) for header in headers]
    metadata = {"lora_adapter_metadata": json.dumps(entries[0] | entries[1])}
    save_file(tensors(theirs, "unet.{module}.lora_{ab}.weight", text=True), tmp_path / "l.safetensors", metadata=metadata)
    unet, text = ours()
    report = merge_lora(tmp_path / "l.safetensors", unet, text)
    reference, reference_text = diffusers_merges(theirs, tmp_path / "l.safetensors")
    same_as(unet, reference, theirs, list(RANKS))
    torch.testing.assert_close(merged_text(text), merged_text(reference_text), atol=2e-6, rtol=1e-5)
    assert report.strengths == (1.0, 2.0, 4.0) and report.notes == ()  # 2/sqrt(4), 8/4, 8/2


ALPHAS = {  # kohya's .alpha tensors: the same everywhere, or module by module in the order of RANKS
    "two": 2,
    "a fraction": 0.25,
    "a rank": 4,
    "none": None,
    "another for each": [1, 8, 0.5, 3],
    "zero for one": [0, 4, 4, 2],
}


def with_alphas(held: dict[str, Tensor], alphas: "list[float] | float | None") -> dict[str, Tensor]:
    """Kohya's tensors with an .alpha for each module."""
    each = [] if alphas is None else alphas if isinstance(alphas, list) else [alphas] * len(RANKS)
    return held | {f"lora_unet_{name.replace('.', '_')}.alpha": torch.tensor(float(a)) for name, a in zip(RANKS, each, strict=False)}


@pytest.mark.parametrize("form", [form for form in ALPHAS if not isinstance(ALPHAS[form], list)])
def test_alpha_tensors_count_as_in_diffusers(tmp_path, theirs, form):
    held = with_alphas(tensors(theirs, "{kohya}.lora_{way}.weight"), ALPHAS[form])
    save_file(held, tmp_path / "l.safetensors", metadata={"ss_network_dim": "4", "ss_network_module": "networks.lora"})
    unet, text = ours()
    report = merge_lora(tmp_path / "l.safetensors", unet, text)
    same_as(unet, diffusers_merges(theirs, tmp_path / "l.safetensors")[0], theirs, list(RANKS))
    assert any("alpha is the rank" in note for note in report.notes) == (form == "none")


@pytest.mark.parametrize("form", [form for form in ALPHAS if isinstance(ALPHAS[form], list)])
def test_alpha_tensors_that_differ_by_module_count_as_in_peft(tmp_path, theirs, form):
    # Not compared with diffusers: its alpha_pattern for attention names processors (`attn1.processor.to_q_lora.down.weight`), which match
    # no module, so that it gives all of attention the commonest alpha.
    save_file(with_alphas(tensors(theirs, "{kohya}.lora_{way}.weight"), ALPHAS[form]), tmp_path / "l.safetensors")
    unet, text = ours()
    merge_lora(tmp_path / "l.safetensors", unet, text)
    (tmp_path / "peft").mkdir()
    config = {"peft_type": "LORA", "target_modules": list(RANKS), **SHORT, "alpha_pattern": dict(zip(RANKS, ALPHAS[form], strict=True))}
    (tmp_path / "peft" / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors(theirs, "base_model.model.{module}.lora_{ab}.weight"), tmp_path / "peft" / "adapter_model.safetensors")
    same_as(unet, PeftModel.from_pretrained(copy.deepcopy(theirs), tmp_path / "peft").merge_and_unload(), theirs, list(RANKS)[1:])


FOLDERS = {  # adapter_config.json as PEFT writes it
    "an alpha": SHORT | {"lora_alpha": 32},
    "rslora": SHORT | {"lora_alpha": 16, "use_rslora": True},
    "patterns for the ends of names": SHORT | {"lora_alpha": 4, "alpha_pattern": {"attn1.to_q": 1, "to_k": 12}},
    "a pattern with choices": SHORT | {"lora_alpha": 4, "alpha_pattern": {r"up_blocks\..*\.(to_out\.0|proj)": 20}},
    "rslora with patterns": SHORT | {"lora_alpha": 4, "use_rslora": True, "alpha_pattern": {"ff.net.0.proj": 9}},
    "an initialisation that leaves the weights": SHORT | {"lora_alpha": 8, "init_lora_weights": "gaussian"},
}


@pytest.mark.parametrize("adapter", ["adapter_model.safetensors", "."], ids=["the file", "the folder"])
@pytest.mark.parametrize("form", FOLDERS)
def test_a_peft_folder_counts_as_in_peft(tmp_path, theirs, form, adapter):
    config = {"peft_type": "LORA", "target_modules": list(RANKS), **FOLDERS[form]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors(theirs, "base_model.model.{module}.lora_{ab}.weight"), tmp_path / "adapter_model.safetensors")
    unet, text = ours()
    report = merge_lora(tmp_path / adapter, unet, text)
    same_as(unet, PeftModel.from_pretrained(copy.deepcopy(theirs), tmp_path).merge_and_unload(), theirs, list(RANKS))
    assert report.path == tmp_path / "adapter_model.safetensors" and len(report.config_sha256) == 64


def merged_at(path: Path, theirs: UNet2DConditionModel, name: str) -> tuple[float, LoraReport]:
    """(strength that one module was merged at, the report)."""
    unet, text = ours()
    report = merge_lora(path, unet, text)
    index = list(RANKS).index(name) if name in RANKS else 50
    rank = RANKS.get(name, 4)
    down, up = factors(theirs.get_submodule(name), rank, index)
    delta = up.flatten(1) @ down.flatten(1)
    target = next(p for n, p in unet.named_parameters() if outmaps.unet_to_diffusers(n) == f"{name}.weight")
    change = target.flatten(1) - theirs.get_submodule(name).weight.flatten(1)
    return (change * delta).sum().item() / (delta * delta).sum().item(), report


Q = f"{DOWN}.attn1.to_q"
OT = json.dumps({"lora_rank": 4, "lora_alpha": 2.0, "lora_decompose": False})
ONE = {Q: 4}
KOHYA = {"ss_network_alpha": "8", "ss_network_dim": "4"}
COMMENTS = {  # entries of a header without any .alpha tensor -> the strength of a module of rank 4
    "lora_alpha": ({"lora_alpha": "32"}, 8),
    "alpha": ({"alpha": "32"}, 8),
    "network_alpha and its rank": ({"network_alpha": "2", "network_dim": "4"}, 0.5),
    "lora_alpha with rslora": ({"lora_alpha": "8", "use_rslora": "true"}, 8 / math.sqrt(4)),
    "kohya": ({"ss_network_alpha": "1.0", "ss_network_dim": "4", "ss_network_module": "networks.lora"}, 0.25),
    "kohya with arguments": (KOHYA | {"ss_network_args": '{"conv_dim": "8", "conv_alpha": "1"}'}, 2),
    "kohya with arguments None": (KOHYA | {"ss_network_args": "None"}, 2),
    "LyCORIS with rs_lora": (KOHYA | {"ss_network_args": '{"algo": "locon", "rs_lora": "True"}'}, 4),
    "a trainer's whole config": ({"ot_config": OT}, 0.5),
    "a PEFT config under another name": ({"peft_config": json.dumps({"r": 4, "lora_alpha": 8, "use_rslora": True})}, 4),
    "a PEFT config without prefix": ({"lora_adapter_metadata": json.dumps({"r": 4, "lora_alpha": 12})}, 3),
    "a PEFT config by network": ({"lora_adapter_metadata": json.dumps({"unet": {"r": 4, "lora_alpha": 12}, "text_encoder": {"r": 2}})}, 3),
    "a config of the other network alone": ({"lora_adapter_metadata": json.dumps({"text_encoder.r": 4, "text_encoder.lora_alpha": 8})}, 1),
    "a config of null": ({"lora_adapter_metadata": "null"}, 1),
    "two that agree": ({"lora_alpha": "8", "ss_network_alpha": "8", "ss_network_dim": "4"}, 2),
    "words that are not about strength": ({"modelspec.title": "x", "ss_alpha_mask": "True", "ss_tag_frequency": '{"alphabet": 3}'}, 1),
}


@pytest.mark.parametrize("form", COMMENTS)
def test_what_else_a_header_says_decides_where_no_tensor_does(tmp_path, theirs, form):
    metadata, want = COMMENTS[form]
    save_file(tensors(theirs, "unet.{module}.lora_{ab}.weight", ONE), tmp_path / "l.safetensors", metadata=metadata)
    got, report = merged_at(tmp_path / "l.safetensors", theirs, Q)
    assert got == pytest.approx(want, rel=1e-3) and report.strengths == (pytest.approx(want),)
    assert any("alpha is the rank" in note for note in report.notes) == (want == 1)


def test_kohyas_alpha_for_convolutions_counts_for_convolutions(tmp_path, theirs):
    generator_seed = 50
    down, up = factors(theirs.get_submodule(CONV), 4, generator_seed)
    stem = "lora_unet_" + CONV.replace(".", "_")
    metadata = {"ss_network_alpha": "1", "ss_network_dim": "16", "ss_network_args": '{"conv_dim": "4", "conv_alpha": "2"}'}
    save_file({f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}, tmp_path / "l.safetensors", metadata=metadata)
    assert merged_at(tmp_path / "l.safetensors", theirs, CONV)[0] == pytest.approx(0.5, rel=1e-3)


def test_alpha_tensors_win_over_comments_that_nobody_kept_up_and_the_report_says_so(tmp_path, theirs):
    held = tensors(theirs, "{kohya}.lora_{way}.weight", ONE) | {f"lora_unet_{Q.replace('.', '_')}.alpha": torch.tensor(2.0)}
    for stale in ({"ss_network_alpha": "16", "ss_network_dim": "4"}, {"ss_network_alpha": "Dynamic"}, {"ot_config": '{"lora_alpha": "x"}'}):
        save_file(held, tmp_path / "l.safetensors", metadata=stale)
        got, report = merged_at(tmp_path / "l.safetensors", theirs, Q)
        assert got == pytest.approx(0.5, rel=1e-3) and len(report.notes) == 1 and "used" in report.notes[0], stale
    save_file(held, tmp_path / "l.safetensors", metadata={"ss_network_alpha": "2", "ss_network_dim": "4"})
    assert merged_at(tmp_path / "l.safetensors", theirs, Q)[1].notes == ()


def test_a_module_without_alpha_among_others_is_merged_at_its_rank_as_kohya_does_and_noted(tmp_path, theirs):
    held = tensors(theirs, "{kohya}.lora_{way}.weight")
    held[f"lora_unet_{UP.replace('.', '_')}_ff_net_0_proj.alpha"] = torch.tensor(1.0)
    save_file(held, tmp_path / "l.safetensors")
    got, report = merged_at(tmp_path / "l.safetensors", theirs, Q)
    assert got == pytest.approx(1, rel=1e-3)
    assert len(report.notes) == 1 and "no alpha for 3 modules" in report.notes[0]


def test_a_config_of_other_files_is_not_read_and_the_report_says_which_was(tmp_path, theirs):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 32}))
    held = tensors(theirs, "{kohya}.lora_{way}.weight", ONE) | {f"lora_unet_{Q.replace('.', '_')}.alpha": torch.tensor(2.0)}
    save_file(held, tmp_path / "kohya.safetensors")
    save_file(tensors(theirs, "unet.{module}.lora_{ab}.weight", ONE), tmp_path / "other.safetensors")
    got, report = merged_at(tmp_path / "kohya.safetensors", theirs, Q)
    assert got == pytest.approx(0.5, rel=1e-3) and "not read" in report.notes[0] and report.config_sha256 is None
    got, report = merged_at(tmp_path / "other.safetensors", theirs, Q)
    assert got == pytest.approx(8, rel=1e-3) and "taken from adapter_config.json" in report.notes[0] and len(report.config_sha256) == 64


ODD = {  # metadata -> what the one line says
    "a list": ({"lora_adapter_metadata": "[]"}, "expected a JSON object"),
    "a number": ({"lora_adapter_metadata": "3"}, "expected a JSON object"),
    "no JSON": ({"lora_adapter_metadata": "x"}, "not JSON"),
    "JSON too deep": ({"lora_adapter_metadata": "[" * 100_000}, "not JSON"),
    "alpha_pattern a list": (said(r=4, lora_alpha=4, alpha_pattern=[1]), "alpha_pattern"),
    "alpha_pattern a text": (said(r=4, lora_alpha=4, alpha_pattern="to_q"), "alpha_pattern"),
    "a pattern that is none": (said(r=4, lora_alpha=4, alpha_pattern={"(": 1}), "not a regular expression"),
    "a pattern's alpha a text": (said(r=4, lora_alpha=4, alpha_pattern={"to_q": "8"}), "alpha_pattern of 'to_q'"),
    "a pattern's alpha null": (said(r=4, lora_alpha=4, alpha_pattern={"to_q": None}), "alpha_pattern of 'to_q'"),
    "an alpha of text": (said(r=4, lora_alpha="8"), "lora_alpha = '8'"),
    "an alpha of true": (said(r=4, lora_alpha=True), "lora_alpha"),
    "an infinite alpha": (said(r=4, lora_alpha=math.inf), "lora_alpha"),
    "a huge alpha": (said(r=4, lora_alpha=10**400), "lora_alpha"),
    "no alpha": (said(r=4), "gives no lora_alpha"),
    "rslora without alpha": (said(r=4, use_rslora=True), "gives no lora_alpha"),
    "rslora of text": (said(r=4, lora_alpha=4, use_rslora="yes"), "use_rslora"),
    "another rank": (said(r=8, lora_alpha=8), "says rank 8"),
    "another rank by pattern": (said(r=4, lora_alpha=8, rank_pattern={"to_q": 16}), "says rank 16"),
    "DoRA": (said(r=4, lora_alpha=4, use_dora=True), "use_dora"),
    "another PEFT type": (said(peft_type="LOHA", r=4), "LOHA"),
    "PiSSA": (said(r=4, lora_alpha=4, init_lora_weights="pissa_niter_4"), "pissa"),
    "OLoRA": (said(r=4, lora_alpha=4, init_lora_weights="olora"), "olora"),
    "layers repeated": (said(r=4, lora_alpha=4, layer_replication=[[0, 2]]), "layer_replication"),
    "a dynamic alpha": ({"ss_network_alpha": "Dynamic", "ss_network_dim": "Dynamic"}, "ss_network_alpha = 'Dynamic'"),
    "an alpha None": ({"ss_network_alpha": "None"}, "ss_network_alpha = 'None'"),
    "kohya's other rank": ({"ss_network_alpha": "8", "ss_network_dim": "64"}, "ss_network_dim = '64'"),
    "kohya's arguments no JSON": ({"ss_network_alpha": "8", "ss_network_args": "{"}, "ss_network_args is not JSON"),
    "alphas by block": ({"ss_network_alpha": "8", "ss_network_args": '{"block_alphas": "1,2,3"}'}, "block_alphas"),
    "a plain alpha of words": ({"lora_alpha": "a lot"}, "lora_alpha = 'a lot'"),
    "a plain NaN": ({"lora_alpha": "nan"}, "lora_alpha = 'nan'"),
    "an unknown word": ({"my_trainer.alpha_scale": "0.3"}, "my_trainer.alpha_scale"),
    "an unknown word of rslora": ({"train.use_rsLoRA": "True"}, "train.use_rsLoRA"),
    "comments that disagree": ({"lora_alpha": "8", "ss_network_alpha": "2", "ss_network_dim": "4"}, "two strengths"),
}


@pytest.mark.parametrize("form", ODD)
def test_odd_or_unclear_metadata_is_one_line_that_names_file_and_entry(tmp_path, theirs, form):
    metadata, words = ODD[form]
    save_file(tensors(theirs, "unet.{module}.lora_{ab}.weight", ONE), tmp_path / "l.safetensors", metadata=metadata)
    unet, text = ours()
    with pytest.raises(WeightsError) as caught:
        merge_lora(tmp_path / "l.safetensors", unet, text)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'l.safetensors'}: ") and words in message and "\n" not in message and len(message) < 600
    fresh, _ = ours()
    assert all(torch.equal(p, q) for p, q in zip(unet.parameters(), fresh.parameters(), strict=True))


def test_a_tensor_a_header_and_a_config_that_disagree_are_refused_by_name(tmp_path, theirs):
    held = tensors(theirs, "unet.{module}.lora_{ab}.weight", ONE)
    unet, text = ours()
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 32}))
    save_file(held, tmp_path / "adapter_model.safetensors", metadata=said(r=4, lora_alpha=8))
    with pytest.raises(WeightsError, match="two strengths.*lora_adapter_metadata says 2.*adapter_config.json says 8"):
        merge_lora(tmp_path, unet, text)
    save_file(held | {f"unet.{Q}.alpha": torch.tensor(16.0)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(WeightsError, match="two strengths.*alpha tensor says 4.*adapter_config.json says 8"):
        merge_lora(tmp_path, unet, text)
    save_file(held | {f"unet.{Q}.alpha": torch.tensor(32.1)}, tmp_path / "adapter_model.safetensors")  # rounded, the same
    assert merge_lora(tmp_path, unet, text).strengths == (pytest.approx(8.025),)


ODD_CONFIGS = ["[]", "{", '{"peft_type": "IA3"}', '{"r": "x"}', '{"r": 4, "lora_alpha": 8, "alpha_pattern": 3}', "\udcff"]


@pytest.mark.parametrize("content", ODD_CONFIGS)
def test_an_odd_adapter_config_is_one_line_that_names_it(tmp_path, theirs, content):
    (tmp_path / "adapter_config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    save_file(tensors(theirs, "unet.{module}.lora_{ab}.weight", ONE), tmp_path / "adapter_model.safetensors")
    unet, text = ours()
    with pytest.raises(WeightsError, match="adapter_config.json"):
        merge_lora(tmp_path, unet, text)
