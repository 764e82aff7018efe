"""Gradients of a measure at watched activations."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from analogist.attention.edit.watch import Key


def asked(value: object) -> Tensor:
    """A measure's value, checked to be one number with a gradient. Raises ValueError where it is not."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise ValueError(f"the measure returned {type(value).__name__}: for gradients it must return a tensor with one number")
    if not value.requires_grad:
        raise ValueError(
            "the measure's value has no gradient: it must be computed from tensors of the result, such as result.latents, and the run "
            "must read what its edits ask for (Analogist's call and model.at do)"
        )
    return value.reshape(())


def gradients_of(value: Tensor, seen: Mapping[Key, Tensor]) -> dict[Key, Tensor]:
    """d value / d each tensor; zeros where it does not reach the value."""
    found = torch.autograd.grad(value, list(seen.values()), allow_unused=True)
    return {key: torch.zeros_like(tensor) if slope is None else slope for (key, tensor), slope in zip(seen.items(), found, strict=True)}


def pulled_back(made: Tensor, along: Tensor, seen: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """The gradient of <along, made> at earlier tensors; None where made does not depend on one. The graph stays for further calls."""
    if not made.requires_grad or not seen:
        return (None,) * len(seen)
    return torch.autograd.grad(made, seen, grad_outputs=along, retain_graph=True, allow_unused=True)


def products(slope: Tensor, move: Tensor) -> Tensor:
    """slope x move, entry by entry, at least in float32: a first-order effect is the sum of them."""
    wide = torch.promote_types(slope.dtype, torch.float32)
    return slope.to(wide) * move.to(wide)
