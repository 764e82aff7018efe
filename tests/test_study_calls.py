"""Study of attention through the model's own call: branches, two runs at once, sweeps step by step, types, and the README's calls."""

import functools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from analogist import Analogist, Capture, PromptGrid
from analogist.attention.capture.capture import make_plan
from analogist.attention.edit import edits
from analogist.attention.measure import measures
from analogist.config import AnalogistConfig, SamplingConfig
from analogist.models.control import CAM, SAC
from analogist.models.placement import Placement
from tests.small import small_unet
from tests.study_runs import inputs, sample, shape

ROOT = Path(__file__).parent.parent
CHECKPOINT = ROOT / "tests" / "parity" / "checkpoint"
SHORT = AnalogistConfig(
    sampling=SamplingConfig(steps=3, strength=1.0, guidance=3.0), sac=SAC(Placement("*")), cam=CAM(Placement("up.*"))
)
HEARD = "up.1.attn.2.cross:probs"


@pytest.fixture(scope="module")
def model() -> Analogist:
    return Analogist.from_checkpoint(CHECKPOINT, device="cpu")


@pytest.fixture(scope="module")
def grid() -> PromptGrid:
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((61, 61)) for _ in range(3)]
    return PromptGrid(*pictures, size=128)


@pytest.fixture(scope="module")
def call(model, grid):
    return functools.partial(model, grid, config=SHORT, progress=False, prompt_suffix="")


def test_an_empty_negative_prompt_swapped_for_the_prompt_swaps_the_branches(call):
    """And the label "text" belongs to the prompt: the run without guidance has that branch alone."""
    first = call("a red cat", negative_prompt="", capture=Capture("*:probs", steps=0)).maps
    second = call("", negative_prompt="a red cat", capture=Capture("*:probs", steps=0)).maps
    alone = call("a red cat", config=SHORT.replace(guidance=1.0), capture=Capture("*:probs", steps=0)).maps
    assert len(first) == 32

    def same(a: torch.Tensor, b: torch.Tensor) -> bool:
        # As a whole, not number by number: rows of a batch of one and of two are summed in another order on some processors.
        return bool((a - b).norm() <= 1e-4 * b.norm())

    for name, m in first.items():
        for one, other in (("text", "negative"), ("negative", "text")):
            assert same(m.sel(branch=one).tensor, second[name].sel(branch=other).tensor), name
        assert same(m.sel(branch="text").tensor, alone[name].sel(branch="text").tensor), name
    assert not torch.allclose(first[HEARD].sel(branch="text").tensor, first[HEARD].sel(branch="negative").tensor, atol=1e-4)


def test_one_request_serves_two_runs_that_go_on_in_turns(model, grid):
    request = Capture(HEARD)
    asked = {"config": SHORT, "capture": request}
    alone = {seed: [step.maps[HEARD].tensor for step in model.steps(grid, "a red cat", seed=seed, **asked)] for seed in (1, 2)}
    runs = {seed: model.steps(grid, "a red cat", seed=seed, **asked) for seed in (1, 2)}
    for i, (one, two) in enumerate(zip(runs[1], runs[2], strict=True)):
        assert torch.equal(one.maps[HEARD].tensor, alone[1][i]) and torch.equal(two.maps[HEARD].tensor, alone[2][i])
    assert len(alone[1]) == 3 and not torch.equal(alone[1][0], alone[2][0])


def test_a_sweep_step_by_step_equals_patching_each_step_by_hand(call):
    name = "up.3.attn.2.cross:out"
    clean, corrupted = functools.partial(call, "a red cat"), functools.partial(call, "blue")
    sweep = measures.patch_sweep(clean, corrupted, name, steps=[0, 2], progress=False)
    assert sweep.steps == (0, 2) and sweep.recovered.shape == (1, 2, 1)
    good, bad = clean(capture=name), corrupted()
    kept, whole = good.maps[name].tensor, float(((bad.latents - good.latents) ** 2).mean())
    for j, patched in enumerate((0, 2)):

        def put(out, at, patched=patched):
            return kept[at.step].flatten(0, 1).clone() if at.step == patched else out

        left = float(((corrupted(edit={name: put}).latents - good.latents) ** 2).mean())
        assert float(sweep.recovered[0, j, 0]) == pytest.approx(1 - left / whole, rel=1e-3, abs=1e-5)
    assert float((sweep.recovered[0, 0, 0] - sweep.recovered[0, 1, 0]).abs()) > 1e-4


def test_a_run_in_bfloat16_keeps_its_own_type_but_for_scores_and_sums_in_the_planned_bytes():
    unet, run = small_unet(dtype=torch.bfloat16), replace(shape(images=1), dtype=torch.bfloat16)
    x, text = inputs(unet, run)
    totals = Capture("9.self:probs", reduce="regions", label="totals", steps=0)
    request = [Capture("9.self:probs", "9.self:scores", "9.self:v", steps=0), totals]
    maps = sample(unet, run, request, x=x.bfloat16(), text=text.bfloat16(), stop=1)[1].maps
    types = {name.partition(":")[2]: m.tensor.dtype for name, m in maps.items()}
    assert types == {"probs": torch.bfloat16, "scores": torch.float32, "v": torch.bfloat16, "probs@totals": torch.float32}
    # branches 2, heads 4, 4 x 4 tokens, 8 channels a head
    assert make_plan(request, unet, run).bytes == maps.nbytes == 2 * 4 * (16 * 16 * 2 + 16 * 16 * 4 + 16 * 8 * 2 + 16 * 4)


def here() -> list[str]:
    """The right column of the table in notebooks/README.md for those who come from elsewhere."""
    lines = (ROOT / "notebooks" / "README.md").read_text().partition("## Coming from elsewhere")[2].partition("\n## ")[0].splitlines()
    return [line.replace("\\|", "\0").split(" | ")[-1].replace("\0", "|") for line in lines if line.startswith("|")][2:]


def test_the_calls_of_the_readmes_migration_table_run(model, grid):
    """Every call in the column "Here" is run as it stands there, on a prompt that has its words."""
    cells = here()
    assert len(cells) == 12
    spans = [span for cell in cells for span in re.findall(r"`([^`]+)`", cell)]

    def fn(tensor, at):
        return tensor

    def fast(*args, **kwargs):
        return model(*args, **{"config": SHORT, "progress": False, **kwargs})

    names = {"model": fast, "grid": grid, "prompt": "a cat", "fn": fn, "edits": edits, "measures": measures, "Capture": Capture}
    names["result"] = fast(grid, "a cat", capture=["9.self:probs", "*.cross:probs"])
    names["clean"] = functools.partial(fast, grid, "a cat")
    names["corrupted"] = functools.partial(fast, grid, "blue")
    ran = []
    for span in spans:
        if span.startswith(("edit=", "capture=")):
            exec(f"model(grid, prompt, {span})", names)
        elif span.startswith("measures.patch_sweep"):  # as it stands, but for one site only: 16 sites x 3 steps x heads take a minute
            sites = eval(span.replace('"*.self:head_out"', '"6.self:head_out", steps=[0], progress=False'), names)
            assert sites.recovered.shape == (1, 1, 8)
        elif re.match(r"(model|result|measures|result = model)[.(\[]", span) and "..." not in span and span != "model.unet.sites":
            exec(span, names)
        else:
            continue
        ran.append(span)
    assert len(ran) >= 9, ran
