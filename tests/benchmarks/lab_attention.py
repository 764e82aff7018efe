"""Do the lab checkpoint's self-attention maps show correspondences at all? One UNet call per training time, without SAC and CAM.

    python -m tests.benchmarks.lab_attention --out out/attention.json

For every self-attention layer, on held-out grids (true B', noised to time t, true prompt):
- entropy: mean entropy of the rows over its maximum; 1 is a uniform map, on which SAC does nothing;
- object: of the attention that tokens on B's object pay to cell A, the share on A's object (objects differ in shape and place);
- template: the same share if every token of B attended to the token at its own place in A, computed without any model;
- area: the share of A that its object covers, which a uniform map would reach.
"""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from analogist import Analogist
from analogist.lab.grids import Batch, evaluation_batch
from analogist.lab.scene import MASK, render
from analogist.lab.split import EVALUATION_SEED
from analogist.models.cells import self_cells
from analogist.models.control import At, AttentionControl
from analogist.models.ddim import add_noise
from analogist.models.placement import Site

SEED = EVALUATION_SEED + 4_000_000
A, B = (0, 0), (1, 0)


def objects(batch: Batch, tokens: int) -> Tensor:
    """bool [grid cell token token]: the first object of every cell, at the maps' resolution; for a tiny object, its largest token."""
    scenes = batch.cells.scenes.map(lambda f: f.flatten(0, 1))
    on = torch.zeros_like(scenes.on)
    on[:, 0] = True
    shown = render(replace(scenes, on=on, mode=torch.full_like(scenes.mode, MASK)), 64)[:, :1]
    share = F.adaptive_avg_pool2d(shown, tokens).flatten(1)
    covered = (share > 0.5) | (share == share.amax(1, keepdim=True))
    return covered.view(len(batch.captions), 4, tokens, tokens)


class Look:
    """A tap that reduces each self-attention map to its figures and keeps no map."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.rows: dict[int, list[dict[str, float]]] = {}

    def wants(self, site: Site, point: str, step: int) -> bool:
        return site.kind == "self" and point == "probs"

    def whole(self, site: Site, step: int) -> bool:
        return True

    def __call__(self, tensor: Tensor, at: At) -> Tensor:
        count, tokens = tensor.shape[-1], at.hw[0] // 2
        entropy = -(tensor * tensor.clamp(min=1e-12).log()).sum(-1).mean() / math.log(count)
        mask = objects(self.batch, tokens)
        a, b = mask[:, 0].float(), mask[:, 2].float()
        paid = self_cells(tensor, at.hw, 2)[B + A].mean(1)  # image query_row query_column key_row key_column
        on_object = (paid * a[:, None, None]).sum((-2, -1)) / paid.sum((-2, -1))
        weight = b / b.sum((1, 2), keepdim=True)
        self.rows.setdefault(at.site.layer, []).append({
            "tokens_a_cell": tokens, "entropy": entropy.item(),
            "object": (on_object * weight).sum((1, 2)).mean().item(),
            "template": (a * weight).sum((1, 2)).mean().item(),
            "area": a.mean().item(),
        })  # fmt: skip
        return tensor


@torch.no_grad()
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.lab_attention", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--grids", type=int, default=64)
    parser.add_argument("--times", type=int, nargs="*", default=[801, 501, 201])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    model = Analogist.from_checkpoint(args.checkpoint)
    names = ("recolour", "background", "cartoon", "sepia", "denoise", "texture", "enhance", "deblur")
    batch = evaluation_batch([names[i % len(names)] for i in range(args.grids)], size=model.size, seed=SEED)
    scale, images = model.vae.config.scaling_factor, len(batch.captions)
    z0, z_masked = (model.vae.posterior(p).mean * scale for p in (batch.pixels, batch.pixels * (batch.mask < 0.5)))
    noise = torch.randn(z0.shape, generator=torch.Generator().manual_seed(SEED))
    text = model.text.encode(batch.captions)
    result: dict[str, dict] = {}
    for t in args.times:
        x = torch.cat([add_noise(z0, noise, model.alpha_bars[t]), F.interpolate(batch.mask, size=z0.shape[-2:]), z_masked], dim=1)
        look = Look(batch)
        model.unet(x, t, text, AttentionControl(t=t, branches=1, images=images, tap=look))
        result[str(t)] = {str(layer): {k: round(v, 4) for k, v in rows[0].items()} for layer, rows in sorted(look.rows.items())}
        for layer, row in result[str(t)].items():
            print(t, layer, row, flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"grids": images, "times": result}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
