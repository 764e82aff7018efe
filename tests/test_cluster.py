"""How groups are handed to Ray workers, on pretended workers that die as told; real ones are in test_ablation_slow.py."""

import hashlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from analogist import Analogist
from analogist.experiments.execute.cluster import ATTEMPTS, Loading, RayPool, _Dispatch, _Held
from analogist.experiments.execute.jobs import Group, Job, painted_by
from tests.experiments_small import CHECKPOINT, load_parity, plan_of, write_lora

errors = pytest.importorskip("ray").exceptions
MODEL = {"checkpoint": "c" * 64, "dtype": "float32"}
LORA = {"sha256": "d" * 64, "scale": 0.5, "strengths": [1.0]}


def group_of(name: str, model: dict) -> Group:
    """A group of one job, of which only the model that it was made for counts here."""
    return Group(name, (cast(Job, SimpleNamespace(content=model | {"seed": 1})),), 1)


class PretendedRay:
    """Ray's calls as the dispatcher makes them: a reference is a function. does: of (worker number, group key), may raise."""

    exceptions = errors

    def __init__(self, does: Callable[[int, str], None], *, holds: dict) -> None:
        self.does, self.holds, self.made, self.killed = does, holds, 0, []
        self.loaded: list[Loading] = []

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def remote(self, _: type) -> SimpleNamespace:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._actor))

    def _actor(self, loading: Loading, _: int) -> SimpleNamespace:
        number, self.made = self.made, self.made + 1
        self.loaded.append(loading)

        def run(group: Group) -> Callable:
            def result():
                self.does(number, group.key)
                return [group.key], 0.1

            return result

        return SimpleNamespace(
            number=number, ready=SimpleNamespace(remote=lambda: lambda: self.holds), run=SimpleNamespace(remote=run)
        )

    def wait(self, references: list, **_) -> tuple[list, list]:
        return references[-1:], references[:-1]  # the latest first: in an order that is not that of asking

    def get(self, reference: Callable) -> object:
        return reference()

    def kill(self, actor: SimpleNamespace) -> None:
        self.killed.append(actor.number)


@pytest.fixture(scope="module")
def loading() -> Loading:
    return Loading(checkpoint=str(CHECKPOINT))


def dispatched(
    loading: Loading, does: Callable[[int, str], None], *, holds: dict = MODEL, planned: dict = MODEL
) -> tuple[list[str], PretendedRay]:
    """The keys of the groups that came back, in their order. holds: the workers' model. planned: the model the jobs were made for."""
    ray, groups = PretendedRay(does, holds=holds), [group_of(name, planned) for name in "abcde"]
    found = [(group.key, results) for group, results, _ in _Dispatch(ray, RayPool(loading, workers=2, threads=1), groups).results()]
    assert all(results == [key] for key, results in found)
    return [key for key, _ in found], ray


def test_every_group_comes_back_once_from_as_many_workers_as_asked_for(loading) -> None:
    found, ray = dispatched(loading, lambda number, key: None)
    assert sorted(found) == list("abcde") and ray.made == 2 and sorted(ray.killed) == [0, 1]


@pytest.mark.parametrize("error", [errors.RayActorError(), errors.ObjectLostError("0" * 40, None, ""), errors.NodeDiedError("gone")])
def test_the_group_of_a_worker_that_dies_is_done_by_another(loading, error) -> None:
    tried: list[tuple[int, str]] = []

    def does(number: int, key: str) -> None:
        tried.append((number, key))
        if key == "c" and sum(k == "c" for _, k in tried) < ATTEMPTS:
            raise error

    found, ray = dispatched(loading, does)
    assert sorted(found) == list("abcde")
    workers = [number for number, key in tried if key == "c"]
    assert len(set(workers)) == ATTEMPTS == len(workers) and ray.made == 2 + ATTEMPTS - 1


def test_a_group_that_costs_three_workers_ends_the_run_with_a_clear_line(loading) -> None:
    def does(number: int, key: str) -> None:
        if key == "b":
            raise errors.RayActorError()

    with pytest.raises(ValueError, match=r"3 Ray workers died on one group of 1 runs \(RayActorError\); if memory ran out"):
        dispatched(loading, does)


def test_an_error_of_ours_comes_back_as_it_is(loading) -> None:
    def does(number: int, key: str) -> None:
        raise errors.RayTaskError("run", "traceback", ValueError("the grid is no grid"))

    with pytest.raises(ValueError, match="^the grid is no grid$"):
        dispatched(loading, does)


@pytest.mark.parametrize(
    ("holds", "planned", "says"),
    [
        (MODEL | {"checkpoint": "0" * 64}, MODEL, "another model: checkpoint 000000000000, .* planned with checkpoint cccccccccccc,"),
        (MODEL | {"dtype": "float16"}, MODEL, "float16, no LoRA; .* float32, no LoRA"),
        (MODEL, MODEL | {"lora": [LORA]}, "no LoRA; .* LoRA dddddddddddd at scale 0.5"),
        (MODEL | {"lora": [LORA]}, MODEL, "LoRA dddddddddddd at scale 0.5; .* no LoRA"),
        (MODEL | {"lora": [LORA | {"scale": 1.0}]}, MODEL | {"lora": [LORA]}, "at scale 1.0; .* at scale 0.5"),
    ],
)
def test_a_worker_that_holds_another_model_than_the_study_was_planned_with_is_refused(loading, holds, planned, says) -> None:
    with pytest.raises(ValueError, match=says):
        dispatched(loading, lambda number, key: None, holds=holds, planned=planned)


def test_workers_load_in_the_precision_that_the_study_was_planned_in_unless_told_otherwise(loading) -> None:
    planned = MODEL | {"dtype": "bfloat16"}
    _, ray = dispatched(loading, lambda number, key: None, holds=planned, planned=planned)
    assert {one.dtype for one in ray.loaded} == {"bfloat16"}
    _, ray = dispatched(Loading(dtype="float32"), lambda number, key: None)
    assert {one.dtype for one in ray.loaded} == {"float32"}


def test_a_worker_says_which_model_it_loaded_with_its_loras(tmp_path) -> None:
    model = load_parity()
    write_lora(model, tmp_path / "l.safetensors")
    lora = (str(tmp_path / "l.safetensors"), 0.5)
    held = _Held(Loading(checkpoint=str(CHECKPOINT), lora=(lora,), device="cpu"), torch.get_num_threads())
    merged = Analogist.from_checkpoint(CHECKPOINT, device="cpu", lora=[lora])
    said = held.ready()
    assert said == painted_by(plan_of(merged, size=128).jobs[0]) != painted_by(plan_of(model, size=128).jobs[0])
    assert said["lora"][0]["sha256"] == hashlib.sha256((tmp_path / "l.safetensors").read_bytes()).hexdigest()
