"""A worker whose place was taken serves what it has, no longer than it may, and stops at once when told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from extproc.app.leaving import Retirement


def looking(looks: list[str]) -> Callable[[], bool]:
    """Something always runs; each look at it is kept."""

    def is_idle() -> bool:
        looks.append("looked")
        return False

    return is_idle


def test_waiting_ends_by_a_word_to_retire_or_to_stop() -> None:
    async def main() -> None:
        for tell in (lambda r, s: r.ask(1.0), lambda r, s: s.set()):
            retirement, stopping = Retirement(), asyncio.Event()
            waiting = asyncio.create_task(retirement.wait(stopping))
            await asyncio.sleep(0)
            assert not waiting.done()
            tell(retirement, stopping)
            await waiting

    asyncio.run(main())


def test_it_goes_once_nothing_runs() -> None:
    async def main() -> None:
        retirement, looks = Retirement(), iter([False, False, True])
        retirement.ask(3600.0)
        await retirement.until_idle(asyncio.Event(), lambda: next(looks), 0.0)
        assert next(looks, None) is None

    asyncio.run(main())


def test_it_goes_when_its_time_is_over() -> None:
    async def main() -> None:
        retirement, looks = Retirement(), list[str]()
        retirement.ask(0.0)
        await retirement.until_idle(asyncio.Event(), looking(looks), 0.2)
        assert not looks, "what still runs does not matter any more"

    asyncio.run(main())


def test_a_stop_does_not_wait_for_what_runs() -> None:
    async def main() -> None:
        retirement, stopping, looks = Retirement(), asyncio.Event(), list[str]()
        retirement.ask(3600.0)
        stopping.set()
        await retirement.until_idle(stopping, looking(looks), 3600.0)
        assert not looks

    asyncio.run(main())
