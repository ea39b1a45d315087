"""CEL by `cel-python`: the portable second engine, slow, and only with the vetted subset (`subset.py`).

The library's parse tree becomes our syntax, which is checked for names, types and the subset; `has(e.f)` is
rewritten to a function that tells "not there" from "cannot be asked". Conditions are judged one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import celpy as library
from celpy import celtypes
from celpy.celparser import CELParseError
from celpy.evaluation import CELEvalError

from extproc.policy import engine
from extproc.policy.engine import Condition, ConditionError, Judgement, Mistake
from extproc.policy.lark_tree import Converter
from extproc.policy.strict import STRICT
from extproc.policy.subset import SubsetChecker, spelled


class CelPythonEngine:
    """Conditions over the facts of one kind of target."""

    name = "cel-python"

    def __init__(self, kind: str, variables: Mapping[str, str]) -> None:
        self._kind = kind
        self._variables = variables
        self._env = library.Environment()

    def compile(self, text: str) -> Condition:
        try:
            tree = self._env.compile(text)
            converter = Converter(self._variables)
            syntax = converter.expression(tree)
            checker = SubsetChecker(self._kind, self._variables, converter.places)
            result = checker.check(syntax)
        except CELParseError as error:
            line, column = error.line or 1, error.column or 1
            raise ConditionError([Mistake(line, column, "not a CEL expression")]) from None
        except RecursionError:
            raise ConditionError([Mistake(1, 1, "the expression is nested too deeply")]) from None
        mistakes = [*converter.mistakes, *checker.mistakes]
        if mistakes:
            raise ConditionError(mistakes)
        if result not in ("bool", "dyn"):
            raise ConditionError([Mistake(1, 1, f"the condition is of type {spelled(result)}, not bool")])
        program = self._env.program(tree, functions=STRICT)
        return Condition(text, syntax, syntax, program)

    def batch(self, conditions: Sequence[Condition]) -> CelPythonBatch:
        return CelPythonBatch(conditions)


class CelPythonBatch:
    """Judges conditions one after the other over the same values."""

    __slots__ = ("_programs",)

    def __init__(self, conditions: Sequence[Condition]) -> None:
        self._programs = [condition.program for condition in conditions]

    def judge(self, data: dict[str, object]) -> Sequence[Judgement]:
        values = _nested(data)
        return [_evaluate(program, values) for program in self._programs]


def _evaluate(program: Any, values: dict[str, Any]) -> Judgement:
    try:
        found = program.evaluate(values)
    except CELEvalError as error:
        return _reason(error)
    except TypeError:
        return engine.WRONG_TYPE
    except Exception:
        return engine.FAILED
    return bool(found) if isinstance(found, celtypes.BoolType) else engine.NOT_BOOLEAN


def _reason(error: CELEvalError) -> engine.Unjudged:
    """A kind of trouble, by the exception that the library wrapped."""
    kinds = [part for part in error.args if isinstance(part, type)]
    kind = kinds[0] if kinds else None
    if kind in (KeyError, IndexError):
        return engine.MISSING_KEY
    if kind in (TypeError, AttributeError):
        return engine.WRONG_TYPE
    if kind in (ValueError, ZeroDivisionError, OverflowError):
        return engine.OUT_OF_RANGE
    return engine.FAILED


def _nested(data: Mapping[str, object]) -> dict[str, Any]:
    """`request.method` becomes the key `method` of the map `request`; what does not convert is left out."""
    roots: dict[str, Any] = {}
    for name, value in data.items():
        root, dot, rest = name.partition(".")
        try:
            converted = _value(value)
        except (ValueError, TypeError, OverflowError, RecursionError):
            continue
        if not dot:
            roots[root] = converted
        else:
            dict.__setitem__(roots.setdefault(root, celtypes.MapType()), celtypes.StringType(rest), converted)
    return roots


def _value(value: object) -> Any:
    """Plain data as the library's types. Raises ValueError for a number that CEL has no room for."""
    if value is None:
        return None
    if isinstance(value, bool):
        return celtypes.BoolType(value)
    if isinstance(value, int):
        return celtypes.IntType(value)
    if isinstance(value, float):
        return celtypes.DoubleType(value)
    if isinstance(value, str):
        value.encode()  # lone surrogates are no text
        return celtypes.StringType(value)
    if isinstance(value, datetime):
        return celtypes.TimestampType(value)
    if isinstance(value, list):
        return celtypes.ListType([_value(item) for item in value])
    if isinstance(value, dict):
        return celtypes.MapType({celtypes.StringType(key): _value(item) for key, item in value.items()})
    raise TypeError("no CEL type for this value")
