"""How a worker goes whose place another one took: it serves what it has, until nothing runs or its time is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

LOOK = 0.1
"""Seconds between two looks whether something still runs."""


class Retirement:
    """Asked for by the supervisor once the new worker is ready."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._seconds = 0.0

    def ask(self, seconds: float) -> None:
        """`seconds`: what runs may take as long."""
        self._seconds = seconds
        self._asked.set()

    async def wait(self, stopping: asyncio.Event) -> None:
        """Until we are to retire or to stop."""
        waits = [asyncio.create_task(self._asked.wait()), asyncio.create_task(stopping.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def until_idle(self, stopping: asyncio.Event, is_idle: Callable[[], bool], settle: float) -> None:
        """Until nothing runs any more, the time is over or we are to stop. `settle`: seconds in which more may come."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not stopping.is_set():
            passed = loop.time() - began
            if passed >= settle and (passed >= self._seconds or is_idle()):
                return
            await asyncio.sleep(LOOK)
