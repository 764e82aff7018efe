"""A full-size Stable Diffusion 1.5 inpainting checkpoint (random weights), from file to B', in both layouts."""

import json

import numpy as np
import pytest
from PIL import Image

from analogist.cli.main import main
from tests.checkpoints import remove, write_full_size


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["single", "folder"])
def test_a_full_size_checkpoint_runs_from_file_to_b_prime(tmp_path, layout):
    rng = np.random.default_rng(0)
    paths = []
    for name in ("a", "a_prime", "b"):
        paths.append(str(tmp_path / f"{name}.jpg"))
        Image.fromarray(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)).save(paths[-1])
    checkpoint = write_full_size(tmp_path / "checkpoint", "sd15", layout)
    try:
        argv = ["run", "--a", paths[0], "--a-prime", paths[1], "--b", paths[2], "--prompt", "a photograph", "--steps", "3"]
        argv += ["--checkpoint", str(checkpoint), "--size", "256", "--dtype", "bfloat16", "--device", "cpu", "--quiet"]
        assert main([*argv, "--out", str(tmp_path / "out")]) == 0
    finally:
        remove(checkpoint)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["checkpoint"]["family"] == "sd15-inpainting" and record["executed_times"] == [334, 1]
    with Image.open(tmp_path / "out" / "b_prime_42.png") as b_prime:
        assert b_prime.size == (128, 128) and np.asarray(b_prime).std() > 0
