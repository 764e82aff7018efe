"""The text input of the UNet: encoded text only (SD 1, SD 2), or with a pooled vector and the picture's sizes (SDXL).

Place in the flow: from the text encoders to `UNet.prepare_text`. Source: Podell et al. 2023 (SDXL), Sec. 2.1 and 2.2.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

SIZES = 6  # original height and width, top and left of the crop, target height and width


@dataclass(frozen=True)
class PooledText:
    """Encoded text with what SDXL adds to the time embedding. Indexed, moved and repeated by rows of the batch, as a tensor is.

    tokens: batch token channel. pooled: batch channel. sizes: batch 6 — original height and width, top and left of the crop,
    target height and width, in pixels; None until `of_size`.
    """

    tokens: Tensor
    pooled: Tensor
    sizes: Tensor | None = None

    def of_size(self, height: int, width: int) -> "PooledText":
        """For a whole picture of this size in pixels: original and target are the same, nothing is cropped."""
        row = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32, device=self.pooled.device)
        return replace(self, sizes=row.expand(len(self.pooled), SIZES))

    @property
    def shape(self) -> torch.Size:
        """The shape of the tokens."""
        return self.tokens.shape

    @property
    def ndim(self) -> int:
        return self.tokens.ndim

    @property
    def dtype(self) -> torch.dtype:
        return self.tokens.dtype

    @property
    def device(self) -> torch.device:
        return self.tokens.device

    def _each(self, change: Callable[[Tensor], Tensor]) -> "PooledText":
        return PooledText(change(self.tokens), change(self.pooled), None if self.sizes is None else change(self.sizes))

    def __getitem__(self, rows: slice | list[int]) -> "PooledText":
        return self._each(lambda tensor: tensor[rows])

    def repeat_interleave(self, repeats: int, dim: int = 0) -> "PooledText":
        """Repeats each row of the batch."""
        return self._each(lambda tensor: tensor.repeat_interleave(repeats, dim=dim))

    def to(self, device: torch.device, dtype: torch.dtype) -> "PooledText":
        """The text on another device and in another type; sizes stay float32, in which every pixel count is exact."""
        sizes = None if self.sizes is None else self.sizes.to(device)
        return PooledText(self.tokens.to(device, dtype), self.pooled.to(device, dtype), sizes)


EncodedText = Tensor | PooledText


@dataclass(frozen=True)
class PreparedText:
    """Encoded text with the keys and values of every cross-attention, which are the same in every step.

    text: batch token channel. keys_values: site name -> (k, v), each batch head token d. added: batch time_width — what is added
    to the time embedding (SDXL), None: nothing.
    """

    text: Tensor
    keys_values: dict[str, tuple[Tensor, Tensor]]
    added: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        return self.text.dtype
