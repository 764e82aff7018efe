"""The parts of the networks that compute the usual thing in an unusual way: convolutions as products, feed-forward in slices."""

import pytest
import torch
import torch.nn.functional as F

from analogist.models.blocks import Conv3x3, Downsample, Upsample, sinusoidal
from analogist.models.transformer import FeedForward
from tests.small import randomise, relative


def picture(batch: int, channels: int, hw: tuple[int, int]) -> torch.Tensor:
    return torch.randn(batch, channels, *hw, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("stride, padding", [(1, 1), (2, 1), (2, 0)])
@pytest.mark.parametrize("hw", [(2, 2), (4, 6), (12, 8)])
@pytest.mark.parametrize("cout", [4, 40, 400])
def test_a_convolution_is_torchs_whether_it_runs_as_a_product_or_not(cout: int, hw: tuple[int, int], stride: int, padding: int) -> None:
    """400 channels out is more than any number of positions here (the product), 4 is less than most (torch's own)."""
    conv, x = randomise(Conv3x3(6, cout, stride=stride, padding=padding)), picture(2, 6, (hw[0] + 1, hw[1] + 1) if not padding else hw)
    expected = F.conv2d(x, conv.weight, conv.bias, stride=stride, padding=padding)
    assert conv(x).shape == expected.shape
    assert relative(conv(x), expected) < 1e-6


def test_gradients_through_the_product_are_those_of_a_convolution() -> None:
    conv = randomise(Conv3x3(6, 40)).double().requires_grad_(True)
    gradients = []
    for call in (conv, lambda x: F.conv2d(x, conv.weight, conv.bias, padding=1)):
        x = picture(2, 6, (4, 4)).double().requires_grad_(True)
        gradients.append(torch.autograd.grad((call(x) ** 3).sum(), (x, conv.weight, conv.bias)))
    for ours, theirs in zip(*gradients, strict=True):
        assert relative(ours, theirs) < 1e-12


def test_the_small_picture_takes_the_product_and_the_large_one_does_not(monkeypatch) -> None:
    conv = randomise(Conv3x3(6, 40))
    calls = []
    monkeypatch.setattr(torch.nn.Conv2d, "forward", lambda self, x: calls.append(tuple(x.shape[2:])) or x)
    for hw in ((4, 4), (4, 5), (4, 6), (8, 8)):  # 2 pictures: 32, 40, 48 and 128 positions against 40 channels
        conv(picture(2, 6, hw))
    assert calls == [(4, 6), (8, 8)]


@pytest.mark.parametrize("slice_bytes", [1, 1000, 10**9])
def test_feed_forward_in_slices_is_geglu_of_the_whole(slice_bytes: int) -> None:
    ff = randomise(FeedForward(8))
    ff.slice_bytes = slice_bytes
    x = torch.randn(2, 7, 8, generator=torch.Generator().manual_seed(1))
    value, gate = F.linear(x, ff.proj_in.weight, ff.proj_in.bias).chunk(2, dim=-1)
    expected = F.linear(value * F.gelu(gate), ff.proj_out.weight, ff.proj_out.bias)
    assert relative(ff(x), expected) < 1e-6


def test_upsampling_repeats_pixels_and_downsampling_halves_the_side() -> None:
    up = randomise(Upsample(5))
    x = picture(1, 5, (3, 4))
    repeated = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert relative(up(x), F.conv2d(repeated, up.conv.weight, up.conv.bias, padding=1)) < 1e-6
    down = randomise(Downsample(5, padding=(0, 1, 0, 1)))
    x = picture(1, 5, (8, 6))
    assert relative(down(x), F.conv2d(F.pad(x, (0, 1, 0, 1)), down.conv.weight, down.conv.bias, stride=2)) < 1e-6
    assert randomise(Downsample(5, padding=(1, 1, 1, 1)))(x).shape == (1, 5, 4, 3)


def test_time_features_are_cosines_then_sines_of_falling_frequencies() -> None:
    """The closed form, frequency i being 10000^(-i / half)."""
    features = sinusoidal(torch.tensor([0, 501]), 8).double()
    for row, t in enumerate((0, 501)):
        for i in range(4):
            angle = torch.tensor(t * 10000.0 ** (-i / 4), dtype=torch.float64)
            assert features[row, i] == pytest.approx(angle.cos().item(), abs=1e-4)  # an angle of 501 in float32
            assert features[row, 4 + i] == pytest.approx(angle.sin().item(), abs=1e-4)
