"""A loss that teaches two heads of a self-attention map where the neighbouring cells are.

A UNet has no position embedding: it must work out places from the padding of its convolutions, and learns that late. Until then B' is a
blur, because no head can look at the same place of B. This loss shortens the wait. Head 0 of a token is taught to attend to the same place
of the cell beside its own (B' to B, A' to A), head 1 to the same place of the cell above or below (B' to A', B to A). It acts only at the
beginning of the solver's training, so that in the end the heads do what the task needs.
"""

from functools import lru_cache

import torch
from torch import Tensor

from analogist.models.control import At
from analogist.models.placement import Site
from analogist.models.unet import UNet

TAUGHT_HEADS = 2
_SMALLEST = 4  # tokens per side of a cell: smaller maps have hardly any places


def taught_sites(unet: UNet, side: int) -> frozenset[str]:
    """Names of the self-attention sites that are taught. side: of the latents.

    All maps with cells of at least 4 x 4 tokens, but of those at full resolution only the first on the way up. The two sites on the way
    down cannot know places: only a few convolutions from the border precede them. Those after the first learn from it.
    Raises ValueError if one of them has fewer than two heads, or if there is none.
    """
    sites = [site for site in unet.sites if site.kind == "self" and side // site.stride >= 2 * _SMALLEST]
    first_up = next((site.name for site in sites if site.stride == 1 and site.name.startswith("up.")), None)
    taught = [site for site in sites if site.stride > 1 or site.name == first_up]
    if not taught or any(site.heads < TAUGHT_HEADS for site in taught):
        raise ValueError(f"the loss on places needs self-attention with {TAUGHT_HEADS} heads and cells of {_SMALLEST} x {_SMALLEST} tokens;"
                         f" found heads {[site.heads for site in taught]} with latents of {side} x {side}; set taught to 0 in the recipe")
    return frozenset(site.name for site in taught)


@lru_cache(maxsize=16)
def same_places(side: int, device: torch.device) -> Tensor:
    """The key at the same place of the cell beside (head 0) and of the cell above or below (head 1), for each query: [2 query]."""
    token = torch.arange(side * side, device=device)
    row, column, half = token // side, token % side, side // 2
    return torch.stack([row * side + (column + half) % side, (row + half) % side * side + column])


class Places:
    """A tap that adds up the cross-entropy of the taught heads in one call of the UNet."""

    def __init__(self, sites: frozenset[str]) -> None:
        self.sites, self._losses = sites, list[Tensor]()

    def wants(self, site: Site, point: str, step: int) -> bool:
        return point == "probs" and site.name in self.sites

    def whole(self, site: Site, step: int) -> bool:
        return True

    def __call__(self, tensor: Tensor, at: At) -> Tensor:
        wanted = same_places(at.hw[0], tensor.device).expand(len(tensor), TAUGHT_HEADS, -1)[..., None]
        self._losses.append(-(tensor[:, :TAUGHT_HEADS].gather(-1, wanted).float() + 1e-6).log().mean())
        return tensor

    @property
    def loss(self) -> Tensor:
        """The mean over sites, heads and queries, in nats. 0: each taught head attends to the same place alone."""
        return torch.stack(self._losses).mean()
