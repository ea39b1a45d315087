"""The hold store's tables in Postgres, and how they are brought from one version to the next.

holds      one row a hold: `doc` is the hold as JSON text (already masked), the columns are what is searched for;
           `review` is where the review of a broken glass stands, or empty
grants     one row a grant: `doc` as well, with the hold's place taken by its id
uses       which decision each use of a grant let go
moves      the outbox: one row a change, `recorded` once a ledger has it
processes  who uses the store, and when it was last heard of
waiters    how many requests of which process wait on a hold
lease      which process brings the outbox to its ledger

JSON is kept as text and not as jsonb: what people send may hold U+0000, which jsonb refuses.
"""

from __future__ import annotations

from typing import Any

SCHEMA_VERSION = 2

MIGRATIONS: dict[int, str] = {
    1: """
CREATE TABLE holds (
    seq bigint GENERATED ALWAYS AS IDENTITY,
    id text PRIMARY KEY,
    binding text NOT NULL,
    issuer text NOT NULL,
    subject text NOT NULL,
    person text NOT NULL,
    allow_agents boolean NOT NULL,
    asked text[] NOT NULL,
    state text NOT NULL,
    version integer NOT NULL,
    created_at double precision NOT NULL,
    deadline double precision CHECK ((deadline IS NOT NULL) = (state IN ('pending', 'approved'))),
    released_to text NOT NULL CHECK ((released_to <> '') = (state = 'released')),
    doc text NOT NULL
);
CREATE UNIQUE INDEX one_open_hold_per_binding ON holds (binding) WHERE deadline IS NOT NULL;
CREATE INDEX holds_by_deadline ON holds (deadline) WHERE deadline IS NOT NULL;
CREATE INDEX holds_by_requester ON holds (issuer, subject, created_at);
CREATE INDEX holds_by_time ON holds (created_at);
CREATE TABLE grants (
    seq bigint GENERATED ALWAYS AS IDENTITY,
    id text PRIMARY KEY,
    hold_id text NOT NULL UNIQUE REFERENCES holds (id) ON DELETE CASCADE,
    key text NOT NULL,
    state text NOT NULL,
    version integer NOT NULL,
    made_at double precision NOT NULL,
    expires_at double precision NOT NULL,
    deadline double precision CHECK ((deadline IS NOT NULL) = (state = 'live')),
    uses integer NOT NULL CHECK (uses >= 2),
    used integer NOT NULL CHECK (used <= uses),
    closed_reason text NOT NULL,
    terms text NOT NULL
);
CREATE INDEX grants_by_key ON grants (key, expires_at) WHERE deadline IS NOT NULL;
CREATE INDEX grants_by_deadline ON grants (deadline) WHERE deadline IS NOT NULL;
CREATE TABLE uses (
    grant_id text NOT NULL REFERENCES grants (id) ON DELETE CASCADE,
    n integer NOT NULL,
    decision_id text NOT NULL,
    at double precision NOT NULL,
    PRIMARY KEY (grant_id, n),
    UNIQUE (grant_id, decision_id)
);
CREATE TABLE moves (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text NOT NULL UNIQUE,
    hold_id text NOT NULL,
    kind text NOT NULL,
    at double precision NOT NULL,
    fields text NOT NULL,
    recorded boolean NOT NULL DEFAULT false
);
CREATE INDEX moves_unrecorded ON moves (seq) WHERE NOT recorded;
CREATE TABLE processes (name text PRIMARY KEY, seen_at timestamptz NOT NULL);
CREATE TABLE waiters (
    hold_id text NOT NULL REFERENCES holds (id) ON DELETE CASCADE,
    process text NOT NULL REFERENCES processes (name) ON DELETE CASCADE,
    count integer NOT NULL CHECK (count > 0),
    PRIMARY KEY (hold_id, process)
);
CREATE TABLE lease (name text PRIMARY KEY, process text NOT NULL, until timestamptz NOT NULL);
""",
    2: """
ALTER TABLE holds ADD COLUMN review text NOT NULL DEFAULT '';
ALTER TABLE holds ADD COLUMN review_deadline double precision;
CREATE INDEX holds_by_review_deadline ON holds (review_deadline) WHERE review_deadline IS NOT NULL;
CREATE INDEX holds_by_review ON holds (review, created_at) WHERE review <> '';
""",
}
"""What brings the tables to each version from the one before."""


async def version_of(db: Any) -> int:
    """The version of the tables in the connection's schema; 0 when there are none."""
    there = await db.fetchval("SELECT to_regclass(quote_ident(current_schema()) || '.extproc_schema')")
    return int(await db.fetchval("SELECT version FROM extproc_schema")) if there is not None else 0


async def migrate(db: Any, schema: str) -> tuple[int, int]:
    """Bring the tables in `schema` up to date, in one transaction; the version before and after.

    Raises ValueError for tables of a newer version.
    """
    async with db.transaction():
        await db.execute("SELECT pg_advisory_xact_lock(hashtext('extproc migrate'))")
        await db.execute(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
        await db.execute(f'SET LOCAL search_path TO "{schema}"')
        before = await version_of(db)
        if before > SCHEMA_VERSION:
            raise ValueError(f"the tables are of version {before}; this program knows {SCHEMA_VERSION}")
        if not before:
            await db.execute("CREATE TABLE extproc_schema (version integer NOT NULL)")
            await db.execute("INSERT INTO extproc_schema VALUES (0)")
        for version in range(before + 1, SCHEMA_VERSION + 1):
            await db.execute(MIGRATIONS[version])
            await db.execute("UPDATE extproc_schema SET version = $1", version)
        return before, SCHEMA_VERSION
