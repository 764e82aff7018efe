"""Variants of SAC: blended with what stood there, rows aligned, blocks only multiplied; in both forms, as settings and as edits."""

import json
import random

import pytest
import torch

from analogist.attention.edit import edits as E
from analogist.cli.main import main
from analogist.config import AnalogistConfig
from analogist.experiments.design.factors import Setting, apply
from analogist.experiments.design.levels import StudyError
from analogist.experiments.design.space import Space
from analogist.models.cells import REGIONS, all_cells, cells_of, self_cells
from analogist.models.compiled import Pattern
from analogist.models.control import SAC, AttentionControl
from analogist.models.placement import Placement
from tests import brute_force
from tests.brute_force import A, Ap, B, Bp, tokens_of
from tests.devices import tolerance
from tests.experiments_small import BASE, CHECKPOINT, PARITY
from tests.small import Looking, relative, self_module, tokens, unet_inputs, watch

pytestmark = pytest.mark.device
HW = (4, 6)


def by_hand(maps: torch.Tensor, hw: tuple[int, int], clones: list, factors: list, *, blend: float, align: str | None, rows: int = 2):
    """maps: float64 ... query key. Row by row. clones: (query, key, from_query, from_key, s). factors: (query, key, factor)."""
    out = maps.clone()
    for query, key, from_query, from_key, s in clones:
        own, theirs = tokens_of(key, hw, rows), tokens_of(from_key, hw, rows)
        for i, source in zip(tokens_of(query, hw, rows), tokens_of(from_query, hw, rows), strict=True):
            before, row = maps[..., i, own], s * maps[..., source, theirs]
            if align == "term":
                row = row - row.max(-1, keepdim=True).values + before.max(-1, keepdim=True).values
            if align == "factor":
                row = row / row.max(-1, keepdim=True).values * before.max(-1, keepdim=True).values
            out[..., i, own] = blend * row + (1 - blend) * before
    for query, key, factor in factors:
        for i in tokens_of(query, hw, rows):
            out[..., i, tokens_of(key, hw, rows)] = factor * maps[..., i, tokens_of(key, hw, rows)]
    return out


def attention_by_hand(module, x, hw, stage: str, **how) -> dict[str, torch.Tensor]:
    """The maps and the output of a self-attention module in float64."""
    plain = brute_force.self_attention(module, x, hw, [])
    logits = by_hand(plain["scores"], hw, **how) if stage == "scores" else plain["scores"]
    probs = logits.softmax(-1)
    if stage == "probs":
        probs = by_hand(probs, hw, **how)
    v = brute_force.heads_of(x.double() @ module.to_v.weight.double().T, module.heads)
    return {"logits": logits, "probs": probs, "out": brute_force.project(module, probs @ v)}


@pytest.mark.parametrize("stage", ["scores", "probs"])
@pytest.mark.parametrize("blend", [1.0, 0.6, 0.0])
@pytest.mark.parametrize("align", [False, True])
def test_a_blended_and_aligned_clone_agrees_with_rows_by_hand(stage: str, blend: float, align: bool) -> None:
    module, x = self_module(), tokens(HW)
    how = {"term" if stage == "scores" else "factor"} if align else {None}
    expected = attention_by_hand(module, x, HW, stage, clones=brute_force.published_blocks(1.4), factors=[], blend=blend, align=how.pop())
    out, seen = watch(module, x, HW, sac=SAC(scale=1.4, stage=stage, blend=blend, align=align))
    for point in ("logits", "probs", "out"):
        assert relative(seen[point], expected[point]) < tolerance("one attention against float64"), point
    assert relative(out, expected["out"]) < tolerance("one attention against float64")


@pytest.mark.parametrize("attention", ["explicit", "fused"])
@pytest.mark.parametrize("stage", ["scores", "probs"])
def test_scaled_blocks_multiply_what_b_prime_reads_of_a_prime_and_everything_else_by_another_factor(stage: str, attention: str) -> None:
    module, x = self_module(), tokens(HW)
    factors = [(query, key, 1.5 if (query, key) == (Bp, Ap) else 0.8) for query in (A, Ap, B, Bp) for key in (A, Ap, B, Bp)]
    expected = attention_by_hand(module, x, HW, stage, clones=[], factors=factors, blend=1.0, align=None)
    out = module(x, HW, AttentionControl(sac=SAC(clone=None, scaled=1.5, others=0.8, stage=stage), attention=attention))
    assert relative(out, expected["out"]) < tolerance("one attention against float64")


@pytest.mark.parametrize("attention", ["explicit", "fused"])
def test_cloned_and_multiplied_blocks_stand_side_by_side_for_several_pairs(attention: str) -> None:
    hw, rows = (6, 4), 3
    module, x = self_module(), tokens(hw)
    sac = SAC(scale=(1.3, 0.7), mirror=False, blend=0.5, scaled=(("B'", "A'", 1.6), ("A", "B'", 0.5)), others=0.9)
    clones = [((i, 1), (2, 1), (i, 0), (2, 0), s) for i, s in enumerate((1.3, 0.7))]
    factors = {(q, k): 0.9 for q in all_cells(rows) for k in all_cells(rows)}
    factors |= {((2, 1), (i, 1)): 1.6 for i in (0, 1)} | {((i, 0), (2, 1)): 0.5 for i in (0, 1)}
    for query, key, *_ in clones:
        del factors[query, key]
    listed = [(query, key, factor) for (query, key), factor in factors.items()]
    expected = attention_by_hand(module, x, hw, "scores", clones=clones, factors=listed, blend=0.5, align=None, rows=rows)
    out = module(x, hw, AttentionControl(sac=sac, rows=rows, attention=attention))
    assert relative(out, expected["out"]) < tolerance("one attention against float64")


def random_variant(dice: random.Random, pairs: int) -> SAC:
    clone = dice.choice([(("A'", "B'"), ("A", "B")), (("A'", "B'"), ("B'", "A'")), (("A'", "A'"), ("A", "A")), None])
    mirror = dice.random() < 0.5 and clone != (("A'", "A'"), ("A", "A"))
    taken = {clone[0], clone[0][::-1]} if clone else set()
    free = [(q, k) for q in REGIONS for k in REGIONS if (q, k) not in taken]
    scaled = [(*block, dice.choice([0.5, 1.0, 1.7, -0.4])) for block in dice.sample(free, dice.randint(0 if clone else 1, 3))]
    scale = tuple(dice.choice([0.5, 1.3, -0.7]) for _ in range(pairs))
    at = Placement("*", heads=dice.choice([None, [1]]), branches=dice.choice([(0, 1), ["text"]]))
    return SAC(
        at, scale=scale, mirror=mirror, clone=clone, blend=dice.choice([1.0, 0.7, 0.2]), scaled=tuple(scaled),
        others=dice.choice([1.0, 0.8]), stage=dice.choice(["scores", "probs"]),
    )  # fmt: skip


@pytest.mark.parametrize("number", range(30))
def test_forms_are_equal_for_random_variants_of_two_images(number: int) -> None:
    dice = random.Random(number)
    pairs = dice.choice([1, 2])
    hw = {1: dice.choice([(4, 4), (4, 6)]), 2: (6, 4)}[pairs]
    module, x = self_module(), tokens(hw, batch=4)
    sac = [random_variant(dice, pairs), random_variant(dice, pairs)]
    explicit, fused = (
        module(x, hw, AttentionControl(images=2, rows=pairs + 1, sac=sac, attention=attention)) for attention in ("explicit", "fused")
    )
    assert relative(fused, explicit) < tolerance("the UNet in two forms")
    assert relative(explicit, module(x, hw, AttentionControl(images=2, rows=pairs + 1))) > 1e-3


def test_an_aligned_clone_runs_with_a_map_where_it_acts_and_refuses_to_run_without_one(tiny_unet) -> None:
    x, t, text = unet_inputs()
    sac = SAC(Placement("up.1.attn.0.self"), align=True)
    control = AttentionControl(t=t, sac=sac)
    assert [site.name for site in tiny_unet.sites if control.form_at(site) == "explicit"] == ["up.1.attn.0.self"]
    with pytest.raises(ValueError, match="SAC.align=True. needs the largest entry of each row; use 'auto'"):
        tiny_unet(x, t, text, AttentionControl(t=t, sac=sac, attention="fused"))
    assert relative(tiny_unet(x, t, text, control), tiny_unet(x, t, text, AttentionControl(t=t, sac=SAC(sac.placement)))) > 1e-4


def test_rows_that_an_edit_has_cut_off_stay_cut_off_when_they_are_aligned() -> None:
    def cut(tensor: torch.Tensor, at) -> torch.Tensor:
        tensor = tensor.clone()
        self_cells(tensor, HW)[Ap + Bp].fill_(float("-inf"))
        return tensor

    class Cutting(Looking):
        def __call__(self, tensor, at):
            return super().__call__(cut(tensor, at) if at.point == "scores" else tensor, at)

    look = Cutting()
    out = self_module()(tokens(HW), HW, AttentionControl(sac=SAC(align=True, mirror=False), tap=look))
    assert torch.isfinite(out).all()
    logits = self_cells(look.seen["down.2.attn.1.self:logits"], HW)[Ap + Bp]
    assert torch.isneginf(logits).all()


@pytest.mark.parametrize(
    ("edit", "setting"),
    [
        (lambda: E.sac_blended(0.4, scale=1.2), SAC(scale=1.2, blend=0.4)),
        (lambda: E.sac_aligned(scale=1.6), SAC(scale=1.6, align=True)),
        (lambda: E.scale_blocks(1.5, others=0.9), SAC(clone=None, scaled=1.5, others=0.9)),
        (lambda: E.scale_blocks([("B'", "B", 0.5)]), SAC(clone=None, scaled=(("B'", "B", 0.5),))),
        (lambda: E.sac(SAC(blend=0.3, align=True)), SAC(blend=0.3, align=True)),
    ],
)
def test_each_variant_as_an_edit_of_logits_equals_the_setting(edit, setting: SAC) -> None:
    module, x = self_module(), tokens(HW)
    built_in, _ = watch(module, x, HW, sac=setting)
    ready = edit()

    class Editing(Looking):
        def __call__(self, tensor, at):
            return ready.change(tensor.clone(), at) if at.point == "logits" else tensor

    edited = module(x, HW, AttentionControl(tap=Editing()))
    assert torch.equal(edited, built_in)
    assert not torch.equal(built_in, watch(module, x, HW)[0])


def test_patterns_of_compiled_graphs_tell_variants_apart(tiny_unet) -> None:
    def pattern(sac: SAC) -> Pattern:
        control = AttentionControl(sac=sac)
        return Pattern.of(control, tiny_unet.sites, tiny_unet.places, next(tiny_unet.parameters()).device)

    kinds = [SAC(), SAC(blend=0.5), SAC(align=True), SAC(clone=None, scaled=1.2), SAC(clone=None, scaled=1.2, others=0.9)]
    assert len({pattern(sac) for sac in kinds}) == len(kinds)
    assert pattern(SAC(blend=0.5)) == pattern(SAC(blend=0.5))


@pytest.mark.parametrize(
    "sac", [SAC(blend=0.25), SAC(align=True), SAC(clone=None, scaled=1.4, others=0.9), SAC(mirror=False, scaled=(("B'", "A'", 2.0),))]
)
def test_json_gives_an_equal_variant_back(sac: SAC) -> None:
    config = AnalogistConfig(sac=sac)
    assert AnalogistConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_settings_written_before_the_variants_mean_what_they_meant() -> None:
    data = {"sac": {"scale": 1.1, "mirror": True, "stage": "scores", "clone": [["A'", "B'"], ["A", "B"]]}}
    assert AnalogistConfig.from_json(data).sac == SAC(scale=1.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"blend": 1.5}, "SAC blend 1.5: allowed is 0 .* to 1"),
        ({"blend": float("nan")}, "SAC blend nan"),
        ({"align": 1}, "SAC align 1: allowed are True and False"),
        ({"others": "much"}, "SAC others 'much': a finite number"),
        ({"scaled": "B'"}, "SAC scaled .*a finite number, the factor of B' -> A'"),
        ({"scaled": (("B'", "C", 1.0),)}, "of the regions A, A', B, B'"),
        ({"clone": None, "scaled": (("B'", "A'", 1.0), ("B'", "A'", 2.0))}, "a block is named twice"),
        ({"clone": None}, "then give scaled= or others="),
        ({"scaled": 1.5}, "this block is cloned; its factor is scale="),  # the mirror writes B' -> A'
        ({"clone": (("A'", "A'"), ("A'", "A'")), "mirror": False, "blend": 0.5}, "nothing to blend with"),
        ({"align": True, "stage": "probs", "scale": -1.0}, "for a scale over 0 only"),
    ],
)
def test_settings_out_of_range_are_an_error_that_says_what_is_allowed(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SAC(**arguments)


def test_blocks_name_cells_of_every_pair() -> None:
    blocks = SAC(clone=None, scaled=1.5).blocks(rows=3)
    assert blocks == [(cells_of("B'", 3)[0], cell, cells_of("B'", 3)[0], cell, 1.5) for cell in cells_of("A'", 3)]


def test_factors_of_a_study_set_each_variant(tiny_unet) -> None:
    space = Space.of(tiny_unet.sites, BASE, (64, 64), 8)
    base = Setting(AnalogistConfig(sac=SAC(scale=1.1)))

    def sac(**levels: object) -> SAC | None:
        return apply({f"sac.{name}": level for name, level in levels.items()}, base, space).config.sac

    assert sac(blend=0.5) == SAC(scale=1.1, blend=0.5)
    assert sac(align=True) == SAC(scale=1.1, align=True)
    assert sac(scaled="off") == SAC(scale=1.1)
    assert sac(scaled=1.2) == SAC(scale=1.1, clone=None, scaled=1.2)
    assert sac(scaled=[1.2, 0.9]) == SAC(scale=1.1, clone=None, scaled=1.2, others=0.9)
    assert sac(scaled=[["B'", "B", 0.5]], others=0.9) == SAC(scale=1.1, clone=None, scaled=(("B'", "B", 0.5),), others=0.9)
    for levels in ({"scaled": "much"}, {"scaled": [1, 2, 3]}, {"scaled": []}, {"align": "yes"}):
        with pytest.raises(StudyError, match="allowed are"):
            sac(**levels)


def test_the_command_line_takes_variants_and_repeats_them_from_the_record(tmp_path, capsys) -> None:
    start = ["run", "--grid", str(PARITY / "grid.png"), "--checkpoint", str(CHECKPOINT), "--size", "128", "--steps", "2", "--quiet"]
    flags = {"blend": ["--sac-blend", "0.5", "--sac-align"], "scaled": ["--sac-scaled", "1.5,0.9"]}
    expected = {"blend": {"blend": 0.5, "align": True}, "scaled": {"clone": None, "scaled": [["B'", "A'", 1.5]], "others": 0.9}}
    for name, more in flags.items():
        out, again = tmp_path / name, tmp_path / f"{name}2"
        assert main([*start, *more, "--out", str(out)]) == 0
        record = json.loads((out / "run.json").read_text())
        assert record["config"]["sac"].items() >= expected[name].items()
        assert main(["run", "--config", str(out / "run.json"), "--out", str(again), "--quiet"]) == 0
        assert (again / "b_prime_42.png").read_bytes() == (out / "b_prime_42.png").read_bytes()
    pictures_of = [(tmp_path / name / "b_prime_42.png").read_bytes() for name in flags]
    assert pictures_of[0] != pictures_of[1]
    capsys.readouterr()
    for more, message in (
        (["--sac-layers", "none", "--sac-align"], "--sac-align given, but SAC is off"),
        (["--aligned", "none", "--sac-blend", "0.5"], "--aligned none turns SAC off; leave out --sac-blend"),
        (["--sac-scaled", "1,2,3"], "at most one more"),
        (["--sac-blend", "2"], "SAC blend 2.0: allowed is 0"),
    ):
        assert main([*start, *more, "--out", str(tmp_path / "no")]) == 2
        assert message in capsys.readouterr().err
