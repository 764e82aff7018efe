"""Asking a vision-language model about the marked grid: question, cache, answer, prompts, author."""

import abc
import hashlib
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image

from analogist.disk.cache_folder import cache_folder
from analogist.grid.prompt_grid import PromptGrid
from analogist.prompting.cache import AnswerCache, content_key
from analogist.prompting.parse import is_refusal, parse_answer
from analogist.prompting.prompts import PromptError, Prompts
from analogist.prompting.wording import request

ASKED_SIZE = 512  # px, the width at which the marked grid is shown, as published; whatever size the checkpoint paints at


class AskingPrompter(abc.ABC):
    """A prompter that asks a model. Subclasses say who they are (`identity`) and give one answer (`answer`)."""

    kind: str  # as in --prompter

    def __init__(
        self, *, wording: str = "published", candidates: int = 1, words: int | None = 5, cache: bool | str | Path = True
    ) -> None:
        """wording: one of WORDINGS. candidates: prompts asked for, 1..10. words: at most so many a prompt; None: no limit.

        cache: a folder, True for `cache_folder()`, or False to ask every time. Raises PromptError for values out of range.
        """
        request(wording, candidates=candidates, words=words)
        self.wording, self.candidates, self.words = wording, candidates, words
        folder = cache_folder() if cache is True else cache
        self._cache = None if folder is False else AnswerCache(Path(folder))

    @abc.abstractmethod
    def identity(self) -> dict[str, object]:
        """Who is asked, with every setting that decides the answer; JSON-ready, without secrets. "model" is its name."""

    @abc.abstractmethod
    def answer(self, picture: Image.Image, question: str) -> str:
        """One answer. Raises PromptError."""

    def __call__(self, grid: PromptGrid, name: str | None = None) -> Prompts:
        """Asks about the marked grid, or takes the kept answer. Raises PromptError where no prompt comes of it."""
        picture = shown_grid(grid)
        question = request(self.wording, candidates=self.candidates, words=self.words, pairs=grid.pairs)
        identity = {"prompter": self.kind, **self.identity()}
        key = content_key(picture.tobytes(), question, identity)
        kept = None if self._cache is None else self._cache.get(key)
        answer = kept["answer"] if kept is not None else self.answer(picture, question)
        time = kept["time"] if kept is not None else datetime.now(UTC).isoformat(timespec="seconds")
        prompts = parse_answer(answer, candidates=self.candidates, words=self.words)
        if not prompts:
            why = "it refuses" if is_refusal(answer) else "no prompt can be read from it" if answer.strip() else "it is empty"
            said = f": {' '.join(answer.split())[:160]!r}" if answer.strip() else ""
            raise PromptError(f"the answer of {identity['model']} is of no use, {why}{said}; try another model, or give --prompt")
        if kept is None and self._cache is not None:
            self._cache.put(key, answer, time, identity)
        author = {
            **identity, "wording": self.wording, "question_sha256": hashlib.sha256(question.encode()).hexdigest(), "time": time,
            "cached": kept is not None, "answer": answer[:2000],
        }  # fmt: skip
        return Prompts(tuple(prompts), author)


def shown_grid(grid: PromptGrid) -> Image.Image:
    """The marked grid as a model sees it: 512 px wide, in the grid's own proportions."""
    if grid.size is None:
        return grid.with_size(ASKED_SIZE).marked()
    height, width = grid.size
    rows = max(round(ASKED_SIZE * height / width / grid.rows), 8) * grid.rows
    return grid.with_size((rows, ASKED_SIZE)).marked()
