"""The benchmark for a card, tried on the CPU with small networks."""

import json
from dataclasses import replace

import pytest
import torch

from tests.benchmarks import gpu, gpu_checks, gpu_networks
from tests.small import relative

CPU = torch.device("cpu")
SOME = ("fused", "explicit", "fused channels last", "diffusers", "diffusers whole maps")
CASE = replace(next(gpu.cases()), side=16, dtype="float32", variants=SOME)


@pytest.mark.parametrize("shape", ["SD 1.5", "SDXL"])
@pytest.mark.parametrize("whole_maps", [False, True])
def test_diffusers_is_measured_on_the_same_network(whole_maps: bool, shape: str) -> None:
    with torch.no_grad():
        unet = gpu_networks.random_unet(gpu_networks.tiny(shape), CPU, torch.float32)
        x, text = gpu_networks.guided_inputs(unet.config, 16, 1, CPU, torch.float32)
        theirs = gpu_networks.as_diffusers(unet, whole_maps=whole_maps)
        out = theirs(x, torch.tensor(gpu_networks.T), return_dict=False, **gpu_networks.read_by_diffusers(text))[0]
        assert relative(out, unet(x, gpu_networks.T, text)) < 1e-5


def test_the_operations_of_a_step_are_those_of_the_products_and_convolutions() -> None:
    """Counted by hand: what does not depend on the side is the time and the text, the rest grows with the tokens and their pairs."""
    config = gpu_networks.TINY
    one, four = (gpu_networks.step_flop(config, 16, images) for images in (1, 4))
    unet = gpu_networks.random_unet(config, CPU, torch.float32)
    text = sum(2 * 2 * 77 * module.to_k.weight.numel() * 2 for module in unet.cross_attentions())
    assert four == pytest.approx(4 * one, rel=1e-2)
    assert one > text + 2 * 2 * 16 * 16 * (unet.conv_in.weight.numel() + unet.conv_out.weight.numel())


def test_the_jobs_hold_every_shape_size_number_of_images_and_check() -> None:
    cases = list(gpu.cases())
    assert {case.shape for case in cases} == {"SD 1.5", "SD 2", "SDXL"}
    assert {8 * case.side for case in cases} == {512, 768, 1024}
    assert {case.images for case in cases} == {1, 4, 8}
    assert {case.dtype for case in cases} >= {"float16", "bfloat16"}
    names = [name for name, _ in gpu.jobs(CPU, 1, "eager", small=False)]
    assert len(names) == len(set(names))
    first = ["floors, float16", "parity", "golden maps", "kernels without a map", str(gpu.EVERY), str(gpu.EIGHT), str(gpu.LARGE)]
    assert names[: len(first)] == first
    assert {"memory, SDXL, 1024 px", "batch with 6 GiB free, SD 1.5, 512 px"} <= set(names)


def test_results_are_written_one_by_one_and_a_failure_does_not_stop_the_rest(tmp_path, monkeypatch) -> None:
    def failing(device):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(gpu_checks, "golden_maps", failing)
    monkeypatch.setattr(gpu_checks, "parity", lambda device: iter([("one", {"holds": True})]))
    monkeypatch.setattr(gpu, "cases", lambda: iter([CASE]))
    gpu.run_all(CPU, 10, tmp_path / "out.jsonl", small=True, rounds=2, backend="eager")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    by_name = {line["what"]: line for line in lines}
    assert [line["what"] for line in lines[:4]] == ["machine", "floors, float16", "parity", "golden maps"]
    assert lines[1]["tflops"] > 0 and lines[1]["copy_gb_s"] > 0
    assert "out of memory" in lines[3]["failed"]
    variants = by_name[str(CASE)]["variants"]
    assert set(variants) == set(CASE.variants) and all(one["step_s"] > 0 and one["tflops"] > 0 for one in variants.values())
    assert 0 < variants["explicit"]["error"] < 1e-5 and variants["fused channels last"]["error"] < 1e-5
    assert by_name["kernels without a map"]["320 wide, float16"]["computed_at"] == 320
    assert by_name["kernels without a map"]["320 wide, float16"]["said"] == ["memory-efficient"]
    assert by_name["kernels without a map"]["80 wide, float32"]["runs"] == "FLASH_ATTENTION"  # the only one of a CPU
    memory = by_name["memory, SDXL, 128 px"]["fused, 1 images"]
    assert memory["estimated_bytes"] > 0 and "not_measured" in memory
    assert by_name["batch with 6 GiB free, SD 1.5, 128 px"]["ran"]


def test_the_published_maps_are_found_in_ours(monkeypatch) -> None:
    with torch.no_grad():
        found = gpu_checks.golden_maps(CPU)
    assert found["sites"] == 32 and found["holds"]
    assert 0 < found["maps"] < 5e-4 and 0 < found["heads"] < 1e-5


def test_targets_are_written_as_soon_as_their_numbers_are_there() -> None:
    def timed(**seconds: float) -> dict:
        return {"variants": {name.replace("_", " "): {"step_s": s, "tflops": 100 / s} for name, s in seconds.items()}}

    done = {str(gpu.EVERY): timed(fused=9.0, diffusers=10.0, compiled=9.6, diffusers_compiled=10.0)}
    found = dict(gpu.targets(done))
    assert [one["holds"] for one in found.values()] == [False, True]
    assert [one["ratio"] for one in found.values()] == pytest.approx([0.96, 0.9])
    done |= {"floors, float16": {"tflops": 200.0}, str(gpu.EIGHT): timed(fused=2.0, compiled=1.0)}
    done[str(gpu.LARGE)] = {"variants": {"fused": {"peak_bytes": 1}, "diffusers whole maps": {"failed": "out of memory"}}}
    found = dict(gpu.targets(done))
    assert found[f"rate of the card's matrix products, {gpu.EIGHT}"] == {"ratio": 0.5, "least": 0.45, "holds": True}
    assert len(found) == 3
    done[str(gpu.LARGE)]["variants"]["diffusers whole maps"] = {"peak_bytes": 5}
    assert dict(gpu.targets(done))[f"peak of the published way, {gpu.LARGE}"]["holds"]


def test_no_case_begins_when_the_time_is_used_up(tmp_path) -> None:
    gpu.run_all(CPU, -1, tmp_path / "out.jsonl", small=True, rounds=1, backend="eager")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert lines[0]["what"] == "machine" and len(lines) > 20
    assert all(line["not_run"] == "no time left" for line in lines[1:])
