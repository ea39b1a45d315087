"""A person with a real browser: logs in at an issuer, sees a hold arrive, decides, and the waiting client goes on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pymysql  # type: ignore[import-untyped]
import pytest
from playwright.sync_api import Browser, expect

from extproc.demo import mariadb
from extproc.demo.scene import BILLING, DATABASE, Scene
from tests.support.browser import CONTRAST, PATIENCE, WIDER, Watched, launched, need_chromium

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched(need_chromium()) as browser:
        yield browser


@pytest.fixture(scope="module")
def scene(browser: Browser) -> Iterator[Scene]:
    with tempfile.TemporaryDirectory(prefix="console-") as folder, Scene(Path(folder)) as scene:
        yield scene


class Payment:
    """An agent that pays, and waits for its answer."""

    def __init__(self, scene: Scene, amount: int) -> None:
        self.amount = amount
        self.status = 0
        self.body: dict[str, Any] = {}
        self._scene = scene
        self._thread = threading.Thread(target=self._pay)
        self._thread.start()

    def _pay(self) -> None:
        payment = {
            "amount": self.amount,
            "currency": "EUR",
            "to_iban": "DE89370400440532013000",
            "customer_id": 1,
        }
        with self._scene.client(self._scene.token("payments-bot", "payments")) as client:
            answer = client.post("/payments", json=payment)
        self.status, self.body = answer.status_code, answer.json()

    def wait(self) -> int:
        self._thread.join(30)
        return self.status

    @property
    def is_waiting(self) -> bool:
        return self._thread.is_alive()


def records(scene: Scene) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for segment in sorted((scene.folder / "state" / "ledger").rglob("*.jsonl")):
        lines += [json.loads(line) for line in segment.read_text().splitlines()]
    return lines


def test_a_hold_arrives_live_is_approved_and_the_waiting_client_gets_its_answer(
    scene: Scene, browser: Browser
):
    fiona = Watched(browser)
    page = fiona.page
    fiona.log_in(scene.console_url, "fiona")
    expect(page.get_by_text("Nothing waits for you.")).to_be_visible()

    payment = Payment(scene, 5101)
    title = page.get_by_role("link", name="/payments")
    expect(title).to_be_visible()  # nobody reloaded the page
    expect(page.locator("#count")).to_have_text("1")
    title.click()
    expect(page.get_by_role("heading", name="What it does")).to_be_visible()
    expect(page.get_by_text('"amount": 5101,')).to_be_visible()
    assert payment.is_waiting
    page.get_by_label("Reason").fill("invoice 5101 checked")
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_text("Your approval is counted.")).to_be_visible()
    assert payment.wait() == 201
    expect(page.get_by_text("it ran once")).to_be_visible()  # told by itself as well
    assert fiona.complaints == []

    done = [r for r in records(scene) if r["kind"] == "admin.hold_approve" and r.get("via") == "console"]
    assert done[-1]["by"]["person"] == "fiona@bank.example"
    assert done[-1]["reason"] == "invoice 5101 checked"


def test_the_same_without_javascript(scene: Scene, browser: Browser):
    fiona = Watched(browser, java_script_enabled=False)
    page = fiona.page
    fiona.log_in(scene.console_url, "fiona")
    payment = Payment(scene, 5102)
    title = page.get_by_role("link", name="/payments")
    for _ in range(100):
        if title.count():
            break
        page.reload()
    title.click()
    page.get_by_label("Reason").fill("invoice 5102 checked")
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_text("Your approval is counted.")).to_be_visible()
    assert payment.wait() == 201


def test_a_denial_reaches_the_client_and_the_keyboard_is_enough(scene: Scene, browser: Browser):
    fiona = Watched(browser)
    page = fiona.page
    fiona.log_in(scene.console_url, "fiona")
    payment = Payment(scene, 5103)
    title = page.get_by_role("link", name="/payments")
    expect(title).to_be_visible()
    title.focus()
    page.keyboard.press("Enter")
    page.get_by_label("Reason").focus()
    page.keyboard.type("not to this account")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Deny")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_text("You denied it.")).to_be_visible()
    assert payment.wait() == 403
    assert payment.body["executed"] is False


def test_a_held_statement_is_approved_for_more_than_once(scene: Scene, browser: Browser):
    olga = Watched(browser)
    page = olga.page
    olga.log_in(scene.console_url, "olga")
    token = scene.database_token("clerk-bot", "clerks")
    deleted: list[int] = []

    def clean() -> None:
        with psycopg.connect(
            f"host=127.0.0.1 port={scene.database_port} user=clerk dbname=postgres sslmode=disable",
            password=token, autocommit=True,
        ) as session:  # fmt: skip
            deleted.extend(
                session.execute(f"DELETE FROM orders WHERE id = {order}").rowcount for order in (7, 8)
            )

    client = threading.Thread(target=clean)
    client.start()
    page.get_by_role("link", name="DELETE").click()
    page.get_by_label("Reason").fill("old orders")
    page.get_by_label("More than once").check()
    page.get_by_role("textbox", name="Uses").fill("2")
    page.get_by_role("textbox", name="Uses").press("Enter")  # approves nothing: the form is still there
    page.get_by_role("textbox", name="Minutes").fill("5")
    page.get_by_role("radio", name="shape").check()
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_text("Your approval is counted.")).to_be_visible()
    client.join(30)
    assert deleted == [1, 1]
    page.goto(f"{scene.console_url}/grants?show=ended")
    expect(page.get_by_text("2 of 2 used")).to_be_visible()
    assert DATABASE in page.content()
    assert olga.complaints == []


@pytest.mark.skipif(shutil.which("psql") is None, reason="no psql: tools/system.sh installs it")
def test_psql_waits_is_approved_in_the_browser_and_goes_on(scene: Scene, browser: Browser):
    olga = Watched(browser)
    page = olga.page
    olga.log_in(scene.console_url, "olga")
    asked = ["-c", "DELETE FROM orders WHERE id = 9", "-c", "SELECT 'went ' || 'on'"]
    psql = subprocess.Popen(
        ["psql", "-XAt", f"host=127.0.0.1 port={scene.database_port} user=clerk dbname=postgres", *asked],
        env={**os.environ, "PGPASSWORD": scene.database_token("clerk-bot", "clerks"), "PGSSLMODE": "disable"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        page.get_by_role("link", name="DELETE").click()
        page.get_by_label("Reason").fill("order 9 was a test")
        page.get_by_role("button", name="Approve").click()
        expect(page.get_by_text("Your approval is counted.")).to_be_visible()
        told, _ = psql.communicate(timeout=30)
    finally:
        psql.kill()
        psql.wait()
    assert psql.returncode == 0, told
    assert told.splitlines()[-2:] == ["DELETE 1", "went on"]
    assert olga.complaints == []


@pytest.mark.skipif(not mariadb.is_here(), reason=mariadb.MISSING)
def test_a_held_statement_of_a_mysql_client_is_approved_in_the_browser_and_runs(
    scene: Scene, browser: Browser
):
    fiona = Watched(browser)
    page = fiona.page
    fiona.log_in(scene.console_url, "fiona")
    changed: list[int] = []

    def change() -> None:
        with (
            pymysql.connect(
                host="127.0.0.1", port=scene.billing_port, user="agent", database=mariadb.DATABASE,
                password=scene.database_token("clerk-bot", "clerks", audience=BILLING), autocommit=True,
                connect_timeout=20,
            ) as connection,
            connection.cursor() as cursor,
        ):  # fmt: skip
            changed.append(cursor.execute("UPDATE invoices SET paid = 1 WHERE id = 5"))

    client = threading.Thread(target=change)
    client.start()
    page.get_by_role("link", name="UPDATE").click()
    page.get_by_label("Reason").fill("bank statement 11")
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_text("Your approval is counted.")).to_be_visible()
    client.join(30)
    assert changed == [1]
    assert fiona.complaints == []


def test_the_one_time_code_lets_one_in_once(scene: Scene, browser: Browser):
    first, second = Watched(browser), Watched(browser)
    for watched in (first, second):
        watched.page.goto(scene.console_url)
        watched.page.get_by_label("One-time code").fill(scene.one_time_code)
        watched.page.get_by_role("button", name="Log in").click()
    expect(first.page.get_by_role("heading", name="Inbox")).to_be_visible()
    expect(second.page.get_by_text("was used already")).to_be_visible()
    first.page.get_by_role("button", name="Log out").click()
    expect(first.page.get_by_text("You were logged out.")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_every_page_can_be_read(scene: Scene, browser: Browser, scheme: Any, width: int):
    watched = Watched(browser, color_scheme=scheme, viewport={"width": width, "height": 800})
    page = watched.page
    page.goto(f"{scene.console_url}/login?problem=wrong_code")
    assert page.evaluate(CONTRAST) == []
    watched.log_in(scene.console_url, "audrey")
    paths = ["/holds", "/holds?show=open", "/holds?show=closed", "/grants", "/grants?show=ended", "/nowhere"]
    paths += ["/sessions", "/sessions?principal=nobody", "/policies", "/health"]
    page.goto(f"{scene.console_url}/sessions")
    paths.append(str(page.locator("li.hold a.title").first.get_attribute("href")))
    page.goto(f"{scene.console_url}/holds?show=closed")
    paths += [str(link.get_attribute("href")) for link in page.locator("li.hold a.title").all()[:3]]
    for path in paths:
        page.goto(scene.console_url + path)
        assert page.evaluate(CONTRAST) == [], path
        assert page.evaluate(WIDER) <= 0, path


def test_no_page_shows_a_token_and_the_ledger_knows_the_logins(scene: Scene, browser: Browser):
    watched = Watched(browser)
    watched.page.goto(f"{scene.console_url}/login/callback?code=x&state=y")
    expect(watched.page.get_by_text("begun elsewhere")).to_be_visible()
    watched.log_in(scene.console_url, "audrey")
    for path in ("/holds?show=closed", "/grants"):
        watched.page.goto(scene.console_url + path)
        assert "eyJ" not in watched.page.content()
    kinds = [record["kind"] for record in records(scene)]
    assert "admin.login" in kinds and "admin.login_failed" in kinds and "admin.logout" in kinds
    assert "eyJ" not in json.dumps(records(scene))
    verified = subprocess.run(
        [sys.executable, "-m", "extproc.cli", "ledger", "verify", "--dir", str(scene.folder / "state" / "ledger")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert verified.returncode == 0, verified.stdout + verified.stderr
