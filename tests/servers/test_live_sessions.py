"""Cancels: of a session here, of one elsewhere, of one that nobody has; and a flood of them."""

from __future__ import annotations

import pytest

from extproc.protocols.postgres import BackendKey
from extproc.servers.live_sessions import BURST, PER_SECOND, Found, LiveSessions

KEY = BackendKey(7, b"\x01\x02\x03\x04")
LONG = BackendKey(7, b"\x01\x02\x03\x04" * 8)
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Session:
    def __init__(self, waits: bool = False) -> None:
        self.waits = waits
        self.looked = 0

    def cancel_waiting(self) -> bool:
        return self.waits

    def end_if_over(self) -> None:
        self.looked += 1


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_a_key_names_one_session_of_one_target():
    live, held, runs = LiveSessions(Clock()), Session(waits=True), Session()
    live.add(held, "db", KEY)
    live.add(runs, "db", LONG)
    assert live.cancel_here("db", KEY) == "held"
    assert live.cancel_here("db", LONG) == "live"
    assert live.cancel_here("other", KEY) == ""
    assert live.cancel_here("db", BackendKey(7, b"\x01\x02\x03\x05")) == ""
    live.remove(held, "db", KEY)
    assert live.cancel_here("db", KEY) == ""


async def test_a_key_that_was_given_anew_is_the_newer_sessions():
    live, old, new = LiveSessions(Clock()), Session(), Session(waits=True)
    live.add(old, "db", KEY)
    live.add(new, "db", KEY)
    live.remove(old, "db", KEY)
    assert live.cancel_here("db", KEY) == "held"


async def test_a_changed_lock_is_shown_to_every_session():
    live, sessions = LiveSessions(Clock()), [Session(), Session()]
    live.add(sessions[0], "db", KEY)
    live.add(sessions[1], "db", None)
    live.end_locked()
    assert [session.looked for session in sessions] == [1, 1]


async def test_alone_nobody_else_is_asked():
    assert await LiveSessions(Clock()).cancel_elsewhere("db", KEY) == ""


async def test_a_flood_of_keys_is_not_passed_on():
    clock, asked = Clock(), 0

    async def ask(target: str, key: BackendKey) -> Found:
        nonlocal asked
        asked += 1
        return "live"

    live = LiveSessions(clock)
    live.ask_others(ask)
    found = [await live.cancel_elsewhere("db", KEY) for _ in range(BURST * 3)]
    assert found == ["live"] * BURST + [""] * BURST * 2
    assert asked == BURST
    clock.now += 2
    found = [await live.cancel_elsewhere("db", KEY) for _ in range(BURST)]
    assert found.count("live") == int(2 * PER_SECOND)
    clock.now -= 500  # a clock that is set back gives nothing
    assert await live.cancel_elsewhere("db", KEY) == ""
