"""Results with captured maps for the explorer's tests, of any size and model, made without running a model: the maps are random."""

import functools
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from analogist import Analogist, PromptGrid
from analogist.attention.capture.maps import AttentionMap
from analogist.attention.select.run_shape import RunShape
from analogist.config import AnalogistConfig
from analogist.explore.detail import LADDER, first_fitting
from analogist.explore.page_plan import BEFORE, DTYPE, MAX_BYTES, SLACK, captures, values, wanted
from analogist.models.placement import Site
from analogist.models.unet import UNet, UNetConfig
from analogist.run.result import Result

SD15 = UNetConfig()
SD2 = UNetConfig(heads=(5, 10, 20, 20), text_width=1024)
SDXL = UNetConfig(channels=(320, 640, 1280), depth=(0, 2, 10), mid_depth=10, heads=(5, 10, 20), text_width=2048)
LAB = UNetConfig(channels=(32, 64, 64, 64), heads=(1, 2, 2, 2), text_width=64, norm_groups=8)
SMALL = UNetConfig(channels=(16, 24, 32, 32), heads=(2, 2, 4, 4), text_width=12, norm_groups=8)


HERE = Path(__file__).parent
CHECKPOINT, GRID = HERE / "parity" / "checkpoint", HERE / "parity" / "grid.png"


@functools.cache
def small_run() -> tuple[Analogist, PromptGrid, AnalogistConfig]:
    """A model, a grid of 128 px and settings of two steps, for runs that take a second."""
    model = Analogist.from_checkpoint(CHECKPOINT, device="cpu")
    return model, PromptGrid.from_image(GRID, size=128), model.config.replace(steps=2, strength=1.0)


@functools.cache
def sites_of(config: UNetConfig) -> tuple[Site, ...]:
    """The sites of a UNet, without its weights."""
    with torch.device("meta"):
        return tuple(UNet(config).sites)


class Words:
    """Tokens by spaces: enough to name columns."""

    def positions(self, prompt: str, word: str) -> list[int]:
        return [i for i, token in enumerate(prompt.split(), 1) if token == word]

    def tokens(self, prompt: str) -> list[str]:
        return ["<|startoftext|>", *prompt.split(), "<|endoftext|>"]


def shape_of(size: tuple[int, int], *, rows: int = 2, steps: int = 5, images: int = 1, prompt: str = "a red boat") -> RunShape:
    """A run's shape at a picture size in pixels."""
    return RunShape(
        steps=steps, times=tuple(981 - 20 * i for i in range(steps)), branches=2, images=images, latent=(size[0] // 8, size[1] // 8),
        size=size, rows=rows, words=Words(), prompts=("messy", prompt),
    )  # fmt: skip


def fake_result(
    config: UNetConfig, run: RunShape, *, settings: AnalogistConfig | None = None, max_bytes: int = MAX_BYTES, seed: int = 0,
    sites: str = "",
) -> Result:  # fmt: skip
    """A result that holds what `for_explorer` would have captured, with random values. sites: only those whose name starts so."""
    settings = settings or AnalogistConfig()
    table = [site for site in sites_of(config) if site.name.startswith(sites)]
    points = wanted(table, run, settings.sac, settings.cam)
    place = first_fitting(lambda detail: sum(values(*point, detail, run) for point in points), SLACK * max_bytes)
    rng = np.random.default_rng(seed)
    by_name = {site.name: site for site in table}
    maps = {}
    for capture in captures(points, LADDER[place], run):
        for pattern in capture.patterns:
            name, point = pattern.split(":")
            m = fake_map(by_name[name], point, capture, run, rng)
            maps[m.name] = m
    pictures = [Image.fromarray(smooth(rng, run.size)) for _ in range(run.images)]
    record = {
        "grid": {"size": list(run.size), "rows": run.rows, "sha256": ""}, "prompt": run.prompts[1], "negative_prompt": run.prompts[0],
        "prompt_suffix": "", "seeds": [7 + i for i in range(run.images)], "config": settings.to_json(),
        "executed_times": list(run.times), "attention_forms": {site.name: "explicit" for site in sites_of(config)},
        "checkpoint": {"name": "random maps", "trained": True},
    }  # fmt: skip
    none = torch.empty(0)
    return Result(pictures, pictures, none, none, maps, record)


def smooth(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A picture of soft shapes, uint8 [H W 3]."""
    coarse = Image.fromarray(rng.integers(30, 226, (9, 9, 3), dtype=np.uint8))
    return np.array(coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def fake_map(site: Site, point: str, capture, run: RunShape, rng: np.random.Generator) -> AttentionMap:
    """One map of a capture: peaked rows that sum to 1, or logits."""
    hw, names = site.hw(run.latent), [one.name for one in capture.reductions]
    pool = next((one for one in capture.reductions if one.name.startswith("pool_")), None)
    query, key = (1, 1) if pool is None else (pool.query, pool.key)
    queries = hw[0] * hw[1] // query**2
    keys = hw[0] * hw[1] // key**2 if site.kind == "self" else run.tokens
    heads = 1 if "mean_heads" in names else site.heads
    branches = ("text",) if capture.branches == "text" else run.branch_labels
    shape = (len(capture.steps), len(branches), len(capture.images), heads, queries, keys)
    x = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)) * 2
    if point == "probs" or capture.label == BEFORE:
        x = x.softmax(-1)
    axes = ["step", "branch", "image", "head", "query" if pool is None else "pooled_query", "key"]
    if pool is not None and site.kind == "self":
        axes[-1] = "pooled_key"
    if "mean_heads" in names:
        x, axes = x[:, :, :, 0], [*axes[:3], *axes[4:]]
    name = f"{site}:{point}" + (f"@{capture.label}" if capture.label else "")
    prompts = dict(zip(run.branch_labels, run.prompts, strict=True)) if site.kind == "cross" else {}
    return AttentionMap(
        name=name, site=site, point=point, tensor=x.to(DTYPE), axes=tuple(axes), hw=hw, size=run.size, rows=run.rows,
        coords={"step": capture.steps, "branch": branches, "image": capture.images, "head": tuple(range(site.heads))},
        times={step: run.times[step] for step in capture.steps}, reduced=tuple(names), prompts=prompts,
        tokens={branch: tuple(run.words.tokens(prompt)) for branch, prompt in prompts.items()},
    )  # fmt: skip
