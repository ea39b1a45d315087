"""A login against a real issuer over HTTP, and every way in which its tokens can be wrong."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from extproc.app.approvals import authenticator
from extproc.app.console import IssuerLogin, one_time
from extproc.app.identifying import open_keys
from extproc.config import Settings, parse_config
from extproc.demo.issuer import Issuer
from extproc.demo.logins import TOKEN_PATH, Client
from extproc.demo.pages import Page
from extproc.domain.errors import ConfigError, StoreUnavailableError, TokenError
from extproc.servers.console import Entered, LoginError

pytestmark = pytest.mark.anyio
CALLBACK = "http://127.0.0.1:9/login/callback"
PEOPLE: dict[str, dict[str, Any]] = {
    "fiona": {"groups": ["finance"], "email": "fiona@bank.example"},
    "robot": {"groups": ["finance"], "kind": "agent"},
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    made = Issuer(port=0, audience="api")
    made.log_people_in(PEOPLE).add_client(Client("web", CALLBACK, "extproc-approvals"))
    with made:
        yield made


def settings_for(issuer: Issuer, base: Path, token: str = "access") -> Settings:
    return parse_config(
        f"""\
apiVersion: extproc/v1
kind: Config
identity:
  providers:
    - {{name: demo, issuer: "{issuer.issuer}", audiences: [api], keys: {{discovery: true}}, insecure_loopback: true}}
approvals: {{clients: [web], audience: {"web" if token == "id" else "extproc-approvals"}}}
console:
  listen: 127.0.0.1:9
  url: http://127.0.0.1:9
  insecure: true
  login: {{provider: demo, client_id: web, token: {token}}}
  one_time: {{code: {{file: code}}, person: fiona@bank.example, groups: [finance]}}
""",
        base=base,
    )


class Flow:
    """One login, step by step, as console, browser and issuer play it."""

    def __init__(self, issuer: Issuer, base: Path, token: str = "access") -> None:
        settings = settings_for(issuer, base, token)
        assert settings.console is not None and settings.console.login is not None
        self.keys = open_keys(settings)
        authenticate = authenticator(settings, self.keys)
        self.login = IssuerLogin(settings, settings.console, settings.console.login, authenticate, self.keys)

    async def code(self, who: str = "fiona", verifier: str = "v" * 48, nonce: str = "n") -> str:
        url = await self.login.begin("s", nonce, verifier)
        async with httpx2.AsyncClient(trust_env=False) as browser:
            page = await browser.get(url)
            fields = dict(re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', page.text))
            sent = await browser.post(url.partition("?")[0], data={**fields, "person": who})
        back = httpx2.URL(sent.headers["location"])
        assert str(back).startswith(CALLBACK) and back.params["state"] == "s"
        return str(back.params["code"])

    async def run(self, who: str = "fiona") -> Entered:
        return await self.login.finish(await self.code(who), "n", "v" * 48)


@pytest.mark.parametrize("token", ["access", "id"])
async def test_somebody_logs_in(issuer: Issuer, tmp_path: Path, token: str):
    entered = await Flow(issuer, tmp_path, token).run()
    principal = entered.principal
    assert (principal.subject, principal.kind, principal.groups) == ("fiona", "human", ("finance",))
    assert principal.client_id == "web"
    assert entered.ends_at == principal.expires_at > 0


async def test_the_code_is_worth_nothing_without_the_verifier_or_twice(issuer: Issuer, tmp_path: Path):
    flow = Flow(issuer, tmp_path)
    code = await flow.code()
    for _ in range(2):
        with pytest.raises(LoginError, match="issuer_refused"):
            await flow.login.finish(code, "n", "w" * 48)
    with pytest.raises(LoginError, match="issuer_refused"):
        await flow.login.finish("guess", "n", "v" * 48)


async def test_an_answer_to_another_login_is_refused(issuer: Issuer, tmp_path: Path):
    flow = Flow(issuer, tmp_path)
    with pytest.raises(LoginError, match="bad_nonce"):
        await flow.login.finish(await flow.code(nonce="n"), "other", "v" * 48)


async def test_software_is_refused(issuer: Issuer, tmp_path: Path):
    with pytest.raises(LoginError, match="not_human"):
        await Flow(issuer, tmp_path).run("robot")


def tokens(issuer: Issuer, **parts: Any) -> Page:
    """A token response with some of it wrong."""
    people: dict[str, Any] = {"kind": "human", "groups": ["finance"]}
    given = {
        "token_type": "Bearer",
        "id_token": issuer.token("fiona", aud="web", azp="web", nonce="n", **people),
        "access_token": issuer.token("fiona", aud="extproc-approvals", azp="web", **people),
        **parts,
    }
    return Page(200, json.dumps({name: value for name, value in given.items() if value is not None}).encode())


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (lambda i: {"id_token": None}, "missing"),
        (lambda i: {"id_token": 7}, "missing"),
        (lambda i: {"access_token": None}, "no_token|issuer_refused"),
        (lambda i: {"id_token": i.token("fiona", aud="other", nonce="n")}, "wrong_audience"),
        (lambda i: {"id_token": i.token("fiona", aud=["web", "x"], azp="x", nonce="n")}, "wrong_client"),
        (lambda i: {"id_token": i.token("fiona", aud="web")}, "bad_nonce"),
        (lambda i: {"id_token": i.token("fiona", aud="web", nonce="n", lifetime=-600)}, "expired"),
        (lambda i: {"id_token": i.token("fiona", aud="web", nonce="n")[:-4] + "AAAA"}, "bad_signature"),
        (lambda i: {"access_token": i.token("fiona", aud="api", kind="human", azp="web")}, "wrong_audience"),
        (
            lambda i: {"access_token": i.token("fiona", aud="extproc-approvals", kind="human", azp="agent")},
            "wrong_client",
        ),
        (
            lambda i: {"access_token": i.token("olga", aud="extproc-approvals", kind="human", azp="web")},
            "other_subject",
        ),
        (
            lambda i: {"access_token": i.token("fiona", aud="extproc-approvals", azp="web")},
            "not_human",
        ),
        (lambda i: {"access_token": "opaque"}, "malformed"),
    ],
)
async def test_tokens_that_do_not_prove_it_are_refused(issuer: Issuer, tmp_path: Path, wrong: Any, code: str):
    issuer.pages[TOKEN_PATH] = tokens(issuer, **wrong(issuer))
    with pytest.raises((LoginError, TokenError)) as caught:
        await Flow(issuer, tmp_path).login.finish("c", "n", "v" * 48)
    assert re.fullmatch(code, getattr(caught.value, "code", ""))


@pytest.mark.parametrize(
    ("page", "error"),
    [
        (Page(200, b"x" * (1 << 21)), StoreUnavailableError),
        (Page(200, b"not json"), LoginError),
        (Page(200, b"[]"), LoginError),
        (Page(200, b'{"error": "invalid_grant"}'), LoginError),
        (Page(200, b"{}", (("content-encoding", "gzip"),)), StoreUnavailableError),
        (Page(302, b"", (("location", "http://127.0.0.1:9/elsewhere"),)), StoreUnavailableError),
        (Page(500, b"oops"), (LoginError, StoreUnavailableError)),
        (Page(400, b'{"error": ["<script>"]}'), LoginError),
    ],
)
async def test_an_answer_that_is_no_token_response_ends_in_one_of_our_errors(
    issuer: Issuer, tmp_path: Path, page: Page, error: Any
):
    issuer.pages[TOKEN_PATH] = page
    with pytest.raises(error):
        await Flow(issuer, tmp_path).login.finish("c", "n", "v" * 48)


async def test_an_issuer_that_is_gone_is_our_trouble(issuer: Issuer, tmp_path: Path):
    flow = Flow(issuer, tmp_path)
    issuer.stop()
    with pytest.raises(StoreUnavailableError):
        await flow.login.begin("s", "n", "v" * 48)


def test_the_one_time_code_works_once_even_after_a_restart(issuer: Issuer, tmp_path: Path):
    settings = settings_for(issuer, tmp_path)
    assert settings.console is not None
    settings.state.mkdir()
    (tmp_path / "code").write_text("0123456789abcdef\n")
    (tmp_path / "code").chmod(0o600)
    first = one_time(settings, settings.console)
    assert first is not None
    assert first.spend("0123456789abcdeF") is None
    found = first.spend("0123456789abcdef")
    assert found is not None and (found.person, found.kind) == ("fiona@bank.example", "human")
    assert first.spend("0123456789abcdef") is None
    again = one_time(settings, settings.console)
    assert again is not None and again.spend("0123456789abcdef") is None
    (mark,) = settings.state.iterdir()
    assert "0123456789" not in mark.name and stat.S_IMODE(mark.stat().st_mode) == 0o600


def test_a_code_that_can_be_guessed_is_refused(issuer: Issuer, tmp_path: Path):
    settings = settings_for(issuer, tmp_path)
    assert settings.console is not None
    (tmp_path / "code").write_text("short")
    (tmp_path / "code").chmod(0o600)
    with pytest.raises(ConfigError, match="at least 16"):
        one_time(settings, settings.console)
