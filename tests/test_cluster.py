"""How groups are handed to Ray workers, on pretended workers that die as told; real ones are in test_ablation_slow.py."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from analogist.experiments.execute.cluster import ATTEMPTS, Loading, RayPool, _Dispatch
from analogist.experiments.execute.jobs import Group
from tests.experiments_small import CHECKPOINT

errors = pytest.importorskip("ray").exceptions
GROUPS = [Group(name, (), 1) for name in "abcde"]


class PretendedRay:
    """Ray's calls as the dispatcher makes them: a reference is a function. does: of (worker number, group key), may raise."""

    exceptions = errors

    def __init__(self, does: Callable[[int, str], None], *, holds: str) -> None:
        self.does, self.holds, self.made, self.killed = does, holds, 0, []

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def remote(self, _: type) -> SimpleNamespace:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._actor))

    def _actor(self, *_) -> SimpleNamespace:
        number, self.made = self.made, self.made + 1

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


def dispatched(loading: Loading, does: Callable[[int, str], None], *, holds: str | None = None) -> tuple[list[str], PretendedRay]:
    """The keys of the groups that came back, in their order."""
    ray = PretendedRay(does, holds=loading.fingerprint() if holds is None else holds)
    found = [(group.key, results) for group, results, _ in _Dispatch(ray, RayPool(loading, workers=2, threads=1), GROUPS).results()]
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

    with pytest.raises(ValueError, match=r"3 Ray workers died on one group of 0 runs \(RayActorError\); if memory ran out"):
        dispatched(loading, does)


def test_an_error_of_ours_comes_back_as_it_is(loading) -> None:
    def does(number: int, key: str) -> None:
        raise errors.RayTaskError("run", "traceback", ValueError("the grid is no grid"))

    with pytest.raises(ValueError, match="^the grid is no grid$"):
        dispatched(loading, does)


def test_a_worker_that_holds_another_checkpoint_is_refused(loading) -> None:
    with pytest.raises(ValueError, match="another checkpoint .content key 000000000000"):
        dispatched(loading, lambda number, key: None, holds="0" * 64)
