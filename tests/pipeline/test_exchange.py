"""One exchange, event by event: what goes on, what is refused, what is written down."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import pytest

from extproc.domain.grant import Grant, GrantState
from extproc.domain.hold import HeldRequest, HoldState
from extproc.domain.lock import Lock
from extproc.domain.principal import Principal
from extproc.domain.request import Headers
from extproc.domain.steps import BodyMode, Forward, NeedBody, NeedKeys, Refuse, Wait
from extproc.domain.terms import GrantTerms
from extproc.pipeline import HoldSettled
from extproc.pipeline.exchange import Stage
from extproc.pipeline.response import status_code
from tests.support.governed import (
    CREDENTIAL,
    NOW,
    Believes,
    credential,
    exchange,
    governance,
    head,
    response,
)  # fmt: skip

READ = """
default: deny
rules:
  - name: read
    when: request.method == "GET"
    then: {allow: {}}
"""
MASKED = """
default: deny
rules:
  - name: read
    when: request.method in ["GET", "HEAD"]
    then: {allow: {}, mask: pii}
masks:
  pii: {entities: [EMAIL_ADDRESS], operator: replace}
"""
PAY = """
default: deny
rules:
  - name: small
    when: request.method == "POST" && request.json.amount < 1000
    then: {allow: {}}
  - name: large
    when: request.method == "POST" && request.json.amount >= 1000
    then: {risk: 60, hold: {group: finance, wait: 60s, expires: 1h, use_within: 10m}}
"""
BARE = {"record_request": "none", "record_response": "none"}


def problem_of(step):
    assert isinstance(step, Refuse)
    return json.loads(step.body)


def kinds(step) -> list[str]:
    return [record.kind for record in step.records]


# ---------------------------------------------------------------------- identify and decide


def test_an_allowed_request_goes_on_with_its_intent():
    ex = exchange(governance(READ, **BARE))
    step = ex.request_headers(head(), NOW)
    assert isinstance(step, Forward)
    assert kinds(step) == ["intent"]
    assert step.records[0].fields["verdict"] == "allow"
    assert step.metadata["verdict"] == "allow"


def test_the_callers_proof_goes_and_the_credential_comes():
    ex = exchange(governance(READ, credential=credential(), **BARE))
    step = ex.request_headers(head("GET", "/", ("x-api-key", "forged")), NOW)
    assert "authorization" in step.headers.remove
    assert ("x-api-key", CREDENTIAL) in step.headers.set
    assert CREDENTIAL not in repr(ex._plan)


def test_a_denied_request_leaves_both_records_and_a_problem():
    step = exchange(governance(READ)).request_headers(head("DELETE"), NOW)
    body = problem_of(step)
    assert (step.status, body["code"], body["executed"]) == (403, "no-rule-matched", False)
    assert kinds(step) == ["intent", "outcome"]
    assert step.records[1].fields["end"] == "refused"


def test_without_a_token_the_answer_is_401_with_a_challenge():
    step = exchange(governance(READ)).request_headers(head(who=""), NOW)
    assert step.status == 401
    assert ("www-authenticate", 'Bearer realm="test"') in step.headers
    assert kinds(step) == ["intent", "outcome"]


def test_a_locked_caller_is_refused_and_no_approval_is_released_to_it():
    gov = governance(READ, **BARE)
    gov.locks.replace([Lock("lock_1", "olga", "why", NOW, subject="alice")])
    step = exchange(gov).request_headers(head(), NOW)
    assert (step.status, problem_of(step)["code"]) == (403, "locked")
    assert step.records[0].fields["principal"]["subject"] == "alice"
    gov.locks.replace([])
    assert isinstance(exchange(gov).request_headers(head(), NOW), Forward)


def test_a_route_without_a_target_is_denied():
    step = exchange(governance(READ)).request_headers(head(target=""), NOW)
    assert (step.status, problem_of(step)["code"]) == (403, "no-target")


def test_missing_keys_are_asked_for_once_and_then_refused():
    believes = Believes()
    believes.keys_missing = True
    ex = exchange(governance(READ, identifier=believes))
    assert isinstance(ex.request_headers(head(), NOW), NeedKeys)
    step = ex.keys_ready(NOW)
    assert (step.status, problem_of(step)["code"]) == (503, "keys-unavailable")


def test_a_request_read_in_two_ways_is_refused_under_its_principal():
    step = exchange(governance(READ)).request_headers(head("GET", "/a/../b"), NOW)
    assert problem_of(step)["code"] == "ambiguous-path"
    assert step.records[0].fields["principal"]["subject"] == "alice"


def test_a_body_that_nobody_needs_is_not_asked_for():
    ex = exchange(governance(READ.replace('"GET"', '"POST"'), **BARE))
    step = ex.request_headers(head("POST", end=False), NOW)
    assert isinstance(step, Forward)
    assert step.modes.request is BodyMode.NONE


def test_a_rule_over_the_body_waits_for_it():
    ex = exchange(governance(PAY))
    assert isinstance(
        ex.request_headers(head("POST", "/", ("content-type", "application/json"), end=False), NOW), NeedBody
    )
    step = ex.request_body(b'{"amount": 5}', NOW)
    assert isinstance(step, Forward)
    assert step.records[0].fields["request"]["size"] == 13


def test_a_needed_body_that_envoy_does_not_send_refuses():
    ex = exchange(governance(PAY), request="NONE")
    step = ex.request_headers(head("POST", end=False), NOW)
    assert problem_of(step)["code"] == "body-not-sent"


@pytest.mark.parametrize(
    ("body", "code"),
    [(b'{"amount": 1, "amount": 5000}', "duplicate-json-key"), (b"{", "invalid-json")],
)
def test_a_body_read_in_two_ways_is_refused(body, code):
    ex = exchange(governance(PAY))
    ex.request_headers(head("POST", "/", ("content-type", "application/json"), end=False), NOW)
    assert problem_of(ex.request_body(body, NOW))["code"] == code


@pytest.mark.parametrize(
    "body", [b'{"amount": "5"}', b'{"amount": [5]}', b'{"amount": null}', b"{}", b"[]", b"5"]
)
def test_a_value_of_another_type_is_not_allowed(body):
    ex = exchange(governance(PAY))
    ex.request_headers(head("POST", "/", ("content-type", "application/json"), end=False), NOW)
    step = ex.request_body(body, NOW)
    assert isinstance(
        step, Refuse | Wait
    )  # the hold rule cannot be evaluated either, so it counts as matched


def test_a_body_over_the_limit_is_refused():
    ex = exchange(governance(PAY, request_limit=10))
    ex.request_headers(head("POST", end=False), NOW)
    step = ex.request_body(b"x" * 11, NOW)
    assert (step.status, problem_of(step)["code"]) == (413, "body-too-large")


def test_codings_we_cannot_read_are_negotiated_off():
    ex = exchange(governance(MASKED))
    step = ex.request_headers(
        head("GET", "/", ("accept-encoding", "br, gzip, zstd"), ("range", "bytes=0-1")), NOW
    )
    assert ("accept-encoding", "gzip") in step.headers.set
    assert "range" in step.headers.remove


def test_an_upgrade_that_owes_a_mask_is_refused():
    ex = exchange(governance(MASKED))
    step = ex.request_headers(head("GET", "/", ("upgrade", "websocket"), end=False), NOW)
    assert problem_of(step)["code"] == "opaque-response"


def test_an_upgrade_goes_on_unbuffered_and_is_recorded_opaque():
    ex = exchange(governance(READ))
    step = ex.request_headers(head("GET", "/", ("upgrade", "websocket"), end=False), NOW)
    assert (step.modes.request, step.modes.response) == (BodyMode.NONE, BodyMode.NONE)
    done = ex.response_headers(response(101), False, NOW)
    assert done.records[0].fields["response"]["inspected"] == "opaque"


# ---------------------------------------------------------------------- hold


def held_payment(gov=None, *more, who="alice"):
    ex = exchange(gov or governance(PAY))
    ex.request_headers(
        head("POST", "/pay", ("content-type", "application/json"), *more, end=False, who=who), NOW
    )
    step = ex.request_body(b'{"amount": 5000, "mail": "ann@example.com"}', NOW)
    assert isinstance(step, Wait)
    return ex, step


def held(step: Wait, state=HoldState.RELEASED) -> HeldRequest:
    return HeldRequest("h-1", step.ask, state, 3, NOW, NOW + 3600)


def test_a_hold_binds_principal_request_and_rules():
    _, first = held_payment()
    _, again = held_payment()
    _, other = held_payment(None, ("x-more", "1"))
    assert first.ask.binding == again.ask.binding != other.ask.binding
    assert first.wait == 60.0
    assert first.ask.risk == (("t/large", 60),)


def test_what_an_approver_sees_is_masked():
    _, step = held_payment()
    shown = json.dumps(step.ask.view)
    assert "ann@example.com" not in shown
    assert "5000" in shown
    assert step.ask.view["truncated"] is False


def test_a_released_request_goes_on_with_its_hold_in_the_intent():
    ex, step = held_payment()
    assert ex.recheck(held(step), NOW) == ""
    done = ex.hold_settled(HoldSettled("released", held(step)), NOW)
    assert isinstance(done, Forward)
    assert done.records[0].fields["hold"]["id"] == "h-1"
    assert done.records[0].fields["code"] == "released"


def test_a_request_that_a_grant_covers_names_the_use_in_its_intent():
    ex, step = held_payment()
    grant = Grant("g-1", held(step), "key", GrantTerms(60, 5), GrantState.LIVE, 2, NOW, NOW + 60, used=2)
    done = ex.hold_settled(HoldSettled("released", held(step), grant), NOW)
    assert isinstance(done, Forward)
    assert done.records[0].fields["code"] == "granted"
    assert done.records[0].fields["hold"]["grant"] == {"id": "g-1", "use": 2, "uses": 5, "scope": "exact"}
    assert done.records[0].fields["hold"]["votes"] == []


def test_a_wait_that_ends_never_claims_success():
    ex, step = held_payment()
    done = ex.hold_settled(HoldSettled("waiting", held(step, HoldState.PENDING)), NOW)
    body = problem_of(done)
    assert (done.status, body["code"], body["executed"], body["resend"]) == (403, "held", False, True)
    assert ("location", "/v1/holds/h-1") in done.headers
    assert any(name == "retry-after" for name, _ in done.headers)


@pytest.mark.parametrize(
    ("outcome", "status", "code"),
    [
        ("rejected", 403, "hold-rejected"), ("closed", 403, "hold-closed"), ("void", 403, "hold-void"),
        ("too_many", 429, "too-many-holds"), ("unavailable", 503, "holds-unavailable"),
        ("token_expired", 401, "token-expired"),
    ],
)  # fmt: skip
def test_every_other_end_of_a_wait_is_a_refusal(outcome, status, code):
    ex, step = held_payment()
    done = ex.hold_settled(HoldSettled(outcome, held(step, HoldState.REJECTED)), NOW)
    assert (done.status, problem_of(done)["code"]) == (status, code)
    assert kinds(done) == ["intent", "outcome"]


def test_an_approval_is_void_once_policy_denies():
    current = governance(PAY)
    box = [current]
    ex = exchange(current)
    ex._current = lambda: box[0]
    ex.request_headers(head("POST", "/pay", ("content-type", "application/json"), end=False), NOW)
    step = ex.request_body(b'{"amount": 5000}', NOW)
    box[0] = governance(READ)
    assert ex.recheck(held(step), NOW) == "denied-now"


def test_an_approval_is_void_once_its_rule_changed():
    current = governance(PAY)
    box = [current]
    ex = exchange(current)
    ex._current = lambda: box[0]
    ex.request_headers(head("POST", "/pay", ("content-type", "application/json"), end=False), NOW)
    step = ex.request_body(b'{"amount": 5000}', NOW)
    box[0] = governance(PAY.replace("group: finance", "group: board"))
    assert ex.recheck(held(step), NOW) == "rules-changed"


def test_an_approval_holds_when_an_unrelated_rule_changed():
    current = governance(PAY)
    box = [current]
    ex = exchange(current)
    ex._current = lambda: box[0]
    ex.request_headers(head("POST", "/pay", ("content-type", "application/json"), end=False), NOW)
    step = ex.request_body(b'{"amount": 5000}', NOW)
    box[0] = governance(PAY + READ[READ.index("  - name: read") :])
    assert ex.recheck(held(step), NOW) == ""


def test_a_token_that_expired_meanwhile_does_not_use_the_approval():
    short = Principal("https://issuer", "sam", "agent", "sam", expires_at=NOW + 30)
    ex, step = held_payment(governance(PAY, identifier=Believes(sam=short)), who="sam")
    assert step.wait == 30
    assert ex.recheck(held(step), NOW + 30) == "token-expired"


def test_a_wait_that_the_token_ended_is_401_and_worth_repeating():
    short = Principal("https://issuer", "sam", "agent", "sam", expires_at=NOW + 30)
    ex, step = held_payment(governance(PAY, identifier=Believes(sam=short)), who="sam")
    done = ex.hold_settled(HoldSettled("waiting", held(step, HoldState.PENDING)), NOW + 30)
    body = problem_of(done)
    assert (done.status, body["code"], body["resend"]) == (401, "token-expired", True)
    assert body["hold"] == {"id": "h-1", "state": "pending"}
    assert any(name == "www-authenticate" for name, _ in done.headers)


def test_asking_not_to_wait_means_no_wait():
    _, step = held_payment(None, ("prefer", "hold=async"))
    assert step.wait == 0


@pytest.mark.parametrize(("wish", "seconds"), [("respond-async", 0), ("wait=5", 5), ("wait=900", 60)])
def test_other_wishes_count_where_the_target_honours_them_and_are_then_not_bound(wish, seconds):
    honoured = governance(PAY, prefer_wait=True, prefer_async=True)
    _, plain = held_payment(honoured)
    _, step = held_payment(honoured, ("prefer", wish))
    assert (step.wait, step.ask.binding) == (seconds, plain.ask.binding)
    _, ignored = held_payment(None, ("prefer", wish))
    assert (ignored.wait, ignored.ask.binding == plain.ask.binding) == (60, False)


def test_a_request_that_waited_names_its_hold_however_the_wait_ended():
    for end in ("left", "local reply"):
        ex, step = held_payment()
        ex.joined(held(step, HoldState.PENDING))
        if end == "left":
            intent = ex.aborted(NOW, "half-closed")[0]
        else:
            intent = ex.response_headers(response(504, media="text/plain"), True, NOW).records[0]
        assert (intent.fields["verdict"], intent.fields["hold"]["id"]) == ("hold", "h-1")


# ---------------------------------------------------------------------- the response


def answered(gov, headers, body=None, **kwargs):
    ex = exchange(gov, **kwargs)
    assert isinstance(ex.request_headers(head(), NOW), Forward)
    step = ex.response_headers(headers, body is None, NOW)
    if body is None or ex.stage is Stage.DONE:
        return ex, step
    return ex, ex.response_body(body, True, NOW)


def test_a_masked_body_has_the_right_length_and_its_proof():
    _, step = answered(governance(MASKED), response(200, ("etag", '"1"')), b'{"mail": "ann@example.com"}')
    assert step.body == b'{"mail": "[EMAIL_ADDRESS]"}'
    assert ("content-length", str(len(step.body))) in step.headers.set
    assert "etag" in step.headers.remove
    outcome = step.records[0].fields
    assert outcome["response"]["masked"] == {"EMAIL_ADDRESS": 1}
    assert outcome["response"]["residual"] == {}
    assert outcome["end"] == "complete"


def test_an_untouched_body_goes_back_byte_for_byte():
    _, step = answered(governance(MASKED), response(), b'{"a": 1.50, "a": 1e5}')
    assert step.body is None
    assert step.headers.set == ()


def test_a_gzipped_body_is_masked_and_sent_plain():
    packed = gzip.compress(b'{"mail": "ann@example.com"}')
    _, step = answered(governance(MASKED), response(200, ("content-encoding", "gzip")), packed)
    assert step.body == b'{"mail": "[EMAIL_ADDRESS]"}'
    assert "content-encoding" in step.headers.remove


@pytest.mark.parametrize(
    ("headers", "body", "code"),
    [
        (response(), b'{"mail": ', "response-not-maskable"),
        (response(media="image/png"), b"\x89PNG", "response-not-maskable"),
        (response(200, ("content-encoding", "br")), b"x", "response-unreadable"),
        (response(200, ("content-encoding", "gzip")), b"x", "response-unreadable"),
        (response(206), b"{}", "partial-not-maskable"),
        (response(media="text/event-stream"), b"data: 1\n\n", "stream-not-maskable"),
        (response(200, ("content-length", "99999999")), b"{}", "response-too-large"),
    ],
)
def test_what_cannot_be_masked_is_withheld(headers, body, code):
    _, step = answered(governance(MASKED), headers, body)
    answer = problem_of(step)
    assert (step.status, answer["code"], answer["executed"]) == (502, code, True)
    assert step.records[-1].fields["executed"] is True
    assert step.records[-1].fields["end"] == "refused"


def test_unparsable_json_may_be_allowed_and_is_then_masked_as_text():
    _, step = answered(governance(MASKED, unparsable_json="allow"), response(), b'{"mail": ann@example.com')
    assert step.body == b'{"mail": [EMAIL_ADDRESS]'
    assert "unparsable-json-allowed" in step.records[0].fields["degraded"]


def test_nothing_owed_lets_the_body_pass_unseen():
    _, step = answered(governance(READ, **BARE), response(), b"x")
    assert step.modes.response is BodyMode.NONE
    assert step.records[0].fields["response"]["inspected"] == "none"


def test_a_mask_that_envoy_does_not_let_us_apply_withholds_the_response():
    _, step = answered(governance(MASKED), response(), b"{}", response="NONE")
    assert problem_of(step)["code"] == "response-not-sent"


def test_a_head_response_needs_no_body():
    ex = exchange(governance(MASKED))
    ex.request_headers(head("HEAD"), NOW)
    step = ex.response_headers(response(200, ("content-length", "10")), True, NOW)
    assert isinstance(step, Forward)
    assert kinds(step) == ["outcome"]


@pytest.mark.parametrize("cut", range(1, len(CREDENTIAL) + 12))
def test_an_echoed_credential_is_taken_out_of_a_stream_wherever_it_is_cut(cut):
    ex = exchange(governance(READ, credential=credential()))
    ex.request_headers(head(), NOW)
    first = ex.response_headers(response(media="text/event-stream"), False, NOW)
    assert first.modes.response is BodyMode.STREAMED
    body = b"data: " + CREDENTIAL.encode() + b"\n\n"
    parts = [ex.response_body(body[:cut], False, NOW), ex.response_body(body[cut:], True, NOW)]
    out = b"".join(
        sent if (sent := part.body) is not None else raw
        for part, raw in zip(parts, (body[:cut], body[cut:]), strict=True)
    )
    assert out == b"data: [CREDENTIAL]\n\n"
    assert kinds(parts[1]) == ["outcome"]


def test_an_echoed_credential_is_taken_out_of_a_whole_body():
    _, step = answered(
        governance(READ, credential=credential()),
        response(200, ("content-length", "40")),
        json.dumps({"key": CREDENTIAL}).encode(),
    )
    assert CREDENTIAL.encode() not in step.body
    assert step.records[0].fields["response"]["masked"] == {"LITERAL": 1}


def test_an_interim_response_is_not_the_answer():
    ex = exchange(governance(MASKED))
    ex.request_headers(head(), NOW)
    assert ex.response_headers(response(103), False, NOW).records == ()
    assert ex.stage is Stage.FORWARDED


RESPONSE_RULE = """
default: deny
rules:
  - name: read
    when: request.method == "GET"
    then: {allow: {}, mask: pii}
  - name: no-bulk
    when: response.code == 200 && response.findings["EMAIL_ADDRESS"] >= 3
    then: {deny: {message: "Too much personal data at once.", status: 451}}
masks:
  pii: {entities: [EMAIL_ADDRESS], operator: replace}
"""


def test_a_response_rule_withholds_what_it_denies():
    gov = governance(RESPONSE_RULE)
    few = json.dumps(["a@example.com"]).encode()
    many = json.dumps(["a@example.com", "b@example.com", "c@example.com"]).encode()
    _, allowed = answered(gov, response(), few)
    assert isinstance(allowed, Forward)
    _, denied = answered(gov, response(), many)
    assert denied.status == 451
    assert b"example.com" not in denied.body


# ---------------------------------------------------------------------- local replies and aborts


def test_a_local_reply_while_waiting_is_passed_on_and_recorded():
    ex, _ = held_payment()
    step = ex.response_headers(response(504, media="text/plain"), True, NOW)
    assert isinstance(step, Forward)
    assert kinds(step) == ["intent", "outcome"]
    assert step.records[1].fields["end"] == "local_reply"
    assert step.records[1].fields["executed"] is False


def test_a_stream_that_begins_with_a_response_is_recorded_unseen():
    ex = exchange(governance(MASKED))
    ex.expect_response(replace(head(), headers=type(head().headers)(())))
    step = ex.response_headers(response(403, media="text/plain"), True, NOW)
    assert [record.fields.get("verdict") for record in step.records] == ["unseen", None]


def test_a_client_that_leaves_is_written_down():
    ex, _ = held_payment()
    records = ex.aborted(NOW, "half-closed")
    assert [record.kind for record in records] == ["intent", "outcome"]
    assert records[1].fields["end"] == "aborted"
    assert ex.aborted(NOW, "again") == ()


def test_an_exchange_that_is_done_adds_nothing():
    ex, _ = answered(governance(READ, **BARE), response(), None)
    assert ex.aborted(NOW, "half-closed") == ()


def test_no_record_shows_what_was_masked():
    canary = "canary.7f@example.com"
    ex = exchange(governance(MASKED, credential=credential()))
    step = ex.request_headers(head("GET", f"/find?mail={canary}", ("x-note", f"{CREDENTIAL} {canary}")), NOW)
    done = ex.response_headers(response(200, ("x-echo", f"{canary} {CREDENTIAL}")), False, NOW)
    done = ex.response_body(json.dumps({"m": canary, "k": CREDENTIAL}).encode(), True, NOW)
    kept = repr([(r.fields, r.payloads) for r in (*step.records, *done.records)])
    assert canary not in kept
    assert CREDENTIAL not in kept
    assert not any(canary in value or CREDENTIAL in value for _, value in done.headers.set)


def test_the_header_that_carries_the_credential_is_never_kept_or_shown():
    """A caller that sends a key of its own there meant it as a secret."""
    ex = exchange(governance(READ, credential=credential()))
    step = ex.request_headers(head("GET", "/", ("x-api-key", "callers-own-key")), NOW)
    assert step.records and "callers-own-key" not in str(
        [(record.fields, record.payloads) for record in step.records]
    )


# ---------------------------------------------------------------------- what a status or an upgrade promises


def test_a_body_that_its_status_forbids_is_masked_like_any_other():
    ex = exchange(governance(MASKED))
    ex.request_headers(head(), NOW)
    assert ex.response_headers(response(205), False, NOW).records == ()
    step = ex.response_body(b'{"mail": "ann@example.com"}', True, NOW)
    assert step.body == b'{"mail": "[EMAIL_ADDRESS]"}'


def test_an_upgrade_cannot_wait_for_an_approval():
    ex = exchange(governance(PAY.replace("request.json.amount >= 1000", "true")))
    step = ex.request_headers(head("POST", "/pay", ("upgrade", "websocket"), end=False), NOW)
    assert (step.status, problem_of(step)["code"]) == (403, "opaque-request")
    assert kinds(step) == ["intent", "outcome"]


def test_an_upgrade_that_was_declined_is_no_way_past_the_credentials_mask():
    ex = exchange(governance(READ, credential=credential(), **BARE))
    ex.request_headers(head("GET", "/", ("upgrade", "websocket"), end=False), NOW)
    step = ex.response_headers(response(200, ("content-length", "30")), False, NOW)
    assert (step.status, problem_of(step)["code"]) == (502, "response-not-sent")


def test_a_proof_for_proxies_goes_too():
    ex = exchange(governance(READ, **BARE))
    step = ex.request_headers(head("GET", "/", ("proxy-authorization", "Bearer secret")), NOW)
    assert "proxy-authorization" in step.headers.remove


def test_headers_before_trailers_without_a_body_are_masked_and_recorded():
    ex = exchange(governance(MASKED))
    ex.request_headers(head(), NOW)
    step = ex.response_headers(response(200, ("x-mail", "ann@example.com")), False, NOW)
    assert ("x-mail", "[EMAIL_ADDRESS]") in step.headers.set
    done = ex.response_trailers(Headers((("x-last", "bob@example.com"),)), NOW)
    assert done.headers.set == (("x-last", "[EMAIL_ADDRESS]"),)
    assert kinds(done) == ["outcome"]
    assert done.records[0].fields["end"] == "complete"


def test_rules_over_the_body_are_not_deceived_by_parts_of_it():
    policy = READ + '  - name: no-secrets\n    when: response.body.contains("secret")\n    then: {deny: {}}\n'
    ex = exchange(governance(policy))
    step = ex.request_headers(head("GET", "/", ("range", "bytes=0-2")), NOW)
    assert "range" in step.headers.remove
    done = ex.response_headers(response(206, media="text/plain"), False, NOW)
    assert problem_of(done)["code"] == "partial-not-maskable"


# ---------------------------------------------------------------------- what is kept


def test_what_is_kept_of_a_long_path_holds_no_half_of_a_value():
    ex = exchange(governance(READ))
    path = "/" + "a" * 2030 + "?mail=annabelle@example.com"
    record = ex.request_headers(head("GET", path), NOW).records[0]
    assert "annabelle" not in record.fields["request"]["path"]


def test_what_is_kept_of_a_stream_holds_no_half_of_a_value():
    ex = exchange(governance(READ, record_max=64))
    ex.request_headers(head(), NOW)
    ex.response_headers(response(200, media="text/plain"), False, NOW)
    step = ex.response_body(b"x" * 50 + b" annabelle@example.com " + b"y" * 99, True, NOW)
    kept = json.loads(step.records[0].payloads["response"])
    assert "annabelle" not in kept["body"]
    assert len(kept["body"]) == 64


def test_an_approver_is_told_of_cookies_and_sees_every_parameter():
    more = ("cookie", "sid=c00kie-secret"), ("host", "api.example")
    ex = exchange(governance(PAY))
    ex.request_headers(
        head(
            "POST",
            "/pay?ann@example.com=1&bob@example.com=2",
            ("content-type", "application/json"),
            *more,
            end=False,
        ),
        NOW,
    )
    view = ex.request_body(b'{"amount": 5000}', NOW).ask.view
    assert ["cookie", "[not shown]"] in view["raw"]["headers"]
    assert "c00kie" not in json.dumps(view)
    assert view["normalised"]["query"] == {"[EMAIL_ADDRESS]": ["1", "2"]}


def test_a_host_is_shown_as_masked_as_it_is_kept():
    ex = exchange(governance(PAY))
    pseudo = ((":method", "POST"), (":path", "/"), (":authority", "4111111111111111"), (":scheme", "http"))
    headers = Headers((*pseudo, ("authorization", "alice"), ("content-type", "application/json")))
    ex.request_headers(replace(head(end=False), headers=headers), NOW)
    view = ex.request_body(b'{"amount": 5000}', NOW).ask.view
    assert "4111111111111111" not in json.dumps(view)


# ---------------------------------------------------------------------- what nobody approved


def test_behind_an_approval_the_callers_word_about_where_it_comes_from_does_not_go_on():
    more = ("x-forwarded-host", "admin.internal"), ("forwarded", "for=10.0.0.1"), ("x-real-ip", "10.0.0.1")
    ex, step = held_payment(None, *more)
    done = ex.hold_settled(HoldSettled("released", held(step)), NOW)
    assert {"x-forwarded-host", "forwarded", "x-real-ip"} <= set(done.headers.remove)
    ex = exchange(governance(PAY))
    ex.request_headers(head("POST", "/pay", ("content-type", "application/json"), *more, end=False), NOW)
    assert "forwarded" not in ex.request_body(b'{"amount": 5}', NOW).headers.remove


@pytest.mark.parametrize(
    "owed", ["headers: {response: {remove: [x-secret]}}", "record: {response: masked}", "mask: pii"]
)
def test_without_its_response_a_request_that_owes_something_on_it_is_refused(owed):
    policy = (
        READ.replace("{allow: {}}", f"{{allow: {{}}, {owed}}}")
        + "masks:\n  pii: {entities: [EMAIL_ADDRESS]}\n"
    )
    ex = exchange(governance(policy, **BARE))
    step = ex.without_response(ex.request_headers(head(), NOW), NOW)
    assert problem_of(step)["code"] == "response-not-seen"


# ---------------------------------------------------------------------- who answered


def test_an_answer_of_envoy_after_the_request_went_on_does_not_prove_that_it_ran():
    ex = exchange(governance(READ, **BARE))
    ex.request_headers(head(), NOW)
    step = ex.response_headers(response(503, media="text/plain"), True, NOW, from_upstream=False)
    outcome = step.records[-1].fields
    assert (outcome["executed"], outcome["end"], outcome["response"]["code"]) == (None, "local_reply", 503)


def test_an_answer_of_the_upstream_proves_that_it_ran():
    ex = exchange(governance(READ, **BARE))
    ex.request_headers(head(), NOW)
    step = ex.response_headers(response(503, media="text/plain"), True, NOW, from_upstream=True)
    assert (step.records[-1].fields["executed"], step.records[-1].fields["end"]) == (True, "complete")


def test_an_answer_to_a_request_that_was_never_shown_is_withheld_and_recorded_as_run():
    ex = exchange(governance(READ))
    ex.expect_response(replace(head(), headers=Headers(())))
    step = ex.response_headers(response(200), False, NOW, from_upstream=True)
    assert (step.status, problem_of(step)["code"], problem_of(step)["executed"]) == (
        500,
        "envoy-misconfigured",
        True,
    )
    assert kinds(step) == ["intent", "outcome"]
    assert step.records[1].fields["executed"] is True


@pytest.mark.parametrize(
    ("plan", "degraded"), [({}, None), ({"credential": credential()}, ["credential-echo-unseen"])]
)
def test_without_a_response_an_echoed_credential_is_owned_up_to(plan, degraded):
    ex = exchange(governance(READ, **plan, **BARE))
    step = ex.without_response(ex.request_headers(head(), NOW), NOW)
    assert [record.kind for record in step.records] == ["intent", "outcome"]
    assert step.records[1].fields.get("degraded") == degraded
    assert step.records[1].fields["end"] == "unseen"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        pytest.param("200", 200, id="ordinary"),
        pytest.param("599", 599, id="the last that is known"),
        pytest.param("600", 600, id="beyond"),
        pytest.param("0204", 204, id="with a zero before"),
        pytest.param("", 0, id="none"),
        pytest.param("-20", 0, id="a sign"),
        pytest.param("\u00b200", 0, id="a digit of another script"),
    ],
)
def test_a_status_is_read_as_a_number(status, code):
    assert status_code(Headers(((":status", status),))) == code
