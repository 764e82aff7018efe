"""Formulas of the sampler stand once in the product: its syntax trees are searched for a second place."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PRODUCT = [path for folder in ("analogist", "models", "weights") for path in sorted((ROOT / folder).rglob("*.py"))]


def is_call(node: ast.AST, method: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method


def names(node: ast.AST) -> set[str]:
    """Names, attributes and keys in an expression."""
    parts = list(ast.walk(node))
    return (
        {part.id for part in parts if isinstance(part, ast.Name)} | {part.attr for part in parts if isinstance(part, ast.Attribute)}
        | {str(part.value) for part in parts if isinstance(part, ast.Constant)}
    )  # fmt: skip


def one_minus(node: ast.AST) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) and isinstance(node.left, ast.Constant) and node.left.value == 1


def guidance(tree: ast.AST) -> Iterator[ast.AST]:
    """a + w * (b - a), in a function that splits a batch in two."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef) or not any(is_call(node, "chunk") for node in ast.walk(function)):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add) and isinstance(node.right, ast.BinOp):
                product = node.right
                for part in (product.left, product.right):
                    if isinstance(product.op, ast.Mult) and isinstance(part, ast.BinOp) and isinstance(part.op, ast.Sub):
                        if ast.dump(part.right) == ast.dump(node.left):
                            yield node


def signal_and_noise(tree: ast.AST) -> Iterator[ast.AST]:
    """(1 - alpha_bar).sqrt(): x0 from a prediction, and every other formula of the schedule."""
    return (node for node in ast.walk(tree) if is_call(node, "sqrt") and one_minus(node.func.value))


def below_zero(tree: ast.AST) -> Iterator[ast.AST]:
    """A choice between an entry of the cumulative products and something else by the sign of a time."""
    for node in ast.walk(tree):
        if isinstance(node, ast.IfExp | ast.If) and isinstance(node.test, ast.Compare):
            held = [n for n in ast.walk(node) if isinstance(n, ast.Subscript) and "bar" in ast.unparse(n.value)]
            zero = [n for n in node.test.comparators if isinstance(n, ast.Constant) and n.value == 0]
            if held and zero:
                yield node


def suffix(tree: ast.AST) -> Iterator[ast.AST]:
    """prompt + suffix."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add) and "prompt" in ast.unparse(node.left):
            if {"suffix", "prompt_suffix"} & names(node.right):
                yield node


@pytest.mark.parametrize(
    "formula, file",
    [(guidance, "denoise.py"), (signal_and_noise, "ddim.py"), (below_zero, "ddim.py"), (suffix, "config.py")],
    ids=["guided combination", "x0 and noise", "cumulative product below time 0", "prompt suffix"],
)
def test_a_formula_of_the_sampler_stands_in_one_file(formula: Callable[[ast.AST], Iterator[ast.AST]], file: str) -> None:
    found = {path.name: [ast.unparse(node) for node in formula(ast.parse(path.read_text(encoding="utf-8")))] for path in PRODUCT}
    assert {name: lines for name, lines in found.items() if lines and name != file} == {}
    assert found[file]


def test_the_unet_is_called_in_one_place() -> None:
    """Outside the guided call only what checks a checkpoint (`weights verify`) or trains one (the lab) calls a UNet."""
    calls = []
    for path in PRODUCT:
        if path.parent.name == "weights":  # there `unet(...)` reads a config
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "unet" and len(node.args) > 2:
                calls.append(path.relative_to(ROOT).as_posix())
    assert {path for path in calls if not path.endswith("verify.py") and "/lab/" not in path} == {"analogist/run/denoise.py"}
