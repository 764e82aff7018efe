"""Faster or smaller computation on a CPU with the same results: convolutions as one matrix product, tokens in slices, softmax in place.

Each is exact up to the order in which numbers are added. The networks work without this file; on a CPU they would be slower.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLICE_BYTES = 12 * 2**20  # of a hidden layer: small enough that the allocator reuses the memory instead of mapping it anew

MANY_TOKENS = 512  # from here on, copying queries, keys and values costs less than reading them with strides


def is_small(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether a 3x3 convolution is cheaper as a matrix product: on a CPU, if the picture is small compared with the weights.

    At every call the CPU's own convolution reorders its weights, which at the lowest resolutions costs as much as the convolution
    itself; the columns of a matrix product (9 cin positions) are then the smaller copy than the weights (9 cin cout).
    """
    (batch, _, row, col), stride = x.shape, conv.stride[0]
    return x.is_cpu and batch * (row // stride) * (col // stride) <= conv.out_channels


def convolution_as_product(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A 3x3 convolution as a matrix product of its columns (im2col). x: batch cin row col -> batch cout row col."""
    assert conv.bias is not None, "every 3x3 convolution here has one"
    stride, padding = conv.stride[0], int(conv.padding[0])
    padded = F.pad(x, (padding,) * 4) if padding else x
    batch, cin, height, width = padded.shape
    row, col = (height - 3) // stride + 1, (width - 3) // stride + 1
    of_batch, of_cin, of_row, of_col = padded.stride()
    windows = padded.as_strided((cin, 3, 3, batch, row, col), (of_cin, of_row, of_col, of_batch, stride * of_row, stride * of_col))
    columns = windows.reshape(9 * cin, batch * row * col)  # (cin ky kx) (batch row col)
    out = torch.addmm(conv.bias.unsqueeze(1), conv.weight.flatten(1), columns)  # cout (batch row col)
    return out.view(-1, batch, row, col).transpose(0, 1)


def in_slices(of_tokens: Callable[[Tensor], Tensor], x: Tensor, token_bytes: int, slice_bytes: int = SLICE_BYTES) -> Tensor:
    """Applies a function of single tokens; on a CPU, in slices of tokens.

    x: batch token channel -> batch token channel, as many channels as the function gives. token_bytes: of one token's hidden layer.
    """
    if x.device.type != "cpu" or x.shape[0] * x.shape[1] * token_bytes <= slice_bytes:
        return of_tokens(x)
    parts = torch.split(x.flatten(0, 1), max(1, slice_bytes // token_bytes))
    return torch.unflatten(torch.cat([of_tokens(part) for part in parts]), 0, x.shape[:2])


def softmax_in_place(logits: Tensor) -> Tensor:
    """Softmax over the last axis in the memory of the logits, which are overwritten: memory holds one map less, the bits are the same."""
    return torch.softmax(logits, -1, out=logits)


def silu_in_place(x: Tensor) -> Tensor:
    """SiLU, computed in its argument's memory unless a gradient needs the old values."""
    return F.silu(x, inplace=not x.requires_grad)


def side_by_side(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Each tensor made contiguous, on a CPU with many tokens: every query reads all keys, which is worth
    one copy. tensors: batch head token d.
    """
    if tensors[0].device.type != "cpu" or tensors[0].shape[2] < MANY_TOKENS:
        return tensors
    return tuple(tensor.contiguous() for tensor in tensors)
