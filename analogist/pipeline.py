"""Analogist: A : A' :: B : B'. Loads a checkpoint and runs the method, as a generator of steps or as one call."""

import difflib
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import torch
from PIL import Image
from torch import Generator, Tensor, nn
from tqdm import tqdm

from analogist.attention.capture.capture import Capture
from analogist.attention.edit.asks import asks_of
from analogist.attention.edit.edits import Edits
from analogist.attention.tap import StudyTap
from analogist.checkpoints import hub
from analogist.checkpoints.devices import TF32, pick_device, pick_dtype, warn_if_slow
from analogist.checkpoints.loras import Lora, as_list, described
from analogist.checkpoints.text_encoder import TextEncoder
from analogist.checkpoints.text_encoder_xl import TwoTextEncoders, text_encoder_of
from analogist.config import NEGATIVE_PROMPT, PROMPT_SUFFIX, AnalogistConfig
from analogist.grid.pictures import Picture
from analogist.grid.prompt_grid import PromptGrid, check_size, to_image
from analogist.models import memory_layout
from analogist.models.compiled import Compiled, refusal
from analogist.models.control import CAM, SAC
from analogist.models.ddim import Schedule
from analogist.models.numbers import plain
from analogist.models.placement import Placement, Site
from analogist.models.text import EncodedText, PooledText
from analogist.models.unet import UNet, UNetConfig
from analogist.models.vae import VAE, VAEConfig
from analogist.run.arguments import check_form, prepare, resolve
from analogist.run.record import make_record
from analogist.run.request import DEFAULT as DEFAULT
from analogist.run.request import Call, Request
from analogist.run.result import Result, Step
from analogist.run.sampling import Run, decode
from analogist.run.seeds import check_seeds
from analogist.weights.embedded import embedded
from analogist.weights.load import Checkpoint, open_checkpoint
from analogist.weights.lora import LoraReport, merge_lora

if TYPE_CHECKING:
    from analogist.run.known_pictures import Inversion, Known


class UntrainedWarning(UserWarning):
    """The checkpoint says of itself that it is not trained: what it paints means nothing."""


def lab_checkpoint() -> Path:
    """The folder of the lab checkpoint, which is used where none is named."""
    return embedded("lab")


class Analogist:
    """The method on one checkpoint. Runs keep nothing on it: two runs cannot influence each other.

    unet, vae, text: the networks. schedule: of the noise, and what the UNet predicts. config: the checkpoint's own settings, else
    the published ones; used where config=None.
    size: default picture size in pixels. device, dtype: where and in what the networks compute. progress: whether calls show a bar.
    """

    def __init__(
        self, checkpoint: Checkpoint, unet: UNet, vae: VAE, text: TextEncoder | TwoTextEncoders, *,
        device: torch.device, dtype: torch.dtype, attention: str = "auto", progress: bool = True,
    ) -> None:  # fmt: skip
        defaults = checkpoint.defaults or {}
        self.checkpoint, self.unet, self.vae, self.text = checkpoint, unet, vae, text
        self.device, self.dtype = device, dtype
        self.attention, self.progress = check_form(attention), progress
        self.config = AnalogistConfig.from_json(defaults["config"]) if "config" in defaults else published_for(unet)
        self.size: int = defaults.get("size", checkpoint.default_size)
        self.negative_prompt: str = defaults.get("negative_prompt", NEGATIVE_PROMPT)
        self.prompt_suffix: str = defaults.get("prompt_suffix", PROMPT_SUFFIX)
        self.trained: bool = defaults.get("trained", True)
        self.schedule = Schedule.from_config(checkpoint.scheduler, device)
        self.source: str | None = None  # the name or hub id it was asked for by
        self.loras: tuple[LoraReport, ...] = ()  # what was merged into it

    @classmethod
    def from_checkpoint(
        cls, path: str | Path | None = None, *, config: str | Path | dict | None = None, vae: str | Path | None = None,
        device: str | torch.device | None = None, dtype: str | torch.dtype | None = None, attention: str = "auto", ema: bool = False,
        lora: Lora | Sequence[Lora] | None = None, progress: bool = True, compile: bool = False, channels_last: bool | None = None,
    ) -> "Analogist":  # fmt: skip
        """Loads a checkpoint.

        path: a .safetensors file (single-file layout), a folder (diffusers layout), "lab" or "lab-generic", which come with the
        package, a name of `analogist weights list` or a hub id owner/name[@revision][:file], which are downloaded where the hub cache
        lacks them; None: "lab".
        config: a folder, JSON file or dict for what shapes can't tell (heads, norm groups). vae: for files that hold none.
        device None: cuda, else mps, else cpu. dtype None: float16 on cuda, else float32; "tf32", on cuda: float32 whose products in the
        UNet are rounded to TF32. attention: "auto", "explicit" or "fused", the default of every call. ema: take the EMA weights where a
        file holds both.
        lora: LoRA files (or folders as PEFT saves them) merged into UNet and text encoder, each a path or (path, scale).
        progress: whether calls show a progress bar; a call's own progress= goes before it, and `model.progress` may be set later.
        compile: the UNet runs as compiled graphs, one per placement and shape; the first call of each takes minutes, which lines on
        standard error say. What is captured or edited runs as it stands within them; calls with gradients are not compiled.
        channels_last: the order of a picture's memory in UNet and VAE; None: where it was measured to be faster (models/memory_layout.py).
        Raises ValueError (WeightsError) that says what the file is and what to do.
        """
        device, tf32 = pick_device(device), dtype == TF32
        dtype = pick_dtype(dtype, device)
        warn_if_slow(device, dtype)
        check_form(attention)
        if compile and (why := refusal(device)):
            raise ValueError(f"compile=True on {device}: {why}")
        loras = as_list(lora)
        found = lab_checkpoint() if path is None else hub.find(path, dtype="fp32" if dtype == torch.float32 else "fp16")
        checkpoint = open_checkpoint(found, config=config, vae=vae, ema=ema)
        with torch.device("meta"):
            unet, autoencoder = UNet(UNetConfig(**checkpoint.unet)), VAE(VAEConfig(**checkpoint.vae))
        checkpoint.load_unet(unet, dtype=dtype, device=device)
        in_float32 = checkpoint.vae_float32 and dtype == torch.float16
        checkpoint.load_vae(autoencoder, dtype=torch.float32 if in_float32 else dtype, device=device)
        if in_float32:
            checkpoint.notes.append("VAE: computes in float32, since float16 overflows in it (force_upcast)")
        text = text_encoder_of(checkpoint, dtype=dtype, device=device)
        merged = [merge_lora(file, unet, *text.models, scale=scale) for file, scale in loras]
        checkpoint.notes += [f"LoRA {report.path.name}: {note}" for report in merged for note in report.notes]
        for network in (unet, autoencoder, *text.models):
            network.eval().requires_grad_(False)
        unet.tf32 = tf32
        if memory_layout.pays(device, dtype) if channels_last is None else channels_last:
            memory_layout.channels_last(unet)
            memory_layout.channels_last(autoencoder)
        model = cls(checkpoint, unet, autoencoder, text, device=device, dtype=dtype, attention=attention, progress=progress)
        checkpoint.fingerprint  # noqa: B018 - read now: the file may be replaced later
        model.loras = tuple(merged)
        model.source = None if path is None or hub.is_local(path) else str(path)
        if compile:
            unet.compiled = Compiled(mode="reduce-overhead", announce=lambda line: tqdm.write(line, file=sys.stderr))
        if not model.trained:
            warnings.warn(f"{checkpoint.path}: this checkpoint is not trained, its pictures mean nothing", UntrainedWarning, stacklevel=2)
        return model

    def __call__(
        self, grid: PromptGrid | Sequence[PromptGrid], prompt: str | Sequence[str] = "", *,
        negative_prompt: str | Sequence[str] | None = None, prompt_suffix: str | None = None, text: EncodedText | None = None,
        images: int = 1, seed: int = 42, generator: Generator | None = None, config: AnalogistConfig | None = None,
        capture: Capture | str | Sequence[Capture | str] | None = None, edit: Edits | None = None,
        attention: str | Mapping | None = None, progress: bool | None = None, batch: int | None = None, latents: Tensor | None = None,
    ) -> Result:  # fmt: skip
        """Paints B' and returns the Result. An argument that is None is the checkpoint's own, else the published one.

        grid, prompt, negative_prompt: one, or lists of one length of any of them (grids of one size and number of example pairs); the
        result then has the images of the first, of the second, ...
        prompt: what B' shows; the suffix is appended to it. text: Tensor [branch token channel] (branch 0 negative, 1 prompt; for
        SDXL a PooledText of two rows) instead of the prompts. images: how many of each grid, with seeds seed, seed + 1, ...: a grid
        of a list gets what a call with this grid alone gives.
        generator: one torch.Generator, consumed in the published order, instead of seeds.
        capture, edit: see `analogist.attention`. attention: "auto", "explicit" or "fused". progress: whether a bar is shown.
        batch: images in one UNet call; None: as many as memory allows (the record says how many).
        latents: image 4 h w, in place of those that `start` returns with the same arguments; every other draw stays as it is.
        Raises ValueError on bad arguments, before any network runs; SamplingError on NaN, naming the step.
        """
        request = Request(
            grid=grid, prompt=prompt, negative_prompt=negative_prompt, prompt_suffix=prompt_suffix, text=text, images=images, seed=seed,
            generator=generator, config=config, capture=capture, edit=edit, attention=attention, progress=progress, batch=batch,
            latents=latents,
        )  # fmt: skip
        resolved = resolve(self, request)
        run, tap = prepare(self, resolved)
        record = make_record(run, resolved, self.vae, checkpoint=self.describe(), device=self.device, dtype=self.dtype)
        last = run.start.z0
        for step in _walk(run, tap, self.progress if progress is None else progress):
            last = step.z_t
        pixels = decode(self.vae, last, gradients=asks_of(edit).pixels)
        each = [grid for grid in resolved.grids for _ in range(request.images)] * run.copies
        grids = [grid.as_given(to_image(picture)) for grid, picture in zip(each, pixels, strict=True)]
        b_primes = [grid.b_prime(picture) for grid, picture in zip(each, grids, strict=True)]
        return Result(b_primes, grids, last, pixels, {} if tap is None else tap.maps, record, resolved.grids)

    def steps(self, grid: PromptGrid | Sequence[PromptGrid], prompt: str | Sequence[str] = "", **call: Unpack[Call]) -> Iterator[Step]:
        """The same run as a generator: yields a Step after each executed step; stop whenever you like.

        Arguments as in the call; progress None is off.
        """
        request = Request(grid=grid, prompt=prompt, **call)
        run, tap = prepare(self, resolve(self, request))
        return _walk(run, tap, bool(request.progress))

    def start(self, grid: PromptGrid | Sequence[PromptGrid], prompt: str | Sequence[str] = "", **call: Unpack[Call]) -> Tensor:
        """The latents [image 4 h w] of a run at its first executed time, float32, before any UNet call. Arguments as in the call.

        Changed, they go in again as latents=; a `generator` is used up by this as by the call.
        """
        request = replace(Request(grid=grid, prompt=prompt, **call), capture=None, edit=None)
        run, _ = prepare(self, resolve(self, request))
        return run.start_latents()

    @property
    def alpha_bars(self) -> Tensor:
        """Cumulative products of the noise schedule by training time, float32 [1000]."""
        return self.schedule.alpha_bars

    def preview(self, latents: Tensor) -> Image.Image:
        """The first image of some latents, decoded: the whole grid. latents: image 4 h w, VAE-scaled (step.z_t, step.x0).

        It is what the model sees: if a grid's A and B are aligned, A' and B have swapped places; `grid.as_given` puts them back.
        """
        return to_image(decode(self.vae, latents[:1])[0])

    def at(self, grid: PromptGrid, prompt: str = "", *, b_prime: Picture, t: int = 501, **call: Unpack[Call]) -> "Known":
        """Noises the grid with its true B' to time t and makes one guided UNet call, without sampling.

        b_prime: the true picture of B'. t: 0..999. Further arguments (capture, edit, config, ...) and what comes back:
        `analogist.run.known_pictures.at`.
        """
        from analogist.run import known_pictures

        return known_pictures.at(self, grid, prompt, b_prime=b_prime, t=t, **call)

    def invert(
        self, grid: PromptGrid, prompt: str = "", *, b_prime: Picture, guidance: float = 1.0, refine: int = 3, **call: Unpack[Call]
    ) -> "Inversion":
        """DDIM inversion of the grid with its true B', and its reconstruction error. See `analogist.run.known_pictures.invert`."""
        from analogist.run import known_pictures

        return known_pictures.invert(self, grid, prompt, b_prime=b_prime, guidance=guidance, refine=refine, **call)

    def module(self, at: str | Site) -> nn.Module:
        """The module of a site or block of the UNet, or of the one that a point belongs to.

        at: "up.1.attn.2.self", "9.self" (by layer), "up.1.res.0.block", a point "up.1.attn.2.self:probs", or a Site.
        Raises ValueError naming the nearest sites.
        """
        name, _, point = str(at).partition(":")
        named = {site: module for module in self.unet.modules() if isinstance(site := getattr(module, "site", None), Site)}
        for site, module in named.items():
            if name in (site.name, f"{site.layer}.{site.kind}" if site.layer >= 0 else site.name):
                if point and point not in site.points:
                    raise ValueError(f"point {str(at)!r}: {site.name} has {', '.join(site.points)}")
                return module
        near = difflib.get_close_matches(name, [site.name for site in named], 3, 0.5) or [site.name for site in self.unet.sites[:1]]
        raise ValueError(f"site {name!r}: this UNet has none of this name; the nearest are {', '.join(near)}")

    def encode_text(self, prompt: str, negative_prompt: str = "", *, size: int | tuple[int, int] | None = None) -> EncodedText:
        """Encoded text [branch token channel]: branch 0 negative, 1 prompt. No suffix is appended.

        size: of the picture in pixels, one side or (height, width), which SDXL's text (a PooledText) tells its UNet; None: the model's.
        """
        encoded = self.text.encode([negative_prompt, prompt])
        size = self.size if size is None else plain(size)
        return encoded.of_size(*((size, size) if isinstance(size, int) else size)) if isinstance(encoded, PooledText) else encoded

    def check(
        self, grid: PromptGrid, *, images: int = 1, seed: int = 42, config: AnalogistConfig | None = None
    ) -> tuple[PromptGrid, AnalogistConfig, list[tuple[int, int]], tuple[int, ...]]:
        """Checks the arguments of a call without running anything: sizes, steps, placements, seeds.

        Returns the grid with its size resolved, the configuration, (t, t_prev) of the steps that a run executes, and the
        images' seeds. Raises ValueError saying what is allowed.
        """
        if not isinstance(grid, PromptGrid):
            raise ValueError(f"grid {type(grid).__name__}: give PromptGrid(a, a_prime, b) or PromptGrid.from_image(picture)")
        grid = grid.at_size(self.size)
        check_size(*grid.known_size, *self.size_multiples(grid.rows))
        config = self.config if config is None else config
        if not isinstance(config, AnalogistConfig):
            raise ValueError(f"config {type(config).__name__}: give an AnalogistConfig, e.g. model.config.replace(steps=20)")
        sampling = config.sampling
        times = self.schedule.times(sampling.steps, sampling.strength)
        for setting, kind in ((config.sac, "self"), (config.cam, "cross")):
            if setting is not None:
                setting.placement.check(self.unet.sites, kind, len(times))
        if config.sac is not None:
            config.sac.blocks(grid.rows)  # as many scales as example pairs
        if config.cam is not None:
            config.cam.cells(grid.rows)  # no pair that the grid does not have
        return grid, config, times, check_seeds(seed, images)

    def describe(self) -> dict:
        """What a record says of the checkpoint: name, family and content key; no absolute path."""
        c = self.checkpoint
        return {
            "name": self.source or Path(c.path).name, "family": c.family, "layout": c.layout, "fingerprint": c.fingerprint,
            "prediction_type": self.schedule.prediction_type, "trained": self.trained, "notes": list(c.notes),
            **({"lora": described(self.loras)} if self.loras else {}),
        }  # fmt: skip

    def size_multiples(self, rows: int = 2) -> tuple[int, int]:
        """Height and width must be multiples of these pixels, so that every map splits into rows x 2 cells."""
        # The lowest attention map has one token for factor_vae * factor_unet pixels.
        lowest = self.vae.config.factor * max(site.stride for site in self.unet.sites)
        return lowest * rows, lowest * 2

def _walk(run: Run, tap: StudyTap | None, progress: bool) -> Iterator[Step]:
    """The steps of a run with a progress bar; what is captured is complete when they end, however they end."""
    try:
        yield from tqdm(run.steps(), total=len(run.times), desc="sampling", unit="step", disable=not progress)
    finally:
        if tap is not None:
            tap.close()


def published_for(unet: UNet) -> AnalogistConfig:
    """The published settings, with SAC and CAM at the layers that stand in this UNet for SD's 3..10 (SDXL: 2..65)."""
    placement = Placement.layers(*unet.config.published_layers)
    return AnalogistConfig(sac=SAC(placement), cam=CAM(placement))
