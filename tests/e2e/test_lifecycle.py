"""Policy reloads, restarts, kills and full disks: what was not written down did not happen."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from extproc.demo.processes import StartError, wait_until
from tests.e2e.load import Load, check_ledger
from tests.e2e.stack import API_KEY, POLICY, Stack
from tests.support.raw_http import RawReply, ReplyError
from tests.support.replies import Gate, Reply, json_reply

pytestmark = pytest.mark.e2e

SHADOW = POLICY.replace(
    "  - name: no-delete",
    """\
  - name: no-reading-shadow
    mode: shadow
    when: request.method == "GET"
    then: {deny: {message: "one day"}}
  - name: no-delete""",
)
TIGHTER = POLICY.replace('request.url_path != "/secrets"', 'request.url_path == "/only"')


# ---------------------------------------------------------------------- policy


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("policy")) as stack:
        yield stack


def activations(stack: Stack) -> list[dict[str, Any]]:
    return [record for record in stack.records() if record["kind"] == "policy.activated"]


def reloaded(stack: Stack, text: str) -> dict[str, Any]:
    count = len(activations(stack))
    stack.write_policy(text)
    stack.reload()
    return stack.wait_for_records(lambda r: r["kind"] == "policy.activated", count + 1)[-1]


def test_a_good_reload_counts_at_once_and_says_who_asked(stack: Stack):
    assert stack.request("GET", "/anything").status == 200
    first = activations(stack)[-1]
    second = reloaded(stack, TIGHTER)
    assert second["policy"] != first["policy"] == second["before"]
    assert second["author"] == f"uid:{os.geteuid()}"
    assert second["asked_by"] == {"by": "signal", "uid": os.geteuid()}
    assert stack.request("GET", "/anything").status == 403
    assert stack.request("GET", "/only").status == 200
    assert stack.story("/only")["intent"]["policy"] == second["policy"]
    third = reloaded(stack, POLICY)
    assert third["policy"] == first["policy"]
    assert stack.request("GET", "/anything").status == 200


@pytest.mark.parametrize(
    "broken",
    [
        POLICY.replace("request.method ==", "request.methud =="),
        POLICY.replace("then: {allow: {}}", "then: {alow: {}}"),
        POLICY.replace("default: deny", "default: perhaps"),
        POLICY.replace("wait: 20s", "wait: 3h"),
        "not: [a, policy",
        "",
    ],
    ids=["unknown-fact", "unknown-key", "bad-value", "waits-too-long", "no-yaml", "empty"],
)
def test_a_bad_reload_leaves_the_last_good_set(stack: Stack, broken: str):
    active = activations(stack)[-1]["policy"]
    count = sum(record["kind"] == "policy.refused" for record in stack.records())
    try:
        stack.write_policy(broken)
        stack.reload()
        refused = stack.wait_for_records(lambda r: r["kind"] == "policy.refused", count + 1)[-1]
        assert refused["policy"] == active
        assert refused["asked_by"] == {"by": "signal", "uid": os.geteuid()}
        assert refused["error"]
        assert stack.request("GET", "/anything").status == 200
        assert stack.request("DELETE", "/anything").status == 403
    finally:
        stack.write_policy(POLICY)


def test_a_policy_that_others_may_write_is_refused_at_reload(stack: Stack):
    count = sum(record["kind"] == "policy.refused" for record in stack.records())
    stack.policy_path.chmod(0o666)
    try:
        stack.reload()
        refused = stack.wait_for_records(lambda r: r["kind"] == "policy.refused", count + 1)[-1]
        assert "group or others may write" in refused["error"]
        assert stack.request("GET", "/anything").status == 200
    finally:
        stack.policy_path.chmod(0o644)


def test_a_shadow_rule_is_counted_and_decides_nothing(stack: Stack):
    reloaded(stack, SHADOW)
    assert stack.request("GET", "/shadowed").status == 200
    rules = {rule["rule"]: rule for rule in stack.story("/shadowed")["intent"]["rules"]}
    assert rules["e2e/no-reading-shadow"]["shadow"] is True
    assert rules["e2e/no-reading-shadow"]["effect"] == "deny"
    assert "shadow" not in rules["e2e/readers-read"]
    reloaded(stack, POLICY)


def test_reloads_under_load_never_let_a_denied_request_through(stack: Stack):
    """/secrets is forbidden by both sets; whichever is in force, it stays so."""
    stop = threading.Event()
    statuses: Counter[int] = Counter()

    def ask() -> None:
        token = stack.token()
        with stack.client() as client:
            while not stop.is_set():
                statuses[client.ask(stack.raw("GET", "/secrets", token=token)).status] += 1

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    try:
        for text in (TIGHTER, POLICY, TIGHTER, POLICY):
            reloaded(stack, text)
    finally:
        stop.set()
        for asker in askers:
            asker.join(20)
    assert set(statuses) == {403}
    assert stack.upstream.count("GET", "/secrets") == 0


@pytest.mark.parametrize("place", ["file", "folder"])
def test_a_policy_that_others_may_write_stops_the_start(tmp_path: Path, place: str):
    stack = Stack(tmp_path)
    stack.issuer.start()
    stack.upstream.start()
    try:
        stack._write()
        (stack.policy_path if place == "file" else stack.policy_path.parent).chmod(0o777)
        with pytest.raises(StartError):
            stack.start_service()
        assert "group or others may write" in (tmp_path / "serve.log").read_text()
        assert stack.service is not None and stack.service.returncode not in (0, None)
    finally:
        stack._stop()


# ---------------------------------------------------------------------- endings


def test_sigterm_under_load_loses_no_record_and_passes_nothing_unrecorded(tmp_path: Path):
    with Stack(tmp_path) as stack:
        load = Load(stack, callers=8, requests=600).start()
        load.wait_for(150)
        assert stack.service is not None
        stack.service.send(signal.SIGTERM)
        assert stack.service.wait(40.0) == 0
        load.finish()
        counts = Counter(load.answered.values())
        assert counts[200] >= 150
        assert all(status == 200 or status >= 500 for status in counts)
        check_ledger(stack, load)
        stops = [record for record in stack.records() if record["kind"] == "stop"]
        assert len(stops) >= 3


def test_kill_9_during_two_thousand_requests_leaves_nothing_unrecorded(tmp_path: Path):
    with Stack(tmp_path) as stack:
        load = Load(stack, callers=8, requests=2000).start()
        for at in (400, 1000):
            load.wait_for(at)
            stack.kill_service()
            wait_until(
                lambda: 503 in load.answered.values() or bool(load.failed), what="an outage", within=30.0
            )
            stack.start_service()
            assert stack.envoy is not None
            stack.envoy.wait_for_stat(
                "cluster.extproc.membership_healthy", lambda value: value >= 1, within=30.0
            )
            target = load.done + 100
            load.wait_for(min(target, 2000))
        load.finish()
        counts = Counter(load.answered.values())
        assert load.done == 2000
        assert counts[200] >= 400
        assert all(status == 200 or status >= 500 for status in counts)
        check_ledger(stack, load)
        verified = stack.cli("ledger", "verify", "--dir", str(tmp_path / "state" / "ledger"), check=False)
        assert verified.returncode == 0, verified.stdout + verified.stderr


def test_a_service_killed_in_the_middle_of_a_request_means_an_error(tmp_path: Path):
    """Once while the upstream thinks, once while a person does."""
    with Stack(tmp_path) as stack:
        gate = Gate()
        stack.upstream.on(
            "GET", "/slow", Reply(200, (("content-type", "application/json"),), b"{}", hold=gate)
        )
        replies: list[RawReply | None] = []

        def ask(method: str, path: str, body: bytes | None = None) -> None:
            try:
                replies.append(
                    stack.request(method, path, body=body, headers=[("content-type", "application/json")])
                )
            except (ReplyError, OSError):
                replies.append(None)

        callers = [
            threading.Thread(target=ask, args=("GET", "/slow")),
            threading.Thread(target=ask, args=("POST", "/payments", b'{"amount":1}')),
        ]
        for caller in callers:
            caller.start()
        gate.reached.wait(20)
        stack.wait_for_records(lambda r: r["kind"] == "hold.opened")
        (worker,) = stack.service_pids("worker")
        os.kill(worker, signal.SIGKILL)
        gate.release()
        for caller in callers:
            caller.join(40)
        assert all(reply is None or reply.status >= 500 for reply in replies) and len(replies) == 2
        assert stack.upstream.count("POST", "/payments") == 0
        assert stack.stories("/slow")[0]["intent"]["verdict"] == "allow"
        # the supervisor starts another worker, and the hold is still there to be joined
        wait_until(lambda: stack.request("GET", "/back").status == 200, what="a new worker", within=30.0)
        transport = httpx2.HTTPTransport(uds=str(tmp_path / "a.sock"), verify=False)
        headers = {"authorization": f"Bearer {stack.approver()}"}
        with httpx2.Client(transport=transport, base_url="http://api", headers=headers) as api:
            (hold,) = api.get("/v1/holds").json()["holds"]
            assert api.post(f"/v1/holds/{hold['id']}/approve", json={"reason": "ok"}).status_code == 200
        json_type = [("content-type", "application/json")]
        reply = stack.request("POST", "/payments", body=b'{"amount":1}', headers=json_type)
        assert reply.status == 200
        assert stack.upstream.count("POST", "/payments") == 1
        died = stack.wait_for_records(lambda r: r["kind"] == "admin.child_died")
        assert died[0]["child"] == "worker-0"


def test_a_dead_service_is_no_way_through(tmp_path: Path):
    with Stack(tmp_path) as stack:
        stack.kill_service()
        assert stack.request("GET", "/customers").status == 503
        assert stack.request("POST", "/notes", body=b"x").status == 503
        assert stack.upstream.count() == 0


# ---------------------------------------------------------------------- the disk is full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(place)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_on_a_full_disk_nothing_passes_and_the_gap_is_recorded(tmp_path: Path, small_disk: Path):
    ledger = small_disk / "ledger"
    with Stack(tmp_path, settings={"ledger": {"directory": str(ledger)}}) as stack:
        stack.upstream.on("GET", "/x", json_reply({"a": 1}))
        assert stack.request("GET", "/x").status == 200
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 4096)
            except OSError:
                pass  # full
        # what is left of the last page may hold a record or two
        wait_until(lambda: stack.request("GET", "/x").status == 503, what="the first refusal", within=20.0)
        before = stack.upstream.count()
        for method, path in (("GET", "/x"), ("DELETE", "/x"), ("GET", "/none")):
            reply = stack.request(method, path, token=None if path == "/none" else "")
            assert (reply.status, reply.json()["code"]) == (503, "ledger-unavailable")
            assert (reply.json()["executed"], reply.header("retry-after")) == (False, "5")
        assert stack.upstream.count() == before
        filler.unlink()
        wait_until(lambda: stack.request("GET", "/x").status == 200, what="recovery", within=30.0)
        records = [
            line for path in sorted(ledger.rglob("*.jsonl")) for line in path.read_text().splitlines() if line
        ]
        gaps = [line for line in records if '"kind":"gap"' in line]
        assert gaps and any(re.search(r'"refused_commits":[1-9]', gap) for gap in gaps)
        assert stack.cli("ledger", "verify", "--dir", str(ledger), check=False).returncode == 0
        assert API_KEY not in "".join(records)
