"""`extproc holds` against a real approvals API on a unix socket."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from extproc.commands.approvals_client import AddressError, ApprovalsClient
from extproc.commands.holds import holds
from extproc.commands.holds_text import page
from extproc.domain.demand import Quorum
from extproc.domain.hold import HeldRequest, HoldState
from extproc.servers.approvals_shape import full
from tests.commands.conftest import Service
from tests.support.holds import AGENT, ANNA, IN_EMERGENCIES, NOW, OLGA, ask, demand, principal, vote

INTERRUPTIBLE = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("extproc.cli", run_name="__main__")
"""
"""The command line as a terminal starts it. What a shell starts in its background ignores SIGINT, and so would we."""


@pytest.fixture
def held(service: Service) -> HeldRequest:
    return service.run(service.store.open(ask(), NOW))


def call(service: Service | None, token: str, *words: str, **options: Any) -> Result:
    environment = {"EXTPROC_TOKEN": token, "EXTPROC_API": f"unix:{service.socket}" if service else ""}
    return CliRunner().invoke(holds, words, env=environment, **options)


class TestCommands:
    def test_the_list_has_a_line_a_hold(self, service: Service, held: HeldRequest):
        result = call(service, "anna", "list")
        assert result.exit_code == 0
        assert result.stdout.split("\t")[:3] == [held.id, "pending", "customers-api"]
        assert result.stdout.count("\n") == 1

    def test_the_list_as_json_is_the_apis(self, service: Service, held: HeldRequest):
        answer = json.loads(call(service, "anna", "list", "--json").stdout)
        assert [each["id"] for each in answer["holds"]] == [held.id]

    def test_the_list_says_when_there_are_more(self, service: Service):
        for n in range(2):
            service.run(service.store.open(ask(f"b{n}"), NOW + n))
        result = call(service, "anna", "list", "--limit", "1")
        assert result.stdout.count("\n") == 1
        assert "more than these 1" in result.stderr

    def test_pending_holds_are_listed_unless_another_state_is_asked(
        self, service: Service, held: HeldRequest
    ):
        call(service, "anna", "deny", held.id, "--reason", "no")
        assert call(service, "anna", "list").stdout == ""
        assert held.id in call(service, "anna", "list", "--state", "rejected").stdout
        assert held.id in call(service, "anna", "list", "--state", "all").stdout

    def test_show_has_our_facts_before_the_raw_request(self, service: Service, held: HeldRequest):
        result = call(service, "anna", "show", held.id)
        assert result.exit_code == 0
        text = result.stdout
        assert text.startswith(f"Hold {held.id} is pending\n")
        assert 0 < text.index("facts:\n") < text.index("normalised:\n") < text.index("raw:\n")
        assert "missing    1 of sre" in text

    def test_show_tells_what_differs_from_the_last_approved_one(self, service: Service, held: HeldRequest):
        service.run(service.store.vote(held.id, vote(ANNA), NOW))
        view = {**ask().view, "raw": {"body": '{"amount": 5000}'}}
        now = service.run(service.store.open(ask("b2", view=view), NOW + 1))
        told = call(service, "anna", "show", now.id).stdout
        assert f"compared with {held.id}, approved by {ANNA.person} at " in told
        assert told.endswith("  │ body.amount: 10 → 5000\n")

    @pytest.mark.parametrize(
        ("token", "action", "state"),
        [
            ("anna", "approve", HoldState.APPROVED),
            ("anna", "deny", HoldState.REJECTED),
            ("agent", "withdraw", HoldState.WITHDRAWN),
        ],
    )
    def test_decisions_are_carried_out(
        self, service: Service, held: HeldRequest, token: str, action: str, state: HoldState
    ):
        result = call(service, token, action, held.id, "--reason", "ticket 12")
        assert (result.exit_code, result.stdout) == (0, f"Hold {held.id} is {state.value}\n")
        assert service.state_of(held) is state

    def test_an_approval_is_revoked(self, service: Service, held: HeldRequest):
        service.run(service.store.vote(held.id, vote(ANNA), NOW))
        result = call(service, "bert", "revoke", held.id, "--reason", "wrong table", "--json")
        assert json.loads(result.stdout)["state"] == "revoked"

    @pytest.mark.parametrize("action", ["approve", "deny", "withdraw", "revoke"])
    def test_a_reason_is_required(self, service: Service, held: HeldRequest, action: str):
        assert call(service, "anna", action, held.id).exit_code == 2
        assert call(service, "anna", action, held.id, "--reason", " ").exit_code == 1
        assert service.state_of(held) is HoldState.PENDING

    @pytest.mark.parametrize(
        ("token", "code"),
        [("agent", "self_approval"), ("forged", "bad_signature"), ("data-path", "wrong_audience"),
         ("wrong-client", "wrong_client"), ("stranger", "not_found")],
    )  # fmt: skip
    def test_a_refusal_is_exit_code_1_and_says_why(
        self, service: Service, held: HeldRequest, token: str, code: str
    ):
        result = call(service, token, "approve", held.id, "--reason", "x")
        assert (result.exit_code, result.stdout) == (1, "")
        assert f"({code})" in result.stderr

    def test_an_unreachable_api_is_exit_code_3(self, tmp_path: Path):
        result = CliRunner().invoke(
            holds, ["list", "--api", f"unix:{tmp_path}/none.sock"], env={"EXTPROC_TOKEN": "x"}
        )
        assert result.exit_code == 3
        assert "cannot be reached" in result.stderr

    def test_a_lost_ledger_is_exit_code_3(self, service: Service, held: HeldRequest):
        service.desk.ledger_down = True
        try:
            result = call(service, "anna", "approve", held.id, "--reason", "x")
        finally:
            service.desk.ledger_down = False
        assert result.exit_code == 3
        assert service.state_of(held) is HoldState.PENDING

    def test_without_a_token_nothing_is_sent(self, service: Service):
        for token in ("", "  ", "two words", "line\nbreak", "größe"):
            assert call(service, token, "list").exit_code == 2

    def test_the_token_may_come_from_a_file_but_never_as_an_argument(
        self, service: Service, held: HeldRequest, tmp_path: Path
    ):
        file = tmp_path / "token"
        file.write_text("anna\n")
        result = call(service, "", "list", "--token-file", str(file))
        assert held.id in result.stdout
        assert call(service, "", "list", "--token", "anna").exit_code == 2

    def test_tokens_are_not_printed(self, service: Service):
        result = call(service, "s3cr3t", "list")
        assert "s3cr3t" not in result.output
        assert "s3cr3t" not in call(None, "s3cr3t", "list", "--api", "ftp://x").output

    @pytest.mark.parametrize(
        "api", ["http://approvals.test", "ftp://x", "approvals", "", "https://", "http://10.0.0.1"]
    )
    def test_a_token_is_not_sent_just_anywhere(self, api: str):
        with pytest.raises(AddressError):
            ApprovalsClient(api, "token")

    @pytest.mark.parametrize(
        "api", ["http://127.0.0.1:1", "http://localhost:1", "https://approvals.test", "unix:x"]
    )
    def test_addresses_that_are_private_enough_are_taken(self, api: str):
        ApprovalsClient(api, "token").close()


class TestEmergencies:
    @pytest.fixture
    def urgent(self, service: Service) -> HeldRequest:
        wants = demand(Quorum("sre", 2), break_glass=IN_EMERGENCIES)
        return service.run(service.store.open(ask(requester=OLGA, wants=wants), NOW))

    def test_a_request_goes_in_an_emergency_and_is_reviewed(self, service: Service, urgent: HeldRequest):
        assert call(service, "anna", "reviews").output == ""
        broken = call(service, "olga", "break-glass", urgent.id, "--reason", "site\x09down")
        assert (broken.exit_code, "is approved" in broken.output) == (0, True)
        (row,) = call(service, "anna", "reviews").output.splitlines()
        assert row.split("\t")[:2] == [urgent.id, "open"]
        shown = call(service, "anna", "show", urgent.id).output
        assert "EMERGENCY  olga@people.test" in shown and "(open)" in shown
        assert call(service, "anna", "review", urgent.id, "--reason", "x").exit_code == 2
        done = call(service, "anna", "review", urgent.id, "--not-justified", "--reason", "it could wait")
        assert (done.exit_code, done.output) == (0, f"{urgent.id} is reviewed\n")
        assert call(service, "anna", "reviews").output == ""
        assert "not justified" in call(service, "anna", "reviews", "--done").output
        assert (
            "anna@people.test: not justified: it could wait"
            in call(service, "olga", "show", urgent.id).output
        )

    def test_a_review_that_did_not_come_is_an_exit_code(self, service: Service, urgent: HeldRequest):
        call(service, "olga", "break-glass", urgent.id, "--reason", "down")
        assert call(service, "anna", "reviews").exit_code == 0
        service.run(service.store.sweep(NOW + IN_EMERGENCIES.review_within))
        overdue = call(service, "anna", "reviews")
        assert (overdue.exit_code, "overdue" in overdue.output) == (4, True)

    def test_who_may_not_is_told_why(self, service: Service, held: HeldRequest):
        refused = call(service, "agent", "break-glass", held.id, "--reason", "x")
        assert (refused.exit_code, "not_allowed" in refused.output) == (1, True)


class TestText:
    def test_nothing_in_a_hold_can_pose_as_our_own_line(self):
        nasty = "x\nHold h-1 is approved\r\x1b[2J\u202e\x85y"
        view = {"facts": {"path": nasty, nasty: [nasty]}, "raw": {"body": nasty, "list": [{"a": nasty}]}}
        asker = principal(nasty, kind="agent", act={"sub": nasty})
        store_side = HeldRequest("h-0", ask(view=view, requester=asker), HoldState.PENDING, 1, NOW, NOW + 9)
        shown = full(store_side, ANNA)
        unescaped = {**shown, "reason": nasty, "view": view}  # an API that forgot to escape
        for hold in (shown, unescaped):
            lines = list(page(hold))
            assert [line for line in lines if line.startswith("Hold ")] == ["Hold h-0 is pending"]
            for line in lines:
                assert line.isprintable()

    def test_what_was_cut_is_said_aloud(self):
        cut = HeldRequest("h-0", ask(view={"raw": {"truncated": True}}), HoldState.PENDING, 1, NOW, NOW + 9)
        assert any("cannot be approved" in line for line in page(full(cut, ANNA)))
        whole = HeldRequest("h-0", ask(), HoldState.PENDING, 1, NOW, NOW + 9)
        assert not any("cannot be approved" in line for line in page(full(whole, ANNA)))


class TestWatching:
    def test_a_hold_is_approved_only_by_typing_its_id_again(self, service: Service, held: HeldRequest):
        typed = f"approve {held.id}\nticket 12\n{held.id}\nquit\n"
        result = call(service, "anna", "watch", "--interactive", input=typed)
        assert result.exit_code == 0
        assert f"{held.id} is approved" in result.stdout
        assert service.state_of(held) is HoldState.APPROVED

    @pytest.mark.parametrize("answer", ["y", "yes", "", "h-0", "approve"])
    def test_anything_else_than_the_id_decides_nothing(
        self, service: Service, held: HeldRequest, answer: str
    ):
        for action in ("approve", "deny"):
            typed = f"{action} {held.id}\nticket 12\n{answer}\nquit\n"
            result = call(service, "anna", "watch", "--interactive", input=typed)
            assert "Nothing done" in result.stdout
        assert service.state_of(held) is HoldState.PENDING

    def test_without_a_reason_nothing_is_done(self, service: Service, held: HeldRequest):
        result = call(service, "anna", "watch", "--interactive", input=f"deny {held.id}\n\nquit\n")
        assert "reason is required" in result.stdout
        assert service.state_of(held) is HoldState.PENDING

    def test_who_may_not_decide_is_told_before_he_types_a_reason(self, service: Service, held: HeldRequest):
        result = call(service, "agent", "watch", "--interactive", input=f"approve {held.id}\nquit\n")
        assert "You cannot approve it now" in result.stdout

    def test_what_is_pending_is_told_first_and_commands_work(self, service: Service, held: HeldRequest):
        typed = f"help\nlist\nshow {held.id}\nshow h-none\n\n"
        result = call(service, "anna", "watch", "--interactive", input=typed)
        assert result.exit_code == 0
        assert result.stdout.count(f"{held.id}\tpending") == 2
        assert "approve ID" in result.stdout
        assert "(not_found)" in result.stderr

    def test_a_pipe_gets_a_line_for_every_arrival(self, service: Service, held: HeldRequest):
        child = subprocess.Popen(
            [sys.executable, "-m", "extproc.cli", "holds", "watch", "--json"],
            env={**os.environ, "EXTPROC_TOKEN": "anna", "EXTPROC_API": f"unix:{service.socket}"},
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert child.stdout is not None
            assert json.loads(child.stdout.readline())["id"] == held.id
            other = service.run(service.store.open(ask("b2", wants=demand(Quorum("sre", 2))), NOW))
            assert json.loads(child.stdout.readline())["id"] == other.id
            service.run(service.store.vote(other.id, vote(ANNA), NOW))
            again = json.loads(child.stdout.readline())
            assert (again["id"], again["missing"]) == (other.id, [{"group": "sre", "count": 1}])
        finally:
            child.kill()
            child.wait()

    def test_a_live_table_is_for_a_terminal(self, service: Service):
        for words in (["list", "--live"], ["list", "--live", "--json"]):
            result = call(service, "anna", *words)
            assert result.exit_code == 2
            assert "--live is for a terminal" in result.stderr

    def test_a_terminal_gets_a_table_and_a_live_prompt(self, service: Service, held: HeldRequest):
        screen, terminal = pty.openpty()
        environment = {**os.environ, "EXTPROC_TOKEN": "anna", "EXTPROC_API": f"unix:{service.socket}"}
        environment |= {"COLUMNS": "200", "TERM": "xterm"}
        streams: dict[str, Any] = {
            "stdin": terminal,
            "stdout": terminal,
            "stderr": terminal,
            "env": environment,
        }
        command = [sys.executable, "-m", "extproc.cli", "holds"]
        listing = subprocess.Popen([*command, "list"], **streams)
        shown = until(screen, held.id)
        assert "requester" in shown
        assert listing.wait(30) == 0
        live = subprocess.Popen([sys.executable, "-c", INTERRUPTIBLE, "holds", "list", "--live"], **streams)
        try:
            until(screen, held.id)
            late = service.run(service.store.open(ask("b3", requester=AGENT), NOW + 1))
            until(screen, late.id)  # it arrives while the table stands
            live.send_signal(signal.SIGINT)
            assert ended(live, screen) == 0
        finally:
            live.kill()
            live.wait()
        watching = subprocess.Popen([*command, "watch"], **streams)
        try:
            until(screen, "holds> ")
            other = service.run(service.store.open(ask("b2", requester=AGENT), NOW))
            until(screen, other.id)  # it arrives while the prompt waits
            os.write(screen, f"deny {other.id}\nno\n{other.id}\n".encode())
            until(screen, f"{other.id} is rejected")
            os.write(screen, b"quit\n")
            assert ended(watching, screen) == 0
        finally:
            watching.kill()
            watching.wait()
            os.close(screen)
            os.close(terminal)


def until(screen: int, text: str) -> str:
    """What a terminal shows up to and with `text`."""
    shown = ""
    while text not in shown:
        shown += os.read(screen, 65536).decode(errors="replace")
    return shown


def ended(process: subprocess.Popen[bytes], screen: int) -> int:
    """Its status, once it has ended; a terminal that nobody reads would hold back what it still has to show."""
    for _ in range(300):
        if process.poll() is not None:
            return process.returncode
        if select.select([screen], [], [], 0.1)[0]:
            os.read(screen, 65536)
    raise AssertionError("it does not end")
