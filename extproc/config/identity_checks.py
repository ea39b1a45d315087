"""Who may be believed: issuers over https, asymmetric keys from one place, no metadata of our own."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from urllib.parse import urlsplit

from extproc.config.document import Place
from extproc.config.findings import Finding, is_reserved, twice
from extproc.config.settings import Provider, Settings
from extproc.config.units import format_duration

MAX_SKEW = 300.0


def check_identity(settings: Settings) -> Iterator[Finding]:
    """Header, providers and what is trusted beside them."""
    identity = settings.identity
    yield from twice(("identity", "providers"), [provider.name for provider in identity.providers])
    yield from twice(
        ("identity", "providers"), [provider.issuer for provider in identity.providers], "issuer"
    )
    header = identity.header
    if is_reserved(header) or header == "cookie":
        yield ("identity", "header"), f'"{header}" cannot carry a token'
    if settings.targets and not identity.providers and identity.trust.metadata is None:
        yield ("identity",), "names no provider, so every request would be refused"
    for number, provider in enumerate(identity.providers):
        yield from _provider(("identity", "providers", number), provider)
    if identity.trust.metadata is not None and identity.trust.metadata.namespace == "extproc":
        yield ("identity", "trust", "metadata", "namespace"), '"extproc" is where we write; it proves nothing'


def _provider(where: Place, provider: Provider) -> Iterator[Finding]:
    keys = provider.keys
    if (keys.discovery, keys.jwks_url is not None, keys.jwks_file is not None).count(True) != 1:
        yield (*where, "keys"), "needs exactly one of discovery, jwks_url and jwks_file"
    if keys.discovery or provider.issuer.startswith("http:"):
        yield from https((*where, "issuer"), provider.issuer, provider.insecure_loopback)
    if keys.jwks_url is not None:
        yield from https((*where, "keys", "jwks_url"), keys.jwks_url, provider.insecure_loopback)
    if provider.skew > MAX_SKEW:
        yield (*where, "skew"), f"must be at most {format_duration(MAX_SKEW)}"
    if len(set(provider.audiences)) != len(provider.audiences):
        yield (*where, "audiences"), "names an audience twice"


def https(where: Place, url: str, insecure_loopback: bool) -> Iterator[Finding]:
    """A URL that others may be called by: https, or http on loopback where that is allowed."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        yield where, "is not a URL"
        return
    if parts.scheme not in ("http", "https") or not host:
        yield where, "must be an https URL"
    elif parts.username or parts.password or parts.fragment:
        yield where, "must not have a user, password or fragment"
    elif parts.scheme == "http":
        if not _is_loopback(host):
            yield where, "must be https"
        elif not insecure_loopback:
            yield where, "must be https; for a demo on this machine set insecure_loopback: true"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
