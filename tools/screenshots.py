"""Pictures of every page of the console, in light, dark and on a phone: `make screenshots`, then look at them.

Everything in them is real: the demo's processes run, agents ask, people decide.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import psycopg
from playwright.sync_api import Page

from extproc.demo.scene import Scene
from tests.support.browser import Watched, chromium, launched

LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 860}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 860}},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}
HIDDEN = "DE89370400440532013000"


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "build/screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    executable = chromium()
    if not executable:
        sys.exit("no Chromium; tools/system.sh brings it")
    with (
        tempfile.TemporaryDirectory(prefix="shots-") as place,
        launched(executable) as browser,
        Scene(Path(place)) as scene,
    ):
        ask(scene)
        decide(scene, browser)
        for name, look in LOOKS.items():
            waiting = [
                start(lambda: pay(scene, 7400)),
                start(lambda: clean(scene, "id > 8 AND customer = 2 AND amount < 150")),
            ]
            shoot(Watched(browser, **look), scene, folder, name)
            finish(scene, browser)
            for thread in waiting:
                thread.join(60)
    print(f"{len(list(folder.glob('*.png')))} pictures in {folder}")


def start(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def ask(scene: Scene) -> None:
    """Ordinary traffic: allowed and masked, denied, without a token."""
    with scene.client(scene.token("support-bot", "support")) as client:
        for path in ("/customers", "/customers/1", "/customers/2"):
            client.get(path)
        client.delete("/customers/1")
    with scene.client(None) as client:
        client.get("/customers")


def pay(scene: Scene, amount: int) -> None:
    payment = {
        "amount": amount,
        "currency": "EUR",
        "to_iban": HIDDEN,
        "customer_id": 2,
        "note": "rent \u202e5",
    }
    with (
        scene.client(scene.token("payments-bot", "payments")) as client,
        contextlib.suppress(httpx2.HTTPError),
    ):
        client.post("/payments", json=payment)


def clean(scene: Scene, *conditions: str) -> None:
    token = scene.database_token("clerk-bot", "clerks")
    dsn = f"host=127.0.0.1 port={scene.database_port} user=clerk dbname=postgres sslmode=disable"
    with contextlib.suppress(psycopg.Error), psycopg.connect(dsn, password=token, autocommit=True) as session:
        session.execute("SELECT name, email FROM customers WHERE id = 1").fetchall()
        for condition in conditions:
            session.execute(f"DELETE FROM orders WHERE {condition}".encode())


def decide(scene: Scene, browser: Any) -> None:
    """One payment approved, one denied; a statement approved with a grant."""
    fiona, olga = Watched(browser), Watched(browser)
    fiona.log_in(scene.console_url, "fiona")
    for amount, button in ((5200, "Approve"), (9900, "Deny")):
        client = start(lambda amount=amount: pay(scene, amount))
        fiona.page.goto(f"{scene.console_url}/holds")
        fiona.page.locator("li.hold a.title").first.click()
        fiona.page.get_by_label("Reason").fill(
            "invoice 2291 checked" if button == "Approve" else "not this account"
        )
        fiona.page.get_by_role("button", name=button).click()
        client.join(60)
    olga.log_in(scene.console_url, "olga")
    client = start(lambda: clean(scene, "id = 3", "id = 5"))
    olga.page.locator("li.hold a.title").first.click()
    olga.page.get_by_label("Reason").fill("old orders, ticket 88")
    olga.page.get_by_label("More than once").check()
    olga.page.get_by_role("radio", name="shape").check()
    olga.page.get_by_role("button", name="Approve").click()
    client.join(60)


def shoot(watched: Watched, scene: Scene, folder: Path, look: str) -> None:
    page, console = watched.page, scene.console_url

    def picture(name: str, path: str = "", *, whole: bool = True) -> None:
        if path:
            page.goto(console + path)
        page.wait_for_load_state("load")
        page.screenshot(path=str(folder / f"{name}-{look}.png"), full_page=whole)

    for who, name in (("fiona", "hold"), ("olga", "hold-statement")):
        watched.log_in(console, who)
        page.locator("li.hold a.title").first.wait_for()
        if who == "fiona":
            picture("inbox")
        page.locator("li.hold a.title").first.click()
        if page.get_by_label("More than once").count():
            page.get_by_label("More than once").check()
        picture(name)
        if who == "fiona":
            page.evaluate(
                "document.querySelectorAll('[required]').forEach(e => e.removeAttribute('required'))"
            )
            page.get_by_role("button", name="Approve").click()
            picture("hold-refused")
        page.get_by_role("button", name="Log out").click()
    picture("login", "/login")
    picture("login-problem", "/login?problem=wrong_code")
    watched.log_in(console, "oscar")
    picture("inbox-empty", "/holds")
    picture("inbox-open", "/holds?show=open")
    picture("inbox-closed", "/holds?show=closed")
    first(page, console, "/holds?show=closed")
    picture("hold-closed")
    picture("grants", "/grants")
    first(page, console, "/grants")
    picture("grant")
    picture("sessions", "/sessions")
    picture("sessions-empty", "/sessions?principal=nobody&within=1h")
    for name, principal in (("session-database", "clerk-bot"), ("session-request", "payments-bot")):
        first(page, console, f"/sessions?principal={principal}")
        picture(name)
    picture("policies", "/policies")
    picture("health", "/health")
    picture("not-found", "/nowhere")


def first(page: Page, console: str, path: str) -> None:
    page.goto(console + path)
    page.locator("li.hold a.title").first.click()
    page.wait_for_load_state("load")


def finish(scene: Scene, browser: Any) -> None:
    """What still waits is denied, so that its client ends."""
    deadline = time.monotonic() + 30
    for who in ("fiona", "olga"):
        watched = Watched(browser)
        watched.log_in(scene.console_url, who)
        while watched.page.locator("li.hold a.title").count() and time.monotonic() < deadline:
            watched.page.locator("li.hold a.title").first.click()
            watched.page.get_by_label("Reason").fill("the pictures are taken")
            watched.page.get_by_role("button", name="Deny").click()
            watched.page.goto(f"{scene.console_url}/holds")


if __name__ == "__main__":
    main()
