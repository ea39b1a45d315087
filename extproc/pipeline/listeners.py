"""Database listeners: how callers reach us there, and whom their certificate makes them."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING

from extproc.domain.principal import Principal, PrincipalKind
from extproc.domain.request import Source

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

CERTIFICATE_ISSUER = "x509"
"""Issuer of principals made from certificates. No provider is called so: theirs are URLs."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who needs no token: `uri` is the name in its certificate, or ends in `/*` for all below."""

    uri: str
    kind: PrincipalKind = "service"
    groups: tuple[str, ...] = ()
    person: str = ""

    def is_meant(self, uri: str) -> bool:
        """Whether this certificate name is one of those."""
        below = self.uri.removesuffix("*")
        if below == self.uri or not below.endswith("/"):
            return uri == self.uri
        # a name that could be read as another one is none
        return uri.startswith(below) and {"", ".", ".."}.isdisjoint(uri[len(below) :].split("/"))


@dataclass(frozen=True, slots=True)
class ListenerPlan:
    """One database listener. The default is a listener that nobody described: only this machine may use it."""

    name: str = ""
    target: str = ""
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    """Where set, TLS ends here and nothing is said without it."""
    rsa_key: RSAPrivateKey | None = field(default=None, repr=False)
    """Where set, a MySQL client without TLS may encrypt its token under it."""
    takes_cleartext: bool = False
    """Tokens may come as they are: Envoy ends TLS, the address is local, or a tunnel protects it."""
    callers: tuple[Caller, ...] = ()
    filtered: bool = False
    """Envoy's contrib filter answers requests for TLS before us; one that still comes here is refused."""

    def needs_tls(self, source: Source) -> bool:
        """Whether a caller from there must speak TLS with us."""
        return self.tls is not None or not (self.takes_cleartext or is_loopback(source.address))

    def caller(self, uris: tuple[str, ...]) -> Principal | None:
        """Whom a verified certificate names. One with several URIs names nobody (SPIFFE X.509-SVID, section 2)."""
        if len(uris) != 1 or not uris[0]:
            return None
        (uri,) = uris
        for caller in self.callers:
            if caller.is_meant(uri):
                return Principal(
                    issuer=CERTIFICATE_ISSUER,
                    subject=uri,
                    kind=caller.kind,
                    person=caller.person or f"{CERTIFICATE_ISSUER}|{uri}",
                    groups=caller.groups,
                    provider=self.name,
                )
        return None

    def verified(self, source: Source, presented: bool, uris: tuple[str, ...]) -> Source:
        """`source` with what is known of the peer's certificate: where TLS ends here, what we verified; else Envoy's
        word."""
        if self.tls is None:
            return source
        return Source(source.address, presented, uris[0] if uris else "")


def is_loopback(address: str) -> bool:
    """Whether `host:port`, as Envoy writes a peer's address, is on this machine."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
