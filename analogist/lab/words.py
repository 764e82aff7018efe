"""The lab's tokenizer and text encoder: as in CLIP, but small, for the vocabulary of the drawn pictures.

Every word of the vocabulary is one token; any other string is split into smaller pieces, down to bytes, as in CLIP.
"""

from collections.abc import Callable
from functools import cache

from tokenizers import Tokenizer, models
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from analogist.checkpoints.text_encoder import END, START, byte_symbols

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


def text_encoder(config: TextConfig) -> CLIPTextModel:
    """The text encoder with random weights."""
    vocab, _ = vocabulary_and_merges()
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocab),
            hidden_size=config.width,
            intermediate_size=4 * config.width,
            projection_dim=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.positions,
            hidden_act="quick_gelu",
            bos_token_id=vocab[START],
            eos_token_id=vocab[END],
            pad_token_id=vocab[END],
        )
    )
