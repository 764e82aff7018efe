"""The config files of a diffusers folder, from the fields of a checkpoint."""

from typing import Any

from .checkpoint import Checkpoint


def folder_configs(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """Path in the folder -> content, JSON-ready."""
    size = checkpoint.default_size
    factor = 2 ** (len(checkpoint.vae["channels"]) - 1)
    latent = size // factor if isinstance(size, int) else [side // factor for side in size]
    configs: dict[str, dict[str, Any]] = {
        "model_index.json": {
            "_class_name": "StableDiffusionInpaintPipeline",
            "_diffusers_version": "0.30.0",
            "feature_extractor": [None, None],
            "requires_safety_checker": False,
            "safety_checker": [None, None],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
        "unet/config.json": _unet(checkpoint) | {"sample_size": latent},
        "vae/config.json": _vae(checkpoint) | {"sample_size": size if isinstance(size, int) else list(size)},
        "text_encoder/config.json": {
            "architectures": ["CLIPTextModel"],
            "model_type": "clip_text_model",
            **{"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1},
            **checkpoint.text,
        },
        "scheduler/scheduler_config.json": {
            "_class_name": "DDIMScheduler",
            "beta_schedule": "scaled_linear",
            "clip_sample": False,
            "timestep_spacing": "leading",
            **checkpoint.scheduler,
        },
    }
    if checkpoint.defaults is not None:
        configs["analogist.json"] = dict(checkpoint.defaults)
    return configs


def _unet(checkpoint: Checkpoint) -> dict[str, Any]:
    fields = checkpoint.unet
    attends = [depth > 0 for depth in fields["depth"]]
    heads = list(fields["heads"])
    pieces = checkpoint.sources["unet"].mapped.pieces
    around = [piece for name, piece in pieces.items() if name.endswith(".proj_in.weight") and ".ff." not in name]
    linear = all(len(piece.shape) == 2 for piece in around)
    return {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": heads[0] if len(set(heads)) == 1 else heads,  # the number of heads, despite the name
        "block_out_channels": list(fields["channels"]),
        "center_input_sample": False,
        "cross_attention_dim": fields["text_width"],
        "down_block_types": ["CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in attends],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": fields["in_channels"],
        "layers_per_block": fields["layers_per_block"],
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": fields["norm_groups"],
        "out_channels": fields["out_channels"],
        "up_block_types": ["CrossAttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)],
        "use_linear_projection": linear,
    }


def _vae(checkpoint: Checkpoint) -> dict[str, Any]:
    fields = checkpoint.vae
    levels = len(fields["channels"])
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": list(fields["channels"]),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "in_channels": fields["in_channels"],
        "latent_channels": fields["latent_channels"],
        "layers_per_block": fields["layers_per_block"],
        "norm_num_groups": fields["norm_groups"],
        "out_channels": 3,
        "scaling_factor": fields["scaling_factor"],
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }
