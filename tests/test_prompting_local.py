"""A vision-language model on this machine, and the same one behind `transformers serve`: tiny, with random weights."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from analogist.grid import PromptGrid
from analogist.prompting import LocalPrompter, OpenAIPrompter, PromptError, request
from analogist.prompting.asking import shown_grid
from tests.prompters import small_grid
from tests.servers.vlm import write_llava

pytestmark = pytest.mark.usefixtures("no_endpoint")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_llava(tmp_path_factory.mktemp("vlm") / "tiny-llava")


@pytest.fixture(scope="module")
def grid() -> PromptGrid:
    return small_grid(size=None)


def test_a_local_model_says_what_transformers_own_pipeline_says(folder, grid):
    from transformers import pipeline

    prompts = LocalPrompter(folder, device="cpu", max_tokens=12)(grid)
    message = [
        {
            "role": "user",
            "content": [{"type": "image", "image": shown_grid(grid)}, {"type": "text", "text": request("published")}],
        }
    ]
    asked = pipeline("image-text-to-text", model=str(folder), device="cpu", dtype="float32")
    expected = asked(text=message, max_new_tokens=12, do_sample=False, return_full_text=False)[0]["generated_text"]
    assert prompts.author["answer"].strip() == expected.strip() != ""
    assert prompts.author["model"] == "tiny-llava" and str(folder.parent) not in json.dumps(prompts.author)


def test_a_local_model_sees_the_picture_and_keeps_to_its_token_limit(folder, grid):
    prompter = LocalPrompter(folder, device="cpu", max_tokens=12, cache=False)
    picture = shown_grid(grid)
    first = prompter.answer(picture, "x")
    assert prompter.answer(picture, "x") == first != prompter.answer(Image.effect_noise((512, 512), 99).convert("RGB"), "x")
    assert len(first) <= 12 < len(LocalPrompter(folder, device="cpu", max_tokens=20, cache=False).answer(picture, "x"))


def test_an_answer_is_kept_until_the_model_changes(folder, grid, tmp_path):
    own = tmp_path / "tiny-llava"
    shutil.copytree(folder, own)
    assert not LocalPrompter(own, device="cpu")(grid).author["cached"]
    again = LocalPrompter(own, device="cpu")
    assert again(grid).author["cached"] and "_loaded" not in vars(again)  # not even loaded
    with (own / "config.json").open("a") as file:
        file.write("\n")
    assert not LocalPrompter(own, device="cpu")(grid).author["cached"]


def test_bfloat16_is_computed_in_bfloat16(folder, grid):
    prompter = LocalPrompter(folder, device="cpu", dtype="bfloat16")
    assert prompter(grid).author["dtype"] == "bfloat16"
    assert {str(parameter.dtype) for parameter in prompter._loaded[1].parameters()} == {"torch.bfloat16"}


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed")
def test_a_processor_that_needs_torchvision_is_one_line_that_names_the_extra(folder, tmp_path):
    own = tmp_path / "qwen"
    shutil.copytree(folder, own, ignore=shutil.ignore_patterns("processor_config.json"))
    (own / "preprocessor_config.json").write_text(
        '{"processor_class": "Qwen2VLProcessor", "image_processor_type": "Qwen2VLImageProcessor"}'
    )
    (own / "config.json").write_text('{"model_type": "qwen2_vl", "architectures": ["Qwen2VLForConditionalGeneration"]}')
    with pytest.raises(PromptError, match=r"needs torchvision.*analogist\[local-vlm\]") as caught:
        LocalPrompter(own, device="cpu", cache=False).answer(Image.new("RGB", (8, 8)), "x")
    assert "\n" not in str(caught.value)


def test_what_is_no_vision_language_model_is_one_line(folder, tmp_path):
    def fails(path: Path) -> str:
        with pytest.raises(PromptError) as caught:
            LocalPrompter(path, device="cpu", cache=False).answer(Image.new("RGB", (8, 8)), "x")
        assert "\n" not in str(caught.value) and path.name in str(caught.value)
        return str(caught.value)

    assert "cannot be loaded" in fails(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "cannot be loaded" in fails(tmp_path / "empty")
    shutil.copytree(folder, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert "cannot be loaded" in fails(tmp_path / "cut")
    shutil.copytree(folder, tmp_path / "mute", ignore=shutil.ignore_patterns("chat_template.jinja"))
    assert "no chat template" in fails(tmp_path / "mute")


@pytest.mark.parametrize("settings", [{"device": "cuda:99"}, {"dtype": "int4"}, {"max_tokens": 0}])
def test_unusable_settings_are_refused_before_anything_is_loaded(settings):
    with pytest.raises(ValueError, match=str(next(iter(settings.values())))):
        LocalPrompter("nobody/nothing", **{"device": "cpu"} | settings)


@pytest.mark.slow
def test_the_real_protocol_of_transformers_serve(folder, grid):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).parent / "transformers"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    argv = [program, "serve", "--port", str(port), "--host", "127.0.0.1", "--device", "cpu", "--dtype", "float32"]
    server = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        _wait(f"http://127.0.0.1:{port}/health", server)
        endpoint = {"base_url": f"http://127.0.0.1:{port}/v1", "max_tokens": 12, "temperature": 0.0, "timeout": 300}
        prompts = OpenAIPrompter(str(folder), **endpoint)(grid)
        assert 1 <= len(prompts.first.split()) <= 5 and prompts.author["model"] == str(folder)
        assert 0 < len(prompts.author["answer"]) <= 12
        with pytest.raises(PromptError, match="answered 500, tried once"):
            OpenAIPrompter(str(folder.parent / "nowhere"), **endpoint, retries=0)(grid)
    finally:
        server.terminate()
        server.wait(120)


def _wait(url: str, server: subprocess.Popen, seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            assert server.poll() is None and time.monotonic() < end, "transformers serve did not come up"
            time.sleep(0.2)
