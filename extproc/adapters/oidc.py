"""Login at an issuer: OpenID Connect's authorization code flow with PKCE, as far as the network is concerned.

What the tokens prove is for `identity` to say; here nothing is believed but the configured issuer's own URLs.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx2
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.httpx_client import AsyncOAuth2Client

from extproc.adapters.jwks_sources import (
    FETCH_SECONDS,
    LOOPBACK_MOUNTS,
    MAX_DOCUMENT,
    KeySourceError,
    discovery_document,
    endpoint,
    issuer_client,
)
from extproc.domain.errors import ExtprocError, StoreUnavailableError

EXCHANGE_SECONDS: Final = 10.0
DISCOVERED_FOR: Final = 600.0
"""Seconds for which an issuer's endpoints are remembered."""


class IssuerRefusedError(ExtprocError):
    """The issuer gave no tokens for this code. The text names the kind of refusal, never what was sent."""


@dataclass(frozen=True, slots=True, repr=False)
class Tokens:
    """What an issuer gave; "" is nothing. Never shown."""

    id: str
    access: str
    renewal: str


class OidcClient:
    """One client at one issuer. `tls` saves building a context; `transport` replaces the network in tests."""

    def __init__(
        self,
        issuer: str,
        client_id: str,
        client_secret: str,
        redirect_uri: str,
        scopes: tuple[str, ...],
        *,
        insecure_loopback: bool = False,
        tls: ssl.SSLContext | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer = issuer
        self._client_id = client_id
        self._client_secret = client_secret
        self._redirect_uri = redirect_uri
        self._scopes = scopes
        self._insecure_loopback = insecure_loopback
        self._tls = tls
        self._transport = transport
        self._monotonic = monotonic
        self._document: dict[str, Any] = {}
        self._discovered_at = float("-inf")

    async def authorization_url(self, state: str, nonce: str, verifier: str) -> str:
        """Where the browser goes to log in (RFC 7636: the verifier's hash goes along). Raises StoreUnavailableError."""
        where = await self._endpoint("authorization_endpoint")
        async with self._client() as client:
            url, _ = client.create_authorization_url(where, state=state, code_verifier=verifier, nonce=nonce)
        return str(url)

    async def exchange(self, code: str, verifier: str) -> Tokens:
        """The tokens that a code stands for. Raises IssuerRefusedError and StoreUnavailableError."""
        return await self._ask(grant_type="authorization_code", code=code, code_verifier=verifier)

    async def renew(self, renewal: str) -> Tokens:
        """New tokens for the same person. Raises IssuerRefusedError and StoreUnavailableError."""
        return await self._ask(grant_type="refresh_token", refresh_token=renewal)

    async def _ask(self, **parameters: str) -> Tokens:
        where = await self._endpoint("token_endpoint")
        try:
            async with asyncio.timeout(EXCHANGE_SECONDS), self._client() as client:
                given = await client.fetch_token(where, **parameters)
        except AuthlibBaseError as error:
            raise IssuerRefusedError(f"the issuer refused ({str(error.error)[:64]!r})") from None
        except TimeoutError:
            raise StoreUnavailableError(f"the issuer did not answer within {EXCHANGE_SECONDS:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError) as error:
            raise StoreUnavailableError(f"the issuer cannot be asked ({type(error).__name__})") from None
        except Exception as error:  # authlib raises whatever the answer's form provokes
            raise IssuerRefusedError(
                f"the issuer's answer is no token response ({type(error).__name__})"
            ) from None
        return Tokens(*(_text(given.get(name)) for name in ("id_token", "access_token", "refresh_token")))

    async def _endpoint(self, name: str) -> str:
        if self._monotonic() - self._discovered_at > DISCOVERED_FOR:
            try:
                async with (
                    asyncio.timeout(FETCH_SECONDS),
                    issuer_client(self._tls, self._transport) as client,
                ):
                    self._document = await discovery_document(client, self._issuer)
            except TimeoutError:
                raise StoreUnavailableError("the issuer did not answer in time") from None
            except (
                KeySourceError,
                httpx2.HTTPError,
                httpx2.InvalidURL,
                httpx2.StreamError,
                OSError,
            ) as error:
                what = str(error) if isinstance(error, KeySourceError) else type(error).__name__
                raise StoreUnavailableError(f"the issuer cannot be asked: {what}") from None
            self._discovered_at = self._monotonic()
        try:
            return endpoint(self._document, name, insecure_loopback=self._insecure_loopback)
        except KeySourceError as error:
            raise StoreUnavailableError(str(error)) from None

    def _client(self) -> AsyncOAuth2Client:
        return AsyncOAuth2Client(
            self._client_id,
            self._client_secret or None,
            token_endpoint_auth_method="client_secret_basic" if self._client_secret else "none",
            scope=" ".join(self._scopes),
            redirect_uri=self._redirect_uri,
            code_challenge_method="S256",
            follow_redirects=False,
            timeout=None,
            verify=self._tls or True,
            transport=self._transport,
            # a proxy named in the environment is used, but never for this machine
            mounts={} if self._transport is not None else dict.fromkeys(LOOPBACK_MOUNTS),
            headers={"accept-encoding": "identity"},
            event_hooks={"response": [_bound]},
        )


async def _bound(response: httpx2.Response) -> None:
    """Its body ends in an error beyond `MAX_DOCUMENT` bytes."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise httpx2.ReadError("compressed although that was not offered")
    stream = response.stream
    assert isinstance(stream, httpx2.AsyncByteStream)  # noqa: S101
    response.stream = _BoundedStream(stream)


class _BoundedStream(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        received = 0
        async for chunk in self._inner:
            received += len(chunk)
            if received > MAX_DOCUMENT:
                raise httpx2.ReadError("the answer is too large")
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
