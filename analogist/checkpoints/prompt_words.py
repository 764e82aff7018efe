"""Where the words of a prompt stand among its tokens; knows no tokenizer and no network."""

import difflib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analogist.disk.foreign import text_problem

START, END = "<|startoftext|>", "<|endoftext|>"
Places = Sequence[tuple[int, int]]  # (first, end) of each token in the prompt's text, without start and end tokens

# Scripts that put no space between words, so that a word may stand inside a longer run of letters.
_NO_SPACES = (
    "CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "HALFWIDTH KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "JAVANESE",
    "YI SYLLABLE",
)


def check_text(text: str, what: str) -> str:
    """The text. Raises ValueError, naming it, where it is none: of another type, or with half a character that no file can hold."""
    if not isinstance(text, str):
        raise ValueError(f"{what} {text!r}: give one text")
    problem = text_problem(text)
    if problem is not None:
        raise ValueError(f"{what} {problem}")
    return text


@dataclass(frozen=True)
class PromptWords:
    """Some prompts with the places of their tokens: answers for them as their text encoder would, and can be pickled."""

    places: Mapping[str, tuple[tuple[int, int], ...]]

    def tokens(self, prompt: str) -> list[str]:
        """As TextEncoder.tokens."""
        return tokens_of(prompt, self.places[prompt])

    def positions(self, prompt: str, word: str) -> list[int]:
        """As TextEncoder.positions."""
        return columns_of_word(prompt, self.places[prompt], word)


def tokens_of(prompt: str, places: Places) -> list[str]:
    """The tokens of a prompt as they read in it, start and end included."""
    return [START, *(prompt[first:end] for first, end in places), END]


def columns_of_word(prompt: str, places: Places, word: str) -> list[int]:
    """All token columns of a word (or several in a row): every part of a split word, every occurrence.

    Upper and lower case are one, and so are composed and decomposed letters (Unicode's NFC and NFD). In scripts that put no
    spaces between words a word may stand anywhere. Raises ValueError where it does not stand in the prompt, or was cut off with its
    end, naming the nearest words.
    """
    if not word.strip():
        raise ValueError("an empty word has no position; give a word of the prompt")
    spans = _spans(word, prompt)
    columns = [column for column, (first, end) in enumerate(places, 1) if any(first < stop and end > start for start, stop in spans)]
    if not columns:
        words = list(dict.fromkeys(re.findall(r"\w+", unicodedata.normalize("NFC", prompt))))
        wanted = unicodedata.normalize("NFC", word).lower()
        near = difflib.get_close_matches(wanted, [other.lower() for other in words[:500]], 3, 0.5)
        where = "it was cut off with the prompt's end" if spans else f"nearest: {', '.join(near) if near else 'none'}"
        raise ValueError(f"the word {word!r} does not stand in {prompt!r}; {where}")
    return columns


def _spans(word: str, prompt: str) -> list[tuple[int, int]]:
    """(start, end) of every place of a word in a prompt, in whichever way either stores its accented letters."""
    pattern = r"\s+".join("".join(map(_either_form, _letters(piece))) for piece in word.split())
    spans = [match.span() for match in re.finditer(pattern, prompt, re.IGNORECASE)]
    return [(start, end) for start, end in spans if not _goes_on(prompt, start) and not _goes_on(prompt, end)]


def _letters(text: str) -> list[str]:
    """A text's characters, each with the marks that follow it."""
    letters: list[str] = []
    for character in unicodedata.normalize("NFC", text):
        if letters and unicodedata.category(character).startswith("M"):
            letters[-1] += character
        else:
            letters.append(character)
    return letters


def _either_form(letter: str) -> str:
    """A pattern for a letter stored as one character or with its marks apart."""
    apart = unicodedata.normalize("NFD", letter)
    return re.escape(letter) if apart == letter else f"(?:{re.escape(letter)}|{re.escape(apart)})"


def _goes_on(text: str, at: int) -> bool:
    """Whether a word or a letter with its marks goes on across a position."""
    if not 0 < at < len(text):
        return False
    if unicodedata.category(text[at]).startswith("M"):  # an accent belongs to the letter before it
        return True
    # The letter that an accent belongs to says what the accent's word is.
    before = next((character for character in reversed(text[:at]) if not unicodedata.category(character).startswith("M")), " ")
    return all(character.isalnum() and not _has_no_spaces(character) for character in (before, text[at]))


def _has_no_spaces(character: str) -> bool:
    """Whether its script puts no spaces between words."""
    return unicodedata.name(character, "").startswith(_NO_SPACES)
