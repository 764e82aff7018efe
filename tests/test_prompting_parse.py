"""Whatever a language model answers, what is read from it is a short prompt or nothing."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analogist.prompting import is_refusal, parse_answer
from analogist.prompting.parse import MAX_WORD

ONE = [
    ("a red boat", "a red boat"),
    ("A red boat.", "A red boat"),
    ('"A red boat"', "A red boat"),
    ("“A red boat”", "A red boat"),
    ("**A red boat**", "A red boat"),
    ("1. A red boat", "A red boat"),
    ("- A red boat\n", "A red boat"),
    ("B': A red boat", "A red boat"),
    ("**B'**: A red boat.", "A red boat"),
    ("B’ - a red boat", "a red boat"),
    ("Text prompt for B': 'a red boat'", "a red boat"),
    ("B':\n\na red boat", "a red boat"),
    ("The answer is: B' = a red boat", "a red boat"),
    ("Sure! Here is the text prompt:\n\nA red boat", "A red boat"),
    ('The most likely prompt for B\' would be "A red boat".', "A red boat"),
    ("A is a grey photo.\nA' is a colour photo.\nB is a grey boat.\nB': a red boat", "a red boat"),
    ("```\na red boat\n```", "a red boat"),
    ('```json\n{"prompts": ["a red boat"]}\n```', "a red boat"),
    ('Here you are: {"prompt": "a red boat"} Enjoy!', "a red boat"),
    ('{"B\'": "a red boat"}', "a red boat"),
    ('["a red boat", "another"]', "a red boat"),
    ('{"prompts": [{"text": "a red boat"}]}', "a red boat"),
    ("<think>The arrows ... so 1. boat</think>\na red boat", "a red boat"),
    ("the boat turns red</think>a red boat", "a red boat"),
    ("<|im_start|>a red boat<|im_end|>", "a red boat"),
    ("a red boat\n\nThis follows the analogy since A' is red.", "a red boat"),
    ("a\u200b red\u00a0boat\ufeff", "a red boat"),
    ("2. 3D render of boats", "3D render of boats"),
    ("3D render of boats", "3D render of boats"),
    ("Van Gogh's red boat", "Van Gogh's red boat"),
    ("photo of boat - sunset", "photo of boat - sunset"),
    ("赤い船", "赤い船"),
    ("a red boat on a quiet lake at dawn", "a red boat on a"),
]


@pytest.mark.parametrize(("answer", "prompt"), ONE)
def test_a_prompt_is_read_out_of_whatever_is_around_it(answer, prompt):
    assert parse_answer(answer) == [prompt]


THREE = [
    "red boat, blue ship, old raft",
    "prompt1: red boat, prompt2: blue ship, prompt3: old raft",
    "1. red boat\n2. blue ship\n3. old raft",
    "1) red boat, 2) blue ship, 3) old raft",
    "* Red boat\n* Blue ship\n* Old raft\n",
    'Prompt 1: "Red boat"\nPrompt 2: "Blue ship"\nPrompt 3: "Old raft"',
    '{"prompts": ["red boat", "blue ship", "old raft", "red boat"]}',
    "Here are three:\n\n1. **Red boat**\n2. **Blue ship**\n3. **Old raft**\n\nLet me know!",
    "red boat; blue ship; old raft; a fourth one",
]


@pytest.mark.parametrize("answer", THREE)
def test_several_candidates_keep_their_order(answer):
    assert [prompt.lower() for prompt in parse_answer(answer, candidates=3)] == ["red boat", "blue ship", "old raft"]


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "I’m unable to view images.",
        "Sorry, no.",
        "As an AI language model, I ...",
        "I cannot see the picture",
    ],
)
def test_a_refusal_is_no_prompt(answer):
    assert is_refusal(answer)
    assert parse_answer(answer, candidates=3) == []


@pytest.mark.parametrize(
    "answer",
    [
        "",
        " \n\t",
        "...",
        '""',
        "``` ```",
        "<think>never closed, a red boat",
        "[]",
        '{"prompts": []}',
        "\ud800\x00",
        "--- *** ---",
    ],
)
def test_an_answer_without_words_is_no_prompt(answer):
    assert parse_answer(answer, candidates=3) == []


def test_the_number_of_words_is_the_one_asked_for_or_all():
    text = " ".join(string.ascii_lowercase)
    assert parse_answer(text, words=7) == ["a b c d e f g"]
    assert parse_answer(text, words=None) == [text]


# What language models wrap prompts in, in any order and nesting, between texts of any characters.
WRAPS = st.sampled_from(
    ["", "1. ", "B': ", "**", '"', "“", "```json\n", "```", "{", '{"prompts": [', "]}", "[", "\\", "Prompt 2: ", "\n", "\n\n",
     ", ", "- ", ": ",
     "<think>", "</think>", "<|", "|>", "'", "\u202e", "\ud83d", "\x00", "B'", "B’ =", "Sure! Here is the prompt:", "#", "I'm"]
)  # fmt: skip
UGLY = st.lists(st.one_of(WRAPS, st.text(max_size=12), st.text(alphabet="ab \n\"'`:,.1{}[]<>B", max_size=40)), max_size=14).map(
    "".join
)


@settings(max_examples=500)
@given(UGLY, st.integers(1, 10), st.one_of(st.none(), st.integers(1, 60)))
def test_no_ugly_answer_crashes_or_gives_an_empty_or_overlong_prompt(answer, candidates, words):
    prompts = parse_answer(answer, candidates=candidates, words=words)
    limit = 60 if words is None else words
    assert len(prompts) <= candidates
    assert len({prompt.casefold() for prompt in prompts}) == len(prompts)
    for prompt in prompts:
        assert prompt == prompt.strip() and any(character.isalnum() for character in prompt)
        assert len(prompt.split()) <= limit
        assert all(len(word) <= MAX_WORD for word in prompt.split())
        assert prompt.isprintable() or any(character in prompt for character in "\u200c\u200d")
        prompt.encode("utf-8")


@pytest.mark.parametrize(
    "answer", ["[" * 100_000, '{"a":' * 50_000, '"' * 100_000, "1. " * 60_000, "B': " * 60_000, "<think>" * 30_000]
)
def test_very_long_and_deep_answers_are_read_quickly(answer):
    assert len(parse_answer(answer + " a red boat", candidates=3)) <= 3
