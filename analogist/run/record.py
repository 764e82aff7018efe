"""A run's record: JSON-ready, everything needed to run it again, and which attention form ran where."""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import analogist
from analogist.checkpoints.devices import precision
from analogist.grid.prompt_grid import PromptGrid
from analogist.models import memory_layout
from analogist.models.compiled import Pattern
from analogist.models.kernels import in_small_maps
from analogist.models.vae import VAE
from analogist.run.sampling import Run

if TYPE_CHECKING:
    from analogist.run.arguments import Resolved

FORMAT = 1  # increased when the meaning of a key changes


def grid_record(grid: PromptGrid) -> dict:
    """Size, rows, drawing, and a content key of the composed picture, by which a repeat checks that the pictures are the same."""
    digest = hashlib.sha256(grid.image.tobytes()).hexdigest()
    b_size = None if grid.b_size is None else list(grid.b_size)
    drawing = {"fit": grid.fit, "aligned": grid.aligned, "border": grid.border, "b_size": b_size}
    return {"size": list(grid.known_size), "drawn": list(grid.drawn), "rows": grid.rows, **drawing, "sha256": digest}


def attention_forms(run: Run) -> dict[str, str | dict[str, list[int]]]:
    """Site -> "explicit" or "fused"; where the form differs by step, the executed steps of each."""
    forms: dict[str, str | dict[str, list[int]]] = {}
    controls = run.controls()
    for site in run.unet.sites:
        by_step = [control.form_at(site) for control in controls]
        if len(set(by_step)) == 1:
            forms[site.name] = by_step[0]
        else:
            forms[site.name] = {form: [i for i, f in enumerate(by_step) if f == form] for form in ("explicit", "fused")}
    return forms


def compiled_forms(run: Run) -> dict | None:
    """What runs compiled: backend, mode, number of graphs for one batch, and where the tap looks, which runs as it stands, by executed
    steps. None: nothing is compiled.
    """
    compiled, device = run.unet.compiled, run.start.z0.device
    if compiled is None:
        return None
    patterns = [Pattern.of(control, run.unet.sites, run.unet.places, device) for control in run.controls()]
    names = dict.fromkeys(name for pattern in patterns for name in pattern.looked_at)
    looks = {name: [i for i, pattern in enumerate(patterns) if name in pattern.looked_at] for name in names}
    return {"backend": compiled.name, "mode": compiled.mode, "graphs": len(set(patterns)), "not_compiled": looks}


def computed(run: Run, vae: VAE, size: tuple[int, int]) -> dict:
    """What else decides the last bits of a result. vae_tiles: the largest side of a tile in pixels, None where pictures go whole.
    small_maps: the sites whose fused form is computed with small maps (models/kernels.py).

    size: height and width of the pictures in pixels.
    """
    h, w = run.start.z0.shape[-2:]
    device, dtype, controls = run.start.z0.device.type, run.text.dtype, run.controls()
    small_maps: list[str] = []
    for site in run.unet.sites:
        keys = h * w // site.stride**2 if site.kind == "self" else run.text.shape[1]
        fused = [control for control in controls if control.form_at(site) == "fused"]
        slots = run.rows if any(control.sac_at(site) for control in fused if site.kind == "self") else 1  # SAC joins heads (fused.py)
        if fused and any(in_small_maps(n * site.widths["q"], keys, dtype, device) for n in range(1, slots + 1)):
            small_maps.append(site.name)
    return {
        "channels_last": memory_layout.is_channels_last(run.unet), "vae_tiles": vae.tiled_above if vae.is_tiled(*size) else None,
        "small_maps": small_maps,
    }  # fmt: skip


def tensor_key(*tensors: Tensor) -> str:
    """A content key of tensors given by the user."""
    return hashlib.sha256(b"".join(t.detach().cpu().float().contiguous().numpy().tobytes() for t in tensors)).hexdigest()


def asked_record(resolved: "Resolved") -> dict:
    """What a record says of what was asked for. Of several grids or prompts, grid, prompt and negative_prompt are lists, one entry each."""
    grids, texts = [grid_record(grid) for grid in resolved.grids], list(resolved.prompts)
    asked = {"grid": grids[0], **texts[0]}
    if resolved.request.lists:
        asked |= {"grid": grids, **{key: [one[key] for one in texts] for key in ("prompt", "negative_prompt")}}
    times = [t for t, _ in resolved.times]
    return {**asked, "seeds": list(resolved.seeds), "config": resolved.config.to_json(), "executed_times": times}


def make_record(run: Run, resolved: "Resolved", vae: VAE, *, checkpoint: dict, device: torch.device, dtype: torch.dtype) -> dict:
    """The record of a run."""
    held = {name: getattr(resolved.request, name) for name in ("edit", "text", "generator")}
    why = [f"{name}= was given, which a file cannot hold" for name, value in held.items() if value is not None]
    if run.changed:
        why.append("latents= was given, other than those that the seeds give, which a file cannot hold")
    return {
        "format": FORMAT,
        "analogist": analogist.__version__,
        "torch": torch.__version__,
        "checkpoint": checkpoint,
        **asked_record(resolved),
        "device": str(device),
        "dtype": precision(dtype, tf32=run.unet.tf32),
        "attention": run.attention if isinstance(run.attention, str) else "auto",
        "attention_forms": attention_forms(run),
        "compiled": compiled_forms(run),
        "computed": computed(run, vae, resolved.grids[0].known_size),
        "images_at_once": run.images_at_once,
        "repeatable": not why,
        "not_repeatable_because": why,
    }


def image_record(record: Mapping, image: int) -> dict:
    """What a run's record says of one of its images: its own grid, prompts and seed, and of several analogies which it is."""
    one = {**record, "seeds": [record["seeds"][image]], "image": image}
    if isinstance(record["grid"], list):
        analogy = image // (len(record["seeds"]) // len(record["grid"]))
        own = {key: record[key][analogy] for key in ("grid", "prompt", "negative_prompt")}
        one |= {**own, "analogy": analogy}
    return one
