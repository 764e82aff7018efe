"""The compiled UNet: one graph for every pattern of what acts, with SAC, CAM, captures and edits in it, and the same results."""

from collections.abc import Iterator

import pytest
import torch

from analogist import Capture
from analogist.attention.edit import edits as E
from analogist.grid import PromptGrid
from analogist.models.compiled import Compiled, Pattern, refusal
from analogist.models.control import CAM, SAC, AttentionControl
from analogist.models.placement import Placement
from analogist.models.unet import UNet, UNetConfig
from analogist.pipeline import Analogist
from tests.devices import device, tolerance
from tests.experiments_small import BASE, CHECKPOINT, PARITY, SIZE, load_model
from tests.small import Looking, randomise, relative, unet_inputs

# What is remembered by lru_cache here is a function of its arguments alone, so that tracing through it is right.
pytestmark = pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
SMALLEST = UNetConfig(channels=(4, 4, 4, 4), heads=(2, 2, 2, 2), text_width=4, norm_groups=2)  # tracing takes as long as for a large one
PLACEMENTS = {"published": Placement.layers(3, 11), "everywhere": Placement("*")}
LOOKED, EDITED = "up.1.attn.0.self:probs", "mid.0.attn.0.cross:head_out"


@pytest.fixture(scope="module")
def unet() -> UNet:
    return randomise(UNet(SMALLEST)).to(device()).eval().requires_grad_(False)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


class Counting:
    """A back end that runs a graph as it was traced, and counts them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph.forward


@pytest.mark.parametrize(
    ("images", "placement"),
    [(4, "everywhere")] + [pytest.param(*case, marks=pytest.mark.slow) for case in ((1, "published"), (4, "published"), (1, "everywhere"))],
)
def test_the_unet_with_sac_and_cam_is_one_graph_without_a_break(unet, images: int, placement: str) -> None:
    x, t, text = unet_inputs(SMALLEST, batch=2 * images, tokens=3)
    at = PLACEMENTS[placement]
    control = AttentionControl(images=images, sac=SAC(at), cam=CAM(at))
    pattern, prepared = Pattern.of(control, unet.sites, unet.places, x.device), unet.prepare_text(text)
    found = torch._dynamo.explain(lambda x, times: unet.layers(x, times, prepared, pattern))(x, torch.tensor([t], device=x.device))
    assert (found.graph_count, found.graph_break_count) == (1, 0), [reason.reason for reason in found.break_reasons]


def test_a_look_at_points_between_and_inside_the_blocks_is_in_the_graph_and_changes_nothing(unet) -> None:
    x, t, text = unet_inputs(SMALLEST, tokens=3)
    sites = ("conv_in", "conv_out", "mid.0.attn.0.ff", "mid.0.attn.0.self", "down.0.downsample", "up.0.upsample", "mid.0.res.0.block")
    points = ("stream", "hidden", "time", "conv1", "x", "out")
    plain, compiled = Looking(points, sites), Looking(points, sites)
    expected = unet(x, t, text, AttentionControl(t=t, tap=plain))
    backend = Counting()
    out = Compiled(backend)(unet, x, t, unet.prepare_text(text), AttentionControl(t=t, tap=compiled))  # fullgraph: a break is an error
    assert backend.graphs == 1 and list(compiled.seen) == list(plain.seen) and len(plain.seen) == 2 + 2 + 4 + 3 + 2 + 2 + 4
    assert relative(out, expected) < tolerance("the UNet compiled")
    for name, tensor in compiled.seen.items():
        assert relative(tensor, plain.seen[name]) < tolerance("the UNet compiled"), name


def test_a_run_compiles_a_graph_per_pattern_and_none_per_step_time_or_seed_and_gives_what_it_gives_uncompiled() -> None:
    """Steps 0 and 2 have one pattern; in step 1 something is captured, and something edited, which is another."""
    model, grid, backend, said = load_model(), PromptGrid.from_image(PARITY / "grid.png", SIZE), Counting(), []
    call = {"config": BASE, "progress": False, "capture": Capture(LOOKED, steps=1), "edit": {EDITED: E.scale(2.0, steps=1)}}
    plain, other = (model(grid, "a red boat", seed=seed, **call) for seed in (1, 2))
    assert plain.record["compiled"] is None
    model.unet.compiled = Compiled(backend, announce=said.append)
    compiled = model(grid, "a red boat", seed=1, **call)
    assert backend.graphs == 2 and len(said) == 4 and "with 2 places looked at" in said[2]
    assert relative(model(grid, "a red boat", seed=2, **call).latents, other.latents) < tolerance("the UNet compiled")
    assert backend.graphs == 2
    assert relative(compiled.latents, plain.latents) < tolerance("the UNet compiled")
    assert relative(compiled.latents, model(grid, "a red boat", seed=1, config=BASE, progress=False).latents) > 1e-3  # the edit acts
    assert relative(compiled.maps[LOOKED].tensor, plain.maps[LOOKED].tensor) < tolerance("the UNet compiled")
    places = {LOOKED.partition(":")[0]: [1], EDITED.partition(":")[0]: [1]}
    assert compiled.record["compiled"] == {"backend": "Counting", "mode": None, "graphs": 2, "not_compiled": places}
    with torch.enable_grad():
        model.unet(*unet_inputs(model.unet.config, tokens=3))
    assert backend.graphs == 2  # with gradients nothing is compiled


def test_patterns_are_equal_where_the_same_acts_whatever_step_and_placement_say_it(tiny_unet) -> None:
    def pattern(**settings) -> Pattern:
        return Pattern.of(AttentionControl(**settings), tiny_unet.sites, tiny_unet.places, torch.device("cpu"))

    first = pattern(sac=SAC(), cam=CAM(), step=0, t=981)
    late = Placement.layers(range(3, 11), steps=[5])
    assert first == pattern(sac=SAC(late), cam=CAM(), step=5, t=1) and hash(first) == hash(pattern(sac=SAC(late), cam=CAM(), step=5))
    assert first != pattern(sac=SAC(late), cam=CAM(), step=4)
    assert first != pattern(sac=SAC(scale=1.4), cam=CAM())
    assert first != pattern(sac=SAC(), cam=CAM(), attention="explicit")
    look = Looking(points=("probs",), sites=("mid.0.attn.0.self", "up.1.res.0.block"))
    assert pattern(sac=SAC(), cam=CAM(), tap=look).looked_at == ["mid.0.attn.0.self"]
    look = Looking(points=("out",), sites=("mid.0.attn.0.self", "up.1.res.0.block"))
    assert pattern(sac=SAC(), cam=CAM(), tap=look).looked_at == ["mid.0.attn.0.self", "up.1.res.0.block"]


@pytest.mark.parametrize("heads", [range(0, 4), range(0, 2), range(1, 4), range(2, 3), range(3, 4)])
def test_a_pattern_says_of_a_slice_of_heads_what_the_control_says(tiny_unet, heads: range) -> None:
    settings = [SAC(Placement("mid.*", heads=[1, 2])), SAC(Placement("mid.*", branches=["text"]), scale=2.0), None]
    control = AttentionControl(images=3, sac=settings, cam=[CAM(Placement("mid.*", heads=[2])), None, CAM(Placement("mid.*"))])
    pattern = Pattern.of(control, tiny_unet.sites, tiny_unet.places, torch.device("cpu"))
    own, cross = (site for site in tiny_unet.sites if site.name.startswith("mid."))

    def said(groups) -> set[tuple]:
        """Row, head and effect, one by one: a pattern may say in two groups what a control says in one."""
        every = [(setting.effect, where.rows or range(6), where.heads or range(len(heads))) for where, setting in groups]
        return {(row, head, effect) for effect, rows, chosen in every for row in rows for head in chosen}

    assert said(pattern.sac_at(own, heads)) == said(control.sac_at(own, heads))
    assert said(pattern.cam_at(cross, heads)) == said(control.cam_at(cross, heads))


def test_index_tensors_of_a_pattern_are_made_before_the_graph(tiny_unet) -> None:
    control = AttentionControl(images=2, sac=[SAC(), None])
    pattern = Pattern.of(control, tiny_unet.sites, tiny_unet.places, torch.device("cpu"))
    site = next(site for site in tiny_unet.sites if site.layer == 5 and site.kind == "self")
    (where, _), = pattern.sac_at(site)
    assert where.on(torch.device("cpu"))[0] is where.index[0] and where.index[0].tolist() == [0, 2]


def test_compiling_where_it_does_not_pay_is_refused_with_a_reason() -> None:
    with pytest.raises(ValueError, match="compile=True on cpu: on a CPU it does not pay: .* takes 89 s to compile"):
        Analogist.from_checkpoint(CHECKPOINT, device="cpu", compile=True)
    assert refusal(torch.device("cuda")) is None


@pytest.mark.slow
@pytest.mark.device
@pytest.mark.parametrize("attention", ["fused", "explicit"])
def test_inductors_graph_gives_what_the_uncompiled_network_gives_and_the_same_bits_each_time(unet, attention: str) -> None:
    x, t, text = unet_inputs(SMALLEST, tokens=3)
    control = AttentionControl(t=t, sac=SAC(), cam=CAM(), attention=attention)
    try:
        plain = unet(x, t, text, control)
        unet.compiled = Compiled()
        first, second = (unet(x, t, text, control).clone() for _ in range(2))
    finally:
        unet.compiled = None
    assert relative(first, plain) < tolerance("the UNet compiled")
    assert torch.equal(first, second)
