"""The benchmark for a card, tried on the CPU with small networks."""

import json
from dataclasses import replace

import pytest
import torch

from tests.benchmarks import gpu
from tests.small import relative

CPU = torch.device("cpu")
CASE = replace(next(gpu.cases()), side=16, dtype="float32", variants=("fused", "explicit", "diffusers", "diffusers whole maps"))


@pytest.mark.parametrize("whole_maps", [False, True])
def test_diffusers_is_measured_on_the_same_network(whole_maps: bool) -> None:
    with torch.no_grad():
        unet = gpu.random_unet(gpu.TINY, CPU, torch.float32)
        x, text = gpu.inputs(gpu.TINY, CASE, CPU, torch.float32)
        theirs = gpu.as_diffusers(unet, whole_maps=whole_maps)(x, torch.tensor(gpu.T), text, return_dict=False)[0]
        assert relative(theirs, unet(x, gpu.T, text)) < 1e-5


def test_results_are_written_one_by_one_and_a_failure_does_not_stop_the_rest(tmp_path, monkeypatch) -> None:

    def failing(device):
        raise RuntimeError("out of memory")
        yield

    monkeypatch.setattr(gpu, "parity", failing)
    monkeypatch.setattr(gpu, "cases", lambda: iter([CASE]))
    gpu.run_all(CPU, 10, tmp_path / "out.jsonl", tiny=True, rounds=2, backend="eager")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["what"] for line in lines[:3]] == ["machine", "floors, float32", "parity"]
    assert lines[1]["tflops"] > 0 and lines[1]["copy_gb_s"] > 0
    assert "out of memory" in lines[2]["failed"]
    variants = lines[3]["variants"]
    assert set(variants) == set(CASE.variants) and all(one["step_s"] > 0 for one in variants.values())
    assert 0 < variants["explicit"]["error"] < 1e-5


def test_no_case_begins_when_the_time_is_used_up(tmp_path) -> None:
    gpu.run_all(CPU, -1, tmp_path / "out.jsonl", tiny=True, rounds=1, backend="eager")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert lines[0]["what"] == "machine" and len(lines) > 8
    assert all(line["not_run"] == "no time left" for line in lines[1:])
