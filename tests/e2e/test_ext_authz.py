"""The mode for meshes that have ext_authz: allow, deny and hold, and nothing that would need the response."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import httpx2
import pytest

from extproc.demo.processes import wait_until
from tests.e2e.approving import Approvals, somebody
from tests.e2e.rolling import ask_to_roll, wait_for
from tests.e2e.stack import API_KEY, Stack
from tests.support.asking import Asking
from tests.support.raw_http import RawReply, ask, chunked
from tests.support.replies import json_reply
from tests.support.tokens import BAD_TOKENS

pytestmark = pytest.mark.e2e

POLICY = """\
apiVersion: extproc/v1
kind: Policy
metadata: {name: checks}
target: customers-api
default: deny
rules:
  - name: reading
    when: request.method == "GET" && request.url_path.startsWith("/open/")
    then: {allow: {}, headers: {request: {set: {x-judged: "yes"}, remove: [x-gone]}}}
  - name: masked-reading
    when: request.method == "GET" && request.url_path.startsWith("/masked/")
    then: {allow: {}, mask: pii}
  - name: small
    when: request.method == "POST" && request.url_path == "/payments" && request.json.amount < 1000
    then: {allow: {}}
  - name: large
    when: request.method == "POST" && request.url_path == "/payments" && request.json.amount >= 1000
    then:
      hold:
        approvers: {all_of: [{group: finance, count: 1}]}
        wait: 30s
        expires: 1h
        use_within: 10m
        reason: "Large."
masks:
  pii: {entities: [EMAIL_ADDRESS], operator: replace}
"""
JSON = [("content-type", "application/json")]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(
        tmp_path_factory.mktemp("authz"),
        policy=POLICY,
        listener={"mode": "ext_authz"},
        target={"limits": {"request_body": "64KiB"}},
    ) as stack:
        yield stack


def test_an_allowed_request_goes_on_with_our_credential_and_an_unseen_outcome(stack: Stack):
    stack.upstream.on("GET", "/open/a", json_reply({"email": "ann@example.com"}))
    reply = stack.request(
        "GET", "/open/a", headers=[("x-gone", "1"), ("x-judged", "no"), ("x-api-key", "mine")]
    )
    assert (reply.status, reply.json()) == (200, {"email": "ann@example.com"})
    seen = stack.upstream.last()
    assert seen.all("x-api-key") == [API_KEY]
    assert seen.header("authorization") is None
    assert (seen.all("x-judged"), seen.header("x-gone")) == (["yes"], None)
    story = stack.story("/open/a")
    assert story["intent"]["verdict"] == "allow"
    outcome = story["outcome"]
    assert (outcome["executed"], outcome["end"], outcome["response"]["inspected"]) == (
        None,
        "unseen",
        "unseen",
    )


def test_a_denied_request_reads_a_problem(stack: Stack):
    before = stack.upstream.count()
    reply = stack.request("DELETE", "/open/a")
    assert (reply.status, reply.header("content-type")) == (403, "application/problem+json")
    assert (reply.json()["code"], reply.json()["executed"]) == ("no-rule-matched", False)
    assert stack.upstream.count() == before
    story = stack.decision(reply.json()["decision_id"])
    assert (story["intent"]["verdict"], story["outcome"]["executed"]) == ("deny", False)


def test_a_request_without_a_token_is_401_with_a_challenge(stack: Stack):
    reply = stack.request("GET", "/open/a", token=None)
    assert (reply.status, reply.header("www-authenticate")) == (401, 'Bearer realm="extproc"')


@pytest.mark.parametrize(
    "name", ["alg-none", "hs256-with-the-public-pem", "expired", "wrong-audience", "payload-swapped", "huge"]
)
def test_bad_tokens_are_401(stack: Stack, name):
    before = stack.upstream.count()
    reply = stack.request("GET", "/open/a", token=BAD_TOKENS[name](stack.issuer))
    assert reply.status == 401
    assert stack.upstream.count() == before


def test_what_needs_the_response_is_refused(stack: Stack):
    before = stack.upstream.count()
    reply = stack.request("GET", "/masked/a")
    assert (reply.status, reply.json()["code"]) == (500, "response-not-seen")
    assert stack.upstream.count() == before
    story = stack.story("/masked/a")
    assert story["outcome"]["executed"] is False


def test_a_rule_over_the_body_is_judged(stack: Stack):
    small, broken = b'{"amount":5}', b'{"amount":5'
    assert stack.request("POST", "/payments", body=small, headers=JSON).status == 200
    assert stack.upstream.last().body == small
    before = stack.upstream.count()
    assert stack.request("POST", "/payments", body=broken, headers=JSON).status == 400
    assert stack.request("POST", "/payments", body=b'{"amount":5,"amount":9}', headers=JSON).status == 400
    assert stack.upstream.count() == before


def test_a_chunked_body_is_judged(stack: Stack):
    raw = stack.raw("POST", "/payments", headers=[*JSON, ("transfer-encoding", "chunked")])
    assert ask(stack.address, raw + chunked(b'{"amo', b'unt":', b"7}")).status == 200
    assert stack.upstream.last().body == b'{"amount":7}'


def test_a_body_over_the_limit_is_413(stack: Stack):
    before = stack.upstream.count()
    reply = stack.request("POST", "/payments", body=b" " * (65 << 10), headers=JSON)
    assert reply.status == 413
    assert stack.upstream.count() == before


def test_bytes_of_headers_survive(stack: Stack):
    stack.upstream.on("GET", "/open/h", json_reply({}))
    reply = stack.request("GET", "/open/h", headers=[("x-latin", "caf\xe9"), ("x-two", "1"), ("x-two", "2")])
    assert reply.status == 200
    assert stack.upstream.last().all("x-latin") == ["caf\xe9"]
    assert stack.upstream.last().all("x-two") == ["1", "2"]


def test_a_held_request_goes_on_once_approved_and_only_once(stack: Stack):
    body = b'{"amount":5000}'
    before = stack.upstream.count("POST", "/payments")
    replies: list[RawReply] = []
    caller = threading.Thread(
        target=lambda: replies.append(stack.request("POST", "/payments", body=body, headers=JSON, timeout=60))
    )
    caller.start()
    transport = httpx2.HTTPTransport(uds=str(stack.directory / "a.sock"), verify=False)
    headers = {"authorization": f"Bearer {stack.approver()}"}
    with httpx2.Client(transport=transport, base_url="http://api", headers=headers) as api:
        held: list[dict[str, str]] = []

        def waiting() -> bool:
            held[:] = api.get("/v1/holds").json()["holds"]
            return bool(held)

        wait_until(waiting, what="a hold", within=15.0)
        assert stack.upstream.count("POST", "/payments") == before
        assert api.post(f"/v1/holds/{held[0]['id']}/approve", json={"reason": "ok"}).status_code == 200
    caller.join(30)
    assert [reply.status for reply in replies] == [200]
    assert stack.upstream.count("POST", "/payments") == before + 1
    (intent,) = stack.wait_for_records(lambda r: r["kind"] == "intent" and "hold" in r)
    assert (intent["verdict"], intent["code"], intent["hold"]["state"]) == ("allow", "released", "released")


def test_a_held_request_waits_across_a_rolling_reload(stack: Stack):
    who, before = somebody(), stack.upstream.count("POST", "/payments")
    token = stack.token(who)
    paying = Asking(
        lambda: stack.request(
            "POST", "/payments", token=token, body=b'{"amount":7000}', headers=JSON, timeout=60
        )
    )
    approvals = Approvals(stack)
    hold = approvals.hold_of(who)
    ask_to_roll(stack)
    wait_for(stack, "admin.worker_replaced")
    assert stack.request("GET", "/open/meanwhile").status == 200
    assert approvals.approve(hold["id"]).status == 200
    assert paying.finish().status == 200
    assert stack.upstream.count("POST", "/payments") == before + 1
    wait_for(stack, "admin.roll_done")


def test_a_held_request_that_does_not_wait_is_told_so(stack: Stack):
    before = stack.upstream.count()
    reply = stack.request(
        "POST", "/payments", body=b'{"amount":7777}', headers=[*JSON, ("prefer", "hold=async")]
    )
    problem = reply.json()
    assert (reply.status, problem["code"], problem["executed"], problem["resend"]) == (
        403,
        "held",
        False,
        True,
    )
    assert (reply.header("retry-after"), reply.header("location")) == (
        "5",
        f"/v1/holds/{problem['hold']['id']}",
    )
    assert stack.upstream.count() == before
