"""Configurations: published defaults, validation, presets, JSON both ways."""

import json
import math

import pytest

from analogist.config import TASKS, AnalogistConfig, SamplingConfig, paper, published_code
from analogist.models.control import CAM, SAC
from analogist.models.placement import Placement


def test_the_defaults_are_the_published_ones():
    config = AnalogistConfig()
    assert (config.sampling.steps, config.sampling.strength, config.sampling.guidance, config.sampling.eta) == (50, 0.98, 15.0, 0.0)
    assert config.sampling.executed == 49
    assert config.sac == SAC(Placement.layers(3, 11), scale=1.3, mirror=True)
    assert config.cam == CAM(Placement.layers(3, 11), silence=("A", "A'", "B"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("steps", 0), ("steps", 1001), ("steps", 2.5), ("steps", True), ("strength", 0), ("strength", 1.01), ("strength", math.nan),
     ("guidance", -1), ("guidance", math.inf), ("eta", -0.1), ("eta", 1.5), ("guidance", "7")],
)  # fmt: skip
def test_values_out_of_range_are_errors_that_name_the_field(field, value):
    with pytest.raises(ValueError, match=field):
        SamplingConfig(**{field: value})


def test_steps_and_strength_that_leave_no_step_are_an_error():
    with pytest.raises(ValueError, match="leaves no step"):
        SamplingConfig(steps=10, strength=0.05)


CONFIGURATIONS = [
    AnalogistConfig(),
    AnalogistConfig(sac=None, cam=None),
    paper(scale=1.4),
    published_code("inpainting"),
    AnalogistConfig(
        sampling=SamplingConfig(steps=7, strength=0.5, guidance=1.0, eta=0.3),
        sac=SAC(
            (Placement("up.*", heads=[0, 2]) | Placement.layers([3], steps=range(2, 5))) - Placement("up.1.*", branches=["negative"]),
            scale=(1.0, 2.0), stage="probs", clone=(("B", "B'"), ("A", "A'")),
        ),
        cam=CAM(Placement("mid.*"), silence=("B'",)),
    ),
]  # fmt: skip


@pytest.mark.parametrize("config", CONFIGURATIONS)
def test_json_gives_an_equal_configuration_back(config):
    assert AnalogistConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize("where", [(), ("sampling",), ("sac",), ("cam",), ("sac", "placement")])
def test_unknown_keys_are_an_error(where):
    data = AnalogistConfig().to_json()
    part = data
    for key in where:
        part = part[key]
    part["sacle"] = 1
    with pytest.raises(ValueError, match="sacle"):
        AnalogistConfig.from_json(data)


def test_replace_takes_sampling_fields_directly():
    config = AnalogistConfig().replace(steps=10, sac=None)
    assert config.sampling == SamplingConfig(steps=10) and config.sac is None and config.cam == CAM()


def test_presets_hold_the_published_settings():
    assert published_code() == AnalogistConfig()
    assert paper().sac == SAC(mirror=False)
    for task in ("deblur", "denoise"):
        assert (published_code(task).sampling.strength, published_code(task).sampling.guidance) == (0.7, 15.0)
    assert (published_code("inpainting").sampling.strength, published_code("inpainting").sampling.guidance) == (0.98, 7.5)
    assert len(TASKS) == 10
    with pytest.raises(ValueError, match="colorization"):
        published_code("colourization")


def test_a_file_that_is_no_configuration_is_named(tmp_path):
    for content, message in ((b"{", "not a JSON file"), (b"[1]", "expected a JSON object"), (b"\xff\xfe", "not a JSON file")):
        path = tmp_path / "config.json"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            AnalogistConfig.load(path)
    with pytest.raises(ValueError, match="cannot be read"):
        AnalogistConfig.load(tmp_path / "missing.json")
