"""Studies as jobs: levels, designs, content keys, groups; and the engine that shares and batches them."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch

from analogist.config import AnalogistConfig, SamplingConfig
from analogist.experiments.design.factors import Setting, apply, expand
from analogist.experiments.design.inputs import lab_inputs
from analogist.experiments.design.levels import StudyError, steps_level
from analogist.experiments.design.space import Space
from analogist.experiments.design.study import CHANGE, Hypothesis, Study
from analogist.experiments.execute.engine import Engine
from analogist.experiments.execute.histories import Actions, Histories
from analogist.experiments.execute.jobs import job_record, make_groups
from analogist.models.control import SAC
from analogist.models.placement import NEGATIVE, TEXT, Placement
from analogist.run.record import grid_record
from tests.experiments_small import BASE, SIZE, alone, load_model, one_input, plan_of, study
from tests.small import relative

TOLERANCE = 2e-5  # relative, last latents of a job in a batch against the same job alone (float32: other kernels, other rounding)


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def space(model):
    return Space.of(model.unet.sites, BASE, (SIZE, SIZE), model.vae.config.factor)


def layers_of(placement, space: Space) -> list[int]:
    """By asking every site at every executed step, branch and head."""
    found = {
        layer.number
        for layer in space.layers
        for step in range(3)
        for branch in (NEGATIVE, TEXT)
        if placement.heads_at(layer.site, step, branch)
    }
    return sorted(found)


@pytest.mark.parametrize(
    ("level", "layers"),
    [
        ("3-5", [3, 4, 5]), ("3,8", [3, 8]), ("7", [7]), ("encoder", [0, 1, 2, 3, 4, 5]), ("middle", [6]),
        ("decoder", list(range(7, 16))), ("all", list(range(16))), ("1/4", [4, 5, 7, 8, 9]), ("16x16", [0, 1, 13, 14, 15]),
        ("2x2", [6]), ("without 5", [3, 4, 6, 7, 8, 9, 10]), ("without encoder", [6, 7, 8, 9, 10]), ("up.1.*", [7, 8, 9]),
        ("base", list(range(3, 11))), ([4, 9], [4, 9]), (6, [6]), ({"layers": [2]}, [2]),
    ],
)  # fmt: skip
def test_words_for_layers_mean_the_layers_they_say(level, layers, space) -> None:
    setting = apply({"sac.layers": level}, Setting(BASE), space)
    assert layers_of(setting.config.sac.placement, space) == layers
    assert setting.config.cam == BASE.cam


def test_none_turns_a_method_off_and_layers_moves_both(space) -> None:
    assert apply({"sac.layers": "none"}, Setting(BASE), space).config == BASE.replace(sac=None)
    both = apply({"layers": "4-6"}, Setting(BASE), space).config
    assert layers_of(both.sac.placement, space) == layers_of(both.cam.placement, space) == [4, 5, 6]


def test_lists_of_levels_are_written_out(space) -> None:
    base = Setting(BASE)
    assert expand("sac.layers", ["each"], base, space) == [str(n) for n in range(16)]
    assert expand("sac.layers", ["each-left-out"], base, space) == [f"without {n}" for n in range(3, 11)]
    assert expand("sac.layers", ["parts", "resolutions"], base, space) == ["encoder", "middle", "decoder", "1/1", "1/2", "1/4", "1/8"]
    assert expand("cam.layers", "ranges 6", base, space) == ["0-5", "6-11", "12-15"]
    assert expand("sac.steps", ["thirds"], base, space) == ["0%-33%", "33%-67%", "67%-100%"]
    assert expand("sac.heads", ["each"], base, space) == [0, 1]


@pytest.mark.parametrize("executed", [3, 7, 10, 49])
def test_windows_cover_every_executed_step_once(executed, space) -> None:
    windows = [steps_level(level, executed, "sac.steps") for level in expand("sac.steps", ["windows 3"], Setting(BASE), space)]
    assert sorted(step for window in windows for step in window) == list(range(executed))


def test_steps_heads_and_branches_keep_the_layers_and_stay_when_layers_change(space) -> None:
    setting = apply({"sac.steps": "0-1", "sac.heads": "0,3", "sac.branches": "text", "sac.layers": "5"}, Setting(BASE), space)
    placement = setting.config.sac.placement
    assert placement.to_json() == {"layers": [5], "steps": [0, 1], "heads": [0, 3], "branches": ["text"]}
    moved = apply({"sac.layers": "8"}, setting, space).config.sac.placement
    assert moved.to_json() == {"layers": [8], "steps": [0, 1], "heads": [0, 3], "branches": ["text"]}


@pytest.mark.parametrize(
    ("name", "level", "says"),
    [
        ("sac.layer", "5", "factor 'sac.layer'"), ("sac.layers", "17x17", "no such layer"), ("sac.layers", "decodr", "matches none"),
        ("sac.steps", "first", "allowed are all"), ("sac.steps", "0%-1%", "none of the"), ("sac.branches", "no", "allowed are both"),
        ("sac.clone", "backwards", "published, reversed"), ("text", "maybe", "on, off, wrong"), ("sac", "yes", "on, off"),
        ("sac.mirror", "yes", "true and false"), ("sac.stage", "values", "'scores'"), ("cam.silence", "C", "A, A', B"),
        ("strength", 1.5, "at most 1"), ("sac.heads", "a", "head indices"),
    ],
)  # fmt: skip
def test_a_level_that_cannot_be_is_one_clear_line(name, level, says, model) -> None:
    with pytest.raises(ValueError, match=says.replace("(", r"\(")) as error:
        factors = {name: [level]}
        plan_of(model, factors=factors)
    assert "\n" not in str(error.value)


def test_overlapping_effective_seeds_are_rejected() -> None:
    with pytest.raises(StudyError, match="effective seed s \\+ k"):
        study(seeds=(42, 43), images=2)
    assert study(seeds=(42, 44), images=2).effective_seeds() == [42, 43, 44, 45]


def test_one_factor_full_and_list_designs_have_their_runs(space) -> None:
    factors = {"sac.scale": [1.0, 1.3, 1.8], "cam": ["on", "off"]}
    one = study(factors=factors).variants(space)
    assert [v.levels for v in one] == [
        {"sac.scale": "1.3", "cam": "on"}, {"sac.scale": "1.0", "cam": "on"}, {"sac.scale": "1.8", "cam": "on"},
        {"sac.scale": "1.3", "cam": "off"},
    ]  # fmt: skip
    full = study(factors=factors, design="full").variants(space)
    assert len({tuple(v.levels.items()) for v in full}) == 6 and full[0].reference and sum(v.reference for v in full) == 1
    listed = study(design="list", runs=[{"sac.scale": 2.0}, {"cam": "off", "text": "off"}]).variants(space)
    assert [v.levels for v in listed] == [
        {"cam": "base", "sac.scale": "base", "text": "base"}, {"cam": "base", "sac.scale": "2.0", "text": "base"},
        {"cam": "off", "sac.scale": "base", "text": "off"},
    ]  # fmt: skip


def test_a_factor_without_any_effect_is_an_error(space) -> None:
    with pytest.raises(StudyError, match="none of its levels changes anything"):
        study(base=BASE.replace(sac=None), factors={"sac.scale": [1.0, 2.0]}).variants(space)


def test_a_study_file_round_trips_and_refuses_unknown_fields() -> None:
    made = study(factors={"sac.scale": [1.0, 2.0]}, inputs="examples")
    written = json.dumps(made.to_json())
    assert json.dumps(Study.from_json(json.loads(written)).to_json()) == written
    with pytest.raises(StudyError, match="unknown fields \\['seed'\\]"):
        Study.from_json({"name": "x", "seed": 3})


def test_a_hypothesis_about_a_factor_that_is_not_varied_is_an_error_before_the_run() -> None:
    claim = Hypothesis("text helps", "mse", {"txt": "off"}, "higher")
    with pytest.raises(StudyError, match=r"hypothesis 'text helps': factors \['txt'\] are not among the study's: sac, text"):
        study(factors={"text": ["on", "off"], "sac": ["on", "off"]}, hypotheses=(claim,))


def test_a_hypothesis_about_a_run_that_is_not_made_is_an_error_before_the_run(space) -> None:
    varied = {"factors": {"text": ["on", "off"], "sac": ["on", "off"]}}

    def variants(*given, **fields) -> int:
        return len(study(**varied, **fields, hypotheses=(Hypothesis("it helps", *given),)).variants(space))

    assert variants("mse", {"text": "off"}, "higher", {"sac": "off"}) == 3 and variants(CHANGE, {"text": "off"}, "higher") == 3
    with pytest.raises(StudyError, match=r"hypothesis 'it helps': text has no level 'of'; there are on, off"):
        variants("mse", {"text": "of"}, "higher")
    with pytest.raises(StudyError, match=r"hypothesis 'it helps': sac has no level 'no'; there are on, off"):
        variants("mse", {"text": "off"}, "higher", {"sac": "no"})
    both = {"text": "off", "sac": "off"}
    with pytest.raises(StudyError, match=r"'it helps': no run has .* and all else as in the reference"):
        variants("mse", both, "higher")
    assert variants("mse", both, "higher", design="full") == 4
    with pytest.raises(StudyError, match=r"'it helps': metric 'mes' is not among the study's: mse, psnr, ssim, mse_to_b, change"):
        variants("mes", both, "higher")


def test_a_hypothesis_may_name_levels_as_the_factors_do_and_is_told_what_is_not_an_object(space) -> None:
    given = {
        "name": "s", "factors": {"sac.scale": [1.0, 1.8], "sac.mirror": [False, True]},
        "hypotheses": [
            {"claim": "numbers", "metric": "mse", "variant": {"sac.scale": 1.8}, "expect": "lower"},
            {"claim": "truth values", "metric": "mse", "variant": {"sac.mirror": True}, "expect": "lower", "against": {"sac.scale": 1.8}},
        ],
    }  # fmt: skip
    made = Study.from_json(given)
    assert [(one.variant, one.against) for one in made.hypotheses] == [
        ({"sac.scale": "1.8"}, {}), ({"sac.mirror": "true"}, {"sac.scale": "1.8"}),
    ]  # fmt: skip
    levels = [variant.levels for variant in made.variants(space)]  # names that the study's runs have
    for one in made.hypotheses:
        assert any(one.variant.items() <= run.items() for run in levels)
    given["hypotheses"][0]["variant"] = "sac.scale 1.8"
    with pytest.raises(StudyError, match="hypothesis 'numbers': variant 'sac.scale 1.8'; give an object, factor -> level"):
        Study.from_json(given)


def test_painting_keys_differ_in_everything_that_decides_a_picture_and_in_nothing_else(model) -> None:
    def key(**fields) -> str:
        return plan_of(model, **fields).jobs[0].painting

    keys = [
        key(), key(seeds=(2,)), key(base=BASE.replace(guidance=4.0)), key(base=BASE.replace(sac=None)), key(size=128),
        key(inputs=(one_input(prompt="a boat"),)), key(inputs=(one_input(shift=1),)), key(negative_prompt="grey"),
        key(prompt_suffix=""), key(attention="explicit"),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    other = {"batch": 3, "group": 5, "name": "renamed", "metrics": ("psnr",)}
    assert key(inputs=(one_input("other name", truth=False),), **other) == keys[0]
    first, same = (plan_of(model, **fields).jobs[0] for fields in ({}, {"inputs": (one_input("other name"),), **other}))
    assert first.key == same.key


def test_another_checkpoint_or_precision_is_another_job(model, monkeypatch) -> None:
    keys = [plan_of(model).jobs[0].key]
    monkeypatch.setitem(vars(model.checkpoint), "fingerprint", "0" * 64)
    keys.append(plan_of(model).jobs[0].key)
    monkeypatch.setattr(model.unet, "tf32", True)
    keys.append(plan_of(model).jobs[0].key)
    assert job_record(plan_of(model).jobs[0], model, [], 1)["dtype"] == "tf32"
    monkeypatch.setattr(model.unet, "tf32", False)
    monkeypatch.setattr(model, "dtype", torch.bfloat16)
    keys.append(plan_of(model).jobs[0].key)
    assert len(set(keys)) == 4


def test_a_model_without_loras_keeps_the_keys_of_earlier_runs(model) -> None:
    job = plan_of(model).jobs[0]
    config, grid = BASE.to_json(), grid_record(job.grid)
    known = {
        "format": 1, "checkpoint": model.checkpoint.fingerprint, "dtype": "float32", "attention": "auto", "grid": grid, **job.prompts,
        "config": config, "seed": 1,
    }  # fmt: skip
    text = json.dumps(known, sort_keys=True, ensure_ascii=False)
    assert job.painting == hashlib.sha256(text.encode()).hexdigest()
    text = json.dumps(known | {"truth": one_input().truth_key()}, sort_keys=True, ensure_ascii=False)
    assert job.key == hashlib.sha256(text.encode()).hexdigest()


def test_inputs_of_other_sizes_go_into_groups_of_their_own(model) -> None:
    inputs = (one_input("x"), one_input("y", size=(SIZE, 2 * SIZE)), one_input("z", shift=1))
    plan = plan_of(model, inputs=inputs, group=8, batch=8, size=None)
    assert sorted(tuple(sorted(job.input for job in group.jobs)) for group in plan.groups) == [(0, 2), (1,)]


def test_groups_are_fixed_by_the_study_and_hold_one_mould_each(model) -> None:
    fields = {"factors": {"guidance": [3.0, 1, 5.0], "steps": [4, 5]}, "design": "full", "group": 2}
    first, again = plan_of(model, **fields), plan_of(model, **fields)
    assert [group.key for group in first.groups] == [group.key for group in again.groups]
    assert all(len({job.mould for job in group.jobs}) == 1 and len(group.jobs) <= 2 for group in first.groups)
    assert sorted(job.key for job in first.jobs) == sorted({row.key for row in first.rows})


@pytest.mark.parametrize(("factor", "levels"), [("steps", [4, 5]), ("strength", [0.8, 0.6]), ("guidance", [3.0, 1])])
def test_runs_of_other_schedules_or_without_guidance_never_share_a_batch(factor, levels, model) -> None:
    plan = plan_of(model, factors={factor: levels}, seeds=(1, 2), group=8)
    (one, other) = ({getattr(job.config.sampling, factor) for job in group.jobs} for group in plan.groups)
    assert [one, other] == [{levels[0]}, {levels[1]}]
    assert len(plan_of(model, factors={"guidance": [3.0, 5.0]}, group=8).groups) == 1


# One of everything that can differ within a batch.
MIXED = [
    {"sac.layers": "none"}, {"sac.layers": "encoder"}, {"sac.steps": "1-2"}, {"sac.steps": "2"}, {"cam.steps": "0"},
    {"sac.heads": "0"}, {"cam.heads": "1"}, {"sac.branches": "text"}, {"cam.branches": "negative"}, {"sac.scale": 1.8},
    {"sac.mirror": False}, {"sac.stage": "probs"}, {"sac.clone": "reversed"}, {"cam.silence": "A"}, {"cam": "off"},
    {"text": "off"}, {"text": "wrong"}, {"guidance": 7.5},
]  # fmt: skip


def test_jobs_in_a_batch_equal_the_same_jobs_alone(model) -> None:
    plan = plan_of(model, design="list", runs=MIXED, group=32, batch=8)
    (group,) = plan.groups
    sampled = Engine(model).sample(group)
    for job, latents in zip(group.jobs, sampled.latents, strict=True):
        assert relative(latents[None], alone(model, job)) < TOLERANCE
    # and they are different pictures, so that the comparison means something
    assert min(relative(a[None], b[None]) for i, a in enumerate(sampled.latents) for b in sampled.latents[:i]) > 10 * TOLERANCE


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_seeds_and_inputs_in_a_batch_keep_their_own_start_and_noise(model, eta) -> None:
    inputs = (one_input("x"), one_input("y", shift=90))
    plan = plan_of(model, inputs=inputs, seeds=(1, 2), group=8, batch=4, base=BASE.replace(eta=eta))
    (group,) = plan.groups
    assert len(group.jobs) == 4
    for job, latents in zip(group.jobs, Engine(model).sample(group).latents, strict=True):
        assert relative(latents[None], alone(model, job)) < TOLERANCE


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_one_image_a_call_gives_the_bits_of_the_pipeline(model, eta) -> None:
    runs = [{"sac.steps": "2"}, {"sac.steps": "1-2"}, {"text": "off"}]
    plan = plan_of(model, design="list", runs=runs, batch=1, base=BASE.replace(eta=eta))
    sampled = Engine(model).sample(plan.groups[0])
    assert sampled.images < 4 * 3  # something was shared
    for job, latents in zip(plan.groups[0].jobs, sampled.latents, strict=True):
        assert torch.equal(latents[None], alone(model, job))


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_shared_beginnings_equal_unshared_ones_bit_for_bit(model, eta) -> None:
    runs = [{"sac.steps": "2"}, {"sac.steps": "1-2"}, {"cam.steps": "0-1"}, {"sac": "off"}]
    plan = plan_of(model, design="list", runs=runs, batch=3, seeds=(1, 2), base=BASE.replace(eta=eta))
    (group,) = plan.groups
    shared = Engine(model).sample(group)
    unshared = Engine(model).sample(dataclasses.replace(group, share=False))
    assert torch.equal(shared.latents, unshared.latents)
    assert shared.images < len(group.jobs) * 3 <= unshared.images


def test_histories_part_exactly_where_two_runs_begin_to_differ(model) -> None:
    runs = [{"sac.steps": "0"}, {"sac.steps": "0-1"}, {"sac": "off"}]
    (group,) = plan_of(model, design="list", runs=runs).groups
    histories = Histories(group.jobs, model.unet.sites)
    # the reference acts at all three steps; "0" stops after the first, "0-1" after the second
    assert [histories.advance(i) for i in range(3)] == [[[0, 1, 2], [3]], [[0, 2], [1], [3]], [[0], [1], [2], [3]]]
    assert Engine(model).count(group) == 2 + 3 + 4 == Engine(model).sample(group).images


def test_remembered_texts_and_pictures_change_no_bit(model) -> None:
    plan = plan_of(model, seeds=(1, 2), inputs=(one_input(), one_input("y", "a cat", shift=40)), group=1)
    engine = Engine(model)
    together = [engine.sample(group).latents for group in plan.groups]
    assert all(torch.equal(latents, Engine(model).sample(group).latents) for group, latents in zip(plan.groups, together, strict=True))


def test_a_job_whose_numbers_are_not_finite_fails_alone(model) -> None:
    plan = plan_of(model, factors={"guidance": [3.0, 1e38]})
    sampled = Engine(model).sample(plan.groups[0])
    assert list(sampled.failed) == [1] and "NaN or infinite latents at step" in sampled.failed[1]
    assert torch.isfinite(sampled.latents[0]).all()


def test_actions_ask_the_placement_and_are_equal_where_they_do_the_same(model) -> None:
    one, other = SAC(Placement.layers(3, 5)), SAC(Placement.layers([4], heads=[1], steps=[2]))
    sites = [site for site in model.unet.sites if site.kind == "self"]
    for setting in (one, other):
        actions = Actions(setting)
        for site in sites:
            for step in range(3):
                expected = tuple(setting.placement.heads_at(site, step, branch) for branch in (NEGATIVE, TEXT))
                assert actions.heads(site, step) == expected
    assert Actions(other).signature(sites, 0) == () != Actions(other).signature(sites, 2)
    same = SAC(Placement.layers([3]) | Placement("down.2.attn.0.self"))
    assert Actions(one).signature(sites, 0) == Actions(same).signature(sites, 0)
    assert Actions(one).signature(sites, 0) != Actions(dataclasses.replace(one, scale=2.0)).signature(sites, 0)


def test_groups_of_any_size_hold_all_jobs_in_order(model) -> None:
    jobs = plan_of(model, seeds=range(7)).jobs
    for size in (1, 3, 16):
        groups = make_groups(jobs, size, 4)
        assert [job for group in groups for job in group.jobs] == jobs
        assert max(len(group.jobs) for group in groups) <= size


def test_settings_of_an_input_go_before_the_study(model) -> None:
    task = dataclasses.replace(one_input(), strength=0.5, guidance=7.5)
    config = plan_of(model, inputs=(task,)).jobs[0].config
    assert config.sampling == SamplingConfig(steps=4, strength=0.5, guidance=7.5)
    assert isinstance(config, AnalogistConfig)


def test_lab_inputs_are_drawings_of_their_own_with_true_answers() -> None:
    found = lab_inputs(["recolour", "sketch"], count=2, size=128)
    assert [one.name for one in found] == ["recolour-0", "recolour-1", "sketch-0", "sketch-1"]
    pictures = {np.asarray(one.grid.cells(without_border=True)["B"]).tobytes() for one in found}
    assert len(pictures) == 4  # no two families share their scenes
    assert all(one.truth.size == (61, 61) and one.wrong_prompt not in (None, one.prompt) for one in found)
    again = lab_inputs(["sketch"], count=1, size=128)[0]
    assert again.truth_key() == found[2].truth_key() and again.prompt == found[2].prompt
    with pytest.raises(StudyError, match="allowed are colorize"):
        lab_inputs(["colour"], count=1, size=128)
