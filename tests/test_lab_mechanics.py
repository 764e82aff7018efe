"""The measurements of what SAC, CAM and heads do in a lab checkpoint: planted maps and cuts give the known figures."""

import torch

from analogist.models.control import At
from analogist.models.placement import Site
from tests.benchmarks.lab_mechanics import Correspondence, Cut, compared, two_drawings

SIZE, TOKENS = 64, 8
SITE = Site("down.0.attn.0.self", "self", 0, 1, 2)


def test_two_drawings_stand_in_other_corners_in_b_than_in_a() -> None:
    pixels, cover = two_drawings(SIZE, 6, seed=3)
    assert pixels.shape == (6, 3, SIZE, SIZE) and cover.shape == (6, 2, 2, 29, 29)
    half = SIZE // 2
    assert torch.equal(pixels[..., :half, :half], pixels[..., :half, half - 1 : -1])  # A' is A; the cells are one pixel less apart
    both = cover[:, 0] * cover[:, 1]  # the same drawing at its places in A and in B
    assert both.amax() < 0.05 and cover.flatten(3).sum(-1).min() > 3


def planted(cover: torch.Tensor, look: Correspondence, *, by_content: bool) -> dict:
    """The figures for a map whose tokens in B look at the same drawing in A, or at everything alike."""
    shares = look.on_tokens(TOKENS)  # grid cell drawing token token
    side, count = 2 * TOKENS, len(cover)
    maps = torch.full((count, 2, side, side, side, side), 1e-6)
    if by_content:
        a, b = shares[:, 0], shares[:, 1]
        maps[:, :, TOKENS:, :TOKENS, :TOKENS, :TOKENS] += torch.einsum("gdrc,gdij->grcij", b, a)[:, None]
    maps = maps.flatten(2, 3).flatten(3, 4)
    at = At(site=SITE, point="probs", step=0, t=501, hw=(side, side), heads=range(2), branches=1, images=count)
    look(maps / maps.sum(-1, keepdim=True), at)
    return look.rows[SITE.name]


def test_a_map_that_reads_content_has_a_high_share_and_a_uniform_one_has_the_templates() -> None:
    _, cover = two_drawings(SIZE, 24, seed=4)
    reads = planted(cover, Correspondence(cover, SIZE), by_content=True)
    blind = planted(cover, Correspondence(cover, SIZE), by_content=False)
    assert reads["share"] > 0.9 and reads["low"] > 0.2
    assert abs(blind["above the template"]) < 1e-5 and abs(blind["share"] - blind["template"]) < 1e-5


def test_a_cut_head_writes_nothing_and_the_others_are_left_alone() -> None:
    cut, seen = Cut([(SITE.name, 1)]), torch.rand(3, 2, 5, 4)
    at = At(site=SITE, point="head_out", step=0, t=501, hw=(1, 5), heads=range(2), branches=1, images=3)
    out = cut(seen, at)
    assert torch.equal(out[:, 0], seen[:, 0]) and out[:, 1].abs().max() == 0 and seen[:, 1].abs().max() > 0
    assert cut.wants(SITE, "head_out", 0) and not cut.wants(SITE, "probs", 0)


def test_compared_gives_the_paired_difference_and_its_part() -> None:
    off = torch.linspace(0.1, 0.3, 21)
    found = compared(off * 0.8, off)
    assert abs(found["part"] + 0.2) < 1e-6 and found["low"] < found["difference"] < found["high"] < 0
