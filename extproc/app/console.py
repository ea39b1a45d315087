"""The console of a configuration: how its people come in, and the pages behind the door."""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from extproc.adapters.jwks import JwksKeys
from extproc.adapters.oidc import IssuerRefusedError, OidcClient, Tokens
from extproc.app.identifying import provider_rules
from extproc.app.ledger_records import LedgerRecords
from extproc.app.payload_keys import payload_ring
from extproc.config import Settings
from extproc.config.settings import Console, ConsoleLogin
from extproc.domain.errors import ConfigError, StoreUnavailableError
from extproc.domain.grant import ApprovalStore
from extproc.domain.principal import Principal
from extproc.domain.record import Record
from extproc.identity import NeedKeysFor, Verifier
from extproc.identity.compact import parse_compact
from extproc.servers.approvals_api import health_checks
from extproc.servers.console import Entered, LoginError, Ways, create_console

Authenticate = Callable[[str], Awaitable[Principal]]
"""A token of the approvals audience becomes a principal, or TokenError."""

SHORTEST_CODE = 16
ONE_TIME_ISSUER = "urn:extproc:one-time-code"


def console_app(
    settings: Settings,
    console: Console,
    store: ApprovalStore,
    authenticate: Authenticate,
    keys: JwksKeys,
    record: Callable[[Record], None],
    mask: Callable[[str], str],
    status: Callable[[], Mapping[str, bool]],
) -> Any:
    """The ASGI application. Raises ConfigError for a secret that cannot be read."""
    issuer = IssuerLogin(settings, console, console.login, authenticate, keys) if console.login else None
    ways = Ways(
        issuer=issuer,
        renew=issuer.renew if issuer is not None else None,
        one_time=one_time(settings, console),
        longest=console.session,
        idle=console.idle,
    )
    return create_console(
        store,
        url=console.url,
        ways=ways,
        record=record,
        now=time.time,
        operators=settings.approvals.operators,
        auditors=settings.approvals.auditors,
        mask=mask,
        records=LedgerRecords(settings.ledger.directory, ring=payload_ring(settings)),
        checks=lambda: health_checks(store, time.time, status),
    )


class IssuerLogin:
    """Login at one configured provider. What its tokens prove is judged as on the API."""

    def __init__(
        self,
        settings: Settings,
        console: Console,
        login: ConsoleLogin,
        authenticate: Authenticate,
        keys: JwksKeys,
        oidc: OidcClient | None = None,
    ) -> None:
        provider = next(each for each in settings.identity.providers if each.name == login.provider)
        self._issuer = provider.issuer
        self._client_id = login.client_id
        self._clients: Collection[str] = frozenset(settings.approvals.clients)
        self._bearer_is_id = login.token == "id"  # noqa: S105  (a kind of token)
        self._authenticate = authenticate
        self._keys = keys
        rules = provider_rules(settings, login.client_id)  # an ID token's audience is the client (Core §2)
        self._id_tokens = Verifier(
            [rule for rule in rules if rule.name == provider.name],
            0,
            max_token_bytes=settings.limits.token_bytes,
        )
        self._oidc = oidc or OidcClient(
            provider.issuer,
            login.client_id,
            login.client_secret.resolve() if login.client_secret is not None else "",
            console.url + "/login/callback",
            login.scopes,
            insecure_loopback=provider.insecure_loopback,
        )

    async def begin(self, state: str, nonce: str, verifier: str) -> str:
        """See `servers.console.login.IssuerLogin`."""
        return await self._oidc.authorization_url(state, nonce, verifier)

    async def finish(self, code: str, nonce: str, verifier: str) -> Entered:
        """See `servers.console.login.IssuerLogin`."""
        try:
            tokens = await self._oidc.exchange(code, verifier)
        except IssuerRefusedError:
            raise LoginError("issuer_refused") from None
        proven = await self._id_token(tokens.id)
        claims = parse_compact(tokens.id).claims
        if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
            raise LoginError("bad_nonce")
        return await self._entered(tokens, proven, tokens.renewal)

    async def renew(self, entered: Entered) -> Entered:
        """Groups and all anew, from the issuer. Raises as `finish` does."""
        try:
            tokens = await self._oidc.renew(entered.renewal)
        except IssuerRefusedError:
            raise LoginError("session_over") from None
        # a renewal need not bring an ID token (Core §12.2); who it is for was proven at login
        proven = await self._id_token(tokens.id) if tokens.id else entered.principal
        return await self._entered(tokens, proven, tokens.renewal or entered.renewal)

    async def _entered(self, tokens: Tokens, proven: Principal, renewal: str) -> Entered:
        bearer = tokens.id if self._bearer_is_id else tokens.access
        if not bearer:
            raise LoginError("no_token")
        principal = await self._authenticate(bearer)
        if (principal.issuer, principal.subject) != (proven.issuer, proven.subject):
            raise LoginError("other_subject")
        if self._bearer_is_id and not principal.client_id:
            principal = replace(
                principal, client_id=self._client_id
            )  # its audience says so, and no `azp` denies it
        if principal.client_id not in self._clients:
            raise LoginError("wrong_client")
        if principal.kind != "human":
            raise LoginError("not_human")
        return Entered(principal, principal.expires_at, renewal)

    async def _id_token(self, token: str) -> Principal:
        """Raises TokenError, LoginError and StoreUnavailableError."""
        found = self._id_tokens.verify(token, self._keys, time.time())
        if isinstance(found, NeedKeysFor):
            await self._keys.refresh(found.provider, time.time())
            found = self._id_tokens.verify(token, self._keys, time.time())
        if isinstance(found, NeedKeysFor):
            raise StoreUnavailableError("the issuer's keys cannot be had now")
        if found.client_id not in ("", self._client_id):  # Core §3.1.3.7: `azp`, where there is one, is us
            raise LoginError("wrong_client")
        return found


class OneTimeCode:
    """A code that lets one person in once. That it was used outlives this process: a file in `state` says so."""

    def __init__(self, code: str, principal: Principal, mark: Path) -> None:
        self._code = code
        self._principal = principal
        self._mark = mark

    def spend(self, code: str) -> Principal | None:
        """See `servers.console.login.OneTime`."""
        if not hmac.compare_digest(code.encode("utf-8", "surrogatepass"), self._code.encode()):
            return None
        try:
            os.close(os.open(self._mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            return None
        except OSError as error:
            raise StoreUnavailableError(
                f"it cannot be kept that the code was used: {error.strerror}"
            ) from None
        return self._principal


def one_time(settings: Settings, console: Console) -> OneTimeCode | None:
    """The code of the settings. Raises ConfigError when it is too short."""
    told = console.one_time
    if told is None:
        return None
    code = told.code.resolve()
    if len(code) < SHORTEST_CODE:
        raise ConfigError(f"console.one_time.code: must have at least {SHORTEST_CODE} characters")
    name = hashlib.sha256(f"extproc one-time code\0{code}".encode()).hexdigest()[:16]
    principal = Principal(
        issuer=ONE_TIME_ISSUER,
        subject=told.person,
        kind="human",
        person=told.person,
        groups=told.groups,
        client_id=console.login.client_id if console.login is not None else "",
    )
    return OneTimeCode(code, principal, settings.state / f"one-time-code-{name}.used")
