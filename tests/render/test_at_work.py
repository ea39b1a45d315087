"""A rendered configuration in a real Envoy: what it lets through, and what it does when we fail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from extproc.config import parse_config
from extproc.render.bootstrap import envoy_config
from extproc.servers.header_map import read_header_map
from extproc.servers.wire import ext_proc_pb2 as pb
from tests.render.scripted import Answer, ScriptedProcessor, going_on
from tests.support.envoy import Envoy, ReplyError, ask, build_request, envoy_is_here
from tests.support.replies import Reply, json_reply
from tests.support.upstream import Upstream

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not envoy_is_here(), reason="no Envoy binary")]

MODES = {
    "none": pb.ProcessingMode.NONE,
    "streamed": pb.ProcessingMode.STREAMED,
    "buffered": pb.ProcessingMode.BUFFERED,
}
POST = build_request("POST", "/v1/x", [("content-type", "text/plain")], b"hello")


@contextmanager
def standing(answer: Answer, *, more: str = "") -> Iterator[tuple[str, ScriptedProcessor, Upstream, Envoy]]:
    """Envoy as rendered, a scripted processor behind it, an upstream; yields Envoy's address first."""
    with TemporaryDirectory(prefix="xp-") as short, Upstream() as upstream:
        folder = Path(short)
        settings = parse_config(
            f"""
apiVersion: extproc/v1
kind: Config
processor: {{listen: "unix:processor.sock"}}
listeners:
  - name: http
    address: "127.0.0.1:1"
    routes: [{{path: /only, target: other}}, {{prefix: /v1, target: api}}]
targets:
  - {{name: api, upstream: {{address: "{upstream.address}", tls: off}}}}
  - {{name: other, upstream: {{address: "{upstream.address}", tls: off}}}}
identity:
  providers: [{{name: a, issuer: "https://issuer.example", audiences: [api], keys: {{discovery: true}}}}]
envoy: {{admin: "unix:admin.sock"}}
{more}""",
            base=folder,
        )
        config = envoy_config(settings)
        # The only change: any free port.
        config["static_resources"]["listeners"][0]["address"]["socket_address"]["port_value"] = 0
        with (
            ScriptedProcessor(folder / "processor.sock", answer) as processor,
            Envoy(config, directory=folder) as envoy,
        ):
            yield envoy.address("http"), processor, upstream, envoy


def test_a_request_passes_with_its_target_and_both_bodies_inspected():
    with standing(going_on) as (address, processor, _upstream, _envoy):
        reply = ask(address, POST)
        assert reply.status == 200
        assert processor.kinds() == ["request_headers", "request_body", "response_headers", "response_body"]
        assert processor.metadata("x-extproc-target") == ["api"]
        assert processor.metadata("x-extproc-listener") == ["http"]
        attributes = processor.calls[-1][1][0].attributes["envoy.filters.http.ext_proc"].fields
        assert attributes["xds.route_name"].string_value == "http/1/api"
        assert attributes["connection.mtls"].bool_value is False
        assert attributes["source.address"].string_value.startswith("127.0.0.1:")


def test_each_route_names_its_own_target_and_no_route_names_none():
    with standing(going_on) as (address, processor, upstream, _):
        ask(address, build_request("GET", "/only"))
        assert processor.metadata("x-extproc-target") == ["other"]
        assert ask(address, build_request("GET", "/v10/x")).status == 404
        assert processor.metadata("x-extproc-target") == []
        assert len(upstream.requests) == 1


def test_a_client_cannot_name_the_target():
    with standing(going_on) as (address, processor, upstream, _):
        ask(
            address,
            build_request("GET", "/v1/x", [("x-extproc-target", "other"), ("X-Extproc-Listener", "z")]),
        )
        assert processor.metadata("x-extproc-target") == ["api"]
        assert upstream.last().header("x-extproc-target") is None


@pytest.mark.parametrize("request_mode", ["none", "buffered"])
@pytest.mark.parametrize("response_mode", ["none", "streamed", "buffered"])
def test_every_lowering_takes_effect(request_mode: str, response_mode: str):
    def answer(message: pb.ProcessingRequest) -> pb.ProcessingResponse:
        return going_on(message, modes=(MODES[request_mode], MODES[response_mode]))

    with standing(answer) as (address, processor, _, _envoy):
        assert ask(address, POST).status == 200
        kinds = processor.kinds()
        assert ("request_body" in kinds) == (request_mode != "none")
        assert ("response_body" in kinds) == (response_mode != "none")


@pytest.mark.parametrize("response_mode", ["none", "streamed"])
def test_the_response_can_still_be_lowered_when_its_headers_are_known(response_mode: str):
    def answer(message: pb.ProcessingRequest) -> pb.ProcessingResponse:
        if message.HasField("response_headers"):
            return going_on(message, modes=(MODES["buffered"], MODES[response_mode]))
        return going_on(message)

    with standing(answer) as (address, processor, _, _envoy):
        assert ask(address, POST).status == 200
        assert ("response_body" in processor.kinds()) == (response_mode != "none")


def test_a_stream_that_ends_before_an_answer_lets_nothing_through():
    with standing(lambda _: None) as (address, _processor, upstream, _envoy):
        assert ask(address, POST).status == 403
        assert upstream.requests == []


def test_only_the_verdict_allow_goes_on():
    with standing(lambda message: going_on(message, verdict="deny")) as (
        address,
        _processor,
        upstream,
        _envoy,
    ):
        assert ask(address, POST).status == 403
        assert upstream.requests == []


def test_without_a_processor_everything_is_refused():
    with standing(going_on) as (address, processor, upstream, _envoy):
        processor.__exit__()
        assert ask(address, POST).status in (500, 503)
        assert upstream.requests == []


def test_a_mutation_that_may_not_be_made_is_an_error_and_not_silently_dropped():
    with standing(lambda message: going_on(message, remove=(b"host",))) as (address, _p, upstream, _envoy):
        assert ask(address, POST).status >= 500
        assert upstream.requests == []


@pytest.mark.parametrize(
    "headers",
    [
        [("x-envoy-retry-on", "5xx"), ("x-envoy-max-retries", "5")],
        [("x-envoy-retry-grpc-on", "internal"), ("x-envoy-retry-on", "gateway-error,retriable-4xx")],
        [("x-envoy-hedge-on-per-try-timeout", "true"), ("x-envoy-upstream-rq-per-try-timeout-ms", "1")],
    ],
    ids=["retry", "retry-gateway", "hedge"],
)
def test_a_client_cannot_make_a_request_run_twice(headers: list[tuple[str, str]]):
    with standing(going_on) as (address, _processor, upstream, _envoy):
        upstream.on("POST", "/v1/x", json_reply({"no": 1}, status=503))
        assert ask(address, build_request("POST", "/v1/x", headers, b"hello")).status == 503
        assert len(upstream.requests) == 1


STRICT: dict[str, bytes] = {
    "absolute form": b"GET http://other.example/v1/x HTTP/1.1\r\nhost: a\r\n\r\n",
    "escaped slash": b"GET /v1/a%2fb HTTP/1.1\r\nhost: a\r\n\r\n",
    "underscore in a name": b"GET /v1/x HTTP/1.1\r\nhost: a\r\nx_a: 1\r\n\r\n",
    "length and chunks": b"POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n"
    b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.0": b"GET /v1/x HTTP/1.0\r\nhost: a\r\n\r\n",
    "two lengths": b"POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "fragment": b"GET /v1/x#/admin HTTP/1.1\r\nhost: a\r\n\r\n",
}


@pytest.mark.parametrize("name", STRICT)
def test_what_could_be_read_in_two_ways_is_refused(name: str):
    # What is no HTTP closes the connection, and Envoy does not wait for us to see its 400 before it does.
    with standing(going_on) as (address, _processor, upstream, _envoy):
        try:
            assert 400 <= ask(address, STRICT[name]).status < 500
        except ReplyError as closed:
            assert closed.received == b""
        assert upstream.requests == []
        assert ask(address, build_request("GET", "/v1/x")).status == 200
        assert upstream.count() == 1


def test_dots_and_double_slashes_are_gone_before_anyone_looks():
    with standing(going_on) as (address, processor, upstream, _envoy):
        ask(address, build_request("GET", "/v1//a/../only"))
        headers = dict(read_header_map(processor.calls[-1][1][0].request_headers.headers))
        assert headers[":path"] == "/v1/only"
        assert upstream.last().target == "/v1/only"


def test_a_client_cannot_forge_its_address_or_certificate():
    with standing(going_on) as (address, processor, upstream, _envoy):
        forged = [("x-forwarded-client-cert", "URI=spiffe://acme/admin"), ("x-forwarded-for", "10.0.0.1")]
        forged.append(("x-envoy-external-address", "10.0.0.1"))
        ask(address, build_request("GET", "/v1/x", forged))
        assert upstream.last().header("x-forwarded-client-cert") is None
        attributes = processor.calls[-1][1][0].attributes["envoy.filters.http.ext_proc"].fields
        assert attributes["source.address"].string_value.startswith("127.0.0.1:")
        assert upstream.last().header("x-envoy-external-address") == "127.0.0.1"


def test_the_access_log_joins_the_ledger_and_tells_no_path(tmp_path: Path):
    with standing(going_on) as (address, _processor, _upstream, envoy):
        ask(address, build_request("GET", "/v1/secret-path?token=hush", [("authorization", "Bearer hush")]))
        envoy.post("/drain_listeners")
        envoy.stop()
        out = envoy.process.log.with_suffix(".out").read_text()
        line = json.loads(next(line for line in out.splitlines() if line.startswith("{")))
        assert line["session_id"] == "ses_1"
        assert line["decision_id"] == "dec_1"
        assert line["verdict"] == "allow"
        assert line["route"] == "http/1/api"
        assert "hush" not in out
        assert "secret-path" not in out


def test_a_body_larger_than_every_limit_still_reaches_us_whole():
    big = b"x" * (7 << 20)
    with standing(going_on) as (address, _processor, upstream, _envoy):
        upstream.on("POST", "/v1/x", Reply(body=big))
        reply = ask(address, build_request("POST", "/v1/x", body=big), timeout=30)
        assert reply.status == 200
        assert len(upstream.last().body) == len(big)
