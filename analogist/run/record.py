"""A run's record: JSON-ready, everything needed to run it again, and which attention form ran where."""

import hashlib

import torch
from torch import Tensor

import analogist
from analogist.grid.prompt_grid import PromptGrid
from analogist.run.sampling import Run

FORMAT = 1  # raised when the meaning of a key changes


def grid_record(grid: PromptGrid) -> dict:
    """Size, rows, drawing, and a content key of the composed picture, by which a repeat knows that the pictures are the same."""
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


def tensor_key(*tensors: Tensor) -> str:
    """A content key of tensors given by the user."""
    return hashlib.sha256(b"".join(t.detach().cpu().float().contiguous().numpy().tobytes() for t in tensors)).hexdigest()


def make_record(
    run: Run,
    *,
    checkpoint: dict,
    grid: PromptGrid,
    prompts: dict,
    device: torch.device,
    dtype: torch.dtype,
    attention: str,
    not_repeatable: list[str],
) -> dict:
    """The record of a run. not_repeatable: the arguments that a file cannot hold; empty: it can be repeated."""
    return {
        "format": FORMAT,
        "analogist": analogist.__version__,
        "torch": torch.__version__,
        "checkpoint": checkpoint,
        "grid": grid_record(grid),
        **prompts,
        "seeds": list(run.randomness.seeds),
        "config": run.config.to_json(),
        "executed_times": [t for t, _ in run.times],
        "device": str(device),
        "dtype": str(dtype).removeprefix("torch."),
        "attention": attention,
        "attention_forms": attention_forms(run),
        "images_at_once": run.images_at_once,
        "repeatable": not not_repeatable,
        "not_repeatable_because": [f"{name}= was given, which a file cannot hold" for name in not_repeatable],
    }
