"""Runs for the tests of causal measures: a small UNet called straight through a tap, on inputs made from a seed."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from analogist.attention.capture.maps import Maps
from analogist.attention.edit.asks import asks_of
from analogist.attention.tap import RunShape, StudyTap
from analogist.models.control import CAM, SAC, AttentionControl
from analogist.models.unet import UNet, UNetConfig
from tests.study_runs import inputs

# Seven transformer blocks on two levels: every kind of path between heads, in little time
MINI = UNetConfig(channels=(8, 16), layers_per_block=1, depth=(1, 1), mid_depth=1, heads=(2, 2), text_width=12, norm_groups=4)


@dataclass(frozen=True)
class Outcome:
    """latents: image 4 h w."""

    latents: Tensor
    maps: Maps = field(default_factory=lambda: Maps({}))


@dataclass(frozen=True, eq=False)
class SmallRun:
    """A run of a few steps; the next step starts from what the last one gave. calls: UNet calls so far."""

    unet: UNet
    shape: RunShape
    x: Tensor  # image 9 h w
    text: Tensor  # branch token channel
    sac: SAC | None = None
    cam: CAM | None = None
    map_bytes: int = 2**27
    attention: str = "auto"
    seeds: float = 0.0  # how far another seed moves the inputs
    calls: list[int] = field(default_factory=list)

    def __call__(self, capture=None, edit=None, seed: int = 0) -> Outcome:
        asks = asks_of(edit)
        run = replace(self.shape, images=self.shape.images * asks.copies, copies=asks.copies, room=5)
        tap = StudyTap(capture, edit, self.unet, run) if capture is not None or edit is not None else None
        x = self.x + self.seeds * torch.randn(self.x.shape, generator=torch.Generator().manual_seed(seed)) if seed else self.x
        x = x.to(self.unet.conv_in.weight.dtype).repeat(asks.copies, 1, 1, 1)
        for i, t in enumerate(run.times):
            control = AttentionControl(
                step=i, t=t, branches=run.branches, images=run.images, sac=self.sac, cam=self.cam, tap=tap, rows=run.rows,
                map_bytes=self.map_bytes, attention=self.attention,
            )  # fmt: skip
            with torch.set_grad_enabled(asks.gradients):
                eps = self.unet(torch.cat([x] * run.branches), t, self.text.to(x.dtype).repeat_interleave(run.images, dim=0), control)
                negative, text = eps.chunk(2) if run.branches == 2 else (eps, eps)
                x = torch.cat([x[:, :4] - 0.3 * (negative + 2.0 * (text - negative)), x[:, 4:]], dim=1)
            self.calls.append(i)
        return Outcome(x[:, :4], Maps({}) if tap is None else tap.maps)


def small_run(unet: UNet, shape: RunShape, seed: int = 0, **settings: object) -> SmallRun:
    """A run on the inputs of a seed, in the type of the network."""
    shape = replace(shape, dtype=unet.conv_in.weight.dtype)
    x, text = inputs(unet, shape, seed)
    return SmallRun(unet, shape, x, text, **settings)
