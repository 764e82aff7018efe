"""SDXL's two text encoders behind the interface of one: CLIP ViT-L and OpenCLIP bigG, joined on the channels, and a pooled vector.

Place in the flow: as text_encoder.py, for SDXL checkpoints. Source: Podell et al. 2023 (SDXL), Sec. 2.1; the layers are those of
Stability AI's code: the output of the last layer but one of each tower, without the final norm.
"""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from analogist.checkpoints.text_encoder import PromptCutWarning, TextEncoder, load_tokenizer
from analogist.models.clip_text import CLIPText, CLIPTextConfig
from analogist.models.text import PooledText
from analogist.weights import Checkpoint


class TwoTextEncoders:
    """Both encoders. What concerns words and tokens (`tokens`, `positions`, `length`) is the first one's: both cut texts alike.

    first, second: the second one's network ends in a projection. width: channels of both together.
    """

    def __init__(self, first: TextEncoder, second: TextEncoder) -> None:
        self.first, self.second = first, second
        self.length = first.length
        self.width = first.width + second.width
        self.models = (first.model, second.model)

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Checkpoint, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> "TwoTextEncoders":
        """The text encoders of an opened SDXL checkpoint. Raises WeightsError where tensors or tokenizers do not fit."""
        first = TextEncoder.from_checkpoint(checkpoint, dtype=dtype, device=device)
        tokenizer = first.tokenizer if checkpoint.tokenizer_2 is None else load_tokenizer(checkpoint.tokenizer_2)
        assert checkpoint.text_2 is not None and checkpoint.pad_token_id_2 is not None, "an SDXL checkpoint has two text encoders"
        with torch.device("meta"):
            model = CLIPText(CLIPTextConfig(**checkpoint.text_2), projected=True)
        report = checkpoint.load_text_2(model, dtype=dtype, device=device)
        return cls(first, TextEncoder(model, tokenizer, checkpoint.pad_token_id_2, report))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.first.device

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' type, which is the encodings' too."""
        return self.first.dtype

    def places(self, prompt: str) -> tuple[tuple[int, int], ...]:
        """As TextEncoder.places."""
        return self.first.places(prompt)

    def tokens(self, prompt: str) -> list[str]:
        """As TextEncoder.tokens."""
        return self.first.tokens(prompt)

    def positions(self, prompt: str, word: str) -> list[int]:
        """As TextEncoder.positions."""
        return self.first.positions(prompt, word)

    def ids(self, prompts: Sequence[str]) -> Tensor:
        """The first encoder's token ids [prompt token]."""
        return self.first.ids(prompts)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> PooledText:
        """Prompts to a PooledText without sizes: tokens [prompt token channel], pooled [prompt channel].

        An empty prompt is encoded as any other, as diffusers does with a negative prompt that is given and empty.
        """
        ids = self.first.ids(prompts)
        with warnings.catch_warnings():  # the first encoder has warned of what was cut
            warnings.simplefilter("ignore", PromptCutWarning)
            ids_2 = self.second.ids(prompts)
        one, two = self.first.model(ids.to(self.device)), self.second.model(ids_2.to(self.device))
        assert two.pooled is not None, "the second text encoder has a projection"
        return PooledText(torch.cat([one.penultimate, two.penultimate], dim=-1), two.pooled)


def text_encoder_of(checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device | str) -> TextEncoder | TwoTextEncoders:
    """What encodes prompts for an opened checkpoint."""
    kind = TextEncoder if checkpoint.text_2 is None else TwoTextEncoders
    return kind.from_checkpoint(checkpoint, dtype=dtype, device=device)
