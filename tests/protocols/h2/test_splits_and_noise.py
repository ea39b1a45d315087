"""Where the network cuts makes no difference, and any bytes at all give events or a clean end."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from extproc.protocols.h2 import CallStarted, Connection, ConnectionFailed, Limits, MessageReceived
from tests.protocols.h2.support import (
    BLOCK,
    CONTINUATION,
    PING,
    PREFACE,
    ack,
    data,
    frame,
    frames_in,
    head,
    message,
    rst,
    settings,
    window_update,
)

CONVERSATION = (
    PREFACE
    + settings((4, 70_000), (5, 20_000))
    + ack()
    + window_update(0, 1000)
    + head(1)
    + data(1, message(b"first") + message(b"")[:3])
    + head(3, flags=0, headers=BLOCK[:40])
    + frame(CONTINUATION, 4, 3, BLOCK[40:])
    + data(1, message(b"")[3:] + message(b"second"))
    + frame(PING, 0, 0, b"12345678")
    + frame(0, 9, 3, b"\x02" + message(b"padded") + b"\0\0")
    + frame(0x42, 0, 1, b"unknown")
    + rst(3)
    + head(5, flags=5)
    + head(1, flags=5, headers=b"\x00\x01t\x01r")
)


def played(parts: list[bytes]) -> tuple[list[Any], bytes]:
    connection = Connection()
    events, output = [], b""
    for part in parts:
        for event in connection.receive(part):
            shown = (event.stream_id, event.head.path) if isinstance(event, CallStarted) else event
            events.append(shown)
            if isinstance(event, MessageReceived):
                connection.send_message(event.stream_id, event.data + b"!")
        output += connection.bytes_to_send()
    assert connection.buffered == 0 and not connection.failed
    return events, output


def said(output: bytes) -> bytes:
    """The replies on stream 1; whether one on stream 3 leaves depends on when its reset comes."""
    return b"".join(f[3] for f in frames_in(output) if f[0] == 0 and f[2] == 1)


WHOLE = played([CONVERSATION])


def test_the_conversation_says_what_it_should():
    events, _ = WHOLE
    assert [e.data for e in events if isinstance(e, MessageReceived)] == [b"first", b"", b"second", b"padded"]
    assert len(events) == 11


def test_cut_anywhere_in_two():
    for cut in range(1, len(CONVERSATION)):
        events, output = played([CONVERSATION[:cut], CONVERSATION[cut:]])
        assert events == WHOLE[0]
        assert said(output) == said(WHOLE[1])


def test_byte_by_byte():
    events, _ = played([CONVERSATION[i : i + 1] for i in range(len(CONVERSATION))])
    assert events == WHOLE[0]


@given(cuts=st.lists(st.integers(0, len(CONVERSATION)), max_size=30))
@hypothesis_settings(deadline=None)
def test_cut_anywhere_at_all(cuts):
    edges = [0, *sorted(cuts), len(CONVERSATION)]
    events, _ = played([CONVERSATION[a:b] for a, b in pairwise(edges)])
    assert events == WHOLE[0]


# ---------------------------------------------------------------------- noise

SMALL = Limits(
    streams=20, message=2000, stream_window=4000, connection_window=70_000, header_list=1000, header_block=500,
    header_flood=2000, continuations=5, unfinished=6000, unsent=6000,
)  # fmt: skip
BOUND = 16_384 + 9 + 500 + 6000 + 2005 + 6000 + 2005 + 70_000

noise = st.binary(max_size=300)
noisy_frames = st.builds(
    frame,
    st.one_of(st.integers(0, 9), st.integers(0, 255)),
    st.integers(0, 255),
    st.one_of(st.integers(0, 9), st.integers(0, 2**32 - 1)),
    st.one_of(
        noise,
        st.sampled_from(
            [b"", BLOCK, b"\0" * 4, b"\0" * 5, b"\0" * 8, b"\0\0\0\1", message(b"hello"), b"\x20"]
        ),
        st.builds(lambda size: b"\0\0\0" + size.to_bytes(2, "big") + b"m" * 200, st.integers(0, 3000)),
    ),
)
polite_frames = st.one_of(
    st.builds(head, st.sampled_from([1, 3, 5, 7, 9]), st.sampled_from([4, 5])),
    st.builds(lambda s, d, e: data(s, d, end=e), st.sampled_from([1, 3, 5]), noise, st.booleans()),
    st.builds(lambda s, d, e: data(s, message(d), end=e), st.sampled_from([1, 3, 5]), noise, st.booleans()),
    st.builds(window_update, st.sampled_from([0, 1, 3]), st.integers(0, 2**31 - 1)),
    st.builds(rst, st.sampled_from([1, 3, 5])),
    st.builds(lambda n, v: settings((n, v)), st.integers(1, 7), st.integers(0, 2**32 - 1)),
)


def survives(chunks: list[bytes]) -> Connection:
    """Feed them, answering every message as a server does; check what must always hold."""
    connection = Connection(SMALL)
    open_calls: set[int] = set()
    for chunk in chunks:
        for event in connection.receive(chunk):
            if isinstance(event, CallStarted):
                assert event.stream_id not in open_calls
                open_calls.add(event.stream_id)
            elif isinstance(event, MessageReceived):
                assert event.stream_id in open_calls and len(event.data) <= SMALL.message
                connection.send_message(event.stream_id, event.data)
            elif isinstance(event, ConnectionFailed):
                assert connection.failed
            else:
                assert event.stream_id in open_calls
                if type(event).__name__ == "CallEnded":
                    open_calls.discard(event.stream_id)
                elif len(open_calls) % 2:
                    connection.finish(event.stream_id)
                else:
                    connection.finish(event.stream_id, 14, "enough")
        assert connection.buffered <= BOUND
        assert connection.open_calls <= SMALL.streams
        frames_in(connection.bytes_to_send())  # what we send is whole frames, always
    return connection


@given(st.lists(noise, max_size=10))
@hypothesis_settings(deadline=None, max_examples=200)
def test_any_bytes(chunks):
    survives(chunks)


@given(st.lists(noise, max_size=10))
@hypothesis_settings(deadline=None, max_examples=300)
def test_any_bytes_after_the_preface(chunks):
    survives([PREFACE + settings() + ack(), *chunks])


@given(st.booleans(), st.lists(st.one_of(noisy_frames, polite_frames), max_size=40))
@hypothesis_settings(deadline=None, max_examples=500, suppress_health_check=[HealthCheck.too_slow])
def test_any_frames(settled, frames):
    survives([PREFACE + settings() + (ack() if settled else b""), *frames])


@given(st.lists(polite_frames, max_size=60))
@hypothesis_settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_any_order_of_frames_that_are_well_formed(frames):
    survives([PREFACE + settings() + ack(), *frames])


@given(st.binary(max_size=120), st.booleans())
@hypothesis_settings(deadline=None, max_examples=600)
def test_any_header_block(block, settled):
    connection = Connection(SMALL)
    connection.receive(PREFACE + settings() + (ack() + head(1) if settled else b""))
    events = connection.receive(head(3, headers=block))
    assert len(events) <= 1


@given(st.binary(max_size=60))
@hypothesis_settings(deadline=None, max_examples=600)
def test_field_by_field_reads_what_the_library_reads(tail):
    """The cache splits blocks itself; the library alone decides what they mean."""
    import hpack

    library = hpack.Decoder(max_header_list_size=1 << 16)
    library.max_allowed_table_size = 0
    library.header_table_size = 0
    block = BLOCK + tail
    try:
        expected = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in library.decode(block, raw=True)]
    except Exception:
        expected = None
    from extproc.protocols.h2.decoder import CompressionError, HeaderDecoder
    from extproc.protocols.h2.head import MalformedError

    decoder = HeaderDecoder(1 << 16)
    decoder.forbid_table()
    decoder.fields(b"\x20")
    try:
        for _ in range(2):  # the second time from the cache
            assert decoder.fields(block) == expected
    except CompressionError:
        assert expected is None or b"\x20" in tail
    except MalformedError:
        assert expected is not None
