"""The lab's tokenizer and text encoder: as in CLIP, but small, for the vocabulary of the drawn pictures.

Every word of the vocabulary is one token; any other string is split into smaller pieces, down to bytes, as in CLIP.
"""

import random
from collections.abc import Callable
from functools import cache

from tokenizers import Tokenizer, models
from torch import nn
from transformers import CLIPTokenizer

from analogist.checkpoints.text_encoder import END, START, byte_symbols
from analogist.models.clip_text import CLIPText, CLIPTextConfig, Table

from .recipe import TextConfig
from .vocabulary import WORDS


@cache
def vocabulary_and_merges() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """BPE tables in which each of WORDS is one token.

    Words are added one after the other: each is split by the merges so far, and the pieces are then merged from the left. Later merges
    rank lower. Once all merges exist, a few words are split differently; they are merged again from their new pieces.
    """
    symbols = byte_symbols()
    tokens = [START, END, *symbols, *(s + "</w>" for s in symbols)]
    vocab = {token: i for i, token in enumerate(tokens)}
    merges: list[tuple[str, str]] = []
    waiting = list(WORDS)
    while waiting:
        for word in waiting:
            left, *rest = _splitter(vocab, merges)(word)
            for right in rest:
                merges.append((left, right))
                left += right
                vocab.setdefault(left, len(vocab))
        pieces = _splitter(vocab, merges)
        waiting = [word for word in WORDS if len(pieces(word)) > 1]
    return vocab, merges


def _splitter(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Callable[[str], list[str]]:
    """The pieces into which these tables split a word."""
    bpe = models.BPE(vocab=vocab, merges=merges, end_of_word_suffix="</w>", continuing_subword_prefix="", unk_token=END)
    model = Tokenizer(bpe).model
    return lambda word: [token.value for token in model.tokenize(word)]


def tokenizer(positions: int = 77) -> CLIPTokenizer:
    """The tokenizer; it pads with the end token, as SD 1.5 does."""
    vocab, merges = vocabulary_and_merges()
    return CLIPTokenizer(vocab=vocab, unk_token=END, bos_token=START, eos_token=END, pad_token=END, model_max_length=positions,
                         merges=merges)  # pyright: ignore[reportArgumentType] - transformers says str, takes pairs


def unknown_captions(count: int, seed: int) -> list[str]:
    """Captions of one or two words that are not in the vocabulary: the beginning of one of its words before the end of another."""
    letters, known, draw = [word for word in WORDS if word.isalpha() and len(word) > 3], frozenset(WORDS), random.Random(seed)

    def word() -> str:
        while True:
            first, second = draw.sample(letters, 2)
            made = first[: draw.randint(2, len(first) - 1)] + second[draw.randint(1, len(second) - 2) :]
            if made not in known:
                return made

    return [" ".join(word() for _ in range(draw.randint(1, 2))) for _ in range(count)]


def text_encoder(config: TextConfig) -> CLIPText:
    """The text encoder with random weights."""
    vocab, _ = vocabulary_and_merges()
    model = CLIPText(
        CLIPTextConfig(
            vocab_size=len(vocab),
            hidden_size=config.width,
            intermediate_size=4 * config.width,
            projection_dim=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.positions,
            bos_token_id=vocab[START],
            eos_token_id=vocab[END],
            pad_token_id=vocab[END],
        )
    )
    initialise(model)
    return model


def initialise(model: CLIPText) -> None:
    """Random weights of the sizes that CLIP's training starts from; biases are 0, norms 1.

    Source: OpenAI's code for Radford et al. 2021, with 0.02 for positions too, as transformers has it.
    """
    width, layers = model.config.hidden_size, model.config.num_hidden_layers
    into_stream = width**-0.5 * (2 * layers) ** -0.5  # the stream sums two outputs of every layer
    spreads = {"token_embedding": 0.02, "position_embedding": 0.02, "q_proj": width**-0.5, "k_proj": width**-0.5, "v_proj": width**-0.5,
               "out_proj": into_stream, "fc1": (2 * width) ** -0.5, "fc2": into_stream}
    for name, module in model.named_modules():
        if isinstance(module, Table | nn.Linear):
            nn.init.normal_(module.weight, std=spreads[name.rpartition(".")[2]])
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
