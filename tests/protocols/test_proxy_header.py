"""A PROXY header is read whole and strictly, or the connection is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.domain.errors import ProtocolError
from extproc.protocols.proxy_header import LARGEST, SIGNATURE, ProxyHeader, ProxyHeaderReader

V4 = bytes([10, 0, 0, 9, 127, 0, 0, 1]) + (4711).to_bytes(2, "big") + (5432).to_bytes(2, "big")
V6 = bytes(15) + b"\x01" + bytes(15) + b"\x02" + (4711).to_bytes(2, "big") + (5432).to_bytes(2, "big")


def value(kind: int, data: bytes) -> bytes:
    return bytes([kind]) + len(data).to_bytes(2, "big") + data


def header(body: bytes, *, command: int = 0x21, family: int = 0x11, size: int | None = None) -> bytes:
    length = len(body) if size is None else size
    return SIGNATURE + bytes([command, family]) + length.to_bytes(2, "big") + body


GOOD = header(V4 + value(0xE0, b"orders-db") + value(0xE1, b"-") + value(0x04, b""))
EXPECTED = ProxyHeader(False, "10.0.0.9:4711", {0xE0: b"orders-db", 0xE1: b"-", 0x04: b""})


def read(*chunks: bytes) -> tuple[ProxyHeader, bytes] | None:
    reader = ProxyHeaderReader()
    for chunk in chunks[:-1]:
        assert reader.receive(chunk) is None
    return reader.receive(chunks[-1])


def test_it_is_read_wherever_the_network_cuts() -> None:
    for cut in range(1, len(GOOD)):
        assert read(GOOD[:cut], GOOD[cut:] + b"rest") == (EXPECTED, b"rest")
    assert read(*(bytes([byte]) for byte in GOOD)) == (EXPECTED, b"")


def test_ipv6_is_read() -> None:
    found = read(header(V6, family=0x21))
    assert found is not None and found[0].source == "[::1]:4711"


def test_a_local_connection_speaks_for_nobody() -> None:
    for body in (b"", V4 + value(0xE0, b"orders-db"), b"\xff" * 20):
        assert read(header(body, command=0x20, family=0) + b"ping") == (ProxyHeader(True), b"ping")


HOSTILE = {
    "no header": b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
    "version 1": b"PROXY TCP4 10.0.0.9 127.0.0.1 4711 5432\r\n",
    "signature wrong at its end": SIGNATURE[:-1] + b"X",
    "a Postgres startup": b"\x00\x00\x00\x25\x00\x03\x00\x00user\x00",
    "version 3": header(V4, command=0x31),
    "unknown command": header(V4, command=0x22),
    "a unix socket": header(bytes(216), family=0x31),
    "UDP": header(V4, family=0x12),
    "no family": header(V4, family=0x00),
    "too long": header(b"", size=LARGEST + 1),
    "as long as can be said": header(b"", size=0xFFFF),
    "addresses cut": header(V4[:-1]),
    "IPv6 with the addresses of IPv4": header(V4, family=0x21),
    "a value without a length": header(V4 + b"\xe0"),
    "a value with half a length": header(V4 + b"\xe0\x00"),
    "a value longer than the header": header(V4 + b"\xe0\x00\x0aorders-db"),
    "the target twice": header(V4 + value(0xE0, b"a") + value(0xE0, b"b")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_anything_else_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError):
        read(HOSTILE[name])


@pytest.mark.parametrize("name", HOSTILE)
def test_and_byte_by_byte_as_well(name: str) -> None:
    reader = ProxyHeaderReader()
    with pytest.raises(ProtocolError):
        for byte in HOSTILE[name]:
            assert reader.receive(bytes([byte])) is None


def test_a_wrong_beginning_is_refused_at_its_first_wrong_byte() -> None:
    with pytest.raises(ProtocolError):
        ProxyHeaderReader().receive(b"\x00")


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_a_header_an_error_or_not_whole_yet(data: bytes, signed: bool) -> None:
    reader = ProxyHeaderReader()
    try:
        found = reader.receive(SIGNATURE + data if signed else data)
    except ProtocolError:
        return
    assert found is None or isinstance(found[0], ProxyHeader)
