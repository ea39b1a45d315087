"""A waiting agent follows its hold as a stream."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import pytest

from extproc.domain.hold import HeldRequest, HoldState, Verdict
from extproc.servers import hold_events
from extproc.servers.deciding import Deciding
from extproc.servers.hold_events import HoldEvents, Room
from tests.support.approvals import TOKENS, Desk
from tests.support.holds import AGENT, ANNA, NOW, MemoryHoldStore, ask, vote

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def desk() -> Desk:
    return Desk(MemoryHoldStore())


@pytest.fixture
async def held(desk: Desk) -> HeldRequest:
    return await desk.store.open(ask(), NOW)


async def follow(desk: Desk, token: str, hold_id: str, **headers: str) -> httpx2.Response:
    transport = httpx2.ASGITransport(desk.app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://approvals") as client:
        sent = {"authorization": f"Bearer {token}", **headers}
        return await client.get(f"/v1/holds/{hold_id}/events", headers=sent)


def told(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


async def test_the_whole_life_is_told_and_then_the_stream_ends(desk: Desk, held: HeldRequest):
    following = asyncio.create_task(follow(desk, "agent", held.id))
    await asyncio.sleep(0.01)
    await desk.store.vote(held.id, vote(ANNA), NOW)
    await asyncio.sleep(0.01)
    await desk.store.release(held.id, "dec-1", NOW)
    answer = await asyncio.wait_for(following, 10)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert [each["state"] for each in told(answer.text)] == ["pending", "approved", "released"]
    assert "id: 3\n" in answer.text


async def test_who_comes_back_is_told_only_what_is_new(desk: Desk, held: HeldRequest):
    await desk.store.close(held.id, Verdict.WITHDRAW, NOW)
    answer = await follow(desk, "agent", held.id, **{"last-event-id": str(held.version)})
    assert [each["state"] for each in told(answer.text)] == ["withdrawn"]
    again = await follow(desk, "agent", held.id, **{"last-event-id": str(held.version + 1)})
    assert told(again.text) == []


async def test_an_agent_follows_its_own_holds_only(desk: Desk, held: HeldRequest):
    for token, status in (("other-agent", 404), ("stranger", 404), ("data-path", 401), ("wrong-client", 403)):
        assert (await follow(desk, token, held.id)).status_code == status
    assert (await follow(desk, "agent", "h-none")).status_code == 404
    assert desk.records == []


async def test_a_silent_stream_pulses_and_ends_with_the_token(
    desk: Desk, held: HeldRequest, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(hold_events, "PULSE", 0.01)
    late = TOKENS["agent"]
    monkeypatch.setitem(TOKENS, "short", type(late)(**{**_fields(late), "expires_at": NOW + 5}))
    following = asyncio.create_task(follow(desk, "short", held.id))
    await asyncio.sleep(0.05)
    desk.now = NOW + 6
    answer = await asyncio.wait_for(following, 10)
    assert ": still here\n\n" in answer.text
    assert [each["state"] for each in told(answer.text)] == ["pending"]


async def test_a_hold_that_expires_is_told_although_nobody_moved_it(
    desk: Desk, held: HeldRequest, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(hold_events, "PULSE", 0.01)
    following = asyncio.create_task(follow(desk, "agent", held.id))
    await asyncio.sleep(0.02)
    desk.now = NOW + 3601  # within the hour that a stream lives, by its own start: the hold's hour is over
    answer = await asyncio.wait_for(following, 10)
    assert told(answer.text)[0]["state"] == "pending"
    found = await desk.store.get(held.id, desk.now)
    assert found is not None and found.state is HoldState.EXPIRED


async def test_streams_and_long_polls_share_one_room(held: HeldRequest, desk: Desk):
    async def caller(request: Any) -> Any:
        return AGENT

    room = Room(0)
    handler = HoldEvents(Deciding(desk.store, desk.record, lambda: NOW), caller, room)
    from starlette.requests import Request

    from extproc.servers.approvals_problems import ProblemError

    scope = {"type": "http", "headers": [], "query_string": b"", "path_params": {"hold_id": held.id}}
    with pytest.raises(ProblemError, match="too_many_streams"):
        await handler.stream(Request(scope))


async def test_what_is_told_is_escaped_and_one_line(desk: Desk):
    held = await desk.store.open(ask(view={"facts": {"path": "a\n\nevent: hold\ndata: {}\u202e"}}), NOW)
    await desk.store.close(held.id, Verdict.WITHDRAW, NOW)
    text = (await follow(desk, "agent", held.id)).text
    assert text.isascii() and len(text.splitlines()) == 4


def _fields(principal: Any) -> dict[str, Any]:
    return {name: getattr(principal, name) for name in principal.__slots__}
