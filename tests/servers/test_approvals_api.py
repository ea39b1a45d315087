"""The approvals API: who gets in, who sees what, who may decide, and what is written down."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from jsonschema import Draft202012Validator, ValidationError
from starlette.routing import Route

from extproc.adapters.hold_sqlite import SqliteHoldStore
from extproc.domain.demand import Quorum
from extproc.domain.errors import ConfigError, LedgerUnavailableError, PolicyError, StoreUnavailableError
from extproc.domain.hold import HeldRequest, HoldState
from extproc.ledger.lines import RecordError, encode_fields
from extproc.servers import approvals_api, hold_outbox
from extproc.servers.hold_outbox import drain_outbox
from tests.support.approvals import OPENAPI, TOKENS, Desk, conforms, refused
from tests.support.holds import ANNA, IN_EMERGENCIES, NOW, OLGA, MemoryHoldStore, ask, demand, principal, vote

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


async def state_of(desk: Desk, held: HeldRequest) -> HoldState:
    now = await desk.store.get(held.id, NOW)
    assert now is not None
    return now.state


class TestGettingIn:
    @pytest.mark.parametrize(
        ("method", "path"),
        [
            (method.upper(), path.replace("{hold_id}", "h-0").replace("{grant_id}", "g-0"))
            for path, operations in OPENAPI["paths"].items()
            for method, operation in operations.items()
            if operation.get("security") != []
        ],
    )
    @pytest.mark.parametrize(
        ("token", "status", "code"),
        [
            ("", 401, "missing"),
            ("forged", 401, "bad_signature"),
            ("data-path", 401, "wrong_audience"),
            ("wrong-client", 403, "wrong_client"),
            ("no-client", 403, "wrong_client"),
        ],
    )
    async def test_every_operation_wants_a_token_of_the_audience_and_client(
        self, desk: Desk, held: HeldRequest, method: str, path: str, token: str, status: int, code: str
    ):
        response = await desk.call(
            token, method, path, **({"json": {"reason": "x"}} if method == "POST" else {})
        )
        refused(response, status, code)
        assert ("www-authenticate" in response.headers) == (status == 401)
        assert await desk.store.get(held.id, NOW) == held
        assert desk.records == []

    @pytest.mark.parametrize(
        ("value", "code"),
        [
            ("Basic YTpi", "malformed"),
            ("Bearer", "malformed"),
            ("Bearer  ", "malformed"),
            ("anna", "malformed"),
            ("Bearer " + "x" * 20_000, "too_large"),
        ],
    )
    async def test_a_token_comes_as_one_bearer_token(self, desk: Desk, value: str, code: str):
        response = await desk.get("", "/v1/holds", headers={"authorization": value})
        refused(response, 401, code)
        assert response.headers["www-authenticate"].startswith("Bearer ")

    async def test_two_authorization_headers_are_refused(self, desk: Desk):
        transport = httpx2.ASGITransport(desk.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://approvals") as client:
            both = [("authorization", "Bearer anna"), ("authorization", "Bearer bert")]
            refused(await client.get("/v1/holds", headers=both), 401, "malformed")

    async def test_no_token_may_be_given_in_the_query(self, desk: Desk):
        refused(await desk.get("", "/v1/holds?access_token=anna"), 401, "missing")

    async def test_an_expired_token_is_refused_whatever_the_verifier_said(self, desk: Desk, monkeypatch: Any):
        late = principal("anna", "sre")
        object.__setattr__(late, "expires_at", NOW)
        monkeypatch.setitem(TOKENS, "late", late)
        refused(await desk.get("late", "/v1/holds"), 401, "expired")

    async def test_keys_that_cannot_be_had_are_our_fault(self, desk: Desk):
        async def unavailable(token: str) -> Any:
            raise StoreUnavailableError("no keys")

        lost = Desk(desk.store, authenticate=unavailable)
        refused(await lost.get("anna", "/v1/holds"), 503, "store_unavailable")

    async def test_tokens_are_never_repeated(self, desk: Desk):
        secret = "s3cr3t-" * 10
        answers = [
            await desk.get(secret, "/v1/holds"),
            await desk.get("", "/v1/holds", headers={"authorization": f"Basic {secret}"}),
            await desk.get("", f"/v1/holds?token={secret}"),
            await desk.get("anna", f"/v1/holds?{secret}={secret}"),
            await desk.get("anna", f"/v1/{secret}"),
            await desk.get("anna", f"/v1/holds/{secret}"),
            await desk.call("anna", "POST", "/v1/holds/h-0/approve", json={secret: secret}),
        ]
        for answer in answers:
            assert secret not in answer.text
            assert secret not in str(answer.headers)
        assert secret not in repr(desk.records)


class TestSeeing:
    async def test_approvers_see_what_they_are_asked(self, desk: Desk, held: HeldRequest):
        await desk.store.open(ask("b2", wants=demand(Quorum("dpo"))), NOW + 1)
        seen = {token: (await desk.get(token, "/v1/holds")).json()["holds"] for token in TOKENS_THAT_WORK}
        assert {token: len(holds) for token, holds in seen.items()} == {
            "agent": 2, "other-agent": 0, "anna": 1, "bert": 2, "cleo": 1, "alias": 2, "same-subject": 2,
            "stranger": 0, "olga": 0, "auditor": 2, "operator": 2, "auditing-robot": 0,
        }  # fmt: skip

    async def test_what_is_not_yours_does_not_exist(self, desk: Desk, held: HeldRequest):
        nothing = await desk.get("stranger", "/v1/holds/h-none")
        refused(nothing, 404, "not_found")
        for token in ("stranger", "other-agent", "cleo", "auditing-robot"):
            answer = await desk.get(token, f"/v1/holds/{held.id}")
            assert answer.content == nothing.content
            for action in ("approve", "deny", "withdraw", "revoke"):
                refused(await desk.act(token, held.id, action), 404, "not_found")
        assert await desk.store.get(held.id, NOW) == held
        assert desk.records == []

    @pytest.mark.parametrize("hold_id", ["..", "%00", "h-0%2F..", "x" * 65, "h-0'--", "%E2%80%AE", "%ff"])
    async def test_odd_ids_are_just_not_found(self, desk: Desk, held: HeldRequest, hold_id: str):
        answer = await desk.get("anna", f"/v1/holds/{hold_id}")
        assert answer.status_code == 404

    async def test_the_hold_shows_our_facts_first_then_normalised_then_raw(self, desk: Desk):
        view = {"truncated": [], "raw": {"body": "r"}, "extra": 1, "normalised": {"b": 2}, "facts": {"z": 1}}
        held = await desk.store.open(ask(view=view), NOW)
        shown = (await desk.get("anna", f"/v1/holds/{held.id}")).json()
        assert list(shown["view"]) == ["facts", "normalised", "raw", "truncated", "extra"]
        assert shown["shown_in_full"] is True
        assert shown["requester"]["kind"] == "agent"
        assert shown["risk"] == {"total": 60, "parts": [{"rule": "payments/risky-writes-wait", "risk": 60}]}
        assert shown["missing"] == [{"group": "sre", "count": 1}]
        assert shown["may"] == ["approve", "deny"]

    async def test_each_viewer_is_told_what_he_may_do(self, desk: Desk, held: HeldRequest):
        async def may(token: str) -> Any:
            return (await desk.get(token, f"/v1/holds/{held.id}")).json()["may"]

        assert [await may(token) for token in ("agent", "anna", "alias", "auditor", "operator")] == [
            ["withdraw"], ["approve", "deny"], ["withdraw"], [], [],
        ]  # fmt: skip
        await desk.act("anna", held.id, "approve")
        assert [await may(token) for token in ("agent", "bert", "auditor")] == [["revoke"], ["revoke"], []]

    async def test_what_hides_or_moves_text_is_spelled_out(self, desk: Desk):
        nasty = "a\x1b[2Jb\u202ec\u200bd\x00e\x85f\u2066g\ufeffh\ud800i\U000e0041j"
        view = {
            "facts": {"path": nasty, nasty: 1},
            "normalised": [nasty],
            "raw": {"body": f"{nasty}\nnext\tline\r"},
        }
        asker = principal(nasty.replace("\ud800", ""), kind="agent")
        held = await desk.store.open(ask(view=view, requester=asker), NOW)
        await desk.store.vote(held.id, vote(ANNA, reason="x\u202ey"), NOW)
        for path in ("/v1/holds", f"/v1/holds/{held.id}"):
            answer = await desk.get("anna", path)
            texts = list(strings(answer.json()))
            for text in texts:
                assert text.replace("\n", "").replace("\t", "").isprintable()
            assert any("\\u{1B}[2Jb\\u{202E}c" in text for text in texts)
        body = (await desk.get("anna", f"/v1/holds/{held.id}")).json()["view"]["raw"]["body"]
        assert body.endswith("\nnext\tline\\u{D}")

    async def test_what_a_rule_wants_in_a_reason_is_shown_and_asked(self, desk: Desk):
        held = await desk.store.open(ask(wants=demand(reason_patterns=("CHG-[0-9]+",))), NOW)
        shown = (await desk.get("anna", f"/v1/holds/{held.id}")).json()
        assert shown["reason_patterns"] == ["CHG-[0-9]+"]
        refused(await desk.act("anna", held.id, "approve", "looks right"), 409, "reason_pattern")
        assert (await desk.act("anna", held.id, "approve", "CHG-12")).json()["state"] == "approved"

    async def test_a_hold_is_compared_with_the_last_of_its_kind_that_was_approved(self, desk: Desk):
        held = await desk.store.open(ask(), NOW)
        nothing = (await desk.get("anna", f"/v1/holds/{held.id}/compared")).json()
        assert nothing == {"last": None, "differences": [], "more": 0}
        await desk.store.vote(held.id, vote(ANNA), NOW)
        view = {**ask().view, "raw": {"body": '{"amount": "5000\u202e"}'}}
        now = await desk.store.open(ask("b2", view=view), NOW + 1)
        other = {**ask().view, "facts": {"method": "PUT", "path": "/payments"}}
        await desk.store.vote((await desk.store.open(ask("b3", view=other), NOW + 2)).id, vote(ANNA), NOW + 2)
        answer = (await desk.get("anna", f"/v1/holds/{now.id}/compared")).json()
        assert answer["last"]["id"] == held.id
        assert answer["last"]["approvers"] == [ANNA.person]
        assert answer["differences"] == [
            {"where": "body.amount", "before": "10", "now": '"5000\\u{202E}"'},
        ]
        read = [r.fields["hold"] for r in desk.records if r.kind == "evidence.hold_read"]
        assert read[-2:] == [now.id, held.id]
        refused(await desk.get("stranger", f"/v1/holds/{now.id}/compared"), 404, "not_found")

    async def test_what_nobody_or_an_emergency_approved_is_not_compared_with(self, desk: Desk):
        own = ask("e", requester=OLGA, wants=demand(break_glass=IN_EMERGENCIES))
        broken = await desk.store.open(own, NOW)
        await desk.store.break_glass(broken.id, OLGA, "down", NOW)
        denied = await desk.store.open(ask("d"), NOW)
        await desk.store.vote(denied.id, vote(ANNA, False), NOW)
        now = await desk.store.open(ask("n"), NOW + 1)
        assert (await desk.get("anna", f"/v1/holds/{now.id}/compared")).json()["last"] is None

    async def test_a_comparison_shows_nothing_the_caller_may_not_see(self, desk: Desk):
        before = await desk.store.open(ask("x", wants=demand(Quorum("dpo"))), NOW)
        await desk.store.vote(before.id, vote(TOKENS["cleo"]), NOW)
        now = await desk.store.open(ask("y"), NOW + 1)
        assert (await desk.get("anna", f"/v1/holds/{now.id}/compared")).json()["last"] is None
        assert (await desk.get("bert", f"/v1/holds/{now.id}/compared")).json()["last"]["id"] == before.id

    @pytest.mark.parametrize(
        ("facts", "title"),
        [
            ({"method": "POST", "host": "api", "path": "/payments"}, "POST api /payments"),
            ({"verbs": ["DELETE"], "tables_read": [], "tables_written": ["orders"]}, "DELETE orders"),
        ],
    )
    async def test_a_title_says_what_is_asked_of_what(self, desk: Desk, facts: Any, title: str):
        await desk.store.open(ask(view={"facts": facts}), NOW)
        assert (await desk.get("anna", "/v1/holds")).json()["holds"][0]["title"] == title

    async def test_a_limit_that_cuts_says_so(self, desk: Desk):
        for n in range(3):
            await desk.store.open(ask(f"b{n}"), NOW + n)
        two = (await desk.get("anna", "/v1/holds?limit=2")).json()
        assert (len(two["holds"]), two["more"]) == (2, True)
        three = (await desk.get("anna", "/v1/holds?limit=3")).json()
        assert (len(three["holds"]), three["more"]) == (3, False)

    async def test_states_and_requester_filter(self, desk: Desk, held: HeldRequest):
        mine = await desk.store.open(ask("b2", requester=ANNA, wants=demand(Quorum("dpo"))), NOW + 1)
        await desk.act("anna", held.id, "deny")
        pending = (await desk.get("bert", "/v1/holds?state=pending&state=approved")).json()["holds"]
        assert [each["id"] for each in pending] == [mine.id]
        own = (await desk.get("anna", "/v1/holds?requester=me")).json()["holds"]
        assert [each["id"] for each in own] == [mine.id]

    @pytest.mark.parametrize(
        "query",
        ["state=open", "limit=0", "limit=501", "limit=1e2", "limit=-1", "limit=1&limit=2", "requester=anna",
         "wait=61", "wait=x", "since=-1", "unknown=1", "limit=%D9%A1"],
    )  # fmt: skip
    async def test_a_query_that_is_not_understood_is_refused(self, desk: Desk, query: str):
        refused(await desk.get("anna", f"/v1/holds?{query}"), 400, "bad_query")

    async def test_reading_changes_nothing(self, desk: Desk, held: HeldRequest):
        await desk.get("anna", f"/v1/holds/{held.id}")
        await desk.get("anna", "/v1/holds")
        assert await desk.store.get(held.id, NOW) == held
        assert [move.kind for move in await desk.store.unrecorded()] == ["hold.opened"]

    @pytest.mark.parametrize("action", ["approve", "deny", "withdraw", "revoke"])
    @pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"])
    async def test_only_post_acts(self, desk: Desk, held: HeldRequest, action: str, method: str):
        transport = httpx2.ASGITransport(desk.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://approvals") as client:
            answer = await client.request(
                method, f"/v1/holds/{held.id}/{action}", headers={"authorization": "Bearer anna"}
            )
        assert answer.status_code == 405
        assert await desk.store.get(held.id, NOW) == held

    async def test_nothing_is_shown_to_other_origins_or_kept_by_caches(self, desk: Desk, held: HeldRequest):
        for answer in (
            await desk.get("anna", "/v1/holds", headers={"origin": "https://elsewhere.test"}),
            await desk.get("", "/v1/holds"),
            await desk.get("anna", "/nothing"),
            await desk.get("", "/v1/healthz"),
        ):
            assert not [name for name in answer.headers if name.startswith("access-control-")]
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "default-src 'none'" in answer.headers["content-security-policy"]


TOKENS_THAT_WORK = [token for token in TOKENS if token not in ("data-path", "wrong-client", "no-client")]


def strings(value: object) -> Any:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


class TestDeciding:
    async def test_an_approver_approves(self, desk: Desk, held: HeldRequest):
        answer = await desk.act("anna", held.id, "approve", "ticket 12")
        assert answer.status_code == 200
        shown = answer.json()
        assert (shown["state"], shown["missing"]) == ("approved", [])
        assert [(each["vote"], each["reason"], each["approver"]["subject"]) for each in shown["votes"]] == [
            ("approve", "ticket 12", "anna")
        ]
        assert await state_of(desk, held) is HoldState.APPROVED

    async def test_an_approver_denies(self, desk: Desk, held: HeldRequest):
        shown = (await desk.act("anna", held.id, "deny", "not today")).json()
        assert (shown["state"], shown["closed_reason"], shown["may"]) == ("rejected", "not today", [])

    @pytest.mark.parametrize(
        ("token", "code"),
        [
            ("agent", "self_approval"),
            ("alias", "self_approval"),
            ("same-subject", "self_approval"),
            ("auditor", "not_a_member"),
            ("operator", "not_a_member"),
        ],
    )
    @pytest.mark.parametrize("action", ["approve", "deny"])
    async def test_who_sees_it_may_still_not_decide(
        self, desk: Desk, held: HeldRequest, token: str, code: str, action: str
    ):
        refused(await desk.act(token, held.id, action), 403, code)
        assert await desk.store.get(held.id, NOW) == held
        assert desk.kinds() == [f"admin.hold_{action}", "admin.refused"]
        assert desk.records[-1].fields["code"] == code

    async def test_an_agent_never_decides_even_as_a_member(self, desk: Desk, held: HeldRequest):
        refused(await desk.act("other-agent", held.id, "approve"), 404, "not_found")
        own = await desk.store.open(ask("b2", requester=TOKENS["other-agent"]), NOW)
        refused(await desk.act("other-agent", own.id, "approve"), 403, "self_approval")

    async def test_an_agent_decides_only_where_the_rule_says_so(self, desk: Desk):
        held = await desk.store.open(ask(wants=demand(allow_agents=True)), NOW)
        assert (await desk.act("other-agent", held.id, "approve")).json()["state"] == "approved"
        moves = await desk.store.unrecorded()
        assert moves[0].fields["allow_agents"] is True
        assert moves[1].fields["approver"]["kind"] == "agent"

    async def test_two_people_are_needed_where_two_are_asked(self, desk: Desk):
        held = await desk.store.open(ask(wants=demand(Quorum("sre"), Quorum("dpo"))), NOW)
        first = (await desk.act("bert", held.id, "approve")).json()  # a member of both counts once
        assert (first["state"], len(first["missing"])) == ("pending", 1)
        assert (await desk.act("cleo", held.id, "approve")).json()["state"] == "approved"

    async def test_of_a_conflict_group_one_person_approves_and_others_deny(self, desk: Desk):
        wants = demand(Quorum("sre"), Quorum("dpo"), conflict_groups=("sre",))
        held = await desk.store.open(ask(wants=wants), NOW)
        assert (await desk.act("anna", held.id, "approve")).status_code == 200
        shown = (await desk.get("bert", f"/v1/holds/{held.id}")).json()
        assert (shown["conflict_groups"], shown["may"]) == (["sre"], ["deny"])
        refused(await desk.act("bert", held.id, "approve"), 403, "conflict_of_interest")
        assert desk.records[-1].fields["code"] == "conflict_of_interest"
        assert (await desk.act("bert", held.id, "deny")).json()["state"] == "rejected"

    async def test_the_same_vote_again_is_fine_and_changes_nothing(self, desk: Desk):
        held = await desk.store.open(ask(wants=demand(Quorum("sre", 2))), NOW)
        first = await desk.act("anna", held.id, "approve")
        again = await desk.act("anna", held.id, "approve", "another reason")
        assert (again.status_code, again.json()) == (200, first.json())

    async def test_two_approvers_race_and_both_are_heard(self, desk: Desk):
        held = await desk.store.open(ask(wants=demand(Quorum("sre", 2))), NOW)
        answers = await asyncio.gather(*(desk.act(token, held.id, "approve") for token in ("anna", "bert")))
        assert [answer.status_code for answer in answers] == [200, 200]
        assert await state_of(desk, held) is HoldState.APPROVED

    async def test_of_an_approval_and_a_denial_that_race_one_wins(self, desk: Desk, held: HeldRequest):
        answers = await asyncio.gather(
            desk.act("anna", held.id, "approve"), desk.act("bert", held.id, "deny")
        )
        assert sorted(answer.status_code for answer in answers) == [200, 409]

    async def test_it_is_too_late_after_expiry(self, desk: Desk, held: HeldRequest):
        desk.now = NOW + 3600
        refused(await desk.act("anna", held.id, "approve"), 409, "not_open")
        assert (await desk.get("anna", f"/v1/holds/{held.id}")).json()["state"] == "expired"

    async def test_it_is_too_late_after_a_denial(self, desk: Desk, held: HeldRequest):
        await desk.act("anna", held.id, "deny")
        refused(await desk.act("bert", held.id, "approve"), 409, "not_open")

    async def test_what_was_not_shown_in_full_cannot_be_approved(self, desk: Desk):
        held = await desk.store.open(ask(view={"facts": {}, "raw": {"body": "x"}, "truncated": True}), NOW)
        shown = (await desk.get("anna", f"/v1/holds/{held.id}")).json()
        assert (shown["shown_in_full"], shown["may"]) == (False, ["deny"])
        refused(await desk.act("anna", held.id, "approve"), 409, "not_shown_in_full")
        assert (await desk.act("anna", held.id, "deny")).json()["state"] == "rejected"

    @pytest.mark.parametrize("token", ["agent", "alias"])
    async def test_the_requester_withdraws(self, desk: Desk, held: HeldRequest, token: str):
        assert (await desk.act(token, held.id, "withdraw")).json()["state"] == "withdrawn"
        assert (await desk.act(token, held.id, "withdraw")).status_code == 200  # again: already done
        kinds = [move.kind for move in await desk.store.unrecorded()]
        assert kinds == ["hold.opened", "hold.withdrawn"]

    @pytest.mark.parametrize("token", ["anna", "auditor", "operator"])
    async def test_nobody_else_withdraws(self, desk: Desk, held: HeldRequest, token: str):
        refused(await desk.act(token, held.id, "withdraw"), 403, "not_requester")
        assert await state_of(desk, held) is HoldState.PENDING

    @pytest.mark.parametrize(
        ("token", "status"), [("bert", 200), ("agent", 200), ("auditor", 403), ("operator", 403)]
    )
    async def test_an_unused_approval_can_be_taken_back(
        self, desk: Desk, held: HeldRequest, token: str, status: int
    ):
        await desk.act("anna", held.id, "approve")
        assert (await desk.act(token, held.id, "revoke")).status_code == status
        assert await state_of(desk, held) is (HoldState.REVOKED if status == 200 else HoldState.APPROVED)

    async def test_a_used_approval_cannot_be_taken_back(self, desk: Desk, held: HeldRequest):
        await desk.act("anna", held.id, "approve")
        await desk.store.release(held.id, "dec-2", NOW)
        refused(await desk.act("anna", held.id, "revoke"), 409, "not_open")


class TestBodies:
    @pytest.mark.parametrize(
        ("content", "code"),
        [
            (b"", "bad_json"),
            (b"{", "bad_json"),
            (b"[]", "bad_json"),
            (b'"reason"', "bad_json"),
            (b"null", "bad_json"),
            (b'{"reason": "a", "reason": "b"}', "bad_json"),
            (b'{"reason": NaN}', "bad_json"),
            (b'{"reason": "\xff"}', "bad_json"),
            ('{"reason": "a"}'.encode("utf-16"), "bad_json"),
            (b"[" * 10_000, "bad_json"),
            (b"\xef\xbb\xbf" + b'{"reason": "a"}', "bad_json"),
            (b"{}", "reason_required"),
            (b'{"reason": ""}', "reason_required"),
            (b'{"reason": " \\n\\t "}', "reason_required"),
            (b'{"reason": null}', "bad_reason"),
            (b'{"reason": 1}', "bad_reason"),
            (b'{"reason": ["a"]}', "bad_reason"),
            (b'{"reason": "a\\u0000"}', "bad_reason"),
            (b'{"reason": "a\\u001b[31m"}', "bad_reason"),
            (b'{"reason": "\\ud800"}', "bad_reason"),
            (b'{"reason": "a", "as": "bert"}', "unknown_member"),
            (b'{"Reason": "a"}', "unknown_member"),
            (json.dumps({"reason": "x" * 2001}).encode(), "reason_too_long"),
        ],
    )
    async def test_a_body_is_one_reason_and_nothing_else(
        self, desk: Desk, held: HeldRequest, content: bytes, code: str
    ):
        answer = await desk.call(
            "anna", "POST", f"/v1/holds/{held.id}/approve",
            content=content, headers={"content-type": "application/json"},
        )  # fmt: skip
        refused(answer, 400, code)
        assert await desk.store.get(held.id, NOW) == held
        assert desk.records == []

    async def test_the_longest_reason_fits_however_it_is_escaped(self, desk: Desk, held: HeldRequest):
        answer = await desk.act("anna", held.id, "approve", "\U0001f600" * 2000)
        assert answer.status_code == 200

    async def test_an_oversized_body_is_refused_before_it_is_read_whole(self, desk: Desk, held: HeldRequest):
        sent = []

        async def endless() -> Any:
            for _ in range(1000):
                sent.append(1)
                yield b" " * 4096

        answer = await desk.call(
            "anna", "POST", f"/v1/holds/{held.id}/approve",
            content=endless(), headers={"content-type": "application/json"},
        )  # fmt: skip
        refused(answer, 413, "too_large")
        assert len(sent) < 12

    @pytest.mark.parametrize(
        "kind",
        ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx", "text/json",
         "application/json; charset=utf-16", "application/json, text/plain"],
    )  # fmt: skip
    async def test_only_json_is_taken(self, desk: Desk, held: HeldRequest, kind: str):
        answer = await desk.call(
            "anna", "POST", f"/v1/holds/{held.id}/approve",
            content=b'{"reason": "x"}', headers={"content-type": kind},
        )  # fmt: skip
        refused(answer, 415, "unsupported_type")

    async def test_json_in_utf_8_is_taken_by_any_spelling(self, desk: Desk, held: HeldRequest):
        answer = await desk.call(
            "anna", "POST", f"/v1/holds/{held.id}/approve",
            content='{"reason": "größer"}'.encode(), headers={"content-type": "Application/JSON; Charset=UTF-8"},
        )  # fmt: skip
        assert answer.status_code == 200

    async def test_a_coded_body_is_not_taken(self, desk: Desk, held: HeldRequest):
        answer = await desk.call(
            "anna", "POST", f"/v1/holds/{held.id}/approve", content=b"x",
            headers={"content-type": "application/json", "content-encoding": "gzip"},
        )  # fmt: skip
        refused(answer, 415, "unsupported_coding")

    async def test_a_query_on_a_post_is_refused(self, desk: Desk, held: HeldRequest):
        answer = await desk.call(
            "anna", "POST", f"/v1/holds/{held.id}/approve?reason=x", json={"reason": "x"}
        )
        refused(answer, 400, "bad_query")


class TestWaiting:
    async def test_a_waiting_requester_hears_of_the_decision(self, desk: Desk, held: HeldRequest):
        waiting = asyncio.create_task(desk.get("agent", f"/v1/holds/{held.id}?wait=30"))
        await asyncio.sleep(0.01)
        await desk.act("anna", held.id, "approve")
        assert (await waiting).json()["state"] == "approved"

    async def test_a_change_since_the_known_version_is_told_at_once(self, desk: Desk):
        held = await desk.store.open(ask(wants=demand(Quorum("sre", 2))), NOW)
        await desk.act("anna", held.id, "approve")
        answer = await desk.get("agent", f"/v1/holds/{held.id}?wait=30&version={held.version}")
        assert answer.json()["version"] == held.version + 1

    async def test_a_closed_hold_is_not_waited_on(self, desk: Desk, held: HeldRequest):
        await desk.act("anna", held.id, "deny")
        assert (await desk.get("agent", f"/v1/holds/{held.id}?wait=60")).json()["state"] == "rejected"

    async def test_the_list_waits_for_news(self, desk: Desk, held: HeldRequest):
        news = (await desk.get("anna", "/v1/holds")).json()["news"]
        waiting = asyncio.create_task(desk.get("anna", f"/v1/holds?wait=30&since={news}"))
        await asyncio.sleep(0.01)
        other = await desk.store.open(ask("b2"), NOW + 1)
        answer = (await waiting).json()
        assert [each["id"] for each in answer["holds"]] == [other.id, held.id]
        assert answer["news"] == news + 1

    async def test_beyond_the_bound_nobody_is_kept_waiting(
        self, desk: Desk, held: HeldRequest, monkeypatch: Any
    ):
        monkeypatch.setattr(approvals_api, "OPEN_WAITS", 0)
        full_up = Desk(desk.store)
        assert (await full_up.get("agent", f"/v1/holds/{held.id}?wait=60")).json()["state"] == "pending"
        assert (await full_up.get("agent", "/v1/holds?wait=60&since=99")).status_code == 200

    async def test_a_wait_is_over_when_the_token_is(self, desk: Desk, held: HeldRequest, monkeypatch: Any):
        brief = principal("anna", "sre")
        object.__setattr__(brief, "expires_at", NOW + 0.05)
        monkeypatch.setitem(TOKENS, "brief", brief)
        assert (await desk.get("brief", f"/v1/holds/{held.id}?wait=60")).json()["state"] == "pending"


class TestRecords:
    async def test_a_vote_is_recorded_before_it_is_cast(self, desk: Desk, held: HeldRequest):
        desk.ledger_down = True
        for action in ("approve", "deny"):
            refused(await desk.act("anna", held.id, action), 503, "ledger_unavailable")
        refused(await desk.act("agent", held.id, "withdraw"), 503, "ledger_unavailable")
        assert await desk.store.get(held.id, NOW) == held

    async def test_nothing_is_shown_that_cannot_be_recorded(self, desk: Desk, held: HeldRequest):
        desk.ledger_down = True
        refused(await desk.get("anna", f"/v1/holds/{held.id}"), 503, "ledger_unavailable")
        refused(await desk.get("anna", "/v1/holds"), 503, "ledger_unavailable")

    async def test_who_did_what_and_why_is_recorded(self, desk: Desk, held: HeldRequest):
        await desk.act("anna", held.id, "approve", "ticket 12")
        (record,) = desk.records
        assert (record.kind, record.at) == ("admin.hold_approve", NOW)
        assert record.fields == {"by": ANNA.to_record(), "hold": held.id, "reason": "ticket 12"}

    async def test_every_reading_by_another_is_recorded(self, desk: Desk, held: HeldRequest):
        for token in ("anna", "anna", "auditor"):
            await desk.get(token, f"/v1/holds/{held.id}")
        assert desk.kinds() == ["evidence.hold_read"] * 3
        assert [record.fields["by"]["subject"] for record in desk.records] == ["anna", "anna", "aud"]

    async def test_a_requester_who_polls_fills_no_ledger(self, desk: Desk, held: HeldRequest):
        for _ in range(5):
            await desk.get("agent", f"/v1/holds/{held.id}")
            await desk.get("agent", "/v1/holds")
        assert desk.kinds() == ["evidence.hold_read", "evidence.holds_listed"]
        await desk.act("anna", held.id, "approve")
        await desk.get("agent", f"/v1/holds/{held.id}")
        assert desk.kinds()[-1] == "evidence.hold_read"

    async def test_the_ledger_can_write_every_record(self, desk: Desk, held: HeldRequest):
        await desk.get("anna", f"/v1/holds/{held.id}")
        await desk.act("anna", held.id, "approve")
        await desk.store.release(held.id, "dec-2", NOW)
        await drain_outbox(desk.store, desk.record)
        assert len(desk.records) == 6
        for record in desk.records:
            encode_fields(record.kind, record.fields)

    async def test_the_outbox_is_told_once_in_order_with_the_view(self, desk: Desk, held: HeldRequest):
        await desk.act("anna", held.id, "approve")
        desk.records.clear()
        assert await drain_outbox(desk.store, desk.record) == 3
        assert await drain_outbox(desk.store, desk.record) == 0
        assert desk.kinds() == ["hold.opened", "hold.vote", "hold.approved"]
        opened = desk.records[0]
        assert json.loads(opened.payloads["view"]) == held.ask.view
        assert opened.fields["hold"] == held.id
        assert (
            opened.fields["view_digest"]
            == (await desk.get("anna", f"/v1/holds/{held.id}")).json()["view_digest"]
        )

    async def test_moves_wait_for_a_ledger_that_is_away(self, desk: Desk, held: HeldRequest):
        desk.ledger_down = True
        with pytest.raises(LedgerUnavailableError):
            await drain_outbox(desk.store, desk.record)
        desk.ledger_down = False
        assert await drain_outbox(desk.store, desk.record) == 1

    async def test_a_move_the_ledger_cannot_write_does_not_stop_the_next(self, desk: Desk):
        for n in range(2):
            await desk.store.open(ask(f"b{n}"), NOW)
        kept: list[Any] = []

        def picky(record: Any) -> None:
            if not kept and "target" in record.fields:
                raise RecordError("hold.opened: too long")
            kept.append(record.fields)

        assert await drain_outbox(desk.store, picky) == 2
        assert kept[0].keys() == {"move", "hold", "incomplete"}
        assert kept[1]["target"] == "customers-api"

    async def test_tending_goes_on_after_trouble_and_expires_what_is_overdue(
        self, desk: Desk, held: HeldRequest, monkeypatch: Any
    ):
        monkeypatch.setattr(hold_outbox, "TROUBLE_INTERVAL", 0.001)
        troubles: list[Exception] = [LedgerUnavailableError("disk full"), RuntimeError("a bug")]
        expired = asyncio.Event()

        def record(entry: Any) -> None:
            if troubles:
                raise troubles.pop(0)
            if entry.kind == "hold.expired":
                expired.set()

        tending = asyncio.create_task(hold_outbox.tend_holds(desk.store, record, lambda: NOW + 3600, 0.001))
        await asyncio.wait_for(expired.wait(), 30)
        tending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await tending
        assert troubles == []

    async def test_a_ledger_that_fails_midway_gets_only_the_rest_again(self, desk: Desk):
        for n in range(3):
            await desk.store.open(ask(f"b{n}"), NOW)
        told: list[str] = []

        def twice(record: Any) -> None:
            if len(told) == 2:
                raise LedgerUnavailableError("disk full")
            told.append(record.fields["move"])

        with pytest.raises(LedgerUnavailableError):
            await drain_outbox(desk.store, twice)
        await drain_outbox(desk.store, desk.record)
        assert len({*told, *(record.fields["move"] for record in desk.records)}) == 3
        assert len(desk.records) == 1


RELOADS: list[tuple[str, dict[str, Any], int]] = [
    ("policy", {"policy": "abc", "before": "ab"}, 200),
    ("settings", {"configuration": "sha256:abc", "changed": ["limits.open_waits"]}, 202),
]


def reloading(desk: Desk, what: str, reload: Any) -> Desk:
    """A desk that can reload policies or settings."""
    return Desk(desk.store, **{"reload" if what == "policy" else "roll": reload})


class TestTheRest:
    async def test_health_is_public_and_says_little(self, desk: Desk):
        answer = await desk.get("", "/v1/healthz")
        assert answer.json() == {"status": "ok", "checks": {"store": True, "outbox": True}}

    async def test_health_fails_with_any_check(self, desk: Desk, monkeypatch: Any):
        failing = Desk(desk.store, status=lambda: {"ledger": False})
        answer = await failing.get("", "/v1/healthz")
        assert (answer.status_code, answer.json()["checks"]) == (
            503,
            {"store": True, "outbox": True, "ledger": False},
        )

        async def lost() -> Any:
            raise StoreUnavailableError("gone")

        monkeypatch.setattr(desk.store, "oldest_unrecorded", lost)
        assert (await desk.get("", "/v1/healthz")).status_code == 503

    async def test_moves_that_do_not_reach_the_ledger_are_a_fault(self, desk: Desk, held: HeldRequest):
        assert (await desk.get("", "/v1/healthz")).status_code == 200
        desk.now = NOW + 61
        assert (await desk.get("", "/v1/healthz")).json()["checks"]["outbox"] is False
        await drain_outbox(desk.store, desk.record)
        assert (await desk.get("", "/v1/healthz")).status_code == 200

    async def test_a_lost_store_is_503(self, desk: Desk, held: HeldRequest, monkeypatch: Any):
        async def lost(*_: object, **__: object) -> Any:
            raise StoreUnavailableError("/some/path/holds.db is gone")

        for name in ("get", "find", "vote"):
            monkeypatch.setattr(desk.store, name, lost)
        for answer in (
            await desk.get("anna", "/v1/holds"),
            await desk.get("anna", "/v1/holds/h-0"),
            await desk.act("anna", "h-0", "approve"),
        ):
            refused(answer, 503, "store_unavailable")
            assert "/some/path" not in answer.text

    async def test_an_unexpected_error_says_nothing(self, desk: Desk, monkeypatch: Any):
        async def broken(*_: object, **__: object) -> Any:
            raise RuntimeError("canary 4111111111111111")

        monkeypatch.setattr(desk.store, "find", broken)
        answer = await desk.get("anna", "/v1/holds")
        refused(answer, 500, "internal")
        assert "canary" not in answer.text

    @pytest.mark.parametrize(("what", "found", "status"), RELOADS)
    async def test_operators_reload_and_nobody_else(
        self, desk: Desk, what: str, found: dict[str, Any], status: int
    ):
        by: list[str] = []

        async def reload(principal: Any) -> Any:
            by.append(principal.subject)
            return found

        desk = reloading(desk, what, reload)
        for token in ("anna", "auditor", "agent"):
            answer = await desk.call(token, "POST", f"/v1/{what}/reload", json={"reason": "new rule"})
            refused(answer, 403, "not_operator")
        answer = await desk.call("operator", "POST", f"/v1/{what}/reload", json={"reason": "new rule"})
        assert answer.status_code == status
        assert answer.json() == {"status": "ok" if what == "policy" else "rolling", **found}
        assert by == ["op"]
        assert desk.kinds() == [f"admin.{what}_reload"]
        assert desk.records[0].fields["reason"] == "new rule"

    @pytest.mark.parametrize("what", ["policy", "settings"])
    async def test_a_reload_that_cannot_be_recorded_does_not_happen(self, desk: Desk, what: str):
        async def reload(principal: Any) -> Any:
            pytest.fail("reloaded")

        desk = reloading(desk, what, reload)
        desk.ledger_down = True
        answer = await desk.call("operator", "POST", f"/v1/{what}/reload", json={"reason": "x"})
        refused(answer, 503, "ledger_unavailable")

    @pytest.mark.parametrize(
        ("what", "error"),
        [
            ("policy", PolicyError('policies/db.yaml:12:7: rule "no-drop": unknown name "usr"')),
            ("settings", ConfigError("extproc.yaml:12:7: processor.workers: needs a restart")),
        ],
    )
    async def test_mistakes_are_refused_with_their_place(self, desk: Desk, what: str, error: PolicyError):
        async def reload(principal: Any) -> Any:
            raise error

        desk = reloading(desk, what, reload)
        answer = await desk.call("operator", "POST", f"/v1/{what}/reload", json={"reason": "x"})
        refused(answer, 409, f"{what}_refused")
        assert ".yaml:12:7" in answer.json()["detail"]
        assert desk.kinds() == [f"admin.{what}_reload", "admin.refused"]
        assert desk.records[1].fields["action"] == f"{what}_reload"

    @pytest.mark.parametrize("what", ["policy", "settings"])
    async def test_where_nothing_reloads_there_is_no_such_path(self, desk: Desk, what: str):
        answer = await desk.call("operator", "POST", f"/v1/{what}/reload", json={"reason": "x"})
        refused(answer, 404, "no_such_path")


class TestTheDocument:
    async def test_an_answer_of_another_shape_would_be_noticed(self, desk: Desk, held: HeldRequest):
        shown = await desk.get("anna", f"/v1/holds/{held.id}")
        for wrong in ({"state": "open"}, {"surprise": 1}, {"created_at": 1.5}):
            other = httpx2.Response(200, json={**shown.json(), **wrong}, request=shown.request)
            with pytest.raises(ValidationError):
                conforms(other)

    async def test_it_is_served_as_it_is_checked_in(self, desk: Desk):
        assert (await desk.get("", "/v1/openapi.json")).json() == OPENAPI

    def test_it_names_exactly_the_routes_there_are(self, desk: Desk):
        documented = {
            (method.upper(), path) for path, operations in OPENAPI["paths"].items() for method in operations
        }
        actual = {
            (method, route.path)
            for route in desk.app.routes
            if isinstance(route, Route)
            for method in route.methods or ()
        }
        assert documented == actual

    def test_its_schemas_are_schemas_and_its_references_lead_somewhere(self):
        for schema in OPENAPI["components"]["schemas"].values():
            Draft202012Validator.check_schema(schema)
        references = re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(OPENAPI))
        assert references
        for reference in references:
            found: Any = OPENAPI
            for part in reference.split("/"):
                found = found[part]

    def test_operations_have_distinct_names_and_declare_their_path_parameters(self):
        names = []
        for path, operations in OPENAPI["paths"].items():
            for operation in operations.values():
                names.append(operation["operationId"])
                declared = {each["name"] for each in operation.get("parameters", []) if each["in"] == "path"}
                assert declared == set(re.findall(r"{(\w+)}", path))
        assert len(names) == len(set(names))

    def test_every_state_is_documented(self):
        assert OPENAPI["components"]["schemas"]["State"]["enum"] == [state.value for state in HoldState]


class TestOverASocket:
    async def test_a_real_server_on_a_unix_socket_with_a_real_store(self, tmp_path: Path):
        socket = tmp_path / "api.sock"
        async with SqliteHoldStore(tmp_path / "holds.db", clock=lambda: NOW) as store:
            desk = Desk(store)
            held = await store.open(ask(), NOW)
            server = uvicorn.Server(
                uvicorn.Config(
                    desk.app, uds=str(socket), log_level="error", lifespan="off", server_header=False
                )
            )
            serving = asyncio.create_task(server.serve())
            while not server.started:
                await asyncio.sleep(0.01)
            transport = httpx2.AsyncHTTPTransport(uds=str(socket))
            async with httpx2.AsyncClient(transport=transport, base_url="http://approvals") as client:
                as_anna = {"authorization": "Bearer anna"}
                as_agent = {"authorization": "Bearer agent"}
                waiting = asyncio.create_task(
                    client.get(f"/v1/holds/{held.id}?wait=30", headers=as_agent, timeout=60)
                )
                listed = await client.get("/v1/holds?state=pending", headers=as_anna)
                assert [each["id"] for each in listed.json()["holds"]] == [held.id]
                approved = await client.post(
                    f"/v1/holds/{held.id}/approve", headers=as_anna, json={"reason": "yes"}
                )
                assert approved.json()["state"] == "approved"
                assert (await waiting).json()["state"] == "approved"
                too_large = await client.post(
                    f"/v1/holds/{held.id}/deny",
                    headers={**as_anna, "content-type": "application/json"},
                    content=b" " * 200_000,
                )
                assert too_large.status_code == 413
            server.should_exit = True
            await serving


async def test_what_people_type_is_masked_before_anything_keeps_it() -> None:
    desk = Desk(MemoryHoldStore(), mask=lambda text: text.replace("4111-1111", "[CARD]"))
    for action, token in (("approve", "anna"), ("deny", "anna"), ("withdraw", "agent")):
        held = await desk.store.open(ask(), NOW)
        answer = await desk.act(token, held.id, action, "card 4111-1111")
        assert answer.status_code == 200
        assert "4111-1111" not in answer.text
        now = await desk.store.get(held.id, NOW)
        assert now is not None
        assert "4111-1111" not in repr(now)
        if now.is_open:
            await desk.act("anna", held.id, "revoke", "card 4111-1111")
    assert "4111-1111" not in repr(desk.records)
    assert "4111-1111" not in repr(await desk.store.unrecorded())
    assert "[CARD]" in repr(desk.records)
