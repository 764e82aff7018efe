"""Asking a vision-language model about the marked grid: question, cache, answer, prompts, author."""

import abc
import hashlib
import warnings
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image

from analogist.disk.cache_folder import cache_folder
from analogist.grid.prompt_grid import PromptGrid
from analogist.prompting.cache import AnswerCache, content_key
from analogist.prompting.parse import Answer, read_answer
from analogist.prompting.prompts import NoAnswer, PromptError, Prompts, PromptWarning
from analogist.prompting.wording import request, stricter

ASKED_SIZE = 512  # px, the width at which the marked grid is shown (as published), independent of the checkpoint's size


class AskingPrompter(abc.ABC):
    """A prompter that asks a model. Subclasses define `identity` (which model, which settings) and `answer` (one answer)."""

    kind: str  # as in --prompter

    def __init__(
        self, *, wording: str = "published", candidates: int = 1, words: int | None = 5, cache: bool | str | Path = True
    ) -> None:
        """wording: one of WORDINGS. candidates: prompts to ask for, 1..10. words: at most this many per prompt; None: no limit.

        cache: a folder, True for `cache_folder()`, or False to ask every time. Raises PromptError for values out of range.
        """
        request(wording, candidates=candidates, words=words)
        self.wording, self.candidates, self.words = wording, candidates, words
        folder = cache_folder() if cache is True else cache
        self._cache = None if folder is False else AnswerCache(Path(folder))

    @abc.abstractmethod
    def identity(self) -> dict[str, object]:
        """The model and every setting that affects its answer; JSON-ready, without secrets. "model" is its name."""

    @abc.abstractmethod
    def answer(self, picture: Image.Image, question: str) -> str:
        """One answer. Raises NoAnswer if the model gave none, PromptError if it could not be asked."""

    def __call__(self, grid: PromptGrid, name: str | None = None) -> Prompts:
        """Asks about the marked grid, or uses the kept answer. If an answer holds no prompt, the model is asked once more with the stricter
        wording, and a PromptWarning says so. If that gives no prompt either, raises PromptError with the answers.
        """
        picture = shown_grid(grid)
        asked = {"candidates": self.candidates, "words": self.words, "pairs": grid.pairs}
        questions = {self.wording: request(self.wording, **asked), "strict": stricter(**asked)}
        identity = {"prompter": self.kind, **self.identity()}
        keys = {wording: content_key(picture.tobytes(), question, identity) for wording, question in questions.items()}
        for wording, question in questions.items():
            kept = None if self._cache is None else self._cache.get(keys[wording])
            read = None if kept is None else read_answer(kept["answer"], candidates=self.candidates, words=self.words)
            if kept is not None and read is not None and read.prompts:
                return Prompts(read.prompts, identity | _author(wording, question, kept["answer"], kept["time"]) | {"cached": True})
        problems: list[str] = []
        for wording, question in questions.items():
            try:
                answer, read = self._asked(picture, question)
            except NoAnswer as error:
                problems.append(str(error))
                continue
            except PromptError as error:
                raise PromptError("; asked again with the stricter wording: ".join([*problems, str(error)])) from None
            time = datetime.now(UTC).isoformat(timespec="seconds")
            author = identity | _author(wording, question, answer, time) | {"cached": False}
            if problems:
                author["before"] = problems[0]
                warnings.warn(f"{problems[0]}; asked again with the stricter wording, which gave a prompt", PromptWarning, stacklevel=2)
            if self._cache is not None:
                self._cache.put(keys[wording], answer, time, identity)
            return Prompts(read.prompts, author)
        first, second = problems
        again = "the same" if first == second else second
        raise PromptError(f"{first}; asked again with the stricter wording: {again}; try another model, or give --prompt")

    def _asked(self, picture: Image.Image, question: str) -> tuple[str, Answer]:
        """The answer, as valid Unicode, and its prompts. Raises NoAnswer, quoting the answer, if it holds none."""
        answer = self.answer(picture, question).encode("utf-8", "replace").decode()
        read = read_answer(answer, candidates=self.candidates, words=self.words)
        if not read.prompts:
            said = f": {' '.join(answer.split())[:160]!r}" if answer.strip() else ""
            raise NoAnswer(f"{self.identity()['model']}: {read.why}{said}")
        return answer, read


def _author(wording: str, question: str, answer: str, time: str) -> dict[str, object]:
    """The record's entries for an answer."""
    digest = hashlib.sha256(question.encode()).hexdigest()
    return {"wording": wording, "question_sha256": digest, "time": time, "answer": answer[:2000]}


def shown_grid(grid: PromptGrid) -> Image.Image:
    """The marked grid as it is shown to a model: 512 px wide, in the grid's own proportions."""
    if grid.size is None:
        return grid.with_size(ASKED_SIZE).marked()
    height, width = grid.size
    rows = max(round(ASKED_SIZE * height / width / grid.rows), 8) * grid.rows
    return grid.with_size((rows, ASKED_SIZE)).marked()
