"""Answers of vision-language models, form by form and language by language: what is a prompt, what is none, and what happens then."""

import functools
import json
import time
import warnings

import pytest

from analogist.prompting import (
    LocalPrompter,
    PromptError,
    PromptWarning,
    is_refusal,
    parse_answer,
    read_answer,
    request,
    stricter,
)
from tests import answers, prompters
from tests.servers.chat import Reply, chat_server, completion, error

pytestmark = pytest.mark.usefixtures("no_endpoint")


def wrong(listed, right) -> dict[str, object]:
    """Answer -> what was read from it, of those where that is not right."""
    return {answer: read for answer in listed if not right(read := read_answer(answer), answer)}


@pytest.mark.parametrize("form", answers.WRAPPED)
def test_the_prompt_is_taken_out_of_every_form(form):
    assert not wrong(answers.WRAPPED[form], lambda read, _: [prompt.lower() for prompt in read.prompts] == ["a red boat"])


@pytest.mark.parametrize("language", answers.REFUSED)
def test_a_refusal_or_a_missing_picture_is_no_prompt_in_any_language(language):
    assert not wrong(answers.REFUSED[language], lambda read, answer: read.prompts == () and is_refusal(answer))
    assert not [answer for answer in answers.REFUSED[language] if parse_answer(answer, candidates=3)]


INSTEAD = {
    "the answer is an error message": answers.ERRORS,
    "the model says that there is no prompt": answers.NONE,
    "the answer ends inside the model's thoughts; raise --max-tokens": answers.BROKEN,
}


@pytest.mark.parametrize("why", INSTEAD)
def test_errors_words_for_none_and_broken_thoughts_are_told_apart(why):
    assert not wrong(INSTEAD[why], lambda read, _: read.why == why and read.prompts == ())


def test_talk_and_emptiness_are_no_prompt():
    assert not wrong(answers.NO_PROMPT, lambda read, _: read.prompts == () and read.why)


def test_a_prompt_with_words_of_refusals_and_errors_stays_a_prompt():
    assert not wrong(answers.KEPT, lambda read, answer: read.prompts == (answer,))
    for around in ("Answer: {}", "B': {}", "<answer>{}</answer>", "1. {}", "<think>no image</think>{}"):
        prompts = {around.format(prompt): (prompt,) for prompt in answers.KEPT}
        assert not wrong(prompts, lambda read, answer, prompts=prompts: read.prompts == prompts[answer])


def test_a_prompt_within_json_stays_as_it_is():
    prompts = {json.dumps({"prompts": [prompt]}): (prompt,) for prompt in answers.KEPT}
    assert not wrong(prompts, lambda read, answer: read.prompts == prompts[answer])


def test_the_prompt_is_found_among_sentences():
    found = {answer: parse_answer(answer, words=8) for answer, _ in answers.TALKED}
    assert found == {answer: [prompt] for answer, prompt in answers.TALKED}


@pytest.mark.parametrize("piece", answers.PILES)
def test_an_answer_of_any_length_is_read_in_bounded_time(piece):
    start = time.process_time()
    read_answer(piece * 20_000, candidates=3)
    assert time.process_time() - start < 20  # about half a second; a pattern that tries every split would take hours


# --- what happens then ------------------------------------------------------------------------------------------------------

NO = "I apologize, but I cannot see any image."
asker = functools.partial(prompters.asker, model="m", retries=0)


@pytest.fixture(scope="module")
def grid():
    return prompters.small_grid()


@pytest.mark.parametrize("wording", ["published", "json"])
def test_an_answer_that_is_no_prompt_is_asked_again_once_with_the_stricter_wording(grid, wording):
    with chat_server(NO, '{"prompts": ["red boat"]}') as server:
        with pytest.warns(PromptWarning, match="m: the model says that it sees no picture.*asked again with the stricter wording"):
            prompts = asker(server, wording=wording)(grid)
        asked = [body["messages"][0]["content"][0]["text"] for _, _, body in server.requests if body]
    assert prompts.candidates == ("red boat",)
    assert asked == [request(wording), stricter()]
    assert stricter().startswith(request("json")) and "no apology" in stricter()
    assert prompts.author["wording"] == "strict" and prompts.author["answer"] == '{"prompts": ["red boat"]}'
    assert NO in prompts.author["before"]


@pytest.mark.parametrize(
    "first", [Reply(completion(None, refusal="No.")), Reply(completion("")), "N/A", '{"error": "busy"}', "<think>We see a"]
)
def test_whatever_is_no_prompt_is_asked_again(grid, first):
    with chat_server(first, "red boat") as server, pytest.warns(PromptWarning, match="asked again"):
        assert asker(server)(grid).first == "red boat"
        assert server.asked == 2


def test_two_answers_that_are_no_prompts_are_both_reported_and_none_is_kept(grid, tmp_path):
    with chat_server(NO, '{"prompts": []}', "red boat") as server:
        with pytest.raises(PromptError) as caught:
            asker(server)(grid)
        message = str(caught.value)
        assert server.asked == 2 and NO in message and '{"prompts": []}' in message and "\n" not in message
        assert "m: the model says that it sees no picture" in message and "give --prompt" in message
        assert not list(tmp_path.rglob("*.json"))
        assert asker(server)(grid).first == "red boat"


def test_a_server_that_fails_on_the_second_question_is_reported_with_the_first_answer(grid):
    with chat_server(NO, error(429, "slow down")) as server, pytest.raises(PromptError) as caught:
        asker(server)(grid)
    assert NO in str(caught.value) and "answered 429" in str(caught.value)


def test_the_stricter_questions_answer_is_kept_and_neither_question_is_asked_again(grid):
    with chat_server(NO, "red boat") as server:
        with pytest.warns(PromptWarning):
            asker(server)(grid)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            again = asker(server)(grid)
        assert server.asked == 2 and again.first == "red boat" and again.author["cached"] and again.author["wording"] == "strict"


def test_a_kept_answer_that_is_no_prompt_is_asked_for_anew(grid, tmp_path):
    with chat_server("one two", "red boat") as server:
        asker(server)(grid)
        (kept,) = (tmp_path / "cache" / "prompts").iterdir()
        said = json.loads(kept.read_text()) | {"answer": NO}  # as an earlier release may have kept it
        kept.write_text(json.dumps(said), encoding="utf-8-sig")  # saved with a byte-order mark
        assert asker(server)(grid).first == "red boat" and server.asked == 2


def test_thoughts_sent_as_parts_of_their_own_are_not_read(grid):
    parts = [{"type": "thinking", "text": "We see a blue car"}, {"type": "reasoning", "text": "hm"}, {"type": "text", "text": "red boat"}]
    with chat_server(Reply(completion(parts))) as server:
        assert asker(server)(grid).first == "red boat"


def test_half_a_character_in_an_answer_stops_neither_cache_nor_record(grid):
    with chat_server(Reply(completion("red \ud83d boat"))) as server:
        author = asker(server)(grid).author
        assert asker(server)(grid).author["cached"]
    author["answer"].encode("utf-8")


def test_a_local_models_special_tokens_are_read_before_they_are_dropped(grid, monkeypatch):
    prompter = LocalPrompter("nobody/nothing", device="cpu", cache=False)
    monkeypatch.setattr(LocalPrompter, "identity", lambda self: {"model": "m"})
    monkeypatch.setattr(LocalPrompter, "answer", lambda self, picture, question: "[THINK]We see a car[/THINK]a red boat</s>")
    assert prompter(grid).first == "a red boat"
