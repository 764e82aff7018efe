"""LoRA files as users give them, and their entries in a record."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from analogist.models.numbers import plain
from analogist.weights.lora import LoraReport

Lora = str | Path | tuple[str | Path, float]  # a file or folder, at scale 1, or (file, scale)


def as_list(lora: "Lora | Sequence[Lora] | None") -> list[tuple[Path, float]]:
    """(file, scale) of each LoRA. Raises ValueError for anything else."""
    if lora is None:
        return []
    lora = plain(lora)
    single = isinstance(lora, str | Path) or (isinstance(lora, tuple) and len(lora) == 2 and isinstance(lora[1], int | float))
    found = []
    for one in [cast(Lora, lora)] if single else cast(Sequence[Lora], lora):
        path, scale = one if isinstance(one, tuple | list) and len(one) == 2 else (one, 1.0)
        if not isinstance(path, str | Path) or isinstance(scale, bool) or not isinstance(scale, int | float):
            raise ValueError(f"lora {one!r}: give a file or (file, scale)")
        found.append((Path(path), float(scale)))
    return found


def from_flag(text: str) -> tuple[str, float]:
    """Reads FILE or FILE:SCALE from the command line."""
    path, colon, scale = text.rpartition(":")
    try:
        return (path, float(scale)) if colon else (text, 1.0)
    except ValueError:  # the colon belongs to the path
        return text, 1.0


def described(reports: Sequence[LoraReport]) -> list[dict]:
    """Entries for the record: name, content keys, scale, strengths and number of merged modules; no path."""
    return [
        {
            "name": r.path.name, "sha256": r.sha256, "scale": r.scale, "strengths": list(r.strengths), "modules": r.modules,
            **({} if r.config_sha256 is None else {"config_sha256": r.config_sha256}),
        }
        for r in reports
    ]  # fmt: skip


def content(reports: Sequence[LoraReport]) -> list[dict]:
    """What of merged LoRAs decides the weights, in their order: for content keys. A file's name is no part of it."""
    kept = ("sha256", "scale", "strengths", "config_sha256")
    return [{key: one[key] for key in kept if key in one} for one in described(reports)]


def in_words(kept: Sequence[dict]) -> str:
    """The LoRAs of a record in words, to follow the name of the checkpoint: " with the LoRA ink.safetensors at scale 0.8"."""
    return "".join(f" with the LoRA {one['name']} at scale {one['scale']}" for one in kept)


def check_given(kept: list[dict], given: Sequence[object], record: str | Path) -> None:
    """Raises ValueError if a repeat would leave out LoRAs that its record names. given: those that would be merged.

    A picture's record names them without their paths, so that they have to be given again.
    """
    if kept and not given:
        flags = " ".join(f"--lora {one['name']}:{one['scale']}" for one in kept)
        raise ValueError(f"{record}: painted with a LoRA, whose path its record does not hold; give {flags}, with the path to each file")


def check_repeat(kept: list[dict], now: list[dict], record: str | Path) -> None:
    """Raises ValueError if a repeat would merge a different file from the one in its record."""
    for before, after in zip(kept, now, strict=True):
        if any(before.get(key) != after.get(key) for key in ("sha256", "config_sha256")):
            raise ValueError(f"{after['name']}: not the same LoRA as in {record} (its content differs); give --lora to use it anyway")
