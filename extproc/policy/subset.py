"""The vetted subset for the portable engine, and its types.

`cel-python` checks no types and differs from the specification in many corners. A condition may therefore use
only what is listed here and what the differential test has shown to agree with the reference engine. What is
not listed is refused at load, with its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from extproc.policy.engine import Mistake
from extproc.policy.facts import describe_unknown
from extproc.policy.syntax import Build, Call, Comprehension, Const, Expr, Ident, Select

Type = str | tuple["Type", ...]
"""A simple type's name, `("list", T)` or `("map", K, V)`."""

_TYPE_NAMES = frozenset({"int", "double", "bool", "string", "list", "map"})
_ORDERED = frozenset({"int", "double", "string", "timestamp", "duration"})
_ZONED = frozenset(
    {"getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getHours"}
    | {"getMinutes", "getSeconds"}
)
_TEXT_TESTS = frozenset({"contains", "startsWith", "endsWith", "matches"})
_ARITHMETIC: dict[tuple[str, Type, Type], Type] = {
    ("_+_", "timestamp", "duration"): "timestamp",
    ("_+_", "duration", "timestamp"): "timestamp",
    ("_+_", "duration", "duration"): "duration",
    ("_-_", "timestamp", "duration"): "timestamp",
    ("_-_", "timestamp", "timestamp"): "duration",
    ("_-_", "duration", "duration"): "duration",
    ("_+_", "string", "string"): "string",
    **{(op, "int", "int"): "int" for op in ("_+_", "_-_", "_*_", "_/_", "_%_")},
    **{(op, "double", "double"): "double" for op in ("_+_", "_-_", "_*_", "_/_")},
}
_CONVERSIONS: dict[str, frozenset[Type]] = {
    "timestamp": frozenset({"string", "timestamp"}),
    "duration": frozenset({"string", "duration"}),
    "int": frozenset({"string", "int"}),
    "string": frozenset({"string", "int"}),
}


@dataclass(slots=True)
class SubsetChecker:
    """Types of one condition. `places` gives line and column by the identity of a node."""

    kind: str
    variables: Mapping[str, str]
    places: Mapping[int, tuple[int, int]]
    mistakes: list[Mistake] = field(default_factory=list)
    _scope: dict[str, Type] = field(default_factory=dict)

    def check(self, node: Expr) -> Type:
        """The node's type; mistakes are collected, and what has one counts as `dyn`."""
        match node:
            case Const():
                return self._const(node)
            case Ident():
                return self._ident(node)
            case Select(operand=operand, test=test):
                found = self._field(node, self.check(operand))
                return "bool" if test else found
            case Build():
                return self._build(node)
            case Comprehension():
                return self._comprehension(node)
            case Call():
                return self._call(node)

    def _const(self, node: Const) -> Type:
        match node.value:
            case bool():
                return "bool"
            case int() if node.unsigned:
                return self._wrong(node, "unsigned numbers are not in the portable subset")
            case int():
                return "int"
            case float():
                return "double"
            case str():
                return "string"
            case None:
                return "null"
            case _:
                return self._wrong(node, "bytes are not in the portable subset")

    def _ident(self, node: Ident) -> Type:
        if node.name in self._scope:
            return self._scope[node.name]
        if node.name in self.variables:
            return parse_type(self.variables[node.name])
        if node.name in _TYPE_NAMES:
            return "type"
        return self._wrong(node, describe_unknown(node.name, self.kind))

    def _field(self, node: Select, operand: Type) -> Type:
        if operand == "dyn":
            return "dyn"
        if isinstance(operand, tuple) and operand[0] == "map":
            return operand[2]
        if isinstance(node.operand, Ident) and node.operand.name not in self.variables and operand != "type":
            return "dyn"  # the unknown name is told already
        return self._wrong(node, f"a value of type {spelled(operand)} has no fields")

    def _build(self, node: Build) -> Type:
        if node.kind == "struct":
            return self._wrong(node, "map and message literals are not in the portable subset")
        types = [self.check(part) for part in node.parts]
        first = types[0] if types else "dyn"
        return ("list", first if all(part == first for part in types) else "dyn")

    def _comprehension(self, node: Comprehension) -> Type:
        macro, variable = node.macro, node.variables[0]
        if self._scope:
            return self._wrong(node, "a macro inside a macro is not in the portable subset")
        over = self.check(node.range)
        if isinstance(over, tuple):
            item: Type = over[1]
        elif over == "dyn":
            item = "dyn"
        else:
            return self._wrong(node, f"{macro} goes over a list or a map, not {spelled(over)}")
        self._scope[variable] = item
        inner = self.check(node.parts[0])
        del self._scope[variable]
        if macro == "map":
            return ("list", inner)
        if inner not in ("bool", "dyn"):
            return self._wrong(node, f"{macro} needs a condition, not {spelled(inner)}")
        return ("list", item) if macro == "filter" else "bool"

    def _call(self, node: Call) -> Type:
        types = [self.check(part) for part in node.args]
        target = self.check(node.target) if node.target is not None else None
        rule = _CALLS.get(node.function)
        if rule is not None and target is None:
            found = rule(types)
        elif node.function in _TEXT_TESTS and target is not None:
            found = "bool" if _all(("string",), [target, *types]) and len(types) == 1 else None
        elif node.function == "size":
            found = _size([target, *types] if target is not None else types)
        elif node.function in _ZONED and target is not None:
            found = "int" if _all(("timestamp",), [target]) and (not types or types == ["string"]) else None
        else:
            return self._wrong(node, f'"{node.function}" is not in the portable subset')
        if found is None:
            shown = ", ".join(spelled(part) for part in ([target, *types] if target is not None else types))
            return self._wrong(
                node, f"found no matching overload for '{node.function}' applied to '({shown})'"
            )
        return found

    def _wrong(self, node: Expr, message: str) -> Type:
        line, column = self.places.get(id(node), (1, 1))
        self.mistakes.append(Mistake(line, column, message))
        return "dyn"


def parse_type(signature: str) -> Type:
    """`map<string,list<string>>` as a type."""
    outer, angle, inner = signature.removesuffix(">").partition("<")
    if not angle:
        return outer
    if outer == "list":
        return ("list", parse_type(inner))
    key, _, value = inner.partition(",")
    return ("map", parse_type(key), parse_type(value))


def spelled(type_: Type) -> str:
    """A type as CEL writes it."""
    if isinstance(type_, str):
        return type_
    return f"{type_[0]}({', '.join(spelled(part) for part in type_[1:])})"


def _fits(one: Type, other: Type) -> bool:
    """Whether values of these types may be compared."""
    if one == other or "dyn" in (one, other):
        return True
    if isinstance(one, tuple) and isinstance(other, tuple) and one[0] == other[0]:
        return all(_fits(left, right) for left, right in zip(one[1:], other[1:], strict=True))
    return False


def _all(wanted: tuple[Type, ...], types: list[Type]) -> bool:
    return all(found == "dyn" or found in wanted for found in types)


def _equality(types: list[Type]) -> Type | None:
    return "bool" if _fits(types[0], types[1]) else None


def _order(types: list[Type]) -> Type | None:
    known = [found for found in types if found != "dyn"]
    return "bool" if all(found in _ORDERED for found in known) and len(set(known)) <= 1 else None


def _logic(types: list[Type]) -> Type | None:
    return "bool" if _all(("bool",), types) else None


def _choice(types: list[Type]) -> Type | None:
    if not _all(("bool",), types[:1]) or not _fits(types[1], types[2]):
        return None
    return types[1] if types[1] == types[2] else "dyn"


def _membership(types: list[Type]) -> Type | None:
    item, within = types
    if within == "dyn":
        return "bool"
    return "bool" if isinstance(within, tuple) and _fits(item, within[1]) else None


def _index(types: list[Type]) -> Type | None:
    within, at = types
    if within == "dyn":
        return "dyn" if _all(("int", "string"), [at]) else None
    if not isinstance(within, tuple):
        return None
    if within[0] == "list":
        return within[1] if _all(("int",), [at]) else None
    return within[2] if _fits(within[1], at) else None


def _size(types: list[Type]) -> Type | None:
    if len(types) != 1:
        return None
    return "int" if types[0] in ("string", "dyn") or isinstance(types[0], tuple) else None


def _arithmetic(operator: str) -> Callable[[list[Type]], Type | None]:
    def check(types: list[Type]) -> Type | None:
        left, right = types
        if "dyn" in (left, right):
            return _with_unknown(operator, right if left == "dyn" else left)
        if operator == "_+_" and isinstance(left, tuple) and left[0] == "list" and _fits(left, right):
            return left if left == right else ("list", "dyn")
        return _ARITHMETIC.get((operator, left, right))

    return check


def _with_unknown(operator: str, known: Type) -> Type | None:
    """The result when one side's type is known only at run time."""
    if isinstance(known, tuple):
        return known if operator == "_+_" and known[0] == "list" else None
    if (operator, known, known) in _ARITHMETIC and known in ("int", "double", "string"):
        return known
    return "dyn" if known in ("dyn", "timestamp", "duration") else None


def _negation(types: list[Type]) -> Type | None:
    return types[0] if _all(("int", "double"), types) else None


def _conversion(name: str, accepted: frozenset[Type]) -> Callable[[list[Type]], Type | None]:
    def check(types: list[Type]) -> Type | None:
        # a dyn argument is left out: what a conversion takes at run time differs between the engines
        return name if len(types) == 1 and types[0] in accepted else None

    return check


_CALLS: dict[str, Callable[[list[Type]], Type | None]] = {
    "_==_": _equality,
    "_!=_": _equality,
    "_<_": _order,
    "_<=_": _order,
    "_>_": _order,
    "_>=_": _order,
    "_&&_": _logic,
    "_||_": _logic,
    "!_": _logic,
    "-_": _negation,
    "_?_:_": _choice,
    "@in": _membership,
    "_[_]": _index,
    "type": lambda types: "type" if len(types) == 1 else None,
    **{operator: _arithmetic(operator) for operator in ("_+_", "_-_", "_*_", "_/_", "_%_")},
    **{name: _conversion(name, accepted) for name, accepted in _CONVERSIONS.items()},
}
