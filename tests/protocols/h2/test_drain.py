"""Going away: GOAWAY names what was handled, the rest may be tried elsewhere, new calls are refused."""

from __future__ import annotations

import h2.events

from extproc.protocols.h2 import ErrorCode, HalfClosed
from tests.protocols.h2.support import (
    GOAWAY,
    RST,
    Client,
    data,
    greeted,
    head,
    message,
    rst_codes,
    sent,
)


def test_calls_without_a_handled_message_are_refused_and_the_others_finish():
    connection = greeted()
    connection.receive(head(1) + data(1, message(b"x")) + head(3) + head(5) + data(5, b"\0\0"))
    assert sorted(connection.drain()) == [3, 5]
    frames = sent(connection)
    (goaway,) = [f for f in frames if f[0] == GOAWAY]
    assert goaway[3] == (1).to_bytes(4, "big") + b"\0" * 4
    assert {f[2]: int.from_bytes(f[3], "big") for f in frames if f[0] == RST} == {
        3: ErrorCode.REFUSED_STREAM,
        5: ErrorCode.REFUSED_STREAM,
    }
    assert connection.receive(data(1, b"", end=True)) == [HalfClosed(1)]
    connection.finish(1)
    assert connection.open_calls == 0


def test_new_calls_after_goaway_are_refused():
    connection = greeted()
    connection.drain()
    connection.bytes_to_send()
    assert connection.receive(head(1) + data(1, message(b"x"))) == []
    assert rst_codes(connection) == {1: ErrorCode.REFUSED_STREAM}


def test_going_away_is_said_once():
    connection = greeted()
    connection.drain()
    connection.bytes_to_send()
    assert connection.drain() == [] and connection.bytes_to_send() == b""


def test_the_h2_library_understands_our_goodbye():
    client = Client()
    client.call(1)
    client.say(1, b"x")
    client.exchange()
    client.server.drain()
    client.exchange()
    (goodbye,) = client.of(h2.events.ConnectionTerminated)
    assert goodbye.error_code == 0 and goodbye.last_stream_id == 1


def test_what_was_on_its_way_when_we_announced_to_go_is_served():
    connection = greeted()
    connection.announce_drain()
    (goaway,) = sent(connection)
    assert goaway[0] == GOAWAY and goaway[3] == (2**31 - 1).to_bytes(4, "big") + b"\0" * 4
    connection.receive(head(1) + data(1, message(b"x"), end=True))
    connection.announce_drain()
    assert connection.open_calls == 1 and rst_codes(connection) == {}
    assert connection.drain() == []
    (goaway,) = [frame for frame in sent(connection) if frame[0] == GOAWAY]
    assert goaway[3][:4] == (1).to_bytes(4, "big")


def test_after_the_goodbye_nothing_is_announced():
    connection = greeted()
    connection.drain()
    connection.bytes_to_send()
    connection.announce_drain()
    assert connection.bytes_to_send() == b""
