"""Names as they stand in a parse tree, and how they are written in facts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

CATALOGUE = "pg_catalog"


def written(parts: Sequence[str]) -> str:
    """The last two parts, joined by a dot; one that holds a dot or a quote is quoted, so that no two look alike.

    What may stand before a schema is the current database, for the server refuses any other.
    """
    return ".".join(_part(part) for part in parts[-2:])


def _part(part: str) -> str:
    if "." in part or '"' in part or not part or part == "*":
        return '"' + part.replace('"', '""') + '"'
    return part


def relation_parts(relation: Any) -> list[str]:
    """The parts of a RangeVar: schema and name."""
    return [part for part in (relation.schemaname, relation.relname) if part]


def strings(nodes: Iterable[Any]) -> list[str]:
    """The texts of a list of String nodes."""
    return [node.string.sval for node in nodes if node.WhichOneof("node") == "string"]


def builtin_name(parts: list[str]) -> str:
    """The bare name where it is unqualified or in pg_catalog, else nothing."""
    if len(parts) == 1:
        return parts[0]
    return parts[-1] if parts[-2:-1] == [CATALOGUE] else ""
