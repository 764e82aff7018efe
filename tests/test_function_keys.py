"""Keys of functions: what changes them, what does not, and what cannot be hashed."""

import functools
import importlib
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from analogist.attention.edit import edits
from analogist.experiments import named
from analogist.experiments.design.function_keys import fingerprint
from analogist.experiments.design.levels import StudyError
from analogist.experiments.design.own import OwnEdit, OwnMetric, found_at

CODE = '''
import math
WEIGHT = 2.0

def helper(x):
    return x + 1

def deeper(x):
    return helper(x) * 2

class Scale:
    factor = 3
    def by(self, x):
        return x * self.factor * WEIGHT

def score(b_prime, truth, example):
    """What it is."""
    # a remark
    return deeper(1) + math.sqrt(4)

def scaled(b_prime, truth, example):
    return Scale().by(1)

def unrelated(x):
    return x
'''


def key_of(folder: Path, code: str, name: str = "score") -> str:
    """The key of a function of a module with this code, imported anew."""
    (folder / "written_module.py").write_text(code)
    for cached in folder.glob("__pycache__/*"):
        cached.unlink()
    sys.modules.pop("written_module", None)
    sys.path.insert(0, str(folder))
    try:
        importlib.invalidate_caches()
        module = importlib.import_module("written_module")
        return fingerprint(getattr(module, name), name)
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("written_module", None)


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("deeper(1) + math", "deeper(2) + math", "score"), ("return x + 1", "return x + 2", "score"), ("* 2", "* 3", "score"),
        ("WEIGHT = 2.0", "WEIGHT = 2.5", "scaled"), ("factor = 3", "factor = 4", "scaled"),
        ("truth, example):", "truth, example, k=1):", "score"),
    ],
)  # fmt: skip
def test_a_changed_body_helper_value_class_or_default_is_another_key(tmp_path, old, new, name) -> None:
    assert old in CODE
    assert key_of(tmp_path, CODE, name) != key_of(tmp_path, CODE.replace(old, new, 1), name)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# a remark", "# another remark"), ('"""What it is."""', '"""What it really is."""'), ("    return x\n", "    return 2 * x\n"),
        ("WEIGHT = 2.0", "WEIGHT = 3.0"), ("def helper(x):\n    return x + 1", "def helper(x):\n    return (x +\n            1)"),
        ("import math", "import math\n\nNEW = 1"),
    ],
)  # fmt: skip
def test_remarks_layout_and_what_is_not_used_change_no_key(tmp_path, old, new) -> None:
    assert old in CODE
    assert key_of(tmp_path, CODE) == key_of(tmp_path, CODE.replace(old, new))


def test_what_a_closure_holds_is_part_of_the_key() -> None:
    def make(held):
        def score(b_prime, truth, example):
            return held

        return fingerprint(score, "score")

    values = [
        1, 1.0, True, "1", (1,), [1], {1: 2}, {2: 1}, None, np.ones(2), np.ones(3), torch.ones(2), torch.ones(2, dtype=torch.bfloat16),
        Image.new("RGB", (2, 2)), Image.new("RGB", (2, 2), "red"), np.mean, np.median, Path("a"), functools.partial(max, 1),
        functools.partial(max, 2), edits.zero_block("B'", "A'"), edits.zero_block("A'", "B'"), lambda: 1, lambda: 2, {3, 4}, {3, 5},
    ]  # fmt: skip
    keys = [make(value) for value in values]
    assert len(set(keys)) == len(keys)
    assert [make(value) for value in values] == keys
    assert make({"a", "b", "c"}) == make({"c", "b", "a"})


def test_lambdas_on_one_line_are_told_apart() -> None:
    one, two, three = lambda t, at: t, lambda t, at: t * 2, (lambda t, at: t * 2)
    assert fingerprint(one, "one") != fingerprint(two, "two") == fingerprint(three, "three")


def test_functions_that_call_each_other_have_keys() -> None:
    def even(n):
        return n == 0 or odd(n - 1)

    def odd(n):
        return n != 0 and even(n - 1)

    assert fingerprint(even, "even") != fingerprint(odd, "odd")


@pytest.mark.parametrize("held", [threading.Lock(), (i for i in range(3)), torch.Generator(), np.array([object()])])
def test_what_cannot_be_hashed_is_an_error_that_says_how_to_name_it(held) -> None:
    def score(b_prime, truth, example):
        return held

    with pytest.raises(StudyError, match=r"metric score: `held` in the closure of .* cannot be hashed.*@named\('\.\.\.'\)"):
        OwnMetric.of(score)
    first, second = (fingerprint(named(text)(score), "score") for text in ("score 1", "score 2"))
    assert first != second
    assert OwnMetric.of(score).name == "score"
    with pytest.raises(StudyError, match="give a text"):
        named("")


def test_a_function_without_source_is_an_error_that_says_how_to_name_it() -> None:
    space: dict = {}
    exec("def score(b_prime, truth, example):\n    return 1.0", space)
    with pytest.raises(StudyError, match="the source of metric score cannot be read.*@named"):
        OwnMetric.of(space["score"])


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda b, t, e: 1.0, "give a function with a name"), (3, "give a function with a name"),
        (functools.partial(max, 1), "give a function with a name"),
    ],
)  # fmt: skip
def test_a_metric_needs_a_name(function, says) -> None:
    with pytest.raises(StudyError, match=says):
        OwnMetric.of(function)


def test_a_metric_is_called_with_three_pictures_and_maps_only_where_it_declares_a_capture() -> None:
    def two(b_prime, truth):
        return 1.0

    def four(b_prime, truth, example, maps):
        return 1.0

    for wrong in (two, four):
        with pytest.raises(StudyError, match=r"is called with \(b_prime, truth, example\)"):
            OwnMetric.of(wrong)
    four.capture = "up.*.self:probs"
    assert OwnMetric.of(four).capture == "up.*.self:probs" and OwnMetric.of(two_and_more).capture is None


def two_and_more(b_prime, *others):
    return 1.0


def test_an_edit_is_its_selectors_and_functions_whatever_its_label() -> None:
    one, other = (OwnEdit.of(label, {"*.self:probs": edits.zero_block("B'", "A'")}) for label in ("one", "other"))
    assert one == other and hash(one) == hash(other)
    assert one != OwnEdit.of("one", {"up.*.self:probs": edits.zero_block("B'", "A'")})
    assert one != OwnEdit.of("one", {"*.self:probs": edits.zero_block("B'", "A")})
    assert OwnEdit.of("none", None).edits is None
    for wrong in ({}, 3, {"*.self:probs": 4}, {"*.self:probs": "nothing"}):
        with pytest.raises(StudyError):
            OwnEdit.of("wrong", wrong)


def test_functions_are_found_beside_the_study(tmp_path) -> None:
    (tmp_path / "mine_1x.py").write_text("def score(b_prime, truth, example):\n    return 1.0\n\nclass Box:\n    score = score\n")
    before = list(sys.path)
    assert found_at("mine_1x:score", tmp_path)(0, 0, 0) == 1.0 == found_at("mine_1x:Box.score", tmp_path)(0, 0, 0)
    assert sys.path == before
    for place, says in (
        ("mine_1x:scor", "mine_1x has no scor"), ("not_there_1x:f", "not_there_1x cannot be imported"),
        ("mine_1x", 'give "module:function"'),
        ("a b:c", 'give "module:function"'),
    ):  # fmt: skip
        with pytest.raises(StudyError, match=says):
            found_at(place, tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "mine_1x.py").write_text("def score(b_prime, truth, example):\n    return 2.0\n")
    with pytest.raises(StudyError, match="imported from elsewhere before"):
        found_at("mine_1x:score", tmp_path / "sub")
