"""Finds an answer in plain lines: a table of forms, tried in order; the first one that matches gives the answer."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from analogist.prompting import labels
from analogist.prompting.forms import has_word, plain_latex

MAX_LINES, MAX_LINE = 200, 600  # lines that are read; characters of each

QUOTED = re.compile(
    r"\"([^\"\n]{2,400})\"|“([^”\n]{2,400})”|„([^“”\n]{2,400})[“”]|«([^»\n]{2,400})»|»([^«\n]{2,400})«|‹([^›\n]{2,400})›"
    r"|「([^」\n]{2,400})」|『([^』\n]{2,400})』|《([^》\n]{2,400})》|【([^】\n]{2,400})】|`([^`\n]{2,400})`|\*\*([^*\n]{2,400})\*\*"
    r"|(?<!\w)'((?:[^'\n]|'(?=\w)){2,400})'(?!\w)|(?<!\w)‘((?:[^’\n]|’(?=\w)){2,400})’(?!\w)"
)
# What may follow a quotation that is the answer.
AFTER_IT = re.compile(
    r"\s*(?:$|[.,;:!?()–—-]|(?:is|or|because|since|as|this|would|could|should|which)\b|です|でしょう|となります|입니다|이다)"
)


@dataclass(frozen=True)
class LineForm:
    """take: returns the prompts, still with numbers and quotes around them; nothing if the text does not have this form.
    told: whether the form announces the answer, so that an apology before it does not count as a refusal.
    """

    name: str
    take: Callable[[list[str]], list[str]]
    told: bool


def from_lines(text: str) -> tuple[list[str], bool]:
    """The prompts of a text, still with numbers and quotes around them, and whether the text announces them."""
    text = labels.LABEL_AFTER_A_SENTENCE.sub("\n", plain_latex(text) if "\\" in text else text)
    lines = [line.strip() for line in re.sub(r"(?:```|~~~)(?:[\w-]+(?=\s*\n))?", "\n", text).split("\n")]
    lines = [line[:MAX_LINE] for line in lines if has_word(line) or _is_rule(line)][:MAX_LINES]
    for form in LINE_FORMS:
        found = form.take(lines)
        if found:
            return found, form.told
    return [], False


def is_talk(line: str) -> bool:
    """Whether a line speaks about the task or explains, rather than being a caption."""
    return bool(labels.CHATTER.match(line) or labels.DESCRIBES.match(line) or labels.NOTE_LABEL.match(line))


# --- the forms --------------------------------------------------------------------------------------------------------------


def _is_rule(line: str) -> bool:
    return re.fullmatch(r"\|?\s*:?-{2,}:?\s*(?:\|\s*:?-{2,}:?\s*)*\|?", line) is not None


def _table(lines: list[str]) -> list[str]:
    """From a Markdown table: the cell beside B' or a word for "answer", or the column under one."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line and not _is_rule(line)]
    if not rows or (len(rows[0]) < 2 and not any(map(_is_rule, lines))):
        return []
    for number, row in enumerate(rows):
        titled = labels.B_HEADING.match(row[0]) or (number and labels.ANSWER_HEADING.match(row[0]))
        if titled and len(row) > 1 and has_word(row[-1]):
            return [next(cell for cell in row[1:] if has_word(cell))]
    for at, title in enumerate(rows[0]):
        if labels.ANSWER_HEADING.match(title) or labels.B_HEADING.match(title):
            return [row[at] for row in rows[1:] if len(row) > at and has_word(row[at])]
    return []


def _labelled(label: re.Pattern[str]) -> Callable[[list[str]], list[str]]:
    def take(lines: list[str]) -> list[str]:
        """The text after the label, on its line or on the next."""
        found = []
        lines = _words(lines)
        for i, line in enumerate(lines):
            match = label.match(line)
            if match:
                rest = match[1] if has_word(match[1]) else lines[i + 1] if i + 1 < len(lines) else ""
                found += [rest] if has_word(rest) else []
        return found

    return take


def _words(lines: list[str]) -> list[str]:
    return [line.strip("| ") for line in lines if has_word(line)]


def _final(lines: list[str]) -> list[str]:
    return _labelled(labels.FINAL_LABEL)(lines)[-1:]


def _under_heading(lines: list[str]) -> list[str]:
    """The text under the last heading that announces an answer, up to the next heading."""
    lines = _words(lines)
    starts = [i for i, line in enumerate(lines[:-1]) if labels.ANSWER_HEADING.match(line) or labels.B_HEADING.match(line)]
    for start in reversed(starts):
        section = lines[start + 1 : start + 2]
        for line in lines[start + 2 :]:
            if labels.HEADING.match(line) or labels.NOTE_LABEL.match(line) or labels.NOTE_HEADING.match(line):
                break
            section.append(line)
        found = next((found for take in (_items, _said, _plain) if (found := take(section))), [])
        if found:
            return found
    return []


def _items(lines: list[str]) -> list[str]:
    """The items of a list; if some have a label, only those."""
    items = [match[1] for match in map(labels.ITEM.match, _words(lines)) if match and not is_talk(match[1])]
    return [item for item in items if labels.PROMPT_LABEL.match(item)] or items


def _said(lines: list[str]) -> list[str]:
    """The answer from a sentence about it: "The prompt is ...", "Here it is: ...", 'I would say "..."'."""
    for line in _without_notes(lines):
        match = labels.ANSWER_IS.match(line)
        if match:
            return [next(group for group in match.groups() if group is not None)]
        said = introduced(line) or behind_colon(line) if labels.CHATTER.match(line) else None
        if said:
            return [said]
    return []


def _plain(lines: list[str]) -> list[str]:
    """The first line that is not just talk, from its first sentence that is not talk."""
    for line in _without_notes(lines):
        while has_word(line):
            if not is_talk(line):
                return [line]
            line = (re.split(r"(?<=[.!?:])\s+", line, maxsplit=1) + [""])[1]  # noqa: PLW2901
    return []


def _without_notes(lines: list[str]) -> list[str]:
    """The lines without announcements, and without explanations beside or under a label."""
    kept, skip = [], False
    for line in _words(lines):
        noted = labels.NOTE_LABEL.match(line)
        heading = labels.NOTE_HEADING.match(line) or (noted and not has_word(noted[1]))
        if not skip and not heading and not noted and not line.rstrip("*_ ").endswith(":"):
            kept.append(line)
        skip = bool(heading)
    return kept


LINE_FORMS = (
    LineForm("table", _table, True),
    LineForm("final answer", _final, True),
    LineForm("B'", _labelled(labels.B_LABEL), True),
    LineForm("heading", _under_heading, True),
    LineForm("list", _items, False),
    LineForm("label", _labelled(labels.PROMPT_LABEL), True),
    LineForm("sentence", _said, True),
    LineForm("line", _plain, False),
)


# --- within a line ----------------------------------------------------------------------------------------------------------


def introduced(text: str) -> str | None:
    """The quotation in a sentence about a prompt, or at the beginning of the text before an explanation."""
    for quoted in QUOTED.finditer(text):
        inside = next(group for group in quoted.groups() if group is not None)
        before, after = text[: quoted.start()], text[quoted.end() :]
        title = inside.rstrip().endswith(":") or labels.ANSWER_HEADING.match(inside) or labels.B_HEADING.match(inside)
        if title or not has_word(inside):
            continue
        speaks = labels.PREAMBLE.search(before) or labels.CHATTER.match(before) or re.search(r"\bB\s*:\s*$", before)
        if speaks or (not has_word(before) and AFTER_IT.match(after)):
            return inside
    return None


def behind_colon(text: str) -> str | None:
    """The text after the colon of a phrase about a prompt."""
    head, colon, tail = text.partition(": ")
    return tail if colon and labels.PREAMBLE.search(head) and has_word(tail) else None
