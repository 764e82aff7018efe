"""Finds which files at a path hold which part: single file, diffusers folder, variants, shards.

Place in the flow: the first step of load.open_checkpoint; reads headers and index files only.
"""

from dataclasses import dataclass, field
from pathlib import Path

from .configs import read_json
from .errors import WeightsError
from .header import CONVERT, PICKLE_SUFFIXES, Header, TensorInfo, read_header

STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text": "model", "text_2": "model"}
FOLDERS = {"unet": "unet", "vae": "vae", "text": "text_encoder", "text_2": "text_encoder_2"}  # text_2: only in SDXL


@dataclass(frozen=True)
class Found:
    """The safetensors file or shards of a part. notes: how they were chosen, if there was a choice."""

    headers: list[Header] = field(repr=False)
    notes: list[str]

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """Tensors of all shards, by name."""
        return {name: info for header in self.headers for name, info in header.tensors.items()}

    @property
    def label(self) -> str:
        """The file, or the first of several, in words."""
        first, more = self.headers[0].path, len(self.headers) - 1
        return f"{first} and {more} more shards" if more else str(first)


def single(path: Path) -> Found:
    """One safetensors file."""
    return Found([read_header(path)], [])


def _index_names(stem: str, variant: str | None) -> list[str]:
    if variant is None:
        return [f"{stem}.safetensors.index.json"]
    # The spelling changed: diffusers before 0.28 puts the variant before `index`, later versions put it after.
    return [
        f"{stem}.safetensors.index.{variant}.json",
        f"{stem}.safetensors.{variant}.index.json",
        f"{stem}.{variant}.safetensors.index.json",
    ]


def _shards(index: Path) -> Found:
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table or not all(isinstance(name, str) for name in table.values()):
        raise WeightsError(f"{index}: it has no weight_map (tensor name -> file name)")
    outside = next((name for name in table.values() if Path(name).name != name or name in (".", "..")), None)
    if outside is not None:
        raise WeightsError(f"{index}: names the file {outside!r}, which is not in the same folder")
    headers = {name: read_header(index.parent / name) for name in sorted(set(table.values()))}
    wrong = [tensor for tensor, name in table.items() if tensor not in headers[name].tensors]
    if wrong:
        raise WeightsError(
            f"{index}: {len(wrong)} tensors are not in the shard it names (the first: {wrong[0]!r}); are shards of two downloads mixed?"
        )
    held = [tensor for header in headers.values() for tensor in header.tensors]
    unlisted = sorted(set(held) - table.keys())
    if unlisted or len(held) != len(set(held)):
        raise WeightsError(f"{index}: its shards hold tensors twice or unlisted (the first: {(unlisted or sorted(held))[0]!r})")
    return Found(list(headers.values()), [f"{len(headers)} shards, listed in {index.name}"])


def _of_variant(folder: Path, stem: str, variant: str | None) -> Found | None:
    plain = folder / (f"{stem}.safetensors" if variant is None else f"{stem}.{variant}.safetensors")
    indices = [folder / name for name in _index_names(stem, variant) if (folder / name).is_file()]
    if plain.is_file():
        return Found([read_header(plain)], [f"{plain.name} taken, not {indices[0].name} beside it"] if indices else [])
    return _shards(indices[0]) if indices else None


def in_folder(folder: Path, stem: str, variant: str | None) -> Found:
    """The weights in one part's folder: the requested variant, else the plain one, else fp16, else the only safetensors file.

    Raises WeightsError if there are none, and says what the folder holds.
    """
    if not folder.is_dir():
        raise WeightsError(f"{folder}: no such folder")
    if found := _of_variant(folder, stem, variant):
        return found
    if variant is not None:
        if found := _of_variant(folder, stem, None):
            return Found(found.headers, [*found.notes, f"no variant {variant!r} in {folder.name}/, the plain one was taken"])
        raise WeightsError(f"{folder}: neither variant {variant!r} nor a plain one; it holds {_listing(folder)}")
    if found := _of_variant(folder, stem, "fp16"):
        return Found(found.headers, [*found.notes, f"variant fp16 of {folder.name}/ taken: there is no other"])
    files = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    if len(files) == 1:
        return Found([read_header(files[0])], [f"{files[0].name} taken, the only safetensors file in {folder.name}/"])
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICKLE_SUFFIXES)
    if pickles and not files:
        raise WeightsError(
            f"{folder}: only pickles ({', '.join(pickles[:4])}), which are never opened because a pickle can run any code that its "
            f"author put into it; look for {stem}.safetensors or {stem}.fp16.safetensors of the same model, or {CONVERT}"
        )
    raise WeightsError(f"{folder}: no {stem}.safetensors, no shards and no fp16 variant; it holds {_listing(folder)}")


def _listing(folder: Path) -> str:
    names = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir())
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "nothing"


def in_checkpoint(folder: Path, variant: str | None, parts: tuple[str, ...] = ("unet", "vae", "text")) -> dict[str, Found]:
    """The parts of a diffusers folder. Raises WeightsError if one is missing, and names those present."""
    present = [part for part in parts if (folder / FOLDERS[part]).is_dir()]
    absent = [FOLDERS[part] + "/" for part in parts if part not in present]
    if "unet" in parts and "unet" not in present:
        files = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
        hint = f"; give one of its files, for example {files[0]}" if files else ""
        if (folder / "transformer").is_dir():
            hint = "; it holds a diffusion transformer (such as SD 3 or Flux), which has no UNet"
        raise WeightsError(f"{folder}: not a checkpoint folder: {', '.join(absent)} missing, it holds {_listing(folder)}{hint}")
    if absent:
        raise WeightsError(f"{folder}: {', '.join(absent)} missing; it holds {_listing(folder)}")
    return {part: in_folder(folder / FOLDERS[part], STEMS[part], variant) for part in parts}
