"""What the text of a class says of the class, so that content keys hold the rest by value (function_keys.py)."""

import ast
import dataclasses
import functools
from collections import namedtuple
from dataclasses import dataclass
from enum import Enum
from types import GetSetDescriptorType, MemberDescriptorType

# How Python reaches slots and the fields of a named tuple: no values.
_PLACES = (MemberDescriptorType, GetSetDescriptorType, type(vars(namedtuple("_Any", "field"))["field"]))


@dataclass(frozen=True)
class Statement:
    """A class as its text has it. bound: all names that the text gives something. literals: those that it gives a value written out.

    open_defaults: methods with a default that is not written out, such as `k=WEIGHT`.
    """

    bound: frozenset[str]
    literals: dict[str, object]
    open_defaults: frozenset[str]

    @classmethod
    def of(cls, node: ast.ClassDef) -> "Statement":
        """Reads the parsed text of a class."""
        bound, literals, open_defaults = set(), {}, set()
        for one in node.body:
            names = {_mangled(name, node.name) for name in _names_bound(one)}
            bound |= names
            if isinstance(one, ast.Assign | ast.AnnAssign) and one.value is not None and _is_literal(one.value):
                literals |= dict.fromkeys(names, ast.literal_eval(one.value))
            if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef):
                defaults = [*one.args.defaults, *(given for given in one.args.kw_defaults if given is not None)]
                open_defaults |= set() if all(map(_is_literal, defaults)) else names
        return cls(frozenset(bound), literals, frozenset(open_defaults))


def held_by(cls: type) -> dict[str, object]:
    """What a class holds itself, by name: members of an Enum as their values, fields as their defaults (a factory under `name()`)."""
    held = {name: one for name, one in vars(cls).items() if not isinstance(one, _PLACES)}
    held |= vars(cls).get("_field_defaults", {})  # of a named tuple
    if issubclass(cls, Enum):
        held |= {name: one.value for name, one in cls.__members__.items()}
    for name, one in vars(cls).get("__dataclass_fields__", {}).items():
        if name in vars(cls) and one.default is not dataclasses.MISSING:
            held[name] = one.default
        if getattr(one.default_factory, "__module__", None) == cls.__module__:
            held[f"{name}()"] = one.default_factory
    return held


def unwrapped(member: object) -> tuple[object, ...]:
    """The functions behind a property, static or class method or cached property; anything else is itself."""
    if isinstance(member, staticmethod | classmethod):
        return (member.__func__,)
    if isinstance(member, property):
        return tuple(one for one in (member.fget, member.fset, member.fdel) if one is not None)
    if isinstance(member, functools.cached_property):
        return (member.func,)
    return (member,)


def _names_bound(node: ast.AST) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.AnnAssign) and node.value is None:
        return set()
    defined = {one.name for one in ast.walk(node) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    return defined | {one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}


def _is_literal(node: ast.AST) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError):
        return False
    return True


def _mangled(name: str, cls: str) -> str:
    """A name as the class holds it: `__x` of the class C is `_C__x`."""
    return f"_{cls.lstrip('_')}{name}" if name.startswith("__") and not name.endswith("__") else name
