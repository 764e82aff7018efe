"""The result of a run: pictures, latents, maps, and the record from which it can be repeated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from analogist.grid.enlarge import enlarged
from analogist.grid.pictures import Picture
from analogist.grid.prompt_grid import PromptGrid

if TYPE_CHECKING:
    from analogist.attention.capture.maps import AttentionMap
    from analogist.attention.measure.contribution import Contribution
    from analogist.experiments.score.networks import FeatureNetwork
    from analogist.explore import Explorer


class SamplingError(ValueError):
    """A run failed while sampling or decoding, for example with NaN in the latents. The message says at which step."""


@dataclass(repr=False)
class Step:
    """One executed step, as `Analogist.steps` yields it.

    i: executed step, 0 first. t: training time index, 0..999, of the UNet call. t_next: that of z_t, the t_prev of this DDIM step;
    below 0 past the end of the schedule. z_t: latents after the step [image 4 h w]; assign it to go on from others.
    x0: predicted clean latents [image 4 h w]. eps: guided noise prediction [image 4 h w]. maps: the maps captured in this step.
    """

    i: int
    t: int
    t_next: int
    z_t: Tensor
    x0: Tensor
    eps: Tensor
    maps: "Mapping[str, AttentionMap]" = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Step {self.i}: t {self.t}, z_t {_axes(self.z_t)}, maps {len(self.maps)}"


@dataclass(frozen=True, repr=False)
class Result:
    """The outcome of one call; of several grids or prompts the images of the first come first.

    b_primes: the B' cells, one per image. grids: the whole decoded grids. latents: image 4 h w, the last latents, VAE-scaled.
    pixels: image 3 height width in about [-1, 1]. maps: those requested by capture=. record: JSON-ready, everything needed to run it again.
    prompt_grids: what it was painted from, one per grid (or prompt) of the call.
    If a grid's A and B are aligned, A' and B have swapped places in latents, pixels and maps, which are of the picture that the model
    sees; in grids they are back in theirs.
    """

    b_primes: list[Image.Image]
    grids: list[Image.Image]
    latents: Tensor
    pixels: Tensor
    maps: "Mapping[str, AttentionMap]"
    record: dict
    prompt_grids: tuple[PromptGrid, ...] = ()

    @property
    def b_prime(self) -> Image.Image:
        """The first image's B' cell."""
        return self.b_primes[0]

    @property
    def b_primes_inner(self) -> list[Image.Image]:
        """B' of each image without the grid's white border; otherwise as in `b_primes`."""
        grids = [self._grids()[of] for of in self._analogies()]
        return [grid.b_prime(picture, without_border=True) for grid, picture in zip(grids, self.grids, strict=True)]

    @property
    def b_prime_inner(self) -> Image.Image:
        """The first image's B' without the grid's white border; `b_prime` stays the whole cell."""
        return self.b_primes_inner[0]

    def _grids(self) -> tuple[PromptGrid, ...]:
        if not self.prompt_grids:
            raise ValueError("this result does not hold the grids it was painted from; take one that a call of the model returned")
        return self.prompt_grids

    def _analogies(self) -> list[int]:
        """For each image which of `prompt_grids` it was painted from; where an edit asked for copies, images are (copy image)."""
        images = len(self.record["seeds"])
        each = images // len(self._grids())
        return [k % images // each for k in range(len(self.grids))]

    def score(
        self, truth: Picture | Sequence[Picture], *, clip: "FeatureNetwork | None" = None, dino: "FeatureNetwork | None" = None
    ) -> dict[str, float] | list[dict[str, float]]:
        """How near B' is to the true one, by metric; of several grids or prompts a list, one dict each.

        truth: path, PIL image or uint8 array [H W 3], without border, fitted into its cell as B was; for several grids one for all or
        a list. A value is the mean over the images. The border is left out. mse (levels 0..1) and psnr (dB) are always there, the
        studies' other metrics where the extra `eval` (`perceptual` for lpips) is installed; clip, dino: networks of `load_network`
        for the metrics that need them. What could not be measured is not in the dict. Raises ValueError for a bad truth.
        """
        from analogist.experiments.score.truth import score

        painted = [[p for p, of in zip(self.grids, self._analogies(), strict=True) if of == k] for k in range(len(self._grids()))]
        found = score(self._grids(), painted, truth, clip=clip, dino=dino)
        return found if isinstance(self.record["grid"], list) else found[0]

    def explore(
        self, *, label: str | None = None, contribution: "Contribution | None" = None, max_bytes: int = 20_000_000
    ) -> "Explorer":
        """The attention explorer of this run: a page that a notebook displays and `.save("look.html")` writes.

        The run's capture= says what it holds; `analogist.explore.for_explorer` plans one. label: name of the run. contribution:
        of `measures.contribution` for this run, to stand beside the share of attention. max_bytes: of the page. Several runs side by
        side: `analogist.explore.explore([one, other])`. Raises ValueError if nothing was captured.
        """
        from analogist.explore import explore

        return explore(self, labels=label, contribution=contribution, max_bytes=max_bytes)

    def __repr__(self) -> str:
        seeds = self.record.get("seeds", [])
        shown = ", ".join(map(str, seeds[:6])) + (", ..." if len(seeds) > 6 else "")
        whole, cell = self.grids[0], self.b_prime
        images = f"{len(self.grids)} image{'s' if len(self.grids) > 1 else ''}"
        sizes = f" of {whole.width} x {whole.height} px, B' {cell.width} x {cell.height} px"
        checkpoint = self.record.get("checkpoint", {}).get("name", "unknown")
        return "\n".join([
            f"Result: {images}{sizes}; seeds {shown or 'none'}",
            f"  prompt {_short(self.record.get('prompt'))}; checkpoint {checkpoint}",
            f"  latents {_axes(self.latents)}, pixels {_axes(self.pixels)}, maps {len(self.maps)}",
        ])  # fmt: skip

    def _repr_png_(self) -> bytes | None:
        """Notebooks show the first image's grid; small ones enlarged."""
        return enlarged(self.grids[0])._repr_png_()


def _axes(tensor: Tensor) -> str:
    """A tensor's lengths and type: [1 4 16 16] float32."""
    return f"[{' '.join(map(str, tensor.shape))}] {str(tensor.dtype).removeprefix('torch.')}"


def _short(text: object) -> str:
    """A text on one line of at most 80 characters."""
    quoted = repr(text)
    return quoted if len(quoted) <= 80 else quoted[:77] + "..."
