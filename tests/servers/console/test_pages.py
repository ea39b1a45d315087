"""The pages: who sees what, what a decision leaves behind, and that nothing in them runs or lies."""

from __future__ import annotations

import re
from typing import Any

import httpx2
import pytest

from extproc.domain.demand import Quorum
from extproc.domain.errors import StoreUnavailableError
from extproc.domain.hold import HeldRequest, HoldState
from extproc.domain.terms import GrantLimit
from tests.support.console import House, Tags, text_of
from tests.support.holds import ANNA, IN_EMERGENCIES, NOW, OLGA, ask, demand, principal, shaped, vote

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture
async def held(house: House) -> HeldRequest:
    return await house.store.open(ask(), NOW)


async def state_of(house: House, held: HeldRequest) -> HoldState:
    now = await house.store.get(held.id, NOW)
    assert now is not None
    return now.state


NASTY = '<script>alert("x")</script><img src=x onerror=alert(1)>\x1b[2J\u202e\u200b{{ 7*7 }}'


async def nasty_hold(house: House) -> HeldRequest:
    asker = principal(NASTY, NASTY, kind="agent", person=NASTY, act={"sub": NASTY})
    view = {
        "facts": {"path": NASTY, NASTY: [NASTY], "method": "POST"},
        "normalised": {"statements": [NASTY], "query": {NASTY: [NASTY]}},
        "raw": {"body": '{"a": "' + NASTY.replace('"', "'") + '"}', "headers": [[NASTY, NASTY]], "text": NASTY,
                "parameters": [NASTY, None], NASTY: NASTY},
        NASTY: {"deep": [NASTY, {"er": NASTY}]},
    }  # fmt: skip
    limit = GrantLimit(1800.0, 20, "shape")
    wants = demand(Quorum("sre", 2), reason=NASTY, grant=limit, reason_patterns=("x.*",))
    held = await house.store.open(
        ask("nasty", requester=asker, view=view, wants=wants, shape=shaped(v1=NASTY)), NOW
    )
    await house.store.vote(held.id, vote(ANNA, reason=f"x{NASTY}"), NOW)
    return held


async def every_page(house: House) -> list[httpx2.Response]:
    held = await nasty_hold(house)
    granted = await house.store.open(
        ask("g", wants=demand(grant=GrantLimit(1800.0, 20, "exact"), reason=NASTY)), NOW
    )
    browser = await house.logged_in("bert")
    shown = [
        await browser.get("/login?problem=x"),
        await browser.get("/nowhere"),
        await house.browser().get("/login"),
    ]
    shown += [await browser.get(f"/holds?show={which}") for which in ("waiting", "open", "mine", "closed")]
    shown += [
        await browser.get(path)
        for path in ("/holds/list", f"/holds/{held.id}", f"/holds/{held.id}/now", "/holds/h-none")
    ]
    shown.append(await browser.act(held.id, "approve", NASTY.replace("\x1b", "")))
    done = await browser.act(
        granted.id, "approve", "fine", give="more", minutes="10", uses="3", scope="exact"
    )
    assert done.status_code == 303, text_of(done.text)
    shown += [await browser.get("/grants"), await browser.get("/grants?show=ended")]
    (grant,) = await house.store.find_grants(now=NOW)
    shown.append(await browser.get(f"/grants/{grant.id}"))
    return shown


class TestNothingRunsOrLies:
    async def test_nothing_is_inline_and_all_of_it_is_ours(self, house: House):
        for answer in await every_page(house):
            if answer.status_code == 303:
                continue
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy
            for tag, attributes in Tags(answer.text).found:
                assert tag not in ("style", "iframe", "object", "embed", "base")
                assert not [name for name in attributes if name.startswith("on") or name == "style"]
                if tag == "script":
                    assert str(attributes["src"]).startswith("/static/")
                for name in ("href", "src", "action", "formaction", "hx-get", "sse-connect"):
                    assert str(attributes.get(name) or "/").startswith(("/", "#main")), (tag, attributes)

    async def test_what_requesters_write_is_text_and_cannot_hide(self, house: House):
        for answer in await every_page(house):
            assert "<script>alert" not in answer.text and "<img src=x" not in answer.text
            assert "\x1b" not in answer.text and "\u202e" not in answer.text and "\u200b" not in answer.text
            assert (">49<" not in answer.text and "{{ 7*7 }}" in answer.text) or "alert" not in answer.text

    async def test_spelled_out_characters_stand_out(self, house: House):
        held = await nasty_hold(house)
        page = (await (await house.logged_in("bert")).get(f"/holds/{held.id}")).text
        assert '<span class="escape">\\u{202E}</span>' in page

    async def test_every_answer_carries_the_fixed_headers(self, house: House):
        for answer in await every_page(house):
            assert answer.headers["x-frame-options"] == "DENY"
            assert answer.headers["referrer-policy"] == "same-origin"
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["strict-transport-security"]
            assert not [name for name in answer.headers if name.startswith("access-control-")]

    async def test_every_control_has_a_name(self, house: House):
        for answer in await every_page(house):
            tags = Tags(answer.text).found
            labels = {attributes.get("for") for tag, attributes in tags if tag == "label"}
            for tag, attributes in tags:
                if tag in ("textarea", "select") or (
                    tag == "input" and attributes.get("type") not in ("hidden", "radio", "checkbox")
                ):
                    assert attributes.get("id") in labels, attributes
                if tag == "img":
                    assert "alt" in attributes
            if answer.text.startswith("<!doctype"):
                assert '<html lang="en">' in answer.text
                assert len(re.findall(r"<h1[ >]", answer.text)) == 1

    async def test_only_our_own_files_are_served(self, house: House):
        browser = house.browser()
        assert (await browser.get("/static/console.css")).status_code == 200
        for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/", "/static/../../desk.py"):
            assert (await browser.get(path)).status_code == 404


class TestTheInbox:
    async def test_is_what_waits_for_this_person(self, house: House, held: HeldRequest):
        await house.store.open(ask("b2", wants=demand(Quorum("dpo"))), NOW + 1)
        for who, count in (("anna", 1), ("bert", 2), ("cleo", 1), ("auditor", 0), ("stranger", 0)):
            page = (await (await house.logged_in(who)).get("/holds")).text
            assert page.count('<li class="hold">') == count, who

    async def test_what_somebody_voted_on_waits_for_the_others(self, house: House):
        held = await house.store.open(ask(wants=demand(Quorum("sre", 2))), NOW)
        anna, bert = await house.logged_in("anna"), await house.logged_in("bert")
        assert (await anna.act(held.id, "approve")).status_code == 303
        assert "Nothing waits for you" in (await anna.get("/holds")).text
        assert '<li class="hold">' in (await bert.get("/holds")).text

    async def test_an_auditor_sees_everything_and_decides_nothing(self, house: House, held: HeldRequest):
        browser = await house.logged_in("auditor")
        assert '<li class="hold">' in (await browser.get("/holds?show=open")).text
        page = (await browser.get(f"/holds/{held.id}")).text
        assert "not for you to decide" in page and "formaction" not in page

    async def test_a_list_that_is_not_there_is_not_found(self, house: House):
        assert (await (await house.logged_in("anna")).get("/holds?show=all")).status_code == 404

    async def test_looking_is_recorded(self, house: House, held: HeldRequest):
        browser = await house.logged_in("anna")
        await browser.get("/holds")
        await browser.get(f"/holds/{held.id}")
        assert house.kinds() == ["admin.login", "evidence.holds_listed", "evidence.hold_read"]
        assert {record.fields["via"] for record in house.records} == {"console"}


class TestOneHold:
    async def test_shows_our_facts_first_then_normalised_then_raw(self, house: House, held: HeldRequest):
        page = text_of((await (await house.logged_in("anna")).get(f"/holds/{held.id}")).text)
        places = [page.index(words) for words in ("What it does", "Normalised", "As it was sent")]
        assert places == sorted(places)

    async def test_what_is_cut_is_said_and_cannot_be_approved(self, house: House):
        view = {"facts": {"method": "POST"}, "raw": {"body": "x"}, "truncated": ["raw.body"]}
        held = await house.store.open(ask(view=view), NOW)
        browser = await house.logged_in("anna")
        page = (await browser.get(f"/holds/{held.id}")).text
        assert "This is not all of it" in page and "raw.body" in page
        assert "/approve" not in page and f"/holds/{held.id}/deny" in page
        answer = await browser.act(held.id, "approve")
        assert answer.status_code == 409
        assert await state_of(house, held) is HoldState.PENDING

    async def test_what_is_not_yours_does_not_exist(self, house: House, held: HeldRequest):
        browser = await house.logged_in("stranger")
        for path in (f"/holds/{held.id}", "/holds/h-none", f"/holds/{held.id}/now", "/holds/..%2f"):
            assert (await browser.get(path)).status_code == 404
        assert (await browser.act(held.id, "approve")).status_code == 404

    async def test_a_page_that_is_open_is_told_only_what_moved(self, house: House, held: HeldRequest):
        browser = await house.logged_in("anna")
        now = f"/holds/{held.id}/now?version={held.version}&may=approve,deny"
        assert (await browser.get(now)).status_code == 204
        await house.store.vote(held.id, vote(principal("dora", "sre")), NOW)
        part = (await browser.get(now)).text
        assert "approved" in part and 'id="act"' in part and "hx-swap-oob" in part

    async def test_a_reason_half_typed_survives_another_vote(self, house: House):
        held = await house.store.open(ask(wants=demand(Quorum("sre", 2))), NOW)
        browser = await house.logged_in("anna")
        await house.store.vote(held.id, vote(principal("dora", "sre")), NOW)
        part = (await browser.get(f"/holds/{held.id}/now?version=1&may=approve,deny")).text
        assert "dora" in part and 'id="act"' not in part


class TestDeciding:
    async def test_an_approval_counts_and_is_recorded_like_one_over_the_api(
        self, house: House, held: HeldRequest
    ):
        browser = await house.logged_in("anna")
        answer = await browser.act(held.id, "approve", "ticket 12 s3cret\r\nsecond line")
        assert (answer.status_code, answer.headers["location"]) == (303, f"/holds/{held.id}")
        assert await state_of(house, held) is HoldState.APPROVED
        done = next(record for record in house.records if record.kind == "admin.hold_approve")
        assert done.fields["reason"] == "ticket 12 [SECRET]\nsecond line"
        assert (done.fields["via"], done.fields["by"]["subject"]) == ("console", "anna")
        page = (await browser.get(f"/holds/{held.id}")).text
        assert "Your approval is counted." in page and "s3cret" not in page
        assert "Your approval is counted." not in (await browser.get(f"/holds/{held.id}")).text

    @pytest.mark.parametrize(
        ("who", "action", "state"),
        [("anna", "deny", HoldState.REJECTED), ("alias", "withdraw", HoldState.WITHDRAWN)],
    )
    async def test_so_does_the_rest(
        self, house: House, held: HeldRequest, who: str, action: str, state: HoldState
    ):
        assert (await (await house.logged_in(who)).act(held.id, action)).status_code == 303
        assert await state_of(house, held) is state

    async def test_an_approval_is_taken_back(self, house: House, held: HeldRequest):
        await house.store.vote(held.id, vote(principal("dora", "sre")), NOW)
        assert (await (await house.logged_in("anna")).act(held.id, "revoke")).status_code == 303
        assert await state_of(house, held) is HoldState.REVOKED

    @pytest.mark.parametrize("who", ["alias", "same-subject"])
    async def test_nobody_approves_their_own(self, house: House, held: HeldRequest, who: str):
        answer = await (await house.logged_in(who)).act(held.id, "approve")
        assert answer.status_code == 403
        assert house.kinds()[-2:] == ["admin.refused", "evidence.hold_read"]
        assert await state_of(house, held) is HoldState.PENDING

    @pytest.mark.parametrize("action", ["approve", "deny", "withdraw", "revoke"])
    async def test_a_link_decides_nothing(self, house: House, held: HeldRequest, action: str):
        browser = await house.logged_in("anna")
        for method in ("GET", "HEAD"):
            answer = await browser.client.request(method, f"/holds/{held.id}/{action}")
            assert answer.status_code == 405
        assert await state_of(house, held) is HoldState.PENDING

    @pytest.mark.parametrize("csrf", [None, "", "guess", "other"])
    async def test_only_a_form_of_this_session_counts(
        self, house: House, held: HeldRequest, csrf: str | None
    ):
        browser = await house.logged_in("anna")
        if csrf == "other":
            csrf = await (await house.logged_in("anna")).csrf()
        data = {"reason": "x", **({"csrf": csrf} if csrf is not None else {})}
        answer = await browser.post(f"/holds/{held.id}/approve", data)
        assert answer.status_code == 403 and "too old" in answer.text
        assert await state_of(house, held) is HoldState.PENDING

    @pytest.mark.parametrize(
        ("reason", "status"), [("", 400), ("   ", 400), ("x" * 2001, 400), ("a\x00b", 400), ("a\x1bb", 400)]
    )
    async def test_a_reason_is_wanted(self, house: House, held: HeldRequest, reason: str, status: int):
        answer = await (await house.logged_in("anna")).act(held.id, "approve", reason)
        assert answer.status_code == status
        assert 'role="alert"' in answer.text
        assert await state_of(house, held) is HoldState.PENDING

    async def test_what_differs_from_the_last_approved_one_is_shown(self, house: House):
        before = await house.store.open(ask("before"), NOW)
        await house.store.vote(before.id, vote(ANNA), NOW)
        view = {**ask().view, "raw": {"body": '{"amount": "<b>"}'}}
        now = await house.store.open(ask("now", view=view), NOW)
        page = (await (await house.logged_in("anna")).get(f"/holds/{now.id}")).text
        assert "Since the last one" in page and f"/holds/{before.id}" in page
        assert "body.amount" in page and "&#34;&lt;b&gt;&#34;" in page

    async def test_a_conflict_of_interest_is_told_and_only_a_denial_offered(self, house: House):
        asker = principal("clerk", "sre")
        held = await house.store.open(ask(requester=asker, wants=demand(conflict_groups=("sre",))), NOW)
        browser = await house.logged_in("anna")
        page = (await browser.get(f"/holds/{held.id}")).text
        assert "One at most of" in page and "you can deny it and not approve it" in page
        assert f"/holds/{held.id}/deny" in page and f"/holds/{held.id}/approve" not in page
        assert (await browser.act(held.id, "approve", "fine")).status_code == 403
        assert await state_of(house, held) is HoldState.PENDING

    async def test_what_was_typed_is_still_there_after_a_refusal(self, house: House):
        held = await house.store.open(ask(wants=demand(reason_patterns=("CHG-[0-9]+",))), NOW)
        answer = await (await house.logged_in("anna")).act(held.id, "approve", "no <ticket> here")
        assert answer.status_code == 409
        assert "no &lt;ticket&gt; here</textarea>" in answer.text and "CHG-[0-9]+" in answer.text

    @pytest.mark.parametrize(
        ("headers", "content", "status"),
        [
            ({"content-type": "application/json"}, b'{"reason": "x"}', 415),
            ({"content-type": "multipart/form-data; boundary=x"}, b"--x--", 415),
            ({"content-type": "application/x-www-form-urlencoded"}, b"a=" + b"x" * 40_000, 413),
            (
                {"content-type": "application/x-www-form-urlencoded"},
                b"&".join(b"a=1" for _ in range(400)),
                400,
            ),
            ({"content-type": "application/x-www-form-urlencoded"}, b"reason=%FF", 400),
            ({"content-type": "application/x-www-form-urlencoded"}, b"\xff=1", 400),
            ({"content-type": "application/x-www-form-urlencoded"}, b"csrf=a&csrf=b", 400),
        ],
    )
    async def test_a_form_that_no_browser_sends_is_refused(
        self, house: House, held: HeldRequest, headers: Any, content: bytes, status: int
    ):
        browser = await house.logged_in("anna")
        answer = await browser.client.post(f"/holds/{held.id}/approve", content=content, headers=headers)
        assert answer.status_code == status
        assert await state_of(house, held) is HoldState.PENDING

    async def test_enter_in_a_field_presses_a_button_that_does_nothing(self, house: House, held: HeldRequest):
        page = (await (await house.logged_in("anna")).get(f"/holds/{held.id}")).text
        form = page[page.index('action="/holds/') :]
        button = next(attributes for tag, attributes in Tags(form).found if tag == "button")
        assert "disabled" in button and "formaction" not in button

    async def test_clicking_too_fast_is_slowed_down(self, house: House, held: HeldRequest):
        browser = await house.logged_in("anna")
        csrf = await browser.csrf()
        answers = [
            await browser.post(f"/holds/{held.id}/withdraw", {"csrf": csrf, "reason": "x"}) for _ in range(35)
        ]
        assert [answer.status_code for answer in answers] == [403] * 30 + [429] * 5

    async def test_without_a_ledger_nothing_is_done(self, house: House, held: HeldRequest):
        browser = await house.logged_in("anna")
        csrf = await browser.csrf()
        house.ledger_down = True
        answer = await browser.post(f"/holds/{held.id}/approve", {"csrf": csrf, "reason": "x"})
        assert answer.status_code == 503
        assert await state_of(house, held) is HoldState.PENDING


class TestEmergencies:
    async def broken(self, house: House) -> HeldRequest:
        wants = demand(Quorum("sre", 2), break_glass=IN_EMERGENCIES)
        return await house.store.open(ask(requester=OLGA, wants=wants), NOW)

    async def test_the_requester_goes_and_everybody_who_could_have_decided_is_told(self, house: House):
        held = await self.broken(house)
        olga, anna, cleo = [await house.logged_in(who) for who in ("olga", "anna", "cleo")]
        page = (await olga.get(f"/holds/{held.id}")).text
        assert "Break the glass" in page
        assert "Break the glass" not in (await anna.get(f"/holds/{held.id}")).text
        answer = await olga.act(held.id, "break-glass", "site down <b>")
        assert (answer.status_code, await state_of(house, held)) == (303, HoldState.APPROVED)
        for path in ("/holds", "/grants", f"/holds/{held.id}"):
            assert "1 emergency waits for a review" in text_of((await anna.get(path)).text)
            assert "waits for a review" not in (await cleo.get("/holds")).text
        house.now = NOW + IN_EMERGENCIES.review_within
        late = await house.logged_in("anna")
        assert "1 emergency waits for a review, 1 overdue" in text_of((await late.get("/holds")).text)
        assert f"/holds/{held.id}" in (await late.get("/holds?show=reviews")).text
        shown = (await late.get(f"/holds/{held.id}")).text
        assert "site down &lt;b&gt;" in shown and "review overdue" in shown

    async def test_somebody_else_reviews_it(self, house: House):
        held = await self.broken(house)
        olga, anna = await house.logged_in("olga"), await house.logged_in("anna")
        await olga.act(held.id, "break-glass", "site down")
        assert (await olga.act(held.id, "review", "fine", justified="yes")).status_code == 403
        assert (await anna.act(held.id, "review", "fine", justified="perhaps")).status_code == 400
        assert (await anna.act(held.id, "review", "it could wait", justified="no")).status_code == 303
        shown = (await olga.get(f"/holds/{held.id}")).text
        assert "not justified" in shown and "it could wait" in shown and "What you found" not in shown
        assert "waits for a review" not in (await anna.get("/holds")).text
        assert house.records[-1].fields.get("via") == "console"

    async def test_a_page_without_a_store_has_its_last_banner(self, house: House, monkeypatch: Any):
        held = await self.broken(house)
        olga = await house.logged_in("olga")
        await olga.act(held.id, "break-glass", "site down")
        assert "waits for a review" in (await olga.get("/grants")).text

        async def lost(**_: Any) -> Any:
            raise StoreUnavailableError("gone")

        monkeypatch.setattr(house.store, "find", lost)
        assert "waits for a review" in (await olga.get("/grants")).text


class TestGrants:
    async def held(self, house: House) -> HeldRequest:
        wants = demand(grant=GrantLimit(1800.0, 20, "shape"))
        return await house.store.open(ask(wants=wants, shape=shaped(v1="one", v2="two")), NOW)

    async def test_an_approver_gives_less_than_the_rule_allows(self, house: House):
        held, browser = await self.held(house), await house.logged_in("anna")
        page = (await browser.get(f"/holds/{held.id}")).text
        assert "at most 20 uses within 30 min" in page and "any values" in page
        answer = await browser.act(
            held.id, "approve", give="more", minutes="5", uses="3", scope="pinned", pin=["$1"]
        )
        assert answer.status_code == 303
        (grant,) = await house.store.find_grants(now=NOW)
        assert (grant.terms.duration, grant.terms.uses, grant.terms.scope, grant.terms.pins) == (
            300.0, 3, "pinned", ("$1",),
        )  # fmt: skip
        assert "1 of 3 used" in (await browser.get("/grants")).text

    @pytest.mark.parametrize(
        ("more", "status"),
        [
            ({"minutes": "600", "uses": "3", "scope": "exact"}, 409),
            ({"minutes": "5", "uses": "21", "scope": "exact"}, 409),
            ({"minutes": "5", "uses": "1", "scope": "exact"}, 400),
            ({"minutes": "x", "uses": "3", "scope": "exact"}, 400),
            ({"minutes": "٥", "uses": "3", "scope": "exact"}, 400),
            ({"minutes": "5", "uses": "3", "scope": "everything"}, 400),
            ({"minutes": "5", "uses": "3", "scope": "pinned", "pin": ["$9"]}, 409),
            ({}, 400),
        ],
    )
    async def test_more_than_that_or_nonsense_is_refused(self, house: House, more: Any, status: int):
        held, browser = await self.held(house), await house.logged_in("anna")
        answer = await browser.act(held.id, "approve", give="more", **more)
        assert answer.status_code == status
        assert await state_of(house, held) is HoldState.PENDING

    async def test_a_grant_is_revoked(self, house: House):
        held, browser = await self.held(house), await house.logged_in("anna")
        await browser.act(held.id, "approve", give="more", minutes="5", uses="3", scope="exact")
        (grant,) = await house.store.find_grants(now=NOW)
        csrf = await browser.csrf()
        assert (
            await browser.post(f"/grants/{grant.id}/revoke", {"reason": "x", "csrf": "guess"})
        ).status_code == 403
        assert (
            await browser.post(f"/grants/{grant.id}/revoke", {"reason": "", "csrf": csrf})
        ).status_code == 400
        assert (
            await browser.post(f"/grants/{grant.id}/revoke", {"reason": "x", "csrf": csrf})
        ).status_code == 303
        page = (await browser.get(f"/grants/{grant.id}")).text
        assert "revoked" in page and "<textarea" not in page
        assert (await (await house.logged_in("stranger")).get(f"/grants/{grant.id}")).status_code == 404
