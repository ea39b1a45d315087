"""Holds outlive what holds them: killed workers, restarts, Envoy's own clocks. Two workers share one store."""

from __future__ import annotations

import copy
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx2
import pytest

from extproc.demo.processes import free_port, wait_until
from tests.e2e.approving import (
    JSON,
    PAYMENT,
    Approvals,
    Asking,
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
from tests.support.raw_http import RawClient
from tests.support.replies import json_reply

pytestmark = pytest.mark.e2e

POLICY = """\
apiVersion: extproc/v1
kind: Policy
metadata: {name: crash}
target: customers-api
default: deny
rules:
  - name: pay
    when: request.method == "POST" && request.url_path.startsWith("/pay/")
    then: {hold: {group: finance, wait: 2m, expires: 1h, use_within: 10m}}
  - name: vault
    when: request.method == "GET" && request.url_path.startsWith("/vault/")
    then: {hold: {group: finance, wait: 2m, expires: 1h, use_within: 10m}}
  - name: plain
    when: request.method == "GET" && request.url_path.startsWith("/plain/")
    then: {allow: {}}
"""
MESSAGE_TIMEOUT = 2.0
"""Seconds Envoy waits for an ordinary answer here; every hold is made to last longer."""
IMPATIENT = "impatient"
ASYNC = (JSON, ("prefer", "hold=async"))

impatient_port = 0


def add_impatient_listener(config: dict[str, Any]) -> None:
    """The same listener once more, on another port, with a stream_idle_timeout shorter than any wait."""
    global impatient_port
    impatient_port = free_port()
    listeners = config["static_resources"]["listeners"]
    twin = copy.deepcopy(listeners[0])
    twin["name"] = IMPATIENT
    twin["address"]["socket_address"]["port_value"] = impatient_port
    manager = twin["filter_chains"][0]["filters"][0]["typed_config"]
    manager["stream_idle_timeout"] = "1.500s"
    for host in manager["route_config"]["virtual_hosts"]:
        for route in host["routes"]:
            route["route"].pop("idle_timeout", None)
    listeners.append(twin)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(
        tmp_path_factory.mktemp("crash"),
        policy=POLICY,
        settings={"envoy": {"message_timeout": f"{MESSAGE_TIMEOUT:g}s"}, "processor": {"workers": 2}},
        change_envoy=add_impatient_listener,
    ) as stack:
        yield stack


@pytest.fixture
def fiona(stack: Stack) -> Approvals:
    return Approvals(stack)


@pytest.fixture
def who() -> str:
    return somebody()


def outlast_message_timeout() -> None:
    """Let more time pass than Envoy grants an answer that asks for none."""
    time.sleep(MESSAGE_TIMEOUT * 1.5)


def timeouts(stack: Stack, what: str) -> int:
    assert stack.envoy is not None
    return sum(stack.envoy.stats(rf"ext_proc.*\.{what}$").values())


def kill(stack: Stack, kind: str) -> None:
    """kill -9 for every child of this kind; returns once the supervisor has started others."""
    before = stack.service_pids(kind)
    assert before
    for pid in before:
        os.kill(pid, signal.SIGKILL)

    def others() -> bool:
        now = stack.service_pids(kind)
        return len(now) == len(before) and not set(now) & set(before)

    wait_until(others, what=f"new children: {kind}", within=20, process=stack.service)


def until_approvals_answer(stack: Stack) -> None:
    def answers() -> bool:
        with suppress(httpx2.TransportError):
            return Approvals(stack).call("GET", "/v1/healthz").status == 200
        return False

    wait_until(answers, what="the approvals API to answer", within=20, process=stack.service)


def until_served(stack: Stack, path: str) -> None:
    """Envoy reaches the workers again."""
    wait_until(
        lambda: ask(stack, "reader", path, method="GET", body=None, headers=()).status == 200,
        what="workers to be served", within=20, process=stack.service,
    )  # fmt: skip


# ---------------------------------------------------------------------- Envoy's clocks


@pytest.mark.parametrize("phase", ["body", "headers"])
def test_a_hold_outlasts_envoys_ordinary_patience(stack: Stack, fiona: Approvals, who: str, phase: str):
    body = phase == "body"
    path = f"/pay/{who}" if body else f"/vault/{who}"
    method, sent = ("POST", PAYMENT) if body else ("GET", None)
    before = timeouts(stack, "override_message_timeout_received")
    with Asking(stack, who, path, method=method, body=sent, headers=[JSON] if body else ()) as asking:
        hold = fiona.hold_of(who)
        outlast_message_timeout()
        assert asking.is_waiting
        fiona.approve(hold["id"])
        assert asking.answer().status == 200
    assert stack.upstream.count(method, path) == 1
    assert timeouts(stack, "override_message_timeout_received") == before + 1
    assert timeouts(stack, "override_message_timeout_ignored") == 0
    assert timeouts(stack, "message_timeouts") == 0
    told(stack, hold["id"], "opened", "vote", "approved", "released")


def test_a_hold_after_a_key_fetch_outlasts_it_too(stack: Stack, fiona: Approvals, who: str):
    """Both need time and Envoy grants it once per message."""
    path = f"/vault/{who}"
    asking: list[Asking] = []

    def held() -> bool:
        stack.issuer.rotate("ES256")  # a kid nobody has asked for yet
        token = stack.token(who, groups=["writers"], alg="ES256")
        asking[:] = [Asking(stack, who, path, method="GET", body=None, headers=(), token=token)]
        wait_until(lambda: not asking[0].is_waiting or bool(fiona.holds(who)), what="hold or 401", within=20)
        if asking[0].is_waiting:
            return True
        assert asking[0].answer().status == 401  # keys are fetched only so often
        asking[0].leave()
        return False

    wait_until(held, what="a hold under a new key", within=40, process=stack.service)
    with asking[0]:
        hold = fiona.hold_of(who)
        outlast_message_timeout()
        assert asking[0].is_waiting
        fiona.approve(hold["id"])
        assert asking[0].answer().status == 200
    assert stack.upstream.count("GET", path) == 1
    assert timeouts(stack, "override_message_timeout_ignored") == 0


def test_an_envoy_that_loses_patience_answers_and_leaves_the_hold(stack: Stack, fiona: Approvals, who: str):
    """stream_idle_timeout: its local reply comes while our answer is still owed, and must not wait for it."""
    path = f"/pay/{who}"
    token = stack.token(who, groups=["writers"])
    with RawClient(f"127.0.0.1:{impatient_port}", timeout=20) as client:
        reply = client.ask(stack.raw("POST", path, token=token, headers=[JSON], body=PAYMENT))
    assert reply.status == 504
    hold = fiona.hold_of(who, waiters=0)
    assert stack.upstream.count(path=path) == 0
    story = stack.story(path)
    assert (story["intent"]["verdict"], story["intent"]["code"]) == ("hold", "local-reply")
    assert story["intent"]["hold"]["id"] == hold["id"]
    assert (story["outcome"]["end"], story["outcome"]["executed"]) == ("local_reply", False)
    assert story["outcome"]["response"]["code"] == 504
    fiona.approve(hold["id"])
    assert ask(stack, who, path).status == 200
    assert stack.upstream.count(path=path) == 1
    told(stack, hold["id"], "opened", "vote", "approved", "released")


# ---------------------------------------------------------------------- workers


def processes_waiting(stack: Stack, hold_id: str) -> int:
    database = stack.directory / "state" / "holds.db"
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as db:
        found = db.execute("SELECT count(*) FROM waiters WHERE hold_id = ?", (hold_id,)).fetchone()
    db.close()
    return int(found[0])


def test_requests_at_two_workers_share_one_hold_and_one_approval(stack: Stack, fiona: Approvals, who: str):
    path = f"/pay/{who}"
    waiting: list[Asking] = []
    try:
        hold_id = ""
        while not hold_id or processes_waiting(stack, hold_id) < 2:
            assert len(waiting) < 40, "every request went to the same worker"
            waiting.append(Asking(stack, who, path))
            hold_id = fiona.hold_of(who, waiters=len(waiting))["id"]
        fiona.approve(hold_id)
        lucky = first_answered(*waiting)
        assert lucky.answer().status == 200
        others = [asking for asking in waiting if asking is not lucky]
        again = fiona.hold_of(who, waiters=len(others), but=[hold_id])
        assert all(asking.is_waiting for asking in others)
        fiona.deny(again["id"])
        assert {asking.answer().status for asking in others} == {403}
    finally:
        for asking in waiting:
            asking.leave()
    assert stack.upstream.count(path=path) == 1
    told(stack, hold_id, "opened", "vote", "approved", "released")
    told(stack, again["id"], "opened", "vote", "rejected")


def test_a_hold_survives_the_death_of_its_worker(stack: Stack, fiona: Approvals, who: str):
    path = f"/pay/{who}"
    with Asking(stack, who, path) as asking:
        hold = fiona.hold_of(who)
        kill(stack, "worker")
        assert asking.answer().status >= 500
    until_served(stack, f"/plain/{who}")
    assert stack.upstream.count(path=path) == 0
    assert fiona.hold_of(who, waiters=0)["id"] == hold["id"], "a dead process waits for nothing"
    with Asking(stack, who, path) as back:
        assert fiona.hold_of(who)["id"] == hold["id"]
        fiona.approve(hold["id"])
        assert back.answer().status == 200
    assert stack.upstream.count(path=path) == 1
    told(stack, hold["id"], "opened", "vote", "approved", "released")


def test_an_approval_survives_the_death_of_everything(stack: Stack, fiona: Approvals, who: str):
    path = f"/pay/{who}"
    stack.upstream.on("POST", path, json_reply({"paid": True}))
    hold_id = problem(ask(stack, who, path, headers=ASYNC))["hold"]["id"]
    assert fiona.approve(hold_id).body["state"] == "approved"
    stack.kill_service()
    stack.start_service()
    until_served(stack, f"/plain/{who}")
    assert ask(stack, who, path, headers=ASYNC).json() == {"paid": True}
    third = problem(ask(stack, who, path, headers=ASYNC))
    assert third["code"] == "held" and third["hold"]["id"] != hold_id
    assert stack.upstream.count(path=path) == 1
    told(stack, hold_id, "opened", "vote", "approved", "released")


def test_an_orderly_restart_ends_waits_on_the_record_and_keeps_holds(
    stack: Stack, fiona: Approvals, who: str
):
    path = f"/pay/{who}"
    assert stack.service is not None
    with Asking(stack, who, path) as asking:
        hold = fiona.hold_of(who)
        assert stack.service.stop(grace=30) == 0
        assert asking.answer().status >= 500
    stack.start_service()
    until_served(stack, f"/plain/{who}")
    assert fiona.hold_of(who, waiters=0)["id"] == hold["id"]
    opened = told(stack, hold["id"], "opened")[0]
    story = decided(stack, opened["decision_id"])
    assert (story["intent"]["verdict"], story["intent"]["hold"]["id"]) == ("hold", hold["id"])
    assert (story["outcome"]["end"], story["outcome"]["executed"]) == ("aborted", False)
    fiona.approve(hold["id"])
    assert ask(stack, who, path).status == 200
    assert stack.upstream.count(path=path) == 1
    told(stack, hold["id"], "opened", "vote", "approved", "released")


# ---------------------------------------------------------------------- the approvals process


def test_a_waiting_request_does_not_notice_the_death_of_the_approvals_process(
    stack: Stack, fiona: Approvals, who: str
):
    path = f"/pay/{who}"
    with Asking(stack, who, path) as asking:
        hold = fiona.hold_of(who)
        kill(stack, "approvals")
        until_approvals_answer(stack)
        assert asking.is_waiting
        assert fiona.show(hold["id"])["waiters"] == 1
        assert fiona.approve(hold["id"]).status == 200
        assert asking.answer().status == 200
    assert stack.upstream.count(path=path) == 1
    told(stack, hold["id"], "opened", "vote", "approved", "released")


def test_what_happens_while_nobody_records_it_is_recorded_later(stack: Stack, fiona: Approvals, who: str):
    """The approvals process tells the ledger; while it hangs, holds open and are spent all the same."""
    path, other = f"/pay/{who}", f"/pay/{who}/2"
    approved = problem(ask(stack, who, path, headers=ASYNC))["hold"]["id"]
    fiona.approve(approved)
    (pid,) = stack.service_pids("approvals")
    os.kill(pid, signal.SIGSTOP)
    assert ask(stack, who, path, headers=ASYNC).status == 200
    opened = problem(ask(stack, who, other, headers=ASYNC))["hold"]["id"]
    kill(stack, "approvals")
    until_approvals_answer(stack)
    told(stack, approved, "opened", "vote", "approved", "released")
    told(stack, opened, "opened")
    assert stack.upstream.count(path=path) == 1


# ---------------------------------------------------------------------- all of it


def test_no_death_lost_or_repeated_a_move(stack: Stack):
    """Last: it looks at what all the tests before it left behind."""
    assert check_every_hold(stack) > 0
    verify(stack)
