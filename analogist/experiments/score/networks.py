"""Feature networks for metrics: CLIP and DINO image encoders from transformers, loaded from a folder or the hub.

If none is given, a metric that needs one says "not measured". Nothing is downloaded unless a hub id is given.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

KINDS = ("clip", "dino")


class NetworkError(ValueError):
    """A feature network cannot be used. The message names it and says what is expected."""


class FeatureNetwork(torch.nn.Module):
    """Image features of one network. name: for tables. fingerprint: of its weights. num_features: number of features.

    forward takes uint8 pictures [image 3 height width], as torchmetrics passes them.
    """

    def __init__(self, kind: str, name: str, model: Any, processor: Any, fingerprint: str) -> None:
        super().__init__()
        self.kind, self.name, self.fingerprint = kind, name, fingerprint
        self.model, self._processor = model.eval().requires_grad_(False), processor
        config = model.config
        self.num_features: int = config.projection_dim if kind == "clip" else config.hidden_size

    @torch.no_grad()
    def features(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Raw (not normalised) features [picture channel], float32 on the CPU: CLIP's image embeds, DINO's class token."""
        device = next(self.model.parameters()).device
        pixels = self._processor(images=list(pictures), return_tensors="pt").pixel_values
        out = self.model(pixel_values=pixels.to(device))
        return (out.image_embeds if self.kind == "clip" else out.last_hidden_state[:, 0]).float().cpu()

    def forward(self, pictures: Tensor) -> Tensor:
        return self.features([Image.fromarray(picture.permute(1, 2, 0).cpu().numpy()) for picture in pictures])


def load_network(kind: str, path: str, *, device: torch.device | str = "cpu") -> FeatureNetwork:
    """A network from a folder or a hub id. kind: "clip" or "dino".

    Raises NetworkError if there is none, its weights are incomplete, or its picture settings are missing.
    """
    if kind not in KINDS:
        raise NetworkError(f"feature network {kind!r}: allowed are {', '.join(KINDS)}")
    from transformers import AutoImageProcessor, AutoModel, CLIPVisionModelWithProjection

    local = Path(path).is_dir()
    maker: Any = CLIPVisionModelWithProjection if kind == "clip" else AutoModel
    try:
        model, report = maker.from_pretrained(path, output_loading_info=True, local_files_only=local, use_safetensors=True)
        processor = AutoImageProcessor.from_pretrained(path, local_files_only=local, backend="pil")
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise NetworkError(f"{kind} network {path}: cannot be loaded ({' '.join(str(error).split())[:300]})") from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise NetworkError(
            f"{kind} network {path}: {len(missing)} weights are missing ({missing[0]} ...): is it another kind of network?"
        )
    name = f"{kind}-{Path(path).name.lower()}" if not Path(path).name.lower().startswith(kind) else Path(path).name.lower()
    return FeatureNetwork(kind, name, model.to(device), processor, _fingerprint(model))


def _fingerprint(model: torch.nn.Module) -> str:
    """A content key of the weights: names, shapes, all bytes of small tensors and the first kilobyte of large ones."""
    key = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        head = tensor.detach().float().flatten()[:256].cpu().numpy().tobytes()
        key.update(f"{name}{tuple(tensor.shape)}".encode() + head)
    return key.hexdigest()
