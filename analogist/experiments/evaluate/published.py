"""The paper's published numbers, and how the protocol of a run differs from the published one. Source: Gu et al. 2024."""

import json
from collections.abc import Sequence

from analogist.checkpoints.loras import in_words
from analogist.config import AnalogistConfig, published_code

# CLIP direction similarity (ViT-B/16, raw features), mean over 8 samples, files, tasks.
CLIP_DIRECTION = {
    "colorization": 0.1797,
    "denoise": 0.2391,
    "image_translation": 0.3136,
    "ubcfashion": 0.7334,
    "scannet": 0.5531,
    "all tasks": 0.2832,
}
# Fréchet distance of B' to the truth, Inception features.
FID = {"low-level": 114.15, "manipulation": 85.67, "vision": 96.67}
TASKS = 10
IMAGES, SEED, SIZE, NETWORK = 8, 42, 512, "clip-vit-base-patch16"


def differences(rows: Sequence[dict], tasks: Sequence[str]) -> list[str]:
    """The differences in protocol between some rows of a table and the published evaluation, one line per difference."""
    record = json.loads(rows[0]["record"])
    out = ["random numbers: here one generator per image; published: a single generator for all images and files in turn"]
    if record["checkpoint"]["family"] != "sd15-inpainting" or not record["checkpoint"]["trained"]:
        name, family = record["checkpoint"]["name"], record["checkpoint"]["family"]
        out.append(f"checkpoint: {name} ({family}); published Stable Diffusion 1.5 inpainting")
    elif record["checkpoint"]["name"] == "lab":
        out.append("checkpoint: the lab checkpoint, a small model; published Stable Diffusion 1.5 inpainting")
    if merged := in_words(record["checkpoint"].get("lora", ())):
        out.append(f"weights:{merged}; published without")
    if record["dtype"] != "float16":
        out.append(f"dtype: {record['dtype']}; published float16")
    if record["grid"]["size"] != [SIZE, SIZE]:
        out.append(f"size: {record['grid']['size']}; published {SIZE} x {SIZE}")
    images = {len({row["seed"] for row in rows if row["input"] == name}) for name in {row["input"] for row in rows}}
    if images != {IMAGES} or min(int(row["seed"]) for row in rows) != SEED:
        out.append(f"images: {sorted(images)} per input; published {IMAGES} with seed {SEED}")
    if len(tasks) < TASKS:
        out.append(f"tasks: {len(tasks)} of {TASKS}")
    out += _settings(rows)
    networks = {row["network"] for row in rows if row["metric"] == "clip_direction" and row["network"]}
    if networks and networks != {NETWORK}:
        out.append(f"CLIP network: {', '.join(sorted(networks))}; published {NETWORK}")
    return out


def _settings(rows: Sequence[dict]) -> list[str]:
    """Tasks with settings other than the published ones."""
    from analogist.config import NEGATIVE_PROMPT, PROMPT_SUFFIX
    from analogist.config import TASKS as PRESETS

    other = set()
    words = False
    for row in rows:
        expected = published_code(row["group"]) if row["group"] in PRESETS else published_code()
        record = json.loads(row["record"])
        if AnalogistConfig.from_json(record["config"]) != expected:
            other.add(row["group"])
        words |= record["negative_prompt"] != NEGATIVE_PROMPT or record["prompt_suffix"] != PROMPT_SUFFIX
    out = [f"settings: different from the published ones in {', '.join(sorted(other))}"] if other else []
    return out + (["negative prompt or prompt suffix: different from the published ones"] if words else [])
