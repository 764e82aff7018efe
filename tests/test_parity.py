"""The published implementation's results on a small random-weight checkpoint (tests/parity), computed in float32 on a CPU."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from analogist.config import AnalogistConfig, SamplingConfig
from analogist.grid import PromptGrid
from analogist.models.control import CAM, SAC
from analogist.models.placement import Placement
from analogist.pipeline import Analogist
from tests.devices import device, tolerance

pytestmark = pytest.mark.device
PARITY = Path(__file__).parent / "parity"
CASES = json.loads((PARITY / "cases.json").read_text())


@pytest.fixture(scope="module")
def model() -> Analogist:
    return Analogist.from_checkpoint(PARITY / "checkpoint", dtype="float32", device=device())


def placement(case: dict, key: str) -> Placement | None:
    """The layers of a case: an explicit list ([] is off) or a half-open range, at all or some executed steps."""
    steps = case.get("editor_steps")
    if f"{key}_idx" in case:
        return Placement.layers(case[f"{key}_idx"], steps=steps) if case[f"{key}_idx"] else None
    return Placement.layers(*case.get(key, (3, 11)), steps=steps)


def configuration(case: dict) -> AnalogistConfig:
    sac, cam = placement(case, "sac"), placement(case, "cam")
    return AnalogistConfig(
        sampling=SamplingConfig(steps=case["steps"], strength=case.get("strength", 0.98), guidance=case.get("guidance", 15.0)),
        sac=None if sac is None else SAC(sac, scale=case.get("scale", 1.3)),
        cam=None if cam is None else CAM(cam),
    )


def run(model: Analogist, case: dict, attention: str):
    text = model.text.encode_ids([CASES["negative_ids"][0], CASES["prompt_ids"][0]])
    return model(
        PromptGrid.from_image(PARITY / "grid.png", case["res"]),
        text=text,
        images=case.get("n_images", 1),
        generator=torch.Generator().manual_seed(case["seed"]),
        config=configuration(case),
        attention=attention,
        progress=False,
    )


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours.cpu() - theirs).norm() / theirs.norm()).item()


@pytest.mark.parametrize("attention", ["explicit", "fused"])
@pytest.mark.parametrize("name", sorted(CASES["cases"]))
def test_a_run_gives_what_the_published_code_gives(model, name, attention):
    case, theirs = CASES["cases"][name], load_file(PARITY / f"{name}.safetensors")
    result = run(model, case, attention)
    assert relative(result.latents, theirs["latents"]) < tolerance("the published last latents")
    ours = np.stack([np.asarray(grid).transpose(2, 0, 1) for grid in result.grids]).astype(int)
    difference = np.abs(ours - theirs["image_u8"].numpy().astype(int))
    assert (difference == 0).mean() >= 0.98
    assert difference.max() <= 1


def test_the_text_encoder_gives_what_the_published_code_gives(model):
    theirs = load_file(PARITY / "defaults_256.safetensors")
    negative, prompt = model.text.encode_ids([CASES["negative_ids"][0], CASES["prompt_ids"][0]])
    assert relative(negative, theirs["uncond"][0]) < tolerance("the published text")
    assert relative(prompt, theirs["cond"][0]) < tolerance("the published text")


def test_the_first_step_is_the_published_one(model):
    case, theirs = CASES["cases"]["defaults_256"], load_file(PARITY / "defaults_256.safetensors")
    text = model.text.encode_ids([CASES["negative_ids"][0], CASES["prompt_ids"][0]])
    grid = PromptGrid.from_image(PARITY / "grid.png", case["res"])
    generator = torch.Generator().manual_seed(case["seed"])
    steps = model.steps(grid, text=text, images=case["n_images"], generator=generator, config=configuration(case))
    assert relative(next(steps).z_t, theirs["trajectory_tail"][0]) < tolerance("the published first step")


def test_a_generator_draws_the_published_noise(model):
    from analogist.run.seeds import Randomness

    case, theirs = CASES["cases"]["defaults_256"], load_file(PARITY / "defaults_256.safetensors")
    draws = Randomness(range(2), torch.Generator().manual_seed(case["seed"])).draw(4, 32, 32)
    assert torch.equal(draws.noise, theirs["noise"].float())


def test_a_single_file_gives_the_same_run_as_the_folder(model, tmp_path):
    from tests.checkpoints import write_parity_single

    path = write_parity_single(tmp_path / "checkpoint.safetensors")
    # Shapes can't tell eight heads of width 4: the folder's configs say so, as for any small model.
    single = Analogist.from_checkpoint(path, config=PARITY / "checkpoint", dtype="float32", device=device())
    for ours, theirs in ((single.unet, model.unet), (single.vae, model.vae), (single.text.model, model.text.model)):
        for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
            assert torch.equal(a, b), name
    case = CASES["cases"]["strength_1_256"]
    theirs = load_file(PARITY / "strength_1_256.safetensors")
    for attention in ("explicit", "fused"):
        assert relative(run(single, case, attention).latents, theirs["latents"]) < tolerance("the published last latents")
