"""Configs as they are on disk: config=, else those beside the weights. network_configs.py turns them into what the networks need."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .errors import WeightsError

MAX_JSON = 16 * 2**20
PARTS = {
    "unet": "unet", "vae": "vae", "text_encoder": "text", "text": "text", "text_encoder_2": "text_2", "scheduler": "scheduler",
}  # fmt: skip
FILES = {
    "unet": "unet/config.json",
    "vae": "vae/config.json",
    "text": "text_encoder/config.json",
    "text_2": "text_encoder_2/config.json",
    "scheduler": "scheduler/scheduler_config.json",
}
OWN_SETTINGS = {"size": int, "config": dict, "negative_prompt": str, "prompt_suffix": str, "trained": bool}
_JSON_NAMES = {int: "a whole number of pixels", dict: "an object", str: "a string", bool: "true or false"}
CLASSES = {"UNet2DConditionModel": "unet", "AutoencoderKL": "vae"}


class Unrelated(WeightsError):
    """A JSON file that holds no config: an error if it was given as one, a note if it only lies beside the weights."""


@dataclass
class Settings:
    """Configs by part as diffusers writes them, and the other settings in such a folder.

    where: what they were read from, in words; notes: files there that were not read.
    """

    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    tokenizer: Path | None = None
    defaults: dict[str, Any] | None = None
    extra: dict[str, Any] = field(default_factory=dict)  # pad_token_id, text_layer
    where: str = "nothing"
    notes: list[str] = field(default_factory=list)
    tokenizer_2: Path | None = None

    def part(self, name: str) -> dict[str, Any]:
        """One part's config; empty if there is none."""
        return self.parts.get(name, {})

    def over(self, other: "Settings") -> "Settings":
        """These settings, filled up with the other's."""
        names = self.parts.keys() | other.parts.keys()
        return Settings(
            {name: {**other.part(name), **self.part(name)} for name in names},
            self.tokenizer or other.tokenizer,
            self.defaults if self.defaults is not None else other.defaults,
            {**other.extra, **self.extra},
            f"{self.where}, then {other.where}" if other.where != "nothing" else self.where,
            [*self.notes, *other.notes],
            self.tokenizer_2 or other.tokenizer_2,
        )


def read_json(path: Path, *, strict: bool = True) -> dict[str, Any]:
    """A JSON object from a file. Raises WeightsError for anything else.

    strict: False also takes text that is not UTF-8 and reads it as Latin-1 (the settings themselves are ASCII).
    """
    try:
        with path.open("rb") as file:  # not by its size: that of a pipe or device is 0
            raw = file.read(MAX_JSON + 1)
        if len(raw) > MAX_JSON:
            raise Unrelated(f"{path}: larger than {MAX_JSON} bytes, which no config is")
        try:
            value = json.loads(raw)  # from bytes, so that a byte-order mark and UTF-16 (written by Windows tools) are read too
        except UnicodeDecodeError:
            if strict:
                raise
            value = json.loads(raw.decode("latin-1"))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path}: not a JSON file ({error})") from None
    if not isinstance(value, dict):
        raise Unrelated(f"{path}: expected a JSON object, not a {type(value).__name__}")
    return value


def from_folder(folder: Path) -> Settings:
    """Settings of a folder in diffusers layout, or of one part's folder (config.json alone)."""
    found = {part: read_json(folder / name) for part, name in FILES.items() if (folder / name).is_file()}
    root = _if_config(folder / "config.json") if not found else Settings()
    tokenizer, second = folder / "tokenizer", folder / "tokenizer_2"
    defaults = folder / "analogist.json"
    return Settings(
        found or root.parts,
        tokenizer if tokenizer.is_dir() else None,
        _own_settings(defaults) if defaults.is_file() else None,
        where=str(folder),
        notes=root.notes,
        tokenizer_2=second if second.is_dir() else None,
    )


def _own_settings(path: Path) -> dict[str, Any]:
    """The settings stored with a checkpoint (analogist.json). Raises WeightsError for unknown keys and for values of the wrong type."""
    settings = read_json(path)
    unknown = sorted(settings.keys() - OWN_SETTINGS)
    if unknown:
        raise WeightsError(f"{path}: unknown keys {', '.join(unknown)}; allowed are {', '.join(sorted(OWN_SETTINGS))}")
    for key, value in settings.items():
        if type(value) is not OWN_SETTINGS[key]:  # not isinstance, because True is an int in Python
            raise WeightsError(f"{path}: {key} is {json.dumps(value)}; {_JSON_NAMES[OWN_SETTINGS[key]]} is expected")
    return settings


def _if_config(path: Path) -> Settings:
    """Settings of a JSON file that was found, not given as config=. If it holds no config, it is ignored with a note (user interfaces keep
    titles, previews and hashes beside a model). Raises WeightsError if it is not JSON: it may be a truncated config.
    """
    if not path.is_file():
        return Settings()
    try:
        return from_dict(read_json(path, strict=False), str(path))
    except Unrelated as error:
        return Settings(notes=[f"{path.name} beside the weights ignored: it is not a config ({str(error).removeprefix(f'{path}: ')})"])


def from_dict(given: Mapping[str, Any], where: str) -> Settings:
    """Settings of a dict by part ({"unet": {...}, "scheduler": {...}}) or of one part's own config."""
    parts: dict[str, dict[str, Any]] = {}
    for name, part in PARTS.items():
        if isinstance(given.get(name), Mapping):
            parts.setdefault(part, {}).update(given[name])
    extra = {name: given[name] for name in ("pad_token_id", "text_layer") if name in given}
    if not parts:
        part = CLASSES.get(str(given.get("_class_name")))
        if part is None and given.get("model_type") == "clip_text_model":
            part = "text"
        if part is None and str(given.get("_class_name", "")).endswith("Scheduler"):
            part = "scheduler"
        named = given.keys() & {"_class_name", "model_type", "architectures"}  # language models also have attention heads
        if part is None and not named and given.keys() & {"attention_head_dim", "num_attention_heads", "heads"}:
            part = "unet"
        if part is not None:
            parts, extra = {part: dict(given)}, {}
        elif named:  # the config of another kind of model; its token ids are not ours
            extra = {}
    if not parts and not extra:
        raise Unrelated(
            f"{where}: none of its keys is known; expected one of {', '.join(PARTS)}, pad_token_id, text_layer, or the config of one "
            f"part (with _class_name), got {', '.join(map(str, list(given)[:8])) or 'nothing'}"
        )
    return Settings(parts, extra=extra, where=where)


def given(config: "Path | str | Mapping[str, Any] | None") -> Settings:
    """What the caller passed as config=. Raises WeightsError unless it is a folder, a JSON file or a dict."""
    if config is None:
        return Settings()
    if isinstance(config, Mapping):
        return from_dict(config, "config=")
    path = Path(config)
    if path.is_dir():
        settings = from_folder(path)
        if not settings.parts:
            raise WeightsError(f"config={path}: no config in this folder; expected {', '.join(FILES.values())} or config.json")
        return settings
    return from_dict(read_json(path), f"config={path}")


def beside(file: Path) -> Settings:
    """The config beside a single file: <its name>.json if that is a config, else the diffusers folder that contains the file."""
    own = _if_config(file.with_suffix(".json"))
    if own.where == "nothing" and (file.parent / "model_index.json").is_file():
        folder = from_folder(file.parent)
        return replace(folder, notes=[*own.notes, *folder.notes])
    return own
