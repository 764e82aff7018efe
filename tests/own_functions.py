"""Metrics and edits as a researcher would write them, for tests/test_own.py; also found by name, tests.own_functions:warmth."""

import numpy as np

from analogist.attention.edit import edits

SHIFT = 0.25


def _red(picture) -> float:
    return float(np.asarray(picture, float)[..., 0].mean() / 255)


def warmth(b_prime, truth, example) -> float:
    """How red B' is, beside the truth."""
    return _red(b_prime) - (0.0 if truth is None else _red(truth)) + SHIFT


warmth.better = "higher"


def read_from_a_prime(b_prime, truth, example, maps) -> float:
    """What B' reads from A' in one layer."""
    return float(maps["up.1.attn.0.self:probs"].sel(query="B'", key="A'").tensor.float().sum(-1).mean())


read_from_a_prime.capture = "up.1.attn.0.self:probs"


def broken(b_prime, truth, example) -> float:
    return b_prime.nothing


def halve(tensor, at):
    return tensor / 2 if at.step > 0 else tensor


blind = edits.zero_block("B'", "A'")
EDITS = {"up.*.self:probs": blind}
