"""Source: one image of one run with its picture, prompts and maps, read from a Result or a folder. A page shows several side by side."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from analogist.attention.capture.maps import AttentionMap, Maps
from analogist.config import AnalogistConfig, read_json, with_suffix
from analogist.disk.foreign import naming
from analogist.grid.pictures import read_picture
from analogist.grid.prompt_grid import PromptGrid
from analogist.models.control import CAM, SAC
from analogist.models.placement import BRANCHES, Placement
from analogist.run.record import image_record
from analogist.run.result import Result

from .held import Held, NotShown, hold

PAGE = "look.html"
MAPS = "maps"  # DIR/maps.safetensors, DIR/maps_<prompt>.safetensors, or the folder DIR/maps if the capture spilled to disk


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """One image of one run.

    label: its name on the page. picture: the decoded grid, as the model sees it. held: its maps. not_shown: captured maps that the page
    cannot show, with reasons. written: what heads write between regions (written.py), None where it was not measured. times, sites: what
    the run executed, so that the page can say what is missing.
    """

    label: str
    picture: Image.Image
    size: tuple[int, int]
    rows: int
    image: int
    seed: int
    prompt: str | None
    negative: str | None
    config: AnalogistConfig
    times: tuple[int, ...]
    sites: tuple[str, ...]
    checkpoint: str
    trained: bool
    held: list[Held]
    not_shown: list[str] = field(default_factory=list)
    written: dict | None = None

    @property
    def tokens(self) -> dict[str, list[str]]:
        """Tokens of the prompts by branch, start and end included, as the maps hold them."""
        found: dict[str, list[str]] = {}
        for one in self.held:
            for branch, tokens in one.map.tokens.items():
                found.setdefault(branch, list(tokens))
        return found

    def acts(self, setting: SAC | CAM | None, one: Held, step: int, branch: str) -> list[int]:
        """The heads at which SAC or CAM acts at a held map's site."""
        if setting is None:
            return []
        return sorted(setting.placement.heads_at(one.site, max(step, 0), BRANCHES.index(branch)))


def from_result(result: Result, label: str | None = None) -> list[Source]:
    """One source per image of a result. Raises ValueError if no map of it can be shown."""
    return make_sources(result.record, result.grids, result.maps, label, "this result")


def from_folder(folder: str | Path, label: str | None = None) -> list[Source]:
    """The sources of a folder that `analogist run --explore` wrote. Raises ValueError for any other folder."""
    folder = Path(folder)
    record_path = folder / "run.json"
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give one that `analogist run ... --explore` wrote")
    if not record_path.is_file():
        raise ValueError(f"{folder}: holds no run.json; give a folder that `analogist run ... --explore` wrote")
    record = read_json(record_path)
    with naming(record_path):
        sources = _sources(folder, record, label)
    if not sources:
        raise ValueError(f"{folder}: holds no captured maps (maps.safetensors); run again with `analogist run ... --explore`")
    return sources


def _sources(folder: Path, record: Mapping, label: str | None) -> list[Source]:
    """The sources of all prompts of a run's record that have maps in its folder."""
    from analogist.run.output import prompt_names

    prompts: list[Any] = record["prompt"] if isinstance(record.get("prompt"), list) else [record.get("prompt")]
    names: list[str] | list[None] = prompt_names(prompts) if len(prompts) > 1 else [None]
    sources: list[Source] = []
    for prompt, name in zip(prompts, names, strict=True):
        maps = _maps_of(folder, name)
        if maps is None:
            continue
        middle = "" if name is None else f"{name}_"
        pictures = [read_picture(folder / f"grid_{middle}{seed}.png", "grid") for seed in record["seeds"]]
        sources += make_sources({**record, "prompt": prompt}, pictures, maps, label, str(folder))
    return sources


def maps_name(prompt_name: str | None) -> str:
    """The file of a prompt's maps in a run's folder."""
    return f"{MAPS}.safetensors" if prompt_name is None else f"{MAPS}_{prompt_name}.safetensors"


def save_maps(result: Result, folder: Path, prompt_name: str | None = None) -> Path:
    """Writes a result's maps beside its pictures, so that the page can be made again; returns the path."""
    path = folder / maps_name(prompt_name)
    Maps(result.maps).save(path)
    return path


def _maps_of(folder: Path, name: str | None) -> Maps | None:
    path = folder / maps_name(name)
    if path.is_file():
        return Maps.load(path)
    spilled = folder / MAPS
    return Maps.load(spilled) if name is None and spilled.is_dir() and any(spilled.glob("*.safetensors")) else None


def make_sources(
    record: Mapping, pictures: list[Image.Image], maps: Mapping[str, AttentionMap], label: str | None, where: str
) -> list[Source]:
    """One source per image that has maps. where: name of the run in messages."""
    if not maps:
        raise ValueError(f"{where}: nothing was captured; run with capture=for_explorer(model, grid, prompt) or --explore")
    held, reasons = [], [f"{name}: lost, {why}" for name, why in getattr(maps, "lost", {}).items()]
    for m in maps.values():
        try:
            held.append(hold(m))
        except NotShown as reason:
            reasons.append(str(reason))
    if not held:
        raise ValueError(f"{where}: none of the {len(maps)} captured maps can be shown; {reasons[0]}")
    sources = []
    for image in sorted({i for one in held for i in one.images}):
        mine, own = [one for one in held if image in one.images], image_record(record, image)
        seed, prompt = own["seeds"][0], own.get("prompt")
        analogy = f", grid {own['analogy'] + 1}" if "analogy" in own else ""
        name = label if label is not None and len(pictures) == 1 else f"{label or _label(record)}{analogy}, seed {seed}"
        sources.append(
            Source(
                label=name, picture=_as_seen(pictures[image], own["grid"]), size=tuple(own["grid"]["size"]), rows=own["grid"]["rows"],
                image=image, seed=seed,
                prompt=None if prompt is None else with_suffix(prompt, own.get("prompt_suffix") or ""), negative=own.get("negative_prompt"),
                config=AnalogistConfig.from_json(record["config"]), times=tuple(record["executed_times"]),
                sites=tuple(record["attention_forms"]), checkpoint=record["checkpoint"]["name"],
                trained=record["checkpoint"].get("trained", True), held=mine, not_shown=reasons,
            )  # fmt: skip
        )
    return sources


def _as_seen(picture: Image.Image, drawn: Mapping) -> Image.Image:
    """A decoded grid with A' and B swapped, if `aligned` swaps them in the picture that the model sees; its maps are of that picture."""
    if drawn.get("aligned", "a-a_prime") == "a-a_prime":
        return picture
    return PromptGrid.from_image(picture, aligned=drawn["aligned"]).as_given(picture)  # swapped twice, they are where they were


def _label(record: Mapping) -> str:
    """Label of a run without a name: its SAC and CAM."""
    config = AnalogistConfig.from_json(record["config"])
    sac = "SAC off" if config.sac is None else f"SAC {_where(config.sac.placement)}"
    return sac + (", CAM off" if config.cam is None else "")


def _where(placement: Placement) -> str:
    numbers = placement.numbers
    if placement.operation != "leaf" or placement.patterns or not numbers:
        return "on"
    first, last = numbers[0], numbers[-1]
    whole = len(numbers) > 1 and numbers == tuple(range(first, last + 1))
    return f"layers {first} to {last}" if whole else f"layers {', '.join(map(str, numbers))}"


def encode_picture(image: Image.Image, limit: int) -> tuple[str, bytes, str]:
    """(media type, bytes, what was done): PNG if it takes at most `limit` bytes, else JPEG of decreasing quality and size."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="PNG", optimize=True)
    if buffer.tell() <= limit:
        return "image/png", buffer.getvalue(), "PNG"
    picture = image.convert("RGB")
    for quality in (92, 80, 60, 40):
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG", quality=quality)
        if buffer.tell() <= limit:
            return "image/jpeg", buffer.getvalue(), f"JPEG, quality {quality}"
    while buffer.tell() > limit and min(picture.size) > 64:
        picture = picture.resize((picture.width // 2, picture.height // 2))
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG", quality=60)
    return "image/jpeg", buffer.getvalue(), f"JPEG, quality 60, {picture.width} x {picture.height} px"
