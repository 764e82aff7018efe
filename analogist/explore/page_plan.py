"""Plans what a run captures for a page, within the memory and the page size allowed, before anything runs."""

from typing import TYPE_CHECKING, Unpack

import torch

from analogist.attention.capture.capture import Capture
from analogist.attention.select.run_shape import RunShape
from analogist.models.control import CAM, SAC
from analogist.models.placement import BRANCHES, Site
from analogist.run.arguments import resolve
from analogist.run.request import Request

from .coarse import Pool, Softmax
from .detail import LADDER, Detail, first_fitting

if TYPE_CHECKING:
    from analogist.grid.prompt_grid import PromptGrid
    from analogist.pipeline import Analogist
    from analogist.run.request import Call

MAX_BYTES = 20_000_000  # of a page
MAX_MEMORY = 2**30  # bytes of captured maps in memory
SLACK = 3  # values captured per byte of the page: maps compress, and what still does not fit is reduced further
BEFORE = "before"  # label of cross-attention's probabilities before CAM
DTYPE = torch.float16  # finer than the page's 8 bits


def for_explorer(
    model: "Analogist", grid: "PromptGrid", prompt: str = "", *, max_bytes: int = MAX_BYTES, max_memory: int = MAX_MEMORY,
    **call: "Unpack[Call]",
) -> list[Capture]:  # fmt: skip
    """The captures that `result.explore()` needs: `model(grid, prompt, capture=for_explorer(model, grid, prompt))`.

    max_bytes: of the page. max_memory: of the captured maps, in bytes. call: the other arguments of the call (images, config).
    Captured are probabilities at all sites, scores and logits where SAC acts, and cross-attention before CAM where CAM acts.
    Raises ValueError as the call would, and if not even the coarsest maps fit.
    """
    asked = resolve(model, Request(grid=grid, prompt=prompt, **call))
    run, config = asked.shape, asked.config
    points = wanted(model.unet.sites, run, config.sac, config.cam)

    def cost(detail: Detail) -> float:
        return sum(values(site, view, steps, detail, run) for site, view, steps in points)

    budget = min(SLACK * max_bytes, max_memory // DTYPE.itemsize)
    detail = LADDER[first_fitting(cost, budget)]
    if cost(detail) > budget:
        raise ValueError(
            f"even the coarsest maps hold {cost(detail):.0f} values, but only {budget} fit into a page of {max_bytes} bytes and "
            f"{max_memory} bytes of memory; raise max_bytes or max_memory, or choose fewer sites (capture=Capture('up.1.*:probs'))"
        )
    return captures(points, detail, run)


Points = list[tuple[Site, str, tuple[int, ...]]]


def wanted(sites: tuple[Site, ...], run: RunShape, sac: SAC | None, cam: CAM | None) -> Points:
    """(site, view, executed steps) of everything a page can show; a view is probs, scores, logits or before (CAM)."""
    steps = tuple(range(run.steps))
    points: Points = []
    for site in sites:
        points.append((site, "probs", steps))
        acting = acting_steps(sac if site.kind == "self" else cam, site, steps)
        if acting:
            points += [(site, view, acting) for view in (("scores", "logits") if site.kind == "self" else (BEFORE,))]
    return points


def acting_steps(setting: SAC | CAM | None, site: Site, steps: tuple[int, ...]) -> tuple[int, ...]:
    """The steps in which SAC or CAM acts at a site, in any branch and head."""
    if setting is None:
        return ()
    return tuple(i for i in steps if any(setting.placement.heads_at(site, i, branch) for branch in range(len(BRANCHES))))


def kept_images(run: RunShape, detail: Detail) -> int:
    """The number of images of a run that a detail keeps."""
    return run.images if detail.images is None else min(run.images, detail.images)


def values(site: Site, view: str, steps: tuple[int, ...], detail: Detail, run: RunShape) -> int:
    """How many numbers a detail keeps at one point."""
    hw = site.hw(run.latent)
    query, key = detail.factors(hw, run.rows, view)
    queries = hw[0] * hw[1] // query**2
    keys = hw[0] * hw[1] // key**2 if site.kind == "self" else words(run)
    heads = site.heads if detail.all_heads(hw) else 1
    return len(detail.pick_steps(steps, view)) * min(run.branches, detail.branches) * kept_images(run, detail) * heads * queries * keys


def words(run: RunShape) -> int:
    """Number of text columns that a page keeps: the tokens of the longest prompt, and one for the padding."""
    tokens = getattr(run.words, "tokens", None)
    if run.prompts is None or tokens is None:
        return run.tokens
    return min(run.tokens, max(run.tokens if prompt is None else 1 + len(tokens(prompt)) for prompt in run.prompts))


def captures(points: Points, detail: Detail, run: RunShape) -> list[Capture]:
    """The captures of a detail, one per group of points with the same settings."""
    groups: dict[tuple, list[str]] = {}
    for site, view, steps in points:
        hw = site.hw(run.latent)
        query, key = detail.factors(hw, run.rows, view)
        key = key if site.kind == "self" else 1
        mean = site.heads > 1 and not detail.all_heads(hw)
        point = "logits" if view == BEFORE else view
        groups.setdefault((view, query, key, mean, detail.pick_steps(steps, view)), []).append(f"{site}:{point}")
    out = []
    for (view, query, key, mean, steps), names in groups.items():
        reductions = ([Softmax()] if view == BEFORE else []) + ([Pool(query, key)] if max(query, key) > 1 else [])
        out.append(
            Capture(
                *names, steps=steps, branches="text" if detail.branches == 1 else None, images=range(kept_images(run, detail)),
                reduce=reductions + (["mean_heads"] if mean else []) or None, dtype=DTYPE, label=BEFORE if view == BEFORE else None,
            )  # fmt: skip
        )
    return out
