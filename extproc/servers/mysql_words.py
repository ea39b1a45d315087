"""What the pipeline's steps are called in MySQL: error codes for its SQLSTATEs, types for its values."""

from __future__ import annotations

from extproc.domain.nouns import noun
from extproc.masking.rows import BYTEA, FLOAT8_LITTLE, INT8, INT8_LITTLE, JSON, NUMERIC
from extproc.pipeline.database_steps import (
    ADMIN_SHUTDOWN,
    CANNOT_CONNECT_NOW,
    CONFIGURATION_LIMIT,
    FEATURE_NOT_SUPPORTED,
    INSUFFICIENT_PRIVILEGE,
    INVALID_AUTHORIZATION,
    INVALID_PASSWORD,
    QUERY_CANCELED,
)
from extproc.pipeline.mysql_rows import BINARY_CHARSET
from extproc.protocols.mysql import Column, Refusal
from extproc.protocols.mysql import results as types
from extproc.protocols.mysql.charsets import is_wide_collation

ERRORS: dict[str, tuple[int, str]] = {
    INSUFFICIENT_PRIVILEGE: (1142, "42000"),
    INVALID_AUTHORIZATION: (1045, "28000"),
    INVALID_PASSWORD: (1045, "28000"),
    QUERY_CANCELED: (1317, "70100"),
    CONFIGURATION_LIMIT: (1226, "42000"),
    CANNOT_CONNECT_NOW: (1053, "08S01"),
    FEATURE_NOT_SUPPORTED: (1235, "42000"),
    ADMIN_SHUTDOWN: (1045, "28000"),
}
"""ER_TABLEACCESS_DENIED_ERROR, ER_ACCESS_DENIED_ERROR, ER_QUERY_INTERRUPTED, ER_USER_LIMIT_REACHED,
ER_SERVER_SHUTDOWN, ER_NOT_SUPPORTED_YET."""
OTHER = (1105, "HY000")
"""ER_UNKNOWN_ERROR."""
NOT_ADMIN = (1227, "42000")
"""ER_SPECIFIC_ACCESS_DENIED_ERROR: what the server says where an administrator's right is missing."""


def refusal(
    sqlstate: str, message: str, detail: str = "", hint: str = "", *, is_admin: bool = False
) -> Refusal:
    """An ERR packet has no place for details and hints, so its text has all of it."""
    code, state = ERRORS.get(sqlstate, OTHER)
    if is_admin and sqlstate == INSUFFICIENT_PRIVILEGE:
        code, state = NOT_ADMIN
    text = message
    if detail:
        text += f" ({detail})"
    if hint:
        text += f". {hint}" if text[-1] not in ".!?" else f" {hint}"
    return Refusal(code, state, text)


TEXT, SMALL = 25, 23
"""What masks know as text, and as too small to hold anything that is looked for (pg_type.dat)."""


@noun(frozen=True, slots=True)
class PlacedColumn:
    """A result column as masks see it: the table's and column's numbers in our catalogue, and a type they know."""

    name: str
    table_oid: int
    attribute: int
    type_oid: int
    format: int


def is_wide(column: Column) -> bool:
    """Whether its values are texts in which ASCII is no ASCII."""
    return column.type in types.BYTE_STRINGS and is_wide_collation(column.charset)


def value_kind(column: Column) -> tuple[int, int]:
    """The type that a column's values have for masks, and their format."""
    if column.type == types.JSON:
        return JSON, 0
    if column.type in types.BYTE_STRINGS:
        return (BYTEA, 1) if column.charset == BINARY_CHARSET else (TEXT, 0)
    if column.type in (types.DECIMAL, types.OLD_DECIMAL):
        return NUMERIC, 0
    if column.type in (types.BIT, types.GEOMETRY):
        return BYTEA, 1
    if not column.is_binary:
        return INT8, 0
    wide = {types.LONGLONG: INT8_LITTLE, types.DOUBLE: FLOAT8_LITTLE}
    return wide.get(column.type, SMALL), 1
