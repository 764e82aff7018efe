"""Words and tokens: split, repeated, missing and emoji words, 77 tokens, start and end, with CLIP's own tokenizer."""

import pytest
import torch

from analogist.attention.capture.capture import Capture
from analogist.attention.edit.edits import reweight_word
from analogist.attention.measure.heat import word_heat, word_heats
from analogist.attention.select.run_shape import RunShape
from analogist.attention.select.word_columns import branch_columns, columns_of
from analogist.attention.tap import StudyTap
from analogist.checkpoints.text_encoder import PromptCutWarning, TextEncoder, load_tokenizer
from analogist.models.clip_text import CLIPText, CLIPTextConfig
from tests.study_runs import sample

PROMPT = "a snowboarding zoetropical cat, a cat on a café table 🐱"
NEGATIVE = "blurry cat"


@pytest.fixture(scope="module")
def text() -> TextEncoder:
    config = CLIPTextConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    return TextEncoder(CLIPText(config), load_tokenizer(None), pad_token_id=49407)


@pytest.fixture(scope="module")
def run(text) -> RunShape:
    return RunShape(
        steps=1, times=(801,), branches=2, images=1, latent=(16, 16), size=(128, 128), tokens=77, words=text,
        prompts={"prompt": PROMPT, "negative_prompt": NEGATIVE, "prompt_suffix": ", best quality"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def maps(tiny_unet, run):
    generator = torch.Generator().manual_seed(0)
    encoded = torch.randn(2, 77, tiny_unet.config.text_width, generator=generator)
    return sample(tiny_unet, run, "up.*.cross:probs", text=encoded, cam=None)[1].maps


def spelled(text: TextEncoder, prompt: str, columns: tuple[int, ...]) -> str:
    """What the tokens at these columns say, from the ids alone."""
    ids = text.ids([prompt])[0]
    return text.tokenizer.decode([int(ids[column]) for column in columns]).replace(" ", "")


def test_a_word_split_into_several_tokens_has_all_of_them(run, text):
    whole = PROMPT + ", best quality"
    for word in ("snowboarding", "zoetropical", "café", "table", "🐱", "quality"):
        assert spelled(text, whole, columns_of(word, "text", run)) == word
    ids = text.ids([whole])[0].tolist()
    first, cat = columns_of("snowboarding", "text", run)[-1], ids.index(int(text.ids(["cat"])[0][1]))
    assert columns_of("zoetropical", "text", run) == tuple(range(first + 1, cat)) and cat - first > 2


def test_a_repeated_word_has_every_place(run, text):
    columns = columns_of("cat", "text", run)
    assert len(columns) == 2 and spelled(text, PROMPT, columns) == "catcat"
    assert len(columns_of("a", "text", run)) == 3


def test_a_word_that_is_not_there_is_an_error_with_the_nearest_words(run, tiny_unet):
    for branch, word, near in (("text", "snowboard", "snowboarding"), ("negative", "blury", "blurry")):
        with pytest.raises(ValueError, match=rf"{branch} prompt.*{word}.*{near}"):
            columns_of(word, branch, run)
    with pytest.raises(ValueError, match="up.1.attn.2.cross:probs: text prompt.*snowboarding"):
        StudyTap(Capture("9.cross:probs", words="snowboar"), None, tiny_unet, run)
    with pytest.raises(ValueError, match="edit '9.cross:probs'.*nearest"):
        StudyTap(None, {"9.cross:probs": reweight_word("dog", 2.0)}, tiny_unet, run)


def test_a_word_that_is_no_text_is_refused(run):
    with pytest.raises(ValueError, match="word True: give a word of the prompt or a column number"):
        columns_of(True, "text", run)


def test_start_end_and_padding_are_named(run, text):
    count = len(text.tokens(PROMPT + ", best quality"))
    assert columns_of("<start>", "text", run) == (0,)
    assert columns_of("<end>", "text", run) == (count - 1,)
    assert columns_of("<padding>", "text", run) == tuple(range(count, 77))
    ids = text.ids([PROMPT + ", best quality"])[0]
    assert ids[count - 1] == text.tokenizer.eos_token_id and ids[count - 2] != text.tokenizer.eos_token_id


def test_a_prompt_over_77_tokens_keeps_what_fits(text, tiny_unet):
    long = " ".join(["apple"] * 80) + " pear"
    run = RunShape(
        steps=1, times=(1,), branches=1, images=1, latent=(16, 16), size=(128, 128), words=text, prompts=(long,)
    )  # fmt: skip
    with pytest.warns(PromptCutWarning):
        assert columns_of("apple", "text", run) == tuple(range(1, 76))
    with pytest.warns(PromptCutWarning):
        assert columns_of("<end>", "text", run) == (76,)
    with pytest.warns(PromptCutWarning), pytest.raises(ValueError, match="cut off"):
        columns_of("pear", "text", run)
    with pytest.warns(PromptCutWarning), pytest.raises(ValueError, match="fills all 77 tokens"):
        columns_of("<padding>", "text", run)


def test_branches_with_other_numbers_of_tokens_cannot_share_an_axis(run):
    with pytest.raises(ValueError, match="2 in text.*capture one branch at a time|1 in negative, 2 in text"):
        branch_columns("cat", ("negative", "text"), run)
    assert branch_columns(["<start>", 3], ("negative", "text"), run) == {"negative": (0, 3), "text": (0, 3)}


def test_a_text_given_as_tensor_has_columns_but_no_words(tiny_unet):
    run = RunShape(steps=1, times=(1,), branches=2, images=1, latent=(16, 16), size=(128, 128))
    assert columns_of(5, "text", run) == (5,)
    with pytest.raises(ValueError, match="given as a tensor, so only column numbers"):
        columns_of("cat", "text", run)


def test_heat_of_a_split_word_is_the_sum_of_its_tokens(maps, run):
    columns = columns_of("zoetropical", "text", run)
    heat = word_heat(maps, "zoetropical")
    parts = [word_heat(maps, column).values for column in columns]
    assert heat.columns == columns and len(columns) > 1
    torch.testing.assert_close(heat.values, sum(parts))
    first = word_heat(maps, "cat", occurrence=0)
    assert first.columns == columns_of("cat", "text", run)[:1]


def test_heats_of_all_tokens_are_in_the_order_of_the_prompt(maps, text):
    heats = word_heats(maps)
    assert [heat.word for heat in heats] == text.tokens(PROMPT + ", best quality")
    negative = word_heats(maps, branch="negative")
    assert [heat.word for heat in negative][1:-1] == ["blurry", "cat"]
