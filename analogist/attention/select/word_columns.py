"""Token columns of words, per branch; the start, end and padding tokens have explicit names."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from analogist.attention.select.run_shape import RunShape
from analogist.models.numbers import plain

START, END, PADDING = "<start>", "<end>", "<padding>"


def columns_of(word: str | int, branch: str, run: RunShape) -> tuple[int, ...]:
    """Token columns of a word in the prompt of a branch: all tokens of a split word, all occurrences of a repeated one.

    word: of the prompt; "<start>", "<end>" or "<padding>"; or a column number.
    Raises ValueError where the prompt lacks it, where the run has no prompts or several, or where the column is outside the text.
    """
    word = plain(word)
    if isinstance(word, int) and not isinstance(word, bool):
        if not 0 <= word < run.tokens:
            raise ValueError(f"token column {word}: allowed are 0..{run.tokens - 1}")
        return (word,)
    if word == START:
        return (0,)
    if run.encoded is None or run.words is None:
        raise ValueError(f"word {word!r}: the text of this run was given as a tensor, so only column numbers can be used")
    prompt = run.encoded[run.branch_labels.index(branch)]
    if prompt is None:
        raise ValueError(
            f"word {word!r}: the {branch} prompts of this run differ from image to image, so that only column numbers can be used; "
            "or call the model once for each prompt"
        )
    if word in (END, PADDING):
        end = end_column(prompt, run)
        columns = (end,) if word == END else tuple(range(end + 1, run.tokens))
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

    run: RunShape

    def __call__(self, word: str | int, branch: str) -> tuple[int, ...]:
        return columns_of(word, branch, self.run)


@dataclass(frozen=True)
class ColumnsOnFile:
    """The same for maps read from a file: branch -> word in lower case -> token columns."""

    table: Mapping[str, Mapping[str, Sequence[int]]]

    def __call__(self, word: str, branch: str) -> tuple[int, ...]:
        """Raises ValueError for a word that the file does not list."""
        words = self.table.get(branch, {})
        if word.lower() not in words:
            raise ValueError(f"word {word!r} is not in the {branch} prompt; it has {', '.join(words) or 'no words'}")
        return tuple(words[word.lower()])


def end_column(prompt: str, run: RunShape) -> int:
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
