"""Capture: what is kept is what ran, where it was asked for, in the bytes planned, and looking changes nothing."""

import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from analogist.attention.capture.capture import Capture, CaptureTooLarge, every, make_plan
from analogist.attention.capture.maps import AttentionMap, MapNotFound, Maps
from analogist.attention.capture.reduce import Function, RunningMean, TopK
from analogist.attention.tap import StudyTap
from analogist.models.cells import REGIONS
from analogist.models.control import SAC, At
from analogist.models.placement import Placement
from tests.small import Looking, relative, small_unet
from tests.study_runs import TIMES, inputs, sample, shape

FINE = "up.3.attn.0.self:probs"  # the finest self map of the tests, 256 x 256
WHOLE, SLICED = 2**27, 1  # bytes of maps at once: all heads, one head
# On some processors the product of one head rounds otherwise than that of all heads together; three steps carry it on.
ROUNDING = 1e-4


def alike(kept, expected, map_bytes=SLICED) -> bool:
    """The same bits where the same number of heads was computed at once, else the same but for rounding."""
    return torch.equal(kept, expected) if map_bytes == WHOLE else relative(kept, expected) < ROUNDING


@pytest.fixture(scope="module")
def everything(tiny_unet):
    """(last prediction, maps) of a run in which every point was captured."""
    eps, tap = sample(tiny_unet, shape(), "*", attention="explicit")
    return eps, tap.maps


def cell_tokens(region: str, hw: tuple[int, int], rows: int = 2) -> list[int]:
    """Token numbers of a region, by going through all of them."""
    out = []
    for y in range(hw[0]):
        for x in range(hw[1]):
            below, right = y >= hw[0] - hw[0] // rows, x >= hw[1] // 2
            if region == ("B" if below else "A") + ("'" if right else ""):
                out.append(y * hw[1] + x)
    return out


# --- looking changes nothing -----------------------------------------------------------------------


def test_capturing_everything_changes_no_bit_of_the_result(tiny_unet, everything):
    plain, _ = sample(tiny_unet, shape(), attention="explicit")
    assert torch.equal(plain, everything[0])
    fused, _ = sample(tiny_unet, shape(), attention="fused")
    assert relative(fused, plain) < 1e-4  # three steps of float32 rounding in another order


def test_an_identity_edit_at_every_point_changes_no_bit(tiny_unet, everything):
    eps, _ = sample(tiny_unet, shape(), edit={"*": lambda tensor, at: tensor}, attention="explicit")
    assert torch.equal(eps, everything[0])


def test_captures_in_slices_of_heads_equal_whole_ones(tiny_unet, everything):
    eps, tap = sample(tiny_unet, shape(), "*", attention="explicit", map_bytes=SLICED)
    assert alike(eps, everything[0])
    sliced = tap.maps
    assert all(alike(sliced[name].tensor, m.tensor) for name, m in everything[1].items())


# --- what is captured is what ran ------------------------------------------------------------------


def test_probabilities_times_values_equal_the_head_output_everywhere(tiny_unet, everything):
    maps = everything[1]
    for site in tiny_unet.sites:
        probs, v, head_out = (maps[f"{site}:{point}"].tensor for point in ("probs", "v", "head_out"))
        assert head_out.shape[0] == len(TIMES)
        torch.testing.assert_close(probs @ v, head_out, rtol=1e-5, atol=1e-6)  # one matrix product apart


def test_captures_equal_what_an_independent_tap_sees(tiny_unet, everything):
    run, look = shape(), Looking()
    sample(tiny_unet, run, tap=look, attention="explicit", stop=1)
    for site in tiny_unet.sites:
        for point in site.points:
            kept = everything[1][f"{site}:{point}"].sel(step=0).tensor
            assert torch.equal(kept.flatten(0, 1), look.at(site, point)), f"{site}:{point}"


def test_axes_coordinates_and_shapes_are_named(everything):
    m = everything[1][FINE]
    assert m.axes == ("step", "branch", "image", "head", "query", "key")
    assert m.shape == (3, 2, 2, 2, 256, 256) and m.hw == (16, 16) and m.steps == (0, 1, 2)
    assert m.times == {0: 801, 1: 401, 2: 1} and m.coords["branch"] == ("negative", "text")
    cross = everything[1]["up.3.attn.0.cross:probs"]
    assert cross.shape == (3, 2, 2, 2, 256, 7)
    skip = everything[1]["up.3.res.0.block:skip"]
    assert skip.axes == ("step", "branch", "image", "channel", "row", "column") and skip.shape[-2:] == (16, 16)


def test_a_capture_is_a_copy(tiny_unet):
    def spoil(logits, at):
        return logits.fill_(7.0)  # in place, into the tensor that was captured as scores

    site = "down.0.attn.0.self"
    _, tap = sample(tiny_unet, shape(), [f"{site}:scores", f"{site}:logits"], {f"{site}:logits": spoil}, sac=None)
    assert (tap.maps[f"{site}:logits"].tensor == 7).all()
    assert (tap.maps[f"{site}:scores"].tensor != 7).any()


def test_branches_swap_when_the_prompts_do(tiny_unet):
    run = shape(images=1)
    x, text = inputs(tiny_unet, run)
    first = sample(tiny_unet, run, "*.cross:probs", x=x, text=text, stop=1)[1].maps
    second = sample(tiny_unet, run, "*.cross:probs", x=x, text=text.flip(0), stop=1)[1].maps
    assert any(not torch.equal(m.sel(branch="text").tensor, m.sel(branch="negative").tensor) for m in first.values())
    for name, m in first.items():
        torch.testing.assert_close(m.sel(branch="text").tensor, second[name].sel(branch="negative").tensor)


def test_images_of_a_batch_never_mix(tiny_unet):
    together = sample(tiny_unet, shape(images=2), "*:probs")[1].maps
    alone = sample(tiny_unet, shape(images=1), "*:probs")[1].maps
    for name, m in alone.items():
        # convolutions of another batch size sum in another order, and sharp maps amplify it over three steps; a mix costs 0.1
        assert relative(together[name].sel(image=0).tensor, m.sel(image=0).tensor) < 1e-3, name


def test_a_run_of_one_branch_is_the_text_branch(tiny_unet):
    m = sample(tiny_unet, shape(branches=1), "9.self:probs")[1].maps["up.1.attn.2.self:probs"]
    assert m.coords["branch"] == ("text",) and m.shape[1] == 1
    with pytest.raises(ValueError, match="this run has 'text'"):
        StudyTap(Capture("9.self:probs", branches="negative"), None, tiny_unet, shape(branches=1))


# --- selections ------------------------------------------------------------------------------------


@pytest.mark.parametrize("map_bytes", [SLICED, WHOLE])
def test_what_is_selected_before_the_copy_equals_the_same_part_of_the_whole(tiny_unet, everything, map_bytes):
    request = Capture(FINE, steps=[0, -1], branches="text", images=[1], heads=[1], query="B'", key=["A'", "B"])
    kept = sample(tiny_unet, shape(), request, attention="explicit", map_bytes=map_bytes)[1].maps[FINE]
    whole = everything[1][FINE].tensor
    query, key = cell_tokens("B'", (16, 16)), sorted(cell_tokens("A'", (16, 16)) + cell_tokens("B", (16, 16)))
    expected = whole[[0, 2]][:, [1]][:, :, [1]][:, :, :, [1]][..., query, :][..., key]
    assert alike(kept.tensor, expected, map_bytes) and kept.steps == (0, 2)
    selected = kept.sel(step=2, branch="text", image=1, head=1, query="B'", key="A'").tensor
    assert alike(selected, whole[2, 1, 1, 1][query][:, cell_tokens("A'", (16, 16))], map_bytes)


@pytest.mark.parametrize(("hw", "rows"), [((16, 16), 2), ((16, 32), 2), ((24, 16), 3)])
def test_regions_are_the_cells_of_every_grid(hw, rows):
    unet, run = small_unet(), shape(images=1, hw=hw, rows=rows)
    name = "down.0.attn.1.self:probs"
    whole = sample(unet, run, name, stop=1, sac=None, cam=None)[1].maps[name]
    assert whole.hw == hw
    for region in REGIONS:
        kept = sample(unet, run, Capture(name, query=region), stop=1, sac=None, cam=None)[1].maps[name]
        assert torch.equal(kept.tensor, whole.tensor[..., cell_tokens(region, hw, rows), :])
        assert torch.equal(whole.sel(query=region).tensor, kept.tensor)
    if rows == 3:  # A is both examples, A2 the second
        assert cell_tokens("A", hw, rows)[64:] == whole.sel(query="A2").query.tolist()


def test_pixels_and_boxes_pick_the_tokens_they_touch(everything):
    m = everything[1][FINE]  # 16 x 16 tokens on 128 x 128 pixels, 8 pixels each
    assert m.sel(query=(0, 0)).query.tolist() == [0]
    assert m.sel(query=(127, 8)).query.tolist() == [31]
    assert m.sel(key=(8, 0, 24, 9)).key.tolist() == [1, 2, 17, 18]
    assert m.sel(query="B'").grid("query").shape[-2:] == (8, 8)


def test_every_nth_step_counts_from_the_first_or_from_start(tiny_unet):
    for steps, expected in ((every(2), (0, 2)), (every(2, start=1), (1,)), (every(5), (0,)), (-1, (2,)), (range(1, 3), (1, 2))):
        assert make_plan(Capture(FINE, steps=steps), tiny_unet, shape()).items[0].steps == expected


def test_layers_and_layer_numbers_name_blocks(tiny_unet):
    plan = make_plan(Capture("9.self:probs"), tiny_unet, shape())
    assert [item.name for item in plan.items] == ["up.1.attn.2.self:probs"]
    plan = make_plan(Capture("*.cross:probs", layers=range(3, 6)), tiny_unet, shape())
    assert [item.site.layer for item in plan.items] == [3, 4, 5]
    assert len(make_plan("10:*", tiny_unet, shape()).items) == 24  # ten points of each attention, four of the feed-forward


def test_words_pick_text_columns_branch_by_branch(tiny_unet, everything):
    name = "up.3.attn.0.cross:probs"
    whole = everything[1][name].tensor
    kept = sample(tiny_unet, shape(), Capture(name, words="a"), attention="explicit")[1].maps[name]
    assert kept.coords["branch"] == ("text",)
    assert torch.equal(kept.tensor, whole[:, [1]][..., [1, 3]])
    both = sample(tiny_unet, shape(), Capture(name, words="cat", branches=[0, 1]), attention="explicit")[1].maps[name]
    assert torch.equal(both.tensor[:, 0], whole[:, 0][..., [1]]) and torch.equal(both.tensor[:, 1], whole[:, 1][..., [2]])
    assert torch.equal(everything[1][name].sel(branch="text", key="hat").tensor, whole[:, 1][..., [4]])


def test_a_number_selects_the_same_text_column_whichever_columns_were_captured(tiny_unet, everything):
    """The prompt is "a cat a hat": cat is column 2, hat is column 4. Beside the whole map, indexed by hand."""
    name = "up.3.attn.0.cross:probs"
    whole = everything[1][name]
    some = sample(tiny_unet, shape(), Capture(name, words=["cat", "hat"]), attention="explicit")[1].maps[name]
    for m in (whole.sel(branch=["text"]), some, whole.sel(branch=["text"], key=["cat", "hat"])):
        for column, word in ((2, "cat"), (4, "hat")):
            expected = whole.tensor[:, [1]][..., column]
            one = m.sel(key=column)
            assert one.axes == m.axes[:-1] and torch.equal(one.tensor, expected) and one.columns == {"text": (column,)}
            for kept in ([column], word, [word]):
                assert m.sel(key=kept).axes == m.axes and torch.equal(m.sel(key=kept).tensor[..., 0], expected)
        assert torch.equal(m.sel(key=["hat", 2]).tensor, whole.tensor[:, [1]][..., [2, 4]])
    for column in (0, 1, 3):
        for key in (column, [2, column]):
            with pytest.raises(ValueError, match=rf"its text columns \[{column}\] were not captured .*holds 2, 4 of the text prompt"):
                some.sel(key=key)
    for key, message in ((7, "token column 7: allowed are 0..6"), (-1, "token column -1"), ([], "empty list"), (True, "word True")):
        with pytest.raises(ValueError, match=message):
            some.sel(key=key)


def test_text_columns_that_differ_from_branch_to_branch_are_never_mixed(tiny_unet, everything):
    """cat is column 1 of the negative prompt "cat bad" and column 2 of "a cat a hat"."""
    name = "up.3.attn.0.cross:probs"
    whole = everything[1][name].tensor
    both = sample(tiny_unet, shape(), Capture(name, words="cat", branches=[0, 1]), attention="explicit")[1].maps[name]
    cat = both.sel(key="cat")
    assert torch.equal(cat.tensor[:, 0], whole[:, 0][..., [1]]) and torch.equal(cat.tensor[:, 1], whole[:, 1][..., [2]])
    for column, branch in ((1, 0), (2, 1)):
        with pytest.raises(ValueError, match="were not captured"):
            both.sel(key=column)  # the other branch does not hold it
        assert torch.equal(both.sel(branch=branch, key=column).tensor, whole[:, branch][..., column])
    with pytest.raises(ValueError, match="select a branch first"):
        everything[1][name].sel(key="cat")


# --- reductions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("map_bytes", [SLICED, WHOLE])
def test_mean_over_heads_and_over_steps(tiny_unet, everything, map_bytes):
    whole = everything[1][FINE].tensor

    def kept(*reduce):
        maps = sample(tiny_unet, shape(), Capture(FINE, reduce=reduce), attention="explicit", map_bytes=map_bytes)[1].maps
        return maps[FINE].tensor

    running = 0.75 * (0.75 * whole[0] + 0.25 * whole[1]) + 0.25 * whole[2]
    for found, expected in (
        (kept("mean_heads"), whole.mean(3)),
        (kept("sum_steps"), whole.sum(0)),
        (kept("mean_heads", "mean_steps"), whole.mean((0, 3))),
        (kept(RunningMean(0.75)), running),
    ):
        assert found.shape == expected.shape and relative(found, expected) < (1e-6 if map_bytes == WHOLE else ROUNDING)


def test_region_totals_equal_sums_over_cells(tiny_unet, everything):
    for name in (FINE, "mid.0.attn.0.self:probs"):
        m = everything[1][name]
        kept = sample(tiny_unet, shape(), Capture(name, reduce="regions"), attention="explicit", map_bytes=SLICED)[1].maps[name]
        assert kept.axes[-2:] == ("query_region", "key_region")
        for i, query in enumerate(REGIONS):
            for j, key in enumerate(REGIONS):
                block = m.tensor[..., cell_tokens(query, m.hw), :][..., cell_tokens(key, m.hw)]
                torch.testing.assert_close(kept.tensor[..., i, j], block.sum(-1).mean(-1))
        torch.testing.assert_close(kept.tensor.sum(-1), torch.ones(kept.shape[:-1]))
    cross = "up.2.attn.0.cross:probs"
    kept = sample(tiny_unet, shape(), Capture(cross, reduce=["mean_heads", "regions"]), attention="explicit")[1].maps[cross]
    m = everything[1][cross]
    torch.testing.assert_close(kept.tensor[..., 3, :], m.tensor[..., cell_tokens("B'", m.hw), :].mean((3, 4)))


def test_top_keys_are_the_greatest_with_their_tokens(tiny_unet, everything):
    kept = sample(tiny_unet, shape(), Capture(FINE, key="A'", reduce=TopK(3)), attention="explicit", map_bytes=SLICED)[1].maps[FINE]
    whole = everything[1][FINE].tensor
    inside = set(cell_tokens("A'", (16, 16)))
    assert set(kept.index.unique().tolist()) <= inside
    assert alike(whole.gather(-1, kept.index.long()), kept.tensor)
    best = whole[..., sorted(inside)].sort(-1, descending=True).values[..., :3]
    assert alike(kept.tensor, best)


def test_a_users_function_sees_all_heads_and_names_its_axes(tiny_unet, everything):
    def strongest(tensor, at):
        assert tensor.shape[2] == at.site.heads
        return tensor.amax(dim=(2, 4))

    request = Capture(FINE, reduce=Function(strongest, axes=("query",)))
    kept = sample(tiny_unet, shape(), request, attention="explicit", map_bytes=SLICED)[1].maps[FINE]
    assert kept.axes == ("step", "branch", "image", "query")
    assert alike(kept.tensor, everything[1][FINE].tensor.amax(dim=(3, 5)))
    bare = sample(tiny_unet, shape(), Capture(FINE, reduce=lambda t, at: float(t.sum()) * t), attention="explicit")[1].maps[FINE]
    assert bare.axes[-3:] == ("head", "query", "key")  # .item() can't run while planning on a tensor without values
    with pytest.raises(ValueError, match="returned NoneType, not a tensor"):
        make_plan(Capture(FINE, reduce=lambda t, at: None), tiny_unet, shape())


# --- plan and memory -------------------------------------------------------------------------------

REQUESTS = [
    Capture("*"),
    Capture("*:scores", "*:logits", dtype=torch.float16),
    Capture("up.*.self:probs", query="B'", key=(10, 10, 70, 33), steps=every(2)),
    Capture("*.self:probs", reduce="regions"),
    Capture("*.self:probs", reduce=["mean_heads", "mean_steps"]),
    Capture("*.cross:probs", words=["cat", "hat"], heads=0),
    Capture("*.self:probs", reduce=TopK(4), heads=[1]),
    Capture("*.block:*", query="A"),
    Capture("*:probs", reduce=lambda t, at: t.amax(-1)),
]


@pytest.mark.parametrize("number", range(len(REQUESTS)))
def test_planned_bytes_equal_kept_bytes(tiny_unet, number):
    run = shape(images=1)
    _, tap = sample(tiny_unet, run, REQUESTS[number])
    plan = make_plan(REQUESTS[number], tiny_unet, run)
    assert plan.bytes == tap.maps.nbytes > 0
    assert {row["name"]: (row["axes"], row["shape"]) for row in plan.rows()} == {n: (m.axes, m.shape) for n, m in tap.maps.items()}
    assert "total" in str(plan)


def test_too_large_a_capture_raises_before_any_unet_call(tiny_unet):
    request = Capture("*.self:probs", max_bytes=100_000)
    with pytest.raises(CaptureTooLarge) as caught:
        sample(None, shape(), tap=StudyTap(request, None, tiny_unet, shape()))
    message = str(caught.value)
    assert all(word in message for word in ("max_bytes is 97.66 KiB", "steps=every(10)", "spill="))
    assert sum(f"{site}:probs" in message for site in tiny_unet.sites) == 3
    assert "down.0.attn.0.self:probs 6 MiB" in message  # 3 steps, 2 branches, 2 images, 2 heads, 256 x 256 float32


# --- spill, save, load -----------------------------------------------------------------------------


@pytest.mark.parametrize("map_bytes", [SLICED, WHOLE])
def test_spilled_maps_equal_those_in_memory_and_are_plain_safetensors(tiny_unet, everything, tmp_path, map_bytes):
    request = Capture("*", spill=tmp_path / "maps")
    eps, tap = sample(tiny_unet, shape(), request, attention="explicit", map_bytes=map_bytes)
    tap.close()
    assert alike(eps, everything[0], map_bytes)
    spilled, loaded = tap.maps, Maps.load(tmp_path / "maps")
    assert set(loaded) == set(spilled) == set(everything[1])
    for name, m in everything[1].items():
        assert alike(spilled[name].tensor, m.tensor, map_bytes) and torch.equal(loaded[name].tensor, spilled[name].tensor)
        assert (loaded[name].axes, loaded[name].coords, loaded[name].site) == (m.axes, m.coords, m.site)
    plain = load_file(tmp_path / "maps" / (FINE.replace(":", ".") + ".safetensors"))
    assert torch.equal(plain[FINE], spilled[FINE].tensor)
    assert not list((tmp_path / "maps").glob("*.part"))


def test_spilled_bytes_equal_planned_bytes_and_top_k_spills_its_keys(tiny_unet, tmp_path):
    request = Capture("*.self:probs", reduce=TopK(2), spill=tmp_path)
    _, tap = sample(tiny_unet, shape(), request)
    assert tap.maps.nbytes == tap.plan.bytes
    del tap  # completes its files without being closed
    in_memory = sample(tiny_unet, shape(), Capture("*.self:probs", reduce=TopK(2)))[1].maps
    loaded = Maps.load(tmp_path)
    assert all(torch.equal(loaded[name].index, m.index) for name, m in in_memory.items())


def test_after_an_interrupt_complete_steps_are_kept(tiny_unet, everything, tmp_path):
    def interrupt(tensor, at):
        if at.step == 2:
            raise KeyboardInterrupt
        return tensor

    for spill in (None, tmp_path / "cut"):
        tap = StudyTap(Capture("*:probs", spill=spill), {"up.1.attn.0.cross:v": interrupt}, tiny_unet, shape())
        with pytest.raises(KeyboardInterrupt):
            sample(tiny_unet, shape(), tap=tap, attention="explicit")
        tap.close()
        assert tap.maps["up.3.attn.2.self:probs"].steps == (0, 1)
        assert tap.maps["down.0.attn.0.self:probs"].steps == (0, 1, 2)
        for name, m in tap.maps.items():
            assert torch.equal(m.tensor, everything[1][name].tensor[: len(m.steps)])
    loaded = Maps.load(tmp_path / "cut")
    assert loaded["up.3.attn.2.self:probs"].steps == (0, 1)
    assert torch.equal(loaded[FINE].tensor, everything[1][FINE].tensor[:2])


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_steps_are_kept_in_the_places_that_are_read_even_if_the_first_never_came(tiny_unet, tmp_path, where):
    """A map of random numbers per step, sent by hand in steps 1 and 2 of 3, by head."""
    capture = Capture("9.self:probs", branches="text", spill=tmp_path / "maps" if where == "disk" else None)
    run, site = shape(images=1), next(site for site in tiny_unet.sites if site.name == "up.1.attn.2.self")
    tap = StudyTap(capture, None, tiny_unet, run)
    sent = torch.randn(3, 2, site.heads, 16, 16, generator=torch.Generator().manual_seed(0))
    for step in (1, 2):
        for head in range(site.heads):
            tap(sent[step][:, [head]], At(site, "probs", step, TIMES[step], (4, 4), branches=2, images=1, heads=range(head, head + 1)))
    m = tap.maps["up.1.attn.2.self:probs"]
    assert m.steps == (1, 2) and torch.equal(m.tensor[:, 0], sent[1:, [1]])
    assert torch.equal(tap.step_maps(2)[m.name].tensor[0, 0], sent[2, [1]])
    if where == "disk":
        tap.close()
        assert torch.equal(Maps.load(tmp_path / "maps")[m.name].tensor[:, 0], sent[1:, [1]])


def test_a_disk_that_fills_costs_only_the_maps(tmp_path):
    """In a process of its own, whose files may not grow over 2.5 MiB."""
    script = textwrap.dedent(f"""
        import resource, warnings, torch
        from analogist.attention.capture.capture import Capture
        from analogist.attention.capture.maps import Maps
        from tests.small import small_unet
        from tests.study_runs import sample, shape
        unet = small_unet()
        plain, _ = sample(unet, shape(images=1), attention="explicit")
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20 * 5 // 2, 2**20 * 5 // 2))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            eps, tap = sample(unet, shape(images=1), Capture("*.self:probs", spill={str(tmp_path)!r}), attention="explicit")
        tap.close()
        assert torch.equal(eps, plain)
        lost = tap.maps.lost
        finest = [site for site in unet.sites if site.kind == "self" and site.stride == 1]  # 1 MiB a step
        assert set(lost) == {{f"{{site}}:probs" for site in finest}}, lost
        assert "File too large" in lost[{FINE!r}] and "2 of 3 steps are kept" in lost[{FINE!r}]
        assert len(said) == len(lost) == 5 and "2 steps are kept" in str(said[0].message)
        assert tap.maps[{FINE!r}].steps == (0, 1)
        assert Maps.load({str(tmp_path)!r})[{FINE!r}].steps == (0, 1)
        assert tap.maps["up.1.attn.0.self:probs"].steps == (0, 1, 2)
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stderr


def test_two_runs_cannot_spill_into_one_folder(tiny_unet, tmp_path):
    request = Capture("9.self:probs", spill=tmp_path)
    first = StudyTap(request, None, tiny_unet, shape())
    with pytest.raises(ValueError, match="being written by another run"):
        StudyTap(request, None, tiny_unet, shape())
    sample(tiny_unet, shape(), tap=first)
    first.close()
    with pytest.raises(ValueError, match="already exists; give every run its own folder"):
        StudyTap(request, None, tiny_unet, shape())
    assert len(Maps.load(tmp_path)) == 1


def test_a_run_that_never_started_leaves_no_file(tiny_unet, tmp_path):
    tap = StudyTap(Capture("*:probs", spill=tmp_path), None, tiny_unet, shape())
    del tap
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_an_error_before_the_run(tiny_unet, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(CaptureTooLarge, match="has 1 B free"):
        StudyTap(Capture("9.self:probs", spill=tmp_path), None, tiny_unet, shape())
    blocked = tmp_path / "file"
    blocked.write_text("x")
    with pytest.raises(ValueError, match="cannot be created"):
        StudyTap(Capture("9.self:probs", spill=blocked / "below"), None, tiny_unet, shape())


def test_maps_save_and_load_with_their_words(tiny_unet, tmp_path):
    requests = [Capture("9:probs"), Capture("9.self:probs", reduce=TopK(2), label="top"), Capture("8.cross:probs", words="cat")]
    maps = sample(tiny_unet, shape(), requests)[1].maps
    maps.save(tmp_path / "maps.safetensors")
    loaded = Maps.load(tmp_path / "maps.safetensors")
    assert list(loaded) == list(maps) and "up.1.attn.2.self:probs@top" in loaded
    for name, m in maps.items():
        assert torch.equal(loaded[name].tensor, m.tensor) and loaded[name].coords == m.coords and loaded[name].reduced == m.reduced
    name = "up.1.attn.2.cross:probs"
    assert torch.equal(loaded[name].sel(branch="text", key="hat").tensor, maps[name].sel(branch="text", key="hat").tensor)
    assert loaded[name].tokens["text"] == ("<start>", "a", "cat", "a", "hat", "<end>")
    with pytest.raises(ValueError, match="text prompt: the word 'dog' is not among those that the file of this map lists: a, cat, hat"):
        loaded[name].sel(branch="text", key="dog")
    maps[name].save(tmp_path / "one.safetensors")
    assert torch.equal(AttentionMap.load(tmp_path / "one.safetensors").tensor, maps[name].tensor)


def test_files_that_are_no_maps_are_refused_and_failed_saves_leave_nothing(tiny_unet, tmp_path):
    maps = sample(tiny_unet, shape(images=1), "9:probs", stop=1)[1].maps
    with pytest.raises(ValueError, match="could not be saved"):
        maps.save(tmp_path / "nowhere" / "maps.safetensors")
    (tmp_path / "maps.safetensors").mkdir()
    with pytest.raises(ValueError, match="could not be saved"):
        maps.save(tmp_path / "maps.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["maps.safetensors"]
    (tmp_path / "broken").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="cannot be read as captured maps"):
        Maps.load(tmp_path / "broken")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no .safetensors file"):
        Maps.load(tmp_path / "empty")


# --- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Capture("up.9.*:probs"), "matches none of the"),
        (Capture("up.1.attn.0.self"), "add a point"),
        (Capture("16.self:probs"), "matches none of the"),
        (Capture("9.self:probs", layers=[3]), "matches no site in layers"),
        (Capture("9.self:probs", steps=3), "this run executes 3 steps"),
        (Capture("9.self:probs", steps=[]), "empty list selects nothing"),
        (Capture("9.self:probs", steps=every(2, start=5)), "this run executes 3 steps"),
        (Capture("9.self:probs", query=(0, 0, 129, 5)), "inside the picture of 128 x 128"),
        (Capture("9.self:probs", key=(128, 0)), "the picture is 128 x 128"),
        (Capture("9.self:probs", query="C"), "region 'C': allowed are A, A', B, B'"),
        (Capture("9.self:probs", query="A2"), "region 'A2'"),
        (Capture("9.self:probs", words="cat"), "words= selects text tokens"),
        (Capture("9.cross:probs", key="A"), "use words="),
        (Capture("9.cross:probs", words="dog"), "'dog' is not in"),
        (Capture("9.cross:probs", words=7), "allowed are 0..6"),
        (Capture("9.cross:probs", words="a", branches=[0, 1]), "is not in 'cat bad'"),
        (Capture("9.cross:probs", words=["cat", "<end>"], branches=["text", "negative"], label="x"), None),
        (Capture("9.self:probs", heads=4), "heads .4.: allowed are 0..3"),
        (Capture("9.self:probs", images=[2]), "images .2.: allowed are 0..1"),
        (Capture("9.self:x", heads=0), "heads= has no meaning"),
        (Capture("9.self:k", query="B"), "query= has no meaning"),
        (Capture("9.self:x", reduce="mean_heads"), "no head axis"),
        (Capture("9.self:v", reduce="regions"), "works only on maps"),
        (Capture("9.cross:probs", reduce=TopK(8)), "only 7 keys"),
        (Capture("9.self:probs", reduce="mean_steps", dtype=torch.float16), "kept in float32"),
        (["9.self:probs", Capture("*.self:probs")], "captured twice"),
    ],
)
def test_bad_requests_are_named_before_the_run(tiny_unet, request_, message):
    if message is None:
        StudyTap(request_, None, tiny_unet, shape())
        return
    with pytest.raises(ValueError, match=message):
        StudyTap(request_, None, tiny_unet, shape())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reduce": "median"}, "allowed are mean_heads"),
        ({"reduce": ["sum_steps", "mean_heads"]}, "must be the last"),
        ({"reduce": [TopK(2), "mean_steps"]}, "cannot be summed"),
        ({"reduce": "regions", "query": "B"}, "already covers all regions"),
        ({"reduce": "sum_steps", "spill": "x"}, "leave spill= out"),
        ({"dtype": torch.int8}, "allowed are"),
        ({"max_bytes": 0}, "at least 1"),
        ({"label": "a:b"}, "expected a short name"),
    ],
)
def test_requests_that_contradict_themselves_are_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        Capture("9.self:probs", **arguments)
    with pytest.raises(ValueError, match="at least one selector"):
        Capture()
    with pytest.raises(ValueError, match="at least 1"):
        every(0)
    with pytest.raises(ValueError, match="give a Capture"):
        StudyTap(3, None, None, shape())


def test_a_capture_read_before_it_ran_says_so(tiny_unet):
    request = Capture("9.self:probs")
    with pytest.raises(ValueError, match="holds no maps; run it"):
        request["up.1.attn.2.self:probs"]
    with pytest.raises(AttributeError, match="holds no maps; run it"):
        request.maps  # noqa: B018
    with pytest.raises(MapNotFound, match="nothing was captured"):
        StudyTap(request, None, tiny_unet, shape()).maps["up.1.attn.2.self:probs"]
    with pytest.raises(MapNotFound, match="such as up.1.attn.2.self:probs"):
        sample(tiny_unet, shape(), request)[1].maps["up.1.attn.2:probs"]


def test_a_request_serves_any_number_of_runs_but_a_tap_only_one(tiny_unet):
    request = Capture("9.self:probs")
    first, tap = sample(tiny_unet, shape(), request)
    second, other = sample(tiny_unet, shape(), request)
    assert torch.equal(first, second)
    with pytest.raises(ValueError, match="a tap is for one run"):
        sample(tiny_unet, shape(), tap=tap)
    assert torch.equal(tap.maps["up.1.attn.2.self:probs"].tensor, other.maps["up.1.attn.2.self:probs"].tensor)
    assert pickle.loads(pickle.dumps(request)) == request


def test_selecting_what_was_not_captured_is_an_error(tiny_unet):
    m = sample(tiny_unet, shape(), Capture("9.self:probs", query="B'", steps=[0, 2], heads=[1]))[1].maps["up.1.attn.2.self:probs"]
    for choice, message in [
        ({"step": 1}, "holds step 0, 2"),
        ({"head": 0}, "holds head 1"),
        ({"query": "B"}, "does not contain all of it"),
        ({"branch": "both"}, "holds branch 'negative', 'text'"),
    ]:
        with pytest.raises(ValueError, match=message):
            m.sel(**choice)
    with pytest.raises(ValueError, match="no axis 'channel'"):
        m.mean("channel")
    with pytest.raises(ValueError, match="matches none of the 1 maps"):
        Maps({m.name: m}).select("down.*")


def test_step_maps_hold_one_step(tiny_unet, everything):
    tap = StudyTap([FINE, Capture("9.self:probs", reduce="mean_steps")], None, tiny_unet, shape())
    assert len(tap.step_maps(0)) == 0
    sample(tiny_unet, shape(), tap=tap, stop=2, attention="explicit")
    m = tap.step_maps(1)[FINE]
    assert m.steps == (1,) and torch.equal(m.sel(step=1).tensor, everything[1][FINE].tensor[1])
    mean = tap.maps["up.1.attn.2.self:probs"]
    torch.testing.assert_close(mean.tensor, everything[1]["up.1.attn.2.self:probs"].tensor[:2].mean(0))
    assert mean.axes[0] == "branch" and mean.steps == (0, 1)


def test_sites_that_nobody_looks_at_stay_in_the_fused_form(tiny_unet):
    tap = StudyTap(Capture("9.self:probs", steps=[1]), None, tiny_unet, shape())
    wanted = [(s.name, i) for s in tiny_unet.sites for i in range(3) for p in ("scores", "logits", "probs") if tap.wants(s, p, i)]
    assert wanted == [("up.1.attn.2.self", 1)]


def test_different_settings_by_image_are_captured_as_they_ran(tiny_unet):
    settings = [SAC(Placement("*")), None]
    run = shape()
    maps = sample(tiny_unet, run, ["9.self:scores", "9.self:logits"], sac=settings, cam=None)[1].maps
    scores, logits = (maps[f"up.1.attn.2.self:{point}"] for point in ("scores", "logits"))
    assert torch.equal(scores.sel(image=1).tensor, logits.sel(image=1).tensor)
    assert not torch.equal(scores.sel(image=0).tensor, logits.sel(image=0).tensor)
