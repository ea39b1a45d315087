"""Holds with real traffic: what the caller, the upstream and the ledger saw of every way they can end."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from extproc.demo.processes import wait_until
from tests.e2e.approving import (
    JSON,
    PAYMENT,
    Approvals,
    Asking,
    Http2,
    ask,
    check_every_hold,
    decided,
    first_answered,
    problem,
    somebody,
    told,
    verify,
)
from tests.e2e.stack import Stack
from tests.support.raw_http import chunked
from tests.support.replies import Reply, json_reply

pytestmark = pytest.mark.e2e

POLICY = """\
apiVersion: extproc/v1
kind: Policy
metadata: {name: holds}
target: customers-api
default: deny
rules:
  - name: pay
    when: request.method in ["POST", "PUT"] && request.url_path.startsWith("/pay/")
    then:
      risk: 60
      hold:
        approvers: {all_of: [{group: finance, count: 1}]}
        wait: 60s
        expires: 1h
        use_within: 10m
        reason: "Payments need a second pair of eyes."
        break_glass: {groups: [oncall], review_within: 1h}
  - name: quick
    when: request.method == "POST" && request.url_path.startsWith("/quick/")
    then: {hold: {group: finance, wait: 300ms, expires: 1h, use_within: 10m}}
  - name: small
    when: request.method == "POST" && request.url_path.startsWith("/sized/") && request.json.amount < 1000
    then: {allow: {}}
  - name: large
    when: request.method == "POST" && request.url_path.startsWith("/sized/") && request.json.amount >= 1000
    then: {hold: {group: finance, wait: 60s, expires: 1h}}
  - name: vault
    when: request.method == "GET" && request.url_path.startsWith("/vault/")
    then: {hold: {group: finance, wait: 60s, expires: 1h}, mask: pii}
  - name: team
    when: request.method == "POST" && request.url_path.startsWith("/team/")
    then: {hold: {approvers: {all_of: [{group: finance, count: 1}, {group: legal, count: 1}]}, wait: 60s}}
  - name: apart
    when: request.method == "POST" && request.url_path.startsWith("/apart/")
    then: {hold: {group: finance, conflict_groups: [payments], wait: 60s}}
  - name: plain
    when: request.method == "GET" && request.url_path.startsWith("/plain/")
    then: {allow: {}}
masks:
  pii: {entities: [EMAIL_ADDRESS], operator: replace}
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(
        tmp_path_factory.mktemp("holds"),
        policy=POLICY,
        target={"prefer": {"async": True, "wait": True}, "volatile_headers": ["x-attempt"]},
        settings={"holds": {"limits": {"per_principal": 4, "waiters": 3}}, "limits": {"open_waits": 8}},
    ) as stack:
        yield stack


@pytest.fixture
def fiona(stack: Stack) -> Approvals:
    return Approvals(stack)


@pytest.fixture
def who() -> str:
    return somebody()


@contextmanager
def policy(stack: Stack, text: str) -> Iterator[None]:
    """Another policy is in force inside the block."""
    activate(stack, text)
    try:
        yield
    finally:
        activate(stack, POLICY)


def activate(stack: Stack, text: str) -> None:
    before = sum(record["kind"] == "policy.activated" for record in stack.records())
    stack.write_policy(text)
    stack.reload()
    stack.wait_for_records(lambda record: record["kind"] == "policy.activated", before + 1)


# ---------------------------------------------------------------------- approve, deny


def test_the_command_line_approves_as_the_api_does(stack: Stack, fiona: Approvals, who: str):
    path = f"/pay/{who}"
    stack.upstream.on("POST", path, json_reply({"paid": True}))
    with Asking(stack, who, path) as asking:
        fiona.approve_by("cli", fiona.hold_of(who)["id"])
        assert asking.answer().status == 200
    assert stack.upstream.count(path=path) == 1


def test_an_approved_request_is_forwarded_exactly_once(stack: Stack, fiona: Approvals, who: str):
    path = f"/pay/{who}"
    stack.upstream.on("POST", path, json_reply({"paid": True}))
    with Asking(stack, who, path) as asking:
        hold = fiona.hold_of(who)
        assert stack.upstream.count(path=path) == 0
        assert fiona.approve(hold["id"], "invoice 17").body["state"] in ("approved", "released")
        reply = asking.answer()
    assert (reply.status, reply.json()) == (200, {"paid": True})
    assert stack.upstream.count(path=path) == 1
    assert stack.upstream.last().body == PAYMENT
    moves = told(stack, hold["id"], "opened", "vote", "approved", "released")
    story = stack.story(path)
    intent = story["intent"]
    assert (intent["verdict"], intent["code"], intent["hold"]["id"]) == ("allow", "released", hold["id"])
    assert intent["hold"]["votes"][0]["subject"] == "fiona"
    assert moves[0]["decision_id"] == moves[-1]["decision_id"] == intent["decision_id"]
    assert (moves[1]["approver"]["subject"], moves[1]["reason"]) == ("fiona", "invoice 17")
    assert (story["outcome"]["executed"], story["outcome"]["end"]) == (True, "complete")


def test_a_person_lets_their_own_request_go_in_an_emergency_and_somebody_else_reviews_it(
    stack: Stack, fiona: Approvals, who: str
):
    path = f"/pay/{who}"
    stack.upstream.on("POST", path, json_reply({"paid": True}))
    oncall = Approvals(stack, stack.approver(who, groups=["oncall"]))
    with Asking(stack, who, path, token=stack.token(who, groups=["writers"], kind="human")) as asking:
        hold = fiona.hold_of(who)
        assert fiona.act(hold["id"], "break-glass", "x").code == "not_requester"
        assert oncall.act(hold["id"], "break-glass", "the site is down").status == 200
        assert asking.answer().status == 200
    assert stack.upstream.count(path=path) == 1
    moves = told(stack, hold["id"], "opened", "break_glass", "approved", "released")
    intent = decided(stack, moves[-1]["decision_id"])["intent"]
    assert intent["hold"]["break_glass"]["reason"] == "the site is down"
    assert intent["hold"]["votes"] == []
    assert oncall.review(hold["id"]).code == "self_approval"
    assert fiona.review(hold["id"]).status == 200
    told(stack, hold["id"], "opened", "break_glass", "approved", "released", "reviewed")


def test_an_agent_has_no_emergency(stack: Stack, fiona: Approvals, who: str):
    owner = Approvals(stack, stack.approver(who, groups=["oncall"]))
    with Asking(stack, who, f"/pay/{who}") as asking:
        hold = fiona.hold_of(who)
        assert owner.act(hold["id"], "break-glass", "the site is down").code == "not_human"
        assert asking.is_waiting
        fiona.deny(hold["id"])


def test_a_denied_request_is_told_why_and_goes_nowhere(stack: Stack, fiona: Approvals, who: str):
    path = f"/pay/{who}"
    with Asking(stack, who, path) as asking:
        hold = fiona.hold_of(who)
        assert fiona.deny(hold["id"], "no invoice").status == 200
        reply = asking.answer()
    said = problem(reply)
    assert (reply.status, said["code"], said["reason"]) == (403, "hold-rejected", "no invoice")
    assert (said["executed"], said["resend"]) == (False, False)
    assert stack.upstream.count(path=path) == 0
    told(stack, hold["id"], "opened", "vote", "rejected")
    story = decided(stack, said["decision_id"])
    assert (story["intent"]["verdict"], story["intent"]["code"]) == ("hold", "hold-rejected")
    assert (story["outcome"]["executed"], story["intent"]["hold"]["id"]) == (False, hold["id"])


def test_a_wait_that_ends_claims_nothing_and_the_repeated_request_passes_once(
    stack: Stack, fiona: Approvals, who: str
):
    path = f"/quick/{who}"
    reply = ask(stack, who, path)
    said = problem(reply)
    assert (reply.status, said["code"], said["executed"], said["resend"]) == (403, "held", False, True)
    assert said["type"].endswith(":held") and said["next"]
    hold_id = said["hold"]["id"]
    assert reply.header("location") == f"/v1/holds/{hold_id}" and reply.header("retry-after") == "5"
    assert stack.upstream.count(path=path) == 0
    story = decided(stack, said["decision_id"])
    assert (story["intent"]["verdict"], story["intent"]["code"]) == ("hold", "held")
    assert (story["intent"]["hold"]["id"], story["outcome"]["executed"]) == (hold_id, False)
    assert fiona.show(hold_id)["waiters"] == 0

    assert fiona.approve(hold_id).body["state"] == "approved"
    again = ask(stack, who, path)
    assert (again.status, stack.upstream.count(path=path)) == (200, 1)
    third = problem(ask(stack, who, path))
    assert third["code"] == "held" and third["hold"]["id"] != hold_id
    assert stack.upstream.count(path=path) == 1
    moves = told(stack, hold_id, "opened", "vote", "approved", "released")
    assert moves[0]["decision_id"] == said["decision_id"] != moves[3]["decision_id"]
    assert stack.decision(moves[3]["decision_id"])["intent"]["request"]["path"] == path


@pytest.mark.parametrize("wish", ["hold=async", "respond-async", "wait=0", "hold=async; foo, wait=30"])
def test_a_caller_that_does_not_want_to_wait_is_answered_at_once(
    stack: Stack, fiona: Approvals, who: str, wish: str
):
    path = f"/pay/{who}"
    headers = [JSON, ("prefer", wish)]
    said = problem(ask(stack, who, path, headers=headers))
    assert (said["code"], said["executed"]) == ("held", False)
    hold_id = said["hold"]["id"]
    assert fiona.approve(hold_id).status == 200
    assert ask(stack, who, path, headers=headers).status == 200
    assert stack.upstream.count(path=path) == 1
    told(stack, hold_id, "opened", "vote", "approved", "released")


def test_a_caller_may_wait_after_it_first_did_not(stack: Stack, fiona: Approvals, who: str):
    """Preferences that only say how long to wait are no part of what is approved."""
    path = f"/pay/{who}"
    said = problem(ask(stack, who, path, headers=[JSON, ("prefer", "hold=async, return=minimal")]))
    with Asking(stack, who, path, headers=[JSON, ("prefer", "return=minimal, wait=50")]) as asking:
        hold = fiona.hold_of(who)
        assert hold["id"] == said["hold"]["id"]
        fiona.approve(hold["id"])
        assert asking.answer().status == 200
    assert stack.upstream.count(path=path) == 1


def test_nobody_of_the_requester_s_conflict_group_approves(stack: Stack, fiona: Approvals, who: str):
    path = f"/apart/{who}"
    frank = Approvals(stack, stack.approver("frank", groups=["finance", "payments"]))
    token = stack.token(who, groups=["payments"])
    with Asking(stack, who, path, token=token) as asking:
        hold = fiona.hold_of(who)
        assert frank.approve(hold["id"]).code == "conflict_of_interest"
        assert stack.upstream.count(path=path) == 0
        assert fiona.approve(hold["id"]).status == 200
        assert asking.answer().status == 200
    told(stack, hold["id"], "opened", "vote", "approved", "released")


# ---------------------------------------------------------------------- leaving, joining, racing


def test_a_client_that_left_comes_back_to_the_same_hold(stack: Stack, fiona: Approvals, who: str):
    path = f"/pay/{who}"
    with Asking(stack, who, path):
        hold = fiona.hold_of(who)
    fiona.hold_of(who, waiters=0)
    with Asking(stack, who, path) as back:
        assert fiona.hold_of(who)["id"] == hold["id"]
        assert fiona.approve(hold["id"]).status == 200
        assert back.answer().status == 200
    assert stack.upstream.count(path=path) == 1
    moves = told(stack, hold["id"], "opened", "vote", "approved", "released")
    left = decided(stack, moves[0]["decision_id"])
    assert (left["intent"]["verdict"], left["intent"]["code"]) == ("hold", "abandoned")
    assert left["intent"]["hold"]["id"] == hold["id"]
    assert (left["outcome"]["executed"], left["outcome"]["end"]) == (False, "aborted")
    assert moves[3]["decision_id"] != moves[0]["decision_id"]


def test_one_approval_releases_one_of_two_equal_requests(stack: Stack, fiona: Approvals, who: str):
    path = f"/pay/{who}"
    with Asking(stack, who, path) as one, Asking(stack, who, path) as two:
        first = fiona.hold_of(who, waiters=2)
        fiona.approve(first["id"])
        lucky = first_answered(one, two)
        assert lucky.answer().status == 200
        second = fiona.hold_of(who, but=[first["id"]])
        other = two if lucky is one else one
        assert other.is_waiting and stack.upstream.count(path=path) == 1
        fiona.approve(second["id"])
        assert other.answer().status == 200
    assert stack.upstream.count(path=path) == 2
    for hold in (first, second):
        told(stack, hold["id"], "opened", "vote", "approved", "released")


def test_two_approvers_at_once_release_it_once(stack: Stack, who: str):
    path = f"/pay/{who}"
    people = [Approvals(stack, stack.approver(name)) for name in ("frank", "freya")]
    together = threading.Barrier(2)
    with Asking(stack, who, path) as asking, ThreadPoolExecutor(2) as pool:
        hold = people[0].hold_of(who)

        def approve(person: Approvals) -> int:
            together.wait(10)
            return person.approve(hold["id"]).status

        statuses = sorted(pool.map(approve, people))
        assert statuses in ([200, 200], [200, 409])
        assert asking.answer().status == 200
    assert stack.upstream.count(path=path) == 1
    told(stack, hold["id"], "opened", "vote", "approved", "released")


def test_approving_and_denying_at_once_has_one_outcome(stack: Stack, who: str):
    path = f"/pay/{who}"
    frank, freya = (Approvals(stack, stack.approver(name)) for name in ("frank", "freya"))
    together = threading.Barrier(2)
    with Asking(stack, who, path) as asking, ThreadPoolExecutor(2) as pool:
        hold = frank.hold_of(who)

        def act(what: tuple[Approvals, str]) -> int:
            together.wait(10)
            return what[0].act(hold["id"], what[1]).status

        statuses = list(pool.map(act, [(frank, "approve"), (freya, "deny")]))
        status = asking.answer().status
    assert sorted(statuses) == [200, 409]
    approved = statuses[0] == 200
    assert status == (200 if approved else 403)
    assert stack.upstream.count(path=path) == approved
    told(stack, hold["id"], "opened", "vote", *(["approved", "released"] if approved else ["rejected"]))


def test_a_client_that_leaves_as_it_is_approved_gets_it_at_most_once(stack: Stack, fiona: Approvals):
    """Whichever comes first, the approval is spent once or still there, and the books agree with the upstream."""
    together = threading.Barrier(2)
    with ThreadPoolExecutor(1) as pool:
        for _ in range(8):
            who = somebody()
            path = f"/pay/{who}"
            asking = Asking(stack, who, path)
            hold_id = fiona.hold_of(who)["id"]

            def approve(hold_id: str = hold_id) -> int:
                together.wait(10)
                return fiona.approve(hold_id).status

            approving = pool.submit(approve)
            together.wait(10)
            asking.leave()
            assert approving.result(20) == 200
            again = None
            if fiona.show(hold_id)["state"] == "approved":
                again = ask(stack, who, path, headers=[JSON, ("prefer", "hold=async")])
            shown = fiona.show(hold_id)
            assert shown["state"] == "released"
            outcome = decided(stack, shown["released_to"])["outcome"]
            if again is not None and again.status == 200:
                assert outcome["executed"] is True
            if outcome["executed"] is False:
                assert stack.upstream.count(path=path) == 0
            assert stack.upstream.count(path=path) <= 1


def test_a_quorum_needs_every_group(stack: Stack, fiona: Approvals, who: str):
    path = f"/team/{who}"
    lea = Approvals(stack, stack.approver("lea", groups=["legal", "finance"]))
    with Asking(stack, who, path) as asking:
        hold = fiona.hold_of(who)
        assert fiona.approve(hold["id"]).body["missing"] == [{"group": "legal", "count": 1}]
        assert fiona.approve(hold["id"]).status == 200, "the same word again changes nothing"
        assert asking.is_waiting and stack.upstream.count(path=path) == 0
        assert lea.approve(hold["id"]).status == 200
        assert asking.answer().status == 200
    assert stack.upstream.count(path=path) == 1
    told(stack, hold["id"], "opened", "vote", "vote", "approved", "released")


# ---------------------------------------------------------------------- who may decide


@pytest.fixture
def pending(stack: Stack, fiona: Approvals, who: str) -> Iterator[str]:
    """The id of a hold whose request waits, and goes nowhere in the end."""
    token = stack.token(who, groups=["writers"], kind="human", email=f"{who}@corp.example")
    with Asking(stack, who, f"/pay/{who}", token=token) as asking:
        hold = fiona.hold_of(who)
        yield hold["id"]
        assert asking.is_waiting
        assert fiona.show(hold["id"])["votes"] == []
        fiona.deny(hold["id"])
        assert asking.answer().status == 403
    assert stack.upstream.count(path=f"/pay/{who}") == 0
    told(stack, hold["id"], "opened", "vote", "rejected")


def test_whoever_asked_cannot_approve(stack: Stack, who: str, pending: str):
    itself = Approvals(stack, stack.approver(who))
    alias = Approvals(stack, stack.approver("another-account", email=f"{who}@corp.example"))
    for caller in (itself, alias):
        answer = caller.approve(pending)
        assert (answer.status, answer.code) == (403, "self_approval")
        assert caller.show(pending)["may"] == ["withdraw"]
    refused = [
        record
        for record in stack.records()
        if record["kind"] == "admin.refused" and record.get("hold") == pending
    ]
    assert [record["code"] for record in refused] == ["self_approval"] * 2


@pytest.mark.parametrize("kind", ["agent", "service", None])
def test_only_people_approve(stack: Stack, pending: str, kind: str | None):
    answer = Approvals(stack, stack.approver("robot", kind=kind)).approve(pending)
    assert (answer.status, answer.code) == (404, "not_found")


def test_an_agent_reads_its_own_hold_and_cannot_approve_it(stack: Stack, who: str, pending: str):
    agent = Approvals(stack, stack.approver(who, kind="agent"))
    assert [hold["id"] for hold in agent.holds()] == [pending]
    assert agent.approve(pending).code == "self_approval"


def test_strangers_see_no_hold(stack: Stack, pending: str):
    stranger = Approvals(stack, stack.approver("sam", groups=["sales"]))
    assert stranger.holds() == []
    for answer in (stranger.call("GET", f"/v1/holds/{pending}"), stranger.approve(pending)):
        assert (answer.status, answer.code) == (404, "not_found")


@pytest.mark.parametrize(
    ("claims", "status", "code"),
    [
        ({"aud": "customers-api"}, 401, "wrong_audience"),
        ({"azp": "customers-app"}, 403, "wrong_client"),
        ({"azp": None}, 403, "wrong_client"),
        ({"lifetime": -60}, 401, "expired"),
        ({"iss": "https://elsewhere.example"}, 401, "unknown_issuer"),
    ],
    ids=["data-path", "other-client", "no-client", "expired", "other-issuer"],
)
def test_a_token_for_something_else_approves_nothing(
    stack: Stack, pending: str, claims: dict[str, Any], status: int, code: str
):
    caller = Approvals(stack, stack.approver("fiona", **claims))
    for answer in (caller.approve(pending), caller.call("GET", f"/v1/holds/{pending}")):
        assert (answer.status, answer.code) == (status, code)


def test_a_get_approves_nothing(stack: Stack, fiona: Approvals, pending: str):
    answer = fiona.call("GET", f"/v1/holds/{pending}/approve?reason=x")
    assert answer.status == 405


# ---------------------------------------------------------------------- what an approval is bound to

CHANGES: dict[str, dict[str, Any]] = {
    "body": {"body": b'{"amount": 9000, "to": "ACME"}'},
    "body-spacing": {"body": b'{"amount":5000,"to":"ACME"}'},
    "new-header": {"headers": [JSON, ("x-note", "more")]},
    "content-type": {"headers": [("content-type", "application/json; charset=utf-8")]},
    "method": {"method": "PUT"},
    "preference": {"headers": [JSON, ("prefer", "hold=async, return=minimal")]},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_request_is_held_anew_and_spends_nothing(
    stack: Stack, fiona: Approvals, who: str, change: dict[str, Any]
):
    path = f"/pay/{who}"
    plain = {"headers": [JSON, ("prefer", "hold=async")]}
    approved = problem(ask(stack, who, path, **plain))["hold"]["id"]
    fiona.approve(approved)
    changed = {**plain, **change}
    if "prefer" not in dict(changed["headers"]):
        changed["headers"] = [*changed["headers"], ("prefer", "hold=async")]
    other = problem(ask(stack, who, path, **changed))
    assert other["code"] == "held" and other["hold"]["id"] != approved
    assert stack.upstream.count(path=path) == 0
    assert fiona.show(approved)["state"] == "approved"
    assert ask(stack, who, path, **plain).status == 200
    assert stack.upstream.count(path=path) == 1


def test_another_path_query_user_or_host_is_held_anew(stack: Stack, fiona: Approvals, who: str):
    path, wish = f"/pay/{who}", [JSON, ("prefer", "hold=async")]
    approved = problem(ask(stack, who, path, headers=wish))["hold"]["id"]
    fiona.approve(approved)
    other = somebody()
    replies = [
        ask(stack, who, f"{path}/x", headers=wish),
        ask(stack, who, f"{path}?a=1", headers=wish),
        ask(stack, other, path, headers=wish),
    ]
    elsewhere = stack.raw(
        "POST", path, token=stack.token(who, groups=["writers"]), headers=wish, body=PAYMENT
    )
    with stack.client() as client:
        replies.append(client.ask(elsewhere.replace(b"api.example", b"api2.example")))
    assert [problem(reply)["code"] for reply in replies] == ["held"] * 4
    assert len({problem(reply)["hold"]["id"] for reply in replies} | {approved}) == 5
    assert fiona.show(approved)["state"] == "approved"
    assert all(who not in seen.path for seen in stack.upstream.requests)


def test_headers_that_change_with_every_try_are_not_bound(stack: Stack, fiona: Approvals, who: str):
    path = f"/pay/{who}"

    def volatile(n: int) -> Sequence[tuple[str, str]]:
        return [
            JSON, ("prefer", "hold=async"), ("user-agent", f"agent/{n}"), ("x-request-id", f"id-{n}"),
            ("traceparent", f"00-{n:032x}-{n:016x}-01"), ("tracestate", f"a={n}"), ("baggage", f"b={n}"),
            ("x-forwarded-for", f"10.0.0.{n}"), ("date", f"Mon, 0{n} Jan 2024 00:00:00 GMT"), ("x-attempt", str(n)),
            ("x-b3-traceid", f"{n:032x}"),
        ]  # fmt: skip

    hold_id = problem(ask(stack, who, path, headers=volatile(1)))["hold"]["id"]
    assert problem(ask(stack, who, path, headers=volatile(2)))["hold"]["id"] == hold_id
    fiona.approve(hold_id)
    assert ask(stack, who, path, headers=volatile(3)).status == 200
    assert stack.upstream.count(path=path) == 1


def test_the_same_bytes_in_other_framing_are_the_same_request(stack: Stack, fiona: Approvals, who: str):
    path, wish = f"/pay/{who}", [JSON, ("prefer", "hold=async")]
    hold_id = problem(ask(stack, who, path, headers=wish))["hold"]["id"]
    fiona.approve(hold_id)
    token = stack.token(who, groups=["writers"])
    head = stack.raw("POST", path, token=token, headers=[*wish, ("transfer-encoding", "chunked")])
    with stack.client() as client:
        assert client.ask(head + chunked(PAYMENT[:7], PAYMENT[7:])).status == 200
    assert stack.upstream.last().body == PAYMENT and stack.upstream.count(path=path) == 1


def test_a_client_that_expects_100_is_held_with_its_body(stack: Stack, fiona: Approvals, who: str):
    path = f"/pay/{who}"
    token = stack.token(who, groups=["writers"])
    fields = [JSON, ("expect", "100-continue"), ("content-length", str(len(PAYMENT)))]
    with stack.client() as client:
        client.send(stack.raw("POST", path, token=token, headers=fields))
        client.read_until(b"100 Continue\r\n\r\n")
        client.send(PAYMENT)
        hold = fiona.hold_of(who)
        assert "5000" in fiona.show(hold["id"])["view"]["raw"]["body"]
        fiona.approve(hold["id"])
        assert client.read().status == 200
    assert stack.upstream.count(path=path) == 1


def test_a_revoked_approval_and_a_withdrawn_request_let_nothing_go(stack: Stack, fiona: Approvals, who: str):
    path, wish = f"/pay/{who}", [JSON, ("prefer", "hold=async")]
    first = problem(ask(stack, who, path, headers=wish))["hold"]["id"]
    fiona.approve(first)
    assert fiona.act(first, "revoke", "wrong one").body["state"] == "revoked"
    itself = Approvals(stack, stack.approver(who, kind="agent"))
    with Asking(stack, who, path) as asking:
        second = fiona.hold_of(who)["id"]
        assert fiona.act(second, "withdraw", "not mine").status == 403
        assert itself.act(second, "withdraw", "changed my mind").status == 200
        reply = asking.answer()
    assert (reply.status, problem(reply)["code"]) == (403, "hold-closed")
    assert stack.upstream.count(path=path) == 0
    told(stack, first, "opened", "vote", "approved", "revoked")
    told(stack, second, "opened", "withdrawn")


# ---------------------------------------------------------------------- policy changes under a hold


def test_a_policy_that_was_tightened_makes_the_approval_void(stack: Stack, fiona: Approvals, who: str):
    path = f"/pay/{who}"
    frozen = '  - {name: frozen, when: request.url_path.startsWith("/pay/"), then: {deny: {message: Frozen}}}'
    tighter = POLICY.replace("rules:\n", f"rules:\n{frozen}\n", 1)
    with Asking(stack, who, path) as one, Asking(stack, who, path) as two:
        hold = fiona.hold_of(who, waiters=2)
        with policy(stack, tighter):
            fiona.approve(hold["id"])
            replies = [one.answer(), two.answer()]
    assert {(reply.status, problem(reply)["code"]) for reply in replies} == {(403, "hold-void")}
    assert stack.upstream.count(path=path) == 0
    moves = told(stack, hold["id"], "opened", "vote", "approved", "void")
    assert moves[-1]["reason"] == "denied-now"
    for reply in replies:
        story = decided(stack, problem(reply)["decision_id"])
        assert (story["intent"]["code"], story["outcome"]["executed"]) == ("hold-void", False)


def test_a_change_of_who_must_approve_makes_the_approval_void(stack: Stack, fiona: Approvals, who: str):
    path = f"/pay/{who}"
    with Asking(stack, who, path) as asking:
        hold = fiona.hold_of(who)
        with policy(
            stack, POLICY.replace("{group: finance, count: 1}]}\n", "{group: finance, count: 2}]}\n", 1)
        ):
            fiona.approve(hold["id"])
            reply = asking.answer()
            assert (reply.status, problem(reply)["code"]) == (403, "hold-void")
            held = problem(ask(stack, who, path, headers=[JSON, ("prefer", "hold=async")]))
            assert held["code"] == "held" and held["hold"]["id"] != hold["id"]
            assert fiona.show(held["hold"]["id"])["approvers"] == [{"group": "finance", "count": 2}]
    assert stack.upstream.count(path=path) == 0
    assert told(stack, hold["id"], "opened", "vote", "approved", "void")[-1]["reason"] == "rules-changed"


def test_a_change_of_another_rule_leaves_the_approval(stack: Stack, fiona: Approvals, who: str):
    path = f"/pay/{who}"
    with Asking(stack, who, path) as asking:
        hold = fiona.hold_of(who)
        with policy(
            stack,
            POLICY.replace("amount < 1000", "amount < 2000").replace("amount >= 1000", "amount >= 2000"),
        ):
            fiona.approve(hold["id"])
            assert asking.answer().status == 200
    assert stack.upstream.count(path=path) == 1
    told(stack, hold["id"], "opened", "vote", "approved", "released")


def test_a_policy_that_no_longer_asks_lets_an_approved_request_go(stack: Stack, fiona: Approvals, who: str):
    path = f"/vault/{who}"
    open_now = POLICY.replace(
        "then: {hold: {group: finance, wait: 60s, expires: 1h}, mask: pii}", "then: {allow: {}, mask: pii}"
    )
    stack.upstream.on("GET", path, json_reply({"to": "bob@example.org"}))
    with Asking(stack, who, path, method="GET", body=None, headers=()) as asking:
        hold = fiona.hold_of(who)
        with policy(stack, open_now):
            fiona.approve(hold["id"])
            reply = asking.answer()
    assert (reply.status, reply.json()) == (200, {"to": "[EMAIL_ADDRESS]"})
    assert stack.upstream.count(path=path) == 1


def test_a_repeated_request_meets_the_policy_of_its_own_time(stack: Stack, fiona: Approvals, who: str):
    path, wish = f"/pay/{who}", [JSON, ("prefer", "hold=async")]
    hold_id = problem(ask(stack, who, path, headers=wish))["hold"]["id"]
    fiona.approve(hold_id)
    frozen = '  - {name: frozen, when: request.url_path.startsWith("/pay/"), then: {deny: {message: Frozen}}}'
    with policy(stack, POLICY.replace("rules:\n", f"rules:\n{frozen}\n", 1)):
        assert problem(ask(stack, who, path, headers=wish))["code"] == "rule-denied"
        assert stack.upstream.count(path=path) == 0
    assert fiona.show(hold_id)["state"] == "approved"
    assert ask(stack, who, path, headers=wish).status == 200
    assert stack.upstream.count(path=path) == 1


# ---------------------------------------------------------------------- tokens


def test_a_token_that_expires_ends_the_wait_and_a_fresh_one_uses_the_approval(
    stack: Stack, fiona: Approvals, who: str
):
    path = f"/pay/{who}"
    token = stack.token(who, groups=["writers"], lifetime=2)
    with Asking(stack, who, path, token=token) as asking:
        hold = fiona.hold_of(who)
        reply = asking.answer()
    said = problem(reply)
    assert (reply.status, said["code"], said["hold"]["id"]) == (401, "token-expired", hold["id"])
    assert (said["executed"], said["resend"]) == (False, True)
    assert (reply.header("www-authenticate") or "").startswith(
        'Bearer realm="extproc", error="invalid_token"'
    )
    assert fiona.show(hold["id"])["state"] == "pending"
    fiona.approve(hold["id"])
    assert ask(stack, who, path).status == 200
    assert stack.upstream.count(path=path) == 1
    told(stack, hold["id"], "opened", "vote", "approved", "released")


# ---------------------------------------------------------------------- the upstream's part


def test_an_upstream_that_fails_is_not_asked_again(stack: Stack, fiona: Approvals, who: str):
    """The approval is spent: nobody knows what a failed attempt has done."""
    path = f"/pay/{who}"
    stack.upstream.on("POST", path, json_reply({"error": "busy"}, status=503))
    retrying = [JSON, ("x-envoy-retry-on", "5xx,gateway-error"), ("x-envoy-max-retries", "3"),
                ("x-envoy-hedge-on-per-try-timeout", "true")]  # fmt: skip
    with Asking(stack, who, path, headers=retrying) as asking:
        hold = fiona.hold_of(who)
        fiona.approve(hold["id"])
        reply = asking.answer()
    assert (reply.status, reply.json()) == (503, {"error": "busy"})
    assert stack.upstream.count(path=path) == 1
    told(stack, hold["id"], "opened", "vote", "approved", "released")
    outcome = stack.story(path)["outcome"]
    assert (outcome["executed"], outcome["response"]["code"]) == (True, 503)
    again = problem(ask(stack, who, path, headers=[JSON, ("prefer", "hold=async")]))
    assert again["hold"]["id"] != hold["id"]


def test_an_upstream_that_hangs_up_is_not_asked_again(stack: Stack, fiona: Approvals, who: str):
    path = f"/pay/{who}"
    stack.upstream.on("POST", path, Reply(raw=b""))
    with Asking(stack, who, path) as asking:
        hold = fiona.hold_of(who)
        fiona.approve(hold["id"])
        assert asking.answer().status == 503
    assert stack.upstream.count(path=path) == 1
    told(stack, hold["id"], "opened", "vote", "approved", "released")
    stack.upstream.on("POST", path, json_reply({"ok": True}))
    assert (
        problem(ask(stack, who, path, headers=[JSON, ("prefer", "hold=async")]))["hold"]["id"] != hold["id"]
    )
    assert stack.upstream.count(path=path) == 1


def test_no_route_retries_mirrors_or_hedges(stack: Stack):
    rendered = json.loads((stack.directory / "envoy.json").read_text())
    for listener in rendered["static_resources"]["listeners"]:
        text = json.dumps(listener["filter_chains"][0]["filters"][0]["typed_config"]["route_config"])
        for name in ("retry_policy", "request_mirror_policies", "hedge_policy"):
            assert name not in text


def test_a_released_response_is_masked(stack: Stack, fiona: Approvals, who: str):
    path = f"/vault/{who}"
    stack.upstream.on("GET", path, json_reply({"email": "bob@example.org", "n": 1}))
    with Asking(stack, who, path, method="GET", body=None, headers=()) as asking:
        hold = fiona.hold_of(who)
        fiona.approve(hold["id"])
        reply = asking.answer()
    assert (reply.status, reply.json()) == (200, {"email": "[EMAIL_ADDRESS]", "n": 1})
    assert reply.header("content-length") == str(len(reply.body))
    outcome = stack.story(path)["outcome"]
    assert outcome["response"]["masked"] == {"EMAIL_ADDRESS": 1}
    told(stack, hold["id"], "opened", "vote", "approved", "released")


@pytest.mark.parametrize("coding", ["", "gzip"])
def test_a_rule_over_the_body_holds_what_is_large(stack: Stack, fiona: Approvals, who: str, coding: str):
    path = f"/sized/{who}"

    def options(amount: int) -> dict[str, Any]:
        text = json.dumps({"amount": amount, "note": "for ACME"}).encode()
        if not coding:
            return {"body": text}
        return {"body": gzip.compress(text, mtime=0), "headers": [JSON, ("content-encoding", "gzip")]}

    assert ask(stack, who, path, **options(10)).status == 200
    with Asking(stack, who, path, **options(5000)) as asking:
        hold = fiona.hold_of(who)
        shown = fiona.show(hold["id"])
        assert json.loads(shown["view"]["raw"]["body"]) == {"amount": 5000, "note": "for ACME"}
        assert shown["shown_in_full"] and stack.upstream.count(path=path) == 1
        fiona.approve(hold["id"])
        assert asking.answer().status == 200
    assert stack.upstream.last().body == options(5000)["body"]
    assert stack.upstream.count(path=path) == 2


# ---------------------------------------------------------------------- what an approver sees


def test_facts_come_first_and_nothing_is_shown_unmasked(stack: Stack, fiona: Approvals, who: str):
    canary = f"canary.{who}@example.org"
    token = stack.token(who, groups=["writers"])
    path = f"/pay/{who}?mail={canary}"
    body = json.dumps({"amount": 1, "mail": canary}).encode()
    with Asking(stack, who, path, body=body, headers=[JSON, ("x-mail", canary)], token=token) as asking:
        hold = fiona.hold_of(who)
        shown = fiona.show(hold["id"])
        listed = next(held for held in fiona.holds(who) if held["id"] == hold["id"])
        fiona.deny(hold["id"])
        said = asking.answer()
    view = shown["view"]
    assert list(view)[:3] == ["facts", "normalised", "raw"]
    facts = view["facts"]
    assert (facts["method"], facts["path"], facts["target"]) == ("POST", f"/pay/{who}", "customers-api")
    assert facts["risk"] == [{"rule": "holds/pay", "risk": 60}]
    assert facts["reason"] == "Payments need a second pair of eyes."
    assert view["normalised"]["query"] == {"mail": ["[EMAIL_ADDRESS]"]}
    assert json.loads(view["raw"]["body"]) == {"amount": 1, "mail": "[EMAIL_ADDRESS]"}
    for text in (json.dumps(shown), json.dumps(listed), said.body.decode()):
        assert canary not in text and token not in text
    names = {name for name, _ in view["raw"]["headers"]}
    assert "x-mail" in names and "authorization" not in names
    assert not stack.is_kept(canary)
    assert not stack.is_kept(token.split(".")[2])


def test_what_is_not_shown_in_full_can_be_denied_but_not_approved(stack: Stack, fiona: Approvals, who: str):
    path = f"/pay/{who}"
    body = json.dumps({"amount": 1, "note": "x" * (70 << 10)}).encode()
    with Asking(stack, who, path, body=body) as asking:
        hold = fiona.hold_of(who)
        shown = fiona.show(hold["id"])
        assert shown["view"]["truncated"] is True and shown["view"]["raw"]["body_cut_at"] == 64 << 10
        assert (shown["shown_in_full"], shown["may"]) == (False, ["deny"])
        answer = fiona.approve(hold["id"])
        assert (answer.status, answer.code) == (409, "not_shown_in_full")
        assert asking.is_waiting
        fiona.deny(hold["id"])
        assert asking.answer().status == 403
    assert stack.upstream.count(path=path) == 0


def test_a_body_that_cannot_be_shown_cannot_be_approved(stack: Stack, fiona: Approvals, who: str):
    path = f"/pay/{who}"
    with Asking(
        stack, who, path, body=b"\xff\xfe\x00", headers=[("content-type", "application/octet-stream")]
    ) as asking:
        hold = fiona.hold_of(who)
        assert "body" not in fiona.show(hold["id"])["view"]["raw"]
        assert fiona.approve(hold["id"]).code == "not_shown_in_full"
        fiona.deny(hold["id"])
        assert asking.answer().status == 403
    assert stack.upstream.count(path=path) == 0


def test_a_reason_is_kept_without_what_policy_hides(stack: Stack, fiona: Approvals, who: str):
    path, canary = f"/pay/{who}", f"reason.{who}@example.org"
    with Asking(stack, who, path) as asking:
        hold = fiona.hold_of(who)
        fiona.deny(hold["id"], f"ask {canary} first")
        assert problem(asking.answer())["reason"] == "ask [EMAIL_ADDRESS] first"
    told(stack, hold["id"], "opened", "vote", "rejected")
    assert not stack.is_kept(canary)


# ---------------------------------------------------------------------- bounds


def test_one_caller_can_hold_only_so_many(stack: Stack, fiona: Approvals, who: str):
    wish = [JSON, ("prefer", "hold=async")]
    held = [problem(ask(stack, who, f"/pay/{who}/{n}", headers=wish)) for n in range(4)]
    assert {said["code"] for said in held} == {"held"}
    reply = ask(stack, who, f"/pay/{who}/5", headers=wish)
    said = problem(reply)
    assert (reply.status, said["code"], reply.header("retry-after")) == (429, "too-many-holds", "5")
    assert said["executed"] is False and stack.upstream.count(path=f"/pay/{who}/5") == 0
    assert decided(stack, said["decision_id"])["outcome"]["response"]["code"] == 429
    assert problem(ask(stack, who, f"/pay/{who}/1", headers=wish))["code"] == "held", "joining needs no room"
    assert problem(ask(stack, somebody(), f"/pay/{who}/5", headers=wish))["code"] == "held", (
        "others have room"
    )
    fiona.deny(held[0]["hold"]["id"])
    assert problem(ask(stack, who, f"/pay/{who}/5", headers=wish))["code"] == "held"


def test_only_so_many_requests_wait_at_once(stack: Stack, fiona: Approvals):
    people = [somebody() for _ in range(8)]
    waiting = [Asking(stack, who, f"/pay/{who}") for who in people]
    try:
        holds = [fiona.hold_of(who)["id"] for who in people]
        late = somebody()
        reply = ask(stack, late, f"/pay/{late}")
        assert (reply.status, problem(reply)["code"]) == (429, "too-many-holds")
        waiting[0].leave()
        fiona.hold_of(people[0], waiters=0)
        with Asking(stack, late, f"/pay/{late}"):
            fiona.hold_of(late)
        for hold_id in holds[1:]:
            fiona.deny(hold_id)
        assert {asking.answer().status for asking in waiting[1:]} == {403}
    finally:
        for asking in waiting:
            asking.leave()


def test_only_so_many_requests_wait_on_one_hold(stack: Stack, fiona: Approvals, who: str):
    path = f"/pay/{who}"
    waiting = [Asking(stack, who, path) for _ in range(3)]
    try:
        hold = fiona.hold_of(who, waiters=3)
        reply = ask(stack, who, path)
        assert (reply.status, problem(reply)["code"]) == (429, "too-many-holds")
        fiona.deny(hold["id"])
        assert {asking.answer().status for asking in waiting} == {403}
    finally:
        for asking in waiting:
            asking.leave()
    assert stack.upstream.count(path=path) == 0


# ---------------------------------------------------------------------- HTTP/2


def test_a_held_stream_does_not_hold_up_its_neighbours(stack: Stack, fiona: Approvals, who: str):
    with Http2(stack, stack.token(who, groups=["writers"])) as client:
        held = client.send("POST", f"/pay/{who}", PAYMENT)
        hold = fiona.hold_of(who)
        assert client.status(client.send("GET", f"/plain/{who}")) == 200
        assert not client.is_answered(held)
        fiona.approve(hold["id"])
        assert client.status(held) == 200
    assert stack.upstream.count("POST", f"/pay/{who}") == 1
    told(stack, hold["id"], "opened", "vote", "approved", "released")


def test_an_http2_stream_that_is_reset_leaves_the_hold(stack: Stack, fiona: Approvals, who: str):
    with Http2(stack, stack.token(who, groups=["writers"])) as client:
        first = client.send("POST", f"/pay/{who}", PAYMENT)
        hold = fiona.hold_of(who)
        client.reset(first)
        fiona.hold_of(who, waiters=0)
        second = client.send("POST", f"/pay/{who}", PAYMENT)
        assert fiona.hold_of(who)["id"] == hold["id"]
        fiona.approve(hold["id"])
        assert client.status(second) == 200
    assert stack.upstream.count("POST", f"/pay/{who}") == 1
    told(stack, hold["id"], "opened", "vote", "approved", "released")


# ---------------------------------------------------------------------- the command line


class Console:
    """`extproc holds` as one person types it, the token in a file."""

    def __init__(self, stack: Stack, folder: Path, token: str) -> None:
        self._stack = stack
        self._file = folder / "token"
        self._file.write_text(token + "\n")

    def __call__(self, *words: str) -> tuple[int, str, str]:
        api = f"unix:{self._stack.directory}/a.sock"
        done = self._stack.cli("holds", *words, "--api", api, "--token-file", str(self._file), check=False)
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def console(stack: Stack, tmp_path: Path) -> Console:
    return Console(stack, tmp_path, stack.approver())


def test_a_hold_is_listed_shown_and_approved_on_the_command_line(
    stack: Stack, fiona: Approvals, console: Console, who: str
):
    path = f"/pay/{who}"
    with Asking(stack, who, path) as asking:
        hold_id = fiona.hold_of(who)["id"]
        code, out, _ = console("list")
        assert code == 0
        (row,) = [line.split("\t") for line in out.splitlines() if line.startswith(hold_id)]
        assert row[1:4] == ["pending", "customers-api", f"{who} (agent)"]
        code, out, _ = console("show", hold_id)
        assert code == 0 and f"Hold {hold_id} is pending" in out and "Payments need" in out
        assert out.index("facts:") < out.index("normalised:") < out.index("raw:")
        code, out, _ = console("show", hold_id, "--json")
        assert json.loads(out)["id"] == hold_id
        code, out, err = console("approve", hold_id)
        assert code == 2 and "--reason" in err and asking.is_waiting
        code, out, _ = console("approve", hold_id, "--reason", "ticket 12")
        assert code == 0 and hold_id in out
        assert asking.answer().status == 200
    assert stack.upstream.count(path=path) == 1
    assert told(stack, hold_id, "opened", "vote", "approved", "released")[1]["reason"] == "ticket 12"
    code, _, err = console("deny", hold_id, "--reason", "too late")
    assert code == 1 and "not_open" in err


def test_a_hold_is_denied_and_withdrawn_on_the_command_line(
    stack: Stack, fiona: Approvals, console: Console, tmp_path: Path, who: str
):
    path = f"/pay/{who}"
    with Asking(stack, who, path) as asking:
        hold_id = fiona.hold_of(who)["id"]
        assert console("deny", hold_id, "--reason", "no invoice")[0] == 0
        assert problem(asking.answer())["reason"] == "no invoice"
    own = tmp_path / "own"
    own.mkdir()
    mine = Console(stack, own, stack.approver(who, kind="agent"))
    with Asking(stack, who, path) as asking:
        hold_id = fiona.hold_of(who)["id"]
        assert console("withdraw", hold_id, "--reason", "x")[0] == 1
        assert mine("approve", hold_id, "--reason", "please")[0] == 1
        assert hold_id in mine("list", "--mine")[1]
        assert mine("withdraw", hold_id, "--reason", "not needed")[0] == 0
        assert problem(asking.answer())["code"] == "hold-closed"
    assert stack.upstream.count(path=path) == 0
    told(stack, hold_id, "opened", "withdrawn")


def test_what_hides_or_moves_text_is_spelled_out(stack: Stack, fiona: Approvals, console: Console, who: str):
    path = f"/pay/{who}%E2%80%AEevil?q=%1b%5B2J%E2%80%8B"
    body = "a\x1b[31m\u202eb\u200b\x07".encode()
    with Asking(
        stack, who, path, body=body, headers=[("content-type", "text/plain; charset=utf-8")]
    ) as asking:
        hold_id = fiona.hold_of(who)["id"]
        for words in (("list",), ("show", hold_id), ("show", hold_id, "--json")):
            code, out, _ = console(*words)
            assert code == 0 and who in out
            assert not set(out) & {"\x1b", "\u202e", "\u200b", "\x07"}
        text = console("show", hold_id)[1]
        assert all(rf"\u{{{code}}}" in text for code in ("1B", "202E", "200B", "7"))
        assert console("deny", hold_id, "--reason", "odd")[0] == 0
        assert asking.answer().status == 403
    assert all(who not in seen.path for seen in stack.upstream.requests)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("show", "h-nothinghere2"), 1),
        (("show", "../../etc"), 1),
        (("approve", "h-nothinghere2", "--reason", "x"), 1),
    ],
    ids=["unknown", "path", "approve-unknown"],
)
def test_the_command_line_says_what_was_refused(console: Console, words: tuple[str, ...], code: int):
    done = console(*words)
    assert done[0] == code and done[2].strip()


def test_the_command_line_without_a_service_is_3(stack: Stack, tmp_path: Path):
    token = tmp_path / "token"
    token.write_text(stack.approver())
    done = stack.cli(
        "holds", "list", "--api", f"unix:{tmp_path}/none.sock", "--token-file", str(token), check=False
    )
    assert done.returncode == 3


# ---------------------------------------------------------------------- all of it


def test_every_move_of_every_hold_is_in_the_ledger_once(stack: Stack):
    """Last: it looks at what all the tests before it left behind."""
    assert check_every_hold(stack) > 0
    wait_until(
        lambda: not any("outcome" not in story for story in _stories(stack)),
        what="every decision to have its outcome", within=15,
    )  # fmt: skip
    verify(stack)


def _stories(stack: Stack) -> list[set[str]]:
    found: dict[str, set[str]] = {}
    for record in stack.records():
        if record["kind"] in ("intent", "outcome"):
            found.setdefault(record["decision_id"], set()).add(record["kind"])
    return list(found.values())
