"""Maps as xarray's arrays: the same values under the same labels."""

import builtins

import numpy as np
import pytest
import torch

from analogist.attention.capture.capture import Capture
from analogist.attention.capture.reduce import TopK
from tests.study_runs import TIMES, sample, shape

xarray = pytest.importorskip("xarray")
FINE, COARSE = "up.3.attn.2.self:probs", "up.1.attn.2.self:probs"
WORDS, TIME, TOP = "up.1.attn.2.cross:probs", "up.1.res.0.block:time", "up.1.attn.2.self:probs@top"


@pytest.fixture(scope="module")
def maps(tiny_unet):
    capture = [Capture(FINE, COARSE, steps=[0, 2], query="B'"), Capture(WORDS, TIME, "conv_in:out")]
    capture.append(Capture(COARSE, reduce=TopK(2), label="top"))
    return sample(tiny_unet, shape(), capture, sac=None, cam=None)[1].maps


def test_a_map_keeps_its_axes_labels_and_values(maps):
    m, array = maps[COARSE], maps[COARSE].to_xarray()
    assert array.dims == m.axes and array.name == COARSE and array.attrs["site"] == "up.1.attn.2.self" and array.attrs["hw"] == (4, 4)
    assert np.array_equal(array.values, m.numpy())
    assert array.step.values.tolist() == [0, 2] and array.t.values.tolist() == [TIMES[0], TIMES[2]]
    assert array["query"].values.tolist() == [10, 11, 14, 15] and array["key"].values.tolist() == list(range(16))
    one = array.sel(step=2, branch="text", image=1, head=3, query=14, key=5)
    assert float(one) == float(m.tensor[1, 1, 1, 3, 2, 5])
    chosen = m.sel(step=0, head=1).to_xarray()
    assert "head" not in chosen.dims and int(chosen["head"]) == 1 and int(chosen["step"]) == 0
    assert maps[WORDS].to_xarray().sel(key=3).dims == ("step", "branch", "image", "head", "query")
    assert maps[TIME].to_xarray().dims == ("step", "branch", "image", "channel")
    top = maps[TOP].to_xarray()
    assert torch.equal(torch.from_numpy(top["token"].values), maps[TOP].index)


def test_a_set_of_maps_is_one_data_set_in_which_nothing_is_filled_up(maps):
    data = maps.to_xarray()
    assert list(data.data_vars) == list(maps)
    for name, m in maps.items():
        assert np.array_equal(data[name].values, m.numpy()) and not np.isnan(data[name].values).any()
    assert data[FINE].dims == ("step_2", "branch", "image", "head_2", "query_64", "key_256")
    assert data[WORDS].dims == ("step_3", "branch", "image", "head_4", "query_16", "key_7")
    assert data[COARSE].dims[-2:] == ("query_4", "key_16")
    alone = maps.select("*.cross:*").to_xarray()
    assert alone[WORDS].dims == maps[WORDS].axes


def test_text_columns_that_differ_from_branch_to_branch_are_labelled_in_both(tiny_unet):
    """cat is column 1 of the negative prompt and column 2 of the other; an axis with one label would be wrong in one of them."""
    capture = [Capture(WORDS, words="cat", branches=[0, 1]), Capture(WORDS, words="hat", label="hat")]
    maps = sample(tiny_unet, shape(), capture, sac=None, cam=None, stop=1)[1].maps
    array = maps[WORDS].to_xarray()
    assert array["text_column"].dims == ("branch", "key") and array["text_column"].values.tolist() == [[1], [2]]
    assert "key" not in array.coords
    assert maps[WORDS].sel(branch="text").to_xarray()["key"].values.tolist() == [2]
    data = maps.to_xarray()
    assert data[WORDS + "@hat"].dims[-1] != data[WORDS].dims[-1]
    assert data[data[WORDS + "@hat"].dims[-1]].values.tolist() == [4]


def test_without_xarray_the_message_names_the_extra(maps, monkeypatch):
    there = builtins.__import__

    def without(name, *others, **more):
        if name == "xarray":
            raise ImportError("no xarray")
        return there(name, *others, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    for one in (maps, maps[COARSE]):
        with pytest.raises(ImportError, match=r"pip install 'analogist\[xarray\]'"):
            one.to_xarray()
