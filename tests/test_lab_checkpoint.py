"""The checkpoint in weights/lab: its files, its tokenizer, what diffusers makes of it, and that it answers."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from analogist import Analogist, PromptGrid, examples
from analogist.lab.export import unet_to_diffusers, vae_to_diffusers, write_folder
from analogist.lab.grids import evaluation_batch
from analogist.lab.measure import answers, cell, feature_distance, interval, pasted, squared_error
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


@pytest.fixture(scope="module")
def model() -> Analogist:
    return Analogist.from_checkpoint(device="cpu")


@pytest.fixture(scope="module")
def recipe():
    return from_json(json.loads((lab_checkpoint() / "recipe.json").read_text(encoding="utf-8")))


def test_the_checkpoint_is_trained_small_and_says_how_it_was_made(model: Analogist, recipe) -> None:
    files = [path for path in lab_checkpoint().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25e6
    assert model.trained and len(model.unet.sites) == 32
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


def test_diffusers_computes_the_same_noise_and_the_same_picture(model: Analogist) -> None:
    diffusers = pytest.importorskip("diffusers")
    pipe = diffusers.StableDiffusionInpaintPipeline.from_pretrained(lab_checkpoint(), dtype=torch.float32)
    torch.manual_seed(0)
    x = torch.randn(2, 9, 16, 16)
    with torch.no_grad():
        ids = pipe.tokenizer(["red star on blue", ""], padding="max_length", return_tensors="pt").input_ids
        text = pipe.text_encoder(ids).last_hidden_state
        assert torch.allclose(text, model.text.encode(["red star on blue", ""]), atol=1e-5)
        theirs = pipe.unet(x, 501, encoder_hidden_states=text).sample
        ours = model.unet(x, 501, text)
        assert (ours - theirs).norm() / theirs.norm() < 1e-5
        z = torch.randn(1, 4, 16, 16)
        picture = pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample
        assert (model.vae.decode(z) - picture).norm() / picture.norm() < 1e-5
    assert pipe.vae.config.scaling_factor == model.vae.config.scaling_factor
    assert pipe.unet.config.in_channels == 9 and type(pipe.scheduler).__name__ == "DDIMScheduler"


def test_many_grids_at_once_give_what_each_gives_alone(model: Analogist) -> None:
    batch = evaluation_batch(["recolour", "mask"], size=128, seed=EVALUATION_SEED + 11)
    config = model.config.replace(steps=3, strength=0.7)
    together = answers(model, batch.pixels, batch.captions, config, seeds=[5, 9])
    for k, seed in enumerate((5, 9)):
        pictures = [(cell(batch.pixels, i)[k] * 255).round().byte().permute(1, 2, 0).numpy() for i in range(3)]
        alone = model(PromptGrid(*pictures, size=128), batch.captions[k], seed=seed, config=config, progress=False).pixels
        assert torch.allclose(together[k], alone[0].cpu(), atol=1e-3)  # batched kernels sum in another order


def test_pasting_copies_b_with_its_border() -> None:
    pixels = torch.rand(1, 3, 8, 8)
    out = pasted(pixels)
    assert torch.equal(out[..., 4:, 4:], pixels[..., 4:, :4]) and torch.equal(out[..., :4, :], pixels[..., :4, :])


def test_the_answer_is_nearer_the_truth_than_copies(model: Analogist) -> None:
    batch = evaluation_batch(["recolour", "background", "sketch", "mask", "denoise", "colorize"], size=128, seed=EVALUATION_SEED + 12)
    truth = cell(batch.pixels, 3)
    found = cell(answers(model, batch.pixels, batch.captions, model.config, seeds=range(6)), 3)
    for distance in (squared_error, feature_distance):
        best_copy = min(distance(cell(batch.pixels, i), truth).mean() for i in (1, 2))
        assert distance(found, truth).mean() < 0.75 * best_copy


def test_the_first_example_runs_with_the_checkpoints_own_settings(model: Analogist) -> None:
    example = examples.load(examples.names()[0])
    result = model(PromptGrid(example.a, example.a_prime, example.b), example.prompt, progress=False)
    assert result.b_prime.size == (64, 64) and torch.isfinite(result.pixels).all()


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
