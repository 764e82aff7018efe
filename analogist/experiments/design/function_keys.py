"""Content keys of functions: source, closure, defaults, the values and same-module functions and classes that they use.

What lies in other modules counts by its name. Comments, docstrings and layout do not count. What cannot be hashed is an error, because a
change of it would go unnoticed; `named` gives a function a key by hand instead.
"""

import ast
import copy
import dis
import functools
import hashlib
import inspect
import sys
import textwrap
import types
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from pathlib import PurePath
from re import Pattern
from typing import cast

import numpy as np
import torch
from PIL import Image

from analogist.experiments.design.class_statement import Statement, held_by, unwrapped
from analogist.experiments.design.levels import StudyError

KEY = "study_key"  # attribute of a function or object that stands for its content


def named(key: str) -> Callable[[Callable], Callable]:
    """A decorator: `key` stands for everything that the function does. Change the text whenever the function comes to do another thing.

    For functions whose content cannot be hashed: they hold an open file, a connection, a compiled object.
    """
    if not isinstance(key, str) or not key.strip():
        raise StudyError(f"named({key!r}): give a text that changes when the function does, such as 'clip-probe 2'")

    def give(function: Callable) -> Callable:
        setattr(function, KEY, key)
        return function

    return give


def fingerprint(value: object, what: str) -> str:
    """SHA-256 of what a function, edit or value is. what: its name in errors. Raises StudyError for what cannot be hashed."""
    return _Walk(what).of(value, what, root=True)


def class_fingerprint(cls: type, what: str) -> str:
    """SHA-256 of the source of a class and of what it uses of its module. what: its name in errors. Raises StudyError without source."""
    given = vars(cls).get(KEY)  # of itself: the name of a base says nothing of a subclass
    return _join("named", given) if isinstance(given, str) else _Walk(what).of(cls, what, home=cls.__module__)


class _Walk:
    """One value with everything it holds. Keys are made from below; what is met again on the way down counts by its depth."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.open: dict[int, int] = {}

    def of(self, value: object, path: str, *, root: bool = False, home: str | None = None) -> str:
        """home: the module of the function that uses the value; functions and classes of other modules count by name."""
        if id(value) in self.open:
            return _join("again", str(self.open[id(value)]))
        self.open[id(value)] = len(self.open)
        try:
            return self._of(value, path, root, home)
        finally:
            del self.open[id(value)]

    def _of(self, value: object, path: str, root: bool, home: str | None) -> str:
        given = getattr(value, KEY, None) if not isinstance(value, type | types.ModuleType) else None
        if isinstance(given, str):
            return _join("named", given)
        if value is None or isinstance(value, bool | int | float | complex | str | bytes) and not isinstance(value, Enum):
            return _join(type(value).__name__, repr(value))
        if isinstance(value, Enum | torch.dtype | torch.device | PurePath | range | slice | type(...) | np.ufunc):
            return _join(str(type(value).__name__), repr(value))
        if isinstance(value, types.ModuleType):
            return _join("module", value.__name__)
        if isinstance(value, type):
            return self._class(value, path) if value.__module__ == home else _join("class", str(value.__module__), value.__qualname__)
        if isinstance(value, types.FunctionType):
            elsewhere = value.__module__ != home and "<locals>" not in value.__qualname__ and value.__name__ != "<lambda>"
            if elsewhere and not root:
                return _join("function", value.__module__, value.__qualname__)
            return self._function(value, path)
        if isinstance(value, types.MethodType):
            return _join("method", self.of(value.__func__, path, root=True), self.of(value.__self__, f"{path}.__self__", home=home))
        if isinstance(value, types.BuiltinFunctionType) and (value.__self__ is None or isinstance(value.__self__, types.ModuleType)):
            return _join("builtin", str(value.__module__), value.__qualname__)
        if isinstance(value, functools.partial):
            parts = (value.func, value.args, value.keywords)
            return _join("partial", *(self.of(part, path, root=True, home=home) for part in parts))
        return self._data(value, path, root, home)

    def _data(self, value: object, path: str, root: bool, home: str | None) -> str:
        if isinstance(value, torch.Tensor):
            if value.layout != torch.strided or value.is_quantized:
                self._refuse(value, path)
            flat = value.detach().cpu().contiguous().flatten()
            return _join("tensor", str(value.dtype), str(tuple(value.shape)), flat.view(torch.uint8).numpy().tobytes())
        if isinstance(value, np.ndarray | np.generic):
            if value.dtype.hasobject:
                self._refuse(value, path)
            return _join("array", str(value.dtype), str(value.shape), np.ascontiguousarray(value).tobytes())
        if isinstance(value, Image.Image):
            return _join("picture", value.mode, str(value.size), value.tobytes())
        if isinstance(value, Pattern):
            return _join("pattern", repr(value.pattern), str(value.flags))
        kind = _join("kind", type(value).__module__, type(value).__qualname__)
        if isinstance(value, Mapping):
            pairs = [self.of(part, f"{path}[{key!r}]", home=home) for key, item in value.items() for part in (key, item)]
            return _join("mapping", kind, *pairs)
        if isinstance(value, list | tuple):
            return _join("list", kind, *(self.of(item, f"{path}[{i}]", home=home) for i, item in enumerate(value)))
        if isinstance(value, set | frozenset):
            return _join("set", kind, *sorted(self.of(item, path, home=home) for item in value))
        if not all(map(_python_class, type(value).__mro__[:-1])):
            self._refuse(value, path)
        home = type(value).__module__ if root else home
        slots = [name for cls in type(value).__mro__ for name in _names(vars(cls).get("__slots__", ())) if hasattr(value, name)]
        held = {name: getattr(value, name) for name in slots if name not in ("__dict__", "__weakref__")} | vars_of(value)
        parts = [part for name in sorted(held) for part in (name, self.of(held[name], f"{path}.{name}", home=home))]
        source = self._class(type(value), path) if type(value).__module__ == home else kind
        return _join("object", source, *parts)

    def _function(self, function: types.FunctionType, path: str) -> str:
        code, home = function.__code__, function.__module__
        parts = ["function", self._source(function, path)]
        if function.__name__ == "<lambda>":  # several in a line, where instructions do not tell them apart
            parts.append(repr([given for given in code.co_consts if not isinstance(given, types.CodeType)]))
        parts += self._closed_over(function, path, home)
        parts += [self.of(given, f"a default of {path}", home=home) for given in (function.__defaults__, function.__kwdefaults__)]
        return _join(*parts, *self._used(code, function.__globals__, path, home))

    def _used(self, code: types.CodeType, known: Mapping[str, object], path: str, home: str) -> list[str]:
        """Names and keys of the module's own values that a code object reads."""
        out = []
        for name in sorted(_globals_of(code)):
            if name in known:
                out += [name, self.of(known[name], f"`{name}`, which {path} uses", home=home)]
        return out

    def _class(self, cls: type, path: str) -> str:
        """A class with its bases and metaclass of the same module."""
        parts = self._own_part(cls)
        for base in cls.__mro__[1:]:
            if base.__module__ == cls.__module__:
                parts += ["base", *self._own_part(base)]
        if type(cls).__module__ == cls.__module__:
            parts += ["metaclass", self.of(type(cls), f"the metaclass of {path}", home=cls.__module__)]
        return _join(*parts)

    def _own_part(self, cls: type) -> list[str]:
        """A class without its bases: its text, what its methods use of the module, and what it holds that the text does not say."""
        try:
            text = inspect.getsource(cls)
        except (OSError, TypeError) as error:
            raise StudyError(self._no_source(f"the class {cls.__name__}")) from error
        module, file = sys.modules.get(cls.__module__), None
        tree = ast.parse(textwrap.dedent(text))
        statement = Statement.of(next(one for one in tree.body if isinstance(one, ast.ClassDef)))
        parts = ["class", _printed(tree)]
        for member in vars(cls).values():
            function = getattr(member, "__func__", getattr(member, "fget", member))
            if isinstance(function, types.FunctionType):
                file = file or function.__code__.co_filename
                if function.__code__.co_filename == file and module is not None:
                    parts += self._used(function.__code__, vars(module), f"{cls.__name__}.{function.__name__}", cls.__module__)
        for name, member in held_by(cls).items():
            if name in statement.bound or not name.startswith("_"):  # Python's own entries, `__dict__` and such, are left out
                parts += self._unsaid(cls, statement, name, member)
        return parts

    def _unsaid(self, cls: type, statement: Statement, name: str, member: object) -> list[str]:
        """What a class holds under a name as far as its text does not say it: nothing for a plain method and a value written out."""
        path, home, parts = f"{cls.__name__}.{name}", cls.__module__, []
        listed = vars(cls).get(name)
        walked = getattr(listed, "__func__", getattr(listed, "fget", listed))  # what it uses was added with the text
        for one in unwrapped(member):
            if isinstance(one, types.FunctionType) and one.__code__.co_qualname.startswith(f"{cls.__qualname__}."):  # in the text
                if one is not walked:
                    parts += self._used(one.__code__, one.__globals__, path, home)
                parts += self._closed_over(one, path, home, but=("__class__",))
                if name in statement.open_defaults:
                    parts += [self.of(given, f"a default of {path}", home=home) for given in (one.__defaults__, one.__kwdefaults__)]
            elif name not in statement.literals or self.of(one, path, home=home) != self.of(statement.literals[name], path):
                parts += [name, self.of(one, path, home=home)]
        return parts

    def _closed_over(self, function: types.FunctionType, path: str, home: str, but: tuple[str, ...] = ()) -> list[str]:
        """Names and keys of what a function's closure holds."""
        parts = []
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if name in but:
                continue
            try:
                held = cell.cell_contents
            except ValueError:  # a name that was never set
                parts += [name, "empty"]
                continue
            parts += [name, self.of(held, f"`{name}` in the closure of {path}", home=home)]
        return parts

    def _source(self, function: types.FunctionType, path: str) -> str:
        """The function's own part of its file, as Python prints it, without docstring."""
        try:
            lines, _ = inspect.findsource(function.__code__)
            nodes = _nodes_of("".join(lines))
        except (OSError, TypeError, SyntaxError) as error:
            raise StudyError(self._no_source(path)) from error
        node = next((node for node in nodes if _is_of(node, function.__code__)), None)
        if node is None:
            raise StudyError(self._no_source(path))
        return _printed(copy.deepcopy(node))

    def _no_source(self, what: str) -> str:
        return (
            f"{self.what}: the source of {what} cannot be read, so a change of it would go unnoticed; write it into a file or a notebook "
            "cell, or put @named('...') from analogist.experiments on it, with a text that you change when it changes"
        )

    def _refuse(self, value: object, path: str) -> None:
        kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
        raise StudyError(
            f"{self.what}: {path} is a {kind}, which cannot be hashed, so a change of it would go unnoticed; put @named('...') from "
            "analogist.experiments on the function, with a text that you change when it comes to do another thing"
        )


def vars_of(value: object) -> dict[str, object]:
    """The attributes in an object's own dictionary."""
    return dict(getattr(value, "__dict__", {}))


def _printed(node: ast.AST) -> str:
    """Code as Python prints it, without docstrings. node is changed."""
    for one in ast.walk(node):
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and ast.get_docstring(one, clean=False) is not None:
            one.body = one.body[1:] or [ast.Pass()]
    return ast.unparse(node)


def _join(*parts: str | bytes) -> str:
    key = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="surrogatepass") if isinstance(part, str) else part
        key.update(len(data).to_bytes(8, "big") + data)
    return key.hexdigest()


def _names(slots: object) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(cast(Iterable[str], slots))


def _python_class(cls: type) -> bool:
    """Whether a class is written in Python, so that its attributes are all there is to an instance."""
    module = sys.modules.get(cls.__module__)
    return cls.__module__ == "__main__" or str(getattr(module, "__file__", "")).endswith(".py")


def _globals_of(code: types.CodeType) -> set[str]:
    found = {one.argval for one in dis.get_instructions(code) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return found.union(*(_globals_of(inner) for inner in code.co_consts if isinstance(inner, types.CodeType)))


@functools.lru_cache(maxsize=64)
def _nodes_of(text: str) -> tuple[ast.AST, ...]:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    return tuple(node for node in ast.walk(ast.parse(text)) if isinstance(node, kinds))


def _is_of(node: ast.AST, code: types.CodeType) -> bool:
    """Whether a code object was compiled from this function or lambda; of several lambdas in a line the one that holds its instructions."""
    if isinstance(node, ast.Lambda):
        if code.co_name != "<lambda>" or node.lineno != code.co_firstlineno:
            return False
        # Instructions that stand for no text, such as the return at the end, are placed at no width.
        begin, end = (node.body.lineno, node.body.col_offset), (node.body.end_lineno, node.body.end_col_offset)
        return all(
            begin <= (first_line, first) and (last_line, last) <= end
            for first_line, last_line, first, last in code.co_positions()
            if first_line is not None and last
        )
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
    return node.name == code.co_name and first == code.co_firstlineno
