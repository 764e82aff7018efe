"""Attribution of nodes and edges against finite differences, brute force and closed forms, in float64 on a small network."""

import functools
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from analogist.attention.capture.maps import Maps
from analogist.attention.edit.node import Node
from analogist.attention.measure import measures
from analogist.models.control import CAM, SAC
from analogist.models.placement import Placement
from tests.causal_runs import MINI, small_run
from tests.small import small_unet
from tests.study_runs import shape

ALL = "*.self:head_out"


@pytest.fixture(scope="module")
def unet():
    return small_unet(MINI, dtype=torch.float64)


@pytest.fixture(scope="module")
def pair(unet):
    both = {"sac": SAC(Placement("*")), "cam": CAM(Placement("up.*"))}
    return tuple(small_run(unet, shape(hw=(8, 12), steps=2), seed, **both) for seed in (0, 1))


def toward(node: Node, clean, weight: float):
    """An edit that moves a head, in one step and branch, by a part of the way to the clean run's value."""
    value = clean(capture=node.place).maps[node.place].tensor

    def edit(tensor: Tensor, at) -> Tensor:
        if at.step != node.step:
            return tensor
        out, there = tensor.clone(), value[at.step].flatten(0, 1)
        rows = slice(at.images, None) if node.branch == "text" else slice(None)
        out[rows, node.head] += weight * (there - tensor)[rows, node.head]
        return out

    return {node.place: edit}


def test_attributions_are_the_derivative_of_the_measure_by_finite_differences(pair):
    clean, corrupted = pair
    sweep = measures.attribution_patch(clean, corrupted, ALL, heads=True, branches=("negative", "text"))
    assert sweep.effect.shape == (7, 2, 2, 2) and sweep.kind == "attribution"
    target = clean().latents

    def measure(weight, node):
        return -float(((corrupted(edit=toward(node, clean, weight)).latents - target) ** 2).mean())

    for site, step, head in (("down.0.attn.0.self", 0, 1), ("mid.0.attn.0.self", 1, 0), ("up.1.attn.1.self", 0, 0)):
        node = Node(site, head=head, step=step, branch="text")
        slope = (measure(1e-4, node) - measure(-1e-4, node)) / 2e-4
        assert float(sweep.effect[sweep.sites.index(site), step, head, 1]) == pytest.approx(slope, rel=1e-5)
        assert abs(slope) > 1e-7


def test_one_forward_and_one_backward_pass_serve_all_nodes(pair, monkeypatch):
    clean, corrupted = pair
    passes = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **kwargs: (passes.append(1), grad(*args, **kwargs))[1])
    before = len(clean.calls), len(corrupted.calls)
    sweep = measures.attribution_patch(clean, corrupted, "*:head_out", heads=True)
    # one run of two steps each, and the clean one once more with another seed
    assert (len(clean.calls) - before[0], len(corrupted.calls) - before[1], len(passes)) == (4, 2, 1)
    assert sweep.runs == 2 and sweep.effect.shape == (14, 2, 2) and not sweep.effect.isnan().any()


@dataclass(frozen=True)
class Read:
    latents: Tensor
    maps: Maps


def linear_pair(unet):
    """Two runs of one call whose latents are the outcome of a block in which nothing but a head's own path is left: linear in it."""
    linear = small_unet(MINI, dtype=torch.float64, seed=2)
    block = linear.up[1].attn[1].blocks[0]
    for parameter in (block.cross.to_out.weight, block.ff.proj_out.weight):
        parameter.data.zero_()
    runs = [small_run(linear, shape(steps=1, hw=(8, 8)), seed) for seed in (0, 1)]

    def read(run, capture=None, edit=None):
        seen = []

        def keep(tensor, at):
            seen.append(tensor)
            return tensor

        out = run(capture, {**(edit or {}), "up.1.attn.1.block:out": keep})
        return Read(seen[0], out.maps)

    return tuple(functools.partial(read, run) for run in runs)


def test_attribution_is_exact_where_network_and_measure_are_linear(unet):
    clean, corrupted = linear_pair(unet)
    weights = torch.randn(8, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def measure(result):
        return (result.latents * weights).sum()

    name = "up.1.attn.1.self:head_out"
    guess = measures.attribution_patch(clean, corrupted, name, heads=True, query=("A", "B'"), measure=measure)
    exact = measures.patch_sweep(clean, corrupted, name, heads=True, query=("A", "B'"), measure=measure, batch=1, progress=False)
    torch.testing.assert_close(guess.effect, exact.effect, rtol=1e-6, atol=1e-9)
    assert exact.effect.abs().min() > 1e-3
    earlier = "mid.0.attn.0.self:head_out"  # reaches the block by way of norms: not linear, hence not exact
    ways = [
        function(clean, corrupted, earlier, measure=measure, **more).effect
        for function, more in ((measures.attribution_patch, {}), (measures.patch_sweep, {"batch": 1, "progress": False}))
    ]
    assert not torch.allclose(*ways, rtol=1e-3)


def test_regions_branches_and_steps_add_up(pair):
    clean, corrupted = pair
    attribution = functools.partial(measures.attribution_patch, clean, corrupted, "mid.0.attn.0.self:probs")
    whole = attribution(heads=True).effect
    parts = attribution(heads=True, branches=("negative", "text"), query=("A", "A'", "B", "B'"), key=("A", "A'", "B", "B'")).effect
    assert parts.shape == (1, 2, 2, 2, 4, 4)
    torch.testing.assert_close(parts.sum(dim=(3, 4, 5)), whole)
    torch.testing.assert_close(attribution(steps="all").effect[0, 0, 0], whole.sum())
    torch.testing.assert_close(attribution(steps=[1], heads=True).effect[:, 0], whole[:, 1])


def test_integrated_gradients_of_all_heads_sum_to_the_effect_of_patching_the_site():
    flat = small_unet(MINI, dtype=torch.float64, sharpness=0.3)  # so that few points between the runs suffice
    clean, corrupted = (small_run(flat, shape(hw=(8, 8), steps=2, images=1), seed) for seed in (0, 1))
    for steps in (None, "all"):
        for name in ("mid.0.attn.0.self:head_out", "down.0.attn.0.self:head_out"):
            exact = measures.patch_sweep(clean, corrupted, name, steps=steps, progress=False).effect[0, :, 0]
            ways = {n: measures.attribution_patch(clean, corrupted, name, steps=steps, heads=True, integrated=n) for n in (0, 8)}
            errors = {n: float((sweep.effect[0].sum(1) - exact).abs().max() / exact.abs().max()) for n, sweep in ways.items()}
            assert errors[8] < 0.01 and errors[8] < 0.1 * errors[0]


def test_edges_that_leave_a_node_sum_to_its_attribution(pair):
    clean, corrupted = pair
    nodes = measures.attribution_patch(clean, corrupted, ALL, heads=True)
    edges = measures.attribution_patch(clean, corrupted, ALL, heads=True, edges=True)
    assert edges.effect.shape == (28, 29) and len(edges.senders) == 28 and edges.receivers[-1] == "output"
    expected = torch.stack([nodes.recovered[index] for index, _ in nodes.axes.nodes()])
    torch.testing.assert_close(edges.nodes(), expected)
    apart = edges.effect[edges.senders.index(Node("up.0.attn.0.self", head=0, step=1))]
    assert apart[edges.senders.index(Node("up.1.attn.0.self", head=0, step=0))].isnan()  # an earlier step does not hear a later one
    together = measures.attribution_patch(clean, corrupted, ALL, edges=True, steps="all")
    assert together.effect.shape == (7, 8)
    regions = measures.attribution_patch(clean, corrupted, "*.0.self:head_out", edges=True, steps="all", query=("A", "A'", "B", "B'"))
    merged = regions.effect.nan_to_num()[:, :-1].unflatten(1, (5, 4)).sum(2).unflatten(0, (5, 4)).sum(1)
    plain = measures.attribution_patch(clean, corrupted, "*.0.self:head_out", edges=True, steps="all").effect.nan_to_num()[:, :-1]
    torch.testing.assert_close(merged, plain)
    torch.testing.assert_close(together.nodes(), nodes.recovered.sum(dim=(1, 2)))


def test_an_edge_is_the_derivative_along_that_path_alone(unet):
    """Finite differences: the sender moved, every node between held as it was, the receiver alone passes on what it makes of it."""
    clean, corrupted = (small_run(unet, shape(hw=(8, 8), steps=1, images=1), seed) for seed in (0, 1))
    edges = measures.attribution_patch(clean, corrupted, ALL, heads=True, edges=True)
    order = [site.name for site in unet.sites if site.kind == "self"]
    value = {name: corrupted(capture=f"{name}:head_out").maps[f"{name}:head_out"].tensor[0].flatten(0, 1) for name in order}
    target = clean().latents
    for sender, receiver in ((("down.0.attn.0.self", 1), ("up.0.attn.1.self", 0)), (("mid.0.attn.0.self", 0), ("up.1.attn.1.self", 1))):
        move = toward(Node(sender[0], head=sender[1], step=0), clean, 1.0)[f"{sender[0]}:head_out"]

        def moved(weight, sender=sender, receiver=receiver, move=move):
            made = []

            def keep(tensor, at):
                made.append(tensor)
                return value[at.site.name]

            def start(tensor, at):
                return tensor + weight * (move(tensor, at) - tensor)

            hold = {f"{name}:head_out": (lambda tensor, at: value[at.site.name]) for name in order}
            corrupted(edit={**hold, f"{sender[0]}:head_out": start, f"{receiver[0]}:head_out": keep})
            arrived = value[receiver[0]].clone()
            arrived[:, receiver[1]] = made[0][:, receiver[1]]
            out = corrupted(edit={f"{receiver[0]}:head_out": lambda tensor, at: arrived})
            return -float(((out.latents - target) ** 2).mean())

        slope = (moved(1e-3) - moved(-1e-3)) / 2e-3
        i, j = (edges.senders.index(Node(site, head=head, step=0)) for site, head in (sender, receiver))
        assert float(edges.effect[i, j]) == pytest.approx(slope, rel=1e-4) and slope != 0


def test_edges_take_one_backward_pass_for_each_receiving_head(unet, monkeypatch):
    clean, corrupted = (small_run(unet, shape(hw=(8, 8), steps=1, images=1), seed) for seed in (0, 1))
    passes = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **kwargs: (passes.append(1), grad(*args, **kwargs))[1])
    measures.attribution_patch(clean, corrupted, ALL, heads=True, edges=True)
    assert len(passes) == 6 * 2 + 1  # two heads of each site but the first, and the output


def test_many_inputs_and_what_cannot_be_attributed(unet, pair):
    runs = [small_run(unet, shape(hw=(8, 8), steps=1, images=1), seed) for seed in range(4)]
    sweep = measures.attribution_patch(runs[:2], runs[2:], ALL, heads=True)
    alone = [measures.attribution_patch(c, k, ALL, heads=True).recovered for c, k in zip(runs[:2], runs[2:], strict=True)]
    torch.testing.assert_close(sweep.recovered, torch.stack(alone).mean(0))
    assert (sweep.low < sweep.high).any()
    edges = measures.attribution_patch(runs[:2], runs[2:], ALL, edges=True)
    assert edges.each.shape == (2, 7, 8) and "->" in repr(edges)
    given = (*pair, "mid.0.attn.0.self:head_out")
    with pytest.raises(ValueError, match="must return a tensor"):
        measures.attribution_patch(*given, measure=lambda result: float(result.latents.detach().mean()))
    with pytest.raises(ValueError, match="has no gradient"):
        measures.attribution_patch(*given, measure=lambda result: result.latents.detach().mean())
    with pytest.raises(ValueError, match="leave integrated"):
        measures.attribution_patch(*given, edges=True, integrated=3)
    with pytest.raises(ValueError, match="integrated -1"):
        measures.attribution_patch(*given, integrated=-1)
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode"):
        measures.attribution_patch(*given)


@pytest.mark.parametrize("point", ["scores", "logits", "probs", "q", "k", "v", "x", "out"])
def test_gradients_pass_every_point_and_the_softmax_in_place_does_not_break_them(unet, point):
    """Finite differences at each point, with every map in hand, in slices of heads where nobody looks at it."""
    for kind in ("self", "cross"):
        name = f"mid.0.attn.0.{kind}"
        clean, corrupted = (
            small_run(unet, shape(hw=(8, 8), steps=1, images=1), seed, map_bytes=1, cam=CAM(Placement("*")), attention="explicit")
            for seed in (0, 1)
        )
        if kind == "cross" and point in ("k", "v"):
            corrupted = replace(corrupted, text=corrupted.text + 1.0)
        sweep = measures.attribution_patch(clean, corrupted, f"{name}:{point}")
        target, value = clean().latents, clean(capture=f"{name}:{point}").maps[f"{name}:{point}"].tensor[0].flatten(0, 1)

        def measure(weight, corrupted=corrupted, value=value, name=name, target=target):
            moved = {f"{name}:{point}": lambda tensor, at: tensor + weight * (value.to(tensor) - tensor)}
            return -float(((corrupted(edit=moved).latents - target) ** 2).mean())

        slope = (measure(1e-4) - measure(-1e-4)) / 2e-4
        assert float(sweep.effect[0, 0, 0]) == pytest.approx(slope, rel=1e-4, abs=1e-12)
