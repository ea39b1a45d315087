"""Attributes of database sessions and statements, by OpenTelemetry's semantic conventions for databases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Value = str | int | bool | list[str]

SYSTEMS = {"postgres": "postgresql", "mysql": "mysql"}
"""Our protocol names to `db.system.name`."""


def is_database(fields: Mapping[str, Any]) -> bool:
    """Whether a record is about a database."""
    return fields.get("protocol") in SYSTEMS


def span_name(said: Mapping[str, Any], first: Mapping[str, Any], target: str) -> str:
    """Low in cardinality: the verb of a statement, or what else the session did."""
    if first.get("operation") == "login":
        return f"session {target}"
    return f"{_verb(_mapping(said.get('statement'))) or 'statement'} {target}"


def add_statement(
    attributes: dict[str, Value], said: Mapping[str, Any], became: Mapping[str, Any], first: Mapping[str, Any]
) -> None:
    """What was asked of which database, and what came of it. Texts were masked before they were recorded."""
    attributes["db.system.name"] = SYSTEMS[str(first.get("protocol"))]
    connection = _mapping(said.get("connection"))
    for name, key in (
        ("database", "db.namespace"),
        ("user", "extproc.db.user"),
        ("role", "extproc.db.role"),
    ):
        if value := _text(connection.get(name)):
            attributes[key] = value
    statement = _mapping(said.get("statement"))
    if verb := _verb(statement):
        attributes["db.operation.name"] = verb
    if text := _text(statement.get("text")):
        attributes["db.query.text"] = text
    tables = [*_texts(statement.get("tables_written")), *_texts(statement.get("tables_read"))]
    if len(set(tables)) == 1:
        attributes["db.collection.name"] = tables[0]
    if effects := _texts(statement.get("effects")):
        attributes["extproc.sql.effects"] = effects
    response = _mapping(became.get("response"))
    if sqlstate := _text(response.get("sqlstate")):
        attributes["db.response.status_code"] = sqlstate
    for name, key in (
        ("rows", "db.response.returned_rows"),
        ("affected", "extproc.db.affected_rows"),
        ("bytes", "extproc.db.response.bytes"),
        ("statements", "extproc.session.statements"),
        ("denied", "extproc.session.denied"),
        ("held", "extproc.session.held"),
    ):
        number = response.get(name)
        if isinstance(number, int) and not isinstance(number, bool):
            attributes[key] = number


def _verb(statement: Mapping[str, Any]) -> str:
    verbs = sorted(set(_texts(statement.get("verbs"))))
    return " ".join(verbs[:3])


def _texts(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
