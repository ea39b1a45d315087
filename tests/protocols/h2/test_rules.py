"""Rules of RFC 9113 a peer may break, and the error code each one ends with."""

from __future__ import annotations

import struct

import pytest

from extproc.protocols.h2 import CallEnded, CallStarted, Connection, ConnectionFailed, ErrorCode
from tests.protocols.h2.support import (
    BLOCK,
    CONTINUATION,
    DATA,
    GOAWAY,
    HEADERS,
    HEADERS_FRAME,
    PING,
    PREFACE,
    PRIORITY,
    PUSH,
    RST,
    SETTINGS,
    WINDOW,
    ack,
    block,
    data,
    frame,
    goaway_code,
    greeted,
    head,
    message,
    rst,
    rst_codes,
    settings,
    window_update,
)

P, F, C, S, Z = (
    ErrorCode.PROTOCOL_ERROR,
    ErrorCode.FRAME_SIZE_ERROR,
    ErrorCode.FLOW_CONTROL_ERROR,
    ErrorCode.STREAM_CLOSED,
    ErrorCode.COMPRESSION_ERROR,
)
OPEN = head()
CLOSED = head() + data(1, b"", end=True)

CONNECTION_ERRORS = {
    "DATA on the connection": (data(0, b""), P),
    "DATA on an idle stream": (data(1, b"x"), P),
    "DATA on an even stream": (data(2, b"x"), P),
    "DATA with no room for its padding": (OPEN + frame(DATA, 8, 1, b""), F),
    "DATA that is all padding and more": (OPEN + frame(DATA, 8, 1, b"\x05abc"), P),
    "HEADERS on the connection": (head(0), P),
    "HEADERS on an even stream": (head(2), P),
    "HEADERS on a stream that was skipped": (head(5) + head(3), S),
    "HEADERS with more padding than block": (frame(HEADERS_FRAME, 0xC, 1, b"\xff" + BLOCK[:5]), P),
    "HEADERS too short for its priority": (frame(HEADERS_FRAME, 0x24, 1, b"\0\0"), F),
    "HEADERS that do not decode": (head(headers=b"\xff\xff\xff\xff\xff\xff"), Z),
    "HEADERS with an index into the dynamic table": (head(headers=b"\xbe"), Z),
    "HEADERS with index 0": (head(headers=b"\x80"), Z),
    "HEADERS that grow the table again": (OPEN + head(3, headers=b"\x3f\x10" + BLOCK), Z),
    "HEADERS that change the table after a field": (OPEN + head(3, headers=BLOCK + b"\x20"), Z),
    "HEADERS cut inside a field": (OPEN + head(3, headers=BLOCK[:-3]), Z),
    "a length in HEADERS that never ends": (OPEN + head(3, headers=b"\x00\x7f" + b"\xff" * 12), Z),
    "CONTINUATION out of nothing": (frame(CONTINUATION, 4, 1, BLOCK), P),
    "CONTINUATION of another stream": (head(flags=0, headers=b"") + frame(CONTINUATION, 4, 3, BLOCK), P),
    "another frame inside a header block": (head(flags=0) + frame(PING, 0, 0, b"x" * 8), P),
    "an unknown frame inside a header block": (head(flags=0) + frame(0x55), P),
    "PRIORITY on the connection": (frame(PRIORITY, 0, 0, b"\0" * 5), P),
    "PRIORITY of the wrong size": (frame(PRIORITY, 0, 1, b"\0" * 4), F),
    "RST_STREAM on the connection": (rst(0), P),
    "RST_STREAM on an idle stream": (rst(1), P),
    "RST_STREAM of the wrong size": (OPEN + frame(RST, 0, 1, b"\0"), F),
    "SETTINGS on a stream": (frame(SETTINGS, 0, 1), P),
    "SETTINGS of an odd size": (frame(SETTINGS, 0, 0, b"\0" * 5), F),
    "an acknowledgement with settings": (frame(SETTINGS, 1, 0, b"\0" * 6), F),
    "ENABLE_PUSH 2": (settings((2, 2)), P),
    "INITIAL_WINDOW_SIZE 2^31": (settings((4, 2**31)), C),
    "MAX_FRAME_SIZE below the least": (settings((5, 16_383)), P),
    "MAX_FRAME_SIZE above the most": (settings((5, 2**24)), P),
    "PUSH_PROMISE from a client": (frame(PUSH, 4, 1, b"\0\0\0\2" + BLOCK), P),
    "PING on a stream": (frame(PING, 0, 1, b"\0" * 8), P),
    "PING of the wrong size": (frame(PING, 0, 0, b"\0" * 7), F),
    "GOAWAY on a stream": (frame(GOAWAY, 0, 1, b"\0" * 8), P),
    "GOAWAY of the wrong size": (frame(GOAWAY, 0, 0, b"\0" * 7), F),
    "WINDOW_UPDATE of the wrong size": (frame(WINDOW, 0, 0, b"\0" * 3), F),
    "WINDOW_UPDATE by nothing": (window_update(0, 0), P),
    "WINDOW_UPDATE on an idle stream": (window_update(1, 5), P),
    "a connection window beyond 2^31-1": (window_update(0, 2**31 - 1), C),
    "an initial window that lifts a stream's beyond 2^31-1": (
        OPEN + window_update(1, 2**31 - 65_536) + settings((4, 70_000)), C,
    ),
    "a frame longer than announced": (struct.pack(">I", 65_537)[1:] + b"\0\0\0\0\0\1", F),
}  # fmt: skip


@pytest.mark.parametrize("name", CONNECTION_ERRORS)
def test_ends_the_connection(name):
    wire, code = CONNECTION_ERRORS[name]
    connection = greeted()
    events = connection.receive(wire)
    assert isinstance(events[-1], ConnectionFailed) and events[-1].code == code
    assert connection.failed and connection.buffered == 0 and connection.open_calls == 0
    assert goaway_code(connection) == code
    assert connection.receive(OPEN) == [] and connection.bytes_to_send() == b""


STREAM_ERRORS = {
    "DATA after END_STREAM": (CLOSED + data(1, b""), S),
    "HEADERS after END_STREAM": (CLOSED + head(1, flags=5, headers=b""), S),
    "a stream window that grows by nothing": (OPEN + window_update(1, 0), P),
    "a stream window beyond 2^31-1": (OPEN + window_update(1, 2**31 - 1), C),
    "trailers without END_STREAM": (OPEN + head(1, flags=4, headers=b"\x00\x01a\x01b"), P),
    "pseudo-headers in trailers": (OPEN + head(1, flags=5), P),
    "a message cut short": (OPEN + data(1, b"\0\0", end=True), P),
}


@pytest.mark.parametrize("name", STREAM_ERRORS)
def test_ends_the_stream_and_no_other(name):
    wire, code = STREAM_ERRORS[name]
    connection = greeted()
    events = connection.receive(wire)
    assert isinstance(events[-1], CallEnded)
    assert rst_codes(connection) == {1: code}
    assert connection.receive(head(3))[0].stream_id == 3 and not connection.failed


MALFORMED_HEADS = {
    "a name in upper case": [*HEADERS, ("X-Upper", "v")],
    "an empty name": [*HEADERS, ("", "v")],
    "a name with a space": [*HEADERS, ("a b", "v")],
    "a value with a line break": [*HEADERS, ("a", "b\r\nc")],
    "a value with a NUL": [*HEADERS, ("a", "b\0")],
    "a value with a blank around": [*HEADERS, ("a", " b")],
    "connection": [*HEADERS, ("connection", "close")],
    "transfer-encoding": [*HEADERS, ("transfer-encoding", "chunked")],
    "te other than trailers": [*HEADERS[:4], ("te", "gzip")],
    "a pseudo-header late": [*HEADERS, (":authority", "x")],
    "a pseudo-header twice": [*HEADERS[:4], (":path", "/x"), *HEADERS[4:]],
    "a pseudo-header of responses": [(":status", "200"), *HEADERS],
    "an unknown pseudo-header": [(":secret", "x"), *HEADERS],
    "no method": HEADERS[1:],
    "no scheme": [HEADERS[0], *HEADERS[2:]],
    "no path": [*HEADERS[:2], *HEADERS[3:]],
    "an empty path": [*HEADERS[:2], (":path", ""), *HEADERS[3:]],
}


@pytest.mark.parametrize("name", MALFORMED_HEADS)
@pytest.mark.parametrize("first", [True, False], ids=["first block", "later block"])
def test_a_malformed_head_is_reset(name, first):
    connection = greeted()
    if not first:
        connection.receive(head())
    connection.bytes_to_send()
    assert connection.receive(head(7, headers=block(MALFORMED_HEADS[name]))) == []
    assert rst_codes(connection) == {7: P} and not connection.failed


@pytest.mark.parametrize(
    "wire",
    [
        b"GET / HTTP/1.1\r\n\r\n" + b" " * 20,
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        b"\x16\x03\x01" + b"\0" * 30,
    ],
)
def test_what_is_not_http2_is_told_so(wire):
    connection = Connection()
    (failed,) = connection.receive(wire)
    assert failed.code == P


@pytest.mark.parametrize(
    "wire",
    [ack(), frame(PING, 0, 0, b"x" * 8), head(), data(1, b""), window_update(0, 5), frame(0x77)],
)
def test_the_first_frame_is_settings(wire):
    connection = Connection()
    assert connection.receive(PREFACE) == []
    (failed,) = connection.receive(wire)
    assert failed.code == P


def test_frames_for_a_stream_that_we_ended_are_no_offence():
    connection = greeted()
    connection.receive(head())
    connection.finish(1, 14, "going")
    connection.bytes_to_send()
    wire = (
        data(1, message(b"late"))
        + window_update(1, 10)
        + rst(1)
        + head(1, flags=5, headers=b"\x00\x01a\x01b")
    )
    assert connection.receive(wire) == [] and not connection.failed
    assert connection.bytes_to_send() == b""


def test_data_for_a_stream_that_ended_properly_is_reset_with_stream_closed():
    connection = greeted()
    connection.receive(CLOSED)
    connection.finish(1)
    connection.bytes_to_send()
    assert connection.receive(data(1, b"late")) == []
    assert rst_codes(connection) == {1: S}


def test_headers_for_a_stream_that_ended_properly_end_the_connection():
    connection = greeted()
    connection.receive(CLOSED)
    connection.finish(1)
    (failed,) = connection.receive(head(1))
    assert failed.code == S


def test_a_goaway_of_the_peer_leaves_open_calls_alone():
    connection = greeted()
    connection.receive(head())
    assert connection.receive(frame(GOAWAY, 0, 0, b"\0" * 8 + b"bye")) == []
    (event,) = connection.receive(data(1, message(b"x")))
    assert event.data == b"x"


def test_before_the_acknowledgement_the_dynamic_table_is_the_peers_to_use():
    import hpack

    encoder = hpack.Encoder()
    connection = Connection()
    first = connection.receive(PREFACE + settings() + head(1, headers=encoder.encode(HEADERS)))
    second = connection.receive(head(3, headers=encoder.encode(HEADERS)))
    assert first[0].head.path == second[0].head.path and first[0].head is not second[0].head
    encoder.header_table_size = 0
    third = connection.receive(ack() + head(5, headers=encoder.encode(HEADERS)))
    assert isinstance(third[0], CallStarted) and third[0].head.metadata == first[0].head.metadata
    fourth = connection.receive(head(7, headers=encoder.encode(HEADERS)))
    assert fourth[0].head.path == first[0].head.path and not connection.failed


def test_after_the_acknowledgement_a_peer_that_keeps_its_table_is_lost():
    import hpack

    encoder = hpack.Encoder()
    connection = Connection()
    connection.receive(PREFACE + settings() + head(1, headers=encoder.encode(HEADERS)) + ack())
    (failed,) = connection.receive(head(3, headers=encoder.encode(HEADERS)))
    assert failed.code == Z


def test_an_error_text_quotes_nothing_of_the_peer():
    connection = greeted()
    (failed,) = connection.receive(head(headers=b"\x00\x06secret\x83ab"))
    assert "secret" not in failed.reason and b"secret" not in connection.bytes_to_send()
