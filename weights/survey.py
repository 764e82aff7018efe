"""Describes a file or folder part by part, whether or not it can be used; reads headers and configs only.

Place in the flow: `analogist weights inspect`. load.open_checkpoint opens the same parts strictly.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from . import configs, copies, files, network_configs, parts
from . import model_families as families
from .errors import WeightsError
from .files import Found
from .header import FLOATS, ITEM_SIZE
from .load import open_checkpoint
from .model_families import Family
from .parts import Group, Mapped


@dataclass(frozen=True)
class PartSurvey:
    """One part as it lies on disk.

    fields: its config's fields as in Checkpoint. If problem says that heads or norm groups are unknown, fields holds ones for them; if the
    sizes are unknown too, fields is None.
    """

    kind: str
    layout: str
    prefix: str
    label: str
    tensors: int
    parameters: int
    bytes: int
    types: dict[str, int]
    fields: dict[str, Any] | None
    problem: str | None
    mapped: Mapped = field(repr=False)
    outside: list[str] = field(repr=False)


@dataclass(frozen=True)
class Survey:
    """A path's family, parts and leftovers. problem: why open_checkpoint refuses it, or None."""

    path: Path
    layout: str
    family: Family
    parts: list[PartSurvey]
    leftovers: dict[str, int]  # what is ignored -> number of tensors
    other: list[str]
    notes: list[str]
    problem: str | None


def survey(path: Path | str, *, config: "Path | str | Mapping[str, Any] | None" = None, variant: str | None = None) -> Survey:
    """Describe a safetensors file or a folder in diffusers layout.

    Raises WeightsError only if nothing can be described: not a safetensors file, a folder without weights, an invalid config.
    """
    path = Path(path)
    if not path.exists():
        raise WeightsError(f"{path}: no such file or folder")
    notes: list[str] = []
    if path.is_dir():
        held, notes = _folder(path, variant)
        beside, layout = configs.from_folder(path), "folder"
    else:
        held, beside, layout = [("", files.single(path))], configs.beside(path), "single file"
    settings = configs.given(config).over(beside)
    split_up = [(part, found, parts.split(found.tensors)) for part, found in held]
    splits = [(found, split) for _, found, split in split_up]
    groups = [(found, split, group) for found, split in splits for group in split.groups]
    family = _family(splits, groups)
    named = [(_kind(part, group), found, split, group) for part, found, split in split_up for group in split.groups]
    named.sort(key=lambda entry: tuple(files.FOLDERS).index(entry[0]))
    surveyed = [
        _part(kind, found, split.other if layout == "folder" else parts.blamed(split).get(kind, []), group, family, settings)
        for kind, found, split, group in named
    ]
    leftovers: Counter[str] = Counter()
    for _, split in splits:
        leftovers.update({why: len(names) for why, names in split.ignored.items()})
        leftovers.update({"moving averages (taken with ema=True)": len(split.ema)} if split.ema else {})
    for part in surveyed:
        leftovers.update({f"not needed in the {part.kind}": len(part.mapped.unused)} if part.mapped.unused else {})
    try:
        checkpoint = open_checkpoint(path, config=config, variant=variant)
        notes, problem = checkpoint.notes, None
    except WeightsError as error:
        problem = str(error)
    other = [name for _, split in splits for name in split.other]
    return Survey(path, layout, family, surveyed, dict(leftovers), other, notes, problem)


def _kind(part: str, group: Group) -> str:
    """The kind of a group; the folder tells two text encoders apart."""
    return "text_2" if part == "text_2" and group.kind == "text" else group.kind


def _folder(path: Path, variant: str | None) -> tuple[list[tuple[str, Found]], list[str]]:
    """The weights of each part's folder that has any (part, files), or of the folder itself; also, in words, what could not be found."""
    held, notes = [], []
    for part, name in files.FOLDERS.items():
        if (path / name).is_dir():
            try:
                held.append((part, files.in_folder(path / name, files.STEMS[part], variant)))
            except WeightsError as error:
                notes.append(str(error))
    if not held and not notes:
        stem = next((stem for stem in sorted(set(files.STEMS.values())) if list(path.glob(f"{stem}*.safetensors*"))), None)
        if stem is None:
            files.in_checkpoint(path, variant)  # says what is missing
            raise WeightsError(f"{path}: it holds no weights of a Stable Diffusion part")
        held.append(("", files.in_folder(path, stem, variant)))
    if not held:
        raise WeightsError("; ".join(notes))
    return held, notes


def _family(splits: list[tuple[Found, parts.Split]], groups: list[tuple[Found, parts.Split, Group]]) -> Family:
    unets = [group for _, _, group in groups if group.kind == "unet"]
    text = next((group for _, _, group in groups if group.kind == "text"), None)
    for unet in unets:
        try:
            return families.unet_family(parts.to_ours(unet).pieces, text)
        except WeightsError as error:
            return Family("unknown", None, str(error))
    ignored = {why: names for _, split in splits for why, names in split.ignored.items()}
    split = parts.Split([group for _, _, group in groups], {}, ignored, [])
    return families.guess(split, [name for found, _ in splits for name in found.tensors])


def _part(kind: str, found: Found, other: list[str], group: Group, family: Family, settings: configs.Settings) -> PartSurvey:
    if kind == "text_2":
        beside = {name: info for name, info in found.tensors.items() if name == "text_projection.weight"}
        group = replace(group, tensors={**group.tensors, **beside})
    mapped = copies.settle_names(found, parts.to_ours(group, projection=kind == "text_2"))
    base = family.base or families.SD15
    fields, problem = None, None
    try:
        match group.kind:
            case "unet":
                fields = families.unet_geometry(mapped.pieces)
                ones = {"heads": tuple(1 for _ in fields["channels"]), "norm_groups": 1}
                complete, _ = network_configs.unet(fields, base, settings.part("unet"))
            case "vae":
                fields = families.vae_geometry(mapped.pieces)
                ones = {"norm_groups": 1}
                complete, _ = network_configs.vae(fields, base, settings.part("vae"))
            case _:
                fields = families.text_geometry(mapped.pieces)
                ones = {"num_attention_heads": 1}
                complete, _ = network_configs.text(fields, base, settings.part(kind))
        fields = complete
    except WeightsError as error:
        problem = str(error)
        fields = None if fields is None else {**{k: v for k, v in fields.items() if k != "added_width"}, **ones}
    infos = list(group.tensors.values())
    floats = [info for info in infos if info.dtype in FLOATS]
    return PartSurvey(
        kind=kind,
        layout=group.layout,
        prefix=group.prefix,
        label=found.label,
        tensors=len(infos),
        parameters=sum(info.count for info in floats),
        bytes=sum(info.count * ITEM_SIZE[info.dtype] for info in infos),
        types=dict(Counter(info.dtype for info in infos)),
        fields=fields,
        problem=problem,
        mapped=mapped,
        outside=other,
    )
