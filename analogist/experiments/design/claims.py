"""The claims of the paper's ablation section as hypotheses. Source: Gu et al. 2024, which states them in words, without numbers.

Not testable here: the claim that marks and arrows help a language model relate the cells. It is about the model that writes prompts.
"""

from analogist.config import AnalogistConfig
from analogist.experiments.design.space import Space
from analogist.experiments.design.study import Hypothesis

MAP = "16x16"  # the paper speaks of 16 x 16 maps, at 512 px
SCALE, TOO_LARGE = 1.3, 1.8  # the paper's s, and one that degrades


def claims(space: Space, config: AnalogistConfig) -> tuple[list[dict], list[Hypothesis]]:
    """Runs (factor -> level) and hypotheses on them, for the layers of a checkpoint and its own settings (with SAC on)."""
    # If a checkpoint has no 16 x 16 map, the map with the same ratio to the latents is taken.
    middle = MAP if space.at_map(16, 16) else "1/4"
    chosen = space.at_map(16, 16) or space.at_stride(4)
    others = [f"1/{stride}" for stride in space.resolutions() if space.at_stride(stride) != chosen]
    finest, deepest = min(space.resolutions()), max(space.resolutions())
    shallow = middle if space.at_stride(finest) == chosen else f"1/{finest}"
    deep = f"1/{deepest}"
    # If the checkpoint's own settings leave CAM out, the claim is tested by adding it.
    cam, cam_expect = ({"cam": "off"}, "higher") if config.cam else ({"cam.layers": "all"}, "lower")
    cam_text = "without it B' is further from the truth" if config.cam else "with it in all layers B' is closer to the truth"
    off, every, encoder, decoder = ({"sac": "off"}, *({"sac.layers": level} for level in ("all", "encoder", "decoder")))
    at_middle = {"sac.layers": middle}
    runs: list[dict] = [off, cam, every, encoder, decoder, at_middle, *({"sac.layers": level} for level in others)]
    # The claim on the scale compares with the paper's scale, whatever the checkpoint's own is.
    published = None if config.sac is not None and config.sac.scale == SCALE else {"sac.scale": SCALE}
    runs += [{"sac.scale": TOO_LARGE}, *([published] if published else [])]
    runs += [{"sac.clone": "reversed"}, {"text": "off"}, {"text": "wrong"}]
    further = "B' is further from the truth"

    hypotheses = [
        Hypothesis(f"SAC is needed: without it {further}", "mse", off, "higher"),
        Hypothesis(f"CAM is needed: {cam_text}", "mse", cam, cam_expect),
        Hypothesis(f"SAC is needed in the decoder too: {further} with the encoder alone", "mse", encoder, "higher", every),
        Hypothesis(f"SAC is needed in the encoder too: {further} with the decoder alone", "mse", decoder, "higher", every),
    ]  # fmt: skip
    hypotheses += [
        Hypothesis(
            f"{middle} maps balance best: with SAC there B' is closer to the truth than with SAC at {other}",
            "mse", at_middle, "lower", {"sac.layers": other},
        )
        for other in others
    ]  # fmt: skip
    hypotheses += [
        Hypothesis(
            f"Shallow layers ({shallow}) carry colour: colours come closer to the truth than without SAC", "mse_colour",
            {"sac.layers": shallow}, "lower", off,
        ),
        Hypothesis(
            f"Shallow layers ({shallow}) carry only colour: shapes end further from the truth than without SAC", "mse_detail",
            {"sac.layers": shallow}, "higher", off,
        ),
        Hypothesis(
            f"Deep layers ({deep}) collapse to B: B' is closer to B than by default", "mse_to_b", {"sac.layers": deep}, "lower",
        ),
        Hypothesis(
            f"s = {TOO_LARGE} degrades: {further} than with s = {SCALE}", "mse", {"sac.scale": str(TOO_LARGE)}, "higher",
            {"sac.scale": str(SCALE)} if published else {},
        ),
        Hypothesis(
            f"The reversed clone M(B,B') := M(A,A') does not keep the relation: {further}", "mse",
            {"sac.clone": "reversed"}, "higher",
        ),
        Hypothesis(f"A wrong prompt misleads: {further} than with the right one", "mse", {"text": "wrong"}, "higher"),
    ]  # fmt: skip
    return runs, hypotheses
