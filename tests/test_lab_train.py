"""The lab's training: the same numbers from the same seed, resumed or not; errors in one line."""

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from analogist import Analogist
from analogist.lab import loop, train
from analogist.lab.loop import learning_rate, step_seed
from analogist.lab.mixture import watched_grids
from analogist.lab.optimiser import Optimiser, orthogonal
from analogist.lab.recipe import Mix, Optimisation, Recipe, TextConfig, fine, from_json, small
from analogist.lab.split import EVALUATION_SEED
from analogist.lab.state import TrainingError, replace_file
from analogist.lab.unet_task import load_vae, target_weights
from analogist.lab.workers import Workers
from analogist.models.ddim import alpha_bars
from analogist.models.unet import UNetConfig
from analogist.models.vae import VAEConfig

PARTS = ("vae", "generic", "solver")
TINY = Recipe(
    name="tiny",
    size=32,
    vae=VAEConfig(channels=(8, 8), layers_per_block=1, norm_groups=4),
    unet=UNetConfig(channels=(8, 8, 8, 8), layers_per_block=2, heads=(1, 1, 1, 1), text_width=8, norm_groups=4),
    text=TextConfig(width=8, layers=1, heads=1),
    vae_training=Optimisation(batch=2, steps=6, warmup=2),
    generic_training=Optimisation(batch=2, steps=6, warmup=2, optimiser="muon"),
    solver_training=Optimisation(batch=2, steps=6, warmup=2, optimiser="muon"),
    generic=Mix(scene_collages=1.0),
    solver=Mix(scene_analogies=0.5, scene_collages=0.5),
    reuse=2,
)


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.json"
    path.write_text(json.dumps(TINY.to_json()))
    return path


def run(part: str, recipe: Path, out: Path, *more: str) -> int:
    return train.main([part, "--recipe", str(recipe), "--out", str(out), "--device", "cpu", "--threads", "1", "--quiet", *more])


@pytest.fixture(scope="module")
def whole(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training folder that was never interrupted."""
    out = tmp_path_factory.mktemp("whole")
    assert all(run(part, recipe_file, out) == 0 for part in PARTS)
    return out


def same_state(a: Path, b: Path) -> bool:
    first, second = load_file(a), load_file(b)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_same_seed_gives_the_same_numbers_twice(whole: Path, recipe_file: Path, tmp_path: Path) -> None:
    for part in PARTS:
        assert run(part, recipe_file, tmp_path) == 0
        assert same_state(tmp_path / f"{part}.safetensors", whole / f"{part}.safetensors")


def test_another_seed_gives_other_numbers(whole: Path, recipe_file: Path, tmp_path: Path) -> None:
    assert run("vae", recipe_file, tmp_path, "--seed", "1") == 0
    assert not same_state(tmp_path / "vae.safetensors", whole / "vae.safetensors")


def test_interrupted_and_resumed_equals_uninterrupted(
    whole: Path, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt_at_third(step: int, o: Optimisation, left: float | None = None) -> float:
        if step == 2:  # as Ctrl-C in the middle of a step
            os.kill(os.getpid(), signal.SIGINT)
        return learning_rate(step, o)

    for part in PARTS:
        with monkeypatch.context() as patch:
            patch.setattr(loop, "learning_rate", interrupt_at_third)
            assert run(part, recipe_file, tmp_path) == 0
        with safe_open(tmp_path / f"{part}.safetensors", "pt") as file:
            assert file.metadata()["step"] == "3"
        assert run(part, recipe_file, tmp_path) == 0
        assert same_state(tmp_path / f"{part}.safetensors", whole / f"{part}.safetensors")


def test_training_goes_on_from_an_exported_folder_alone(whole: Path, recipe_file: Path, tmp_path: Path) -> None:
    assert run("export", recipe_file, whole, "--to", str(tmp_path / "folder")) == 0
    out = tmp_path / "on"
    assert run("solver", recipe_file, out, "--init", str(tmp_path / "folder"), "--steps", "0") == 0
    before, after = load_file(whole / "solver.safetensors"), load_file(out / "solver.safetensors")
    exported = {name: tensor for name, tensor in before.items() if name.startswith("ema/")}
    assert exported
    for name, tensor in exported.items():
        assert torch.equal(after[name.replace("ema/", "model/")], tensor.half().float()), name
    vae, adopted = load_file(whole / "vae.safetensors"), load_file(out / "vae.safetensors")
    assert all(torch.equal(adopted[name], tensor.half().float()) for name, tensor in vae.items() if name.startswith("ema/"))


def test_training_goes_on_from_the_averaged_weights_alone(whole: Path, recipe_file: Path, tmp_path: Path) -> None:
    with safe_open(whole / "vae.safetensors", "pt") as file:
        metadata, ema = file.metadata(), {name: file.get_tensor(name).half() for name in file.keys() if name.startswith("ema/")}
    save_file(ema, tmp_path / "vae.safetensors", metadata=metadata)
    assert run("vae", recipe_file, tmp_path, "--steps", "6") == 0  # all steps are done: what was loaded is saved as it was
    after = load_file(tmp_path / "vae.safetensors")
    for name, tensor in ema.items():
        assert torch.equal(after[name], tensor.float()) and torch.equal(after[name.replace("ema/", "model/")], tensor.float())
    assert run("vae", recipe_file, tmp_path, "--steps", "8") == 0  # and it can be trained on
    assert not same_state(tmp_path / "vae.safetensors", whole / "vae.safetensors")


def test_the_begun_autoencoder_is_one_of_the_small_recipe_and_rebuilds_drawings(tmp_path: Path) -> None:
    begun = Path(train.__file__).parent / "begun" / "small.vae.safetensors"
    (tmp_path / "vae.safetensors").write_bytes(begun.read_bytes())
    batch = watched_grids(small().size)
    vae = load_vae(tmp_path, small(), batch)
    with torch.no_grad():
        out = vae.decoder(vae.post_quant_conv(vae.posterior(batch.pixels).mean))
    assert ((out.clamp(-1, 1) - batch.pixels) / 2).square().mean() < 0.0065  # 22 dB; measured 0.0060 when it was trained


def test_training_lowers_the_loss(recipe_file: Path, tmp_path: Path) -> None:
    assert run("vae", recipe_file, tmp_path, "--steps", "40") == 0
    entries = [json.loads(line) for line in (tmp_path / "vae.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [20, 40]
    assert entries[-1]["loss"] < 0.9 * entries[0]["loss"]


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("error: ")
    return err


def test_a_folder_that_is_not_writable_is_one_clear_line(recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run("vae", recipe_file, tmp_path / "file" / "out") == 2
    assert "cannot be written to" in one_line(capsys)


def test_a_state_of_another_configuration_is_one_clear_line(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps(replace(TINY, vae=replace(TINY.vae, layers_per_block=2)).to_json()))
    before = (whole / "vae.safetensors").read_bytes()
    assert run("vae", other, whole) == 2
    assert "vae.layers_per_block 1 in the file, 2 now" in one_line(capsys)
    assert (whole / "vae.safetensors").read_bytes() == before


def test_a_damaged_state_is_one_clear_line(recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "vae.safetensors").write_bytes(b"not a state")
    assert run("vae", recipe_file, tmp_path) == 2
    assert "cannot be read" in one_line(capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_cuda_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["vae", "--out", str(tmp_path), "--device", "cuda"]) == 2
    assert "no CUDA" in one_line(capsys)


def test_the_unet_without_a_vae_is_one_clear_line(recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generic", recipe_file, tmp_path) == 2
    assert "train the autoencoder first" in one_line(capsys)


def test_an_unknown_recipe_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["vae", "--out", str(tmp_path), "--recipe", "coarser"]) == 2
    assert "small, fine" in one_line(capsys)


def test_adamw_equals_torchs() -> None:
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 4)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    mine = Optimiser(dict(ours.named_parameters()), "adamw", 0.1)
    groups = [{"params": [p for p in theirs.parameters() if (p.ndim > 1) == wide], "weight_decay": 0.1 * wide} for wide in (True, False)]
    reference = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.99))
    for number in range(1, 11):
        x = torch.randn(5, 8)
        for network in (ours, theirs):
            network.zero_grad()
            network(x).square().mean().backward()
        mine.step(0.01, number)
        reference.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("shape", [(64, 64), (64, 576), (512, 64)])
def test_muons_update_is_about_orthogonal(shape: tuple[int, int]) -> None:
    matrix = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.max() < 1.3  # Jordan et al.: the iteration ends between 0.7 and 1.2, bfloat16 adds a little
    u, _, vh = torch.linalg.svd(matrix[0], full_matrices=False)
    cosine = (orthogonal(matrix)[0] * (u @ vh)).sum() / orthogonal(matrix).norm() / (u @ vh).norm()
    assert cosine > 0.97


def test_steps_shared_out_over_threads_give_the_same_bits() -> None:
    results = []
    for workers in (1, 3):
        torch.manual_seed(0)
        sizes = (12, 12, 12, 12, 12, 12, 20, 20, 7)  # more layers of one shape than are turned together, and single ones
        network = torch.nn.Sequential(*(torch.nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)))
        team, optimiser = Workers(network, workers, torch.float32), Optimiser(dict(network.named_parameters()), "muon", 0.1)
        before = [p.detach().clone() for p in network.parameters()]
        for number in range(1, 4):
            network.zero_grad()
            network(torch.randn(5, 12)).square().mean().backward()
            optimiser.step(0.1, number, team.each)
        team.close()
        assert not any(torch.equal(p, b) for p, b in zip(network.parameters(), before, strict=True))
        results.append([p.detach() for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_an_unknown_optimiser_is_an_error() -> None:
    with pytest.raises(ValueError, match="adamw, muon"):
        Optimiser({}, "sgd", 0.0)


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
def test_the_weight_of_the_error_in_x0_is_min_snr_with_a_floor(prediction: str) -> None:
    """An output that is off so that x0 is off by 1 costs min(max(SNR, floor), ceiling), whatever is predicted."""
    recipe, bars = replace(TINY, prediction=prediction, snr_floor=0.1), alpha_bars()[[0, 300, 981]].double()
    # solved by hand: x0 = sqrt(ab) z - sqrt(1 - ab) v, and x0 = (z - sqrt(1 - ab) eps) / sqrt(ab)
    off = {"v_prediction": -1 / (1 - bars).sqrt(), "epsilon": -bars.sqrt() / (1 - bars).sqrt()}[prediction]
    cost = off**2 * target_weights(recipe, bars)
    expected = [max(0.1, min(5.0, bar / (1 - bar))) for bar in bars.tolist()]
    assert cost.tolist() == pytest.approx(expected, rel=1e-6)


def test_a_recipe_of_drawings_without_their_folder_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["vae", "--out", str(tmp_path), "--device", "cpu"]) == 2
    assert "--drawings FOLDER" in one_line(capsys)


def test_the_solver_without_the_generic_stage_is_one_clear_line(
    whole: Path, recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vae.safetensors").write_bytes((whole / "vae.safetensors").read_bytes())
    assert run("solver", recipe_file, tmp_path) == 2
    assert "train the generic stage first" in one_line(capsys)


def test_the_solver_starts_from_the_generic_stages_averaged_weights(whole: Path, recipe_file: Path, tmp_path: Path) -> None:
    for name in ("vae", "generic"):
        (tmp_path / f"{name}.safetensors").write_bytes((whole / f"{name}.safetensors").read_bytes())
    assert run("solver", recipe_file, tmp_path, "--steps", "0") == 0
    generic, solver = load_file(whole / "generic.safetensors"), load_file(tmp_path / "solver.safetensors")
    names = [name for name in generic if name.startswith("ema/")]
    assert names and all(torch.equal(solver[name.replace("ema/", "model/")], generic[name]) for name in names)


class Clock:
    """Time passes with every look at it, so that a test does not depend on how busy the machine is."""

    now = 0.0

    def monotonic(self) -> float:
        self.now += 0.2
        return self.now


def set_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(loop, "time", clock)
    monkeypatch.setattr(train, "time", clock)


def test_everything_within_some_minutes_ends_in_two_folders_that_load(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    def watched(step: int, o: Optimisation, left: float | None = None) -> float:
        seen.append(left)
        return learning_rate(step, o, left)

    set_clock(monkeypatch)
    monkeypatch.setattr(loop, "learning_rate", watched)
    assert run("all", recipe_file, tmp_path / "out", "--minutes", "0.25", "--to", str(tmp_path / "lab")) == 0
    for folder in ("lab", "lab-generic"):
        model = Analogist.from_checkpoint(tmp_path / folder)
        assert model.schedule.prediction_type == "v_prediction" and len(model.unet.sites) == 32
    starts = [i for i, (before, after) in enumerate(zip([0.0, *seen], seen, strict=False)) if after > before]
    assert len(starts) == len(PARTS) and all(left <= 1 for left in seen)  # what is left falls within each part, by the clock
    before = (tmp_path / "out" / "solver.safetensors").read_bytes()
    assert run("all", recipe_file, tmp_path / "out", "--minutes", "0.25") == 0  # nothing is left to do
    assert (tmp_path / "out" / "solver.safetensors").read_bytes() == before


def test_everything_goes_on_with_the_part_that_was_interrupted(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt_generic(step: int, o: Optimisation, left: float | None = None) -> float:
        if (tmp_path / "generic.recipe.json").exists():
            os.kill(os.getpid(), signal.SIGINT)
        return learning_rate(step, o, left)

    set_clock(monkeypatch)
    monkeypatch.setattr(loop, "learning_rate", interrupt_generic)
    assert run("all", recipe_file, tmp_path, "--minutes", "0.25", "--to", str(tmp_path / "lab")) == 2
    assert "interrupted in generic" in one_line(capsys)
    assert json.loads((tmp_path / "finished.json").read_text()) == ["vae"] and not (tmp_path / "lab-generic").exists()


def test_everything_without_a_time_is_one_clear_line(recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("all", recipe_file, tmp_path) == 2
    assert "--minutes N" in one_line(capsys)
    assert run("all", recipe_file, tmp_path, "--minutes", "1", "--steps", "5") == 2
    assert "part by part" in one_line(capsys)


def test_the_learning_rate_rises_stays_and_falls_to_nothing() -> None:
    o = Optimisation(steps=100, warmup=10, decay=0.2, learning_rate=1.0)
    assert [learning_rate(s, o) for s in (0, 9, 50, 80, 90, 99)] == pytest.approx([0.1, 1, 1, 1, 0.5, 0.05])
    assert [learning_rate(50, o, left) for left in (1.0, 0.2, 0.1, 0.0, -0.1)] == pytest.approx([1, 1, 0.5, 0, 0])


def test_training_seeds_stay_below_those_of_evaluation() -> None:
    assert step_seed(98, 9_999_999) + 1 < EVALUATION_SEED
    with pytest.raises(TrainingError, match="from 0 to 98"):
        step_seed(99, 0)


def test_recipes_survive_json_and_unknown_keys_are_refused() -> None:
    for recipe in (small(), fine(), TINY):
        assert from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    with pytest.raises(ValueError, match="unknown keys sizes"):
        from_json({"name": "x", "sizes": 3})
    with pytest.raises(ValueError, match="unet: nonsense"):
        from_json({"name": "x", "unet": {"nonsense": 3}})


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    def fails(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("full disk")

    (tmp_path / "state").write_text("old")
    with pytest.raises(RuntimeError):
        replace_file(tmp_path / "state", fails)
    assert [p.name for p in tmp_path.iterdir()] == ["state"] and (tmp_path / "state").read_text() == "old"


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_share_out_a_batch_and_their_gradient_is_the_whole_batchs(workers: int) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.SiLU(), torch.nn.Linear(8, 2))
    x, wanted = torch.randn(7, 6), torch.randn(7, 2)  # 7 rows: parts of different sizes

    def loss(run, x, wanted):
        error = (run(x) - wanted).square()
        return error.mean(), {"largest": error.mean().item()}

    plain = (network(x) - wanted).square().mean()
    expected = torch.autograd.grad(plain, list(network.parameters()))
    team = Workers(network, workers, torch.float32)
    value, figures = team.gradient(loss, (x, wanted))
    team.close()
    assert value.item() == pytest.approx(plain.item(), rel=1e-6) and figures["largest"] == pytest.approx(plain.item(), rel=1e-6)
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-7)


def test_workers_use_the_networks_present_weights() -> None:
    network = torch.nn.Linear(3, 1, bias=False)
    team = Workers(network, 2, torch.float32)
    with torch.no_grad():
        network.weight.fill_(2.0)
    value, _ = team.gradient(lambda run, x: (run(x).mean(), {}), (torch.ones(4, 3),))
    team.close()
    assert value.item() == 6.0


def test_two_workers_give_the_same_numbers_twice(recipe_file: Path, tmp_path: Path) -> None:
    for name in ("once", "twice"):
        assert run("vae", recipe_file, tmp_path / name, "--threads", "2") == 0
        assert run("generic", recipe_file, tmp_path / name, "--threads", "2") == 0
    for part in ("vae", "generic"):
        assert same_state(tmp_path / "once" / f"{part}.safetensors", tmp_path / "twice" / f"{part}.safetensors")


def test_the_schedule_of_training_is_stable_diffusions() -> None:
    betas = [(math.sqrt(0.00085) + (math.sqrt(0.012) - math.sqrt(0.00085)) * i / 999) ** 2 for i in range(1000)]
    assert math.prod(1 - b for b in betas) == pytest.approx(alpha_bars()[-1].item(), rel=1e-3)
