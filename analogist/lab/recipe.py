"""Recipes: everything that decides what a training computes, as JSON-ready frozen dataclasses.

Two recipes for the networks' geometry are kept here: "coarse" trains on two CPU cores, "fine" wants a GPU.
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
    positions: int = 77  # tokens a prompt, as CLIP


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """How a network is optimised. The learning rate rises over `warmup` steps, stays, and falls to 0 over the last `decay` part."""

    batch: int = 32  # grids a step
    learning_rate: float = 1.5e-3
    warmup: int = 200  # steps
    decay: float = 0.25  # part of `steps`
    steps: int = 4000
    weight_decay: float = 0.01
    optimiser: str = "adamw"  # or "muon"
    ema: float = 0.999  # at most; smaller in the first steps
    clip: float = 1.0  # norm of the gradient
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What one laboratory checkpoint is made of."""

    name: str
    size: int = 128  # pixels, the grid's side
    vae: VAEConfig = field(default_factory=VAEConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    text: TextConfig = field(default_factory=TextConfig)
    vae_training: Optimisation = field(default_factory=Optimisation)
    unet_training: Optimisation = field(default_factory=Optimisation)
    analogy_share: float = 0.5  # part of analogy grids, the rest are collages
    dropped: float = 0.3  # part of empty captions, for guidance
    only_cell: float = 0.7  # part of the masks that paint just B'
    known_weight: float = 0.15  # loss weight of the pixels outside the mask
    snr_ceiling: float = 5.0  # min-SNR weighting (Hang et al. 2023)
    snr_floor: float = 0.0  # least weight of the error in x0, so that the noisiest steps count too; 0: plain min-SNR
    skew: float = 1.0  # times are 1000 u^skew, u even in [0, 1]: below 1 the noisy ones come more often
    reuse: int = 1  # steps in which every encoded grid is used, with fresh noise and times
    kl: float = 1e-4  # weight of the posterior's divergence in the VAE's loss

    def to_json(self) -> dict:
        """A dict for json.dump. What only SDXL's UNet has is left out where it is not there."""
        data = json.loads(json.dumps(asdict(self)))
        if not self.unet.pooled_width:
            del data["unet"]["pooled_width"], data["unet"]["size_width"]
        return data

    def identity(self, part: str) -> dict:
        """What must agree for a training of `part` ("vae" or "unet") to be resumed: all but the number of steps."""
        data = self.to_json()
        data[f"{part}_training"].pop("steps")
        names = {
            "vae": ("size", "vae", "vae_training", "analogy_share", "kl"),
            "unet": tuple(name for name in data if name not in ("name", "vae_training", "kl")),
        }[part]
        return {name: data[name] for name in names}


def _lists_to_tuples(data: dict) -> dict:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}


def from_json(data: dict) -> Recipe:
    """A recipe from `Recipe.to_json`. Raises ValueError at unknown keys."""
    kinds = {"vae": VAEConfig, "unet": UNetConfig, "text": TextConfig, "vae_training": Optimisation, "unet_training": Optimisation}
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


def coarse() -> Recipe:
    """128 px grids, VAE factor 8, latents 16 x 16: trains on two CPU cores within hours."""
    return Recipe(
        name="coarse",
        size=128,
        vae=VAEConfig(channels=(16, 32, 64, 64), layers_per_block=1, norm_groups=8),
        unet=UNetConfig(channels=(48, 96, 128, 128), heads=(1, 2, 2, 2), text_width=64, norm_groups=8),
        vae_training=Optimisation(batch=16, learning_rate=2e-3, steps=2200, warmup=50, ema=0.995),
        unet_training=Optimisation(batch=64, learning_rate=2e-3, steps=8000, warmup=100, ema=0.999, optimiser="muon"),
        analogy_share=0.6,
        only_cell=0.75,
        reuse=4,
        snr_floor=0.1,
        skew=0.8,
    )


def fine() -> Recipe:
    """128 px grids, VAE factor 4, latents 32 x 32: SAC's published layers 3..10 see real correspondences; wants a GPU."""
    return Recipe(
        name="fine",
        size=128,
        vae=VAEConfig(channels=(32, 64, 64), layers_per_block=1, norm_groups=16),
        unet=UNetConfig(channels=(32, 64, 128, 128), heads=(1, 2, 4, 4), text_width=64, norm_groups=16),
        vae_training=Optimisation(batch=256, learning_rate=2e-3, steps=6000, warmup=200),
        unet_training=Optimisation(batch=512, learning_rate=1.5e-3, steps=20000, warmup=500, ema=0.9995, optimiser="muon"),
        reuse=2,
        snr_floor=0.1,
        skew=0.8,
    )


RECIPES = {"coarse": coarse, "fine": fine}


def load_recipe(name_or_file: str) -> Recipe:
    """A recipe by name or from a JSON file. Raises ValueError for anything else."""
    if name_or_file in RECIPES:
        return RECIPES[name_or_file]()
    path = Path(name_or_file)
    if not path.is_file():
        raise ValueError(f"no recipe {name_or_file!r}: give {', '.join(RECIPES)} or a JSON file")
    return from_json(json.loads(path.read_text()))


def with_training(recipe: Recipe, part: str, **changes) -> Recipe:
    """The recipe with other values in `vae_training` or `unet_training`."""
    name = f"{part}_training"
    return replace(recipe, **{name: replace(getattr(recipe, name), **changes)})
