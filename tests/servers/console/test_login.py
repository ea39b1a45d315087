"""Coming in, staying in, going out; and everybody who does not come in."""

from __future__ import annotations

import asyncio

import pytest

from extproc.domain.errors import StoreUnavailableError, TokenError
from extproc.servers.console import Entered
from extproc.servers.console.safety import local_path
from tests.support.console import CODE, Browser, House, LoginError
from tests.support.holds import NOW, ask

pytestmark = pytest.mark.anyio
COOKIE = "__Host-extproc"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def house() -> House:
    return House()


async def where(browser: Browser, path: str = "/holds") -> str:
    answer = await browser.get(path)
    return answer.headers.get("location", "") if answer.status_code == 303 else str(answer.status_code)


async def test_nobody_sees_a_page_before_a_login(house: House):
    browser = house.browser()
    for path in ("/", "/holds", "/holds/h-0", "/grants", "/grants/g-0", "/holds?show=closed"):
        answer = await browser.get(path)
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/login?next=%2F")
    for path in ("/live", "/holds/list"):
        assert (await browser.get(path, headers={"hx-request": "true"})).status_code == 401
    assert (await browser.post("/holds/h-0/approve", {"reason": "x"})).status_code == 401
    assert house.records == []


async def test_a_login_leads_where_somebody_wanted_to_go_and_is_recorded(house: House):
    browser = house.browser()
    answer = await browser.log_in("anna", "/holds/h-7")
    assert answer.headers["location"] == "/holds/h-7"
    assert await where(browser) == "200"
    login = house.records[0]
    assert login.kind == "admin.login"
    assert (login.fields["by"]["subject"], login.fields["via"]) == ("anna", "console")
    cookie = answer.headers.get_list("set-cookie")[0]
    assert cookie.startswith(f"{COOKIE}=")
    for word in ("HttpOnly", "Secure", "SameSite=lax", "Path=/"):
        assert word.lower() in cookie.lower()


async def test_on_this_machine_without_tls_the_cookie_needs_no_https():
    browser = House(url="http://127.0.0.1:8443").browser()
    cookie = (await browser.log_in("anna")).headers.get_list("set-cookie")[0]
    assert cookie.startswith("extproc=") and "Secure" not in cookie


@pytest.mark.parametrize(
    ("path", "led"),
    [
        ("/holds/h-1?x=1", "/holds/h-1?x=1"),
        ("//evil.test/", "/"), ("/\\evil.test", "/"), ("https://evil.test/", "/"), ("javascript:alert(1)", "/"),
        ("", "/"), ("/a\nb", "/"), ("/" + "x" * 501, "/"), ("/\u202e", "/"),
    ],
)  # fmt: skip
def test_a_login_never_leads_elsewhere(path: str, led: str):
    assert local_path(path) == led


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TokenError("bad_signature", "x"), "bad_signature"),
        (LoginError("bad_nonce"), "bad_nonce"),
        (StoreUnavailableError("x"), "unavailable"),
    ],
)
async def test_a_login_that_fails_is_recorded_and_says_no_more_than_a_code(
    house: House, error: Exception, code: str
):
    house.issuer.refuse = error
    browser = house.browser()
    answer = await browser.log_in("anna")
    assert answer.headers["location"] == f"/login?problem={code}"
    assert (await where(browser)).startswith("/login")
    assert [(each.kind, each.fields["code"]) for each in house.records] == [("admin.login_failed", code)]
    assert 'class="said"' in (await browser.get(answer.headers["location"])).text


async def test_software_does_not_come_in(house: House):
    answer = await house.browser().log_in("auditing-robot")
    assert answer.headers["location"] == "/login?problem=not_human"
    assert house.kinds() == ["admin.login_failed"]


async def test_a_login_is_finished_once_and_by_the_browser_that_began_it(house: House):
    victim, thief = house.browser(), house.browser()
    began = await victim.get("/login/start")
    state = began.headers["location"].partition("state=")[2]
    await thief.get("/login/start")
    for browser, given in ((thief, state), (victim, "guess"), (victim, "")):
        answer = await browser.get("/login/callback", params={"code": "anna", "state": given})
        assert answer.headers["location"] == "/login?problem=unknown_login"
    assert (await victim.get("/login/callback", params={"code": "anna", "state": state})).headers[
        "location"
    ] == "/"
    again = await victim.get("/login/callback", params={"code": "anna", "state": state})
    assert again.headers["location"] == "/login?problem=unknown_login"


async def test_a_login_that_takes_too_long_is_over(house: House):
    browser = house.browser()
    state = (await browser.get("/login/start")).headers["location"].partition("state=")[2]
    house.now += 601
    answer = await browser.get("/login/callback", params={"code": "anna", "state": state})
    assert answer.headers["location"] == "/login?problem=unknown_login"


@pytest.mark.parametrize(
    ("error", "code"), [("access_denied", "access_denied"), ("<b>server_error", "issuer_error")]
)
async def test_what_an_issuer_says_is_not_repeated(house: House, error: str, code: str):
    browser = house.browser()
    state = (await browser.get("/login/start")).headers["location"].partition("state=")[2]
    answer = await browser.get(
        "/login/callback", params={"error": error, "error_description": "<script>", "state": state}
    )
    assert answer.headers["location"] == f"/login?problem={code}"
    page = (await browser.get("/login?problem=<script>alert(1)</script>")).text
    assert "alert(1)" not in page


async def test_an_issuer_that_is_down_is_said(house: House):
    house.issuer.down = True
    answer = await house.browser().get("/login/start")
    assert answer.status_code == 503
    assert "cannot be asked" in answer.text


async def test_a_login_gets_a_new_name_each_time(house: House):
    browser = house.browser()
    await browser.log_in("anna")
    first = browser.client.cookies[COOKIE]
    await browser.log_in("anna")
    assert browser.client.cookies[COOKIE] != first
    old = house.browser()
    old.client.cookies.set(COOKIE, first, domain="console.test")
    assert (await where(old)).startswith("/login")


async def test_a_name_that_was_set_from_outside_is_worth_nothing(house: House):
    browser = house.browser()
    browser.client.cookies.set(COOKIE, "chosen-by-somebody", domain="console.test")
    await browser.log_in("anna")
    assert "chosen-by-somebody" not in browser.client.cookies.jar.__str__().split(COOKIE)[-1]


async def test_logging_out_ends_it_and_wants_a_form_of_ours(house: House):
    browser = await house.logged_in("anna")
    assert (await browser.get("/logout")).status_code == 405
    assert (await browser.post("/logout", {"csrf": "guess"})).status_code == 403
    assert await where(browser) == "200"
    name = browser.client.cookies[COOKIE]
    answer = await browser.post("/logout", {"csrf": await browser.csrf()})
    assert answer.status_code == 303
    browser.client.cookies.set(COOKIE, name, domain="console.test")
    assert (await where(browser)).startswith("/login")
    assert house.kinds()[-1] == "admin.logout"


async def test_logging_out_takes_the_cookie_away_and_nothing_of_other_sites(house: House):
    browser = await house.logged_in("anna")
    answer = await browser.post("/logout", {"csrf": await browser.csrf()})
    (cookie,) = answer.headers.get_list("set-cookie")
    # without these a browser takes no cookie of this name, not even one that ends it (RFC 6265bis §4.1.3.2)
    assert cookie.startswith(f"{COOKIE}=") and "Max-Age=0" in cookie
    assert "Secure" in cookie and "Path=/" in cookie and "HttpOnly" in cookie
    # "cookies" would log people out of every service of the same domain (Clear Site Data §3.1)
    assert answer.headers["clear-site-data"] == '"cache", "storage"'


async def test_coming_in_takes_the_logins_cookie_away(house: House):
    answer = await house.browser().log_in("anna")
    gone = [cookie for cookie in answer.headers.get_list("set-cookie") if "Max-Age=0" in cookie]
    assert len(gone) == 1 and gone[0].startswith(f"{COOKIE}-login=") and "Secure" in gone[0]


class TestSessionsEnd:
    async def test_with_the_token(self, house: House):
        house.issuer.lifetime = 300
        browser = await house.logged_in("anna")
        house.now = NOW + 299
        assert await where(browser) == "200"
        house.now = NOW + 300
        assert (await where(browser)).startswith("/login")

    async def test_when_nobody_uses_them(self, house: House):
        browser = await house.logged_in("anna")
        house.now += 1799
        assert await where(browser) == "200"
        house.now += 1800
        assert (await where(browser)).startswith("/login")

    async def test_when_nobody_uses_them_although_a_page_stays_open(self, house: House):
        held = await house.store.open(ask(), NOW)
        browser = await house.logged_in("anna")
        for minutes in (10, 20, 29):
            house.now = NOW + minutes * 60
            for path in ("/holds/list?show=waiting", f"/holds/{held.id}/now?version=0"):
                answer = await browser.get(path, headers={"hx-request": "true"})
                assert answer.status_code == 200
        house.now = NOW + 1800
        assert (await where(browser)).startswith("/login")

    async def test_when_they_are_old_however_much_they_are_used(self):
        house = House(longest=3600.0, idle=1800.0)
        house.issuer.lifetime = 10**6
        browser = await house.logged_in("anna")
        for minute in range(1, 60):
            house.now = NOW + minute * 60
            assert await where(browser) == "200"
        house.now = NOW + 3600
        assert (await where(browser)).startswith("/login")

    async def test_a_renewal_brings_the_groups_of_now(self, house: House):
        house.issuer.lifetime, house.issuer.renewal = 300, "r"
        browser = await house.logged_in("anna")
        house.now = NOW + 400
        assert await where(browser) == "200"
        house.issuer.refuse = LoginError("session_over")
        house.now += 400
        assert (await where(browser)).startswith("/login")

    async def test_an_issuer_that_is_down_is_no_logout(self, house: House):
        house.issuer.lifetime, house.issuer.renewal = 300, "r"
        browser = await house.logged_in("anna")
        house.issuer.refuse = StoreUnavailableError("down")
        house.now = NOW + 400
        assert await where(browser) == "503"
        house.issuer.refuse = None
        assert await where(browser) == "200"

    async def test_two_pages_that_ask_at_once_use_a_renewal_once(self, house: House):
        house.issuer.lifetime, house.issuer.renewal = 300, "r"
        browser = await house.logged_in("anna")
        house.now = NOW + 290
        renew, asked = house.issuer.renew, list[Entered]()

        async def once(entered: Entered) -> Entered:
            asked.append(entered)
            await asyncio.sleep(0)
            if len(asked) > 1:
                raise LoginError("session_over")  # the issuer takes each renewal once
            return await renew(entered)

        house.issuer.renew = once  # type: ignore[method-assign]
        assert await asyncio.gather(*(where(browser) for _ in range(4))) == ["200"] * 4
        assert len(asked) == 1

    async def test_a_renewal_that_ends_it_ends_it_for_all_who_asked_at_once(self, house: House):
        house.issuer.lifetime, house.issuer.renewal = 300, "r"
        browser = await house.logged_in("anna")
        house.now = NOW + 290

        async def refuse(entered: Entered) -> Entered:
            await asyncio.sleep(0)
            raise TokenError("bad_signature", "x")

        house.issuer.renew = refuse  # type: ignore[method-assign]
        answers = await asyncio.gather(*(where(browser) for _ in range(4)))
        assert all(answer.startswith("/login") for answer in answers)

    async def test_an_issuer_that_is_down_is_no_trouble_while_the_token_is_good(self, house: House):
        house.issuer.lifetime, house.issuer.renewal = 300, "r"
        browser = await house.logged_in("anna")
        house.issuer.refuse = StoreUnavailableError("down")
        house.now = NOW + 290
        assert await where(browser) == "200"


class TestTheCodeThatWorksOnce:
    async def test_lets_one_in_once(self, house: House):
        browser = house.browser()
        answer = await browser.post("/login/code", {"code": f" {CODE} ", "next": "/grants"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/grants")
        assert await where(browser) == "200"
        again = await house.browser().post("/login/code", {"code": CODE})
        assert again.headers["location"] == "/login?problem=wrong_code"
        assert house.kinds()[0] == "admin.login" and house.kinds()[-1] == "admin.login_failed"
        assert house.records[0].fields["way"] == "one-time code"

    async def test_from_another_site_it_is_not_even_tried(self, house: House):
        for headers in ({"origin": "https://evil.test"}, {"sec-fetch-site": "cross-site"}):
            answer = await house.browser().post("/login/code", {"code": CODE}, headers=headers)
            assert answer.headers["location"] == "/login?problem=elsewhere"
        assert not house.one_time.used

    async def test_guessing_is_slowed_down(self, house: House):
        answers = [await house.browser().post("/login/code", {"code": "guess"}) for _ in range(40)]
        assert {answer.status_code for answer in answers[:30]} == {303}
        assert {answer.status_code for answer in answers[30:]} == {429}
        assert len(house.records) == 30
        other = await house.browser("203.0.113.9").post("/login/code", {"code": "guess"})
        assert other.status_code == 303
        house.now += 60
        assert (await house.browser().post("/login/code", {"code": CODE})).headers["location"] == "/"


async def test_who_fails_again_and_again_stops_nobody_else_and_fills_no_ledger(house: House):
    guesser = house.browser("2001:db8::1")
    answers = [await guesser.get("/login/callback", params={"state": "guess"}) for _ in range(40)]
    assert {answer.status_code for answer in answers[:30]} == {303}
    assert {answer.status_code for answer in answers[30:]} == {429}
    # addresses of one network are one peer: it has more of them than anybody can count
    cousin = await house.browser("2001:db8::2").get("/login/callback", params={"state": "guess"})
    assert cousin.status_code == 429
    assert len(house.records) == 30
    assert (await house.browser().log_in("anna")).headers["location"] == "/holds"
    # not even whoever comes from the same address, once the issuer vouches for them
    assert (await house.browser("2001:db8::3").log_in("anna")).headers["location"] == "/holds"


async def test_many_peers_that_fail_fill_no_ledger_either(house: House):
    for number in range(400):
        guesser = house.browser(f"203.0.{number // 250}.{number % 250}")
        await guesser.get("/login/callback", params={"state": "guess"})
    assert len(house.records) == 300
    assert (await house.browser().log_in("anna")).headers["location"] == "/holds"


async def test_beginning_logins_is_slowed_down_for_each_peer(house: House):
    answers = [await house.browser().get("/login/start") for _ in range(31)]
    assert [answer.status_code for answer in answers[29:]] == [303, 429]
    assert (await house.browser("203.0.113.9").get("/login/start")).status_code == 303


async def test_without_a_ledger_nobody_comes_in(house: House):
    house.ledger_down = True
    browser = house.browser()
    state = (await browser.get("/login/start")).headers["location"].partition("state=")[2]
    answer = await browser.get("/login/callback", params={"code": "anna", "state": state})
    assert answer.status_code == 503
    house.ledger_down = False
    assert (await where(browser)).startswith("/login")


async def test_another_host_name_leads_nowhere(house: House):
    browser = await house.logged_in("anna")
    for host in ("evil.test", "console.test.evil.test", "console.test:1", ""):
        assert (await browser.get("/holds", headers={"host": host})).status_code == 421
    assert (await browser.get("/holds", headers={"host": "CONSOLE.test:443"})).status_code == 200


async def test_a_url_with_its_schemes_own_port_is_the_one_without(house: House):
    """Browsers leave it out of what they send (RFC 6454 §6.1, RFC 3986 §6.2.3)."""
    house = House(url="https://Console.test:443")
    browser = house.browser()
    browser.client.base_url = "https://console.test"
    await browser.log_in("anna")
    held = await house.store.open(ask(), NOW)
    data = {"csrf": await browser.csrf(), "reason": "fine", "give": "once"}
    headers = {"origin": "https://console.test", "host": "console.test"}
    assert (await browser.post(f"/holds/{held.id}/approve", data, headers=headers)).status_code == 303
    answer = await browser.post("/login/code", {"code": CODE}, headers=headers)
    assert answer.headers["location"] == "/"
