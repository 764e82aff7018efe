"""Converts checkpoints between layouts (single file, diffusers folder) and precisions.

    convert("sd-v1-5-inpainting.safetensors", "sd15", dtype=torch.float16)

Tensors are read, cast and written one at a time. The result is then opened again: it must describe itself as the source does.
"""

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import model_families as families
from . import outmaps, parts
from .checkpoint import NAMES, Checkpoint
from .errors import WeightsError
from .files import FOLDERS, STEMS
from .load import open_checkpoint
from .outconfigs import folder_configs
from .parts import Piece
from .reader import OTHER_TYPES, TORCH_TYPES, read_scale
from .strict import SHOWN
from .writer import Planned, write

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
UNTOUCHED = ("unet", "vae", "text", "scheduler", "pad_token_id", "family")  # must be equal in source and result
PREFIX = {"unet": "model.diffusion_model.", "vae": "first_stage_model."}


@dataclass(frozen=True)
class ConvertReport:
    """What was written. notes: what had to be invented or could not be kept, in words."""

    path: Path
    files: list[Path]
    tensors: int
    bytes: int
    notes: list[str]


def convert(
    source: Path | str,
    out: Path | str,
    *,
    dtype: torch.dtype | None = None,
    config: "Path | str | Mapping[str, object] | None" = None,
    vae: Path | str | None = None,
    variant: str | None = None,
    tokenizer: Mapping[str, bytes] | None = None,
    progress: Callable[[int], object] | None = None,
    check: Callable[[Checkpoint], object] | None = None,
) -> ConvertReport:
    """Writes a copy of a checkpoint: one file with LDM's names if out ends in .safetensors, else a diffusers folder.

    dtype: float32, float16 or bfloat16; None: as on disk. config, vae, variant: as for open_checkpoint. tokenizer: name -> content of
    CLIP's published tokenizer files, for a folder whose source has none. progress: called with the number of bytes of each tensor written.
    check: called with the source before anything is written, and later with the result; raises WeightsError if either does not fit
    the networks (this package does not know them).
    Raises WeightsError if the source is not a complete checkpoint, out already exists, or a number does not fit the dtype.
    """
    if dtype is not None and dtype not in DTYPES:
        raise WeightsError(
            f"dtype {dtype}: weights are written as one of {', '.join(str(known) for known in DTYPES)}, or as they are"
        )
    out = Path(out)
    single = out.suffix.lower() == ".safetensors"
    beside = out.with_suffix(".json")
    if single and beside.exists():
        raise WeightsError(f"{beside} already exists and would be read as the settings of {out.name}; give another path")
    if out.exists() and not (out.is_dir() and not single and not any(out.iterdir())):
        raise WeightsError(f"{out}: already exists; give another path")
    checkpoint = open_checkpoint(source, config=config, vae=vae, variant=variant)
    if checkpoint.text_2 is not None:
        raise WeightsError(f"{source}: {checkpoint.description} cannot be converted, only SD 1.x and SD 2.x can; use its folder as it is")
    _demand_whole(checkpoint, check)
    notes: list[str] = []
    scaled = sum(piece.scale is not None for source in checkpoint.sources.values() for piece in source.mapped.pieces.values())
    if single:
        if checkpoint.layout == "single file" and vae is None:
            planned = _as_it_is(checkpoint, dtype)
            scaled = 0
        else:
            planned = [plan for part in ("unet", "vae", "text") for plan in _ldm(checkpoint, part, dtype, notes)]
        _folder(out.parent)
        size = write(out, planned, progress=progress)
        files, count = [out], len(planned)
        files += _settings_beside(checkpoint, out, notes)
    else:
        files, count, size = _write_folder(checkpoint, out, dtype, tokenizer, progress)
    if scaled and dtype is None:
        notes.append(f"{scaled} tensors of 8-bit floats with scales were written as float16, because this layout cannot store scales")
    _check(checkpoint, out, files, check)
    return ConvertReport(out, files, count, size, notes)


def _write_folder(
    checkpoint: Checkpoint,
    out: Path,
    dtype: torch.dtype | None,
    tokenizer: Mapping[str, bytes] | None,
    progress: Callable[[int], object] | None,
) -> tuple[list[Path], int, int]:
    """Writes the folder under a temporary name beside its destination, then renames it."""
    _folder(out.parent)
    temporary = out.parent / f".analogist-{secrets.token_hex(8)}.tmp"
    count = size = 0
    try:
        for name, content in folder_configs(checkpoint).items():
            _folder((temporary / name).parent)
            (temporary / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        for part in ("unet", "vae", "text"):
            planned = _diffusers(checkpoint, part, dtype)
            size += write(temporary / FOLDERS[part] / f"{STEMS[part]}.safetensors", planned, progress=progress)
            count += len(planned)
        given = checkpoint.tokenizer
        words = tokenizer or {}
        if given is not None:
            words = {file.name: file.read_bytes() for file in sorted(given.iterdir()) if file.is_file()}
        for name, content in words.items():
            _folder(temporary / "tokenizer")
            (temporary / "tokenizer" / name).write_bytes(content)
        if out.exists():
            out.rmdir()
        os.replace(temporary, out)
    except BaseException as error:
        with contextlib.suppress(OSError):
            shutil.rmtree(temporary)
        if isinstance(error, OSError):
            raise WeightsError(f"{out}: cannot be written ({error.strerror or error}); nothing was left behind") from None
        raise
    return sorted(path for path in out.rglob("*") if path.is_file()), count, size


def _demand_whole(checkpoint: Checkpoint, check: Callable[[Checkpoint], object] | None) -> None:
    """Raises WeightsError if the source could not be loaded, because then its copy could not be loaded either."""
    for part, source in checkpoint.sources.items():
        faults = {
            "extra": source.outside,
            "present twice": list(source.mapped.twice),
            "of a type that weights cannot have": [p.info.name for p in source.mapped.pieces.values() if p.info.dtype not in TORCH_TYPES],
        }
        said = [f"{len(names)} {kind}: {', '.join(name[:160] for name in names[:SHOWN])}" for kind, names in faults.items() if names]
        if said:
            raise WeightsError(f"{source.found.label}: its {NAMES[part]} does not fit: {'; '.join(said)}. Nothing was written")
    if check is not None:
        check(checkpoint)


def _as_it_is(checkpoint: Checkpoint, dtype: torch.dtype | None) -> list[Planned]:
    """Everything in a single file, under its own names. Only weights change precision (scaled ones are then multiplied by their scales)."""
    tensors = checkpoint.sources["unet"].found.tensors
    scales = {} if dtype is None else parts.scales_of(tensors)
    planned = []
    for name, info in tensors.items():
        if name in scales.values() or (dtype is not None and parts.leftover(name) == parts.MARKS):
            continue
        scale = tensors[scales[name]] if name in scales else None
        if info.dtype in TORCH_TYPES:
            planned.append(_plan(name, Piece(info, None, scale), dtype, info.shape))
        elif info.dtype in OTHER_TYPES:
            planned.append(_plan(name, Piece(info), OTHER_TYPES[info.dtype], info.shape))
        else:
            raise WeightsError(f"{info.path}: {name} has the type {info.dtype}, which cannot be written")
    return planned


def _diffusers(checkpoint: Checkpoint, part: str, dtype: torch.dtype | None) -> list[Planned]:
    name_of = {"unet": outmaps.unet_to_diffusers, "vae": outmaps.vae_to_diffusers, "text": lambda name: f"text_model.{name}"}[
        part
    ]
    pieces = checkpoint.sources[part].mapped.pieces
    return [
        _plan(name_of(name), piece, dtype, _linear(piece) if part == "vae" else piece.shape) for name, piece in pieces.items()
    ]


def _ldm(checkpoint: Checkpoint, part: str, dtype: torch.dtype | None, notes: list[str]) -> list[Planned]:
    pieces = checkpoint.sources[part].mapped.pieces
    if part == "unet":
        geometry = checkpoint.unet["layers_per_block"], checkpoint.unet["depth"]
        return [
            _plan(PREFIX[part] + outmaps.unet_to_ldm(name, *geometry), piece, dtype, piece.shape)
            for name, piece in pieces.items()
        ]
    if part == "vae":
        levels = len(checkpoint.vae["channels"])
        return [
            _plan(PREFIX[part] + outmaps.vae_to_ldm(name, levels), piece, dtype, _convolved(name, piece))
            for name, piece in pieces.items()
        ]
    if not checkpoint.family.startswith(families.SD2):
        return [
            _plan(f"cond_stage_model.transformer.text_model.{name}", piece, dtype, piece.shape) for name, piece in pieces.items()
        ]
    return _openclip(pieces, checkpoint.text["num_hidden_layers"], dtype, notes)


def _openclip(pieces: Mapping[str, Piece], layers: int, dtype: torch.dtype | None, notes: list[str]) -> list[Planned]:
    """SD 2's text encoder as single files store it: with one layer more than is run, a projection and a scale, all three unused."""
    prefix = "cond_stage_model.model."
    planned: dict[str, Planned] = {}
    stacked: dict[str, list[Piece]] = {}
    for name, piece in pieces.items():
        theirs = prefix + outmaps.text_to_openclip(name)
        if ".attn.in_proj_" in theirs:
            stacked.setdefault(theirs, []).append(piece)  # q, k, v: sorted below
        else:
            planned[theirs] = _plan(theirs, piece, dtype, piece.shape)
    for theirs, three in stacked.items():
        order = sorted(
            three, key=lambda piece: (piece.part or (0,), piece.info.name.replace("q_proj", "0").replace("k_proj", "1"))
        )
        shape = (3 * order[0].shape[0], *order[0].shape[1:])
        kind = _kind(order[0], dtype)
        planned[theirs] = Planned(
            theirs, kind, shape, lambda order=order, kind=kind: torch.cat([_read(piece, kind) for piece in order])
        )
    last = f"{prefix}transformer.resblocks.{layers - 1}."
    for name, plan in list(planned.items()):
        if name.startswith(last):
            copy = name.replace(last, f"{prefix}transformer.resblocks.{layers}.")
            planned[copy] = Planned(copy, plan.dtype, plan.shape, plan.make)
    width = planned[f"{prefix}ln_final.weight"]
    side = width.shape[0]
    projection, scale = f"{prefix}text_projection", f"{prefix}logit_scale"
    planned[projection] = Planned(projection, width.dtype, (side, side), lambda: torch.eye(side, dtype=width.dtype, device="cpu"))
    planned[scale] = Planned(scale, width.dtype, (), lambda: torch.tensor(100.0, device="cpu").log().to(width.dtype))
    notes.append(
        f"text encoder: the single-file layout has one layer more than is run; block {layers} is a copy of the one before it, "
        "text_projection is the identity, logit_scale is log 100. They are never used: the penultimate layer is the output"
    )
    return list(planned.values())


def _plan(name: str, piece: Piece, dtype: torch.dtype | None, shape: tuple[int, ...]) -> Planned:
    kind = _kind(piece, dtype)
    return Planned(name, kind, tuple(shape), lambda: _read(piece, kind).reshape(shape))


def _kind(piece: Piece, dtype: torch.dtype | None) -> torch.dtype:
    """The type in which a piece is written; float16 for 8-bit numbers with a scale, because the scale is multiplied in."""
    return dtype or (TORCH_TYPES | OTHER_TYPES)[piece.info.dtype] if piece.scale is None else dtype or torch.float16


def _read(piece: Piece, dtype: torch.dtype) -> Tensor:
    """One of our parameters from disk, cast. Raises WeightsError if a finite number would become infinite."""
    info = piece.info
    stored = (TORCH_TYPES | OTHER_TYPES)[info.dtype]
    shape = torch.Size(piece.shape)
    size = shape.numel() * stored.itemsize
    content = bytearray(size)
    with open(info.path, "rb") as file:
        file.seek(info.start + (piece.part[0] * size if piece.part else 0))
        if file.readinto(content) != size:
            raise WeightsError(f"{info.path}: the file was truncated while it was read")
    tensor = torch.frombuffer(content, dtype=stored).view(shape) if size else torch.empty(shape, dtype=stored, device="cpu")
    if piece.scale is not None:
        with open(piece.scale.path, "rb", buffering=0) as file:
            scale = read_scale(file, piece.scale, piece.part)
        tensor = (tensor.float().view(scale.numel(), -1) * scale.view(-1, 1)).view(shape)
    cast = tensor.to(dtype)
    if cast.is_floating_point() and cast.dtype != tensor.dtype and not _finite(cast) and _finite(tensor):
        largest = tensor.double().abs().max().item()
        kind = str(dtype).removeprefix("torch.")
        raise WeightsError(f"{info.name}: holds {largest:.4g}, beyond {kind}'s {torch.finfo(dtype).max:.6g}; write bfloat16 or float32")
    return cast


def _finite(tensor: Tensor) -> bool:
    return bool(tensor.float().isfinite().all() if tensor.itemsize == 1 else tensor.isfinite().all())


def _linear(piece: Piece) -> tuple[int, ...]:
    """[C, C, 1, 1] as [C, C]: diffusers' VAE attention uses linear layers. Its other 1x1 convolutions all change the number of channels."""
    shape = piece.shape
    square = len(shape) == 4 and shape[2:] == (1, 1) and ".attn" in piece.info.name
    return shape[:2] if square else shape


def _convolved(name: str, piece: Piece) -> tuple[int, ...]:
    return (*piece.shape[:2], 1, 1) if outmaps.VAE_ATTENTION.search(name) else piece.shape


def _settings_beside(checkpoint: Checkpoint, out: Path, notes: list[str]) -> list[Path]:
    """Writes OUT.json if the single file alone would be read with other settings (heads, norm groups, scaling factor ...)."""
    try:
        alone = open_checkpoint(out)
        same = all(getattr(alone, name) == getattr(checkpoint, name) for name in UNTOUCHED)
    except WeightsError:
        same = False
    if same:
        return []
    configs = folder_configs(checkpoint)
    content: dict[str, Any] = {part: configs[f"{part}/config.json"] for part in ("unet", "vae", "text_encoder")}
    content |= {"scheduler": configs["scheduler/scheduler_config.json"], "pad_token_id": checkpoint.pad_token_id}
    if checkpoint.family.startswith(families.SD2):
        content["text_layer"] = "penultimate"
        content["text_encoder"] = {**content["text_encoder"], "num_hidden_layers": checkpoint.text["num_hidden_layers"] + 1}
    beside = out.with_suffix(".json")
    temporary = out.parent / f".analogist-{secrets.token_hex(8)}.tmp"
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, beside)
    notes.append(f"{beside.name} beside it holds settings that the tensor shapes do not determine; keep the two files together")
    return [beside]


def _check(checkpoint: Checkpoint, out: Path, files: list[Path], check: Callable[[Checkpoint], object] | None) -> None:
    """Raises WeightsError, and removes what was written, unless the result describes itself as the source does."""
    try:
        written = open_checkpoint(out)
        for name in UNTOUCHED:
            held, want = getattr(written, name), getattr(checkpoint, name)
            if held != want:
                raise WeightsError(f"its {name} would be {held}, but the source has {want}")
        _demand_whole(written, check)
    except WeightsError as error:
        shutil.rmtree(out) if out.is_dir() else [file.unlink() for file in files]
        raise WeightsError(f"{out}: the result would not be read like its source ({error}); it was removed") from None


def _folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(f"{path}: the folder cannot be created ({error.strerror or error})") from None
