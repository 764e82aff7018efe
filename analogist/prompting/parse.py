"""Reads the prompts from a language model's answer, or says why there are none. Answers may be numbered, quoted, labelled, fenced,
explained, mixed with thoughts, or JSON.

For every text the result is a list of short prompts, which may be empty; no text raises an error. First thoughts and control tokens
are removed. Then the place of the answer is found (forms.py, lines.py, labels.py). Last, the text there is checked for what models
say instead of an answer (refusals.py).
"""

import re
import unicodedata
from dataclasses import dataclass

from analogist.prompting import labels
from analogist.prompting.forms import PLACES, TOKEN_PLACES, from_json, has_word, one_turn, readable, without_thoughts
from analogist.prompting.lines import behind_colon, from_lines, introduced, is_talk
from analogist.prompting.refusals import declines, is_error, says_nothing, sees_nothing

MAX_ANSWER = 20_000  # characters that are read, thoughts included
MAX_SAID = 4_000  # characters that are read after thoughts are removed
MAX_PROMPT = 600  # characters of one prompt with what is around it
MAX_WORD = 40  # characters of one word; in a language without spaces this limits the whole prompt
MAX_WORDS = 60  # if no limit was given; CLIP reads 75 tokens

# Why an answer holds no prompt.
REFUSES, BLIND, ERROR = "the model declined to answer", "the model says that it sees no picture", "the answer is an error message"
BROKEN, NONE = "the answer ends inside the model's thoughts; raise --max-tokens", "the model says that there is no prompt"
NO_PROMPT, EMPTY = "no prompt was found in the answer", "the answer is empty"

# Quotes, brackets and marks of emphasis: opening -> closing.
PAIRS = dict(zip("\"'`´‘‚‛“„‟«»‹›「『([{<【《〈〔〖❝〝*_~", "\"'`´’‘’”“”»«›‹」』)]}>】》〉〕〗❞〞*_~", strict=True))
EDGES = " \t.,;:!?-–—=/\\…|#>*_~。、，；：！？·・･🎨\ufe0f\u20e3" + labels.BULLETS


@dataclass(frozen=True)
class Answer:
    """What was read from an answer. prompts: best first. why: the reason if there are none, such as REFUSES; else None."""

    prompts: tuple[str, ...]
    why: str | None


def parse_answer(answer: str, *, candidates: int = 1, words: int | None = 5) -> list[str]:
    """At most `candidates` prompts of at most `words` words (None: 60), best first; empty if the answer holds none."""
    return list(read_answer(answer, candidates=candidates, words=words).prompts)


def is_refusal(text: str) -> bool:
    """Whether an answer holds no prompt because the model declined, or says that it saw no picture."""
    return read_answer(text).why in (REFUSES, BLIND)


@dataclass(frozen=True)
class Said:
    """What a model said. whole: its words of one turn, without thoughts and control tokens. narrowed: what is marked as the answer in them.

    broken: whether it ended inside its thoughts. why: it is an error message, or says that it sees no picture; else None.
    """

    whole: str
    narrowed: str
    broken: bool
    why: str | None = None


def said_in(answer: str, *, longest: int = MAX_SAID) -> Said:
    """Finds the place of the answer in what a model wrote, by the tables of forms. longest: characters that are read without thoughts."""
    said, broken = without_thoughts(readable(answer[:MAX_ANSWER]))
    for place in TOKEN_PLACES:
        said = place.take(said) or said
    if is_error(said):
        return Said(said, said, broken, ERROR)
    said = narrowed = one_turn(said)[:longest]
    for place in PLACES:
        narrowed = place.take(narrowed) or narrowed
    return Said(said, narrowed, broken, BLIND if sees_nothing(said) else None)


def read_answer(answer: str, *, candidates: int = 1, words: int | None = 5) -> Answer:
    """The prompts of an answer, or why it has none: a refusal, an error, unfinished thoughts, nothing."""
    found = said_in(answer)
    if found.why is not None:
        return Answer((), found.why)
    said, narrowed, broken = found.whole, found.narrowed, found.broken
    data = from_json(narrowed.strip())
    if is_error(narrowed) or (data is not None and data.error is not None):
        return Answer((), ERROR)
    if data is not None and data.texts is not None:
        pieces, told = list(data.texts), True
    else:
        pieces, told = from_lines(narrowed)
    if declines(narrowed) and not told and narrowed is said:
        return Answer((), REFUSES)
    if candidates > 1 and len(pieces) == 1:  # "prompt1, prompt2, prompt3", the form that the published wording asks for
        pieces = re.split(r"[,;|\n、]", pieces[0])
    found = _prompts(pieces, MAX_WORDS if words is None else words)
    return Answer(tuple(found[:candidates]), None) if found else Answer((), _why(answer, said, pieces, broken))


def _why(answer: str, said: str, pieces: list[str], broken: bool) -> str:
    """Why an answer has no prompt."""
    checks = ((REFUSES, declines), (BLIND, sees_nothing), (ERROR, is_error))
    for why, check in checks:
        if any(check(text) for text in (said, *pieces)):
            return why
    if broken:
        return BROKEN
    if any(says_nothing(text) for text in (said, *pieces)):
        return NONE
    return NO_PROMPT if answer.strip() else EMPTY


def _prompts(pieces: list[str], words: int) -> list[str]:
    """The pieces that are prompts, cleaned, shortened and without duplicates."""
    found: list[str] = []
    for piece in pieces:
        bare = _bare(piece)
        if labels.ANSWER_HEADING.match(piece) or says_nothing(piece) or _is_no_caption(bare):
            continue
        prompt = _shorten(bare, words)
        if prompt and prompt.casefold() not in {other.casefold() for other in found}:
            found.append(prompt)
    return found


def _is_no_caption(text: str) -> bool:
    """Whether the text refuses, reports an error, says nothing, talks about the task, or names A' or B', as no caption of B' does."""
    letter = labels.GRID_LETTER.search(text)
    named = letter is not None and not re.search(r"(?<!\w)['‘]", text[: letter.start()])  # otherwise the mark may end a quotation: 'Plan B'
    other = says_nothing(text) or declines(text) or sees_nothing(text) or is_error(text)
    return named or other or is_talk(text) or labels.ANSWER_HEADING.match(text) is not None


def _bare(piece: str) -> str:
    """A prompt without numbering, labels, quotes, markup and the sentence around it."""
    text = " ".join(piece.split())[:MAX_PROMPT]
    for _ in range(4):  # several times, because they nest: 1. **"B': a boat"**
        before = text
        for pattern in (labels.ITEM, labels.B_LABEL, labels.PROMPT_LABEL, labels.ANSWER_IS):
            match = pattern.match(text)
            inside = next((group for group in match.groups() if group is not None), "") if match else ""
            text = inside.strip() if has_word(inside) else text
        text = introduced(text) or text
        text = behind_colon(text) or text
        text = _trim(labels.EXPLAINS.split(text, maxsplit=1)[0])
        if text == before:
            break
    return re.sub(r"(?<!\w)(\*\*|__)(?=\S)(.+?)(?<=\S)\1", r"\2", text)  # a word in bold


def _trim(text: str) -> str:
    """The text without punctuation and emoji at its ends, and without quotes and brackets there that are unpaired or enclose everything."""
    while True:
        before = text
        text = text.strip(EDGES)
        while text and text[-1] > "\u2190" and unicodedata.category(text[-1]) in ("So", "Sk"):
            text = text[:-1].rstrip(EDGES + "\u200d")
        if text and text[0] in PAIRS:
            closing = PAIRS[text[0]]
            doubled = text[1:2] == text[0] and text[-1] == closing
            if doubled or text.find(closing, 1) in (-1, len(text) - 1):
                text = text[1 : -1 if text[-1] == closing else None]
        opening = [left for left, right in PAIRS.items() if text and right == text[-1]]
        if opening and not any(left in text[:-1] for left in opening):
            text = text[:-1]
        if text and PAIRS.get(text[-1], text[-1]) != text[-1]:  # an opening mark at the end is unpaired
            text = text[:-1]
        if text == before:
            return text


def _shorten(text: str, words: int) -> str:
    kept = [word[:MAX_WORD] for word in text.split()][:words]
    short = _trim(" ".join(kept))
    return short if has_word(short) else ""
