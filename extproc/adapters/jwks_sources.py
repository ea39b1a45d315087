"""Where key sets come from: OIDC discovery, a JWKS URL, or a file. Bounded in size and time, and trusting little."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2

from extproc import __version__
from extproc.domain.errors import ConfigError, ExtprocError
from extproc.identity import KeySet, KeySetError, parse_key_set
from extproc.identity.strict_json import parse_json_object

MAX_DOCUMENT: Final = 1 << 20
"""Bytes of a discovery document, key set or key file."""
FETCH_SECONDS: Final = 3.0
"""For everything a refresh does, discovery included."""

_HEADERS = {
    "accept": "application/json",
    "accept-encoding": "identity",  # a compressed megabyte could be a gigabyte
    "user-agent": f"extproc/{__version__}",
}
LOOPBACK_MOUNTS = ("all://localhost", "all://127.0.0.1", "all://[::1]")


class KeySourceError(ExtprocError):
    """Keys could not be had. The text names the step and the defect, never a URL's query or what was received."""


@dataclass(frozen=True, slots=True)
class KeySource:
    """Exactly one of `discovery`, `jwks_url` and `jwks_file`. Raises ConfigError otherwise, or when a URL is not https.

    `insecure_loopback` allows plain http to this very machine, for the demo and for tests.
    """

    provider: str
    issuer: str
    discovery: bool = False
    jwks_url: str = ""
    jwks_file: str = ""
    insecure_loopback: bool = False

    def __post_init__(self) -> None:
        where = f'identity provider "{self.provider}"'
        if sum((self.discovery, bool(self.jwks_url), bool(self.jwks_file))) != 1:
            raise ConfigError(f"{where}: exactly one of discovery, jwks_url and jwks_file is required")
        url = self.issuer if self.discovery else self.jwks_url
        problem = "" if self.is_file else url_problem(url, insecure_loopback=self.insecure_loopback)
        if problem:
            raise ConfigError(f"{where}: {problem}")

    @property
    def is_file(self) -> bool:
        """Whether refreshing costs no network."""
        return bool(self.jwks_file)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a source gave. `keys` is None when a file is still the one that `stamp` names."""

    keys: KeySet | None
    stamp: tuple[int, ...] = ()


def url_problem(url: str, *, insecure_loopback: bool) -> str:
    """Why keys may not be fetched from `url`, or ""."""
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError):
        return "the URL is not valid"
    if not parsed.host or parsed.userinfo or parsed.fragment:
        return "the URL must have a host, no user info and no fragment"
    if parsed.scheme == "https" or (
        parsed.scheme == "http" and insecure_loopback and _is_loopback(parsed.host)
    ):
        return ""
    return "the URL must use https"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def load_keys(
    source: KeySource,
    stamp: tuple[int, ...] = (),
    *,
    seconds: float = FETCH_SECONDS,
    tls: ssl.SSLContext | None = None,
    transport: httpx2.AsyncBaseTransport | None = None,
) -> Loaded:
    """Get `source`'s key set within `seconds`. Raises KeySourceError.

    `stamp` is the one of the last load. `tls` saves building one, which takes tens of milliseconds during which
    the loop stands still; `transport` replaces the network in tests.
    """
    try:
        if source.is_file:
            return _read_file(Path(source.jwks_file), stamp)
        async with asyncio.timeout(seconds), issuer_client(tls, transport) as client:
            url = await _discover(client, source) if source.discovery else source.jwks_url
            return Loaded(parse_key_set(await _get(client, url, "key set")))
    except KeySetError as error:
        raise KeySourceError(str(error)) from None
    except TimeoutError:
        raise KeySourceError(f"the issuer did not answer within {seconds:g} seconds") from None
    except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError) as error:
        # Only the kind: the text of these may quote URLs and what the peer sent.
        raise KeySourceError(f"fetching failed ({type(error).__name__})") from None


def issuer_client(
    tls: ssl.SSLContext | None, transport: httpx2.AsyncBaseTransport | None
) -> httpx2.AsyncClient:
    """One client per refresh: no cookie, connection or event loop survives from one issuer to the next.

    A proxy named in the environment is used, but never for this machine.
    """
    mounts: dict[str, httpx2.AsyncBaseTransport | None] = {} if transport else dict.fromkeys(LOOPBACK_MOUNTS)
    return httpx2.AsyncClient(
        headers=_HEADERS,
        follow_redirects=False,
        timeout=None,  # the deadline is over everything, and the caller's
        verify=tls or True,
        transport=transport,
        mounts=mounts,
    )


async def _discover(client: httpx2.AsyncClient, source: KeySource) -> str:
    """The key set's URL according to the issuer itself."""
    document = await discovery_document(client, source.issuer)
    return endpoint(document, "jwks_uri", insecure_loopback=source.insecure_loopback)


async def discovery_document(client: httpx2.AsyncClient, issuer: str) -> dict[str, Any]:
    """What the issuer says about itself (OpenID Connect Discovery 1.0, section 4). Raises KeySourceError."""
    url = issuer.rstrip("/") + "/.well-known/openid-configuration"
    document: dict[str, Any] | None = parse_json_object(await _get(client, url, "discovery document"))
    if document is None:
        raise KeySourceError("the discovery document is not a JSON object")
    if document.get("issuer") != issuer:  # section 4.3: must be exactly the issuer that was asked
        raise KeySourceError("the discovery document names another issuer")
    return document


def endpoint(document: dict[str, Any], name: str, *, insecure_loopback: bool) -> str:
    """One of the URLs in a discovery document. Raises KeySourceError when it is missing or not https."""
    url = document.get(name)
    if not isinstance(url, str):
        what = "no key set" if name == "jwks_uri" else f"no {name}"
        raise KeySourceError(f"the discovery document names {what}")
    if problem := url_problem(url, insecure_loopback=insecure_loopback):
        raise KeySourceError(f"the discovery document's {name} is refused: {problem}")
    return url


async def _get(client: httpx2.AsyncClient, url: str, what: str) -> bytes:
    async with client.stream("GET", url) as response:
        if response.is_redirect:
            raise KeySourceError(f"the {what} is behind a redirect, which is not followed")
        if response.status_code != 200:
            raise KeySourceError(f"the {what} was answered with status {response.status_code}")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise KeySourceError(f"the {what} came compressed although that was not offered")
        received = bytearray()
        async for chunk in response.aiter_raw():
            received += chunk
            if len(received) > MAX_DOCUMENT:
                raise KeySourceError(f"the {what} is larger than {MAX_DOCUMENT} bytes")
    return bytes(received)


def _read_file(path: Path, stamp: tuple[int, ...]) -> Loaded:
    """A small local file, read without leaving the loop. Checked on the open descriptor, so it cannot be swapped."""
    # O_NONBLOCK: opening a FIFO would otherwise wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:  # noqa: PTH123  # Path has no way to adopt a descriptor
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise KeySourceError("the key file is not a regular file")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise KeySourceError("the key file can be written by its group or by everyone")
        found = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if found == stamp:
            return Loaded(None, stamp)
        document = file.read(MAX_DOCUMENT + 1)
    if len(document) > MAX_DOCUMENT:
        raise KeySourceError(f"the key file is larger than {MAX_DOCUMENT} bytes")
    return Loaded(parse_key_set(document), found)
