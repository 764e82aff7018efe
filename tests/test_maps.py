"""Captured maps: regions by name after they were summed up, other grids of tokens, rollout, and names to complete."""

import pytest
import torch

from analogist.attention.capture.capture import Capture
from analogist.attention.capture.maps import AttentionMap, Maps
from analogist.attention.capture.reduce import TopK
from analogist.attention.measure import measures
from analogist.attention.measure.flow import flow, flow_table
from analogist.models.cells import REGIONS
from analogist.models.placement import Site
from tests.brute_force import tokens_of
from tests.study_runs import sample, shape

FINE, COARSE = "up.3.attn.0.self:probs", "up.1.attn.2.self:probs"
CELLS = {"A": (0, 0), "A'": (0, 1), "B": (1, 0), "B'": (1, 1)}


@pytest.fixture(scope="module")
def maps(tiny_unet) -> Maps:
    return sample(tiny_unet, shape(), [FINE, COARSE, "up.2.attn.0.self:logits", "up.3.attn.0.cross:probs"], cam=None, stop=2)[1].maps


def whole_map(values: torch.Tensor, hw: tuple[int, int], *, point: str = "probs", layer: int = 3) -> AttentionMap:
    """A map [step query key] made by hand; every token of the picture is 8 pixels wide."""
    return AttentionMap(
        name=f"{layer}:{point}", site=Site(f"up.{layer}.attn.0.self", "self", layer, 1, 1), point=point, tensor=values,
        axes=("step", "query", "key"), hw=hw, size=(8 * hw[0], 8 * hw[1]), rows=2, times={0: 501},
        coords={"step": (0,), "branch": ("text",), "image": (0,)},
    )  # fmt: skip


def random_map(hw: tuple[int, int], seed: int, layer: int = 3) -> AttentionMap:
    count = hw[0] * hw[1]
    return whole_map(torch.randn(1, count, count, generator=torch.Generator().manual_seed(seed)).softmax(-1), hw, layer=layer)


# --- regions ---------------------------------------------------------------------------------------


def test_maps_reduced_to_regions_are_selected_by_the_names_of_regions(tiny_unet, maps) -> None:
    m = sample(tiny_unet, shape(), Capture(FINE, reduce="regions"), cam=None, stop=2)[1].maps[FINE]
    whole = maps[FINE]
    for query in REGIONS:
        for key in REGIONS:
            block = whole.sel(query=query, key=key).tensor.sum(-1).mean(-1)
            torch.testing.assert_close(m.sel(query=query, key=key).tensor, block)
    assert m.sel(query="B'", key="A'").axes == m.axes[:-2]
    assert m.sel(key="A'").axes == m.axes[:-1] and m.sel(key="A'").tensor.shape[-1] == 4
    some = m.sel(step=1, query=["B'", "A"], key="A'")
    assert torch.equal(some.tensor, m.tensor[1][..., [3, 0], 1]) and some.coords["query_region"] == ("B'", "A")
    assert torch.equal(some.sel(query="A").tensor, m.tensor[1][..., 0, 1])  # the order given, not that of the table
    assert torch.equal(flow(whole).sel(query="B'").tensor, flow(whole).tensor[..., 3, :])


def test_what_was_summed_up_otherwise_cannot_be_selected(tiny_unet) -> None:
    m = sample(tiny_unet, shape(), Capture(FINE, reduce="regions"), cam=None, stop=1)[1].maps[FINE]
    for wrong in ("C", 3, (0, 0, 8, 8), []):
        with pytest.raises(ValueError, match="was reduced to the regions A, A', B, B'"):
            m.sel(query=wrong)
    with pytest.raises(ValueError, match="was reduced to the regions B'"):
        m.sel(query=["B'"]).sel(query="A")


def test_regions_of_queries_are_selected_where_keys_are_words(tiny_unet, maps) -> None:
    name = "up.3.attn.0.cross:probs"
    m = sample(tiny_unet, shape(), Capture(name, reduce="regions", branches="text"), cam=None, stop=1)[1].maps[name]
    expected = maps[name].sel(step=0, branch="text", query="B'", key="hat").tensor.mean(-2)
    torch.testing.assert_close(m.sel(step=0, branch="text", query="B'", key="hat").tensor, expected)


def test_a_selected_map_of_regions_is_saved_and_loaded(tiny_unet, tmp_path) -> None:
    m = sample(tiny_unet, shape(), Capture(FINE, reduce="regions"), cam=None, stop=1)[1].maps[FINE].sel(query=["B'", "A"])
    m.save(tmp_path / "m.safetensors")
    again = AttentionMap.load(tmp_path / "m.safetensors")
    assert torch.equal(again.sel(query="A").tensor, m.tensor[..., 1, :])


# --- other grids -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), [((4, 6), (2, 3)), ((2, 2), (4, 6)), ((4, 4), (6, 2)), ((3, 5), (2, 7))])
def test_a_probability_is_divided_by_area_and_queries_are_averaged(old, new) -> None:
    """Against a count of small squares: every side is cut into as many as both grids divide."""
    m = random_map(old, seed=1)
    fine = (old[0] * new[0], old[1] * new[1])  # both grids divide it
    y, x = torch.meshgrid(torch.arange(fine[0]), torch.arange(fine[1]), indexing="ij")

    def owner(hw: tuple[int, int]) -> torch.Tensor:
        return (y * hw[0] // fine[0] * hw[1] + x * hw[1] // fine[1]).flatten()

    into_old, into_new = owner(old), owner(new)
    per_old = fine[0] * fine[1] // (old[0] * old[1])
    spread = m.tensor[0][into_old][:, into_old] / per_old  # by small squares; a key's share is divided among its squares
    count = new[0] * new[1]
    member = torch.nn.functional.one_hot(into_new, count).float()
    expected = (member / member.sum(0)).T @ spread @ member
    found = m.resize(new)
    torch.testing.assert_close(found.tensor[0], expected)
    torch.testing.assert_close(found.tensor.sum(-1), torch.ones(1, count))
    assert found.hw == new and found.size == m.size


def test_logits_and_queries_without_keys_are_averaged() -> None:
    values = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(2))
    m = whole_map(values, (4, 4), point="logits").resize(2)
    blocks = values[0].unflatten(0, (2, 2, 2, 2)).unflatten(-1, (2, 2, 2, 2)).mean(dim=(1, 3, 5, 7))
    torch.testing.assert_close(m.tensor[0], blocks.flatten(0, 1).flatten(1, 2))


def test_one_region_becomes_the_same_region_on_the_new_grid(maps) -> None:
    m = maps[FINE].sel(step=0, branch="text", image=0, query="B'", key="A'")
    found = m.resize((8, 8))
    assert found.query.tolist() == tokens_of(CELLS["B'"], (8, 8)) and found.key.tolist() == tokens_of(CELLS["A'"], (8, 8))
    torch.testing.assert_close(found.tensor, maps[FINE].resize(8).sel(step=0, branch="text", image=0, query="B'", key="A'").tensor)
    assert found.grid("key").shape[-2:] == (4, 4)


def test_flow_between_regions_stays_the_same_on_any_grid_that_keeps_them(maps) -> None:
    for hw in (8, (4, 8), 32):
        torch.testing.assert_close(flow_table(maps[FINE].resize(hw)).values, flow_table(maps[FINE]).values)


def test_text_keys_stay_as_they_are(maps) -> None:
    m = maps["up.3.attn.0.cross:probs"]
    found = m.resize(8)
    assert found.shape == (*m.shape[:-2], 64, m.shape[-1])
    torch.testing.assert_close(found.tensor.sum(-1), torch.ones(found.shape[:-1]))


def test_what_cannot_be_put_on_another_grid_says_why(tiny_unet, maps) -> None:
    for hw in (0, (4,), True, "8"):
        with pytest.raises((ValueError, TypeError)):
            maps[FINE].resize(hw)
    with pytest.raises(ValueError, match="ends within a token of the new grid"):
        maps[FINE].sel(query="B'").resize(5)
    top = sample(tiny_unet, shape(), Capture(FINE, reduce=TopK(3)), stop=1)[1].maps[FINE]
    with pytest.raises(ValueError, match="keys that differ"):
        top.resize(8)
    with pytest.raises(ValueError, match="no tokens of the picture"):
        flow(maps[FINE]).resize(8)


# --- rollout ---------------------------------------------------------------------------------------


def test_rollout_is_the_product_of_maps_mixed_with_the_identity() -> None:
    first, second, third = (random_map((4, 4), seed, layer) for seed, layer in ((1, 2), (2, 5), (3, 9)))
    found = measures.rollout({"c": third, "a": first, "b": second}, residual=0.3)  # whatever their order in the mapping
    eye = torch.eye(16)
    mixed = [0.3 * eye + 0.7 * m.tensor[0] for m in (first, second, third)]
    torch.testing.assert_close(found.tensor[0], mixed[2] @ mixed[1] @ mixed[0])
    torch.testing.assert_close(found.tensor.sum(-1), torch.ones(1, 16))
    assert found.site == third.site
    assert torch.equal(measures.rollout({"a": first}, residual=1.0).tensor[0], eye)


def test_rollout_across_sizes_finds_where_a_planted_chain_leads() -> None:
    """The coarse site copies A' -> B'; the fine one, later, A -> A': so B' has come from A' and A' from A."""
    def copies(hw: tuple[int, int], to: str, source: str, layer: int) -> AttentionMap:
        values = torch.eye(hw[0] * hw[1])
        values[tokens_of(CELLS[to], hw)] = torch.eye(hw[0] * hw[1])[tokens_of(CELLS[source], hw)]
        return whole_map(values[None], hw, layer=layer)

    chain = {"coarse": copies((4, 4), "B'", "A'", 1), "fine": copies((8, 8), "A'", "A", 2)}
    table = flow_table(measures.rollout(chain, residual=0.0))
    assert table["B'", "A'"] == pytest.approx(1) and table["A'", "A"] == pytest.approx(1) and table["B", "B"] == pytest.approx(1)
    back = {"fine": copies((8, 8), "A'", "A", 1), "coarse": copies((4, 4), "B'", "A'", 2)}
    assert flow_table(measures.rollout(back, residual=0.0))["B'", "A"] == pytest.approx(1)
    assert measures.rollout(chain).hw == (8, 8) and measures.rollout(chain, hw=2).hw == (2, 2)


def test_rollout_of_a_run_keeps_steps_branches_and_images(tiny_unet) -> None:
    maps = sample(tiny_unet, shape(), ["up.*.self:probs", "up.3.attn.0.cross:probs"], stop=2)[1].maps
    found = measures.rollout(maps, hw=8)
    assert found.axes == ("step", "branch", "image", "query", "key") and found.shape == (2, 2, 2, 64, 64)
    torch.testing.assert_close(found.tensor.sum(-1), torch.ones(found.shape[:-1]))
    row = found.sel(step=1, branch="text", image=0, query=(100, 100))
    assert row.grid("key").shape[-2:] == (8, 8)


def test_rollout_refuses_what_it_cannot_multiply(maps) -> None:
    with pytest.raises(ValueError, match="holds a part of the map only"):
        measures.rollout({FINE: maps[FINE].sel(query="B'")})
    with pytest.raises(ValueError, match="none of these maps"):
        measures.rollout({"x": maps["up.3.attn.0.cross:probs"]})
    with pytest.raises(ValueError, match="residual 2"):
        measures.rollout(maps, residual=2)
    with pytest.raises(ValueError, match="differ in steps, branches or images"):
        measures.rollout({FINE: maps[FINE], COARSE: maps[COARSE].sel(step=[0])})


# --- names -----------------------------------------------------------------------------------------


def test_ipython_offers_the_names_of_maps_as_keys(maps) -> None:
    completer = pytest.importorskip("IPython.core.completer")
    typed = 'maps["up.3'
    with completer.provisionalcompleter():
        found = completer.IPCompleter(namespace={"maps": maps}, use_jedi=False).completions(typed, len(typed))
        offered = [one.text for one in found]
    assert any("up.3.attn.0.self:probs" in text for text in offered)
    assert any("up.3.attn.0.cross:probs" in text for text in offered)
    assert not any(COARSE in text for text in offered)
