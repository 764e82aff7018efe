"""UNet and VAE compute what diffusers' do, values and gradients, on random weights of SD 1.5's and SD 2's shape made small."""

import pytest
import torch
from torch import Tensor, nn

from analogist.models.control import AttentionControl
from analogist.models.unet import UNet, UNetConfig
from analogist.models.vae import VAE, VAEConfig
from analogist.weights.keymaps import unet_diffusers, vae_diffusers
from tests.small import randomise, relative, unet_inputs

SAME = 1e-4  # relative, float32
FAMILIES = {
    "sd15": (
        UNetConfig(channels=(16, 24, 32, 32), heads=(4, 4, 4, 4), text_width=12, norm_groups=8),
        {"attention_head_dim": 4},  # a number of heads, as in the published configuration files
    ),
    "sd2": (
        UNetConfig(channels=(16, 32, 64, 64), heads=(1, 2, 4, 4), text_width=20, norm_groups=8),
        {"attention_head_dim": [1, 2, 4, 4], "use_linear_projection": True},
    ),
}


def adopt(module: nn.Module, theirs: nn.Module, keymap) -> dict[str, str]:
    """Loads another module's parameters into ours, every one; returns our names by theirs."""
    state = theirs.state_dict()
    names = {name: targets[0].name for name, targets in keymap(state).items()}
    shapes = {name: parameter.shape for name, parameter in module.state_dict().items()}
    module.load_state_dict({ours: state[name].reshape(shapes[ours]).clone() for name, ours in names.items()}, strict=True)
    assert len(set(names.values())) == len(names)
    return names


def unets(family: str) -> tuple[UNet, nn.Module, dict[str, str]]:
    from diffusers import UNet2DConditionModel

    config, shape = FAMILIES[family]
    theirs = UNet2DConditionModel(
        in_channels=9, out_channels=4, block_out_channels=config.channels, norm_num_groups=8,
        cross_attention_dim=config.text_width, **shape,
    )  # fmt: skip
    ours, theirs = UNet(config), randomise(theirs, sharpness=2.0)
    return ours.eval(), theirs, adopt(ours, theirs, unet_diffusers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("attention", ["explicit", "fused"])
@pytest.mark.parametrize("family", FAMILIES)
def test_unet_equals_diffusers_with_gradients(family: str, attention: str, dtype: torch.dtype) -> None:
    ours, theirs, names = unets(family)
    ours, theirs = ours.to(dtype), theirs.to(dtype)
    x, t, text = unet_inputs(ours.config, hw=(16, 24))
    x, text = x.to(dtype), text.to(dtype)
    target = torch.randn(2, 4, 16, 24, generator=torch.Generator().manual_seed(2)).to(dtype)
    ours.requires_grad_(True), theirs.requires_grad_(True)
    results, gradients = [], []
    for module, call in (
        (ours, lambda x, text: ours(x, t, text, AttentionControl(t=t, attention=attention))),
        (theirs, lambda x, text: theirs(x, t, text, return_dict=False)[0]),
    ):
        inputs = x.clone().requires_grad_(True), text.clone().requires_grad_(True)
        results.append(call(*inputs))
        (results[-1] * target).sum().backward()
        gradients.append((*(tensor.grad for tensor in inputs), {name: p.grad for name, p in module.named_parameters()}))
    assert relative(*results) < SAME
    (dx, dtext, own), (their_dx, their_dtext, their_own) = gradients
    assert relative(dx, their_dx) < SAME and relative(dtext, their_dtext) < SAME
    own = {name: own[names[name]].reshape(gradient.shape) for name, gradient in their_own.items()}
    assert relative(*(torch.cat([part.flatten() for part in each.values()]) for each in (own, their_own))) < SAME
    # Parameter by parameter, some float32 gradients are little more than what large terms of both signs leave over; in
    # float64 each must agree. A bias before a normalisation over its channels has no gradient at all: compare with the largest.
    if dtype == torch.float64:
        largest = max(gradient.norm().item() for gradient in their_own.values())
        for name, gradient in their_own.items():
            difference = (own[name] - gradient).norm().item()
            assert difference <= 1e-8 * max(gradient.norm().item(), 1e-3 * largest), name


@pytest.mark.parametrize("t", [1, 261, 999])
def test_unet_equals_diffusers_at_other_times_and_batches(t: int) -> None:
    ours, theirs, _ = unets("sd15")
    x, _, text = unet_inputs(ours.config, batch=3, hw=(24, 16), tokens=77)
    assert relative(ours(x, t, text), theirs(x, t, text, return_dict=False)[0]) < SAME


def vaes() -> tuple[VAE, nn.Module, dict[str, str]]:
    from diffusers import AutoencoderKL

    config = VAEConfig(channels=(8, 16, 16, 32), norm_groups=8)
    theirs = AutoencoderKL(
        block_out_channels=config.channels, norm_num_groups=8, latent_channels=4, layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    ours, theirs = VAE(config), randomise(theirs)
    return ours.eval(), theirs, adopt(ours, theirs, vae_diffusers)


@pytest.mark.parametrize("part", ["encode", "decode"])
def test_vae_equals_diffusers_with_gradients(part: str) -> None:
    ours, theirs, _ = vaes()
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(2, 4, 4, 6, generator=generator)

    def encode_ours(x: Tensor) -> Tensor:
        return ours.encode(x, noise)

    def encode_theirs(x: Tensor) -> Tensor:
        posterior = theirs.encode(x).latent_dist
        return (posterior.mean + posterior.std * noise) * theirs.config.scaling_factor

    calls = {
        "encode": (torch.rand(2, 3, 32, 48, generator=generator) * 2 - 1, encode_ours, encode_theirs),
        "decode": (noise, ours.decode, lambda z: theirs.decode(z / theirs.config.scaling_factor).sample),
    }
    given, mine, reference = calls[part]
    gradients, results = [], []
    for call in (mine, reference):
        x = given.clone().requires_grad_(True)
        results.append(call(x))
        gradients.append(torch.autograd.grad((results[-1] * results[-1].detach().cos()).sum(), x)[0])
    assert relative(*results) < SAME
    assert relative(*gradients) < SAME
