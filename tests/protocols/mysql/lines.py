"""Packets and openings that several transcripts share."""

from __future__ import annotations

from extproc.protocols.mysql import LoggedIn, LoginReceived, MysqlConnection, UpstreamLogin
from extproc.protocols.mysql.capabilities import (
    COMPRESS,
    CONNECT_WITH_DB,
    DEPRECATE_EOF,
    GOVERNED,
    LOCAL_FILES,
    PLUGIN_AUTH_LENENC,
    QUERY_ATTRIBUTES,
    SSL,
)
from extproc.protocols.mysql.handshake import Greeting, Response, agreed, build_greeting, build_response
from extproc.protocols.mysql.packets import build_packets
from extproc.protocols.mysql.passwords import CACHING_SHA2, NATIVE, native
from extproc.protocols.mysql.values import lenenc, lenenc_bytes
from tests.support.transcript import Answers, Client, Forwards, Line, Sees, Server, ToClient

TOKEN = "header.payload.signature"
NONCE = bytes(range(1, 21))
SERVER_NONCE = bytes(range(41, 61))
UPSTREAM = UpstreamLogin("gateway", "upstream-secret", "shop", protected=True)

GREETING = Greeting(
    version=b"5.5.5-10.11.19-MariaDB",
    thread=77,
    nonce=SERVER_NONCE,
    capabilities=GOVERNED | COMPRESS | LOCAL_FILES | QUERY_ATTRIBUTES | SSL,
    charset=45,
    status=2,
    plugin=NATIVE,
)


def server_greeting(greeting: Greeting = GREETING) -> bytes:
    """As a server says it, with everything it can do and MariaDB's own capabilities."""
    c = greeting.capabilities
    payload = b"".join(
        (
            b"\x0a" + greeting.version + b"\x00" + greeting.thread.to_bytes(4, "little"),
            greeting.nonce[:8] + b"\x00" + (c & 0xFFFF).to_bytes(2, "little"),
            bytes((greeting.charset,)) + greeting.status.to_bytes(2, "little"),
            (c >> 16).to_bytes(2, "little") + b"\x15" + b"\x00" * 6 + b"\x1d\x00\x00\x00",
            greeting.nonce[8:] + b"\x00" + greeting.plugin.encode() + b"\x00",
        )
    )
    return build_packets(payload, 0)


def our_greeting(*, tls: bool = False) -> bytes:
    return build_packets(build_greeting(GREETING, NONCE, CACHING_SHA2, tls=tls), 0)


def response(
    *,
    capabilities: int = GOVERNED & ~DEPRECATE_EOF,
    proof: bytes = b"\x11" * 32,
    plugin: str = CACHING_SHA2,
    charset: int = 45,
) -> Response:
    from extproc.protocols.mysql.capabilities import CONNECT_ATTRS

    return Response(capabilities & ~CONNECT_ATTRS, 1 << 24, charset, b"ada", proof, b"shop", plugin, {})


def opening(given: Response | None = None, sequence: int = 1) -> bytes:
    return build_packets(build_response(given or response()), sequence)


def upstream_opening(capabilities: int) -> bytes:
    return build_packets(
        build_response(
            Response(
                capabilities | PLUGIN_AUTH_LENENC | CONNECT_WITH_DB | (1 << 19),
                1 << 24,
                45,
                b"gateway",
                native(b"upstream-secret", SERVER_NONCE),
                b"shop",
                NATIVE,
                {},
            )
        ),
        1,
    )


SWITCH = build_packets(b"\xfemysql_clear_password\x00", 2)
CLEAR_TOKEN = build_packets(TOKEN.encode() + b"\x00", 3)


def change_user(user: bytes = b"bob", proof: bytes = b"", database: bytes = b"shop") -> bytes:
    """As clients say it: without a proof, which waits for a nonce."""
    tail = (45).to_bytes(2, "little") + CACHING_SHA2.encode() + b"\x00"
    return build_packets(
        b"\x11" + user + b"\x00" + bytes((len(proof),)) + proof + database + b"\x00" + tail, 0
    )


OUR_CHANGE_USER = build_packets(
    b"\x11gateway\x00\x00shop\x00" + (45).to_bytes(2, "little") + NATIVE.encode() + b"\x00", 0
)


def ok(sequence: int, status: int = 2, affected: int = 0) -> bytes:
    return build_packets(
        b"\x00" + lenenc(affected) + b"\x00" + status.to_bytes(2, "little") + b"\x00\x00", sequence
    )


def eof(sequence: int, status: int = 2) -> bytes:
    return build_packets(b"\xfe\x00\x00" + status.to_bytes(2, "little"), sequence)


def error(sequence: int, code: int = 1146, state: str = "42S02", text: str = "no such table") -> bytes:
    return build_packets(
        b"\xff" + code.to_bytes(2, "little") + b"#" + state.encode() + text.encode(), sequence
    )


def command(code: int, body: bytes = b"") -> bytes:
    return build_packets(bytes((code,)) + body, 0)


def query(text: str) -> bytes:
    return command(3, text.encode())


def column(
    name: str, table: str = "t", origin: str | None = None, kind: int = 253, charset: int = 45
) -> bytes:
    """ColumnDefinition41, without a header."""
    names = (
        b"def",
        b"shop",
        table.encode(),
        table.encode(),
        name.encode(),
        (name if origin is None else origin).encode(),
    )
    return (
        b"".join(lenenc_bytes(each) for each in names)
        + b"\x0c"
        + charset.to_bytes(2, "little")
        + (1024).to_bytes(4, "little")
        + bytes((kind,))
        + b"\x00\x00\x00\x00\x00"
    )


def packets(first: int, *payloads: bytes) -> bytes:
    return b"".join(build_packets(payload, first + number) for number, payload in enumerate(payloads))


def row(*values: str | None) -> bytes:
    return b"".join(b"\xfb" if value is None else lenenc_bytes(value.encode()) for value in values)


EOF_PAYLOAD = eof(0)[4:]


def connection(**options: object) -> MysqlConnection:
    return MysqlConnection(NONCE, takes_cleartext=True, **options)  # type: ignore[arg-type]


def logged_in(capabilities: int = GOVERNED & ~DEPRECATE_EOF) -> tuple[Line, ...]:
    given = response(capabilities=capabilities)
    return (
        Server(server_greeting()),
        ToClient(our_greeting()),
        Client(opening(given)),
        ToClient(SWITCH),
        Client(CLEAR_TOKEN),
        Sees(LoginReceived, user="ada", database="shop", token=TOKEN),
        Answers("accept_login", UPSTREAM),
        Forwards(upstream_opening(agreed(given, GREETING))),
        Server(ok(2)),
        ToClient(ok(4)),
        Sees(LoggedIn, thread=77),
    )
