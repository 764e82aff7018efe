"""What tensor shapes cannot tell: read from config=, else from what lies beside the weights, else the family's published values.

Everything here is plain dicts; the tensors' own shapes always win over what a config says about sizes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import families
from .errors import WeightsError

MAX_JSON = 16 * 2**20
PARTS = {
    "unet": "unet", "vae": "vae", "text_encoder": "text", "text": "text", "text_encoder_2": "text_2", "scheduler": "scheduler",
}  # fmt: skip
FILES = {
    "unet": "unet/config.json",
    "vae": "vae/config.json",
    "text": "text_encoder/config.json",
    "text_2": "text_encoder_2/config.json",
    "scheduler": "scheduler/scheduler_config.json",
}
CLASSES = {"UNet2DConditionModel": "unet", "AutoencoderKL": "vae"}
# Settings of a diffusers config under which its tensors mean something else than what is built here.
UNET_ONLY = {
    "act_fn": ("silu", "swish"),
    "time_embedding_type": ("positional",),
    "time_embedding_act_fn": (None,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "norm_eps": (1e-5,),
    "center_input_sample": (False,),
    "mid_block_scale_factor": (1,),
    "downsample_padding": (1,),
    "dual_cross_attention": (False,),
    "only_cross_attention": (False,),
    "cross_attention_norm": (None,),
    "class_embed_type": (None,),
    "encoder_hid_dim_type": (None,),
    "resnet_time_scale_shift": ("default",),
    "resnet_out_scale_factor": (1.0,),
    "addition_embed_type": (None, "text_time"),
}
VAE_ONLY = {"act_fn": ("silu", "swish"), "latents_mean": (None,), "latents_std": (None,), "shift_factor": (None, 0)}


SIZES, SIZE_WIDTH = 6, 256  # SDXL: numbers that describe the picture's size, and published features of each


class Unrelated(WeightsError):
    """A JSON file that holds no config: an error where it was given as one, a note where it only lies beside the weights."""


@dataclass
class Settings:
    """Configs by part as diffusers writes them, and what else lies in such a folder.

    where: what they were read from, in words; notes: what lies there and was not.
    """

    parts: dict[str, dict[str, object]] = field(default_factory=dict)
    tokenizer: Path | None = None
    defaults: dict[str, object] | None = None
    extra: dict[str, object] = field(default_factory=dict)  # pad_token_id, text_layer
    where: str = "nothing"
    notes: list[str] = field(default_factory=list)
    tokenizer_2: Path | None = None

    def part(self, name: str) -> dict[str, object]:
        """One part's config; empty where nothing says anything."""
        return self.parts.get(name, {})

    def over(self, other: "Settings") -> "Settings":
        """These settings, and the other's where these say nothing."""
        names = self.parts.keys() | other.parts.keys()
        return Settings(
            {name: {**other.part(name), **self.part(name)} for name in names},
            self.tokenizer or other.tokenizer,
            self.defaults if self.defaults is not None else other.defaults,
            {**other.extra, **self.extra},
            f"{self.where}, then {other.where}" if other.where != "nothing" else self.where,
            [*self.notes, *other.notes],
            self.tokenizer_2 or other.tokenizer_2,
        )


def read_json(path: Path) -> dict[str, object]:
    """A JSON object from a file. Raises WeightsError where it is anything else."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise Unrelated(f"{path}: over {MAX_JSON} bytes, which no config has")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path}: not a JSON file ({error})") from None
    if not isinstance(value, dict):
        raise Unrelated(f"{path}: a JSON object was expected, not a {type(value).__name__}")
    return value


def from_folder(folder: Path) -> Settings:
    """Settings of a folder in diffusers layout, or of one part's folder (config.json alone)."""
    found = {part: read_json(folder / name) for part, name in FILES.items() if (folder / name).is_file()}
    root = _if_config(folder / "config.json") if not found else Settings()
    tokenizer, second = folder / "tokenizer", folder / "tokenizer_2"
    defaults = folder / "analogist.json"
    return Settings(
        found or root.parts,
        tokenizer if tokenizer.is_dir() else None,
        read_json(defaults) if defaults.is_file() else None,
        where=str(folder),
        notes=root.notes,
        tokenizer_2=second if second.is_dir() else None,
    )


def _if_config(path: Path) -> Settings:
    """Settings of a JSON file that nobody named as a config: one that holds none (user interfaces keep titles, previews and hashes beside
    a model) is left alone with a note. Raises WeightsError where it is no JSON: it may be a config that was cut off.
    """
    if not path.is_file():
        return Settings()
    try:
        return from_dict(read_json(path), str(path))
    except Unrelated as error:
        return Settings(notes=[f"{path.name} beside the weights ignored, it is no config ({str(error).removeprefix(f'{path}: ')})"])


def from_dict(given: Mapping[str, object], where: str) -> Settings:
    """Settings of a dict by part ({"unet": {...}, "scheduler": {...}}) or of one part's own config."""
    parts: dict[str, dict[str, object]] = {}
    for name, part in PARTS.items():
        if isinstance(given.get(name), Mapping):
            parts.setdefault(part, {}).update(given[name])
    extra = {name: given[name] for name in ("pad_token_id", "text_layer") if name in given}
    if not parts:
        part = CLASSES.get(str(given.get("_class_name")))
        if part is None and given.get("model_type") == "clip_text_model":
            part = "text"
        if part is None and str(given.get("_class_name", "")).endswith("Scheduler"):
            part = "scheduler"
        named = given.keys() & {"_class_name", "model_type", "architectures"}  # language models have heads too
        if part is None and not named and given.keys() & {"attention_head_dim", "num_attention_heads", "heads"}:
            part = "unet"
        if part is not None:
            parts, extra = {part: dict(given)}, {}
        elif named:  # another kind of model's own config; its token ids are none of ours
            extra = {}
    if not parts and not extra:
        raise Unrelated(
            f"{where}: nothing in it is read; expected one of the keys {', '.join(PARTS)}, pad_token_id, text_layer, or one "
            "part's own "
            f"config (with _class_name), got {', '.join(map(str, list(given)[:8])) or 'nothing'}"
        )
    return Settings(parts, extra=extra, where=where)


def given(config: "Path | str | Mapping[str, object] | None") -> Settings:
    """What the caller passed as config=. Raises WeightsError where it is neither folder, JSON file nor dict."""
    if config is None:
        return Settings()
    if isinstance(config, Mapping):
        return from_dict(config, "config=")
    path = Path(config)
    if path.is_dir():
        settings = from_folder(path)
        if not settings.parts:
            raise WeightsError(f"config={path}: no config in this folder; expected {', '.join(FILES.values())} or config.json")
        return settings
    return from_dict(read_json(path), f"config={path}")


def beside(file: Path) -> Settings:
    """What lies beside a single file: <its name>.json where that is a config, else the diffusers folder it lies in."""
    own = _if_config(file.with_suffix(".json"))
    if own.where == "nothing" and (file.parent / "model_index.json").is_file():
        folder = from_folder(file.parent)
        return replace(folder, notes=[*own.notes, *folder.notes])
    return own


def _whole(value: object, what: str) -> int:
    if type(value) is not int or value < 1:
        raise WeightsError(f"{what} is {value!r}; a whole number of at least 1 is expected")
    return value


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e6:
        raise WeightsError(f"{what} is {value!r}; a positive number is expected")
    return value


def _first(config: Mapping[str, object], *names: str) -> object:
    return next((config[name] for name in names if config.get(name) is not None), None)


def _only(config: Mapping[str, object], allowed: Mapping[str, tuple], part: str) -> None:
    for key, values in allowed.items():
        if key in config and config[key] not in values and config[key] is not None:
            known = " or ".join(repr(value) for value in values)
            raise WeightsError(f"the {part} config says {key} = {config[key]!r}; only {known} is built here")


def _contradictions(config: Mapping[str, object], sizes: Mapping[str, object], part: str, keys: Mapping[str, str]) -> list[str]:
    notes = []
    for theirs, ours in keys.items():
        said, is_ = config.get(theirs), sizes[ours]
        if said is not None and (tuple(said) if isinstance(said, list) else said) != is_:
            notes.append(f"the {part} config says {theirs} = {said}, the tensors say {is_}: the tensors were believed")
    return notes


def unet(sizes: dict[str, object], base: str, config: Mapping[str, object]) -> tuple[dict[str, object], list[str]]:
    """UNetConfig's fields and notes, from shapes, family and config. Raises WeightsError for what is not built here."""
    channels = sizes["channels"]
    _only(config, UNET_ONLY, "UNet")
    # "attention_head_dim": 8 in published configs means eight heads, not heads of width 8 (a misnomer of diffusers that stayed).
    heads = _first(config, "heads", "num_attention_heads", "attention_head_dim")
    if heads is None:
        heads = families.unet_heads(base, channels)
    else:
        heads = [heads] * len(channels) if not isinstance(heads, (list, tuple)) else heads
        heads = tuple(_whole(head, "the UNet config's number of heads") for head in heads)
        if len(heads) != len(channels) or any(c % head for c, head in zip(channels, heads, strict=True)):
            raise WeightsError(f"the UNet config says {list(heads)} heads a level; they must divide the channels {list(channels)}")
    groups = _whole(_first(config, "norm_groups", "norm_num_groups") or families.NORM_GROUPS, "the UNet config's norm_num_groups")
    _divides(groups, channels, "UNet", "unet")
    keys = {"in_channels": "in_channels", "block_out_channels": "channels", "cross_attention_dim": "text_width"}
    notes = _contradictions(config, sizes, "UNet", keys)
    return {**_added(sizes, config), "heads": heads, "norm_groups": groups}, notes


def _added(sizes: dict[str, object], config: Mapping[str, object]) -> dict[str, object]:
    """The sizes with SDXL's added_width as UNetConfig has it: pooled_width, and size_width a size."""
    sizes = dict(sizes)
    width = sizes.pop("added_width", None)
    if width is None:
        return sizes
    each = _whole(_first(config, "size_width", "addition_time_embed_dim") or SIZE_WIDTH, "the UNet config's addition_time_embed_dim")
    if each % 2 or width <= SIZES * each:
        raise WeightsError(
            f"the UNet adds {width} features to the time embedding, too few for {SIZES} sizes of {each} and a pooled text; "
            "say the features of a size with config= (unet.addition_time_embed_dim, an even number)"
        )
    return {**sizes, "pooled_width": width - SIZES * each, "size_width": each}


def vae(sizes: dict[str, object], base: str | None, config: Mapping[str, object]) -> tuple[dict[str, object], list[str]]:
    """VAEConfig's fields and notes, as unet()."""
    _only(config, VAE_ONLY, "VAE")
    groups = _whole(_first(config, "norm_groups", "norm_num_groups") or families.NORM_GROUPS, "the VAE config's norm_num_groups")
    _divides(groups, sizes["channels"], "VAE", "vae")
    factor = _first(config, "scaling_factor")
    published = families.SCALING_FACTORS.get(base, families.SCALING_FACTOR)
    factor = published if factor is None else float(_number(factor, "the VAE config's scaling_factor"))
    keys = {"latent_channels": "latent_channels", "block_out_channels": "channels"}
    return {**sizes, "norm_groups": groups, "scaling_factor": factor}, _contradictions(config, sizes, "VAE", keys)


def _divides(groups: int, channels: tuple[int, ...], part: str, key: str) -> None:
    if any(c % groups for c in channels):
        raise WeightsError(
            f"{groups} norm groups do not divide the {part}'s channels {list(channels)}; say their number with config= "
            f"({key}.norm_num_groups)"
        )


def text(sizes: dict[str, int], base: str, config: Mapping[str, object]) -> tuple[dict[str, object], list[str]]:
    """CLIPTextConfig's arguments and notes, as unet(); num_hidden_layers is what the file holds (load.py decides how many
    run). sizes with a projection_dim are SDXL's second encoder's, an OpenCLIP tower as SD 2's.
    """
    first = base == families.SD15 or (base == families.SDXL and "projection_dim" not in sizes)
    heads = _first(config, "num_attention_heads")
    heads = families.text_heads(sizes["hidden_size"]) if heads is None else _whole(heads, "the text encoder config's number of heads")
    if sizes["hidden_size"] % heads:
        raise WeightsError(f"the text encoder config says {heads} heads; they must divide its width {sizes['hidden_size']}")
    act = _first(config, "hidden_act") or ("quick_gelu" if first else "gelu")
    if act not in ("quick_gelu", "gelu"):
        raise WeightsError(f"the text encoder config says hidden_act = {act!r}; CLIP's are 'quick_gelu' and 'gelu'")
    result = {
        **sizes,
        "num_attention_heads": heads,
        "hidden_act": act,
        "layer_norm_eps": float(_number(_first(config, "layer_norm_eps") or 1e-5, "the text encoder config's layer_norm_eps")),
        "projection_dim": sizes.get("projection_dim", sizes["hidden_size"]),
    }
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if type(config.get(name)) is int:
            result[name] = config[name]
    keys = {"hidden_size": "hidden_size", "vocab_size": "vocab_size", "intermediate_size": "intermediate_size"}
    return result, _contradictions(config, sizes, "text encoder", keys)


def scheduler(config: Mapping[str, object]) -> tuple[dict[str, object], list[str]]:
    """The noise schedule's six numbers and notes; published values where the config is silent.

    Raises WeightsError for a schedule or prediction type other than Stable Diffusion's (scaled_linear, epsilon).
    """
    result = {name: config[name] if config.get(name) is not None else value for name, value in families.SCHEDULER.items()}
    if result["prediction_type"] != "epsilon":
        raise WeightsError(
            f"this checkpoint predicts {result['prediction_type']!r} (scheduler's prediction_type); only 'epsilon', the noise, "
            "is supported: "
            "Stable Diffusion's inpainting checkpoints all predict it"
        )
    if (
        config.get("beta_schedule", "scaled_linear") != "scaled_linear"
        or config.get("trained_betas")
        or config.get("rescale_betas_zero_snr")
    ):
        raise WeightsError(
            "this checkpoint's scheduler does not use Stable Diffusion's scaled_linear betas; no other schedule is supported"
        )
    for name in ("beta_start", "beta_end"):
        result[name] = float(_number(result[name], f"the scheduler config's {name}"))
    if not result["beta_start"] <= result["beta_end"] < 1:
        raise WeightsError(
            f"the scheduler config's betas run from {result['beta_start']} to {result['beta_end']}; expected 0 < start <= end < 1"
        )
    _whole(result["num_train_timesteps"], "the scheduler config's num_train_timesteps")
    if type(result["steps_offset"]) is not int or not 0 <= result["steps_offset"] < result["num_train_timesteps"]:
        raise WeightsError(f"the scheduler config's steps_offset is {result['steps_offset']!r}; a small whole number is expected")
    if not isinstance(result["set_alpha_to_one"], bool):
        raise WeightsError(f"the scheduler config's set_alpha_to_one is {result['set_alpha_to_one']!r}; true or false is expected")
    notes = []
    if config.get("timestep_spacing", "leading") != "leading":
        notes.append(f"the scheduler config asks for {config['timestep_spacing']!r} timestep spacing; the method's own, 'leading', is used")
    return result, notes


def side(config: Mapping[str, object], factor: int) -> int | tuple[int, int]:
    """Default picture size: the UNet config's sample_size times the VAE's factor; 512 where nothing says it."""
    size = config.get("sample_size")
    if size is None:
        return 512
    if isinstance(size, (list, tuple)):
        return tuple(_whole(value, "the UNet config's sample_size") * factor for value in size)
    return _whole(size, "the UNet config's sample_size") * factor
