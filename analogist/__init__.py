"""Analogist: A : A' :: B : B' with a Stable Diffusion inpainting model, every attention map open to reading and editing."""

from pathlib import Path

from analogist.names import keep_old_paths, load_on_use

__version__ = "0.2.0"

# In a source tree models/ and weights/ lie beside this folder, not inside it: let `analogist.models` find them there.
# (analogist.tests becomes importable by this too, harmlessly.)
if not (Path(__file__).parent / "models").is_dir():
    __path__.append(str(Path(__file__).parent.parent))

# Public names are looked up on first use, so that `analogist --help` does not import torch.
_PUBLIC = {
    "Analogist": "analogist.pipeline",
    "Result": "analogist.pipeline",
    "Step": "analogist.pipeline",
    "PromptGrid": "analogist.grid.prompt_grid",
    "AnalogistConfig": "analogist.config",
    "SamplingConfig": "analogist.config",
    "SAC": "analogist.models.control",
    "CAM": "analogist.models.control",
    "Placement": "analogist.models.control",
    "AttentionControl": "analogist.models.control",
    "Site": "analogist.models.control",
    "Capture": "analogist.attention.capture.capture",
    "AttentionMap": "analogist.attention.capture.maps",
    "every": "analogist.attention.capture.capture",
}

__all__ = ["__version__", *_PUBLIC]

__getattr__, __dir__ = load_on_use(__name__, _PUBLIC)
keep_old_paths()  # of version 0.1
