"""The hold store's tables, how an older file becomes a current one, and whose waiters are forgotten at start.

holds     one row a hold; `ask` is JSON, already masked; `deadline` is when time alone ends it, null once final;
          `glass` is JSON where its requester let it go in an emergency, `review` and `review_deadline` say what is owed
votes     one row a vote, in order; `terms` is JSON where the approval is for more than once
grants    one row a grant; `key` is what a request must match, `deadline` as with holds
uses      one row a use of a grant after the held request's own: the decision it let go
moves     the outbox: one row a change, `recorded` once the ledger has it
waiters   how many requests of which process wait on a hold
asked     the groups a hold asks, for listing
"""

from __future__ import annotations

import sqlite3

from extproc.adapters.process_name import is_gone
from extproc.domain.errors import StoreUnavailableError
from extproc.domain.grant import GrantState
from extproc.domain.hold import HoldState

SCHEMA_VERSION = 3
APPLICATION_ID = 0x65787468  # "exth"

OPEN = "state IN ('pending', 'approved')"
STANDING = f"SELECT state, count(*), min(created_at) FROM holds WHERE {OPEN} GROUP BY state"  # noqa: S608
_STATES = ", ".join(f"'{state.value}'" for state in HoldState)
_GRANT_STATES = ", ".join(f"'{state.value}'" for state in GrantState)

_GRANTS = f"""
CREATE TABLE grants (
    id TEXT PRIMARY KEY,
    hold_id TEXT NOT NULL UNIQUE REFERENCES holds (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ({_GRANT_STATES})),
    version INTEGER NOT NULL,
    made_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    deadline REAL CHECK ((deadline IS NOT NULL) = (state = 'live')),
    uses INTEGER NOT NULL CHECK (uses >= 2),
    used INTEGER NOT NULL CHECK (used <= uses),
    closed_reason TEXT NOT NULL,
    terms TEXT NOT NULL
) STRICT;
CREATE INDEX grants_by_key ON grants (key, expires_at) WHERE deadline IS NOT NULL;
CREATE INDEX grants_by_deadline ON grants (deadline) WHERE deadline IS NOT NULL;
CREATE TABLE uses (
    grant_id TEXT NOT NULL REFERENCES grants (id) ON DELETE CASCADE,
    n INTEGER NOT NULL,
    decision_id TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (grant_id, n),
    UNIQUE (grant_id, decision_id)
) STRICT
"""

_REVIEWS = """
CREATE INDEX holds_by_review_deadline ON holds (review_deadline) WHERE review_deadline IS NOT NULL;
CREATE INDEX holds_by_review ON holds (review, created_at) WHERE review != ''
"""

SCHEMA = f"""
CREATE TABLE holds (
    id TEXT PRIMARY KEY,
    binding TEXT NOT NULL,
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    person TEXT NOT NULL,
    allow_agents INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ({_STATES})),
    version INTEGER NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    decided_at REAL NOT NULL,
    use_before REAL NOT NULL,
    deadline REAL CHECK ((deadline IS NOT NULL) = ({OPEN})),
    released_to TEXT NOT NULL CHECK ((released_to != '') = (state = 'released')),
    closed_reason TEXT NOT NULL,
    ask TEXT NOT NULL,
    review TEXT NOT NULL DEFAULT '',
    review_deadline REAL,
    glass TEXT
) STRICT;
CREATE UNIQUE INDEX one_open_hold_per_binding ON holds (binding) WHERE {OPEN};
CREATE INDEX holds_by_deadline ON holds (deadline) WHERE deadline IS NOT NULL;
CREATE INDEX holds_by_requester ON holds (issuer, subject, created_at);
CREATE INDEX holds_by_time ON holds (created_at);
CREATE TABLE votes (
    hold_id TEXT NOT NULL REFERENCES holds (id) ON DELETE CASCADE,
    n INTEGER NOT NULL,
    person TEXT NOT NULL,
    approve INTEGER NOT NULL,
    reason TEXT NOT NULL,
    at REAL NOT NULL,
    approver TEXT NOT NULL,
    terms TEXT,
    PRIMARY KEY (hold_id, n)
) STRICT;
CREATE UNIQUE INDEX one_vote_per_person ON votes (hold_id, person, approve);
CREATE TABLE moves (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    hold_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    at REAL NOT NULL,
    fields TEXT NOT NULL,
    recorded INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX moves_unrecorded ON moves (seq) WHERE recorded = 0;
CREATE TABLE waiters (
    hold_id TEXT NOT NULL REFERENCES holds (id) ON DELETE CASCADE,
    process TEXT NOT NULL,
    count INTEGER NOT NULL CHECK (count > 0),
    PRIMARY KEY (hold_id, process)
) STRICT;
CREATE TABLE asked (
    hold_id TEXT NOT NULL REFERENCES holds (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    PRIMARY KEY (name, hold_id)
) STRICT;
{_GRANTS};
{_REVIEWS}
"""

UPGRADES = {
    1: f"ALTER TABLE votes ADD COLUMN terms TEXT;{_GRANTS}",
    2: f"""ALTER TABLE holds ADD COLUMN review TEXT NOT NULL DEFAULT '';
ALTER TABLE holds ADD COLUMN review_deadline REAL;
ALTER TABLE holds ADD COLUMN glass TEXT;
{_REVIEWS}""",
}
"""What turns a file of one schema into one of the next."""


def prepare(db: sqlite3.Connection) -> None:
    """Make the schema in an empty file, bring an older one up to date, refuse another.

    Waiters of processes that are gone are forgotten. Raises StoreUnavailableError.
    """
    version = db.execute("PRAGMA user_version").fetchone()[0]
    application = db.execute("PRAGMA application_id").fetchone()[0]
    if version == 0 and application == 0 and not db.execute("SELECT 1 FROM sqlite_master").fetchone():
        _run(db, SCHEMA)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    elif application != APPLICATION_ID or not (version == SCHEMA_VERSION or version in UPGRADES):
        raise StoreUnavailableError(f"not a hold store of schema {SCHEMA_VERSION} (it says {version})")
    else:
        for step in range(version, SCHEMA_VERSION):
            _run(db, UPGRADES[step])
    if version != SCHEMA_VERSION:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    processes = [row[0] for row in db.execute("SELECT DISTINCT process FROM waiters")]
    db.executemany("DELETE FROM waiters WHERE process = ?", [(name,) for name in processes if is_gone(name)])


def _run(db: sqlite3.Connection, statements: str) -> None:
    for statement in statements.split(";"):
        db.execute(statement)
