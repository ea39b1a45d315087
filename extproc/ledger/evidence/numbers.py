"""Numbers with an address: `approvals?separate=false` counts rows, `masking#masked` adds a column up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Tables = Mapping[str, Sequence[Mapping[str, Any]]]

_OPERATORS: tuple[tuple[str, Callable[[str, str], bool]], ...] = (
    ("!=", lambda have, want: have != want),
    ("^=", lambda have, want: have.startswith(want)),
    ("=", lambda have, want: have == want),
)


def evaluate(query: str, tables: Tables) -> int:
    """`table`, then optionally `?column=value&…` (also `!=`, and `^=` for a beginning), then `#column` to add up.

    Raises KeyError for a table or column that is not there, ValueError for a malformed query.
    """
    rest, _, column = query.partition("#")
    name, _, conditions = rest.partition("?")
    rows = [row for row in tables[name] if all(_holds(one, row) for one in conditions.split("&") if one)]
    return sum(_number(row[column]) for row in rows) if column else len(rows)


def as_text(value: Any) -> str:
    """A cell as conditions and CSV see it."""
    if value is None:
        return ""
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _holds(condition: str, row: Mapping[str, Any]) -> bool:
    for sign, test in _OPERATORS:
        column, found, want = condition.partition(sign)
        if found:
            return test(as_text(row[column]), want)
    raise ValueError(f"{condition} is no condition")


def _number(value: Any) -> int:
    return value if type(value) is int else 0
