"""Ready studies: each a function of the model, since layers, maps and steps are the checkpoint's own."""

from collections.abc import Callable

from analogist.config import AnalogistConfig
from analogist.experiments.space import Space
from analogist.experiments.study import Hypothesis, Study
from analogist.layout import resolve_size
from analogist.models.control import CAM, SAC
from analogist.models.placement import Placement
from analogist.pipeline import Analogist

LAB_INPUTS = [{"lab": "trained", "count": 2}]
LAB_CLAIMS = [{"lab": "trained", "count": 2}]


def _space(model: Analogist) -> Space:
    return Space.of(model.unet.sites, model.config, resolve_size(model.size, 2), model.vae.config.factor)


def is_lab(model: Analogist) -> bool:
    """Whether a checkpoint paints the lab's own drawings: small pictures, of which there are as many held-out ones as needed."""
    return model.size <= 256 and model.unet.config.text_width < 256


def _inputs(model: Analogist, lab: list[dict]) -> object:
    return lab if is_lab(model) else "examples"


def _base(model: Analogist) -> AnalogistConfig:
    """The checkpoint's own settings, with SAC and CAM on (everywhere) where these leave one out: a study of them needs both."""
    own = model.config
    return own.replace(sac=own.sac or SAC(Placement("*")), cam=own.cam or CAM(Placement("*")))


def sac_layers(model: Analogist) -> Study:
    """Where SAC acts: each layer alone, each left out, parts, resolutions."""
    levels = ["base", "none", "all", "each", "each-left-out", "parts", "resolutions"]
    return Study(
        name="sac-layers",
        base=_base(model),
        question="At which layers does SAC help?",
        factors={"sac.layers": levels},
        inputs=_inputs(model, LAB_INPUTS),
    )


def cam_layers(model: Analogist) -> Study:
    """Where CAM acts: each layer alone, each left out, parts, resolutions; and what it silences."""
    levels = ["base", "none", "all", "each", "each-left-out", "parts", "resolutions"]
    silence = ["A,A',B", "A,A'", "B", "A", "A'"]
    return Study(
        name="cam-layers", base=_base(model), question="At which layers does CAM help, and which regions should hear no text?",
        factors={"cam.layers": levels, "cam.silence": silence}, inputs=_inputs(model, LAB_INPUTS),
    )  # fmt: skip


def sac_scale(model: Analogist) -> Study:
    """How strongly SAC acts, in which direction, before or after the softmax."""
    return Study(
        name="sac-scale", base=_base(model), question="How strong should SAC be, and which form of it?", inputs=_inputs(model, LAB_INPUTS),
        factors={
            "sac.scale": [0.5, 0.8, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.8, 2.5], "sac.mirror": [True, False],
            "sac.stage": ["scores", "probs"], "sac.clone": ["published", "reversed"],
        },
    )  # fmt: skip


def sac_steps(model: Analogist) -> Study:
    """At which steps SAC and CAM act."""
    return Study(
        name="sac-steps", base=_base(model), question="At which steps do SAC and CAM matter?", inputs=_inputs(model, LAB_INPUTS),
        factors={"sac.steps": ["all", "thirds", "windows 5"], "cam.steps": ["all", "thirds"]},
    )  # fmt: skip


def sac_x_cam(model: Analogist) -> Study:
    """SAC and CAM on and off, with and without text, with a wrong text: every combination."""
    return Study(
        name="sac-x-cam", design="full", base=_base(model),
        question="What do SAC, CAM and the text each contribute, and do they depend on each other?",
        factors={"sac": ["on", "off"], "cam": ["on", "off"], "text": ["on", "off", "wrong"]}, inputs=_inputs(model, LAB_INPUTS),
    )  # fmt: skip


def paper_claims(model: Analogist) -> Study:
    """Each claim of the paper's ablation section as a hypothesis. Source: Gu et al. 2024, ablation section; words, no numbers."""
    space = _space(model)
    deepest, finest = max(space.resolutions()), min(space.resolutions())
    # The paper speaks of 16 x 16 maps at 512 px. Where a checkpoint has no such map, the same share of the latents is taken.
    middle = "16x16" if space.at_map(16, 16) else "1/4"
    others = [f"1/{stride}" for stride in space.resolutions()]
    if middle == "16x16":
        others = [f"1/{stride}" for stride in space.resolutions() if space.at_stride(stride) != space.at_map(16, 16)]
    runs: list[dict] = [
        {"sac": "off"},
        {"cam": "off"},
        {"sac.layers": "all"},
        {"sac.layers": "encoder"},
        {"sac.layers": "decoder"},
    ]
    runs += [{"sac.layers": middle}, *({"sac.layers": level} for level in others)]
    runs += [{"sac.scale": 1.8}, {"sac.clone": "reversed"}, {"text": "off"}, {"text": "wrong"}]
    shallow, deep = f"1/{finest}", f"1/{deepest}"
    shallow = middle if shallow not in others else shallow

    def claim(text: str, metric: str, variant: dict, expect: str, against: dict | None = None) -> Hypothesis:
        return Hypothesis(text, metric, variant, expect, against or {})

    every, off = {"sac.layers": "all"}, {"sac": "off"}
    hypotheses = [
        claim("SAC is needed: without it B' is further from the truth", "mse", off, "higher"),
        claim("CAM is needed: without it B' is further from the truth", "mse", {"cam": "off"}, "higher"),
        claim("SAC is needed in the decoder too: in the encoder alone B' is further from the truth than in both", "mse",
              {"sac.layers": "encoder"}, "higher", every),
        claim("SAC is needed in the encoder too: in the decoder alone B' is further from the truth than in both", "mse",
              {"sac.layers": "decoder"}, "higher", every),
        *(claim(f"{middle} maps balance best: B' is closer to the truth than with SAC at {other}", "mse",
                {"sac.layers": middle}, "lower", {"sac.layers": other}) for other in others if other != middle),
        claim(f"Shallow layers ({shallow}) carry colour: colours are closer to the truth than without SAC", "mse_colour",
              {"sac.layers": shallow}, "lower", off),
        claim(f"Shallow layers ({shallow}) carry nothing but colour: shapes are as far from the truth as without SAC or further",
              "mse_detail", {"sac.layers": shallow}, "higher", off),
        claim(f"Deep layers ({deep}) collapse to B: B' is closer to B than with the default layers", "mse_to_b",
              {"sac.layers": deep}, "lower"),
        claim("s = 1.8 degrades: B' is further from the truth than at the default", "mse", {"sac.scale": "1.8"}, "higher"),
        claim("The reversed clone M(B,B') := M(A,A') does not keep the relation: B' is further from the truth", "mse",
              {"sac.clone": "reversed"}, "higher"),
        claim("A wrong prompt misleads: B' is further from the truth than with the right one", "mse", {"text": "wrong"}, "higher"),
    ]  # fmt: skip
    return Study(
        name="paper-claims", base=_base(model), design="list", runs=runs,
        question="Do the claims of the paper's ablation section hold on this checkpoint?",
        inputs=_inputs(model, LAB_CLAIMS), hypotheses=hypotheses,
        metrics=("mse", "psnr", "ssim", "mse_colour", "mse_detail", "mse_to_b", "mse_to_a_prime"),
    )  # fmt: skip


READY: dict[str, Callable[[Analogist], Study]] = {
    "sac-layers": sac_layers,
    "cam-layers": cam_layers,
    "sac-scale": sac_scale,
    "sac-steps": sac_steps,
    "sac-x-cam": sac_x_cam,
    "paper-claims": paper_claims,
}
