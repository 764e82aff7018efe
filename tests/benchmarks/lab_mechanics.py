"""What do SAC, CAM and heads do in a lab checkpoint? Measured on drawings by people that it was not trained on.

    python -m tests.benchmarks.lab_mechanics --checkpoint lab-generic --out out/generic
    python -m tests.benchmarks.lab_mechanics --checkpoint lab --sac 13 14 15 --out out/lab

1. SAC: error of B' with and without it, with the drawings' names as prompts and without a prompt.
2. CAM: the same, with prompts; "equivalent" if the interval lies within 5 % of the error without it.
3. Correspondence: A and B hold the same two drawings, X and Y, in different corners. Of the attention that B's tokens on X pay to X or Y
   in A, the share on X. The position template is the same share for the mean map over all grids, which depends on places alone.
4. Heads: the five whose loss (error in x0 in B' at t = 801 and 501) rises most when they are cut, chosen on one half of the drawings;
   on the other half, what the error of B' rises by without them, and without five random others (mean of 20 draws).

Errors are mean squared errors of B' without its border, pictures in [0, 1]; intervals are 95 % bootstrap over analogies. Settings are
chosen by `lab_settings` on other analogies. Writes mechanics.json.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from analogist import CAM, SAC, Analogist, AnalogistConfig, Placement
from analogist.attention.edit import edits
from analogist.examples import by_people
from analogist.lab.draw import Draw
from analogist.lab.drawings import OPEN_DRAWINGS, load_drawings
from analogist.lab.grids import compose, picture_side
from analogist.lab.measure import answers, cell, interval, squared_error
from analogist.lab.sketches import place
from analogist.models.cells import self_cells
from analogist.models.control import At, AttentionControl
from analogist.models.placement import Site

from . import lab_arguments
from .lab_drawings import tensor

CHOOSING, MEASURING = 501, 502  # seeds of the analogies
A, B = (0, 0), (1, 0)


@dataclass
class Grids:
    """Analogies as grids. pixels: grid 3 size size in [-1, 1]; prompts: the names of what B' shows."""

    pixels: Tensor
    prompts: list[str]

    @property
    def truth(self) -> Tensor:
        return cell(self.pixels, 3)


def people(size: int, count: int, seed: int) -> Grids:
    """`count` analogies of each kind of change."""
    found = [one for kind in by_people.KINDS for one in by_people.analogies(kind, count=count, side=picture_side(size), seed=seed)]
    pictures = torch.stack([tensor([one.a, one.a_prime, one.b, one.b_prime]) for one in found])
    return Grids(compose(pictures, size) * 2 - 1, [one.prompt for one in found])


def errors(model: Analogist, grids: Grids, config: AnalogistConfig, prompted: bool, edit: dict | None = None) -> Tensor:
    """Squared error of B' [grid]. Without prompts both branches are equal, so one is run."""
    prompts = grids.prompts if prompted else [""] * len(grids.prompts)
    used = config if prompted else config.replace(guidance=1.0)
    done = answers(model, grids.pixels, prompts, used, seeds=range(len(prompts)), edit=edit)
    return squared_error(cell(done, 3), grids.truth)


def compared(on: Tensor, off: Tensor) -> dict[str, float]:
    """Means, and the paired difference on - off with its interval."""
    mean, low, high = interval(on - off)
    return {"on": float(on.mean()), "off": float(off.mean()), "difference": mean, "low": low, "high": high,
            "part": mean / float(off.mean())}  # fmt: skip


def sac_and_cam(model: Analogist, grids: Grids, sac: SAC, cam: CAM) -> dict[str, dict]:
    """Effects of both, each alone."""
    plain = model.config.replace(sac=None, cam=None)
    off = {prompted: errors(model, grids, plain, prompted) for prompted in (True, False)}
    found = {
        f"SAC, {'with' if prompted else 'without'} prompt": compared(errors(model, grids, plain.replace(sac=sac), prompted), off[prompted])
        for prompted in (True, False)
    }
    heard = compared(errors(model, grids, plain.replace(cam=cam), True), off[True])
    margin = 0.05 * heard["off"]
    clear = "better" if heard["high"] < 0 else "worse" if heard["low"] > 0 else None
    within = "equivalent within 5 %" if -margin < heard["low"] and heard["high"] < margin else None
    return {**found, "CAM, with prompt": {**heard, "verdict": " and ".join(w for w in (clear, within) if w) or "undecided"}}


def two_drawings(size: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Grids [grid 3 size size] whose A and B hold the same two drawings in different corners (A' = A, B' = B), and where they are:
    cover [grid cell drawing side side], cell 0: A, 1: B.
    """
    drawings, draw, side = load_drawings(OPEN_DRAWINGS), Draw(torch.Generator().manual_seed(seed)), picture_side(size)
    concept = torch.stack([torch.randperm(len(drawings), generator=draw.generator)[:2] for _ in range(count)])
    # X and Y each take one corner in A and another one in B.
    corner = torch.stack([torch.randperm(4, generator=draw.generator) for _ in range(count)])
    at = torch.stack([corner[:, :2], corner[:, 2:]], 1)  # grid cell drawing
    centre = torch.stack([(at % 2) * 2.0 - 1, (at // 2) * 2.0 - 1], -1) * 0.5
    scale = 1 / 0.5
    pose = torch.zeros(count, 2, 2, 2, 3)
    pose[..., 0, 0] = pose[..., 1, 1] = scale
    pose[..., 2] = -centre * scale
    which = concept[:, None].expand(count, 2, 2)
    drawn, outside = place(drawings, which.flatten(), torch.zeros(count * 4, dtype=torch.long), pose.flatten(0, 2), side)
    drawn, cover = drawn.view(count, 2, 2, 3, side, side), (1 - outside).view(count, 2, 2, side, side)
    pictures = drawn[:, :, 0] * drawn[:, :, 1]  # both on white
    return compose(pictures[:, [0, 0, 1, 1]], size) * 2 - 1, cover


class Correspondence:
    """A tap that reduces each self-attention map to the share on the same drawing, and keeps no map."""

    def __init__(self, cover: Tensor, size: int) -> None:
        self.cover, self.size = cover, size
        self.rows: dict[str, dict] = {}

    def wants(self, site: Site, point: str, step: int) -> bool:
        return site.kind == "self" and point == "probs"

    def whole(self, site: Site, step: int) -> bool:
        return True

    def on_tokens(self, tokens: int) -> Tensor:
        """[grid cell drawing token token]: the drawings' share of every token of a cell."""
        half, side = self.size // 2, self.cover.shape[-1]
        padded = F.pad(self.cover, (1, half - side - 1, 1, half - side - 1))  # the border between and around the cells
        return F.adaptive_avg_pool2d(padded.flatten(0, 1), tokens).view(*padded.shape[:3], tokens, tokens)

    def __call__(self, tensor: Tensor, at: At) -> Tensor:
        tokens = at.hw[0] // 2
        if tokens < 4:
            return tensor  # too coarse to tell drawings apart
        cover = self.on_tokens(tokens)
        a, b = cover[:, 0], cover[:, 1] * (cover[:, 1] > 0.5 * cover[:, 1].amax((-2, -1), keepdim=True))
        paid = self_cells(tensor, at.hw, 2)[B + A]  # grid head query_row query_column key_row key_column

        def right(attention: Tensor) -> Tensor:
            """[grid head]: of what B's tokens on each drawing pay to both drawings in A, the part on the same one."""
            flow = torch.einsum("ghrcij,gdrc,gkij->ghdk", attention, b, a)
            return flow.diagonal(dim1=-2, dim2=-1).sum(-1) / flow.sum((-2, -1))

        found, by_place = right(paid), right(paid.mean(0, keepdim=True).expand_as(paid))
        above = interval((found - by_place).mean(1))
        best = int((found - by_place).mean(0).argmax())
        self.rows[at.site.name] = {
            "layer": at.site.layer, "tokens per cell": tokens, "share": float(found.mean()), "template": float(by_place.mean()),
            "above the template": above[0], "low": above[1], "high": above[2],
            "best head": best, "its share": float(found[:, best].mean()), "its template": float(by_place[:, best].mean()),
        }  # fmt: skip
        return tensor


@torch.no_grad()
def noised(model: Analogist, pixels: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor]:
    """UNet input [grid 9 h w] with the true B' noised to time t, clean latents, and the mask at latent size."""
    size, scale = pixels.shape[-1], model.vae.config.scaling_factor
    mask = torch.zeros(len(pixels), 1, size, size)
    mask[:, :, size // 2 :, size // 2 :] = 1
    z0, z_masked = (model.vae.posterior(p).mean * scale for p in (pixels, pixels * (mask < 0.5)))
    small = F.interpolate(mask, size=z0.shape[-2:])
    noise = torch.randn(z0.shape, generator=torch.Generator().manual_seed(t))
    return torch.cat([model.schedule.add_noise(z0, noise, t), small, z_masked], 1), z0, small


@torch.no_grad()
def correspondence(model: Analogist, size: int, count: int, times: Sequence[int] = (801, 501)) -> dict:
    """Per time and site, see the module's docstring."""
    pixels, cover = two_drawings(size, count, MEASURING)
    found = {}
    for t in times:
        x, _, _ = noised(model, pixels, t)
        look = Correspondence(cover, size)
        text = model.text.encode([""]).expand(count, -1, -1)
        model.unet(x, t, text, AttentionControl(t=t, branches=1, images=count, tap=look))
        found[str(t)] = look.rows
    return found


Head = tuple[str, int]


class Cut:
    """A tap that sets what some heads write to zero."""

    def __init__(self, heads: Sequence[Head]) -> None:
        self.heads = list(heads)

    def wants(self, site: Site, point: str, step: int) -> bool:
        return point == "head_out" and any(name == site.name for name, _ in self.heads)

    def whole(self, site: Site, step: int) -> bool:
        return False

    def __call__(self, tensor: Tensor, at: At) -> Tensor:
        tensor = tensor.clone()
        tensor[:, [head for name, head in self.heads if name == at.site.name]] = 0
        return tensor


@torch.no_grad()
def losses(model: Analogist, grids: Grids, cuts: Sequence[Sequence[Head]], times: Sequence[int] = (801, 501)) -> list[float]:
    """Error in x0 in B' for every set of cut heads, mean over grids and times, no prompt."""
    text = model.text.encode([""]).expand(len(grids.pixels), -1, -1)
    totals = [0.0] * len(cuts)
    for t in times:
        x, z0, mask = noised(model, grids.pixels, t)
        for i, heads in enumerate(cuts):
            control = AttentionControl(t=t, branches=1, images=len(x), tap=Cut(heads) if heads else None)
            x0 = model.schedule.x0(x[:, :4], model.unet(x, t, text, control), t)
            totals[i] += float(((x0 - z0).square() * mask).sum() / (mask.sum() * z0.shape[1])) / len(times)
    return totals


def heads(model: Analogist, size: int, count: int, draws: int) -> dict:
    """The five most important heads, and what cutting them does to the error of B' on other drawings, beside random ones."""
    every = [(site.name, head) for site in model.unet.sites for head in range(site.heads)]
    chosen_on, grids = people(size, count, CHOOSING), people(size, count, MEASURING)
    whole, *cut = losses(model, chosen_on, [[], *([head] for head in every)])
    order = sorted(range(len(every)), key=lambda i: -cut[i])
    five = [every[i] for i in order[:5]]

    def without(some: Sequence[Head]) -> Tensor:
        by_site: dict[str, list[int]] = {}
        for name, head in some:
            by_site.setdefault(name, []).append(head)
        edit = {f"{name}:head_out": edits.ablate_heads(found) for name, found in by_site.items()}
        return errors(model, grids, model.config, False, edit)

    base = errors(model, grids, model.config, False)
    hurt = without(five) - base
    rng, others = random.Random(MEASURING), [head for head in every if head not in five]
    placebo = [float((without(rng.sample(others, 5)) - base).mean()) for _ in range(draws)]
    mean, low, high = interval(hurt)
    return {
        "heads": len(every), "five": [f"{name} head {head}" for name, head in five],
        "loss": whole, "loss without each of the ten first": {f"{every[i][0]} {every[i][1]}": cut[i] for i in order[:10]},
        "error": float(base.mean()), "without the five": mean, "low": low, "high": high,
        "without five random": sum(placebo) / max(1, len(placebo)), "draws": placebo,
        "times as much": mean / max(1e-9, sum(placebo) / max(1, len(placebo))),
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = lab_arguments.parser("lab_mechanics", __doc__)
    parser.add_argument("--count", type=int, default=20, help="analogies per kind of change (default: 20)")
    parser.add_argument("--sac", type=int, nargs="*", help="SAC's layers to measure (default: the checkpoint's own, else all)")
    parser.add_argument("--scale", type=float, default=1.0, help="SAC's scale, with --sac")
    parser.add_argument("--cam", type=int, nargs="*", help="CAM's layers to measure (default: the checkpoint's own, else all)")
    parser.add_argument("--draws", type=int, default=20, help="sets of five random heads (default: 20)")
    parser.add_argument("--only", nargs="*", choices=("effects", "correspondence", "heads"), default=("effects", "correspondence", "heads"))
    args = parser.parse_args(argv)
    model = lab_arguments.opened(args)
    everywhere = Placement.layers(0, 16)
    sac = SAC(Placement.layers(args.sac), scale=args.scale) if args.sac else model.config.sac or SAC(everywhere, scale=1.0)
    cam = CAM(Placement.layers(args.cam)) if args.cam else model.config.cam or CAM(everywhere)
    result: dict[str, object] = {"checkpoint": model.describe(), "config": model.config.to_json(), "count": args.count}

    def keep(name: str, found: object) -> None:
        result[name] = found
        print(name, json.dumps(found, indent=1), flush=True)
        (args.out / "mechanics.json").write_text(json.dumps(result, indent=1))

    if "effects" in args.only:
        keep("effects", sac_and_cam(model, people(model.size, args.count, MEASURING), sac, cam))
    if "correspondence" in args.only:
        keep("correspondence", correspondence(model, model.size, 64))
    if "heads" in args.only:
        keep("head ablation", heads(model, model.size, max(1, args.count // 4), args.draws))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
