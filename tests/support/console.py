"""The console to test with: a browser that keeps cookies and fills in forms, an issuer that believes everybody."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import httpx2

from extproc.domain.errors import LedgerUnavailableError, StoreUnavailableError
from extproc.domain.principal import Principal
from extproc.domain.record import Record
from extproc.servers.console import Entered, LoginError, Ways, create_console
from tests.support.approvals import TOKENS
from tests.support.holds import NOW, MemoryHoldStore

URL = "https://console.test"
CODE = "a-code-that-works-once"


class BelievingIssuer:
    """Codes are names of `TOKENS`. `refuse` is raised instead; `down` is an issuer that cannot be asked."""

    def __init__(self, now: Any) -> None:
        self.now = now
        self.refuse: Exception | None = None
        self.down = False
        self.nonces: list[str] = []
        self.lifetime = 3600.0
        self.renewal = ""

    async def begin(self, state: str, nonce: str, verifier: str) -> str:
        if self.down:
            raise StoreUnavailableError("no issuer")
        self.nonces.append(nonce)
        return f"https://issuer.test/authorize?state={state}"

    async def finish(self, code: str, nonce: str, verifier: str) -> Entered:
        assert nonce in self.nonces
        if self.refuse is not None:
            raise self.refuse
        return Entered(TOKENS[code], self.now() + self.lifetime, self.renewal)

    async def renew(self, entered: Entered) -> Entered:
        if self.refuse is not None:
            raise self.refuse
        return Entered(entered.principal, self.now() + self.lifetime, entered.renewal)


class OneTime:
    """`CODE`, once."""

    def __init__(self, principal: Principal) -> None:
        self.principal = principal
        self.used = False

    def spend(self, code: str) -> Principal | None:
        if code != CODE or self.used:
            return None
        self.used = True
        return self.principal


class House:
    """A console over a store in memory, with what it recorded."""

    def __init__(self, url: str = URL, *, records: Any = None, checks: Any = None, **ways: Any) -> None:
        self.url = url
        self.now = NOW
        self.store = MemoryHoldStore()
        self.records: list[Record] = []
        self.ledger_down = False
        self.issuer = BelievingIssuer(lambda: self.now)
        self.one_time = OneTime(TOKENS["anna"])
        self.app = create_console(
            self.store, url=url, record=self.record, now=lambda: self.now,
            ways=Ways(issuer=self.issuer, renew=self.renew, one_time=self.one_time, **ways),
            mask=lambda text: text.replace("s3cret", "[SECRET]"), records=records, checks=checks,
        )  # fmt: skip

    async def renew(self, entered: Entered) -> Entered:
        return await self.issuer.renew(entered)

    def record(self, record: Record) -> None:
        if self.ledger_down:
            raise LedgerUnavailableError("disk full")
        self.records.append(record)

    def kinds(self) -> list[str]:
        return [record.kind for record in self.records]

    def browser(self, peer: str = "198.51.100.7") -> Browser:
        return Browser(self, peer)

    async def logged_in(self, who: str) -> Browser:
        browser = self.browser()
        await browser.log_in(who)
        return browser


class Browser:
    """Keeps cookies, follows nothing by itself."""

    def __init__(self, house: House, peer: str) -> None:
        self.house = house
        self.client = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(house.app, client=(peer, 1234)),
            base_url=house.url,
            follow_redirects=False,
        )

    async def get(self, path: str, **options: Any) -> httpx2.Response:
        return await self.client.get(path, **options)

    async def post(self, path: str, data: Any, **options: Any) -> httpx2.Response:
        return await self.client.post(path, data=data, **options)

    async def log_in(self, who: str, then: str = "/holds") -> httpx2.Response:
        began = await self.get("/login/start", params={"next": then})
        state = httpx2.URL(began.headers["location"]).params["state"]
        answer = await self.get("/login/callback", params={"code": who, "state": state})
        assert answer.status_code == 303, answer.text
        return answer

    async def csrf(self, path: str = "/holds") -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', (await self.get(path)).text)
        assert found is not None
        return found[1]

    async def act(
        self, hold_id: str, action: str, reason: str = "looks right", **more: Any
    ) -> httpx2.Response:
        data = {"csrf": await self.csrf(), "reason": reason, "give": "once", **more}
        return await self.post(f"/holds/{hold_id}/{action}", data)


class Tags(HTMLParser):
    """The elements of a page, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def text_of(page: str) -> str:
    """What a reader sees, roughly: without tags, white space as one space."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


__all__ = ["CODE", "URL", "Browser", "House", "LoginError", "Tags", "text_of"]
