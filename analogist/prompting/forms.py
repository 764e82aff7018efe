"""The forms in which language models wrap an answer, as tables: how a form is recognised and what is taken from it.

They are applied in this order: THOUGHTS are dropped, TURNS cut off other turns of the chat, PLACES find the answer in the text.
"""

import html
import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_NAMES = (
    r"think|thinking|thoughts?|reason|reasoning|rationale|reflection|analysis|scratch_?pad|inner_?monologue|cot|chain_of_thought|planning"
    r"|deliberation|summary"
)


@dataclass(frozen=True)
class Thought:
    """A passage that is not part of the answer. opens, closes: patterns. lone: whether a close without an open also ends a thought."""

    name: str
    opens: str
    closes: str
    lone: bool = True
    flags: re.RegexFlag = re.IGNORECASE


THOUGHTS = (
    Thought(
        "folded", r"<details\b[^<>]*>\s*<summary\b[^<>]*>[^<]*(?:think|thought|reason|analysis)[^<]*</summary>", r"</details>", lone=False
    ),
    Thought("tag", rf"<(?:seed:)?(?:{_NAMES})(?:\s[^<>\n]{{0,80}})?>", rf"</(?:seed:)?(?:{_NAMES})\s*>"),
    Thought("brackets", r"\[(?:THINK|THINKING)\]", r"\[/(?:THINK|THINKING)\]"),
    Thought("triangles", r"◁\s*think(?:ing)?\s*▷", r"◁\s*/\s*think(?:ing)?\s*▷"),
    Thought("bars", rf"<\|(?:begin_of_|start_of_|begin_|start_)?(?:{_NAMES})\|>", rf"<\|(?:/|end_of_|end_)(?:{_NAMES})\|>"),
    Thought("channel with one bar", r"<\|channel>\s*(?:thought|analysis)\b", r"<channel\|>"),
    Thought("unused tokens", r"<unused94>(?:thought)?", r"<unused95>"),
    Thought(
        "channel without its marks", r"\A\s*analysis(?=\s*[A-Z\"'])", r"assistant\s*(?:commentary\b.*?assistant\s*)?final(?:\s*message)?",
        lone=False, flags=re.NOFLAG,
    ),
    Thought(
        "thought process", r"here(?:'s| is) my (?:thought|thinking|reasoning) process\s*:?", r"here(?:'s| is) my (?:response|answer)\s*:?",
        lone=False,
    ),
    Thought("thinking aloud", r"\A\s*thinking\.\.\.\s*\n", r"\.\.\.\s*done thinking\.?", lone=False),
    Thought("fence", r"```(?:thinking|thoughts?|reasoning)\s*\n", r"```", lone=False),
)  # fmt: skip

# OpenAI's harmony format: <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...
_CHANNEL = re.compile(
    r"<\|channel\|>\s*(\w+)[^<]*(?:<\|constrain\|>\s*\w+\s*)?(?:<\|message\|>(.*?))?(?=<\|(?:end|return|start|channel|call)\|>|\Z)", re.S
)


def without_thoughts(text: str) -> tuple[str, bool]:
    """The text without thoughts, and whether it ended inside a thought that was never closed."""
    channels = [(match[1].lower(), match[2] or "") for match in _CHANNEL.finditer(text)]
    if channels:
        final = [said for name, said in channels if name in ("final", "response", "answer")]
        return (final[-1], False) if final else ("", True)
    broken = False
    for thought in THOUGHTS:
        flags = thought.flags | re.DOTALL
        opens, closes = re.compile(thought.opens, flags), re.compile(thought.closes, flags)
        if not opens.search(text) and not (thought.lone and closes.search(text)):
            continue
        text = re.sub(f"(?:{thought.opens}).*?(?:{thought.closes})", " \n", text, flags=flags)
        if thought.lone:
            text = closes.split(text)[-1]
        opened = opens.search(text)
        if opened:  # never closed: text after an answer's own tag still counts as the answer
            answer = _ANSWER_TAG.search(text, opened.end())
            text = text[answer.start() :] if answer else text[: opened.start()]
            broken = broken or not answer
    return text, broken


# --- turns ------------------------------------------------------------------------------------------------------------------

_END = re.compile(
    r"<\|(?:im_end|eot_id|eom_id|end|endoftext|end_of_text|eos|eot|return|endofturn|end_of_turn|endofresponse|end_response|end_of_response"
    r"|end_of_turn_token|end_of_solution|end_of_sentence|end▁of▁sentence|user|observation|call|diff_marker)\|>"
    r"|</s>|<end_of_turn>|<end_of_utterance>|<eos>|<eos_token>|<turn\|>|<\|eos\|>|<\|end▁of▁sentence\|>|\[EOS\]|<\|human\|>|<eod>|<eoa>|<eom>"
    r"|<\|START_OF_TURN_TOKEN\|><\|USER_TOKEN\|>|\n(?:User|USER|Human|HUMAN|用户)\s*:",
    re.I,
)
_ASKED = re.compile(
    r"\[INST\].*?\[/INST\]|<\|im_start\|>\s*(?:user|system)\b.*?<\|im_end\|>|<start_of_turn>\s*(?:user|system)\b.*?<end_of_turn>"
    r"|<\|start_header_id\|>\s*(?:user|system)\s*<\|end_header_id\|>.*?<\|eot_id\|>|<<SYS>>.*?<</SYS>>",
    re.S | re.I,
)
_ROLE = re.compile(
    r"(?:<\|im_start\|>|<\|start_header_id\|>|<start_of_turn>|<\|start\|>|<\|turn>)\s*(?:assistant|model)\b\s*"
    r"(?:<\|end_header_id\|>|<\|message\|>)?",
    re.I,
)
_SPEAKER = re.compile(r"(?:^|\n)[ \t]*(?:ASSISTANT|Assistant|GPT|AI|Bot|BOT|MODEL|Model|助手)\s*:")
_TOKEN = re.compile(
    r"<\|[^|<>\n]{0,40}\|>|</?s>|</?(?:bos|pad|unk|eos|image|img|img_context|grounding|phrase|object|ref|box|point|quad)>|\[/?INST\]"
    r"|<(?:loc|extra_id|unused|bin|vision|seg)_?\d+>|<(?:start|end)_of_(?:turn|utterance|image)>|\[(?:BOS|EOS|PAD|RESPONSE|/RESPONSE)\]",
    re.I,
)
_MARKUP = re.compile(
    r"</?(?:b|i|u|em|strong|span|font|center|big|small|mark|p|div|code|pre|blockquote|body|html|hr|h[1-6]|ul|ol)\b[^<>\n]{0,120}>", re.I
)


def one_turn(text: str) -> str:
    """The model's words of one turn, without control tokens. HTML tags become line breaks, bullets and cells."""
    text = _ASKED.sub("\n", text)
    text = _ROLE.split(text)[-1]
    spoken = _SPEAKER.split(text)
    text = next((piece for piece in spoken[1:] if has_word(piece)), text)
    for end in _END.finditer(text):
        if has_word(_TOKEN.sub(" ", text[: end.start()])):
            text = text[: end.start()]
            break
    text = _TOKEN.sub(" ", text)
    text = re.sub(r"<br\s*/?>|</(?:p|div|li|tr|h[1-6]|table)>", "\n", text, flags=re.I)
    text = re.sub(r"<li\b[^<>]*>", "\n- ", text, flags=re.I)
    text = re.sub(r"</t[dh]>", " | ", text, flags=re.I)
    text = re.sub(r"</?(?:table|thead|tbody|tr|td|th)\b[^<>]*>", " ", text, flags=re.I)
    return _MARKUP.sub(" ", text)


# --- characters -------------------------------------------------------------------------------------------------------------

_WIDE = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)} | {0xFF1A: ": ", 0x3000: " ", 0x2581: " "}


def readable(text: str) -> str:
    """The text in Unicode's NFC, with HTML entities and full-width forms replaced by plain characters, without invisible ones."""
    text = unicodedata.normalize("NFC", html.unescape(text)).translate(_WIDE)
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    if character in "\n\r\u2028\u2029\u0085\v\f":
        return "\n"
    if character in "\u200c\u200d":  # they join letters and emoji
        return character
    category = unicodedata.category(character)
    if category in ("Cc", "Zs"):
        return "\t" if character == "\t" else " "
    return "" if category[0] == "C" else character


def has_word(text: str) -> bool:
    """Whether the text holds a letter or a number."""
    return any(character.isalnum() for character in text)


# --- places -----------------------------------------------------------------------------------------------------------------

_ANSWER_NAMES = r"answer|final_?answer|final|conclusion|solution|result|response|output|prompts?|text_?prompt|caption|b_?prime|b'"
_ANSWER_TAG = re.compile(rf"<(?:{_ANSWER_NAMES})\s*>|<\|begin_of_(?:box|solution)\|>|<\|START_RESPONSE\|>|\[(?:ANSWER|RESPONSE)\]", re.I)
_BY_RANK = (r"answer|final_?answer|final|conclusion|solution", r"result|response|output", r"prompts?|text_?prompt|caption|b_?prime|b'")


@dataclass(frozen=True)
class Place:
    """A form that marks the answer. take: returns the answer's text; None if the text does not have this form."""

    name: str
    take: Callable[[str], str | None]


def _tagged(names: str) -> Callable[[str], str | None]:
    def take(text: str) -> str | None:
        found = [piece for piece in re.findall(rf"<(?:{names})\s*>(.*?)(?:</(?:{names})\s*>|\Z)", text, re.S | re.I) if has_word(piece)]
        if not found:  # the opening tag stands elsewhere, such as in the request
            head, closed, _ = _partition(text, rf"</(?:{names})\s*>")
            return head if closed and has_word(head) else None
        return found[-1] if len(found) == 1 or "answer" in names else "\n".join(f"- {' '.join(piece.split())}" for piece in found)

    return take


def _partition(text: str, pattern: str) -> tuple[str, str, str]:
    match = re.search(pattern, text, re.I)
    return (text, "", "") if match is None else (text[: match.start()], match[0], text[match.end() :])


def _between(opens: str, closes: str) -> Callable[[str], str | None]:
    def take(text: str) -> str | None:
        found = [piece for piece in re.findall(rf"{opens}(.*?)(?:{closes}|\Z)", text, re.S | re.I) if has_word(piece)]
        return found[-1] if found else None

    return take


def _boxed(text: str) -> str | None:
    """The content of the last \\boxed{...} that holds a word."""
    found = None
    for match in re.finditer(r"\\(?:fbox|boxed)\s*\{", text):
        depth, end = 1, match.end()
        while end < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        inside = text[match.end() : end - (depth == 0)]
        found = inside if has_word(inside) else found
    return None if found is None else plain_latex(found)


def plain_latex(text: str) -> str:
    """LaTeX as plain words: \\text{a red boat} is a red boat."""
    text = re.sub(r"\^\s*\{?\s*\\prime\s*\}?", "'", text)
    for _ in range(4):
        text = re.sub(r"\\(?:text|textbf|textit|texttt|textrm|mathrm|mathbf|mathit|mbox|emph|operatorname)\s*\{([^{}]*)\}", r"\1", text)
    return re.sub(r"\\[ ,;:!]|\\quad|\\[()\[\]]|\$|~", " ", text)


# Applied before control tokens are removed, because some of these marks are control tokens.
TOKEN_PLACES = (
    Place("box of GLM", _between(r"<\|begin_of_box\|>", r"<\|end_of_box\|>")),
    Place("solution of OpenThinker", _between(r"<\|begin_of_solution\|>", r"<\|end_of_solution\|>")),
    Place("response of Command", _between(r"<\|START_RESPONSE\|>", r"<\|END_RESPONSE\|>")),
    Place("brackets", _between(r"\[(?:ANSWER|RESPONSE)\]", r"\[/(?:ANSWER|RESPONSE)\]")),
)
PLACES = (*(Place(f"tag {names.split('|')[0]}", _tagged(names)) for names in _BY_RANK), Place("boxed", _boxed))


# --- JSON -------------------------------------------------------------------------------------------------------------------

KEYS = (
    "prompts", "prompt", "text_prompts", "text_prompt", "b'", "b_prime", "bprime", "b' prompt", "b'_prompt", "b_prime_prompt", "image b'",
    "final_answer", "final answer", "candidates", "answers", "answer", "captions", "caption", "text", "texts", "result", "results",
    "response", "output", "description", "content", "prompt_text", "title",
)  # fmt: skip
ERROR_KEYS = ("error", "errors", "exception", "traceback", "error_message", "error_code", "refusal")


@dataclass(frozen=True)
class Data:
    """The content of the JSON in a text. error: its message if it reports an error. texts: the prompts; None if it holds neither."""

    texts: tuple[str, ...] | None
    error: str | None = None


def json_values(text: str) -> Iterator[dict | list]:
    """The JSON objects and lists in a text, in order, without those inside others; at most 50 places are tried."""
    decoder, after = json.JSONDecoder(), 0
    for match in list(re.finditer(r"[\[{]", text))[:50]:
        if match.start() < after:
            continue
        try:
            value, after = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        yield value


def from_json(text: str) -> Data | None:
    """The texts of the JSON objects or lists in a text, damaged ones included; None if there is no JSON."""
    texts: list[str] = []
    told = False
    try:
        whole = json.loads(text)
        if isinstance(whole, str) and whole.lstrip()[:1] in ("{", "["):  # JSON in JSON
            return from_json(whole)
    except (ValueError, RecursionError):
        pass
    for value in json_values(text):
        error = _error(value)
        if error is not None:
            return Data(None, error)
        texts += [piece for piece in _texts(value) if has_word(piece)]
        told = told or isinstance(value, dict)
    if texts or told:
        return Data(tuple(texts))
    return _damaged(text)


def _damaged(text: str) -> Data | None:
    """Reads a cut-off or malformed object: single or curly quotes, an extra comma, a missing bracket."""
    quote = r"[\"'“”‘’]"
    keys = "|".join(re.escape(key).replace("'", "['’′]") for key in KEYS)
    match = re.search(rf"\{{\s*(?:{quote}[\w ]+{quote}\s*:[^{{}}\[\]]*,\s*)?{quote}?(?:{keys}){quote}?\s*:\s*(.*)", text, re.S | re.I)
    if match is None:
        return None
    pieces = re.findall(r"\"((?:[^\"\\\n]|\\.)+)(?:\"|\Z)|“([^”\n]+)|(?<![\w])'((?:[^'\n]|'(?=\w))+)'?", match[1].split("]")[0])
    return Data(tuple(piece for groups in pieces for piece in groups if has_word(piece)))


def _named(value: dict) -> dict[str, object]:
    return {str(key).casefold().replace("’", "'").replace("′", "'").strip(): part for key, part in value.items()}


def _error(value: object) -> str | None:
    if not isinstance(value, dict):
        return None
    named = _named(value)
    if any(list(_texts(named[key])) for key in KEYS[:14] if key in named):
        return None  # it also holds an answer
    said = next((named[key] for key in ERROR_KEYS if named.get(key) not in (None, False, "", [], {}, 0)), None)
    failed = any(str(named.get(key)).casefold() in ("error", "failed", "failure", "refused") for key in ("object", "type", "status"))
    coded = "message" in named and any(key in named for key in ("code", "status_code", "statuscode", "status"))
    if said is None and (failed or coded or named.get("success") is False or list(named) == ["detail"]):
        said = named.get("message", named.get("detail", named))
    if said is None:
        return None
    said = said[0] if isinstance(said, list) and said else said
    if isinstance(said, dict):
        said = _named(said).get("message", said)
    return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)


def _texts(value: object, depth: int = 0) -> list[str]:
    if isinstance(value, str):
        return [" ".join(value.split())]
    if isinstance(value, list) and depth < 4:
        return [text for part in value[:20] for text in _texts(part, depth + 1)]
    if not isinstance(value, dict) or depth >= 4:
        return []
    named = _named(value)
    known = next((named[key] for key in KEYS if key in named), None)
    if known is not None:
        return _texts(known, depth + 1)
    name = re.compile(r"(?:(?:text[ _]?)?(?:prompt|caption|candidate|option)[ _]?)?\d{1,2}")
    numbered = [part for key, part in named.items() if name.fullmatch(key)]
    parts = numbered or (list(named.values()) if len(named) == 1 else [])
    return [text for part in parts[:20] for text in _texts(part, depth + 1)]
