"""Attribution patching: what every patch would do, to first order, from one forward and one backward pass for all of them.

    effect of a node  ~  (activation in the clean run - in the corrupted one) . d measure / d activation, at the corrupted run

Gradients are taken at the corrupted run: at the clean run the default measure, a squared distance from that run, has gradient zero.
Source: Nanda 2023, "Attribution Patching"; Syed et al. 2023 (edges, in edges.py); integrated gradients at a node as in Marks et al. 2024,
"Sparse Feature Circuits", Sec. 3.1 (after Sundararajan et al. 2017).
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from analogist.attention.capture.capture import Capture
from analogist.attention.edit.node import Node
from analogist.attention.edit.put import Stored
from analogist.attention.edit.watch import Key, Watch
from analogist.attention.measure.edges import OUTPUT, EdgeSweep, edge_effects
from analogist.attention.measure.gradients import asked, gradients_of, products
from analogist.attention.measure.runs import Measure, Run, Runs, call, learn, paired, same_steps
from analogist.attention.measure.sweep import axes_of_all, captured, contrast_of, said_of
from analogist.attention.measure.sweep_result import Sweep, SweepAxes
from analogist.attention.select.regions import Region
from analogist.models.control import At


def attribution_patch(
    clean: Runs, corrupted: Runs, points: str | Sequence[str] = "*.self:head_out", *, steps: Sequence[int] | str | None = None,
    heads: bool = False, branches: Sequence[str] | None = None, query: Sequence[Region] | None = None,
    key: Sequence[Region] | None = None, measure: Measure | None = None, edges: bool = False, integrated: int = 0,
    progress: bool = False,
) -> Sweep | EdgeSweep:  # fmt: skip
    """The effect of every patch of a sweep, to first order, from one forward and one backward pass for all of them.

    Arguments and result as for `patch_sweep`; a measure must return a tensor that gradients can pass through. One that reads the
    result's pixels says so by an attribute, `pixels = True`, so that the decoder keeps its graph; latents are always ready.
    edges: returns an EdgeSweep, what each head does through each later head and no other, with one backward pass per receiving head.
    The network between the points is linearised at the corrupted run. The edges that leave a node sum to its attribution.
    integrated: how many points between corrupted and clean activations gradients are averaged over, with one run per point, site and
    step; 0: the gradient at the corrupted run alone. With many points the attributions of all heads of a site sum to the effect of
    patching it whole.
    The corrupted run keeps the graph of what follows the first point: it needs as much memory as training.
    Raises ValueError where the measure's value has no gradient.
    """
    selectors = [points] if isinstance(points, str) else list(points)
    if isinstance(integrated, bool) or not isinstance(integrated, int) or integrated < 0:
        raise ValueError(f"integrated {integrated!r}: expected a number of points, at least 1, or 0 for the corrupted run's gradient alone")
    if edges and integrated:
        raise ValueError("attribution_patch: edges are linear at the corrupted run; leave integrated out")
    each, contrasts, runs, inputs = [], [], 0, []
    for good, bad in paired(clean, corrupted):
        result, learnt = learn(good, capture=Capture(*selectors, steps=captured(steps)))
        inputs.append(learnt)
        axes = axes_of_all(inputs, selectors, steps, heads, branches, query, key, "attribution_patch")
        kept = Stored(result.maps)
        pixels = getattr(measure, "pixels", False)
        watch = Watch(cut=edges, steps=captured(steps), pixels=pixels)
        outcome = call(bad, edit=dict.fromkeys(selectors, watch))
        contrast, measuring = contrast_of("attribution_patch", good, result, outcome, measure)
        contrasts.append(contrast)
        runs += 2
        with torch.enable_grad():
            value = asked(measuring(outcome))
            same_steps([learnt.known()[0], watch.run], "attribution_patch")
            if edges:
                each.append(edge_effects(value, watch, axes, kept, progress))
                continue
            if integrated:
                slopes = _integrated(bad, watch, axes, kept, measuring, integrated)
                runs += integrated * len(list(_ways(axes)))
            else:
                slopes = gradients_of(value, watch.seen)
        moves = {place: (kept(tensor, watch.at[place]) - tensor).detach() for place, tensor in watch.seen.items()}
        each.append(_reduced({place: products(slope, moves[place]) for place, slope in slopes.items()}, watch, axes))
    said = (tuple(contrasts), "attribution", said_of(contrasts), runs)
    if edges:
        nodes = tuple(node for _, node in axes.nodes())
        return EdgeSweep(torch.stack(each), nodes, (*nodes, OUTPUT), *said, axes)
    return Sweep(torch.stack(each), axes, *said)


def _reduced(found: dict[Key, Tensor], watch: Watch, axes: SweepAxes) -> Tensor:
    """Sums of the products over the entries of each node, as the axes of a sweep."""
    effect = torch.full(axes.shape, float("nan"), dtype=torch.float32, device="cpu")
    for index, node in axes.nodes():
        effect[index] = sum(
            float(product[node.index(watch.at[place], watch.run)].sum())
            for place, product in found.items()
            if places_match(place, node)
        )
    return effect


def places_match(place: Key, node: Node) -> bool:
    """Whether a node is a part of a watched place."""
    return place[:2] == (node.site, node.point) and node.acts(place[2])


def _integrated(bad: Run, watch: Watch, axes: SweepAxes, kept: Stored, measure: Measure, count: int) -> dict[Key, Tensor]:
    """Gradients averaged along the way from corrupted to clean activations of one site (and step) at a time, midpoint rule."""
    total: dict[Key, Tensor] = {}
    for selector, steps in _ways(axes):
        for i in range(count):
            weight = (i + 0.5) / count

            def between(tensor: Tensor, at: At, weight: float = weight) -> Tensor:
                start = watch.made[at.site.name, at.point, at.step].detach()  # where steps are moved together, later ones start there too
                return start + weight * (kept(tensor, at) - start)

            moved = Watch(value=between, steps=steps, pixels=getattr(measure, "pixels", False))
            value = asked(measure(call(bad, edit={selector: moved})))
            for place, slope in gradients_of(value, moved.seen).items():
                total[place] = total.get(place, 0) + slope / count
    return total


def _ways(axes: SweepAxes) -> Iterator[tuple[str, list[int] | None]]:
    """Selector and steps of activations that are moved together."""
    for site, point, _ in axes.places:
        for step in axes.steps:
            yield f"{site}:{point}", None if step < 0 else [step]
