"""Prompts to encodings: tokens as CLIP makes them, encodings as transformers and OpenCLIP compute them, never a network."""

import functools
import gzip
import hashlib
import json
import re
import socket
import unicodedata
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from analogist.checkpoints.text_encoder import MERGES_FILE, PromptCutWarning, TextEncoder, load_tokenizer
from analogist.weights import WeightsError, open_checkpoint
from tests.checkpoints import PARITY, single_file, small, small_configs, write_folder, write_parity_single

START, END = 49406, 49407


@pytest.fixture(scope="module")
def encoder():
    return TextEncoder.from_checkpoint(open_checkpoint(PARITY / "checkpoint"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("layout", ["folder", "single"])
def test_encodings_are_those_of_the_published_run(tmp_path, layout):
    path = PARITY / "checkpoint" if layout == "folder" else write_parity_single(tmp_path / "a.safetensors")
    encoder = TextEncoder.from_checkpoint(open_checkpoint(path, config=PARITY / "checkpoint"))
    cases, run = json.loads((PARITY / "cases.json").read_text()), load_file(PARITY / "defaults_256.safetensors")
    for ids, want in ((cases["prompt_ids"], run["cond"]), (cases["negative_ids"], run["uncond"])):
        assert (encoder.encode_ids(ids) - want).abs().max() < 1e-5 * want.abs().max()


@functools.cache
def table():
    """Ranks of the merges, the character of every byte, and the vocabulary, by the book."""
    lines = gzip.decompress(MERGES_FILE.read_bytes()).decode().split("\n")[1:48_895]
    ranks = {tuple(line.split()): rank for rank, line in enumerate(lines)}
    letters = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255]
    others = [b for b in range(256) if b not in letters]
    symbol = {b: chr(b) for b in letters} | {b: chr(256 + i) for i, b in enumerate(others)}
    order = [symbol[b] for b in letters + others]
    words = [*order, *(s + "</w>" for s in order), *("".join(pair) for pair in ranks)]
    return ranks, symbol, {word: i for i, word in enumerate(words)}


def plain_bpe(prompt):
    """CLIP's tokens by the book: merge the pair that stands first in the table until none is left."""
    ranks, symbol, vocabulary = table()
    text = " ".join(unicodedata.normalize("NFC", prompt).split()).lower()
    ids = []
    for word in re.findall(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+", text):
        pieces = [symbol[b] for b in word.encode()]
        pieces[-1] += "</w>"
        while len(pieces) > 1:
            best = min(zip(pieces[:-1], pieces[1:], strict=True), key=lambda pair: ranks.get(pair, len(ranks)))
            if best not in ranks:
                break
            merged, i = [], 0
            while i < len(pieces):
                both = i + 1 < len(pieces) and (pieces[i], pieces[i + 1]) == best
                merged.append("".join(best) if both else pieces[i])
                i += 2 if both else 1
            pieces = merged
        ids += [vocabulary[piece] for piece in pieces]
    return ids


PROMPTS = [
    "a photo of a cat",
    "A caricature, best quality, extremely detailed",
    "Messy,Disordered,Chaotic,Cluttered,Haphazard,Unkempt,Scattered,Disheveled,Tangled,Random",
    "it's  the\tdog's 1024x768 café, naïve façade; 猫と犬 🐈!!",
    "cafe\u0301",
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_tokens_are_those_of_the_merges_table_applied_by_hand(encoder, prompt):
    want = plain_bpe(prompt)
    row = encoder.ids([prompt])[0].tolist()
    assert row == [START, *want, END] + [END] * (75 - len(want))


shipped = functools.cache(lambda: load_tokenizer(None))


@settings(max_examples=200)
@given(prompt=st.text(alphabet=st.sampled_from("abcdeghilmnoprstuwyz ABC',.!-'0123456789éßñ"), max_size=40))
def test_tokens_of_any_text_are_those_of_the_merges_table(prompt):
    assert shipped()(prompt, add_special_tokens=False)["input_ids"] == plain_bpe(prompt)


def test_a_known_prompt_has_its_published_ids(encoder):
    assert encoder.ids(["a photo of a cat"])[0, :8].tolist() == [START, 320, 1125, 539, 320, 2368, END, END]
    assert encoder.tokenizer.convert_tokens_to_ids("!") == 0 and len(encoder.tokenizer) == 49408


def test_the_shipped_table_is_the_published_one():
    merges = gzip.decompress(MERGES_FILE.read_bytes()).decode().split("\n")[1:48_895]
    published = "#version: 0.2\n" + "\n".join(merges) + "\n"
    # sha256 of merges.txt in the hub repositories of SD 1.5, SD 2 and SDXL alike
    assert hashlib.sha256(published.encode()).hexdigest() == "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a"
    assert "MIT" in (MERGES_FILE.parent / "README.md").read_text() and (MERGES_FILE.parent / "LICENSE").is_file()


def test_stable_diffusion_2_pads_with_id_0(tmp_path):
    save_file(published_width(single_file("sd2", small("sd2"))), tmp_path / "a.safetensors")
    config = {part: config for part, config in small_configs("sd2").items() if part != "text"}
    encoder = TextEncoder.from_checkpoint(
        open_checkpoint(tmp_path / "a.safetensors", config={**config, "text": {"num_attention_heads": 3}})
    )
    assert encoder.ids(["a cat"])[0].tolist() == [START, 320, 2368, END] + [0] * 73


def published_width(tensors):
    """A small single file whose token table has CLIP's 49,408 rows."""
    name = next(name for name in tensors if name.endswith("token_embedding.weight"))
    return {**tensors, name: 0.02 * torch.randn(49408, tensors[name].shape[1])}


def test_a_tokenizer_folder_wins_and_pads_as_transformers_does_with_it(tmp_path):
    folder = write_folder(tmp_path, "sd2")
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    words = ["!", "a", "b", "a</w>", "b</w>", "ab</w>", "<|startoftext|>", "<|endoftext|>"]
    (tokenizer / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (tokenizer / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    (tokenizer / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", "pad_token": "<|endoftext|>"}))
    (tokenizer / "special_tokens_map.json").write_text(json.dumps({"pad_token": "!"}))
    encoder = TextEncoder.from_checkpoint(open_checkpoint(folder))
    row = encoder.ids(["ab b"])[0].tolist()
    assert row[:6] == [6, 5, 4, 7, 0, 0] and len(row) == 77
    theirs = CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True)
    assert theirs(["ab b"], padding="max_length", max_length=77)["input_ids"][0] == row


def test_a_tokenizer_that_knows_more_words_than_the_encoder_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="49408 tokens, the text encoder 640"):
        TextEncoder.from_checkpoint(open_checkpoint(write_folder(tmp_path, "sd15")))


def test_an_unreadable_tokenizer_folder_is_named(tmp_path):
    folder = write_folder(tmp_path, "sd15")
    (folder / "tokenizer").mkdir()
    with pytest.raises(WeightsError, match="no tokenizer in it; expected vocab.json"):
        TextEncoder.from_checkpoint(open_checkpoint(folder))
    for name in ("vocab.json", "merges.txt"):
        (folder / "tokenizer" / name).write_text("no json")
    with pytest.raises(WeightsError, match="cannot be read"):
        TextEncoder.from_checkpoint(open_checkpoint(folder))


class OpenClipTower(nn.Module):
    """OpenCLIP's text tower as its paper draws it, with torch's own MultiheadAttention; returns the penultimate layer after ln_final."""

    def __init__(self, tensors, heads):
        super().__init__()
        self.t = {name.removeprefix("cond_stage_model.model."): t for name, t in tensors.items() if "cond_stage_model.model." in name}
        self.heads = heads
        self.blocks = 1 + max(int(name.split(".")[2]) for name in self.t if "resblocks" in name)

    def forward(self, ids):
        t = self.t
        width = t["ln_final.weight"].shape
        x = t["token_embedding.weight"][ids] + t["positional_embedding"]
        causal = torch.full((ids.shape[1], ids.shape[1]), float("-inf")).triu(1)
        for block in range(self.blocks - 1):
            b = {name.split(f"resblocks.{block}.")[1]: v for name, v in t.items() if f"resblocks.{block}." in name}
            attention = nn.MultiheadAttention(width[0], self.heads, batch_first=True)
            attention.load_state_dict({name.removeprefix("attn."): v for name, v in b.items() if name.startswith("attn.")})
            y = nn.functional.layer_norm(x, width, b["ln_1.weight"], b["ln_1.bias"])
            x = x + attention(y, y, y, need_weights=False, attn_mask=causal)[0]
            y = nn.functional.layer_norm(x, width, b["ln_2.weight"], b["ln_2.bias"])
            y = nn.functional.gelu(nn.functional.linear(y, b["mlp.c_fc.weight"], b["mlp.c_fc.bias"]))
            x = x + nn.functional.linear(y, b["mlp.c_proj.weight"], b["mlp.c_proj.bias"])
        return nn.functional.layer_norm(x, width, t["ln_final.weight"], t["ln_final.bias"])


@torch.no_grad()
def test_the_converted_openclip_tower_computes_its_penultimate_layer(tmp_path):
    tensors = published_width(single_file("sd2", small("sd2")))
    save_file(tensors, tmp_path / "a.safetensors")
    config = {part: config for part, config in small_configs("sd2").items() if part != "text"}
    encoder = TextEncoder.from_checkpoint(
        open_checkpoint(tmp_path / "a.safetensors", config={**config, "text": {"num_attention_heads": 3}})
    )
    ids = encoder.ids(["a red cat on a chair", ""])
    want = OpenClipTower(tensors, 3)(ids)
    assert (encoder.encode_ids(ids) - want).norm() < 1e-5 * want.norm()


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["text_model.", ""])
def test_a_folders_encoder_computes_what_transformers_own_loading_computes(tmp_path, prefix):
    parts = {**small("sd15"), "text": {name.replace("text_model.", prefix): t for name, t in small("sd15")["text"].items()}}
    folder = write_folder(tmp_path, "sd15", parts)
    checkpoint = open_checkpoint(folder)
    with torch.device("meta"):
        model = CLIPTextModel(CLIPTextConfig(**checkpoint.text))
    checkpoint.load_text(model)
    theirs = CLIPTextModel.from_pretrained(folder / "text_encoder", local_files_only=True).eval()
    ids = torch.randint(0, 640, (2, 77))
    assert torch.equal(model.eval()(ids).last_hidden_state, theirs(ids).last_hidden_state)
    assert torch.equal(model.embeddings.position_ids, torch.arange(77)[None])


def test_encode_has_one_row_a_prompt_and_no_gradient(encoder):
    text = encoder.encode(["a cat", "a dog", "a cat"])
    assert text.shape == (3, 77, 32) and not text.requires_grad
    assert torch.equal(text[0], text[2]) and not torch.equal(text[0], text[1])


def test_a_prompt_that_is_too_long_is_cut_with_a_warning_that_names_what_was_cut(encoder):
    with pytest.warns(PromptCutWarning, match=r"77 tokens, 75 fit; cut off: 'green dog'"):
        row = encoder.ids(["cat " * 75 + "green dog"])[0]
    assert row.tolist() == [START] + [2368] * 75 + [END]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(encoder.ids(["cat " * 75])[0], row)


def test_tokens_stand_in_the_columns_of_the_encoding(encoder):
    tokens = encoder.tokens("An analogistic Cat, café")
    assert tokens[0] == "<|startoftext|>" and tokens[-1] == "<|endoftext|>"
    assert "".join(tokens[1:-1]) == "AnanalogisticCat,café"
    ids = encoder.ids(["An analogistic Cat, café"])[0].tolist()
    assert len(tokens) == ids.index(END) + 1
    assert [encoder.tokenizer.decode([i]).strip() for i in ids[1 : len(tokens) - 1]] == [token.lower() for token in tokens[1:-1]]


def test_positions_of_a_word_are_all_its_parts_and_all_its_places(encoder):
    prompt = "An analogistic cat, a scatter, a CAT's tail and an analogistic dog"
    tokens = encoder.tokens(prompt)
    assert [tokens[i] for i in encoder.positions(prompt, "cat")] == ["cat", "CAT"]
    parts = [tokens[i] for i in encoder.positions(prompt, "analogistic")]
    assert "".join(parts) == "analogistic" * 2 and len(parts) > 2
    assert [tokens[i] for i in encoder.positions(prompt, "analogistic  dog")] == [*parts[: len(parts) // 2], "dog"]
    assert [tokens[i] for i in encoder.positions(prompt, ",")] == [",", ","]


def test_a_word_that_is_not_there_names_the_nearest(encoder):
    with pytest.raises(ValueError, match=r"'caat' does not stand in .*nearest: cat"):
        encoder.positions("a cat and a dog", "caat")
    with pytest.raises(ValueError, match="empty word"):
        encoder.positions("a cat", " ")
    with pytest.warns(PromptCutWarning), pytest.raises(ValueError, match="it was cut off with the prompt's end"):
        encoder.positions("cat " * 80 + "dog", "dog")


@pytest.mark.parametrize("prompts", ["a cat", [], [3]])
def test_what_is_no_list_of_texts_is_refused(encoder, prompts):
    with pytest.raises(ValueError, match="list of|a prompt is a text"):
        encoder.encode(prompts)


@pytest.mark.parametrize("ids", [[1, 2], [[]], [[49408]], [[-1]], [[1] * 78]])
def test_ids_outside_the_vocabulary_or_of_another_shape_are_refused(encoder, ids):
    with pytest.raises(ValueError, match="token ids"):
        encoder.encode_ids(ids)


def test_the_encoder_computes_in_the_type_it_was_loaded_in():
    encoder = TextEncoder.from_checkpoint(open_checkpoint(PARITY / "checkpoint"), dtype=torch.bfloat16)
    assert (encoder.dtype, encoder.encode(["a"]).dtype, encoder.device.type) == (torch.bfloat16, torch.bfloat16, "cpu")


def either(text: str) -> list[str]:
    return [unicodedata.normalize(form, text) for form in ("NFC", "NFD")]


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ("une forêt enneigée", "forêt"), ("Ein schönes Boot", "SCHÖNES"), ("a café, red", "café"), ("o\u0331\u0302x boat", "ô\u0331x"),
        ("빨간 배", "빨간"), ("tiếng Việt", "Việt"),
    ],
)  # fmt: skip
def test_a_word_is_found_in_whichever_way_its_accents_are_stored(encoder, prompt, word):
    for stored in either(prompt):
        tokens = encoder.tokens(stored)
        start = stored.casefold().index(next(form for form in either(word.casefold()) if form in stored.casefold()))
        length = next(len(form) for form in either(word.casefold()) if form in stored.casefold())
        # By hand: the tokenizer's own places that lie in the word's.
        places = encoder.tokenizer(stored, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        expected = [i + 1 for i, (first, last) in enumerate(places) if first < start + length and last > start]
        assert expected and len(tokens) > len(expected)
        assert [encoder.positions(stored, asked) for asked in either(word)] == [expected, expected]


@pytest.mark.parametrize(
    ("prompt", "word", "before"),
    [
        ("赤い船と海", "船", "赤い"), ("红色的船在海上", "船", "红色的"), ("หมาแดง", "แดง", "หมา"), ("あかいふね", "ふね", "あかい"),
        ("カレーとネコ", "ネコ", "カレーと"), ("猫cat犬", "cat", "猫"),
    ],
)  # fmt: skip
def test_a_word_is_found_in_scripts_without_spaces(encoder, prompt, word, before):
    places = encoder.tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    first, last = len(before), len(before) + len(word)
    assert prompt[first:last] == word
    assert encoder.positions(prompt, word) == [i + 1 for i, (start, stop) in enumerate(places) if start < last and stop > first]


@pytest.mark.parametrize(
    ("prompt", "word"),
    [("a cafés table", "café"), ("cafe\u0301 table", "cafe"), ("x\u0302y", "y"), ("scatter", "cat"), ("хлебный", "хлеб"), ("กี", "ก")],
)  # fmt: skip
def test_part_of_a_word_or_a_letter_without_its_accent_is_not_the_word(encoder, prompt, word):
    for asked in either(word):
        with pytest.raises(ValueError, match="does not stand in"):
            encoder.positions(prompt, asked)
