"""The cost of a UNet call besides arithmetic: a network so small that only Python and dispatch count, ours compared with diffusers'.

    python -m tests.benchmarks.overhead                   # prints the two ratios and their spread
    python -m tests.benchmarks.overhead --profile         # also prints our time per function

Ours uses the sampler's prepared text, without edits and with SAC and CAM on layers 3..10; diffusers computes no edits. The three run in
turn in one process and share one set of random weights. A ratio is the median over rounds of the ratio within a round, in processor
time, which other work on the machine disturbs less than wall-clock time.
"""

import argparse
import cProfile
import pstats
import statistics
import time

import torch
from torch import Tensor

from analogist.models.control import CAM, SAC, AttentionControl
from analogist.models.unet import UNet, UNetConfig
from analogist.weights.keymaps import unet_diffusers
from tests.small import randomise

CONFIG = UNetConfig(channels=(8, 8, 8, 8), heads=(2, 2, 2, 2), text_width=8, norm_groups=4)
TARGETS = {"without SAC and CAM": 0.8, "with SAC and CAM": 0.9}


def networks() -> tuple[UNet, torch.nn.Module]:
    """Ours and diffusers' with the same random weights."""
    from diffusers import UNet2DConditionModel

    theirs = randomise(
        UNet2DConditionModel(
            in_channels=9, out_channels=4, block_out_channels=CONFIG.channels, norm_num_groups=CONFIG.norm_groups,
            cross_attention_dim=CONFIG.text_width, attention_head_dim=2,
        )
    )  # fmt: skip
    ours = UNet(CONFIG)
    state, shapes = theirs.state_dict(), {name: value.shape for name, value in ours.state_dict().items()}
    names = {name: targets[0].name for name, targets in unet_diffusers(state).items()}
    ours.load_state_dict({mine: state[name].reshape(shapes[mine]).clone() for name, mine in names.items()}, strict=True)
    return ours.eval().requires_grad_(False), theirs


def calls() -> dict:
    """The three calls, by name; each is one guided step of one image."""
    ours, theirs = networks()
    generator = torch.Generator().manual_seed(0)
    x, text = torch.randn(2, 9, 16, 16, generator=generator), torch.randn(2, 77, CONFIG.text_width, generator=generator)
    prepared, sac, cam = ours.prepare_text(text), SAC(), CAM()

    def edited(step: int) -> Tensor:
        return ours(x, 501, prepared, AttentionControl(step=step, t=501, sac=sac, cam=cam))

    def plain(step: int) -> Tensor:
        return ours(x, 501, prepared, AttentionControl(step=step, t=501))

    def reference(step: int) -> Tensor:
        return theirs(x, 501, text, return_dict=False)[0]

    difference = (plain(0) - reference(0)).norm() / reference(0).norm()
    if difference > 1e-4:
        raise AssertionError(f"the two networks differ by {difference:.1e}: they do not compute the same")
    return {"without SAC and CAM": plain, "with SAC and CAM": edited, "diffusers": reference}


def measure(rounds: int, repeats: int) -> dict[str, list[float]]:
    """Processor seconds per call of each, by round."""
    each = calls()
    seconds: dict[str, list[float]] = {name: [] for name in each}
    for number in range(rounds + 2):  # the first two are warm-up
        for name, call in each.items():
            started = time.process_time()
            for step in range(repeats):
                call(step)
            if number >= 2:
                seconds[name].append((time.process_time() - started) / repeats)
    return seconds


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3, help="calls of each per round")
    parser.add_argument("--profile", action="store_true", help="also print our time per function")
    args = parser.parse_args()
    torch.set_num_threads(1)
    seconds = measure(args.rounds, args.repeats)
    print(f"diffusers: {statistics.median(seconds['diffusers']) * 1e3:.2f} ms per call")
    for name, target in TARGETS.items():
        ratios = sorted(a / b for a, b in zip(seconds[name], seconds["diffusers"], strict=True))
        low, high = ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]
        milliseconds = statistics.median(seconds[name]) * 1e3
        print(f"ours {name}: {milliseconds:.2f} ms per call, {statistics.median(ratios):.2f} of diffusers (half of the rounds are in "
              f"{low:.2f} to {high:.2f}; target {target})")  # fmt: skip
    if args.profile:
        edited = calls()["with SAC and CAM"]
        with cProfile.Profile() as profile:
            for step in range(50):
                edited(step)
        pstats.Stats(profile).sort_stats("tottime").print_stats(35)


if __name__ == "__main__":
    main()
