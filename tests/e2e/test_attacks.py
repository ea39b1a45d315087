"""Ways around the answers that reviewers thought of: each was tried against a real Envoy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.stack import API_KEY, TARGET, Stack
from tests.support.replies import Reply
from tests.support.upstream import echo_reply

pytestmark = pytest.mark.e2e
UPGRADE = (("connection", "upgrade"), ("upgrade", "websocket"))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("attacks")) as stack:
        stack.upstream.on("*", "/echo", echo_reply)
        yield stack


def plain(stack: Stack) -> str:
    return stack.token("paul", groups=["plain"])


def test_a_status_that_should_have_no_body_does_not_carry_one_past_the_mask(stack: Stack):
    body = b'{"email": "ann@example.com", "key": "%b"}' % API_KEY.encode()
    stack.upstream.on("GET", "/reset", Reply(205, (("content-type", "application/json"),), body))
    reply = stack.request("GET", "/reset")
    assert (reply.status, reply.json()) == (205, {"email": "[EMAIL_ADDRESS]", "key": "[LITERAL]"})
    assert stack.story("/reset")["outcome"]["response"]["inspected"] == "full"


def test_early_hints_do_not_carry_values_past_the_mask(stack: Stack):
    hints = ((103, (("link", "</a?ann@example.com>; rel=preload"),)),)
    stack.upstream.on("GET", "/hints", Reply(200, (), b"done", informational=hints))
    with stack.client() as client:
        client.send(stack.raw("GET", "/hints"))
        assert b"ann@example.com" not in client.read_until(b"done")


def test_a_proof_for_proxies_is_not_passed_on(stack: Stack):
    token = plain(stack)
    reply = stack.request("GET", "/echo", token=token, headers=[("proxy-authorization", f"Bearer {token}")])
    assert reply.status == 200
    seen = stack.upstream.last()
    assert (seen.path, seen.header("proxy-authorization"), seen.header("authorization")) == (
        "/echo",
        None,
        None,
    )


def test_nobody_is_asked_to_approve_an_upgrade(stack: Stack):
    before = stack.upstream.count()
    headers = [*UPGRADE, ("content-type", "application/json"), ("prefer", "hold=async")]
    reply = stack.request("POST", "/payments", headers=headers, body=b'{"amount": 5}')
    assert (reply.status, reply.json()["code"]) == (403, "opaque-request")
    assert stack.upstream.count() == before


def test_what_envoy_answered_for_the_upstream_is_not_recorded_as_run(stack: Stack):
    stack.upstream.on("GET", "/cut", Reply(raw=b""))
    assert stack.request("GET", "/cut").status == 503
    outcome = stack.story("/cut")["outcome"]
    assert (outcome["executed"], outcome["end"], outcome["response"]["code"]) == (None, "local_reply", 503)


def without_request_headers(config: dict[str, Any]) -> None:
    """An Envoy whose operator skips what must be judged, and took out the filter that would notice."""
    for http_filter in filters_of(config):
        if http_filter["name"] == "envoy.filters.http.ext_proc":
            mode = http_filter["typed_config"]["processing_mode"]
            mode |= {"request_header_mode": "SKIP", "request_body_mode": "NONE"}
    drop_guard(config)


def filters_of(config: dict[str, Any]) -> list[dict[str, Any]]:
    chain = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
    filters: list[dict[str, Any]] = chain["typed_config"]["http_filters"]
    return filters


def drop_guard(config: dict[str, Any]) -> None:
    filters = filters_of(config)
    filters[:] = [found for found in filters if found["name"] != "envoy.filters.http.rbac"]


def test_an_envoy_that_shows_only_responses_gets_none_through(tmp_path_factory: pytest.TempPathFactory):
    change: Callable[[dict[str, Any]], None] = without_request_headers
    with Stack(tmp_path_factory.mktemp("skip"), change_envoy=change) as stack:
        stack.upstream.on("GET", "/customers", Reply(200, (), b"ann@example.com"))
        reply = stack.request("GET", "/customers", token=None)
        assert (reply.status, reply.json()["code"], reply.json()["executed"]) == (
            500,
            "envoy-misconfigured",
            True,
        )
        (outcome,) = stack.wait_for_records(lambda record: record["kind"] == "outcome")
        assert (outcome["executed"], outcome["end"], outcome["target"]) == (True, "refused", TARGET)
