"""Studies under attack: SIGKILL at random moments, dying Ray workers, nodes that come and go. Each ends with the same table."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from analogist.experiments.execute.ablation import ablate, prepare
from analogist.experiments.execute.cluster import Loading, RayPool
from tests.experiments_small import BASE, CHECKPOINT, PARITY, load_parity, without_times

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def study_file(folder: Path, **changes) -> Path:
    """24 runs of the parity checkpoint, two a group, with shared beginnings."""
    data = {
        "name": "kill", "factors": {"sac.scale": [1.3, 1.0, 1.8], "sac.steps": ["all", "1"], "text": ["on", "off"]}, "design": "full",
        "base": BASE.replace(steps=3, strength=0.7).to_json(), "seeds": [1, 2], "size": 128, "group": 2, "batch": 2,
        "inputs": [{"grid": str(PARITY / "grid.png"), "name": "grid", "prompt": "a boat"}], "metrics": ["mse_to_b"],
    }  # fmt: skip
    path = folder / "study.json"
    path.write_text(json.dumps(data | changes))
    return path


def start(study: Path, out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "analogist", "ablate", str(study), "--out", str(out), "--checkpoint", str(CHECKPOINT)]
    return subprocess.Popen(
        [*command, "--device", "cpu", "--quiet"], env=ENVIRONMENT, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def committed(out: Path) -> int:
    return len(list((out / "groups").glob("*.json")))


def test_a_study_killed_ten_times_ends_with_the_table_of_the_uninterrupted_one(tmp_path) -> None:
    study = study_file(tmp_path)
    whole = start(study, tmp_path / "whole")
    assert whole.wait(300) == 0, whole.stderr.read()
    written = sorted(path.stat().st_mtime for path in (tmp_path / "whole" / "groups").glob("*.json"))
    a_group = (written[-1] - written[0]) / (len(written) - 1)  # seconds, on this machine
    out, chance, kills, found = tmp_path / "killed", random.Random(7), 0, []
    for _ in range(10):
        process = start(study, out)
        before = committed(out)
        # somewhere while it loads, or within a group after its first commit: so little each time that ten kills find work left
        until = before + chance.choice((0, 0, 1))
        deadline = time.monotonic() + 300
        while process.poll() is None and committed(out) < until and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 2.0 if until == before else a_group))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        found.append(committed(out))
        for path in (out / "groups").glob("*.json"):
            json.loads(path.read_text())  # never half-written
    assert kills == 10 and found == sorted(found) and 0 < found[-1] <= 12
    last = start(study, out)
    assert last.wait(300) == 0, last.stderr.read()
    assert without_times(out / "table.csv") == without_times(tmp_path / "whole" / "table.csv")
    assert len(without_times(out / "table.csv")) == 1 + 24 * 2
    for path in (tmp_path / "whole" / "pictures").iterdir():
        assert (out / "pictures" / path.name).read_bytes() == path.read_bytes()


OWN_FUNCTIONS = """import numpy as np

WEIGHT = 3.0


def mean_of(picture):
    return float(np.asarray(picture, float).mean())


def warmth(b_prime, truth, example):
    return WEIGHT * mean_of(b_prime) + len(example.name)


def looking(b_prime, truth, example, maps):
    return float(maps["up.1.attn.0.self:probs"].tensor.float().amax())


looking.capture = "up.1.attn.0.self:probs"


def fade(tensor, at):
    return tensor / WEIGHT
"""


def own_study_file(folder: Path, **changes) -> Path:
    """Runs with an own edit and own metrics, whose module lies beside the study file and nowhere else."""
    (folder / "own_functions_beside.py").write_text(OWN_FUNCTIONS)
    edit = {"none": None, "faded": {"up.*.self:logits": "own_functions_beside:fade"}}
    metrics = ["mse_to_b", "own_functions_beside:warmth", "own_functions_beside:looking"]
    return study_file(folder, factors={"edit": edit, "text": ["on", "off"]}, metrics=metrics, **changes)


def test_a_killed_study_with_own_functions_ends_with_the_table_of_the_uninterrupted_one(tmp_path) -> None:
    study = own_study_file(tmp_path)
    whole = start(study, tmp_path / "whole")
    assert whole.wait(300) == 0, whole.stderr.read()
    out, deadline = tmp_path / "killed", time.monotonic() + 240
    process = start(study, out)
    while process.poll() is None and committed(out) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 3 <= committed(out) < 8
    last = start(study, out)
    assert last.wait(300) == 0, last.stderr.read()
    assert without_times(out / "table.csv") == without_times(tmp_path / "whole" / "table.csv")


@pytest.fixture(scope="module")
def model():
    return load_parity()


@pytest.fixture(scope="module")
def one_process(model, tmp_path_factory):
    """The study in one process: its table without times, and the study's path."""
    folder = tmp_path_factory.mktemp("one")
    path = study_file(folder)
    ablate(path, folder / "out", model=model, progress=False, outputs=False)
    return path, without_times(folder / "out" / "table.csv")


def patiently(make):
    """Ray gives a node 30 s to start, which a busy machine may not be able to: three attempts."""
    for attempt in range(3):
        try:
            return make()
        except Exception as error:  # Ray raises no narrower class here
            if "timed out during startup" not in str(error) or attempt == 2:
                raise


@pytest.fixture
def cluster(monkeypatch):
    """A Ray cluster of one node with two cores, in processes of its own."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
    node = {"num_cpus": 2, "object_store_memory": 100 * 2**20}
    made = patiently(lambda: Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False}))
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def pool(workers: int | None) -> RayPool:
    return RayPool(Loading(checkpoint=str(CHECKPOINT), device="cpu", metrics=("mse_to_b",)), workers=workers, threads=1)


class Disturbed:
    """A pool that does something once, after the first group has come back."""

    def __init__(self, inner: RayPool, then) -> None:
        self.inner, self.then, self.groups = inner, then, []

    def measuring(self, metrics):
        return Disturbed(self.inner.measuring(metrics), self.then)

    def run(self, groups):
        for number, done in enumerate(self.inner.run(groups)):
            self.groups.append(done[0].key)
            if number == 0:
                self.then()
            yield done
        assert sorted(self.groups) == sorted(group.key for group in groups)  # every group once


def worker_pids() -> list[int]:
    """Processes of this test's actors that hold models."""
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if "_Held" in " ".join([process.name(), *process.cmdline()]):
                found.append(process.pid)
    return found


def test_two_ray_workers_give_the_table_of_one_process_also_when_one_is_killed(model, one_process, cluster, tmp_path) -> None:
    path, expected = one_process
    killed = []

    def kill() -> None:
        deadline = time.monotonic() + 300
        while not (pids := worker_pids()) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.kill(pids[0], signal.SIGKILL)
        killed.append(pids[0])

    ablate(path, tmp_path, model=model, pool=Disturbed(pool(2), kill), progress=False, outputs=False)
    assert killed and without_times(tmp_path / "table.csv") == expected


def test_two_ray_workers_run_own_functions_that_they_have_no_file_of(model, cluster, tmp_path) -> None:
    path = own_study_file(tmp_path)
    outcome = ablate(path, tmp_path / "one", model=model, progress=False, outputs=False)
    expected = without_times(tmp_path / "one" / "table.csv")
    assert len(expected) == 1 + 8 * 4 and all(row["value"] is not None for row in outcome.rows)
    (tmp_path / "own_functions_beside.py").rename(tmp_path / "gone.txt")
    study = outcome.plan.study
    ablate(study, tmp_path / "two", model=model, pool=pool(2), progress=False, outputs=False)
    assert without_times(tmp_path / "two" / "table.csv") == expected


def test_nodes_may_come_and_go(model, one_process, cluster, tmp_path) -> None:
    path, expected = one_process
    added = patiently(lambda: cluster.add_node(num_cpus=2, object_store_memory=100 * 2**20))

    def remove() -> None:
        cluster.remove_node(added, allow_graceful=False)
        patiently(lambda: cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20))

    ablate(path, tmp_path, model=model, pool=Disturbed(pool(None), remove), progress=False, outputs=False)
    assert without_times(tmp_path / "table.csv") == expected


def test_a_ray_worker_that_cannot_load_the_model_is_one_clear_line(model, one_process, cluster, tmp_path) -> None:
    broken = RayPool(Loading(checkpoint=str(CHECKPOINT), device="cpu", clip=str(tmp_path / "none")), workers=1, threads=1)
    with pytest.raises(ValueError, match="a Ray worker cannot load the model.*clip network"):
        list(broken.run(prepare(one_process[0], model).groups))
