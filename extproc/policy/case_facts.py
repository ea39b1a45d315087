"""The facts of a plain request, as the table in `facts.py` says and as the proxy builds them for real traffic."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from urllib.parse import parse_qs, unquote_to_bytes

from extproc.domain.statement import StatementFacts
from extproc.policy.facts import SECRET_HEADERS
from extproc.policy.statements import statement_facts


def build_facts(
    request: Mapping[str, object],
    principal: Mapping[str, object],
    response: Mapping[str, object] | None,
    target: Mapping[str, object],
    *,
    now: datetime | None = None,
    session: str = "case",
) -> dict[str, object]:
    """The facts of a plain request. Raises ValueError for one that the proxy would have refused.

    `target` has name, kind and labels. A fact without a value (the JSON of an empty body) is left out, which
    makes it unavailable, as it is in traffic.
    """
    facts = _request_facts(request)
    facts.update(_principal_facts(principal))
    facts.update({f"target.{key}": value for key, value in target.items()})
    facts["session.id"] = session
    facts["now"] = now or datetime(2026, 1, 1, tzinfo=UTC)
    if response is not None:
        facts.update(_response_facts(response))
    return facts


def build_database_facts(
    request: Mapping[str, object],
    principal: Mapping[str, object],
    target: Mapping[str, object],
    statements: Sequence[StatementFacts],
    *,
    now: datetime | None = None,
    session: str = "case",
) -> tuple[dict[str, object], ...]:
    """The facts of each statement of a text, which `statements` describe."""
    parameters = request.get("parameters")
    user = str(request.get("user", "app"))
    facts: dict[str, object] = {
        "sql.text": str(request.get("sql", "")),
        "sql.parameters": [_shown_parameter(part) for part in parameters]
        if isinstance(parameters, list)
        else [],
        "session.transaction": str(request.get("transaction", "")),
        "session.application": str(request.get("application", "")),
        "connection.user": user,
        "connection.role": str(request.get("role", user)),
        "connection.database": str(request.get("database", "app")),
        **_connection_facts(request),
        **_principal_facts(principal),
        **{f"target.{key}": value for key, value in target.items()},
        "session.id": session,
        "now": now or datetime(2026, 1, 1, tzinfo=UTC),
    }
    return tuple({**facts, **statement_facts(statement)} for statement in statements)


def _shown_parameter(value: object) -> str:
    """As Postgres writes it; NULL is nothing."""
    if isinstance(value, bool):
        return "t" if value else "f"
    return "" if value is None else str(value)


def _connection_facts(request: Mapping[str, object]) -> dict[str, object]:
    return {
        "source.address": str(request.get("source", "192.0.2.1:40000")),
        "connection.mtls": bool(request.get("mtls", False)),
        "connection.peer_san": str(request.get("peer_san", "")),
    }


def _request_facts(request: Mapping[str, object]) -> dict[str, object]:
    path = str(request.get("path", "/"))
    raw, _, query = path.partition("?")
    headers = _headers(as_mapping(request.get("headers")))
    facts: dict[str, object] = {
        "request.method": str(request.get("method", "GET")),
        "request.scheme": str(request.get("scheme", "https")),
        "request.host": str(request.get("host", "api.example")),
        "request.path": path,
        "request.url_path": _decoded(raw),
        "request.query": query,
        "request.query_params": parse_qs(query, keep_blank_values=True, errors="strict"),
        "request.headers": headers,
        **_connection_facts(request),
    }
    facts.update(_body_facts("request", request, headers))
    facts["request.size"] = facts.pop("request.bytes")
    return facts


def _response_facts(response: Mapping[str, object]) -> dict[str, object]:
    headers = _headers(as_mapping(response.get("headers")))
    facts: dict[str, object] = {
        "response.code": response.get("code", 200),
        "response.headers": headers,
        "response.findings": dict(as_mapping(response.get("findings"))),
    }
    facts.update(_body_facts("response", response, headers))
    return facts


def _body_facts(side: str, message: Mapping[str, object], headers: dict[str, str]) -> dict[str, object]:
    """`json` is sent as JSON; a `body` is JSON when its content type says so."""
    if "json" in message:
        headers.setdefault("content-type", "application/json")
        body = json.dumps(message["json"], ensure_ascii=False)
        return {f"{side}.body": body, f"{side}.bytes": len(body.encode()), f"{side}.json": message["json"]}
    body = str(message.get("body", ""))
    facts: dict[str, object] = {f"{side}.body": body, f"{side}.bytes": len(body.encode())}
    media = headers.get("content-type", "").partition(";")[0].strip().lower()
    if body and (media == "application/json" or media.endswith("+json")):
        facts[f"{side}.json"] = json.loads(body)
    return facts


def _headers(headers: Mapping[str, object]) -> dict[str, str]:
    """Header fields as rules see them."""
    kept = {name.lower(): str(value) for name, value in headers.items()}
    return {name: value for name, value in kept.items() if name not in SECRET_HEADERS and name[:1] != ":"}


def _principal_facts(principal: Mapping[str, object]) -> dict[str, object]:
    issuer = str(principal.get("issuer", "https://issuer.example"))
    subject = str(principal.get("subject", "someone"))
    groups = principal.get("groups")
    return {
        "principal.issuer": issuer,
        "principal.subject": subject,
        "principal.kind": str(principal.get("kind", "agent")),
        "principal.person": str(principal.get("person", f"{issuer}|{subject}")),
        "principal.client_id": str(principal.get("client_id", "")),
        "principal.groups": list(groups) if isinstance(groups, list) else [],
        "principal.claims": dict(as_mapping(principal.get("claims"))),
    }


def _decoded(raw: str) -> str:
    """Percent-decoded once."""
    return unquote_to_bytes(raw).decode("utf-8", "strict")


def as_mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}
