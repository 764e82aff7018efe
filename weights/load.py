"""Opens a checkpoint from its headers alone.

    checkpoint = open_checkpoint("sd-v1-5-inpainting.safetensors")

Place in the flow: files.py -> header.py -> parts.py -> model_families.py and configs.py -> here -> checkpoint.Checkpoint.load_*.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import configs, copies, files, network_configs, parts
from . import model_families as families
from .checkpoint import NAMES, Checkpoint, LoadReport, Source
from .errors import WeightsError, about
from .files import Found
from .model_families import Family
from .parts import Split
from .strict import SHOWN
from .tokens import padding_id, second_padding_id

__all__ = ["Checkpoint", "LoadReport", "WeightsError", "open_checkpoint"]


def _source(kind: str, found: Found, pieces: Split | None = None) -> Source:
    """The only group of a kind among the tensors, or one of equal copies. Raises WeightsError if there is none, or several that differ."""
    split = pieces or parts.split(found.tensors)
    groups = split.of(kind)
    if pieces is None:  # a file for this part alone: tensors of other parts do not belong in it either
        elsewhere = [info.name for group in split.groups if group not in groups for info in group.tensors.values()]
        split = replace(split, other=[*split.other, *elsewhere, *split.ema, *split.marks.values()])
    if not groups:
        looks = families.guess(split, list(found.tensors)).text
        raise WeightsError(f"{found.label}: it holds no {NAMES[kind]}; it looks like {looks}")
    group, notes = copies.one_of(found, groups, NAMES[kind])
    mapped = copies.settle_names(found, parts.to_ours(group))
    outside = split.other if pieces is None else parts.blamed(split).get(kind, [])
    ignored = _ignored(split) if pieces is None else []
    return Source(found, group, mapped, outside, (*(f"{NAMES[kind]}: {note}" for note in ignored), *notes))


def _ignored(split: Split) -> list[str]:
    """The tensors of a file that are ignored, in words."""
    return [f"{len(names)} {why} ignored" for why, names in split.ignored.items()]


def _marked(marks: Mapping[str, str], said: Mapping[str, object], label: str) -> tuple[dict[str, object], list[str]]:
    """What the marks in a single file add to the scheduler's config, and notes. marks: of a Split. said: by the config that was given or
    lies beside the file; it has priority.

    Raises WeightsError for zero terminal SNR without a word on what is predicted.
    """
    if "ztsnr" in marks and "v_pred" not in marks and said.get("prediction_type") is None:
        raise WeightsError(
            f"{label}: the tensor {marks['ztsnr']} says that the noise schedule ends in pure noise (zero terminal SNR), but nothing says "
            "what the UNet predicts; there it can only be the velocity, and a tensor v_pred would say so. Give "
            'config={"scheduler": {"prediction_type": "v_prediction"}}, or {"rescale_betas_zero_snr": false} if the mark is wrong'
        )
    settings: dict[str, object] = {}
    notes: list[str] = []
    for mark, full in marks.items():
        name, value = parts.PREDICTION_MARKS[mark]
        other = said.get(name)
        if other is None:
            settings[name] = value
        over = f"; the config says {other!r}, which was taken" if other not in (None, value) else ""
        notes.append(f"the tensor {full} in the file says {name} {value!r}{over}")
    return settings, notes


def _single(found: Found, vae: Found | None, ema: bool) -> tuple[dict[str, Source], dict[str, str], list[str]]:
    """Sources by part, the marks of what the UNet predicts, and notes."""
    split = parts.split(found.tensors)
    notes = _ignored(split)
    if len(split.of("unet")) == 0:
        raise WeightsError(f"{found.label}: it holds no UNet; it is {families.guess(split, list(found.tensors)).text}")
    strange = parts.blamed(split).get("", [])
    edm = [name for name in strange if parts.EDM_MARKS.match(name)]
    if edm:
        raise WeightsError(
            f"{found.label}: {', '.join(edm)}: it says that its UNet is one for EDM's noise levels (Karras et al. 2022); only UNets of "
            "Stable Diffusion's schedule are supported, which predict the noise or the velocity"
        )
    if strange:
        more = f" and {len(strange) - SHOWN} more" if len(strange) > SHOWN else ""
        raise WeightsError(
            f"{found.label}: {len(strange)} tensors belong to no part of a checkpoint and are not known leftovers of "
            f"trainers or merges: {', '.join(name[:160] for name in strange[:SHOWN])}{more}; write the file again without them"
        )
    sources = {"unet": _source("unet", found, split)}
    if ema:
        group = sources["unet"].group
        group = replace(group, tensors=parts.averaged(group, split.ema))
        sources["unet"] = replace(sources["unet"], group=group, mapped=copies.settle_names(found, parts.to_ours(group)))
        notes.append(f"UNet: the {len(split.ema)} moving averages (model_ema.*) were taken instead of the weights beside them")
    elif split.ema:
        notes.append(
            f"UNet: the weights were taken, not the {len(split.ema)} moving averages (model_ema.*) beside them (ema=True takes those)"
        )
    with about(found.label):
        family = families.unet_family(sources["unet"].mapped.pieces, next(iter(split.of("text")), None))
    _supported(family, found.label, single=True, marks=split.marks)
    if vae is not None:
        sources["vae"] = _vae(vae)
        if split.of("vae"):
            notes.append(f"VAE: taken from vae= ({vae.label}) instead of the one in the file")
    elif split.of("vae"):
        sources["vae"] = _source("vae", found, split)
    else:
        raise WeightsError(f"{found.label}: {family.text}, without a VAE; give one with vae= (a .safetensors file or a folder)")
    if not split.of("text"):
        raise WeightsError(f"{found.label}: {family.text}, without a text encoder; a checkpoint with all parts is needed")
    sources["text"] = _source("text", found, split)
    return sources, split.marks, notes


def _vae(found: Found) -> Source:
    """The VAE in a file given as vae=; anything else in that file is ignored."""
    return replace(_source("vae", found), outside=[])


def _vae_files(path: Path, variant: str | None) -> tuple[Found, configs.Settings]:
    """The VAE given as vae=: a file, a VAE's folder or a whole checkpoint folder."""
    if not path.is_dir():
        own = path.parent if (path.parent / "config.json").is_file() else None
        return files.single(path), configs.from_folder(own) if own else configs.beside(path)
    folder = path / "vae" if (path / "vae").is_dir() else path
    return files.in_folder(folder, files.STEMS["vae"], variant), configs.from_folder(folder)


def _second_text(found: Found) -> Source:
    """SDXL's second text encoder and its projection, whose name lies outside the encoder's prefix."""
    source = _source("text", found)
    beside = {name: info for name, info in found.tensors.items() if name == "text_projection.weight"}
    if not beside:
        raise WeightsError(f"{found.label}: it has no text_projection.weight, which SDXL's second text encoder needs")
    group = replace(source.group, tensors={**source.group.tensors, **beside})
    return replace(source, group=group, mapped=copies.settle_names(found, parts.to_ours(group, projection=True)))


def _supported(family: Family, label: str, *, single: bool = False, marks: Mapping[str, str] | None = None) -> None:
    if not family.name.endswith("-inpainting"):
        raise WeightsError(f"{label}: {family.text}; an inpainting checkpoint is needed (sd15-, sd2- or sdxl-inpainting)")
    if family.base == families.SDXL and single:
        said = dict(parts.PREDICTION_MARKS[mark] for mark in marks or {})
        also = f"; then write {json.dumps(said)} into its scheduler/scheduler_config.json, which diffusers does not" if said else ""
        raise WeightsError(
            f"{label}: {family.text} in a single file; SDXL is only read in diffusers' folder layout: give such a folder "
            f"(diffusers writes one with StableDiffusionXLInpaintPipeline.from_single_file(file).save_pretrained(folder){also})"
        )


def open_checkpoint(
    path: Path | str,
    *,
    config: "Path | str | Mapping[str, Any] | None" = None,
    vae: Path | str | None = None,
    ema: bool = False,
    variant: str | None = None,
) -> Checkpoint:
    """Open a checkpoint; reads its headers and configs only. See Checkpoint.

    path: a .safetensors file or a folder in diffusers layout. config: folder, JSON file or dict for what shapes do not determine
    (heads, norm groups, activation, scaling factor ...); None: the configs beside the weights, else the family's published values.
    vae: a file or folder whose VAE is used instead. ema: take an LDM file's moving averages. variant: of the files in a folder
    ("fp16"); None: the plain ones, else fp16.
    Raises WeightsError, naming what the path holds, unless it is a complete SD 1.x, SD 2.x or SDXL inpainting checkpoint.
    """
    path = Path(path)
    marks: dict[str, str] = {}
    if not path.exists():
        raise WeightsError(f"{path}: no such file or folder")
    given_vae, vae_settings = (None, configs.Settings()) if vae is None else _vae_files(Path(vae), variant)
    if path.is_dir():
        if ema:
            raise WeightsError(f"{path}: ema=True is for single LDM files; in a folder, choose other weights with variant=")
        layout, beside = "folder", configs.from_folder(path)
        held = files.in_checkpoint(path, variant, ("unet", "vae", "text") if given_vae is None else ("unet", "text"))
        sources = {part: _source(part, found) for part, found in held.items()}
        if given_vae is not None:
            sources["vae"] = _vae(given_vae)
        second = path / files.FOLDERS["text_2"]
        with about(str(path)):
            family = families.unet_family(sources["unet"].mapped.pieces, sources["text"].group)
        if family.base == families.SDXL:
            if not second.is_dir():
                raise WeightsError(f"{path}: {family.text}, without its second text encoder: {second.name}/ is missing")
            held["text_2"] = files.in_folder(second, files.STEMS["text_2"], variant)
            sources["text_2"] = _second_text(held["text_2"])
        notes = [note for found in held.values() for note in found.notes]
        if second.is_dir() and "text_2" not in sources:
            notes.append(f"{second.name}/ ignored")
    else:
        layout, beside = "single file", configs.beside(path)
        if variant is not None:
            raise WeightsError(f"{path}: variant={variant!r} is for folders; this is a single file")
        sources, marks, notes = _single(files.single(path), given_vae, ema)
    notes += [note for source in sources.values() for note in source.notes]
    with about(str(path)):
        family = families.unet_family(sources["unet"].mapped.pieces, sources["text"].group)
    _supported(family, str(path), single=layout == "single file")
    if beside.where != "nothing" and layout == "single file":
        notes.append(f"configs beside the file were read: {beside.where}")
    notes += [*beside.notes, *vae_settings.notes]
    settings = configs.given(config).over(beside)
    if marks:
        marked, mark_notes = _marked(marks, settings.part("scheduler"), str(path))
        settings.parts["scheduler"] = {**settings.part("scheduler"), **marked}
        notes += mark_notes
    if vae is not None:
        settings.parts["vae"] = {**vae_settings.part("vae"), **configs.given(config).part("vae")}
    with about(str(path)):
        return _describe(path, layout, family, sources, settings, notes)


def _describe(
    path: Path, layout: str, family: Family, sources: dict[str, Source], settings: configs.Settings, notes: list[str]
) -> Checkpoint:
    assert family.base is not None, "an inpainting UNet is of a known family"
    unet, unet_notes = network_configs.unet(families.unet_geometry(sources["unet"].mapped.pieces), family.base, settings.part("unet"))
    vae, vae_notes = network_configs.vae(families.vae_geometry(sources["vae"].mapped.pieces), family.base, settings.part("vae"))
    text, text_notes = network_configs.text(families.text_geometry(sources["text"].mapped.pieces), family.base, settings.part("text"))
    scheduler, scheduler_notes = network_configs.scheduler(settings.part("scheduler"))
    notes = [*notes, *unet_notes, *vae_notes, *text_notes, *scheduler_notes]
    if layout == "single file":
        notes += network_configs.assumed_prediction(settings.part("scheduler"))
    text_2, width = None, text["hidden_size"]
    if "text_2" in sources:
        text_2, text_notes = network_configs.text(
            families.text_geometry(sources["text_2"].mapped.pieces), family.base, settings.part("text_2")
        )
        notes += text_notes
        width += text_2["hidden_size"]
        if text_2["projection_dim"] != unet["pooled_width"]:
            raise WeightsError(
                f"the second text encoder projects to {text_2['projection_dim']} channels, the UNet expects {unet['pooled_width']}: "
                "parts of two different models"
            )
    # SDXL reads the output of the penultimate layer, without the final norm; the second encoder runs to its end for the pooled vector.
    layers, text_layer = _layers(sources["text"], text, settings) if text_2 is None else (text["num_hidden_layers"], "penultimate output")
    if layers < text["num_hidden_layers"]:
        notes.append(f"text encoder: only the first {layers} of its {text['num_hidden_layers']} layers are run")
        text["num_hidden_layers"] = layers
        source = sources["text"]
        sources["text"] = replace(source, mapped=copies.settle_names(source.found, parts.to_ours(source.group, layers)))
    if width != unet["text_width"]:
        which = "text encoder is" if text_2 is None else "text encoders together are"
        raise WeightsError(f"the {which} {width} wide, the UNet expects {unet['text_width']}: parts of two different models")
    if vae["latent_channels"] != unet["out_channels"]:
        raise WeightsError(f"the VAE has {vae['latent_channels']} latent channels, the UNet {unet['out_channels']}: parts of two models")
    for part, source in sources.items():
        if source.mapped.unused:
            shown, count = ", ".join(source.mapped.unused[:3]), len(source.mapped.unused)
            notes.append(f"{NAMES[part]}: {count} stored tensors not needed ({shown}{' ...' if count > 3 else ''})")
        eights = sum(count for dtype, count in source.types.items() if dtype.startswith("F8"))
        if eights:
            scaled = sum(piece.scale is not None for piece in source.mapped.pieces.values())
            times = f", {scaled} of them multiplied by their scales" if scaled else ""
            notes.append(f"{NAMES[part]}: {eights} tensors of 8-bit floats, cast up{times} (their precision stays that of 8 bits)")
    return Checkpoint(
        path=path,
        layout=layout,
        family=family.name,
        description=family.text,
        unet=unet,
        vae=vae,
        text=text,
        scheduler=scheduler,
        text_layer=text_layer,
        pad_token_id=padding_id(settings, family),
        tokenizer=settings.tokenizer,
        defaults=settings.defaults,
        default_size=network_configs.side(settings.part("unet"), 2 ** (len(vae["channels"]) - 1)),
        notes=notes,
        sources=sources,
        **({} if text_2 is None else _second_fields(text_2, settings)),
    )


def _second_fields(text_2: dict[str, Any], settings: configs.Settings) -> dict[str, Any]:
    """The fields of a Checkpoint that only SDXL has."""
    upcast = settings.part("vae").get("force_upcast")
    return {
        "text_2": text_2,
        "pad_token_id_2": second_padding_id(settings),
        "tokenizer_2": settings.tokenizer_2,
        "vae_float32": True if upcast is None else bool(upcast),
    }


def _layers(source: Source, text: dict[str, Any], settings: configs.Settings) -> tuple[int, str]:
    """How many of the stored text layers are run, and the name of the last one ("last" or "penultimate")."""
    held = text["num_hidden_layers"]
    which = settings.extra.get("text_layer")
    said = settings.part("text").get("num_hidden_layers")
    if which is None:
        # SD 2 was trained on the penultimate layer of OpenCLIP's text encoder; diffusers stores it without the last layer.
        which = "penultimate" if source.group.layout == "openclip" else "last"
        if type(said) is int and said != held:
            if said > held or said < 1:
                raise WeightsError(f"the text encoder config says {said} layers, but {source.found.label} holds {held}")
            return said, "penultimate" if said == held - 1 else "last"
    if which not in ("last", "penultimate") or (which == "penultimate" and held < 2):
        raise WeightsError(f"text_layer is {which!r}, with {held} layers stored; expected 'last' or 'penultimate'")
    return (held - 1 if which == "penultimate" else held), which
