"""Fields of the networks' configs that tensor shapes do not determine: from what configs.py found, else the family's published values.

Everything here is plain dicts. If a config contradicts the tensor shapes about a size, the shapes win.
"""

from collections.abc import Mapping
from typing import Any

from . import model_families as families
from .errors import WeightsError

# Settings of a diffusers config that need another network than ours.
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
PREDICTION_TYPES = ("epsilon", "v_prediction")
SIZES, SIZE_WIDTH = 6, 256  # SDXL: how many numbers describe the picture's size, and the published features per number


def _whole(value: object, what: str) -> int:
    if type(value) is not int or value < 1:
        raise WeightsError(f"{what} is {value!r}; expected a whole number of at least 1")
    return value


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e6:
        raise WeightsError(f"{what} is {value!r}; expected a positive number")
    return value


def _first(config: Mapping[str, Any], *names: str) -> object:
    return next((config[name] for name in names if config.get(name) is not None), None)


def _only(config: Mapping[str, Any], allowed: Mapping[str, tuple], part: str) -> None:
    for key, values in allowed.items():
        if key in config and config[key] not in values and config[key] is not None:
            known = " or ".join(repr(value) for value in values)
            raise WeightsError(f"the {part} config says {key} = {config[key]!r}; only {known} is supported")


def _contradictions(config: Mapping[str, Any], sizes: Mapping[str, Any], part: str, keys: Mapping[str, str]) -> list[str]:
    notes = []
    for theirs, ours in keys.items():
        said, is_ = config.get(theirs), sizes[ours]
        if said is not None and (tuple(said) if isinstance(said, list) else said) != is_:
            notes.append(f"the {part} config says {theirs} = {said}, the tensor shapes say {is_}: the shapes were used")
    return notes


def unet(sizes: dict[str, Any], base: str, config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """UNetConfig's fields and notes, from shapes, family and config. Raises WeightsError for unsupported settings."""
    channels = sizes["channels"]
    _only(config, UNET_ONLY, "UNet")
    # "attention_head_dim": 8 in published configs means eight heads, not heads of width 8 (a misnomer that diffusers has kept).
    heads = _first(config, "heads", "num_attention_heads", "attention_head_dim")
    if heads is None:
        heads = families.unet_heads(base, channels)
    else:
        heads = [heads] * len(channels) if not isinstance(heads, (list, tuple)) else heads
        heads = tuple(_whole(head, "the UNet config's number of heads") for head in heads)
        if len(heads) != len(channels) or any(c % head for c, head in zip(channels, heads, strict=True)):
            raise WeightsError(f"the UNet config says {list(heads)} heads per level; they must divide the channels {list(channels)}")
    groups = _whole(_first(config, "norm_groups", "norm_num_groups") or families.NORM_GROUPS, "the UNet config's norm_num_groups")
    _divides(groups, channels, "UNet", "unet")
    keys = {"in_channels": "in_channels", "block_out_channels": "channels", "cross_attention_dim": "text_width"}
    notes = _contradictions(config, sizes, "UNet", keys)
    return {**_added(sizes, config), "heads": heads, "norm_groups": groups}, notes


def _added(sizes: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes, with SDXL's added_width split as in UNetConfig: pooled_width, and size_width per size."""
    sizes = dict(sizes)
    width = sizes.pop("added_width", None)
    if width is None:
        return sizes
    each = _whole(_first(config, "size_width", "addition_time_embed_dim") or SIZE_WIDTH, "the UNet config's addition_time_embed_dim")
    if each % 2 or width <= SIZES * each:
        raise WeightsError(
            f"the UNet adds {width} features to the time embedding, too few for {SIZES} sizes of {each} and a pooled text; "
            "give the features per size with config= (unet.addition_time_embed_dim, an even number)"
        )
    return {**sizes, "pooled_width": width - SIZES * each, "size_width": each}


def vae(sizes: dict[str, Any], base: str | None, config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """VAEConfig's fields and notes, as unet()."""
    _only(config, VAE_ONLY, "VAE")
    groups = _whole(_first(config, "norm_groups", "norm_num_groups") or families.NORM_GROUPS, "the VAE config's norm_num_groups")
    _divides(groups, sizes["channels"], "VAE", "vae")
    factor = _first(config, "scaling_factor")
    published = families.SCALING_FACTORS.get(base or "", families.SCALING_FACTOR)
    factor = published if factor is None else float(_number(factor, "the VAE config's scaling_factor"))
    keys = {"latent_channels": "latent_channels", "block_out_channels": "channels"}
    return {**sizes, "norm_groups": groups, "scaling_factor": factor}, _contradictions(config, sizes, "VAE", keys)


def _divides(groups: int, channels: tuple[int, ...], part: str, key: str) -> None:
    if any(c % groups for c in channels):
        raise WeightsError(
            f"{groups} norm groups do not divide the {part}'s channels {list(channels)}; give their number with config= "
            f"({key}.norm_num_groups)"
        )


def text(sizes: dict[str, int], base: str, config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """CLIPTextConfig's arguments and notes, as unet(); num_hidden_layers is the number stored (load.py decides how many
    are run). Sizes with a projection_dim are those of SDXL's second encoder, an OpenCLIP text encoder like SD 2's.
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


def scheduler(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The noise schedule's settings and notes; published values if the config gives none. timestep_spacing and
    rescale_betas_zero_snr are in the result only if they differ from the published ones ("leading", off).

    Raises WeightsError unless the schedule has scaled_linear betas, "leading" or "trailing" times and a network that predicts the noise
    or the velocity; also for a schedule that cannot be sampled.
    """
    result = {name: config[name] if config.get(name) is not None else value for name, value in families.SCHEDULER.items()}
    if result["prediction_type"] not in PREDICTION_TYPES:
        raise WeightsError(
            f"this checkpoint predicts {result['prediction_type']!r} (scheduler's prediction_type); allowed are 'epsilon' (the noise) and "
            "'v_prediction' (the velocity)"
        )
    if config.get("beta_schedule", "scaled_linear") != "scaled_linear" or config.get("trained_betas"):
        raise WeightsError(
            "this checkpoint's scheduler does not use Stable Diffusion's scaled_linear betas; no other schedule is supported"
        )
    if _differs(config, "timestep_spacing", "leading"):
        if config["timestep_spacing"] != "trailing":
            raise WeightsError(
                f"the scheduler config's timestep_spacing is {config['timestep_spacing']!r}; allowed are 'leading' and 'trailing': "
                "DDIM steps need times one whole stride apart, which others do not have. To sample at 'leading' times anyway: "
                'config={"scheduler": {"timestep_spacing": "leading"}}'
            )
        result["timestep_spacing"] = "trailing"
    if _differs(config, "rescale_betas_zero_snr", False):
        if config["rescale_betas_zero_snr"] is not True:
            raise WeightsError(
                f"the scheduler config's rescale_betas_zero_snr is {config['rescale_betas_zero_snr']!r}; expected true or false"
            )
        if result["prediction_type"] == "epsilon":
            raise WeightsError(
                "the scheduler config has rescale_betas_zero_snr with prediction_type 'epsilon': at the last time the latents are pure "
                "noise, so the predicted noise says nothing about the picture (x0 would be 0 / 0). Such checkpoints predict the velocity: "
                'give config={"scheduler": {"prediction_type": "v_prediction"}}, or "rescale_betas_zero_snr": false'
            )
        result["rescale_betas_zero_snr"] = True
    for name in ("beta_start", "beta_end"):
        result[name] = float(_number(result[name], f"the scheduler config's {name}"))
    if not result["beta_start"] <= result["beta_end"] < 1:
        raise WeightsError(
            f"the scheduler config's betas run from {result['beta_start']} to {result['beta_end']}; expected 0 < start <= end < 1"
        )
    _whole(result["num_train_timesteps"], "the scheduler config's num_train_timesteps")
    if type(result["steps_offset"]) is not int or not 0 <= result["steps_offset"] < result["num_train_timesteps"]:
        raise WeightsError(f"the scheduler config's steps_offset is {result['steps_offset']!r}; expected a small whole number")
    if not isinstance(result["set_alpha_to_one"], bool):
        raise WeightsError(f"the scheduler config's set_alpha_to_one is {result['set_alpha_to_one']!r}; expected true or false")
    notes = []
    name = config.get("_class_name")
    if name not in (None, "DDIMScheduler", "PNDMScheduler"):
        end = "taken from it" if "set_alpha_to_one" in config else "not in it, so it is off as in Stable Diffusion 1 and 2"
        notes.append(
            f"the scheduler config is {name}'s: the method samples with DDIM on its betas and steps_offset; set_alpha_to_one is {end}"
        )
    return result, notes


def _differs(config: Mapping[str, Any], name: str, published: object) -> bool:
    return config.get(name) is not None and config[name] != published


def assumed_prediction(config: Mapping[str, Any]) -> list[str]:
    """A note if nothing says what the network predicts. Single files, for example, hold no scheduler."""
    if config.get("prediction_type") is not None:
        return []
    return [
        "nothing says what the UNet predicts: prediction_type 'epsilon', the noise, is assumed; for a checkpoint that predicts the "
        'velocity give config={"scheduler": {"prediction_type": "v_prediction"}}, or a .json file of the same name beside it that says so'
    ]


def side(config: Mapping[str, Any], factor: int) -> int | tuple[int, int]:
    """Default picture size: the UNet config's sample_size times the VAE's factor; 512 without a sample_size."""
    size = config.get("sample_size")
    if size is None:
        return 512
    if isinstance(size, (list, tuple)):
        if len(size) != 2:
            raise WeightsError(f"the UNet config's sample_size is {list(size)}; expected a whole number or [height, width]")
        height, width = (_whole(value, "the UNet config's sample_size") * factor for value in size)
        return height, width
    return _whole(size, "the UNet config's sample_size") * factor
