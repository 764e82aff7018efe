"""Computes the gradient of a batch; on a CPU, threads each work on a part of the batch.

Such small layers do not divide well: two threads inside every layer wait for each other (only 1.3 times the speed of one thread
was measured); two threads with half a batch each do not wait. Parts are summed in a fixed order, so the same number of workers
gives the same bits.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor, nn

Loss = tuple[Tensor, dict[str, float]]


def _added(tensors: Iterable[Tensor]) -> Tensor:
    """The sum, added in the given order."""
    return reduce(add, tensors)


class Workers:
    """Copies of a network at the training's precision, one per worker.

    count: number of parts of a batch; above 1, each part has its own CPU thread.
    """

    def __init__(self, network: nn.Module, count: int, precision: torch.dtype) -> None:
        self.network = network
        self.copies = [deepcopy(network).to(precision) for _ in range(count)]
        self.precision = precision
        self._pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) if count > 1 else None

    def close(self) -> None:
        """Ends the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def each(self, function: Callable, items: Iterable) -> list:
        """Applies function to every item on the threads; returns the results in order."""
        return list((self._pool.map if self._pool is not None else map)(function, items))

    def gradient(self, loss: Callable[..., Loss], batch: tuple[Tensor, ...]) -> Loss:
        """Sets the parameters' gradients to those of the batch's mean loss; returns the loss and figures for the log.

        loss(run, *part) -> (mean loss over the part, figures); run: a copy of the network. batch: leading axis grid.
        """
        rows = len(batch[0])
        parts = [part for part in zip(*(torch.tensor_split(each, len(self.copies)) for each in batch), strict=True) if len(part[0])]
        shares = [len(part[0]) / rows for part in parts]
        work = [(copy, loss, part) for copy, part in zip(self.copies, parts, strict=False)]
        if self._pool is None:
            done = [self._part(*work[0])]
        else:
            done = [future.result() for future in [self._pool.submit(self._part, *each) for each in work]]
        for index, parameter in enumerate(self.network.parameters()):
            parameter.grad = _added(gradients[index].float() * share for (_, _, gradients), share in zip(done, shares, strict=True))
        figures = {name: sum(f[name] * share for (_, f, _), share in zip(done, shares, strict=True)) for name in done[0][1]}
        return _added(value * share for (value, _, _), share in zip(done, shares, strict=True)), figures

    def _part(self, copy: nn.Module, loss: Callable[..., Loss], part: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, float], list[Tensor]]:
        """Loss, figures and gradients of one part, with the network's current weights."""
        with torch.no_grad():
            torch._foreach_copy_(list(copy.parameters()), list(self.network.parameters()))

        def run(*inputs: Any) -> Any:
            return copy(*(i.to(self.precision) if isinstance(i, Tensor) and i.is_floating_point() else i for i in inputs))

        value, figures = loss(run, *part)
        return value.detach(), figures, list(torch.autograd.grad(value, list(copy.parameters())))
