"""Literals that a fact can never equal: a header name in capitals, a kind of principal that does not exist."""

from __future__ import annotations

from collections.abc import Iterator

from extproc.domain.principal import KINDS
from extproc.domain.statement import EFFECTS, VERBS
from extproc.policy.facts import SECRET_HEADERS, suggestion
from extproc.policy.syntax import Build, Call, Const, Expr, Ident, Select, walk

_HEADERS = frozenset({"request.headers", "response.headers"})
_VALUES: dict[str, tuple[str, ...]] = {
    "principal.kind": KINDS,
    "request.scheme": ("http", "https"),
    "sql.verb": VERBS,
    "session.transaction": ("", "open", "failed"),
}
_MEMBERS: dict[str, tuple[str, ...]] = {"sql.verbs": VERBS, "sql.effects": EFFECTS}
"""Lists with few members."""


def impossible_literals(node: Expr) -> list[str]:
    """What is wrong with the literals of a condition, sorted."""
    found: set[str] = set()
    for part in walk(node):
        found.update(_header_names(part))
        found.update(_compared_values(part))
    return sorted(found)


def _header_names(part: Expr) -> Iterator[str]:
    match part:
        case (
            Call(function="_[_]", args=(Ident(name=fact), Const(value=str() as header)))
            | Call(function="@in", args=(Const(value=str() as header), Ident(name=fact)))
            | Select(operand=Ident(name=fact), field=header)
        ) if fact in _HEADERS:
            if header in SECRET_HEADERS or header.startswith(":"):
                yield f'{fact} never holds "{header}"'
            elif header != header.lower():
                yield f'header names are in lower case in {fact}: "{header.lower()}"'


def _compared_values(part: Expr) -> Iterator[str]:
    """A fact with few values, compared with a literal that is none of them."""
    match part:
        case (
            Call(function="_==_" | "_!=_", args=(Ident(name=fact), Const(value=str() as value)))
            | Call(function="_==_" | "_!=_", args=(Const(value=str() as value), Ident(name=fact)))
        ) if fact in _VALUES:
            yield from _unknown(fact, value)
        case Call(function="@in", args=(Ident(name=fact), Build(parts=parts))) if fact in _VALUES:
            for item in parts:
                if isinstance(item, Const) and isinstance(item.value, str):
                    yield from _unknown(fact, item.value)
        case Call(function="@in", args=(Const(value=str() as value), Ident(name=fact))) if fact in _MEMBERS:
            yield from _unknown(fact, value)
        case (
            Call(function="_==_" | "_!=_", args=(Ident(name=fact), Build(parts=parts)))
            | Call(function="_==_" | "_!=_", args=(Build(parts=parts), Ident(name=fact)))
        ) if fact in _MEMBERS:
            members = [str(item.value) for item in parts if isinstance(item, Const)]
            for member in members:
                yield from _unknown(fact, member)
            if len(members) == len(parts) and members != sorted(set(members)):
                yield f"{fact} is sorted and has no repeats: {sorted(set(members))}"


def _unknown(fact: str, value: str) -> Iterator[str]:
    known = _VALUES.get(fact) or _MEMBERS[fact]
    if value not in known:
        yield f'{fact} is one of {_listed(known)}, never "{value}"{suggestion(value, known)}'


def _listed(known: tuple[str, ...]) -> str:
    if len(known) > _FEW:
        return f"{len(known)} words"
    return ", ".join(known)


_FEW = 10
