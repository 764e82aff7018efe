"""The 32 sites of Stable Diffusion's UNet: names, layers, modules, and what others call them.

tests/golden/sites.json was written from the published layouts' key lists (both of SD 1.5 inpainting), not from this code.
"""

import json
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch

from analogist.models.attention import CrossAttention, SelfAttention
from analogist.models.control import AttentionControl
from analogist.models.placement import BLOCK_POINTS, FF_POINTS, POINTS, Placement
from analogist.models.unet import UNet, UNetConfig
from tests.small import Looking, small_unet, unet_inputs

GOLDEN = json.loads((Path(__file__).parent / "golden" / "sites.json").read_text())


@pytest.fixture(scope="module")
def full_unet() -> UNet:
    with torch.device("meta"):
        return UNet(UNetConfig())


def test_sites_are_the_golden_list_in_execution_order(full_unet: UNet) -> None:
    ours = [(site.layer, site.name, site.stride, list(site.hw((64, 64)))) for site in full_unet.sites]
    assert ours == [(row["layer"], row["site"], row["stride"], row["map_at_512"]) for row in GOLDEN]
    assert [site.kind for site in full_unet.sites] == ["self", "cross"] * 16
    assert {site.heads for site in full_unet.sites} == {8}


def test_a_site_is_the_module_of_the_golden_list(full_unet: UNet) -> None:
    modules = dict(full_unet.named_modules())
    for row, site in zip(GOLDEN, full_unet.sites, strict=True):
        assert modules[row["module"]].site is site
        assert isinstance(modules[row["module"]], SelfAttention if site.kind == "self" else CrossAttention)


def test_the_released_default_covers_the_sites_of_the_golden_list(full_unet: UNet) -> None:
    assert [row["site"] for row in GOLDEN if row["default"]] == [
        site.name for site in full_unet.sites if Placement.layers(3, 11).matches(site)
    ]


def test_sites_run_in_the_order_of_the_list(tiny_unet) -> None:
    x, t, text = unet_inputs()
    look = Looking(points=("x",))
    tiny_unet(x, t, text, AttentionControl(t=t, tap=look))
    attention = [at for at in look.places if at.site.kind in ("self", "cross")]
    assert [at.site for at in attention] == list(tiny_unet.sites)
    assert [at.hw for at in attention] == [site.hw((16, 16)) for site in tiny_unet.sites]
    assert [at.site for at in look.places if at.site.kind not in ("self", "cross")] == list(tiny_unet.places)
    assert [at.site for at in look.places] == list(tiny_unet.in_order)


def test_blocks_around_the_attention_are_places_in_execution_order(full_unet: UNet) -> None:
    names = [place.name for place in full_unet.places if place.name.endswith(".block")]
    assert names[:6] == ["down.0.res.0.block", "down.0.attn.0.block", "down.0.res.1.block", "down.0.attn.1.block"] + [
        "down.1.res.0.block", "down.1.attn.0.block"
    ]  # fmt: skip
    assert [name for name in names if name.startswith("mid")] == ["mid.0.res.0.block", "mid.0.attn.0.block", "mid.0.res.1.block"]
    assert [name for name in names if name.startswith("up.0")] == [f"up.0.res.{i}.block" for i in range(3)]
    assert len(names) == len(set(names)) == 22 + 16
    others = [place.name for place in full_unet.places if not place.name.endswith(".block")]
    ways = [f"down.{i}.downsample" for i in range(3)] + [f"up.{i}.upsample" for i in range(3)]
    assert [name for name in others if not name.endswith(".ff")] == ["conv_in", *ways, "conv_out"]
    assert [name for name in others if name.endswith(".ff")] == [
        site.name.replace(".self", ".ff") for site in full_unet.sites if site.kind == "self"
    ]


def test_every_name_has_five_fields_or_is_the_modules_and_no_place_is_taken_for_an_attention_site(full_unet: UNet) -> None:
    modules = dict(full_unet.named_modules())
    for site in (*full_unet.sites, *full_unet.places):
        assert (len(site.name.split(".")) == 5 and site.name.endswith(site.kind)) or site.name in modules
        known = {"block": BLOCK_POINTS, "ff": FF_POINTS}.get(site.kind, POINTS)
        assert site.points == tuple(point for point in known if site.kind != "block" or point in site.widths)
    assert not any(fnmatchcase(place.name, "*.self") or fnmatchcase(place.name, "*.cross") for place in full_unet.places)


def test_deeper_levels_number_their_transformer_blocks_along_the_level() -> None:
    """SDXL's shape: two and ten blocks an attention, no attention at the finest level, one number a transformer block."""
    unet = small_unet(
        UNetConfig(channels=(8, 8, 8), depth=(0, 2, 3), mid_depth=3, heads=(1, 2, 4), text_width=6, norm_groups=4, layers_per_block=2)
    )
    own = [site for site in unet.sites if site.kind == "self"]
    assert [site.name for site in own if site.name.startswith("up.0")] == [f"up.0.attn.{i}.self" for i in range(9)]
    assert [site.name for site in own if site.name.startswith("mid")] == [f"mid.0.attn.{i}.self" for i in range(3)]
    assert [site.layer for site in own] == list(range(2 * 2 + 2 * 3 + 3 + 3 * 3 + 3 * 2))
    assert {site.name.split(".")[1]: site.heads for site in own if site.name.startswith("up")} == {"0": 4, "1": 2}
