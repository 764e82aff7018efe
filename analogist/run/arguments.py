"""The arguments of a call, checked and resolved, and the run that they make.

Place in the flow: between `Analogist.__call__` / `steps` and sampling.Run.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Generator, Tensor

from analogist.attention.edit.asks import asks_of
from analogist.attention.select.run_shape import RunShape
from analogist.attention.tap import StudyTap
from analogist.checkpoints.prompt_words import check_text
from analogist.config import AnalogistConfig, with_suffix
from analogist.grid.prompt_grid import PromptGrid
from analogist.models.control import FORMS
from analogist.models.numbers import plain
from analogist.models.text import EncodedText, PooledText
from analogist.run.memory import MOST_COPIES, images_at_once
from analogist.run.record import tensor_key
from analogist.run.sampling import Run, encode_grid
from analogist.run.seeds import Randomness

if TYPE_CHECKING:
    from analogist.pipeline import Analogist


class Default:
    """Stands for "the checkpoint's own, else the published one" in arguments."""

    def __repr__(self) -> str:
        return "DEFAULT"


DEFAULT = Default()


def resolve_prompts(
    model: "Analogist", prompt: str, negative: str | Default, suffix: str | Default, text: EncodedText | None
) -> dict:
    """What a record says of the prompts, defaults filled in. Raises ValueError where prompts and text= are both given."""
    if text is not None:
        if prompt or not isinstance(negative, Default) or not isinstance(suffix, Default):
            raise ValueError("text= stands instead of prompt, negative_prompt and prompt_suffix; give one or the others")
        return {"prompt": None, "negative_prompt": None, "prompt_suffix": None, "text_sha256": _key_of(text)}
    negative = model.negative_prompt if isinstance(negative, Default) else negative
    suffix = model.prompt_suffix if isinstance(suffix, Default) else suffix
    for name, value in (("prompt", prompt), ("negative_prompt", negative), ("prompt_suffix", suffix)):
        check_text(value, name)
    return {"prompt": prompt, "negative_prompt": negative, "prompt_suffix": suffix}


def _key_of(text: object) -> str | None:
    """A content key of given text; None for what `encode` refuses."""
    if isinstance(text, PooledText):
        return tensor_key(*(part for part in (text.tokens, text.pooled, text.sizes) if part is not None))
    return tensor_key(text) if isinstance(text, Tensor) else None


def encode(model: "Analogist", prompts: dict, text: EncodedText | None, size: tuple[int, int]) -> EncodedText:
    """Encoded prompts, or text= checked and on the model's device. size: height, width of the picture."""
    if text is None:
        prompt = with_suffix(prompts["prompt"], prompts["prompt_suffix"])
        return model.encode_text(prompt, prompts["negative_prompt"], size=size)
    width = model.unet.config.text_width
    kind = PooledText if model.unet.config.pooled_width else Tensor
    if not isinstance(text, kind) or text.ndim != 3 or text.shape[0] != 2 or text.shape[2] != width:
        given = f"{type(text).__name__} {tuple(getattr(text, 'shape', ()))}"
        raise ValueError(
            f"text {given}: give [branch token channel] = [2 n {width}] as a {kind.__name__}, branch 0 negative and 1 prompt"
        )
    if isinstance(text, PooledText) and text.sizes is None:
        text = text.of_size(*size)
    return text.to(model.device, model.dtype)


def prepare(
    model: "Analogist", grid: PromptGrid, prompts: dict, text: EncodedText | None, images: int, seed: int, generator: Generator | None,
    config: AnalogistConfig | None, capture, edit, attention: str | None, batch: int | None,
) -> tuple[Run, StudyTap | None, PromptGrid]:  # fmt: skip
    """Checks every argument, then encodes text and pictures; the grid comes back with its size resolved."""
    attention = model.attention if attention is None else check_form(attention)
    images, seed, batch = plain(images), plain(seed), plain(batch)
    grid, config, times, seeds = model.check(grid, images=images, seed=seed, config=config)
    sampling, randomness = config.sampling, Randomness(seeds, generator)
    h, w = (side // model.vae.config.factor for side in grid.size)
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise ValueError(f"batch {batch!r}: a whole number from 1 up is allowed")
    if batch is not None and batch < images and (capture is not None or edit is not None):
        raise ValueError(f"batch {batch} with capture= or edit=: they see all {images} images together; leave batch out")
    tap, asks = None, asks_of(edit)
    looks = capture is not None or edit is not None
    fit = images_at_once(
        model.unet.config, images=images if edit is None else MOST_COPIES * images, branches=sampling.branches, h=h, w=w,
        device=model.device, dtype=model.dtype, maps=attention == "explicit" or looks,
    )  # fmt: skip
    if looks:
        shape = RunShape(
            steps=len(times), times=tuple(t for t, _ in times), branches=sampling.branches, images=images * asks.copies, latent=(h, w),
            rows=grid.rows, tokens=model.text.length if text is None else text.shape[1], dtype=model.dtype, size=grid.size,
            words=model.text, prompts=prompts, copies=asks.copies, room=max(1, fit // images),
        )  # fmt: skip
        tap = StudyTap(capture, edit, model.unet, shape)
        images = images * asks.copies
        batch = images  # maps of all images are looked at together
    encoded = encode(model, prompts, text, grid.size)
    start = encode_grid(model.vae, grid, randomness.draw(model.vae.config.latent_channels, h, w)).copies(asks.copies)
    run = Run(
        unet=model.unet, schedule=model.schedule, start=start, text=encoded, times=times, config=config,
        randomness=randomness, rows=grid.rows, attention=attention,
        images_at_once=min(batch or fit, images), tap=tap, gradients=asks.gradients, copies=asks.copies,
    )  # fmt: skip
    for control in run.controls():  # "fused" where a map is wanted is an error before the first UNet call
        for site in model.unet.sites:
            control.form_at(site)
    return run, tap, grid


def check_form(attention: str | Mapping) -> str | Mapping:
    """The attention form as it was given. Raises ValueError for an unknown one."""
    if not isinstance(attention, Mapping) and attention not in FORMS:
        raise ValueError(f"attention {attention!r}: allowed are {', '.join(FORMS)}")
    return attention
