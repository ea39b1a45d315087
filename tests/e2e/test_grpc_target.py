"""A gRPC service behind Envoy: its messages arrive whole, its trailers are looked at like its headers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from tests.e2e.stack import API_KEY, Stack

pytestmark = pytest.mark.e2e

POLICY = """\
apiVersion: extproc/v1
kind: Policy
metadata: {name: calls}
target: customers-api
default: deny
rules:
  - name: calls
    when: request.method == "POST" && request.url_path.startsWith("/pkg.Echo/")
    then: {allow: {}}
"""


class Echo(grpc.GenericRpcHandler):
    """Says what it is told, and its caller's credential where it can."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def service(self, details: Any) -> Any:
        name = details.method.rpartition("/")[2]
        if name == "Stream":
            return grpc.unary_stream_rpc_method_handler(self.stream)
        return grpc.unary_unary_rpc_method_handler(
            {"Unary": self.unary, "Leak": self.leak, "Fail": self.fail}[name],
        )

    def _note(self, context: Any) -> str:
        metadata = dict(context.invocation_metadata())
        self.seen.append(metadata)
        return str(metadata.get("x-api-key", ""))

    def unary(self, request: bytes, context: Any) -> bytes:
        self._note(context)
        return request

    def leak(self, request: bytes, context: Any) -> bytes:
        key = self._note(context)
        context.set_trailing_metadata((("x-echo", f"key={key}"), ("x-plain", "stays")))
        return request + key.encode() + request

    def fail(self, request: bytes, context: Any) -> bytes:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"no use for {self._note(context)}")
        return b""

    def stream(self, request: bytes, context: Any) -> Iterator[bytes]:
        key = self._note(context)
        for number in range(5):
            yield b"%d %b %b" % (number, request, key.encode() if number == 3 else b"ups")


@pytest.fixture(scope="module")
def echo() -> Iterator[tuple[Echo, str]]:
    handler = Echo()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield handler, f"127.0.0.1:{port}"
    server.stop(0).wait(5)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, echo: tuple[Echo, str]) -> Iterator[Stack]:
    upstream = {"address": echo[1], "tls": "off", "protocol": "http2"}
    with Stack(
        tmp_path_factory.mktemp("grpc"),
        policy=POLICY,
        upstream_address=echo[1],
        target={"upstream": upstream},
    ) as stack:
        yield stack


@pytest.fixture
def channel(stack: Stack) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(stack.address) as channel:
        yield channel


def proof(stack: Stack) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {stack.token()}"),)


def outcomes(stack: Stack, method: str) -> list[dict[str, Any]]:
    return [story["outcome"] for story in stack.stories(f"/pkg.Echo/{method}") if "outcome" in story]


def test_a_message_arrives_whole_whatever_it_ends_with(stack: Stack, channel: grpc.Channel):
    """Also when its end could begin the credential: no more can follow a message that is complete."""
    call: Any = channel.unary_unary("/pkg.Echo/Unary")
    for size in range(len(API_KEY)):
        message = b"text " + API_KEY[:size].encode()
        assert call(message, metadata=proof(stack), timeout=20) == message
    large = b"x" * (1 << 19) + API_KEY[:7].encode()
    assert call(large, metadata=proof(stack), timeout=20) == large
    assert {(o["end"], o["executed"]) for o in outcomes(stack, "Unary")} == {("complete", True)}


def test_an_echoed_credential_leaves_the_message_its_length(stack: Stack, channel: grpc.Channel):
    call: Any = channel.unary_unary("/pkg.Echo/Leak")
    reply, ended = call.with_call(b"ab", metadata=proof(stack), timeout=20)
    assert reply == b"ab" + b"*" * len(API_KEY) + b"ab"
    trailers = dict(ended.trailing_metadata())
    assert API_KEY not in trailers["x-echo"] and trailers["x-echo"].startswith("key=")
    assert trailers["x-plain"] == "stays"
    (outcome,) = outcomes(stack, "Leak")
    assert (outcome["end"], outcome["response"]["masked"]) == ("complete", {"LITERAL": 2})


def test_an_error_text_in_trailers_is_masked(stack: Stack, channel: grpc.Channel):
    call: Any = channel.unary_unary("/pkg.Echo/Fail")
    with pytest.raises(grpc.RpcError) as failed:
        call(b"x", metadata=proof(stack), timeout=20)
    error: Any = failed.value
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.details().startswith("no use for ") and API_KEY not in error.details()


def test_a_stream_of_messages_arrives_in_full(stack: Stack, channel: grpc.Channel):
    call: Any = channel.unary_stream("/pkg.Echo/Stream")
    got = list(call(b"x", metadata=proof(stack), timeout=20))
    assert got[:3] == [b"0 x ups", b"1 x ups", b"2 x ups"] and got[4] == b"4 x ups"
    assert got[3] == b"3 x " + b"*" * len(API_KEY)


def test_compression_is_negotiated_off(stack: Stack, channel: grpc.Channel, echo: tuple[Echo, str]):
    """Nobody looks into a compressed message, so the service is not told that it may send one."""
    call: Any = channel.unary_unary("/pkg.Echo/Unary")
    assert call(b"x" * 5000, metadata=proof(stack), timeout=20) == b"x" * 5000
    assert API_KEY not in str(stack.records())
    assert echo[0].seen[-1]["x-api-key"] == API_KEY
    assert "authorization" not in echo[0].seen[-1]


def test_a_call_without_a_token_reaches_nobody(stack: Stack, channel: grpc.Channel, echo: tuple[Echo, str]):
    before = len(echo[0].seen)
    call: Any = channel.unary_unary("/pkg.Echo/Unary")
    with pytest.raises(grpc.RpcError) as refused:
        call(b"x", timeout=20)
    error: Any = refused.value
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert len(echo[0].seen) == before
