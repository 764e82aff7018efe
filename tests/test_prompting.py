"""Prompts that are given, listed in files, kept, or asked for at a chat endpoint on the loopback."""

import base64
import json
import logging
import re
import traceback
import unicodedata
import warnings

import pytest

from analogist import prompting
from analogist.prompting import (
    AutoPrompter,
    FilePrompter,
    NoPrompter,
    OpenAIPrompter,
    PromptError,
    PromptWarning,
    TextPrompter,
    read_prompt_file,
    request,
)  # fmt: skip
from tests.prompters import asker, small_grid
from tests.servers.chat import Reply, chat_server, completion, error

pytestmark = pytest.mark.usefixtures("no_endpoint")
KEY = "sk-planted-7f3a"
BASIC = base64.b64encode(b"user:pass-word").decode()


@pytest.fixture(scope="module")
def grid():
    return small_grid()


# --- given and listed -------------------------------------------------------------------------------------------------------


def test_a_given_text_is_its_own_prompt():
    assert TextPrompter(" a red boat ")().candidates == ("a red boat",)
    assert NoPrompter()().candidates == ("",)
    with pytest.raises(PromptError, match="empty"):
        TextPrompter("  ")()


def test_a_file_has_one_prompt_a_line(tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes("\ufeffa red boat\r\n\r\n  ein Boot, blau \n".encode())
    assert read_prompt_file(path) == {None: ("a red boat", "ein Boot, blau")}
    assert FilePrompter(path)().candidates == ("a red boat", "ein Boot, blau")


def test_the_published_form_lists_several_prompts_by_name(tmp_path):
    path = tmp_path / "deblur_gpt4_out.txt"
    path.write_text("000.png\ta red boat\ta ship\n001.png\ta cat\n")
    assert read_prompt_file(path) == {"000.png": ("a red boat", "a ship"), "001.png": ("a cat",)}
    assert FilePrompter(path)(None, "000.png").candidates == ("a red boat", "a ship")
    assert FilePrompter(path)(None, "001.jpg").author == {"prompter": "file", "file": path.name, "line": "001.png"}
    with pytest.raises(PromptError, match=r"no line for 002\.png; it lists 000\.png, 001\.png"):
        FilePrompter(path)(None, "002.png")
    with pytest.raises(PromptError, match="by name"):
        FilePrompter(path)()


NAMES = ["Fläche.png", "été 01.png", "Ångström.png", "ñandú.png", "빨간배.png", "が.png", "ô̱.png"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("listed_as", "asked_as"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_is_found_in_whichever_way_its_accents_are_stored(tmp_path, name, listed_as, asked_as):
    listed, asked = unicodedata.normalize(listed_as, name), unicodedata.normalize(asked_as, name)
    assert listed != asked
    path = tmp_path / "p.txt"
    path.write_text(f"{listed}\ta red boat\nother.png\ta cat\n", encoding="utf-8")
    prompts = FilePrompter(path)(None, asked)
    assert prompts.first == "a red boat" and prompts.author["line"] == listed
    assert FilePrompter(path)(None, asked.replace(".png", ".jpg")).first == "a red boat"
    path.write_text(f"{listed}\ta red boat\n{asked}\ta cat\n", encoding="utf-8")
    with pytest.raises(PromptError, match="line 2 lists .* a second time"):
        read_prompt_file(path)


@pytest.mark.parametrize("text", ["a caf\udce9 boat", "a \ud83d boat", "\udc80", "boat \udfff", "\ud800" * 3])
def test_a_given_text_that_is_no_valid_unicode_is_one_clear_line(text):
    with pytest.raises(PromptError, match=r"the prompt given is not valid Unicode text at character \d") as caught:
        TextPrompter(text)()
    assert str(caught.value).isascii() and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no prompt"), (b"\n \n", "holds no prompt"), (b"\xff\xfe\x00", "not UTF-8"), (b"a.png\tboat\nno tab\n", "line 2"),
        (b"a.png\t \t\nb.png\tx\n", "line 1"), (b"a.png\tboat\na.png\tship\n", "line 2 lists a.png a second time"),
    ],
)  # fmt: skip
def test_a_malformed_prompt_file_is_one_clear_line(tmp_path, content, message):
    path = tmp_path / "p.txt"
    path.write_bytes(content)
    with pytest.raises(PromptError, match=message) as caught:
        read_prompt_file(path)
    assert "p.txt" in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_prompt_file_is_named(tmp_path):
    with pytest.raises(PromptError, match="nowhere.txt"):
        read_prompt_file(tmp_path / "nowhere.txt")


# --- the question -----------------------------------------------------------------------------------------------------------


def test_the_published_question_is_the_authors_own():
    said = request("published")
    assert said.startswith("Please help me with the image analogy task: take an image A and its transformation A'")
    assert said.endswith("You should give me the most possible text prompt of image B' with no more than 5 words.")
    assert request("published", candidates=3).endswith(
        "You should give me three most possible text prompts of image B', each prompt should contain no more than 5 words. "
        "Please separate the prompts with comma and format your answer as follows: prompt1, prompt2, prompt3"
    )


def test_the_json_question_shows_the_very_object_it_asks_for():
    shown = re.search(r"\{.*\}", request("json", candidates=2))[0]
    assert json.loads(shown) == {"prompts": ["...", "..."]}
    assert "2 rows" in request("json", pairs=2)


@pytest.mark.parametrize(
    "settings", [{"wording": "rude"}, {"candidates": 0}, {"candidates": 11}, {"words": 0}, {"words": 61}, {"candidates": True}]
)
def test_a_question_out_of_range_is_refused(settings):
    with pytest.raises(PromptError, match=next(iter(settings))):
        request(**{"wording": "published"} | settings)


# --- an endpoint ------------------------------------------------------------------------------------------------------------


def test_an_endpoint_is_shown_the_marked_grid_and_asked_in_the_published_words(grid):
    with chat_server("A red boat, floating on blue water") as server:
        prompts = asker(server)(grid)
        assert prompts.candidates == ("A red boat, floating on",)
        assert server.question() == request("published")
        assert server.picture().tobytes() == grid.with_size(512).marked().tobytes()
        assert server.requests[-1][2]["model"] == "seeing"


def test_the_author_is_recorded_with_model_wording_and_time(grid):
    with chat_server('{"prompts": ["red boat", "blue boat"]}') as server:
        prompts = asker(server, wording="json", candidates=2)(grid)
    author = prompts.author
    assert prompts.candidates == ("red boat", "blue boat")
    assert (author["prompter"], author["model"], author["wording"], author["cached"]) == ("openai", "seeing", "json", False)
    assert author["time"].endswith("+00:00") and author["endpoint"] == server.url
    json.dumps(author)


def test_a_second_question_is_answered_from_the_cache(grid):
    with chat_server("red boat") as server:
        first = asker(server, model="m")(grid)
        second = asker(server, model="m")(grid)
        assert server.asked == 1
        assert second.candidates == first.candidates and second.author["cached"] and second.author["time"] == first.author["time"]
        for other in (
            {"model": "n"},
            {"model": "m", "wording": "json"},
            {"model": "m", "candidates": 2},
            {"model": "m", "cache": False},
        ):
            asker(server, **other)(grid)
        assert server.asked == 5
        asker(server, model="m")(small_grid("black"))
        assert server.asked == 6


def test_a_kept_answer_may_be_cut_anew_but_an_unreadable_one_is_asked_again(grid, tmp_path):
    with chat_server("one two three") as server:
        asker(server, model="m")(grid)
        (kept,) = (tmp_path / "cache" / "prompts").iterdir()
        kept.write_text("{")
        with pytest.warns(PromptWarning, match="asking the model again"):
            asker(server, model="m")(grid)
        assert server.asked == 2
        assert json.loads(kept.read_text())["answer"] == "one two three"


def test_a_cache_that_cannot_be_written_loses_no_answer(grid, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with chat_server("red boat") as server, pytest.warns(PromptWarning, match="ANALOGIST_CACHE"):
        assert asker(server, cache=tmp_path / "file")(grid).first == "red boat"


def test_an_answer_of_no_use_is_not_kept(grid, tmp_path):
    no = "I'm sorry, I can't help with that."
    with chat_server(no, no, "red boat") as server:
        with pytest.raises(PromptError, match="m: the model declined to answer.*asked again with the stricter wording: the same"):
            asker(server, model="m")(grid)
        assert asker(server, model="m")(grid).first == "red boat"


@pytest.mark.parametrize("replies", [[error(429, "slow down"), "red boat"], [error(500, "oops"), error(503, "oops"), "red boat"]])
def test_busy_and_failing_servers_are_asked_again(grid, replies):
    with chat_server(*replies) as server:
        assert asker(server, model="m")(grid).first == "red boat"
        assert server.asked == len(replies)


@pytest.mark.parametrize(
    ("reply", "asked", "message"),
    [
        (error(401, "Incorrect API key provided"), 1, "answered 401: Incorrect API key provided; check OPENAI_API_KEY"),
        (error(404, "no such model"), 1, "answered 404: no such model; check --base-url"),
        (error(400, "images not supported"), 1, "answered 400: images not supported"),
        (error(429, "quota"), 3, "answered 429, tried 3 times: quota"),
        (error(500, "oops"), 3, "answered 500, tried 3 times: oops"),
        (Reply(b"<!DOCTYPE html><h1>Hi</h1>", 404, "text/html"), 1, "answered 404: a web page"),
        (Reply(b"", 500, headers={"retry-after-ms": "1"}), 3, "answered 500, tried 3 times"),
        (Reply(b"<html>login</html>", 200, "text/html"), 1, "OpenAI-compatible"),
        (Reply(b"{not json", 200), 1, "not JSON"),
        (Reply(b"", 200), 1, "not JSON"),
        (Reply([1, 2]), 1, "OpenAI-compatible"),
        (Reply({"choices": None}), 1, "did not send a chat completion"),
        (Reply({"choices": []}), 1, "without a choice"),
        (Reply({"choices": [{"message": None}]}), 1, "without a choice"),
        (Reply(completion("")), 2, "empty answer"),
        (Reply(completion(None)), 2, "empty answer"),
        (Reply(completion("", finish_reason="length")), 2, "used up its tokens"),
        (Reply(completion(None, refusal="I will not.")), 2, "declined to answer: 'I will not.'"),
        (Reply(completion("I'm sorry, but I can't assist with that.")), 2, "m: the model declined to answer"),
        (Reply(completion("...")), 2, "no prompt was found in the answer"),
    ],
)  # fmt: skip
def test_everything_else_is_one_clear_line(grid, reply, asked, message):
    with chat_server(reply) as server:
        with pytest.raises(PromptError, match=re.escape(message)) as caught:
            asker(server, model="m")(grid)
        assert server.asked == asked
    assert "\n" not in str(caught.value)


def test_half_a_body_is_a_broken_connection(grid, monkeypatch):
    with chat_server(Reply(completion("red boat"), cut=40)) as server:
        with pytest.raises(PromptError, match="closed the connection, tried once"):
            asker(server, model="m", retries=0)(grid)


def test_half_a_body_is_asked_for_again(grid):
    with chat_server(Reply(completion("red boat"), cut=40), "red boat") as server:
        assert asker(server, model="m", retries=1)(grid).first == "red boat"


def test_a_slow_server_is_waited_for_as_long_as_said(grid):
    with chat_server(Reply(completion("red boat"), wait=0.3)) as server:
        assert asker(server, model="m", timeout=60)(grid).first == "red boat"
        with pytest.raises(PromptError, match=r"did not answer within 0\.1 s, tried once"):
            asker(server, model="n", timeout=0.1, retries=0)(grid)


def test_nobody_listening_is_one_clear_line(grid):
    with chat_server("x") as server:
        url = server.url
    with pytest.raises(PromptError, match="cannot be reached"):
        OpenAIPrompter("m", base_url=url, retries=0)(grid)


def test_the_other_name_of_the_token_limit_is_used_where_a_server_asks_for_it(grid):
    refusal = error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
    with chat_server(refusal, "red boat") as server:
        assert asker(server, model="m")(grid).first == "red boat"
        assert server.requests[-1][2]["max_completion_tokens"] == 300 and "max_tokens" not in server.requests[-1][2]


def test_the_only_model_served_is_taken_and_several_are_listed(grid):
    with chat_server("red boat") as server:
        assert asker(server)(grid).author["model"] == "seeing"
    with chat_server("red boat", models=["one", "two"]) as server, pytest.raises(PromptError, match="it serves one, two"):
        asker(server)(grid)


def test_an_answer_in_parts_is_read(grid):
    with chat_server(Reply(completion([{"type": "text", "text": "red"}, {"type": "text", "text": "boat"}]))) as server:
        assert asker(server, model="m")(grid).first == "red boat"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "OPENAI_API_KEY"),
        ({"base_url": "localhost:8000"}, "http://"),
        ({"api_key": "k", "retries": -1}, "retries"),
        ({"api_key": "k", "timeout": 0}, "timeout"),
        ({"api_key": "k\u00e9y"}, "API key holds invalid characters"),
        ({"api_key": "k\ny"}, "API key holds invalid characters"),
        ({"base_url": "http://"}, "and a host"),
        ({"base_url": "http://[::1"}, "base URL"),
        ({"base_url": "http://localhost:99999/v1"}, "base URL"),
        ({"base_url": "http://localhost:port/v1"}, "base URL"),
        ({"base_url": "http://" + "a" * 70 + "/v1"}, "base URL"),
        ({"base_url": "http://local host/v1"}, "base URL"),
        ({"base_url": "http://caf\udce9/v1"}, "base URL is not valid Unicode"),
        ({"model": "m\udce9", "api_key": "k"}, "the model's name is not valid Unicode"),
    ],
)
def test_unusable_settings_are_refused_before_anything_is_sent(settings, message):
    with pytest.raises(PromptError, match=message):
        OpenAIPrompter(**{"model": "m"} | settings)


def test_without_the_client_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(PromptError, match=r"analogist\[prompting\]"):
        OpenAIPrompter("m", api_key="k")


def test_the_environment_says_where_what_and_with_which_key(grid, monkeypatch):
    with chat_server("red boat") as server:
        for name, value in (("OPENAI_BASE_URL", server.url), ("OPENAI_MODEL", "m"), ("OPENAI_API_KEY", KEY)):
            monkeypatch.setenv(name, value)
        assert OpenAIPrompter()(grid).author["model"] == "m"
        assert server.requests[-1][1]["authorization"] == f"Bearer {KEY}"


# --- the key ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        "red boat", f"your key is {KEY}", error(401, f"Incorrect API key provided: {KEY}"), error(500, KEY), Reply(b"{" + KEY.encode()),
        Reply(completion("", refusal=KEY)),
    ],
)  # fmt: skip
def test_a_key_is_found_nowhere(grid, monkeypatch, caplog, capfd, tmp_path, reply):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    said = ""
    with chat_server(reply) as server:
        for url, sent in ((server.url, f"Bearer {KEY}"), (server.url.replace("//", "//user:pass-word@"), f"Basic {BASIC}")):
            prompter = OpenAIPrompter("m", base_url=url, retries=1, wording="json" if "@" in url else "published")
            try:
                said += json.dumps(prompter(grid).author)
            except PromptError as caught:
                said += "".join(traceback.format_exception(caught)) + repr(caught.__dict__) + repr(caught.__context__)
            said += repr(prompter) + repr(prompter.identity())
            assert server.requests[-1][1]["authorization"] == sent
    said += caplog.text + "".join(capfd.readouterr())
    said += "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert not any(secret in said for secret in (KEY, "pass-word", BASIC))


# --- auto -------------------------------------------------------------------------------------------------------------------


def test_auto_asks_where_an_endpoint_is_set_up(grid, monkeypatch):
    with chat_server("red boat") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert AutoPrompter(OpenAIPrompter)(grid).first == "red boat"


def test_auto_says_so_and_goes_on_without(grid, monkeypatch):
    with pytest.warns(PromptWarning, match="no endpoint is set up.*picture prompt alone"):
        prompts = AutoPrompter(OpenAIPrompter)(grid)
    assert prompts.candidates == ("",) and "OPENAI_BASE_URL" in prompts.author["because"]
    with chat_server(error(401, "no")) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        with pytest.warns(PromptWarning, match="401"):
            assert AutoPrompter(OpenAIPrompter)(grid).candidates == ("",)


def test_the_public_names_are_there():
    assert all(hasattr(prompting, name) for name in prompting.__all__)
