"""Tests run against the installed package, or against this source tree where nothing is installed."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

if importlib.util.find_spec("analogist") is None:
    sys.path.insert(0, str(Path(__file__).parent.parent))

# Small tensors: more threads than one only wait for each other, and results would depend on the machine.
torch.set_num_threads(1)

# The same examples everywhere, and none is too slow: a busy machine decides nothing. That examples share a test's folder is meant.
ALLOWED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("everywhere", deadline=None, derandomize=True, database=None, suppress_health_check=ALLOWED)
settings.load_profile("everywhere")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="compute on this device; other than cpu: only the tests marked `device`")


def pytest_configure(config: pytest.Config) -> None:
    from tests import devices

    try:
        devices.use(config.getoption("--device"))
    except ValueError as error:
        raise pytest.UsageError(f"--device: {error}") from error


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    from tests import devices

    if devices.device().type != "cpu":
        left_out = [item for item in items if item.get_closest_marker("device") is None]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def tiny_unet():
    """A UNet of the real topology with random weights, never to be changed."""
    from tests.small import small_unet

    return small_unet()


@pytest.fixture(scope="session")
def tiny_vae():
    """A VAE of the real topology with random weights, never to be changed."""
    from tests.small import small_vae

    return small_vae()


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium for the pages of a file of tests; skips them where there is none."""
    from tests.explore_browser import Browser, need_browser

    need_browser()
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture
def no_endpoint(monkeypatch, tmp_path) -> None:
    """No chat endpoint is set up, and answers are kept in a folder of the test."""
    from tests.prompters import ENDPOINT

    for name in ENDPOINT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ANALOGIST_CACHE", str(tmp_path / "cache"))
