"""The autoencoder: size, shapes, the posterior, errors. That it computes what diffusers' does is in test_reference.py."""

import pytest
import torch

from analogist.models.vae import VAE, VAEConfig
from tests.small import TINY_VAE, relative


def picture(images: int = 2, hw: tuple[int, int] = (32, 48)) -> torch.Tensor:
    return torch.rand(images, 3, *hw, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_full_size_network_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        vae = VAE(VAEConfig())
    assert sum(parameter.numel() for parameter in vae.parameters()) == 83_653_863
    assert not list(vae.buffers())


def test_full_size_shapes_on_the_meta_device() -> None:
    with torch.device("meta"):
        vae = VAE(VAEConfig())
        posterior = vae.posterior(torch.empty(2, 3, 512, 768))
        assert posterior.mean.shape == posterior.std.shape == (2, 4, 64, 96)
        assert vae.decode(torch.empty(2, 4, 64, 96)).shape == (2, 3, 512, 768)


def test_the_factor_is_pixels_a_latent_pixel(tiny_vae) -> None:
    assert VAEConfig().factor == 8
    assert tiny_vae.posterior(picture()).mean.shape == (2, 4, 32 // TINY_VAE.factor, 48 // TINY_VAE.factor)


def test_a_sample_is_mean_plus_std_times_noise_and_encode_scales_it(tiny_vae) -> None:
    noise = torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(1))
    posterior = tiny_vae.posterior(picture())
    expected = posterior.mean + posterior.std * noise
    assert torch.equal(posterior.sample(noise), expected)
    assert torch.equal(tiny_vae.encode(picture(), noise), expected * 0.18215)
    assert torch.equal(tiny_vae.encode(picture(), torch.zeros_like(noise)), posterior.mean * 0.18215)


def test_noise_of_one_image_serves_a_batch_as_in_the_published_order_of_draws(tiny_vae) -> None:
    noise = torch.randn(1, 4, 4, 6, generator=torch.Generator().manual_seed(1))
    assert torch.equal(tiny_vae.encode(picture(), noise), tiny_vae.encode(picture(), noise.expand(2, -1, -1, -1)))


@pytest.mark.parametrize("logvar, std", [(1e4, 22026.4657948), (-1e4, 3.0590232e-07), (0.0, 1.0), (2.0, 2.7182818)])
def test_the_log_variance_is_clamped_to_minus_thirty_and_twenty(tiny_vae, monkeypatch, logvar: float, std: float) -> None:
    """exp(20 / 2), exp(-30 / 2), exp(0), exp(2 / 2)."""
    parameters = torch.cat([torch.ones(1, 4, 4, 6), torch.full((1, 4, 4, 6), logvar)], dim=1)
    monkeypatch.setattr(tiny_vae.quant_conv, "forward", lambda x: parameters)
    posterior = tiny_vae.posterior(picture(1))
    assert torch.allclose(posterior.std, torch.full((1, 4, 4, 6), std), rtol=1e-6)
    assert torch.equal(posterior.mean, torch.ones(1, 4, 4, 6))


def test_permuting_the_images_permutes_the_output(tiny_vae) -> None:
    images, order = picture(3), [2, 0, 1]
    z = torch.randn(3, 4, 4, 6, generator=torch.Generator().manual_seed(1))
    assert relative(tiny_vae.posterior(images[order]).mean, tiny_vae.posterior(images).mean[order]) < 1e-6
    assert relative(tiny_vae.decode(z[order]), tiny_vae.decode(z)[order]) < 1e-6


@pytest.mark.parametrize("hw", [(32, 44), (30, 48)])
def test_sides_that_do_not_divide_are_an_error_that_names_the_factor(tiny_vae, hw: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"picture of {hw[0]}x{hw[1]} pixels: both sides must be multiples of 8"):
        tiny_vae.posterior(picture(1, hw))


@pytest.mark.parametrize("channels", [(8, 10), ()])
def test_an_impossible_geometry_is_an_error(channels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="every entry must be a multiple of norm_groups = 4"):
        VAEConfig(channels=channels, norm_groups=4)
