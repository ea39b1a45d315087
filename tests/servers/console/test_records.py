"""The ledger in a browser: who may look, what is found, what is written down about it, and that nothing runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from extproc.adapters.ledger_files import LedgerWriter
from extproc.app import ledger_records
from extproc.app.ledger_records import LedgerRecords
from extproc.domain.errors import StoreUnavailableError
from extproc.domain.record import Record
from extproc.ledger.search import Wanted
from extproc.servers.console.waterfall import ROWS, waterfall
from tests.support.console import House, Tags, text_of
from tests.support.holds import NOW

pytestmark = pytest.mark.anyio
NASTY = '<script>alert(1)</script>\u202e"'


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def intent(decision: str, at: float = NOW - 60, **more: Any) -> Record:
    fields = {
        "decision_id": decision, "session_id": f"ses-{decision}", "target": "customers-api", "protocol": "http",
        "principal": {"issuer": "https://i", "subject": "alice", "person": "alice@x", "kind": "agent", "groups": []},
        "request": {"method": "GET", "path": f"/{decision}"}, "verdict": "allow", "code": "allowed",
        "rules": [{"rule": "p/read", "effect": "allow", "digest": "d"}], "policy": "sha256:p", "risk": 0, **more,
    }  # fmt: skip
    return Record("intent", at, fields, {"request": b'{"name": "[NAME]"}'})


def outcome(decision: str, at: float = NOW - 59, **more: Any) -> Record:
    fields = {
        "decision_id": decision, "session_id": f"ses-{decision}", "executed": True, "end": "complete",
        "response": {"code": 200, "masked": {"EMAIL_ADDRESS": 2}}, "duration_us": 1500, **more,
    }  # fmt: skip
    return Record("outcome", at, fields)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    directory = tmp_path / "ledger"
    files = LedgerWriter(directory, writer_id="worker0-a", clock=lambda: NOW)
    for record in (
        intent("one"), outcome("one"),
        intent("two", verdict="deny", code="rule-denied", rules=[
            {"rule": "p/no", "effect": "deny", "digest": "d"},
            {"rule": "p/later", "effect": "deny", "digest": "d", "shadow": True}]),
        outcome("two", executed=False, end="refused"),
        intent("old", NOW - 10 * 86400), outcome("old", NOW - 10 * 86400),
        intent("bad", request={"method": NASTY, "path": NASTY}, target=NASTY, code=NASTY,
               rules=[{"rule": NASTY, "effect": NASTY}]),
        Record("hold.opened", NOW - 58, {"hold": "h-1", "move": "h-1.1", "session_id": "ses-bad"}),
        Record("hold.vote", NOW - 50, {"hold": "h-1", "move": "h-1.2", "approver": {"person": NASTY},
                                       "vote": "approve", "reason": NASTY}),
        Record("hold.approved", NOW - 50, {"hold": "h-1", "move": "h-1.3"}),
    ):  # fmt: skip
        files.append(record)
    files.commit()
    files.close()
    supervisor = LedgerWriter(directory, writer_id="supervisor-a", clock=lambda: NOW)
    fields = {
        "policy": "sha256:p",
        "before": "",
        "author": NASTY,
        "files": [{"name": NASTY, "digest": "sha256:f"}],
    }
    supervisor.append(Record("policy.activated", NOW - 3600, fields))
    supervisor.commit()
    supervisor.close()
    return directory


@pytest.fixture
def house(ledger: Path) -> House:
    async def checks() -> dict[str, bool]:
        return {"store": True, "ledger": True}

    return House(records=LedgerRecords(ledger), checks=checks)


PATHS = ("/sessions", "/sessions/ses-bad", "/policies", "/health")


async def test_only_operators_and_auditors_read_the_ledger(house: House):
    for who, status in (("anna", 403), ("stranger", 403), ("auditor", 200), ("operator", 200)):
        browser = await house.logged_in(who)
        assert [(await browser.get(path)).status_code for path in PATHS] == [status] * 4, who
        assert ("/sessions" in (await browser.get("/holds")).text) == (status == 200)


async def test_every_reading_is_recorded_before_it_is_shown(house: House):
    browser = await house.logged_in("auditor")
    for path in PATHS:
        await browser.get(path)
    assert house.kinds() == [
        "admin.login", "evidence.searched", "evidence.session_read", "evidence.policies_read",
    ]  # fmt: skip
    house.ledger_down = True
    assert (await browser.get("/sessions")).status_code == 503


async def test_what_somebody_looks_for_is_masked_in_the_record(house: House):
    browser = await house.logged_in("auditor")
    await browser.get("/sessions?text=s3cret&principal=s3cret-2&within=all")
    await browser.get("/sessions/s3cret")
    searched, read = house.records[1:]
    assert searched.fields["filters"] == {"text": "[SECRET]", "principal": "[SECRET]-2"}
    assert read.fields["session_id"] == "[SECRET]"


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["one", "two", "bad"]),
        ("?within=all", ["one", "two", "old", "bad"]),
        ("?verdict=deny", ["two"]),
        ("?rule=no", ["two"]),
        ("?entity=email*&within=all", ["one", "two", "old"]),
        ("?text=/one", ["one"]),
        ("?principal=al*&text=/two", ["two"]),
        ("?principal=nobody", []),
        ("?trace=zz", []),
    ],
)
async def test_sessions_are_found(house: House, query: str, found: list[str]):
    page = (await (await house.logged_in("auditor")).get(f"/sessions{query}")).text
    assert {name for name in ("one", "two", "old", "bad") if f"/sessions/ses-{name}" in page} == set(found)
    assert ("Nothing was found" in page) == (not found)


@pytest.mark.parametrize("query", ["within=2h", "verdict=maybe", "text=" + "x" * 201])
async def test_a_search_that_is_not_understood_is_refused(house: House, query: str):
    assert (await (await house.logged_in("auditor")).get(f"/sessions?{query}")).status_code == 400


async def test_a_session_is_a_timeline_with_payloads_and_proofs(house: House):
    page = (await (await house.logged_in("auditor")).get("/sessions/ses-one")).text
    text = text_of(page)
    for words in (
        "alice at customers-api",
        "GET /one",
        "p/read → allow",
        "Masked: EMAIL_ADDRESS=2",
        "answered 200",
    ):
        assert words in text, words
    assert "[NAME]" in text
    assert "<svg" in page
    assert (await (await house.logged_in("auditor")).get("/sessions/ses-none")).status_code == 404


async def test_a_payload_that_was_changed_is_not_shown(house: House, ledger: Path):
    for file in ledger.rglob("*.payloads"):
        file.write_bytes(file.read_bytes().replace(b"[NAME]", b"[FAKE]"))
    text = text_of((await (await house.logged_in("auditor")).get("/sessions/ses-one")).text)
    assert "[FAKE]" not in text and "mismatch" in text


async def test_policies_show_what_is_in_force_and_what_shadow_rules_would_have_done(house: House):
    text = text_of((await (await house.logged_in("operator")).get("/policies")).text)
    assert "p/later" in text and "would deny" in text and "shadow" in text
    assert "1 of 2" in text


async def test_health_says_what_fails(house: House, ledger: Path):
    browser = await house.logged_in("operator")
    assert "All checks hold." in (await browser.get("/health")).text
    (ledger / "alarm.json").write_text(f'{{"writer": "{NASTY}"}}')
    page = (await browser.get("/health")).text
    assert "Something is wrong." in page and "refuses to sign" in page and "<script>alert" not in page


async def test_what_others_wrote_is_text(house: House):
    browser = await house.logged_in("auditor")
    for path in PATHS:
        page = (await browser.get(path)).text
        assert "<script>alert" not in page and "\u202e" not in page
        for _, attributes in Tags(page).found:
            assert "style" not in attributes and not [name for name in attributes if name.startswith("on")]


async def test_a_search_out_of_time_says_so(ledger: Path):
    found = await LedgerRecords(ledger, seconds=-1).sessions(Wanted(), 10)
    assert not found.is_all
    _, is_all = await LedgerRecords(ledger, seconds=-1).rules(0)
    assert not is_all


async def test_a_ledger_that_is_gone_is_our_trouble(tmp_path: Path):
    with pytest.raises(StoreUnavailableError):
        await LedgerRecords(tmp_path / "none").sessions(Wanted(), 10)


async def test_waits_are_bars_of_their_own(ledger: Path):
    whole = await LedgerRecords(ledger).session("ses-bad")
    fall = waterfall(whole.exchanges, whole.moves)
    assert [bar.kind for bar in fall.bars] == ["allow", "waits"]
    assert fall.bars[1].seconds == pytest.approx(8.0)
    assert fall.bars[1].left + fall.bars[1].width <= 1000.1
    many = waterfall(list(whole.exchanges) * 100, ())
    assert (len(many.bars), many.omitted) == (ROWS, 100 - ROWS)
    assert waterfall((), ()).bars == ()


async def test_a_search_that_finds_nothing_ends_in_time_as_well(ledger: Path):
    late = LedgerRecords(ledger, seconds=-1)
    found = await late.sessions(Wanted(principal="nobody"), 10)
    assert (found.total, found.is_all) == (0, False)
    whole = await late.session("ses-one")
    assert (whole.exchanges, whole.is_all) == ([], False)
    with pytest.raises(StoreUnavailableError):
        await late.activations()


async def test_a_session_that_was_not_found_in_time_is_not_said_to_be_unknown(ledger: Path):
    async def checks() -> dict[str, bool]:
        return {}

    house = House(records=LedgerRecords(ledger, seconds=-1), checks=checks)
    assert (await (await house.logged_in("auditor")).get("/sessions/ses-one")).status_code == 503


async def test_a_session_too_large_for_a_page_is_cut_and_the_page_says_so(
    ledger: Path, house: House, monkeypatch: pytest.MonkeyPatch
):
    files = LedgerWriter(ledger, writer_id="worker1-a", clock=lambda: NOW)
    for number in range(5):
        files.append(intent(f"many-{number}", NOW - 100 + number, session_id="ses-many"))
        files.append(outcome(f"many-{number}", NOW - 99 + number, session_id="ses-many"))
    files.commit()
    files.close()
    browser = await house.logged_in("auditor")
    page = (await browser.get("/sessions/ses-many")).text
    assert "GET /many-4" in text_of(page) and "not all of it" not in page
    monkeypatch.setattr(ledger_records, "MAX_EXCHANGES", 3)
    monkeypatch.setattr(ledger_records, "MAX_PAYLOADS", 30)
    page = (await browser.get("/sessions/ses-many")).text
    text = text_of(page)
    assert "GET /many-2" in text and "GET /many-3" not in text and "not all of it" in page
    assert text.count("[NAME]") == 1 and text.count("too large to be shown here") == 2
