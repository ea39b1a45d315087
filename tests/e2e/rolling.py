"""Asking for a rolling reload, and waiting for what becomes of it."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from extproc.demo.processes import wait_until
from tests.e2e.approving import somebody
from tests.e2e.stack import Stack


class Session(Protocol):
    """A database session, whatever the client."""

    def close(self) -> None: ...


AnySession = TypeVar("AnySession", bound=Session)


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


def writers_so_far(stack: Stack) -> set[str]:
    """Each start of a process has a writer of its own."""
    return {record["writer"] for record in stack.records()}


def session_of_a_new_worker(
    stack: Stack, before: set[str], connect: Callable[[str], AnySession]
) -> AnySession:
    """`connect` gives a session of the caller it is told. `before`: the writers there were before the roll.

    Envoy may not have read yet that the old worker leaves, and then that one still takes what comes.
    """
    found: list[AnySession] = []

    def is_of_a_new_one() -> bool:
        who = somebody()
        session = connect(who)
        (record, *_) = stack.wait_for_records(
            lambda r: r["kind"] == "intent" and (r.get("principal") or {}).get("subject") == who
        )
        if record["writer"] in before:
            session.close()
            return False
        found.append(session)
        return True

    wait_until(is_of_a_new_one, what="a session of a new worker", within=30.0, process=stack.service)
    return found[0]
