"""The ledger as the console reads it: in a thread, one reading at a time, and within a few seconds."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from extproc.adapters.ledger_reader import ALARM, CHECKPOINTS, is_running, list_segments, list_writers
from extproc.adapters.ledger_scan import raw_lines, writer_lines
from extproc.adapters.ledger_search import matching, payloads_of, whole_session
from extproc.domain.errors import ExtprocError, StoreUnavailableError
from extproc.domain.times import rfc3339
from extproc.ledger.lines import Line
from extproc.ledger.rule_counts import RuleCounts, count_rules
from extproc.ledger.search import Wanted
from extproc.ledger.session_sums import Session
from extproc.servers.console.records import FoundSessions, LedgerState, WholeSession

SECONDS = 8.0
"""A search that takes longer says that it did not look at everything."""
QUEUE_SECONDS = 20.0
MAX_PAYLOAD = 256 << 10
"""Bytes of a payload that are shown."""
MAX_SHOWN_PAYLOADS = 200
ACTIVATIONS = 20

T = TypeVar("T")


class LedgerRecords:
    """See `servers.console.records.Records`."""

    def __init__(self, directory: Path, *, seconds: float = SECONDS) -> None:
        self._directory = directory
        self._seconds = seconds
        self._one = asyncio.Semaphore(1)

    async def sessions(self, wanted: Wanted, limit: int) -> FoundSessions:
        return await self._read(lambda: self._sessions(wanted, limit))

    async def session(self, session_id: str) -> WholeSession:
        return await self._read(lambda: self._session(session_id))

    async def rules(self, since_us: int) -> tuple[RuleCounts, bool]:
        return await self._read(lambda: self._rules(since_us))

    async def activations(self) -> Sequence[Line]:
        return await self._read(self._activations)

    async def state(self) -> LedgerState:
        return await self._read(self._state)

    async def _read(self, work: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(QUEUE_SECONDS):
                await self._one.acquire()
        except TimeoutError:
            raise StoreUnavailableError("too many are reading the ledger") from None
        try:
            return await asyncio.to_thread(work)
        except OSError as error:
            raise StoreUnavailableError(f"the ledger cannot be read: {error.strerror}") from None
        except ExtprocError as error:
            raise StoreUnavailableError(str(error)) from None
        finally:
            self._one.release()

    # -- in the thread ----------------------------------------------------------------------------------------

    def _sessions(self, wanted: Wanted, limit: int) -> FoundSessions:
        deadline = time.monotonic() + self._seconds
        found: dict[str, Session] = {}
        is_all = True
        for exchange in matching(self._directory, wanted):
            name = exchange.text("session_id") or exchange.text("decision_id")
            found.setdefault(name, Session(name)).add(exchange)
            if time.monotonic() > deadline:
                is_all = False
                break
        latest = heapq.nlargest(limit, found.values(), key=lambda session: session.first_at)
        return FoundSessions(latest, len(found), is_all)

    def _session(self, session_id: str) -> WholeSession:
        exchanges, moves = whole_session(self._directory, session_id)
        payloads: dict[str, dict[str, tuple[str, str]]] = {}
        for exchange in exchanges:
            for line in (exchange.intent, exchange.outcome):
                if line is not None and line.payloads and len(payloads) < MAX_SHOWN_PAYLOADS:
                    payloads[f"{line.writer}:{line.seq}"] = {
                        name: (state, data.decode("utf-8", "backslashreplace"))
                        for name, (state, data) in payloads_of(self._directory, line, MAX_PAYLOAD).items()
                    }
        return WholeSession(exchanges, moves, payloads)

    def _rules(self, since_us: int) -> tuple[RuleCounts, bool]:
        deadline = time.monotonic() + self._seconds
        counts = count_rules(self._recent_lines(since_us, deadline))
        return counts, time.monotonic() <= deadline

    def _recent_lines(self, since_us: int, deadline: float) -> Iterator[bytes]:
        """Lines not before `since_us`, told by their envelope alone; ends at the deadline."""
        since = _envelope_time(since_us)
        for writer in list_writers(self._directory):
            for segment in list_segments(self._directory / writer):
                for line in raw_lines(segment):
                    at = line.find(b'"at":"', 0, 400)
                    if at >= 0 and line[at + 6 : at + 33] >= since:
                        yield line
                if time.monotonic() > deadline:
                    return

    def _activations(self) -> Sequence[Line]:
        found = [
            line
            for writer in list_writers(self._directory)
            if writer.startswith("supervisor-")
            for line in writer_lines(self._directory, writer)
            if line.kind == "policy.activated"
        ]
        return sorted(found, key=lambda line: line.at, reverse=True)[:ACTIVATIONS]

    def _state(self) -> LedgerState:
        alarm = self._directory / ALARM
        log = self._directory / CHECKPOINTS
        running = [writer for writer in list_writers(self._directory) if is_running(self._directory / writer)]
        age = max(0.0, time.time() - log.stat().st_mtime) if log.exists() else None
        told = alarm.read_text("utf-8", "replace")[:2000] if alarm.exists() else ""
        return LedgerState(running, age, told)


def _envelope_time(micros: int) -> bytes:
    return rfc3339(micros / 1_000_000).encode()
