"""Points between and inside the blocks: what is read there, what an edit there does, and the one table that names them all."""

import pytest
import torch
from torch import Tensor, nn

from analogist.attention.capture.capture import Capture
from analogist.attention.edit import edits as E
from analogist.attention.select.points import all_points, layout, select, table
from analogist.models.control import AttentionControl
from analogist.models.unet import UNet, UNetConfig
from analogist.pipeline import Analogist
from tests.small import Looking, small_unet, unet_inputs
from tests.study_runs import sample, shape

DEEP = UNetConfig(channels=(16, 24), depth=(1, 2), mid_depth=2, heads=(2, 3), text_width=12, norm_groups=8)  # SDXL's shape, small
FF, RES, WAY = "up.1.attn.2.ff", "up.2.res.1.block", "down.1.downsample"


class Placed(Looking):
    """Remembers where each tensor was seen."""

    def __call__(self, tensor: Tensor, at) -> Tensor:
        super().__call__(tensor, at)
        self.where = {**getattr(self, "where", {}), f"{at.site}:{at.point}": (at.hw, tuple(tensor.shape))}
        return tensor


def one_step(unet: UNet, capture=None, edit=None, **others):
    """The prediction of one call without SAC and CAM, and the maps."""
    eps, tap = sample(unet, shape(images=1, steps=1, **others), capture, edit, sac=None, cam=None)
    return eps, {} if tap is None else tap.maps


@pytest.mark.parametrize("config, hw, rows", [(None, (16, 16), 2), (None, (32, 16), 2), (DEEP, (12, 8), 3)])
def test_every_point_of_the_table_is_passed_once_in_order_with_the_axes_and_sizes_it_says(tiny_unet, config, hw, rows):
    unet = tiny_unet if config is None else small_unet(config)
    x, t, text = unet_inputs(unet.config, hw=hw)
    look, run = Placed(), shape(images=1, hw=hw, rows=rows)
    unet(x, t, text, AttentionControl(t=t, tap=look, rows=rows))
    points = all_points(unet)
    assert sorted(look.seen) == sorted(f"{site}:{point}" for site, point in points) and len(look.order) == len(points)
    for site, point in points:
        own, size = look.where[f"{site}:{point}"]
        assert own == site.hw(hw, point) and size == (2, *layout(site, point, run)[1])
    first = [key.partition(":")[0] for key in look.seen]
    assert list(dict.fromkeys(first)) == [site.name for site in unet.in_order]
    for site in unet.in_order:
        assert tuple(key.partition(":")[2] for key in look.seen if key.partition(":")[0] == site.name) == site.points


def test_what_is_captured_is_what_hooks_on_the_modules_see(tiny_unet):
    """Hooks of torch on the modules inside, which know nothing of taps."""
    block, resnet = tiny_unet.up[1].attn[2].blocks[0], tiny_unet.up[2].resnets[1]
    wanted = {  # point -> module, and whether its input or its output
        f"{FF}:stream": (block.norm3, "in"), f"{FF}:x": (block.norm3, "out"), f"{FF}:hidden": (block.ff.proj_out, "in"),
        f"{FF}:out": (block.ff.proj_out, "out"), "up.1.attn.2.self:stream": (block.norm1, "in"),
        "up.1.attn.2.cross:stream": (block.norm2, "in"), f"{RES}:act1": (resnet.conv1, "in"), f"{RES}:conv1": (resnet.conv1, "out"),
        f"{RES}:time": (resnet.time_emb_proj, "out"), f"{RES}:act2": (resnet.conv2, "in"), f"{RES}:conv2": (resnet.conv2, "out"),
        "conv_in:x": (tiny_unet.conv_in, "in"), "conv_in:out": (tiny_unet.conv_in, "out"),
        "conv_out:x": (tiny_unet.conv_out, "in"), "conv_out:out": (tiny_unet.conv_out, "out"),
        f"{WAY}:x": (tiny_unet.down[1].downsample, "in"), f"{WAY}:out": (tiny_unet.down[1].downsample, "out"),
        "up.0.upsample:x": (tiny_unet.up[0].upsample, "in"), "up.0.upsample:out": (tiny_unet.up[0].upsample, "out"),
    }  # fmt: skip
    seen: dict[str, Tensor] = {}

    def keep(name: str, side: str):
        return lambda module, given, made: seen.update({name: (given[0] if side == "in" else made).clone()})

    hooks = [module.register_forward_hook(keep(name, side)) for name, (module, side) in wanted.items()]
    try:
        maps = one_step(tiny_unet, Capture(*wanted))[1]
    finally:
        for hook in hooks:
            hook.remove()
    assert set(maps) == set(wanted)
    for name, m in maps.items():
        assert m.axes == ("step", "branch", "image", *m.site.axes(m.point))
        assert torch.equal(m.tensor[0].flatten(0, 1), seen[name]), name


def scaled(module: nn.Module, by: float, *, bias: bool = True) -> None:
    with torch.no_grad():
        module.weight *= by
        if bias:
            module.bias *= by


def shifted(module: nn.Module, by: float) -> None:
    with torch.no_grad():
        module.bias += by


@pytest.mark.parametrize("selector, edit, change", [
    (f"{FF}:out", E.scale(2.0), lambda u: scaled(u.up[1].attn[2].blocks[0].ff.proj_out, 2.0)),
    (f"{FF}:hidden", E.scale(0.0), lambda u: scaled(u.up[1].attn[2].blocks[0].ff.proj_out, 0.0, bias=False)),
    (f"{FF}:x", E.scale(3.0), lambda u: scaled(u.up[1].attn[2].blocks[0].norm3, 3.0)),
    # what is added to the stream before a part is what the part before it would have added more
    (f"{FF}:stream", lambda x, at: x + 0.5, lambda u: shifted(u.up[1].attn[2].blocks[0].cross.to_out, 0.5)),
    ("up.1.attn.2.cross:stream", lambda x, at: x + 0.5, lambda u: shifted(u.up[1].attn[2].blocks[0].self.to_out, 0.5)),
    ("up.1.attn.2.self:stream", lambda x, at: x + 0.5, lambda u: shifted(u.up[1].attn[2].proj_in, 0.5)),
    (f"{RES}:time", E.scale(0.0), lambda u: scaled(u.up[2].resnets[1].time_emb_proj, 0.0)),
    (f"{RES}:act1", E.scale(2.0), lambda u: scaled(u.up[2].resnets[1].conv1, 2.0, bias=False)),
    (f"{RES}:conv1", E.scale(2.0), lambda u: scaled(u.up[2].resnets[1].conv1, 2.0)),
    (f"{RES}:act2", E.scale(2.0), lambda u: scaled(u.up[2].resnets[1].conv2, 2.0, bias=False)),
    (f"{RES}:conv2", E.scale(2.0), lambda u: scaled(u.up[2].resnets[1].conv2, 2.0)),
    ("conv_in:out", E.scale(2.0), lambda u: scaled(u.conv_in, 2.0)),
    ("conv_out:x", E.scale(2.0), lambda u: scaled(u.conv_out, 2.0, bias=False)),
    (f"{WAY}:x", E.scale(0.0), lambda u: scaled(u.down[1].downsample.conv, 0.0, bias=False)),
    (f"{WAY}:out", E.scale(2.0), lambda u: scaled(u.down[1].downsample.conv, 2.0)),
    ("up.0.upsample:out", E.scale(2.0), lambda u: scaled(u.up[0].upsample.conv, 2.0)),
])  # fmt: skip
def test_an_edit_does_what_the_same_change_of_the_parameters_does(tiny_unet, selector, edit, change):
    other = small_unet()
    change(other)
    plain, expected = one_step(tiny_unet)[0], one_step(other)[0]
    assert (expected - plain).abs().max() > 1e-4
    torch.testing.assert_close(one_step(tiny_unet, edit={selector: edit})[0], expected, rtol=1e-4, atol=1e-4)


def test_writing_in_place_before_a_resampling_does_not_change_the_skip(tiny_unet):
    erased = one_step(tiny_unet, edit={f"{WAY}:x": lambda x, at: x.zero_()})[0]
    assert torch.equal(erased, one_step(tiny_unet, edit={f"{WAY}:x": E.scale(0.0)})[0])


def test_looking_into_a_feed_forward_that_runs_in_slices_changes_no_bit(tiny_unet, monkeypatch):
    monkeypatch.setattr("analogist.models.transformer.FeedForward.slice_bytes", 4000)  # some slices at the finest sites
    plain = one_step(tiny_unet)[0]
    assert torch.equal(one_step(tiny_unet, "*.ff:*")[0], plain)


def test_site_and_parameter_names_are_mapped_by_the_table_and_module_finds_each(tiny_unet):
    model = Analogist.__new__(Analogist)
    model.unet = tiny_unet
    names = list(tiny_unet.state_dict())
    rows = table(tiny_unet)
    assert [(row["site"], row["point"]) for row in rows] == [(site.name, point) for site, point in all_points(tiny_unet)]
    for row in rows:
        module = tiny_unet.get_submodule(row["module"])
        assert model.module(f"{row['site']}:{row['point']}") is module
        assert any(name.startswith(row["module"] + ".") for name in names)
    assert "up.1.attn.2.blocks.0.ff" in {row["module"] for row in table(tiny_unet, f"{FF}:hidden")}
    assert f"{FF}:hidden" in repr(table(tiny_unet, f"{FF}:*")) and "query channel" in repr(table(tiny_unet, f"{FF}:*"))


def test_a_layer_number_names_the_feed_forward_of_its_block(tiny_unet):
    assert [(site.name, point) for site, point in select(["9.ff:hidden"], tiny_unet)] == [(FF, "hidden")]
    with pytest.raises(ValueError, match="stream x hidden out of feed-forwards"):
        select([f"{FF}:probs"], tiny_unet)


@pytest.mark.parametrize("point", [f"{FF}:hidden", f"{RES}:time", f"{RES}:conv1", f"{WAY}:out", "conv_in:out", "up.1.attn.2.self:stream"])
def test_a_captured_tensor_patched_into_another_run_is_what_that_run_has_there(tiny_unet, point):
    run, other = shape(images=1, steps=1), torch.randn(1, 9, 16, 16, generator=torch.Generator().manual_seed(7))
    kept = one_step(tiny_unet, point)[1][point]
    patched = sample(tiny_unet, run, Capture(point), {point: E.patch(kept)}, sac=None, cam=None, x=other)[1].maps[point]
    assert torch.equal(patched.tensor, kept.tensor)
    there = sample(tiny_unet, run, point, sac=None, cam=None, x=other)[1].maps[point].tensor
    assert torch.equal(there, kept.tensor) == point.endswith(":time")  # the time is the same in both runs


def test_a_region_is_cut_out_where_there_are_places_and_refused_where_there_are_none(tiny_unet):
    whole = one_step(tiny_unet, Capture(f"{WAY}:x", f"{WAY}:out", f"{FF}:hidden"))[1]
    part = one_step(tiny_unet, Capture(f"{WAY}:x", f"{WAY}:out", f"{FF}:hidden", query="B'"))[1]
    for name, m in part.items():
        h, w = m.hw
        assert (h, w) == {f"{WAY}:x": (8, 8), f"{WAY}:out": (4, 4), f"{FF}:hidden": (4, 4)}[name]
        full = whole[name].tensor if "row" in m.axes else whole[name].tensor.unflatten(-2, (h, w)).movedim(-1, -3)
        cut = full[..., h // 2 :, w // 2 :]
        assert torch.equal(m.tensor, cut if "row" in m.axes else cut.movedim(-3, -1).flatten(-3, -2))
    with pytest.raises(ValueError, match="none of them has a query axis"):
        one_step(tiny_unet, Capture(f"{RES}:time", query="B'"))
    with pytest.raises(ValueError, match="heads= has no meaning"):
        one_step(tiny_unet, edit={f"{FF}:hidden": E.scale(2.0, heads=0)})
