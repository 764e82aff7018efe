"""Keeps answers of language models, so that the same question about the same picture is asked only once per model.

One JSON file per answer, named by the SHA-256 of everything that affects the answer. API keys are never part of it.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from analogist.disk.writing import OutputError, atomic_write, output_folder
from analogist.prompting.prompts import PromptWarning


def content_key(picture: bytes, request: str, identity: Mapping[str, object]) -> str:
    """A hash of what an answer depends on: the picture's pixels, the question, the model and its settings."""
    said = json.dumps(
        {"picture": hashlib.sha256(picture).hexdigest(), "request": request, "identity": dict(identity)}, sort_keys=True
    )
    return hashlib.sha256(said.encode()).hexdigest()


@dataclass(frozen=True)
class AnswerCache:
    """Answers in a folder."""

    folder: Path

    def get(self, key: str) -> dict[str, str] | None:
        """The kept answer with its time; None if there is none. A damaged file gives a warning and counts as none."""
        path = self._path(key)
        try:
            kept = json.loads(path.read_text(encoding="utf-8-sig"))  # utf-8-sig: an editor may have added a byte order mark
        except (FileNotFoundError, NotADirectoryError):  # the second is reported when the answer is written
            return None
        except (OSError, ValueError, RecursionError) as error:
            warnings.warn(
                f"{path}: the kept answer cannot be read ({error}); asking the model again", PromptWarning, stacklevel=2
            )
            return None
        if not isinstance(kept, dict) or not isinstance(kept.get("answer"), str) or not isinstance(kept.get("time"), str):
            warnings.warn(f"{path}: not a kept answer; asking the model again", PromptWarning, stacklevel=2)
            return None
        return kept

    def put(self, key: str, answer: str, time: str, identity: Mapping[str, object]) -> None:
        """Keeps an answer. If it cannot be written, warns; the answer is used anyway."""
        path = self._path(key)
        content = json.dumps({"answer": answer, "time": time, "identity": dict(identity)}, indent=1, ensure_ascii=False)
        try:
            output_folder(path.parent)
            atomic_write(path, content.encode() + b"\n")
        except OutputError as error:
            warnings.warn(f"the answer could not be kept: {error}; set ANALOGIST_CACHE to another folder", PromptWarning, stacklevel=2)

    def _path(self, key: str) -> Path:
        return self.folder / "prompts" / f"{key}.json"
