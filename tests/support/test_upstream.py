"""The test upstream shows what arrived and sends what it was told, and the raw client reads it as sent."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator

import pytest

from tests.support.raw_http import RawClient, ReplyError, ask, build_request, chunked
from tests.support.replies import (
    Gate,
    Reply,
    chunked_reply,
    coded_reply,
    huge_reply,
    json_reply,
    sse_reply,
    switching_reply,
    text_reply,
)
from tests.support.upstream import Upstream, echo_reply, echoed


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


def get(upstream: Upstream, path: str = "/x"):
    return ask(upstream.address, build_request("GET", path))


def test_a_request_is_kept_byte_for_byte(upstream: Upstream):
    request = build_request(
        "PoST", "/a//%2e;x?q=\xff", [("X-Twice", "1"), ("x-twice", " 2 "), ("X-Twice", "")], b"\x00body"
    )
    ask(upstream.address, request)
    seen = upstream.last()
    assert (seen.method, seen.target, seen.version) == ("PoST", "/a//%2e;x?q=\xff", "HTTP/1.1")
    assert seen.all("X-TWICE") == ["1", "2", ""]
    assert [name for name, _ in seen.headers] == ["Host", "X-Twice", "x-twice", "X-Twice", "Content-Length"]
    assert seen.body == b"\x00body"
    assert request.startswith(seen.raw_head)


def test_a_chunked_request_is_joined_and_its_trailers_kept(upstream: Upstream):
    head = build_request("POST", "/x", [("Transfer-Encoding", "chunked")])
    ask(upstream.address, head + chunked(b"ab", b"c" * 40, trailers=[("X-Sum", "1")]))
    assert upstream.last().body == b"ab" + b"c" * 40
    assert upstream.last().trailers == (("X-Sum", "1"),)


@pytest.mark.parametrize(
    "request_bytes",
    [b"GET /x HTTP/1.1\nHost: a\n\n", b"\r\nGET /x HTTP/1.1\r\nHost : a\r\nX: 1\r\n 2\r\n\r\n"],
    ids=["bare-lf", "space-before-colon-and-fold"],
)
def test_careless_framing_is_accepted(upstream: Upstream, request_bytes: bytes):
    assert ask(upstream.address, request_bytes).status == 200
    assert upstream.last().header("host") == "a"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET /x HTTP/9.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_request_is_answered_with_400_and_noted(upstream: Upstream, request_bytes: bytes):
    assert ask(upstream.address, request_bytes).status == 400
    assert (len(upstream.malformed), upstream.requests) == (1, [])


def test_one_connection_carries_many_requests(upstream: Upstream):
    with RawClient(upstream.address) as client:
        for path in ("/a", "/b", "/a"):
            client.ask(build_request("GET", path))
    assert (upstream.count("GET", "/a"), upstream.count(path="/b"), upstream.count()) == (2, 1, 3)
    assert upstream.connections == 1
    assert [seen.number for seen in upstream.wait_for(3)] == [1, 2, 3]
    upstream.forget()
    get(upstream)
    assert upstream.last().number == 4


def test_a_request_that_never_ends_does_not_count(upstream: Upstream):
    with RawClient(upstream.address) as client:
        client.send(b"POST /x HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc")
        client.reset()
    upstream.wait_for_no_connections()
    assert upstream.requests == []
    with pytest.raises(AssertionError, match="0 of 1 requests"):
        upstream.wait_for(1, within=0)


@pytest.mark.parametrize(
    ("coding", "unpack"),
    [
        ("gzip", gzip.decompress),
        ("deflate", zlib.decompress),
        ("raw-deflate", lambda data: zlib.decompress(data, -15)),
        ("gzip-twice", lambda data: gzip.decompress(gzip.decompress(data))),
        ("br", bytes),
    ],
)
def test_content_codings_are_what_they_say(upstream: Upstream, coding: str, unpack):
    upstream.on("GET", "/x", coded_reply(b'{"a": 1}', coding))
    reply = get(upstream)
    assert unpack(reply.body) == b'{"a": 1}'
    label = {"raw-deflate": "deflate", "gzip-twice": "gzip, gzip"}.get(coding, coding)
    assert reply.header("content-encoding") == label


def test_chunks_trailers_and_huge_bodies_arrive_whole(upstream: Upstream):
    upstream.on("GET", "/c", chunked_reply([b'{"a"', b": 1}"], trailers=[("x-sum", "7")]))
    upstream.on("GET", "/h", huge_reply(3_000_001))
    reply = get(upstream, "/c")
    assert (reply.json(), reply.trailers) == ({"a": 1}, (("x-sum", "7"),))
    huge = get(upstream, "/h")
    assert len(huge.body) == 3_000_001
    assert set(json.loads(huge.body)["a"]) == {"x"}


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_sends_none(upstream: Upstream, status: int):
    upstream.on("GET", "/x", Reply(status))
    with RawClient(upstream.address) as client:
        assert client.ask(build_request("GET", "/x")).body == b""
        assert client.ask(build_request("GET", "/y")).status == 200


def test_head_gets_the_headers_alone(upstream: Upstream):
    with RawClient(upstream.address) as client:
        reply = client.ask(build_request("HEAD", "/x"), head_only=True)
        assert (reply.header("content-length"), reply.body) == ("12", b"")
        assert client.ask(build_request("GET", "/x")).json() == {"ok": True}


def test_informational_replies_come_first(upstream: Upstream):
    upstream.on("GET", "/x", Reply(informational=((103, (("link", "</a>"),)),), body=b"ok"))
    assert get(upstream).informational == (103,)
    expecting = build_request("POST", "/y", [("Expect", "100-continue")], b"1")
    assert ask(upstream.address, expecting).informational == (100,)


def test_a_cut_body_is_seen_as_cut(upstream: Upstream):
    upstream.on("GET", "/x", Reply(body=b"0123456789", cut_after=4))
    upstream.on("GET", "/c", chunked_reply([b"0123456789"], cut_after=4))
    for path in ("/x", "/c"):
        with RawClient(upstream.address) as client:
            client.send(build_request("GET", path))
            reply = client.read(partial=True)
        assert (reply.whole, reply.body) == (False, b"0123")
    with pytest.raises(ReplyError, match="cut off"):
        get(upstream)


def test_a_body_may_run_until_the_connection_closes(upstream: Upstream):
    upstream.on("GET", "/x", Reply(body=b"to the end", framing="close"))
    reply = get(upstream)
    assert (reply.body, reply.header("content-length")) == (b"to the end", None)


def test_events_flow_only_when_released(upstream: Upstream):
    gate = Gate()
    upstream.on("GET", "/events", sse_reply(gate))
    with RawClient(upstream.address) as client:
        client.send(build_request("GET", "/events"))
        assert client.read_head().header("content-type") == "text/event-stream"
        assert gate.reached.wait(5)
        gate.release("data: one\n\n")
        assert b"data: one\n\n" in client.read_until(b"\n\n\r\n")
        gate.release("data: two\n\n")
        assert b"data: two\n\n" in client.read_until(b"\n\n\r\n")
        gate.finish()
        client.read_until(b"0\r\n\r\n")


def test_a_held_reply_waits_for_its_gate(upstream: Upstream):
    gate = Gate()
    upstream.on("GET", "/x", Reply(body=b"late", hold=gate))
    with RawClient(upstream.address) as client:
        client.send(build_request("GET", "/x"))
        assert gate.reached.wait(5)
        assert upstream.count() == 1
        gate.release()
        assert client.read().body == b"late"


def test_an_upgrade_turns_into_an_echo(upstream: Upstream):
    upstream.on("GET", "/ws", switching_reply())
    with RawClient(upstream.address) as client:
        upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
        assert client.ask(build_request("GET", "/ws", upgrade)).status == 101
        client.send(b"ping")
        assert client.read_until(b"ping") == b"ping"


def test_the_echo_gives_credentials_away():
    with Upstream(echo_reply) as upstream:
        reply = ask(upstream.address, build_request("GET", "/x", [("X-Api-Key", "k1")]))
    assert echoed(reply.body)["x-api-key"] == "k1"
    assert reply.header("x-echo-x-api-key") == "k1"


def test_a_route_may_compute_its_reply(upstream: Upstream):
    upstream.on("*", "/n", lambda seen: json_reply({"number": seen.number}, status=202))
    upstream.on("GET", "/t", text_reply("hé"))
    assert ask(upstream.address, build_request("PUT", "/n", body=b"")).json() == {"number": 1}
    assert get(upstream, "/t").body == "hé".encode()


def test_stopping_closes_what_is_open():
    upstream = Upstream().start()
    gate = Gate()
    upstream.on("GET", "/x", Reply(hold=gate))
    with RawClient(upstream.address) as client:
        client.send(build_request("GET", "/x"))
        assert gate.reached.wait(5)
        upstream.stop()
        assert client.is_closed()
