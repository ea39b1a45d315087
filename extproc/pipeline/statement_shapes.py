"""What stays of a statement when its values are taken out, as `shapes` does it for requests."""

from __future__ import annotations

from collections.abc import Iterable

from extproc.domain.principal import Principal
from extproc.domain.statement import Parameter, Statement
from extproc.domain.terms import Shape
from extproc.pipeline.shapes import Digests
from extproc.sql.shape import literals

SQL_SAME, SQL_FREE = "the same normalised statement", "any values"


def statement_shape(
    key: bytes,
    principal: Principal,
    target: str,
    where: Iterable[str],
    statement: Statement,
    transaction: str,
    rules_digest: str,
) -> Shape | None:
    """One statement without its literals and parameters; None where a literal may be more than a value.

    `where` is as for `statement_binding`. A value is pinned as it was given: a literal by its spelling, a parameter
    by its type, format and bytes. Types are no part of the shape: a driver picks them by the size of the number.
    """
    if len(statement.facts) != 1 or statement.kind not in ("simple", "bound"):
        return None
    shape = statement.facts[0].shape
    if not shape:
        return None
    who = (principal.issuer, principal.subject, target, rules_digest, *where, transaction, shape)
    digests = Digests(key, b"sql-shape", who)
    known = statement.facts[0].literals
    written, sign = (literals(statement.text), "$") if known is None else (dict(known), "?")
    values = [(name, b"literal", text.encode()) for name, text in written.items()]
    values += [
        (f"{sign}{n}", *_given(parameter))
        for n, parameter in enumerate(statement.parameters, 1)
        if f"{sign}{n}" not in written  # a parameter that the text does not use
    ]
    return Shape(digests.key, SQL_SAME, SQL_FREE, digests.of(values))


def _given(parameter: Parameter) -> tuple[bytes, bytes]:
    kind = b"parameter" + parameter.type_oid.to_bytes(4, "big") + bytes((parameter.format & 0xFF,))
    if parameter.value is None:
        return kind + b"-null", b""
    return kind, parameter.value
