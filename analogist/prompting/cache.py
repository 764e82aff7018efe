"""Answers of language models kept by content: the same picture, question and model are asked once.

One JSON file an answer, named by the SHA-256 of everything that decides it; no key is ever part of it.
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
    """What an answer depends on: the picture's pixels, the question, and who is asked with which settings."""
    said = json.dumps(
        {"picture": hashlib.sha256(picture).hexdigest(), "request": request, "identity": dict(identity)}, sort_keys=True
    )
    return hashlib.sha256(said.encode()).hexdigest()


@dataclass(frozen=True)
class AnswerCache:
    """Answers in a folder."""

    folder: Path

    def get(self, key: str) -> dict[str, str] | None:
        """The kept answer with its time; None where there is none. A damaged file is reported and asked for anew."""
        path = self._path(key)
        try:
            kept = json.loads(path.read_text(encoding="utf-8-sig"))  # a mark, where a person saved it with another program
        except (FileNotFoundError, NotADirectoryError):  # the second is reported when the answer is to be kept
            return None
        except (OSError, ValueError, RecursionError) as error:
            warnings.warn(
                f"{path}: a kept answer cannot be read ({error}); the model is asked again", PromptWarning, stacklevel=2
            )
            return None
        if not isinstance(kept, dict) or not isinstance(kept.get("answer"), str) or not isinstance(kept.get("time"), str):
            warnings.warn(f"{path}: not a kept answer; the model is asked again", PromptWarning, stacklevel=2)
            return None
        return kept

    def put(self, key: str, answer: str, time: str, identity: Mapping[str, object]) -> None:
        """Keeps an answer; where that is not possible the user is told and the answer is used all the same."""
        path = self._path(key)
        content = json.dumps({"answer": answer, "time": time, "identity": dict(identity)}, indent=1, ensure_ascii=False)
        try:
            output_folder(path.parent)
            atomic_write(path, content.encode() + b"\n")
        except OutputError as error:
            warnings.warn(f"the answer is not kept for a second run: {error}; set ANALOGIST_CACHE", PromptWarning, stacklevel=2)

    def _path(self, key: str) -> Path:
        return self.folder / "prompts" / f"{key}.json"
