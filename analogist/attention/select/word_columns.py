"""Token columns of words, per branch; the start, end and padding tokens have explicit names."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from analogist.attention.select.run_shape import RunShape
from analogist.checkpoints.prompt_words import PromptWords
from analogist.models.numbers import plain

START, END, PADDING = "<start>", "<end>", "<padding>"


class Text(Protocol):
    """What is read of a run's text; its RunShape has it, and so has a file of its maps."""

    @property
    def tokens(self) -> int | None:
        """How many text columns there are; None: not known."""
        ...

    @property
    def branch_labels(self) -> tuple[str, ...]:
        """Names of the branches that have a prompt."""
        ...

    @property
    def encoded(self) -> tuple[str | None, ...] | None:
        """Each branch's prompt, None where it differs from image to image; None altogether where no prompt is known."""
        ...

    @property
    def words(self) -> object:
        """A WordSource, or a function of prompt and word; None where the text was given as a tensor."""
        ...


def columns_of(word: str | int, branch: str, run: Text) -> tuple[int, ...]:
    """Token columns of a word in the prompt of a branch: all tokens of a split word, all occurrences of a repeated one.

    word: of the prompt; "<start>", "<end>" or "<padding>"; or a column number.
    Raises ValueError where the prompt lacks it, where the run has no prompts or several, or where the column is outside the text.
    """
    word = plain(word)
    if isinstance(word, int) and not isinstance(word, bool):
        if word < 0 or (run.tokens is not None and word >= run.tokens):
            last = "the last" if run.tokens is None else run.tokens - 1
            raise ValueError(f"token column {word}: allowed are 0..{last}")
        return (word,)
    if word == START:
        return (0,)
    if run.encoded is None or run.words is None:
        raise ValueError(f"word {word!r}: the text of this run was given as a tensor, so only column numbers can be used")
    if branch not in run.branch_labels:
        raise ValueError(f"word {word!r}: the {branch} prompt is not known; known: {', '.join(run.branch_labels)}")
    prompt = run.encoded[run.branch_labels.index(branch)]
    if prompt is None:
        raise ValueError(
            f"word {word!r}: the {branch} prompts of this run differ from image to image, so that only column numbers can be used; "
            "or call the model once for each prompt"
        )
    if word in (END, PADDING):
        end = end_column(prompt, run)
        if word == END:
            return (end,)
        if run.tokens is None:
            raise ValueError(f"{word}: the file of this map does not say how many text columns there were; use column numbers")
        columns = tuple(range(end + 1, run.tokens))
        if not columns:
            raise ValueError(f"{word}: the prompt of the {branch} branch fills all {run.tokens} tokens")
        return columns
    if not isinstance(word, str):
        raise ValueError(f"word {word!r}: give a word of the prompt or a column number")
    positions = cast("Callable[[str, str], Sequence[int]]", getattr(run.words, "positions", run.words))
    try:
        columns = tuple(sorted(positions(prompt, word)))
    except ValueError as error:
        raise ValueError(f"{branch} prompt: {error}") from error
    if not columns:
        raise ValueError(f"word {word!r} is not in the {branch} prompt {prompt!r}")
    return columns


@dataclass(frozen=True)
class ColumnsOf:
    """`columns_of` for one run, in the form that its maps need: (word, branch) -> token columns."""

    run: Text

    def __call__(self, word: str | int, branch: str) -> tuple[int, ...]:
        return columns_of(word, branch, self.run)


@dataclass(frozen=True)
class ListedWords:
    """The words of some prompts as a file lists them that holds no places of tokens: single words only.

    table: prompt -> word in lower case -> token columns. known: prompt -> its tokens from start to end, where they are known.
    """

    table: Mapping[str, Mapping[str, Sequence[int]]]
    known: Mapping[str, Sequence[str]]

    def tokens(self, prompt: str) -> list[str]:
        """As TextEncoder.tokens. Raises ValueError where the file does not hold them."""
        if prompt not in self.known:
            raise ValueError("the file of this map does not hold the tokens of its prompt; use a column number")
        return list(self.known[prompt])

    def positions(self, prompt: str, word: str) -> list[int]:
        """As TextEncoder.positions, for single words. Raises ValueError for others."""
        words = self.table.get(prompt, {})
        if word.lower() not in words:
            raise ValueError(f"the word {word!r} is not among those that the file of this map lists: {', '.join(words) or 'none'}")
        return list(words[word.lower()])


@dataclass(frozen=True)
class TextOnFile:
    """The text of a run as a file of its maps holds it."""

    tokens: int | None
    branch_labels: tuple[str, ...]
    encoded: tuple[str | None, ...] | None
    words: PromptWords | ListedWords | None

    @classmethod
    def of(cls, run: Text) -> "TextOnFile | None":
        """A run's text; None where the places of its tokens are not known, as with a function that finds words."""
        words = None if run.encoded is None else run.words
        if words is not None and not isinstance(words, PromptWords):
            return None
        return cls(run.tokens, run.branch_labels, run.encoded, words)

    def to_json(self) -> dict:
        """What `from_json` reads. places: of each branch's prompt, the (first, end) of its tokens."""
        places = self.words.places if isinstance(self.words, PromptWords) else {}
        prompts = self.encoded or ()
        return {
            "tokens": self.tokens, "branches": self.branch_labels, "prompts": self.encoded,
            "places": [places.get(prompt) if prompt is not None else None for prompt in prompts],
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping) -> "TextOnFile":
        """Reads what `to_json` gave."""
        encoded: tuple[str | None, ...] | None = None if data["prompts"] is None else tuple(data["prompts"])
        found: dict[str, tuple[tuple[int, int], ...]] = {
            prompt: tuple((first, end) for first, end in places)
            for prompt, places in zip(encoded or (), data["places"], strict=True)
            if prompt is not None and places is not None
        }
        known = encoded is not None and all(prompt is None or prompt in found for prompt in encoded)
        return cls(data["tokens"], tuple(data["branches"]), encoded, PromptWords(found) if known else None)


def end_column(prompt: str, run: Text) -> int:
    """The column of the end token, after the last token of the prompt."""
    tokens = getattr(run.words, "tokens", None)
    if tokens is None:
        raise ValueError("the end token: the number of tokens of this run's prompt is unknown; use a column number")
    return len(tokens(prompt)) - 1


def branch_columns(words: str | int | Sequence[str | int], branches: Sequence[str], run: RunShape) -> dict[str, tuple[int, ...]]:
    """The token columns of all words together, ascending, per branch.

    Raises ValueError if branches differ in their number of columns, because they could not share one key axis.
    """
    words = plain(words)
    words = [words] if isinstance(words, str | int) else list(words)
    if not words:
        raise ValueError("words: an empty list selects nothing; use None for all tokens")
    found = {
        branch: tuple(sorted({column for word in words for column in columns_of(word, branch, run)})) for branch in branches
    }
    if len({len(columns) for columns in found.values()}) > 1:
        counts = ", ".join(f"{len(columns)} in {branch}" for branch, columns in found.items())
        raise ValueError(f"words {words} are {counts} token(s): capture one branch at a time (branches='text')")
    return found
