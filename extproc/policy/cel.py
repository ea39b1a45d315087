"""CEL by `cel-expr-python`: the only place that knows this library.

All conditions of a batch are one list expression, one call. If it errs, each condition is judged alone over one
activation, so that one rule's trouble stays that rule's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cel_expr_python import cel

from extproc.policy import engine
from extproc.policy.checked import read_expression
from extproc.policy.engine import Condition, ConditionError, Judgement, Mistake, Unjudged
from extproc.policy.facts import describe_unknown

_PLACE = re.compile(r"^ERROR: <input>:(-?\d+):(-?\d+): (.*)$")
_UNDECLARED = re.compile(r"undeclared reference to '([^']*)' \(in container ''\)")
_LIST_TEXT = 90_000
"""The parser takes 100,000 characters; longer lists are split."""

_SIMPLE = {
    "string": cel.Type.STRING,
    "int": cel.Type.INT,
    "bool": cel.Type.BOOL,
    "timestamp": cel.Type.TIMESTAMP,
    "dyn": cel.Type.DYN,
}


class CelExprEngine:
    """One environment: the facts of one kind of target."""

    name = "cel-expr"

    def __init__(self, kind: str, variables: Mapping[str, str]) -> None:
        self._kind = kind
        self._env: Any = cel.NewEnv(variables={name: _type(type_) for name, type_ in variables.items()})

    def compile(self, text: str) -> Condition:
        try:
            program = self._env.compile(text)
            parsed = self._env.compile(text, disable_check=True)
        except Exception as error:
            raise ConditionError(self._mistakes(text, str(error))) from None
        try:
            checked = read_expression(program.serialize())
            asked = read_expression(parsed.serialize())
        except (ValueError, RecursionError):
            raise ConditionError([Mistake(1, 1, "the expression cannot be analysed")]) from None
        result = program.return_type()
        if result not in (cel.Type.BOOL, cel.Type.DYN):
            raise ConditionError([Mistake(1, 1, f"the condition is of type {_name(result)}, not bool")])
        return Condition(text, checked, asked, program)

    def batch(self, conditions: Sequence[Condition]) -> CelExprBatch:
        return CelExprBatch(self._env, conditions)

    def _mistakes(self, condition: str, text: str) -> list[Mistake]:
        """The library's error text, as places and messages."""
        found: list[Mistake] = []
        for line in text.removeprefix("INVALID_ARGUMENT: ").split("\n"):
            if match := _PLACE.match(line):
                at_line, column = max(int(match[1]), 1), max(int(match[2]), 1)
                message = match[3].removesuffix(" [INVALID_ARGUMENT]")
                if name := _UNDECLARED.search(message):
                    message = describe_unknown(name[1], self._kind)
                    column = _start_of(name[1], condition, at_line, column)
                found.append(Mistake(at_line, column, message))
        if "recursion" in text and not found:
            found.append(Mistake(1, 1, "the expression is nested too deeply"))
        return found or [Mistake(1, 1, "the expression cannot be compiled")]


def _start_of(name: str, condition: str, line: int, column: int) -> int:
    """The library points at a name's last dot or at the parenthesis after it; authors look for its start."""
    lines = condition.split("\n")
    if line > len(lines):
        return column
    for back in (0, name.rfind("."), len(name)):
        start = column - 1 - back
        if start >= 0 and lines[line - 1].startswith(name, start):
            return start + 1
    return column


class CelExprBatch:
    """Conditions compiled into as few list expressions as their size allows: nearly always one."""

    __slots__ = ("_conditions", "_env", "_parts", "_size")

    def __init__(self, env: Any, conditions: Sequence[Condition]) -> None:
        self._env = env
        self._conditions = tuple(conditions)
        self._size = len(self._conditions)
        self._parts = _list_expressions(env, self._conditions)

    def judge(self, data: dict[str, object]) -> Sequence[Judgement]:
        if self._parts is None:
            return self._singly(data)
        try:
            if len(self._parts) == 1:
                found = self._parts[0].eval(data=data).plain_value()
            else:
                found = []
                for part in self._parts:
                    found.extend(part.eval(data=data).plain_value())
        except Exception:
            return self._singly(data)
        # An error value's plain value is its text: only a list of the right length is an answer.
        if type(found) is not list or len(found) != self._size:
            return self._singly(data)
        for value in found:
            if value is not True and value is not False:
                return [_judgement(value) for value in found]
        return found

    def _singly(self, data: dict[str, object]) -> list[Judgement]:
        try:
            activation = self._env.Activation(data)
        except Exception:
            return [engine.FAILED] * self._size
        judged: list[Judgement] = []
        for condition in self._conditions:
            try:
                value = condition.program.eval(activation)
                plain = value.plain_value()
            except Exception as error:
                judged.append(_reason(str(error)))
                continue
            judged.append(plain if type(plain) is bool else _not_judged(value, plain))
        return judged


def _list_expressions(env: Any, conditions: Sequence[Condition]) -> list[Any] | None:
    """None when a list cannot be compiled (the parser allows 32 levels, and a list is one of them)."""
    parts: list[Any] = []
    texts: list[str] = []
    try:
        for condition in conditions:
            if texts and sum(map(len, texts)) + len(condition.text) > _LIST_TEXT:
                parts.append(env.compile(_list_of(texts)))
                texts = []
            texts.append(condition.text)
        if texts:
            parts.append(env.compile(_list_of(texts)))
    except Exception:
        return None
    return parts


def _list_of(texts: Sequence[str]) -> str:
    """Each condition stands on lines of its own, so that a trailing comment ends there."""
    return "[\n" + "\n,\n".join(texts) + "\n]"


def _judgement(value: object) -> Judgement:
    return value if type(value) is bool else engine.NOT_BOOLEAN


def _not_judged(value: Any, plain: object) -> Unjudged:
    if value.type() == cel.Type.ERROR:
        return _reason(str(plain))
    return engine.NOT_BOOLEAN


def _reason(text: str) -> Unjudged:
    """A kind of trouble without the values that the library's text quotes."""
    if "No value with name" in text:
        return engine.MISSING_FACT
    if text.startswith("NOT_FOUND") or "out of bounds" in text:
        return engine.MISSING_KEY
    if "budget" in text:
        return engine.TOO_MUCH_WORK
    if "range" in text or "overflow" in text or "by zero" in text:
        return engine.OUT_OF_RANGE
    if "overload" in text or "SELECT" in text or "type" in text:
        return engine.WRONG_TYPE
    return engine.FAILED


def _type(signature: str) -> Any:
    """`map<string,list<string>>` as the library's type."""
    if signature in _SIMPLE:
        return _SIMPLE[signature]
    outer, _, inner = signature.removesuffix(">").partition("<")
    if outer == "list":
        return cel.Type.List(_type(inner))
    key, _, value = inner.partition(",")
    return cel.Type.Map(_type(key), _type(value))


def _name(type_: Any) -> str:
    return str(type_.name()).lower()
