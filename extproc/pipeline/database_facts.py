"""Facts for policy about one SQL statement, built only when a rule reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from datetime import UTC, datetime

from extproc.domain.nouns import noun
from extproc.domain.principal import Principal
from extproc.domain.request import Source
from extproc.domain.statement import Statement, StatementFacts
from extproc.pipeline.facts import FactUnavailableError
from extproc.pipeline.governance import TargetPlan


@noun(frozen=True, slots=True)
class SessionFacts:
    """What is true of a whole connection. `user` and `database` are what the caller asked for; `role` is the
    database user it became."""

    session_id: str
    principal: Principal
    plan: TargetPlan
    source: Source
    user: str
    database: str
    role: str
    application: str = ""


@noun(frozen=True, slots=True)
class StatementView:
    """One statement of a text as rules see it. `transaction` is ReadyForQuery's letter (I, T, E)."""

    session: SessionFacts
    statement: Statement
    sql: StatementFacts
    transaction: str
    now: float
    is_bound: bool = True
    """False at Parse, when the parameters are not known yet."""


class DatabaseFacts(Mapping[str, object]):
    """Lazy facts by name. FactUnavailableError for what is not known: rules that read it count as not evaluated."""

    __slots__ = ("_cache", "_view")

    def __init__(self, view: StatementView) -> None:
        self._view = view
        self._cache: dict[str, object] = {}

    def __getitem__(self, name: str) -> object:
        if name not in self._cache:
            self._cache[name] = BUILDERS[name](self._view)
        return self._cache[name]

    def __iter__(self) -> Iterator[str]:
        return iter(BUILDERS)

    def __len__(self) -> int:
        return len(BUILDERS)


def _parameters(view: StatementView) -> list[str]:
    if not view.is_bound:
        raise FactUnavailableError("parameters are known at Bind")
    if any(p.value is not None and p.text is None for p in view.statement.parameters):
        raise FactUnavailableError("a parameter is in a binary format that is not read")
    return [parameter.text or "" for parameter in view.statement.parameters]


def _sql(name: str) -> Callable[[StatementView], object]:
    def read(view: StatementView) -> object:
        value = getattr(view.sql, name)
        return list(value) if isinstance(value, tuple) else value

    return read


_TRANSACTIONS = {"I": "", "T": "open", "E": "failed"}

BUILDERS: dict[str, Callable[[StatementView], object]] = {
    **{f"sql.{field.name}": _sql(field.name) for field in fields(StatementFacts)},
    "sql.normalized": _sql("normalised"),
    "sql.shape": _sql("shape"),
    "sql.text": lambda v: v.statement.text,
    "sql.parameters": _parameters,
    "session.id": lambda v: v.session.session_id,
    "session.transaction": lambda v: _TRANSACTIONS.get(v.transaction, "open"),
    "session.application": lambda v: v.session.application,
    "connection.user": lambda v: v.session.user,
    "connection.database": lambda v: v.session.database,
    "connection.role": lambda v: v.session.role,
    "source.address": lambda v: v.session.source.address,
    "connection.mtls": lambda v: v.session.source.mtls,
    "connection.peer_san": lambda v: v.session.source.peer_uri_san,
    "principal.issuer": lambda v: v.session.principal.issuer,
    "principal.subject": lambda v: v.session.principal.subject,
    "principal.kind": lambda v: v.session.principal.kind,
    "principal.person": lambda v: v.session.principal.person,
    "principal.client_id": lambda v: v.session.principal.client_id,
    "principal.groups": lambda v: list(v.session.principal.groups),
    "principal.claims": lambda v: dict(v.session.principal.claims),
    "target.name": lambda v: v.session.plan.name,
    "target.kind": lambda v: v.session.plan.kind,
    "target.labels": lambda v: v.session.plan.labels,
    "now": lambda v: datetime.fromtimestamp(v.now, UTC),
}
"""How each fact of `docs/policies.md` is had for a database. One row a fact."""
