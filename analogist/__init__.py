"""Analogist: A : A' :: B : B' with a Stable Diffusion inpainting model, every attention map open to reading and editing."""

from importlib import import_module
from pathlib import Path

__version__ = "0.1.0"

# In a source tree models/ and weights/ lie beside this folder, not inside it: let `analogist.models` find them there.
# (analogist.tests becomes importable by this too, harmlessly.)
if not (Path(__file__).parent / "models").is_dir():
    __path__.append(str(Path(__file__).parent.parent))

# Public names are looked up on first use, so that `analogist --help` does not import torch.
_PUBLIC = {
    "Analogist": "analogist.pipeline",
    "Result": "analogist.pipeline",
    "Step": "analogist.pipeline",
    "PromptGrid": "analogist.grid",
    "AnalogistConfig": "analogist.config",
    "SamplingConfig": "analogist.config",
    "SAC": "analogist.models.control",
    "CAM": "analogist.models.control",
    "Placement": "analogist.models.control",
    "AttentionControl": "analogist.models.control",
    "Site": "analogist.models.control",
    "Capture": "analogist.study.capture",
    "AttentionMap": "analogist.study.maps",
    "every": "analogist.study.capture",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'analogist' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_PUBLIC))
