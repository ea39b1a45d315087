"""Event streams, echoes of the injected credential, upgrades and HTTP/2: what cannot be buffered is still governed."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Iterator

import h2.config
import h2.connection
import h2.events
import httpx2
import pytest

from extproc.demo.processes import connect
from tests.e2e.stack import API_KEY, Stack
from tests.support.raw_http import ReplyError, build_request
from tests.support.replies import Gate, Reply, coded_reply, json_reply, sse_reply, switching_reply
from tests.support.upstream import SeenRequest, echo_reply

pytestmark = pytest.mark.e2e
KEY = API_KEY.encode()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("streams"), target={"limits": {"response_body": "64KiB"}}) as stack:
        stack.upstream.on("GET", "/echo", echo_reply)
        yield stack


def plain(stack: Stack) -> str:
    return stack.token("paul", groups=["plain"])


# ---------------------------------------------------------------------- event streams


def test_an_event_is_seen_before_the_next_one_is_sent(stack: Stack):
    gate = Gate()
    stack.upstream.on("GET", "/events", sse_reply(gate))
    with stack.client() as client:
        client.send(stack.raw("GET", "/events", token=plain(stack)))
        head = client.read_head()
        assert (head.status, head.header("content-type")) == (200, "text/event-stream")
        for number in range(1, 6):
            gate.release(f"data: event {number}\n\n")
            assert f"data: event {number}\n\n".encode() in client.read_until(b"\n\n")
        gate.finish()
        client.read_until(b"0\r\n\r\n")
    outcome = stack.story("/events")["outcome"]
    assert (outcome["end"], outcome["response"]["inspected"]) == ("complete", "streamed")
    assert outcome["response"]["size"] == 5 * len("data: event 1\n\n")


def test_the_intent_is_written_before_the_stream_begins(stack: Stack):
    gate = Gate()
    stack.upstream.on("GET", "/early", sse_reply(gate))
    with stack.client() as client:
        client.send(stack.raw("GET", "/early", token=plain(stack)))
        client.read_head()
        (story,) = stack.stories("/early")
        assert story["intent"]["verdict"] == "allow" and "outcome" not in story
        gate.finish()


@pytest.mark.parametrize("cut", range(1, len(KEY) + 1, 3))
def test_a_credential_in_a_stream_is_masked_across_every_cut(stack: Stack, cut):
    gate = Gate()
    path = f"/leak/{cut}"
    stack.upstream.on("GET", path, sse_reply(gate))
    with stack.client() as client:
        client.send(stack.raw("GET", path, token=plain(stack)))
        client.read_head()
        gate.release(b"data: start\n\n")
        client.read_until(b"start\n\n")
        gate.release(b"data: " + KEY[:cut])
        gate.release(KEY[cut:] + b"\n\n")
        gate.finish()
        rest = client.read_until(b"0\r\n\r\n")
    text = rest.replace(b"\r\n", b"")
    assert KEY not in text and KEY[:cut] + KEY[cut:] not in text
    assert b"[CREDENTIAL]" in rest or b"CREDENTIAL" in text
    assert stack.story(path)["outcome"]["response"]["masked"] == {"LITERAL": 1}


def test_a_client_that_leaves_a_stream_is_recorded(stack: Stack):
    gate = Gate()
    stack.upstream.on("GET", "/left", sse_reply(gate))
    with stack.client() as client:
        client.send(stack.raw("GET", "/left", token=plain(stack)))
        client.read_head()
    outcome = stack.story("/left")["outcome"]
    assert (outcome["end"], outcome["executed"]) == ("aborted", True)
    gate.finish()


def test_an_upstream_that_breaks_a_stream_is_recorded(stack: Stack):
    gate = Gate()
    media = (("content-type", "text/event-stream"),)
    stack.upstream.on("GET", "/torn", Reply(200, media, framing="chunked", gate=gate, cut_after=12))
    with stack.client() as client:
        client.send(stack.raw("GET", "/torn", token=plain(stack)))
        client.read_head()
        gate.release(b"data: 1\n\n")
        client.read_until(b"data: 1\n\n")
        gate.release(b"data: 2\n\n")
        with pytest.raises(ReplyError):
            client.read_until(b"0\r\n\r\n")
    outcome = stack.story("/torn")["outcome"]
    assert (outcome["end"], outcome["executed"]) == ("aborted", True)


# ---------------------------------------------------------------------- echoes


@pytest.mark.parametrize("who", ["readers", "plain"])
def test_an_echoed_credential_is_masked_in_body_and_headers(stack: Stack, who):
    reply = stack.request("GET", "/echo", token=stack.token(groups=[who]))
    assert stack.upstream.last().header("x-api-key") == API_KEY
    assert reply.status == 200 and len(json.loads(reply.body)["headers"]) > 3
    assert KEY not in reply.body
    assert not any(API_KEY in value for _, value in reply.headers)
    assert reply.header("x-echo-x-api-key")


@pytest.mark.parametrize("coding", ["", "gzip", "deflate"])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("who", ["readers", "plain"])
def test_an_echo_is_masked_in_every_coding_and_framing(stack: Stack, who, framing, coding):
    path = f"/coded/{who}/{framing}/{coding}"
    body = b'{"key":"' + KEY + b'"}'
    if coding:
        stack.upstream.on("GET", path, coded_reply(body, coding, framing=framing))
    else:
        stack.upstream.on("GET", path, Reply(200, (("content-type", "application/json"),), body, framing))
    reply = stack.request(
        "GET", path, headers=[("accept-encoding", "gzip, deflate")], token=stack.token(groups=[who])
    )
    assert KEY not in unpacked(reply.body)
    assert (reply.status, reply.whole) == (200, True)
    assert b"CREDENTIAL" in unpacked(reply.body) or b"LITERAL" in unpacked(reply.body)


def unpacked(body: bytes) -> bytes:
    for undo in (gzip.decompress, zlib.decompress):
        try:
            return undo(body)
        except (OSError, zlib.error, EOFError):
            continue
    return body


@pytest.mark.parametrize("who", ["readers", "plain"])
def test_a_coded_event_stream_cannot_carry_the_credential_out(stack: Stack, who):
    """Nobody looks into a coded stream, so it may not pass where a credential could be in it."""
    path = f"/coded-events/{who}"
    stack.upstream.on(
        "GET",
        path,
        coded_reply(b"data: " + KEY + b"\n\n", "gzip", content_type="text/event-stream", framing="chunked"),
    )
    reply = stack.request("GET", path, headers=[("accept-encoding", "gzip")], token=stack.token(groups=[who]))
    assert KEY not in unpacked(reply.body)


@pytest.mark.parametrize("coding", ["", "gzip"])
def test_an_echo_in_a_body_over_the_limit_is_masked_or_withheld(stack: Stack, coding):
    path = f"/long/{coding}"
    body = b'{"a":"' + bytes(range(97, 123)) * 8000 + KEY + b'"}'
    if coding:  # long also when coded
        body = b'{"a":"' + "".join(f"{i * i * 7919:x}" for i in range(60000)).encode() + KEY + b'"}'
        stack.upstream.on("GET", path, coded_reply(body, coding))
    else:
        stack.upstream.on("GET", path, Reply(200, (("content-type", "application/json"),), body))
    reply = stack.request("GET", path, headers=[("accept-encoding", "gzip")], token=plain(stack))
    assert KEY not in unpacked(reply.body)
    if coding == "":
        assert (reply.status, reply.whole) == (200, True)
        assert reply.body == body.replace(KEY, b"[CREDENTIAL]")


def test_an_echo_in_an_error_or_redirect_is_masked(stack: Stack):
    for status in (302, 401, 500):
        path = f"/status/{status}"
        stack.upstream.on(
            "GET", path,
            json_reply({"key": API_KEY}, status=status, headers=[("location", f"/?key={API_KEY}"), ("x-k", API_KEY)]),
        )  # fmt: skip
        reply = stack.request("GET", path, token=plain(stack))
        assert reply.status == status
        assert KEY not in reply.body
        assert not any(API_KEY in value for _, value in reply.headers)


def test_nothing_that_is_kept_holds_the_credential(stack: Stack):
    assert not stack.is_kept(API_KEY)
    assert not stack.is_kept(base64.b64encode(KEY))


# ---------------------------------------------------------------------- upgrades

UPGRADE = [
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
]


def test_a_websocket_passes_and_is_recorded_as_opaque(stack: Stack):
    stack.upstream.on("GET", "/ws", switching_reply())
    with stack.client() as client:
        client.send(stack.raw("GET", "/ws", headers=UPGRADE, token=plain(stack)))
        head = client.read_head()
        assert head.status == 101
        for frame in (b"\x81\x05hello", b"\x82\x03\x00\x01\x02"):
            client.send(frame)
            assert client.read_until(frame) == frame
    story = stack.story("/ws")
    assert story["intent"]["verdict"] == "allow"
    assert story["outcome"]["response"] == {"code": 101, "inspected": "opaque"}
    assert stack.upstream.last().header("x-api-key") == API_KEY
    assert stack.upstream.last().header("authorization") is None


def test_a_websocket_that_owes_a_mask_is_refused(stack: Stack):
    before = stack.upstream.count()
    with stack.client() as client:
        reply = client.ask(stack.raw("GET", "/ws", headers=UPGRADE))
    assert (reply.status, reply.json()["code"]) == (403, "opaque-response")
    assert stack.upstream.count() == before


def test_a_websocket_without_a_token_is_refused(stack: Stack):
    before = stack.upstream.count()
    with stack.client() as client:
        assert client.ask(stack.raw("GET", "/ws", headers=UPGRADE, token=None)).status == 401
    assert stack.upstream.count() == before


def test_an_upgrade_that_is_answered_with_a_body_hides_nothing(stack: Stack):
    """Asking for an upgrade must not switch off what an ordinary answer goes through."""
    stack.upstream.on("GET", "/ws-echo", echo_reply)
    with stack.client() as client:
        try:
            reply = client.ask(stack.raw("GET", "/ws-echo", headers=UPGRADE, token=plain(stack)))
            seen = reply.body + repr(reply.headers).encode()
        except ReplyError as error:
            seen = error.received
    assert KEY not in seen


def test_an_upgrade_header_alone_changes_nothing(stack: Stack):
    for headers in ([("upgrade", "websocket")], [("upgrade", "h2c"), ("connection", "upgrade, http2-settings"),
                                                 ("http2-settings", "AAMAAABkAAQAAP__")]):  # fmt: skip
        reply = stack.request("GET", "/echo", headers=headers, token=plain(stack))
        assert KEY not in reply.body
        assert reply.status in (200, 400, 403)


def test_connect_is_not_a_way_through(stack: Stack):
    before = stack.upstream.count()
    with stack.client() as client:
        client.send(
            build_request("CONNECT", "api.example:443", [("authorization", f"Bearer {plain(stack)}")])
        )
        assert client.read_head().status >= 400
    assert stack.upstream.count() == before


# ---------------------------------------------------------------------- HTTP/2


def test_an_http2_client_is_governed_alike(stack: Stack):
    stack.upstream.on("GET", "/h2", json_reply({"email": "ann@example.com"}))
    base = f"http://{stack.address}"
    with httpx2.Client(http1=False, http2=True, base_url=base) as client:
        good = {"authorization": f"Bearer {stack.token()}"}
        reply = client.get("/h2", headers=good)
        assert (reply.http_version, reply.status_code) == ("HTTP/2", 200)
        assert reply.json() == {"email": "[EMAIL_ADDRESS]"}
        assert client.get("/h2").status_code == 401
        assert client.delete("/h2", headers=good).json()["code"] == "rule-denied"
        reply = client.post(
            "/notes", headers={"authorization": f"Bearer {stack.token(groups=['writers'])}"}, json={"a": 1}
        )
        assert reply.status_code == 200
        assert stack.upstream.last().body == b'{"a":1}'


class Http2Client:
    """Frames as a test wants them, also those no sane client sends."""

    def __init__(self, stack: Stack) -> None:
        self.socket = connect(f"{stack.address}", timeout=10.0)
        config = h2.config.H2Configuration(
            header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self._flush()

    def _flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def _receive(self) -> bytes:
        try:
            return self.socket.recv(65536)
        except ConnectionError:
            return b""

    def ask(
        self, headers: list[tuple[str, str]], body: bytes = b"", trailers: list[tuple[str, str]] | None = None
    ) -> tuple[int, bytes]:
        """(status, body); status 0 when the stream or connection is reset."""
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, headers, end_stream=not body and not trailers)
        if body:
            self.h2.send_data(stream, body, end_stream=not trailers)
        if trailers:
            self.h2.send_headers(stream, trailers, end_stream=True)
        self._flush()
        status, parts = 0, []
        while data := self._receive():
            for event in self.h2.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    status = int(dict(event.headers)[b":status"])
                elif isinstance(event, h2.events.DataReceived):
                    parts.append(event.data)
                    self.h2.acknowledge_received_data(event.flow_controlled_length, stream)
                elif isinstance(event, h2.events.StreamEnded):
                    return status, b"".join(parts)
                elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                    return 0, b""
            self._flush()
        return 0, b""

    def __enter__(self) -> Http2Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def h2_head(method: str, path: str, token: str, *more: tuple[str, str]) -> list[tuple[str, str]]:
    return [
        (":method", method), (":scheme", "http"), (":authority", "api.example"), (":path", path),
        ("authorization", f"Bearer {token}"), *more,
    ]  # fmt: skip


def test_trailers_of_an_http2_request_do_not_hide_its_body(stack: Stack):
    token = stack.token("wanda", groups=["writers"])
    with Http2Client(stack) as client:
        status, _ = client.ask(
            h2_head("POST", "/notes", token, ("content-type", "application/json")),
            b'{"a":1}',
            [("x-sum", "1")],
        )
    assert status == 200
    seen = stack.upstream.last()
    assert (seen.path, seen.body) == ("/notes", b'{"a":1}')


@pytest.mark.parametrize(
    "more",
    [
        [("upgrade", "websocket")],
        [("connection", "close")],
        [("transfer-encoding", "chunked")],
        [("host", "admin.internal")],
        [("Authorization", "Bearer x")],
        [("x-extproc-target", "another")],
        [(":path", "/secrets")],
        [("x-a", "1\r\nx-api-key: 2")],
    ],
    ids=lambda more: more[0][0],
)
def test_odd_http2_headers_never_reach_the_upstream(stack: Stack, more):
    before = stack.upstream.count()
    with Http2Client(stack) as client:
        status, _ = client.ask(h2_head("GET", "/h2-odd", stack.token(), *more))
    for seen in stack.upstream.requests[before:]:
        assert seen.header(more[0][0]) in (None, "api.example")
        assert seen.all("x-api-key") == [API_KEY]
    assert status in (0, 200, 400, 401, 403)


def test_an_http2_websocket_needs_to_be_allowed(stack: Stack):
    before = stack.upstream.count()
    with Http2Client(stack) as client:
        headers = [
            (":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":authority", "api.example"),
            (":path", "/ws"), ("authorization", f"Bearer {stack.token()}"),
        ]  # fmt: skip
        status, _ = client.ask(headers)
    assert status == 0 or status >= 400
    assert stack.upstream.count() == before


def test_something_that_looks_like_grpc_is_governed(stack: Stack):
    """Without a mask it streams through; with one it is withheld."""
    frame = b"\x00\x00\x00\x00\x05hello"

    def answer(seen: SeenRequest) -> Reply:
        return Reply(200, (("content-type", "application/grpc+proto"),), frame, "chunked")

    stack.upstream.on("GET", "/pkg.Service/Get", answer)
    reply = stack.request("GET", "/pkg.Service/Get", token=plain(stack))
    assert (reply.status, reply.body) == (200, frame)
    assert stack.request("GET", "/pkg.Service/Get").status == 502
