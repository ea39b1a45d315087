"""Open pages are told that something moved, and no more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from extproc.servers.console import live
from extproc.servers.console.live import Live
from extproc.servers.console.sessions import Entered, Session, Sessions
from extproc.servers.deciding import Deciding
from tests.support.holds import ANNA, NOW, MemoryHoldStore, ask, vote

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Stand:
    def __init__(self) -> None:
        self.now = NOW
        self.store = MemoryHoldStore()
        deciding = Deciding(self.store, lambda record: None, lambda: self.now)
        self.sessions = Sessions(lambda: self.now, 3600.0, 1800.0, None)
        self.live = Live(deciding, self.sessions)
        self.name = self.sessions.start(Entered(ANNA, NOW + 3600))

    async def session(self) -> Session:
        found = await self.sessions.find(self.name)
        assert found is not None
        return found


async def take(events: AsyncIterator[str]) -> str:
    return await asyncio.wait_for(anext(events), 5)


async def test_a_move_is_told_with_its_number_and_nothing_of_the_hold():
    stand = Stand()
    held = await stand.store.open(ask(), NOW)
    events = stand.live._events(await stand.session(), since=0)
    assert await take(events) == "retry: 2000\n\n"
    assert await take(events) == "event: moved\nid: 1\ndata: 1\n\n"
    await stand.store.vote(held.id, vote(ANNA), NOW)
    told = await take(events)
    assert told.startswith("event: moved\nid: 3")
    assert held.id not in told
    await events.aclose()


async def test_a_silent_stream_says_that_it_is_there_and_ends_with_its_session(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(live, "PULSE", 0.01)
    stand = Stand()
    session = await stand.session()
    events = stand.live._events(session, since=0)
    await take(events)
    assert await take(events) == ": still here\n\n"
    assert session.streams == 1
    stand.sessions.end(stand.name)
    assert await take(events) == "event: over\ndata: over\n\n"
    with contextlib.suppress(StopAsyncIteration):
        await take(events)
    assert session.streams == 0


async def test_a_stream_is_no_sign_of_life(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(live, "PULSE", 0.01)
    stand = Stand()
    events = stand.live._events(await stand.session(), since=0)
    await take(events)
    stand.now = NOW + 1800
    assert "over" in await take(events) or "over" in await take(events)
    await events.aclose()
