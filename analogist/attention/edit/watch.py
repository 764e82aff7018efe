"""An edit that records activations, so that the gradient of a measure can be taken at them.

Without cut= the graph runs through: the gradient at an activation is its total effect on the measure, by way of later watched activations
too. With cut= every watched activation starts a graph of its own: the gradient is then its direct effect alone, along paths that meet no
other watched activation.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from analogist.attention.edit.bind import Edit
from analogist.attention.select.run_shape import RunShape
from analogist.models.control import At
from analogist.models.placement import Site

Key = tuple[str, str, int]  # site name, point, executed step


class Watch:
    """Watches points in execution order; changes no value, unless `value` is given.

    cut: each tensor is replaced by a copy without the graph of what made it. value: gives a replacement with other numbers, such as an
    interpolation; implies cut. steps: executed steps; None: all. pixels: the result's pixels need gradients too.
    By (site, point, step), after the run: made, the tensor that arrived; seen, the tensor that went on, whose gradient can be taken;
    at, its place and time.
    """

    def __init__(
        self, *, cut: bool = False, value: Callable[[Tensor, At], Tensor] | None = None, steps: Sequence[int] | None = None,
        pixels: bool = False,
    ) -> None:  # fmt: skip
        self.cut, self.value = cut or value is not None, value
        self.gradients: bool | str = "pixels" if pixels else True
        if steps is not None:
            self.steps = steps
        self.seen: dict[Key, Tensor] = {}
        self.made: dict[Key, Tensor] = {}
        self.at: dict[Key, At] = {}
        self.run: RunShape  # once it is bound

    def bind(self, run: RunShape, places: list[tuple[Site, str]]) -> Edit:
        if torch.is_inference_mode_enabled():
            raise ValueError("gradients are asked for inside torch.inference_mode(), which can give none; use torch.no_grad() instead")
        self.run = run
        return self

    def __call__(self, tensor: Tensor, at: At) -> Tensor:
        key = (at.site.name, at.point, at.step)
        self.made[key], self.at[key] = tensor, at
        if self.cut or not tensor.requires_grad:
            tensor = (tensor if self.value is None else self.value(tensor, at)).detach().clone().requires_grad_()
        self.seen[key] = tensor
        return tensor
