"""Recipes: all settings of a training, as JSON-ready frozen dataclasses.

Two recipes for the networks' geometry are kept here: "small" trains on two CPU cores, "fine" needs a GPU. Each has three parts that
are trained one after the other: the autoencoder ("vae"), the UNet on everything but analogies ("generic"), and from there on analogies
("solver").
"""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from analogist.models.unet import UNetConfig
from analogist.models.vae import VAEConfig


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Geometry of the text encoder (CLIP's, small)."""

    width: int = 64
    layers: int = 2
    heads: int = 2
    positions: int = 77  # tokens per prompt, as in CLIP


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """How a network is optimised. The learning rate rises over `warmup` steps, stays, and falls to 0 over the last `decay` part."""

    batch: int = 32  # grids per step
    learning_rate: float = 1.5e-3
    warmup: int = 200  # steps
    decay: float = 0.25  # part of `steps`
    steps: int = 4000
    weight_decay: float = 0.01
    optimiser: str = "adamw"  # or "muon"
    ema: float = 0.999  # decay of the moving average; smaller in the first steps
    clip: float = 1.0  # largest norm of the gradient
    seed: int = 0


MIX_KINDS = ("scene_analogies", "scene_collages", "drawing_analogies", "plain_analogies", "look_ups", "drawing_collages", "singles")


@dataclass(frozen=True, kw_only=True)
class Mix:
    """The kinds of grids in a training (relative shares), the masks, and what captions describe."""

    scene_analogies: float = 0.0  # of the lab's own scenes
    scene_collages: float = 0.0
    drawing_analogies: float = 0.0  # of drawings by people
    plain_analogies: float = 0.0  # of the drawings' outlines, each in one colour (plain.py)
    look_ups: float = 0.0
    drawing_collages: float = 0.0
    singles: float = 0.0  # one drawing over the whole grid
    only_cell: float = 0.7  # part of the masks that cover exactly B'
    whole_captions: float = 0.0  # part of the captions that describe all four cells; the others describe the painted one

    def kinds(self) -> tuple[str, ...]:
        """The kinds with a share above 0. Raises ValueError if there is none."""
        found = tuple(name for name in MIX_KINDS if getattr(self, name) > 0)
        if not found or any(getattr(self, name) < 0 for name in MIX_KINDS):
            raise ValueError(f"mix {self}: give shares of 0 or more, at least one above 0, for {', '.join(MIX_KINDS)}")
        return found

    @property
    def drawings(self) -> bool:
        """Whether it needs drawings by people."""
        return any(not name.startswith("scene") for name in self.kinds())


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The recipe of one lab checkpoint."""

    name: str
    size: int = 128  # side of the grid in pixels
    vae: VAEConfig = field(default_factory=VAEConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    text: TextConfig = field(default_factory=TextConfig)
    vae_training: Optimisation = field(default_factory=Optimisation)
    generic_training: Optimisation = field(default_factory=Optimisation)
    solver_training: Optimisation = field(default_factory=Optimisation)
    generic: Mix = field(default_factory=lambda: Mix(scene_collages=1.0))
    solver: Mix = field(default_factory=lambda: Mix(scene_analogies=0.5, scene_collages=0.5))
    prediction: str = "v_prediction"  # what the UNet predicts: velocity, or "epsilon", the noise
    dropped: float = 0.3  # part of the captions that are left empty, for guidance
    unknown: float = 0.0  # part of the captions replaced by words outside the vocabulary, so that an unknown name says nothing
    known_weight: float = 0.15  # loss weight of the pixels outside the mask
    snr_ceiling: float = 5.0  # min-SNR weighting (Hang et al. 2023)
    snr_floor: float = 0.3  # smallest weight of the error in x0, so that the noisiest steps count too; 0: plain min-SNR
    skew: float = 0.8  # times are 1000 u^skew with u uniform in [0, 1]; below 1, noisy times are more frequent
    reuse: int = 1  # how many steps use each encoded grid, each with new noise and times
    taught: float = 0.0  # weight of the loss that teaches the solver's heads places (places.py)
    taught_steps: int = 600  # the solver's first steps, in which that loss acts
    kl: float = 1e-4  # weight of the posterior's divergence in the VAE's loss
    edges: float = 0.5  # weight of the error in differences of neighbouring pixels in the VAE's loss
    turned: float = 0.25  # part of the VAE's steps with rotated or halved latents (EQ-VAE); 0: none

    def to_json(self) -> dict:
        """A dict for json.dump. Fields that only SDXL's UNet uses are left out if unused."""
        data = json.loads(json.dumps(asdict(self)))
        if not self.unet.pooled_width:
            del data["unet"]["pooled_width"], data["unet"]["size_width"]
        return data

    def identity(self, part: str) -> dict:
        """The settings that must agree to resume a training of `part` (one of PARTS): all except the number of steps."""
        data = self.to_json()
        data[f"{part}_training"].pop("steps")
        own = ("vae", "size", f"{part}_training", "solver")
        names = {
            "vae": (*own, "kl", "edges", "turned"),
            "generic": (*own, "unet", "text", "generic", *_UNET_SETTINGS),
            "solver": (*own, "unet", "text", *_UNET_SETTINGS, "taught", "taught_steps"),
        }[part]
        return {name: data[name] for name in names}


PARTS = ("vae", "generic", "solver")
_UNET_SETTINGS = ("prediction", "dropped", "unknown", "known_weight", "snr_ceiling", "snr_floor", "skew", "reuse")


def _lists_to_tuples(data: dict) -> dict:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}


def from_json(data: dict) -> Recipe:
    """A recipe from the output of `Recipe.to_json`. Raises ValueError for unknown keys."""
    kinds = {"vae": VAEConfig, "unet": UNetConfig, "text": TextConfig, "vae_training": Optimisation, "generic_training": Optimisation,
             "solver_training": Optimisation, "generic": Mix, "solver": Mix}
    unknown = sorted(set(data) - set(Recipe.__dataclass_fields__))
    if unknown:
        raise ValueError(f"recipe: unknown keys {', '.join(unknown)}; allowed are {', '.join(Recipe.__dataclass_fields__)}")
    parts = {}
    for key, value in data.items():
        if key in kinds:
            extra = sorted(set(value) - set(kinds[key].__dataclass_fields__))
            if extra:
                raise ValueError(f"recipe: unknown keys in {key}: {', '.join(extra)}")
            parts[key] = kinds[key](**_lists_to_tuples(value))
        else:
            parts[key] = value
    return Recipe(**parts)


# The generic stage, a stand-in for Stable Diffusion: collages, series and single pictures with complete captions; no analogy.
GENERIC = Mix(drawing_collages=0.55, scene_collages=0.15, singles=0.3, only_cell=0.3, whole_captions=1.0)
# The solver stage, which continues from the generic one.
SOLVER = Mix(drawing_analogies=0.42, plain_analogies=0.22, scene_analogies=0.17, look_ups=0.08, drawing_collages=0.05, scene_collages=0.02,
             singles=0.04, only_cell=0.85, whole_captions=0.15)
# Smallest loss weight of the error in x0 in the recipes below. In a training with 0.3, a change to 1.0 took 3 % off the watched error at
# t = 961 and 2 % at t = 801 within 220 steps; the 500 steps before had changed both by less than half a per cent.
FLOOR = 1.0


def small() -> Recipe:
    """64 px grids (cells of 32), VAE factor 4, latents 16 x 16: trains on two CPU cores within hours."""
    return Recipe(
        name="small",
        size=64,
        vae=VAEConfig(channels=(24, 48, 64), layers_per_block=1, norm_groups=8),
        unet=UNetConfig(channels=(48, 96, 128, 112), heads=(4, 4, 4, 4), text_width=64, norm_groups=8),
        vae_training=Optimisation(batch=32, learning_rate=2e-3, steps=3500, warmup=50, decay=0.7, ema=0.995),
        generic_training=Optimisation(batch=64, learning_rate=2e-3, steps=3000, warmup=100, decay=0.35, ema=0.998, optimiser="muon"),
        solver_training=Optimisation(batch=64, learning_rate=2e-3, steps=12000, warmup=100, decay=0.4, ema=0.999, optimiser="muon"),
        generic=GENERIC,
        solver=SOLVER,
        reuse=4,
        snr_floor=FLOOR,
        unknown=0.1,
        taught=0.02,
    )


def fine() -> Recipe:
    """128 px grids (cells of 64), VAE factor 4, latents 32 x 32: enough tokens for SAC's published layers 3..10; needs a GPU."""
    return Recipe(
        name="fine",
        size=128,
        vae=VAEConfig(channels=(24, 48, 64), layers_per_block=1, norm_groups=8),
        unet=UNetConfig(channels=(48, 96, 128, 112), heads=(4, 4, 4, 4), text_width=64, norm_groups=8),
        vae_training=Optimisation(batch=256, learning_rate=2e-3, steps=4000, warmup=100, decay=0.7, ema=0.995),
        generic_training=Optimisation(batch=512, learning_rate=2e-3, steps=2000, warmup=100, decay=0.35, ema=0.998, optimiser="muon"),
        solver_training=Optimisation(batch=512, learning_rate=2e-3, steps=6000, warmup=100, decay=0.4, ema=0.999, optimiser="muon"),
        generic=GENERIC,
        solver=SOLVER,
        reuse=2,
        snr_floor=FLOOR,
        unknown=0.1,
        taught=0.02,
    )


RECIPES = {"small": small, "fine": fine}


def load_recipe(name_or_file: str) -> Recipe:
    """A recipe by its name or from a JSON file. Raises ValueError for anything else."""
    if name_or_file in RECIPES:
        return RECIPES[name_or_file]()
    path = Path(name_or_file)
    if not path.is_file():
        raise ValueError(f"no recipe {name_or_file!r}: give {', '.join(RECIPES)} or a JSON file")
    return from_json(json.loads(path.read_text()))


def with_training(recipe: Recipe, part: str, **changes) -> Recipe:
    """The recipe with some values changed in the training of one part."""
    name = f"{part}_training"
    return replace(recipe, **{name: replace(getattr(recipe, name), **changes)})
