"""Floods end with ENHANCE_YOUR_CALM, over-long things with a refusal; memory stays bounded; ordinary use is free."""

from __future__ import annotations

import pytest

from extproc.protocols.h2 import (
    CallEnded,
    CallStarted,
    Connection,
    ConnectionFailed,
    ErrorCode,
    HalfClosed,
    Limits,
)
from tests.protocols.h2.support import (
    BLOCK,
    CONTINUATION,
    HEADERS_FRAME,
    PING,
    PREFACE,
    PRIORITY,
    WINDOW,
    ack,
    data,
    frame,
    goaway_code,
    greeted,
    head,
    message,
    rst,
    rst_codes,
    sent,
    settings,
    window_update,
)

CALM = ErrorCode.ENHANCE_YOUR_CALM

FLOODS = {
    "PING": frame(PING, 0, 0, b"x" * 8),
    "PING acknowledgements": frame(PING, 1, 0, b"x" * 8),
    "SETTINGS": settings(),
    "SETTINGS acknowledgements": ack(),
    "empty DATA": data(1, b""),
    "DATA that is only padding": frame(0, 8, 1, b"\x04" + b"\0" * 4),
    "PRIORITY": frame(PRIORITY, 0, 1, b"\0" * 5),
    "unknown frames": frame(0x99, 0, 0, b"x"),
    "WINDOW_UPDATE of the connection": window_update(0, 1),
    "WINDOW_UPDATE of a stream": window_update(1, 1),
    "WINDOW_UPDATE of an ended stream": window_update(3, 1),
    "RST_STREAM of an ended stream": rst(3),
    "DATA of an ended stream": data(3, b""),
    "trailers of an ended stream": head(3, flags=5, headers=b""),
}


def with_one_open_and_one_ended() -> Connection:
    connection = greeted()
    connection.receive(head(1) + head(3))
    connection.reset(3)
    connection.bytes_to_send()
    return connection


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_ends_the_connection(name):
    connection = with_one_open_and_one_ended()
    answered = 0
    for _ in range(60):
        events = connection.receive(FLOODS[name] * 100)
        if connection.failed:
            break
        answered += len(connection.bytes_to_send())
    assert connection.failed and isinstance(events[-1], ConnectionFailed)
    assert goaway_code(connection) == CALM
    assert answered < 200_000


@pytest.mark.parametrize("name", FLOODS)
def test_the_same_frames_at_a_bearable_rate_are_no_flood(name):
    connection = with_one_open_and_one_ended()
    for second in range(100):
        connection.receive(FLOODS[name] * 100, now=float(second))
        connection.bytes_to_send()
    assert not connection.failed


def test_a_settings_flood_costs_more_the_more_streams_it_touches():
    connection = greeted(Limits(streams=5000))
    for index in range(3000):
        connection.receive(head(2 * index + 1))
    connection.bytes_to_send()
    count = 0
    while not connection.failed and count < 100:
        connection.receive(settings((4, 1000 + count % 2)))
        count += 1
    assert connection.failed and count <= 12


def test_rapid_reset_ends_the_connection():
    connection = greeted()
    stream = 1
    for _ in range(20_000):
        events = connection.receive(head(stream) + rst(stream))
        stream += 2
        if connection.failed:
            break
    assert isinstance(events[-1], ConnectionFailed) and stream < 10_000
    assert goaway_code(connection) == CALM


def test_resets_after_a_reply_are_what_envoy_does_and_cost_nothing():
    connection = greeted()
    for index in range(20_000):
        stream = 2 * index + 1
        connection.receive(head(stream) + data(stream, message(b"x")) + window_update(0, 6))
        connection.send_message(stream, b"y")
        assert connection.receive(data(stream, b"", end=True) + rst(stream))[-1].stream_id == stream
        connection.bytes_to_send()
    assert not connection.failed and connection.open_calls == 0 and connection.buffered == 0


def test_a_flood_of_broken_calls_ends_the_connection():
    connection = greeted()
    broken = b"\x00\x01A\x01b"  # a name in upper case
    for index in range(10_000):
        connection.receive(head(2 * index + 1, headers=BLOCK + broken))
        if connection.failed:
            break
    assert goaway_code(connection) == CALM


def test_streams_beyond_the_limit_are_refused_and_the_others_serve_on():
    connection = greeted(Limits(streams=3))
    events = connection.receive(head(1) + head(3) + head(5) + head(7) + head(9))
    assert [e.stream_id for e in events] == [1, 3, 5]
    assert rst_codes(connection) == {7: ErrorCode.REFUSED_STREAM, 9: ErrorCode.REFUSED_STREAM}
    connection.receive(rst(1))
    assert [e.stream_id for e in connection.receive(head(11))] == [11]


def test_a_flood_of_refused_streams_ends_the_connection():
    connection = greeted(Limits(streams=1))
    connection.receive(head(1))
    for index in range(1, 10_000):
        connection.receive(head(2 * index + 1))
        if connection.failed:
            break
    assert connection.failed


def test_a_continuation_flood_ends_the_connection():
    connection = greeted()
    connection.receive(head(flags=0, headers=b""))
    for _ in range(65):
        connection.receive(frame(CONTINUATION, 0, 1, b""))
    assert goaway_code(connection) == CALM


def test_a_header_block_that_does_not_end_is_not_kept():
    connection = greeted(Limits(continuations=10_000))
    connection.receive(head(1))
    connection.receive(head(3, flags=0, headers=b"x" * 16_000))
    most = 0
    for _ in range(200):
        connection.receive(frame(CONTINUATION, 0, 3, b"x" * 16_000))
        most = max(most, connection.buffered)
        if connection.failed:
            break
    assert most <= 64 << 10
    assert goaway_code(connection) == CALM


@pytest.mark.parametrize("size", [40_000, 70_000, 300_000])
def test_over_large_metadata_is_refused_for_its_call_alone(size):
    """A client's own tracestate may be in there: it must not end the calls of others."""
    connection = greeted()
    connection.receive(head(1))
    value = b"\x00\x01a\x7f" + _varint(size - 127) + b"v" * size
    wire = BLOCK + value
    parts = [wire[i : i + 16_000] for i in range(0, len(wire), 16_000)]
    connection.receive(head(3, flags=1, headers=parts[0]))
    for index, part in enumerate(parts[1:], 2):
        connection.receive(frame(CONTINUATION, 4 if index == len(parts) else 0, 3, part))
    frames = [f for f in sent(connection, HEADERS_FRAME) if f[2] == 3]
    assert b"grpc-status\x018" in frames[0][3] and not connection.failed
    assert isinstance(connection.receive(head(5) + data(1, message(b"x")))[0], CallStarted)


def test_over_large_metadata_before_the_table_is_settled_loses_the_connection():
    connection = Connection()
    connection.receive(PREFACE + settings())
    connection.receive(head(1, headers=BLOCK + b"\x00\x01a\x7f" + _varint(40_000 - 127) + b"v" * 40_000))
    assert connection.failed


def test_many_small_fields_count_as_hpack_counts_them():
    connection = greeted()
    connection.receive(head(1))
    connection.receive(head(3, headers=BLOCK + b"\x00\x01a\x01b" * 1100))
    assert connection.open_calls == 1 and not connection.failed


def test_unfinished_messages_are_bounded_over_all_streams():
    connection = greeted(Limits(message=1 << 20, unfinished=100_000))
    ended = []
    for index in range(20):
        stream = 2 * index + 1
        connection.receive(head(stream))
        ended += connection.receive(data(stream, b"\0\0\x0f\0\0" + b"x" * 15_000))
        assert connection.buffered <= 100_000 + 15_005
    assert len(ended) == 14 and all(isinstance(e, CallEnded) for e in ended)
    assert not connection.failed


def test_a_length_is_not_believed_before_its_bytes_come():
    connection = greeted(Limits(message=1 << 30))
    connection.receive(head() + data(1, b"\0\x3f\xff\xff\xff"))
    assert connection.buffered == 5


def test_the_caches_stay_small_whatever_the_peer_sends():
    connection = greeted()
    connection.receive(head(1))
    for index in range(5000):
        stream = 2 * index + 3
        name = b"%06d" % index
        connection.receive(head(stream, headers=BLOCK + b"\x00\x06" + name + b"\x06" + name))
        connection.finish(stream, 12)
        connection.bytes_to_send()
    decoder = connection._decoder
    assert len(decoder._blocks) <= 256 and len(decoder._names) <= 256 and len(decoder._before) <= 256
    assert len(connection._ended_early) <= 1024


def test_a_trickle_of_bytes_is_read_in_linear_time():
    """One frame byte by byte: nothing is parsed or copied again until it is whole."""
    connection = greeted(Limits(message=1 << 20, frame=1 << 20))
    connection.receive(head())
    wire = data(1, message(b"x" * 300_000), end=True)
    events = [e for start in range(len(wire)) for e in connection.receive(wire[start : start + 1])]
    assert isinstance(events[-1], HalfClosed) and len(events) == 2


def test_long_polite_use_never_runs_out_of_budget():
    connection = greeted()
    connection.receive(head(1) + window_update(1, 1 << 30))
    for index in range(5000):
        connection.send_message(1, b"x" * 20_000)
        connection.bytes_to_send()
        connection.receive(window_update(0, 20_005))
        if index % 20 == 0:
            connection.receive(frame(PING, 0, 0, b"x" * 8))
    assert not connection.failed
    assert sent(connection, WINDOW) == []


def _varint(value: int) -> bytes:
    out = b""
    while value >= 128:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])
