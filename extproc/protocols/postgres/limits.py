"""Ceilings, and what is allowed to happen on one connection. All sizes in bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

LoginMethod = Literal["trust", "password", "md5", "scram-sha-256"]

CLIENT_CHOSEN = frozenset(
    {
        "application_name",
        "client_encoding",
        "datestyle",
        "extra_float_digits",
        "geqo",
        "intervalstyle",
        "timezone",
    }
)
"""Startup parameters, in lower case, that cannot change what a statement means or who runs it.

`options`, `role` and `search_path` can; they go upstream only when whoever accepts the login adds them.
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """No length is believed before it is below its ceiling."""

    startup: int = 10_000
    """A startup packet (the server's own MAX_STARTUP_PACKET_LENGTH)."""
    token: int = 16 * 1024
    statement: int = 4 * 1024 * 1024
    """A Query, Parse or Bind as a whole: what is longer is denied (54000), its bytes are thrown away unread."""
    row: int = 16 * 1024 * 1024
    """A row that must be read. Rows that pass may be as long as the protocol allows."""
    server_message: int = 8 * 1024 * 1024
    """Any other message of the server that must be whole: errors, notices, row descriptions."""
    waiting: int = 16 * 1024 * 1024
    """What the client, or the server, may send while an answer of ours is outstanding."""
    outstanding: int = 10_000
    """Messages the server has not answered yet; further ones wait."""
    names: int = 10_000
    """Prepared statements and portals of one connection."""
    remembered: int = 64 * 1024 * 1024
    """Text of all prepared statements of one connection."""
    scram_iterations: int = 100_000


@dataclass(frozen=True, slots=True)
class UpstreamLogin:
    """Who we are towards the server. `nonce` is fresh random text (printable, no comma) for SCRAM.

    `parameters` is the rest of the startup message. `methods` are the ways of logging in that the server may ask
    for: cleartext and MD5 only where the hop is a unix socket or under TLS.
    """

    user: str
    database: str
    password: str = field(default="", repr=False)
    nonce: str = field(default="", repr=False)
    parameters: tuple[tuple[str, str], ...] = ()
    methods: frozenset[LoginMethod] = frozenset({"trust", "scram-sha-256"})


@dataclass(frozen=True, slots=True)
class Refusal:
    """An ErrorResponse of ours: SQLSTATE, message, DETAIL and HINT."""

    sqlstate: str
    message: str
    detail: str = ""
    hint: str = ""
