"""Asking for a rolling reload, and waiting for what becomes of it."""

from __future__ import annotations

import json
import signal
from typing import Any

from extproc.demo.processes import wait_until
from tests.e2e.stack import Stack


def of_kind(stack: Stack, kind: str) -> list[dict[str, Any]]:
    """What the supervisor recorded. Its writer is short, the workers' are not."""
    lines = [
        json.loads(line)
        for path in sorted((stack.directory / "state" / "ledger").rglob("*.jsonl"))
        if path.parent.name.startswith("supervisor")
        for line in path.read_bytes().rpartition(b"\n")[0].split(b"\n")
    ]
    return [record for record in lines if record["kind"] == kind]


def ask_to_roll(stack: Stack) -> None:
    assert stack.service is not None
    stack.service.send(signal.SIGUSR2)


def wait_for(stack: Stack, kind: str, count: int = 1) -> dict[str, Any]:
    wait_until(
        lambda: len(of_kind(stack, kind)) >= count,
        what=f"{count} {kind}",
        within=150.0,
        process=stack.service,
    )
    return of_kind(stack, kind)[-1]


def wait_until_only(stack: Stack, workers: int) -> None:
    wait_until(lambda: len(stack.service_pids("worker")) == workers, what="the old to end", within=60.0)
