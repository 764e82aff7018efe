"""A judge's scores in the forms in which models wrap their answers."""

import pytest

from analogist.prompting.parse import BLIND, BROKEN, EMPTY, ERROR, REFUSES
from analogist.prompting.scores import read_scores

CRITERIA = {"accuracy": ("accuracy",), "preservation": ("preservation", "consistency")}
BOTH = {"accuracy": 7.0, "preservation": 4.0}

FORMS = {
    "bare": '{"accuracy": 7, "preservation": 4}',
    "fenced": 'Here you go:\n```json\n{"accuracy": 7,\n "consistency": 4}\n```',
    "nested, as published": '{"metrics": {"accuracy": 7, "consistency": 4}, "explanation": "the hat is red"}',
    "after reasoning": "B' has accuracy 2 of 3 parts.\n\n" + "It keeps the shape. " * 300 + '{"accuracy": 7, "preservation": 4}',
    "after thoughts": '<think>maybe {"accuracy": 1, "preservation": 1}?</think>{"accuracy": 7, "preservation": 4}',
    "harmony": '<|channel|>analysis<|message|>accuracy 2<|end|><|start|>assistant<|channel|>final<|message|>{"accuracy":7,"consistency":4}',
    "a tag": 'accuracy 1 at first <answer>{"accuracy": 7, "preservation": 4}</answer>',
    "a box": r"\boxed{accuracy: 7, preservation: 4}",
    "texts": '{"accuracy": "7/10", "preservation": "4 out of 10"}',
    "objects": '{"editing_accuracy": {"score": 7, "reason": "x"}, "consistency_score": {"reason": "y", "rating": 4}}',
    "a list": '[{"Edit Accuracy": 7}, {"Consistency": 4}]',
    "two objects, the last counts": '{"accuracy": 1, "preservation": 1} no: {"accuracy": 7, "preservation": 4}',
    "the scheme is repeated first": '{"accuracy": <1-10>, "preservation": <1-10>}\n{"accuracy": 7, "preservation": 4}',
    "single quotes": "{'accuracy': 7, 'preservation': 4}",
    "cut off": '{"accuracy": 7, "preservation": 4, "explanation": "the sk',
    "lines": "**Editing accuracy:** 7/10\n**Consistency** - 4",
    "a table": "| metric | score |\n|---|---|\n| Accuracy | 7 |\n| Consistency | 4 |",
    "sentences": "I rate it. The accuracy is 7. The preservation score is 4 out of 10.",
    "full width": "accuracy：７\npreservation：４",
    "with what is not to be seen": 'The crown is added. I cannot see the second image\'s halo.\n{"accuracy": 7, "preservation": 4}',
}  # fmt: skip


@pytest.mark.parametrize("answer", FORMS.values(), ids=FORMS)
def test_scores_are_read_from_every_form(answer) -> None:
    assert read_scores(answer, CRITERIA, low=1, high=10).values == BOTH


NONE = {
    "empty": (" \n", EMPTY),
    "a refusal": ("I'm sorry, but I can't help with rating this.", REFUSES),
    "blind": ('I cannot see any images in your message. {"accuracy": 5, "preservation": 5}', BLIND),
    "an error": ("Error: CUDA out of memory", ERROR),
    "unfinished thoughts": ("<think>the accuracy is 7, the preservation", BROKEN),
    "one is missing": ('{"accuracy": 7}', "no scores for accuracy and preservation were found in the answer"),
    "a range": ("accuracy: 7-8, preservation: 4", "no scores for accuracy and preservation were found in the answer"),
    "words": ("accuracy: good, preservation: bad", "no scores for accuracy and preservation were found in the answer"),
    "true": ('{"accuracy": true, "preservation": 4}', "no scores for accuracy and preservation were found in the answer"),
    "too high": ('{"accuracy": 11, "preservation": 4}', "the score 11 is outside 1 to 10"),
    "another scale": ("accuracy: 4/5, preservation: 3/5", "the score 4 out of 5 is not on the scale 1 to 10"),
}


@pytest.mark.parametrize("answer, why", NONE.values(), ids=NONE)
def test_an_answer_without_scores_says_why(answer, why) -> None:
    found = read_scores(answer, CRITERIA, low=1, high=10)
    assert found.values == {} and found.why == why


ODD = ["{" * 5000, '{"accuracy": ' * 2000, "accuracy " * 4000, "\x00\ud800", "[[[[[[1]]]]]]", '{"accuracy": 1e999}']


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_no_text_raises_an_error(text) -> None:
    assert read_scores(text, CRITERIA, low=1, high=10).values == {}
