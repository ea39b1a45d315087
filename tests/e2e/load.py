"""Callers that keep asking, and what the ledger must say of it afterwards."""

from __future__ import annotations

import threading
from typing import Any

from extproc.demo.processes import wait_until
from tests.e2e.stack import Stack
from tests.support.raw_http import ReplyError


class Load:
    """Concurrent callers, each request with a path of its own; what they got is kept."""

    def __init__(self, stack: Stack, callers: int, requests: int) -> None:
        self.answered: dict[str, int] = {}
        """Path to status of every reply that arrived whole."""
        self.failed: set[str] = set()
        self._stack = stack
        self._numbers = iter(range(requests))
        self._lock = threading.Lock()
        self._token = stack.token(lifetime=3600)
        self._threads = [threading.Thread(target=self._call) for _ in range(callers)]

    def start(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def wait_for(self, count: int) -> None:
        wait_until(lambda: self.done >= count, what=f"{count} requests", within=90.0)

    @property
    def done(self) -> int:
        return len(self.answered) + len(self.failed)

    def finish(self) -> None:
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive()

    def stop(self) -> None:
        """No further requests."""
        with self._lock:
            self._numbers = iter(range(0))

    def _next(self) -> str:
        with self._lock:
            number = next(self._numbers, None)
        return "" if number is None else f"/load/{name(number)}"

    def _call(self) -> None:
        client = None
        while path := self._next():
            try:
                client = client or self._stack.client(timeout=20.0)
                reply = client.ask(self._stack.raw("GET", path, token=self._token))
                self.answered[path] = reply.status
                if reply.header("connection") == "close":
                    client.close()
                    client = None
            except (ReplyError, OSError):
                self.failed.add(path)
                if client is not None:
                    client.close()
                client = None
        if client is not None:
            client.close()


def name(number: int) -> str:
    """A number in letters, so that no recognizer takes it for anything."""
    digits = []
    for _ in range(4):
        number, digit = divmod(number, 20)
        digits.append("bcdfghjklmnpqrstvwxz"[digit])
    return "".join(digits)


def check_ledger(stack: Stack, load: Load) -> None:
    """Every whole answer has both records, every request the upstream saw has an allowed intent before it."""
    intents: dict[str, dict[str, Any]] = {}
    outcomes: set[str] = set()
    for record in stack.records():
        if record["kind"] == "intent":
            path = record.get("request", {}).get("path", "")
            if path.startswith("/load/"):
                intents[path] = record
        elif record["kind"] == "outcome":
            outcomes.add(record["decision_id"])
    for path, status in load.answered.items():
        if status == 200:
            assert intents[path]["verdict"] == "allow"
            assert intents[path]["decision_id"] in outcomes, f"{path} was answered without an outcome"
    for seen in stack.upstream.requests:
        if seen.path.startswith("/load/"):
            assert intents[seen.path]["verdict"] == "allow", f"{seen.path} went on unrecorded"
