"""A CEL expression as both engines parse it: the few node kinds, and what can be told from them at load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from extproc.policy.projection import Paths


@dataclass(frozen=True, slots=True)
class Const:
    """A literal. `value` is bool, int, float, str, bytes or None; unsigned numbers are int with `unsigned`."""

    value: object
    unsigned: bool = False


@dataclass(frozen=True, slots=True)
class Ident:
    """A variable. A fact's name is one identifier with its dots: `request.json`."""

    name: str


@dataclass(frozen=True, slots=True)
class Select:
    """`operand.field`, or `has(operand.field)` when `test` is set."""

    operand: Expr
    field: str
    test: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """A function or operator; operators have CEL's own names (`_==_`, `_[_]`, `@in`)."""

    function: str
    args: tuple[Expr, ...]
    target: Expr | None = None


@dataclass(frozen=True, slots=True)
class Build:
    """A list, map or message literal: its parts in order."""

    kind: str
    parts: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Comprehension:
    """What `exists`, `all`, `exists_one`, `map` and `filter` unfold to; `macro` names it where that is known."""

    variables: tuple[str, ...]
    range: Expr
    parts: tuple[Expr, ...]
    macro: str = ""


Expr = Const | Ident | Select | Call | Build | Comprehension


def children(node: Expr) -> tuple[Expr, ...]:
    """The nodes right below."""
    match node:
        case Select(operand=operand):
            return (operand,)
        case Call(args=args, target=target):
            return args if target is None else (target, *args)
        case Build(parts=parts):
            return parts
        case Comprehension(range=range_, parts=parts):
            return (range_, *parts)
        case _:
            return ()


def walk(node: Expr) -> Iterator[Expr]:
    """Every node, outermost first."""
    pending = [node]
    while pending:
        found = pending.pop()
        yield found
        pending.extend(children(found))


def iteration_variables(node: Expr) -> frozenset[str]:
    """Names that macros bind."""
    found: set[str] = set()
    for part in walk(node):
        if isinstance(part, Comprehension):
            found.update(name for name in part.variables if name)
    return frozenset(found)


def reads(node: Expr, facts: Mapping[str, object]) -> dict[str, Paths]:
    """The facts that an expression reads, with the paths below them.

    A chain of fields and constant indexes is a path. Anything else (a dynamic index, a macro, a comparison)
    reads the whole value where the chain ends.
    """
    found: dict[str, Paths] = {}
    pending = [node]
    while pending:
        part = pending.pop()
        chain = _chain(part, facts)
        if chain is None:
            pending.extend(children(part))
            continue
        name, path, whole = chain
        found.setdefault(name, Paths()).add(path, whole=whole)
    return found


def _chain(node: Expr, facts: Mapping[str, object]) -> tuple[str, tuple[str | int, ...], bool] | None:
    """(fact, path, whether the end is read and not only asked for) or None if this is no chain over a fact."""
    path: list[str | int] = []
    whole = True
    if isinstance(node, Select) and node.test:
        whole = False
    while True:
        match node:
            case Ident(name=name):
                return (name, tuple(reversed(path)), whole) if name in facts else None
            case Select(operand=operand, field=field):
                path.append(field)
                node = operand
            case Call(function="_[_]", args=(operand, Const(value=str() | int() as step))) if (
                type(step) is not bool
            ):
                path.append(step)
                node = operand
            case _:
                return None
