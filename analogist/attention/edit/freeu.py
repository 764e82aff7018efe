"""FreeU as two edits of the blocks on the way up: it amplifies the hidden state and damps the skip's low frequencies.

Source: Si et al. 2023, "FreeU: Free Lunch in Diffusion U-Net", Eq. (3) and (4).
"""

from typing import Unpack

import torch
from torch import Tensor

from analogist.attention.edit.ready_edit import Chosen, ReadyEdit, number
from analogist.models.control import At


def freeu(b1: float = 1.5, b2: float = 1.6, s1: float = 0.9, s2: float = 0.2, **where: Unpack[Chosen]) -> dict[str, ReadyEdit]:
    """Edits for the two lowest levels on the way up; merge them with others: edit={**freeu(), ...}.

    b1, b2: factors of the first half of the hidden state's channels at up.0 and up.1. s1, s2: factors of the lowest
    frequencies of the skips there. The defaults are the authors' for Stable Diffusion 1.5.
    """
    edits = {}
    for level, b, s in ((0, b1, s1), (1, b2, s2)):
        edits[f"up.{level}.res.*.block:x"] = _amplify(number(b, f"freeu b{level + 1}"), where)
        edits[f"up.{level}.res.*.block:skip"] = _damp(number(s, f"freeu s{level + 1}"), where)
    return edits


def _amplify(factor: float, where: Chosen) -> ReadyEdit:
    def change(part: Tensor, at: At) -> Tensor:
        half = part.shape[1] // 2
        part[:, :half] *= factor
        return part

    return ReadyEdit(f"freeu backbone {factor}", ("x",), change, kind="block", **where)


def _damp(factor: float, where: Chosen) -> ReadyEdit:
    return ReadyEdit(
        f"freeu skip {factor}", ("skip",), lambda part, at: damp_low_frequencies(part, factor), kind="block", **where
    )


def damp_low_frequencies(x: Tensor, factor: float, radius: int = 1) -> Tensor:
    """Multiplies the frequencies nearest to zero. x: batch channel row col. radius: half side of the square that is damped."""
    spectrum = torch.fft.fftshift(torch.fft.fftn(x.float(), dim=(-2, -1)), dim=(-2, -1))
    row, col = x.shape[-2] // 2, x.shape[-1] // 2
    spectrum[..., max(row - radius, 0) : row + radius, max(col - radius, 0) : col + radius] *= factor
    return torch.fft.ifftn(torch.fft.ifftshift(spectrum, dim=(-2, -1)), dim=(-2, -1)).real.to(x.dtype)
