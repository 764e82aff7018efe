"""Analogist: A : A' :: B : B' with a Stable Diffusion inpainting model, every attention map open to reading and editing."""

from pathlib import Path
from typing import TYPE_CHECKING

from analogist.names import keep_old_paths, load_on_use

__version__ = "0.2.0"

# In a source tree models/ and weights/ lie beside this folder, not inside it: let `analogist.models` find them there.
# (analogist.tests becomes importable by this too, harmlessly.)
if not (Path(__file__).parent / "models").is_dir():
    __path__.append(str(Path(__file__).parent.parent))

if TYPE_CHECKING:  # what editors and type checkers see
    from analogist.attention.capture.capture import Capture, every
    from analogist.attention.capture.maps import AttentionMap
    from analogist.config import AnalogistConfig, SamplingConfig
    from analogist.grid.prompt_grid import PromptGrid
    from analogist.models.control import AttentionControl
    from analogist.models.placement import Placement, Site
    from analogist.models.settings import CAM, SAC
    from analogist.pipeline import Analogist
    from analogist.run.result import Result, Step

# Public names are looked up on first use, so that `analogist --help` does not import torch.
_PUBLIC = {
    "Analogist": "analogist.pipeline",
    "Result": "analogist.pipeline",
    "Step": "analogist.pipeline",
    "PromptGrid": "analogist.grid.prompt_grid",
    "AnalogistConfig": "analogist.config",
    "SamplingConfig": "analogist.config",
    "SAC": "analogist.models.settings",
    "CAM": "analogist.models.settings",
    "Placement": "analogist.models.placement",
    "AttentionControl": "analogist.models.control",
    "Site": "analogist.models.placement",
    "Capture": "analogist.attention.capture.capture",
    "AttentionMap": "analogist.attention.capture.maps",
    "every": "analogist.attention.capture.capture",
}

__all__ = [
    "CAM", "SAC", "Analogist", "AnalogistConfig", "AttentionControl", "AttentionMap", "Capture", "Placement", "PromptGrid", "Result",
    "SamplingConfig", "Site", "Step", "__version__", "every",
]  # fmt: skip

if not TYPE_CHECKING:  # a checker takes any name to exist where it sees these
    __getattr__, __dir__ = load_on_use(__name__, _PUBLIC)
keep_old_paths()  # of version 0.1
