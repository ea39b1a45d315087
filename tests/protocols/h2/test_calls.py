"""A gRPC call over HTTP/2, seen by the h2 library as client."""

from __future__ import annotations

import h2.events
import pytest

from extproc.protocols.h2 import CallStarted, Connection, HalfClosed, Limits, MessageReceived
from tests.protocols.h2.support import (
    BLOCK,
    CONTINUATION,
    HEADERS,
    HEADERS_FRAME,
    PATH,
    PREFACE,
    Client,
    ack,
    data,
    frame,
    frames_in,
    greeted,
    head,
    message,
    settings,
)


def changed(**fields: str | None) -> list[tuple[str, str]]:
    """HEADERS with fields replaced, added, or (None) left out; `_` stands for `-`, a leading `_` for `:`."""
    new = {(":" + n[1:] if n[0] == "_" else n.replace("_", "-")): v for n, v in fields.items()}
    kept = [(n, new.pop(n, v) if n in new else v) for n, v in HEADERS]
    return [(n, v) for n, v in [*kept, *new.items()] if v is not None]


def test_a_bidirectional_call_from_greeting_to_trailers():
    client = Client()
    client.call()
    client.say(1, b"one")
    started, first = client.exchange()
    assert isinstance(started, CallStarted) and started.head.path == PATH
    assert started.head.metadata == (("x-extproc-target", "api"),)
    assert first == MessageReceived(1, b"one")
    assert client.server.send_message(1, b"reply")
    client.say(1, b"two", end=True)
    assert client.exchange() == [MessageReceived(1, b"two"), HalfClosed(1)]
    assert client.server.send_message(1, b"")
    client.server.finish(1)
    client.exchange()
    assert client.bodies[1] == message(b"reply") + message(b"")
    (response,) = client.of(h2.events.ResponseReceived)
    assert list(response.headers) == [(":status", "200"), ("content-type", "application/grpc")]
    assert client.status() == "0"
    assert client.of(h2.events.StreamEnded, 1) and not client.of(h2.events.StreamReset)
    assert client.server.open_calls == 0 and client.server.buffered == 0


def test_our_settings_forbid_the_dynamic_table_and_tell_our_limits():
    connection = Connection(Limits(streams=7, stream_window=100_000, frame=20_000, header_list=5000))
    (kind, _, _, payload), *rest = frames_in(connection.bytes_to_send())
    pairs = {
        int.from_bytes(payload[i : i + 2], "big"): int.from_bytes(payload[i + 2 : i + 6], "big")
        for i in range(0, len(payload), 6)
    }
    assert kind == 4 and pairs == {1: 0, 3: 7, 4: 100_000, 5: 20_000, 6: 5000}
    assert [f[0] for f in rest] == [8]  # the connection's window


def test_settings_are_acknowledged_and_pings_answered():
    client = Client()
    client.exchange()
    assert client.of(h2.events.SettingsAcknowledged)
    client.h2.ping(b"12345678")
    client.exchange()
    (answer,) = client.of(h2.events.PingAckReceived)
    assert answer.ping_data == b"12345678"


def test_an_error_before_any_message_is_one_header_block():
    client = Client()
    client.call()
    client.exchange()
    client.server.finish(1, 12, "no such méthod %")
    client.exchange()
    (response,) = client.of(h2.events.ResponseReceived)
    assert dict(response.headers)["grpc-status"] == "12"
    assert dict(response.headers)["grpc-message"] == "no such m%C3%A9thod %25"
    assert client.of(h2.events.StreamEnded, 1)
    # the peer has not finished: it is told to stop, without error
    (reset,) = client.of(h2.events.StreamReset, 1)
    assert reset.error_code == 0


def test_ok_needs_the_peers_end_of_stream():
    client = Client()
    client.call()
    client.say(1, b"x")
    client.exchange()
    with pytest.raises(ValueError, match="half-closed"):
        client.server.finish(1)
    client.say(1, b"y", end=True)
    client.exchange()
    client.server.finish(1)
    client.exchange()
    assert client.status() == "0"


def test_nothing_is_sent_on_a_call_that_is_over():
    client = Client()
    client.call(end=True)
    client.exchange()
    client.server.finish(1)
    client.exchange()
    assert not client.server.send_message(1, b"late")
    client.server.finish(1, 13)
    client.server.reset(1)
    assert client.server.bytes_to_send() == b""


def test_after_trailers_wait_for_the_window_nothing_more_is_taken():
    connection = Connection()
    connection.receive(PREFACE + settings((4, 3)) + ack() + head(flags=5))
    connection.send_message(1, b"abcdef")
    connection.finish(1)
    assert not connection.send_message(1, b"more")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1H", 3600),
        ("2M", 120),
        ("3S", 3),
        ("250m", 0.25),
        ("5u", 5e-6),
        ("99999999n", 0.099999999),
        ("0S", 0),
    ],
)
def test_grpc_timeout_in_every_unit(text, seconds):
    client = Client()
    client.call(headers=changed(grpc_timeout=text))
    (started,) = client.exchange()
    assert started.head.timeout == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "S", "1", "-1S", "1s", "123456789S", "1.5S", "1S ", "１S"])
def test_a_malformed_grpc_timeout_is_no_call(text):
    connection = greeted()
    try:
        value = text.encode("latin-1")
    except UnicodeEncodeError:
        value = text.encode()
    literal = b"\x00\x0cgrpc-timeout" + bytes([len(value)]) + value
    assert connection.receive(head(headers=BLOCK + literal)) == []
    assert connection.open_calls == 0


@pytest.mark.parametrize(
    ("fields", "status", "grpc_status"),
    [
        ({"_method": "GET"}, "405", ""),
        ({"content_type": "application/json"}, "415", ""),
        ({"content_type": None}, "415", ""),
        ({"content_type": "application/grpc-web"}, "415", ""),
        ({"grpc_encoding": "gzip"}, "200", "12"),
        ({"grpc_timeout": "soon"}, "200", "13"),
    ],
)
def test_what_is_no_call_for_us_is_answered_at_once(fields, status, grpc_status):
    client = Client()
    client.call(headers=changed(**fields))
    assert client.exchange() == []
    (response,) = client.of(h2.events.ResponseReceived)
    headers = dict(response.headers)
    assert headers[":status"] == status
    assert headers.get("grpc-status", "") == grpc_status
    assert client.server.open_calls == 0


def test_an_unknown_compression_says_which_ones_are_known():
    client = Client()
    client.call(headers=changed(grpc_encoding="snappy"))
    client.exchange()
    (response,) = client.of(h2.events.ResponseReceived)
    assert dict(response.headers)["grpc-accept-encoding"] == "identity"


@pytest.mark.parametrize("kind", ["application/grpc", "application/grpc+proto", "application/grpc;v=1"])
@pytest.mark.parametrize("encoding", [None, "identity"])
def test_every_way_to_say_grpc(kind, encoding):
    client = Client()
    client.call(headers=changed(content_type=kind, grpc_encoding=encoding, grpc_accept_encoding="gzip"))
    (started,) = client.exchange()
    assert started.head.refusal is None


def test_a_compressed_message_ends_its_call_with_internal():
    client = Client()
    client.call()
    client.h2.send_data(1, b"\x01\x00\x00\x00\x01x")
    client.exchange()
    assert client.status() == "13"


def test_a_message_over_the_limit_is_refused_by_its_length_alone():
    client = Client(Limits(message=100))
    client.call()
    client.say(1, b"x" * 100)
    client.exchange()
    client.h2.send_data(1, b"\x00\x00\x00\x00\x65")
    events = client.exchange()
    assert client.status() == "8"
    assert [type(e).__name__ for e in events] == ["CallEnded"]
    assert client.server.buffered == 0
    # what was on its way is no offence, and the connection serves on
    client.h2.send_headers(3, HEADERS)
    assert [type(e) for e in client.exchange()] == [CallStarted]


def test_messages_before_a_bad_one_in_the_same_frame_stand():
    connection = greeted()
    events = connection.receive(head() + data(1, message(b"good") + b"\x01\x00\x00\x00\x00"))
    assert MessageReceived(1, b"good") in events
    assert type(events[-1]).__name__ == "CallEnded"


def test_padding_and_priority_are_taken_off():
    connection = greeted()
    padded_head = frame(
        HEADERS_FRAME, 0x4 | 0x8 | 0x20, 1, b"\x03" + b"\x00\x00\x00\x00\x10" + BLOCK + b"\0\0\0"
    )
    padded_data = frame(0, 0x8 | 0x1, 1, b"\x05" + message(b"hello") + b"\0" * 5)
    started, hello, closed = connection.receive(padded_head + padded_data)
    assert isinstance(started, CallStarted)
    assert hello == MessageReceived(1, b"hello") and closed == HalfClosed(1)


def test_padding_counts_for_flow_control_and_is_given_back():
    connection = greeted(Limits(stream_window=1000, connection_window=100_000))
    connection.receive(head() + frame(0, 0x8, 1, b"\xff" + b"\0" * 255) * 2)
    assert frames_in(connection.bytes_to_send()) == [(8, 0, 1, (512).to_bytes(4, "big"))]


@pytest.mark.parametrize("cuts", [1, 2, 5])
def test_a_header_block_in_continuations(cuts):
    connection = greeted()
    size = len(BLOCK) // (cuts + 1)
    parts = [BLOCK[i * size : (i + 1) * size] for i in range(cuts)] + [BLOCK[cuts * size :]]
    wire = head(flags=1, headers=parts[0])
    for index, part in enumerate(parts[1:], 1):
        wire += frame(CONTINUATION, 4 if index == cuts else 0, 1, part)
    started, closed = connection.receive(wire)
    assert started.head.path == PATH and closed == HalfClosed(1)


def test_client_trailers_close_the_peers_side():
    client = Client()
    client.call()
    client.say(1, b"x")
    client.h2.send_headers(1, [("some", "trailer")], end_stream=True)
    assert client.exchange()[-1] == HalfClosed(1)


def test_a_head_is_shared_between_calls_with_equal_blocks_and_only_with_those():
    connection = greeted()
    connection.receive(head(1))  # the first block after the acknowledgement settles the table
    (a,) = connection.receive(head(3))
    (b,) = connection.receive(head(5))
    assert a.head is b.head
    other = BLOCK + b"\x00\x01a\x01b"
    (c,) = connection.receive(head(7, headers=other))
    assert c.head is not a.head and ("a", "b") in c.head.metadata


def test_unknown_frames_flags_and_settings_are_ignored():
    connection = greeted()
    wire = frame(0x77, 0xFF, 9, b"whatever") + settings((0x99, 5)) + head(flags=4 | 0x40) + frame(0xEE, 0, 0)
    (started,) = connection.receive(wire)
    assert isinstance(started, CallStarted) and not connection.failed


def test_the_reserved_bit_of_a_stream_id_is_ignored():
    connection = greeted()
    wire = bytearray(head())
    wire[5] |= 0x80
    (started,) = connection.receive(bytes(wire))
    assert started.stream_id == 1


def test_many_messages_in_one_frame_and_one_in_many():
    connection = greeted()
    connection.receive(head())
    many = [bytes([i]) * i for i in range(50)]
    assert connection.receive(data(1, b"".join(map(message, many)))) == [MessageReceived(1, m) for m in many]
    large = message(b"z" * 1000)
    events = [e for byte in large for e in connection.receive(data(1, bytes([byte])))]
    assert events == [MessageReceived(1, b"z" * 1000)]


def test_half_closing_inside_a_message_cuts_the_call():
    connection = greeted()
    events = connection.receive(head() + data(1, message(b"whole") + b"\0\0", end=True))
    assert [type(e).__name__ for e in events] == ["CallStarted", "MessageReceived", "CallEnded"]
    assert connection.buffered == 0
