"""Reads a judge's scores from a language model's answer, or says why there are none; the forms of answers are those of prompts.

JSON in any wrapping is read first, then lines such as "**Accuracy:** 7/10". A number outside the scale is no score.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from analogist.prompting.forms import json_values
from analogist.prompting.parse import BLIND, BROKEN, EMPTY, ERROR, MAX_ANSWER, REFUSES, said_in
from analogist.prompting.refusals import declines, sees_nothing, sentences

Criteria = Mapping[str, Sequence[str]]  # criterion -> the words that models use for it

_NUMBER = r"(\d+(?:[.,]\d+)?)"
_OUT_OF = r"(?:\s*(?:/|out of|of)\s*(\d+)\b)?"
_VALUE = re.compile(rf"\W*{_NUMBER}{_OUT_OF}\W*", re.I)
_INSIDE = ("score", "rating", "value", "points", "grade")  # {"accuracy": {"score": 7, "reason": ...}}


@dataclass(frozen=True)
class Scores:
    """What was read. values: criterion -> number; all criteria or none. why: the reason if there are none, else None."""

    values: dict[str, float]
    why: str | None


class _Outside(ValueError):
    """A number that is no score on this scale. The message says which."""


def read_scores(answer: str, criteria: Criteria, *, low: float, high: float) -> Scores:
    """One score from low to high for each criterion; the last one where an answer gives several. No text raises an error."""
    said = said_in(answer, longest=MAX_ANSWER)  # judges are asked to reason first
    if said.why == ERROR or (said.why == BLIND and any(map(sees_nothing, sentences(said.whole)[:1]))):
        return Scores({}, said.why)  # later sentences may say that something is not to be seen in B'
    outside = ""
    for text in dict.fromkeys((said.narrowed, said.whole)):
        for form in (_from_json, _from_lines):
            try:
                found = form(text, criteria, low, high)
            except _Outside as error:
                outside = outside or str(error)
                continue
            if len(found) == len(criteria):
                return Scores({name: found[name] for name in criteria}, None)
    if outside:
        return Scores({}, outside)
    why = REFUSES if declines(said.whole) else said.why or (BROKEN if said.broken else EMPTY if not answer.strip() else None)
    return Scores({}, why or f"no scores for {' and '.join(criteria)} were found in the answer")


def _from_json(text: str, criteria: Criteria, low: float, high: float) -> dict[str, float]:
    found: dict[str, float] = {}
    for value in json_values(text):
        for key, inner in _pairs(value):
            name = _criterion(key, criteria)
            number = None if name is None else _number(inner, low, high)
            if name is not None and number is not None:
                found[name] = number
    return found


def _pairs(value: object, depth: int = 0) -> Iterator[tuple[str, object]]:
    """All keys with their values, also of nested objects."""
    if depth > 4:
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key), inner
            yield from _pairs(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value[:20]:
            yield from _pairs(inner, depth + 1)


def _criterion(key: str, criteria: Criteria) -> str | None:
    """The criterion that a key names: edit_accuracy, Accuracy score and accuracy are one."""
    bare = re.sub(r"[\W_]+", " ", key).strip().casefold()
    bare = re.sub(r" (?:score|rating|grade|points)$", "", bare)
    return next((name for name, words in criteria.items() if any(bare == word or bare.endswith(f" {word}") for word in words)), None)


def _number(value: object, low: float, high: float) -> float | None:
    """A score; None where the value is none. Raises _Outside for a number that is not on the scale."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return _on_scale(float(value), None, low, high)
    if isinstance(value, str):
        match = _VALUE.fullmatch(value)
        return None if match is None else _on_scale(_float(match[1]), match[2], low, high)
    if isinstance(value, dict):
        named = {str(key).casefold(): inner for key, inner in value.items()}
        return next((_number(named[key], low, high) for key in _INSIDE if key in named), None)
    return None


def _float(text: str) -> float:
    return float(text.replace(",", "."))


def _on_scale(number: float, out_of: str | None, low: float, high: float) -> float:
    if out_of is not None and float(out_of) != high:
        raise _Outside(f"the score {number:g} out of {out_of} is not on the scale {low:g} to {high:g}")
    if not low <= number <= high:
        raise _Outside(f"the score {number:g} is outside {low:g} to {high:g}")
    return number


def _from_lines(text: str, criteria: Criteria, low: float, high: float) -> dict[str, float]:
    found = {}
    for name, words in criteria.items():
        label = "|".join(re.escape(word) for word in words)
        pattern = (
            rf"\b(?:{label})\b(?:\s+(?:score|rating))?[^\w\n]{{0,12}}?(?:(?:is|of|as|at)\s[^\w\n]{{0,4}})?[^\w\n]{{0,8}}"
            rf"{_NUMBER}(?![\d]|\s*[-–]\s*\d){_OUT_OF}"
        )
        match = next(reversed(list(re.finditer(pattern, text, re.I))), None)
        if match is not None:
            found[name] = _on_scale(_float(match[1]), match[2], low, high)
    return found
