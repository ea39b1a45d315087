"""Messages are read by hand: whatever the bytes, the outcome is the general parser's."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from extproc.servers.asked import KINDS, Asked, read_asked
from extproc.servers.wire import ext_proc_pb2 as pb

SMALL = st.binary(max_size=20) | st.integers(100, 40_000).map(lambda size: b"v" * size)
PARTS = st.one_of(
    st.builds(
        lambda name, headers, end: {name: pb.HttpHeaders(headers=headers, end_of_stream=end)},
        st.sampled_from(["request_headers", "response_headers"]),
        SMALL,
        st.booleans(),
    ),
    st.builds(
        lambda name, body, end: {name: pb.HttpBody(body=body, end_of_stream=end)},
        st.sampled_from(["request_body", "response_body"]),
        SMALL,
        st.booleans(),
    ),
    st.builds(
        lambda name, trailers: {name: pb.HttpTrailers(trailers=trailers)},
        st.sampled_from(["request_trailers", "response_trailers"]),
        SMALL,
    ),
    st.just({}),
)
MESSAGES = st.builds(
    lambda part, attributes, metadata, config, observes: pb.Asked(
        **part,
        attributes=attributes,
        metadata_context=metadata,
        observability_mode=observes,
        **({} if config is None else {"protocol_config": config}),
    ).SerializeToString(),
    PARTS,
    st.lists(SMALL, max_size=3),
    SMALL,
    st.none() | SMALL,
    st.booleans(),
)


FIELDS = (
    "attributes",
    "content",
    "end_of_stream",
    "kind",
    "metadata_context",
    "observability_mode",
    "protocol_config",
)


def said(asked: Asked) -> tuple[object, ...]:
    return tuple(getattr(asked, name) for name in FIELDS)


@pytest.mark.pure_only("a compiled class has no __slots__")
def test_every_field_is_compared():
    assert sorted(Asked.__slots__) == list(FIELDS)


def by_parser(data: bytes) -> tuple[object, ...]:
    message = pb.Asked.FromString(data)
    asked = Asked()
    asked.kind = message.WhichOneof("request") or ""
    asked.metadata_context, asked.attributes = message.metadata_context, list(message.attributes)
    asked.observability_mode = message.observability_mode
    asked.protocol_config = message.protocol_config if message.HasField("protocol_config") else None
    match asked.kind:
        case "request_headers" | "response_headers":
            part = getattr(message, asked.kind)
            asked.content, asked.end_of_stream = part.headers, part.end_of_stream
        case "request_body" | "response_body":
            part = getattr(message, asked.kind)
            asked.content, asked.end_of_stream = part.body, part.end_of_stream
        case "request_trailers" | "response_trailers":
            asked.content = getattr(message, asked.kind).trailers
    return said(asked)


def same(data: bytes) -> None:
    try:
        wanted = by_parser(data)
    except DecodeError:
        with pytest.raises(DecodeError):
            read_asked(data)
    else:
        assert said(read_asked(data)) == wanted


def test_the_parts_are_found_by_their_numbers():
    fields = pb.Asked.DESCRIPTOR.fields_by_name
    assert [fields[name].number for name in KINDS if name] == [2, 3, 4, 5, 6, 7]


@given(MESSAGES)
@example(b"")
@example(pb.Asked(response_body=pb.HttpBody(body=b"v" * 300_000, end_of_stream=True)).SerializeToString())
def test_any_message_is_read_as_the_parser_reads_it(data: bytes):
    same(data)


@given(MESSAGES, st.data())
def test_a_message_that_is_cut_or_altered_is_read_as_the_parser_reads_it(data: bytes, draw: st.DataObject):
    at = draw.draw(st.integers(0, min(len(data), 400)))
    same(data[:at])
    if at < len(data):
        same(data[:at] + bytes((draw.draw(st.integers(0, 255)),)) + data[at + 1 :])


@given(MESSAGES, MESSAGES)
def test_of_parts_that_come_twice_the_parser_decides(first: bytes, second: bytes):
    same(first + second)


PIECES = st.sampled_from(
    [b"\x12", b"\x1a", b"\x22", b"\x2a", b"\x32", b"\x42", b"\x4a", b"\x50", b"\x5a", b"\x0a", b"\x18", b"\x10",
     b"\x80", b"\x01", b"\x02", b"\x04", b"a"]
)  # fmt: skip


@given(st.binary(max_size=60) | st.lists(PIECES, max_size=24).map(b"".join))
def test_any_bytes_are_read_as_the_parser_reads_them(data: bytes):
    same(data)
