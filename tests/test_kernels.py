"""Heads padded to the width of a kernel give what they give as they are, SAC's doubled heads among them."""

import pytest
import torch
import torch.nn.functional as F

from analogist.models import kernels
from analogist.models.control import CAM, SAC, AttentionControl
from tests.small import relative, small_unet, unet_inputs

CPU = "cpu"


def heads(width: int, dtype: torch.dtype = torch.float32, queries: int = 40, keys: int = 24) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(width)
    return tuple(torch.randn(2, 3, n, width, generator=generator).to(dtype) for n in (queries, keys, keys))


@pytest.fixture
def padded(monkeypatch):
    """Every head is padded to a multiple of a number, on the CPU."""

    def to(step: int) -> None:
        monkeypatch.setattr(kernels, "kernel_width", lambda width, device: -(-width // step) * step)

    return to


def test_on_a_card_heads_are_padded_to_what_its_kernels_read_and_no_further() -> None:
    for width in (40, 80, 160, 320, 64, 128):  # SD 1.5 with and without SAC, SD 2 and SDXL
        assert kernels.kernel_width(width, "cuda") == width
    assert [kernels.kernel_width(width, "cuda") for width in (1, 7, 12, 20, 81)] == [8, 8, 16, 24, 88]


def test_on_a_card_only_heads_wider_than_256_need_the_memory_efficient_kernel() -> None:
    by_both = ("flash", "memory-efficient")
    for width in (40, 80, 160, 64, 128, 249, 256):  # SD 1.5 without SAC, and with it at its two finer scales; SD 2 and SDXL
        assert kernels.without_map(width) == by_both
    for width in (257, 320, 512):  # SAC at SD 1.5's coarser scales, the autoencoder
        assert kernels.without_map(width) == ("memory-efficient",)


def test_on_a_cpu_float32_is_computed_as_it_is() -> None:
    assert all(kernels.kernel_width(width, CPU) == width for width in range(1, 400))
    for width in (40, 80, 160):
        q, k, v = heads(width, keys=300)
        assert torch.equal(kernels.attend(q, k, v), F.scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize("scale", [None, 0.31])
@pytest.mark.parametrize("width", [5, 12, 40, 80, 160, 320])
@pytest.mark.parametrize("step", [8, 64, 512])
def test_padded_heads_give_what_they_give_as_they_are(padded, step: int, width: int, scale: float | None) -> None:
    q, k, v = heads(width)
    logits = q.double() @ k.double().mT * (width**-0.5 if scale is None else scale)
    expected = logits.softmax(-1) @ v.double()
    padded(step)
    out = kernels.attend(q, k, v, scale=scale)
    assert out.shape == q.shape
    assert relative(out, expected) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_padded_heads_are_as_close_in_half_precision(padded, dtype: torch.dtype) -> None:
    q, k, v = heads(40, dtype)
    expected = (q.double() @ k.double().mT * 40**-0.5).softmax(-1) @ v.double()
    as_it_is = relative(kernels.attend(q, k, v), expected)
    padded(64)
    assert relative(kernels.attend(q, k, v), expected) < max(2 * as_it_is, 1e-3)


def test_small_maps_are_for_the_widths_and_keys_at_which_they_were_measured_to_be_faster() -> None:
    for width, ratio in kernels.SMALL_MAPS.items():
        assert ratio < 0.95
        assert kernels.in_small_maps(width, 256, torch.bfloat16, CPU)
        assert not kernels.in_small_maps(width, 77, torch.bfloat16, CPU)
        assert not any(kernels.in_small_maps(width, 4096, dtype, CPU) for dtype in (torch.float32, torch.float16))
        assert not kernels.in_small_maps(width, 4096, torch.bfloat16, "cuda")
    assert not any(kernels.in_small_maps(width, 4096, torch.bfloat16, CPU) for width in (40, 64))


@pytest.mark.parametrize("scale", [None, 0.05])
@pytest.mark.parametrize("width", sorted(kernels.SMALL_MAPS))
def test_small_maps_give_what_a_whole_map_gives(monkeypatch, width: int, scale: float | None) -> None:
    q, k, v = heads(width, torch.bfloat16, queries=70, keys=300)
    expected = (q.double() @ k.double().mT * (width**-0.5 if scale is None else scale)).softmax(-1) @ v.double()
    seen = []
    monkeypatch.setattr(kernels, "NUMBERS", 300 * 32)
    monkeypatch.setattr(kernels, "softmax_in_place", lambda logits: seen.append(tuple(logits.shape)) or logits.softmax(-1))
    assert relative(kernels.attend(q, k, v, scale=scale), expected) < 1e-2  # logits, probabilities and sums keep 8 bits
    assert seen == [(32, 300), (32, 300), (6, 300)] * 6


def test_gradients_pass_through_small_maps() -> None:
    q, k, v = (each.float().requires_grad_() for each in heads(40, queries=20, keys=30))
    kernels.with_small_maps(q, k, v, 0.2).square().sum().backward()
    ours = [each.grad.clone() for each in (q, k, v)]
    for each in (q, k, v):
        each.grad = None
    F.scaled_dot_product_attention(q, k, v, scale=0.2).square().sum().backward()
    assert all(relative(one, each.grad) < 1e-5 for one, each in zip(ours, (q, k, v), strict=True))


@pytest.mark.parametrize("stage", ["scores", "probs"])
def test_a_whole_network_with_sac_and_cam_gives_the_same_with_padded_heads(padded, stage: str) -> None:
    unet = small_unet()
    x, t, text = unet_inputs(unet.config)
    control = AttentionControl(t=t, branches=2, sac=SAC(stage=stage), cam=CAM(), attention="fused")
    seen, whole = set(), F.scaled_dot_product_attention

    def watched(q, k, v, scale=None):
        seen.add(q.shape[-1])
        return whole(q, k, v, scale=scale)

    expected = unet(x, t, text, control)
    padded(64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels.F, "scaled_dot_product_attention", watched)
        out = unet(x, t, text, control)
    assert seen == {64}
    assert relative(out, expected) < 1e-5
