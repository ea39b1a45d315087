"""Grants as rows of the hold store, each with the hold that made it. Known to `hold_sqlite.py` alone."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec

from extproc.adapters import hold_rows
from extproc.domain.errors import StoreUnavailableError
from extproc.domain.grant import Grant, GrantState
from extproc.domain.granting import GrantChange
from extproc.domain.hold import HoldAsk, HoldState
from extproc.domain.principal import Principal
from extproc.domain.terms import GrantTerms

COLUMNS = (
    "g.id, g.hold_id, g.key, g.state, g.version, g.made_at, g.expires_at, g.used, g.closed_reason, g.terms"
)


def load(db: sqlite3.Connection, grant_id: str) -> Grant | None:
    """The grant as it is stored."""
    row = db.execute(f"SELECT {COLUMNS} FROM grants g WHERE g.id = ?", (grant_id,)).fetchone()  # noqa: S608
    return _read(db, row) if row else None


def load_of_hold(db: sqlite3.Connection, hold_id: str) -> Grant | None:
    """The grant that a hold's approval made."""
    row = db.execute(f"SELECT {COLUMNS} FROM grants g WHERE g.hold_id = ?", (hold_id,)).fetchone()  # noqa: S608
    return _read(db, row) if row else None


def candidates(db: sqlite3.Connection, ask: HoldAsk, now: float) -> list[Grant]:
    """Live grants whose key is one of the ask's, the soonest to end first; none while the exact request itself
    is approved, for then that approval is there to be used."""
    if db.execute(
        "SELECT 1 FROM holds WHERE binding = ? AND state = ? AND deadline > ?",
        (ask.binding, HoldState.APPROVED.value, now),
    ).fetchone():
        return []
    keys = (ask.binding, ask.shape.key if ask.shape is not None else ask.binding)
    found = db.execute(
        f"SELECT {COLUMNS} FROM grants g WHERE g.key IN (?, ?) AND g.deadline > ?"  # noqa: S608
        " ORDER BY g.expires_at, g.id LIMIT 100",
        (*keys, now),
    ).fetchall()
    return [_read(db, row) for row in found]


def overdue(db: sqlite3.Connection, now: float) -> list[str]:
    """Ids of live grants whose time is up, at most a thousand."""
    return [row[0] for row in db.execute("SELECT id FROM grants WHERE deadline <= ? LIMIT 1000", (now,))]


def select(
    db: sqlite3.Connection,
    *,
    states: Sequence[GrantState],
    requester: tuple[str, str] | None,
    seen_by: Principal | None,
    limit: int,
) -> list[Grant]:
    """Newest first; who sees a hold sees its grant."""
    where, values = ["1"], list[Any]()
    if states:
        where.append("g.state IN (SELECT value FROM json_each(?))")
        values.append(json.dumps([state.value for state in states]))
    hold_rows.narrow(where, values, requester=requester, seen_by=seen_by)
    rows = db.execute(
        f"SELECT {COLUMNS} FROM grants g JOIN holds h ON h.id = g.hold_id"  # noqa: S608  (constants only)
        f" WHERE {' AND '.join(where)} ORDER BY g.made_at DESC, g.rowid DESC LIMIT ?",
        (*values, limit),
    ).fetchall()
    return [_read(db, row) for row in rows]


def is_used_for(db: sqlite3.Connection, grant_id: str, decision_id: str) -> bool:
    """Whether this decision has its use already."""
    sql = "SELECT 1 FROM uses WHERE grant_id = ? AND decision_id = ?"
    return db.execute(sql, (grant_id, decision_id)).fetchone() is not None


def insert(db: sqlite3.Connection, change: GrantChange) -> None:
    """A new grant and its first move."""
    grant = change.grant
    db.execute(
        "INSERT INTO grants VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            grant.id,
            grant.held.id,
            grant.key,
            grant.state.value,
            grant.version,
            grant.made_at,
            grant.expires_at,
            grant.expires_at if grant.is_live else None,
            grant.terms.uses,
            grant.used,
            grant.closed_reason,
            json.dumps(msgspec.to_builtins(grant.terms)),
        ),
    )
    hold_rows.insert_moves(db, change.moves)


def update(db: sqlite3.Connection, change: GrantChange, *, decision_id: str = "", now: float = 0.0) -> None:
    """A changed grant and its moves; with `decision_id`, the use that changed it."""
    grant = change.grant
    db.execute(
        "UPDATE grants SET state = ?, version = ?, deadline = ?, used = ?, closed_reason = ? WHERE id = ?",
        (
            grant.state.value,
            grant.version,
            grant.expires_at if grant.is_live else None,
            grant.used,
            grant.closed_reason,
            grant.id,
        ),
    )
    if decision_id:
        db.execute("INSERT INTO uses VALUES (?, ?, ?, ?)", (grant.id, grant.used, decision_id, now))
    hold_rows.insert_moves(db, change.moves)


def _read(db: sqlite3.Connection, row: Sequence[Any]) -> Grant:
    held = hold_rows.load(db, row[1])
    if held is None:
        raise StoreUnavailableError("a grant has lost its hold")  # the foreign key forbids it
    return Grant(
        id=row[0],
        held=held,
        key=row[2],
        terms=msgspec.convert(json.loads(row[9]), GrantTerms),
        state=GrantState(row[3]),
        version=row[4],
        made_at=row[5],
        expires_at=row[6],
        used=row[7],
        closed_reason=row[8],
    )
