"""Ceilings, and what is allowed to happen on one connection. All sizes in bytes."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Limits:
    """No length is believed before it is below its ceiling."""

    token: int = 16 * 1024
    """Any packet of a client that is not logged in."""
    statement: int = 4 * 1024 * 1024
    """A command as a whole, and all long data of one prepared statement: what is longer is denied (1153)."""
    row: int = 16 * 1024 * 1024
    """A row that must be read. Rows that pass may be as long as the protocol allows."""
    server_message: int = 8 * 1024 * 1024
    """Any other packet of the server, and the answer to an inquiry."""
    waiting: int = 16 * 1024 * 1024
    """What the client, or the server, may send while an answer of ours is outstanding."""
    columns: int = 4096
    names: int = 10_000
    """Prepared statements of one connection."""
    remembered: int = 64 * 1024 * 1024
    """Text of all prepared statements of one connection."""


@dataclass(frozen=True, slots=True)
class UpstreamLogin:
    """Who we are towards the server. `protected` says that passwords may cross the way to it in forms that a listener
    could use: a unix socket or TLS."""

    user: str
    password: str = field(default="", repr=False)
    database: str = ""
    protected: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """An ERR packet of ours: code, SQLSTATE, message."""

    code: int
    sqlstate: str
    message: str
