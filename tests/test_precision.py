"""TF32 on request and channels last: where they may be asked for, what they set, and what the record says."""

import pytest
import torch

from analogist import Analogist, PromptGrid
from analogist.checkpoints import devices
from analogist.checkpoints.devices import pick_dtype
from analogist.config import SamplingConfig
from analogist.models import kernels, memory_layout
from analogist.models.control import CAM, SAC, AttentionControl
from analogist.models.placement import Placement
from analogist.pipeline import lab_checkpoint
from analogist.run.denoise import exact
from tests.small import relative, small_unet, small_vae, unet_inputs

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def settings() -> tuple[str, str]:
    return torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision


def test_tf32_is_for_cuda_alone_and_computes_on_float32_weights():
    assert pick_dtype("tf32", CUDA) == torch.float32
    with pytest.raises(ValueError, match="dtype 'tf32' on cpu: only CUDA devices compute in it; use float32"):
        pick_dtype("tf32", CPU)
    with pytest.raises(ValueError, match="allowed are float32, float16, bfloat16 and tf32"):
        pick_dtype("float8", CUDA)


@pytest.mark.parametrize("how", ["ends", "fails"])
def test_tf32_is_on_for_convolutions_and_products_where_it_is_asked_for_and_only_there(how):
    before = settings()
    try:
        with exact(CUDA, tf32=True):
            assert settings() == ("tf32", "tf32")
            if how == "fails":
                raise KeyError
    except KeyError:
        pass
    assert settings() == before
    with exact(CUDA):
        assert settings() == ("ieee", before[1])
    with exact(CPU, tf32=True):
        assert settings() == before
    assert settings() == before


@pytest.fixture(scope="module")
def result():
    model = Analogist.from_checkpoint(lab_checkpoint(), channels_last=True, progress=False)
    grid = PromptGrid.from_image(torch.zeros(128, 128, 3, dtype=torch.uint8).numpy(), 128)
    config = model.config.replace(sampling=SamplingConfig(steps=2, strength=0.6))
    return model, grid, config


def test_the_record_says_in_what_a_run_was_computed(result):
    model, grid, config = result
    record = model(grid, "a", config=config).record
    assert record["computed"]["channels_last"] is True and record["computed"]["vae_tiles"] is None
    assert record["dtype"] == "float32" and record["computed"]["small_maps"] == []
    model.unet.tf32, model.vae.tiled_above = True, 64
    try:
        record = model(grid, "a", config=config).record
    finally:
        model.unet.tf32, model.vae.tiled_above = False, 1024
    assert record["dtype"] == "tf32" and record["computed"]["vae_tiles"] == 64


def test_the_record_names_the_sites_that_are_computed_with_small_maps(result, monkeypatch):
    _, grid, config = result
    model = Analogist.from_checkpoint(lab_checkpoint(), dtype="bfloat16", progress=False)
    assert model(grid, "a", config=config).record["computed"]["small_maps"] == []
    width = model.unet.sites[0].widths["q"]
    monkeypatch.setattr(kernels, "SMALL_MAPS", {width: 0.5})
    used, whole = [], kernels.with_small_maps
    monkeypatch.setattr(kernels, "with_small_maps", lambda q, *rest: used.append(q.shape[-2]) or whole(q, *rest))
    named = model(grid, "a", config=config, attention={"up.3.attn.2.self": "explicit"}).record["computed"]["small_maps"]
    alike = [site for site in model.unet.sites if site.widths["q"] == width and site.kind == "self" and (16 // site.stride) ** 2 >= 256]
    assert named == [site.name for site in alike if site.name != "up.3.attn.2.self"] and used
    monkeypatch.setattr(kernels, "SMALL_MAPS", {2 * width: 0.5})  # the width of two heads that SAC joins
    wide = model(grid, "a", config=config.replace(sac=None)).record["computed"]["small_maps"]  # sites whose heads are that wide anyway
    used.clear()
    sac = config.replace(sac=SAC(Placement("up.3.attn.1.self")))
    joined = model(grid, "a", config=sac).record["computed"]["small_maps"]
    assert set(joined) - set(wide) == {"up.3.attn.1.self"} and used


def test_with_channels_last_a_run_gives_the_same_up_to_rounding(result):
    model, grid, config = result
    usual = Analogist.from_checkpoint(lab_checkpoint(), channels_last=False, progress=False)
    assert not memory_layout.is_channels_last(usual.unet) and memory_layout.is_channels_last(model.vae)
    assert relative(model(grid, "a", config=config).latents, usual(grid, "a", config=config).latents) < 1e-4  # guided twice


def test_pictures_keep_their_channels_last_through_the_networks():
    unet, vae = small_unet(), small_vae()
    memory_layout.channels_last(unet)
    memory_layout.channels_last(vae)
    orders = []

    def look(module, given, out):
        orders.append(out.is_contiguous(memory_format=torch.channels_last))

    for network in (unet, vae):
        for module in network.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.register_forward_hook(look)
    x, t, text = unet_inputs(unet.config, hw=(32, 32))
    unet(x, t, text, AttentionControl(t=t, sac=SAC(), cam=CAM()))
    vae.decode(torch.randn(1, 4, 8, 8))
    # not all: convolutions of small pictures are matrix products, whose results have an order of their own
    assert len(orders) > 60 and sum(orders) > 0.8 * len(orders)


def test_the_table_decides_and_only_what_was_measured_counts(monkeypatch):
    monkeypatch.setattr(memory_layout, "MEASURED", {("cpu", torch.bfloat16): 0.7, ("cpu", torch.float32): 0.99})
    assert memory_layout.pays(CPU, torch.bfloat16)
    assert not memory_layout.pays(CPU, torch.float32) and not memory_layout.pays(CUDA, torch.float16)


@pytest.mark.parametrize(
    "found, warned", [({"avx2": True, "avx512_bf16": False}, True), ({"avx512_bf16": True}, False), ({"sve_bf16": True}, False)]
)
def test_bfloat16_on_a_processor_without_units_for_it_is_said_to_be_slower_than_float32(monkeypatch, recwarn, found, warned):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    for device, dtype in ((CPU, torch.float32), (CUDA, torch.bfloat16)):
        devices.warn_if_slow(device, dtype)
    assert not recwarn.list
    devices.warn_if_slow(CPU, torch.bfloat16)
    assert [("float32 is faster here" in str(one.message)) for one in recwarn.list] == [True] * warned


def test_a_torch_that_does_not_tell_the_units_of_a_processor_gives_no_warning(monkeypatch, recwarn):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert devices.bfloat16_units() is None
    devices.warn_if_slow(CPU, torch.bfloat16)
    assert not recwarn.list
