"""A rolling reload: new settings come into force worker by worker, and nobody who asks notices."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from click.testing import CliRunner

from extproc.cli import main
from extproc.commands.health import ask
from extproc.config import Address, load_config
from extproc.demo.processes import wait_until
from tests.e2e.load import Load, check_ledger
from tests.e2e.rolling import ask_to_roll, of_kind, wait_for, wait_until_only
from tests.e2e.stack import Stack
from tests.support.raw_http import RawReply

pytestmark = pytest.mark.e2e

JSON = [("content-type", "application/json")]


@pytest.fixture(params=["lean", "grpcio"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def stack(tmp_path: Path, transport: str) -> Iterator[Stack]:
    settings = {"processor": {"workers": 2, "transport": transport, "drain": "30s"}}
    with Stack(tmp_path, settings=settings) as stack:
        yield stack


def change(stack: Stack, edit: Callable[[dict[str, Any]], None]) -> None:
    """Edit the settings file."""
    settings = yaml.safe_load(stack.config_path.read_text())
    edit(settings)
    stack.config_path.write_text(yaml.safe_dump(settings))


def verify(stack: Stack) -> None:
    verified = stack.cli("ledger", "verify", "--dir", str(stack.directory / "state" / "ledger"), check=False)
    assert verified.returncode == 0, verified.stdout + verified.stderr


@pytest.mark.timeout(300)  # on grpcio every worker waits until its connections have reached their age
def test_a_roll_under_load_loses_no_request(stack: Stack):
    before = set(stack.service_pids("worker"))
    load = Load(stack, callers=3, requests=10**5).start()
    load.wait_for(100)
    change(stack, lambda settings: settings.update(limits={"open_waits": 77}))
    ask_to_roll(stack)
    done = wait_for(stack, "admin.roll_done")
    load.wait_for(load.done + 100)
    load.stop()
    load.finish()
    assert load.failed == set()
    assert Counter(load.answered.values()).keys() == {200}
    assert before.isdisjoint(stack.service_pids("worker"))
    (asked,) = of_kind(stack, "admin.roll")
    assert asked["changed"] == ["limits.open_waits"]
    assert asked["asked_by"] == {"by": "signal", "uid": os.geteuid()}
    assert asked["configuration"] == done["configuration"] == of_kind(stack, "config.loaded")[-1]["digest"]
    assert [r["worker"] for r in of_kind(stack, "admin.worker_replaced")] == ["worker-0", "worker-1"]
    assert of_kind(stack, "admin.child_died") == []
    check_ledger(stack, load)
    verify(stack)


@pytest.mark.timeout(300)
def test_a_hold_that_waits_across_a_roll_is_released(stack: Stack):
    replies: list[RawReply] = []

    def pay() -> None:
        replies.append(stack.request("POST", "/payments", body=b'{"amount":1}', headers=JSON, timeout=60.0))

    caller = threading.Thread(target=pay)
    caller.start()
    stack.wait_for_records(lambda record: record["kind"] == "hold.opened")
    ask_to_roll(stack)
    wait_for(stack, "admin.worker_replaced")
    with httpx2.Client(
        transport=httpx2.HTTPTransport(uds=str(stack.directory / "a.sock")),
        base_url="http://api",
        headers={"authorization": f"Bearer {stack.approver()}"},
    ) as api:
        (hold,) = api.get("/v1/holds").json()["holds"]
        assert api.post(f"/v1/holds/{hold['id']}/approve", json={"reason": "ok"}).status_code == 200
    caller.join(60)
    assert [reply.status for reply in replies] == [200]
    assert stack.upstream.count("POST", "/payments") == 1
    wait_for(stack, "admin.roll_done")
    verify(stack)


# ---------------------------------------------------------------------- what must not happen, on any transport


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("steady"), settings={"processor": {"workers": 2}}) as stack:
        yield stack


@pytest.fixture
def kept(steady: Stack) -> Iterator[Stack]:
    """The file is as it was afterwards."""
    text = steady.config_path.read_text()
    yield steady
    steady.config_path.write_text(text)
    steady.config_path.chmod(0o644)


def change_workers(settings: dict[str, Any]) -> None:
    settings["processor"]["workers"] = 3


def break_it(settings: dict[str, Any]) -> None:
    settings["limits"] = {"open_waits": "many"}


def drop_the_target(settings: dict[str, Any]) -> None:
    """The policy in force names it."""
    settings["targets"][0]["name"] = "another"
    settings["listeners"][0]["routes"][0]["target"] = "another"


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (change_workers, "processor.workers: workers hand their places on"),
        (break_it, "limits.open_waits"),
        (drop_the_target, "customers-api"),
    ],
    ids=["needs-a-restart", "invalid", "against-the-policy"],
)
def test_a_change_that_cannot_be_made_is_refused_whole(kept: Stack, edit: Callable[..., None], says: str):
    workers, count = set(kept.service_pids("worker")), len(of_kind(kept, "admin.roll_refused"))
    change(kept, edit)
    ask_to_roll(kept)
    refused = wait_for(kept, "admin.roll_refused", count + 1)
    assert says in refused["error"]
    assert refused["asked_by"] == {"by": "signal", "uid": os.geteuid()}
    assert set(kept.service_pids("worker")) == workers
    assert kept.request("GET", "/after").status == 200


def test_a_file_that_others_may_change_is_refused(kept: Stack):
    count = len(of_kind(kept, "admin.roll_refused"))
    kept.config_path.chmod(0o666)
    ask_to_roll(kept)
    assert "others may change it" in wait_for(kept, "admin.roll_refused", count + 1)["error"]


def test_what_stands_in_the_file_does_not_count_before_a_roll(kept: Stack):
    """A child that dies comes back with the settings in force, not with what somebody is editing."""
    change(kept, break_it)
    (first, *_) = kept.service_pids("worker")
    os.kill(first, signal.SIGKILL)
    wait_until(
        lambda: len(kept.service_pids("worker")) == 2 and first not in kept.service_pids("worker"),
        what="a new worker",
        within=30.0,
    )
    wait_until(lambda: "unreachable" not in health(kept), what="both workers to serve", within=60.0)
    assert kept.request("GET", "/again").status == 200


def health(stack: Stack) -> str:
    """What both sockets answer; the file may not be readable for now."""
    folder = stack.directory
    (kept_text,) = (folder / "state" / "run").glob("settings-*.yaml")
    settings = load_config(stack.config_path, kept_text)
    return json.dumps({n: ask(settings, Address(path=folder / f"p-{n}.sock"), 2.0) for n in range(2)})


def test_a_new_worker_that_cannot_become_ready_leaves_the_old_in_force(kept: Stack):
    """Its secret is not there: nobody but the worker reads it."""
    workers = set(kept.service_pids("worker"))
    count = len(of_kind(kept, "admin.roll_failed"))
    change(
        kept,
        lambda settings: settings["targets"][0]["credential"].update(value={"file": "/nowhere/at-all"}),
    )
    ask_to_roll(kept)
    failed = wait_for(kept, "admin.roll_failed", count + 1)
    assert failed["replaced"] == []
    assert "worker-0 did not become ready" in failed["error"]
    assert set(kept.service_pids("worker")) == workers
    assert kept.request("GET", "/after-failure").status == 200
    # what is said to be in force is what is in force
    loaded = [record["digest"] for record in of_kind(kept, "config.loaded")]
    assert loaded[-1] == loaded[0] != loaded[-2]


def test_an_operator_rolls_over_the_api_and_others_do_not(kept: Stack):
    refused, done = len(of_kind(kept, "admin.roll_refused")), len(of_kind(kept, "admin.roll_done"))

    def call(*groups: str) -> httpx2.Response:
        with httpx2.Client(
            transport=httpx2.HTTPTransport(uds=str(kept.directory / "a.sock")),
            base_url="http://api",
            headers={"authorization": f"Bearer {kept.approver('olga', groups=groups)}"},
            timeout=30.0,
        ) as api:
            return api.post("/v1/settings/reload", json={"reason": "CHG-7"})

    answer = call("finance")
    assert (answer.status_code, answer.json()["code"]) == (403, "not_operator")
    text = kept.config_path.read_text()
    change(kept, change_workers)
    answer = call("operators")
    assert (answer.status_code, answer.json()["code"]) == (409, "settings_refused")
    assert "processor.workers" in answer.json()["detail"]
    kept.config_path.write_text(text)
    assert wait_for(kept, "admin.roll_refused", refused + 1)["asked_by"]["principal"]["subject"] == "olga"
    answer = call("operators")
    assert (answer.status_code, answer.json()["status"], answer.json()["changed"]) == (202, "rolling", [])
    ended = wait_for(kept, "admin.roll_done", done + 1)
    assert ended["configuration"] == answer.json()["configuration"]
    assert of_kind(kept, "admin.roll")[-1]["asked_by"]["by"] == "api"
    reasons = [record["reason"] for record in kept.records() if record["kind"] == "admin.settings_reload"]
    assert reasons == ["CHG-7", "CHG-7"]
    assert kept.request("GET", "/after-api").status == 200
    wait_until_only(kept, 2)


def test_an_operator_reloads_by_command(kept: Stack):
    done, file = len(of_kind(kept, "admin.roll_done")), kept.directory / "operator.jwt"
    file.write_text(kept.approver("olga", groups=("operators",)))
    where = ["--api", f"unix:{kept.directory}/a.sock", "--token-file", str(file), "--reason", "CHG-8"]
    policy = CliRunner().invoke(main, ["policy", "reload", *where])
    assert (policy.exit_code, policy.stdout.endswith("is in force, as before\n")) == (0, True), policy.output
    begun = CliRunner().invoke(main, ["config", "reload", "--json", *where])
    assert begun.exit_code == 0, begun.output
    ended = wait_for(kept, "admin.roll_done", done + 1)
    assert ended["configuration"] == json.loads(begun.stdout)["configuration"]
    assert kept.request("GET", "/after-command").status == 200
    wait_until_only(kept, 2)


def test_a_second_roll_while_one_runs_is_refused(kept: Stack):
    refused, done = len(of_kind(kept, "admin.roll_refused")), len(of_kind(kept, "admin.roll_done"))
    asked = len(of_kind(kept, "admin.roll"))
    ask_to_roll(kept)
    wait_for(kept, "admin.roll", asked + 1)
    ask_to_roll(kept)
    assert "another rolling reload" in wait_for(kept, "admin.roll_refused", refused + 1)["error"]
    wait_for(kept, "admin.roll_done", done + 1)
    wait_until_only(kept, 2)


def started(stack: Stack, before: set[int]) -> int:
    """The pid of a worker that was not there before."""
    found: list[int] = []

    def look() -> bool:
        found[:] = sorted(set(stack.service_pids("worker")) - before)
        return bool(found)

    wait_until(look, what="a new worker", within=60.0)
    return found[0]


def test_a_new_worker_that_is_killed_ends_the_roll_and_the_old_serve_on(kept: Stack):
    before, count = set(kept.service_pids("worker")), len(of_kind(kept, "admin.roll_failed"))
    ask_to_roll(kept)
    os.kill(started(kept, before), signal.SIGKILL)
    assert "worker-0 did not become ready" in wait_for(kept, "admin.roll_failed", count + 1)["error"]
    assert set(kept.service_pids("worker")) == before
    assert kept.request("GET", "/after-kill").status == 200
    verify(kept)


def test_an_old_worker_that_is_killed_does_not_come_back_and_the_roll_goes_on(kept: Stack):
    before, done = set(kept.service_pids("worker")), len(of_kind(kept, "admin.roll_done"))
    ask_to_roll(kept)
    started(kept, before)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_for(kept, "admin.roll_done", done + 1)
    wait_until_only(kept, 2)
    assert before.isdisjoint(kept.service_pids("worker"))
    assert kept.request("GET", "/after-kills").status == 200
    verify(kept)


def test_a_stop_in_the_middle_ends_everything(tmp_path: Path):
    with Stack(tmp_path, settings={"processor": {"workers": 2}}) as stack:
        before = set(stack.service_pids("worker"))
        ask_to_roll(stack)
        started(stack, before)
        assert stack.service is not None
        stack.service.send(signal.SIGTERM)
        assert stack.service.wait(60.0) == 0
        assert stack.service_pids() == []
        verify(stack)
