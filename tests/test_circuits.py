"""Path patching against hooks written by hand; circuits found, saved, drawn; faithfulness and placebo against ablations by hand."""

import functools
import json

import numpy as np
import pytest
import torch

from analogist.attention.edit.edits import ablate_heads
from analogist.attention.edit.node import Node
from analogist.attention.look.circuit_picture import COLOURS
from analogist.attention.measure import measures
from analogist.attention.measure.circuit import Circuit
from analogist.attention.measure.sweep_result import SweepAxes
from tests.causal_runs import MINI, small_run
from tests.small import small_unet
from tests.study_runs import shape

ALL = "*.self:head_out"


@pytest.fixture(scope="module")
def unet():
    return small_unet(MINI, dtype=torch.float64)


@pytest.fixture(scope="module")
def pair(unet):
    return tuple(small_run(unet, shape(hw=(8, 12), steps=2), seed) for seed in (0, 1))


class Hooked:
    """A run with hooks in front of the output projections, which see the heads side by side: [batch token (head d)], each call a step."""

    def __init__(self, run):
        self.run = run
        self.projections = {m.site.name: m.to_out for m in run.unet.modules() if getattr(getattr(m, "site", None), "kind", "") == "self"}

    def __call__(self, change):
        """change(name, step, heads) -> heads; returns latents."""
        steps = dict.fromkeys(self.projections, -1)
        handles = []
        for name, projection in self.projections.items():

            def hook(_, args, name=name):
                steps[name] += 1
                return (change(name, steps[name], args[0].clone()),)

            handles.append(projection.register_forward_pre_hook(hook))
        try:
            return self.run().latents
        finally:
            for handle in handles:
                handle.remove()

    def values(self):
        seen = {}

        def keep(name, step, heads):
            seen[name, step] = heads.clone()
            return heads

        self(keep)
        return seen


def test_path_patching_equals_hooks_by_hand(pair):
    clean, corrupted = map(Hooked, pair)
    good, bad = clean.values(), corrupted.values()
    senders = [Node("down.0.attn.0.self", head=1), Node("mid.0.attn.0.self", head=0, step=0)]
    receivers = [Node("up.0.attn.0.self", head=0), Node("up.1.attn.1.self", head=1, step=1), "output"]
    found = measures.path_patch(*pair, senders, receivers, ALL, progress=False)
    width = {name: projection.in_features // 2 for name, projection in clean.projections.items()}
    target = pair[0]().latents
    base = float(((pair[1]().latents - target) ** 2).mean())

    def part(node):
        return slice(node.head * width[node.site], (node.head + 1) * width[node.site])

    for i, sender in enumerate(senders):
        arrived = {}

        def direct(name, step, heads, sender=sender, arrived=arrived):
            arrived[name, step] = heads.clone()
            held = bad[name, step].clone()
            if name == sender.site and sender.step in (None, step):
                held[..., part(sender)] = good[name, step][..., part(sender)]
            return held

        outcome = corrupted(direct)
        effect = base - float(((outcome - target) ** 2).mean())
        assert float(found.effect[i, 2]) == pytest.approx(effect, rel=1e-6, abs=1e-12)
        for j, receiver in enumerate(receivers[:2]):

            def through(name, step, heads, receiver=receiver, arrived=arrived):
                if name == receiver.site and receiver.step in (None, step):
                    heads[..., part(receiver)] = arrived[name, step][..., part(receiver)]
                return heads

            effect = base - float(((corrupted(through) - target) ** 2).mean())
            assert float(found.effect[i, j]) == pytest.approx(effect, rel=1e-6, abs=1e-12)
            assert abs(effect) > 1e-9
    assert found.kind == "patch" and found.runs == 2 + 2 * (1 + 2)


def test_a_path_is_a_path_for_many_inputs_and_names_in_words(unet):
    runs = [small_run(unet, shape(hw=(8, 8), steps=1, images=1), seed) for seed in range(4)]
    given = ("mid.0.attn.0.self", ("up.1.attn.0.self:head_out", 1))
    many = measures.path_patch(runs[:2], runs[2:], *given, progress=False)
    alone = [measures.path_patch(c, k, *given, progress=False).recovered for c, k in zip(runs[:2], runs[2:], strict=True)]
    torch.testing.assert_close(many.recovered, torch.stack(alone).mean(0))
    assert many.rows()[0]["low"] <= many.rows()[0]["recovered"] <= many.rows()[0]["high"]
    assert str(many.receivers[0]) == "up.1.attn.0.self:head_out (head 1)"


def test_a_circuit_holds_what_is_above_the_threshold(pair):
    edges = measures.attribution_patch(*pair, ALL, edges=True, heads=True, steps="all")
    parts = dict(zip(edges.senders, edges.nodes().tolist(), strict=True))
    threshold = sorted(map(abs, parts.values()))[-4]
    circuit = measures.find_circuit(*pair, ALL, threshold=threshold, progress=False)
    assert set(circuit.nodes) == {node for node, part in parts.items() if abs(part) >= threshold} and len(circuit.nodes) == 4
    expected = {
        (row["sender"], row["receiver"])
        for row in edges.rows()
        if row["sender"] in circuit.nodes and (row["receiver"] == "output" or row["receiver"] in circuit.nodes)
        and abs(row["recovered"]) >= threshold and row["sender"] != row["receiver"]
    }  # fmt: skip
    assert {edge[:2] for edge in circuit.edges} == expected and expected
    exact = measures.patch_sweep(*pair, ALL, heads=True, steps="all", progress=False)
    by_patch = measures.find_circuit(*pair, ALL, threshold=0.05, by="patch", progress=False)
    assert by_patch.nodes == pytest.approx({
        node: float(exact.recovered[i]) for i, node in exact.axes.nodes() if abs(float(exact.recovered[i])) >= 0.05
    })  # fmt: skip
    nothing = measures.find_circuit(*pair, ALL, threshold=100, by="patch", progress=False)
    assert not nothing.nodes and not nothing.edges


def test_a_circuit_of_regions_steps_and_branches_comes_back_from_json(pair, tmp_path):
    circuit = measures.find_circuit(
        *pair, ALL, threshold=0.01, steps=[1], branches=("text",), query=("B'", "A", (0, 0, 40, 40)), progress=False
    )
    assert {node.step for node in circuit.nodes} == {1} and {node.branch for node in circuit.nodes} == {"text"}
    path = tmp_path / "circuit.json"
    circuit.save(path)
    again = Circuit.load(path)
    assert again == circuit and again.pool() == circuit.pool() and len(again.pool()) == 7 * 2 * 3
    assert json.loads(path.read_text())["format"] == 1
    (tmp_path / "other.json").write_text('{"format": 7}')
    with pytest.raises(ValueError, match="no circuit of format 1"):
        Circuit.load(tmp_path / "other.json")
    (tmp_path / "torn.json").write_text('{"format"')
    with pytest.raises(ValueError, match="no JSON file"):
        Circuit.load(tmp_path / "torn.json")


def test_a_circuit_is_drawn_with_its_regions_as_colours_and_edges_as_wide_as_they_weigh():
    places = tuple((f"{part}.attn.{i}.self", "head_out", 2) for part in ("down.0", "down.1", "up.2", "up.3") for i in range(2))
    axes = SweepAxes(places, (-1,), (0, 1), {"query": ("A'", "B'")})
    one, other = Node("down.0.attn.0.self", head=0, query="A'"), Node("up.3.attn.1.self", head=1, query="B'")

    def dark(weight):
        picture = Circuit({one: 0.9, other: 0.9}, ((one, other, weight),), axes, 0.1, "attribution").draw()
        return np.asarray(picture), (np.asarray(picture) == (120, 120, 120)).all(-1).sum()

    pixels, thick = dark(1.0)
    for region in ("A'", "B'"):
        assert (pixels == COLOURS[region]).all(-1).sum() > 100
    assert not (pixels == COLOURS["A"]).all(-1).any()
    assert thick > 2 * dark(0.2)[1] > 0
    columns = [np.where((pixels == COLOURS[region]).all(-1))[1].min() for region in ("A'", "B'")]
    assert columns[0] < columns[1]  # the later site stands further right


def test_faithfulness_is_ablation_outside_and_inside_by_hand(pair):
    run = pair[0]
    nodes = [Node("down.0.attn.0.self", head=1), Node("up.1.attn.0.self", head=0)]
    axes = measures.ablate_sweep(run, ALL, heads=True, steps="all", progress=False).axes
    circuit = Circuit(dict.fromkeys(nodes, 1.0), (), axes, 0.1, "given")
    found = measures.faithfulness(circuit, run, progress=False)
    plain = run().latents

    def lost(outside: bool):
        edits = {}
        for site in [site for site in run.unet.sites if site.kind == "self"]:
            inside = [node.head for node in nodes if node.site == site.name]
            heads = [head for head in range(2) if (head in inside) != outside]
            if heads:
                edits[f"{site}:head_out"] = ablate_heads(heads)
        return float(((run(edit=edits).latents - plain) ** 2).mean())

    nothing = float(((run(edit={ALL: ablate_heads([0, 1])}).latents - plain) ** 2).mean())
    assert found.kept == pytest.approx(1 - lost(True) / nothing, rel=1e-6)
    assert found.without == pytest.approx(1 - lost(False) / nothing, rel=1e-6)
    assert (found.inside, found.outside) == (2, 12) and "kept" in repr(found)
    by_step = Circuit({Node(nodes[0].site, head=1, step=0): 1.0}, (), SweepAxes(axes.places, (0, 1), (0, 1)), 0.1, "given")
    apart = measures.faithfulness(by_step, run, progress=False)
    inside = {f"{nodes[0].site}:head_out": ablate_heads(1, steps=0)}
    assert apart.without == pytest.approx(1 - float(((run(edit=inside).latents - plain) ** 2).mean()) / nothing, rel=1e-6)


def test_faithfulness_of_everything_and_of_nothing(pair):
    run = pair[0]
    axes = measures.ablate_sweep(run, ALL, heads=True, steps="all", progress=False).axes
    empty = Circuit({}, (), axes, 0.1, "given")
    for how in ("zero", "mean", pair[1]):
        nothing = measures.faithfulness(empty, run, how=how, progress=False)
        everything = measures.faithfulness(empty.with_nodes(empty.pool()), run, how=how, progress=False)
        assert (nothing.kept, nothing.without) == pytest.approx((0, 1), abs=1e-9)
        assert (everything.kept, everything.without) == pytest.approx((1, 0), abs=1e-9)
    many = measures.faithfulness(empty, list(pair), progress=False)
    assert many.each.shape == (2, 4) and all(low <= high for low, high in many.intervals.values())


def test_controls_are_drawn_near_by_and_outside_the_circuit(pair, monkeypatch):
    circuit = measures.find_circuit(*pair, ALL, threshold=0.05, progress=False)
    some = circuit.with_nodes([Node("down.0.attn.0.self", head=0), Node("up.1.attn.1.self", head=1)])
    from analogist.attention.measure import placebo as module

    drawn = []
    monkeypatch.setattr(module, "put_all", lambda nodes, source, put=module.put_all: (drawn.append(list(nodes)), put(nodes, source))[1])
    result = measures.placebo(some, *pair, draws=6, progress=False)
    assert drawn[0] == list(some.nodes) and len(drawn) == 13 and set(result.controls) == {"layer", "norm"}
    order = [site.name for site in pair[0].unet.sites if site.kind == "self"]
    for nodes in drawn[1::2]:  # by layer: among the four nearest heads
        assert not set(nodes) & set(some.nodes) and len(set(nodes)) == 2
        for own, other in zip(some.nodes, nodes, strict=True):
            assert abs(order.index(own.site) - order.index(other.site)) <= 2
    assert len({tuple(nodes) for nodes in drawn[1:]}) > 4
    assert all(0 < result.p(kind) <= 1 for kind in result.controls) and "p 0." in repr(result) or "p 1." in repr(result)
    again = measures.placebo(some, *pair, draws=6, progress=False)
    assert again == result  # the same seed draws the same
    with pytest.raises(ValueError, match="no nodes"):
        measures.placebo(some.with_nodes([]), *pair)
    with pytest.raises(ValueError, match="too few are left"):
        measures.placebo(some.with_nodes(some.pool()), *pair, progress=False)
    with pytest.raises(ValueError, match="draws 0"):
        measures.placebo(some, *pair, draws=0)


def test_a_placebo_recovers_what_patching_those_nodes_by_hand_does(pair):
    node = Node("up.1.attn.0.self", head=0)
    axes = measures.ablate_sweep(pair[0], ALL, heads=True, steps="all", progress=False).axes
    result = measures.placebo(Circuit({node: 1.0}, (), axes, 0.1, "given"), *pair, draws=1, progress=False)
    single = functools.partial(measures.patch_sweep, *pair, "up.1.attn.0.self:head_out", steps="all", heads=True, progress=False)
    assert result.circuit == pytest.approx(float(single().recovered[0, 0, 0]), rel=1e-5)


def test_what_cannot_be_found_is_said(pair):
    with pytest.raises(ValueError, match="by='guess'"):
        measures.find_circuit(*pair, ALL, by="guess")
    with pytest.raises(ValueError, match="threshold 0"):
        measures.find_circuit(*pair, ALL, threshold=0)
