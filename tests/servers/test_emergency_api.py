"""Emergencies over the API: the requester goes at once, everybody who should know does, somebody else reviews."""

from __future__ import annotations

from typing import Any

import pytest

from extproc.domain.demand import Quorum
from extproc.domain.hold import HeldRequest
from tests.support.approvals import Desk, refused
from tests.support.holds import IN_EMERGENCIES, NOW, OLGA, MemoryHoldStore, ask, demand

pytestmark = pytest.mark.anyio
WANTS = demand(Quorum("sre", 2), break_glass=IN_EMERGENCIES)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def desk() -> Desk:
    return Desk(MemoryHoldStore(), mask=lambda text: text.replace("s3cret", "[SECRET]"))


@pytest.fixture
async def held(desk: Desk) -> HeldRequest:
    return await desk.store.open(ask(requester=OLGA, wants=WANTS), NOW)


async def review(desk: Desk, who: str, hold_id: str, **body: Any) -> Any:
    body = {"justified": True, "reason": "the site was down", **body}
    return await desk.call(who, "POST", f"/v1/holds/{hold_id}/review", json=body)


async def test_the_requester_goes_at_once_and_somebody_else_reviews(desk: Desk, held: HeldRequest):
    assert (await desk.get("olga", f"/v1/holds/{held.id}")).json()["may"] == ["withdraw", "break-glass"]
    answer = await desk.act("olga", held.id, "break-glass", "site down, s3cret")
    assert answer.status_code == 200
    shown = answer.json()
    assert (shown["state"], shown["break_glass"]["reason"]) == ("approved", "site down, [SECRET]")
    assert shown["break_glass"]["review_state"] == "open" and "review" not in shown["may"]
    assert "review" in (await desk.get("anna", f"/v1/holds/{held.id}")).json()["may"]
    done = (await review(desk, "anna", held.id, justified=False, reason="it could wait, s3cret")).json()
    found = done["break_glass"]["review"]
    assert (found["justified"], found["reason"]) == (False, "it could wait, [SECRET]")
    assert found["reviewer"]["person"] == "anna@people.test"
    assert "review" not in done["may"]
    acts = [record for record in desk.records if record.kind.startswith("admin.hold_")]
    assert [(each.kind, each.fields["by"]["subject"]) for each in acts] == [
        ("admin.hold_break_glass", "olga"), ("admin.hold_review", "anna"),
    ]  # fmt: skip


async def test_what_is_owed_can_be_listed(desk: Desk, held: HeldRequest):
    await desk.store.open(ask("other"), NOW)
    await desk.act("olga", held.id, "break-glass", "site down")

    async def listed(who: str, query: str) -> list[str]:
        return [each["id"] for each in (await desk.get(who, f"/v1/holds?{query}")).json()["holds"]]

    for who, ids in (("anna", [held.id]), ("olga", [held.id]), ("auditor", [held.id]), ("stranger", [])):
        assert await listed(who, "review=open&review=overdue") == ids, who
    desk.now = NOW + IN_EMERGENCIES.review_within
    assert await listed("anna", "review=open") == []
    assert await listed("anna", "review=overdue") == [held.id]
    refused(await desk.get("anna", "/v1/holds?review=maybe"), 400, "bad_query")


@pytest.mark.parametrize(
    ("who", "status", "code"),
    [("anna", 403, "not_requester"), ("stranger", 404, "not_found"), ("data-path", 401, "wrong_audience"),
     ("wrong-client", 403, "wrong_client")],
)  # fmt: skip
async def test_nobody_else_breaks_the_glass(desk: Desk, held: HeldRequest, who: str, status: int, code: str):
    refused(await desk.act(who, held.id, "break-glass", "site down"), status, code)
    kept = await desk.store.get(held.id, NOW)
    assert kept is not None and kept.glass is None


async def test_an_agent_has_no_emergency(desk: Desk):
    held = await desk.store.open(ask(wants=WANTS), NOW)
    refused(await desk.act("agent", held.id, "break-glass", "site down"), 403, "not_human")
    assert desk.records[-1].fields["code"] == "not_human"


async def test_where_no_rule_allows_it_everybody_waits(desk: Desk):
    held = await desk.store.open(ask(requester=OLGA), NOW)
    refused(await desk.act("olga", held.id, "break-glass", "site down"), 403, "not_allowed")
    refused(await review(desk, "anna", held.id), 409, "not_broken")


async def test_nobody_reviews_their_own(desk: Desk, held: HeldRequest):
    await desk.act("olga", held.id, "break-glass", "site down")
    refused(await review(desk, "olga", held.id), 403, "self_approval")
    refused(await review(desk, "auditor", held.id), 403, "not_a_member")
    await review(desk, "anna", held.id)
    refused(await review(desk, "bert", held.id), 409, "already_reviewed")


@pytest.mark.parametrize(
    ("body", "code"),
    [({"justified": "yes"}, "bad_review"), ({"justified": 1}, "bad_review"), ({"justified": None}, "bad_review"),
     ({"reason": ""}, "reason_required"), ({"more": 1}, "unknown_member")],
)  # fmt: skip
async def test_a_review_that_is_not_understood_is_refused(
    desk: Desk, held: HeldRequest, body: Any, code: str
):
    await desk.act("olga", held.id, "break-glass", "site down")
    refused(await review(desk, "anna", held.id, **body), 400, code)


async def test_without_a_ledger_no_glass_breaks(desk: Desk, held: HeldRequest):
    desk.ledger_down = True
    refused(await desk.act("olga", held.id, "break-glass", "site down"), 503, "ledger_unavailable")
    kept = await desk.store.get(held.id, NOW)
    assert kept is not None and kept.glass is None
