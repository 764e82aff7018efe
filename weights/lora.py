"""LoRA files merged into loaded networks: W := W + scale * strength * up @ down, with their own strict report.

Source: Hu et al. 2021 (LoRA), Eq. (3). lora_names.py knows the names that each tool writes, lora_strength.py determines the strength.
Place in the flow: after Checkpoint.load_*, before the first call.
"""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, cast

import torch
from einops import einsum
from torch import Tensor, nn

from . import outmaps
from .errors import WeightsError, about
from .header import FLOATS, PICKLE_SUFFIXES, Header, TensorInfo, read_header
from .lora_names import SHOWN, TEXT, TEXT_2, TRANSFORMER, UNET, Module, flat, modules_of
from .lora_strength import Asked, read_strengths
from .reader import open_unchanged, read_tensor

IN_FOLDER = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")  # PEFT's name, diffusers' name
WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}
LATENT_CHANNELS = 4  # the first input channels of an inpainting UNet, and the only ones of a text-to-image UNet


@dataclass(frozen=True)
class LoraReport:
    """What was merged. modules: network -> number of modules; ranks: the factors' ranks; strengths: those found, before scale; sha256: of
    the file; config_sha256: of the adapter_config.json whose strengths were taken, if any; notes: what was assumed or ignored, in words.
    """

    path: Path
    scale: float
    modules: dict[str, int]
    ranks: tuple[int, ...]
    strengths: tuple[float, ...]
    sha256: str
    config_sha256: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Target:
    """A weight matrix of a loaded network. names: those of its module, as PEFT and diffusers write them."""

    parameter: nn.Parameter
    label: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class _Planned:
    """One module that fits. shape: of up @ down; alpha: the number in its own .alpha tensor, or None."""

    target: _Target
    network: str
    module: Module
    rank: int
    shape: tuple[int, ...]
    alpha: float | None


def merge_lora(path: Path | str, unet: nn.Module, *texts: nn.Module, scale: float = 1.0) -> LoraReport:
    """Adds a LoRA to a loaded UNet and its text encoder (SDXL: both), computed in float32 and rounded once to each parameter's dtype.

    path: a .safetensors file, or a folder as PEFT or diffusers saves one. Everything is checked first; if one tensor does
    not fit, nothing is changed. Raises WeightsError that lists what is unknown, incomplete or of the wrong shape and says for which family
    the file seems made; also for invalid or contradictory metadata, and if a weight would not be finite (naming its layer).
    """
    path = Path(path)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
        raise WeightsError(f"{path}: scale {scale!r}; expected a finite number")
    path = _file_of(path)
    header = read_header(path)
    with about(str(path)):
        found = modules_of(path, list(header.tensors))
        planned = _plan(header, found.modules, found.strange, {UNET: _unet_targets(unet)} | _text_targets(texts))
        said = read_strengths(path, header.metadata, any(one.alpha is not None for one in planned))
        strengths, notes = said.of([_asked(one) for one in planned])
        for word, names in found.embeddings.items():
            notes.append(f"{len(names)} tensors of the bundled embedding {word!r} ignored: the word has no special meaning in prompts")
        for one in (one for one in planned if _is_partial(one)):
            notes.append(f"{one.target.label}: made for {one.shape[1]} input channels, added to the first {one.shape[1]} (the latents)")
        _merge(header, list(zip(planned, strengths, strict=True)), scale)
    counts = {network: sum(one.network == network for one in planned) for network in dict.fromkeys(one.network for one in planned)}
    ranks, met = sorted({one.rank for one in planned}), sorted(set(strengths))
    beside = None if said.config is None else _sha256(said.config)
    return LoraReport(path, float(scale), counts, tuple(ranks), tuple(met), _sha256(path), beside, tuple(notes))


def _file_of(path: Path) -> Path:
    """The LoRA file of a folder: PEFT's, diffusers', or the only one. Raises WeightsError if there is none, or more than one."""
    if not path.is_dir():
        return path
    files = sorted(file for file in path.glob("*.safetensors") if file.is_file())
    named = [path / name for name in IN_FOLDER if (path / name) in files]
    if len(named) == 1 or len(files) == 1:
        return named[0] if named else files[0]
    if files:
        raise WeightsError(f"{path}: it holds {len(files)} files ({', '.join(file.name for file in files[:SHOWN])}); give one of them")
    pickles = sorted(file.name for file in path.iterdir() if file.suffix.lower() in PICKLE_SUFFIXES)
    if pickles:
        raise WeightsError(
            f"{path}: only pickles ({', '.join(pickles[:4])}), which are never opened because a pickle can run any code that its author "
            "put into it; save the LoRA again with safe_serialization=True"
        )
    raise WeightsError(f"{path}: no LoRA in this folder; expected {' or '.join(IN_FOLDER)}")


def _plan(header: Header, modules: Sequence[Module], strange: list[str], targets: Mapping[str, Mapping[str, _Target]]) -> list[_Planned]:
    """Every module with the weights it is added to. Raises WeightsError that lists everything that does not fit."""
    problems: dict[str, list[str]] = {"unknown": list(strange)}
    planned: list[_Planned] = []
    taken: dict[int, str] = {}
    with open_unchanged(header) as file:
        for module in modules:
            name = flat(module.theirs)
            named = [(network, targets[network][name]) for network in module.networks if name in targets[network]]
            if not named:
                problems.setdefault("for modules that do not exist", []).append(f"{module.networks[0]}: {module.theirs}")
                continue
            if not {"down", "up"} <= module.factors.keys():
                problems.setdefault("without the other factor", []).append(module.theirs)
                continue
            shapes = {factor: header.tensors[held].shape for factor, held in module.factors.items() if factor != "alpha"}
            product, rank = _shape(shapes), (*shapes["down"], 0)[0]
            if rank == 0:
                problems.setdefault("of rank 0, which change nothing", []).append(module.theirs)
                continue
            network, target = next(((network, target) for network, target in named if _fits(product, target)), named[0])
            if product is None or not _fits(product, target):
                held = "no product" if product is None else list(product)
                problems.setdefault("of the wrong shape", []).append(f"{module.theirs} {held} instead of {list(target.parameter.shape)}")
                continue
            if id(target.parameter) in taken:
                problems.setdefault("present twice", []).append(f"{target.label} ({taken[id(target.parameter)]} and {module.theirs})")
                continue
            taken[id(target.parameter)] = module.theirs
            alpha = _alpha(file, header.tensors[module.factors["alpha"]]) if "alpha" in module.factors else None
            planned.append(_Planned(target, network, module, rank, product, alpha))
    factors = [name for module in modules for factor, name in module.factors.items() if factor != "alpha"]
    problems["of a type that weights cannot have"] = [name for name in factors if header.tensors[name].dtype not in FLOATS]
    _demand(problems, header.tensors)
    if not planned:
        raise WeightsError("it holds no LoRA factors")
    return planned


def _alpha(file: FileIO, info: TensorInfo) -> float:
    """The number in a module's .alpha tensor. Raises WeightsError unless it holds exactly one finite number."""
    if info.count != 1:
        raise WeightsError(f"{info.name} holds {info.count} numbers; expected one alpha")
    alpha = read_tensor(file, info).item()
    if not math.isfinite(alpha):
        raise WeightsError(f"{info.name} is {alpha}; expected a finite number")
    return alpha


def _asked(one: _Planned) -> Asked:
    kernel = max(one.shape[2:], default=1)
    return Asked(one.module.theirs, one.network, (*one.target.names, one.module.theirs), one.rank, kernel, one.alpha)


def _fits(product: tuple[int, ...] | None, target: _Target) -> bool:
    """Whether up @ down has the parameter's shape. For conv_in, the shape of a text-to-image UNet is also accepted."""
    if product is None:
        return False
    want = tuple(target.parameter.shape)
    if product[:2] == want[:2]:  # a kernel of 1 x 1 may be left out
        return product[2:] == want[2:] or math.prod(product[2:]) == math.prod(want[2:]) == 1
    return target.label == "conv_in" and product == (want[0], LATENT_CHANNELS, *want[2:]) and want[1] > LATENT_CHANNELS


def _is_partial(one: _Planned) -> bool:
    return one.shape[1] != one.target.parameter.shape[1]


@torch.no_grad()
def _merge(header: Header, planned: Sequence[tuple[_Planned, float]], scale: float) -> None:
    """Reads all factors and computes every sum before the first parameter changes. If a number is not finite, or the file is truncated
    meanwhile, no parameter changes.
    """
    read: dict[str, Tensor] = {}
    with open_unchanged(header) as file:
        for name in (name for one, _ in planned for factor, name in one.module.factors.items() if factor != "alpha"):
            read[name] = read_tensor(file, header.tensors[name])
            if not read[name].isfinite().all():
                raise WeightsError(f"{name} holds NaN or infinity")
    for parameter, merged, label in _sums(read, planned, scale):
        if not merged.isfinite().all():
            if not parameter.isfinite().all():
                raise WeightsError(f"the checkpoint's own weights of {label} hold NaN or infinity, before any LoRA is added")
            kind = str(merged.dtype).removeprefix("torch.")
            raise WeightsError(f"at scale {scale:g} it makes weights of {label} NaN or infinite in {kind}; give a smaller scale")
    for parameter, merged, _ in _sums(read, planned, scale):
        parameter.copy_(merged)


def _sums(
    read: Mapping[str, Tensor], planned: Sequence[tuple[_Planned, float]], scale: float
) -> Iterator[tuple[nn.Parameter, Tensor, str]]:
    """(parameter, its new value, layer), one at a time."""
    for one, strength in planned:
        parameter = one.target.parameter
        delta = _product({factor: read[name] for factor, name in one.module.factors.items() if factor != "alpha"})
        if _is_partial(one):
            full = delta.new_zeros(parameter.shape)
            full[:, : one.shape[1]] = delta
            delta = full
        delta = delta.reshape(parameter.shape).to(parameter.device)
        yield parameter, (parameter.float() + scale * strength * delta).to(parameter.dtype), one.target.label


def _product(factors: Mapping[str, Tensor]) -> Tensor:
    """up @ down, for linear layers [out in] and convolutions [out in h w] (with LoCon's small middle convolution, if any)."""
    down, up = factors["down"], factors["up"].flatten(1)
    if "mid" in factors:
        return einsum(up, factors["mid"], down.flatten(1), "wide p, p q h w, q narrow -> wide narrow h w")
    return einsum(up, down, "wide rank, rank narrow ... -> wide narrow ...") if down.ndim > 2 else up @ down


def _shape(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    """The product's shape, or None if the factors' shapes do not fit together."""
    down, up, mid = shapes["down"], shapes["up"], shapes.get("mid")
    if len(down) not in (2, 4) or len(up) not in (2, 4) or up[2:] not in ((), (1, 1)):
        return None
    if mid is not None:
        fits = len(mid) == 4 and mid[:2] == (up[1], down[0]) and down[2:] in ((), (1, 1))
        return (up[0], down[1], *mid[2:]) if fits else None
    return (up[0], down[1], *down[2:]) if up[1] == down[0] else None


def _unet_targets(unet: nn.Module) -> dict[str, _Target]:
    """Every weight matrix of the UNet by its flat diffusers and LDM names."""
    config = cast(Any, unet.config)  # a UNetConfig, which this folder does not import
    depth, layers = config.depth, config.layers_per_block
    found = {}
    for name, parameter in unet.named_parameters():
        if name.endswith(".weight") and parameter.ndim > 1:
            theirs = outmaps.unet_to_diffusers(name).removesuffix(".weight")
            target = _Target(parameter, name.removesuffix(".weight"), (theirs,))
            for spelled in (theirs, outmaps.unet_to_ldm(name, layers, depth).removesuffix(".weight")):
                found[flat(spelled)] = target
    return found


def _text_targets(texts: Sequence[nn.Module]) -> dict[str, dict[str, _Target]]:
    """Every weight matrix of the text encoders by its flat name; empty if the encoder does not exist."""
    found: dict[str, dict[str, _Target]] = {TEXT: {}, TEXT_2: {}}
    for network, text in zip((TEXT, TEXT_2), texts, strict=False):
        for name, parameter in text.named_parameters():
            if name.endswith(".weight") and parameter.ndim > 1:
                module = name.removesuffix(".weight").removeprefix("text_model.")
                found[network][flat(module)] = _Target(parameter, module, (module, f"text_model.{module}"))
    return found


def _demand(problems: dict[str, list[str]], tensors: Mapping[str, TensorInfo]) -> None:
    """Raises WeightsError if there are any problems."""
    lines = []
    for kind, names in problems.items():
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            lines.append(f"{len(names)} {kind}: {', '.join(name[:160] for name in names[:SHOWN])}{more}")
    if lines:
        raise WeightsError(f"this LoRA does not fit the checkpoint: {'; '.join(lines)}{_looks_made_for(tensors)}")


def _looks_made_for(tensors: Mapping[str, TensorInfo]) -> str:
    """The family that a file seems made for, in words; empty if unclear."""
    if any(TRANSFORMER.search(name) for name in tensors):
        return ". It looks made for a diffusion transformer (such as SD 3 or Flux), which has no UNet"
    keys = [info.shape[1] for name, info in tensors.items() if re.search(r"attn2.*to_k.*(lora_A|down)", name) and len(info.shape) > 1]
    family = WIDTHS.get(keys[0]) if keys else None
    return f". It looks made for {family} (text of width {keys[0]})" if family else ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
