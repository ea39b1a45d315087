"""The ledger as the console reads it: in a thread, one reading at a time, and within a few seconds."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from extproc.adapters.ledger_payloads import Payloads
from extproc.adapters.ledger_reader import ALARM, CHECKPOINTS, is_running, list_segments, list_writers
from extproc.adapters.ledger_scan import raw_lines, writer_lines
from extproc.adapters.ledger_search import matching, payloads_of, whole_session
from extproc.domain.errors import ExtprocError, StoreUnavailableError
from extproc.domain.times import rfc3339
from extproc.ledger.lines import Line
from extproc.ledger.rule_counts import RuleCounts, count_rules
from extproc.ledger.sealing import KeyRing
from extproc.ledger.search import Wanted
from extproc.ledger.session_sums import Session
from extproc.servers.console.records import FoundSessions, LedgerState, WholeSession

SECONDS = 8.0
"""A search that takes longer says that it did not look at everything."""
QUEUE_SECONDS = 20.0
MAX_EXCHANGES = 500
"""Of one session, on one page."""
MAX_PAYLOAD = 256 << 10
"""Bytes of a payload that are shown."""
MAX_PAYLOADS = 1 << 20
"""Bytes of a session's payloads that are shown, all of them together."""
ACTIVATIONS = 20

T = TypeVar("T")


class LedgerRecords:
    """See `servers.console.records.Records`."""

    def __init__(self, directory: Path, *, seconds: float = SECONDS, ring: KeyRing | None = None) -> None:
        self._directory = directory
        self._payloads = Payloads(directory, ring)
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
        limited = Limited(self._seconds)
        found: dict[str, Session] = {}
        for exchange in matching(self._directory, wanted, limited.is_over):
            name = exchange.text("session_id") or exchange.text("decision_id")
            found.setdefault(name, Session(name)).add(exchange)
        latest = heapq.nlargest(limit, found.values(), key=lambda session: session.first_at)
        return FoundSessions(latest, len(found), not limited.was_over)

    def _session(self, session_id: str) -> WholeSession:
        limited = Limited(self._seconds)
        exchanges, moves = whole_session(
            self._directory, session_id, at_most=2 * MAX_EXCHANGES + 2, is_over=limited.is_over
        )
        exchanges.sort(key=lambda exchange: exchange.at_us)
        is_all = not limited.was_over and len(exchanges) <= MAX_EXCHANGES and len(moves) <= MAX_EXCHANGES
        exchanges, moves = exchanges[:MAX_EXCHANGES], moves[:MAX_EXCHANGES]
        payloads: dict[str, dict[str, tuple[str, str]]] = {}
        left = MAX_PAYLOADS
        for exchange in exchanges:
            for line in (exchange.intent, exchange.outcome):
                if line is None or not line.payloads or limited.is_over():
                    continue
                found = payloads_of(self._payloads, line, min(left, MAX_PAYLOAD))
                left -= sum(len(data) for _, data in found.values())
                payloads[f"{line.writer}:{line.seq}"] = {
                    name: (state, data.decode("utf-8", "backslashreplace"))
                    for name, (state, data) in found.items()
                }
        return WholeSession(exchanges, moves, payloads, is_all and not limited.was_over)

    def _rules(self, since_us: int) -> tuple[RuleCounts, bool]:
        limited = Limited(self._seconds)
        counts = count_rules(self._recent_lines(since_us, limited))
        return counts, not limited.was_over

    def _recent_lines(self, since_us: int, limited: Limited) -> Iterator[bytes]:
        """Lines not before `since_us`, told by their envelope alone, as far as the time allows."""
        since = _envelope_time(since_us)
        for writer in list_writers(self._directory):
            for segment in list_segments(self._directory / writer):
                for line in raw_lines(segment, limited.is_over):
                    at = line.find(b'"at":"', 0, 400)
                    if at >= 0 and line[at + 6 : at + 33] >= since:
                        yield line

    def _activations(self) -> Sequence[Line]:
        limited = Limited(self._seconds)
        found = (
            line
            for writer in list_writers(self._directory)
            if writer.startswith("supervisor-")
            for line in writer_lines(self._directory, writer, is_over=limited.is_over)
            if line.kind == "policy.activated"
        )
        latest = heapq.nlargest(ACTIVATIONS, found, key=lambda line: line.at)
        if limited.was_over:
            raise StoreUnavailableError("the policies in force were not found in time")
        return latest

    def _state(self) -> LedgerState:
        alarm = self._directory / ALARM
        log = self._directory / CHECKPOINTS
        running = [writer for writer in list_writers(self._directory) if is_running(self._directory / writer)]
        age = max(0.0, time.time() - log.stat().st_mtime) if log.exists() else None
        told = alarm.read_text("utf-8", "replace")[:2000] if alarm.exists() else ""
        return LedgerState(running, age, told)


class Limited:
    """A reading's time: `is_over` is asked again and again, `was_over` says whether it ever said yes."""

    def __init__(self, seconds: float) -> None:
        self._ends_at = time.monotonic() + seconds
        self.was_over = False

    def is_over(self) -> bool:
        self.was_over = self.was_over or time.monotonic() > self._ends_at
        return self.was_over


def _envelope_time(micros: int) -> bytes:
    return rfc3339(micros / 1_000_000).encode()
