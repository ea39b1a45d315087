"""Who waits for which hold to change, and how they are told: in memory by this process, by polling for others.

While somebody waits, one task asks SQLite's change counter (a few microseconds) every 50 ms. Nobody waits, no task.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from extproc.domain.errors import StoreUnavailableError
from extproc.domain.grant import Grant
from extproc.domain.hold import HeldRequest

INTERVAL = 0.05
SWEEP_INTERVAL = 1.0
FAILURES = 3
"""Looks in a row that may fail before everybody who waits is told that the store is lost."""

Seen = tuple[int, int]
Look = Callable[[Seen | None, Sequence[str]], Awaitable[tuple[Seen, dict[str, int]]]]


class Waits:
    """Numbers people wait on: a hold's version by its id, and the newest move of all by the empty id."""

    def __init__(
        self,
        look: Look,
        sweep: Callable[[float], Awaitable[int]],
        clock: Callable[[], float],
        interval: float = INTERVAL,
    ) -> None:
        self._interval = interval
        self._look = look
        self._sweep = sweep
        self._clock = clock
        self._waiting: dict[str, dict[asyncio.Future[bool], int]] = {}
        self._poller: asyncio.Task[None] | None = None
        self._untold: list[tuple[str, int]] = []  # touched by the store's thread only

    @contextmanager
    def waiting(self, key: str, number: int) -> Iterator[Callable[[float], Awaitable[bool]]]:
        """Signed up inside the block. `await told(timeout)` is True once the number is another."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, {})[future] = number

        async def told(timeout: float) -> bool:
            if self._poller is None or self._poller.done():
                self._poller = asyncio.create_task(self._poll(), name="hold-store-poll")
            done, _ = await asyncio.wait({future}, timeout=timeout)
            return bool(done) and future.result()

        try:
            yield told
        finally:
            future.cancel()
            del self._waiting[key][future]
            if not self._waiting[key]:
                del self._waiting[key]

    def told_from_thread(self, held: HeldRequest | Grant) -> None:
        """To be told once the transaction under way is committed."""
        self._untold.append((held.id, held.version))

    def drop_from_thread(self) -> None:
        """It was rolled back: nothing happened."""
        self._untold.clear()

    def send_from_thread(self, loop: asyncio.AbstractEventLoop) -> None:
        """It is committed. Told from the thread, so that a cancelled caller cannot keep the news to itself."""
        if not self._untold:
            return
        untold, self._untold = self._untold, []
        try:
            loop.call_soon_threadsafe(self.tell, untold)
        except RuntimeError:
            pass  # the loop is closed: nobody of this process waits any more

    async def aclose(self) -> None:
        """Everybody who waits gets StoreUnavailableError."""
        self._fail(StoreUnavailableError("the hold store is closing"))
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.wait({self._poller})

    def tell(self, news: Sequence[tuple[str, int]]) -> None:
        """These numbers are new; in the event loop."""
        if not news:
            return
        for key, number in news:
            for future, known in self._waiting.get(key, {}).items():
                if known != number and not future.done():
                    future.set_result(True)
        for future in self._waiting.get("", {}):
            if not future.done():
                future.set_result(True)

    async def _poll(self) -> None:
        seen: Seen | None = None
        failures = 0
        next_sweep = 0.0
        while self._waiting:
            try:
                now_seen, numbers = await self._look(seen, list(self._waiting))
                if now_seen != seen:
                    seen = now_seen
                    self._compare(numbers)
                if time.monotonic() >= next_sweep:
                    next_sweep = time.monotonic() + SWEEP_INTERVAL
                    await self._sweep(self._clock())
                failures = 0
            except StoreUnavailableError as error:
                failures += 1
                if failures >= FAILURES:
                    self._fail(error)
            await asyncio.sleep(self._interval)

    def _compare(self, numbers: dict[str, int]) -> None:
        for key, futures in self._waiting.items():
            for future, known in futures.items():
                if numbers.get(key, known) != known and not future.done():
                    future.set_result(True)

    def _fail(self, error: StoreUnavailableError) -> None:
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(StoreUnavailableError(str(error)))
