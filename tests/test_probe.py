"""Probes and mean differences find a planted direction and nothing in noise; the split is by input; `edits.add` adds what they found."""

import numpy as np
import pytest
import torch

from analogist.attention.capture.capture import Capture
from analogist.attention.edit import edits as E
from analogist.attention.measure import measures
from tests.study_runs import sample, shape

FF, RES = "up.1.attn.2.ff", "up.2.res.1.block"


def planted(strength: float, *, inputs: int = 40, tokens: int = 8, channels: int = 12, seed: int = 0):
    """Rows of inputs of two kinds that differ along one direction, and noise that tokens of one input share. (x, labels, groups, way)"""
    generator = torch.Generator().manual_seed(seed)
    way = torch.nn.functional.normalize(torch.randn(channels, generator=generator), dim=0)
    kinds, groups = np.arange(inputs) % 2, np.repeat(np.arange(inputs), tokens)
    shared = torch.randn(inputs, channels, generator=generator)[groups]
    own = 0.1 * torch.randn(len(groups), channels, generator=generator)
    x = own + shared - (shared @ way)[:, None] * way + strength * torch.from_numpy(kinds[groups])[:, None] * way
    return x.float(), np.array(["cold", "warm"])[kinds[groups]], groups, way


@pytest.mark.parametrize("channels, strength", [(12, 2.0), (600, 12.0)])  # fewer and more channels than rows
def test_a_probe_reads_a_planted_label_and_permuted_labels_stay_at_chance(channels, strength):
    x, labels, groups, _ = planted(strength, channels=channels)
    probe = measures.linear_probe(x, labels, groups=groups)
    assert probe.accuracy > 0.95 and probe.p == pytest.approx(1 / 100) and probe.classes == ("cold", "warm")
    assert abs(np.mean(probe.control) - 0.5) < 0.1 and len(probe.control) == 99
    assert probe.held_out == 12 * 8 and probe.rows == 28 * 8
    assert np.mean(np.array(probe.predict(x)) == labels) > 0.95
    assert f"held-out accuracy {probe.accuracy:.3f}" in repr(probe)


def test_the_weights_are_those_of_ridge_regression():
    """The normal equations of all rows that were learnt from, on standardised channels, solved anew."""
    x, labels, groups, _ = planted(1.0)
    probe = measures.linear_probe(x, labels, groups=groups, ridge=0.5, permutations=0)
    chance = np.random.default_rng(0)
    held = np.concatenate([chance.permutation(np.flatnonzero(np.arange(40) % 2 == kind))[:6] for kind in range(2)])
    train = ~np.isin(groups, held)
    a, wanted = x[torch.from_numpy(train)].double().numpy(), np.stack([labels[train] == "cold", labels[train] == "warm"], 1).astype(float)
    z = (a - a.mean(0)) / a.std(0, ddof=1)
    weight = np.linalg.solve(z.T @ z + 0.5 * len(z) * np.eye(12), z.T @ (wanted - wanted.mean(0)))
    scores = ((x.double().numpy() - a.mean(0)) / a.std(0, ddof=1)) @ weight + wanted.mean(0)
    np.testing.assert_allclose(probe.scores(x).numpy(), scores, atol=1e-4)


def test_tokens_of_one_input_never_lie_on_both_sides_of_the_split():
    """Tokens of an input are nearly alike: split by rows, noise can be read; split by inputs, it cannot."""
    x, _, groups, _ = planted(0.0)
    labels = np.random.default_rng(1).permutation(np.arange(40) % 2)[groups]
    assert measures.linear_probe(x, labels, permutations=0).accuracy > 0.6
    split = measures.linear_probe(x, labels, groups=groups)
    assert split.p > 0.05 and abs(split.accuracy - np.mean(split.control)) < 0.25


def test_a_mean_difference_is_the_planted_direction_and_its_control_stays_at_chance():
    x, labels, groups, way = planted(2.0, inputs=200)
    found = measures.mean_difference(x, labels, groups=groups)
    assert found.accuracy > 0.9 and found.p == pytest.approx(1 / 100) and abs(np.mean(found.control) - 0.5) < 0.1
    assert float(found.vector @ way) == pytest.approx(2.0, abs=0.05)  # from "cold" to "warm"
    heads = measures.mean_difference(x.unflatten(1, (3, 4)), labels, groups=groups, permutations=0)
    assert torch.equal(heads.vector, found.vector.view(3, 4))


def test_labels_that_cannot_be_told_apart_or_split_are_refused():
    x, labels, groups, _ = planted(1.0, inputs=4)
    with pytest.raises(ValueError, match="all are 'cold'"):
        measures.linear_probe(x, ["cold"] * len(x))
    with pytest.raises(ValueError, match="one label and group per row"):
        measures.linear_probe(x, labels[:-1])
    with pytest.raises(ValueError, match="too few groups: those to learn from"):
        measures.linear_probe(x[:16], labels[:16], groups=groups[:16])
    with pytest.raises(ValueError, match="labels of two classes"):
        measures.mean_difference(x, np.array(["a", "b", "c", "d"])[np.arange(len(x)) % 4])


# --- edits.add ---------------------------------------------------------------------------------------


def run(unet, point, edit=None, **others):
    return sample(unet, shape(images=2, steps=1, **others), Capture(point), edit, sac=None, cam=None)[1].maps[point]


@pytest.mark.parametrize("point", [f"{FF}:stream", f"{FF}:hidden", f"{RES}:act2", f"{RES}:time", "9.self:head_out", "9.cross:v"])
def test_add_adds_the_vector_at_every_token_of_the_chosen_images_and_branches(tiny_unet, point):
    plain = next(iter(sample(tiny_unet, shape(images=2, steps=1), point, sac=None, cam=None)[1].maps.values()))
    vector = torch.arange(float(plain.site.widths[plain.point]))
    edited = run(tiny_unet, plain.name, {point: E.add(vector, 0.5, images=1, branches="text")})
    axes = [axis if axis == "channel" else None for axis in plain.axes]
    expected = plain.tensor.clone()
    expected[:, 1, 1] += 0.5 * vector.view([-1 if axis else 1 for axis in axes[3:]])
    assert torch.equal(edited.tensor, expected)


def test_add_takes_one_vector_per_head_and_a_region(tiny_unet):
    name = "up.1.attn.2.self:head_out"
    plain, vectors = run(tiny_unet, name), torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    assert plain.shape[3:] == (4, 16, 8)
    edited = run(tiny_unet, name, {name: E.add(vectors, heads=[1, 3], query="B'")})
    expected = plain.tensor.clone()
    tokens = [10, 11, 14, 15]  # of 4 x 4
    for i, head in enumerate((1, 3)):
        expected[:, :, :, head, tokens] += vectors[i]
    assert torch.equal(edited.tensor, expected)
    whole, part = run(tiny_unet, "conv_in:out"), run(tiny_unet, "conv_in:out", {"conv_in:out": E.add(torch.ones(16), 2.0, query="A'")})
    expected = whole.tensor.clone()
    expected[..., :8, 8:] += 2
    assert torch.equal(part.tensor, expected)


@pytest.mark.parametrize("point, edit, why", [
    (f"{FF}:hidden", E.add(torch.ones(24)), r"the vector is \[24\], but up.1.attn.2.ff:hidden has \[128\]"),
    ("9.self:head_out", E.add(torch.ones(3, 8)), r"has \[8\] or \[4, 8\]"), ("9.self:probs", E.add(torch.ones(16)), "has no channels"),
    ("9.self:k", E.add(torch.ones(8), query="B"), "query= has no meaning at up.1.attn.2.self:k"),
    (f"{RES}:time", E.add(torch.ones(24), query="B"), "query= has no meaning"),
])  # fmt: skip
def test_a_vector_that_does_not_fit_is_refused_before_the_run(tiny_unet, point, edit, why):
    with pytest.raises(ValueError, match=why):
        sample(tiny_unet, shape(), edit={point: edit})
    with pytest.raises(ValueError, match="of finite numbers"):
        E.add(torch.tensor([float("nan")]))
