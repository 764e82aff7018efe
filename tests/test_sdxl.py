"""SDXL inpainting: two text encoders, size conditioning and its own layer table, beside diffusers' own pipeline on random weights."""

import functools
import json
import shutil
from pathlib import Path

import pytest
import torch

from analogist import CAM, SAC, Analogist, AnalogistConfig, Capture, Placement, PromptGrid
from analogist.attention.measure import measures
from analogist.checkpoints.text_encoder import load_tokenizer
from analogist.config import SamplingConfig
from analogist.models.control import AttentionControl
from analogist.models.text import PooledText
from analogist.models.unet import UNet, UNetConfig
from analogist.run.arguments import prepare, resolve
from analogist.run.request import Request
from analogist.weights import WeightsError
from analogist.weights.load import open_checkpoint
from tests.small import relative

SHORT = AnalogistConfig(sampling=SamplingConfig(steps=3, strength=0.98, guidance=4.0), sac=SAC(Placement.layers(2, 23)), cam=None)
PROMPTS = ["", "a red boat on the unbelievably calm sea"]
FULL = UNetConfig(channels=(320, 640, 1280), depth=(0, 2, 10), mid_depth=10, heads=(5, 10, 20), text_width=2048, pooled_width=1280)


def small_pipeline():
    """diffusers' StableDiffusionXLInpaintPipeline with SDXL's topology, narrow, random weights."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLInpaintPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        in_channels=9, out_channels=4, sample_size=16, block_out_channels=(16, 32, 32), layers_per_block=2, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 2, 3),
        attention_head_dim=(1, 2, 4), cross_attention_dim=40, use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=20 + 6 * 8,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4, latent_channels=4, layers_per_block=1, scaling_factor=0.13025, force_upcast=True,
    )  # fmt: skip
    common = {"vocab_size": 49408, "num_hidden_layers": 3, "num_attention_heads": 2, "bos_token_id": 49406, "eos_token_id": 49407}
    first = CLIPTextModel(CLIPTextConfig(hidden_size=16, intermediate_size=32, hidden_act="quick_gelu", projection_dim=16, **common))
    second = CLIPTextModelWithProjection(
        CLIPTextConfig(hidden_size=24, intermediate_size=48, hidden_act="gelu", projection_dim=20, **common)
    )
    for model in (first, second):  # the default start gives encodings that hardly differ
        for parameter in model.parameters():
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    one, two = load_tokenizer(None), load_tokenizer(None)
    one.pad_token, two.pad_token = "<|endoftext|>", "!"
    one.model_max_length = two.model_max_length = 77
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading",
    )  # fmt: skip
    return StableDiffusionXLInpaintPipeline(
        vae=vae, text_encoder=first, text_encoder_2=second, tokenizer=one, tokenizer_2=two, unet=unet, scheduler=scheduler,
        add_watermarker=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def theirs():
    return small_pipeline()


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sdxl") / "checkpoint"
    theirs.save_pretrained(path)
    config = json.loads((path / "unet/config.json").read_text())
    leftovers = {"decay": 0.9999, "inv_gamma": 1.0, "optimization_step": 37000}  # as the published file has them
    (path / "unet/config.json").write_text(json.dumps({**config, **leftovers}))
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Analogist:
    return Analogist.from_checkpoint(folder, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def grid() -> PromptGrid:
    pictures = [torch.randint(0, 256, (80, 80, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i)).numpy() for i in range(3)]
    return PromptGrid(*pictures, size=128)


def test_a_folder_that_diffusers_wrote_loads_strictly_and_is_recognised(model):
    checkpoint = model.checkpoint
    assert checkpoint.family == "sdxl-inpainting" and checkpoint.vae["scaling_factor"] == 0.13025
    assert checkpoint.unet["pooled_width"] == 20 and checkpoint.unet["size_width"] == 8
    assert checkpoint.pad_token_id == 49407 and checkpoint.pad_token_id_2 == 0
    assert model.size == 128 and model.size_multiples() == (64, 64)


def test_text_equals_what_diffusers_encodes(model, theirs):
    ours = model.encode_text(PROMPTS[1], PROMPTS[0])
    with torch.no_grad():
        tokens, negative, pooled, negative_pooled = theirs.encode_prompt(
            PROMPTS[1], device="cpu", do_classifier_free_guidance=True, negative_prompt=PROMPTS[0]
        )
    assert relative(ours.tokens, torch.cat([negative, tokens])) < 1e-5
    assert relative(ours.pooled, torch.cat([negative_pooled, pooled])) < 1e-5
    assert relative(ours.pooled[:1], pooled) > 1e-2  # the comparison can tell prompts apart


def test_sizes_are_those_that_diffusers_gives_a_whole_picture(model, theirs):
    ours = model.encode_text("a", size=(192, 128)).sizes
    expected, _ = theirs._get_add_time_ids(
        (192, 128), (0, 0), (192, 128), 6.0, 2.5, (192, 128), (0, 0), (192, 128), dtype=torch.float32, text_encoder_projection_dim=20
    )
    assert torch.equal(ours, expected.expand(2, 6))


@pytest.mark.parametrize("attention", ["explicit", "fused"])
@pytest.mark.parametrize("t", [1, 501])
def test_the_unet_equals_diffusers(model, theirs, attention, t):
    text = model.encode_text(*reversed(PROMPTS), size=(192, 128))
    x = torch.randn(2, 9, 24, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = model.unet(x, t, text, AttentionControl(t=t, attention=attention))
        added = {"text_embeds": text.pooled, "time_ids": text.sizes}
        reference = theirs.unet(x, t, text.tokens, added_cond_kwargs=added, return_dict=False)[0]
        other = model.unet(x, t, PooledText(text.tokens, text.pooled.flip(0), text.sizes), AttentionControl(t=t, attention=attention))
    assert relative(ours, reference) < 1e-5
    assert relative(other, reference) > 1e-4  # pooled text does reach the noise


def test_fused_equals_explicit_with_sac_and_cam_at_every_site(model):
    text = model.encode_text("a red boat", "blue")
    x = torch.randn(2, 9, 16, 16, generator=torch.Generator().manual_seed(2))
    everywhere = Placement("*")
    results = []
    for attention in ("explicit", "fused"):
        control = AttentionControl(t=301, sac=SAC(everywhere), cam=CAM(everywhere), attention=attention)
        results.append(model.unet(x, 301, text, control))
    plain = model.unet(x, 301, text, AttentionControl(t=301))
    assert relative(*results) < 1e-5 and relative(results[0], plain) > 1e-3


def test_layers_are_numbered_through_every_transformer_block():
    with torch.device("meta"):
        sites = UNet(FULL).sites
    assert len(sites) == 140 and [site.layer for site in sites[::2]] == list(range(70))
    golden = {
        0: "down.1.attn.0", 3: "down.1.attn.3", 4: "down.2.attn.0", 23: "down.2.attn.19", 24: "mid.0.attn.0", 33: "mid.0.attn.9",
        34: "up.0.attn.0", 63: "up.0.attn.29", 64: "up.1.attn.0", 69: "up.1.attn.5",
    }  # fmt: skip
    assert {layer: sites[2 * layer].name.removesuffix(".self") for layer in golden} == golden
    assert {site.stride for site in sites if site.layer in (*range(4), *range(64, 70))} == {2}
    assert {site.stride for site in sites if 4 <= site.layer < 64} == {4}


def test_every_site_stands_for_the_published_tensor_of_its_place():
    """Site down.2.attn.13 is transformer block 3 of attention 1 of level 2, in the published folder's names, and so on."""
    from analogist.weights.outmaps import unet_to_diffusers
    from tests.checkpoints import golden

    with torch.device("meta"):
        unet = UNet(FULL)
    published, seen = golden()["sdxl"]["folder"]["unet"], set()
    for name, module in unet.named_modules():
        if not hasattr(module, "to_q"):
            continue
        theirs = unet_to_diffusers(f"{name}.to_q.weight")
        place, level, _, index, kind = module.site.name.split(".")
        depth = {"mid": 10}.get(place, FULL.depth[int(level) if place == "down" else 2 - int(level)])
        block = "mid_block" if place == "mid" else f"{place}_blocks.{level}"
        attention, transformer = divmod(int(index), depth)
        attn = {"self": "attn1", "cross": "attn2"}[kind]
        assert theirs == f"{block}.attentions.{attention}.transformer_blocks.{transformer}.{attn}.to_q.weight" and theirs in published
        seen.add(theirs)
    assert len(seen) == 140


def test_the_default_placement_is_the_same_place_as_sds():
    assert UNetConfig().published_layers == (3, 11)
    assert FULL.published_layers == (2, 66)


def test_the_checkpoints_own_config_has_that_placement(model):
    assert model.unet.config.published_layers == (2, 2 + 2 + 6 + 3 + 9 + 2)
    assert model.config.sac.placement == Placement.layers(2, 24) == model.config.cam.placement


def test_layers_outside_the_table_are_an_error_that_names_it(model, grid):
    with pytest.raises(ValueError, match=r"layers \[70\]: this UNet has layers 0..27"):
        model(grid, "a", config=SHORT.replace(sac=SAC(Placement.layers([70]))), progress=False)


def test_a_whole_run_repeats_and_is_captured_and_edited(model, grid):
    capture = Capture("mid.0.attn.2.self:probs", "up.1.attn.5.cross:probs")
    once = model(grid, "a red boat", config=SHORT, capture=capture, progress=False)
    again = model(grid, "a red boat", config=SHORT, attention="explicit", progress=False)
    assert relative(once.latents, again.latents) < 1e-4 and once.b_prime.size == (64, 64)
    assert once.maps["mid.0.attn.2.self:probs"].shape == (2, 2, 1, 4, 16, 16)
    edited = model(grid, "a red boat", config=SHORT, edit={"down.2.attn.*.self:logits": lambda x, at: 2 * x}, progress=False)
    assert relative(edited.latents, again.latents) > 1e-4
    assert once.record["checkpoint"]["family"] == "sdxl-inpainting"


def test_images_of_a_batch_are_those_alone(model, grid):
    both = model(grid, "a red boat", config=SHORT, images=2, progress=False)
    alone = model(grid, "a red boat", config=SHORT, seed=43, progress=False)
    assert relative(both.latents[1:], alone.latents) < 1e-4


def test_given_text_takes_the_grids_size_where_it_says_none(model, grid):
    bare = model.text.encode([model.negative_prompt, "a red boat" + model.prompt_suffix])
    by_text = model(grid, text=bare, config=SHORT, progress=False)
    by_prompt = model(grid, "a red boat", config=SHORT, progress=False)
    assert torch.equal(by_text.latents, by_prompt.latents)


def test_one_unet_call_on_a_known_b_prime(model, grid):
    known = model.at(grid, "a red boat", b_prime=torch.zeros(64, 64, 3, dtype=torch.uint8).numpy(), config=SHORT)
    assert known.eps.shape == (1, 4, 16, 16) and known.eps.isfinite().all()


def test_the_size_told_to_the_unet_is_the_grids_own(model, theirs, monkeypatch):
    """A grid of another size than the checkpoint's: in the call, in a study and in a single UNet call."""
    from analogist.experiments.design.inputs import Input
    from analogist.experiments.execute.engine import Engine
    from tests.experiments_small import plan_of

    picture = torch.randint(0, 256, (96, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(9)).numpy()
    other = PromptGrid(picture, picture[::-1].copy(), picture, size=(192, 128))
    assert other.size != (model.size, model.size)
    told = []
    prepare = model.unet.prepare_text
    monkeypatch.setattr(model.unet, "prepare_text", lambda text: told.append(text.sizes[0].tolist()) or prepare(text))
    called = model(other, "a red boat", seed=1, config=SHORT, progress=False)
    model.at(other, "a red boat", b_prime=picture, config=SHORT)
    plan = plan_of(model, base=SHORT, inputs=(Input("x", other, "a red boat"),), seeds=(1,))
    studied = Engine(model).sample(plan.groups[0])
    assert told and all(sizes == [192, 128, 0, 0, 192, 128] for sizes in told)
    assert relative(studied.latents, called.latents) < 1e-5


def test_jobs_of_an_sdxl_study_keep_their_own_text(model):
    """Pooled text reaches the noise in a batch of a study too: other prompts beside each other equal each alone."""
    from analogist.experiments.design.inputs import Input
    from analogist.experiments.execute.engine import Engine
    from tests.experiments_small import alone, plan_of

    picture = torch.randint(0, 256, (80, 80, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)).numpy()
    grid = PromptGrid(picture, picture[::-1].copy(), picture, size=128)
    inputs = (Input("x", grid, "a red boat"), Input("y", grid, "snow"))
    (group,) = plan_of(model, base=SHORT, inputs=inputs, batch=2, group=4).groups
    results = Engine(model).sample(group).latents
    for job, latents in zip(group.jobs, results, strict=True):
        assert relative(latents[None], alone(model, job)) < 1e-5
    assert relative(results[:1], results[1:]) > 1e-4


def test_a_whole_run_equals_diffusers_unet_and_ddim(model, theirs, grid):
    """Without SAC and CAM: our run against diffusers' UNet and DDIMScheduler from the same start and text."""
    from diffusers import DDIMScheduler

    plain = SHORT.replace(sac=None, cam=None)
    request = Request(grid=grid, prompt="a red boat", negative_prompt="blue", prompt_suffix="", seed=5, config=plain)
    run, _ = prepare(model, resolve(model, request))
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    scheduler.set_timesteps(3)
    text, z = run.text, run.start_latents()
    for t in scheduler.timesteps[-len(run.times) :]:
        x = torch.cat([z, run.start.fixed], dim=1)
        added = {"text_embeds": text.pooled, "time_ids": text.sizes}
        with torch.no_grad():
            eps = theirs.unet(torch.cat([x, x]), t, text.tokens, added_cond_kwargs=added, return_dict=False)[0]
        negative, prompted = eps.chunk(2)
        z = scheduler.step(negative + plain.sampling.guidance * (prompted - negative), t, z, return_dict=False)[0]
    ours = list(run.steps())[-1].z_t
    assert relative(ours, z) < 1e-5


def test_shards_half_precision_and_folders_without_tokenizers_load(theirs, folder, tmp_path):
    sharded = tmp_path / "sharded"
    small_pipeline().to(torch.float16).save_pretrained(sharded, variant="fp16", max_shard_size="60KB")
    assert list((sharded / "unet").glob("*index*")) and list((sharded / "text_encoder_2").glob("*fp16*"))
    for name in ("tokenizer", "tokenizer_2"):
        shutil.rmtree(sharded / name)
    half = Analogist.from_checkpoint(sharded, device="cpu", dtype="float32")
    whole = Analogist.from_checkpoint(folder, device="cpu", dtype="float32")
    ours, theirs_ = half.encode_text("a red boat"), whole.encode_text("a red boat")
    assert relative(ours.tokens, theirs_.tokens) < 2e-2 and relative(ours.pooled, theirs_.pooled) < 2e-2  # float16 on disk
    assert torch.equal(half.text.ids(["a red boat"]), whole.text.ids(["a red boat"]))


def test_the_fingerprint_covers_the_second_tokenizer_and_the_vaes_precision(folder, tmp_path):
    keys = [open_checkpoint(folder).fingerprint]
    other = shutil.copytree(folder, tmp_path / "tokens")
    (other / "tokenizer_2/added.txt").write_text("x")
    keys.append(open_checkpoint(other).fingerprint)
    other = shutil.copytree(folder, tmp_path / "precision")
    config = json.loads((other / "vae/config.json").read_text())
    (other / "vae/config.json").write_text(json.dumps({**config, "force_upcast": False}))
    keys.append(open_checkpoint(other).fingerprint)
    assert len(set(keys)) == 3 and open_checkpoint(shutil.copytree(folder, tmp_path / "same")).fingerprint == keys[0]


def test_every_network_is_frozen(model):
    networks = (model.unet, model.vae, *model.text.models)
    assert len(networks) == 4
    assert not any(parameter.requires_grad for network in networks for parameter in network.parameters())
    assert not any(network.training for network in networks)


def test_a_scheduler_of_another_kind_is_noted(model):
    assert any("EulerDiscreteScheduler" in note and "DDIM" in note for note in model.describe()["notes"])


def test_a_lora_reaches_both_text_encoders(folder, tmp_path):
    from safetensors.torch import save_file

    base = Analogist.from_checkpoint(folder, device="cpu", dtype="float32")
    torch.manual_seed(3)
    module = "text_model_encoder_layers_0_self_attn_q_proj"
    widths = {"lora_te1_": 16, "lora_te2_": 24}
    factors = {}
    for prefix, width in widths.items():
        factors |= {f"{prefix}{module}.lora_down.weight": torch.randn(2, width), f"{prefix}{module}.lora_up.weight": torch.randn(width, 2)}
    save_file(factors, tmp_path / "lora.safetensors")
    merged = Analogist.from_checkpoint(folder, device="cpu", dtype="float32", lora=tmp_path / "lora.safetensors")
    for prefix, before, after in zip(widths, base.text.models, merged.text.models, strict=True):
        name = next(name for name in after.state_dict() if name.endswith("encoder.layers.0.self_attn.q_proj.weight"))
        delta = factors[f"{prefix}{module}.lora_up.weight"] @ factors[f"{prefix}{module}.lora_down.weight"]
        torch.testing.assert_close(after.state_dict()[name], before.state_dict()[name] + delta)


def test_the_command_runs_it_and_repeats_its_record(folder, grid, tmp_path):
    from analogist.cli.main import main

    grid.image.save(tmp_path / "grid.png")
    arguments = ["run", "--grid", str(tmp_path / "grid.png"), "--prompt", "a red boat", "--steps", "3", "--device", "cpu"]
    assert main([*arguments, "--checkpoint", str(folder), "--quiet", "--out", str(tmp_path / "once")]) == 0
    assert main(["run", "--config", str(tmp_path / "once/run.json"), "--quiet", "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "once/b_prime_42.png").read_bytes() == (tmp_path / "again/b_prime_42.png").read_bytes()


def test_the_vae_computes_in_float32_where_its_config_says_so(folder):
    half = Analogist.from_checkpoint(folder, device="cpu", dtype="float16")
    assert half.unet.conv_in.weight.dtype == torch.float16 and half.vae.dtype == torch.float32
    assert any("VAE: computes in float32" in note for note in half.describe()["notes"])
    assert Analogist.from_checkpoint(folder, device="cpu", dtype="bfloat16").vae.dtype == torch.bfloat16


def test_text_of_the_wrong_kind_is_an_error_that_says_what_is_read(model, grid):
    text = model.encode_text("a")
    x = torch.zeros(2, 9, 16, 16)
    with pytest.raises(ValueError, match="this UNet reads a PooledText"):
        model.unet(x, 1, text.tokens)
    with pytest.raises(ValueError, match="of_size"):
        model.unet(x, 1, PooledText(text.tokens, text.pooled))
    with pytest.raises(ValueError, match="pooled text"):
        model.unet(x, 1, PooledText(text.tokens, text.pooled[:, :5], text.sizes))
    with pytest.raises(ValueError, match="as a PooledText"):
        model(grid, text=text.tokens, config=SHORT, progress=False)
    lab = Analogist.from_checkpoint(device="cpu")
    fitting = PooledText(torch.zeros(2, 77, lab.unet.config.text_width), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="this UNet reads a tensor"):
        lab.unet(torch.zeros(2, 9, 16, 16), 1, fitting)


def test_parts_of_two_models_are_an_error(theirs, folder, tmp_path):
    from safetensors.torch import load_file, save_file

    other = shutil.copytree(folder, tmp_path / "other")
    file = other / "text_encoder_2/model.safetensors"
    tensors = load_file(file)
    tensors["text_projection.weight"] = torch.zeros(19, 24)
    save_file(tensors, file)
    with pytest.raises(WeightsError, match="projects to 19 channels, the UNet expects 20"):
        open_checkpoint(other)


def test_inspect_and_verify_know_it(folder, capsys):
    from analogist.cli.main import main

    assert main(["weights", "inspect", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "Stable Diffusion XL inpainting" in shown and "text_2" in shown and "usable      yes" in shown
    assert main(["weights", "verify", str(folder)]) == 0


def test_conversion_says_that_it_is_not_for_sdxl(folder, tmp_path, capsys):
    from analogist.cli.main import main

    assert main(["weights", "convert", str(folder), str(tmp_path / "one.safetensors")]) == 2
    assert "only SD 1.x and SD 2.x" in capsys.readouterr().err


def test_causal_measures_reach_every_block_of_the_deep_transformers(model, grid):
    """Contribution against what is captured, attribution against a small patch, ablations in batches; text with sizes and pooled part."""
    picture = grid.b_prime(grid.image)
    clean, corrupted = (functools.partial(model.at, grid, prompt, b_prime=picture, config=SHORT) for prompt in ("a red boat", "blue"))
    found = measures.contribution(clean, vectors=True)
    deep = [site for site in model.unet.sites if site.kind == "self"]
    assert found.sites == tuple(site.name for site in deep) and len(deep) > 16 and found.values[..., 0, :, :].isfinite().all()
    maps = clean(capture="*.self:out").maps
    for site in deep:
        module = next(m for m in model.unet.modules() if getattr(m, "site", None) == site)
        assert relative(found.vectors[site.name].sum(dim=(3, 4)), maps[f"{site}:out"].tensor - module.to_out.bias) < 1e-5
    name = f"{deep[-1]}:head_out"
    sweep = measures.attribution_patch(clean, corrupted, "*.self:head_out", heads=True)
    assert sweep.effect.shape == (len(deep), 1, max(site.heads for site in deep))
    result = clean(capture=name)
    value = result.maps[name].tensor[0].flatten(0, 1)

    def moved(weight):
        out = corrupted(edit={name: lambda tensor, at: tensor + weight * (value - tensor)})
        return -float(((out.latents.double() - result.latents) ** 2).mean())

    assert float(sweep.effect[-1, 0].nansum()) == pytest.approx((moved(0.1) - moved(-0.1)) / 0.2, rel=0.05, abs=1e-9)
    one, many = (measures.ablate_sweep(clean, name, heads=True, batch=batch, progress=False).effect for batch in (1, None))
    torch.testing.assert_close(one, many, rtol=1e-2, atol=1e-6, equal_nan=True)


@torch.no_grad()
def test_transformers_own_second_encoder_is_loaded_too(theirs, folder):
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    checkpoint = open_checkpoint(folder)
    with torch.device("meta"):
        module = CLIPTextModelWithProjection(CLIPTextConfig(**checkpoint.text_2))
    checkpoint.load_text_2(module)
    ids = torch.randint(0, 49406, (2, 77))
    ids[:, 5] = 49407
    got, want = module.eval()(ids), theirs.text_encoder_2.eval()(ids)
    assert torch.equal(got.text_embeds, want.text_embeds) and torch.equal(got.last_hidden_state, want.last_hidden_state)
