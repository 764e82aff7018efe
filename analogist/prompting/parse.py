"""A language model's answer -> prompts, or what it is instead. Answers come numbered, quoted, labelled, fenced, explained, thought aloud
or as JSON; nothing is assumed.

Whatever the text, the result is a list of short prompts, empty where there is none; no answer makes it raise. Thoughts and control
tokens go first, then the place of the answer is found (forms.py, lines.py, labels.py), and what stands there is checked against what
models say instead of an answer (refusals.py).
"""

import re
import unicodedata
from dataclasses import dataclass

from analogist.prompting import labels
from analogist.prompting.forms import PLACES, TOKEN_PLACES, from_json, has_word, one_turn, readable, without_thoughts
from analogist.prompting.lines import behind_colon, from_lines, introduced, is_talk
from analogist.prompting.refusals import declines, is_error, says_nothing, sees_nothing

MAX_ANSWER = 20_000  # characters looked at, thoughts included
MAX_SAID = 4_000  # of what is left of it without thoughts
MAX_PROMPT = 600  # of one prompt with what is around it
MAX_WORD = 40  # characters of one word; a language without spaces gets this much for a prompt of one word
MAX_WORDS = 60  # where no limit was asked for; CLIP reads 75 tokens

# What an answer is instead of a prompt.
REFUSES, BLIND, ERROR = "it refuses", "it says that it sees no picture", "it is an error"
BROKEN, NONE = "it broke off while thinking; raise --max-tokens", "it says that there is none"
NO_PROMPT, EMPTY = "no prompt can be read from it", "it is empty"

# Quotes, brackets and marks of emphasis: opening -> closing.
PAIRS = dict(zip("\"'`´‘‚‛“„‟«»‹›「『([{<【《〈〔〖❝〝*_~", "\"'`´’‘’”“”»«›‹」』)]}>】》〉〕〗❞〞*_~", strict=True))
EDGES = " \t.,;:!?-–—=/\\…|#>*_~。、，；：！？·・･🎨\ufe0f\u20e3" + labels.BULLETS


@dataclass(frozen=True)
class Answer:
    """What an answer comes to. prompts: best first. why: what it is instead, such as "it refuses"; None where it holds prompts."""

    prompts: tuple[str, ...]
    why: str | None


def parse_answer(answer: str, *, candidates: int = 1, words: int | None = 5) -> list[str]:
    """At most `candidates` prompts of at most `words` words (None: 60), best first; empty where the answer holds none."""
    return list(read_answer(answer, candidates=candidates, words=words).prompts)


def is_refusal(text: str) -> bool:
    """Whether an answer declines, or says that no picture was shown, and gives no prompt."""
    return read_answer(text).why in (REFUSES, BLIND)


def read_answer(answer: str, *, candidates: int = 1, words: int | None = 5) -> Answer:
    """The prompts of an answer, or what it is instead: a refusal, an error, thoughts that broke off, nothing."""
    said, broken = without_thoughts(readable(answer[:MAX_ANSWER]))
    for place in TOKEN_PLACES:
        said = place.take(said) or said
    if is_error(said):
        return Answer((), ERROR)
    said = narrowed = one_turn(said)[:MAX_SAID]
    if sees_nothing(said):
        return Answer((), BLIND)
    for place in PLACES:
        narrowed = place.take(narrowed) or narrowed
    data = from_json(narrowed.strip())
    if is_error(narrowed) or (data is not None and data.error is not None):
        return Answer((), ERROR)
    if data is not None and data.texts is not None:
        pieces, told = list(data.texts), True
    else:
        pieces, told = from_lines(narrowed)
    if declines(narrowed) and not told and narrowed is said:
        return Answer((), REFUSES)
    if candidates > 1 and len(pieces) == 1:  # "prompt1, prompt2, prompt3", as the published wording asks
        pieces = re.split(r"[,;|\n、]", pieces[0])
    found = _prompts(pieces, MAX_WORDS if words is None else words)
    return Answer(tuple(found[:candidates]), None) if found else Answer((), _why(answer, said, pieces, broken))


def _why(answer: str, said: str, pieces: list[str], broken: bool) -> str:
    """What an answer without a prompt is."""
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
    """The pieces that are prompts, bare and short, each once."""
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
    """Whether it refuses, reports an error, says nothing or talks about the task; a caption of B' does not name A' or B' either."""
    letter = labels.GRID_LETTER.search(text)
    named = letter is not None and not re.search(r"(?<!\w)['‘]", text[: letter.start()])  # else it may end a quotation: 'Plan B'
    other = says_nothing(text) or declines(text) or sees_nothing(text) or is_error(text)
    return named or other or is_talk(text) or labels.ANSWER_HEADING.match(text) is not None


def _bare(piece: str) -> str:
    """A prompt without numbering, labels, quotes, markup and the sentence around it."""
    text = " ".join(piece.split())[:MAX_PROMPT]
    for _ in range(4):  # they nest: 1. **"B': a boat"**
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
    """Without punctuation and emoji at the ends, and without quotes and brackets there that close nothing or enclose it all."""
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
        if text and PAIRS.get(text[-1], text[-1]) != text[-1]:  # it opens and closes nothing
            text = text[:-1]
        if text == before:
            return text


def _shorten(text: str, words: int) -> str:
    kept = [word[:MAX_WORD] for word in text.split()][:words]
    short = _trim(" ".join(kept))
    return short if has_word(short) else ""
