"""Uses of the public names, for the type checker alone: it must know them although they load lazily. Nothing here runs."""

# pyright: reportUnnecessaryTypeIgnoreComment=true
# Each ignored line is wrong on purpose: where the checker did not know a name, it would find the line right and the comment unnecessary.

from typing import assert_type

from PIL import Image

from analogist import SAC, Analogist, AnalogistConfig, AttentionMap, Capture, Placement, PromptGrid, Result, SamplingConfig, every
from analogist.experiments import Study
from analogist.explore import Explorer, explore
from analogist.models.unet import UNet
from analogist.prompting import OpenAIPrompter, Prompts
from analogist.weights import Checkpoint, open_checkpoint


def calls(model: Analogist, grid: PromptGrid) -> None:
    result = model(grid, "a cat", seed=1, capture=Capture("up.*:probs", steps=every(10)))
    assert_type(result, Result)
    assert_type(result.b_prime, Image.Image)
    assert_type(result.maps["up.1.attn.2.self:probs"], AttentionMap)
    assert_type(explore(result), Explorer)
    assert_type(model.unet, UNet)
    assert_type(OpenAIPrompter("model")(grid), Prompts)
    assert_type(open_checkpoint("file.safetensors"), Checkpoint)
    assert_type(model.config.replace(sac=SAC(Placement("up.*"))), AnalogistConfig)
    assert_type(SamplingConfig().steps, int)


def wrong(model: Analogist, grid: PromptGrid) -> None:
    model(grid, seed="1")  # pyright: ignore[reportArgumentType]
    PromptGrid("a.png")  # pyright: ignore[reportCallIssue]
    SAC(scale="1.3")  # pyright: ignore[reportArgumentType]
    Placement.layer(3)  # pyright: ignore[reportAttributeAccessIssue]
    Capture("up.*:probs", stepz=3)  # pyright: ignore[reportCallIssue]
    Study(name=1)  # pyright: ignore[reportArgumentType]
    open_checkpoint(3)  # pyright: ignore[reportArgumentType]
