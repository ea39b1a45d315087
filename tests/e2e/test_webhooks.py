"""A real receiver is told of a hold by a signed message, even when it was away at first."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from extproc.demo.processes import wait_until
from tests.e2e.approving import JSON, PAYMENT, Approvals
from tests.e2e.stack import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


class Receiver(HTTPServer):
    """Refuses the first message, takes the rest."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got: list[tuple[int, dict[str, str], bytes]] = []


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        status = 204 if self.server.got else 503
        self.server.got.append((status, {k.lower(): v for k, v in self.headers.items()}, body))
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_hold_is_told_with_a_link_that_decides_nothing(tmp_path: Path, receiver: Receiver):
    webhook = {
        "name": "ops", "url": f"http://127.0.0.1:{receiver.server_port}/hook", "insecure_loopback": True,
        "secret": {"env": "HOOK_SECRET"}, "events": ["hold.opened", "hold.rejected"],
    }  # fmt: skip
    settings: dict[str, Any] = {"approvals": {"webhooks": [webhook]}}
    with Stack(tmp_path, settings=settings, environment={"HOOK_SECRET": SECRET}) as stack:
        token = stack.token("payments-bot", groups=["payments"])
        held = stack.request(
            "POST", "/payments", token=token, body=PAYMENT, headers=[JSON, ("prefer", "hold=async")]
        )
        assert held.status == 403
        people = Approvals(stack)
        (hold,) = people.holds()
        people.deny(hold["id"])
        wait_until(lambda: len(receiver.got) >= 3, what="three deliveries", within=30, process=stack.service)
        told = [Webhook(SECRET).verify(body, headers) for status, headers, body in receiver.got]
        assert {each["type"] for each in told} == {"hold.opened", "hold.rejected"}
        assert {each["data"]["hold"] for each in told} == {hold["id"]}
        ids = [headers["webhook-id"] for _, headers, _ in receiver.got]
        assert sorted(ids) == [f"{hold['id']}.1", f"{hold['id']}.1", f"{hold['id']}.3"]
        amount = rb"(?<![0-9a-f])5000(?![0-9a-f])"  # no digits of a digest
        assert not re.search(amount, b" ".join(body for _, _, body in receiver.got))
        wait_until(
            lambda: not list((tmp_path / "state" / "webhooks" / "ops").glob("*.json")),
            what="an empty spool",
            within=10,
        )
        assert SECRET not in json.dumps(stack.records())


def test_witnesses_are_told_of_checkpoints_and_find_a_ledger_that_was_cut_back(
    tmp_path: Path, receiver: Receiver
):
    copy = tmp_path / "elsewhere"
    notary = {
        "name": "notary",
        "url": f"http://127.0.0.1:{receiver.server_port}/x",
        "insecure_loopback": True,
    }
    ledger = {
        "witnesses": [{"name": "copy", "file": str(copy)}, {**notary, "secret": {"env": "HOOK_SECRET"}}]
    }
    (tmp_path / "stack").mkdir()
    with Stack(tmp_path / "stack", settings={"ledger": ledger}, environment={"HOOK_SECRET": SECRET}) as stack:
        assert stack.request("GET", "/customers", token=stack.token("ann")).status in (200, 403)
        wait_until(lambda: copy.exists() and copy.stat().st_size > 0, what="a witness's copy", within=60)
    log = stack.directory / "state" / "ledger" / "checkpoints.log"
    assert copy.read_bytes() == log.read_bytes()  # told of the last one too, made as the service ended
    verify = ("ledger", "verify", "--config", str(stack.config_path), "--witness", str(copy))
    stack.cli(*verify)
    before = copy.read_bytes()
    log.write_bytes(before[: before.index(b"\n\n", before.index(b"\n\n") + 2) + 2])
    assert log.stat().st_size < len(before)
    found = stack.cli(*verify, check=False)
    assert found.returncode == 1
    assert "checkpoint 2 of the witness is not there in the ledger" in found.stderr
    told = [Webhook(SECRET).verify(body, headers) for _, headers, body in receiver.got]
    assert {each["type"] for each in told} == {"ledger.checkpoint"}
    assert [status for status, _, _ in receiver.got] == [503, 204]
    assert told[-1]["data"]["note"].encode() in before
