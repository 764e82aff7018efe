"""A request on a checkpoint: checked, with every default filled in, and the run that it makes.

Place in the flow: between a `Request` and sampling.Run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from analogist.attention.edit.asks import asks_of
from analogist.attention.select.run_shape import RunShape
from analogist.attention.tap import StudyTap
from analogist.checkpoints.prompt_words import check_text
from analogist.config import AnalogistConfig, with_suffix
from analogist.grid.prompt_grid import PromptGrid
from analogist.models.control import FORMS
from analogist.models.text import EncodedText, PooledText
from analogist.run.memory import MOST_COPIES, images_at_once
from analogist.run.record import tensor_key
from analogist.run.request import Analogy, Request
from analogist.run.sampling import Run, Start, grid_posteriors
from analogist.run.seeds import Draws, Randomness

if TYPE_CHECKING:
    from analogist.pipeline import Analogist


@dataclass(frozen=True, kw_only=True, eq=False)
class Resolved:
    """A request on one checkpoint: every default filled in and every argument checked; nothing has run.

    grids: with their sizes, one per analogy. prompts: what a record says of each analogy's prompts. times: (t, t_prev) of the
    executed steps. seeds: one per image of all analogies. shape: what captures and edits are planned against.
    """

    request: Request
    grids: tuple[PromptGrid, ...]
    prompts: tuple[dict, ...]
    config: AnalogistConfig
    times: list[tuple[int, int]]
    seeds: tuple[int, ...]
    attention: str | Mapping
    shape: RunShape


def resolve(model: "Analogist", request: Request) -> Resolved:
    """Checks every argument and fills in what the request leaves to the checkpoint; nothing runs. Raises ValueError."""
    analogies = request.analogies()
    prompts = tuple(resolve_prompts(model, one, request) for one in analogies)
    attention = model.attention if request.attention is None else check_form(request.attention)
    checked = [model.check(one.grid, images=request.images, seed=request.seed, config=request.config) for one in analogies]
    grids = tuple(grid for grid, *_ in checked)
    _, config, times, seeds = checked[0]
    check_alike(grids)
    seeds = seeds * len(analogies)
    if request.generator is not None and request.lists:
        raise ValueError("generator= with lists of grids or prompts: give seed=, so that each draws as it would alone, or one call each")
    h, w = (side // model.vae.config.factor for side in grids[0].known_size)
    check_batch(request, len(seeds))
    if request.latents is not None:
        check_latents(request.latents, (len(seeds), model.vae.config.latent_channels, h, w))
    text = request.text if request.text is None else check_encoded(model, request.text)
    shape = RunShape(
        steps=len(times), times=tuple(t for t, _ in times), branches=config.sampling.branches, images=len(seeds), latent=(h, w),
        rows=grids[0].rows, tokens=model.text.length if text is None else text.shape[1], dtype=model.dtype, size=grids[0].known_size,
        words=model.text, prompts=None if text is not None else branch_prompts(prompts, config.sampling.branches),
    )  # fmt: skip
    return Resolved(
        request=request, grids=grids, prompts=prompts, config=config, times=times, seeds=seeds, attention=attention, shape=shape
    )


def resolve_prompts(model: "Analogist", one: Analogy, request: Request) -> dict:
    """What a record says of one analogy's prompts. Raises ValueError where prompts and text= are both given."""
    if request.text is not None:
        if one.prompt or one.negative_prompt is not None or request.prompt_suffix is not None:
            raise ValueError("text= replaces prompt, negative_prompt and prompt_suffix; give either text= or those")
        return {"prompt": None, "negative_prompt": None, "prompt_suffix": None, "text_sha256": _key_of(request.text)}
    found = {
        "prompt": one.prompt,
        "negative_prompt": model.negative_prompt if one.negative_prompt is None else one.negative_prompt,
        "prompt_suffix": model.prompt_suffix if request.prompt_suffix is None else request.prompt_suffix,
    }
    return {name: check_text(value, name) for name, value in found.items()}


def branch_prompts(prompts: Sequence[dict], branches: int) -> tuple[str | None, ...]:
    """The texts of the branches as they are encoded, in batch order; None for a branch whose text differs between analogies."""
    encoded = [(one["negative_prompt"], with_suffix(one["prompt"], one["prompt_suffix"]))[-branches:] for one in prompts]
    return tuple(texts[0] if len(set(texts)) == 1 else None for texts in zip(*encoded, strict=True))


def _key_of(text: object) -> str | None:
    """A content key of given text; None for what `check_encoded` refuses."""
    if isinstance(text, PooledText):
        return tensor_key(*(part for part in (text.tokens, text.pooled, text.sizes) if part is not None))
    return tensor_key(text) if isinstance(text, Tensor) else None


def check_alike(grids: Sequence[PromptGrid]) -> None:
    """Raises ValueError where grids of one call differ in size or in their number of example pairs."""
    kinds = {f"{grid.known_size[0]}x{grid.known_size[1]} px with {grid.pairs} example pair{'s' * (grid.pairs > 1)}" for grid in grids}
    if len(kinds) > 1:
        raise ValueError(
            f"grids of {', '.join(sorted(kinds))} (height x width) in one call: one size and number of example pairs is allowed; "
            "use with_size, or make one call for each"
        )


def check_batch(request: Request, images: int) -> None:
    """Raises ValueError for a batch that is no number of images, or smaller than what captures and edits see together."""
    batch = request.batch
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise ValueError(f"batch {batch!r}: expected a whole number of at least 1")
    if batch is not None and batch < images and (request.capture is not None or request.edit is not None):
        raise ValueError(f"batch {batch} with capture= or edit=: these need all {images} images in one batch; leave batch out")


def check_latents(latents: object, shape: tuple[int, ...]) -> None:
    """Raises ValueError for latents= that this run cannot start from."""
    given = f"{type(latents).__name__} {list(getattr(latents, 'shape', ()))}"
    if not isinstance(latents, Tensor) or tuple(latents.shape) != shape:
        raise ValueError(f"latents {given}: give [image 4 h w] = {list(shape)}, as model.start(...) returns with the same arguments")
    if not latents.is_floating_point() or not torch.isfinite(latents).all():
        raise ValueError(f"latents {given}, {latents.dtype}: give floating point numbers that are finite")


def check_encoded(model: "Analogist", text: EncodedText) -> EncodedText:
    """text= as it was given. Raises ValueError where the UNet cannot read it."""
    width = model.unet.config.text_width
    kind = PooledText if model.unet.config.pooled_width else Tensor
    if not isinstance(text, kind) or text.ndim != 3 or text.shape[0] != 2 or text.shape[2] != width:
        given = f"{type(text).__name__} {tuple(getattr(text, 'shape', ()))}"
        raise ValueError(
            f"text {given}: give [branch token channel] = [2 n {width}] as a {kind.__name__}, branch 0 negative and 1 prompt"
        )
    return text


def encode(model: "Analogist", resolved: Resolved, copies: int = 1) -> EncodedText:
    """Encoded prompts: [branch token channel] where one text serves all images, else (branch copy image) token channel."""
    text, size = resolved.request.text, resolved.grids[0].known_size
    if text is not None:
        text = text.of_size(*size) if isinstance(text, PooledText) and text.sizes is None else text
        return text.to(model.device, model.dtype)
    read = [(with_suffix(one["prompt"], one["prompt_suffix"]), one["negative_prompt"]) for one in resolved.prompts]
    # each by itself: the bits are then those of a call with this prompt alone
    encoded = {texts: model.encode_text(*texts, size=size) for texts in dict.fromkeys(read)}
    if len(encoded) == 1:
        return encoded[read[0]]
    place = {texts: 2 * i for i, texts in enumerate(encoded)}
    images = [place[texts] for texts in read for _ in range(resolved.request.images)] * copies
    return joined(list(encoded.values()))[[first + branch for branch in (0, 1) for first in images]]


def joined(texts: Sequence[EncodedText]) -> EncodedText:
    """Encoded texts, all of one text encoder, one after another on the batch axis."""
    if not isinstance(texts[0], PooledText):
        return torch.cat(cast("list[Tensor]", list(texts)))
    return PooledText(*(torch.cat([getattr(text, name) for text in texts]) for name in ("tokens", "pooled", "sizes")))


def start_of(model: "Analogist", resolved: Resolved, draws: Draws) -> Start:
    """What the sampler starts from: each grid encoded by itself, so that its bits are those of a call with this grid alone."""
    posteriors = {id(grid): grid_posteriors(model.vae, grid) for grid in {id(grid): grid for grid in resolved.grids}.values()}
    images = resolved.request.images
    parts = [posteriors[id(grid)].start(draws.of(slice(k * images, (k + 1) * images))) for k, grid in enumerate(resolved.grids)]
    return Start(*(torch.cat([getattr(part, name) for part in parts]) for name in ("z0", "noise", "fixed")))


def prepare(model: "Analogist", resolved: Resolved) -> tuple[Run, StudyTap | None]:
    """Encodes text and pictures, and plans what is captured and edited; no UNet call yet."""
    request, shape, config = resolved.request, resolved.shape, resolved.config
    randomness, asks = Randomness(resolved.seeds, request.generator), asks_of(request.edit)
    batch, images, (h, w) = request.batch, shape.images, shape.latent
    looks = request.capture is not None or request.edit is not None
    fit = images_at_once(
        model.unet.config, images=images if request.edit is None else MOST_COPIES * images, branches=shape.branches, h=h, w=w,
        device=model.device, dtype=model.dtype, maps=resolved.attention == "explicit" or looks,
    )  # fmt: skip
    tap = None
    if looks:
        room = max(1, fit // images)
        images = images * asks.copies
        tap = StudyTap(request.capture, request.edit, model.unet, replace(shape, images=images, copies=asks.copies, room=room))
        batch = images  # captures and edits see the maps of all images together
    text = encode(model, resolved, asks.copies)
    start = start_of(model, resolved, randomness.draw(model.vae.config.latent_channels, h, w)).copies(asks.copies)
    run = Run(
        unet=model.unet, schedule=model.schedule, start=start, text=text, times=resolved.times, config=config,
        randomness=randomness, rows=shape.rows, attention=resolved.attention, images_at_once=min(batch or fit, images), tap=tap,
        gradients=asks.gradients, copies=asks.copies, latents=request.latents,
    )  # fmt: skip
    for control in run.controls():  # "fused" at a site that needs a map is an error before the first UNet call
        for site in model.unet.sites:
            control.form_at(site)
    return run, tap


def check_form(attention: str | Mapping) -> str | Mapping:
    """The attention form as given. Raises ValueError for an unknown one."""
    if not isinstance(attention, Mapping) and attention not in FORMS:
        raise ValueError(f"attention {attention!r}: allowed are {', '.join(FORMS)}")
    return attention
