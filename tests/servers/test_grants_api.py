"""Grants over the approvals API: given within the rule, seen by whom they concern, ended at once."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from extproc.domain.demand import Quorum
from extproc.domain.errors import LedgerUnavailableError
from extproc.domain.grant import GrantState
from extproc.domain.hold import HeldRequest, HoldState
from extproc.domain.terms import SCOPES, GrantLimit
from tests.support.approvals import OPENAPI, Desk, refused
from tests.support.holds import ANNA, NOW, MemoryHoldStore, ask, demand, shaped, vote

pytestmark = pytest.mark.anyio

LIMIT = GrantLimit(1800.0, 20, "shape")
GRANT = {"for": 600, "uses": 3, "scope": "shape"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def desk() -> Desk:
    return Desk(MemoryHoldStore())


def asked(*quorums: Quorum, **more: Any) -> Any:
    return ask(wants=demand(*quorums, grant=LIMIT), shape=shaped(v1="one", v2="two"), **more)


@pytest.fixture
async def held(desk: Desk) -> HeldRequest:
    return await desk.store.open(asked(), NOW)


async def approve(desk: Desk, token: str, hold_id: str, grant: object = GRANT) -> httpx2.Response:
    body = {"reason": "looks right", "grant": grant}
    return await desk.call(token, "POST", f"/v1/holds/{hold_id}/approve", json=body)


async def revoke(desk: Desk, token: str, grant_id: str) -> httpx2.Response:
    return await desk.call(token, "POST", f"/v1/grants/{grant_id}/revoke", json={"reason": "enough"})


async def test_an_approver_is_told_what_can_be_given_and_which_values_do_not_count(
    desk: Desk, held: HeldRequest
):
    offered = (await desk.get("anna", f"/v1/holds/{held.id}")).json()["grant"]
    assert offered["max"] == {"for": 1800, "uses": 20, "scope": "shape"}
    assert offered["scopes"] == [
        {"scope": "exact", "covers": "exactly this request"},
        {"scope": "pinned", "covers": "the same statement, any values but the pinned ones"},
        {"scope": "shape", "covers": "the same statement, any values"},
    ]
    assert offered["pinnable"] == ["$1", "$2"]
    assert offered["agreed"] is None


async def test_where_the_rule_says_once_nothing_is_offered_and_nothing_can_be_given(desk: Desk):
    held = await desk.store.open(ask(), NOW)
    assert (await desk.get("anna", f"/v1/holds/{held.id}")).json()["grant"] is None
    refused(await approve(desk, "anna", held.id), 409, "too_wide")
    assert (await desk.act("anna", held.id, "approve")).json()["state"] == "approved"


async def test_a_given_grant_is_shown_recorded_and_listed(desk: Desk, held: HeldRequest):
    shown = (await approve(desk, "anna", held.id)).json()
    terms = {**GRANT, "pins": [], "covers": "the same statement, any values"}
    assert shown["grant"]["agreed"] == terms
    assert shown["votes"][0]["grant"] == terms
    assert desk.records[-1].fields["terms"] == {"for": 600, "uses": 3, "scope": "shape"}
    listed = (await desk.get("anna", "/v1/grants")).json()
    (grant,) = listed["grants"]
    assert (grant["hold"], grant["state"], grant["used"], grant["terms"]) == (held.id, "live", 1, terms)
    assert (await desk.get("anna", f"/v1/grants/{grant['id']}")).json() == grant
    assert desk.kinds() == [
        "admin.hold_approve", "evidence.grants_listed", "evidence.grant_read",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "grant",
    [
        {}, [], "shape", {"uses": 3}, {"for": 600}, {**GRANT, "uses": 1}, {**GRANT, "uses": "3"},
        {**GRANT, "uses": True}, {**GRANT, "for": 0}, {**GRANT, "for": 1.5}, {**GRANT, "for": "10m"},
        {**GRANT, "scope": "all"}, {**GRANT, "scope": ["shape"]}, {**GRANT, "pins": "$1"}, {**GRANT, "pins": [1]},
        {**GRANT, "pins": ["$1"] * 257}, {**GRANT, "max": 1}, {**GRANT, "for": 10**12},
    ],
    ids=str,
)  # fmt: skip
async def test_a_grant_that_is_not_understood_gives_nothing(desk: Desk, held: HeldRequest, grant: object):
    refused(await approve(desk, "anna", held.id, grant), 400, "bad_grant")
    assert desk.records == []
    now = await desk.store.get(held.id, NOW)
    assert now is not None and now.state is HoldState.PENDING


@pytest.mark.parametrize(
    ("change", "code"),
    [({"uses": 21}, "too_wide"), ({"for": 1801}, "too_wide"), ({"scope": "pinned"}, "unknown_pin"),
     ({"scope": "pinned", "pins": ["$9"]}, "unknown_pin"), ({"pins": ["$1"]}, "unknown_pin")],
    ids=str,
)  # fmt: skip
async def test_more_than_the_rule_allows_is_refused_and_recorded(
    desk: Desk, held: HeldRequest, change: dict[str, Any], code: str
):
    refused(await approve(desk, "anna", held.id, {**GRANT, **change}), 409, code)
    assert desk.kinds() == ["admin.hold_approve", "admin.refused"]
    assert await desk.store.find_grants(now=NOW) == []


async def test_pins_of_unknown_names_are_neither_kept_nor_repeated(desk: Desk, held: HeldRequest):
    secret = "4111111111111111"
    grant = {**GRANT, "scope": "pinned", "pins": [secret, "\ud800"]}
    answer = await desk.call(
        "anna", "POST", f"/v1/holds/{held.id}/approve", headers={"content-type": "application/json"},
        content=json.dumps({"reason": "x", "grant": grant}).encode(),
    )  # fmt: skip
    refused(answer, 409, "unknown_pin")
    assert secret not in answer.text + repr(desk.records)


async def test_a_denial_takes_no_grant(desk: Desk, held: HeldRequest):
    answer = await desk.call(
        "anna", "POST", f"/v1/holds/{held.id}/deny", json={"reason": "no", "grant": GRANT}
    )
    refused(answer, 400, "unknown_member")


async def test_a_quorum_gives_the_narrowest_of_what_each_gave(desk: Desk):
    held = await desk.store.open(asked(Quorum("sre", 2)), NOW)
    await approve(desk, "anna", held.id, {"for": 900, "uses": 10, "scope": "shape"})
    assert (await desk.get("anna", "/v1/grants")).json()["grants"] == []
    refused(await approve(desk, "anna", held.id, GRANT), 409, "already_voted")
    await approve(desk, "bert", held.id, {"for": 1200, "uses": 4, "scope": "pinned", "pins": ["$2"]})
    (grant,) = (await desk.get("anna", "/v1/grants")).json()["grants"]
    terms = grant["terms"]
    assert (terms["for"], terms["uses"], terms["scope"], terms["pins"]) == (900, 4, "pinned", ["$2"])
    assert terms["covers"] == "the same statement, any values but as here: $2"
    assert {person["subject"] for person in grant["approvers"]} == {"anna", "bert"}


async def test_who_sees_the_hold_sees_the_grant_and_nobody_else_knows_of_it(desk: Desk, held: HeldRequest):
    await approve(desk, "anna", held.id)
    (grant,) = await desk.store.find_grants(now=NOW)
    seen = {
        token: len((await desk.get(token, "/v1/grants")).json()["grants"])
        for token in ("agent", "anna", "bert", "alias", "auditor", "cleo", "other-agent", "stranger")
    }
    assert [token for token, count in seen.items() if count] == ["agent", "anna", "bert", "alias", "auditor"]
    nothing = await desk.get("stranger", "/v1/grants/g-none")
    for token in ("cleo", "other-agent", "stranger"):
        assert (await desk.get(token, f"/v1/grants/{grant.id}")).content == nothing.content
        refused(await revoke(desk, token, grant.id), 404, "not_found")


async def test_each_viewer_is_told_whether_he_may_end_it(desk: Desk, held: HeldRequest):
    await approve(desk, "anna", held.id)
    (grant,) = await desk.store.find_grants(now=NOW)
    may = {
        t: (await desk.get(t, f"/v1/grants/{grant.id}")).json()["may"] for t in ("agent", "bert", "auditor")
    }
    assert may == {"agent": ["revoke"], "bert": ["revoke"], "auditor": []}
    refused(await revoke(desk, "auditor", grant.id), 403, "not_a_member")
    current = await desk.store.get_grant(grant.id, NOW)
    assert current is not None and current.is_live


@pytest.mark.parametrize("token", ["agent", "anna", "bert"])
async def test_approver_and_requester_end_it_and_a_second_call_changes_nothing(
    desk: Desk, held: HeldRequest, token: str
):
    await approve(desk, "anna", held.id)
    (grant,) = await desk.store.find_grants(now=NOW)
    ended = await revoke(desk, token, grant.id)
    assert (ended.json()["state"], ended.json()["closed_reason"], ended.json()["may"]) == (
        "revoked",
        "enough",
        [],
    )
    again = await revoke(desk, token, grant.id)
    assert again.json() == ended.json()
    now = await desk.store.get(held.id, NOW)
    assert now is not None and now.state is HoldState.REVOKED  # the unused approval ended with it
    moves = [move.kind for move in await desk.store.unrecorded()]
    assert moves.count("grant.revoked") == 1


async def test_a_grant_that_is_over_cannot_be_ended(desk: Desk, held: HeldRequest):
    await approve(desk, "anna", held.id)
    (grant,) = await desk.store.find_grants(now=NOW)
    desk.now = NOW + 600
    refused(await revoke(desk, "anna", grant.id), 409, "not_open")
    assert desk.kinds()[-2:] == ["admin.grant_revoke", "admin.refused"]
    assert (await desk.get("anna", f"/v1/grants/{grant.id}")).json()["state"] == "expired"


async def test_what_cannot_be_recorded_is_not_done(desk: Desk, held: HeldRequest):
    await desk.store.vote(held.id, vote(ANNA, terms=None), NOW)
    other = await desk.store.open(asked(binding="b2"), NOW)
    await approve(desk, "anna", other.id)
    (grant,) = await desk.store.find_grants(now=NOW)
    desk.ledger_down = True
    with pytest.raises(LedgerUnavailableError):
        desk.record(desk.records[0])
    refused(await revoke(desk, "anna", grant.id), 503, "ledger_unavailable")
    refused(await desk.get("anna", f"/v1/grants/{grant.id}"), 503, "ledger_unavailable")
    current = await desk.store.get_grant(grant.id, NOW)
    assert current is not None and current.is_live


async def test_states_and_limit_narrow_the_list_and_odd_queries_are_refused(desk: Desk):
    for n in range(3):
        held = await desk.store.open(asked(binding=f"b{n}"), NOW + n)
        await approve(desk, "anna", held.id)
    two = (await desk.get("anna", "/v1/grants?limit=2&state=live&state=revoked")).json()
    assert (len(two["grants"]), two["more"]) == (2, True)
    assert (await desk.get("anna", "/v1/grants?state=expired")).json()["grants"] == []
    assert (await desk.get("anna", "/v1/grants?requester=me")).json()["grants"] == []
    for query in ("state=open", "limit=0", "wait=1", "requester=anna", "unknown=1"):
        refused(await desk.get("anna", f"/v1/grants?{query}"), 400, "bad_query")


async def test_a_text_that_hides_something_is_spelled_out(desk: Desk):
    shape = shaped(v1="one")
    held = await desk.store.open(
        ask(wants=demand(grant=LIMIT), shape=type(shape)("s", "the\u202esame", "any", {"/a\u202eb": "x"})),
        NOW,
    )
    shown = (await desk.get("anna", f"/v1/holds/{held.id}")).json()["grant"]
    assert shown["pinnable"] == ["/a\\u{202E}b"]
    assert "\u202e" not in str(shown)


def test_every_state_and_scope_is_documented() -> None:
    schemas = OPENAPI["components"]["schemas"]
    assert schemas["GrantState"]["enum"] == [state.value for state in GrantState]
    assert schemas["Scope"]["enum"] == list(SCOPES)
