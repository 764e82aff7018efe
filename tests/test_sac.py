"""Self-Attention Cloning, in the explicit form; that the fused form computes the same is in test_fused.py."""

import pytest
import torch

from analogist.models.cells import A, Ap, B, Bp, all_cells, self_cells
from analogist.models.control import SAC, AttentionControl
from analogist.models.placement import Placement
from tests import brute_force
from tests.devices import tolerance
from tests.small import relative, self_module, tokens, watch

pytestmark = pytest.mark.device
HW = (4, 6)
GRIDS = [((4, 4), 2), ((4, 6), 2), ((6, 4), 2)]


def test_sac_writes_the_scaled_block_a_b_over_a_prime_b_prime() -> None:
    _, seen = watch(self_module(), tokens(HW), HW, sac=SAC(scale=1.3, mirror=False))
    S, M = self_cells(seen["scores"], HW), self_cells(seen["logits"], HW)
    assert torch.equal(M[Ap + Bp], 1.3 * S[A + B])
    assert not torch.equal(M[Ap + Bp], S[Ap + Bp])


def test_the_mirror_writes_the_transposed_block_too() -> None:
    _, seen = watch(self_module(), tokens(HW), HW, sac=SAC(scale=1.3))
    S, M = self_cells(seen["scores"], HW), self_cells(seen["logits"], HW)
    assert torch.equal(M[Ap + Bp], 1.3 * S[A + B])
    assert torch.equal(M[Bp + Ap], 1.3 * S[B + A])


@pytest.mark.parametrize("mirror", [True, False])
def test_sac_leaves_other_blocks_untouched(mirror: bool) -> None:
    _, seen = watch(self_module(), tokens(HW), HW, sac=SAC(mirror=mirror))
    S, M = self_cells(seen["scores"], HW), self_cells(seen["logits"], HW)
    written = {Ap + Bp, Bp + Ap} if mirror else {Ap + Bp}
    for block in (query + key for query in all_cells(2) for key in all_cells(2)):
        assert torch.equal(M[block], S[block]) == (block not in written)


def test_rows_sum_to_one_after_sac() -> None:
    _, seen = watch(self_module(), tokens(HW), HW, sac=SAC())
    assert (seen["probs"].sum(-1) - 1).abs().max() < 2e-6  # a sum of 24 float32 numbers


@pytest.mark.parametrize("attention", ["explicit", "fused"])
@pytest.mark.parametrize("off", [None, SAC(Placement.nowhere()), SAC(Placement.layers(6, 11)), SAC(Placement.layers(3, 11, steps=[1]))])
def test_sac_that_does_not_act_here_is_bit_equal_to_none(attention: str, off: SAC | None) -> None:
    module, x = self_module(layer=5), tokens(HW)
    plain = module(x, HW, AttentionControl(attention=attention))
    assert torch.equal(module(x, HW, AttentionControl(attention=attention, sac=off)), plain)
    assert not torch.equal(module(x, HW, AttentionControl(attention=attention, sac=SAC())), plain)


def test_sac_of_scale_one_is_the_identity_where_the_blocks_are_equal() -> None:
    """A' looks like A and B' like B, so that every block of the map repeats."""
    left = tokens((HW[0], HW[1] // 2)).unflatten(1, (HW[0], HW[1] // 2))
    x = torch.cat([left, left], dim=2).flatten(1, 2)
    module = self_module()
    _, seen = watch(module, x, HW, sac=SAC(scale=1.0))
    assert torch.equal(seen["logits"], seen["scores"])


@pytest.mark.parametrize("hw, rows", GRIDS)
@pytest.mark.parametrize("mirror", [True, False])
def test_sac_agrees_with_index_lists_in_float64(hw: tuple[int, int], rows: int, mirror: bool) -> None:
    module, x = self_module(), tokens(hw)
    out, seen = watch(module, x, hw, sac=SAC(scale=1.3, mirror=mirror), rows=rows)
    expected = brute_force.self_attention(module, x, hw, brute_force.published_blocks(1.3, mirror))
    for point in ("scores", "logits", "probs", "out"):
        assert relative(seen[point], expected[point]) < tolerance("one attention against float64")
    assert relative(out, expected["out"]) < tolerance("one attention against float64")


def test_sac_after_the_softmax_writes_probabilities_and_does_not_renormalise() -> None:
    module, x = self_module(), tokens(HW)
    _, seen = watch(module, x, HW, sac=SAC(scale=1.3, stage="probs"))
    expected = brute_force.self_attention(module, x, HW, brute_force.published_blocks(), stage="probs")
    assert torch.equal(seen["logits"], seen["scores"])
    for point in ("probs", "out"):
        assert relative(seen[point], expected[point]) < tolerance("one attention against float64")
    assert (seen["probs"].sum(-1) - 1).abs().max() > 0.01


def test_the_reversed_clone_reads_a_a_prime() -> None:
    """The ablation of the paper: M[B, B'] := s M[A, A'], and with the mirror M[B', B] := s M[A', A]."""
    _, seen = watch(self_module(), tokens(HW), HW, sac=SAC(scale=1.1, clone=(("B", "B'"), ("A", "A'"))))
    S, M = self_cells(seen["scores"], HW), self_cells(seen["logits"], HW)
    assert torch.equal(M[B + Bp], 1.1 * S[A + Ap])
    assert torch.equal(M[Bp + B], 1.1 * S[Ap + A])
    assert torch.equal(M[Ap + Bp], S[Ap + Bp])


def test_every_block_reads_the_scores_before_any_is_written() -> None:
    """A clone whose mirror reads the block that the first line writes."""
    sac = SAC(scale=2.0, clone=(("A'", "B'"), ("B'", "A'")))
    _, seen = watch(self_module(), tokens(HW), HW, sac=sac)
    S, M = self_cells(seen["scores"], HW), self_cells(seen["logits"], HW)
    assert torch.equal(M[Ap + Bp], 2 * S[Bp + Ap])
    assert torch.equal(M[Bp + Ap], 2 * S[Ap + Bp])


@pytest.mark.parametrize("pairs, hw", [(2, (6, 4)), (3, (8, 4)), (2, (9, 2)), (3, (4, 6))])
def test_every_example_pair_is_cloned_with_a_scale_of_its_own(pairs: int, hw: tuple[int, int]) -> None:
    rows, scales = pairs + 1, (1.3, 0.7, 2.0)[:pairs]
    module, x = self_module(), tokens(hw)
    out, seen = watch(module, x, hw, sac=SAC(scale=scales), rows=rows)
    last, blocks = pairs, []
    for i, s in enumerate(scales):  # M_s(A_i', B') := s_i M_s(A_i, B), and its mirror
        blocks += [((i, 1), (last, 1), (i, 0), (last, 0), s), ((last, 1), (i, 1), (last, 0), (i, 0), s)]
    expected = brute_force.self_attention(module, x, hw, blocks, rows=rows)
    assert relative(seen["logits"], expected["logits"]) < tolerance("one attention against float64")
    assert relative(out, expected["out"]) < tolerance("one attention against float64")


def test_one_scale_serves_all_example_pairs() -> None:
    blocks = SAC(scale=1.5, mirror=False).blocks(rows=3)
    assert blocks == [((0, 1), (2, 1), (0, 0), (2, 0), 1.5), ((1, 1), (2, 1), (1, 0), (2, 0), 1.5)]


def test_a_clone_within_b_is_written_once_whatever_the_number_of_pairs() -> None:
    sac = SAC(scale=1.5, mirror=False, clone=(("B", "B'"), ("B'", "B")))
    assert sac.blocks(rows=4) == [((3, 0), (3, 1), (3, 1), (3, 0), 1.5)]


def test_scales_that_do_not_fit_the_number_of_pairs_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"3 numbers, but the grid has 2 example pair\(s\)"):
        SAC(scale=(1.0, 1.1, 1.2)).blocks(rows=3)


def test_a_clone_that_several_pairs_write_into_the_same_block_is_an_error() -> None:
    reversed_clone = SAC(clone=(("B", "B'"), ("A", "A'")))
    assert len(reversed_clone.blocks(rows=2)) == 2
    with pytest.raises(ValueError, match="with 2 example pairs it writes the same block 2 times"):
        AttentionControl(sac=reversed_clone, rows=3)


@pytest.mark.parametrize("attention", ["explicit", "fused"])
def test_branches_heads_and_images_have_settings_of_their_own(attention: str) -> None:
    """Two images: the first clones head 1 of the text branch, the second everything at another scale."""
    module, x = self_module(), tokens(HW, batch=4)
    first = SAC(Placement.layers(3, 11, heads=[1], branches=["text"]), scale=1.3)
    second = SAC(scale=0.5, mirror=False)
    out = module(x, HW, AttentionControl(images=2, sac=[first, second], attention=attention))
    plain, cloned = (brute_force.self_attention(module, x, HW, blocks) for blocks in ([], brute_force.published_blocks(1.3)))
    half = brute_force.self_attention(module, x, HW, brute_force.published_blocks(0.5, mirror=False))
    mixed = plain["probs"].clone()  # the batch is (branch image): rows 0, 1 negative, 2, 3 text
    mixed[2, 1] = cloned["probs"][2, 1]
    mixed[[1, 3]] = half["probs"][[1, 3]]
    v = brute_force.heads_of(x.double() @ module.to_v.weight.double().T, 2)
    assert relative(out, brute_force.project(module, mixed @ v)) < tolerance("one attention against float64")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"scale": float("nan")}, "SAC scale nan: a finite number"),
        ({"scale": float("inf")}, "a finite number"),
        ({"scale": ()}, "a finite number, or one per example pair"),
        ({"scale": "big"}, "SAC scale 'big'"),
        ({"stage": "logits"}, "SAC stage 'logits': allowed are 'scores'"),
        ({"clone": (("A'", "Bp"), ("A", "B"))}, "two .query, key. pairs of the regions A, A', B, B'"),
        ({"clone": (("A'", "B'"),)}, "two .query, key. pairs"),
        ({"clone": (("A'", "A'"), ("A", "B"))}, "its mirror writes the same block from a different block; use mirror=False"),
    ],
)
def test_settings_out_of_range_are_an_error_that_says_what_is_allowed(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SAC(**arguments)
