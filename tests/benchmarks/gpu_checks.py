"""What is checked on a card before it is measured: published results and maps, kernels, the memory estimate, the choice of a batch."""

from collections.abc import Iterator

import torch
from safetensors.torch import load_file

from analogist.models.control import CAM, SAC, AttentionControl
from analogist.models.kernels import kernel_width, without_map
from analogist.models.placement import Placement
from analogist.models.unet import UNet, UNetConfig
from analogist.run.memory import call_bytes, free_bytes, images_at_once
from tests.benchmarks.gpu_networks import T, guided_inputs, random_unet
from tests.devices import TOLERANCE


def on(device: torch.device) -> str:
    """The column of the table of tolerances."""
    return "cpu" if device.type == "cpu" else "cuda"


def parity(device: torch.device) -> Iterator[tuple[str, dict]]:
    """The published code's cases in float32: relative error of the last latents, beside the tolerance."""
    from analogist.pipeline import Analogist
    from tests.test_parity import CASES, PARITY, relative, run

    allowed = TOLERANCE["the published last latents", torch.float32, on(device)]
    model = Analogist.from_checkpoint(PARITY / "checkpoint", dtype="float32", device=device)
    for name in sorted(CASES["cases"]):
        theirs = load_file(PARITY / f"{name}.safetensors")["latents"]
        errors = {form: relative(run(model, CASES["cases"][name], form).latents, theirs) for form in ("fused", "explicit")}
        yield name, {"errors": errors, "allowed": allowed, "holds": max(errors.values()) < allowed}


def golden_maps(device: torch.device) -> dict:
    """Every map and head output of one call in float32, and its noise prediction in both forms, against the published code's."""
    from analogist.pipeline import Analogist
    from tests.small import Looking
    from tests.test_parity import PARITY, relative

    expected = {name: tensor.to(device) for name, tensor in load_file(PARITY / "attention_maps_128.safetensors").items()}
    unet = Analogist.from_checkpoint(PARITY / "checkpoint", dtype="float32", device=device).unet
    look = Looking(points=("scores", "probs", "head_out"))
    settings = {"t": T, "branches": 1, "sac": SAC(), "cam": CAM()}
    call = (expected["sample"], T, expected["context"])
    unet(*call, AttentionControl(tap=look, attention="explicit", **settings))
    maps, heads = {}, {}
    for site in unet.sites:
        prefix = f"{site.layer:02d}.{site.kind}"
        before = expected[f"{prefix}.before"].float()
        after = expected.get(f"{prefix}.after", before).float()
        probs, joined = look.at(site, "probs")[0], look.at(site, "head_out")[0].transpose(0, 1).flatten(1)
        apart = (look.at(site, "scores").softmax(-1)[0] - before).abs().max(), (probs - after).abs().max()
        maps[site.name] = max(float(each) for each in apart)
        heads[site.name] = relative(joined, expected[f"{prefix}.heads_out"].cpu().reshape(joined.shape))
    noise = {form: relative(unet(*call, AttentionControl(attention=form, **settings)), expected["noise_pred"].cpu())
             for form in ("explicit", "fused")}  # fmt: skip
    allowed = {"maps": 5e-4, "rest": TOLERANCE["the UNet in two forms", torch.float32, on(device)]}  # maps are stored as float16
    worst = {"sites": len(maps), "maps": max(maps.values()), "heads": max(heads.values()), "noise": noise}
    holds = worst["maps"] < allowed["maps"] and max(worst["heads"], *noise.values()) < allowed["rest"]
    return {**worst, "worst_map_at": max(maps, key=maps.__getitem__), "allowed": allowed, "holds": holds}


# Widths of heads: SD 1.5's 40, 80, 160 and with SAC 80, 160, 320; SD 2's and SDXL's 64 and 128; the autoencoder's 512; one that is odd.
WIDTHS = (40, 80, 160, 320, 64, 128, 512, 12)


def kernels(device: torch.device) -> dict:
    """Which of torch's kernels without a map take heads of each width, as they are computed, and which runs; it holds where one does.

    torch is asked, and then made to use these alone: a width that only the kernel with a map takes is an error there. said: the kernels
    that models/kernels.py says take it in half precision.
    """
    from torch.backends import cuda
    from torch.nn.attention import SDPBackend, sdpa_kernel

    ask = {
        "flash": cuda.can_use_flash_attention, "memory-efficient": cuda.can_use_efficient_attention,
        "cuDNN": cuda.can_use_cudnn_attention,
    }  # fmt: skip
    allowed = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]
    found = {}
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        for width in WIDTHS:
            wide = kernel_width(width, device.type)
            q = torch.zeros(2, 8, 256, wide, device=device, dtype=dtype)
            params = cuda.SDPAParams(q, q, q, None, 0.0, False, False)
            taken = [name for name, takes in ask.items() if takes(params, False)]
            try:
                with sdpa_kernel(allowed):
                    torch.nn.functional.scaled_dot_product_attention(q, q, q)
                ran = True
            except RuntimeError:
                ran = False
            name = f"{width} wide, {str(dtype).removeprefix('torch.')}"
            runs = SDPBackend(torch._fused_sdp_choice(q, q, q)).name
            holds = ran and runs != "MATH"
            found[name] = {"computed_at": wide, "taken_by": taken, "said": without_map(width), "runs": runs, "holds": holds}
    return found


def one_call(unet: UNet, side: int, images: int, device: torch.device, dtype: torch.dtype, form: str) -> int | None:
    """Peak bytes above the weights and inputs of one guided call with SAC and CAM; None on a device that does not count them."""
    at = Placement.layers(*unet.config.published_layers)
    x, text = guided_inputs(unet.config, side, images, device, dtype)
    prepared = unet.prepare_text(text)
    control = AttentionControl(t=T, images=images, sac=SAC(at), cam=CAM(at), attention=form)
    if device.type != "cuda":
        unet(x, T, prepared, control)
        return None
    unet(x, T, prepared, control)  # what is kept from the first call (plans of kernels) is not of the call
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    held = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    unet(x, T, prepared, control)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - held


def memory(config: UNetConfig, side: int, images: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> dict:
    """The estimate by which batches are chosen against the real peak, in both forms; it holds where it is no smaller."""
    unet = random_unet(config, device, dtype)
    found = {}
    for form in ("fused", "explicit"):
        each = call_bytes(config, branches=2, h=side, w=side, dtype=dtype, maps=form == "explicit")
        for count in images:
            peak = one_call(unet, side, count, device, dtype, form)
            real = {"not_measured": "this device does not count its memory"} if peak is None else {
                "peak_bytes": peak, "of_estimate": peak / (count * each), "holds": peak <= count * each}  # fmt: skip
            found[f"{form}, {count} images"] = {"estimated_bytes": count * each, **real}
    return found


def batch_choice(config: UNetConfig, side: int, device: torch.device, dtype: torch.dtype, *, leave: int | None, images: int) -> dict:
    """The batch that is chosen where little memory is free, and whether it runs. leave: bytes left free by a block held beside; None:
    all that is free.
    """
    unet = random_unet(config, device, dtype)
    beside = max(0, free_bytes(device) - leave) if leave is not None and device.type == "cuda" else 0
    block = torch.empty(beside, dtype=torch.uint8, device=device)
    free = free_bytes(device)
    chosen = images_at_once(config, images=images, branches=2, h=side, w=side, device=device, dtype=dtype, maps=False)
    try:
        peak = one_call(unet, side, chosen, device, dtype, "fused")
        ran = {"ran": True, **({} if peak is None else {"peak_bytes": peak, "of_free": peak / free})}
    except torch.OutOfMemoryError as error:
        ran = {"ran": False, "why": str(error)[:300]}
    del block
    return {"free_bytes": free, "asked": images, "chosen": chosen, **ran}
