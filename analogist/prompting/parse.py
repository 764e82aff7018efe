"""A language model's answer -> prompts. Answers come numbered, quoted, labelled, fenced, explained or as JSON; nothing is assumed.

Whatever the text, the result is a list of short prompts, empty where there is none; no answer makes it raise.
"""

import json
import re
import unicodedata
from collections.abc import Iterator

MAX_ANSWER = 20_000  # characters looked at
MAX_WORD = 40  # characters of one word; a language without spaces gets this much for a prompt of one word
MAX_WORDS = 60  # where no limit was asked for; CLIP reads 75 tokens

QUOTES = "\"'`´‘’‚‛“”„‟«»‹›「」『』"
MARKS = "*_~#>|[](){}<"
PUNCTUATION = " \t.,;:!?-–—=/\\…"
KEYS = ("prompts", "prompt", "b'", "b_prime", "candidates", "answers", "answer", "captions", "caption", "text", "texts", "result")

PRIME = r"['’′`´‘ʹ]"
# "B': ...", "Prompt for B' - ...", "**B'** = ..."
B_LABEL = re.compile(
    rf"^[\W_]*(?:(?:text|the|image|picture|prompts?|caption|of|for)\s+){{0,5}}B\s*{PRIME}[\W_]{{0,4}}?"
    r"\s*(?:[:=]|\s[-–—]\s)\s*(.*)$",
    re.I,
)
ITEM = re.compile(r"^\s*(?:[-*•·–—+]\s+|\(?\d{1,2}\s*[.):\]](?!\d)\s*|\(?[a-e][.)]\s+)(.*\w.*)$", re.I)
PROMPT_LABEL = re.compile(
    r"^[\W_]*(?:text\s+)?(?:prompts?|caption|answer|output|option|candidate)\s*#?\d{0,2}[\W_]{0,3}?\s*[:=]\s*(.*)$", re.I
)
# Words before a colon that introduce an answer rather than belong to it.
PREAMBLE = re.compile(
    rf"\b(?:prompts?|captions?|answers?|output|response|result|analogy|description|sure|certainly|B\s*{PRIME})", re.I
)
QUOTED = re.compile(r"\"([^\"\n]{2,400})\"|“([^”\n]{2,400})”|«([^»\n]{2,400})»|「([^」\n]{2,400})」|`([^`\n]{2,400})`")
REFUSAL = re.compile(
    r"^\W*(?:(?:i(?:'|’)?m|i am|we(?:'|’)?re)\s+(?:very\s+|really\s+)?(?:sorry|afraid|unable|not able)\b"
    r"|sorry,|i\s*(?:can(?:no|'|’)?t|can not|won(?:'|’)t|do(?:n(?:'|’)t| not) (?:see|have))\b|unfortunately,? i\b|as an ai\b"
    r"|i(?:'|’)?m just an? |my apologies)",
    re.I,
)


def parse_answer(answer: str, *, candidates: int = 1, words: int | None = 5) -> list[str]:
    """At most `candidates` prompts of at most `words` words (None: 60), best first; empty where the answer holds none."""
    text = _clean(answer)
    if is_refusal(text):
        return []
    limit = MAX_WORDS if words is None else words
    found: list[str] = []
    for piece in _pieces(text, candidates):
        prompt = _shorten(_bare(piece), limit)
        if prompt and prompt.casefold() not in {other.casefold() for other in found}:
            found.append(prompt)
    return found[:candidates]


def is_refusal(text: str) -> bool:
    """Whether an answer begins as models begin when they will not answer."""
    return REFUSAL.match(text.strip()) is not None


def _clean(answer: str) -> str:
    """Without a reasoning model's thoughts, control tokens, invisible and unassigned characters; line breaks kept."""
    text = answer[:MAX_ANSWER]
    text = re.sub(r"<think(?:ing)?>.*?</think(?:ing)?>", " ", text, flags=re.S | re.I)
    text = re.split(r"</think(?:ing)?>", text, flags=re.I)[-1]
    text = re.split(r"<think(?:ing)?>", text, flags=re.I)[0]  # never closed: cut off while thinking
    text = re.sub(r"<\|[^|<>\n]{0,40}\|>|</?s>|\[/?INST\]", " ", text)
    text = unicodedata.normalize("NFC", text)
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    if character in "\n\r\u2028\u2029\u0085\v\f":
        return "\n"
    if character in "\u200c\u200d":  # they join letters and emoji
        return character
    category = unicodedata.category(character)
    return " " if category in ("Cc", "Zs") else "" if category[0] == "C" else character


def _pieces(text: str, candidates: int) -> list[str]:
    """Where the prompts stand, still with whatever is around them."""
    pieces = _from_json(text)
    if pieces is None:
        pieces = _from_lines(text)
    if candidates > 1 and len(pieces) == 1:  # "prompt1, prompt2, prompt3", as the published wording asks
        pieces = re.split(r"[,;|\n，、；]", pieces[0])
    return pieces


def _from_json(text: str) -> list[str] | None:
    """The texts of the first JSON object or list that holds any; none where an object says so; None without JSON."""
    decoder = json.JSONDecoder()
    for match in list(re.finditer(r"[\[{]", text))[:50]:
        try:
            value, _ = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        texts = [piece for piece in _texts(value) if _has_word(piece)]
        if texts or (isinstance(value, dict) and any(str(key).casefold() in KEYS for key in value)):
            return texts
    return None


def _texts(value: object, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        yield _clean(value).replace("\n", " ")
    elif isinstance(value, list) and depth < 4:
        for part in value[:20]:
            yield from _texts(part, depth + 1)
    elif isinstance(value, dict) and depth < 4:
        named = {str(key).casefold().replace("’", "'"): part for key, part in value.items()}
        known = next((named[key] for key in KEYS if key in named), None)
        parts = (
            [known] if known is not None else [part for key, part in named.items() if re.fullmatch(r"(?:prompt_?)?\d{1,2}", key)]
        )
        for part in parts[:20]:
            yield from _texts(part, depth + 1)


def _from_lines(text: str) -> list[str]:
    lines = [line.strip() for line in re.sub(r"```[\w-]*", "\n", text).split("\n")]
    lines = [line for line in lines if line]
    labelled = _after_label(lines, B_LABEL)
    if labelled:
        return labelled
    items = [match[1] for match in map(ITEM.match, lines) if match] or _after_label(lines, PROMPT_LABEL)
    if items:
        return items
    # A line that only announces what follows is no prompt, unless nothing follows.
    said = [line for line in lines if _has_word(line) and not line.rstrip("*_ ").endswith(":")] or lines
    return said[:1]


def _after_label(lines: list[str], label: re.Pattern[str]) -> list[str]:
    """What stands behind a label, on its line or on the next."""
    found = []
    for i, line in enumerate(lines):
        match = label.match(line)
        if match:
            rest = match[1] if _has_word(match[1]) else lines[i + 1] if i + 1 < len(lines) else ""
            if _has_word(rest):
                found.append(rest)
    return found


def _bare(piece: str) -> str:
    """A prompt without numbering, labels, quotes, markup and the sentence around it."""
    text = " ".join(piece.split())
    for _ in range(4):  # they nest: 1. **"B': a boat"**
        before = text
        for pattern in (ITEM, B_LABEL, PROMPT_LABEL):
            match = pattern.match(text)
            if match and _has_word(match[1]):
                text = match[1].strip()
        quoted = QUOTED.search(text)
        if quoted:
            inside = next(group for group in quoted.groups() if group is not None)
            if _has_word(inside):
                text = inside
        head, colon, tail = text.partition(": ")
        if colon and PREAMBLE.search(head) and _has_word(tail):
            text = tail
        text = _trim(text)
        if text == before:
            break
    return text


def _trim(text: str) -> str:
    return text.strip(QUOTES + MARKS + PUNCTUATION)


def _shorten(text: str, words: int) -> str:
    kept = [word[:MAX_WORD] for word in text.split()][:words]
    short = _trim(" ".join(kept))
    return short if _has_word(short) else ""


def _has_word(text: str) -> bool:
    return any(character.isalnum() for character in text)
