"""Edits: what is changed acts on the very next line, everywhere asked for and nowhere else; ready edits against formulas."""

import numpy as np
import pytest
import torch
from diffusers.utils.torch_utils import apply_freeu

from analogist.attention.capture.capture import Capture
from analogist.attention.edit import edits as E
from analogist.attention.edit.bind import EditError
from analogist.attention.tap import StudyTap
from analogist.models.control import CAM, SAC, AttentionControl
from analogist.models.placement import Placement
from analogist.models.unet import UNet, UNetConfig
from tests.small import randomise, small_unet
from tests.study_runs import inputs, sample, shape

SELF, CROSS = "down.0.attn.0.self", "down.0.attn.0.cross"  # the first sites that run: their input is the same in every run
POINTS = ("x", "q", "k", "v", "scores", "logits", "probs", "head_out", "out")


@pytest.fixture(scope="module")
def plain(tiny_unet):
    return sample(tiny_unet, shape(), attention="explicit")[0]


def before_and_after(unet, name: str, edit, **run):
    """The tensor at a point in step 0, [branch image ...], without and with an edit there."""
    whole = Capture(name, steps=0)
    first = sample(unet, shape(), whole, stop=1, attention="explicit", **run)[1].maps[name].tensor[0]
    second = sample(unet, shape(), whole, {name: edit}, stop=1, attention="explicit", **run)[1].maps[name].tensor[0]
    return first, second


# --- the two-site toy: every point against a computation of its own ---------------------------------

TOY = UNetConfig(channels=(16,), layers_per_block=1, depth=(0,), mid_depth=1, heads=(2,), text_width=12, norm_groups=8)


def by_hand(unet: UNet, h: np.ndarray, text: np.ndarray, edit: dict) -> np.ndarray:
    """The toy's transformer in float64 NumPy, token by token sums. h: channel row col of its input; edit: (kind, point) -> function."""
    p = {name: value.double().numpy() for name, value in unet.mid.attn[0].state_dict().items()}

    def at(kind, point, value):
        return edit[kind, point](value) if (kind, point) in edit else value

    def linear(x, name):
        return x @ p[f"{name}.weight"].T + p.get(f"{name}.bias", 0)

    def layer_norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * p[f"{name}.weight"] + p[f"{name}.bias"]

    def attention(x, context, kind, name):
        x = at(kind, "x", x)
        context = x if kind == "self" else context
        read = {"q": x, "k": context, "v": context}
        q, k, v = (at(kind, n, linear(read[n], f"{name}.to_{n}").reshape(-1, 2, 8).transpose(1, 0, 2)) for n in "qkv")
        scores = at(kind, "scores", np.einsum("hqd,hkd->hqk", q, k) / np.sqrt(8))
        logits = at(kind, "logits", scores)
        e = np.exp(logits - logits.max(-1, keepdims=True))
        probs = at(kind, "probs", e / e.sum(-1, keepdims=True))
        head_out = at(kind, "head_out", np.einsum("hqk,hkd->hqd", probs, v))
        return at(kind, "out", linear(head_out.transpose(1, 0, 2).reshape(len(x), -1), f"{name}.to_out"))

    c, rows, cols = h.shape
    groups = h.reshape(8, -1)
    normed = (groups - groups.mean(1, keepdims=True)) / np.sqrt(groups.var(1, keepdims=True) + 1e-6)
    normed = normed.reshape(c, -1).T * p["norm.weight"] + p["norm.bias"]
    x = linear(normed, "proj_in")
    x = x + attention(layer_norm(x, "blocks.0.norm1"), None, "self", "blocks.0.self")
    x = x + attention(layer_norm(x, "blocks.0.norm2"), text, "cross", "blocks.0.cross")
    value, gate = np.split(linear(layer_norm(x, "blocks.0.norm3"), "blocks.0.ff.proj_in"), 2, axis=-1)
    gate = torch.nn.functional.gelu(torch.from_numpy(gate)).numpy()
    x = x + linear(value * gate, "blocks.0.ff.proj_out")
    return h + linear(x, "proj_out").T.reshape(h.shape)


@pytest.mark.parametrize("kind", ["self", "cross"])
@pytest.mark.parametrize("point", POINTS)
def test_an_edit_at_each_point_gives_what_a_computation_by_hand_gives(kind, point):
    unet, run = randomise(UNet(TOY), 0, 2.0), shape(images=1, branches=1, hw=(4, 4), steps=1)
    assert [site.name for site in unet.sites] == ["mid.0.attn.0.self", "mid.0.attn.0.cross"]
    x, text = inputs(unet, run)

    def change(value):
        return 1.3 * value + 0.2 * value**2 - 0.1

    edits = {f"mid.0.attn.0.{kind}:{point}": lambda tensor, at: change(tensor)}
    block = ["mid.0.attn.0.block:x", "mid.0.attn.0.block:out"]
    edited = sample(unet, run, block, edits, x=x, text=text, sac=None, cam=None)[1].maps
    plain = sample(unet, run, block, x=x, text=text, sac=None, cam=None)[1].maps
    h = edited[block[0]].tensor[0, 0, 0].double().numpy()
    words = text[0].double().numpy()
    expected = by_hand(unet, h, words, {(kind, point): change})
    got = edited[block[1]].tensor[0, 0, 0].double().numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    without = by_hand(unet, h, words, {})
    np.testing.assert_allclose(plain[block[1]].tensor[0, 0, 0].double().numpy(), without, rtol=1e-4, atol=1e-5)
    assert np.abs(expected - without).max() > 1e-3  # the edit did something


@pytest.mark.parametrize("point", POINTS)
def test_an_edit_at_every_point_of_every_site_changes_the_result(tiny_unet, point):
    """Image k is edited at site k alone, so that one run shows all sites."""
    run = shape(images=len(tiny_unet.sites), branches=1, steps=1)

    def only(image):
        def change(tensor, at):
            out = tensor.clone()
            out[image] = out[image] * 1.5 + 0.1 * torch.arange(tensor.shape[-1])
            return out

        return change

    base = sample(tiny_unet, run, attention="explicit", sac=None, cam=None)[0]
    edit = {f"{site}:{point}": only(k) for k, site in enumerate(tiny_unet.sites)}
    edited = sample(tiny_unet, run, edit=edit, attention="explicit", sac=None, cam=None)[0]
    for k, site in enumerate(tiny_unet.sites):
        assert not torch.allclose(edited[k], base[k], atol=1e-4), site


# --- how edits are bound ---------------------------------------------------------------------------


def test_zeroed_probabilities_leave_the_bias_of_the_output_projection(tiny_unet):
    name = "up.2.attn.1"
    edit = {f"{name}.*:probs": E.scale(0.0)}
    maps = sample(tiny_unet, shape(), [f"{name}.self:out", f"{name}.cross:out"], edit)[1].maps
    block = tiny_unet.up[2].attn[1].blocks[0]
    for kind, module in (("self", block.self), ("cross", block.cross)):
        out = maps[f"{name}.{kind}:out"].tensor
        torch.testing.assert_close(out, module.to_out.bias.expand_as(out))


def test_ablating_a_head_equals_zeroing_its_columns_of_the_output_projection(tiny_unet):
    edit = {"9.self:head_out": E.ablate_heads(2)}
    ablated = sample(tiny_unet, shape(), edit=edit)[0]
    changed = small_unet()
    with torch.no_grad():
        changed.up[1].attn[2].blocks[0].self.to_out.weight[:, 16:24] = 0  # head 2 of width 8
    torch.testing.assert_close(ablated, sample(changed, shape())[0])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda tensor, at: None, "returned nothing; return the tensor"),
        (lambda tensor, at: 3, "returned int"),
        (lambda tensor, at: tensor[:1], "the shape must stay"),
        (lambda tensor, at: tensor.double(), "it must stay torch.float32"),
    ],
)
def test_an_edit_that_returns_something_else_is_an_error_that_names_the_site(tiny_unet, edit, message):
    with pytest.raises(EditError, match=rf"up.1.attn.0.self:logits, step 0.*{message}"):
        sample(tiny_unet, shape(), edit={"up.1.attn.0.self:logits": edit})


def test_an_exception_in_an_edit_names_its_place_and_leaves_no_trace_in_the_next_run(tiny_unet, plain):
    def broken(tensor, at):
        raise ZeroDivisionError("here")

    with pytest.raises(ZeroDivisionError) as caught:
        sample(tiny_unet, shape(), "*", {"mid.*:v": broken})
    assert caught.value.__notes__ == ["in the edit 'mid.*:v' at mid.0.attn.0.self:v, step 0"]
    assert torch.equal(sample(tiny_unet, shape(), attention="explicit")[0], plain)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"up.1.*.slef:logits": E.scale(2)}, "matches none of the"),
        ({"9.self:logits": 3}, "is not a function"),
        ({3: E.scale(2)}, "is not text"),
        (E.scale(2), "give a mapping from selectors"),
        ({"9.self:*": E.temperature(2)}, "works at scores, logits, not at up.1.attn.2.self:stream; narrow the selector"),
        ({"9.*:probs": E.reweight_word("cat", 2)}, "probs of cross attention, not at"),
        ({"9.cross:probs": E.reweight_word("dog", 2)}, "'dog' is not in"),
        ({"9.self:v": E.scale(2, heads=4)}, "heads .4."),
        ({"9.self:x": E.scale(2, heads=1)}, "no head axis"),
        ({"9.self:v": E.scale(2, steps=[3])}, "this run executes 3 steps"),
        ({"9.self:v": E.scale(2, branches="both")}, "this run has"),
        ({"9.self:v": E.scale(2, images=2)}, "images .2."),
        ({"9.self:k": E.share_keys(2)}, "images 0..1"),
    ],
)
def test_edits_that_have_no_place_are_errors_before_the_run(tiny_unet, edit, message):
    with pytest.raises(ValueError, match=message):
        StudyTap(None, edit, tiny_unet, shape())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: E.temperature(0), "greater than 0"),
        (lambda: E.scale(float("nan")), "a finite number"),
        (lambda: E.blur_rows(-1), "of at least 0"),
        (lambda: E.ablate_heads(0, by="noise"), "'zero' and 'mean'"),
        (lambda: E.sac(SAC(stage="probs")), "before the softmax"),
        (lambda: E.share_keys(0, images=1), "leave images= out"),
        (lambda: E.scale(2.0)(torch.zeros(1), None), "acts inside a run"),
    ],
)
def test_ready_edits_refuse_bad_numbers_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_edits_of_one_selector_act_in_order_and_before_captures(tiny_unet):
    first, second = before_and_after(tiny_unet, f"{SELF}:v", [E.scale(2.0), lambda tensor, at: tensor + 1])
    torch.testing.assert_close(second, 2 * first + 1)


def test_an_edit_acts_only_at_its_steps_branches_images_and_heads(tiny_unet):
    edit = E.scale(3.0, branches="text", images=[1], heads=[0])
    first, second = before_and_after(tiny_unet, f"{SELF}:v", edit)
    expected = first.clone()
    expected[1, 1, 0] *= 3
    assert torch.equal(second, expected)
    name = f"{SELF}:v"  # captured in every step, edited in one
    once = sample(tiny_unet, shape(), name, {name: E.scale(2.0, steps=[1])}, stop=2)[1].maps[name].tensor
    plain = sample(tiny_unet, shape(), name, stop=2)[1].maps[name].tensor
    assert torch.equal(once[0], plain[0]) and torch.equal(once[1], 2 * plain[1])
    tap = StudyTap(None, {"*:probs": E.scale(2.0, steps=[1])}, tiny_unet, shape())
    assert [tap.wants(site, "probs", step) for site in tiny_unet.sites[:1] for step in range(3)] == [False, True, False]


def test_an_edit_in_place_at_a_block_does_not_reach_the_skips(tiny_unet):
    skip = "up.2.res.2.block:skip"  # the tensor that enters down.1.res.0

    def wipe(tensor, at):
        return tensor.zero_()

    maps = sample(tiny_unet, shape(), [skip, "down.1.res.0.block:x"], {"down.1.res.0.block:x": wipe}, stop=1)[1].maps
    plain = sample(tiny_unet, shape(), [skip, "down.1.res.0.block:x"], stop=1)[1].maps
    assert torch.equal(plain[skip].tensor, plain["down.1.res.0.block:x"].tensor)
    assert (maps["down.1.res.0.block:x"].tensor == 0).all()
    assert torch.equal(maps[skip].tensor, plain[skip].tensor)


# --- ready edits against formulas ------------------------------------------------------------------


def test_sac_and_cam_as_edits_equal_the_built_in_ones(tiny_unet, plain):
    edited = sample(tiny_unet, shape(), edit={"*.self:logits": E.sac(), "*.cross:probs": E.cam()}, sac=None, cam=None, attention="explicit")
    torch.testing.assert_close(edited[0], plain, rtol=1e-5, atol=1e-6)
    setting = SAC(Placement("*"), scale=0.7, mirror=False)
    silence = CAM(Placement("*"), silence=("B",))
    run = shape(images=1, hw=(24, 16), rows=3)
    built_in = sample(tiny_unet, run, sac=setting, cam=silence, stop=1, attention="explicit")[0]
    edit = {"*.self:logits": E.sac(setting), "*.cross:probs": E.cam(silence)}
    torch.testing.assert_close(sample(tiny_unet, run, edit=edit, sac=None, cam=None, stop=1)[0], built_in, rtol=1e-5, atol=1e-6)


def test_blocks_that_are_both_read_and_written_are_read_first(tiny_unet):
    swapped = SAC(Placement("*"), scale=1.0, clone=(("A", "B'"), ("B'", "A")))  # with its mirror: the two blocks change places
    built_in = sample(tiny_unet, shape(), sac=swapped, cam=None, stop=1, attention="explicit")[0]
    as_edit = sample(tiny_unet, shape(), edit={"*.self:logits": E.sac(swapped)}, sac=None, cam=None, stop=1, attention="explicit")[0]
    torch.testing.assert_close(as_edit, built_in, rtol=1e-5, atol=1e-6)
    first, second = before_and_after(tiny_unet, f"{SELF}:logits", E.sac(swapped))
    a, b_prime = quadrant("A"), quadrant("B'")
    assert torch.equal(second[..., a[:, None], b_prime[None]], first[..., b_prime[:, None], a[None]])
    assert torch.equal(second[..., b_prime[:, None], a[None]], first[..., a[:, None], b_prime[None]])


def quadrant(region: str) -> torch.Tensor:
    """Tokens of a region on a 16 x 16 map."""
    tokens = torch.arange(256).reshape(16, 16)
    return tokens[slice(8, 16) if "B" in region else slice(8), slice(8, 16) if "'" in region else slice(8)].flatten()


def test_blocks_are_scaled_zeroed_and_cut_from_region_to_region(tiny_unet):
    rows, columns = quadrant("B'")[:, None], quadrant("A")[None]
    first, second = before_and_after(tiny_unet, f"{SELF}:logits", E.scale_block("B'", "A", 2.5))
    expected = first.clone()
    expected[..., rows, columns] *= 2.5
    assert torch.equal(second, expected)
    first, second = before_and_after(tiny_unet, f"{SELF}:probs", E.zero_block("B'", "A", heads=1))
    expected = first.clone()
    expected[:, :, 1, rows, columns] = 0
    assert torch.equal(second, expected)
    first, second = before_and_after(tiny_unet, f"{CROSS}:probs", E.zero_block("A'"), cam=None)
    expected = first.clone()
    expected[..., quadrant("A'"), :] = 0
    assert torch.equal(second, expected)
    name = f"{SELF}:probs"
    cut = sample(tiny_unet, shape(), name, {f"{SELF}:logits": E.cut_block("B'", "A")}, stop=1)[1].maps[name].tensor[0]
    whole = sample(tiny_unet, shape(), name, stop=1)[1].maps[name].tensor[0]
    assert (cut[..., rows, columns] == 0).all()
    whole[..., rows, columns] = 0
    torch.testing.assert_close(cut, whole / whole.sum(-1, keepdim=True))


def test_heads_are_swapped_averaged_and_ablated(tiny_unet):
    for point in ("v", "probs", "head_out"):
        first, second = before_and_after(tiny_unet, f"{SELF}:{point}", E.swap_heads(0, 1))
        assert torch.equal(second, first.flip(2))
        first, second = before_and_after(tiny_unet, f"{SELF}:{point}", E.average_heads())
        torch.testing.assert_close(second, first.mean(2, keepdim=True).expand_as(first))
    first, second = before_and_after(tiny_unet, f"{SELF}:head_out", E.ablate_heads(0, by="mean"))
    torch.testing.assert_close(second[:, :, 0], first[:, :, 0].mean(2, keepdim=True).expand_as(first[:, :, 0]))
    assert torch.equal(second[:, :, 1], first[:, :, 1])
    with pytest.raises(ValueError, match="has heads 0..1"):
        sample(tiny_unet, shape(), edit={f"{SELF}:v": E.swap_heads(0, 2)})


def test_temperature_divides_and_sharpening_equals_a_temperature_below_one(tiny_unet):
    first, second = before_and_after(tiny_unet, f"{SELF}:logits", E.temperature(4.0))
    torch.testing.assert_close(second, first / 4)
    probs = f"{SELF}:probs"
    cooled = sample(tiny_unet, shape(), probs, {f"{SELF}:logits": E.temperature(0.5)}, stop=1)[1].maps[probs].tensor
    sharpened = sample(tiny_unet, shape(), probs, {probs: E.sharpen_rows(2.0)}, stop=1)[1].maps[probs].tensor
    torch.testing.assert_close(sharpened, cooled, rtol=1e-4, atol=1e-7)
    _, silenced = before_and_after(tiny_unet, f"{CROSS}:probs", E.sharpen_rows(2.0))
    assert (silenced[..., quadrant("A"), :] == 0).all() and silenced.isfinite().all()


def test_blurred_rows_keep_their_sum_and_spread_as_a_gaussian(tiny_unet):
    first, second = before_and_after(tiny_unet, f"{SELF}:probs", E.blur_rows(1.5))
    torch.testing.assert_close(second.sum(-1), first.sum(-1))
    spread = torch.zeros(16, 16)
    for place in range(16):
        weights = torch.exp(-((torch.arange(16) - place) ** 2) / (2 * 1.5**2))
        spread[place] = weights / weights.sum()
    expected = torch.zeros(16, 16)
    row = first[1, 0, 1, 37].reshape(16, 16)
    for y in range(16):
        for x in range(16):
            expected += row[y, x] * torch.outer(spread[y], spread[x])
    torch.testing.assert_close(second[1, 0, 1, 37].reshape(16, 16), expected)


def test_a_word_is_reweighted_in_its_own_branch(tiny_unet):
    first, second = before_and_after(tiny_unet, f"{CROSS}:probs", E.reweight_word("a", 3.0), cam=None)
    expected = first.clone()
    expected[1][..., [1, 3]] *= 3  # "a cat a hat"
    assert torch.equal(second, expected)
    first, second = before_and_after(tiny_unet, f"{CROSS}:probs", E.reweight_word("cat", 0.0, branches=["negative", "text"]), cam=None)
    expected = first.clone()
    expected[0][..., 1] = 0  # "cat bad"
    expected[1][..., 2] = 0
    assert torch.equal(second, expected)


def test_all_images_share_the_keys_of_one(tiny_unet):
    first, second = before_and_after(tiny_unet, f"{SELF}:k", E.share_keys(1))
    assert torch.equal(second, first[:, 1:].expand_as(first))
    first, second = before_and_after(tiny_unet, f"{SELF}:v", E.share_keys(0, mix=0.25, branches="text"))
    assert torch.equal(second[0], first[0])
    torch.testing.assert_close(second[1, 1], 0.25 * first[1, 0] + 0.75 * first[1, 1])


def test_freeu_equals_diffusers(tiny_unet):
    numbers = {"b1": 1.4, "b2": 1.6, "s1": 0.9, "s2": 0.3}
    for level, name in ((0, "up.0.res.0.block"), (1, "up.1.res.1.block")):
        points = [f"{name}:x", f"{name}:skip"]
        ours = {key: value for key, value in E.freeu(**numbers).items() if key.startswith(f"up.{level}.")}
        ours = {f"{name}:{key.split(':')[1]}": value for key, value in ours.items()}  # at this block alone: the same input
        plain = sample(tiny_unet, shape(hw=(32, 32)), points, stop=1)[1].maps
        edited = sample(tiny_unet, shape(hw=(32, 32)), points, ours, stop=1)[1].maps
        hidden, skip = (plain[point].tensor.flatten(0, 2) for point in points)
        expected = apply_freeu(level, hidden.clone(), skip.clone(), **numbers)
        for point, value in zip(points, expected, strict=True):
            torch.testing.assert_close(edited[point].tensor.flatten(0, 2), value, rtol=1e-5, atol=1e-5)


# --- patching --------------------------------------------------------------------------------------


def other(unet):
    """Another text: the corrupted run."""
    return inputs(unet, shape(), seed=5)[1]


def test_a_patched_last_block_gives_the_clean_result(tiny_unet, plain):
    name = "up.3.attn.2.block:out"
    clean = sample(tiny_unet, shape(), name)[1].maps[name]
    text = other(tiny_unet)
    x, _ = inputs(tiny_unet, shape())
    corrupted = sample(tiny_unet, shape(), x=x, text=text)[0]
    patched = sample(tiny_unet, shape(), x=x, text=text, edit={name: E.patch(clean)})[0]
    fused = sample(tiny_unet, shape())[0]
    assert torch.equal(patched, fused) and not torch.allclose(corrupted, fused, atol=1e-3)


@pytest.mark.parametrize("point", ["x", "q", "k", "v", "scores", "logits", "probs", "head_out", "out"])
def test_a_patch_puts_back_what_was_captured_at_every_point(tiny_unet, point):
    name = f"up.1.attn.1.self:{point}"
    clean = sample(tiny_unet, shape(), name, attention="explicit")[1].maps[name]
    x, _ = inputs(tiny_unet, shape())
    patched = sample(tiny_unet, shape(), name, {name: E.patch(clean)}, x=x, text=other(tiny_unet), attention="explicit")
    assert torch.equal(patched[1].maps[name].tensor, clean.tensor)


def test_a_part_that_was_selected_is_all_that_is_patched(tiny_unet):
    name = f"{SELF}:probs"
    source = sample(tiny_unet, shape(), Capture(name), stop=2, attention="explicit")[1].maps[name]
    part = source.sel(step=1, branch="text", image=[1], head=1, query="B'", key="A'")
    first, second = before_and_after(tiny_unet, name, E.patch(part, steps=[0]))
    expected = first.clone()
    rows, columns = quadrant("B'")[:, None], quadrant("A'")[None]
    expected[1, 1, 1][rows, columns] = source.tensor[1, 1, 1, 1][rows, columns]
    assert torch.equal(second, expected) and not torch.equal(second, first)
    first, second = before_and_after(tiny_unet, name, E.patch(source.sel(step=1).mean("head"), steps=[0], weight=0.25))
    torch.testing.assert_close(second, 0.75 * first + 0.25 * source.tensor[1].mean(2, keepdim=True))
    name = "down.0.res.0.block:out"
    box = sample(tiny_unet, shape(), Capture(name, query="A'"), stop=2)[1].maps[name]
    first, second = before_and_after(tiny_unet, name, E.patch(box.sel(step=1), steps=[0]))
    expected = first.clone()
    expected[..., :8, 8:] = box.tensor[1]
    assert torch.equal(second, expected)


def test_a_patch_that_does_not_fit_is_an_error_before_the_run(tiny_unet):
    maps = sample(tiny_unet, shape(), ["9.self:probs", Capture("9.self:probs", reduce="regions", label="r")], stop=2)[1].maps
    m = maps["up.1.attn.2.self:probs"]
    for edit, message in [
        ({"8.self:logits": E.patch(m)}, "captured at the point probs"),
        ({f"{SELF}:probs": E.patch(m)}, "does not fit down.0.attn.0.self:probs"),
        ({"9.self:probs": E.patch(m, steps=[2])}, "holds steps .0, 1., not .2."),
    ]:
        with pytest.raises(ValueError, match=message):
            StudyTap(None, edit, tiny_unet, shape())
    with pytest.raises(ValueError, match="capture it without reduce="):
        E.patch(maps["up.1.attn.2.self:probs@r"])
    with pytest.raises(ValueError, match="images .1."):
        StudyTap(None, {"9.self:probs": E.patch(m)}, tiny_unet, shape(images=1))


# --- gradients -------------------------------------------------------------------------------------


def test_a_loss_on_attention_moves_the_latents_in_a_few_lines(tiny_unet):
    """Attend-and-Excite's step (Chefer et al. 2023, Eq. 3): raise the greatest attention to a word within B'."""
    run = shape(images=1, branches=1)
    x, text = inputs(tiny_unet, run)

    def loss_at(x):
        heard = []
        tap = StudyTap(None, {"9.cross:probs": lambda probs, at: heard.append(at.cells(probs)[1, 1][..., 2]) or probs}, tiny_unet, run)
        tiny_unet(x, 501, text, AttentionControl(t=501, branches=1, tap=tap))
        return 1 - heard[0].mean(1).amax()

    x.requires_grad_(True)
    loss = loss_at(x)
    (gradient,) = torch.autograd.grad(loss, x)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0
    assert loss_at(x.detach() - 0.5 * gradient).item() < loss.item()


def test_ready_edits_let_gradients_through(tiny_unet):
    run = shape(images=1, branches=1, steps=1)
    x, text = inputs(tiny_unet, run)
    edit = {
        "*.self:logits": [E.sac(), E.temperature(2.0)], "*.cross:probs": E.reweight_word("cat", 2.0),
        "9.self:head_out": E.ablate_heads(0), "8.self:probs": [E.blur_rows(1.0), E.sharpen_rows(1.5)], **E.freeu(),
    }  # fmt: skip
    x = x.requires_grad_(True)
    control = AttentionControl(branches=1, tap=StudyTap("*", edit, tiny_unet, run))
    tiny_unet(x, 801, text, control).square().mean().backward()
    assert x.grad.isfinite().all() and x.grad.abs().sum() > 0
