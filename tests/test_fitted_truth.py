"""The true B' is compared as it stands in its cell: stretched, cropped or padded as the grid draws its pictures."""

import dataclasses
import hashlib

import numpy as np
import pytest
from PIL import Image

from analogist.experiments.design.inputs import Input
from analogist.experiments.evaluate.kiva import KivaInput, choice
from analogist.experiments.execute.ablation import Local, ablate
from analogist.experiments.execute.worker import Worker
from analogist.experiments.score.metrics import Measurer, Painted
from analogist.grid import PromptGrid
from tests.experiments_small import BASE, load_model, one_input, study

METRICS = ("mse", "psnr", "mse_colour", "mse_detail")


@pytest.fixture(scope="module")
def model():
    return load_model()


def photo(seed: int = 0) -> Image.Image:
    """A picture three times as wide as it is high, with other colours in its middle than at its ends."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 9, 3), np.uint8)
    return Image.fromarray(coarse).resize((90, 30), Image.Resampling.BICUBIC)


def drawn(picture: Image.Image, fit: str | None, size: int = 64) -> Image.Image:
    """A picture in the cell of B, without border, drawn by the grid itself."""
    return PromptGrid(photo(1), photo(2), picture, size, fit=fit).cells(without_border=True)["B"]


def analogy(fit: str | None, truth: Image.Image | None = None) -> Input:
    return Input("photo", PromptGrid(photo(1), photo(2), photo(3), 64, fit=fit), "a red boat", truth=photo(3) if truth is None else truth)


def answered(grid: PromptGrid, answer: Image.Image) -> Image.Image:
    """The cell of B' with an answer in it, white around."""
    whole, inner = grid.boxes()["B'"], grid.boxes(without_border=True)["B'"]
    cell = Image.new("RGB", (whole[2] - whole[0], whole[3] - whole[1]), "white")
    cell.paste(answer, (inner[0] - whole[0], inner[1] - whole[1]))
    return cell


@pytest.mark.parametrize("fit", [None, "stretch", "crop", "pad"])
def test_an_answer_that_is_drawn_as_the_grid_draws_the_truth_is_perfect_and_any_other_is_not(fit) -> None:
    one = analogy(fit, photo(4))
    measurer = Measurer(["mse", "mse_detail"])
    for answer in ("stretch", "crop", "pad"):
        measured = measurer.measure(Painted(answered(one.grid, drawn(photo(4), answer)), one.grid, one.truth))
        if answer == (fit or "stretch"):
            assert measured == {"mse": 0.0, "mse_detail": 0.0}
        else:
            assert measured["mse"] > 0.01 and measured["mse_detail"] > 0.001


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_a_studys_values_are_those_of_the_results_own_score(model, tmp_path, monkeypatch, fit) -> None:
    shown = {}

    def sheet(rows, columns, picture, *, side):
        shown.update({row: picture(r, 0) for r, row in enumerate(rows)})
        return Image.new("RGB", (8, 8)), ""

    monkeypatch.setattr("analogist.experiments.report.outputs.contact_sheet", sheet)
    one = analogy(fit)
    rows = ablate(study(inputs=(one,), metrics=METRICS), tmp_path, model=model, progress=False).rows
    scored = model(one.grid, one.prompt, seed=1, config=BASE, progress=False).score(one.truth)
    assert {name: scored[name] for name in METRICS} == {row["metric"]: row["value"] for row in rows if row["metric"] in METRICS}
    # B and the truth are one and the same photo here: the sheet shows both alike.
    assert shown["true B'"].tobytes() == shown["B"].tobytes()


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_values_against_a_stretched_truth_are_measured_again_from_the_pictures(model, tmp_path, monkeypatch, fit) -> None:
    given, painted = study(inputs=(analogy(fit),), metrics=METRICS), []

    class Counting(Local):
        def run(self, groups):
            for found in super().run(groups):
                painted.extend(job.key for job in found[0].jobs)
                yield found

    def values(folder) -> dict:
        pool = Counting(Worker(model, Measurer(given.metrics)))
        rows = ablate(given, folder, model=model, pool=pool, progress=False, outputs=False).rows
        return {row["metric"]: row["value"] for row in rows}

    with monkeypatch.context() as before:  # as the truth was compared and hashed whatever the grid's fit was
        before.setattr(Painted, "other", lambda self, which: self.truth.resize(self.picture().size))
        before.setattr(Input, "truth_key", lambda self: hashlib.sha256(self.truth.convert("RGB").tobytes()).hexdigest())
        stretched = values(tmp_path / "old")
    assert len(painted) == 1
    again = values(tmp_path / "old")
    assert len(painted) == 1 and again != stretched  # nothing was painted a second time
    assert again == values(tmp_path / "new")


def test_the_key_of_a_truth_that_is_stretched_is_that_of_its_pixels() -> None:
    pixels = hashlib.sha256(photo(3).tobytes()).hexdigest()  # as in the folders that are there
    keys = {fit: analogy(fit).truth_key() for fit in (None, "stretch", "crop", "pad")}
    assert keys[None] == keys["stretch"] == pixels == dataclasses.replace(one_input(), truth=photo(3)).truth_key()
    assert len(set(keys.values())) == 3


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_the_wrong_choice_is_fitted_as_the_truth_is(fit) -> None:
    wrong = photo(5)
    truth = Image.blend(wrong, photo(6), 0.2)  # much nearer to the wrong choice than that is to itself in another shape
    one = KivaInput("k", analogy(fit).grid, truth=truth, wrong=wrong, b=photo(3))
    for answer, right in ((truth, 1), (wrong, 0)):
        painted = Painted(answered(one.grid, drawn(answer, fit)), one.grid, one.truth, one)
        assert choice(painted.picture(), painted.other("truth"), one) == right
