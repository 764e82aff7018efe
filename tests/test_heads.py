"""Heads by number at sites with different numbers of heads: those that lack them are left out, and it is said."""

import warnings

import pytest
import torch

from analogist.attention.capture.capture import Capture
from analogist.attention.edit import edits as E
from analogist.attention.select.heads import HeadsSkipped
from analogist.models.unet import UNetConfig
from tests.small import small_unet
from tests.study_runs import sample, shape

MIXED = UNetConfig(channels=(8, 16), layers_per_block=1, depth=(1, 1), mid_depth=1, heads=(1, 2), text_width=12, norm_groups=4)


@pytest.fixture(scope="module")
def unet():
    """One head at the finer level, two below."""
    return small_unet(MIXED)


def test_a_capture_of_one_head_leaves_out_sites_that_lack_it_and_says_so(unet) -> None:
    with pytest.warns(HeadsSkipped, match=r"heads \[1\]: left out what \d+ of \d+ sites do not have .*down\.0\.attn\.0\.self \(1\)"):
        maps = sample(unet, shape(), Capture("*.self:probs", heads=1), attention="explicit", stop=1)[1].maps
    whole = sample(unet, shape(), "*.self:probs", attention="explicit", stop=1)[1].maps
    assert set(maps) == {name for name, m in whole.items() if m.site.heads == 2} and 0 < len(maps) < len(whole)
    for name, m in maps.items():
        assert torch.equal(m.tensor, whole[name].tensor[:, :, :, [1]]) and m.coords["head"] == (1,)


def test_of_several_heads_each_site_keeps_those_it_has(unet) -> None:
    with pytest.warns(HeadsSkipped, match=r"heads \[0, 1\]"):
        maps = sample(unet, shape(), Capture("*.self:head_out", "*.self:x", heads=[0, 1]), stop=1)[1].maps
    assert {m.coords["head"] for m in maps.values() if m.point == "head_out"} == {(0,), (0, 1)}
    assert {m.site.heads for m in maps.values() if m.point == "x"} == {1, 2}  # points without heads are not concerned


def test_an_edit_of_one_head_leaves_sites_that_lack_it_as_they_are(unet) -> None:
    with pytest.warns(HeadsSkipped, match=r"heads \[1\]"):
        edited = sample(unet, shape(), edit={"*.self:head_out": E.scale(0.0, heads=1)}, stop=1)[0]
    names = [site.name for site in unet.sites if site.kind == "self" and site.heads == 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is left out here
        expected = sample(unet, shape(), edit={f"{name}:head_out": E.scale(0.0, heads=1) for name in names}, stop=1)[0]
    assert torch.equal(edited, expected)
    assert not torch.equal(edited, sample(unet, shape(), attention="auto", stop=1)[0])


def test_a_head_that_no_site_has_is_an_error(unet) -> None:
    with pytest.raises(ValueError, match=r"heads \[2\]: allowed are 0..1"):
        sample(unet, shape(), Capture("*.self:probs", heads=2), stop=1)
    with pytest.raises(ValueError, match=r"heads \[1\]: allowed are 0..0"):
        sample(unet, shape(), edit={"down.0.*.self:probs": E.scale(0.0, heads=1)}, stop=1)


def test_nothing_is_said_where_all_sites_have_them_or_all_heads_are_meant(unet) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample(unet, shape(), Capture("*.self:probs", heads=0), {"*.self:probs": E.scale(1.0)}, stop=1)
        sample(unet, shape(), Capture("*.self:probs"), stop=1)
