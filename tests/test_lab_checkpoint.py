"""The embedded checkpoints, weights/lab and weights/lab-generic: files, tokenizer, what diffusers makes of them, and that lab answers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from analogist import Analogist, AnalogistConfig, PromptGrid, examples
from analogist.attention.edit import edits
from analogist.checkpoints import hub
from analogist.config import SamplingConfig
from analogist.examples import by_people
from analogist.lab.export import unet_to_diffusers, vae_to_diffusers, write_folder
from analogist.lab.grids import evaluation_batch, picture_side
from analogist.lab.measure import answers, cell, interval, pasted
from analogist.lab.recipe import from_json
from analogist.lab.split import EVALUATION_SEED
from analogist.lab.state import TrainingError
from analogist.lab.vocabulary import WORDS
from analogist.lab.warm import warm_start
from analogist.lab.words import text_encoder, tokenizer
from analogist.models.unet import UNet
from analogist.models.vae import VAE
from analogist.pipeline import lab_checkpoint
from analogist.weights import keymaps
from analogist.weights.embedded import EMBEDDED, embedded

from .small import relative


@pytest.fixture(scope="module", params=list(EMBEDDED))
def model(request) -> Analogist:
    return Analogist.from_checkpoint(request.param, device="cpu")


@pytest.fixture(scope="module")
def recipe(model: Analogist):
    return from_json(json.loads((model.checkpoint.path / "recipe.json").read_text(encoding="utf-8")))


def mse(one: Image.Image, other: Image.Image) -> float:
    """Mean squared difference, levels 0..1."""
    return float(np.square((np.asarray(one, dtype=float) - np.asarray(other, dtype=float)) / 255).mean())


@pytest.fixture(scope="module")
def lab() -> Analogist:
    return Analogist.from_checkpoint(device="cpu")


def test_without_a_name_the_lab_checkpoint_is_loaded_and_names_are_found_everywhere(lab: Analogist) -> None:
    assert lab.checkpoint.path == lab_checkpoint() == embedded("lab") and hub.find("lab-generic") == embedded("lab-generic")
    with pytest.raises(ValueError, match="no embedded checkpoint 'labs'; there are lab, lab-generic"):
        embedded("labs")
    with pytest.raises(ValueError, match="lab-generic: comes with the package, nothing to download"):
        hub.fetch("lab-generic")


def test_a_folder_with_an_embedded_name_is_a_path(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "lab").mkdir()
    monkeypatch.chdir(tmp_path)
    assert hub.find("lab") == Path("lab")


def test_the_checkpoint_is_trained_small_and_says_how_it_was_made(model: Analogist, recipe) -> None:
    folder = model.checkpoint.path
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files if path.suffix == ".safetensors") <= 22e6
    assert model.trained and len(model.unet.sites) == 32 and min(site.heads for site in model.unet.sites) >= 4
    assert model.schedule.prediction_type == recipe.prediction == "v_prediction"
    assert (folder / "README.md").is_file() and (folder / "NOTICE").is_file()  # the drawings' licence goes where the weights go
    assert recipe.size == model.size and recipe.unet == model.unet.config
    for path in files:
        if path.suffix == ".safetensors":
            assert {t.dtype for t in load_file(path).values()} == {torch.float16}


def test_every_word_is_one_token_and_any_string_falls_apart_into_known_ones(model: Analogist) -> None:
    words = tokenizer()
    for word in WORDS:
        assert len(words(word).input_ids) == 3, word  # start, word, end
    odd = words("zébra 🦓 x=y").input_ids
    assert len(odd) > 6 and words.unk_token_id not in odd[1:-1]
    assert model.text.ids(["red star"]).tolist() == words(["red star"], padding="max_length").input_ids


def test_exported_names_are_read_back_as_ours(recipe) -> None:
    with torch.device("meta"):
        unet, vae = UNet(recipe.unet), VAE(recipe.vae)
    for module, names, back in (
        (unet, unet_to_diffusers, keymaps.unet_diffusers),
        (vae, vae_to_diffusers, keymaps.vae_diffusers),
    ):
        ours = list(module.state_dict())
        theirs = list(names(module.state_dict()))
        mapped = back(theirs)
        assert [target.name for name in theirs for target in mapped[name]] == ours


@pytest.fixture(scope="module")
def pipe(model: Analogist):
    diffusers = pytest.importorskip("diffusers")
    made = diffusers.StableDiffusionInpaintPipeline.from_pretrained(model.checkpoint.path, dtype=torch.float32)
    made.set_progress_bar_config(disable=True)
    return made


def test_diffusers_computes_the_same_outputs_part_by_part(model: Analogist, pipe) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 9, 16, 16)
    with torch.no_grad():
        ids = pipe.tokenizer(["red star on blue", ""], padding="max_length", return_tensors="pt").input_ids
        text = pipe.text_encoder(ids).last_hidden_state
        assert torch.allclose(text, model.text.encode(["red star on blue", ""]), atol=1e-5)
        theirs = pipe.unet(x, 501, encoder_hidden_states=text).sample
        assert relative(model.unet(x, 501, text), theirs) < 1e-5
        z = torch.randn(1, 4, 16, 16)
        assert relative(model.vae.decode(z), pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample) < 1e-5
    assert pipe.vae.config.scaling_factor == model.vae.config.scaling_factor
    assert pipe.unet.config.in_channels == 9 and type(pipe.scheduler).__name__ == "DDIMScheduler"
    assert pipe.scheduler.config.prediction_type == model.schedule.prediction_type


def test_diffusers_pipeline_paints_the_same_picture(model: Analogist, pipe) -> None:
    """At strength 1 both start from the same noise. SAC and CAM are off."""
    example = examples.load("drawing-invert")
    grid = PromptGrid(example.a, example.a_prime, example.b, size=model.size)
    config = AnalogistConfig(sampling=SamplingConfig(steps=5, strength=1, guidance=2.0), sac=None, cam=None)
    ours = model(grid, example.prompt, seed=5, config=config, progress=False)
    generator, side = torch.Generator().manual_seed(5), model.size // model.vae.config.factor
    noise, _ = (torch.randn((1, 4, side, side), generator=generator) for _ in range(2))  # what is left to draw is the masked picture's
    theirs = pipe(
        example.prompt, image=grid.pixels(), mask_image=grid.mask_tensor(), height=model.size, width=model.size, latents=noise,
        generator=generator, strength=1.0, num_inference_steps=5, guidance_scale=2.0, output_type="pt",
    ).images  # fmt: skip
    assert relative((ours.pixels.clamp(-1, 1) + 1) / 2, theirs) < 1e-3


@pytest.mark.parametrize("cut", [False, True])
def test_many_grids_at_once_give_what_each_gives_alone(lab: Analogist, cut: bool) -> None:
    model = lab
    batch = evaluation_batch(["recolour", "mask"], size=model.size, seed=EVALUATION_SEED + 11)
    config = model.config.replace(steps=3, strength=0.7)
    edit = {"up.3.attn.1.self:head_out": edits.ablate_heads(1)} if cut else None
    together = answers(model, batch.pixels, batch.captions, config, seeds=[5, 9], edit=edit)
    for k, seed in enumerate((5, 9)):
        pictures = [(cell(batch.pixels, i)[k] * 255).round().byte().permute(1, 2, 0).numpy() for i in range(3)]
        alone = model(PromptGrid(*pictures, size=model.size), batch.captions[k], seed=seed, config=config, edit=edit, progress=False).pixels
        assert torch.allclose(together[k], alone[0].cpu(), atol=1e-3)  # batched kernels sum in another order


def test_pasting_copies_b_with_its_border() -> None:
    pixels = torch.rand(1, 3, 8, 8)
    out = pasted(pixels)
    assert torch.equal(out[..., 4:, 4:], pixels[..., 4:, :4]) and torch.equal(out[..., :4, :], pixels[..., :4, :])


def test_the_answer_is_nearer_the_truth_than_copies(lab: Analogist) -> None:
    kinds = ("invert", "grey out", "enhance", "denoise")
    found = [by_people.analogies(kind, count=2, side=picture_side(lab.size), seed=12)[1] for kind in kinds]
    grids = [PromptGrid(one.a, one.a_prime, one.b, lab.size) for one in found]
    for prompts in ([one.prompt for one in found], [""] * len(kinds)):
        result = lab(grids, prompts, progress=False)
        ours, copies = (torch.tensor([mse(picture, one.b_prime) for picture, one in zip(some, found, strict=True)])
                        for some in (result.b_primes_inner, [one.b for one in found]))
        assert ours.mean() < 0.6 * copies.mean()


@pytest.mark.parametrize("name", ["drawing-invert", "recolour"])
def test_an_example_runs_with_the_checkpoints_own_settings(model: Analogist, name: str) -> None:
    example = examples.load(name)
    result = model(example.grid(), example.prompt, progress=False)
    assert result.b_prime.size == (model.size // 2, model.size // 2) and torch.isfinite(result.pixels).all()


def test_a_bootstrap_interval_holds_the_mean_and_narrows_with_more_pairs() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)) + 1
    mean, low, high = interval(values)
    # closed form: the standard error of 400 unit normals is 0.05, so the interval is about 4 x 0.05 wide
    assert low < mean < high and high - low == pytest.approx(0.196, rel=0.15)


def test_a_written_folder_holds_the_weights_and_starts_a_training(tmp_path: Path, recipe) -> None:
    torch.manual_seed(0)
    unet, vae, text = UNet(recipe.unet), VAE(recipe.vae), text_encoder(recipe.text)
    write_folder(tmp_path, recipe, unet=unet.state_dict(), vae=vae.state_dict(), text=text.state_dict(), scaling_factor=0.5,
                 defaults={"size": 128, "trained": True})

    class Task:
        name = "unet"
        network = nn.Module()

    task = Task()
    task.network.unet, task.network.text = UNet(recipe.unet), text_encoder(recipe.text)
    warm_start(task, tmp_path)
    for before, after in ((unet, task.network.unet), (text, task.network.text)):
        loaded = after.state_dict()
        assert all(torch.equal(loaded[name], tensor.half().float()) for name, tensor in before.state_dict().items())
    assert all(p.requires_grad for p in task.network.parameters())
    with pytest.raises(TrainingError, match="no such folder"):
        warm_start(task, tmp_path / "missing")
