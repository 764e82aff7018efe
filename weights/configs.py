"""Configs as they lie on disk: config=, else what lies beside the weights. network_configs.py makes of them what the networks need."""

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
    """A JSON file that holds no config: an error where it was given as one, a note where it only lies beside the weights."""


@dataclass
class Settings:
    """Configs by part as diffusers writes them, and what else lies in such a folder.

    where: what they were read from, in words; notes: what lies there and was not.
    """

    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    tokenizer: Path | None = None
    defaults: dict[str, Any] | None = None
    extra: dict[str, Any] = field(default_factory=dict)  # pad_token_id, text_layer
    where: str = "nothing"
    notes: list[str] = field(default_factory=list)
    tokenizer_2: Path | None = None

    def part(self, name: str) -> dict[str, Any]:
        """One part's config; empty where nothing says anything."""
        return self.parts.get(name, {})

    def over(self, other: "Settings") -> "Settings":
        """These settings, and the other's where these say nothing."""
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
    """A JSON object from a file. Raises WeightsError where it is anything else.

    strict: False also takes text that is not UTF-8, as Latin-1: what a config says is ASCII.
    """
    try:
        if path.stat().st_size > MAX_JSON:
            raise Unrelated(f"{path}: over {MAX_JSON} bytes, which no config has")
        raw = path.read_bytes()
        try:
            value = json.loads(raw)  # from bytes: a byte-order mark and UTF-16, as Windows' tools write them, are read too
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
        raise Unrelated(f"{path}: a JSON object was expected, not a {type(value).__name__}")
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
    """The settings that travel with a checkpoint (analogist.json). Raises WeightsError for a key or a kind of value that nothing reads."""
    settings = read_json(path)
    unknown = sorted(settings.keys() - OWN_SETTINGS)
    if unknown:
        raise WeightsError(f"{path}: unknown keys {', '.join(unknown)}; allowed are {', '.join(sorted(OWN_SETTINGS))}")
    for key, value in settings.items():
        if type(value) is not OWN_SETTINGS[key]:  # not isinstance: true is no whole number
            raise WeightsError(f"{path}: {key} is {json.dumps(value)}; {_JSON_NAMES[OWN_SETTINGS[key]]} is allowed")
    return settings


def _if_config(path: Path) -> Settings:
    """Settings of a JSON file that nobody named as a config: one that holds none (user interfaces keep titles, previews and hashes beside
    a model) is left alone with a note. Raises WeightsError where it is no JSON: it may be a config that was cut off.
    """
    if not path.is_file():
        return Settings()
    try:
        return from_dict(read_json(path, strict=False), str(path))
    except Unrelated as error:
        return Settings(notes=[f"{path.name} beside the weights ignored, it is no config ({str(error).removeprefix(f'{path}: ')})"])


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
        named = given.keys() & {"_class_name", "model_type", "architectures"}  # language models have heads too
        if part is None and not named and given.keys() & {"attention_head_dim", "num_attention_heads", "heads"}:
            part = "unet"
        if part is not None:
            parts, extra = {part: dict(given)}, {}
        elif named:  # another kind of model's own config; its token ids are none of ours
            extra = {}
    if not parts and not extra:
        raise Unrelated(
            f"{where}: nothing in it is read; expected one of the keys {', '.join(PARTS)}, pad_token_id, text_layer, or one "
            "part's own "
            f"config (with _class_name), got {', '.join(map(str, list(given)[:8])) or 'nothing'}"
        )
    return Settings(parts, extra=extra, where=where)


def given(config: "Path | str | Mapping[str, Any] | None") -> Settings:
    """What the caller passed as config=. Raises WeightsError where it is neither folder, JSON file nor dict."""
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
    """What lies beside a single file: <its name>.json where that is a config, else the diffusers folder it lies in."""
    own = _if_config(file.with_suffix(".json"))
    if own.where == "nothing" and (file.parent / "model_index.json").is_file():
        folder = from_folder(file.parent)
        return replace(folder, notes=[*own.notes, *folder.notes])
    return own
