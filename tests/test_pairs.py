"""Several example pairs, end to end through the UNet: logits and CAM equal hand-written loops, in both forms."""

import pytest
import torch

from analogist.models.control import CAM, SAC, AttentionControl
from analogist.models.placement import Placement
from tests.brute_force import clone_blocks
from tests.devices import tolerance
from tests.small import Looking, relative, unet_inputs

pytestmark = pytest.mark.device
EVERYWHERE = Placement.layers(0, 16)


def blocks(scales: tuple[float, ...], mirror: bool = True) -> list:
    """(query, key) cells written, cells read, scale, by hand: A_i = (i, 0), A_i' = (i, 1), B = (k, 0), B' = (k, 1)."""
    k, out = len(scales), []
    for i, s in enumerate(scales):
        out.append(((i, 1), (k, 1), (i, 0), (k, 0), s))
        if mirror:
            out.append(((k, 1), (i, 1), (k, 0), (i, 0), s))
    return out


def call(unet, hw: tuple[int, int], rows: int, sac, cam=None, attention: str = "explicit", tap=None) -> torch.Tensor:
    x, t, text = unet_inputs(batch=2, hw=hw)
    control = AttentionControl(sac=sac, cam=cam, rows=rows, attention=attention, tap=tap)
    return unet(x, t, text, control)


@pytest.mark.parametrize(
    ("scales", "hw"), [((1.3, 0.6), (24, 16)), ((1.3, 0.6), (24, 32)), ((1.2, 0.7, 1.5), (32, 16)), ((1.3,), (16, 16))]
)
@pytest.mark.parametrize("mirror", [True, False])
def test_the_logits_of_every_site_equal_hand_written_loops(tiny_unet, scales, hw, mirror):
    rows = len(scales) + 1
    look = Looking(points=("scores", "logits"))
    call(tiny_unet, hw, rows, SAC(EVERYWHERE, scale=scales, mirror=mirror), tap=look)
    sites = [site for site in tiny_unet.sites if site.kind == "self"]
    assert len(sites) == 16
    for site in sites:
        scores, logits = look.at(site, "scores"), look.at(site, "logits")
        own = (hw[0] // site.stride, hw[1] // site.stride)
        if scores.shape[-1] > 600:  # the loops are slow; the finest maps are compared at the smaller sizes
            continue
        assert torch.equal(logits, clone_blocks(scores, own, blocks(scales, mirror), rows)), str(site)


@pytest.mark.parametrize(("scales", "hw"), [((1.3, 0.6), (24, 16)), ((1.2, 0.7, 1.5), (32, 32)), ((1.4, 0.9), (48, 16))])
def test_explicit_and_fused_agree_for_several_pairs(tiny_unet, scales, hw):
    settings = SAC(EVERYWHERE, scale=scales), CAM(EVERYWHERE)
    rows = len(scales) + 1
    explicit, fused = (call(tiny_unet, hw, rows, *settings, attention=form) for form in ("explicit", "fused"))
    assert relative(fused, explicit) < tolerance("the UNet in two forms")
    assert relative(call(tiny_unet, hw, rows, None, None), explicit) > 1e-3  # and they act


def test_cam_silences_every_cell_but_the_last(tiny_unet):
    hw, rows = (24, 16), 3
    look = Looking(points=("probs",))
    call(tiny_unet, hw, rows, None, CAM(EVERYWHERE), tap=look)
    for site in tiny_unet.sites:
        if site.kind == "cross":
            height, width = hw[0] // site.stride, hw[1] // site.stride
            probs = look.at(site, "probs").reshape(2, site.heads, height, width, -1)
            heard = probs[:, :, height * 2 // 3 :, width // 2 :]
            assert (heard.sum(-1) - 1).abs().max() < 1e-5
            assert probs.count_nonzero() == heard.count_nonzero(), str(site)


def test_one_scale_stands_for_every_pair_and_one_pair_is_the_published_method_bit_for_bit(tiny_unet):
    one, several = (call(tiny_unet, (24, 16), 3, SAC(EVERYWHERE, scale=scale), CAM(EVERYWHERE), "auto") for scale in (1.3, (1.3, 1.3)))
    assert torch.equal(one, several)
    assert torch.equal(*(call(tiny_unet, (16, 16), 2, SAC(EVERYWHERE, scale=s), CAM(EVERYWHERE), "auto") for s in (1.3, (1.3,))))
