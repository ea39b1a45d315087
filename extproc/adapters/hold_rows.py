"""Holds as rows. Known to `hold_sqlite.py` and `grant_rows.py`; the tables are in `hold_schema.py`."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from extproc.adapters.hold_schema import OPEN
from extproc.domain.hold import (
    BrokenGlass,
    HeldRequest,
    HoldAsk,
    HoldMove,
    HoldState,
    ReviewState,
    Vote,
)
from extproc.domain.lifecycle import Change
from extproc.domain.principal import Principal
from extproc.domain.terms import GrantTerms

COLUMNS = """h.id, h.state, h.version, h.created_at, h.expires_at, h.decided_at, h.use_before, h.released_to,
    h.closed_reason, h.ask, (SELECT coalesce(sum(count), 0) FROM waiters WHERE hold_id = h.id), h.glass"""


def load(db: sqlite3.Connection, hold_id: str) -> HeldRequest | None:
    """The hold as it is stored."""
    row = db.execute(f"SELECT {COLUMNS} FROM holds h WHERE h.id = ?", (hold_id,)).fetchone()  # noqa: S608
    return _read(db, row) if row else None


def load_open(db: sqlite3.Connection, binding: str) -> HeldRequest | None:
    """The one open hold of a binding."""
    row = db.execute(
        f"SELECT {COLUMNS} FROM holds h WHERE h.binding = ? AND h.{OPEN}",  # noqa: S608
        (binding,),
    ).fetchone()
    return _read(db, row) if row else None


def overdue(db: sqlite3.Connection, now: float) -> list[str]:
    """Ids of open holds whose time is up, and of those whose review is overdue untold; at most a thousand."""
    found = db.execute(
        "SELECT id FROM holds WHERE deadline <= ? UNION SELECT id FROM holds WHERE review_deadline <= ? LIMIT 1000",
        (now, now),
    )
    return [row[0] for row in found]


def select(
    db: sqlite3.Connection,
    *,
    states: Sequence[HoldState],
    requester: tuple[str, str] | None,
    seen_by: Principal | None,
    reviews: Sequence[ReviewState],
    limit: int,
) -> list[HeldRequest]:
    """Newest first."""
    where, values = ["1"], list[Any]()
    if states:
        where.append("h.state IN (SELECT value FROM json_each(?))")
        values.append(json.dumps([state.value for state in states]))
    if reviews:
        where.append("h.review IN (SELECT value FROM json_each(?))")
        values.append(json.dumps([state.value for state in reviews]))
    narrow(where, values, requester=requester, seen_by=seen_by)
    rows = db.execute(
        f"SELECT {COLUMNS} FROM holds h WHERE {' AND '.join(where)}"  # noqa: S608  (constants only)
        " ORDER BY h.created_at DESC, h.rowid DESC LIMIT ?",
        (*values, limit),
    ).fetchall()
    return [_read(db, row) for row in rows]


def narrow(
    where: list[str],
    values: list[Any],
    *,
    requester: tuple[str, str] | None,
    seen_by: Principal | None,
) -> None:
    """Conditions on the hold `h`. That of `seen_by` is `quorum.may_see` in SQL; the contract test compares them."""
    if requester is not None:
        where.append("h.issuer = ? AND h.subject = ?")
        values += requester
    if seen_by is not None:
        human = seen_by.kind == "human"
        where.append(
            """((h.issuer = ? AND h.subject = ?) OR (? AND h.person = ?) OR ((? OR h.allow_agents) AND EXISTS
            (SELECT 1 FROM asked a WHERE a.hold_id = h.id AND a.name IN (SELECT value FROM json_each(?)))))"""
        )
        values += [seen_by.issuer, seen_by.subject, human, seen_by.person, human, json.dumps(seen_by.groups)]


def insert(db: sqlite3.Connection, change: Change) -> None:
    """A new hold and its first move."""
    held = change.held
    ask = held.ask
    db.execute(
        "INSERT INTO holds VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '', NULL, NULL)",
        (
            held.id,
            ask.binding,
            ask.requester.issuer,
            ask.requester.subject,
            ask.requester.person,
            ask.demand.allow_agents,
            held.state.value,
            held.version,
            held.created_at,
            held.expires_at,
            held.decided_at,
            held.use_before,
            held.deadline,
            held.released_to,
            held.closed_reason,
            json.dumps(msgspec.to_builtins(ask)),
        ),
    )
    db.executemany(
        "INSERT OR IGNORE INTO asked VALUES (?, ?)",
        [(held.id, quorum.group) for quorum in ask.demand.quorums],
    )
    insert_moves(db, change.moves)


def update(db: sqlite3.Connection, before: HeldRequest, change: Change) -> None:
    """A changed hold, its new votes and its moves."""
    held = change.held
    db.execute(
        """UPDATE holds SET state = ?, version = ?, decided_at = ?, use_before = ?, deadline = ?, released_to = ?,
        closed_reason = ?, review = ?, review_deadline = ?, glass = ? WHERE id = ?""",
        (
            held.state.value,
            held.version,
            held.decided_at,
            held.use_before,
            held.deadline,
            held.released_to,
            held.closed_reason,
            held.glass.state.value if held.glass is not None else "",
            held.review_deadline,
            json.dumps(msgspec.to_builtins(held.glass)) if held.glass is not None else None,
            held.id,
        ),
    )
    for n in range(len(before.votes), len(held.votes)):
        vote = held.votes[n]
        approver = json.dumps(msgspec.to_builtins(vote.approver))
        terms = json.dumps(msgspec.to_builtins(vote.terms)) if vote.terms is not None else None
        db.execute(
            "INSERT INTO votes VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (held.id, n, vote.person, vote.approve, vote.reason, vote.at, approver, terms),
        )
    insert_moves(db, change.moves)


def read_move(row: Iterable[Any]) -> HoldMove:
    """A row of id, hold_id, kind, at, fields."""
    move_id, hold_id, kind, at, fields = row
    return HoldMove(move_id, hold_id, kind, at, json.loads(fields))


def insert_moves(db: sqlite3.Connection, moves: Iterable[HoldMove]) -> None:
    """Into the outbox."""
    db.executemany(
        "INSERT INTO moves (id, hold_id, kind, at, fields) VALUES (?, ?, ?, ?, ?)",
        [(move.id, move.hold_id, move.kind, move.at, json.dumps(move.fields)) for move in moves],
    )


def _read(db: sqlite3.Connection, row: Sequence[Any]) -> HeldRequest:
    votes = db.execute(
        "SELECT person, approve, reason, at, approver, terms FROM votes WHERE hold_id = ? ORDER BY n",
        (row[0],),
    ).fetchall()
    return HeldRequest(
        id=row[0],
        ask=msgspec.convert(json.loads(row[9]), HoldAsk),
        state=HoldState(row[1]),
        version=row[2],
        created_at=row[3],
        expires_at=row[4],
        decided_at=row[5],
        use_before=row[6],
        votes=tuple(
            Vote(
                person,
                msgspec.convert(json.loads(approver), Principal),
                bool(approve),
                reason,
                at,
                msgspec.convert(json.loads(terms), GrantTerms) if terms else None,
            )
            for person, approve, reason, at, approver, terms in votes
        ),
        waiters=row[10],
        released_to=row[7],
        closed_reason=row[8],
        glass=msgspec.convert(json.loads(row[11]), BrokenGlass) if row[11] else None,
    )
