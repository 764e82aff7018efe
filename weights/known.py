"""The checkpoints known to work, by name: repository on the hub, files, size, hashes and licence (known.json)."""

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("known.json")


@dataclass(frozen=True)
class HubSource:
    """One place on the hub. revision: a commit or a branch. file: of a single-file checkpoint; None: a diffusers folder, or
    the only single file in the repository. dtype: fp16 or fp32, if only that is taken; None: what is asked for, else what there is.
    sha256: file -> hash. bytes: the approximate size of all that is taken.
    """

    repo: str
    revision: str = "main"
    file: str | None = None
    dtype: str | None = None
    bytes: int | None = None
    sha256: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    note: str = ""

    def __str__(self) -> str:
        revision = "" if self.revision == "main" else f"@{self.revision[:8] if len(self.revision) == 40 else self.revision}"
        return f"{self.repo}{revision}" + (f":{self.file}" if self.file else "")


@dataclass(frozen=True)
class Known:
    """A known checkpoint: its name and its places, in order of preference."""

    name: str
    family: str
    what: str
    licence: str
    licence_url: str
    sources: tuple[HubSource, ...]
    gone: tuple[str, ...] = ()

    def sources_for(self, dtype: str | None) -> list[HubSource]:
        """The places, those of a precision ("fp16", "fp32") first, otherwise in the same order."""
        return sorted(self.sources, key=lambda source: dtype is not None and source.dtype != dtype)


@cache
def known() -> dict[str, Known]:
    """All known checkpoints, by name."""
    listed = json.loads(FILE.read_text(encoding="utf-8"))["checkpoints"]
    return {name: _known(name, dict(entry)) for name, entry in listed.items()}


def _known(name: str, entry: dict) -> Known:
    sources = tuple(HubSource(**source) for source in entry.pop("sources"))
    return Known(name=name, sources=sources, gone=tuple(entry.pop("gone", ())), **entry)
