"""OK, ERR and EOF packets: what ends an answer (Generic Response Packets)."""

from __future__ import annotations

from typing import Final

from extproc.domain.nouns import noun
from extproc.protocols.mysql.capabilities import DEPRECATE_EOF
from extproc.protocols.mysql.limits import Refusal
from extproc.protocols.mysql.values import malformed, read_int, read_lenenc

OK, EOF, ERR, LOCAL_INFILE, AUTH_MORE, AUTH_SWITCH, NULL = 0x00, 0xFE, 0xFF, 0xFB, 0x01, 0xFE, 0xFB
LONGEST_MESSAGE = 500
"""Characters; clients keep 512 bytes (MYSQL_ERRMSG_SIZE)."""


@noun(slots=True, init=False, unsafe_hash=True)
class Okay:
    """The end of an answer: rows affected and status flags."""

    affected: Final[int]
    status: Final[int]

    def __init__(
        self,
        affected: int,
        status: int,
    ) -> None:
        self.affected = affected
        self.status = status


def parse_ok(payload: bytes) -> Okay:
    """An OK packet, or the one with EOF's mark that ends rows under DEPRECATE_EOF."""
    affected, at = read_lenenc(payload, 1, "OK")
    _, at = read_lenenc(payload, at, "OK")
    status, at = read_int(payload, at, 2, "OK")
    _, at = read_int(payload, at, 2, "OK")
    return Okay(affected, status)


def parse_end(payload: bytes, capabilities: int) -> Okay:
    """What ends columns or rows: EOF, or OK in its place."""
    if capabilities & DEPRECATE_EOF:
        return parse_ok(payload)
    if len(payload) != 5:
        raise malformed("EOF")
    return Okay(0, int.from_bytes(payload[3:5], "little"))


def is_end(payload: bytes, capabilities: int) -> bool:
    """Whether it ends columns or rows. A row that begins like this is longer than any end."""
    limit = 0xFFFFFF if capabilities & DEPRECATE_EOF else 9
    return payload[:1] == b"\xfe" and len(payload) < limit


def parse_error(payload: bytes) -> tuple[int, str, bytes]:
    """Code, SQLSTATE and message. Before the login is through there may be no SQLSTATE."""
    code, at = read_int(payload, 1, 2, "ERR")
    if payload[at : at + 1] == b"#":
        if len(payload) < at + 6:
            raise malformed("ERR")
        return code, payload[at + 1 : at + 6].decode("ascii", "replace"), payload[at + 6 :]
    return code, "HY000", payload[at:]


def build_error(refusal: Refusal, *, codec: str = "utf-8", is_greeting: bool = False) -> bytes:
    """`is_greeting`: in the place of the greeting, where there is no SQLSTATE yet."""
    text = refusal.message
    if len(text) > LONGEST_MESSAGE:
        text = text[: LONGEST_MESSAGE - 1] + "…"
    state = b"" if is_greeting else b"#" + refusal.sqlstate.encode("ascii")
    return b"\xff" + refusal.code.to_bytes(2, "little") + state + text.encode(codec, "replace")


def build_raw_error(code: int, sqlstate: str, message: bytes) -> bytes:
    return b"\xff" + code.to_bytes(2, "little") + b"#" + sqlstate.encode("ascii", "replace") + message


def build_ok(status: int) -> bytes:
    """Nothing was changed, no warnings."""
    return b"\x00\x00\x00" + status.to_bytes(2, "little") + b"\x00\x00"
