"""LoRA files merged into loaded networks: W := W + scale * alpha / rank * up @ down, with a strict report of their own.

Source: Hu et al. 2021 (LoRA), Eq. (3). Names of kohya's scripts (on diffusers' or LDM's modules), of diffusers and of PEFT are read.
Place in the flow: after Checkpoint.load_*, before the first call.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from einops import einsum
from torch import Tensor, nn

from . import outmaps
from .errors import WeightsError
from .header import FLOATS, Header, read_header
from .reader import open_unchanged, read_tensor

SHOWN = 8
ENDINGS = (  # what stands behind a module's name -> which factor it is
    (r"\.lora_down\.weight", "down"),
    (r"\.lora_up\.weight", "up"),
    (r"\.lora_mid\.weight", "mid"),
    (r"\.lora_A(?:\.default)?\.weight", "down"),
    (r"\.lora_B(?:\.default)?\.weight", "up"),
    (r"(?:\.|_)lora(?:_linear_layer)?\.down\.weight", "down"),
    (r"(?:\.|_)lora(?:_linear_layer)?\.up\.weight", "up"),
    (r"\.alpha", "alpha"),
)
OTHER_KINDS = {"hada_": "LoHa", "lokr_": "LoKr", "dora_scale": "DoRA", "lora_magnitude_vector": "DoRA", "oft_": "OFT", "glora": "GLoRA"}
NETWORKS = (  # what stands before a module's name -> which network it is in
    (r"^lora_unet_", "unet"),
    (r"^lora_te1?_", "text"),
    (r"^lora_te2_", "text_2"),  # SDXL's second text encoder
    (r"^unet\.", "unet"),
    (r"^text_encoder\.", "text"),
    (r"^text_encoder_2\.", "text_2"),
    (r"^base_model\.model\.", "unet"),
    (r"", "unet"),
)
WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}


@dataclass(frozen=True)
class LoraReport:
    """What was merged. modules: network -> how many of its modules; ranks: of the factors; sha256: of the file."""

    path: Path
    scale: float
    modules: dict[str, int]
    ranks: tuple[int, ...]
    sha256: str


@dataclass
class _Module:
    """One module's factors. theirs: the module as the file names it."""

    theirs: str
    network: str
    factors: dict[str, str] = field(default_factory=dict)  # factor -> tensor name


def merge_lora(path: Path | str, unet: nn.Module, *texts: nn.Module, scale: float = 1.0) -> LoraReport:
    """Adds a LoRA file to a loaded UNet and its text encoder (SDXL: both), in float32 and rounded once to each parameter's own dtype.

    Everything is checked first: nothing is changed where one tensor does not fit. Raises WeightsError that lists what is unknown,
    incomplete or misshapen, and says for which family the file looks made.
    """
    path = Path(path)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
        raise WeightsError(f"{path}: scale {scale!r}; a finite number is allowed")
    header = read_header(path)
    modules, strange = _modules(path, list(header.tensors))
    targets = {"unet": _unet_targets(unet), "text": {}, "text_2": {}}
    targets |= {name: _text_targets(text) for name, text in zip(("text", "text_2"), texts, strict=False)}
    alphas = _alphas(header.metadata)
    problems: dict[str, list[str]] = {"unknown": strange}
    planned: list[tuple[nn.Parameter, _Module, float]] = []
    ranks: set[int] = set()
    for module in modules:
        key = _flat(module.theirs)
        parameter = targets[module.network].get(key)
        if parameter is None:
            problems.setdefault("for modules that are not there", []).append(f"{module.network}: {module.theirs}")
            continue
        if not {"down", "up"} <= module.factors.keys():
            problems.setdefault("without their other factor", []).append(module.theirs)
            continue
        shapes = {factor: header.tensors[name].shape for factor, name in module.factors.items() if factor != "alpha"}
        held = _shape(shapes)
        if held is None or math.prod(held) != parameter.numel() or held[:2] != tuple(parameter.shape[:2]):
            product = "no product" if held is None else list(held)
            problems.setdefault("of another shape", []).append(f"{module.theirs} {product} instead of {list(parameter.shape)}")
            continue
        rank = shapes["down"][0]
        ranks.add(rank)
        planned.append((parameter, module, alphas.get(module.network, {}).get("", rank) / rank))
        for name, alpha in alphas.get(module.network, {}).items():
            if name and (module.theirs == name or module.theirs.endswith("." + name)):
                planned[-1] = (parameter, module, alpha / rank)
    mistyped = [name for name, info in header.tensors.items() if info.dtype not in FLOATS and not name.endswith(".alpha")]
    problems["of a type that holds no weights"] = mistyped
    _demand(path, problems, header.tensors)
    if not planned:
        raise WeightsError(f"{path}: no LoRA factors in it")
    _merge(header, planned, scale)
    counts = {network: sum(module.network == network for module in modules) for network in targets}
    return LoraReport(path, float(scale), {name: count for name, count in counts.items() if count}, tuple(sorted(ranks)), _sha256(path))


@torch.no_grad()
def _merge(header: Header, planned: list[tuple[nn.Parameter, _Module, float]], scale: float) -> None:
    """Reads all factors before the first parameter changes: a number that is not finite, or a file cut off meanwhile, changes none."""
    read: dict[str, Tensor] = {}
    with open_unchanged(header) as file:
        for name in (name for _, module, _ in planned for name in module.factors.values()):
            read[name] = read_tensor(file, header.tensors[name])
            if not read[name].isfinite().all():
                raise WeightsError(f"{header.path}: {name} holds NaN or infinity")
    for parameter, module, strength in planned:
        factors = {factor: read[name] for factor, name in module.factors.items()}
        if "alpha" in factors:
            strength = factors["alpha"].item() / factors["down"].shape[0]
        delta = _product(factors).reshape(parameter.shape).to(parameter.device)
        parameter.copy_((parameter.float() + scale * strength * delta).to(parameter.dtype))


def _product(factors: Mapping[str, Tensor]) -> Tensor:
    """up @ down, for linear layers [out in] and convolutions [out in h w] (with LoCon's small middle convolution where there is one)."""
    down, up = factors["down"], factors["up"].flatten(1)
    if "mid" in factors:
        return einsum(up, factors["mid"], down.flatten(1), "out p, p q h w, q in -> out in h w")
    return einsum(up, down, "out rank, rank in ... -> out in ...") if down.ndim > 2 else up @ down


def _shape(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    """The product's shape; None where the factors do not multiply."""
    down, up, mid = shapes["down"], shapes["up"], shapes.get("mid")
    if len(down) not in (2, 4) or len(up) not in (2, 4) or up[2:] not in ((), (1, 1)):
        return None
    if mid is not None:
        fits = len(mid) == 4 and mid[:2] == (up[1], down[0]) and down[2:] in ((), (1, 1))
        return (up[0], down[1], *mid[2:]) if fits else None
    return (up[0], down[1], *down[2:]) if up[1] == down[0] else None


def _modules(path: Path, names: list[str]) -> tuple[list[_Module], list[str]]:
    """The file's modules, and the names that no rule knows."""
    for mark, kind in OTHER_KINDS.items():
        found = next((name for name in names if mark in name.rpartition(".")[2] or f".{mark}" in name), None)
        if found is not None:
            raise WeightsError(f"{path}: a {kind} file ({found}); only LoRA and LoCon are merged here")
    modules: dict[tuple[str, str], _Module] = {}
    strange = []
    for name in names:
        found = next(((name[: match.start()], kind) for end, kind in ENDINGS if (match := re.search(end + "$", name))), None)
        if found is None:
            strange.append(name)
            continue
        stem, factor = found
        prefix, network = next((match[0], kind) for start, kind in NETWORKS if (match := re.match(start, stem)))
        theirs = stem[len(prefix) :].replace(".processor.", ".")
        module = modules.setdefault((network, theirs), _Module(theirs, network))
        if factor in module.factors:
            strange.append(name)
        module.factors[factor] = name
    return list(modules.values()), strange


def _flat(name: str) -> str:
    """A module's name as kohya writes it; what is optional in it left out."""
    flat = name.replace(".", "_").removeprefix("text_model_")
    return re.sub(r"_to_out_0$", "_to_out", flat)


def _unet_targets(unet: nn.Module) -> dict[str, nn.Parameter]:
    """Every weight matrix of the UNet by its flat diffusers and LDM names."""
    depth, layers = unet.config.depth, unet.config.layers_per_block
    found = {}
    for name, parameter in unet.named_parameters():
        if name.endswith(".weight") and parameter.ndim > 1:
            for theirs in (outmaps.unet_to_diffusers(name), outmaps.unet_to_ldm(name, layers, depth)):
                found[_flat(theirs.removesuffix(".weight"))] = parameter
    return found


def _text_targets(text: nn.Module) -> dict[str, nn.Parameter]:
    named = ((name, parameter) for name, parameter in text.named_parameters() if name.endswith(".weight") and parameter.ndim > 1)
    return {_flat(name.removesuffix(".weight")): parameter for name, parameter in named}


def _alphas(metadata: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Network -> module ("" for all) -> alpha, from the metadata that diffusers writes beside PEFT's factors."""
    try:
        said = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except ValueError:
        raise WeightsError("its lora_adapter_metadata is not JSON") from None
    out: dict[str, dict[str, float]] = {}
    for network, prefix in (("unet", "unet."), ("text", "text_encoder."), ("text_2", "text_encoder_2.")):
        alphas = dict(said.get(f"{prefix}alpha_pattern") or {})
        if isinstance(said.get(f"{prefix}lora_alpha"), int | float):
            alphas = {"": said[f"{prefix}lora_alpha"], **alphas}
        out[network] = alphas
    return out


def _demand(path: Path, problems: dict[str, list[str]], tensors: Mapping) -> None:
    """Raises WeightsError unless there is nothing to complain about."""
    lines = []
    for kind, names in problems.items():
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            lines.append(f"{len(names)} {kind}: {', '.join(name[:160] for name in names[:SHOWN])}{more}")
    if not lines:
        return
    keys = [info.shape[1] for name, info in tensors.items() if re.search(r"attn2.*to_k.*(lora_A|down)", name) and len(info.shape) > 1]
    family = WIDTHS.get(keys[0]) if keys else None
    guess = f". It looks made for {family} (text of width {keys[0]})" if family else ""
    raise WeightsError(f"{path}: this LoRA does not fit the checkpoint: {'; '.join(lines)}{guess}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
