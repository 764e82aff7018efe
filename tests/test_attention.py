"""The attention modules: plain attention, slices of heads, number formats, and what a tap may do."""

import pytest
import torch
import torch.nn.functional as F

from analogist.models.attention import SelfAttention
from analogist.models.control import CAM, EVERYTHING, SAC, AttentionControl, Where, unseen
from analogist.models.placement import MAP_POINTS, POINTS, Placement, Site
from tests.small import Looking, cross_module, randomise, relative, self_module, tokens, unet_inputs

HW = (4, 6)
FORMS = ["explicit", "fused"]


@pytest.fixture
def text() -> torch.Tensor:
    return torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("attention", FORMS)
def test_attention_without_sac_and_cam_is_torchs_own(text: torch.Tensor, attention: str) -> None:
    control = AttentionControl(attention=attention)
    for module, x, context in ((self_module(), tokens(HW), tokens(HW)), (cross_module(), tokens(HW), text)):
        q, k, v = (
            F.linear(source, projection.weight).unflatten(-1, (2, 8)).transpose(1, 2)
            for source, projection in ((x, module.to_q), (context, module.to_k), (context, module.to_v))
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
        expected = F.linear(mixed, module.to_out.weight, module.to_out.bias)
        out = module(x, HW, control) if module.site.kind == "self" else module(x, module.keys_values(text), HW, control)
        assert relative(out, expected) < 1e-6


@pytest.mark.parametrize("heads_at_once", [1, 2, 3])
def test_slices_of_heads_give_what_all_heads_at_once_give(tiny_unet, heads_at_once: int) -> None:
    x, t, text = unet_inputs(hw=(16, 32))
    settings = {"t": t, "sac": SAC(), "cam": CAM(), "attention": "explicit"}
    whole = tiny_unet(x, t, text, AttentionControl(**settings))
    one_head = 2 * 512 * 512 * 4  # bytes of the largest map
    sliced = tiny_unet(x, t, text, AttentionControl(map_bytes=heads_at_once * one_head, **settings))
    assert relative(sliced, whole) < 1e-6  # the same products; their batching may change the order of sums


def test_no_map_tensor_is_larger_than_map_bytes_where_one_head_fits(tiny_unet) -> None:
    x, t, text = unet_inputs()
    sizes = []

    class Measuring(Looking):
        def __call__(self, tensor, at):
            sizes.append((tensor.nelement() * tensor.element_size(), len(at.heads), at.site.heads))
            return tensor

    one_head = 2 * 256 * 256 * 4
    look = Measuring(points=("probs",), together=False)
    tiny_unet(x, t, text, AttentionControl(t=t, tap=look, map_bytes=one_head))
    assert max(size for size, *_ in sizes) == one_head
    assert {heads for _, heads, of in sizes} > {1}


def test_a_tap_that_edits_across_heads_gets_all_heads_in_one_tensor() -> None:
    look = Looking(points=("probs",), together=True)
    self_module()(tokens(HW), HW, AttentionControl(tap=look, map_bytes=1))
    assert [(len(at.heads), at.site.heads) for at in look.places] == [(2, 2)]


@pytest.mark.parametrize("attention", FORMS)
def test_float16_stays_finite_where_the_unscaled_product_overflows(attention: str) -> None:
    """q . k of one head is up to 2.4e5, above float16's 65504; over sqrt(d) it is 4.3e4, and the softmax subtracts the largest."""
    module = randomise(SelfAttention(64, 2, 64), 7).half()
    module.site = self_module().site
    with torch.no_grad():
        module.to_q.weight *= 100
        module.to_k.weight *= 100
    x = tokens((8, 8), channels=64).half()
    q, k = module.split(module.to_q(x)).float(), module.split(module.to_k(x)).float()
    assert (q @ k.transpose(-1, -2)).abs().max() > 65504
    out = module(x, (8, 8), AttentionControl(attention=attention, sac=SAC()))
    assert out.dtype == torch.float16 and torch.isfinite(out).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("watched", [False, True])
def test_probabilities_of_half_precisions_are_those_of_float32_rounded_once(dtype: torch.dtype, watched: bool) -> None:
    logits = (8 * torch.randn(2, 2, 24, 3000, generator=torch.Generator().manual_seed(1))).to(dtype)
    expected = logits.float().softmax(-1).to(dtype)
    control = AttentionControl(tap=Looking() if watched else None)
    assert torch.equal(self_module().softmax(logits, control), expected)


@pytest.mark.parametrize("attention", FORMS)
def test_two_calls_give_the_same_bits(tiny_unet, attention: str) -> None:
    x, t, text = unet_inputs()
    control = AttentionControl(t=t, sac=SAC(), cam=CAM(), attention=attention)
    assert torch.equal(tiny_unet(x, t, text, control), tiny_unet(x, t, text, control))


def test_a_tap_that_looks_at_everything_changes_no_bit(tiny_unet) -> None:
    x, t, text = unet_inputs()
    settings = {"t": t, "sac": SAC(), "cam": CAM(), "attention": "explicit"}
    plain = tiny_unet(x, t, text, AttentionControl(**settings))
    assert torch.equal(tiny_unet(x, t, text, AttentionControl(tap=Looking(), **settings)), plain)


def test_a_tap_that_looks_without_needing_a_map_changes_no_bit_of_the_fused_form(tiny_unet) -> None:
    x, t, text = unet_inputs()
    settings = {"t": t, "sac": SAC(), "attention": "fused"}
    plain = tiny_unet(x, t, text, AttentionControl(**settings))
    look = Looking(points=tuple(point for point in (*POINTS, "skip") if point not in MAP_POINTS))
    assert torch.equal(tiny_unet(x, t, text, AttentionControl(tap=look, **settings)), plain)
    assert len(look.seen) > 32 * 6


def test_a_tensor_passes_the_points_in_their_order(text: torch.Tensor) -> None:
    for module, arguments in ((self_module(), ()), (cross_module(), (text,))):
        look = Looking()
        arguments = tuple(module.keys_values(text) for text in arguments)
        module(tokens(HW), *arguments, HW, AttentionControl(tap=look))
        assert ("stream", *look.order) == POINTS == module.site.points  # the stream is seen by the block around it


def test_every_point_has_the_axes_of_its_name(text: torch.Tensor) -> None:
    look = Looking()
    self_module()(tokens(HW), HW, AttentionControl(tap=look))
    cross = cross_module()
    cross(tokens(HW), cross.keys_values(text), HW, AttentionControl(tap=look))
    shapes = {key.removeprefix("down.2.attn.1."): tuple(tensor.shape) for key, tensor in look.seen.items()}
    for kind, keys in (("self", 24), ("cross", 7)):
        assert shapes[f"{kind}:x"] == shapes[f"{kind}:out"] == (2, 24, 16)
        assert shapes[f"{kind}:q"] == shapes[f"{kind}:head_out"] == (2, 2, 24, 8)
        assert shapes[f"{kind}:k"] == shapes[f"{kind}:v"] == (2, 2, keys, 8)
        assert shapes[f"{kind}:scores"] == shapes[f"{kind}:logits"] == shapes[f"{kind}:probs"] == (2, 2, 24, keys)


@pytest.mark.parametrize("point", POINTS[1:])
@pytest.mark.parametrize("kind", ["self", "cross"])
def test_an_edit_at_any_point_is_what_the_next_line_uses(text: torch.Tensor, kind: str, point: str) -> None:
    """Twice the tensor at x, q, v, ... has the effect that the formula says."""

    class Doubling(Looking):
        def __call__(self, tensor, at):
            return super().__call__(tensor, at) * (2 if at.point == point else 1)

    def run(tap, x):
        control = AttentionControl(tap=tap)
        return own(x, HW, control) if kind == "self" else cross(x, cross.keys_values(text), HW, control)

    own, cross, x = self_module(), cross_module(), tokens(HW)
    module, plain, edited = (own if kind == "self" else cross), Looking(), Doubling()
    out, changed = run(plain, x), run(edited, x)
    bias = module.to_out.bias
    if point == "x":
        assert torch.allclose(changed, run(Looking(), 2 * x), atol=1e-6)
    elif point in ("v", "probs", "head_out"):  # the head output is linear in these
        assert torch.allclose(changed - bias, 2 * (out - bias), atol=1e-5)
    elif point == "out":
        assert torch.equal(changed, 2 * out)
    else:  # q, k, scores, logits: the softmax of twice the scores
        probs = (2 * plain.at(module.site, "scores")).softmax(-1)
        assert torch.allclose(edited.at(module.site, "probs"), probs, atol=1e-6)
        assert not torch.allclose(changed, out, atol=1e-2)


def test_an_edit_in_place_of_the_texts_keys_is_gone_in_the_next_step(text: torch.Tensor) -> None:
    class Erasing(Looking):
        def __call__(self, tensor, at):
            return tensor.zero_()

    module, x = cross_module(), tokens(HW)
    kept = module.keys_values(text)
    before = module(x, kept, HW, AttentionControl())
    erased = module(x, kept, HW, AttentionControl(tap=Erasing(points=("k", "v"))))
    assert not torch.allclose(erased, before, atol=1e-2)
    assert torch.equal(module(x, kept, HW, AttentionControl()), before)


@pytest.mark.parametrize("point", ["scores", "logits"])
def test_a_tensor_that_an_edit_puts_in_place_is_never_written_into(point: str) -> None:
    given = torch.randn(2, 2, 24, 24, generator=torch.Generator().manual_seed(1))
    before = given.clone()

    class Replacing(Looking):
        def __call__(self, tensor, at):
            return given

    self_module()(tokens(HW), HW, AttentionControl(tap=Replacing(points=(point,)), sac=SAC()))
    assert torch.equal(given, before)


def test_auto_takes_the_map_in_hand_only_where_one_is_wanted(tiny_unet) -> None:
    look = Looking(points=("probs",), sites=("mid.0.attn.0.self",))
    control = AttentionControl(tap=look)
    explicit = [site.name for site in tiny_unet.sites if control.form_at(site) == "explicit"]
    assert explicit == ["mid.0.attn.0.self"]


@pytest.mark.parametrize("point", MAP_POINTS)
def test_asking_for_fused_where_a_map_is_wanted_is_an_error_that_names_the_site(tiny_unet, point: str) -> None:
    x, t, text = unet_inputs()
    look = Looking(points=(point,), sites=("up.1.attn.2.self",))
    with pytest.raises(ValueError, match=r"up\.1\.attn\.2\.self: attention='fused' holds no map"):
        tiny_unet(x, t, text, AttentionControl(t=t, attention="fused", tap=look))


@pytest.mark.parametrize("method", [SAC, CAM])
def test_images_of_equal_effect_are_one_group_wherever_else_they_act(method: type) -> None:
    everywhere, here, later = (method(Placement.layers(*where)) for where in ((0, 16), ([5, 9],), ([6],)))
    some = method(Placement.layers([5], heads=[1], branches=["text"]))
    other = SAC(scale=2.0) if method is SAC else CAM(silence=("A",))
    name = method.__name__.lower()

    def groups(*settings) -> list[tuple]:
        control = AttentionControl(images=len(settings), **{name: settings})
        kind = "self" if method is SAC else "cross"
        found = (control.sac_at if method is SAC else control.cam_at)(Site(f"down.2.attn.1.{kind}", kind, 5, 4, 2))
        return [(where, one.effect) for where, one in found]

    effect = everywhere.effect
    assert groups(everywhere, here) == [(EVERYTHING, effect)]
    assert groups(everywhere, here, later, None) == [(Where((0, 1, 4, 5)), effect)]  # the batch is (branch image)
    assert groups(everywhere, other, here) == [(Where((0, 2, 3, 5)), effect), (Where((1, 4)), other.effect)]
    assert groups(some, here) == [(Where((1, 3)), effect), (Where((2,), (1,)), effect)]  # the same effect on other heads


@pytest.mark.parametrize(
    "where, chosen",
    [
        (EVERYTHING, [(row, head) for row in range(3) for head in range(2)]),
        (Where((0, 2)), [(0, 0), (0, 1), (2, 0), (2, 1)]),
        (Where(None, (1,)), [(0, 1), (1, 1), (2, 1)]),
        (Where((0, 2), (1,)), [(0, 1), (2, 1)]),
    ],
)
def test_where_is_an_index_of_these_rows_and_heads(where: Where, chosen: list[tuple[int, int]]) -> None:
    marked = torch.zeros(3, 2, 4)
    marked[where.on(marked.device)] = 1
    assert marked.all(-1).nonzero().tolist() == [list(place) for place in chosen]
    assert marked.sum() == 4 * len(chosen)


def test_an_index_tensor_is_made_once() -> None:
    device, where = torch.device("cpu"), Where((0, 2), (1,))
    with torch.inference_mode():
        first = where.on(device)
    assert all(one.data_ptr() == two.data_ptr() for one, two in zip(first, where.on(device), strict=True))
    assert not any(part.is_inference() for part in where.on(device))  # made without gradients, it must serve with them too


def test_channels_that_do_not_divide_into_heads_are_an_error() -> None:
    with pytest.raises(ValueError, match="16 channels do not divide into 3 heads"):
        SelfAttention(16, 3, 16)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"attention": "flash"}, "attention 'flash': allowed are auto, explicit, fused"),
        ({"branches": 3}, "expected 1..2 branches"),
        ({"images": 0}, "at least 1 image"),
        ({"rows": 1}, "at least 1 image and 2 rows"),
        ({"images": 3, "sac": [SAC(), None]}, "sac: 2 settings for 3 images"),
        ({"images": 1, "cam": [CAM(), CAM()]}, "cam: 2 settings for 1 images"),
        ({"rows": 3, "sac": SAC(scale=(1.0, 1.1, 1.2))}, r"3 numbers, but the grid has 2 example pair\(s\)"),
        ({"map_bytes": 0}, "map_bytes 0"),
    ],
)
def test_a_control_out_of_range_is_an_error_before_the_run(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttentionControl(**arguments)


def test_where_nobody_looks_no_tap_is_called_and_elsewhere_it_is_asked_once_per_point() -> None:
    """The tap is bound once per forward of a module: `unseen` gives its argument back."""
    here, elsewhere = self_module(layer=5).site, Site("up.1.attn.0.self", "self", 7, 4, 2)
    look, asked = Looking(points=("q",), sites=(here.name,)), []
    look.wants = lambda site, point, step: asked.append(point) or Looking.wants(look, site, point, step)
    assert AttentionControl().tap_at(here, HW) is unseen
    assert AttentionControl(tap=look).tap_at(elsewhere, HW) is unseen
    asked.clear()
    see, q = AttentionControl(tap=look).tap_at(here, HW), torch.zeros(1)
    assert see("k", q) is q and not look.order and see("q", q) is q and look.order == ["q"]
    assert asked == list(here.points)
