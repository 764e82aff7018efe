"""Known pictures, without generating new ones: one UNet call on a noised true B', and DDIM inversion with its reconstruction error.

Place in the flow: beside the sampler; the same networks, prompts, SAC and CAM, but the latents are given.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Unpack

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from analogist.attention.capture.capture import Capture
from analogist.attention.capture.maps import Maps
from analogist.attention.edit.asks import asks_of
from analogist.attention.edit.edits import Edits
from analogist.attention.select.run_shape import RunShape
from analogist.attention.tap import StudyTap
from analogist.grid.pictures import Picture
from analogist.grid.prompt_grid import PromptGrid, to_image, to_pixels
from analogist.models.numbers import plain
from analogist.run.arguments import encode, resolve
from analogist.run.denoise import guided
from analogist.run.memory import MOST_COPIES, images_at_once
from analogist.run.request import Request
from analogist.run.result import SamplingError
from analogist.run.sampling import Run, Start, decode, encode_grid
from analogist.run.seeds import Randomness

if TYPE_CHECKING:
    from analogist.pipeline import Analogist
    from analogist.run.request import Call

Captures = Capture | str | Sequence[Capture | str] | None


@dataclass(frozen=True)
class Filled:
    """A grid whose B' cell holds a picture, in the form that `encode_grid` reads. grid: with its size resolved."""

    grid: PromptGrid
    b_prime: Picture

    def pixels(self) -> Tensor:
        return to_pixels(self.grid.filled(self.b_prime))

    def masked_pixels(self) -> Tensor:
        return self.grid.masked_pixels()

    def mask_tensor(self) -> Tensor:
        return self.grid.mask_tensor()


@dataclass(frozen=True)
class UNetCalls:
    """The UNet of a model with fixed grid and prompts: call it on any latents at any time; gradients flow if enabled.

    Latents and maps are of the picture that the model sees: if the grid's A and B are aligned, A' and B have swapped places in it.
    grid: with its size resolved. shape: of the run these calls stand for. z0, noise: image 4 h w, clean latents and N(0, 1).
    """

    run: Run
    shape: RunShape
    grid: PromptGrid
    z0: Tensor
    noise: Tensor
    mask: Tensor  # 1 1 h w, 1 on B'

    @property
    def room(self) -> int:
        """Copies of one image that fit into memory together."""
        (h, w), config = self.shape.latent, self.run.unet.config
        return images_at_once(
            config, images=MOST_COPIES, branches=2, h=h, w=w, device=self.z0.device, dtype=self.run.text.dtype, maps=True
        )  # fmt: skip

    def noised(self, t: int) -> Tensor:
        """The latents at training time t."""
        return self.run.schedule.add_noise(self.z0, self.noise, check_time(t, len(self.run.schedule)))

    def eps(
        self, z_t: Tensor, t: int, *, step: int = 0, capture: Captures = None, edit: Edits | None = None, guidance: float | None = None
    ) -> tuple[Tensor, Maps]:
        """Predicted noise [image 4 h w] and what was captured. Arguments as for `output`."""
        out, maps = self.output(z_t, t, step=step, capture=capture, edit=edit, guidance=guidance)
        return self.run.schedule.eps(z_t, out, t), maps

    def output(
        self, z_t: Tensor, t: int, *, step: int = 0, capture: Captures = None, edit: Edits | None = None, guidance: float | None = None
    ) -> tuple[Tensor, Maps]:
        """The network's guided output [image 4 h w] and what was captured; wrap it in torch.no_grad() if no gradient is needed.

        z_t: image 4 h w. step: the executed step that it represents for placements, edits and captures. guidance: None: the
        configuration's; 1 runs only the text branch.
        """
        guidance = self.run.config.sampling.guidance if guidance is None else guidance
        config = self.run.config.replace(guidance=guidance)
        times = [(t, -1)] * (step + 1)
        run = replace(self.run, config=config, times=times, tap=None)
        tap = None
        if capture is not None or edit is not None:
            branches = run.branches
            prompts = None if self.shape.encoded is None else self.shape.encoded[-branches:]
            shape = replace(
                self.shape, steps=step + 1, times=(t,) * (step + 1), first=step, branches=branches, prompts=prompts, images=z_t.shape[0],
                copies=asks_of(edit).copies, room=self.room,
            )  # fmt: skip
            tap = StudyTap(capture, edit, self.run.unet, shape)
        images = z_t.shape[0]
        fixed = run.start.fixed.expand(images, -1, -1, -1)
        out = guided(run.unet, z_t, fixed, run.text_of(range(images)), replace(run, tap=tap).control(step, images), guidance)
        return out, Maps({}) if tap is None else tap.maps


def unet_calls(
    model: "Analogist", grid: PromptGrid, prompt: str = "", *, b_prime: Picture | None = None, **call: "Unpack[Call]"
) -> UNetCalls:
    """Prepares single UNet calls: encodes the grid (with a true B' in it, else with B pasted over B') and the prompts once.

    call: negative_prompt, prompt_suffix, text, seed, config and attention, as for the model's call. Raises ValueError as that would.
    """
    request = Request(grid=grid, prompt=prompt, **call)
    request.refuse("unet_calls()", "capture", "edit")
    return _prepared(model, request, b_prime, "unet_calls()")


def _prepared(model: "Analogist", request: Request, b_prime: Picture | None, what: str) -> UNetCalls:
    """The UNet calls that a request asks for; its capture and edit are the single call's. what: names the call in messages."""
    request.one(what)
    request.refuse(what, "images", "generator", "progress", "batch", "latents")
    resolved = resolve(model, request)
    (grid,), shape = resolved.grids, resolved.shape
    source = grid if b_prime is None else Filled(grid, b_prime)
    randomness = Randomness(resolved.seeds)
    start: Start = encode_grid(model.vae, source, randomness.draw(model.vae.config.latent_channels, *shape.latent))
    run = Run(
        unet=model.unet, schedule=model.schedule, start=start, text=encode(model, resolved), times=resolved.times,
        config=resolved.config, randomness=randomness, rows=grid.rows, attention=resolved.attention, images_at_once=1, tap=None,
    )  # fmt: skip
    return UNetCalls(run, shape, grid, start.z0, start.noise, start.fixed[:1, :1])


def check_time(t: int, count: int) -> int:
    """Checks a training time. Raises ValueError outside the schedule."""
    t = plain(t)
    if isinstance(t, bool) or not isinstance(t, int) or not 0 <= t < count:
        raise ValueError(f"t {t!r}: expected a training time in 0..{count - 1}")
    return t


@dataclass(frozen=True, repr=False)
class Known:
    """One UNet call on a known picture. All tensors [image 4 h w], VAE-scaled.

    They are of the picture that the model sees: if the grid's A and B are aligned, A' and B have swapped places in it.
    out: the network's guided output; target: what it was trained to give. Both are the noise, or the velocity of a checkpoint that
    predicts that. eps: the noise that out implies. noise: the noise that was added. x0: clean latents that out implies. z0: the
    true ones.
    """

    t: int
    z_t: Tensor
    eps: Tensor
    noise: Tensor
    x0: Tensor
    z0: Tensor
    mask: Tensor
    maps: Maps
    out: Tensor
    target: Tensor

    def __repr__(self) -> str:
        lengths = " ".join(map(str, self.eps.shape))
        return f"Known: one UNet call at t {self.t}, latents [{lengths}], loss in B' {self.loss:.4g}, maps {len(self.maps)}"

    @property
    def latents(self) -> Tensor:
        """The predicted clean latents, under the name that a run's result uses."""
        return self.x0

    @property
    def error(self) -> Tensor:
        """The loss as a tensor with one number, which gradients can pass."""
        error = ((self.out - self.target) ** 2 * self.mask).sum()
        return error / (self.mask.sum() * self.out.shape[0] * self.out.shape[1])

    @property
    def loss(self) -> float:
        """Mean squared error of the network's output within B': the training loss at this time."""
        return float(self.error.detach())


def at(model: "Analogist", grid: PromptGrid, prompt: str = "", *, b_prime: Picture, t: int = 501, **call: "Unpack[Call]") -> Known:
    """Noises a grid with its true B' to time t and makes one guided UNet call, without sampling.

    b_prime: the true picture of B' (without border), fitted into its cell as the grid's pictures are. t: training time 0..999.
    call: negative_prompt, prompt_suffix, text, seed, config, attention, capture and edit, as for the model's call; this one call
    counts as step 0 (placements limited to some steps act as in step 0). Raises ValueError as the model's call would.
    """
    t = check_time(t, len(model.schedule))
    request = Request(grid=grid, prompt=prompt, **call)
    # what the capture and the edit say of steps is checked against this one call, not against a run
    calls = _prepared(model, replace(request, capture=None, edit=None), b_prime, "at()")
    asks, schedule = asks_of(request.edit), model.schedule
    z_t = calls.noised(t).repeat(asks.copies, 1, 1, 1)
    with torch.set_grad_enabled(asks.gradients):
        out, maps = calls.output(z_t, t, capture=request.capture, edit=request.edit)
        eps, x0 = schedule.eps(z_t, out, t), schedule.x0(z_t, out, t)
    return Known(
        t=t, z_t=z_t, eps=eps, noise=calls.noise, x0=x0, z0=calls.z0, mask=calls.mask, maps=maps,
        out=out, target=schedule.target(calls.z0, calls.noise, t),
    )  # fmt: skip


@dataclass(frozen=True, repr=False)
class Inversion:
    """Latents of a known grid after inverting the sampler's steps, and the result of sampling from them again.

    latents: image 4 h w each, the clean ones first, the noisiest last, at the training times `times` (-1: clean).
    reconstructed: clean latents after sampling forward again. picture: these latents decoded. error: ||reconstructed - z0|| / ||z0||.
    If the grid's A and B are aligned, the latents are of the picture that the model sees, in which A' and B have swapped places; in
    `picture` they are back in theirs.
    """

    times: tuple[int, ...]
    latents: tuple[Tensor, ...]
    reconstructed: Tensor
    picture: Image.Image
    error: float

    def __repr__(self) -> str:
        lengths = " ".join(map(str, self.reconstructed.shape))
        times = f"times {self.times[0]} .. {self.times[-1]}"
        return f"Inversion: {len(self.latents)} latents [{lengths}], {times}, relative error {self.error:.3g}"

    @property
    def z_t(self) -> Tensor:
        """The noisiest latents, from which sampling starts."""
        return self.latents[-1]


@torch.no_grad()
def invert(
    model: "Analogist", grid: PromptGrid, prompt: str = "", *, b_prime: Picture, guidance: float = 1.0, refine: int = 3,
    **call: "Unpack[Call]",
) -> Inversion:  # fmt: skip
    """DDIM inversion of a grid with its true B', then sampling forward again.

    guidance: for both directions; 1 inverts best. refine: fixed-point iterations per step for the latents whose DDIM step gives
    the known ones (0: the usual approximation, which takes the network's output for the latents of the step before).
    call: negative_prompt, prompt_suffix, text, seed, config (its steps and strength; eta has no effect), attention and progress, as
    for the model's call; progress None is off. Raises ValueError as the call would; SamplingError if a step cannot be inverted.
    Source: Song et al. 2021 (DDIM), Sec. 4.3; refinement as in Pan et al. 2023 (AIDI).
    """
    refine, guidance = plain(refine), plain(guidance)
    if isinstance(refine, bool) or not isinstance(refine, int) or refine < 0:
        raise ValueError(f"refine {refine!r}: expected a whole number of at least 0")
    request = Request(grid=grid, prompt=prompt, **call)
    request.refuse("invert()", "capture", "edit")
    calls = _prepared(model, replace(request, progress=None), b_prime, "invert()")
    times = calls.run.times
    schedule = model.schedule

    def output(z: Tensor, i: int) -> Tensor:
        return calls.output(z, times[i][0], step=i, guidance=guidance)[0]

    order = list(reversed(range(len(times))))
    latents = [calls.z0]
    for i in tqdm(order, desc="inverting", unit="step", disable=not request.progress):
        known, z = latents[-1], latents[-1]
        for _ in range(1 + refine):
            z = schedule.step_back(known, output(z, i), *times[i])
        if not torch.isfinite(z).all():
            raise SamplingError(f"step {i} (t = {times[i][0]}) cannot be inverted: NaN or infinite latents; try more steps, or refine=0")
        latents.append(z)
    z = latents[-1]
    for i in tqdm(range(len(times)), desc="sampling", unit="step", disable=not request.progress):
        z, _ = schedule.step(z, output(z, i), *times[i])
    error = float((z - calls.z0).norm() / calls.z0.norm())
    picture = calls.grid.as_given(to_image(decode(model.vae, z[:1])))
    return Inversion((-1, *(times[i][0] for i in order)), tuple(latents), z, picture, error)
