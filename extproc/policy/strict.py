"""Operators for `cel-python` that follow the specification where the library does not.

The library compares a bool with a number, indexes text, takes `has()` of anything for false and raises on
unequal types. These replace its own; trouble is raised as TypeError, KeyError or IndexError, which the library
turns into an error value that `&&` and `||` can absorb.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from celpy import celtypes
from celpy.evaluation import CELEvalError, base_functions

HAS = "extproc_has"
"""The function that `has(e.f)` is rewritten to: `extproc_has(e, "f")`."""

ITEMS = "extproc_items"
"""What a macro goes over is passed through this function."""

_NUMBERS = (celtypes.IntType, celtypes.DoubleType)
_ORDERED = (celtypes.StringType, celtypes.TimestampType, celtypes.DurationType)


def equal(left: Any, right: Any) -> bool:
    """Values of different types are unequal; numbers compare by value (cel-spec, Equality)."""
    if isinstance(left, celtypes.BoolType) or isinstance(right, celtypes.BoolType):
        return type(left) is type(right) and bool(left) == bool(right)
    if isinstance(left, _NUMBERS) and isinstance(right, _NUMBERS):
        return bool(_number(left) == _number(right))
    if isinstance(left, celtypes.ListType) and isinstance(right, celtypes.ListType):
        return len(left) == len(right) and all(map(equal, list.__iter__(left), list.__iter__(right)))
    if isinstance(left, celtypes.MapType) and isinstance(right, celtypes.MapType):
        if len(left) != len(right):
            return False
        return all(key in right and equal(value, dict.__getitem__(right, key)) for key, value in left.items())
    if left is None or right is None:
        return left is right
    if isinstance(left, type) or isinstance(right, type):
        return left is right
    if type(left) is not type(right):
        return False
    if isinstance(left, str):
        return str.__eq__(left, right)
    return bool(left == right)


def _number(value: Any) -> int | float:
    return int(value) if isinstance(value, celtypes.IntType) else float(value)


def _ordered(compare: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def apply(left: Any, right: Any) -> Any:
        if isinstance(left, _NUMBERS) and isinstance(right, _NUMBERS):  # BoolType is none of them
            return celtypes.BoolType(compare(_number(left), _number(right)))
        if type(left) is type(right) and isinstance(left, _ORDERED):
            if isinstance(left, celtypes.StringType):
                return celtypes.BoolType(compare(str(left), str(right)))
            return celtypes.BoolType(compare(left, right))
        raise TypeError("no such overload")

    return apply


def _member(item: Any, within: Any) -> Any:
    if isinstance(within, celtypes.ListType):
        return celtypes.BoolType(any(equal(item, other) for other in list.__iter__(within)))
    if isinstance(within, celtypes.MapType):
        return celtypes.BoolType(isinstance(item, str) and dict.__contains__(within, item))
    raise TypeError("no such overload")


def _index(within: Any, at: Any) -> Any:
    if isinstance(within, celtypes.ListType) and type(at) is celtypes.IntType:
        if not 0 <= int(at) < len(within):
            raise IndexError("out of range")
        return list.__getitem__(within, int(at))
    if isinstance(within, celtypes.MapType) and isinstance(at, str):
        return dict.__getitem__(within, at)
    raise TypeError("no such overload")


def _has(within: Any, field: Any) -> Any:
    if isinstance(within, celtypes.MapType):
        return celtypes.BoolType(dict.__contains__(within, field))
    raise TypeError("no such overload")


def _same_types(name: str) -> Callable[[Any, Any], Any]:
    """Arithmetic never mixes types but for times and durations, and bool is no number."""
    plain = base_functions[name]
    times = (celtypes.TimestampType, celtypes.DurationType)

    def apply(left: Any, right: Any) -> Any:
        if isinstance(left, times) and isinstance(right, times):
            return plain(left, right)
        if type(left) is not type(right) or isinstance(left, (celtypes.BoolType, celtypes.MapType)):
            raise TypeError("no such overload")
        return _typed(plain(left, right))

    return apply


def _typed(value: Any) -> Any:
    """Python's operators lose the library's types for text, lists and fractions."""
    if type(value) is str:
        return celtypes.StringType(value)
    if type(value) is list:
        return celtypes.ListType(value)
    if type(value) is float:
        return celtypes.DoubleType(value)
    return value


def _items(value: Any) -> Any:
    if isinstance(value, (celtypes.ListType, celtypes.MapType)):
        return value
    raise TypeError("no such overload")


def _negate(value: Any) -> Any:
    if type(value) not in _NUMBERS:
        raise TypeError("no such overload")
    return base_functions["-_"](value)


def _not(value: Any) -> Any:
    if not isinstance(value, celtypes.BoolType):
        raise TypeError("no such overload")
    return celtypes.BoolType(not value)


def _of_text(name: str) -> Callable[[Any, Any], Any]:
    plain = base_functions[name]

    def apply(text: Any, other: Any) -> Any:
        if not isinstance(text, celtypes.StringType) or not isinstance(other, celtypes.StringType):
            raise TypeError("no such overload")
        return plain(text, other)

    return apply


def _size(value: Any) -> Any:
    if not isinstance(value, (celtypes.StringType, celtypes.ListType, celtypes.MapType)):
        raise TypeError("no such overload")
    return celtypes.IntType(len(value))


def _passing_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """An error value among the operands is the result."""

    def apply(*values: Any) -> Any:
        for value in values:
            if isinstance(value, CELEvalError):
                return value
        return function(*values)

    apply.__name__ = getattr(function, "__name__", "apply")
    return apply


_TABLE: dict[str, Callable[..., Any]] = {
    "_==_": lambda left, right: celtypes.BoolType(equal(left, right)),
    "_!=_": lambda left, right: celtypes.BoolType(not equal(left, right)),
    "_<_": _ordered(operator.lt),
    "_<=_": _ordered(operator.le),
    "_>_": _ordered(operator.gt),
    "_>=_": _ordered(operator.ge),
    "_in_": _member,
    "_[_]": _index,
    "!_": _not,
    "-_": _negate,
    "size": _size,
    HAS: _has,
    ITEMS: _items,
    **{name: _same_types(name) for name in ("_+_", "_-_", "_*_", "_/_", "_%_")},
    **{name: _of_text(name) for name in ("contains", "startsWith", "endsWith", "matches")},
}

STRICT: dict[str, Any] = {name: _passing_errors(function) for name, function in _TABLE.items()}
