"""Every promise on a device that is not there: nothing of the host meets it by mistake, and no step waits for it (see one_device.py)."""

from collections.abc import Callable, Iterator

import pytest
import torch

from analogist import Capture
from analogist.attention.capture.reduce import TopK
from analogist.attention.edit import edits as E
from analogist.attention.edit.edits import Edits
from analogist.experiments.execute.engine import Engine
from analogist.grid import PromptGrid
from analogist.models import control
from analogist.models.control import CAM, SAC
from analogist.models.placement import Placement
from analogist.pipeline import Analogist
from analogist.run import transfer
from analogist.run.result import SamplingError
from tests.experiments_small import BASE, PARITY, SIZE, load_model, plan_of
from tests.one_device import META, Mixed, OneDevice, meta_model

TO_DEVICE = {"analogist/run/transfer.py:to_device", "analogist/checkpoints/text_encoder.py:encode_ids"}  # what a run brings to the device
SOME = BASE.replace(  # rows and heads of its own, so that groups of the batch are indexed
    sac=SAC(Placement.layers(3, 11, heads=[0], branches=["text"])), cam=CAM(Placement.layers(3, 11, branches=["text"]))
)


@pytest.fixture(scope="module")
def model() -> Analogist:
    return meta_model()


@pytest.fixture(scope="module")
def grid() -> PromptGrid:
    return PromptGrid.from_image(PARITY / "grid.png", SIZE)


@pytest.fixture
def watch() -> Iterator[OneDevice]:
    with OneDevice() as mode:
        yield mode


def test_the_watch_sees_what_a_card_would_refuse_and_what_it_would_wait_for() -> None:
    there, here = torch.empty(3, 3, device=META), torch.ones(3, 3)
    with OneDevice() as mode:
        for mixed in (lambda: there @ here, lambda: there + here, lambda: there.clone().masked_fill(here > 0, 0.0)):
            with pytest.raises(Mixed, match="mixes the host"):
                mixed()
        for read in (lambda: there.sum().item(), lambda: bool(there[0, 0] > 0), lambda: there.cpu(), lambda: there.tolist()):
            with pytest.raises(Mixed, match="reads a value"):
                read()
        with pytest.raises(Mixed, match="only the device knows"):
            there.nonzero()
        assert not mode.moves and not mode.made and not mode.index_copies
        there[torch.arange(2)] = 0.0
        here.to(META)
        torch.tensor([1, 2], device=META)
        assert mode.index_copies and mode.moves and mode.made


@pytest.mark.parametrize("attention", ["fused", "explicit"])
@pytest.mark.parametrize("config", [BASE, SOME], ids=["everywhere", "some rows and heads"])
def test_a_step_reads_nothing_but_whether_it_is_finite_and_brings_nothing_to_the_device(model, grid, watch, attention, config) -> None:
    steps = model.steps(grid, "a red boat", config=config, images=2, attention=attention)
    next(steps)  # also prepares the text, and makes the index tensors
    for brought in (watch.reads, watch.moves, watch.made, watch.index_copies):
        brought.clear()
    assert len(list(steps)) == 2
    assert watch.reads == ["analogist/run/transfer.py:read"] * 2
    assert watch.moves == watch.made == watch.index_copies == []


def test_index_tensors_made_anew_in_a_step_would_be_seen(model, grid, watch, monkeypatch) -> None:
    monkeypatch.setattr(control, "index_of", control.index_of.__wrapped__)
    steps = model.steps(grid, "a red boat", config=SOME)
    next(steps)
    watch.made.clear()
    next(steps)
    assert set(watch.made) == {"models/control.py:index_of"}


def test_the_noise_of_a_step_is_the_one_thing_that_eta_brings_to_the_device(model, grid, watch) -> None:
    steps = model.steps(grid, "a red boat", config=BASE.replace(eta=0.5))
    next(steps)
    watch.moves.clear()
    next(steps)
    assert watch.moves == ["analogist/run/transfer.py:to_device"]


def b_prime(grid: PromptGrid):
    return grid.cells(without_border=True)["B"]


CALLS: dict[str, Callable[[Analogist, PromptGrid], object]] = {
    "run": lambda model, grid: model(grid, "a red boat", config=BASE, images=2, progress=False),
    "run without guidance": lambda model, grid: model(grid, "a red boat", config=BASE.replace(guidance=1), progress=False),
    "at": lambda model, grid: model.at(grid, "a red boat", b_prime=b_prime(grid), config=BASE).loss,
    "invert": lambda model, grid: model.invert(grid, "a red boat", b_prime=b_prime(grid), config=BASE.replace(steps=2), refine=0),
    "a study in batches": lambda model, grid: Engine(model).sample(
        plan_of(load_model(), factors={"sac.layers": ["3-10", "4"], "guidance": [3.0, 1.0]}).groups[0]
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_call_keeps_host_and_device_apart(model, grid, watch, call: str) -> None:
    CALLS[call](model, grid)
    assert set(watch.moves) <= TO_DEVICE | {"analogist/experiments/execute/engine.py:__init__"}
    assert not watch.index_copies


SELF, CROSS = "up.1.*.self:", "up.1.*.cross:"
CAPTURES = {
    "every point of every site": lambda: ["*"],
    "reductions and parts": lambda: [
        Capture(SELF + "probs", reduce=["mean_heads", "mean_steps"]),
        Capture(SELF + "probs", reduce="regions", label="regions"),
        Capture(SELF + "probs", reduce=TopK(3), key="A'", label="top"),
        Capture(SELF + "logits", query="B'", key=["A", "B'"], heads=[1], branches="text"),
        Capture(CROSS + "probs", words="boat", branches="text"),
    ],
}


@pytest.mark.parametrize("wanted", CAPTURES)
def test_a_capture_keeps_host_and_device_apart_and_ends_on_the_host(model, grid, watch, wanted: str) -> None:
    maps = model(grid, "a red boat", config=BASE, capture=CAPTURES[wanted](), progress=False).maps
    assert len(maps) > 0 and all(m.tensor.device.type == "cpu" and len(m.steps) == 3 for m in maps.values())


def test_a_capture_to_files_keeps_host_and_device_apart(model, grid, watch, tmp_path) -> None:
    maps = model(grid, "", config=BASE, capture=Capture(SELF + "probs", spill=tmp_path), progress=False).maps
    assert len(maps) == 3


OFF = BASE.replace(sac=None, cam=None)
EDITS: dict[str, Edits] = {
    "scale": {"*": E.scale(1.1)},
    "scale_block": {SELF + "logits": E.scale_block("A'", "B'", 1.2)},
    "zero_block": {SELF + "probs": E.zero_block("A")},
    "cut_block": {SELF + "logits": E.cut_block("A", "B")},
    "swap_heads": {SELF + "q": E.swap_heads(0, 1)},
    "average_heads": {SELF + "probs": E.average_heads()},
    "ablate_heads": {SELF + "head_out": E.ablate_heads([0], by="mean")},
    "temperature": {SELF + "scores": E.temperature(2.0)},
    "sharpen_rows": {SELF + "probs": E.sharpen_rows(2.0)},
    "blur_rows": {SELF + "probs": E.blur_rows(1.0)},
    "reweight_word": {CROSS + "probs": E.reweight_word("boat", 2.0)},
    "share_keys": {SELF + "k": E.share_keys(0, mix=0.5)},
    "sac": {SELF + "logits": E.sac()},
    "sac_blended": {SELF + "logits": E.sac_blended(0.5)},
    "sac_aligned": {SELF + "logits": E.sac_aligned()},
    "scale_blocks": {SELF + "logits": E.scale_blocks(1.4, others=0.9)},
    "cam": {CROSS + "probs": E.cam()},
    "freeu": E.freeu(),
    "patch": {},  # needs a captured map, below
    "add": {},  # needs the width of a site, below
}  # fmt: skip
NO_EDITS = {"Edit", "EditError", "Edits", "region_view"}  # what `edits` holds beside edits


def test_every_ready_edit_is_tried_here() -> None:
    assert set(EDITS) == set(E.__all__) - NO_EDITS


@pytest.mark.parametrize("name", EDITS)
def test_a_ready_edit_keeps_host_and_device_apart(model, grid, watch, name: str) -> None:
    edits = EDITS[name]
    if name == "patch":
        point = "up.1.attn.0.self:head_out"
        captured = next(model.steps(grid, "", config=BASE, images=2, capture=Capture(point, query="B'"))).maps[point]
        edits = {point: E.patch(captured, steps=0, weight=0.5)}
    if name == "add":
        site = next(site for site in model.unet.sites if site.name == "up.1.attn.0.self")
        edits = {f"{site}:out": E.add(torch.ones(site.widths["out"]), 0.5, query="B'")}
    alone = name.startswith("sac") or name in ("cam", "scale_blocks")
    step = next(model.steps(grid, "a red boat", config=OFF if alone else BASE, images=2, edit=edits))
    assert step.z_t.device == META


def test_an_edit_of_some_rows_and_heads_brings_nothing_to_the_device_after_the_first_step(model, grid, watch) -> None:
    edits = {SELF + "probs": E.scale(1.1, branches="text", images=[1], heads=[1])}
    steps = model.steps(grid, "a red boat", config=BASE, images=2, edit=edits)
    next(steps)
    watch.moves.clear()
    watch.made.clear()
    assert len(list(steps)) == 2
    assert watch.moves == watch.made == watch.index_copies == []


class Late(transfer.Arriving):
    """Truth values that come when they are waited for, as from a card that has more to do."""

    here = False


def test_nan_in_a_step_whose_answer_comes_late_names_that_step(grid, monkeypatch) -> None:
    monkeypatch.setattr(transfer, "Arriving", Late)
    model, seen = load_model(), []
    edits = {"up.1.attn.0.self:head_out": lambda tensor, at: tensor * float("nan") if at.step == 1 else tensor}
    with pytest.raises(SamplingError, match=r"step 1 \(t = 251\)"):
        for step in model.steps(grid, "", config=BASE, edit=edits):
            seen.append(step.i)
    assert seen == [0, 1, 2]  # nothing waited


def test_a_job_that_fails_while_its_answer_is_late_names_the_same_step(monkeypatch) -> None:
    model = load_model()
    group = plan_of(model, factors={"guidance": [3.0, 1e38]}).groups[0]
    known = Engine(model).sample(group).failed
    monkeypatch.setattr("analogist.experiments.execute.engine.Arriving", Late)
    assert Engine(model).sample(group).failed == known and list(known) == [1]
