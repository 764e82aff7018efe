"""Keys of functions: what changes them, what does not, and what cannot be hashed."""

import functools
import hashlib
import importlib
import sys
import threading
from collections.abc import Callable
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


def key_of(folder: Path, code: str, name: str = "score", key: Callable = fingerprint) -> str:
    """The key of a function (or whatever `key` takes) of a module with this code, imported anew."""
    (folder / "written_module.py").write_text(code)
    for cached in folder.glob("__pycache__/*"):
        cached.unlink()
    sys.modules.pop("written_module", None)
    sys.path.insert(0, str(folder))
    try:
        importlib.invalidate_caches()
        module = importlib.import_module("written_module")
        return key(getattr(module, name), name)
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


CLASSES = '''
import functools
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

WEIGHT = 2.0
TABLE = [1, 2]

def helper(x):
    return x + 10

def twice(function):
    @functools.wraps(function)
    def wrapper(*given):
        return 2 * function(*given)
    return wrapper

def marked(cls):
    cls.mark = 7
    return cls

class Counted(type):
    step = 5

class Base:
    def by(self, x):
        return x * 3

class Middle(Base):
    def unused(self):
        return WEIGHT + 100

class Scale(Middle):
    factor = 3

class OfTheModule:
    weight = WEIGHT
    pick = helper
    __secret = TABLE

class Wrapped:
    @functools.cached_property
    def cached(self):
        return helper(1)

    @property
    def size(self):
        return 1

    @size.setter
    def size(self, value):
        self.kept = helper(value)

    @twice
    def doubled(self, x):
        return x

    @staticmethod
    def still(x, k=WEIGHT):
        return x * k

    @functools.lru_cache
    def remembered(self):
        return helper(2)

    class Inner:
        def by(self, x):
            return helper(x)

@marked
class Marked(metaclass=Counted):
    pass

class Later:
    value = 1

Later.value = len(TABLE)
Later.added = helper

class Colour(Enum):
    RED = 1
    BLUE = WEIGHT

class Pair(NamedTuple):
    first: int = 1
    second: float = WEIGHT

@dataclass
class Fields:
    a: int = 1
    b: float = WEIGHT
    c: list = field(default_factory=lambda: [len(TABLE)])

@dataclass(slots=True)
class Slots:
    a: int = 1
    b: float = WEIGHT

def local(k):
    base = k + 1
    class Local:
        start = base
        def by(self, x):
            return x * k
    return Local

LOCAL = local(4)
'''
for _name in ("Scale", "OfTheModule", "Wrapped", "Marked", "Later", "Colour", "Pair", "Fields", "Slots", "LOCAL"):
    CLASSES += f"\ndef use_{_name}(b_prime, truth, example):\n    return {_name}\n"


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("return x * 3", "return x * 4", "Scale"), ("WEIGHT + 100", "WEIGHT + 101", "Scale"), ("WEIGHT = 2.0", "WEIGHT = 2.5", "Scale"),
        ("WEIGHT = 2.0", "WEIGHT = 2.5", "OfTheModule"), ("x + 10", "x + 11", "OfTheModule"), ("[1, 2]", "[1, 3]", "OfTheModule"),
        ("x + 10", "x + 11", "Wrapped"), ("2 * function", "3 * function", "Wrapped"), ("WEIGHT = 2.0", "WEIGHT = 2.5", "Wrapped"),
        ("cls.mark = 7", "cls.mark = 8", "Marked"), ("step = 5", "step = 6", "Marked"),
        ("[1, 2]", "[1, 2, 3]", "Later"), ("x + 10", "x + 11", "Later"),
        ("WEIGHT = 2.0", "WEIGHT = 2.5", "Colour"), ("WEIGHT = 2.0", "WEIGHT = 2.5", "Pair"), ("WEIGHT = 2.0", "WEIGHT = 2.5", "Fields"),
        ("[1, 2]", "[1, 2, 3]", "Fields"), ("WEIGHT = 2.0", "WEIGHT = 2.5", "Slots"), ("local(4)", "local(5)", "LOCAL"),
    ],
)  # fmt: skip
def test_whatever_a_class_of_the_module_is_made_of_changes_the_key(tmp_path, old, new, name) -> None:
    assert old in CLASSES
    before, after = (key_of(tmp_path, code, f"use_{name}") for code in (CLASSES, CLASSES.replace(old, new, 1)))
    assert before != after
    assert before == key_of(tmp_path, "# moved\n" + CLASSES, f"use_{name}")


@pytest.mark.parametrize("part", ["cached", "size", "doubled", "still", "remembered", "Inner"])
def test_each_kind_of_member_is_followed_by_itself(tmp_path, part) -> None:
    start, end = CLASSES.index("class Wrapped:"), CLASSES.index("@marked")
    members = [block for block in CLASSES[start:end].split("\n\n") if f"{part}(" in block or f"class {part}" in block]
    code = CLASSES[:start] + "class Wrapped:\n" + "\n\n".join(members).replace("class Wrapped:\n", "") + "\n\n" + CLASSES[end:]
    changes = {"doubled": ("2 * function", "3 * function"), "still": ("WEIGHT = 2.0", "WEIGHT = 2.5")}
    changed = code.replace(*changes.get(part, ("x + 10", "x + 11")))
    assert changed != code and key_of(tmp_path, code, "use_Wrapped") != key_of(tmp_path, changed, "use_Wrapped")


def joined(*parts: str | bytes) -> str:
    """How keys are put together: SHA-256 over the parts, each after its length."""
    data = [part.encode() if isinstance(part, str) else part for part in parts]
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in data)).hexdigest()


def test_a_class_whose_text_says_everything_keeps_the_key_of_earlier_runs(tmp_path) -> None:
    text = (
        "class Plain:\n    factor = 3\n    names = ('a', 'b')\n\n    def by(self, x, k=1):\n        return x * self.factor * WEIGHT\n\n"
        "    @property\n    def half(self):\n        return WEIGHT / 2"
    )
    use = "def use(b_prime, truth, example):\n    return Plain().by(1)"
    none, weight = joined("NoneType", "None"), joined("float", "2.0")
    of_class = joined("class", text, "WEIGHT", weight, "WEIGHT", weight)
    assert key_of(tmp_path, f"WEIGHT = 2.0\n\n{text}\n\n{use}\n", "use") == joined("function", use, none, none, "Plain", of_class)


INPUT = '''
from dataclasses import dataclass
from PIL import Image
from analogist.experiments.design.inputs import Input
from analogist.grid import PromptGrid
LEVEL = 2

@dataclass(frozen=True, eq=False)
class Mine(Input):
    marks: tuple = ()
    def weight(self):
        return sum(self.marks) * LEVEL

PICTURE = Image.new("RGB", (8, 8))
ONE = Mine("x", PromptGrid(PICTURE, PICTURE, PICTURE), marks=(1, 2))
'''


def test_what_own_metrics_read_of_an_input_of_ones_own_is_in_its_key(tmp_path) -> None:
    def example_key(code: str) -> str:
        return key_of(tmp_path, code, "ONE", lambda one, _: one.example_key())

    changes = (("LEVEL = 2", "LEVEL = 3"), ("sum(self.marks)", "max(self.marks)"), ("marks=(1, 2)", "marks=(1, 3)"), ('"x"', '"y"'))
    keys = [example_key(INPUT), *(example_key(INPUT.replace(*change)) for change in changes)]
    assert len(set(keys)) == len(keys) and example_key(INPUT) == keys[0]
    by_hand = INPUT.replace("@dataclass(", "from analogist.experiments import named\n@named('mine 1')\n@dataclass(")
    same, other = by_hand.replace("LEVEL = 2", "LEVEL = 3"), by_hand.replace("mine 1", "mine 2")
    assert example_key(by_hand) == example_key(same) != example_key(other)
