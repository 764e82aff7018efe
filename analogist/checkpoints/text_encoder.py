"""Prompts to text encodings: CLIP's tokenizer, from transformers, and CLIP's text encoder. Nothing comes from the network.

Place in the flow: before the UNet, whose cross-attention reads `text` [branch token channel].
Source: Radford et al. 2021 (CLIP); Rombach et al. 2022, Sec. 3.3; for the layer, Stability AI's SD 2 (penultimate layer of
OpenCLIP ViT-H).
"""

import functools
import gzip
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTokenizer

import analogist.weights as weights
from analogist.checkpoints.prompt_words import END, START, check_text, columns_of_word, tokens_of
from analogist.models.clip_text import CLIPText, CLIPTextConfig
from analogist.weights import Checkpoint, LoadReport, WeightsError

MERGES_FILE = Path(weights.__file__).parent / "clip_merges" / "bpe_simple_vocab_16e6.txt.gz"
MERGES = 48_894


class PromptCutWarning(UserWarning):
    """A prompt had more tokens than the text encoder takes, and its end was left out."""


def byte_symbols() -> list[str]:
    """The 256 characters that stand for bytes in CLIP's vocabulary, in its order: printable ones first, the others from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]


@functools.cache
def _published_table() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's vocabulary and merges, rebuilt from the merges table in weights/clip_merges."""
    lines = gzip.decompress(MERGES_FILE.read_bytes()).decode("utf-8").split("\n")
    merges = [(left, right) for left, right in (line.split() for line in lines[1 : 1 + MERGES])]
    symbols = byte_symbols()
    words = symbols + [symbol + "</w>" for symbol in symbols] + ["".join(pair) for pair in merges] + [START, END]
    return {word: i for i, word in enumerate(words)}, merges


def load_tokenizer(folder: Path | None) -> CLIPTokenizer:
    """The tokenizer of a folder; None: CLIP's published one, from the merges table that comes with the package.

    Raises WeightsError if the folder holds none.
    """
    if folder is None:
        vocabulary, merges = _published_table()
        return CLIPTokenizer(vocab=vocabulary, merges=merges)  # pyright: ignore[reportArgumentType] - transformers says str, takes pairs
    if not (folder / "tokenizer.json").is_file() and not ((folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()):
        raise WeightsError(f"{folder}: no tokenizer in it; expected vocab.json with merges.txt, or tokenizer.json")
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # tokenizers' Rust side raises bare Exception for files it cannot parse
        raise WeightsError(f"{folder}: its tokenizer cannot be read ({error})") from None


class TextEncoder:
    """CLIP's text encoder with its tokenizer.

    model: the network. length: tokens per prompt, start and end included (77). width: channels.
    """

    def __init__(self, model: CLIPText, tokenizer: CLIPTokenizer, pad_token_id: int, report: LoadReport | None = None) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.pad_token_id = pad_token_id
        self.report = report
        self.length: int = model.config.max_position_embeddings
        self.width: int = model.config.hidden_size
        rows = model.config.vocab_size
        if max(len(tokenizer), pad_token_id + 1) > rows:
            raise WeightsError(
                f"the tokenizer knows {len(tokenizer)} tokens, the text encoder {rows}: they do not belong together; "
                "give the checkpoint's own tokenizer (a tokenizer/ folder beside it, or a config= folder that holds one)"
            )

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Checkpoint, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> "TextEncoder":
        """The text encoder of an opened checkpoint. Raises WeightsError if tensors or tokenizer do not fit."""
        tokenizer = load_tokenizer(checkpoint.tokenizer)
        with torch.device("meta"):
            model = CLIPText(CLIPTextConfig(**checkpoint.text))
        report = checkpoint.load_text(model, dtype=dtype, device=device)
        return cls(model, tokenizer, checkpoint.pad_token_id, report)

    @property
    def models(self) -> tuple[torch.nn.Module, ...]:
        """The networks it consists of."""
        return (self.model,)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' type, which is the encodings' too."""
        return self.model.dtype

    def _pieces(self, prompt: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids and their places in the prompt, without start and end, cut to what fits."""
        if not isinstance(prompt, str):
            raise ValueError(f"a prompt is a text, not {type(prompt).__name__}")
        check_text(prompt, "prompt")
        coded = self.tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, places = coded["input_ids"], coded["offset_mapping"]
        room = self.length - 2
        if len(ids) > room:
            cut = prompt[places[room][0] :]
            shown = repr(cut if len(cut) <= 200 else f"{cut[:200]}...")
            warnings.warn(f"the prompt has {len(ids)} tokens, {room} fit; cut off: {shown}", PromptCutWarning, stacklevel=3)
        return ids[:room], places[:room]

    def ids(self, prompts: Sequence[str]) -> Tensor:
        """Token ids [prompt token] on the CPU: start, the prompt, end, padding. Warns (PromptCutWarning) if a prompt is cut."""
        prompts = _texts(prompts)
        start, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        rows = [[start, *self._pieces(prompt)[0], end] for prompt in prompts]
        return torch.tensor([row + [self.pad_token_id] * (self.length - len(row)) for row in rows], dtype=torch.long, device="cpu")

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Prompts to [prompt token channel]: the last hidden state after the final norm (SD 2: without the last layer)."""
        return self.encode_ids(self.ids(prompts))

    @torch.no_grad()
    def encode_ids(self, ids: Tensor | Sequence[Sequence[int]]) -> Tensor:
        """Token ids [prompt token] to [prompt token channel], as encode. Raises ValueError for ids outside the vocabulary."""
        ids = ids.long() if isinstance(ids, Tensor) else torch.tensor(ids, dtype=torch.long, device="cpu")
        rows = self.model.config.vocab_size
        if ids.ndim != 2 or not ids.numel() or ids.shape[1] > self.length:
            raise ValueError(f"token ids of shape {list(ids.shape)}: [prompt token] with 1 to {self.length} tokens is expected")
        if int(ids.min()) < 0 or int(ids.max()) >= rows:
            raise ValueError(f"token ids run from {int(ids.min())} to {int(ids.max())}; the vocabulary has 0 to {rows - 1}")
        return self.model(ids.to(self.device)).last

    def places(self, prompt: str) -> tuple[tuple[int, int], ...]:
        """(first, end) of each of the prompt's tokens in its text, without start and end tokens, cut to what fits."""
        return tuple(self._pieces(prompt)[1])

    def tokens(self, prompt: str) -> list[str]:
        """The prompt's tokens as they stand in it, one per column of `text`, from the start token to the end token, without padding."""
        return tokens_of(prompt, self.places(prompt))

    def positions(self, prompt: str, word: str) -> list[int]:
        """All token columns of a word (or of several in a row). Raises what `columns_of_word` raises."""
        return columns_of_word(prompt, self.places(prompt), word)


def _texts(prompts: Sequence[str]) -> list[str]:
    if isinstance(prompts, str):
        raise ValueError("a list of prompts is expected, not one text; put it in a list")
    if not len(prompts):
        raise ValueError("no prompts; a list of at least one is expected")
    return list(prompts)
