"""An opened checkpoint, and the strict loading of its parts into modules built on the meta device.

    with torch.device("meta"):
        unet = UNet(UNetConfig(**checkpoint.unet))
    report = checkpoint.load_unet(unet, dtype=torch.float16)

Place in the flow: what load.open_checkpoint returns.
"""

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .files import Found
from .fingerprint import fingerprint
from .header import Header
from .parts import Group, Mapped
from .reader import read_all
from .strict import Comparison, compare, demand, prefixed

NAMES = {"unet": "UNet", "vae": "VAE", "text": "text encoder", "text_2": "second text encoder"}
TEXTS = ("text", "text_2")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Source:
    """One part of a checkpoint on disk. outside: names in the same file that belong to no part; notes: what was ignored, in words."""

    found: Found
    group: Group
    mapped: Mapped = field(repr=False)
    outside: list[str] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def types(self) -> dict[str, int]:
        """Type on disk -> number of tensors, counting only those that are loaded."""
        return dict(Counter(piece.info.dtype for piece in self.mapped.pieces.values()))


@dataclass(frozen=True)
class LoadReport:
    """What was loaded. types: type on disk -> number of tensors; unused: names left out on purpose; notes: choices and leftovers,
    in words.
    """

    part: str
    tensors: int
    parameters: int
    dtype: torch.dtype
    device: torch.device
    types: dict[str, int]
    files: list[Path]
    unused: list[str]
    notes: list[str]


@dataclass
class Checkpoint:
    """A checkpoint as its headers and configs describe it; no weights are read before load_*.

    layout: "single file" or "folder". family: "sd15-inpainting", "sd2-inpainting" or "sdxl-inpainting"; description: the same in words.
    unet, vae, text: fields of UNetConfig, VAEConfig and CLIPTextConfig. scheduler: beta_start, beta_end, num_train_timesteps,
    steps_offset, set_alpha_to_one, prediction_type; also timestep_spacing unless "leading", and rescale_betas_zero_snr if on (so that
    the fingerprints of checkpoints without these settings stay the same). text_layer: "penultimate" if the last stored layer is left out
    (text then has one layer less), else "last". tokenizer: a folder, or None for CLIP's published one. defaults: the
    checkpoint's own settings (analogist.json), if any. default_size: pixels, or (height, width). notes: what was chosen, ignored or
    contradicted. text_2, pad_token_id_2, tokenizer_2: SDXL's second encoder (with its projection), else None. vae_float32: the
    VAE overflows in float16 (force_upcast in its config) and must compute in float32.
    """

    path: Path
    layout: str
    family: str
    description: str
    unet: dict[str, Any]
    vae: dict[str, Any]
    text: dict[str, Any]
    scheduler: dict[str, Any]
    text_layer: str
    pad_token_id: int
    tokenizer: Path | None
    defaults: dict[str, Any] | None
    default_size: int | tuple[int, int]
    notes: list[str]
    sources: dict[str, Source] = field(repr=False)
    text_2: dict[str, Any] | None = None
    pad_token_id_2: int | None = None
    tokenizer_2: Path | None = None
    vae_float32: bool = False

    @property
    def dtypes(self) -> dict[str, dict[str, int]]:
        """Part -> type on disk -> number of tensors."""
        return {part: source.types for part, source in self.sources.items()}

    @cached_property
    def fingerprint(self) -> str:
        """Content key, 64 hexadecimal digits; see fingerprint.py for what it covers."""
        tensors = {}
        for part, source in self.sources.items():
            pieces = source.mapped.pieces.values()
            used = [piece.info for piece in pieces] + [piece.scale for piece in pieces if piece.scale is not None]
            tensors[part] = list({info.name: info for info in used}.values())
        settings = {
            "unet": self.unet, "vae": self.vae, "text": self.text, "scheduler": self.scheduler,
            "text_layer": self.text_layer, "pad_token_id": self.pad_token_id,
        }  # fmt: skip
        if self.text_2 is not None:
            settings |= {"text_2": self.text_2, "pad_token_id_2": self.pad_token_id_2, "vae_float32": self.vae_float32}
        tokenizers = [folder for folder in (self.tokenizer, self.tokenizer_2) if folder is not None]
        return fingerprint(tensors, self._headers(*self.sources), settings, tokenizers)

    def _headers(self, *names: str) -> list[Header]:
        return list({header.path: header for name in names for header in self.sources[name].found.headers}.values())

    def compare(self, part: str, module: nn.Module) -> Comparison:
        """Compare a part ("unet", "vae", "text", "text_2") with a module: what is missing, what is extra. Reads nothing."""
        source = self.sources[part]
        return compare(prefixed(source.mapped, module) if part in TEXTS else source.mapped, source.outside, module)

    def load_unet(self, module: nn.Module, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> LoadReport:
        """Load the UNet; module: built on the meta device from UNetConfig(**checkpoint.unet).

        Raises WeightsError if a tensor is missing, extra or of the wrong shape; ValueError for a dtype other than float32,
        float16, bfloat16.
        """
        return self._load("unet", module, dtype, device)

    def load_vae(self, module: nn.Module, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> LoadReport:
        """Load the VAE; module: built on the meta device from VAEConfig(**checkpoint.vae). Raises as load_unet."""
        return self._load("vae", module, dtype, device)

    def load_text(self, module: nn.Module, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> LoadReport:
        """Load the text encoder; module: CLIPText built on the meta device from CLIPTextConfig(**checkpoint.text), or transformers'
        CLIPTextModel. Raises as load_unet.
        """
        return self._load("text", module, dtype, device)

    def load_text_2(self, module: nn.Module, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> LoadReport:
        """Load SDXL's second text encoder; module: CLIPText(..., projected=True) built on the meta device from
        CLIPTextConfig(**checkpoint.text_2), or transformers' CLIPTextModelWithProjection. Raises as load_unet.
        """
        return self._load("text_2", module, dtype, device)

    def _load(self, part: str, module: nn.Module, dtype: torch.dtype, device: torch.device | str) -> LoadReport:
        if dtype not in DTYPES:
            raise ValueError(f"dtype {dtype}: weights are loaded as one of {', '.join(str(known) for known in DTYPES)}")
        device = torch.device(device)
        source = self.sources[part]
        demand(self.compare(part, module), NAMES[part], source.found.label, self.description)
        mapped = prefixed(source.mapped, module) if part in TEXTS else source.mapped
        want = {name: tensor.shape for name, tensor in module.state_dict().items()}
        tensors = read_all(mapped.pieces, want, self._headers(part), dtype, device)
        module.load_state_dict(tensors, strict=True, assign=True)
        _finish_buffers(module, device)
        return LoadReport(
            NAMES[part],
            len(tensors),
            sum(tensor.numel() for tensor in tensors.values()),
            dtype,
            device,
            source.types,
            [header.path for header in source.found.headers],
            mapped.unused,
            list(self.notes),
        )


def _finish_buffers(module: nn.Module, device: torch.device) -> None:
    """Buffers that are in no file: positions in transformers' text encoder. Any other one left on the meta device would fail much later."""
    for name, buffer in list(module.named_buffers()):
        if buffer.device.type != "meta":
            continue
        owner, leaf = module.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
        if leaf != "position_ids":
            raise ValueError(f"{type(module).__name__} has the buffer {name}, which no checkpoint holds and nothing here can fill")
        owner.register_buffer(leaf, torch.arange(buffer.shape[-1], device=device).expand(buffer.shape), persistent=False)
