"""Capability flags: what is let through of what client and server could agree on (Capabilities Flags).

Whatever is not in `GOVERNED` is negotiated off towards both: compression would hide the rest, LOCAL FILES lets the
server read the client's files, and the others change what a text means or what a packet holds.
"""

from __future__ import annotations

LONG_PASSWORD = 1
FOUND_ROWS = 1 << 1
LONG_FLAG = 1 << 2
CONNECT_WITH_DB = 1 << 3
NO_SCHEMA = 1 << 4
COMPRESS = 1 << 5
LOCAL_FILES = 1 << 7
IGNORE_SPACE = 1 << 8
PROTOCOL_41 = 1 << 9
INTERACTIVE = 1 << 10
SSL = 1 << 11
IGNORE_SIGPIPE = 1 << 12
TRANSACTIONS = 1 << 13
RESERVED = 1 << 14
SECURE_CONNECTION = 1 << 15
MULTI_STATEMENTS = 1 << 16
MULTI_RESULTS = 1 << 17
PS_MULTI_RESULTS = 1 << 18
PLUGIN_AUTH = 1 << 19
CONNECT_ATTRS = 1 << 20
PLUGIN_AUTH_LENENC = 1 << 21
SESSION_TRACK = 1 << 23
DEPRECATE_EOF = 1 << 24
OPTIONAL_RESULTSET_METADATA = 1 << 25
ZSTD = 1 << 26
QUERY_ATTRIBUTES = 1 << 27
MULTI_FACTOR = 1 << 28

GOVERNED = (
    LONG_PASSWORD
    | FOUND_ROWS
    | LONG_FLAG
    | CONNECT_WITH_DB
    | PROTOCOL_41
    | INTERACTIVE
    | IGNORE_SIGPIPE
    | TRANSACTIONS
    | RESERVED
    | SECURE_CONNECTION
    | MULTI_STATEMENTS
    | MULTI_RESULTS
    | PS_MULTI_RESULTS
    | PLUGIN_AUTH
    | CONNECT_ATTRS
    | PLUGIN_AUTH_LENENC
    | SESSION_TRACK
    | DEPRECATE_EOF
)
NEEDED_OF_SERVER = PROTOCOL_41 | SECURE_CONNECTION | PLUGIN_AUTH
NEEDED_OF_CLIENT = PROTOCOL_41 | SECURE_CONNECTION | PLUGIN_AUTH
OWN = CONNECT_WITH_DB | CONNECT_ATTRS | PLUGIN_AUTH_LENENC | SSL
"""What each of the two logins decides for itself; nothing after the login depends on it."""

IN_TRANSACTION = 1
"""Status flags of OK and EOF packets (SERVER_STATUS_flags_enum)."""
MORE_RESULTS = 1 << 3
CURSOR_EXISTS = 1 << 6
LAST_ROW_SENT = 1 << 7
