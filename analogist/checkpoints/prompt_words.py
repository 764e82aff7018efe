"""Where the words of a prompt stand among its tokens; knows no tokenizer and no network."""

import difflib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

START, END = "<|startoftext|>", "<|endoftext|>"
Places = Sequence[tuple[int, int]]  # (first, end) of each token in the prompt's text, without start and end tokens

# Scripts that put no space between words, so that a word may stand inside a longer run of letters.
_NO_SPACES = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "YI SYLLABLE")


def check_text(text: str, what: str) -> str:
    """The text. Raises ValueError, naming it, where it is none: of another type, or with half a character that no file can hold."""
    if not isinstance(text, str):
        raise ValueError(f"{what} {text!r}: give one text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"character {error.start + 1} is half of one (a lone surrogate, as of text that was not UTF-8)"
        raise ValueError(f"{what} {ascii(text)}: {half}; write it anew") from None
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
    pattern = r"\s+".join(_either_form(piece) for piece in word.split())
    left = r"(?<!\w)" if _has_edge(word.strip()[0]) else ""
    right = r"(?![\w\u0300-\u036f])" if _has_edge(word.strip()[-1]) else ""
    spans = [match.span() for match in re.finditer(left + pattern + right, prompt, re.IGNORECASE)]
    columns = [column for column, (first, end) in enumerate(places, 1) if any(first < stop and end > start for start, stop in spans)]
    if not columns:
        words = list(dict.fromkeys(re.findall(r"\w+", unicodedata.normalize("NFC", prompt))))
        wanted = unicodedata.normalize("NFC", word).lower()
        near = difflib.get_close_matches(wanted, [other.lower() for other in words[:500]], 3, 0.5)
        where = "it was cut off with the prompt's end" if spans else f"nearest: {', '.join(near) if near else 'none'}"
        raise ValueError(f"the word {word!r} does not stand in {prompt!r}; {where}")
    return columns


def _either_form(piece: str) -> str:
    """A pattern for a text in which each letter may be composed or decomposed."""
    out = []
    for letter in re.findall(r"[^\u0300-\u036f\u3099\u309a][\u0300-\u036f\u3099\u309a]*|.", unicodedata.normalize("NFC", piece), re.DOTALL):
        forms = dict.fromkeys(unicodedata.normalize(form, letter) for form in ("NFC", "NFD"))
        out.append("(?:" + "|".join(re.escape(form) for form in forms) + ")")
    return "".join(out)


def _has_edge(letter: str) -> bool:
    """Whether a word that begins or ends so must not go on in the prompt."""
    return letter.isalnum() and not unicodedata.name(letter, "").startswith(_NO_SPACES)
