"""Ready studies. Each is a function of the model, because layers, maps and steps depend on the checkpoint."""

from collections.abc import Callable, Sequence

from analogist.config import AnalogistConfig
from analogist.experiments.design.claims import claims
from analogist.experiments.design.space import Space
from analogist.experiments.design.study import Study
from analogist.grid.layout import resolve_size
from analogist.models.control import CAM, SAC
from analogist.models.placement import Placement
from analogist.pipeline import Analogist

PLACES = ("base", "none", "all", "each", "each-left-out", "parts", "resolutions")


def is_lab(model: Analogist) -> bool:
    """Whether a checkpoint seems to be one of the lab's: small pictures and a narrow text encoder."""
    return model.size <= 256 and model.unet.config.text_width < 256


def _base(model: Analogist, *needed: str) -> AnalogistConfig:
    """The checkpoint's own settings. If they leave out what the study is about (sac, cam), it is switched on everywhere."""
    own = model.config
    sac = own.sac or (SAC(Placement("*")) if "sac" in needed else None)
    cam = own.cam or (CAM(Placement("*")) if "cam" in needed else None)
    return own.replace(sac=sac, cam=cam)


def _study(name: str, model: Analogist, needed: Sequence[str], question: str, *, count: int = 4, **fields) -> Study:
    """A study on the built-in drawings by people (count per kind of change), or on the bundled examples for any other checkpoint."""
    inputs = [{"drawings": "all", "count": count}] if is_lab(model) else "examples"
    return Study(name=name, question=question, base=_base(model, *needed), inputs=inputs, **fields)


def sac_layers(model: Analogist) -> Study:
    """Where SAC acts: each layer alone, each left out, parts, resolutions."""
    return _study("sac-layers", model, ["sac"], "At which layers does SAC help?", factors={"sac.layers": PLACES})


def cam_layers(model: Analogist) -> Study:
    """Where CAM acts: each layer alone, each left out, parts, resolutions; and which regions it masks."""
    factors = {"cam.layers": PLACES, "cam.silence": ["A,A',B", "A,A'", "B", "A", "A'"]}
    question = "At which layers does CAM help, and which regions should be masked from the text?"
    return _study("cam-layers", model, ["cam"], question, factors=factors)


def sac_scale(model: Analogist) -> Study:
    """How strongly SAC acts, in which direction, and whether before or after the softmax."""
    factors = {
        "sac.scale": [0.5, 0.8, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.8, 2.5],
        "sac.mirror": [True, False],
        "sac.stage": ["scores", "probs"],
        "sac.clone": ["published", "reversed"],
    }
    return _study("sac-scale", model, ["sac"], "How strong should SAC be, and which form of it?", factors=factors)


def sac_variants(model: Analogist) -> Study:
    """Descendants of SAC: blended with what stood there, rows aligned, and blocks that are only multiplied."""
    factors = {"sac.blend": [1.0, 0.75, 0.5, 0.25], "sac.align": [False, True], "sac.scaled": ["off", 1.2, 1.5, [1.2, 0.9], [1.5, 0.9]]}
    return _study("sac-variants", model, ["sac"], "Is there a better form of cloning than SAC's?", factors=factors)


def sac_steps(model: Analogist) -> Study:
    """At which steps SAC and CAM act."""
    factors = {"sac.steps": ["all", "thirds", "windows 5"], "cam.steps": ["all", "thirds"]}
    return _study("sac-steps", model, ["sac", "cam"], "At which steps do SAC and CAM matter?", factors=factors)


def sac_x_cam(model: Analogist) -> Study:
    """SAC and CAM on and off, with and without text, with a wrong text: every combination."""
    factors = {"sac": ["on", "off"], "cam": ["on", "off"], "text": ["on", "off", "wrong"]}
    question = "What do SAC, CAM and the text each contribute, and do they depend on each other?"
    return _study("sac-x-cam", model, ["sac", "cam"], question, factors=factors, design="full")


def paper_claims(model: Analogist) -> Study:
    """Each claim of the paper's ablation section as a hypothesis, with its verdict."""
    size = resolve_size(model.size, 2)
    runs, hypotheses = claims(Space.of(model.unet.sites, model.config, size, model.vae.config.factor), model.config)
    question = "Do the claims of the paper's ablation section hold on this checkpoint?"
    metrics = ("mse", "psnr", "ssim", "mse_colour", "mse_detail", "mse_to_b", "mse_to_a_prime")
    fields = {"design": "list", "runs": runs, "hypotheses": hypotheses, "metrics": metrics}
    return _study("paper-claims", model, ["sac"], question, count=10, **fields)


READY: dict[str, Callable[[Analogist], Study]] = {
    "sac-layers": sac_layers,
    "cam-layers": cam_layers,
    "sac-scale": sac_scale,
    "sac-variants": sac_variants,
    "sac-steps": sac_steps,
    "sac-x-cam": sac_x_cam,
    "paper-claims": paper_claims,
}
