"""Both windows, both ways: nothing is sent beyond the peer's, nothing is kept beyond ours."""

from __future__ import annotations

import h2.events
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from extproc.protocols.h2 import CallEnded, Connection, ConnectionFailed, ErrorCode, Limits, MessageReceived
from tests.protocols.h2.support import (
    DATA,
    GOAWAY,
    HEADERS_FRAME,
    PREFACE,
    RST,
    SETTINGS,
    WINDOW,
    Client,
    ack,
    data,
    goaway_code,
    greeted,
    head,
    message,
    rst_codes,
    sent,
    settings,
    window_update,
)


def starved(window: int = 0, limits: Limits | None = None) -> Connection:
    """A peer that gives our streams `window` bytes."""
    connection = Connection(limits)
    connection.receive(PREFACE + settings((4, window)) + ack())
    connection.bytes_to_send()
    return connection


def body(connection: Connection, stream: int = 1) -> bytes:
    return b"".join(f[3] for f in sent(connection, DATA) if f[2] == stream)


def test_a_reply_waits_for_the_streams_window_and_goes_on_as_it_opens():
    connection = starved()
    connection.receive(head(flags=5))
    connection.send_message(1, b"abcdef")
    connection.finish(1)
    assert [f[0] for f in sent(connection)] == [HEADERS_FRAME]
    got = b""
    for _ in range(11):
        connection.receive(window_update(1, 1))
        frames = sent(connection)
        got += b"".join(f[3] for f in frames if f[0] == DATA)
    assert got == message(b"abcdef")
    assert frames[-1][:2] == (HEADERS_FRAME, 5)  # the trailers come with the last byte
    assert connection.open_calls == 0 and connection.buffered == 0


def test_a_reply_waits_for_the_connections_window():
    connection = greeted()
    connection.receive(head(flags=5) + window_update(1, 1 << 20))
    connection.send_message(1, b"x" * 100_000)
    assert len(body(connection)) == 65_535
    assert connection.buffered == 100_005 - 65_535
    connection.receive(window_update(0, 1 << 20))
    assert len(body(connection)) == 100_005 - 65_535


def test_a_settings_change_opens_and_closes_stream_windows():
    connection = starved(10)
    connection.receive(head())
    connection.send_message(1, b"x" * 15)
    assert len(body(connection)) == 10
    connection.receive(settings((4, 4)))  # minus 6: the window is negative now
    assert body(connection) == b""
    connection.receive(settings((4, 16)))
    assert len(body(connection)) == 6
    connection.receive(settings((4, 100)))
    assert len(body(connection)) == 4


def test_new_settings_are_acknowledged_before_anything_goes_by_them():
    """Until the peer reads that, its old ones hold, and it may call what goes beyond them an overrun."""
    connection = starved(10)
    connection.receive(head() + head(3) + window_update(0, 1 << 20))
    for stream in (1, 3):
        connection.send_message(stream, b"x" * 40_000)
    connection.bytes_to_send()
    connection.receive(settings((4, 1 << 20), (5, 1 << 20)))
    frames = sent(connection)
    assert frames[0] == (SETTINGS, 1, 0, b"")
    assert [(f[0], f[2], len(f[3])) for f in frames[1:]] == [(DATA, 1, 39_995), (DATA, 3, 39_995)]


@pytest.mark.parametrize("wrong", [(2, 2), (5, 1), (4, 1 << 31)])
def test_settings_that_break_a_rule_let_nothing_out_and_are_not_acknowledged(wrong: tuple[int, int]):
    connection = starved(10)
    connection.receive(head() + window_update(0, 1 << 20))
    connection.send_message(1, b"x" * 100)
    connection.bytes_to_send()
    connection.receive(settings((4, 1 << 20), wrong))
    assert [f[0] for f in sent(connection)] == [GOAWAY]


def test_frames_are_no_larger_than_the_peer_takes():
    connection = greeted()
    connection.receive(head() + window_update(1, 1 << 20) + window_update(0, 1 << 20))
    connection.send_message(1, b"x" * 100_000)
    sizes = [len(f[3]) for f in sent(connection, DATA)]
    assert max(sizes) == 16_384 and sum(sizes) == 100_005
    connection.receive(settings((5, 1 << 20)))
    connection.send_message(1, b"x" * 100_000)
    assert [len(f[3]) for f in sent(connection, DATA)] == [100_005]


def test_a_large_reply_does_not_keep_others_waiting():
    connection = greeted()
    connection.receive(settings((4, 1 << 24)) + head(1) + head(3) + head(5))
    for stream, size in ((1, 1 << 20), (3, 1000), (5, 1000)):
        connection.send_message(stream, b"x" * size)
    connection.bytes_to_send()
    connection.receive(window_update(0, 50_000))
    assert {f[2] for f in sent(connection, DATA)} == {1, 3, 5}


def test_replies_of_one_call_keep_their_order_however_they_wait():
    connection = starved(7)
    connection.receive(head())
    for index in range(20):
        connection.send_message(1, bytes([index]) * index)
    got = body(connection)
    for _ in range(100):
        connection.receive(window_update(1, 3))
        got += body(connection)
    assert got == b"".join(message(bytes([i]) * i) for i in range(20))


def test_a_status_that_is_not_ok_does_not_wait_for_the_window():
    connection = starved()
    connection.receive(head(flags=5))
    connection.send_message(1, b"waiting")
    connection.finish(1, 14, "cut")
    frames = sent(connection)
    assert [f[0] for f in frames] == [HEADERS_FRAME, RST] and connection.buffered == 0


def test_windows_we_granted_come_back_in_batches():
    connection = greeted(Limits(stream_window=1000, connection_window=100_000))
    connection.receive(head())
    updates = []
    for _ in range(100):
        connection.receive(data(1, message(b"x" * 95)))
        updates += [f for f in sent(connection, WINDOW) if f[2] == 1]
    assert len(updates) == 20
    assert sum(int.from_bytes(f[3], "big") for f in updates) == 10_000


def test_an_overrun_of_a_streams_window_ends_the_stream():
    connection = greeted(Limits(stream_window=100, connection_window=100_000))
    connection.receive(head())
    (ended,) = connection.receive(data(1, b"\0\0\0\1\0" + b"x" * 96))
    assert isinstance(ended, CallEnded)
    assert rst_codes(connection) == {1: ErrorCode.FLOW_CONTROL_ERROR}


def test_an_overrun_of_the_connections_window_ends_the_connection():
    connection = greeted(Limits(stream_window=1 << 20, connection_window=65_535, frame=1 << 20))
    connection.receive(head())
    events = connection.receive(data(1, b"\0\0\1\0\0" + b"x" * 65_531))
    assert isinstance(events[-1], ConnectionFailed)
    assert goaway_code(connection) == ErrorCode.FLOW_CONTROL_ERROR


def test_bytes_for_ended_streams_do_not_eat_the_connections_window():
    connection = greeted(Limits(connection_window=70_000))
    connection.receive(head())
    connection.reset(1)
    connection.bytes_to_send()
    for _ in range(50):
        assert connection.receive(data(1, b"x" * 16_000)) == []
    given = sum(int.from_bytes(f[3], "big") for f in sent(connection, WINDOW) if f[2] == 0)
    assert given >= 50 * 16_000 - 35_000 and not connection.failed


def test_a_peer_that_leaves_replies_waiting_gets_no_new_window_until_it_takes_them():
    connection = starved(5, Limits(stream_window=1000, connection_window=100_000))
    connection.receive(head())
    connection.send_message(1, b"reply")
    connection.bytes_to_send()
    for _ in range(9):
        connection.receive(data(1, message(b"x" * 95)))
    assert [f for f in sent(connection, WINDOW) if f[2] == 1] == []
    connection.receive(window_update(1, 100))
    (update,) = sent(connection, WINDOW)
    assert update[2] == 1 and int.from_bytes(update[3], "big") == 900


def test_too_much_waiting_cuts_the_call_that_goes_beyond():
    connection = starved(0, Limits(unsent=1000))
    connection.receive(head(1) + head(3))
    assert connection.send_message(1, b"x" * 900)
    assert not connection.send_message(3, b"x" * 900)
    assert rst_codes(connection) == {3: ErrorCode.ENHANCE_YOUR_CALM}
    assert connection.buffered == 905


def test_a_message_of_16_mb_each_way():
    client = Client(Limits(message=1 << 25))
    client.call()
    large = bytes(range(256)) * (1 << 16)
    client.say(1, large)
    client.exchange()
    assert client.events[-1] == MessageReceived(1, large)
    client.server.send_message(1, large)
    client.exchange()
    assert client.bodies[1] == message(large) and client.server.buffered == 0
    assert not client.of(h2.events.ConnectionTerminated)


@given(
    replies=st.lists(st.integers(0, 400), max_size=12),
    initial=st.integers(0, 300),
    grants=st.lists(
        st.tuples(st.sampled_from(["stream", "connection", "initial"]), st.integers(1, 200)), max_size=40
    ),
)
@hypothesis_settings(deadline=None)
def test_never_a_byte_beyond_the_windows_and_never_one_out_of_order(replies, initial, grants):
    connection = starved(initial)
    connection.receive(head(flags=5))
    for index, size in enumerate(replies):
        connection.send_message(1, bytes([index]) * size)
    connection.finish(1)
    got, allowed = body(connection), initial
    for kind, amount in grants:
        assert len(got) <= max(allowed, 0) or len(got) <= allowed
        if connection.open_calls == 0:
            break
        if kind == "stream":
            connection.receive(window_update(1, amount))
            allowed += amount
        elif kind == "connection":
            connection.receive(window_update(0, amount))
        else:
            connection.receive(settings((4, initial + amount)))
            allowed += amount
            initial += amount
        got += body(connection)
        assert len(got) <= allowed
    whole = b"".join(message(bytes([i]) * n) for i, n in enumerate(replies))
    assert whole.startswith(got)
    if connection.open_calls:
        connection.receive(window_update(1, 10_000))
        assert got + body(connection) == whole
    assert connection.buffered == 0


class StrictPeer:
    """Calls an overrun whatever goes beyond the settings it has seen acknowledged (RFC 9113 section 6.5.3)."""

    def __init__(self) -> None:
        self.connection = starved(100)
        self.window, self.initial, self.frame = 65_535, 100, 16_384
        self.windows: dict[int, int] = {}
        self.got: dict[int, bytes] = {}
        self._unacknowledged: list[tuple[int, int]] = []

    def says(self, step: tuple[str, int, int]) -> bytes:
        """The bytes of one step; the connection has not read them yet."""
        kind, which, amount = step
        stream = 2 * (which % 4) + 1
        match kind:
            case "open" if 2 * len(self.windows) + 1 < 12:
                stream = 2 * len(self.windows) + 1
                self.windows[stream], self.got[stream] = self.initial, b""
                return head(stream)
            case "stream" if stream in self.windows:
                self.windows[stream] += amount
                return window_update(stream, amount)
            case "connection":
                self.window += amount
                return window_update(0, amount)
            case "initial":
                self._unacknowledged.append((4, amount))
                return settings((4, amount))
            case "frame":
                self._unacknowledged.append((5, 16_384 + amount))
                return settings((5, 16_384 + amount))
        return b""

    def hears(self) -> None:
        for kind, flags, stream, payload in sent(self.connection):
            if kind == SETTINGS and flags & 1:
                name, value = self._unacknowledged.pop(0)
                if name == 5:
                    self.frame = value
                else:
                    for each in self.windows:
                        self.windows[each] += value - self.initial
                    self.initial = value
            elif kind == DATA:
                assert len(payload) <= self.frame
                self.window -= len(payload)
                self.windows[stream] -= len(payload)
                assert self.window >= 0 and self.windows[stream] >= 0
                self.got[stream] += payload
        assert not self._unacknowledged


_STEPS = st.tuples(
    st.sampled_from(["open", "stream", "connection", "initial", "frame", "reply"]),
    st.integers(0, 5),
    st.one_of(st.integers(1, 300), st.integers(1, 70_000)),
)


@given(reads=st.lists(st.lists(_STEPS, min_size=1, max_size=4), max_size=30))
@hypothesis_settings(deadline=None)
def test_a_strict_peer_never_sees_its_settings_used_before_they_are_acknowledged(reads):
    peer = StrictPeer()
    said: dict[int, bytes] = {}
    for read in reads:
        peer.connection.receive(b"".join(peer.says(step) for step in read if step[0] != "reply"))
        for kind, which, size in read:
            stream = 2 * which + 1
            if kind == "reply" and stream in peer.windows:
                payload = bytes([which + 1]) * size
                peer.connection.send_message(stream, payload)
                said[stream] = said.get(stream, b"") + message(payload)
        peer.hears()
    for stream in peer.windows:
        assert said.get(stream, b"").startswith(peer.got[stream])
    peer.connection.receive(peer.says(("connection", 0, 1 << 28)))
    for stream in peer.windows:
        peer.windows[stream] += 1 << 28
        peer.connection.receive(window_update(stream, 1 << 28))
    peer.hears()
    assert peer.got == {stream: said.get(stream, b"") for stream in peer.windows}
