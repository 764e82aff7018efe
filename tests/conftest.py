"""Tests run against the installed package, or against this source tree where nothing is installed."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

if importlib.util.find_spec("analogist") is None:
    sys.path.insert(0, str(Path(__file__).parent.parent))

# Small tensors: more threads than one only wait for each other, and results would depend on the machine.
torch.set_num_threads(1)


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
