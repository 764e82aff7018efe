"""Fused equals explicit: the same attention with and without a map, wherever SAC and CAM act."""

import random

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from analogist.models.cells import REGIONS
from analogist.models.control import CAM, SAC, AttentionControl
from analogist.models.placement import Placement
from tests import brute_force
from tests.devices import device, tolerance
from tests.small import cross_module, randomise, relative, self_module, small_unet, tokens, unet_inputs

pytestmark = pytest.mark.device


def exact() -> float:
    """Relative, on eps: float32 sums in another order through 16 blocks; a wrong block costs 1e-3 and more."""
    return tolerance("the UNet in two forms")


SHAPES = {1: [(16, 16), (16, 32)], 2: [(24, 16), (48, 16)], 3: [(32, 16)]}  # latents by number of example pairs


def both_forms(unet, *, batch: int = 2, hw: tuple[int, int] = (16, 16), **settings) -> tuple[torch.Tensor, torch.Tensor]:
    x, t, text = unet_inputs(batch=batch, hw=hw)
    explicit, fused = (
        unet(x, t, text, AttentionControl(t=t, images=batch // 2, attention=attention, **settings))
        for attention in ("explicit", "fused")
    )
    return explicit, fused


def test_forms_are_equal_at_each_site_alone(tiny_unet) -> None:
    x, t, text = unet_inputs()
    plain = tiny_unet(x, t, text)
    for site in tiny_unet.sites:
        at = Placement(site.name)
        settings = {"sac": SAC(at, scale=1.5)} if site.kind == "self" else {"cam": CAM(at)}
        explicit, fused = both_forms(tiny_unet, **settings)
        assert relative(fused, explicit) < exact(), site
        # so that the comparison means something: 1e-4 is seen well above 1e-5 (mid maps of the tiny model are 2x2)
        assert relative(explicit, plain) > 1e-4, site


@pytest.mark.parametrize("pairs, hw", [(pairs, hw) for pairs, shapes in SHAPES.items() for hw in shapes])
@pytest.mark.parametrize("everywhere", [False, True])
def test_forms_are_equal_on_square_and_other_grids_of_one_two_and_three_pairs(
    tiny_unet, pairs: int, hw: tuple[int, int], everywhere: bool
) -> None:
    at = Placement.layers(0, 16) if everywhere else Placement.layers(3, 11)
    explicit, fused = both_forms(tiny_unet, hw=hw, rows=pairs + 1, sac=SAC(at), cam=CAM(at))
    assert relative(fused, explicit) < exact()


def random_placement(dice: random.Random) -> Placement:
    pattern = dice.choice(["*", "up.*", "down.*", "mid.*", "*.attn.1.*", "up.[12].*"])
    limits = {
        "steps": dice.choice([None, None, [0], [1], range(2)]),
        "heads": dice.choice([None, None, [0], [1], [0, 3]]),
        "branches": dice.choice([(0, 1), (0, 1), ["text"], ["negative"]]),
    }
    kind = dice.randrange(4)
    if kind == 0:
        return Placement.layers(sorted(dice.sample(range(16), 5)), **limits)
    if kind == 1:
        return Placement(pattern, **limits)
    if kind == 2:
        return Placement(pattern, **limits) | Placement.layers(3, 11)
    return Placement.layers(0, 16) - Placement(pattern, **limits)


def random_sac(dice: random.Random, pairs: int) -> SAC | None:
    if dice.random() < 0.15:
        return None
    own = tuple(dice.choice([0.5, 1.0, 1.3, 1.8, -0.7]) for _ in range(pairs))
    clones = [
        ((("A'", "B'"), ("A", "B")), True),
        ((("A'", "B'"), ("A", "B")), False),
        ((("A'", "B'"), ("B'", "A'")), True),
        ((("A'", "A'"), ("A", "A")), False),
        ((("B'", "B'"), ("B", "B")), False),
    ]
    if pairs == 1:  # with several pairs these would write one block from each
        clones += [((("B", "B'"), ("A", "A'")), True), ((("B'", "B'"), ("A", "B")), False)]
    clone, mirror = dice.choice(clones)
    stage = dice.choice(["scores", "scores", "probs"])
    return SAC(random_placement(dice), scale=dice.choice([own, 1.3]), mirror=mirror, clone=clone, stage=stage)


def random_cam(dice: random.Random) -> CAM | None:
    regions = dice.sample(REGIONS, dice.randint(1, 4))
    return None if dice.random() < 0.15 else CAM(random_placement(dice), silence=tuple(regions))


@pytest.mark.parametrize("number", range(50))
def test_forms_are_equal_for_random_placements_of_two_images(tiny_unet, number: int) -> None:
    """Steps, scales, mirror, stage, clone, heads, branches, union and difference; settings of its own for each image."""
    dice = random.Random(number)
    pairs = dice.choice([1, 1, 1, 2, 3])
    same = dice.random() < 0.3
    sac, cam = random_sac(dice, pairs), random_cam(dice)
    explicit, fused = both_forms(
        tiny_unet,
        batch=4,
        hw=dice.choice(SHAPES[pairs]),
        rows=pairs + 1,
        step=dice.choice([0, 1]),
        sac=sac if same else [sac, random_sac(dice, pairs)],
        cam=cam if same else [cam, random_cam(dice)],
    )
    assert relative(fused, explicit) < exact()


@pytest.mark.parametrize("silence", [("A",), ("A'", "B"), ("B'",), REGIONS])
def test_forms_are_equal_for_every_choice_of_silenced_regions(tiny_unet, silence: tuple[str, ...]) -> None:
    explicit, fused = both_forms(tiny_unet, cam=CAM(silence=silence), hw=(16, 32))
    assert relative(fused, explicit) < exact()


@pytest.mark.parametrize("stage", ["scores", "probs"])
def test_gradients_through_both_forms_are_equal(stage: str) -> None:
    """With respect to latents, text and a query projection inside the placement; in float64, where rounding is no excuse."""
    unet = small_unet(dtype=torch.float64)
    target = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(2)).to(device())
    weight = dict(unet.named_parameters())["up.1.attn.0.blocks.0.self.to_q.weight"].requires_grad_(True)
    gradients = {}
    for attention in ("explicit", "fused"):
        x, t, text = unet_inputs()
        inputs = (x.double().requires_grad_(True), text.double().requires_grad_(True), weight)
        control = AttentionControl(t=t, sac=SAC(stage=stage), cam=CAM(), attention=attention)
        gradients[attention] = torch.autograd.grad((unet(inputs[0], t, inputs[1], control) * target).sum(), inputs)
    for fused, explicit in zip(gradients["fused"], gradients["explicit"], strict=True):
        assert explicit.norm() > 0
        assert relative(fused, explicit) < 1e-9


@pytest.mark.parametrize("stage", ["scores", "probs"])
@pytest.mark.parametrize("attention", ["explicit", "fused"])
def test_bfloat16_stays_within_the_bound_of_its_own_rounding(stage: str, attention: str) -> None:
    """Both forms in bfloat16 against index lists in float64 on the same (bfloat16) q, k and v.

    The unit roundoff is u = 2^-8; products are summed in float32. With L the largest |q| . |k| s / sqrt(d) of a row, rounding
    the scaled q, the product and the scaled product (explicit) or s k (fused) moves a logit by at most 3 u L, hence a
    probability by a factor of at most exp(6 u L); the probability, its clone and the head output are rounded once each.
    Every head output is then off by at most expm1(6 u L + 3 u) times the same sum over |v|.
    """
    hw, s, u = (8, 8), 1.8, 2.0**-8
    module, x = randomise(self_module().cpu(), seed=1, sharpness=1.2).to(device(), torch.bfloat16), tokens(hw).to(torch.bfloat16)
    q, k, v = (module.split(projection(x)).double() for projection in (module.to_q, module.to_k, module.to_v))
    module.to_out = torch.nn.Identity()
    out = module.split(module(x, hw, AttentionControl(sac=SAC(scale=s, stage=stage), attention=attention))).double()

    def clone(maps: torch.Tensor, at: str) -> torch.Tensor:
        return brute_force.clone_blocks(maps, hw, brute_force.published_blocks(s)) if at == stage else maps

    scale = q.shape[-1] ** -0.5
    probs = clone(clone(q @ k.mT * scale, "scores").softmax(-1), "probs")
    L = clone(q.abs() @ k.abs().mT * scale, "scores").amax(-1, keepdim=True)
    bound = torch.expm1(6 * u * L + 3 * u) * (probs @ v.abs())
    assert ((out - probs @ v).abs() <= bound).all()
    plain = module.split(module(x, hw, AttentionControl(attention=attention))).double()
    assert ((plain - probs @ v).abs() > bound).any()  # so small that a block which was not cloned is noticed


def test_fused_in_bfloat16_is_no_further_from_float32_than_explicit(tiny_unet) -> None:
    """The whole UNet: what bfloat16 costs must come from the number format, not from the form."""
    x, t, text = unet_inputs()
    half = small_unet(dtype=torch.bfloat16)
    same = small_unet(dtype=torch.bfloat16).float()  # the weights that bfloat16 holds, computed in float32
    settings = {"t": t, "sac": SAC(), "cam": CAM()}
    x, text = x.bfloat16(), text.bfloat16()
    exact = same(x.float(), t, text.float(), AttentionControl(**settings))
    explicit, fused = (
        relative(half(x, t, text, AttentionControl(attention=attention, **settings)), exact) for attention in ("explicit", "fused")
    )
    assert fused < 1.25 * explicit
    assert explicit < 0.05  # some 200 roundings of 2^-9 that add up like a random walk: 0.03


@pytest.mark.parametrize("stage", ["scores", "probs"])
@pytest.mark.parametrize("pairs", [1, 2])
def test_fused_attention_never_holds_a_map(stage: str, pairs: int) -> None:
    """Every call runs in the flash kernel (widths of queries and values are equal), which raises where it can't."""
    module, x = self_module(), tokens((6, 4), batch=2)
    control = AttentionControl(sac=SAC(stage=stage), rows=pairs + 1, attention="fused")
    cross, text = cross_module(), torch.randn(2, 7, 12).to(device())
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        module(x, (6, 4), control)
        cross(x, cross.keys_values(text), (6, 4), AttentionControl(cam=CAM(), rows=pairs + 1, attention="fused"))
