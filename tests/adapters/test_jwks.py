from __future__ import annotations

import asyncio
import json
import os
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from extproc.adapters.jwks import JwksKeys, KeyTimes
from extproc.adapters.jwks_sources import MAX_DOCUMENT, KeySource, KeySourceError, load_keys, url_problem
from extproc.demo.issuer import DISCOVERY_PATH, KEYS_PATH, Issuer
from extproc.demo.pages import Page
from extproc.domain.errors import ConfigError, TokenError
from extproc.domain.principal import Principal
from extproc.identity import HeldKey, KeyAbsence, NeedKeysFor, ProviderRules, Verifier
from tests.support.tokens import BAD_TOKENS

NOW = 1_900_000_000.0
CANARY = "canary-5e1d"
TIMES = KeyTimes()


@pytest.fixture
def issuer() -> Issuer:
    return Issuer(algorithms=["ES256"], clock=lambda: NOW)


def reply(status: int, body: bytes, headers: Iterable[tuple[str, str]] = ()) -> httpx2.Response:
    """A response as the network delivers it: its body still to be read."""
    return httpx2.Response(status, headers=list(headers), stream=httpx2.ByteStream(body))


class Wire(httpx2.AsyncBaseTransport):
    """The network as a function. `serve` an Issuer, or set `answer`; `asked` lists the URLs."""

    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer
        self.asked: list[str] = []
        self.answer: Callable[[httpx2.Request], httpx2.Response] | None = None
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(str(request.url))
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        if self.answer is not None:
            return self.answer(request)
        page = self.issuer.page(request.url.path)
        return reply(page.status, page.body, page.headers)


def source(issuer: Issuer, /, **changes: Any) -> KeySource:
    return KeySource(**{"provider": "corp", "issuer": issuer.issuer, "discovery": True, **changes})


def keys_for(issuer: Issuer, /, times: KeyTimes = TIMES, **changes: Any) -> tuple[JwksKeys, Wire]:
    wire = Wire(issuer)
    return JwksKeys([source(issuer, **changes)], times, transport=wire), wire


def verifier_for(issuer: Issuer) -> Verifier:
    return Verifier([ProviderRules("corp", issuer.issuer, (issuer.audience,))])


async def settle(verifier: Verifier, token: str, keys: JwksKeys, now: float) -> Principal:
    """What a server does: verify, fetch once if asked to, verify again."""
    found = verifier.verify(token, keys, now)
    if isinstance(found, NeedKeysFor):
        await keys.refresh(found.provider, now)
        found = verifier.verify(token, keys, now)
    assert isinstance(found, Principal)
    return found


async def code_of(verifier: Verifier, token: str, keys: JwksKeys, now: float) -> str:
    with pytest.raises(TokenError) as caught:
        await settle(verifier, token, keys, now)
    return caught.value.code


def held(keys: JwksKeys, issuer: Issuer, now: float, kid: str = "") -> HeldKey | KeyAbsence:
    return keys.key("corp", kid or issuer.kid(), "ES256", now)


# ---- getting keys ----


@pytest.mark.parametrize(
    "changes", [{}, {"discovery": False, "jwks_url": "https://issuer.test/keys"}], ids=str
)
def test_a_first_token_fetches_the_keys(issuer: Issuer, changes: dict[str, Any]):
    keys, wire = keys_for(issuer, **changes)

    principal = asyncio.run(settle(verifier_for(issuer), issuer.token(), keys, NOW))

    assert principal.subject == "alice"
    assert wire.asked[-1] == "https://issuer.test/keys"
    assert len(wire.asked) == (1 if changes else 2)


def test_the_whole_catalogue_is_refused_through_real_sockets():
    with Issuer(port=0) as issuer:
        keys = JwksKeys([source(issuer, insecure_loopback=True)])
        verifier = verifier_for(issuer)

        async def codes() -> dict[str, str]:
            await settle(verifier, issuer.token(), keys, issuer.now())
            return {
                name: await code_of(verifier, bad(issuer), keys, issuer.now())
                for name, bad in BAD_TOKENS.items()
            }

        assert asyncio.run(codes()) == {name: bad.code for name, bad in BAD_TOKENS.items()}
        assert issuer.hits == {
            DISCOVERY_PATH: 1,
            KEYS_PATH: 1,
        }  # unknown kids did not get another fetch so soon


def test_an_issuer_with_a_path_is_discovered_below_it(issuer: Issuer):
    issuer.issuer = "https://issuer.test/tenant/"
    keys, wire = keys_for(issuer)
    issuer.pages["/tenant" + DISCOVERY_PATH] = Page(body=json.dumps(issuer.discovery()).encode())

    assert asyncio.run(keys.refresh("corp", NOW))
    assert wire.asked[0] == "https://issuer.test/tenant/.well-known/openid-configuration"


# ---- what is refused ----


def answer_with(
    body: bytes = b"{}", status: int = 200, **headers: str
) -> Callable[[httpx2.Request], httpx2.Response]:
    return lambda _: reply(status, body, ((name.replace("_", "-"), value) for name, value in headers.items()))


def error_after(keys: JwksKeys) -> str:
    assert asyncio.run(keys.refresh("corp", NOW)) is False
    return keys.health(NOW)[0].error


def test_a_redirect_is_not_followed(issuer: Issuer):
    keys, wire = keys_for(issuer)
    wire.answer = answer_with(b"", 302, location=f"https://attacker.test/{CANARY}")

    assert "redirect" in error_after(keys)
    assert len(wire.asked) == 1


def test_a_redirect_over_real_sockets_is_not_followed():
    with Issuer(port=0, algorithms=["ES256"]) as issuer:
        issuer.pages[DISCOVERY_PATH] = Page(302, b"", (("location", issuer.url + "/elsewhere"),))
        keys = JwksKeys([source(issuer, insecure_loopback=True)])

        assert "redirect" in error_after(keys)
        assert issuer.hits == {DISCOVERY_PATH: 1}


def test_discovery_must_name_the_same_issuer(issuer: Issuer):
    for other in (issuer.issuer + "/", "https://attacker.test", "", None):
        keys, wire = keys_for(issuer)
        document = {**issuer.discovery(), "issuer": other}
        wire.answer = answer_with(json.dumps(document).encode())

        assert error_after(keys) == "the discovery document names another issuer"
        assert len(wire.asked) == 1


@pytest.mark.parametrize(
    "uri",
    [
        "http://issuer.test/keys",
        "http://127.0.0.1/keys",
        "file:///etc/passwd",
        "https://user:secret@issuer.test/keys",
        "https:///keys",
        "keys",
        "",
        7,
        None,
    ],
)
def test_discovery_may_not_lead_to_an_unsafe_key_set(issuer: Issuer, uri: object):
    keys, wire = keys_for(issuer)
    wire.answer = answer_with(json.dumps({**issuer.discovery(), "jwks_uri": uri}).encode())

    assert "secret" not in error_after(keys)
    assert len(wire.asked) == 1


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"<html>", b'{"issuer": "a", "issuer": "b"}', b"\xff\xfe"], ids=repr
)
def test_a_discovery_document_that_is_no_object_is_refused(issuer: Issuer, body: bytes):
    keys, wire = keys_for(issuer)
    wire.answer = answer_with(body)

    assert error_after(keys) == "the discovery document is not a JSON object"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (answer_with(b"{}", 500), "status 500"),
        (answer_with(b"{}", 404), "status 404"),
        (answer_with(b"{}", 204), "status 204"),
        (answer_with(b"<html>"), "not a JWK Set"),
        (answer_with(b"x" * (MAX_DOCUMENT + 1)), "larger than 1048576 bytes"),
        (answer_with(b"{}", content_encoding="gzip"), "compressed"),
        (answer_with(json.dumps({"keys": [{}] * 101}).encode()), "more than 100 keys"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_answer_that_is_no_key_set_is_refused(issuer: Issuer, answer: Any, error: str):
    keys, wire = keys_for(issuer, discovery=False, jwks_url=f"https://issuer.test/keys?{CANARY}")
    wire.answer = answer

    told = error_after(keys)
    assert error in told
    assert CANARY not in told + repr(keys.health(NOW))


def test_an_endless_answer_is_cut_off_at_the_limit(issuer: Issuer):
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b"x" * 65_536

    keys, wire = keys_for(issuer)
    wire.answer = lambda _: httpx2.Response(200, content=endless())

    assert "larger" in error_after(keys)
    assert sent == MAX_DOCUMENT // 65_536 + 1


def test_a_silent_issuer_is_given_up_at_the_deadline():
    issuer = Issuer(port=0, algorithms=["ES256"])
    issuer.pages[DISCOVERY_PATH] = Page(gate=threading.Event())
    with issuer:
        keys = JwksKeys([source(issuer, insecure_loopback=True)], KeyTimes(deadline=0.05))

        assert error_after(keys) == "the issuer did not answer within 0.05 seconds"


def test_the_deadline_covers_discovery_and_keys_together(issuer: Issuer):
    class SilentKeys(Wire):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            if request.url.path == KEYS_PATH:
                self.gate = asyncio.Event()  # which nobody sets
            return await super().handle_async_request(request)

    wire = SilentKeys(issuer)
    keys = JwksKeys([source(issuer)], KeyTimes(deadline=0.2), transport=wire)

    assert error_after(keys) == "the issuer did not answer within 0.2 seconds"
    assert wire.asked == ["https://issuer.test" + DISCOVERY_PATH, "https://issuer.test" + KEYS_PATH]


def certified(tmp_path: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    start = datetime.now(UTC) - timedelta(days=1)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = tmp_path / "certificate.pem", tmp_path / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return paths


@pytest.mark.parametrize("trusted", [False, True])
def test_https_needs_a_certificate_that_the_machine_trusts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
):
    certificate, key = certified(tmp_path)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    issuer = Issuer(port=0, algorithms=["ES256"])
    assert issuer._server is not None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    issuer._server.socket = context.wrap_socket(issuer._server.socket, server_side=True)
    issuer.issuer = issuer.url = issuer.url.replace("http://", "https://")
    with issuer:
        keys = JwksKeys([source(issuer)])
        assert asyncio.run(keys.refresh("corp", NOW)) is trusted
    assert keys.health(NOW)[0].error == ("" if trusted else "fetching failed (ConnectError)")


def test_a_proxy_of_the_environment_is_not_asked_about_this_machine(monkeypatch: pytest.MonkeyPatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Issuer(port=0, algorithms=["ES256"]) as issuer:
        keys = JwksKeys([source(issuer, insecure_loopback=True)])
        assert asyncio.run(keys.refresh("corp", NOW))


@pytest.mark.parametrize(
    "error",
    [
        httpx2.ConnectError(CANARY),
        httpx2.RemoteProtocolError(CANARY),
        httpx2.InvalidURL(CANARY),
        OSError(CANARY),
        RuntimeError(CANARY),
    ],
    ids=repr,
)
def test_a_failure_is_told_by_its_kind_alone(issuer: Issuer, error: Exception):
    keys, wire = keys_for(issuer)
    wire.error = error

    told = error_after(keys)
    assert type(error).__name__ in told
    assert CANARY not in told


def test_nobody_listening_is_a_failure_like_any_other():
    issuer = Issuer(port=0, algorithms=["ES256"])
    issuer.stop()
    keys = JwksKeys([source(issuer, insecure_loopback=True)])

    assert error_after(keys) == "fetching failed (ConnectError)"


# ---- how often ----


def test_a_storm_of_first_requests_makes_one_flight(issuer: Issuer):
    keys, wire = keys_for(issuer)
    verifier = verifier_for(issuer)
    tokens = [issuer.token(f"user-{number}") for number in range(50)]

    async def storm() -> list[Principal]:
        wire.gate = asyncio.Event()
        waiting = [asyncio.create_task(settle(verifier, token, keys, NOW)) for token in tokens]
        await asyncio.sleep(0)
        wire.gate.set()
        return await asyncio.gather(*waiting)

    assert len(asyncio.run(storm())) == 50
    assert len(wire.asked) == 2


def test_a_storm_of_unknown_kids_makes_one_flight_per_interval(issuer: Issuer):
    keys, wire = keys_for(issuer, discovery=False, jwks_url="https://issuer.test/keys")
    verifier = verifier_for(issuer)

    async def storm() -> None:
        await settle(verifier, issuer.token(), keys, NOW)
        for second in range(100):
            for number in range(20):
                token = issuer.token(header={"kid": f"{second}-{number}"})
                assert await code_of(verifier, token, keys, NOW + second) == "unknown_key"

    asyncio.run(storm())
    assert len(wire.asked) == 10  # 100 seconds, at most one each 10


def test_an_unknown_kid_is_remembered_for_a_while(issuer: Issuer):
    keys, wire = keys_for(issuer, discovery=False, jwks_url="https://issuer.test/keys")

    async def story() -> None:
        await keys.refresh("corp", NOW)
        assert held(keys, issuer, NOW + 20, "ghost") is KeyAbsence.FETCH
        await keys.refresh("corp", NOW + 20)
        assert held(keys, issuer, NOW + 20, "ghost") is KeyAbsence.UNKNOWN
        assert held(keys, issuer, NOW + 79, "ghost") is KeyAbsence.UNKNOWN
        assert held(keys, issuer, NOW + 79, "another") is KeyAbsence.FETCH
        assert held(keys, issuer, NOW + 81, "ghost") is KeyAbsence.FETCH

    asyncio.run(story())
    assert len(wire.asked) == 2


def test_a_failed_refresh_condemns_no_kid(issuer: Issuer):
    keys, wire = keys_for(issuer)

    async def story() -> None:
        await keys.refresh("corp", NOW)
        kid = issuer.rotate()
        wire.error = OSError()
        assert held(keys, issuer, NOW + 20, kid) is KeyAbsence.FETCH
        await keys.refresh("corp", NOW + 20)
        assert held(keys, issuer, NOW + 20, kid) is KeyAbsence.UNKNOWN
        wire.error = None
        assert held(keys, issuer, NOW + 31, kid) is KeyAbsence.FETCH
        await keys.refresh("corp", NOW + 31)
        assert isinstance(held(keys, issuer, NOW + 31, kid), HeldKey)

    asyncio.run(story())


def test_made_up_kids_cannot_fill_the_memory(issuer: Issuer):
    keys, wire = keys_for(issuer)

    async def story() -> None:
        await keys.refresh("corp", NOW)
        wire.gate = asyncio.Event()
        flight = asyncio.create_task(keys.refresh("corp", NOW + 20))
        await asyncio.sleep(0)
        for number in range(5000):
            assert held(keys, issuer, NOW + 20, f"k{number}") is KeyAbsence.FETCH  # joins the flight
        kept = keys._held["corp"]
        assert len(kept.wanted) == 1000
        wire.gate.set()
        await flight
        assert not kept.wanted
        assert len(kept.unknown) <= 1000

    asyncio.run(story())


def test_a_known_kid_with_another_algorithm_is_a_misfit_and_fetches_nothing(issuer: Issuer):
    keys, wire = keys_for(issuer)
    asyncio.run(keys.refresh("corp", NOW))

    assert keys.key("corp", issuer.kid(), "RS256", NOW + 20) is KeyAbsence.MISFIT
    assert len(wire.asked) == 2


def test_a_caller_who_leaves_does_not_end_the_flight(issuer: Issuer):
    keys, wire = keys_for(issuer)

    async def story() -> None:
        wire.gate = asyncio.Event()
        leaver = asyncio.create_task(keys.refresh("corp", NOW))
        stayer = asyncio.create_task(keys.refresh("corp", NOW))
        await asyncio.sleep(0)
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        wire.gate.set()
        assert await stayer is True

    asyncio.run(story())
    assert isinstance(held(keys, issuer, NOW), HeldKey)
    assert len(wire.asked) == 2


def test_closing_ends_what_is_under_way(issuer: Issuer):
    keys, wire = keys_for(issuer)

    async def story() -> None:
        wire.gate = asyncio.Event()
        waiting = asyncio.create_task(keys.refresh("corp", NOW))
        await asyncio.sleep(0)
        await keys.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(story())


def test_refreshing_again_at_once_asks_nobody(issuer: Issuer):
    keys, wire = keys_for(issuer)

    async def story() -> list[bool]:
        return [await keys.refresh("corp", NOW + later) for later in (0, 0, 9, 10)]

    assert asyncio.run(story()) == [True, True, True, True]
    assert len(wire.asked) == 4


# ---- rotation and withdrawal ----


def test_a_rotated_key_is_found_without_a_restart(issuer: Issuer):
    keys, _ = keys_for(issuer)
    verifier = verifier_for(issuer)

    async def story() -> None:
        old = issuer.token("old")
        await settle(verifier, old, keys, NOW)
        before = keys.generation
        issuer.rotate()
        assert (await settle(verifier, issuer.token("new"), keys, NOW + 20)).subject == "new"
        assert (await settle(verifier, old, keys, NOW + 20)).subject == "old"  # still published
        assert keys.generation == before  # and nothing remembered had to be dropped

    asyncio.run(story())


def test_a_withdrawn_key_ends_remembered_tokens_too(issuer: Issuer):
    keys, _ = keys_for(issuer)
    verifier = verifier_for(issuer)

    async def story() -> None:
        kid = issuer.kid()
        token = issuer.token()
        await settle(verifier, token, keys, NOW)
        issuer.withdraw(kid)
        await settle(verifier, token, keys, NOW + 20)  # nobody has told us yet
        await keys.refresh("corp", NOW + 20)
        assert await code_of(verifier, token, keys, NOW + 20) == "unknown_key"

    asyncio.run(story())


def test_an_empty_set_withdraws_everything(issuer: Issuer):
    keys, _ = keys_for(issuer)
    verifier = verifier_for(issuer)

    async def story() -> None:
        await settle(verifier, issuer.token(), keys, NOW)
        issuer.pages[KEYS_PATH] = Page(body=b'{"keys": []}')
        assert await keys.refresh("corp", NOW + 20)
        assert await code_of(verifier, issuer.token(), keys, NOW + 20) == "unknown_key"

    asyncio.run(story())


def test_a_key_that_changes_under_its_name_is_a_withdrawal(issuer: Issuer):
    keys, _ = keys_for(issuer)

    async def story() -> None:
        await keys.refresh("corp", NOW)
        before = keys.generation
        kid, other = issuer.kid(), Issuer(algorithms=["ES256"])
        swapped = {"keys": [{**other.jwks()["keys"][0], "kid": kid}]}
        issuer.pages[KEYS_PATH] = Page(body=json.dumps(swapped).encode())
        await keys.refresh("corp", NOW + 20)
        assert keys.generation > before

    asyncio.run(story())


# ---- outage ----


def test_an_outage_is_bridged_for_a_bounded_time_and_then_fails_closed(issuer: Issuer):
    keys, wire = keys_for(issuer)
    verifier = verifier_for(issuer)
    end = TIMES.max_age + TIMES.stale_if_error

    async def story() -> None:
        tokens = [issuer.token(f"user-{number}", lifetime=90_000) for number in range(4)]
        await settle(verifier, tokens[0], keys, NOW)
        wire.error = httpx2.ConnectError(CANARY)
        # stale by now, so the issuer is asked, in vain, and the old keys go on
        assert (await settle(verifier, tokens[1], keys, NOW + 1000)).subject == "user-1"
        health = keys.health(NOW + 1000)[0]
        assert (health.age, health.is_stale, health.keys) == (1000, True, 1)
        assert "ConnectError" in health.error
        assert (await settle(verifier, tokens[2], keys, NOW + end - 1)).subject == "user-2"

        assert await code_of(verifier, tokens[3], keys, NOW + end) == "keys_unavailable"
        assert await code_of(verifier, tokens[2], keys, NOW + end) == "keys_unavailable"  # nor from memory
        health = keys.health(NOW + end)[0]
        assert (health.age, health.is_stale, health.keys) == (None, True, 0)

        wire.error = None
        assert await code_of(verifier, tokens[3], keys, NOW + end + 8) == "keys_unavailable"
        assert (await settle(verifier, tokens[3], keys, NOW + end + 9)).subject == "user-3"
        assert keys.health(NOW + end + 9)[0].error == ""

    asyncio.run(story())


def test_stale_keys_are_used_only_after_asking(issuer: Issuer):
    keys, wire = keys_for(issuer)

    async def story() -> None:
        await keys.refresh("corp", NOW)
        late = NOW + TIMES.max_age
        assert isinstance(held(keys, issuer, late - 1), HeldKey)
        assert held(keys, issuer, late) is KeyAbsence.FETCH
        wire.error = OSError()
        assert await keys.refresh("corp", late) is False
        assert isinstance(held(keys, issuer, late), HeldKey)

    asyncio.run(story())


def test_keys_that_became_too_old_raise_the_generation(issuer: Issuer):
    keys, _ = keys_for(issuer)
    asyncio.run(keys.refresh("corp", NOW))
    before = keys.generation

    keys.health(NOW + TIMES.max_age + TIMES.stale_if_error)

    assert keys.generation == before + 1


def test_without_keys_and_just_asked_the_answer_is_unavailable(issuer: Issuer):
    keys, wire = keys_for(issuer)
    wire.error = OSError()

    assert held(keys, issuer, NOW) is KeyAbsence.FETCH
    asyncio.run(keys.refresh("corp", NOW))
    assert held(keys, issuer, NOW + 9) is KeyAbsence.UNAVAILABLE
    assert held(keys, issuer, NOW + 10) is KeyAbsence.FETCH


def test_a_clock_set_far_back_counts_as_long_after(issuer: Issuer):
    keys, _ = keys_for(issuer)

    async def story() -> None:
        await keys.refresh("corp", NOW)
        back = NOW - 100_000
        assert held(keys, issuer, back) is KeyAbsence.FETCH
        assert await keys.refresh("corp", back)
        assert isinstance(held(keys, issuer, back), HeldKey)

    asyncio.run(story())


# ---- in the background ----


def test_the_background_renews_before_anything_is_stale(issuer: Issuer):
    keys, wire = keys_for(issuer, discovery=False, jwks_url="https://issuer.test/keys")
    clock = [NOW]
    stale: list[bool] = []

    async def sleep(seconds: float) -> None:
        clock[0] += seconds
        stale.append(keys.health(clock[0])[0].is_stale)
        if clock[0] >= NOW + 3000:
            raise asyncio.CancelledError

    async def story() -> None:
        with pytest.raises(asyncio.CancelledError):
            await keys.run(lambda: clock[0], sleep)

    asyncio.run(story())
    assert not any(stale)
    assert len(wire.asked) == 10  # every 300 of 3000 seconds


def test_the_background_goes_on_after_failures(issuer: Issuer):
    keys, wire = keys_for(issuer)
    wire.error = RuntimeError(CANARY)

    async def story() -> None:
        await keys.refresh_due(NOW)
        assert keys.due(NOW + 9) == []
        assert keys.due(NOW + 10) == ["corp"]
        wire.error = None
        await keys.refresh_due(NOW + 10)
        assert keys.due(NOW + 20) == []
        assert keys.due(NOW + 310) == ["corp"]

    asyncio.run(story())


def test_one_provider_in_trouble_does_not_touch_another(issuer: Issuer):
    wire = Wire(issuer)
    wire.answer = lambda request: reply(
        500 if request.url.host == "broken.test" else 200, issuer.jwks_bytes()
    )
    sources = [
        KeySource("broken", "https://broken.test", jwks_url="https://broken.test/keys"),
        KeySource("corp", issuer.issuer, jwks_url="https://issuer.test/keys"),
    ]
    keys = JwksKeys(sources, transport=wire)
    asyncio.run(keys.refresh_due(NOW))

    assert [(one.provider, one.keys, bool(one.error)) for one in keys.health(NOW)] == [
        ("broken", 0, True),
        ("corp", 1, False),
    ]


def test_health_counts_what_was_left_out(issuer: Issuer):
    keys, _ = keys_for(issuer)
    published = [*issuer.jwks()["keys"], {"kty": "oct", "k": CANARY}]
    issuer.pages[KEYS_PATH] = Page(body=json.dumps({"keys": published}).encode())
    asyncio.run(keys.refresh("corp", NOW))

    health = keys.health(NOW + 5)[0]
    assert health.notes == {"symmetric": 1}
    assert (health.age, health.keys, health.is_stale, health.error) == (5, 1, False, "")
    assert CANARY not in repr(health)


# ---- files ----


@pytest.fixture
def key_file(tmp_path: Path, issuer: Issuer) -> Iterator[Path]:
    path = tmp_path / "keys.json"
    path.write_bytes(issuer.jwks_bytes())
    path.chmod(0o644)
    yield path


def from_file(issuer: Issuer, path: Path) -> JwksKeys:
    return JwksKeys([source(issuer, discovery=False, jwks_file=str(path))])


def test_a_file_is_read(issuer: Issuer, key_file: Path):
    keys = from_file(issuer, key_file)

    assert asyncio.run(settle(verifier_for(issuer), issuer.token(), keys, NOW)).subject == "alice"


def test_a_changed_file_is_read_again_and_an_unchanged_one_is_not(issuer: Issuer, key_file: Path):
    keys = from_file(issuer, key_file)

    async def story() -> None:
        await keys.refresh("corp", NOW)
        first = keys._held["corp"].keys
        await keys.refresh("corp", NOW + 10)
        assert keys._held["corp"].keys is first
        assert keys.health(NOW + 10)[0].age == 0  # looked at, and still good

        issuer.withdraw(issuer.kid())
        key_file.write_bytes(issuer.jwks_bytes())
        os.utime(key_file, ns=(1, 1))
        before = keys.generation
        await keys.refresh("corp", NOW + 20)
        assert keys.generation == before + 1
        assert isinstance(held(keys, issuer, NOW + 20), HeldKey)

    asyncio.run(story())


def test_the_background_looks_at_files_often(issuer: Issuer, key_file: Path):
    keys = from_file(issuer, key_file)
    asyncio.run(keys.refresh("corp", NOW))

    assert keys.due(NOW + 9) == []
    assert keys.due(NOW + 10) == ["corp"]


def test_an_unchanged_file_is_read_again_once_its_keys_became_too_old(issuer: Issuer, key_file: Path):
    keys = from_file(issuer, key_file)
    late = NOW + TIMES.max_age + TIMES.stale_if_error

    async def story() -> None:
        await keys.refresh("corp", NOW)
        assert held(keys, issuer, late) is KeyAbsence.FETCH
        await keys.refresh("corp", late)
        assert isinstance(held(keys, issuer, late), HeldKey)

    asyncio.run(story())


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666, 0o622])
def test_a_file_that_others_can_write_is_refused(issuer: Issuer, key_file: Path, mode: int):
    key_file.chmod(mode)

    assert "can be written" in error_after(from_file(issuer, key_file))


def test_a_file_that_becomes_writable_is_refused_although_unchanged(issuer: Issuer, key_file: Path):
    keys = from_file(issuer, key_file)
    asyncio.run(keys.refresh("corp", NOW))
    key_file.chmod(0o666)

    assert asyncio.run(keys.refresh("corp", NOW + 10)) is False


def test_what_is_no_regular_file_is_refused(issuer: Issuer, tmp_path: Path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)

    assert "not a regular file" in error_after(from_file(issuer, fifo))
    assert "IsADirectoryError" in error_after(from_file(issuer, tmp_path))
    assert "FileNotFoundError" in error_after(from_file(issuer, tmp_path / "none"))


def test_a_huge_file_is_refused(issuer: Issuer, key_file: Path):
    key_file.write_bytes(b" " * (MAX_DOCUMENT + 1))

    assert "larger" in error_after(from_file(issuer, key_file))


def test_a_broken_file_keeps_the_last_good_keys(issuer: Issuer, key_file: Path):
    keys = from_file(issuer, key_file)

    async def story() -> None:
        await keys.refresh("corp", NOW)
        key_file.write_bytes(b"{")
        assert await keys.refresh("corp", NOW + 10) is False
        assert isinstance(held(keys, issuer, NOW + 10), HeldKey)
        assert "not a JWK Set" in keys.health(NOW + 10)[0].error

    asyncio.run(story())


# ---- configuration ----


@pytest.mark.parametrize(
    "changes",
    [
        {"discovery": False},
        {"jwks_url": "https://issuer.test/keys"},
        {"jwks_file": "keys.json"},
        {"discovery": False, "jwks_url": "https://issuer.test/keys", "jwks_file": "keys.json"},
        {"issuer": "http://issuer.test"},
        {"issuer": "http://127.0.0.1:1"},
        {"issuer": "issuer.test"},
        {"issuer": ""},
        {"discovery": False, "jwks_url": "http://issuer.test/keys", "insecure_loopback": True},
        {"discovery": False, "jwks_url": "ftp://127.0.0.1/keys", "insecure_loopback": True},
        {"discovery": False, "jwks_url": "https://user:secret@issuer.test/keys"},
    ],
    ids=str,
)
def test_a_source_that_cannot_be_trusted_is_refused(issuer: Issuer, changes: dict[str, Any]):
    with pytest.raises(ConfigError, match='identity provider "corp"') as caught:
        source(issuer, **changes)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "loopback", "allowed"),
    [
        ("https://issuer.test", False, True),
        ("https://issuer.test:8443/realms/a", False, True),
        ("http://127.0.0.1:8080", True, True),
        ("http://127.0.0.1:8080", False, False),
        ("http://localhost:8080", True, True),
        ("http://[::1]:8080", True, True),
        ("http://localhost.attacker.test", True, False),
        ("http://127.0.0.1.attacker.test", True, False),
        ("http://127.0.0.1@attacker.test", True, False),
        ("http://0.0.0.0", True, False),
        ("http://169.254.169.254", True, False),
        ("https://issuer.test/#fragment", False, False),
        ("javascript:alert(1)", True, False),
        ("http://[::1", True, False),
        ("\x00", True, False),
    ],
)
def test_only_https_and_this_machine_are_asked(url: str, loopback: bool, allowed: bool):
    assert (url_problem(url, insecure_loopback=loopback) == "") is allowed


def test_loading_raises_one_kind_of_error(issuer: Issuer):
    wire = Wire(issuer)
    wire.answer = answer_with(b"no keys")

    with pytest.raises(KeySourceError, match="not a JSON object"):
        asyncio.run(load_keys(source(issuer), transport=wire))
