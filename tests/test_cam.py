"""Cross-Attention Masking, in both forms where the promise is about the output."""

import pytest
import torch

from analogist.models.cells import REGIONS, A, Ap, B, Bp, cross_cells, token_cells
from analogist.models.control import CAM, AttentionControl
from analogist.models.placement import Placement
from tests import brute_force
from tests.devices import device, tolerance
from tests.small import cross_module, relative, tokens, watch

pytestmark = pytest.mark.device
HW = (4, 6)
FORMS = ["explicit", "fused"]


@pytest.fixture
def text() -> torch.Tensor:
    return torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(9)).to(device())


def test_cam_zeroes_the_rows_of_a_a_prime_and_b(text: torch.Tensor) -> None:
    _, seen = watch(cross_module(), tokens(HW), HW, text, cam=CAM())
    M = cross_cells(seen["probs"], HW)
    for cell in (A, Ap, B):
        assert torch.equal(M[cell], torch.zeros_like(M[cell]))


def test_cam_leaves_the_rows_of_b_prime_untouched(text: torch.Tensor) -> None:
    module, x = cross_module(), tokens(HW)
    _, seen = watch(module, x, HW, text, cam=CAM())
    _, plain = watch(module, x, HW, text)
    assert torch.equal(cross_cells(seen["probs"], HW)[Bp], cross_cells(plain["probs"], HW)[Bp])
    assert (cross_cells(seen["probs"], HW)[Bp].sum(-1) - 1).abs().max() < 2e-6


@pytest.mark.parametrize("attention", FORMS)
def test_silenced_tokens_get_the_output_projections_bias_and_nothing_else(text: torch.Tensor, attention: str) -> None:
    module = cross_module()
    out = module(tokens(HW), module.keys_values(text), HW, AttentionControl(cam=CAM(), attention=attention))
    cells = token_cells(out, HW)
    for cell in (A, Ap, B):
        assert torch.equal(cells[cell], module.to_out.bias.expand_as(cells[cell]))
    assert not torch.allclose(cells[Bp], module.to_out.bias.expand_as(cells[Bp]), atol=0.1)


@pytest.mark.parametrize("attention", FORMS)
@pytest.mark.parametrize("hw, rows", [((4, 4), 2), ((4, 6), 2), ((6, 4), 3), ((8, 2), 4)])
@pytest.mark.parametrize("silence", [("A", "A'", "B"), ("A",), ("B'",), ("B", "A'"), REGIONS])
def test_cam_agrees_with_index_lists_in_float64(
    text: torch.Tensor, attention: str, hw: tuple[int, int], rows: int, silence: tuple[str, ...]
) -> None:
    module, x = cross_module(), tokens(hw)
    control = AttentionControl(cam=CAM(silence=silence), rows=rows, attention=attention)
    cells = []
    for region in silence:
        column = 1 if "'" in region else 0
        cells += [(rows - 1, column)] if region[0] == "B" else [(i, column) for i in range(rows - 1)]
    expected = brute_force.cross_attention(module, x, text, hw, cells, rows=rows)
    assert relative(module(x, module.keys_values(text), hw, control), expected["out"]) < tolerance("one attention against float64")


@pytest.mark.parametrize("attention", FORMS)
@pytest.mark.parametrize("off", [None, CAM(Placement.nowhere()), CAM(Placement.layers(0, 5)), CAM(Placement.layers(3, 11, steps=[2]))])
def test_cam_that_does_not_act_here_is_bit_equal_to_none(text: torch.Tensor, attention: str, off: CAM | None) -> None:
    module, x = cross_module(layer=5), tokens(HW)
    plain = module(x, module.keys_values(text), HW, AttentionControl(attention=attention))
    assert torch.equal(module(x, module.keys_values(text), HW, AttentionControl(attention=attention, cam=off)), plain)
    assert not torch.equal(module(x, module.keys_values(text), HW, AttentionControl(attention=attention, cam=CAM())), plain)


@pytest.mark.parametrize("attention", FORMS)
def test_branches_heads_and_images_have_settings_of_their_own(attention: str) -> None:
    module, x = cross_module(), tokens(HW, batch=4)
    text = torch.randn(4, 7, 12, generator=torch.Generator().manual_seed(9)).to(device())
    first = CAM(Placement.layers(3, 11, heads=[1], branches=["text"]))
    out = module(x, module.keys_values(text), HW, AttentionControl(images=2, cam=[first, CAM(silence=("B'",))], attention=attention))
    probs = brute_force.cross_attention(module, x, text, HW, [])["probs"]
    for cell in (A, Ap, B):  # the batch is (branch image): rows 0, 1 negative, 2, 3 text
        probs[2, 1, brute_force.tokens_of(cell, HW)] = 0
    for row in (1, 3):
        probs[row][:, brute_force.tokens_of(Bp, HW)] = 0
    v = brute_force.heads_of(text.double() @ module.to_v.weight.double().T, 2)
    assert relative(out, brute_force.project(module, probs @ v)) < tolerance("one attention against float64")


def test_the_order_of_silenced_regions_does_not_matter() -> None:
    assert CAM(silence=("B", "A", "A'", "A")) == CAM()


@pytest.mark.parametrize("silence", [(), ("C",), ("A", "Bp")])
def test_silencing_nothing_or_an_unknown_region_is_an_error(silence: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"CAM silence .* one or more of A, A', B, B'"):
        CAM(silence=silence)
