"""AdamW, and Muon for the matrices inside a network. Its state is plain tensors by parameter name, so it is easy to save.

Source: Loshchilov & Hutter 2019 (AdamW); Jordan et al. 2024 (Muon: momentum, made orthogonal by Newton-Schulz iterations),
with the scaling of Liu et al. 2025 (0.2 sqrt(longer side)), under which both take the same learning rate.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

KINDS = ("adamw", "muon")
_BETAS, _EPS, _MOMENTUM = (0.9, 0.99), 1e-8, 0.95
_STACK = 4  # matrices of one shape per call: enough to spread the overhead, few enough to divide among threads
_EDGES = ("embedding", "conv_in", "conv_out")  # input and output layers: they do not map hidden features to hidden features


def orthogonal(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Approximately the nearest semi-orthogonal matrices. matrices: n rows columns. Computed in bfloat16.

    Source: Jordan et al. 2024, quintic Newton-Schulz with their coefficients (singular values end between 0.7 and 1.2).
    """
    x = matrices.to(torch.bfloat16)
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x if wide else x.mT).to(matrices.dtype)


class Optimiser:
    """An optimiser of named parameters. kind: one of KINDS."""

    def __init__(self, parameters: dict[str, nn.Parameter], kind: str, weight_decay: float) -> None:
        if kind not in KINDS:
            raise ValueError(f"optimiser {kind!r}: allowed are {', '.join(KINDS)}")
        self.parameters, self.weight_decay = parameters, weight_decay
        hidden = [n for n, p in parameters.items() if p.ndim > 1 and not any(edge in n for edge in _EDGES)]
        self.rotated = hidden if kind == "muon" else []
        self.plain = [n for n in parameters if n not in set(self.rotated)]
        self.first = {n: torch.zeros_like(p) for n, p in parameters.items()}
        self.second = {n: torch.zeros_like(parameters[n]) for n in self.plain}
        shapes: dict[tuple[int, ...], list[str]] = {}
        for name in self.rotated:
            shapes.setdefault(tuple(parameters[name].flatten(1).shape), []).append(name)
        stacks = [names[i : i + _STACK] for names in shapes.values() for i in range(0, len(names), _STACK)]
        self.stacks = sorted(stacks, key=lambda names: -sum(parameters[n].numel() for n in names))  # the largest first

    def restore(self, first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
        """Loads saved state onto the parameters' device."""
        for mine, saved in ((self.first, first), (self.second, second)):
            for name in mine:
                mine[name].copy_(saved[name])

    @torch.no_grad()
    def step(self, rate: float, number: int, each: Callable[[Callable, Iterable], Iterable] = map) -> None:
        """One step with the parameters' gradients. rate: learning rate; number: this step's number, from 1.

        each: `map`, or a replacement that divides its items among threads; the result is the same.
        """
        decayed: list[Tensor] = [p for p in self.parameters.values() if p.ndim > 1]
        torch._foreach_mul_(decayed, 1 - rate * self.weight_decay)
        self._adam(rate, number)
        for _ in each(lambda names: self._muon(names, rate), self.stacks):
            pass

    def _gradient(self, name: str) -> Tensor:
        gradient = self.parameters[name].grad
        assert gradient is not None, f"{name} has no gradient"
        return gradient

    def _adam(self, rate: float, number: int) -> None:
        parameters: list[Tensor] = [self.parameters[n] for n in self.plain]
        gradients = [self._gradient(n) for n in self.plain]
        first, second = [self.first[n] for n in self.plain], [self.second[n] for n in self.plain]
        torch._foreach_lerp_(first, gradients, 1 - _BETAS[0])
        torch._foreach_mul_(second, _BETAS[1])
        torch._foreach_addcmul_(second, gradients, gradients, 1 - _BETAS[1])
        spread = torch._foreach_sqrt(second)
        torch._foreach_div_(spread, (1 - _BETAS[1] ** number) ** 0.5)
        torch._foreach_add_(spread, _EPS)
        torch._foreach_addcdiv_(parameters, first, spread, -rate / (1 - _BETAS[0] ** number))

    @torch.no_grad()  # threads do not inherit this from their caller
    def _muon(self, names: list[str], rate: float) -> None:
        gradients = torch.stack([self._gradient(n).flatten(1) for n in names])
        momentum = torch.stack([self.first[n].flatten(1) for n in names])
        momentum.lerp_(gradients, 1 - _MOMENTUM)
        update = orthogonal(torch.lerp(gradients, momentum, _MOMENTUM))  # Nesterov
        scale = 0.2 * max(update.shape[-2:]) ** 0.5
        for name, moved, change in zip(names, momentum, update, strict=True):
            self.first[name].copy_(moved.view_as(self.first[name]))
            self.parameters[name].sub_(change.view_as(self.parameters[name]), alpha=rate * scale)
