"""Every map, head output and the noise prediction of one call, against what the published implementation computed.

tests/parity/attention_maps_128.safetensors: SAC and CAM on layers 3..10 with s = 1.3, random weights of SD 1.5's topology.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from analogist.models.control import CAM, SAC, AttentionControl
from analogist.models.unet import UNet, UNetConfig
from analogist.weights.keymaps import unet_diffusers
from tests.small import Looking, relative

PARITY = Path(__file__).parent / "parity"
TIME = 501


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return load_file(PARITY / "attention_maps_128.safetensors")


@pytest.fixture(scope="module")
def unet() -> UNet:
    state = load_file(PARITY / "checkpoint" / "unet" / "diffusion_pytorch_model.safetensors")
    unet = UNet(UNetConfig(channels=(32, 64, 64, 64), text_width=32))
    shapes = {name: parameter.shape for name, parameter in unet.state_dict().items()}
    names = {name: targets[0].name for name, targets in unet_diffusers(state).items()}
    unet.load_state_dict({ours: state[name].float().reshape(shapes[ours]) for name, ours in names.items()}, strict=True)
    return unet.eval().requires_grad_(False)


def control(tap: Looking | None, attention: str) -> AttentionControl:
    return AttentionControl(t=TIME, branches=1, sac=SAC(), cam=CAM(), tap=tap, attention=attention)


def test_every_map_and_head_output_is_the_published_implementations(unet: UNet, expected: dict[str, torch.Tensor]) -> None:
    look = Looking(points=("scores", "probs", "head_out"))
    unet(expected["sample"], TIME, expected["context"], control(look, "explicit"))
    compared = 0
    for site in unet.sites:
        prefix = f"{site.layer:02d}.{site.kind}"
        before, after = look.at(site, "scores").softmax(-1)[0], look.at(site, "probs")[0]
        theirs_before = expected[f"{prefix}.before"].float()
        theirs_after = expected.get(f"{prefix}.after", expected[f"{prefix}.before"]).float()
        assert (before - theirs_before).abs().max() < 5e-4, prefix  # stored as float16
        assert (after - theirs_after).abs().max() < 5e-4, prefix
        joined = look.at(site, "head_out")[0].transpose(0, 1).flatten(1)
        assert relative(joined, expected[f"{prefix}.heads_out"].reshape(joined.shape)) < 1e-5, prefix
        assert (f"{prefix}.after" in expected) == (3 <= site.layer < 11)
        compared += 1
    assert compared == 32


@pytest.mark.parametrize("attention", ["explicit", "fused"])
def test_the_noise_prediction_is_the_published_implementations(unet: UNet, expected: dict[str, torch.Tensor], attention: str) -> None:
    eps = unet(expected["sample"], TIME, expected["context"], control(None, attention))
    assert relative(eps, expected["noise_pred"]) < 1e-5
    assert relative(unet(expected["sample"], TIME, expected["context"]), expected["noise_pred"]) > 1e-2  # without SAC and CAM
