"""Planted truth: in a network whose weights are written by hand, every causal measure finds the head that acts, and only it."""

import pytest
import torch

from analogist.attention.edit.node import Node
from analogist.attention.measure import measures
from tests.planted import IN_SERIES, content_of, likeness, planted_run, planted_unet

ALL = "*.self:head_out"
HEAD = Node("up.1.attn.0.self", head=1)
FIRST, SECOND = (Node(copy.site, head=copy.head) for copy in IN_SERIES)
CASES = [((8, 8), 1, 1), ((8, 16), 2, 2)]  # h and w of the latents, images, steps


def pair(unet, hw=(8, 8), images=1, steps=1):
    return tuple(planted_run(unet, seed, hw=hw, images=images, steps=steps) for seed in (1, 2))


@pytest.fixture(scope="module")
def unet():
    return planted_unet()


@pytest.fixture(scope="module")
def series():
    return planted_unet(IN_SERIES)


def only(values: dict, chosen, least: float, most: float = 1e-9) -> None:
    """Asserts that one entry is at least this, and all others nothing."""
    others = {key: value for key, value in values.items() if key != chosen}
    assert values[chosen] >= least, (values[chosen], chosen)
    assert max(map(abs, others.values())) <= most, max(others.items(), key=lambda pair: abs(pair[1]))


def test_the_planted_network_copies_a_prime_into_b_prime(unet):
    """The truth itself, from the output alone: B' shows what A' holds, whatever that is."""
    run = planted_run(unet, 1)
    shown = (planted_run(unet, 1)().latents - run.x[:, :4])[0, 0, 4:, 4:].flatten()
    held = content_of(1, 1, (8, 8))[0].flatten()
    assert float(torch.corrcoef(torch.stack([-shown, held]))[0, 1]) > 0.98


@pytest.mark.parametrize("hw, images, steps", CASES)
def test_contribution_finds_the_head_and_share_does_not(unet, hw, images, steps):
    run = pair(unet, hw, images, steps)[0]
    found = measures.contribution(run)
    best = found.values.nan_to_num().amax(dim=(1, 2))  # over steps and branches
    rows = {
        Node(site, head=head): float(best[i, head, 3, 1]) for i, site in enumerate(found.sites) for head in range(2)
    }  # B' from A'
    only(rows, HEAD, 0.05)
    assert float(found.sel(site=HEAD.site, head=1, query="B'", key="B").abs().max()) < 1e-3 * rows[HEAD]  # from A', not from elsewhere
    maps = run(capture="up.1.*.self:probs").maps
    shares = {name: measures.flow_table(m.sel(head=0))["B'", "A'"] for name, m in maps.items()}
    assert min(shares.values()) > 0.95  # idle heads look at A' just as much


@pytest.mark.parametrize("hw, images, steps", CASES)
def test_ablation_patching_and_attribution_find_the_head(unet, hw, images, steps):
    clean, corrupted = pair(unet, hw, images, steps)
    measure = likeness(clean)
    given = {"steps": "all", "heads": True, "measure": measure}
    ablated = measures.ablate_sweep(clean, ALL, progress=False, **given)
    only({node: -float(ablated.effect[i]) for i, node in ablated.axes.nodes()}, HEAD, 0.05)
    exact = measures.patch_sweep(clean, corrupted, ALL, progress=False, **given)
    only({node: float(exact.recovered[i]) for i, node in exact.axes.nodes()}, HEAD, 0.99)
    guess = measures.attribution_patch(clean, corrupted, ALL, **given)
    only({node: float(guess.recovered[i]) for i, node in guess.axes.nodes()}, HEAD, 0.2)
    by_step = measures.ablate_sweep(clean, ALL, heads=True, measure=measure, progress=False)
    for j in range(steps):
        only({node: -float(by_step.effect[i]) for i, node in by_step.axes.nodes() if node.step == j}, Node(HEAD.site, head=1, step=j), 0.01)


def test_only_the_block_from_a_prime_to_b_prime_of_its_map_matters(unet):
    clean = pair(unet)[0]
    regions = ("A", "A'", "B", "B'")
    swept = measures.ablate_sweep(
        clean, f"{HEAD.site}:probs", heads=True, query=regions, key=regions, measure=likeness(clean), progress=False
    ).effect[0, 0]
    acting = float(-swept[1, 3, 1])
    swept[1, 3, 1] = 0
    # what it writes elsewhere reaches B' only by way of the last norm, which is over the whole picture
    assert acting > 0.05 and float(swept.abs().max()) < 0.05 * acting and float(swept[0].abs().max()) < 1e-9


@pytest.mark.parametrize("by", ["attribution", "patch"])
def test_circuit_search_finds_the_head_alone(unet, by):
    clean, corrupted = pair(unet)
    circuit = measures.find_circuit(clean, corrupted, ALL, by=by, measure=likeness(clean), progress=False)
    assert list(circuit.nodes) == [HEAD]
    assert [(sender, receiver) for sender, receiver, _ in circuit.edges] == [(HEAD, "output")]
    faithful = measures.faithfulness(circuit, clean, measure=likeness(clean), progress=False)
    assert faithful.kept == pytest.approx(1, abs=1e-6) and faithful.without == pytest.approx(0, abs=1e-6)
    wrong = circuit.with_nodes([Node("up.1.attn.1.self", head=0)])
    unfaithful = measures.faithfulness(wrong, clean, measure=likeness(clean), how=corrupted, progress=False)
    assert unfaithful.kept == pytest.approx(0, abs=1e-6) and unfaithful.without == pytest.approx(1, abs=1e-6)


def test_placebo_controls_stay_at_chance(unet):
    clean = [planted_run(unet, seed) for seed in (1, 2, 3)]
    corrupted = [planted_run(unet, seed) for seed in (4, 5, 6)]
    measure = None  # each input's own target: the default
    circuit = measures.find_circuit(clean, corrupted, ALL, threshold=0.02, measure=measure, progress=False)
    assert list(circuit.nodes) == [HEAD]
    result = measures.placebo(circuit, clean, corrupted, draws=9, progress=False)
    assert result.circuit > 0.01  # of all cells' distance: the input's own difference in A' stays
    for kind in ("layer", "norm"):
        assert max(map(abs, result.controls[kind])) < 1e-9 and result.p(kind) == pytest.approx(0.1)
    assert len(result.controls["permuted inputs"]) == 2 and max(result.controls["permuted inputs"]) < 0.2 * result.circuit
    one = measures.placebo(circuit, clean[0], corrupted[0], draws=2, measure=likeness(clean[0]), progress=False)
    assert one.circuit == pytest.approx(1, abs=1e-6) and "permuted inputs" not in one.controls and "one input" in repr(one)


def test_two_heads_in_series_are_found_with_the_edge_between_them(series):
    clean, corrupted = pair(series)
    measure = likeness(clean)
    shown = (clean().latents - clean.x[:, :4])[0, 0, 4:, 4:].flatten()
    held = content_of(1, 1, (8, 8))[0].flatten()
    assert float(torch.corrcoef(torch.stack([-shown, held]))[0, 1]) > 0.95
    for sweep in (
        measures.patch_sweep(clean, corrupted, ALL, steps="all", heads=True, measure=measure, progress=False),
        measures.attribution_patch(clean, corrupted, ALL, steps="all", heads=True, measure=measure),
    ):
        values = {node: float(sweep.recovered[i]) for i, node in sweep.axes.nodes()}
        assert values[FIRST] > 0.4 and values[SECOND] > 0.4
        assert all(abs(value) < 1e-9 for node, value in values.items() if node not in (FIRST, SECOND))
    edges = measures.attribution_patch(clean, corrupted, ALL, edges=True, steps="all", heads=True, measure=measure)
    table = {(row["sender"], row["receiver"]): row["recovered"] for row in edges.rows()}
    wanted = {(FIRST, SECOND), (SECOND, "output")}
    assert all(table[edge] > 0.4 for edge in wanted)
    assert all(abs(value) < 1e-9 for edge, value in table.items() if edge not in wanted)
    exact = measures.path_patch(clean, corrupted, list(edges.senders), list(edges.receivers), ALL, measure=measure, progress=False)
    for row in exact.rows():
        edge = (row["sender"], row["receiver"])
        if edge in wanted:
            assert row["recovered"] > 0.9
        elif row["sender"] != row["receiver"]:
            assert abs(row["recovered"]) < 1e-9
    for by in ("attribution", "patch"):
        circuit = measures.find_circuit(clean, corrupted, ALL, by=by, measure=measure, progress=False)
        assert set(circuit.nodes) == {FIRST, SECOND} and {edge[:2] for edge in circuit.edges} == wanted
        assert measures.faithfulness(circuit, clean, measure=measure, progress=False).kept == pytest.approx(1, abs=1e-6)


def test_the_receiver_is_heard_through_its_values_and_not_through_its_queries(series):
    clean, corrupted = pair(series)
    inputs = [Node(SECOND.site, point, SECOND.head) for point in ("q", "k", "v")]
    found = measures.path_patch(clean, corrupted, FIRST, inputs, ALL, measure=likeness(clean), progress=False).recovered[0]
    assert float(found[2]) > 0.9 and float(found[:2].abs().max()) < 0.05


def test_the_planted_truth_can_be_missed(unet):
    """The tests above fail where there is nothing to find: without its output weight the head does nothing."""
    nothing = planted_unet()
    nothing.up[1].attn[0].blocks[0].self.to_out.weight.zero_()
    clean, corrupted = pair(nothing)
    with pytest.raises(ValueError, match="measure the same"):
        measures.patch_sweep(clean, corrupted, ALL, heads=True, measure=likeness(clean), progress=False)
    assert float(measures.contribution(clean).values.nan_to_num().max()) == 0
