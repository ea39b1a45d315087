"""The facts a rule may read: one table of dotted, typed CEL variables.

Adding a fact is adding a row. Names are Envoy's own where Envoy has one. A fact belongs to the phase in which
it becomes known, and a rule belongs to the latest phase it reads. `docs/policies.md` prints this table.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from extproc.domain.decision import Phase

HTTP_KINDS = frozenset({"http"})
SQL_KINDS = frozenset({"mysql", "postgres"})
KINDS = tuple(sorted(HTTP_KINDS | SQL_KINDS))
EVERY_KIND: frozenset[str] = frozenset()
"""An empty set of kinds means: every kind of target has this fact."""

RISK = "risk"
"""The one fact that policy itself supplies: the sum over the rules that matched so far."""

SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie"})
"""Never facts, whatever a request or a case says."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One CEL variable: its name, its CEL type as CEL writes it, when it is known and for which targets."""

    name: str
    type: str
    phase: Phase
    about: str
    kinds: frozenset[str] = HTTP_KINDS
    body: bool = False
    """Whether the message body must be buffered to know it."""

    def is_known_for(self, kind: str) -> bool:
        return not self.kinds or kind in self.kinds


def _head(name: str, type_: str, about: str, kinds: frozenset[str] = HTTP_KINDS) -> Fact:
    return Fact(name, type_, Phase.HEADERS, about, kinds)


def _body(name: str, type_: str, about: str) -> Fact:
    return Fact(name, type_, Phase.BODY, about, body=True)


def _response(name: str, type_: str, about: str, *, body: bool) -> Fact:
    return Fact(name, type_, Phase.RESPONSE, about, body=body)


def _sql(name: str, type_: str, about: str) -> Fact:
    return Fact(name, type_, Phase.HEADERS, about, SQL_KINDS)


_TABLE = (
    _head("request.method", "string", "the method, as sent"),
    _head("request.scheme", "string", "`http` or `https`"),
    _head("request.host", "string", "the authority, with its port if one was sent"),
    _head("request.path", "string", "the raw path with its query, as Envoy has it"),
    _head("request.url_path", "string", "the path without query, percent-decoded once"),
    _head("request.query", "string", "the raw query, without `?`"),
    _head("request.query_params", "map<string,list<string>>", "decoded query parameters, all values"),
    _head("request.headers", "map<string,string>", "lower-case names, repeated values joined with `,`"),
    _body("request.size", "int", "bytes of the body"),
    _body("request.body", "string", "the body as text"),
    _body("request.json", "dyn", "the body as JSON; only the paths that rules read are handed over"),
    _head("source.address", "string", "where the connection came from, as Envoy tells it", EVERY_KIND),
    _head("connection.mtls", "bool", "whether the client showed a certificate", EVERY_KIND),
    _head("connection.peer_san", "string", "the client certificate's URI name", EVERY_KIND),
    _head("principal.issuer", "string", "who vouches for the caller", EVERY_KIND),
    _head("principal.subject", "string", "the caller, as the issuer names it", EVERY_KIND),
    _head("principal.kind", "string", "`human`, `agent`, `service` or `machine`", EVERY_KIND),
    _head("principal.person", "string", "the person behind the caller, the same on every target", EVERY_KIND),
    _head("principal.client_id", "string", "the OAuth client that asked", EVERY_KIND),
    _head("principal.groups", "list<string>", "the caller's groups", EVERY_KIND),
    _head("principal.claims", "map<string,dyn>", "the token's claims", EVERY_KIND),
    _head("target.name", "string", "the target's name in the configuration", EVERY_KIND),
    _head("target.kind", "string", "the target's kind", EVERY_KIND),
    _head("target.labels", "map<string,string>", "the target's labels", EVERY_KIND),
    _head("session.id", "string", "the session this request belongs to", EVERY_KIND),
    _head(RISK, "int", "the sum of the `risk` of the rules that matched so far", EVERY_KIND),
    _head("now", "timestamp", "when the request came", EVERY_KIND),
    _sql("sql.verb", "string", "the statement's first word in capitals: `SELECT`, `CREATE`, `SET`, …"),
    _sql(
        "sql.verbs",
        "list<string>",
        "its verb and those of what it holds: CTEs, EXPLAIN ANALYZE, PREPARE, MERGE",
    ),
    _sql("sql.effects", "list<string>", "what it can do, sorted; see below"),
    _sql("sql.tables_read", "list<string>", "tables it reads, as written; on MySQL with their database"),
    _sql("sql.tables_written", "list<string>", "tables whose rows, locks, definition or rights it changes"),
    _sql("sql.columns", "list<string>", "columns it names: `table.column` where certain, else `column`"),
    _sql("sql.columns_used", "list<string>", "those that are more than bare items of the result"),
    _sql("sql.functions", "list<string>", "functions it calls, as written but without `pg_catalog.`"),
    _sql("sql.has_where", "bool", "whether every UPDATE and DELETE in it has a WHERE that restricts"),
    _sql("sql.has_limit", "bool", "whether the outermost SELECT has a LIMIT"),
    _sql("sql.limit", "int", "that LIMIT where it is a constant, else -1"),
    _sql("sql.statements", "int", "how many statements came in one text"),
    _sql("sql.complete", "bool", "whether everything it does is seen"),
    _sql("sql.incomplete_reason", "string", "why not"),
    _sql(
        "sql.transaction",
        "string",
        "`begin`, `commit`, `rollback`, `savepoint`, `release`, `prepared` or nothing",
    ),
    _sql("sql.refers_to", "string", "the prepared statement or cursor it makes, runs or drops"),
    _sql("sql.fingerprint", "string", "a fingerprint of its structure; on Postgres libpg_query's"),
    _sql("sql.normalized", "string", "its text without comments and literals, in one line"),
    _sql("sql.shape", "string", "the same where a literal can only be a value, else nothing"),
    _sql("sql.text", "string", "the whole text as it came"),
    _sql("sql.parameters", "list<string>", "bound parameters as text, NULL as nothing"),
    _sql("session.transaction", "string", "`open`, `failed` or nothing"),
    _sql("session.application", "string", "the application's name, as the caller gives it"),
    _sql("connection.user", "string", "the database user that the caller asked for"),
    _sql("connection.role", "string", "the database user that it became"),
    _sql("connection.database", "string", "the database"),
    _response("response.code", "int", "the status code", body=False),
    _response("response.headers", "map<string,string>", "as `request.headers`", body=False),
    _response("response.bytes", "int", "bytes of the body", body=True),
    _response("response.body", "string", "the body as text", body=True),
    _response("response.json", "dyn", "the body as JSON, as `request.json`", body=True),
    _response("response.findings", "map<string,int>", "what the recognizers found, by kind", body=True),
)

FACTS: Mapping[str, Fact] = {fact.name: fact for fact in _TABLE}
ROOTS = frozenset(name.partition(".")[0] for name in FACTS)

_FUNCTIONS = """
all bool bytes contains double duration dyn endsWith exists exists_one filter getDate getDayOfMonth getDayOfWeek
getDayOfYear getFullYear getHours getMilliseconds getMinutes getMonth getSeconds has in int map matches size
startsWith string timestamp type uint
"""
FUNCTIONS = frozenset(_FUNCTIONS.split())
"""CEL's standard functions and macros, for suggestions."""


@cache
def variables(kind: str) -> Mapping[str, str]:
    """Names and CEL types of the facts that a target of this kind has."""
    return {fact.name: fact.type for fact in _TABLE if fact.is_known_for(kind)}


def suggestion(name: str, known: Mapping[str, object] | frozenset[str] | tuple[str, ...]) -> str:
    """`; did you mean "x"?` or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f'; did you mean "{near[0]}"?' if near else ""


def describe_unknown(name: str, kind: str) -> str:
    """Why a name cannot be used, with the nearest name that can."""
    if name in FACTS:
        return f'"{name}" is not known for targets of kind {kind}'
    known = (*variables(kind), *FUNCTIONS)
    if name in ROOTS:
        return f'"{name}" alone is not a fact; the facts are {", ".join(_under(name, kind))}'
    return f'unknown name "{name}"{suggestion(name, known)}'


def _under(root: str, kind: str) -> list[str]:
    return [name for name in variables(kind) if name.startswith(root + ".")]


Shape = tuple[type, Callable[[Any], object]]


def _as_time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def shape_of(fact: Fact) -> Shape | None:
    """The type both engines take this fact in, and what makes it of anything else; None where there is no choice.

    Lists may arrive as tuples, maps as any mapping, times as Unix seconds.
    """
    if fact.type.startswith("list<"):
        return list, list
    if fact.type.startswith("map<"):
        return dict, dict
    if fact.type == "timestamp":
        return datetime, _as_time
    return None
