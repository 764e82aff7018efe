"""Three steps of a small UNet with a tap, for the tests of analogist/attention: the latents of a step depend on the step before."""

import torch
from torch import Tensor

from analogist.attention.tap import RunShape, StudyTap
from analogist.models.control import CAM, SAC, AttentionControl
from analogist.models.placement import Placement
from analogist.models.unet import UNet

TIMES = (801, 401, 1)
TOKENS = 7


class Blanks:
    """Words are what stands between blanks, one token each: enough to test everything but tokenising."""

    def tokens(self, prompt: str) -> list[str]:
        return ["<start>", *prompt.split(), "<end>"]

    def positions(self, prompt: str, word: str) -> list[int]:
        found = [i for i, token in enumerate(self.tokens(prompt)) if token == word]
        if not found:
            raise ValueError(f"{word!r} is not in {prompt!r}")
        return found


def shape(*, images: int = 2, branches: int = 2, hw=(16, 16), rows: int = 2, steps: int = 3) -> RunShape:
    prompts = ("cat bad", "a cat a hat")[-branches:]
    return RunShape(
        steps=steps, times=TIMES[:steps], branches=branches, images=images, latent=hw, size=(8 * hw[0], 8 * hw[1]), rows=rows,
        tokens=TOKENS, words=Blanks(), prompts=prompts,
    )  # fmt: skip


def inputs(unet: UNet, run: RunShape, seed: int = 0) -> tuple[Tensor, Tensor]:
    """x [image 9 h w] and text [branch token channel]; image k is the same in every batch, whatever its size."""
    x = torch.cat([torch.randn(1, 9, *run.latent, generator=torch.Generator().manual_seed(100 * seed + k)) for k in range(run.images)])
    text = torch.randn(2, run.tokens, unet.config.text_width, generator=torch.Generator().manual_seed(seed + 1))
    return x, text[-run.branches :]


def sample(
    unet: UNet, run: RunShape, capture=None, edit=None, *, sac="default", cam="default", attention="auto", map_bytes=2**27,
    x: Tensor | None = None, text: Tensor | None = None, stop: int | None = None, tap: StudyTap | None = None,
) -> tuple[Tensor, StudyTap | None]:  # fmt: skip
    """The last prediction, and the tap. sac, cam: act on all sites by default; None: off. stop: steps after which it breaks off."""
    own_x, own_text = inputs(unet, run)
    x, text = own_x if x is None else x, own_text if text is None else text
    if tap is None and (capture is not None or edit is not None):
        tap = StudyTap(capture, edit, unet, run)
    x = torch.cat([x] * run.branches)
    for i, t in enumerate(run.times[:stop]):
        control = AttentionControl(
            step=i, t=t, branches=run.branches, images=run.images, sac=SAC(Placement("*")) if sac == "default" else sac,
            cam=CAM(Placement("*")) if cam == "default" else cam, tap=tap, rows=run.rows, attention=attention, map_bytes=map_bytes,
        )  # fmt: skip
        with torch.no_grad():
            eps = unet(x, t, text.repeat_interleave(run.images, dim=0), control)
        x = torch.cat([x[:, :4] - 0.3 * eps, x[:, 4:]], dim=1)
    return eps, tap
