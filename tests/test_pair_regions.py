"""Regions of one example pair, A1, A1', A2 ..., wherever regions are taken: captures, reductions, flow tables, edits, nodes."""

import pytest
import torch

from analogist.attention.capture.capture import Capture
from analogist.attention.capture.reduce import RegionTotals
from analogist.attention.edit.node import Node
from analogist.attention.edit.put import put_all, zero
from analogist.attention.look import viz
from analogist.attention.measure.flow import flow, flow_rows, flow_table
from analogist.attention.select.regions import region_of_token, region_tokens
from analogist.grid.layout import cell_names
from analogist.models.cells import all_cells, cells_of
from analogist.models.control import CAM, SAC, AttentionControl
from analogist.models.placement import Placement
from tests.brute_force import clone_blocks
from tests.small import cross_module, relative, self_module, tokens, watch
from tests.study_runs import sample, shape

EVERYWHERE = Placement("*")

MAP = "down.2.attn.0.self:probs"
HW, ROWS = (24, 16), 3  # two example pairs; 6 x 4 tokens at this site
NAMES = ("A1", "A1'", "A2", "A2'", "B", "B'")


def tokens_of(name: str, hw: tuple[int, int] = (6, 4)) -> list[int]:
    """The tokens of a cell, from its row and column."""
    row, column = divmod(NAMES.index(name), 2)
    h, w = hw[0] // ROWS, hw[1] // 2
    return [y * hw[1] + x for y in range(row * h, (row + 1) * h) for x in range(column * w, (column + 1) * w)]


@pytest.fixture(scope="module")
def maps(tiny_unet):
    run = shape(images=1, hw=HW, rows=ROWS, steps=1)
    capture = [MAP, Capture(MAP, reduce=RegionTotals(regions=NAMES), label="r"), Capture(MAP, reduce="regions", label="four")]
    return sample(tiny_unet, run, capture, sac=None, cam=None)[1].maps


def test_every_cell_has_a_name_and_every_token_is_in_the_cell_of_that_name():
    assert cell_names(1) == ("A", "A'", "B", "B'") and cell_names(2) == NAMES
    assert [cells_of(name, 3) for name in NAMES] == [[cell] for cell in all_cells(3)]
    for name in NAMES:
        assert region_tokens(name, (6, 4), 3, (48, 32)).tolist() == tokens_of(name)
        assert {region_of_token(token, (6, 4), 3) for token in tokens_of(name)} == {name}
    with pytest.raises(ValueError, match="region \"A3'\": allowed are A, A', B, B', and A1 .. A2' for a single example pair"):
        cells_of("A3'", 3)


def test_a_flow_table_by_cells_holds_the_share_of_each_pair(maps):
    m = maps[MAP].sel(step=0, branch="text", image=0, head=1)
    by_cell, four = flow_table(m, "cells"), flow_table(m)
    for query in NAMES:
        for key in NAMES:
            expected = m.tensor[tokens_of(query)][:, tokens_of(key)].sum(-1).mean()
            assert by_cell[query, key] == pytest.approx(float(expected), rel=1e-4)
    assert by_cell["B'", "A1'"] + by_cell["B'", "A2'"] == pytest.approx(four["B'", "A'"], rel=1e-4)
    assert "A2'" in repr(by_cell) and four.regions == ("A", "A'", "B", "B'")
    assert flow_table(m, ["B'", "A2'"]).values.shape == (2, 2)
    row, = flow_rows({MAP: maps[MAP]}, "cells")
    assert sum(row[f"B' -> {name}"] for name in NAMES) == pytest.approx(1, abs=1e-4)
    assert viz.flow_picture(by_cell).size[0] > viz.flow_picture(four).size[0]
    with pytest.raises(ValueError, match="region \"A'\": allowed are A1, A1'"):
        by_cell["B'", "A'"]


def test_totals_by_cell_on_the_device_equal_those_of_the_whole_map_and_keep_their_names(maps, tmp_path):
    reduced = maps[f"{MAP}@r"]
    torch.testing.assert_close(reduced.tensor, flow(maps[MAP], "cells").tensor)
    assert reduced.coords["query_region"] == reduced.coords["key_region"] == NAMES
    assert flow_table(reduced, ["B'", "A2'"])["B'", "A2'"] == pytest.approx(flow_table(maps[MAP], "cells")["B'", "A2'"], rel=1e-4)
    reduced.save(tmp_path / "r.safetensors")
    again = type(reduced).load(tmp_path / "r.safetensors")
    torch.testing.assert_close(flow_table(again, "cells").values, flow_table(reduced, "cells").values)
    assert flow_table(maps[f"{MAP}@four"]).regions == ("A", "A'", "B", "B'")
    with pytest.raises(ValueError, match="was reduced to the regions A, A', B, B', not A1"):
        flow_table(maps[f"{MAP}@four"], "cells")


def test_a_pair_that_the_grid_does_not_have_is_refused_before_the_run(tiny_unet):
    with pytest.raises(ValueError, match="region 'A3': allowed are"):
        sample(tiny_unet, shape(hw=HW, rows=ROWS), Capture(MAP, reduce=RegionTotals(regions=("A3", "B'"))))
    with pytest.raises(ValueError, match="give a list of names"):
        RegionTotals(regions="A1")


def test_a_node_of_one_pair_is_zeroed_at_its_own_tokens_alone(tiny_unet):
    run, point = shape(images=1, hw=HW, rows=ROWS, steps=1), "down.2.attn.0.ff:out"
    node = Node("down.2.attn.0.ff", "out", query="A2'")
    plain = sample(tiny_unet, run, point, sac=None, cam=None)[1].maps[point].tensor
    cut = sample(tiny_unet, run, point, put_all([node], zero), sac=None, cam=None)[1].maps[point].tensor
    expected = plain.clone()
    expected[..., tokens_of("A2'"), :] = 0
    assert torch.equal(cut, expected)


# --- SAC and CAM --------------------------------------------------------------------------------------


def test_sac_may_clone_and_scale_blocks_of_one_pair_alone_in_both_forms():
    """Against loops over the tokens; the second pair, with that pair's own scale."""
    module, x = self_module(), tokens((6, 4), channels=16)
    clone = SAC(EVERYWHERE, scale=(1.1, 1.7), clone=(("A2'", "B'"), ("A2", "B")))
    seen = watch(module, x, (6, 4), sac=clone, rows=3)[1]
    expected = clone_blocks(seen["scores"], (6, 4), [((1, 1), (2, 1), (1, 0), (2, 0), 1.7), ((2, 1), (1, 1), (2, 0), (1, 0), 1.7)], 3)
    assert torch.equal(seen["logits"], expected)
    for sac in (clone, SAC(EVERYWHERE, clone=None, scaled=(("B'", "A1'", 0.5),))):
        explicit, fused = (module(x, (6, 4), AttentionControl(images=1, sac=sac, rows=3, attention=form)) for form in ("explicit", "fused"))
        assert relative(fused, explicit) < 1e-5
        assert relative(explicit, module(x, (6, 4), AttentionControl(images=1, rows=3))) > 1e-4
    scaled = watch(module, x, (6, 4), sac=SAC(EVERYWHERE, clone=None, scaled=(("B'", "A1'", 0.5),)), rows=3)[1]
    factors = torch.ones(24, 24)
    factors[torch.tensor(tokens_of("B'"))[:, None], torch.tensor(tokens_of("A1'"))] = 0.5
    assert torch.equal(scaled["logits"], scaled["scores"] * factors)


def test_cam_may_silence_one_pair_alone_in_both_forms():
    module, x = cross_module(), tokens((6, 4), channels=16)
    text = torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(2))
    cam = CAM(EVERYWHERE, silence=("B", "A2'"))
    assert cam.silence == ("A2'", "B") and CAM(silence=("B'", "A", "A'", "B", "A1")).silence == ("A", "A1", "A'", "B", "B'")
    probs = watch(module, x, (6, 4), text, cam=cam, rows=3)[1]["probs"]
    silent = probs.sum((0, 1, 3)) == 0
    assert silent.nonzero().flatten().tolist() == sorted([*tokens_of("A2'"), *tokens_of("B")])
    controls = [AttentionControl(images=1, cam=cam, rows=3, attention=form) for form in ("explicit", "fused")]
    explicit, fused = (module(x, module.keys_values(text), (6, 4), control) for control in controls)
    assert relative(fused, explicit) < 1e-5


@pytest.mark.parametrize("settings, why", [
    ({"sac": SAC(clone=(("A3'", "B'"), ("A3", "B")))}, "region \"A3'\": allowed are A, A', B, B', and A1 .. A2'"),
    ({"cam": CAM(silence=("A3",))}, "region 'A3': allowed are"),
    ({"sac": SAC(scaled=(("B'", "A1'", 2.0),))}, "names a block that the clone"),
])  # fmt: skip
def test_settings_of_a_pair_that_the_grid_does_not_have_are_refused_before_the_run(settings, why):
    with pytest.raises(ValueError, match=why):
        AttentionControl(rows=3, **settings)
