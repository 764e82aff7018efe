"""A UNet whose weights are written by hand, so that the truth about its heads is known: some heads copy, all others look and do nothing.

Every copying head looks from each place at the same place of one cell (A' or B) and writes what it reads into a channel of its own.
All other heads look exactly as it does, but their output projections are zero: by their maps nobody could tell them apart.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from analogist.attention.tap import RunShape
from analogist.models.unet import UNet, UNetConfig
from tests.causal_runs import SmallRun, small_run
from tests.study_runs import shape

# as many norm groups as channels: no channel hears another by way of a norm over the picture
CONFIG = UNetConfig(channels=(16, 16), layers_per_block=1, depth=(1, 1), mid_depth=1, heads=(2, 2), text_width=12, norm_groups=16)
CONTENT, IN_A_PRIME, IN_B, ROW, COLUMN, EMPTY, FIRST, SECOND, ONE = 0, 1, 2, (3, 4), (5, 6), 7, 8, 9, 15  # channels of the features
SHARPNESS = 12.0


@dataclass(frozen=True)
class Copy:
    """A head that copies: at a site, from a cell ("A'" or "B"), what one channel holds, into another."""

    site: str
    head: int
    cell: str
    read: int
    write: int


ALONE = (Copy("up.1.attn.0.self", 1, "A'", CONTENT, FIRST),)
IN_SERIES = (Copy("down.0.attn.0.self", 0, "A'", CONTENT, FIRST), Copy("up.1.attn.0.self", 1, "B", FIRST, SECOND))


def planted_unet(copies: tuple[Copy, ...] = ALONE) -> UNet:
    """The network; what the last of the copies wrote is its output's channel 0."""
    unet = UNet(CONFIG).double().eval().requires_grad_(False)
    for name, parameter in unet.named_parameters():
        parameter.fill_(1.0 if ".norm" in name and name.endswith("weight") else 0.0)
    unet.norm_out.weight.fill_(1.0)
    unet.norm_out.bias.fill_(6.0)  # where the SiLU that follows is nearly the identity
    for channel in range(9):
        unet.conv_in.weight[channel if channel < 7 else channel + 3, channel, 1, 1] = 1.0
    eye = torch.eye(16, dtype=torch.double)
    for name, module in unet.named_modules():
        if name.endswith("conv_shortcut"):  # the way up: the full resolution comes by the skip of the way down alone
            module.weight[:, 16 if name.startswith("up.1.resnets.0") else 0 :][:, :16, 0, 0] = eye
    written = [copy.write for copy in copies]
    for transformer in (m for m in unet.modules() if type(m).__name__ == "Transformer"):
        transformer.norm.bias[ONE] = 1.0
        transformer.norm.weight[[CONTENT, *written]] = 0.2  # small, so that places stay what keys are told apart by
        transformer.proj_in.weight.copy_(eye)
        for channel in written:
            transformer.proj_out.weight[channel, channel] = 1.0
        plant(transformer.blocks[0].self, copies)
    unet.conv_out.weight[0, written[-1], 1, 1] = 1.0
    return unet


def plant(attention, copies: tuple[Copy, ...]) -> None:
    """Queries ask for their own place in a cell; keys say their place and cell; values read a channel; a copy's output writes one."""
    for head in range(2):
        mine = next((copy for copy in copies if (copy.site, copy.head) == (attention.site.name, head)), None)
        rows = slice(8 * head, 8 * head + 8)
        for i, channel in enumerate((*ROW, *COLUMN)):
            attention.to_q.weight[rows][i, channel] = SHARPNESS
            attention.to_k.weight[rows][i, channel] = 1.0
        attention.to_q.weight[rows][4, ONE] = SHARPNESS
        attention.to_k.weight[rows][4, IN_B if mine is not None and mine.cell == "B" else IN_A_PRIME] = 1.0
        attention.to_v.weight[rows][0, CONTENT if mine is None else mine.read] = 1.0
        attention.to_v.weight[rows][0, EMPTY] = -1.0  # takes back the mean over channels that the layer norm takes away
        if mine is not None:
            attention.to_out.weight[mine.write, 8 * head] = 1.0


def features(content: Tensor, hw: tuple[int, int]) -> Tensor:
    """The network's input [image 9 h w]. content: image h/2 w/2, what A' shows; every cell else is empty."""
    h, w = hw
    x = torch.zeros(len(content), 9, h, w, dtype=torch.double)
    x[:, CONTENT, : h // 2, w // 2 :] = content
    x[:, IN_A_PRIME, : h // 2, w // 2 :] = 1.0
    x[:, IN_B, h // 2 :, : w // 2] = 1.0
    rows, columns = (2 * torch.pi * torch.arange(side) / (side // 2) for side in (h, w))
    for (cosine, sine), angles in ((ROW, rows[:, None].expand(h, w)), (COLUMN, columns[None].expand(h, w))):
        x[:, cosine], x[:, sine] = angles.cos(), angles.sin()
    return x


def content_of(seed: int, images: int, hw: tuple[int, int]) -> Tensor:
    """What A' shows: random, with mean zero, so that looking at all of it brings nothing."""
    values = torch.randn(images, hw[0] // 2, hw[1] // 2, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    return 0.5 * (values - values.mean(dim=(1, 2), keepdim=True))


def planted_run(unet: UNet, seed: int, *, hw: tuple[int, int] = (8, 8), images: int = 1, steps: int = 1) -> SmallRun:
    """A run whose A' shows the content of a seed; all else is the same in every run."""
    form: RunShape = shape(hw=hw, steps=steps, images=images)
    run = small_run(unet, form)
    return replace(run, x=features(content_of(seed, images, hw), hw))


def likeness(target: SmallRun):
    """A measure: minus the squared distance to what a run shows in B'."""
    wanted = target().latents[:, 0, -target.shape.latent[0] // 2 :, target.shape.latent[1] // 2 :]

    def measure(result) -> Tensor:
        here = result.latents[:, 0, -target.shape.latent[0] // 2 :, target.shape.latent[1] // 2 :]
        return 0.0 - ((here - wanted) ** 2).mean()

    return measure
