"""One call's arguments: lists of grids and prompts, latents that the caller gives, times of steps, and what is refused."""

import dataclasses
import inspect
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from analogist.attention.capture.capture import Capture
from analogist.attention.select.run_shape import run_shape
from analogist.config import AnalogistConfig, SamplingConfig
from analogist.explore import for_explorer
from analogist.grid import PromptGrid
from analogist.models.attention import CrossAttention, SelfAttention
from analogist.pipeline import DEFAULT, Analogist
from analogist.run import known_pictures as known
from analogist.run.output import Repeat, save_result
from analogist.run.record import image_record
from analogist.run.request import Call, Request

CHECKPOINT = Path(__file__).parent / "parity" / "checkpoint"
SHORT = AnalogistConfig(sampling=SamplingConfig(steps=4, strength=0.8))


def picture(seed: int, size: tuple[int, int] = (60, 50)) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)


def grid_of(seed: int, size: int | tuple[int, int] | None = 128) -> PromptGrid:
    return PromptGrid(picture(seed), picture(seed + 1), picture(seed + 2), size)


@pytest.fixture(scope="module")
def model() -> Analogist:
    return Analogist.from_checkpoint(CHECKPOINT, device="cpu", progress=False)


@pytest.fixture(scope="module")
def grids() -> list[PromptGrid]:
    return [grid_of(0), grid_of(10)]


@pytest.fixture(scope="module")
def together(model, grids):
    return model(grids, ["a red boat", "snow"], images=2, seed=5, config=SHORT, capture="up.1.attn.2.*:probs")


@pytest.fixture(scope="module")
def alone(model, grids):
    return [
        model(grid, prompt, images=2, seed=5, config=SHORT, capture="up.1.attn.2.*:probs")
        for grid, prompt in zip(grids, ["a red boat", "snow"], strict=True)
    ]


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


# lists of grids and prompts


def test_a_list_of_grids_and_prompts_equals_the_single_calls(together, alone):
    for k, single in enumerate(alone):
        mine = slice(2 * k, 2 * k + 2)
        # 1e-4: another number of images in one UNet call rounds differently
        assert relative(together.latents[mine], single.latents) < 1e-4
        for ours, theirs in zip(together.b_primes[mine], single.b_primes, strict=True):
            assert np.abs(np.asarray(ours).astype(int) - np.asarray(theirs).astype(int)).max() <= 1
    assert relative(together.latents[:2], together.latents[2:]) > 0.1


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_in_the_same_batch_size_lists_equal_the_single_calls_bit_for_bit(model, grids, eta):
    call = {"images": 2, "seed": 5, "config": SHORT.replace(eta=eta), "batch": 2}
    both = model(grids, ["a red boat", "snow"], negative_prompt=["blue", ""], **call)
    singles = [
        model(grids[0], "a red boat", negative_prompt="blue", **call), model(grids[1], "snow", negative_prompt="", **call)
    ]  # fmt: skip
    assert torch.equal(both.latents, torch.cat([single.latents for single in singles]))
    assert torch.equal(both.pixels, torch.cat([single.pixels for single in singles]))
    assert [p.tobytes() for p in both.b_primes] == [p.tobytes() for single in singles for p in single.b_primes]


def test_results_come_grid_by_grid_and_each_takes_the_seeds_from_seed_on(together, alone):
    assert len(together.b_primes) == len(together.grids) == len(together.latents) == 4
    assert together.record["seeds"] == [5, 6, 5, 6]
    singles = torch.cat([single.latents for single in alone])
    nearest = torch.cdist(together.latents.flatten(1), singles.flatten(1)).argmin(1)
    assert nearest.tolist() == [0, 1, 2, 3]


def test_one_list_goes_with_one_of_the_others_for_all(model, grids):
    call = {"seed": 5, "config": SHORT, "batch": 1}
    one, two = (model(grid, "snow", **call).latents for grid in grids)
    assert torch.equal(model(grids, "snow", **call).latents, torch.cat([one, two]))
    boat = model(grids[0], "a red boat", **call).latents
    assert torch.equal(model(grids[0], ["snow", "a red boat"], **call).latents, torch.cat([one, boat]))
    blue = model(grids[0], "snow", negative_prompt="blue", **call).latents
    listed = model(grids[0], "snow", negative_prompt=["blue", model.negative_prompt], **call)
    assert torch.equal(listed.latents, torch.cat([blue, one]))
    text = model.encode_text("snow" + model.prompt_suffix, model.negative_prompt)
    assert torch.equal(model(grids, text=text, **call).latents, torch.cat([one, two]))


def test_lists_work_at_guidance_one_and_with_calls_that_straddle_the_grids(model, grids):
    call = {"images": 2, "seed": 5, "config": SHORT.replace(guidance=1.0)}
    singles = torch.cat([model(grids[0], "a", **call).latents, model(grids[1], "b", **call).latents])
    assert relative(model(grids, ["a", "b"], batch=3, **call).latents, singles) < 1e-4


def test_a_captures_image_axis_covers_all_grids_and_the_record_lists_them(together, alone, grids):
    probs = together.maps["up.1.attn.2.self:probs"]
    assert probs.sel(image=[0, 1, 2, 3]).shape == probs.shape and probs.shape[probs.axis("image")] == 4
    for k, single in enumerate(alone):
        theirs = single.maps["up.1.attn.2.self:probs"]
        for image in (0, 1):
            ours = probs.sel(image=2 * k + image)
            torch.testing.assert_close(ours.tensor, theirs.sel(image=image).tensor, rtol=1e-3, atol=1e-5)
    record = json.loads(json.dumps(together.record))
    assert record["prompt"] == ["a red boat", "snow"] and len(record["negative_prompt"]) == 2
    assert [one["sha256"] for one in record["grid"]] == [single.record["grid"]["sha256"] for single in alone]
    assert record["repeatable"] is True
    third = image_record(record, 3)
    assert (third["prompt"], third["seeds"], third["analogy"], third["image"]) == ("snow", [6], 1, 3)
    assert third["grid"] == alone[1].record["grid"]


def test_the_record_of_one_grid_is_as_it_was(alone, model, grids):
    record = alone[0].record
    assert isinstance(record["grid"], dict) and record["prompt"] == "a red boat" and record["seeds"] == [5, 6]
    assert image_record(record, 1) == {**record, "seeds": [6], "image": 1}
    listed = model([grids[0]], "snow", config=SHORT.replace(steps=1, strength=1.0))
    assert isinstance(listed.record["grid"], list) and listed.record["prompt"] == ["snow"]


def test_pictures_of_several_grids_are_saved_under_names_of_their_own(together, tmp_path):
    from analogist.grid.pictures import read_record

    save_result(together, tmp_path)
    assert sorted(path.name for path in tmp_path.glob("b_prime*")) == [f"b_prime_{g}_{s}.png" for g in (1, 2) for s in (5, 6)]
    assert read_record(tmp_path / "b_prime_2_6.png")["prompt"] == "snow"
    (tmp_path / "run.json").write_text(json.dumps(together.record))
    with pytest.raises(ValueError, match="one call with 2 grids; `analogist run --list`"):
        Repeat(tmp_path / "run.json")


def test_copies_that_an_edit_asks_for_hold_every_grid_and_prompt_once_each(model, grids):
    def same(tensor, at):
        return tensor

    same.copies = 2
    call = {"images": 2, "seed": 5, "config": SHORT}
    plain = model(grids, ["a red boat", "snow"], **call)
    twice = model(grids, ["a red boat", "snow"], edit={"up.1.attn.2.self:out": same}, **call)
    assert relative(twice.latents, torch.cat([plain.latents] * 2)) < 1e-4  # images are (copy image)
    truths = [picture(30), picture(31)]
    for ours, theirs in zip(twice.score(truths), plain.score(truths), strict=True):
        assert ours["mse"] == pytest.approx(theirs["mse"], rel=1e-2)  # pixels may differ by a level
    z = model.start(grids, ["a red boat", "snow"], **call)
    given = model(grids, ["a red boat", "snow"], edit={"up.1.attn.2.self:out": same}, latents=z, **call)
    assert torch.equal(given.latents, twice.latents)


def test_words_that_stand_in_one_prompt_of_several_are_an_error_that_says_so(model, grids):
    with pytest.raises(ValueError, match="text prompts of this run differ from image to image"):
        model(grids, ["a red boat", "snow"], config=SHORT, capture=Capture("*.cross:probs", words="boat"))
    same = model(grids, "a red boat", config=SHORT, capture=Capture("up.1.attn.2.cross:probs", words="boat", branches="text"))
    assert same.maps["up.1.attn.2.cross:probs"].shape[-1] == 1


def test_the_explorer_shows_every_image_of_several_grids_with_its_own_prompt(model, grids, tmp_path):
    from analogist.explore.source import from_result

    look = for_explorer(model, grids, ["a red boat", "snow"], config=SHORT)
    result = model(grids, ["a red boat", "snow"], config=SHORT, capture=look)
    sources = from_result(result)
    assert [source.prompt for source in sources] == [f"{text}{model.prompt_suffix}" for text in ("a red boat", "snow")]
    assert len({source.label for source in sources}) == 2
    result.explore().save(tmp_path / "look.html")
    assert (tmp_path / "look.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("grid", "call", "message"),
    [
        ([grid_of(0), grid_of(1)], {"prompt": ["a", "b", "c"]}, "lists of grid 2, prompt 3: give lists of one length"),
        ([grid_of(0)], {"negative_prompt": ["a", "b"]}, "lists of grid 1, negative_prompt 2"),
        ([], {}, "lists of grid 0"),
        ([grid_of(0), grid_of(1, (128, 256))], {}, "128x128 px with 1 example pair, 128x256 px with 1 example pair"),
        ([grid_of(0, (192, 128)), PromptGrid([picture(0)] * 2, [picture(1)] * 2, picture(2), (192, 128))], {}, "192"),
        ([grid_of(0, 256), PromptGrid([picture(0)] * 3, [picture(1)] * 3, picture(2), (256, 256))], {}, "3 example pairs"),
        ([grid_of(0), "grid.png"], {}, "grid str: give PromptGrid"),
        ([grid_of(0)], {"prompt": ["a"], "generator": torch.Generator()}, "generator= with lists"),
        ([grid_of(0), grid_of(1)], {"prompt": ["a", 3]}, "prompt 3: give one text"),
        ([grid_of(0), grid_of(1)], {"batch": 1, "capture": "*.self:probs"}, "need all 2 images in one batch"),
        (grid_of(0), {"prompt": ["a", "b"], "text": torch.zeros(2, 77, 32)}, "text= replaces"),
    ],
)  # fmt: skip
def test_lists_that_do_not_go_together_are_errors_before_anything_runs(model, monkeypatch, grid, call, message):
    monkeypatch.setattr(type(model.unet), "forward", never)
    with pytest.raises(ValueError, match=message):
        model(grid, **{"config": SHORT, **call})


def never(*_, **__):
    raise AssertionError("the UNet ran")


# latents that the caller gives


@pytest.mark.parametrize("call", [{}, {"strength": 1.0}, {"eta": 0.6}], ids=["published", "pure noise", "eta"])
def test_the_latents_of_start_give_the_run_without_them_bit_for_bit(model, grids, call):
    arguments = {"images": 2, "seed": 5, "config": SHORT.replace(**call)}
    z = model.start(grids[0], "a red boat", **arguments)
    assert z.shape == (2, 4, 16, 16) and z.dtype == torch.float32
    plain = model(grids[0], "a red boat", **arguments)
    given = model(grids[0], "a red boat", latents=z, **arguments)
    assert torch.equal(given.latents, plain.latents) and torch.equal(given.pixels, plain.pixels)
    assert given.record == plain.record and given.record["repeatable"] is True


def test_the_latents_of_start_give_the_run_without_them_for_lists_and_for_a_generator(model, grids):
    arguments = {"prompt": ["a red boat", "snow"], "seed": 5, "config": SHORT}
    plain = model(grids, **arguments)
    assert torch.equal(model(grids, **arguments, latents=model.start(grids, **arguments)).latents, plain.latents)

    def fresh() -> dict:
        return {"generator": torch.Generator().manual_seed(3), "images": 2, "config": SHORT.replace(eta=0.5)}

    z = model.start(grids[0], "a", **fresh())
    assert torch.equal(model(grids[0], "a", **fresh(), latents=z).latents, model(grids[0], "a", **fresh()).latents)


def test_start_is_the_noised_grid_with_b_pasted_over_b_prime(model, grids):
    generator = torch.Generator().manual_seed(9)
    noise, image = (torch.randn((1, 4, 16, 16), generator=generator) for _ in range(2))
    with torch.no_grad():
        posterior = model.vae.posterior(grids[0].pixels())
    z0 = 0.18215 * (posterior.mean + posterior.std * image)
    alpha_bar = model.alpha_bars[501]  # 4 steps at strength 0.8: the first executed time is 501
    expected = alpha_bar.sqrt() * z0 + (1 - alpha_bar).sqrt() * noise
    assert relative(model.start(grids[0], "", seed=9, config=SHORT), expected) < 1e-5


def test_start_makes_no_unet_call_and_captures_nothing(model, grids, monkeypatch, tmp_path):
    monkeypatch.setattr(type(model.unet), "forward", never)
    model.start(grids[0], "a", config=SHORT, capture=Capture("*.self:probs", spill=tmp_path / "maps"))
    assert not (tmp_path / "maps").exists()


def test_changed_latents_leave_every_other_draw_as_it_was_and_are_recorded(model, grids):
    config = SHORT.replace(eta=1.0)
    z = model.start(grids[0], "a", seed=5, config=config)
    seen = []
    steps = [{}, {"latents": z + 0.5}]
    for call in steps:
        first = next(model.steps(grids[0], "a", seed=5, config=config, **call))
        bar, before = (model.alpha_bars[t] for t in (first.t_next, first.t))
        sigma = ((1 - bar) / (1 - before) * (1 - before / bar)).sqrt()
        seen.append((first.z_t - bar.sqrt() * first.x0 - (1 - bar - sigma**2).clamp(min=0).sqrt() * first.eps) / sigma)
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-3, atol=1e-3)  # the step's own noise, solved for by DDIM's Eq. (12)
    given = model(grids[0], "a", seed=5, config=config, latents=z + 0.5)
    assert relative(given.latents, model(grids[0], "a", seed=5, config=config).latents) > 1e-3
    assert given.record["repeatable"] is False and "latents= was given" in given.record["not_repeatable_because"][0]


def test_latents_are_not_written_into_and_may_be_of_another_type(model, grids):
    z = model.start(grids[0], "a", config=SHORT)
    half, kept = z.half(), z.clone().requires_grad_(True)
    assert relative(model(grids[0], "a", config=SHORT, latents=half).latents, model(grids[0], "a", config=SHORT).latents) < 1e-2
    model(grids[0], "a", config=SHORT, latents=kept)
    assert torch.equal(kept.detach(), z)


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (torch.zeros(2, 4, 16, 16), r"give \[image 4 h w\] = \[1, 4, 16, 16\], as model.start"),
        (torch.zeros(1, 4, 8, 8), r"latents Tensor \[1, 4, 8, 8\]"),
        (np.zeros((1, 4, 16, 16)), "latents ndarray"),
        (torch.zeros(1, 4, 16, 16, dtype=torch.long), "floating point"),
        (torch.full((1, 4, 16, 16), torch.nan), "finite"),
    ],
)  # fmt: skip
def test_latents_that_the_run_cannot_start_from_are_errors_before_anything_runs(model, grids, monkeypatch, latents, message):
    monkeypatch.setattr(type(model.unet), "forward", never)
    with pytest.raises(ValueError, match=message):
        model(grids[0], "a", config=SHORT, latents=latents)


def test_t_next_is_the_time_of_the_latents_after_the_step(model, grids):
    steps = list(model.steps(grids[0], "a", config=SHORT))
    assert [step.t for step in steps] == [501, 251, 1]
    assert [step.t_next for step in steps[:-1]] == [251, 1] and steps[-1].t_next < 0
    for step in steps[:-1]:
        bar = model.alpha_bars[step.t_next]
        assert relative(step.z_t, bar.sqrt() * step.x0 + (1 - bar).sqrt() * step.eps) < 1e-5


# one request


def test_the_call_its_keyword_arguments_and_the_request_name_the_same_things():
    call = [name for name in inspect.signature(Analogist.__call__).parameters if name != "self"]
    assert len(call) == 15
    assert call == [field.name for field in dataclasses.fields(Request)]
    assert [*Call.__annotations__] == call[2:]
    facades = (Analogist.steps, Analogist.start, Analogist.at, Analogist.invert)
    for method in (*facades, known.at, known.invert, known.unet_calls, run_shape, for_explorer, Capture.plan):
        assert "Call" in str(inspect.signature(method).parameters["call"].annotation), method


def test_none_is_the_checkpoints_own_everywhere(model, grids):
    nothing = {name: None for name in Call.__annotations__ if name not in ("images", "seed")}
    assert DEFAULT is None
    result = model(grids[0], "a", **{**nothing, "config": SHORT})
    assert torch.equal(result.latents, model(grids[0], "a", config=SHORT).latents)
    assert result.record["negative_prompt"] == model.negative_prompt and result.record["prompt_suffix"] == model.prompt_suffix
    assert run_shape(model, grids[0], "a", **nothing).steps == model.config.sampling.executed
    looked = model.at(grids[0], "a", b_prime=picture(3), **{**nothing, "config": SHORT})
    assert torch.equal(looked.eps, model.at(grids[0], "a", b_prime=picture(3), config=SHORT).eps)


def test_a_misspelt_argument_is_an_error_and_not_swallowed(model, grids):
    for ask in (model, model.steps, model.start, Capture("*.self:probs").plan):
        with pytest.raises(TypeError, match="promt_suffix"):
            ask(*([model] if ask not in (model, model.steps, model.start) else []), grids[0], "a", promt_suffix="x")
    for ask in (model.at, model.invert):
        with pytest.raises(TypeError, match="promt_suffix"):
            ask(grids[0], "a", b_prime=picture(3), promt_suffix="x")


def test_at_and_invert_refuse_lists_and_what_has_no_effect_in_them(model, grids):
    for ask, name in ((model.at, "at"), (model.invert, "invert")):
        with pytest.raises(ValueError, match=rf"{name}\(\) takes one grid with one prompt, and grid is a list; call it once for each"):
            ask(grids, "a", b_prime=picture(3))
        with pytest.raises(ValueError, match="and prompt is a list"):
            ask(grids[0], ["a", "b"], b_prime=picture(3))
        with pytest.raises(ValueError, match=rf"{name}\(\) does not take images=, batch=; leave it out"):
            ask(grids[0], "a", b_prime=picture(3), images=2, batch=1)
        with pytest.raises(ValueError, match="does not take latents="):
            ask(grids[0], "a", b_prime=picture(3), latents=torch.zeros(1, 4, 16, 16))
    with pytest.raises(ValueError, match="does not take capture="):
        model.invert(grids[0], "a", b_prime=picture(3), capture="*.self:probs")


def test_a_request_is_frozen(grids):
    with pytest.raises(dataclasses.FrozenInstanceError):
        Request(grid=grids[0]).seed = 3


def test_progress_is_a_setting_of_the_model_that_a_call_may_override(model, grids, capsys):
    assert model.progress is False and Analogist.from_checkpoint(CHECKPOINT, device="cpu").progress is True
    quick = SHORT.replace(steps=1, strength=1.0)

    def shown(ask) -> bool:
        capsys.readouterr()
        ask()
        return "sampling" in capsys.readouterr().err

    assert not shown(lambda: model(grids[0], "", config=quick))
    assert shown(lambda: model(grids[0], "", config=quick, progress=True))
    model.progress = True
    try:
        assert shown(lambda: model(grids[0], "", config=quick))
        assert not shown(lambda: model(grids[0], "", config=quick, progress=False))
        assert not shown(lambda: list(model.steps(grids[0], "", config=quick)))
    finally:
        model.progress = False


# from a site to its module


def test_a_site_and_a_point_lead_to_their_module(model):
    for site in model.unet.sites:
        module = model.module(site.name)
        assert isinstance(module, SelfAttention if site.kind == "self" else CrossAttention) and module.site == site
        assert model.module(site) is model.module(f"{site.layer}.{site.kind}") is model.module(f"{site}:probs") is module
    names = {name: module for name, module in model.unet.named_modules()}
    assert model.module("up.1.res.0.block") is names["up.1.resnets.0"]
    with pytest.raises(ValueError, match="nearest are .*up.1.attn.2.self"):
        model.module("up.1.attn.2.slf")
    with pytest.raises(ValueError, match="has stream, x, q, k, v"):
        model.module("up.1.attn.2.self:prbs")


# against the true B'


def test_b_prime_inner_is_b_prime_without_the_grids_border(together):
    left, top, right, bottom = 64 + 1, 64 + 1, 64 + 1 + 61, 64 + 1 + 61  # method.md: pictures of int(64 - 3) px at cell + p - 1
    for k, picture_of in enumerate(together.grids):
        assert together.b_primes_inner[k].tobytes() == picture_of.crop((left, top, right, bottom)).tobytes()
    assert together.b_prime_inner.size == (61, 61) and together.b_prime.size == (64, 64)


def test_b_prime_inner_comes_back_in_bs_shape_where_the_grid_was_fitted(model):
    wide = picture(2, (80, 40))
    for fit, size in (("stretch", (122, 61)), ("pad", None), ("crop", (61, 61))):
        result = model(PromptGrid(picture(0), picture(1), wide, 128, fit=fit), "", config=SHORT.replace(steps=1, strength=1.0))
        if fit == "pad":  # B' is the part of the cell that B took up: no border in it
            assert result.b_prime_inner.tobytes() == result.b_prime.tobytes()
        else:
            assert result.b_prime_inner.size == size


def test_score_measures_b_prime_without_its_border_against_the_truth(model, grids, tmp_path):
    result = model(grids[0], "a", seed=5, config=SHORT)
    truth = picture(30)
    ours, true = (np.asarray(p, float) / 255 for p in (result.grids[0].crop((65, 65, 126, 126)), truth.resize((61, 61))))
    mse = ((ours - true) ** 2).mean()
    found = result.score(truth)
    assert found["mse"] == pytest.approx(mse, rel=1e-5) and found["psnr"] == pytest.approx(-10 * np.log10(mse), rel=1e-5)
    truth.save(tmp_path / "truth.png")
    assert result.score(tmp_path / "truth.png") == result.score(np.asarray(truth)) == found
    perfect = result.score(result.b_prime_inner)
    assert perfect["mse"] == 0 and perfect["psnr"] == float("inf")


def test_score_holds_the_studies_other_metrics_where_torchmetrics_is_there(model, grids):
    pytest.importorskip("torchmetrics")
    from torchmetrics.functional.image import structural_similarity_index_measure as similarity

    result = model(grids[0], "a", seed=5, config=SHORT)
    found = result.score(picture(30))
    ours, true = (
        torch.from_numpy(np.array(p)).permute(2, 0, 1)[None].float() / 255
        for p in (result.b_prime_inner, picture(30).resize((61, 61)))
    )
    assert found["ssim"] == pytest.approx(similarity(ours, true, data_range=1.0).item(), rel=1e-5)
    assert {"mse_to_b", "mse_to_a_prime", "mse_colour", "mse_detail"} <= set(found)
    assert not {"clip_distance", "dino_distance"} & set(found)  # no network was given


def test_score_needs_no_extra_for_mse_and_psnr(model, grids, monkeypatch):
    result = model(grids[0], "a", seed=5, config=SHORT)
    whole = result.score(picture(30))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchmetrics"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert result.score(picture(30)) == {name: whole[name] for name in ("mse", "psnr")}


def test_score_without_lpips_weights_says_so_and_keeps_the_rest(model, grids, monkeypatch):
    from analogist.experiments.score import metrics

    def offline(self, painted):
        raise OSError("no route to host")

    monkeypatch.setattr(metrics.Measurer, "_why_not", lambda self, metric, painted: None if metric.name in ("lpips", "ssim") else "no")
    monkeypatch.setattr(metrics.Measurer, "_perceptual", offline)
    result = model(grids[0], "a", seed=5, config=SHORT)
    with pytest.warns(UserWarning, match="lpips is left out: .*no route to host"):
        found = result.score(picture(30))
    assert set(found) == {"mse", "psnr", "ssim"}


def test_score_of_several_images_is_their_mean_and_of_several_grids_a_list(together, alone):
    truths = [picture(30), picture(31)]
    found = together.score(truths)
    assert isinstance(found, list) and len(found) == 2
    for k, (truth, one) in enumerate(zip(truths, found, strict=True)):
        inner = [np.asarray(p, float) / 255 for p in together.b_primes_inner[2 * k : 2 * k + 2]]
        true = np.asarray(truth.resize((61, 61)), float) / 255
        assert one["mse"] == pytest.approx(np.mean([((p - true) ** 2).mean() for p in inner]), rel=1e-5)
    assert isinstance(alone[0].score(truths[0]), dict)
    assert together.score(truths[0])[0] == found[0]
    with pytest.raises(ValueError, match="3 truths for 2 grids"):
        together.score([*truths, truths[0]])
    with pytest.raises(ValueError, match="true B'"):
        together.score("nowhere.png")


def test_a_truth_is_cropped_as_b_was(model):
    wide = picture(2, (80, 40))
    result = model(PromptGrid(picture(0), picture(1), wide, 128, fit="crop"), "", config=SHORT.replace(steps=1, strength=1.0))
    truth = picture(33, (80, 40))
    middle = truth.resize((61, 61), box=(20, 0, 60, 40))
    ours, true = (np.asarray(p, float) / 255 for p in (result.b_prime_inner, middle))
    assert result.score(truth)["mse"] == pytest.approx(((ours - true) ** 2).mean(), rel=1e-5)


def test_scores_warn_of_nothing_by_themselves(model, grids):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(grids[0], "a", seed=5, config=SHORT).score(picture(30))
