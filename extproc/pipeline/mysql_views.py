"""What each column of a view is made of, read from its definition as information_schema shows it.

The server writes it out in full: every name quoted, every item with an alias. Where one item is a plain column of a
table that is known, that is what it shows; of anything else we take every column that it could read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from extproc.pipeline.view_trees import Attribute, ViewColumn
from extproc.sql.mysql.analysis import analyze
from extproc.sql.mysql.session import Session
from extproc.sql.mysql.tokens import Token, UnreadableError, tokenize

if TYPE_CHECKING:
    from extproc.pipeline.mysql_catalogue import Tables

_SESSION = Session(flavor="mysql", version=80000, folds_tables=False)
_SETS = ("UNION", "EXCEPT", "INTERSECT", "WITH")


@lru_cache(maxsize=1024)
def view_tables(text: str) -> tuple[str, ...]:
    """The tables that a view reads; none where its definition is not told or cannot be read."""
    facts = analyze(text, _SESSION).facts if text else ()
    return facts[0].tables_read if len(facts) == 1 and facts[0].complete else ()


def view_columns(text: str, columns: Mapping[int, str], tables: Tables) -> dict[int, ViewColumn]:
    """The columns of a view by number; none where that cannot be found out, and then nothing of it is shown."""
    read = view_tables(text)
    if not read or not all(tables.knows(name) for name in read):
        return {}
    everything = frozenset(
        (relation.oid, number)
        for name in read
        for relation in tables.named(name)
        for number in relation.columns
    )
    try:
        items = list(_items(tokenize(text, _SESSION)))
    except (UnreadableError, ValueError):
        items = []
    if len(items) != len(columns):
        items = []
    made: dict[int, ViewColumn] = {}
    for position, number in enumerate(sorted(columns)):
        origin = _origin(items[position], read, tables) if items else None
        made[number] = ViewColumn(origin, frozenset() if origin is not None else everything)
    return made


def _items(tokens: list[Token]) -> Iterator[list[Token]]:
    """The items of the only SELECT. Raises ValueError where there are more."""
    if not tokens or not tokens[0].is_word("SELECT"):
        raise ValueError("no plain query")
    if any(token.is_word("SELECT") for token in tokens[1:]) or any(token.is_word(*_SETS) for token in tokens):
        raise ValueError("several queries")
    depth, item = 0, list[Token]()
    for token in tokens[1:]:
        if token.is_sign("("):
            depth += 1
        elif token.is_sign(")"):
            depth -= 1
        if depth == 0 and token.is_word("FROM"):
            break
        if depth == 0 and token.is_sign(","):
            yield item
            item = []
        else:
            item.append(token)
    yield item


def _origin(item: list[Token], read: tuple[str, ...], tables: Tables) -> Attribute | None:
    """The column that an item is, if it is nothing but one: `schema`.`table`.`column` AS `name`."""
    if len(item) >= 2 and item[-1].kind == "name" and item[-2].is_word("AS"):
        item = item[:-2]
    names = item[::2]
    if any(token.kind != "name" for token in names) or not all(token.is_sign(".") for token in item[1::2]):
        return None
    if len(names) not in (2, 3):
        return None
    column = names[-1].value.lower()
    found = [
        (relation.oid, relation.numbers[column])
        for name in read
        for relation in tables.named(name)
        if column in relation.numbers
        and (
            len(names) == 2
            or (relation.schema, relation.name) == (names[0].value.lower(), names[1].value.lower())
        )
    ]
    return found[0] if len(found) == 1 else None
