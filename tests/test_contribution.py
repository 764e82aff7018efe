"""Contribution: what heads write, against captured tensors and loops; every axis."""

import functools
from dataclasses import replace

import pytest
import torch

from analogist.attention.capture.capture import CaptureTooLarge
from analogist.attention.edit.edits import scale
from analogist.attention.measure import measures
from analogist.models.cells import REGIONS
from analogist.models.control import CAM, SAC
from analogist.models.placement import Placement
from analogist.models.unet import UNetConfig
from tests.brute_force import tokens_of
from tests.causal_runs import small_run
from tests.small import relative, small_unet
from tests.study_runs import shape

BOTH = {"sac": SAC(Placement("*")), "cam": CAM(Placement("*"))}
DEEP = UNetConfig(channels=(16, 24), depth=(1, 2), mid_depth=2, heads=(2, 3), text_width=12, norm_groups=8, pooled_width=0)
CELLS = {"A": (0, 0), "A'": (0, 1), "B": (1, 0), "B'": (1, 1)}


def module_of(unet, name):
    return next(m for m in unet.modules() if getattr(getattr(m, "site", None), "name", "") == name)


def stream_before(unet, name, run):
    """The residual stream before an attention is added, read by a hook on the norm in front of it: (branch image) token channel."""
    seen = []
    for module in unet.modules():
        for norm, attention in (("norm1", "self"), ("norm2", "cross")):
            if hasattr(module, attention) and getattr(module, attention).site.name == name:
                handle = getattr(module, norm).register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    run()
    handle.remove()
    return seen


@pytest.mark.parametrize("selector", ["*.self", "*.cross"])
@pytest.mark.parametrize("hw", [(16, 16), (16, 32)])
def test_vectors_summed_over_key_regions_and_heads_are_out_less_its_bias(tiny_unet, selector, hw):
    run = small_run(tiny_unet, shape(hw=hw, steps=2), **BOTH)
    found = measures.contribution(run, selector, vectors=True)
    maps = run(capture=f"{selector}:out").maps
    assert len(found.sites) == 16
    for site in found.sites:
        out = maps[f"{site}:out"].tensor - module_of(tiny_unet, site).to_out.bias
        assert found.vectors[site].shape[:5] == (2, 2, 2, module_of(tiny_unet, site).heads, 4 if selector == "*.self" else 1)
        assert relative(found.vectors[site].sum(dim=(3, 4)), out) < 1e-5


@pytest.mark.parametrize("config, rows, hw", [(None, 2, (16, 16)), (None, 3, (48, 32)), (DEEP, 2, (8, 16))])
def test_values_are_the_norms_of_the_vectors_over_the_norm_of_the_residual_stream(tiny_unet, config, rows, hw):
    """The stream is read by a hook of its own; several transformer blocks in a row (SDXL), three rows of cells, wide pictures."""
    unet = tiny_unet if config is None else small_unet(config)
    run = small_run(unet, shape(hw=hw, rows=rows, steps=2), **(BOTH if rows == 2 else {}))
    for kind in ("self", "cross"):
        name = [site.name for site in unet.sites if site.kind == kind][-4]  # in the deep network a second block
        keys = ("A'", "B") if kind == "self" else ("cat", 0)
        found = measures.contribution(run, name, vectors=True, query=("B'", "A"), key=keys, branches="text")
        streams = stream_before(unet, name, run)
        assert found.values.shape == (1, 2, 1, module_of(unet, name).heads, 2, 2)
        size = next(site for site in unet.sites if site.name == name).hw(hw)
        cells = {"B'": [(rows - 1, 1)], "A": [(row, 0) for row in range(rows - 1)]}
        for step in range(2):
            for i, region in enumerate(("B'", "A")):
                queries = [token for cell in cells[region] for token in tokens_of(cell, size, rows)]
                before = streams[step][2:, queries].norm()
                for head in range(found.values.shape[3]):
                    for j in range(2):
                        written = found.vectors[name][step, 0, :, head, j][:, queries].norm()
                        assert float(found.values[0, step, 0, head, i, j]) == pytest.approx(float(written / before), rel=1e-4)


def test_maps_in_slices_of_heads_give_the_same_and_are_never_whole(tiny_unet, monkeypatch):
    whole = measures.contribution(small_run(tiny_unet, shape(), **BOTH))
    together = measures.contribution(small_run(tiny_unet, shape(), **BOTH), heads=False)
    seen = []
    sliced = small_run(tiny_unet, shape(), map_bytes=1, **BOTH)
    from analogist.attention.measure.contribution import Weigh

    weigh = Weigh._weigh
    monkeypatch.setattr(Weigh, "_weigh", lambda self, probs, at: (seen.append(probs.shape[1]), weigh(self, probs, at)))
    torch.testing.assert_close(measures.contribution(sliced).values, whole.values, equal_nan=True)
    torch.testing.assert_close(measures.contribution(sliced, heads=False).values, together.values)
    assert set(seen) == {1}


def test_heads_together_are_the_norm_of_the_sum_of_what_they_write(tiny_unet):
    run = small_run(tiny_unet, shape(steps=1))
    apart, together = (measures.contribution(run, "up.1.attn.0.self", heads, vectors=True) for heads in (True, False))
    name = "up.1.attn.0.self"
    torch.testing.assert_close(together.vectors[name][:, :, :, 0], apart.vectors[name].sum(dim=3))
    stream = stream_before(tiny_unet, name, run)[0]
    queries = tokens_of((1, 1), (4, 4))
    written = apart.vectors[name][0, 1].sum(dim=1)[:, 1][:, queries].norm()
    assert together.heads == (-1,)
    assert float(together.sel(site=name, step=0, branch="text", head=-1, query="B'", key="A'")) == pytest.approx(
        float(written / stream[2:, queries].norm()), rel=1e-4
    )


def test_the_signed_part_along_a_direction_is_the_inner_product(tiny_unet):
    name = "up.2.attn.1.self"
    run = small_run(tiny_unet, shape(steps=1, images=2))
    along = torch.randn(64, 24, generator=torch.Generator().manual_seed(8))
    plain = measures.contribution(run, name, vectors=True)
    signed = measures.contribution(run, name, direction={name: 7.0 * along})
    stream = stream_before(tiny_unet, name, run)[0]
    queries = tokens_of((1, 1), (8, 8))
    written = plain.vectors[name][0, 1, :, 0, 1][:, queries]  # image query channel; head 0, from A'
    both = along[queries].expand(2, -1, -1)
    expected = (written * both).sum() / both.norm() / stream[2:, queries].norm()
    assert float(signed.sel(site=name, step=0, branch="text", head=0, query="B'", key="A'")) == pytest.approx(float(expected), rel=1e-4)
    assert (signed.values.abs() <= plain.values + 1e-6).all() and (signed.values < 0).any()
    with pytest.raises(ValueError, match=r"give \[channel\]"):
        measures.contribution(run, name, direction={name: torch.ones(5)})
    with pytest.raises(ValueError, match="has nothing for"):
        measures.contribution(run, name, direction={})


def test_one_run_an_input_and_its_result_stays(tiny_unet):
    run = small_run(tiny_unet, shape(steps=2), **BOTH)
    found = measures.contribution(run)
    assert run.calls == [0, 1]
    assert found.values.shape == (16, 2, 2, 4, 4, 4)
    assert found.sel(site="down.0.attn.0.self")[..., 2:, :, :].isnan().all()  # it has two heads
    many = measures.contribution([run, small_run(tiny_unet, shape(steps=2), seed=1, **BOTH)], "mid.*.self")
    assert many.each.shape[0] == 2 and (many.low <= many.values).all() and (many.values <= many.high).all()
    torch.testing.assert_close(many.values, many.each.mean(0))
    torch.testing.assert_close(many.each[0], found.values[found.sites.index("mid.0.attn.0.self")][None])
    assert found.low.isnan().all()
    results = []

    def kept(edit=None):
        results.append(run(edit=edit, capture="up.3.attn.2.block:out"))
        return results[-1]

    measures.contribution(kept), kept()
    torch.testing.assert_close(results[0].latents, results[1].latents, rtol=1e-3, atol=1e-4)  # the map in hand, and no map


def test_a_runs_own_edits_and_captures_stay(tiny_unet):
    run = functools.partial(small_run(tiny_unet, shape(steps=1)), edit={"up.1.attn.0.self:v": scale(0.0)})
    assert measures.contribution(run, "up.1.attn.0.self").values.nan_to_num().abs().max() == 0
    assert measures.contribution(run, "up.1.attn.1.self").values.nan_to_num().abs().max() > 0


def test_example_pairs_are_told_apart(tiny_unet):
    run = small_run(tiny_unet, shape(hw=(24, 16), rows=3, steps=1, images=1))
    name = "down.0.attn.0.self"
    pairs = measures.contribution(run, name, key=("A1'", "A2'"), vectors=True)
    both = measures.contribution(run, name, key=("A'",), vectors=True)
    torch.testing.assert_close(pairs.vectors[name].sum(4), both.vectors[name][:, :, :, :, 0])
    assert not torch.allclose(pairs.sel(key="A1'"), pairs.sel(key="A2'"))


def test_what_cannot_be_measured_is_said(tiny_unet):
    run = small_run(tiny_unet, replace(shape(steps=1)))
    with pytest.raises(ValueError, match="matches no attention site"):
        measures.contribution(run, "up.9.*")
    with pytest.raises(ValueError, match="both kinds"):
        measures.contribution(run, "up.1.*")
    with pytest.raises(CaptureTooLarge, match="choose fewer sites"):
        measures.contribution(run, vectors=True, max_bytes=1000)
    with pytest.raises(ValueError, match="measured are"):
        measures.contribution(run, "mid.*.self").sel(site="up.1.attn.0.self")
    assert tuple(measures.contribution(run, "mid.*.self").query) == REGIONS
    best = measures.contribution(run).best(3)
    assert len(best) == 3 and {row["key"] for row in best} == {"A'"} and best[0]["contribution"] >= best[1]["contribution"]
