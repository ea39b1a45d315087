"""Allow, deny and 401 with real traffic: what the caller, the upstream and the ledger saw."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from extproc.demo.issuer import KEYS_PATH
from extproc.demo.processes import wait_until
from tests.e2e.stack import API_KEY, Stack
from tests.support.raw_http import ask, build_request
from tests.support.replies import json_reply
from tests.support.tokens import BAD_TOKENS, BadToken
from tests.support.upstream import echo_reply

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("decisions")) as stack:
        stack.upstream.on("GET", "/echo", echo_reply)
        yield stack


def test_an_allowed_request_reaches_the_upstream_under_our_credential(stack: Stack):
    stack.upstream.on("GET", "/allowed", json_reply({"n": 1}))
    token = stack.token()
    reply = stack.request("GET", "/allowed", token=token)
    assert (reply.status, reply.json()) == (200, {"n": 1})
    seen = stack.upstream.last()
    assert seen.header("authorization") is None
    assert seen.all("x-api-key") == [API_KEY]
    story = stack.story("/allowed")
    intent, outcome = story["intent"], story["outcome"]
    assert (intent["verdict"], intent["code"]) == ("allow", "allowed")
    assert intent["principal"]["subject"] == "alice"
    assert [rule["rule"] for rule in intent["rules"]] == ["e2e/readers-read"]
    assert intent["policy"].startswith("sha256:")
    assert (outcome["end"], outcome["executed"], outcome["response"]["code"]) == ("complete", True, 200)
    assert outcome["span_id"] == intent["span_id"] and outcome["trace"] == intent["trace"]


def test_a_rules_denial_says_why_and_reaches_nobody(stack: Stack):
    before = stack.upstream.count()
    reply = stack.request("DELETE", "/denied")
    problem = reply.json()
    assert (reply.status, reply.header("content-type")) == (403, "application/problem+json")
    assert (problem["code"], problem["rule"], problem["executed"]) == ("rule-denied", "e2e/no-delete", False)
    assert problem["detail"] == "Nothing is deleted here." and problem["next"]
    assert stack.upstream.count() == before
    story = stack.decision(problem["decision_id"])
    assert (story["intent"]["verdict"], story["outcome"]["executed"]) == ("deny", False)
    assert story["intent"]["trace"]["trace_id"] == problem["trace_id"]


def test_what_no_rule_allows_is_denied(stack: Stack):
    before = stack.upstream.count()
    reply = stack.request("PUT", "/nothing", body=b"x", headers=[("content-type", "text/plain")])
    assert (reply.status, reply.json()["code"]) == (403, "no-rule-matched")
    assert stack.upstream.count() == before
    assert stack.story("/nothing")["intent"]["verdict"] == "deny"


def test_a_request_without_a_token_is_told_how_to_come_back(stack: Stack):
    before = stack.upstream.count()
    reply = stack.request("GET", "/none", token=None)
    assert (reply.status, reply.header("www-authenticate")) == (401, 'Bearer realm="extproc"')
    assert reply.json()["code"] == "token-missing"
    assert stack.upstream.count() == before
    assert stack.story("/none")["outcome"]["response"]["code"] == 401


@pytest.mark.parametrize("bad", BAD_TOKENS.values(), ids=BAD_TOKENS)
def test_a_bad_token_is_401_and_leaves_no_trace_of_itself(stack: Stack, bad: BadToken):
    before = stack.upstream.count()
    token = bad(stack.issuer)
    reply = stack.request("GET", "/customers", token=token)
    assert (reply.status, reply.json()["code"]) == (401, f"token-{bad.code}".replace("_", "-"))
    challenge = reply.header("www-authenticate") or ""
    assert challenge.startswith('Bearer realm="extproc", error="invalid_token"')
    assert stack.upstream.count() == before
    story = stack.decision(reply.json()["decision_id"])
    assert (story["intent"]["verdict"], story["outcome"]["end"]) == ("deny", "refused")
    assert "principal" not in story["intent"]
    for part in (*token.split("."), token):
        if len(part) >= 16:
            assert part.encode() not in reply.body
            assert not stack.is_kept(part)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ([("authorization", "Basic YWxpY2U6c2VjcmV0")], "token-missing"),
        ([("authorization", "")], "token-missing"),
        ([("authorization", "Bearer")], "token-malformed"),
        ([("authorization", "Bearer a"), ("authorization", "Bearer b")], "token-malformed"),
    ],
    ids=["basic", "empty", "no-token", "two"],
)
def test_a_header_that_is_no_bearer_token_is_401(stack: Stack, headers, code):
    before = stack.upstream.count()
    reply = ask(stack.address, build_request("GET", "/customers", headers))
    assert reply.status == 401 and reply.header("www-authenticate")
    assert stack.upstream.count() == before


def test_two_tokens_are_refused_even_if_one_is_good(stack: Stack):
    before = stack.upstream.count()
    headers = [("authorization", f"Bearer {stack.token()}"), ("authorization", "Bearer x.y.z")]
    for order in (headers, headers[::-1]):
        assert ask(stack.address, build_request("GET", "/customers", order)).status in (400, 401)
    assert stack.upstream.count() == before


def test_identity_headers_from_a_client_mean_nothing(stack: Stack):
    """Only the token says who asks, and only Envoy's configuration which target it is."""
    forged = [
        ("x-extproc-target", "another"), ("x-extproc-principal", "root"), ("x-envoy-internal", "true"),
        ("x-envoy-auth-partial-body", "true"), ("x-api-key", "mine"),
    ]  # fmt: skip
    reply = stack.request("GET", "/echo", headers=forged)
    assert reply.status == 200
    seen = stack.upstream.last()
    assert seen.header("x-extproc-target") is None
    assert seen.all("x-api-key") == [API_KEY]
    reply = stack.request("GET", "/echo", token=None, headers=forged)
    assert reply.status == 401


def test_an_unknown_kid_is_looked_for_once(stack: Stack):
    bad = BAD_TOKENS["unknown-kid"]

    def hits() -> int:
        return stack.issuer.hits[KEYS_PATH]

    token = stack.issuer.sign({"alg": "RS256", "kid": "seen-once", "typ": "JWT"}, stack.issuer.claims())
    before = hits()
    assert [stack.request("GET", "/x", token=token).status for _ in range(20)] == [401] * 20
    assert [stack.request("GET", "/x", token=bad(stack.issuer)).status for _ in range(20)] == [401] * 20
    assert hits() - before <= 1


def test_a_key_that_was_withdrawn_is_believed_no_longer(stack: Stack):
    """Also for a token that was already verified: the cache goes with the key."""
    kid = stack.issuer.rotate("ES256")
    token = stack.token(alg="ES256", groups=["readers"])
    wait_until(
        lambda: stack.request("GET", "/rotated", token=token).status == 200,
        what="the new key to be fetched", within=25.0,
    )  # fmt: skip
    stack.issuer.withdraw(kid)
    stack.issuer.rotate("EdDSA")
    newer = stack.token(alg="EdDSA", groups=["readers"])
    wait_until(
        lambda: stack.request("GET", "/rotated", token=newer).status == 200,
        what="the key set to be fetched again", within=25.0,
    )  # fmt: skip
    before = stack.upstream.count()
    reply = stack.request("GET", "/rotated", token=token)
    assert (reply.status, reply.json()["code"]) == (401, "token-unknown-key")
    assert stack.upstream.count() == before


def test_every_refusal_is_a_problem_that_clients_can_read(stack: Stack):
    for reply in (
        stack.request("GET", "/x", token=None),
        stack.request("DELETE", "/x"),
        stack.request("GET", "/a//b/../c%2f"),
    ):
        assert reply.status in (400, 401, 403)
        if reply.header("content-type") == "application/problem+json":
            problem = json.loads(reply.body)
            assert problem["type"] == f"urn:extproc:problem:{problem['code']}"
            assert problem["status"] == reply.status
            assert problem["executed"] is False
            assert reply.header("cache-control") == "no-store"
            assert reply.header("content-length") == str(len(reply.body))
